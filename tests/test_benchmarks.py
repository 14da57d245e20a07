"The benchmark: its grid, what each contestant computes, the verdicts on records made by hand, a short run, the record."
import dataclasses
import importlib.util
import json
import math
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import nbformat
import pytest
import torch
from settings import root

from gn_nb.lab import records
from gn_nb.lab.records import DTYPES, LAYOUTS, MODES, PEERS, load_said
from gn_nb.testing import must_raise

spec = importlib.util.spec_from_file_location("benchmark_cpu", root/"benchmarks/cpu.py")
cpu = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cpu)
NEEDS = {"jax": ("jax", "flax"), "onnxruntime": ("onnx", "onnxruntime")}       # what a peer is made of


@pytest.mark.quick
def test_grid():
    "Enough layers, all families, all kinds of groups, none larger than 128 MiB, each with its source."
    names, shapes = {layer.name for layer in cpu.GRID}, {(layer.shape, layer.groups) for layer in cpu.GRID}
    assert len(names) == len(shapes) == len(cpu.GRID) >= 24
    families = Counter(layer.family for layer in cpu.GRID)
    assert {*families} == {"ResNet", "U-Net", "VAE", "3-D", "small maps"} and min(families.values()) >= 4
    assert {1, 8, 16, 32} <= {layer.groups for layer in cpu.GRID}
    assert sum(layer.groups == layer.shape[1] for layer in cpu.GRID) >= 2                      # G = C
    for layer in (*cpu.GRID, *cpu.QUICK):
        assert layer.shape[1] % layer.groups == 0 and len(layer.shape) in (4, 5) and layer.source
        assert 4*math.prod(layer.shape) <= 128 << 20
    assert {len(layer.shape) for layer in cpu.QUICK} == {4, 5}


def task(dtype="float32", layout="contiguous", mode="forward", shape=(2, 8, 5, 6)):
    x = 1 + torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return dataclasses.replace(cpu.make_task(x, 4, dtype, layout), mode=mode)


@pytest.mark.quick
@pytest.mark.parametrize("shape", [(2, 8, 5, 6), (1, 8, 3, 2, 4)])
def test_arranged(shape):
    last = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    assert task(shape=shape).x.is_contiguous() and task(shape=shape).dy.is_contiguous()
    t = task(shape=shape, layout="channels_last")
    assert t.x.is_contiguous(memory_format=last) and t.dy.is_contiguous(memory_format=last) and not t.x.is_contiguous()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["gn_nb", "torch", "limit", "onnxruntime", "jax"])
def test_contestants_compute_the_same(name, dtype, layout, mode):
    "torch.compile is left to the run itself: a compiler for each of these would take minutes."
    for module in NEEDS.get(name, ()): pytest.importorskip(module, reason=f"{module} is not installed: see [bench]")
    for shape in ((2, 8, 5, 6), (1, 8, 3, 2, 4)):
        t = task(dtype, layout, mode, shape)
        call, found, why = cpu.entry(name, t)
        if why:
            assert name in PEERS or (name, mode) == ("torch", "reuse"), why
            assert name == "onnxruntime" or mode == "reuse", why
            assert (dtype, layout) != ("float32", "contiguous") or mode in ("backward", "reuse"), why
            continue
        if name == "limit": assert found is None and call() is not None
        else:
            assert not cpu.wrong(found, cpu.expected(t), dtype)
            assert [f.shape for f in found] == [t.x.shape] if mode != "backward" else [t.x.shape, (8,), (8,)]


@pytest.mark.quick
def test_wrong_results_are_seen(monkeypatch):
    t = task()
    wanted = cpu.expected(t)
    y = wanted[0][0]
    assert cpu.wrong([y], wanted, "float32") is None
    assert "error" in cpu.wrong([y + .1], wanted, "float32") and "shape" in cpu.wrong([y[:, :4]], wanted, "float32")
    assert "error" in cpu.wrong([y*math.nan], wanted, "float32")
    where = dict(layer="a", dtype="float32", layout="contiguous", mode="forward")
    monkeypatch.setitem(cpu.CONTESTANTS, "jax", lambda task: (lambda: 2*y, lambda y: (y,)))
    rows, absent = cpu.measure(t, where, ["gn_nb", "jax"], 2, 0)
    assert [row["contestant"] for row in rows] == ["gn_nb"] and "wrong result" in absent[0]["reason"]
    monkeypatch.setitem(cpu.CONTESTANTS, "gn_nb", lambda task: (lambda: 2*y, lambda y: (y,)))
    must_raise(RuntimeError, "wrong result", cpu.measure, t, where, ["gn_nb"], 2, 0)


