"The benchmark of a card, and the command around it, without a card: grid, contestants, turns, slices, verdicts, steps."
import ast
import contextlib
import ctypes
import dataclasses
import json
import os
import re
import subprocess
import sys
import time
import weakref
from collections import Counter
from math import prod
from pathlib import Path

import nbformat
import pytest
import torch
import torch.nn.functional as F
from settings import root

sys.path.insert(0, str(root/"benchmarks"))      # as for the scripts there, and for the processes that they start

import card as command
import gpu

from gn_nb import cuda, ops
from gn_nb.lab import records
from gn_nb.lab.records import CACHES, GPU_DTYPES, GPU_MODES, GPU_PEERS, LAYOUTS
from gn_nb.testing import must_raise

HERE = torch.cuda.is_available()
TINY = gpu.Unit(gpu.QUICK[0], "float32", "contiguous", True)
TEN = [unit for unit in gpu.units(gpu.QUICK) if not unit.compiled][:10]


@pytest.mark.quick
def test_grid():
    "All kinds of layers, those that the goals speak of, and everything measured once."
    by_name = {layer.name: layer for layer in gpu.GRID}
    assert len(by_name) == len({(layer.shape, layer.groups) for layer in gpu.GRID}) == len(gpu.GRID) >= 40
    assert by_name[records.VAE].shape == (1, 128, 20, 256, 256) and by_name[records.VAE].groups == 32
    families = Counter(layer.family for layer in gpu.GRID)
    assert {*families} == {"VAE", "U-Net", "ResNet", "detection", "video", "3-D", "odd", "groups"}
    for layer in (*gpu.GRID, *gpu.QUICK):
        N, C, *spatial = layer.shape
        assert C % layer.groups == 0 and len(layer.shape) in (4, 5) and layer.source
        if layer.family == "ResNet": assert N == 32
        if layer.family == "U-Net" and layer in gpu.GRID: assert N <= 4 and 320 <= C <= 1280 and 8 <= spatial[0] <= 128
    assert sum(2*prod(layer.shape) >= records.LARGE for layer in gpu.GRID) >= 6
    assert max(layer.shape[0]*layer.groups for layer in gpu.GRID) > 2**16 and {1} < {layer.groups for layer in gpu.GRID}
    todo = gpu.units(gpu.GRID)
    plain, again = ([unit for unit in todo if unit.compiled is with_] for with_ in (False, True))
    assert len({unit.name for unit in todo}) == len(todo) and len(plain) == len(gpu.GRID)*len(GPU_DTYPES)*len(LAYOUTS)*2
    assert {unit.layer.name for unit in again} == {x.name for x in gpu.GRID if x.family in gpu.COMPILED}
    assert {(u.dtype, u.layout, u.silu) for u in again} == {("bfloat16", "contiguous", True)} and todo[-1].compiled
    assert all(unit.layer.family == "U-Net" for unit in todo[2*len(gpu.GRID):][:families["U-Net"]])
    assert todo[0].layer.name == records.VAE and todo[0].mode("forward") == "silu"
    assert {u.mode(d) for u in todo for d in gpu.DIRECTIONS} == {*GPU_MODES}


@pytest.mark.quick
def test_arrays_are_beyond_the_cache():
    for nbytes in (1 << 10, 1 << 20, 5_000_000, 1 << 30):
        n = gpu.how_many(nbytes, 50 << 20)
        assert 2 <= n <= gpu.MOST and (n == gpu.MOST or n*nbytes >= 3*50 << 20)
    sets, parameters = gpu.arrays(TINY, gpu.Pretend, 3)
    assert len({t.data_ptr() for pair in sets for t in pair}) == 6 and parameters[0].shape == (4,)
    sets, _ = gpu.arrays(gpu.Unit(gpu.QUICK[0], "bfloat16", "channels_last", False), gpu.Pretend, 1)
    assert all(t.is_contiguous(memory_format=torch.channels_last) and t.dtype is torch.bfloat16 for t in sets[0])


@pytest.fixture
def pretend(monkeypatch):
    "The simulated card, and torch as it was afterwards."
    for name in ("card_kernels", "executor", "for_card"): monkeypatch.setattr(ops, name, getattr(ops, name))
    return gpu.Pretend()


@pytest.fixture
def peers(monkeypatch):
    "Stand-ins for torch.compile and for Liger-Kernel, which takes contiguous tensors and has no activation."
    monkeypatch.setattr(torch, "compile", lambda f, **how: f)
    class Norm:
        @staticmethod
        def apply(x, w, b, channels, groups, eps):
            assert channels == x.shape[1]
            return F.group_norm(x.contiguous(), groups, w, b, eps)
    for name in ("liger_kernel", "liger_kernel.ops", "liger_kernel.ops.group_norm"):
        monkeypatch.setitem(sys.modules, name, type(sys)(name))
    sys.modules["liger_kernel.ops.group_norm"].LigerGroupNormFunction = Norm


