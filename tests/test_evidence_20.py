"Chapter 20: its sweeps are sound, its statistics are right, its verdicts follow from records both ways."
import json
import re

import numpy as np
import pytest

from gn_nb.lab import batch_size as chapter
from gn_nb.lab.batch_size import NORMS, bootstrap, crossing, error_table, method_of, rate_of, verdicts
from gn_nb.lab.evidence import best_rates, check_verdict
from gn_nb.lab.models import build
from gn_nb.lab.sweep import key, record
from gn_nb.lab.train import check_config

pytestmark = pytest.mark.quick


def made_up(path, name, configs, error_of, more=lambda c: {}):
    "A file of records in which a config has the error, in per cent, that `error_of` says, and what `more` adds."
    (path/"results").mkdir(exist_ok=True)
    like, lines = record(configs[0], {"status": "done"}), []
    for c in configs:
        e = error_of(c)/100
        parts = {part: {"error": e, "loss": e} for part in ("val", "test")}
        lines.append(json.dumps(like | {"key": key(c), "config": c, "final": {"running": parts}} | more(c)))
    (path/"results"/f"{name}.jsonl").write_text("\n".join(lines) + "\n")


def by_method(values, spread=.1):
    "Errors by method, with a little noise that depends on method and seed."
    def error_of(c):
        name = next(n for n, spec in NORMS.items() if spec == c["norm"])
        noise = np.random.default_rng([c["seed"], *name.encode()]).standard_normal()
        return values(name) + spread*noise
    return error_of


@pytest.mark.parametrize("name", [*chapter.SWEEPS])
def test_sweeps_are_valid_and_balanced(name):
    configs = chapter.SWEEPS[name]()
    assert len({key(c) for c in configs}) == len(configs)
    seeds = [c["seed"] for c in configs]
    assert seeds == sorted(seeds)                            # stopped anywhere, every method has nearly as many seeds
    for c in configs:
        check_config(c)
        assert c["train"]["batch_size"] % c["norm"].get("ghost", 1) == 0
    for c in {json.dumps([c["model"], c["norm"]]): c for c in configs}.values(): build(**c["model"], norm=c["norm"])


def test_sizes_of_sweeps():
    sizes = {name: len(f()) for name, f in chapter.SWEEPS.items()}
    assert sizes == {"batch-size-tune": 8*3*2, "batch-size": 10*10, "batch-size-paper": 2*4*10,
                     "batch-size-updates": 4*4*10,
                     "batch-size-cifar": 4*2*5, "batch-size-gpu": 12*3*5}


def test_paper_mode_scales_updates_and_rate_together():
    for c in chapter.paper_mode():
        b = c["train"]["batch_size"]//8
        assert c["norm"].get("ghost", b) == b
        base = rate_of("GN" if c["norm"]["name"] == "gn" else "BN, b = 64")
        assert c["train"]["lr"] == pytest.approx(base*c["train"]["batch_size"]/64)


