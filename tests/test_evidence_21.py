"Chapter 21: its sweep is sound, its statistics are right, its verdicts follow from records both ways."
import math
import re

import numpy as np
import pytest
import torch
from test_evidence_20 import made_up

from gn_nb.lab import batch_size, small_batches
from gn_nb.lab.batch_size import NORMS
from gn_nb.lab.data import load
from gn_nb.lab.evidence import check_verdict
from gn_nb.lab.models import BatchNorm, build
from gn_nb.lab.small_batches import averages, effective, image_moments, look, slice_noise, verdicts, won_back
from gn_nb.lab.sweep import key
from gn_nb.lab.train import check_config, evaluate, train
from gn_nb.testing import assert_close

pytestmark = pytest.mark.quick


def test_sweep_is_valid_and_balanced():
    configs = small_batches.small_batches()
    assert len({key(c) for c in configs}) == len(configs) == 15*10
    for part in (configs[:11*10], configs[11*10:]):            # stopped anywhere, all methods have nearly as many seeds
        assert [c["seed"] for c in part] == sorted(c["seed"] for c in part)
    for c in map(check_config, configs):
        if "slice_size" in c["train"]: assert c["norm"].get("ghost", 4) == c["train"]["slice_size"]
        if "probe" in c: assert c["probe"] == "gn_nb.lab.small_batches:look" and c["norm"]["name"] == "bn"
    assert len(small_batches.small_batches_gpu()) == 5*3*3*5
    for c in small_batches.small_batches_gpu(): check_config(c)
    assert not {key(c) for c in configs} & {key(c) for c in batch_size.clean()}


def test_slice_noise_against_enumeration():
    "All slices of two of five images, one by one."
    rng = np.random.default_rng(0)
    mean, var = rng.standard_normal((5, 2)), rng.random((5, 2))
    pairs = [(i, k) for i in range(5) for k in range(5) if i != k]
    sigma = np.sqrt(var.mean(0) + mean.var(0))
    mu = np.array([(mean[i] + mean[k])/2 for i, k in pairs])
    square = np.array([(var[i] + mean[i]**2 + var[k] + mean[k]**2)/2 for i, k in pairs])
    measured, law, deviation = slice_noise(mean, var, 2, rng, rounds=4000)
    exact = np.sqrt((mu.var(0)/sigma**2).mean())
    assert measured == pytest.approx(exact, rel=.03) and law == pytest.approx(exact, rel=1e-9)
    assert deviation == pytest.approx(np.mean(np.sqrt(square - mu**2).std(0)/sigma), rel=.03)


def test_image_moments_are_of_the_input_of_each_normalization():
    net = torch.nn.Sequential(BatchNorm(2), torch.nn.Flatten(2), BatchNorm(2)).eval()
    x = torch.randn(3, 2, 4, 4)
    (mean, var), (mean2, _) = image_moments(net, x)
    assert_close(mean, x.double().mean((2, 3)), 1e-6)
    assert_close(var, x.double().var((2, 3), correction=0), 1e-6)
    assert_close(mean2, net[0](x).double().mean((2, 3)), 1e-5)
    assert effective(torch.tensor([[0.], [2.]]).double(), torch.tensor([[6.], [6.]]).double()) == 4.    # A = 2, 8/2


def test_averages_repair_the_variance():
    "With images that are worth one value each, slices of two see half of it; Â/b is the other half."
    g = torch.Generator().manual_seed(0)
    x = torch.randn(3200, 2, 1, 1, generator=g)*torch.ones(1, 1, 3, 3)
    net = torch.nn.Sequential(BatchNorm(2, ghost=2, momentum=.04))
    repair = averages(net, x, ghost=2, passes=4)[net[0]]
    bessel = 18/17                                                   # torch's factor of the running variance
    assert_close(net[0].running_var, torch.full((2,), .5*bessel), .05)
    assert_close(repair, torch.full((2,), .5), .03)
    assert not net.training


def test_look_changes_nothing_but_statistics():
    data = load("digits", noise=.5, contrast=1., train=128, val=64, test=64)
    config = {"norm": {"name": "bn", "ghost": 2}, "train": {"batch_size": 64}}
    net = build("plain", config["norm"])
    train(net, data, epochs=1, lr=.1)
    before = {k: v.clone() for k, v in net.state_dict().items() if "running" not in k and "tracked" not in k}
    found = look(net, data, config)
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in before.items())
    assert [*found] == ["m_eff", "again", "repaired"] and len(found["m_eff"]) == 3 and min(found["m_eff"]) > 1
    assert found["repaired"] == evaluate(net, data.x_test, data.y_test)["error"]