@pytest.mark.parametrize("layer, dtype, layout, silu", [
    (gpu.QUICK[1], "float32", "contiguous", True), (gpu.QUICK[0], "bfloat16", "channels_last", True),
    (gpu.QUICK[1], "float16", "contiguous", False)], ids=str)
def test_a_unit(pretend, peers, layer, dtype, layout, silu):
    "Every contestant in every direction, cold and hot, with results that are right; and what is kept of it."
    unit = gpu.Unit(layer, dtype, layout, silu, compiled=True)
    rows, absent, memory = gpu.measure(unit, pretend, [*gpu.CONTESTANTS], 1)
    assert absent == [] and len(rows) == 3*2*5 and len(memory) == 3*4
    assert {(r["mode"], r["cache"], r["contestant"]) for r in rows} == {
        (unit.mode(d), cache, who) for d in gpu.DIRECTIONS for cache in CACHES for who in (*gpu.CONTESTANTS, "limit")}
    record = gpu.empty_record(pretend, [layer], True)
    gpu.remember(record, rows, absent, memory)
    alone, _, _ = gpu.measure(dataclasses.replace(unit, compiled=False), pretend, [*gpu.CONTESTANTS], 1)
    assert {r["contestant"] for r in alone} == {*gpu.CONTESTANTS, "limit"} - {"torch.compile"}
    record["rows"] = [*alone, *record["rows"], alone[0] | {"layer": "another"}]
    gpu.forget(record, unit)
    assert record["rows"] == [alone[0] | {"layer": "another"}]
    record["rows"] = rows
    assert records.check_record(record) and record["versions"]["source"] and record["policy"] == gpu.POLICY
    gpu.remember(record, [], [], [memory[0] | {"extra": 5}, memory[1] | {"extra": 0, "layer": "another"}])
    assert record["memory"][0]["extra"] == 5 and record["memory"][1]["layer"] == layer.name


def test_limit_moves_the_bytes_of_each_direction():
    x, dy = torch.ones(3), torch.full((3,), 2.)
    found = {d: gpu.as_tuple(gpu.limit_calls(d, [(x, dy)])[0]()) for d in gpu.DIRECTIONS}
    assert [t.tolist() for t in found["forward"]] == [[1.]*3] and [t.tolist() for t in found["backward"]] == [[3.]*3]
    assert [t.tolist() for t in found["both"]] == [[1.]*3, [3.]*3] and found["forward"][0].data_ptr() != x.data_ptr()


def test_who_is_wrong_or_missing_is_absent(pretend, monkeypatch):
    "With the reason, and the others are measured all the same; gn_nb's reason names the layer."
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    for factor, word in ((1.1, "wrong result, error"), (float("nan"), "error nan")):
        def scaled(unit, f=factor): return lambda *given: f*gpu.torch_eager(unit)(*given)
        monkeypatch.setitem(gpu.CONTESTANTS, "gn_nb", scaled)
        rows, absent, _ = gpu.measure(TINY, pretend, ["gn_nb", "torch", "liger"], 1)
        assert {r["contestant"] for r in rows} == {"torch", "limit"}
        reasons = {a["contestant"]: a["reason"] for a in absent}
        assert word in reasons["gn_nb"] and reasons["gn_nb"].startswith(TINY.layer.name)
        assert re.fullmatch(r"liger_kernel[.\w]* is not installed", reasons["liger"])
        assert {a["mode"] for a in absent} == {TINY.mode(d) for d in gpu.DIRECTIONS}


class Clock:
    "In place of torch.cuda: an event is over once what was issued before it is; the card waits while it `sleeps`."
    def __init__(self): self.issued, self.asleep, self.until = 0., 0., 0.
    def install(self, monkeypatch):
        clock = self
        class Event:
            def __init__(self, enable_timing): self.at = None
            def record(self): self.at = max(clock.now, clock.until)
            def query(self): return clock.now >= self.at
            def synchronize(self): clock.now = max(clock.now, self.at)
            def elapsed_time(self, other): return 1e3*(other.at - self.at)
        self.now = 0.
        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: setattr(clock, "now", max(clock.now, clock.until)))
        monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: clock.work(cycles/1e9), raising=False)
        monkeypatch.setattr(gpu.time, "perf_counter", lambda: clock.now)
        return self
    def work(self, seconds): self.until = max(self.now, self.until) + seconds
    def call(self, host, card):
        self.now += host
        self.work(card)
        return object()


