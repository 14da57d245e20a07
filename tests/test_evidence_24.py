"Chapter 24: its sweeps, the data it makes, its statistics against direct computation, its verdicts both ways."
import numpy as np
import pytest
import torch
from torch import nn

from gn_nb.lab import architectures as lab
from gn_nb.lab.data import load
from gn_nb.lab.evidence import check_verdict
from gn_nb.lab.models import ByVariance, build
from gn_nb.lab.sweep import key
from gn_nb.lab.train import check_config, train
from gn_nb.layers import GroupNorm
from gn_nb.testing import assert_close

pytestmark = pytest.mark.quick
SIZES = {"affine": 150, "entrance": 200, "entrance-longer": 120, "vgg": 300, "vgg-cifar": 30, "vgg-cifar-gpu": 90}


def made(configs, error):
    "Records of these configs, the test error in per cent a function of the config; a little of the seed in it."
    out = []
    for c in configs:
        e = error(c)
        part = {"error": (e or 0)/100 + .001*(c["seed"] % 3), "loss": 1.}
        done = {"status": "done", "final": {"running": {"val": part, "test": part}}, "curves": {"train_loss": [1.]}}
        out.append({"key": key(c), "config": c} | ({"status": "diverged"} if e is None else done))
    return out


@pytest.mark.parametrize("name", SIZES)
def test_sweeps(name):
    configs = lab.SWEEPS[name]()
    assert len(configs) == len({key(check_config(c)) for c in configs}) == SIZES[name]
    seeds = [c["seed"] for c in configs]
    assert seeds == sorted(seeds)                                  # stopped anywhere, every method has as many seeds
    assert {*SIZES} == {*lab.SWEEPS}


def test_every_arm_is_picked_and_each_run_by_one_arm():
    runs = made(lab.affine(), lambda c: 10.)
    kinds = [(G, a) for G in (4, 1) for a in lab.AFFINES] + [(4, None)]
    assert [len(lab.of_affine(runs, *kind)) for kind in kinds] == [10]*7
    runs = made(lab.vgg(), lambda c: 10.)
    assert [len(lab.of_vgg(runs, m)) for m in lab.PLAIN] == [10]*6
    runs = made(lab.entrance(), lambda c: 10.)
    counts = {(t, n): [len(lab.of_entrance(runs, t, w, n)) for w in lab.WAYS]
              for n, targets in ((3, ("digit", "brightness", "cast")), (1, ("digit", "brightness"))) for t in targets}
    assert counts == {("digit", 3): [10]*4 + [0], ("brightness", 3): [10]*5, ("cast", 3): [10]*4 + [0],
                      ("digit", 1): [10]*3 + [0, 0], ("brightness", 1): [10]*3 + [0, 10]}
    assert sum(map(sum, counts.values())) == len(runs)


def test_the_better_learning_rate_is_taken():
    runs = made(lab.vgg(), lambda c: 5. if c["train"]["lr"] == .2 else 9.)
    assert {r["config"]["train"]["lr"] for r in lab.of_vgg(runs, "gn")} == {.2}
    assert {r["config"]["train"]["lr"] for r in lab.of_vgg(runs, "gn", .05)} == {.05}


@pytest.mark.parametrize("layer,power", [(GroupNorm(4, 16), 0), (ByVariance(16, 4), -1), (nn.Identity(), 1)])
def test_exponent(layer, power):
    assert_close(lab.exponent(layer, torch.randn(2, 16, 5, 5) + 2, 3.), float(power), 1e-3)


@pytest.mark.parametrize("affine", ["channel", "group", "none"])
@pytest.mark.parametrize("instance", [False, True])
def test_left_over_against_least_squares(affine, instance):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 8, 9))*rng.uniform(.5, 2, (1, 8, 1)) + rng.standard_normal((1, 8, 1))
    missed = []
    for group in (slice(0, 4), slice(4, 8)):
        part = x[:, group]
        axes = (1, 2) if instance else (0, 1, 2)
        u = (part - part.mean(axes, keepdims=True))/part.std(axes, keepdims=True)
        wanted = (part - part.mean((0, 2), keepdims=True))/part.std((0, 2), keepdims=True)
        sets = [([c], u[:, c].ravel(), wanted[:, c].ravel()) for c in range(4)] if affine == "channel" else [
            (range(4), u.ravel(), wanted.ravel())]
        for channels, a, b in sets:
            matrix = np.stack([a, np.ones_like(a)], 1)
            fit = matrix@np.linalg.lstsq(matrix, b, rcond=None)[0] if affine != "none" else a
            missed += [np.square(fit - b).mean()]*len(channels)
    assert_close(lab.left_over(x, 2, affine, instance), float(np.mean(missed)), 1e-9)


def test_tinted_images_go_through_the_laboratory():
    data = load(lab.SOURCE, channels=3, target="cast", train=60, split=2)
    assert data.x.shape == (60, 3, 8, 8) and data.classes == 2 and abs(data.x.mean()) < 1e-5
    raw = load(lab.SOURCE, channels=3, target="cast", train=60, split=2, **lab.RAW)
    assert raw.x.std() > 100 and torch.equal(raw.y, data.y)
    assert torch.equal(raw.y, (raw.x[:, 0] - raw.x[:, 2])[:, 0, 0].gt(0).long())       # a corner is blank ink


def test_normalizing_an_image_takes_exactly_this_away():
    x = load(lab.SOURCE, channels=3, train=20).x
    brighter, cast = x + 3, x + torch.tensor([1., 0., -1.]).reshape(1, 3, 1, 1)
    one, own = (build("plain", "ln", channels=3, entrance=e).eval()
                for e in (lab.ENTRANCES["gcd"], lab.ENTRANCES["divisor"]))
    with torch.no_grad():
        for net in (one, own): assert_close(net(brighter), net(x), 1e-4)
        assert_close(own(cast), own(x), 1e-4)
        assert (one(cast) - one(x)).abs().max() > .1


