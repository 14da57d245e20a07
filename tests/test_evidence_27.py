"Chapter 27: its sweeps, its arms and statistics against direct computation, its verdicts both ways."
import numpy as np
import pytest
import torch
from conftest import ROOT

from gn_nb.lab import video as lab
from gn_nb.lab.data import load
from gn_nb.lab.evidence import best_rates, check_verdict, recorded
from gn_nb.lab.models import build
from gn_nb.lab.sweep import key, sweeps
from gn_nb.lab.train import check_config
from gn_nb.testing import assert_close

pytestmark = pytest.mark.quick
SIZES = {"video-lr": 15, "video-setups": 20, "video": 50, "video-gpu": 285}
AMPLE, VAL = lab.NAMES[1], lab.video_lr()[0]["data"]["val"]


def made(error, seeds=lab.SEEDS, names=lab.NAMES):
    "Records of the sweep: test error in per cent by method and length; a little of the seed in it."
    out = []
    for c in lab.video():
        name, T, jitter = lab.name_of({"config": c}), c["data"]["frames"], .001*(c["seed"]*7 % 5)
        if c["seed"] not in seeds or name not in names: continue
        part = {"error": error[name][lab.FRAMES.index(T)]/100 + jitter, "loss": 1.}
        other = {"error": part["error"] + .05, "loss": 1.}
        ways = {"running": part} | ({"precise": other, "batch": other} if name[:2] == "BN" else {})
        out.append({"key": key(c), "config": c, "status": "done",
                    "final": {way: {"val": p, "test": p} for way, p in ways.items()}})
    return out


def table(**changes):
    "Errors at each length."
    found = dict.fromkeys(lab.NAMES, (20., 10.))
    return found | {AMPLE if k == "ample" else k: v for k, v in changes.items()}


@pytest.mark.parametrize("name", SIZES)
def test_sweeps(name):
    configs = lab.SWEEPS[name]()
    assert len(configs) == len({key(check_config(c)) for c in configs}) == SIZES[name]
    assert {*SIZES} == {*lab.SWEEPS} and sweeps()[name] is lab.SWEEPS[name]
    seeds = [c["seed"] for c in configs]
    assert seeds == sorted(seeds) or name == "video-setups"
    assert all(c["data"]["split"] == c["seed"] for c in configs)