@pytest.mark.quick
def test_a_missing_peer_is_absent_with_its_reason(monkeypatch):
    def missing(task): raise ModuleNotFoundError("No module named 'jax'", name="jax")
    monkeypatch.setitem(cpu.CONTESTANTS, "jax", missing)
    where = dict(layer="a", dtype="float32", layout="contiguous", mode="forward")
    _, absent = cpu.measure(task(), where, ["gn_nb", "jax"], 1, 0)
    assert absent == [dict(contestant="jax", dtype="float32", layout="contiguous", mode="forward",
                           reason="jax is not installed")]
    assert cpu.reason(OSError("no /home/me/x.so here\nand more")) == "OSError: no ... here"
    monkeypatch.setitem(cpu.CONTESTANTS, "torch", missing)
    must_raise(ModuleNotFoundError, "jax", cpu.entry, "torch", task())


def made_up(times=(), layers=("a", "b"), shape=(1, 32, 128, 128), **more):
    "A record; times: (contestant, mode, dtype, layout, [seconds on each layer])."
    rows = [row for who, mode, dtype, layout, seconds in times for layer, s in zip(layers, seconds)
            for row in records.timed_rows(dict(layer=layer, dtype=dtype, layout=layout, mode=mode), {who: (1, [s, s])})]
    return records.check_record(dict(
        machine={}, versions={}, date="", policy={}, quick=True, rows=rows, absent=[], errors=[], memory=[],
        layers=[dict(name=n, shape=[*shape], groups=8, family="none", source="made up") for n in layers]) | more)


def columns(who, seconds, modes=MODES[:3]):
    return [(who, mode, dtype, layout, seconds) for mode in modes for dtype in DTYPES for layout in LAYOUTS]


def judged(record): return [(goal["verdict"], goal["found"]) for goal in records.goals(record)]


