"Chapter 26: its sweeps are sound, its network and statistics are right, its verdicts follow from records both ways."
import math
import re

import numpy as np
import pytest
import torch
from conftest import ROOT
from test_evidence_20 import made_up

from gn_nb.lab import dense_prediction as lab
from gn_nb.lab.batch_size import NORMS, NOTHING, method_of
from gn_nb.lab.data import Data, load
from gn_nb.lab.evidence import best_rates, check_verdict, recorded
from gn_nb.lab.models import build
from gn_nb.lab.sweep import key
from gn_nb.lab.train import check_config, evaluate, of_slices, run
from gn_nb.testing import assert_close

pytestmark = pytest.mark.quick
SIZES = {"dense-setups": 11, "dense-tune": 15, "dense": 30, "dense-after": 15, "dense-gpu": 90,
         "dense-transfer-tune": 13, "dense-transfer": 30, "dense-head-tune": 12, "dense-head": 20}


@pytest.mark.parametrize("name", SIZES)
def test_sweeps(name):
    configs = lab.SWEEPS[name]()
    assert len(configs) == len({key(check_config(c)) for c in configs}) == SIZES[name] and {*SIZES} == {*lab.SWEEPS}
    seeds = [c["seed"] for c in configs]
    assert seeds == sorted(seeds) == [c["data"]["split"] for c in configs]
    slices = 8*48 if "head" in name else 8
    assert all(c["train"]["batch_size"] == 8 and slices % c["norm"].get("ghost", slices) == 0 for c in configs)
    if name.endswith(("setups", "tune")): assert not {*seeds} & {*lab.SEEDS}   # chosen on other runs
    if name in ("dense", "dense-after"):
        assert len({*seeds}) >= 5
        assert all(c["train"]["lr"] == lab.RATES[method_of({"config": c}).removesuffix("+WS")] for c in configs)
    for c in configs if name in ("dense-setups", "dense-tune", "dense", "dense-after", "dense-gpu") else ():
        if "freeze_at" in c["train"]: assert c["norm"] == NORMS["BN, b = 2"] and 0 < c["train"]["freeze_at"] < 1
        assert ("probe" in c) == (c["norm"]["name"] == "bn" and name != "dense-setups")


def test_rates_are_those_that_the_records_choose(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert best_rates(recorded("dense-tune"), method_of) == lab.RATES
    assert best_rates(recorded("dense-transfer-tune"), lab.arm_of) == lab.TUNED_RATES
    assert best_rates(recorded("dense-head-tune"), lab.head_of) == lab.HEAD_RATES


def test_arms_of_fine_tuning_and_of_heads_are_told_apart():
    for configs, name_of, names in ((lab.transfer(), lab.arm_of, lab.TUNED | lab.PLAIN),
                                    (lab.heads(), lab.head_of, lab.HEADS)):
        found = [name_of({"config": c}) for c in configs]
        assert sorted(found) == sorted([*names]*len(lab.SEEDS))
    for c in lab.transfer():
        arm = lab.arm_of({"config": c})
        assert ("freeze_at" in c["train"]) == arm.startswith("BN*") and c["train"].get("freeze_at", 0) == 0
        assert ("decay_norm" in c["train"]) == arm.endswith("decayed") and not c["train"].get("decay_norm")
        assert c["pretrain"]["ghost"] == c["pretrain"]["train"]["batch_size"] == 32
        assert c["train"]["lr"] == lab.TUNED_RATES[arm.removesuffix(", not decayed")]
    for c in lab.heads():
        arm = lab.head_of({"config": c})
        assert c["model"]["dealt"] == (arm == "BN, eight scenes") and c["train"]["lr"] == lab.HEAD_RATES[arm]


def test_photographs_have_a_label_at_every_pixel(monkeypatch):
    x, y = np.zeros((3, 3, 5, 4), np.uint8), np.array([7, 0, 2])
    monkeypatch.setattr(lab, "files_source", lambda name, **more: ({"train": (x, y)}, {"cifar10": 10}[name]))
    parts, classes = lab.photographs()
    assert classes == 10 and parts["train"][0] is x and parts["train"][1].shape == (3, 5, 4)
    assert (parts["train"][1] == y[:, None, None]).all()


def test_labels_of_crops_are_those_at_their_centres(monkeypatch):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 255, (2, 3, 93, 120), np.uint8), rng.integers(0, 12, (2, 93, 120))   # six rows fit
    monkeypatch.setattr(lab, "files_source", lambda name: ({"train": (x, y)}, {"camvid": 11}[name]))
    parts, classes = lab.crops_source(shrink=1)
    found, labels = parts["train"]
    assert classes == 11 and np.array_equal(found, x) and labels.shape == (2, 6, 8)
    for i, j in np.ndindex(6, 8): assert np.array_equal(labels[:, i, j], y[:, 14*i + 8, 14*j + 8])
    assert lab.crops_source(shrink=2)[0]["train"][1].shape == (2, 3, 4)


