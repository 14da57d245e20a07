"Chapter 25: its sweeps, probe and statistics against direct computation, its verdicts both ways."
import math

import numpy as np
import pytest
import torch

from gn_nb.lab import regularization as lab
from gn_nb.lab.data import load
from gn_nb.lab.evidence import check_verdict
from gn_nb.lab.models import build
from gn_nb.lab.sweep import key
from gn_nb.lab.train import check_config, errors, loss_of, run
from gn_nb.testing import assert_close

pytestmark = pytest.mark.quick
SIZES = {"regularization": 280, "regularization-cifar": 35, "regularization-cifar-gpu": 105}


def arm_of(config):
    "The arm that a config belongs to, found without the chapter's own choice."
    norm = config["norm"]
    if config["train"].get("label_smoothing"): return "smoothing"
    if config["model"].get("dropout"): return "dropout"
    if norm.get("weight_standardization"): return "ws"
    return "noise" if norm.get("noise") else norm["name"]


def made(error, loss=None, configs=None):
    "Records: test error in per cent and training loss by arm; a little of the seed in both."
    out = []
    for c in lab.regularization() if configs is None else configs:
        arm, jitter = arm_of(c), (c["seed"] % 3)
        part = {"error": error.get(arm, 10.)/100 + .001*jitter, "loss": 1.}
        out.append({"key": key(c), "config": c, "status": "done", "final": {"running": {"val": part, "test": part}},
                    "probe": {"loss": (loss or {}).get(arm, .1) + .001*jitter, "error": 0.}})
    return out


@pytest.mark.parametrize("name", SIZES)
def test_sweeps(name):
    configs = lab.SWEEPS[name]()
    assert len(configs) == len({key(check_config(c)) for c in configs}) == SIZES[name] and {*SIZES} == {*lab.SWEEPS}
    seeds = [c["seed"] for c in configs]
    assert seeds == sorted(seeds)
    runs = made({}, configs=configs)
    assert all({arm_of(r["config"]) for r in lab.of_arm(runs, arm)} == {arm} for arm in lab.NAMES)
    assert {len(lab.of_arm(runs, arm)) for arm in lab.NAMES} == {len({*seeds})}


def test_the_probe_sees_no_noise():
    config = next(c for c in lab.regularization() if arm_of(c) == "noise")
    short = config | {"data": config["data"] | {"train": 64}, "train": config["train"] | {"epochs": 1}}
    found, again = run(short), run(short)
    assert found["probe"] == again["probe"] and {*found["probe"]} == {"loss", "error"}
    data = load("digits", train=40)
    net = build("plain", {"name": "gn", "num_groups": 4, "noise": 8}, dropout=.5).train()
    seen = lab.train_probe(net, data, {})
    with torch.no_grad(): logits = net.eval()(data.x)
    assert_close(seen["loss"], float(loss_of(logits, data.y)), 1e-5)
    assert_close(seen["error"], float(errors(logits, data.y).mean()), 1e-6)
    assert_close(lab.train_loss({"config": config, "status": "diverged"}), math.log(10), 1e-12)


def test_half():
    rng = np.random.default_rng(0)
    gn, noise, bn = rng.standard_normal((3, 10)) + np.array([[4.], [2.], [1.]])
    h = (gn - noise) - (gn - bn)/2
    found = lab.half(gn, noise, bn)
    assert_close(found.mean, float(h.mean()), 1e-12)
    assert_close(found.high - found.low, 2*2.262157*h.std(ddof=1)/math.sqrt(10), 1e-6)


@pytest.mark.parametrize("spec,groups", [({"name": "gn", "num_groups": 8}, 8), ("ln", 1), ("in", None), ("bn", 4)])
def test_spread_against_a_direct_computation(spec, groups):
    net, data = build("plain", spec).eval(), load("digits", train=50)
    found = dict(lab.spread(net, data.x))
    assert [*found] == ["1", "4", "7"]
    with torch.no_grad(): t = net[:7](data.x).double()                     # what the third normalization is given
    C = t.shape[1]
    means, var = t.mean((0, 2, 3)), t.var((0, 2, 3), correction=0)
    parts = means.reshape(groups or C, -1)
    wanted = sum(float(np.var(part.numpy())) for part in parts)/len(parts)/float(var.mean())
    assert_close(found["7"], wanted, 1e-6)
    if spec == "in": assert found["7"] == 0


GOOD = dict(bn=10., gn=13., noise=10.5)