@pytest.mark.quick
class TestVerdicts:
    def test_all_pass(self):
        others = [c for who in ("torch", *PEERS) for c in columns(who, [6., 6.])]
        record = made_up(columns("gn_nb", [1., 1.]) + others + columns("limit", [.8, .8]))
        assert {v for v, _ in judged(record)[:13]} == {"pass"}
        assert judged(record)[13:] == [("not measured", None)]*2

    def test_each_goal_has_its_bound(self):
        "Just reached, and just missed."
        for k, (mode, dtype, layout, bound) in enumerate(records.MEAN_GOALS):
            for factor, verdict in ((1.001, "pass"), (.999, "falls short")):
                record = made_up(columns("gn_nb", [1., 1.]) + columns("torch", [bound*factor]*2))
                assert judged(record)[k][0] == verdict, (mode, dtype, layout)

    def test_a_mean_is_geometric_and_over_its_own_column(self):
        ours = columns("gn_nb", [1., 1.])
        torch_ = [(who, m, d, lay, [.8, 7.2] if (m, d, lay) == ("forward", "float32", "contiguous") else s)
                  for who, m, d, lay, s in columns("torch", [.1, .1])]
        found = judged(made_up(ours + torch_))
        assert found[0] == ("pass", pytest.approx(2.4)) and {v for v, _ in found[1:9]} == {"falls short"}
        assert found[8][1] == pytest.approx(.1)

    def test_a_missing_layer_is_incomplete(self):
        others = columns("torch", [6.]) + columns("jax", [6.]) + columns("limit", [1.])
        found = [v for v, _ in judged(made_up(columns("gn_nb", [1., 1.]) + others))]
        assert found[:10] == ["incomplete"]*10 and found[10:13] == ["not measured", "not measured", "incomplete"]

    def test_a_missing_layer_does_not_hide_a_shortfall(self):
        record = made_up(columns("gn_nb", [1., 1.]) + columns("torch", [.5]) + columns("jax", [.5]))
        assert [judged(record)[k][0] for k in (0, 8, 12)] == ["falls short"]*3

    def test_a_peer_is_judged_by_its_best_column(self):
        peer = [(who, m, d, lay, [.9, .9] if m == "silu" and d == "bfloat16" else s)
                for who, m, d, lay, s in columns("torch.compile", [5., 5.])]
        goal = records.goals(made_up(columns("gn_nb", [1., 1.]) + peer))[10]
        assert (goal["verdict"], goal["found"]) == ("falls short", pytest.approx(.9))
        assert "silu, bfloat16" in goal["note"]

    def test_the_copy_counts_on_large_layers_only(self):
        times = columns("gn_nb", [1., 1.]) + columns("limit", [.8, .8])
        assert judged(made_up(times))[9] == ("pass", pytest.approx(.8))
        assert judged(made_up(times, shape=(1, 32, 8, 8)))[9] == ("not measured", None)

    def test_by_the_median(self):
        record = made_up(columns("gn_nb", [1., 1.]) + columns("torch", [6., 6.]))
        for row in record["rows"]: row["median"] *= 10 if row["contestant"] == "gn_nb" else 1
        assert records.goals(record, "min")[0]["verdict"] == "pass"
        assert records.goals(record, "median")[0]["verdict"] == "falls short"

    @pytest.mark.parametrize("ours, theirs, verdict", [
        (1e-7, 1e-6, "pass"), (1e-6, 1e-6, "pass"), (1.1e-6, 1e-6, "falls short"),
        (1.005e-7, 5e-8, "pass"), (1.1e-7, 5e-8, "falls short"),              # rounding alone makes 1e-7
        (None, 1e-6, "falls short"), (None, None, "pass"), (1e-7, None, "pass")])
    def test_errors(self, ours, theirs, verdict):
        where = dict(case="c", dtype="float32", layout="contiguous", mode="forward", output="y")
        errors = [where | {"contestant": who, "error": error}
                  for who, error in (("gn_nb", ours), ("torch", theirs), ("rounding", 1e-7))]
        better = [row | {"case": "easy", "error": 1e-7} for row in errors]
        assert records.goals(made_up(errors=errors + better))[13]["verdict"] == verdict

    def test_memory(self):
        def rows(*extras, who="gn_nb"):
            return [dict(layer="a", dtype="float32", layout="contiguous", mode=mode, contestant=who, extra=extra)
                    for mode, extra in zip(("forward", "backward"), extras)]
        torchs = rows(9e9, 9e9, who="torch")
        for memory, verdict in ((rows(1e5, 9e5), "pass"), (rows(1e5, 1.1e6), "falls short"), (rows(1e5), "incomplete"),
                                (torchs, "not measured"), (rows(1, 1) + torchs, "pass")):
            assert records.goals(made_up(memory=memory))[14]["verdict"] == verdict

    def test_tables_name_every_goal_and_column(self):
        record = made_up(columns("gn_nb", [1., 1.]) + columns("torch", [6., 6.]))
        assert len(records.goal_table(record).rows) == len(records.goals(record)) == 15
        table = records.peer_table(record)
        assert len(table.rows) == 12 and table.rows[0] == ["forward", "float32", "contiguous", "6", "–", "–", "–", "–"]
        counted = records.peer_table(record, counts=True)
        assert counted.rows[0] == ["forward", "float32", "contiguous", "6 (2)", "–", "–", "–", "–"]


@pytest.mark.quick
def test_turns_alternate():
    order = []
    calls = {name: (lambda name=name: order.append(name)) for name in "abc"}
    turns = records.take_turns(calls, rounds=3, window=0, pause=0)
    assert order[-9:] == [*"abcbcacab"] and all(repeats == 1 and len(times) == 3 for repeats, times in turns.values())


@pytest.fixture(scope="module")
def errors(): return cpu.measure_errors(["gn_nb", "torch"], MODES[:3])


def test_errors_are_measured_on_every_case(errors):
    "Each dtype, layout and mode, with the error of rounding beside; the definition itself would have that error."
    rows = errors
    assert len({(case, dtype) for case, dtype, _ in cpu.ADVERSARIAL}) == len(cpu.ADVERSARIAL)
    assert {dtype for _, dtype, _ in cpu.ADVERSARIAL} == {"float32", "float16", "bfloat16"}
    assert len(rows) == len(cpu.ADVERSARIAL)*2*5*3              # layouts; y twice, dx, dweight, dbias; contestants
    assert len(records.error_ratios(made_up(errors=rows))) == len(rows)/3
    assert all(row["error"] < {"float32": 6e-8, "float16": 5e-4, "bfloat16": 4e-3}[row["dtype"]]
               for row in rows if row["contestant"] == "rounding")