def test_a_turn(monkeypatch):
    "The time of the card alone, though the processor needs longer; waiting is prolonged until all is issued in time."
    clock = Clock().install(monkeypatch)
    device = gpu.Card.__new__(gpu.Card)
    device.cycles, device.hold, device.rubbish = 1e9, {}, torch.ones(3)
    for host in (2e-3, 2e-5):
        calls = []
        def call(host=host, calls=calls): calls.append(1); return clock.call(host, 3e-6)
        card, processor = device.turn("who", [call]*20, True)
        assert card == pytest.approx(3e-6) and processor == pytest.approx(host)
        assert len(calls) == (40 if host == 2e-3 else 20)                # once more, with a longer wait
    def make():
        result = type("Result", (), {})()
        made.append(weakref.ref(result))
        counts.append(sum(r() is not None for r in made))
        clock.call(1e-6, 1e-6)
        return result
    for cold, wanted in ((True, 4), (False, 2)):                # the last result lives until the next is there
        made, counts = [], []
        device.turn("who", [make]*4, cold)
        assert max(counts) == wanted and all(r() is None for r in made)


def test_extra_memory(monkeypatch):
    "Peak less what was there and the results, in the blocks of torch's allocator."
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 1000)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 1000 + 512 + 1024 + 77)
    assert gpu.Card.extra(None, lambda: (torch.ones(4), torch.ones(200))) == 77


# Slices

@pytest.fixture
def counted(monkeypatch, pretend, tmp_path):
    "A run of ten units whose clock moves on by a second for each of them; it notes what was measured."
    now, done = [0.], []
    monkeypatch.setattr(gpu.time, "time", lambda: now[0])
    def measure(unit, device, contestants, rounds):
        now[0] += 1
        done.append(unit.name)
        if broken == [unit.name]: raise RuntimeError("CUDA error: an illegal address in /home/me/x.py")
        row = dict(layer=unit.layer.name, dtype=unit.dtype, layout=unit.layout, mode=unit.mode("forward"), cache="cold",
                   contestant="gn_nb", min=1., median=1., repeats=2, host=1.)
        return [row], [], []
    broken = []
    monkeypatch.setattr(gpu, "measure", measure)
    monkeypatch.setattr(gpu, "measure_errors", lambda *args: ([], []))
    monkeypatch.setattr(gpu, "versions", lambda: {"gn_nb": "0"})
    path = tmp_path/"results/gpu-none.json"
    def go(seconds):
        record = gpu.begun(path, pretend, gpu.QUICK, True)
        gpu.slice_of_work(record, lambda r: gpu.write(path, r), pretend, TEN, ["gn_nb"], seconds)
        return records.read(path)
    return go, done, broken, path, pretend


def test_a_slice_ends_and_the_next_goes_on(counted):
    go, done, _, path, _ = counted
    assert len(go(2.5)["rows"]) == len(done) == 3 and len(go(0)["rows"]) == 3
    record = go(100)
    assert len(record["rows"]) == 10 and done == [u.name for u in TEN]
    assert go(100) == record and len(done) == 10 and [p.name for p in path.parent.iterdir()] == [path.name]
    assert record["measured"][:3] == ["probe", "steps", "errors"]


def test_a_failure_is_recorded_and_the_rest_measured(counted):
    go, done, broken, _, _ = counted
    broken.append(TEN[1].name)
    record = go(100)
    assert len(record["rows"]) == 9 and len(done) == 10 == len({*done})
    reason, = (row["reason"] for row in record["absent"])
    assert reason == "quick volume: RuntimeError: CUDA error: an illegal address in ..."


def test_a_broken_card_needs_another_process(counted, monkeypatch):
    "It begins with what is left of the time, and does not meet the same unit again."
    go, done, broken, _, pretend = counted
    broken.append(TEN[1].name)
    started = []
    monkeypatch.setattr(gpu.os, "execv", lambda program, argv: started.append(argv))
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--seconds", "100", "--out", "x"])
    monkeypatch.setattr(pretend, "broken", lambda: len(done) == 2, raising=False)
    go(100)
    assert started == [[sys.executable, "gpu.py", "--out", "x", "--seconds=98"]] and len(done) == 2
    assert len(go(98)["rows"]) == 9 and len({*done}) == len(done) == 10


def test_a_record_of_other_kernels_is_put_aside(counted, monkeypatch, capsys):
    go, _, _, path, _ = counted
    before = go(100)
    monkeypatch.setattr(gpu, "versions", lambda: {"gn_nb": "1"})
    assert len(go(2.5)["rows"]) == 3 and "now old-gpu-none.json" in capsys.readouterr().err
    assert records.read(path.with_name("old-gpu-none.json")) == before
    assert [p.name for p in path.parent.glob("gpu-*.json")] == [path.name]         # what the chapters look for


def test_a_file_is_written_whole_or_not_at_all(pretend, tmp_path):
    path, record = tmp_path/"a.json", gpu.empty_record(pretend, gpu.QUICK, True)
    gpu.write(path, record)
    before = path.read_text()
    must_raise(ValueError, "rows must have the fields", gpu.write, path, record | {"rows": [{}]})
    with pytest.raises(ValueError): gpu.write(path, record | {"probe": {"copy": float("nan")}})
    assert path.read_text() == before and [*tmp_path.iterdir()] == [path]