def test_won_back_against_its_definition():
    rng = np.random.default_rng(2)
    large = 5 + rng.standard_normal(10)
    usual, repaired = large + 10, large + 4 + .5*rng.standard_normal(10)
    share, low, high = won_back(usual, repaired, large)
    assert share == pytest.approx((usual - repaired).mean()/10) and low < share < high and high - low < .2
    assert math.isnan(won_back(large, large - 1, large)[0])
    loss = np.array([1.6, 1.2, .9, .6, -.6])                                     # 0.7 on average, and not surely any
    assert np.isnan(won_back(large[0] + loss, large[0] + loss/2, np.full(5, large[0]))).all()


def records(tmp_path, monkeypatch, small, frozen, pure, harder, fit=-.5):
    "Errors and losses by what a config says; `small`: of BN with b = 2, by j; `fit`: what pure slices add to a loss."
    def error_of(c):
        name = next(n for n, spec in NORMS.items() if spec == c["norm"])
        noise = .1*np.random.default_rng([c["seed"], len(c["train"]), *name.encode()]).standard_normal()
        if c["train"].get("sampler"): return pure[name[:2]] + noise
        if "freeze_at" in c["train"]: return frozen + noise
        return (small[c["data"]["contrast"]] if name == "BN, b = 2" else 10.) + noise
    def more(c):
        loss = 1. + harder*(c["norm"].get("ghost") == 2) + .001*c["seed"]
        if c["train"].get("sampler"): loss += fit + .001*(c["seed"] % 3)
        e = error_of(c)/100
        return {"curves": {"train_loss": [loss]}, "probe": {"m_eff": [2., 5.], "again": e, "repaired": e}}
    for name, configs in (("batch-size", batch_size.clean()), ("small-batches", small_batches.small_batches())):
        made_up(tmp_path, name, configs, error_of, more)
    monkeypatch.chdir(tmp_path)
    found = verdicts()
    assert all(check_verdict(v).chapter == "21_small_batches" for v in found)
    return [v.word for v in found]


def test_verdicts_where_all_holds(tmp_path, monkeypatch):
    found = records(tmp_path, monkeypatch, {0.: 11., 1.: 20., 2.: 40.}, 10.5, {"BN": 30., "GN": 10.}, 1.)
    assert found == ["holds"]*4
    because = verdicts()[1].because                                # a step of 20/10 over 11/10, one of 40/10 over 20/10
    assert re.search(r"of 1\.8 \[1\.\d, 1\.\d\] for the first and 2\.0 \[.*\] for the second, .* on 40 %", because)


def test_verdicts_where_nothing_does(tmp_path, monkeypatch):
    found = records(tmp_path, monkeypatch, {0.: 40., 1.: 30., 2.: 20.}, 29., {"BN": 5., "GN": 5.}, -1.)
    assert found == ["holds in part", *["does not hold here"]*3]


@pytest.mark.parametrize("pure, fit, word", [
    ({"BN": 30., "GN": 10.}, -.5, "holds"), ({"BN": 30., "GN": 17.}, -.5, "holds in part"),     # GN cares
    ({"BN": 30., "GN": 10.}, .5, "holds in part"), ({"BN": 30., "GN": 17.}, .5, "does not hold here")])
def test_a_leak_needs_a_low_loss_and_a_gn_that_does_not_care(tmp_path, monkeypatch, pure, fit, word):
    found = records(tmp_path, monkeypatch, {0.: 11., 1.: 20., 2.: 40.}, 10.5, pure, 1., fit)
    assert found == [*["holds"]*3, word]


def test_the_best_of_ten_repairs_is_judged_with_the_interval_of_ten(monkeypatch):
    "A share whose own interval lies above a half, and whose interval among ten does not."
    rng = np.random.default_rng(5)
    large = 5 + rng.standard_normal(10)
    usual, repaired = large + 10, large + 4.7 + rng.standard_normal(10)
    alone, among = (won_back(usual, repaired, large, level=level) for level in (.95, .995))
    assert among[1] < .5 < alone[1] and among[0] == alone[0] and among[2] > alone[2]
    ways = dict.fromkeys(small_batches.REPAIRS, usual) | {"precise": repaired, small_batches.FROZEN: usual}
    monkeypatch.setattr(small_batches, "repairs", lambda j: (large, dict(ways)))
    assert verdicts()[2].word == "open"
    monkeypatch.setattr(small_batches, "repairs", lambda j: (large, ways | {"precise": repaired - 2}))
    assert verdicts()[2].word == "holds"


def test_verdicts_without_any_records(tmp_path, monkeypatch):
    (tmp_path/"results").mkdir()
    monkeypatch.chdir(tmp_path)
    assert {(check_verdict(v).word, v.because) for v in verdicts()} == {("open", batch_size.NOTHING)}