def test_a_crop_is_seen_alone():
    "Group normalization tells each crop what it would tell it by itself, dealt or not."
    x = torch.randn(4, 3, 44, 30, generator=torch.Generator().manual_seed(0))
    for dealt in (False, True):
        net = build(lab.HEAD, norm=NORMS["GN"], channels=3, classes=5, dealt=dealt).eval()
        out = net(x)
        assert out.shape == (4, 5, 3, 2)
        for n, i, j in ((0, 0, 0), (3, 2, 1), (1, 1, 0)):
            crop = x[n:n + 1, :, 14*i:14*i + 16, 14*j:14*j + 16]
            assert_close(out[n, :, i, j], net(crop)[0, :, 0, 0], 1e-4)


def test_slices_of_heads():
    "Scene by scene, or as many crops of every scene; the same function of the crops where a slice is all of them."
    net = build(lab.HEAD, norm="bn", channels=3, classes=5, dealt=True)
    order = net.deal(8, 6, 8)
    assert sorted(order.tolist()) == [*range(8*48)]
    slices = (order//48).reshape(8, 48)
    assert all(torch.equal(row.bincount(minlength=8), torch.full((8,), 6)) for row in slices)
    for s in range(8):
        own = order[s*48:(s + 1)*48]
        assert len({*(own % 48).tolist()}) == 48                                 # no place twice in a slice
        one = own[own < 48]                                                      # of one scene: one from each row
        assert len({*(one//8).tolist()}) == len({*(one % 8).tolist()}) == 6
    net.dealt = False
    assert torch.equal(net.deal(8, 6, 8), torch.arange(8*48))
    x = torch.randn(2, 3, 44, 30, generator=torch.Generator().manual_seed(0))
    whole = [build(lab.HEAD, norm="bn", channels=3, classes=5, dealt=dealt).train()(x) for dealt in (False, True)]
    assert_close(*whole, 1e-4)


def test_slices_of_another_size_while_pretraining():
    net = build(**lab.MODEL, norm=NORMS["BN, b = 2"], channels=3, classes=5)
    def sizes(): return {m.ghost for m in net.modules() if hasattr(m, "ghost")}
    with of_slices(net, 32): assert sizes() == {32}
    assert sizes() == {2}
    with of_slices(net): assert sizes() == {2}
    with pytest.raises(RuntimeError, match="stop"), of_slices(net, 4): raise RuntimeError("stop")
    assert sizes() == {2}


def scenes(n=16, size=16): return load("scenes", train=n, val=8, test=8, size=size)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_shrinking_pixel_labels(k):
    "Every small pixel has the label of the middle of its square, whether or not the squares fill the image."
    whole = load("scenes", train=3, val=2, test=2, size=16, standardize=False)
    small = load("scenes", train=3, val=2, test=2, size=16, standardize=False, shrink=k)
    n = 16//k
    assert small.x.shape == (3, 3, n, n) and small.y.shape == (3, n, n) and small.y_test.shape == (2, n, n)
    for i, j in np.ndindex(n, n):
        assert torch.equal(small.y[:, i, j], whole.y[:, i*k + k//2, j*k + k//2])
        square = whole.x[:, :, i*k:(i + 1)*k, j*k:(j + 1)*k]
        assert_close(small.x[:, :, i, j], square.mean((2, 3)), 1e-5)
    assert small.checksum == whole.checksum


def test_a_run_gives_what_the_chapter_reads():
    small = {"name": "scenes", "train": 16, "val": 8, "test": 8, "size": 16}
    found = run(lab.on_streets("BN, b = 2", 1, .1, small, epochs=1))
    assert found["status"] == "done" and {*found["final"]} == {"running", "precise", "batch"}
    assert len(found["probe"]["m_eff"]) == 8 and min(found["probe"]["m_eff"]) > 1 and .5 < found["probe"]["guess"] < 1
    again = run(lab.on_streets("BN, b = 2", 1, .1, small, epochs=1))
    assert again["curves"] == found["curves"] and again["probe"] == found["probe"]


def test_one_image_by_its_own_statistics_is_instance_normalization():
    "So the table may read IN from the runs of `BN, b = 1`, in training as in use."
    x = scenes().x
    of_batch, of_image = (build(**lab.MODEL, norm=NORMS[name], channels=3, classes=5, seed=3)
                          for name in ("BN, b = 1", "IN"))
    assert_close(of_batch.train()(x), of_image.train()(x), 1e-4)


def test_group_normalization_sees_one_image_at_a_time():
    x = scenes().x
    net = build(**lab.MODEL, norm=NORMS["GN"], channels=3, classes=5).train()
    assert_close(net(x)[5:6], net(x[5:6]), 1e-4)
    bn = build(**lab.MODEL, norm=NORMS["BN, b = 8"], channels=3, classes=5).train()
    assert float((bn(x)[5:6] - bn(torch.cat([x[5:6], x[:7]]))[:1]).detach().abs().max()) > 1e-3


def test_both_scales_reach_the_logits():
    "By hand, with the parts of the network: fine and coarse are added before the last convolution."
    net, x = build(**lab.MODEL, norm=NORMS["GN"], channels=3, classes=5).eval(), scenes(4).x
    with torch.no_grad():
        a = net.fine(net.stem(x))
        b = net.coarse(a)
        assert a.shape[1:] == (16, 8, 8) and b.shape[1:] == (32, 4, 4)
        wide = net.down(b).repeat_interleave(2, 2).repeat_interleave(2, 3)
        logits = net.head(net.top(net.side(a) + wide))
        out = net(x)
        assert_close(torch.nn.functional.interpolate(logits, size=(16, 16), mode="bilinear"), out, 1e-5)
        assert not torch.allclose(net.head(net.top(net.side(a))), logits)
    with pytest.raises(ValueError, match="divisible by 4, got 16 and 18"): net(torch.zeros(1, 3, 16, 18))


def test_guess_against_evaluation():
    data = scenes(8)
    class Always(torch.nn.Module):
        def forward(self, x):
            out = torch.zeros(len(x), 5, *x.shape[2:])
            out[:, most] = 1.
            return out
    most = int(np.argmax(np.bincount(data.y.numpy().ravel(), minlength=5)))
    assert_close(lab.guess(data), evaluate(Always(), data.x_test, data.y_test)["error"], 1e-6)
    y = torch.tensor([[[5, 5, 5, 1]]])                                      # 5 is no class: it neither counts nor wins
    x = torch.zeros(1, 3, 1, 4)
    assert lab.guess(Data(x, y, x, y, x, y, 5, "")) == 0


GOOD = {"BN, b = 8": 30., "BN, b = 2": 36., "BN, b = 1": 40., "GN": 30., "LN": 31.}


def write(path, errors, frozen=31., precise=31., batch=50., name="dense", spread=.1):
    "Made-up records of a sweep, their test errors by method."
    def error_of(c): return frozen if "freeze_at" in c["train"] else errors[method_of({"config": c})]
    def more(c):
        e = error_of(c) + spread*np.random.default_rng([c["seed"], int(10*error_of(c))]).standard_normal()
        e += 100*(c["train"]["lr"] != .1)*(name == "dense-gpu")
        ways = {"running": e, "precise": precise, "batch": batch} if c["norm"]["name"] == "bn" else {"running": e}
        both = {way: {"val": {"error": v/100 + .05, "loss": 1.}, "test": {"error": v/100, "loss": 1.}}
                for way, v in ways.items()}
        return {"final": both, "curves": {"train_error": [.5], "train_loss": [1.]}}
    made_up(path, name, lab.SWEEPS[name](), error_of, more)


def words(verdicts=lab.scratch_verdicts): return [check_verdict(v).word for v in verdicts()]


@pytest.mark.parametrize("errors,more,wanted", [
    (GOOD, {}, ["holds"]*5),
    (GOOD | {"BN, b = 2": 25., "BN, b = 1": 29., "GN": 33.}, {"frozen": 25.}, ["does not hold here"]*4 + ["open"]),
    (GOOD, {"frozen": 29.}, ["holds in part", *["holds"]*4]),                        # better than one, worse than one
    (GOOD | {"BN, b = 2": 30.6}, {"spread": .01}, ["holds", "holds", "holds in part", "holds", "does not hold here"]),
    (GOOD | {"BN, b = 1": 28.}, {}, ["holds", "does not hold here", *["holds"]*3]),
    (GOOD | {"GN": 30.6}, {"spread": .01}, ["holds"]*5),                             # the margin is one point
    (GOOD, {"frozen": 36., "precise": 36.}, [*["holds"]*4, "does not hold here"])])
def test_verdicts(tmp_path, monkeypatch, errors, more, wanted):
    write(tmp_path, errors, **more)
    monkeypatch.chdir(tmp_path)
    assert words() == wanted


TRANSFER = {"BN, b = 8": 30., "BN, b = 2": 34., "BN*": 32., "GN": 30.}
CROPS = {"BN, one scene": 40., "BN, eight scenes": 30., "GN": 35., "GN+WS": 25.}


@pytest.mark.parametrize("errors,wanted", [
    (TRANSFER, ["holds", "holds"]),
    (TRANSFER | {"GN": 33.}, ["holds in part", "holds"]),                            # better than one, worse than one
    (TRANSFER | {"GN": 36.}, ["does not hold here", "holds"]),
    (TRANSFER | {"BN, b = 2": 32.5}, ["holds", "holds in part"]),                    # higher by less than a point
    (TRANSFER | {"BN, b = 2": 31.}, ["holds", "does not hold here"])])
def test_verdicts_of_fine_tuning(tmp_path, monkeypatch, errors, wanted):
    def error_of(c):
        arm = lab.arm_of({"config": c})
        of = errors[arm.removesuffix(", not decayed")] + .5*arm.endswith("decayed")
        return of + .05*np.random.default_rng([c["seed"], int(10*of)]).standard_normal()
    made_up(tmp_path, "dense-transfer", lab.transfer(), error_of)
    monkeypatch.chdir(tmp_path)
    assert words(lab.transfer_verdicts) == wanted
    assert re.search(r"changes GN by \+0\.[456] points", lab.transfer_verdicts()[0].because)


@pytest.mark.parametrize("errors,wanted", [
    (CROPS, ["holds", "holds"]),
    (CROPS | {"GN": 45.}, ["holds", "does not hold here"]),
    (CROPS | {"BN, eight scenes": 39.5}, ["holds in part", "holds"]),
    (CROPS | {"BN, eight scenes": 42.}, ["does not hold here", "holds"])])
def test_verdicts_of_heads(tmp_path, monkeypatch, errors, wanted):
    def error_of(c):
        of = errors[lab.head_of({"config": c})]
        return of + .05*np.random.default_rng([c["seed"], int(10*of)]).standard_normal()
    made_up(tmp_path, "dense-head", lab.heads(), error_of)
    monkeypatch.chdir(tmp_path)
    assert words(lab.head_verdicts) == wanted


def test_arms_are_read_in_their_own_way(tmp_path, monkeypatch):
    write(tmp_path, GOOD, frozen=31., precise=32., batch=51., spread=0)
    monkeypatch.chdir(tmp_path)
    name, runs = lab.dense_runs()
    found = {arm: v.mean() for arm, v in lab.arm_values(runs).items()}
    assert name == "dense" and all(len(v) == 5 for v in lab.arm_values(runs).values())
    assert found == pytest.approx(GOOD | {"BN, b = 2, precise": 32., "BN, b = 2, test batch": 51.,
                                          "BN, b = 2, frozen": 31., "IN": 51.})
    val = {arm: v.mean() for arm, v in lab.arm_values(runs, part="val").items()}
    assert val == pytest.approx({arm: e + 5 for arm, e in found.items()})
    shares = {k: s[0] for k, s in lab.repair_shares(lab.arm_values(runs)).items()}
    assert shares == pytest.approx({"BN, b = 2, precise": 4/6, "BN, b = 2, test batch": -15/6,
                                    "BN, b = 2, frozen": 5/6})


def test_failed_and_missing_runs(tmp_path, monkeypatch):
    "A run that failed is wrong everywhere; a seed that one arm lacks is left out for all."
    write(tmp_path, GOOD)
    monkeypatch.chdir(tmp_path)
    runs = lab.dense_runs()[1]
    runs = [r for r in runs if not (r["config"]["seed"] == 4 and method_of(r) == "LN")]
    broken = next(r for r in runs if r["config"]["seed"] == 0 and method_of(r) == "GN")
    broken["status"] = "diverged"
    found = lab.arm_values(runs)
    assert {len(v) for v in found.values()} == {4} and found["GN"][0] == 100. and found["GN"][1] < 31


def test_what_was_asked_afterwards_is_told(tmp_path, monkeypatch):
    write(tmp_path, GOOD)
    monkeypatch.chdir(tmp_path)
    assert "36 epochs" not in lab.verdicts()[0].because and [*map(len, lab.later_errors())] == [0, 0]
    write(tmp_path, GOOD | {"GN": 35., "GN+WS": 20.}, name="dense-after", spread=0)
    gn, bn = lab.later_errors()
    assert gn == pytest.approx([35.]*5) and bn == pytest.approx([36.]*5)
    assert "36 epochs in place of 12 the first is -1.0 points" in lab.verdicts()[0].because
    assert words() == ["holds"]*5                                              # told, but no part of the rule


def test_one_image_is_told_and_decides_nothing(tmp_path, monkeypatch):
    write(tmp_path, GOOD | {"BN, b = 2": 30.}, batch=29.)
    monkeypatch.chdir(tmp_path)
    third = lab.verdicts()[2]
    assert third.word == "does not hold here"
    assert "to b = 1, which the rule would call 'holds', and by -1." in third.because


def test_larger_records_come_first(tmp_path, monkeypatch):
    write(tmp_path, GOOD)
    write(tmp_path, GOOD | {"GN": 45.}, name="dense-gpu")
    monkeypatch.chdir(tmp_path)
    name, runs = lab.dense_runs()
    assert name == "dense-gpu" and {r["config"]["train"]["lr"] for r in runs} == {.1}        # the best rate on val
    assert words()[0] == "does not hold here" and "full size" in lab.verdicts()[0].because


def test_all_seeds_of_an_arm_have_one_rate(tmp_path, monkeypatch):
    def error_of(c):                              # the first seed alone would take .03, the others and the mean do not
        lr, best = c["train"]["lr"], .3 if "freeze_at" in c["train"] else .1
        return {.03: 10, .1: 30, .3: 30}[lr] if c["seed"] == 0 else 20 if lr == best else 30
    made_up(tmp_path, "dense-gpu", lab.dense_gpu(), error_of)
    monkeypatch.chdir(tmp_path)
    runs = lab.dense_runs()[1]
    assert len(runs) == 6*len(lab.SEEDS)
    assert all(r["config"]["train"]["lr"] == (.3 if "freeze_at" in r["config"]["train"] else .1) for r in runs)


def test_without_records(tmp_path, monkeypatch):
    (tmp_path/"results").mkdir()
    monkeypatch.chdir(tmp_path)
    assert {(check_verdict(v).word, v.because) for v in lab.verdicts()} == {("open", NOTHING)}
    assert math.isnan(lab.repair_shares(lab.arm_values([]))["BN, b = 2, frozen"][0])