def test_equal_updates():
    "The same slices and rates as in paper mode, and as many updates at every b."
    configs = chapter.equal_updates()
    assert {c["train"]["epochs"]*(c["data"]["train"]//c["train"]["batch_size"]) for c in configs} == {224}
    assert all(c["data"]["train"] % c["train"]["batch_size"] == 0 for c in configs)
    def rest(c): return key(c | {"data": c["data"] | {"train": 0}, "train": c["train"] | {"epochs": 0}})
    same = [c for c in configs if c["norm"]["name"] in ("bn", "gn")]
    assert len(configs) == 2*len(same) and {*map(rest, same)} == {*map(rest, chapter.paper_mode())}


def test_seeds_see_other_images():
    digits = chapter.clean() + chapter.paper_mode() + chapter.equal_updates()
    assert all(c["data"]["split"] == c["seed"] for c in digits)
    assert not any("split" in c["data"] for c in chapter.cifar())      # there all see the same, as the text says
    tuned_on = {c["seed"] for c in chapter.tuning()}
    assert not tuned_on & {c["seed"] for c in chapter.clean()}


def test_crossing_against_direct_search():
    rng = np.random.default_rng(0)
    b = np.array([1, 2, 4, 8, 16, 64])
    for _ in range(50):
        above, level = rng.standard_normal(6), .2*rng.standard_normal()
        fine = np.linspace(0, 6, 60001)
        worse = np.interp(fine, np.log2(b), above) > level
        wanted = np.inf if worse[-1] else 2**fine[worse.nonzero()[0][-1]] if worse.any() else 0.
        assert crossing(b, above, level) == pytest.approx(wanted, rel=1e-3)


def test_bootstrap_holds_the_truth_as_often_as_it_says():
    rng, held = np.random.default_rng(1), 0
    truth = np.array([3., 1., -1.])                          # crosses at b = 2**1.5
    for _ in range(100):
        above = truth + rng.standard_normal((10, 1))
        _, low, high = bootstrap([1, 2, 4], above, np.zeros(10), times=200)
        held += low <= 2**1.5 <= high
    assert 84 <= held <= 100


def test_error_table_takes_common_seeds(tmp_path, monkeypatch):
    made_up(tmp_path, "batch-size", [c for c in chapter.clean() if c["seed"] < 3 or c["norm"]["name"] == "ln"],
            lambda c: c["seed"] + (10 if c["norm"]["name"] == "ln" else 0))
    monkeypatch.chdir(tmp_path)
    found = error_table(chapter.recorded("batch-size"), ["LN", "GN"])
    assert found.tolist() == [[10., 0.], [11., 1.], [12., 2.]]


def test_best_rates_takes_the_mean_over_both_splits(tmp_path, monkeypatch):
    def error_of(c):                                         # .3 is best on one split, 1 on the other and on the whole
        return {.1: 50, .3: 10 if c["seed"] == 100 else 40, 1.: 20}[c["train"]["lr"]]
    made_up(tmp_path, "batch-size-tune", chapter.tuning(), error_of)
    monkeypatch.chdir(tmp_path)
    found = best_rates(chapter.recorded("batch-size-tune"), method_of)
    assert len(found) == 8 and {*found.values()} == {1.}


def test_of_equal_rates_the_smallest_whatever_the_order_of_the_records(tmp_path, monkeypatch):
    errors = {.03: [40]*5, .1: [7, 14, 3, 0, 0], .3: [3, 7, 14, 0, 0]}
    made_up(tmp_path, "batch-size-gpu", chapter.cifar_gpu(), lambda c: errors[c["train"]["lr"]][c["seed"]])
    monkeypatch.chdir(tmp_path)
    records = chapter.recorded("batch-size-gpu")
    first, second = (np.mean([100*(e/100) for e in errors[lr]]) for lr in (.1, .3))
    assert first > second == pytest.approx(first)            # equal but for rounding
    for some in (records, records[::-1]): assert {*best_rates(some, method_of).values()} == {.1}


def test_bracket():
    assert chapter.bracket([1, 2, 4], 1.8, 1.9) == (1, 2) and chapter.bracket([1, 2, 4], 2., 2.) == (2, 2)
    assert chapter.bracket([1, 2, 4], 0., 0.) == (0, 1) and chapter.bracket([1, 2, 4], 3., np.inf) == (2, np.inf)


def words(tmp_path, monkeypatch, values, slope=0.):
    made_up(tmp_path, "batch-size", chapter.clean(), by_method(values))
    made_up(tmp_path, "batch-size-paper", chapter.paper_mode(),
            lambda c: 10 + slope*np.log2(c["train"]["batch_size"]) + by_method(lambda n: 0.)(c))
    monkeypatch.chdir(tmp_path)
    found = verdicts()
    assert all(check_verdict(v).chapter == "20_batch_size" for v in found)
    return [v.word for v in found]


def test_verdicts_where_all_holds(tmp_path, monkeypatch):
    bn = {1: 45., 2: 36., 4: 30., 16: 25., 64: 23.9}
    found = words(tmp_path, monkeypatch,
                  lambda n: bn[int(n[8:])] if n[:2] == "BN" else 24.1 if n == "GN" else 26.)
    assert found == ["holds", "holds", "holds", "does not hold here", "holds", "holds"]      # they cross at 50


def test_verdicts_on_the_opposite(tmp_path, monkeypatch):
    found = words(tmp_path, monkeypatch,
                  lambda n: 10. if n[:2] == "BN" else 15. if n == "GN" else 12., slope=2.)
    assert found == ["does not hold here"]*6


def cliff(name): return {"BN, b = 1": 45., "GN": 12., "LN": 13.}.get(name, 10.)


def test_what_was_seen_afterwards_is_told_and_decides_nothing(tmp_path, monkeypatch):
    "A cliff at b = 1, a last point of paper mode far above the others, and updates that turn the slope around."
    made_up(tmp_path, "batch-size", chapter.clean(), by_method(cliff),
            lambda c: {"final": {way: {"test": {"error": e/100 + .001*c["seed"]}} for way, e in (
                ("running", by_method(cliff)(c)), ("batch", 11.))}})
    made_up(tmp_path, "batch-size-paper", chapter.paper_mode(),
            lambda c: 10 + 9*(c["train"]["batch_size"] == 128) + by_method(lambda n: 0.)(c))
    monkeypatch.chdir(tmp_path)
    before = verdicts()
    assert before[1].word == "does not hold here" and "equal updates" not in before[1].because
    made_up(tmp_path, "batch-size-updates", chapter.equal_updates(),
            lambda c: 20 - 2*np.log2(c["train"]["batch_size"]) + .5*(-1)**c["seed"]*(c["norm"]["name"] == "gn") +
            by_method(lambda n: 0.)(c), lambda c: {"curves": {"train_loss": [.5]}})
    found = verdicts()
    assert [v.word for v in found] == [v.word for v in before]
    assert re.search("without b = 16 by .0.0 points .*, which the rule would call 'holds'", found[1].because)
    assert "with equal updates in place of equal epochs by -2.0 points" in found[1].because
    assert re.search(r"afterwards: on digits by .3\d\.\d points .* to b = 1", found[0].because)
    assert "the curves cross between b = 1 and b = 2" in found[3].because and "1.9" not in found[3].because
    assert found[5].word == "holds in part" and re.search(r"b = 1, which .* -3\d\.\d points", found[5].because)
    assert "updates too" not in before[5].because and "the rule would call 'open'" in found[5].because     # one for all
    assert all(v.paper for v in found)


def test_equally_small_updates_are_told_of_ln_too(tmp_path, monkeypatch):
    "In updates from 64 images GN and LN tie; in small ones LN is far behind, and has got less far."
    made_up(tmp_path, "batch-size", chapter.clean(), by_method(lambda n: 10.))
    gap = {"gn": 20., "bn": 20., "ln": 30., "in": 20.}
    made_up(tmp_path, "batch-size-updates", chapter.equal_updates(),
            lambda c: gap[c["norm"]["name"]] + .1*(-1)**c["seed"]*(c["norm"]["name"] == "bn"),
            lambda c: {"curves": {"train_loss": [9., 1. if c["norm"]["name"] == "ln" else .5]}})
    monkeypatch.chdir(tmp_path)
    v = verdicts()[5]
    assert v.word == "open" and "GN minus LN -10.0 points [-10.0, -10.0], which the rule would call" in v.because
    assert "to a training loss of 1.00, GN's being 0.50" in v.because and chapter.small_updates(2).shape == (3, 10)


def large_records(tmp_path, values):
    made_up(tmp_path, "batch-size-gpu", chapter.cifar_gpu(),
            lambda c: by_method(values)(c) + 20*(c["train"]["lr"] != .1))


def test_records_of_a_card_come_first(tmp_path, monkeypatch):
    "They take the place of the small photographs, and reach the claims that those cannot speak about."
    made_up(tmp_path, "batch-size", chapter.clean(), by_method(cliff))
    made_up(tmp_path, "batch-size-cifar", chapter.cifar(), by_method(lambda n: 50.))
    monkeypatch.chdir(tmp_path)
    assert chapter.cifar_runs()[0] == "batch-size-cifar" and "on CIFAR-10 (5 seeds)" in verdicts()[0].because
    assert "GN at the smaller of two rates" in verdicts()[2].because
    curve = {"BN, b = 1": 50., "BN, b = 2": 40., "BN, b = 4": 30., "BN, b = 8": 25., "BN, b = 16": 25., "GN": 20.}
    large_records(tmp_path, lambda n: curve.get(n, 19. if n[:2] == "BN" else 24.))
    name, runs = chapter.cifar_runs()
    assert name == "batch-size-gpu" and {r["config"]["train"]["lr"] for r in runs} == {.1}
    found = verdicts()
    assert all("on CIFAR-10 with ResNet-20 (5 seeds)" in v.because for k, v in enumerate(found) if k != 1)
    assert "cross between b = 16 and b = 32" in found[3].because
    assert found[5].word == "holds in part" and re.search(r"GN minus BN of two is -(19|20)\.", found[5].because)
    assert "smaller of two rates" not in found[2].because


def test_verdict_of_paper_mode_needs_records(tmp_path, monkeypatch):
    made_up(tmp_path, "batch-size", chapter.clean(), by_method(lambda n: 10.))
    monkeypatch.chdir(tmp_path)
    found = verdicts()
    assert found[1].word == "open" and found[1].because == chapter.NOTHING


def test_verdicts_without_any_records(tmp_path, monkeypatch):
    (tmp_path/"results").mkdir()
    monkeypatch.chdir(tmp_path)
    assert {(check_verdict(v).word, v.because) for v in verdicts()} == {("open", chapter.NOTHING)}