def test_watching_the_last_convolution():
    net, steps = build("vgg", "ln", width=8, pools=2), []
    hook = lab.watch(net, steps)
    data = load("digits", train=64)
    train(net, data, epochs=1, batch_size=32)
    assert len(steps) == 2                                         # two steps, and evaluation is not looked at
    net.train()(data.x[:32]); assert len(steps) == 3
    out = []
    last = [m for m in net.modules() if isinstance(m, nn.Conv2d)][-1]
    last.register_forward_hook(lambda m, i, o: out.append(o.detach().numpy()))
    net(data.x[:32])
    assert_close(np.array(steps[-1]), np.percentile(out[0], lab.PERCENTILES), 1e-6)
    hook.remove(); net(data.x[:32]); assert len(steps) == 4


def test_scale_and_affine_verdicts():
    runs = made(lab.affine(), lambda c: 12. if c["norm"].get("affine") == "group" else 10.)
    v = check_verdict(lab.scale_verdict(runs))
    assert v.word == "does not hold here" and "+0.0 points" in v.because
    assert lab.scale_verdict(runs, ByVariance(16, 4)).word == "holds"
    assert lab.scale_verdict(runs, nn.Identity()).word == "open"
    v = check_verdict(lab.affine_verdict(runs))
    assert v.word == "does not hold here" and v.because.count("+2.0 points") == 2
    shared = build("plain", {"name": "gn", "num_groups": 4, "affine": "group"})[1]
    assert lab.affine_verdict(runs, shared).word == "holds"
    assert lab.affine_verdict([]).word == "does not hold here"     # counting needs no runs
    failing = made(lab.affine(), lambda c: 91. if c["norm"].get("affine") == "group" and c["seed"] < 3 else 10.)
    assert lab.affine_verdict(failing).because.count("3 of 10 seeds having learned nothing") == 2


def entrance_errors(brightness, digit, seen=2., configs=lab.entrance):
    "Test error by target and by whether each image is normalized at the entrance."
    def error(c):
        inside = bool(c.get("entrance"))
        return {"brightness": brightness if inside else seen, "digit": digit if inside else 20.,
                "cast": 50.}[c["data"]["target"]]
    return made(configs(), error)


@pytest.mark.parametrize("brightness,digit,seen,word", [
    (50., 10., 2., "holds in part"), (50., 25., 2., "holds"), (3., 10., 2., "does not hold here"),
    (3., 25., 2., "open"), (50., 25., 30., "open"), (35., 25., 2., "open")])
def test_entrance_verdict(brightness, digit, seen, word):
    longer = entrance_errors(None, digit, configs=lab.entrance_longer)
    v = check_verdict(lab.entrance_verdict(entrance_errors(brightness, 1., seen), longer))
    assert v.word == word and "-19.0 points (-19.0 to -19.0) where training ends before either" in v.because
    assert lab.entrance_verdict(entrance_errors(brightness, digit, seen)).word == "open"


def test_vgg_verdict():
    def runs(**errors): return made(lab.vgg(), lambda c: errors.get(
        next(k for k, n in lab.PLAIN.items() if n == c["norm"]), 10.))
    assert check_verdict(lab.vgg_verdict(runs(none=15., bn2=15.))).word == "does not hold here"
    assert lab.vgg_verdict(runs(none=15., bn2=8.)).word == "holds in part"
    assert lab.vgg_verdict(runs(none=8., bn2=8.)).word == "holds"
    assert lab.vgg_verdict(runs(none=None, bn2=15.)).word == "does not hold here"          # what diverges is all wrong
    wide = made(lab.vgg(), lambda c: 20. + 15*(-1)**c["seed"] if c["norm"]["name"] == "none" else 18.)
    assert lab.vgg_verdict(wide).word == "open"                    # a gain is neither shown nor ruled out
    won_in_use = runs(none=15., bn2=15.)
    assert "what GN wins" not in lab.vgg_verdict(won_in_use).because
    for r in won_in_use: r["final"]["precise"] = {"test": {"error": .1, "loss": 1.}}
    assert "(median -5.0; with precise statistics" in lab.vgg_verdict(won_in_use).because
    assert "what GN wins there BN loses in use" in lab.vgg_verdict(won_in_use).because
    one_seed = [r for r in runs(none=15.) if r["config"]["seed"] == 0]
    assert lab.vgg_verdict(one_seed).word == lab.vgg_verdict([]).word == "open"


@pytest.mark.parametrize("digits, photographs, word", [
    (15., 15., "does not hold here"), (15., 8., "holds in part"), (8., 8., "holds"), (15., None, "does not hold here"),
    (None, 15., "does not hold here"), (None, None, "open")])
def test_photographs_have_a_word_in_the_verdict(digits, photographs, word):
    "Others err by so much, GN by 10; None: by very different amounts, seed by seed."
    def made_of(configs, others):
        return made(configs, lambda c: 10. if c["norm"] == lab.PLAIN["gn"] else others or 10. + 8*(-1)**c["seed"])
    v = check_verdict(lab.vgg_verdict(made_of(lab.vgg(), digits), made_of(lab.vgg_cifar(), photographs)))
    assert v.word == word and "on photographs" in v.because and "precise" in v.because


def test_empty_records_are_open():
    assert lab.entrance_verdict([]).word == "open" and check_verdict(lab.scale_verdict([]))
