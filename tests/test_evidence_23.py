"Chapter 23: normalizations with other groups, what is done to trained networks, and verdicts on made-up records."
import json
from itertools import combinations

import numpy as np
import pytest
import torch
from conftest import ROOT
from torch import nn

from gn_nb.lab import grouping as chapter
from gn_nb.lab.data import load
from gn_nb.lab.evidence import check_verdict
from gn_nb.lab.group_count import BN, GN4, IN, LN
from gn_nb.lab.models import build
from gn_nb.lab.sweep import key, record, sweeps
from gn_nb.lab.train import check_config, run
from gn_nb.testing import assert_close, must_raise

pytestmark = pytest.mark.quick
OWN = "gn_nb.lab.grouping:Regrouped"
WORDS = ["holds", "open", "holds in part", "open", "holds in part"]          # what the records say


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch): monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def data(): return load("digits", train=100, val=20, test=60)


def wild(norm, seed=0, **more):
    "A network whose normalizations have weights and biases that matter."
    net, rng = build("plain", norm, seed=seed, **more).eval(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for m in net.modules():
            if isinstance(m, nn.GroupNorm):
                m.weight.copy_(1 + .5*torch.randn(m.weight.shape, generator=rng))
                m.bias.copy_(torch.randn(m.bias.shape, generator=rng))
    return net


def test_sweeps():
    for name, size in (("grouping", 7*chapter.SEEDS), ("partitions", 16*chapter.SEEDS),
                       ("partitions-lr", 6*chapter.SEEDS)):
        configs = [*map(check_config, chapter.SWEEPS[name]())]
        assert sweeps()[name] is chapter.SWEEPS[name] and len({*map(key, configs)}) == len(configs) == size
        seeds = [c["seed"] for c in configs]
        assert seeds == sorted(seeds) and all(c["data"]["split"] == c["seed"] for c in configs)
        for c in configs[:8]: build(**c["model"], norm=c["norm"])
    assert chapter.HALF == chapter.START["train"]["epochs"]//2*(600//32)


@pytest.mark.parametrize("G", [1, 2, 4, 12])
def test_any_partition_against_a_direct_computation(G):
    x = torch.randn(3, 12, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for partition in ("contiguous", "interleaved", "random"):
        layer = chapter.Regrouped(12, G, partition=partition, seed=5).double()
        with torch.no_grad():
            layer.weight.copy_(torch.arange(12.)); layer.bias.copy_(-torch.arange(12.))
            y = layer(x)
        groups = layer.order.reshape(G, -1)
        assert sorted(layer.order.tolist()) == [*range(12)]
        for members in groups:
            part = x[:, members]
            std, mean = torch.std_mean(part, (1, 2, 3), correction=0, keepdim=True)
            scale = members.double().reshape(1, -1, 1, 1)
            assert_close(y[:, members], (part - mean)/(std**2 + 1e-5).sqrt()*scale - scale, 1e-9)
    assert chapter.ordered(12, 3, "interleaved").tolist()[:4] == [0, 3, 6, 9]


def test_dealing_anew_while_training():
    x = torch.randn(64, 12, 3, 3, generator=torch.Generator().manual_seed(0))
    for by in ("random", "moments", "profile"):
        layer, other = (chapter.Regrouped(12, 3, deal_at=2, deal_by=by, seed=s) for s in (1, 2))
        first = torch.arange(12)
        layer(x); layer(x); layer.eval()(x); layer.train()                          # evaluation is no step
        assert torch.equal(layer.order, first)
        layer(x)
        assert not torch.equal(layer.order, first) and sorted(layer.order.tolist()) == first.tolist()
        kept = layer.order.clone()
        layer(x); assert torch.equal(layer.order, kept)                             # once
        if by == "random":
            for _ in range(3): other(x)
            assert not torch.equal(other.order, kept)
    must_raise(ValueError, "one of num_groups (None) and group_size (None)", chapter.Regrouped, 8)


def test_the_best_clusters_of_one_size():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        f = rng.standard_normal((6, 2))
        def cost(order): return sum(np.square(f[g] - f[g].mean(0)).sum() for g in np.reshape(order, (2, 3)))  # noqa: B023
        every = [cost([*g, *({*range(6)} - {*g})]) for g in combinations(range(6), 3)]
        found = chapter.balanced(f, 2, rng, starts=20)
        assert sorted(found) == [*range(6)] and cost(found) <= min(every) + 1e-9


def test_orbits_are_mirror_images():
    layer = chapter.Orbits(2, 8, stride=1)
    x = torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    for k, axes in enumerate(((), (3,), (2,), (2, 3))):                # a filter on x is its image on the image of x
        assert_close(layer(x.flip(axes)).flip(axes)[:, 0::4], layer(x)[:, k::4], 1e-5)
    with torch.no_grad():
        same = layer(torch.ones(1, 2, 6, 6))[:, :, 1:-1, 1:-1]             # the same sum: the same mean, borders apart
        assert_close(same.reshape(2, 4, 16), same.reshape(2, 4, 16)[:, :1].expand(2, 4, 16), 1e-5)
    net = build("gn_nb.lab.grouping:orbit_net", {"name": OWN, "group_size": 4}, widths=(8, 8, 16))
    assert net(x[:, :1]).shape == (3, 10) and sum(p.numel() for p in net[0].parameters()) == 2*9
    assert build("gn_nb.lab.grouping:orbit_net", "bn", seed=3)[0].weight.equal(
        build("gn_nb.lab.grouping:orbit_net", "ln", seed=3)[0].weight)     # from the seed


@pytest.mark.parametrize("norm, changes", [(GN4, True), (LN, False), (IN, False),
                                          ({"name": OWN, "num_groups": 4, "partition": "random"}, True)])
def test_dealing_a_network_anew(data, norm, changes):
    net, rng = wild(norm), np.random.default_rng(0)
    with torch.no_grad():
        y = net(data.x_test)
        assert_close(chapter.redealt(net, rng, "within")(data.x_test), y, 1e-3)
        moved = (chapter.redealt(net, rng)(data.x_test) - y).abs().max()
        assert_close(net(data.x_test), y, 0)                               # the network itself is left alone
    assert (moved > .1) == changes
    must_raise(ValueError, "how must be one of anew, within", chapter.redealt, net, rng, "somehow")


def test_statistics_of_all_images(data):
    net = wild(GN4)
    with torch.no_grad():
        averages, x = chapter.population(net, data.x), net[0](data.x)
        xg = x.double().reshape(len(x), 4, 4, -1)
        mean, var = xg.mean((0, 2, 3)).repeat_interleave(4), xg.var((0, 2, 3), correction=0).repeat_interleave(4)
        def shape(v): return v.reshape(1, -1, 1, 1)
        first = (x - shape(mean))/shape((var + 1e-5).sqrt())*shape(net[1].weight) + shape(net[1].bias)
        assert_close(averages[1](x).double(), first, 1e-4)
        y = averages(data.x_test)
        assert_close(averages(data.x_test[:1]), y[:1], 1e-4)               # an image alone, an image in a batch
        assert (net(data.x_test) - y).abs().max() > .01
        learned = averages[:4](data.x).double().transpose(0, 1).reshape(4, -1)     # what enters the second layer now
        assert_close(averages[4].mean[::8].double(), learned.mean(1), 1e-4)


def test_matching(data):
    net, rng = wild(GN4), np.random.default_rng(1)
    changed = chapter.redealt(net, rng)
    with torch.no_grad():
        before = changed(data.x).clone()
        matched = chapter.recalibrated(net, changed, data.x)
        assert_close(changed(data.x), before, 0)                           # a copy
        for depth in (2, 5, 8):                                            # behind each normalization
            std, mean = torch.std_mean(net[:depth](data.x), (0, 2, 3))
            own_std, own_mean = torch.std_mean(matched[:depth](data.x), (0, 2, 3))
            assert_close(own_mean, mean, 1e-3); assert_close(own_std, std, 1e-3)
        same = chapter.recalibrated(net, chapter.redealt(net, rng, "within"), data.x)
        assert_close(same(data.x), net(data.x), 1e-2)                      # nothing to match: nothing happens


def test_ranks_among_deals():
    rng = np.random.default_rng(0)
    t = rng.standard_normal((200, 8)) + 3*rng.standard_normal(8)
    found = chapter.deal_tests(t, 2, np.arange(8), np.random.default_rng(1), deals=50)
    dealt = np.random.default_rng(1).permuted(np.tile(np.arange(8), (50, 1)), axis=1)
    def alike(order): return np.mean([t.mean(0)[g].var() for g in order.reshape(2, 4)])
    def still(order): return np.mean([t[:, g].mean(1).var(ddof=1) for g in order.reshape(2, 4)])
    for name, f in (("alike", alike), ("still", still)):
        values, own = np.array([*map(f, dealt)]), f(np.arange(8))
        assert_close(np.array(found[f"p_{name}"]), np.array((1 + (values <= own*(1 + 1e-9)).sum())/51), 1e-12)
        assert_close(np.array(found[name]), own/values.mean(), 1e-9)


def test_a_run_that_is_looked_into():
    config = chapter.START | {"norm": GN4, "probe": "gn_nb.lab.grouping:look_inside",
                              "train": {"epochs": 2, "batch_size": 32, "lr": .3}, "seed": 1}
    found = run(config)
    probe = found["probe"]
    assert json.loads(json.dumps(found)) == found and len(probe["layers"]) == 3 and len(probe["anew"]) == 5
    assert probe["error"] == found["final"]["running"]["test"]["error"]
    assert abs(probe["within"] - probe["error"]) <= 2e-3 < abs(np.mean(probe["anew"]) - probe["error"])
    other = run(config | {"norm": BN})["probe"]
    assert {*other} == {"layers", "error", "instance"} and other["instance"] > other["error"]


def around(mean, n=10, spread=.2, seed=0): return mean + spread*np.random.default_rng(seed).standard_normal(n)


def made(norm, errors, probe=None, model=None, contrast=None):
    base = chapter.START | {"norm": norm} | ({"model": model} if model else {})
    if contrast is not None: base |= {"data": base["data"] | {"contrast": contrast}}
    return [record(c, {"status": "done", "probe": probe and probe(c["seed"]),
                       "final": {"running": {"test": {"error": e/100}, "val": {"error": .5}}}})
            for c, e in zip(chapter.seeded([base], range(len(errors))), errors)]


def partitions(interleaved=5., random=5., moments=5., profile=5., misaligned=5.):
    own = {"name": OWN, "num_groups": 4}
    tied = {"name": "gn_nb.lab.grouping:orbit_net", "widths": [16, 32, 64]}
    out = [made(own | {"partition": p, "seed": 1}, around(v, seed=k)) for k, (p, v) in enumerate(
        (("contiguous", 5.), ("interleaved", interleaved), ("random", random)))]
    out += [made(own | {"deal_at": chapter.HALF, "deal_by": by, "seed": 1}, around(v, seed=10 + k)) for k, (by, v) in
            enumerate((("random", 5.), ("moments", moments), ("profile", profile)))]
    fours = {"name": OWN, "group_size": 4, "seed": 1}
    out += [made(fours | {"partition": p}, around(v, seed=20 + k), model=tied)
            for k, (p, v) in enumerate((("contiguous", 5.), ("interleaved", misaligned)))]
    return [r for part in out for r in part]


def grouping(anew=20., population=20., p_alike=None, p_still=None, of_ln=None):
    "Records of trained networks; ranks are uniform unless given; with LN all else is as with groups, but for `of_ln`."
    rng = np.random.default_rng(0)
    def look(low, population=population):
        def probe(seed):
            def layer(): return {"p_alike": p_alike if low and p_alike else rng.uniform(),
                                 "p_still": p_still if low and p_still else rng.uniform()}
            jitter = .001*(seed % 3 - 1)
            return {"error": .05, "anew": [anew/100 + jitter]*5, "within": .05, "population": population/100 + jitter,
                    "layers": [layer() for _ in range(3)]}
        return probe
    groups = [r for j in (0., 1.) for norm, low in ((GN4, True), (BN, False))
              for r in made(norm, around(5), look(low), contrast=j)]
    layer = look(False, population if of_ln is None else of_ln)
    return groups + [r for j in (0., 1.) for r in made(LN, around(5), layer, contrast=j)]


def test_by_index():
    assert chapter.by_index(partitions())[0] == "holds"
    assert chapter.by_index(partitions(random=9.))[0] == "does not hold here"
    noisy = [r for r in partitions() if r["config"]["norm"].get("partition") != "random"]
    noisy += made({"name": OWN, "num_groups": 4, "partition": "random", "seed": 1}, around(5, spread=5))
    assert chapter.by_index(noisy)[0] == "open"


@pytest.mark.parametrize("anew, random, word", [(20., 5., "holds in part"), (5., 5., "holds"),
                                               (20., 9., "does not hold here")])
def test_arbitrary(anew, random, word):
    assert chapter.arbitrary(grouping(anew=anew), partitions(random=random))[0] == word


@pytest.mark.parametrize("of_groups, of_partitions, word", [
    (dict(p_alike=.01), dict(moments=2.), "holds"), (dict(p_alike=.01), {}, "holds in part"),
    ({}, dict(profile=2.), "holds in part"), ({}, dict(misaligned=9.), "holds in part"),
    ({}, {}, "does not hold here"), (dict(p_still=.01), {}, "does not hold here")])
def test_dependent(of_groups, of_partitions, word):
    found, because = chapter.dependent(grouping(**of_groups), partitions(**of_partitions))
    assert found == word
    assert f"unusually balanced in {3*('p_still' in of_groups)} and" in because


@pytest.mark.parametrize("population, word", [(20., "does not hold here"), (4., "holds")])
def test_estimates(population, word):
    assert chapter.estimates(grouping(population=population))[0] == word
    group = 24 - population                                   # what is found with groups is told, and decides nothing
    found, because = chapter.estimates(grouping(population=group, of_ln=population))
    assert found == word and f"by {group - 5:+.1f} points" in because


def test_a_mean_on_the_right_side_is_no_evidence():
    "Differences as wide as this show nothing, whatever the sign of their mean."
    records = grouping(population=5.)
    for r in records:
        if "population" in r["probe"]: r["probe"]["population"] += .03*(-1)**r["config"]["seed"] - .002
    assert np.mean([*chapter.rise(records, GN4, "population").values()]) < 0
    assert chapter.estimates(records)[0] == "open"
    wide = [r for r in partitions() if r["config"]["norm"].get("deal_by") != "moments"]
    own = {"name": OWN, "num_groups": 4, "deal_at": chapter.HALF, "deal_by": "moments", "seed": 1}
    assert chapter.dependent(grouping(), wide + made(own, around(5.5, spread=3, seed=2)))[0] == "open"


def test_ranks_that_are_unusual():
    found = chapter.unusual(grouping(p_alike=.005))
    assert len(found) == 24
    low = {k for k, p in found.items() if p < .05}
    assert low == {("GN", "p_alike", layer, "low") for layer in range(3)}


def test_verdicts_from_the_records():
    found = [*map(check_verdict, chapter.verdicts())]
    assert {v.chapter for v in found} == {"23_what_groups_are"}
    assert [v.word for v in found] == WORDS


def test_who_is_normalized_together():
    assert chapter.mixed_with(torch.nn.GroupNorm(2, 4), 4) == [[0, 1], [0, 1], [2, 3], [2, 3]]
    assert chapter.mixed_with(torch.nn.Identity(), 2) == [[0], [1]]
    assert chapter.no_clustering()[0] == "holds"
    apart = chapter.Regrouped(12, 4, partition="interleaved")
    assert chapter.no_clustering(apart)[0] == "does not hold here"
    assert chapter.no_clustering(torch.nn.GroupNorm(2, 12))[0] == "does not hold here"


def harder(points, tied, **norm):
    "A change of records: so many points more where the normalization says so."
    def change(r):
        config = r["config"]
        if (config["model"]["name"] != "plain") != tied or norm.items() - config["norm"].items(): return r
        error = r["final"]["running"]["test"]["error"] + points/100
        return r | {"final": {"running": r["final"]["running"] | {"test": {"error": error}}}}
    return change


def instead(what, of):
    "A change of records: what the probe found is what it found of something else."
    return lambda r: r | {"probe": r["probe"] | ({what: r["probe"][of]} if what in r["probe"] else {})}


@pytest.mark.parametrize("k, sweep, change, word", [
    (1, "partitions", harder(10, False, partition="random"), "does not hold here"),
    (2, "partitions", harder(-4, False, deal_by="moments"), "holds"),
    (3, "partitions", harder(10, False, partition="interleaved"), "does not hold here"),
    (4, "grouping", instead("population", "error"), "holds")])
def test_a_changed_record_changes_its_verdict(monkeypatch, k, sweep, change, word):
    recorded = chapter.recorded
    monkeypatch.setattr(chapter, "recorded", lambda name: [change(r) if name == sweep else r for r in recorded(name)])
    assert WORDS[k] != word == chapter.verdicts()[k].word