def test_errors_of_every_case(pretend):
    rows, absent = gpu.measure_errors(pretend, ["gn_nb", "torch"], gpu.ADVERSARIAL[3:4])
    assert len(rows) == 2*5*3 and absent == []                     # layouts; y twice, dx, dweight, dbias; contestants
    assert {r["contestant"] for r in rows} == {"gn_nb", "torch", "rounding"}
    assert {r["dtype"] for r in rows} == {"float16"}


@pytest.mark.quick
def test_names():
    names = {"NVIDIA H200": "h200", "NVIDIA H100 80GB HBM3": "h100-80gb-hbm3", "Tesla T4": "tesla-t4"}
    assert {name: gpu.slug(name) for name in names} == names


@pytest.mark.skipif(HERE, reason="needs a machine without a CUDA card")
def test_without_a_card(capsys):
    assert gpu.main([]) == 2 and "no CUDA card is here" in capsys.readouterr().err
    for partial in (["--dry-run"], ["--peers", ""]):
        with pytest.raises(SystemExit): gpu.main(partial)
        assert "need --out" in capsys.readouterr().err


def test_without_the_compiler(monkeypatch, capsys):
    "torch's own operations are not measured under our name."
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda, "compiles", False)
    assert gpu.main([]) == 2 and "no numba-cuda is here" in capsys.readouterr().err


def test_dry_run(tmp_path):
    "End to end, twice: the second run finds nothing left to do. A record without names, and a verdict on every goal."
    out = tmp_path/"gpu.json"
    def run(*args): return subprocess.run(
        [sys.executable, "benchmarks/gpu.py", "--dry-run", "--peers", "", "--out", out, *args], cwd=root, check=True,
        capture_output=True, text=True)
    assert "0 of 7 units measured; the same command" in run("--seconds", "0").stdout
    first = run().stdout
    record = records.read(out)
    assert record["quick"] and len(record["rows"]) == 6*3*2*3 and "7 of 7 units measured" in first
    assert not re.search(r"/(home|root|work|usr|tmp|opt)/|\.local\b|@", out.read_text())
    for goal in records.goals(record): assert re.search(rf"{re.escape(goal['goal'])}.*{goal['verdict']}", first)
    before = out.read_text()
    assert run().stdout == first and out.read_text() == before
    table = subprocess.run([sys.executable, "benchmarks/gpu.py", "--table", out], cwd=root, check=True,
                           capture_output=True, text=True).stdout
    assert first.startswith(table) and "dry run" in table


# What is asked before, and compiled beforehand

def test_probes(monkeypatch, tmp_path):
    "Each in a process of its own: one that dies or hangs is an answer, too."
    script = tmp_path/"probe.py"
    script.write_text("import json, os, sys, time\nname = sys.argv[2]\n"
                      "if name == 'compiler': print('noise'); print(json.dumps({'x': 1}))\n"
                      "if name == 'card': raise OSError('no /home/me/libcuda.so')\n"
                      "if name == 'cluster': time.sleep(60)\n"
                      "if name == 'host': print('{}')\n")
    monkeypatch.setattr(gpu, "__file__", str(script))
    start = time.time()
    found = gpu.ask_all(20)
    assert found == {"card": {"FAILS": "RuntimeError: OSError: no ..."}, "compiler": {"x": 1},
                     "cluster": {"FAILS": "no answer in 20 seconds"}, "host": {}} and time.time() - start < 55


def test_where_clusters_fail_the_planner_makes_none(pretend, monkeypatch):
    monkeypatch.setattr(cuda.Card, "cluster", cuda.Card.cluster)
    record = dict(probe={"cluster": {"FAILS": "no"}}, measured=["probe", "steps", "errors"])
    gpu.before_units(record, None, pretend, [], 0)
    plan = cuda.plan.__wrapped__("forward", False, "float32", "float32", "", None, cuda.Sizes(1, 32, 8, 4, 4096, 16384),
                                 True, cuda.Card((9, 0), 132, 50 << 20))
    assert {launch.form.cluster for launch in plan.launches} == {1}