@pytest.mark.parametrize("error,loss,word", [
    (GOOD, dict(bn=.2, gn=.1), "holds"),                                   # lower loss, higher error, noise closes it
    (GOOD | {"noise": 12.}, dict(bn=.2, gn=.1), "does not hold here"),      # closes a third: less than half
    (GOOD, dict(bn=.1, gn=.2), "open"),                                    # the premise is not met: a higher loss
    (GOOD | {"noise": 13.}, dict(bn=.1, gn=.2), "open"),                   # so it says nothing that noise does not help
    (dict(bn=13., gn=10., noise=9.), dict(bn=.1, gn=.2), "does not hold here"),        # a lower error all the same
    (dict(bn=13., gn=10., noise=9.), dict(bn=.2, gn=.1), "does not hold here"),        # a lower error
    (dict(bn=10., gn=10., noise=9.), dict(bn=.2, gn=.1), "open"),          # no gap to close
    (GOOD, dict(bn=.1, gn=.1), "open")])
def test_noise_verdict(error, loss, word):
    v = check_verdict(lab.noise_verdict(made(error, loss)))
    assert v.word == word and v.because.startswith("its premise") == (loss["gn"] >= loss["bn"])


def test_reasons_tell_of_rates():
    "The edge of what was tried, and where only one was."
    for rate, told in ((.8, True), (.2, False)):
        runs = made(GOOD)
        for r in runs: r["final"]["running"]["val"] = {"error": .2 + abs(r["config"]["train"]["lr"] - rate), "loss": 1.}
        assert ("BN's rate, 0.8, is the largest that was tried" in lab.noise_verdict(runs).because) == told
    beside = made(dict(gn=14.), configs=lab.regularization_cifar())
    for verdict in (lab.par_verdict, lab.ws_verdict):
        because = verdict(made({}), beside).because
        assert because.count("0.05 the one rate that was tried, 5 seeds") == 1
    assert "training losses of GN and BN are 0.10 and 0.10" in lab.noise_verdict(made(GOOD), beside).because


@pytest.mark.parametrize("spread, word", [(.01, "holds in part"), (.03, "open")])
def test_noise_verdict_undecided(spread, word):
    "Half of the gap, give or take: in part, if noise helps at all."
    runs = made(GOOD | {"noise": 11.5}, dict(bn=.2, gn=.1))
    for r in runs:
        if arm_of(r["config"]) == "noise":
            r["final"]["running"]["test"] = {"error": .115 + spread*(-1)**r["config"]["seed"], "loss": 1.}
    v = lab.noise_verdict(runs)
    assert v.word == word and "h is" in v.because


def near(arm):
    "An arm that errs more than BN for sure, and by more than 1 point perhaps."
    runs = made({arm: 11.3})
    for r in runs: r["final"]["running"]["test"]["error"] += .01*(-1)**r["config"]["seed"]*(arm_of(r["config"]) == arm)
    return runs


def test_par_and_ws_verdicts():
    assert check_verdict(lab.par_verdict(made(dict(gn=10.3)))).word == "holds"
    assert lab.par_verdict(made(dict(gn=12.))).word == lab.par_verdict(made(dict(gn=8.))).word == "does not hold here"
    wide = made(dict(gn=11.))
    for r in wide: r["final"]["running"]["test"]["error"] += .03*(-1)**r["config"]["seed"]*(arm_of(r["config"]) == "gn")
    assert lab.par_verdict(wide).word == "open"
    c = lab.change(lab.of_arm(near("gn"), "gn"), lab.of_arm(near("gn"), "bn"))
    assert 0 < c.low < 1 < c.mean and lab.par_verdict(near("gn")).word == "open"
    beside = made(dict(gn=14., ws=14.), configs=lab.regularization_cifar())
    assert lab.par_verdict(near("gn"), beside).word == "does not hold here"
    assert lab.par_verdict(made(dict(gn=10.3)), beside).word == lab.ws_verdict(made({}), beside).word == "holds in part"
    assert check_verdict(lab.ws_verdict(made(dict(ws=10.3)))).word == lab.ws_verdict(made(dict(ws=5.))).word == "holds"
    assert lab.ws_verdict(made(dict(ws=12.))).word == "does not hold here"
    assert lab.ws_verdict(near("ws")).word == "open"


def test_too_few_runs_are_open():
    for verdict in (lab.noise_verdict, lab.par_verdict, lab.ws_verdict):
        assert check_verdict(verdict([])).word == "open"
        assert verdict([r for r in made(GOOD) if r["config"]["seed"] == 0]).word == "open"


def test_partial_records_are_paired():
    "A sweep stopped in the middle of a seed: what all arms have is compared."
    runs = made(GOOD, dict(bn=.2, gn=.1))
    kept = [r for r in runs if r["config"]["seed"] < {"bn": 9, "gn": 5, "noise": 4}.get(arm_of(r["config"]), 3)]
    assert lab.noise_verdict(kept).word == "holds"
    beside = made({}, configs=lab.regularization_cifar())
    assert "on photographs" in lab.noise_verdict(kept, beside).because
    assert "on photographs" in lab.ws_verdict(kept, beside).because