def test_errors_are_at_most_those_of_torch(errors):
    "Goal: on every adversarial case, or within a hundredth of the error that rounding alone makes."
    ratios = records.error_ratios(made_up(errors=errors))
    assert {where: ratio for where, ratio in ratios.items() if not ratio <= 1} == {}


linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux' /proc/self/clear_refs")


@linux
def test_peak_memory_is_seen():
    "A temporary of 64 MiB beside a result of 32 MiB, both too large to be kept by malloc; and none."
    x = torch.ones(8 << 20)
    def wasteful(): return (x.double() + 1).float()
    read = lambda y: (y,)
    assert 64 << 20 <= cpu.peak_extra(wasteful, read) + (1 << 20) < 140 << 20
    assert abs(cpu.peak_extra(x.clone, read)) < 1 << 20


@linux
@pytest.mark.parametrize("shape, groups", [((1, 64, 256, 256), 8), ((2, 32, 16, 64, 64), 32)])
def test_a_call_needs_less_than_a_megabyte_beside_its_result(shape, groups):
    "Goal: in every dtype, layout and mode, on inputs of 16 MiB in float32, of which any copy would be seen."
    code = ("import json, sys; sys.path.insert(0, 'benchmarks'); import cpu; "
            f"layer = cpu.Layer('large', {shape}, {groups}, '3-D', 'no network'); "
            f"print(json.dumps(cpu.memory_rows([layer], {MODES[:3]}, ['gn_nb'])))")
    found = subprocess.run([sys.executable, "-c", code], cwd=root, env=os.environ | cpu.MALLOC, check=True,
                           capture_output=True, text=True)
    rows = json.loads(found.stdout)
    assert len(rows) == 3*len(DTYPES)*len(LAYOUTS)
    assert {(r["mode"], r["dtype"], r["layout"]): r["extra"] for r in rows if r["extra"] >= 1e6*records.EXTRA_MB} == {}