def test_occupancy(monkeypatch):
    "What the driver is handed is the CUlaunchConfig of its header: 56 bytes, sizes first."
    seen = []
    def ask(name, *args):
        seen.append(name)
        if name == "cuOccupancyMaxActiveClusters":
            config = args[2]._obj
            raw = bytes(config)
            assert len(raw) == 56 and [*memoryview(raw[:28]).cast("I")] == [16, 1, 1, 512, 1, 1, 2048]
            assert raw[28:] == bytes(28)
        args[0]._obj.value = 7
    monkeypatch.setattr(cuda, "ask", ask)
    monkeypatch.setattr(cuda, "loaded", lambda form, capability: ctypes.c_void_p(1))
    monkeypatch.setattr(cuda, "card", lambda k: cuda.Card((9, 0), 132, 1))
    form = cuda.Form("hold", "float32", "float32", "", None, 0, 0, 32, 512, 512, cluster=8)
    both = {"blocks on a multiprocessor": 7}
    assert gpu.occupancy(cuda.Launch(form, 16, 2048, ())) == both | {"clusters on the card": 7}
    assert gpu.occupancy(cuda.Launch(form._replace(cluster=1), 16, 2048, ())) == both
    assert seen.count("cuOccupancyMaxActiveClusters") == 1
    def refuse(name, *args): raise RuntimeError(f"{name} failed: CUDA_ERROR_UNKNOWN")
    monkeypatch.setattr(cuda, "ask", refuse)
    assert "cuKernelGetFunction failed" in gpu.occupancy(cuda.Launch(form, 16, 2048, ()))["occupancy"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_compiled_beforehand_is_what_runs(pretend, monkeypatch, layout):
    used = set()
    def note(plan, *args): used.update(launch.form for launch in plan.launches)              # computes nothing
    monkeypatch.setattr(ops, "executor", lambda device: (pretend.small, note))
    monkeypatch.setattr(gpu, "wrong", lambda *args: None)
    for layer in (*gpu.QUICK, gpu.Layer("a run of pixels", (2, 8, 1, 1), 2, "", "")):
        for dtype, silu in (("float32", False), ("bfloat16", True)):
            unit = gpu.Unit(layer, dtype, layout, silu)
            used.clear()
            gpu.measure(unit, pretend, ["gn_nb"], 1)
            assert used == {*gpu.forms_of(unit, pretend.small)}, unit


@pytest.mark.skipif(not cuda.compiles or HERE, reason="needs numba-cuda, and no card")
def test_prepare(monkeypatch):
    "Kernels are compiled in another process; torch.compile and Liger, which need a card, are counted as failed."
    monkeypatch.setattr(cuda, "card", lambda k: cuda.Card((9, 0), 132, 50 << 20))
    compiled = dataclasses.replace(TINY, compiled=True)
    plain = dataclasses.replace(TINY, silu=False)                            # what Liger's kernels are compiled for
    monkeypatch.setattr(gpu, "units", lambda layers: [TINY, compiled, plain])
    forms = {*gpu.forms_of(TINY, cuda.card(0)), *gpu.forms_of(plain, cuda.card(0))}
    found = gpu.prepare((), 500, 1)
    assert found["done"] == len(forms) and found["left"] == 0 and sum(found["failed"].values()) == 2, found
    monkeypatch.setattr(cuda, "build", None)
    for form in forms: assert cuda.cubin(form, (9, 0))[1][:4] == b"\x7fELF"


# Verdicts

def made_up(change=lambda row: row, **more):
    "A record in which all that is timed takes as long as the goals allow, but for what is changed."
    shapes = {records.VAE: ("VAE", [1, 128, 20, 256, 256]), "unet": ("U-Net", [2, 320, 64, 64]),
              "resnet": ("ResNet", [32, 64, 56, 56]), "small": ("odd", [1, 32, 3, 3])}
    times = {"gn_nb": 1e-4, "torch": 3.1e-4, "torch.compile": 1.6e-4, "liger": 1e-4, "limit": 9.1e-5}
    rows = [change(dict(layer=layer, dtype=d, layout=lay, mode=mode, cache=cache, contestant=who, min=t, median=t,
                        repeats=2, host=8e-6))
            for layer in shapes for mode in GPU_MODES for d in GPU_DTYPES for lay in LAYOUTS for cache in CACHES
            for who, t in times.items()]
    rows = [row | {"min": min(row["min"], row["median"])} for row in rows if row]
    errors = [dict(case="c", dtype="float32", layout="contiguous", mode="forward", output="y", error=1e-6,
                   contestant=who) for who in ("gn_nb", "torch", "rounding")]
    return records.check_record(dict(
        machine={"gpu": "NVIDIA H200"}, versions={}, date="", policy={}, quick=True, probe={}, steps=[], rows=rows,
        absent=[], errors=errors, memory=[],
        layers=[dict(name=n, shape=s, groups=32, family=f, source="") for n, (f, s) in shapes.items()]) | more)


def spoil(by, **where):
    "Multiply the median of the rows where all this holds; by None leaves them out."
    def change(row):
        if any(row[k] not in (v if isinstance(v, tuple) else (v,)) for k, v in where.items()): return row
        return by and row | {"median": row["median"]*by}
    return change


def judged(record): return {goal["goal"]: goal["verdict"] for goal in records.goals(record)}


@pytest.mark.quick
class TestVerdicts:
    def test_all_pass(self):
        found = judged(made_up())
        assert {*found.values()} == {"pass"} and len(found) == len(records.goals(made_up()))
        assert judged(made_up(spoil(9, contestant="gn_nb", cache="hot"))) == found             # cold is what counts

    @pytest.mark.parametrize("where, words", [
        (dict(by=1.76, layer=records.VAE, mode="silu", dtype="bfloat16", layout="contiguous"), "layer vae video"),
        (dict(by=1.08, layer=records.VAE, mode="silu", dtype="float32", layout="channels_last"), "forward, 64 MB"),
        (dict(by=1.02, layer=records.VAE, mode=("forward", "silu")), "bandwidth, geometric mean"),
        (dict(by=1.15, layer=records.VAE, mode="backward", dtype="float32", layout="contiguous"), "backward, 64 MB"),
        (dict(by=1.04, layer="unet", mode="silu", dtype="bfloat16", layout="contiguous"),
         "diffusion U-Net, SiLU, bfloat16, contiguous: times faster than torch"),
        (dict(by=1.07, layer="unet", mode="silu", dtype="bfloat16", layout="channels_last"),
         "diffusion U-Net, SiLU, bfloat16, channels_last: times faster than torch.compile"),
        (dict(by=1.56, layer="resnet", mode="both", layout="channels_last"),
         "ResNet-50, forward and backward, channels_last"),
        (dict(by=3.3, layer="small", mode="silu both", dtype="float16", layout="contiguous"),
         "any layer, any mode: times faster than torch"),
        (dict(by=1.7, layer="small", mode="silu both", dtype="float16", layout="contiguous"),
         "any layer, any mode: times faster than torch.compile"),
        (dict(by=1.06, layer="small", mode="both", dtype="float16", layout="contiguous"), "times faster than liger"),
        (dict(by=1.04, mode=("silu", "silu backward", "silu both")), "time of SiLU over none, geometric mean"),
        (dict(by=1.06, layout="channels_last"), "time of channels_last over contiguous, geometric mean")])
    def test_each_goal_has_its_bound(self, where, words):
        "All goals are nearly missed in the record; a little more and the one that is meant falls short."
        found = judged(made_up(spoil(contestant="gn_nb", **where)))
        assert next(v for goal, v in found.items() if words in goal) == "falls short", found
        nearly = where | {"by": 1 + (where["by"] - 1)/3}
        others = judged(made_up(spoil(contestant="gn_nb", **nearly)))
        assert next(v for goal, v in others.items() if words in goal) == "pass", others

    def test_costs_on_large_tensors(self):
        "A small tensor may cost more; a large one not."
        for mode, layout, k in (("silu", LAYOUTS, 0), ("forward", "channels_last", 1)):
            for layer, verdict in (("small", "pass"), (records.VAE, "falls short")):
                change = spoil(1.06, contestant="gn_nb", layer=layer, mode=mode, layout=layout, dtype="float32")
                worst = [g["verdict"] for g in records.goals(made_up(change)) if "worst of 64 MB and" in g["goal"]]
                assert len(worst) == 2 and worst[k] == verdict

    def test_the_processor(self):
        record = made_up(lambda row: row | {"host": 8.1e-6 if row["contestant"] == "gn_nb" else 1.})
        assert judged(record)["microseconds of the processor for a forward call, median"] == "falls short"

    def test_errors(self):
        record = made_up()
        record["errors"][0]["error"] = 1.1e-6
        assert judged(record)["error against float64, over torch's: worst case"] == "falls short"

    def test_holes_and_absence(self):
        "What lacks a layer is incomplete, unless what is there falls short already; a missing peer was not measured."
        found = judged(made_up(spoil(None, layer="unet", mode="silu")))
        assert found["any layer, any mode: times faster than torch"] == "incomplete"
        assert found["diffusion U-Net, SiLU, bfloat16, contiguous: times faster than torch"] == "not measured"
        found = judged(made_up(spoil(None, contestant="liger")))
        assert found["any layer, any mode: times faster than liger"] == "not measured"
        record = made_up(lambda row: None if row["layer"] == "unet" else row | {
            "median": row["median"]*(4 if row["contestant"] == "gn_nb" else 1)})
        assert judged(record)["any layer, any mode: times faster than torch"] == "falls short"

    def test_the_goal_in_seconds_is_for_one_card(self):
        assert records.goals(made_up(machine={"gpu": "NVIDIA H100"}))[0]["verdict"] == "not measured"
        assert records.goals(made_up(machine={"gpu": "NVIDIA H100"}))[1]["verdict"] == "pass"

    def test_tables(self):
        record = made_up()
        assert len(records.goal_table(record).rows) == len(records.goals(record)) == 19
        assert records.peer_table(record).head == ["mode", "dtype", "layout", "torch", *GPU_PEERS, "limit"]
        assert len(records.peer_table(record).rows) == 36 and records.peer_table(record).rows[0][3] == "3.1"
        hot = made_up(spoil(2, contestant="torch", cache="hot"))
        assert records.peer_table(hot, cache="hot").rows[0][3] == "6.2" and records.peer_table(hot).rows[0][3] == "3.1"


@pytest.mark.parametrize("path", sorted((root/"results").glob("gpu-*.json")) or [None], ids=str)
def test_the_records(path):
    "What chapters 8, 9 and 12 draw: of today's grid and policy, without names."
    if path is None: pytest.skip("no results/gpu-*.json: nobody with a card has run `make gpu` yet")
    record = records.read(path)
    assert not record["quick"] and record["policy"] == gpu.POLICY
    assert path.stem == f"gpu-{gpu.slug(record['machine']['gpu'])}"
    assert record["layers"] == json.loads(json.dumps([layer._asdict() for layer in gpu.GRID]))
    assert not re.search(r"/(home|root|work|usr|tmp|opt)/|\.local\b|@", path.read_text())


@pytest.mark.parametrize("name, words", [("08_cuda_steps", "def recorded"), ("09_cuda", "def (?:answers|shares)"),
                                         ("12_how_fast", "cards")])
@pytest.mark.parametrize("cards", [{}, {"NVIDIA H200": None, "NVIDIA H100": None}], ids=["none", "two"])
def test_the_chapters_draw_records(name, words, cards):
    "Their cells, on records made up for them; without any they say what is not measured, and draw nothing."
    about = {"gpu": "NVIDIA H200", "capability": "9.0", "multiprocessors": 132, "cache": 50 << 20}
    steps = [dict(step="a copy", bandwidth=3000.), dict(step="one read", bandwidth=2000.)]
    probe = {"card": {"copy of 1 GiB, GB/s": 3000., "planner": str(cuda.Card((9, 0), 132, 50 << 20, shared=233472))},
             "cluster": {"clusters": "launched"}}
    absent = [dict(contestant=who, mode="silu", dtype="bfloat16", layout="contiguous", reason=f"{who} broke")
              for who in ("gn_nb", "liger")]
    cards = {card: made_up(machine=about, steps=steps, probe=probe, absent=absent) for card in cards}
    cells = [c.source for c in nbformat.read(root/f"nbs/{name}.ipynb", 4).cells if c.cell_type == "code"]
    space, found = {}, []
    if name == "09_cuda": space |= vars(cuda)
    if name == "08_cuda_steps":
        space |= dict(STEPS={"one read": None, "shared out": None}, MEASURED=(256, 128, 32, 1024))
    exec("import json\nimport math\nfrom pathlib import Path\nimport matplotlib.pyplot as plt\n"
         "from gn_nb.shapes import sizes\n"
         "from gn_nb.lab.figures import COLORS, show\nfrom gn_nb.lab.records import *", space)
    exec("from gn_nb.lab.records import GPU_DTYPES, DTYPES, LAYOUTS, Table, goals, peer_table, speedups", space)
    space["gpu_records"] = lambda folder: cards
    for source in cells:
        if source.startswith("KINDS ="): exec(source, space)
        if not re.search(rf"\b{words}\b", source): continue
        *body, last = ast.parse(source).body
        exec(compile(ast.Module(body, []), name, "exec"), space)
        if isinstance(last, ast.Expr): found.append(eval(compile(ast.Expression(last.value), name, "eval"), space))
        else: exec(compile(ast.Module([last], []), name, "exec"), space)
    assert len(found) == {"12_how_fast": 6, "09_cuda": 2}.get(name, 1)
    text = " ".join(map(repr, found))
    if not cards: assert "still to be measured" in text or ("not measured" in text and found[4] == "nothing failed")
    elif name == "09_cuda": assert "pool, in clusters" in text and "launched" in text and "NVIDIA H100" in text
    elif name == "08_cuda_steps": assert "<svg" in found[0]._repr_html_() and "one read 2000 GB/s" in found[0].alt
    else:
        assert "pass" in text and found[0].rows[0][0] == "NVIDIA H200" == f"NVIDIA {found[2].rows[0][0]}"
        assert "4 of 4" in repr(found[0]) and "<svg" in found[3]._repr_html_() and min(found[5].values()) > 1
        assert [row[-1] for row in found[4].rows] == ["gn_nb broke"]*2


# The command around it

def snippet(code): return [sys.executable, "-c", code]


def test_steps_side_by_side(tmp_path, monkeypatch, capsys):
    "What fails or hangs stops nothing else, and leaves no process behind."
    monkeypatch.setattr(command, "LOGS", tmp_path/"logs")
    child = ("import subprocess, sys, time; "
             "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
             "print(p.pid, flush=True); time.sleep(600)")
    steps = [command.Step("good", snippet("print('fine')")),
             command.Step("bad", snippet("import sys; sys.exit('why')")),
             command.Step("memcheck", snippet("import os; print(os.environ['PYTORCH_NO_CUDA_MEMORY_CACHING'])")),
             command.Step("slow", snippet(child)), command.Step("none", [], "no such tool")]
    start = time.time()
    found = command.together(steps, 20)
    assert found == {"good": "passed", "bad": "FAILED: status 1", "memcheck": "passed", "none": "not run",
                     "slow": "FAILED: not done in 20 seconds"} and time.time() - start < 60
    assert command.tail("good", 3).strip() == "fine" and command.tail("memcheck", 3).strip() == "1"
    assert "why" in command.tail("bad", 3) and "NOTICE no such tool" in capsys.readouterr().out
    pid = int(command.tail("slow", 1))
    for _ in range(100):
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            os.kill(pid, 0)
            stat = Path(f"/proc/{pid}/stat").read_text()
            if stat.rpartition(")")[2].split()[0] != "Z": time.sleep(.1); continue
        break
    else: raise AssertionError("a child of the slow step is still there")


def test_what_is_not_here_is_said(monkeypatch):
    missing = set()
    monkeypatch.setattr(command, "find_spec", lambda name: None if name in missing else object())
    assert command.tests(3).command[-2:] == ["-n", "3"] and not command.tests(3).notice
    missing.add("xdist")
    assert "-n" not in command.tests(3).command and "xdist is not here" in command.tests(3).notice
    missing.add("pytest")
    assert command.tests(3).command[1:2] == ["tests/card_checks.py"] and "no pytest here" in command.tests(3).notice
    monkeypatch.setattr(command.shutil, "which", lambda name: None)
    step, = command.sanitizers()
    assert not step.command and all(tool in step.notice for tool in command.TOOLS)
    monkeypatch.setattr(command.shutil, "which", lambda name: "/opt/cuda/bin/" + name.rpartition("/")[2])
    monkeypatch.delenv("CUDA_HOME", raising=False)
    assert [s.command[2] for s in command.sanitizers()] == [*command.TOOLS]
    assert command.environment()["CUDA_HOME"] == "/opt/cuda"
    assert command.environment()["PYTHONPATH"].split(os.pathsep)[0] == str(root)


@pytest.mark.parametrize("only, wanted", [
    (None, ["probe", "tests", "prepare", "benchmark"]), ("tests", ["probe", "tests"]),
    ("benchmark", ["probe", "prepare", "benchmark"])])
def test_everything_in_one_command(tmp_path, monkeypatch, capsys, only, wanted):
    "In this order, and a failing test does not keep the benchmark from its time."
    monkeypatch.setattr(command, "LOGS", tmp_path)
    monkeypatch.setattr(command.shutil, "which", lambda name: None)
    seen = []
    def python(*args):
        seen.append(" ".join(map(str, args)))
        return snippet("import sys; sys.exit(3)" if "pytest" in args else "print('done')")
    monkeypatch.setattr(command, "python", python)
    status = command.main(["--seconds", "100", *(["--only", only] if only else [])])
    out = capsys.readouterr().out.splitlines()
    last = [line.split()[-1] for line in out[-(len(wanted) + (only != "benchmark")):]]
    assert [name for name in last if name != "sanitizers"] == wanted and status == (only != "benchmark")
    given = [int(re.search(r"--seconds (\d+)", s)[1]) for s in seen if "--seconds" in s and "--prepare" not in s]
    assert all(30 < n <= 60 for n in given) and len(given) == (only != "tests")


def test_the_checks_of_a_card_are_found():
    "The filter picks the parameter `card` and nothing simulated."
    options = command.tests(1).command
    found = subprocess.run([*options[:options.index("-n") if "-n" in options else None], "--collect-only"], cwd=root,
                           capture_output=True, text=True, env=command.environment())
    names = [line for line in found.stdout.splitlines() if "::" in line]
    assert len(names) > 200 and not any("simulated" in name for name in names), found.stdout[-2000:]
    assert any("test_cuda.py::test_clusters[card" in name for name in names)
    assert any("test_cuda_card.py::test_check[card-huge[contiguous]]" in name for name in names)


def test_make():
    "`make gpu` installs nothing, and takes the Python that it is told; `make gpu-lab` goes through all sweeps in time."
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}    # `make test` runs this, too
    def make(*args): return subprocess.run(["make", *args], cwd=root, capture_output=True, text=True, env=env)
    assert make("-n", "gpu", "PY=python3").stdout.split() == ["python3", "benchmarks/card.py"]
    fake = (f"{sys.executable} -c 'import sys; a = sys.argv[1:]; "
            'print(*(a if a[0] == "sweep" else ["a-gpu", "b-gpu"])); sys.exit("a-gpu" in a)\'')
    done = make("gpu-lab", f"LAB={fake}", "SLICE=50")
    ran = [line.split() for line in done.stdout.splitlines() if line.startswith("sweep")]
    assert [words[1] for words in ran] == ["a-gpu", "b-gpu"] and done.returncode != 0
    assert all(0 < int(words[-1]) <= 50 for words in ran) and {words[2] for words in ran} == {"--quiet"}
    assert make("gpu-lab", f"LAB={fake}", "SLICE=0").stdout == ""


@pytest.mark.quick
@pytest.mark.parametrize("name", ["benchmarks/gpu.py", "benchmarks/card.py", "benchmarks/cpu.py",
                                  "tests/card_checks.py"])
def test_syntax_of_older_pythons(name):
    "The machine with the card has the Python that it has."
    ast.parse((root/name).read_text(encoding="utf-8"), feature_version=(3, 10))