def test_the_budget():
    for c in lab.video():
        name, T, ghost = lab.name_of({"config": c}), c["data"]["frames"], c["norm"].get("ghost")
        assert ghost == {"BN": lab.BUDGET//T, AMPLE: lab.AMPLE}.get(name)
        assert ghost is None or c["train"]["batch_size"] % ghost == 0
    assert all(c["data"]["frames"]*c["norm"]["ghost"] == 64 or c["norm"]["ghost"] == lab.AMPLE
               for c in lab.video_gpu() if c["norm"]["name"] == "bn")


def test_seeds_choose_no_test_clips_of_tuning():
    assert not {c["seed"] for c in lab.video()} & {c["seed"] for c in lab.video_lr() + lab.video_setups()}


def test_nothing_but_method_and_length_differs():
    def rest(c): return c["data"] | {"frames": 0}, c["model"], c["train"] | {"lr": 0}
    assert all(rest(c) == rest(lab.video()[0]) for c in lab.video() if c["seed"] == 2)
    assert len({str(rest(c)) for c in lab.video_setups() if c["data"]["frames"] == 8}) == len(lab.SETUPS) - 1


def test_rates_are_those_that_the_records_choose(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert best_rates(recorded("video-lr"), lab.name_of, VAL) == lab.RATES
    assert all(c["train"]["lr"] == lab.RATES[lab.name_of({"config": c})] for c in lab.video())


def test_the_smallest_rate_within_a_standard_error():
    errors = {"BN": {.02: 30., .04: 12., .08: 10.}, "GN": {.02: 30., .04: 13., .08: 10.},
              "IN": {.02: 9., .04: 10., .08: 10.}}
    runs = []
    for c in lab.video_lr():
        e = errors.get(lab.name_of({"config": c}), {}).get(c["train"]["lr"])
        if e: runs.append({"config": c, "status": "done", "final": {"running": {"val": {"error": e/100}}}})
    assert best_rates(runs, lab.name_of, VAL) == {"BN": .08, "GN": .08, "IN": .02}
    for r in runs:
        if r["config"]["train"]["lr"] == .04: r["final"]["running"]["val"]["error"] = .117      # 10 + 1.73 points
    assert best_rates(runs, lab.name_of, VAL) == {"BN": .04, "GN": .04, "IN": .02}
    assert best_rates(runs, lab.name_of) == {"BN": .08, "GN": .08, "IN": .02}


def test_clip_noise_against_direct_computation():
    x = load("clips", frames=4, size=12, train=40, val=1, test=1).x
    net = build("video", {"name": "bn"}, classes=8, strides=(2, 2, 2), pool="peaks").train()
    first = net[0](x).detach().double()                                               # (N, C, T, H, W)
    means, total = first.mean((2, 3, 4)), first.transpose(0, 1).flatten(1).var(1, correction=0)
    A = means.var(0)
    wanted = float((4*A/(total - means.var(0, correction=0) + A)).median())
    found = lab.clip_noise(net, x)
    assert found.shape == (3,)
    assert_close(found[0], wanted, 1e-4)


def test_growth():
    assert_close(lab.growth(np.array([[1., 3.], [7., 7.], [4., 3.]])), np.array([1., 0.]), 1e-12)


def test_lengths_and_gains():
    errors = table(BN=(18., 17.), ample=(16., 11.))
    runs = made(errors)
    wanted = np.array([errors["BN"]]*5) + .1*(np.array(lab.SEEDS)*7 % 5)[:, None]
    assert_close(lab.by_length(runs, "BN"), wanted, 1e-6)
    assert_close(lab.by_length(runs, "BN", "precise"), wanted + 5, 1e-6)
    assert_close(lab.gains(runs, "BN"), np.full(5, 1.), 1e-6)
    assert_close(lab.gains(runs, AMPLE), np.full(5, 5.), 1e-6)


def test_only_whole_seeds_count():
    runs = made(table())
    assert len(lab.by_length(runs[:-1], "BN")) == len(lab.SEEDS) - 1
    assert lab.by_length([], "BN").shape == (0, len(lab.FRAMES))


@pytest.mark.parametrize("errors,words", [
    (table(BN=(10., 20.), GN=(15., 10.)), ["holds", "holds in part"]),
    (table(BN=(20., 15.)), ["holds in part", "holds"]),
    (table(GN=(30., 20.)), ["does not hold here", "does not hold here"]),
    (table(ample=(20., 20.)), ["open", "open"])])
def test_verdicts(errors, words, monkeypatch):
    monkeypatch.setattr(lab, "recorded", lambda name, required=True: made(errors)*(name == "video"))
    found = [check_verdict(v) for v in lab.verdicts()]
    assert [v.word for v in found] == words and all("5 seeds" in v.because for v in found)


def test_verdicts_read_the_usual_evaluation(monkeypatch):
    runs = made(table(BN=(20., 20.)))
    for r in runs:
        if lab.name_of(r) == "BN" and r["config"]["data"]["frames"] == 8:
            r["final"]["precise"] = r["final"]["batch"] = {"test": {"error": .1, "loss": 1.}}
    monkeypatch.setattr(lab, "recorded", lambda name, required=True: runs*(name == "video"))
    assert lab.verdicts()[0].word == "holds"


def test_the_best_length_is_picked_on_validation_clips(monkeypatch):
    "GN's test error is lowest at T = 8, its validation error at T = 4: there it does not beat BN."
    runs = made(table(GN=(20., 5.)))
    monkeypatch.setattr(lab, "recorded", lambda name, required=True: runs*(name == "video"))
    assert lab.verdicts()[1].word == "holds" and "this is one comparison" in lab.verdicts()[1].because
    for r in runs:
        if lab.name_of(r) == "GN" and r["config"]["data"]["frames"] == 4:
            r["final"]["running"] = r["final"]["running"] | {"val": {"error": 0., "loss": 1.}}
    assert lab.verdicts()[1].word == "holds in part" and "this is one comparison" not in lab.verdicts()[1].because


def test_larger_records_come_first(monkeypatch):
    "Lengths, budget and clips are those of the GPU's sweep; of three rates the best; at T = 4 its BN has two names."
    def error(c):
        T, name = c["data"]["frames"], c["norm"]["name"]
        falls = 3. if name == "bn" and c["norm"]["ghost"] == 64//T else 5.         # points for each doubling
        return (40 - falls*np.log2(T/4) - 10*(name == "gn") + 20*(c["train"]["lr"] != .1) + .1*(c["seed"]*7 % 5))/100
    part = {key(c): {"error": error(c), "loss": 1.} for c in lab.video_gpu()}
    large = [{"key": key(c), "config": c, "status": "done",
              "final": {"running": {"val": part[key(c)], "test": part[key(c)]}}} for c in lab.video_gpu()]
    found = {"video": made(table()), "video-gpu": large}
    monkeypatch.setattr(lab, "recorded", lambda name, required=True: found[name])
    name, runs = lab.video_runs()
    assert name == "video-gpu" and {r["config"]["train"]["lr"] for r in runs} == {.1} and len(runs) == len(large)//3
    assert lab.by_length(runs, "BN").shape == (5, 4)
    assert_close(lab.by_length(runs, "BN")[:, 0], lab.by_length(runs, AMPLE)[:, 0], 0)
    assert_close(lab.gains(runs, "BN"), np.full(5, 3.), 1e-6)
    assert_close(lab.gains(runs, AMPLE), np.full(5, 5.), 1e-6)
    first, second = (check_verdict(v) for v in lab.verdicts())
    assert first.word == "holds in part" and "budget of 64 frames" in first.because and "GPU" in first.because
    assert "(medians +5.0, +3.0, +5.0)" in first.because
    assert second.word == "holds" and "at T = 32, b = 2" in second.because
    found["video-gpu"] = [r for r in large if r["config"]["seed"] == 2]                     # one seed is not enough
    assert lab.video_runs()[0] == "video"


@pytest.mark.parametrize("seeds", [(), (2,)])
def test_too_few_seeds_leave_it_open(seeds, monkeypatch):
    runs = made(table(BN=(20., 20.)), seeds)
    monkeypatch.setattr(lab, "recorded", lambda name, required=True: runs*(name == "video"))
    assert [check_verdict(v).word for v in lab.verdicts()] == ["open", "open"]


def test_a_failed_run_counts_as_wrong():
    runs = made(table())
    runs[0] = {k: v for k, v in runs[0].items() if k != "final"} | {"status": "diverged"}
    assert lab.by_length(runs, lab.name_of(runs[0]))[0, 0] == 100


def test_peaks_take_clips_of_any_length():
    net = build("video", {"name": "gn", "group_size": 4}, classes=8, strides=(2, 2, 2), pool="peaks")
    x = torch.randn(2, 1, 6, 12, 12, generator=torch.Generator().manual_seed(0))
    assert net(x).shape == net(x[:, :, :2]).shape == (2, 8)
    seen = net[:9](x)
    assert seen.shape == (2, 32, 6, 2, 2)                                             # time is kept
    wanted = torch.stack([torch.stack([frame.flatten(1).max(1).values for frame in clip.transpose(0, 1)]).mean(0)
                          for clip in seen])
    assert_close(net[9](seen), wanted, 1e-6)