@pytest.mark.quick
def test_only_a_full_run_writes_the_record(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(cpu, "RECORD", tmp_path/"results/cpu.json")
    record = made_up(columns("gn_nb", [1., 1.]) + columns("torch", [2., 2.]))
    monkeypatch.setattr(cpu, "make_record", lambda *args: record)
    for partial in (["--quick"], ["--only", "forward"], ["--peers", "jax"], ["--peers", ""]):
        cpu.main(partial)
        assert not cpu.RECORD.exists()
    cpu.main(["--quick", "--out", str(tmp_path/"quick.json")])
    assert (tmp_path/"quick.json").exists() and not cpu.RECORD.exists()
    capsys.readouterr()
    cpu.main([])
    written = capsys.readouterr().out
    assert records.read(cpu.RECORD)["rows"] and "falls short" in written
    cpu.main(["--table"])
    assert capsys.readouterr().out == written
    with pytest.raises(SystemExit): cpu.main(["--only", "sideways"])
    assert "--only" in capsys.readouterr().err


def check_no_names(text):
    "No folder and no host in a record."
    assert not re.search(r"/(home|root|work|usr|tmp|opt)/|\.local\b|@", text)


def test_quick_run(tmp_path):
    "End to end in a process of its own, with torch alone."
    out = tmp_path/"cpu.json"
    done = subprocess.run([sys.executable, "benchmarks/cpu.py", "--quick", "--peers", "", "--out", out], cwd=root,
                          capture_output=True, text=True, check=True)
    record = records.read(out)
    assert record["quick"] and [layer["name"] for layer in record["layers"]] == [layer.name for layer in cpu.QUICK]
    assert len(record["rows"]) == len(cpu.QUICK)*4*(3*3 + 2)      # dtypes x layouts; three modes of three, reuse of two
    assert {row["mode"] for row in record["absent"]} == {"reuse"} and record["policy"] == cpu.POLICY
    assert {"cpu", "cores", "caches", "threads"} <= {*record["machine"]} and "torch" in record["versions"]
    if Path("/proc/self/clear_refs").exists(): assert {r["contestant"] for r in record["memory"]} == {"gn_nb", "torch"}
    check_no_names(out.read_text())
    found = {goal["goal"]: goal["verdict"] for goal in records.goals(record)}
    assert all(re.search(rf"{re.escape(goal)}.*{verdict}", done.stdout) for goal, verdict in found.items())
    assert [v for goal, v in found.items() if any(peer in goal for peer in PEERS)] == ["not measured"]*3


def test_the_record():
    "What chapter 12 draws: a full run, of today's grid and policy, without names."
    path = root/"results/cpu.json"
    if not path.exists(): pytest.skip("results/cpu.json is not there yet: `make bench` writes it")
    record = records.read(path)
    assert not record["quick"] and record["policy"] == cpu.POLICY
    assert record["layers"] == json.loads(json.dumps([layer._asdict() for layer in cpu.GRID]))
    assert path.stat().st_size < 1.5e6
    check_no_names(path.read_text())
    assert all(goal["verdict"] in ("pass", "falls short") for goal in records.goals(record))
    assert {(row["case"], row["dtype"]) for row in record["errors"]} == {case[:2] for case in cpu.ADVERSARIAL}


def check_models(record, quick):
    "Every model as it is and accelerated, with results that agree; what was compiled, in a full run alone."
    assert record["quick"] == quick and "torch" in record["versions"] and "threads" in record["machine"]
    pairs = {(model["name"], who) for model in record["models"] for who in ("torch", "accelerated")}
    assert {m["name"] for m in record["models"]} == {"VAE decode", "U-Net step"}
    assert all(0 < m["fused"] <= m["normalizations"] for m in record["models"])
    if not quick: pairs |= {("AOTInductor", "eager"), ("AOTInductor", "AOTInductor")}
    assert sorted((row["model"], row["contestant"]) for row in record["rows"]) == sorted(pairs)
    assert all(0 < row["min"] <= row["median"] and row["error"] <= 1e-4 for row in record["rows"])
    assert (record["aot"] is None) == quick


def test_models(tmp_path):
    "The script that times whole models, on tiny ones."
    pytest.importorskip("diffusers", reason="diffusers is not installed: see [dev]")
    out = tmp_path/"models.json"
    subprocess.run([sys.executable, "benchmarks/models.py", "--quick", "--out", out], cwd=root, check=True,
                   capture_output=True)
    check_models(json.loads(out.read_text()), True)
    check_no_names(out.read_text())


def test_models_say_what_is_missing(tmp_path):
    "Without diffusers, and without a card."
    pytest.importorskip("diffusers", reason="diffusers is not installed: see [dev]")
    (tmp_path/"sitecustomize.py").write_text("import importlib.util as util\nfind = util.find_spec\n"
                                             "util.find_spec = lambda name: name != 'diffusers' and find(name)\n")
    for env, device, words in (({"PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"}, "cpu", "diffusers is not here"),
                               ({"CUDA_VISIBLE_DEVICES": ""}, "cuda", "no CUDA card is here")):
        done = subprocess.run([sys.executable, "benchmarks/models.py", "--quick", "--device", device], cwd=root,
                              text=True, env=os.environ | env, capture_output=True)
        assert done.returncode == 1 and words in done.stderr and "nothing was measured" in done.stderr


CELLS = {"12_how_fast": "cpu-load", "13_converting": "record-load", "15_deploying": "aot-load"}


def shown(chapter, record):
    "What a chapter says below the table of a record."
    book = nbformat.read(root/f"nbs/{chapter}.ipynb", 4)
    return eval(next(cell.source for cell in book.cells if cell.id == CELLS[chapter]),
                dict(load_said=load_said, record=record, found=True))


@pytest.mark.quick
def test_the_record_of_models():
    "What chapters 13 and 15 show; one made beside other work is called rough in all chapters of times, visibly."
    path = root/"results/models-cpu.json"
    record = json.loads(path.read_text())
    check_models(record, False)
    check_no_names(path.read_text())
    for load in (record["machine"]["load before"], 0.2, 3):
        for chapter in CELLS:
            said = shown(chapter, record | dict(machine=record["machine"] | {"load before": load}))
            assert ("read the times as rough" in said) == (load > 1) and f"load of {load:g}" in said
