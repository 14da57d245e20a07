"""Measure group normalization on a CUDA card: gn_nb beside torch eager, torch.compile, Liger-Kernel and a plain copy.

One process; on every layer, dtype, layout, activation and direction all contestants take turns (gn_nb.lab.records).
POLICY says what each may do, GRID which layers are measured. Writes results/gpu-<card>.json, which chapters 8, 9 and 12
draw, after every few units of work, and goes on where it was: `--seconds` ends a slice. Prints the goals.
"""
import argparse
import ast
import ctypes
import dataclasses
import hashlib
import json
import math
import os
import platform
import re
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, wait
from datetime import date
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import cpu
import numpy as np
import torch
import torch.nn.functional as F
from cpu import ADVERSARIAL, EPS, GROUPS, SHAPE, Layer, arranged, error_row, make_task, reason

import gn_nb
from gn_nb import cuda, ops
from gn_nb.lab import records
from gn_nb.lab.records import CACHES, GPU_DTYPES, GPU_PEERS, LAYOUTS, rotation, short
from gn_nb.shapes import sizes

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT/"results"
ROUNDS, MOST, OFTEN = 3, 48, 10          # turns of each; calls in a turn at most; seconds between two writes
COMPILED = ("U-Net", "ResNet", "VAE")               # families of layers that torch.compile is asked for
TOLERANCE = cpu.TOLERANCE | {"float16": 1e-2}                    # of what is timed, relative to the largest value
DIRECTIONS = ("forward", "backward", "both")
POLICY = {
    "turns": f"{ROUNDS} rounds in one process, by turns; every result is first compared with torch's in float32",
    "time": f"CUDA events around a turn of up to {MOST} calls, issued while the card is kept waiting by a kernel that "
            "does nothing, so that only the card's own time counts; `host` is the time in which they were issued, "
            "for one call",
    "cold": "every call of a turn has arrays of its own, as many as are beyond three times the second-level cache, but "
            f"at most {MOST}; before the turn as much memory is read; results are kept until the turn ends",
    "hot": "all calls of a turn have the same arrays, and each result is dropped before the next call",
    "limit": "forward: x.clone(); backward: x + dy, which reads two arrays, writes one; both: one after the other",
    "forward": "torch.inference_mode(); parameters in the dtype of the input; silu: the activation after it, F.silu "
               "for torch and liger, activation='silu' for gn_nb",
    "backward": "gradients by input, weight and bias of one retained graph; both: a forward pass with its graph, then "
                "its gradients",
    "layouts": "channels_last: the strides of torch.channels_last or channels_last_3d",
    "torch.compile": "fullgraph=True, dynamic=False, compiled for each shape before it is timed; takes part in "
                     f"{', '.join(COMPILED)}, bfloat16, contiguous, with SiLU, where all are timed again beside it",
    "liger": "LigerGroupNormFunction of Liger-Kernel, Triton; it takes contiguous arrays, and copies others itself",
    "errors": "max(|found - exact|/max(1, |exact|)) against float64 NumPy (gn_nb.reference); rounding: the exact "
              "result rounded to the dtype once",
    "memory": "torch.cuda.max_memory_allocated() of one call, less what was allocated before it and the results; the "
              "most over all layers"}

GRID = tuple(Layer(*fields) for fields in (
    ("vae video", (1, 128, 20, 256, 256), 32, "VAE", "video diffusion's decoder, 20 frames of 256: last block"),
    ("vae video 512", (1, 512, 16, 180, 320), 32, "VAE", "the same, 16 frames of 180 by 320: a block of 512 channels"),
    ("vae 64", (1, 512, 64, 64), 32, "VAE", "Stable Diffusion's decoder, image of 512: middle block"),
    ("vae 128", (1, 512, 128, 128), 32, "VAE", "the same: second block"),
    ("vae 256", (1, 256, 256, 256), 32, "VAE", "the same: third block"),
    ("vae 512", (1, 128, 512, 512), 32, "VAE", "the same: last block"),
    ("vae 512 four", (4, 128, 512, 512), 32, "VAE", "the same, four images"),
    ("vae 1024", (1, 128, 1024, 1024), 32, "VAE", "SDXL's decoder, image of 1024: last block"),
    ("diffusion 128", (1, 320, 128, 128), 32, "U-Net", "SDXL, image of 1024: first level"),
    ("diffusion 128 four", (4, 320, 128, 128), 32, "U-Net", "the same, two images with guidance"),
    ("diffusion 64", (2, 320, 64, 64), 32, "U-Net", "Stable Diffusion 1.5, image of 512 with guidance: first level"),
    ("diffusion 64 skip", (2, 960, 64, 64), 32, "U-Net", "the same, with the skip connection concatenated"),
    ("diffusion 64 wide", (4, 640, 64, 64), 32, "U-Net", "SDXL, two images with guidance: second level"),
    ("diffusion 32", (2, 640, 32, 32), 32, "U-Net", "Stable Diffusion 1.5: second level"),
    ("diffusion 32 wide", (4, 1280, 32, 32), 32, "U-Net", "SDXL, two images with guidance: third level"),
    ("diffusion 16", (2, 1280, 16, 16), 32, "U-Net", "Stable Diffusion 1.5: third level"),
    ("diffusion 16 one", (1, 1280, 16, 16), 32, "U-Net", "the same without guidance"),
    ("diffusion 8", (2, 1280, 8, 8), 32, "U-Net", "the same with guidance: middle block"),
    ("diffusion 8 one", (1, 1280, 8, 8), 32, "U-Net", "the same without guidance"),
    ("resnet stem", (32, 64, 112, 112), 32, "ResNet", "ResNet-50 with GN, images of 224, batch 32: stem"),
    ("resnet 56 in", (32, 64, 56, 56), 32, "ResNet", "the same: inside the first stage"),
    ("resnet 56", (32, 256, 56, 56), 32, "ResNet", "the same: end of the first stage"),
    ("resnet 28 in", (32, 128, 28, 28), 32, "ResNet", "the same: inside the second stage"),
    ("resnet 28", (32, 512, 28, 28), 32, "ResNet", "the same: end of the second stage"),
    ("resnet 14 in", (32, 256, 14, 14), 32, "ResNet", "the same: inside the third stage"),
    ("resnet 14", (32, 1024, 14, 14), 32, "ResNet", "the same: end of the third stage"),
    ("resnet 7 in", (32, 512, 7, 7), 32, "ResNet", "the same: inside the last stage"),
    ("resnet 7", (32, 2048, 7, 7), 32, "ResNet", "the same: end of the last stage"),
    ("pyramid 200", (2, 256, 200, 304), 32, "detection", "Mask R-CNN, two images of 800 by 1216: finest level"),
    ("pyramid 25", (2, 256, 25, 38), 32, "detection", "the same: coarsest level of three"),
    ("box head 7", (512, 256, 7, 7), 32, "detection", "Mask R-CNN with GN in its box head: 512 regions"),
    ("mask head 14", (100, 256, 14, 14), 32, "detection", "the same, mask head: 100 regions"),
    ("clip 56", (8, 64, 8, 56, 56), 32, "video", "3-D ResNet-50, batch 8, clips of 8 frames: first stage"),
    ("clip 14", (8, 1024, 8, 14, 14), 32, "video", "the same: third stage"),
    ("volume 128", (2, 32, 128, 128, 128), 8, "3-D", "3-D U-Net on scans, patches of 128: first level"),
    ("volume 32 instance", (2, 64, 32, 32, 32), 64, "3-D", "the same, as many groups as channels: third level"),
    ("volume 8", (2, 256, 8, 8, 8), 8, "3-D", "the same: bottom"),
    ("odd 37", (3, 30, 37, 41), 3, "odd", "ten channels of 37 by 41 in a group: no row is a multiple of 16 bytes"),
    ("odd 101", (16, 70, 101, 103), 10, "odd", "seven channels of 101 by 103 in a group"),
    ("odd 255", (8, 96, 255, 257), 32, "odd", "three channels of 255 by 257 in a group"),
    ("prime channels", (4, 13, 64, 64), 13, "odd", "thirteen channels, each a group: no vector of channels last"),
    ("one group", (1, 32, 1024, 1024), 1, "groups", "layer normalization of one large image"),
    ("poolformer 56", (64, 64, 56, 56), 1, "groups", "PoolFormer, batch 64: one group over all channels"),
    ("cifar 32", (128, 16, 32, 32), 16, "groups", "ResNet-20 on CIFAR, batch 128, as many groups as channels"),
    ("many groups", (256, 256, 16, 16), 256, "groups", "65 536 groups of 256 values"),
    ("tiny groups", (4096, 512, 1, 1), 32, "groups", "131 072 groups of 16 values")))
QUICK = (Layer("quick", (2, 4, 2, 3), 2, "U-Net", "no network"),
         Layer("quick volume", (1, 2, 2, 1, 2), 2, "3-D", "no network"))
# dtype, layout and activation of the units of work, what the goals ask for first
COLUMNS = tuple((d, lay, silu) for d, lay, silu in (
    ("bfloat16", "contiguous", True), ("float32", "contiguous", False), ("bfloat16", "channels_last", True),
    ("bfloat16", "contiguous", False), ("float32", "channels_last", False), ("bfloat16", "channels_last", False),
    ("float32", "contiguous", True), ("float32", "channels_last", True), ("float16", "contiguous", True),
    ("float16", "contiguous", False), ("float16", "channels_last", True), ("float16", "channels_last", False)))


@dataclasses.dataclass(frozen=True)
class Unit:
    "What is measured in one go: a layer in one dtype and layout, with or without SiLU."
    layer:Layer
    dtype:str
    layout:str
    silu:bool
    compiled:bool = False        # does torch.compile take part?

    @property
    def name(self):
        return (f"{self.layer.name}, {self.dtype}, {self.layout}{', silu' if self.silu else ''}"
                f"{', torch.compile' if self.compiled else ''}")

    @property
    def bytes(self): return math.prod(self.layer.shape)*GPU_DTYPES[self.dtype]

    def mode(self, direction):
        return ("silu" if direction == "forward" else f"silu {direction}") if self.silu else direction


def units(layers, columns=COLUMNS):
    "All layers by columns; behind the first two those of a family with torch.compile, its other families at the end."
    plain = [Unit(layer, *column) for column in columns for layer in layers]
    first, *others = ([Unit(layer, *columns[0], True) for layer in layers if layer.family == f] for f in COMPILED)
    return [*plain[:2*len(layers)], *first, *plain[2*len(layers):], *(unit for some in others for unit in some)]


# The card, and what takes its place where there is none

class Card:
    "A CUDA card, its clock and its memory."
    kind = "cuda"

    def __init__(self):
        self.properties = torch.cuda.get_device_properties(0)
        self.cache, self.name = self.properties.L2_cache_size, self.properties.name
        self.rubbish, self.hold = torch.ones(3*self.cache//4, device="cuda"), {}
        torch.cuda._sleep(10**6)
        self.cycles = 10**7/self.timed(lambda: torch.cuda._sleep(10**7))         # of the waiting kernel, in a second

    def timed(self, f):
        "Seconds of the card for f()."
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record(); f(); end.record(); end.synchronize()
        return begin.elapsed_time(end)/1e3

    def turn(self, name, calls, cold):
        "(seconds of the card, seconds of the processor) for each of these calls; see POLICY['time']."
        for _ in range(3):
            if cold: self.rubbish.sum()
            torch.cuda.synchronize()
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda._sleep(int(self.cycles*min(.5, self.hold.get(name, 1e-2))))
            begin.record()
            start, kept = time.perf_counter(), []
            for call in calls:
                result = call()
                if cold: kept.append(result)
            issued = time.perf_counter() - start
            early = not begin.query()                            # is the card still waiting?
            end.record(); end.synchronize()
            self.hold[name] = 1.5*issued + 2e-4
            del kept, result
            if early: break
        return begin.elapsed_time(end)/1e3/len(calls), issued/len(calls)

    def extra(self, call):
        "Bytes that a call needs at its peak beside its results."
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        result = call()
        peak = torch.cuda.max_memory_allocated() - before
        return max(0, peak - sum(512*-(-t.nbytes//512) for t in as_tuple(result)))       # what the allocator rounds to

    def broken(self):
        "Is nothing to be had from the card in this process any more?"
        try: torch.cuda.synchronize()
        except RuntimeError: return True
        return False

    def free(self):
        if torch.cuda.memory_reserved() > self.properties.total_memory//2: torch.cuda.empty_cache()

    def machine(self):
        "What the times depend on; no names."
        p = self.properties
        return {"gpu": self.name, "capability": f"{p.major}.{p.minor}", "multiprocessors": p.multi_processor_count,
                "memory": p.total_memory, "cache": self.cache, "cpu": cpu.machine()["cpu"], "cores": os.cpu_count(),
                "system": f"{platform.system()} {platform.machine()}"} | smi()


class Pretend(Card):
    "The CPU in place of a card, with the kernels on a simulated one: for a dry run, in which no time means anything."
    kind = "cpu"
    small = cuda.Card((9, 0), 2, 1 << 20, warp=4, threads=8, most=16)

    def __init__(self):
        self.cache, self.name = 1, "no card, a dry run"
        ops.card_kernels, ops.executor = lambda: cuda, lambda device: (self.small, cuda.play)
        ops.for_card = lambda input: input.dtype in ops.DTYPE

    def turn(self, name, calls, cold):
        start = time.perf_counter()
        for call in calls: call()
        return ((time.perf_counter() - start)/len(calls),)*2

    def extra(self, call): call(); return 0
    def broken(self): return False
    def free(self): pass
    def machine(self): return {"gpu": self.name, "cores": os.cpu_count()}


def smi():
    "Driver and clocks, as nvidia-smi tells them; nothing where it does not."
    names = {"driver_version": "driver", "clocks.max.sm": "clock", "clocks.max.mem": "memory clock",
             "power.limit": "power limit", "clocks.sm": "clock before", "temperature.gpu": "temperature before"}
    try: found = subprocess.run(["nvidia-smi", f"--query-gpu={','.join(names)}", "--format=csv,noheader"],
                                capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError): return {}
    return dict(zip(names.values(), (v.strip() for v in found.partition("\n")[0].split(","))))


def slug(name):
    "Of a card, for the name of its record: h200 for NVIDIA H200."
    return re.sub(r"[^a-z0-9]+", "-", name.lower().removeprefix("nvidia ")).strip("-")


# The contestants: each is a function of a unit that returns the normalization as a function of input, weight and bias.

def ours(unit):
    G, activation = unit.layer.groups, "silu" if unit.silu else None
    return lambda x, w, b: gn_nb.group_norm(x, G, w, b, EPS, activation)


def torch_eager(unit):
    G = unit.layer.groups
    if unit.silu: return lambda x, w, b: F.silu(F.group_norm(x, G, w, b, EPS))
    return lambda x, w, b: F.group_norm(x, G, w, b, EPS)


def torch_compiled(unit):
    torch._dynamo.reset()                                        # every unit is compiled for its own shape
    torch._functorch.config.donated_buffer = False               # graphs are retained, so their buffers must be
    return torch.compile(torch_eager(unit), fullgraph=True, dynamic=False)


def liger(unit):
    from liger_kernel.ops.group_norm import LigerGroupNormFunction
    C, G = unit.layer.shape[1], unit.layer.groups
    def norm(x, w, b): return LigerGroupNormFunction.apply(x, w, b, C, G, EPS)
    return (lambda x, w, b: F.silu(norm(x, w, b))) if unit.silu else norm


CONTESTANTS = {"gn_nb": ours, "torch": torch_eager, "torch.compile": torch_compiled, "liger": liger}


def limit_calls(direction, sets):
    "What no function that reads and writes as much can be much faster than."
    return [{"forward": x.clone, "backward": partial(torch.add, x, dy),
             "both": lambda x=x, dy=dy: (x.clone(), x + dy)}[direction] for x, dy in sets]


def calls_of(norm, direction, sets, parameters):
    "A function without arguments for each set of arrays."
    if direction == "forward": return [partial(norm, x, *parameters) for x, _ in sets]
    def backward(x, dy):
        given = [t.detach().requires_grad_() for t in (x, *parameters)]
        if direction == "backward": return partial(torch.autograd.grad, norm(*given), given, dy, retain_graph=True)
        def both():
            y = norm(*given)
            return y, *torch.autograd.grad(y, given, dy)
        return both
    return [backward(x, dy) for x, dy in sets]


def as_tuple(result): return result if isinstance(result, tuple) else (result,)


def context(direction):
    "Gradients are recorded in the backward pass only."
    return torch.inference_mode() if direction == "forward" else torch.enable_grad()


# Time

def how_many(nbytes, cache): return max(2, min(MOST, -(-3*cache//nbytes)))


def arrays(unit, device, count):
    "Sets of x and dy, and the parameters."
    shape, kind = unit.layer.shape, getattr(torch, unit.dtype)
    source = torch.Generator(device.kind).manual_seed(0)
    def normal(*shape): return torch.randn(shape, generator=source, device=device.kind)
    sets = [(arranged((0.5 + 1.5*normal(*shape)).to(kind), unit.layout), arranged(normal(*shape).to(kind), unit.layout))
            for _ in range(count)]
    return sets, ((1 + normal(shape[1])/4).to(kind), normal(shape[1]).to(kind))


def expected(unit, direction, sets, parameters):
    "What the contestants should return for the first set: torch's results in float32, each with its largest value."
    wide = [tuple(t.float() for t in sets[0])]
    with context(direction): found = calls_of(torch_eager(unit), direction, wide, [p.float() for p in parameters])[0]()
    return [(t, float(t.abs().max())) for t in (t.detach() for t in as_tuple(found))]


def wrong(found, wanted, dtype):
    "A sentence if some result is not what it should be."
    for a, (b, largest) in zip(as_tuple(found), wanted, strict=True):
        if a.shape != b.shape: return f"wrong result, shape {tuple(a.shape)} in place of {tuple(b.shape)}"
        error = float((a.detach().float() - b).abs_().max())/max(largest, 1e-30)
        if not error <= TOLERANCE[dtype]: return f"wrong result, error {error:.2g} of the largest value"


def entries(unit, direction, norms, sets, parameters):
    "(calls, reason for being absent) of each contestant in one direction, results checked."
    wanted, calls, absent = expected(unit, direction, sets, parameters), {}, {}
    for name, norm in norms.items():
        try:
            if isinstance(norm, Exception): raise norm
            with context(direction):
                made = calls_of(norm, direction, sets, parameters)
                why = wrong(made[0](), wanted, unit.dtype)
            if why: absent[name] = why
            else: calls[name] = made
        except Exception as error: absent[name] = reason(error)
    return calls | {"limit": limit_calls(direction, sets)}, absent


def measure(unit, device, contestants, rounds=ROUNDS):
    "Rows, the absent, and extra memory of one unit."
    sets, parameters = arrays(unit, device, how_many(unit.bytes, device.cache))
    rows, absent, memory, norms = [], [], [], {}
    for name in (c for c in contestants if unit.compiled or c != "torch.compile"):
        try: norms[name] = CONTESTANTS[name](unit)
        except Exception as error: norms[name] = error
    for direction in DIRECTIONS:
        where = dict(layer=unit.layer.name, dtype=unit.dtype, layout=unit.layout, mode=unit.mode(direction))
        calls, missing = entries(unit, direction, norms, sets, parameters)
        absent += [{k: where[k] for k in ("dtype", "layout", "mode")} | {
            "contestant": name, "reason": f"{unit.layer.name}: {why}" if name == "gn_nb" else why}
            for name, why in missing.items()]
        with context(direction):
            for cache in CACHES:
                turns = {name: [] for name in calls}
                for name in rotation(calls, rounds):
                    some = calls[name] if cache == "cold" else calls[name][:1]*len(sets)
                    turns[name].append(device.turn(name, some, cache == "cold"))
                for name, found in turns.items():
                    times, hosts = zip(*found)
                    rows.append(where | dict(cache=cache, contestant=name, min=short(min(times)),
                                             median=short(median(times)), repeats=len(sets), host=short(median(hosts))))
            for name in (n for n in calls if n != "limit"):
                memory.append(where | dict(contestant=name, extra=device.extra(calls[name][0])))
        del calls
    return rows, absent, memory


# Errors

def measure_errors(device, contestants, cases=ADVERSARIAL):
    "Rows of the error of every contestant, and of rounding once, on every adversarial case; and the absent."
    rows, absent = [], []
    for (case, dtype, values), layout, mode in ((c, lay, m) for c in cases for lay in LAYOUTS
                                                for m in ("forward", "silu", "backward")):
        shape = SHAPE if device.kind == "cuda" else (1, 16, 3, 2)
        x = torch.from_numpy(values(np.random.default_rng(0).standard_normal(shape)))
        task = dataclasses.replace(make_task(x, GROUPS, dtype, layout), mode=mode)
        where, wanted = dict(case=case, dtype=dtype, layout=layout, mode=mode), cpu.exact(task)
        unit = Unit(Layer(case, shape, GROUPS, "", ""), dtype, layout, mode == "silu")
        direction = "backward" if mode == "backward" else "forward"
        there = [t.to(device.kind) for t in (task.x, task.dy, task.weight, task.bias)]
        for output, exact in wanted.items():
            rows.append(error_row(where, "rounding", output, torch.from_numpy(exact).to(task.x.dtype), exact))
        for name in contestants:
            if name == "torch.compile": continue                 # decomposed to the same formula, compiled for minutes
            try:
                with context(direction):
                    found = as_tuple(calls_of(CONTESTANTS[name](unit), direction, [there[:2]], there[2:])[0]())
            except Exception as error:
                absent.append(dict(contestant=name, dtype=dtype, layout=layout, mode=mode, reason=reason(error)))
                continue
            rows += [error_row(where, name, output, f.detach().cpu(), exact)
                     for f, (output, exact) in zip(found, wanted.items(), strict=True)]
    return rows, absent


# What is asked of the card before anything is timed

def probe_card():
    "Facts of the driver, and the speed of a copy."
    card, number = Card(), ctypes.c_int()
    cuda.ask("cuDriverGetVersion", ctypes.byref(number))
    x = torch.ones(1 << 28, device="cuda")
    y = torch.empty_like(x)
    y.copy_(x)
    seconds = median(card.timed(lambda: y.copy_(x)) for _ in range(7))
    return {"card": card.name, "driver API": number.value, "planner": str(cuda.card(0)), "cache": card.cache,
            "shared memory of a block": getattr(card.properties, "shared_memory_per_block_optin", None),
            "copy of 1 GiB, GB/s": short(2*x.nbytes/seconds/1e9)}


def run_once(plan_of, shape, groups):
    "Largest error of a forward pass on the card against float64, and the forms of its kernels."
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    y = gn_nb.group_norm(x.cuda(), groups).cpu().double()
    launches = plan_of(shape, groups).launches
    return float((y - F.group_norm(x.double(), groups)).abs().max()), launches


def forward_plan(shape, groups):
    return cuda.plan("forward", False, "float32", "float32", "", None, sizes(shape, groups), True, cuda.card(0))


def occupancy(launch):
    "Blocks of a kernel that a multiprocessor holds, and clusters that the card holds; or why that is not known."
    try: return occupied(launch)
    except (RuntimeError, AttributeError) as error: return {"occupancy": reason(error)}


def occupied(launch):
    class Config(ctypes.Structure):
        _fields_ = [*((n, ctypes.c_uint) for n in ("gx", "gy", "gz", "bx", "by", "bz", "shared")),
                    ("stream", ctypes.c_void_p), ("attributes", ctypes.c_void_p), ("count", ctypes.c_uint)]
    function, blocks, clusters = ctypes.c_void_p(), ctypes.c_int(), ctypes.c_int()
    form = launch.form
    cuda.ask("cuKernelGetFunction", ctypes.byref(function), cuda.loaded(form, cuda.card(0).capability))
    cuda.ask("cuOccupancyMaxActiveBlocksPerMultiprocessor", ctypes.byref(blocks), function, form.threads,
             ctypes.c_size_t(launch.shared))
    if form.cluster == 1: return {"blocks on a multiprocessor": blocks.value}
    config = Config(launch.blocks, 1, 1, form.threads, 1, 1, launch.shared, None, None, 0)
    cuda.ask("cuOccupancyMaxActiveClusters", ctypes.byref(clusters), function, ctypes.byref(config))
    return {"blocks on a multiprocessor": blocks.value, "clusters on the card": clusters.value}


def probe_compiler():
    "Does the compiler work here, and does the driver load and run what it makes?"
    found = {"numba-cuda": "compiles" if cuda.compiles else "is not there, or too old"}
    launch = forward_plan((64, 64, 32, 32), 8).launches[0]
    start = time.perf_counter()
    _, _, code = cuda.build(launch.form, cuda.card(0).capability)
    found |= {"seconds to compile a kernel": short(time.perf_counter() - start), "bytes of machine code": len(code)}
    cuda.loaded(launch.form, cuda.card(0).capability)
    error, _ = run_once(forward_plan, (64, 64, 32, 32), 8)
    if not error < 1e-5: raise RuntimeError(f"wrong result, error {error:.2g}")
    return found | {"machine code": "loaded and run", "error": short(error)} | occupancy(launch)


def probe_cluster():
    "Does a kernel whose clusters are fixed in its machine code run by a plain launch?"
    error, launches = run_once(forward_plan, (1, 32, 64, 64), 8)
    form = launches[0].form
    if form.cluster == 1: return {"clusters": "none on this card"}
    if not error < 1e-5: raise RuntimeError(f"wrong result, error {error:.2g}")
    return {"clusters": "launched", "blocks of a cluster": form.cluster, "error": short(error)} | occupancy(launches[0])


def host_seconds(f, calls=50, batches=20):
    "Seconds of the processor for one call, in the fastest batch."
    found = []
    for _ in range(batches):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(calls): f()
        found.append((time.perf_counter() - start)/calls)
    return min(found)


def probe_host():
    "Microseconds of the processor: to carry out a known plan by addresses, and for a whole call, ours and torch's."
    G, x = 32, torch.ones(2, 1280, 8, 8, device="cuda", dtype=torch.bfloat16)
    w, y, s = torch.ones(1280, device="cuda", dtype=torch.bfloat16), torch.empty_like(x), sizes(x.shape, G)
    stats, card = torch.empty(3, s.N, s.G, device="cuda"), cuda.card(0)
    plan = cuda.plan("forward", False, "bfloat16", "bfloat16", "", "silu", s, True, card)
    work = torch.empty(plan.workspace, dtype=torch.uint8, device="cuda")
    stream = torch.cuda.current_stream().cuda_stream
    given = (x.data_ptr(), y.data_ptr(), w.data_ptr(), w.data_ptr(), stats.data_ptr(), stats[2].data_ptr(), EPS, 0, 0,
             work.data_ptr())
    def execute(*of): cuda.launch(*of, card.capability, stream)
    with torch.inference_mode():
        found = {"a plan of one kernel": lambda: cuda.forward(plan, *given, execute),
                 "group_norm with SiLU": lambda: gn_nb.group_norm(x, G, w, w, EPS, "silu"),
                 "torch, norm and SiLU": lambda: F.silu(F.group_norm(x, G, w, w, EPS)),
                 "torch, norm": lambda: F.group_norm(x, G, w, w, EPS)}
        return {name: short(1e6*host_seconds(f)) for name, f in found.items()}


PROBES = {"card": probe_card, "compiler": probe_compiler, "cluster": probe_cluster, "host": probe_host}


def ask_all(seconds=150):
    "What each probe finds, in processes of their own: one that breaks its context breaks nothing else."
    running = {name: subprocess.Popen([sys.executable, __file__, "--ask", name], stdout=subprocess.PIPE,
                                      stderr=subprocess.PIPE, text=True) for name in PROBES}
    found, until = {}, time.time() + seconds
    for name, process in running.items():
        try:
            out, err = process.communicate(timeout=max(1, until - time.time()))
            found[name] = json.loads(out.splitlines()[-1]) if process.returncode == 0 else {
                "FAILS": reason(RuntimeError((err.strip().splitlines() or [f"status {process.returncode}"])[-1]))}
        except subprocess.TimeoutExpired:
            process.kill(); process.communicate()
            found[name] = {"FAILS": f"no answer in {seconds} seconds"}
    return found


# Work that needs no timing, done beforehand by all cores

def forms_of(unit, card):
    "All that gn_nb's kernels for a unit are compiled for."
    s = sizes(unit.layer.shape, unit.layer.groups)
    rows = unit.layout == "channels_last" and s.S > 1
    return [launch.form for direction in ("forward", "backward") for launch in cuda.plan(
        direction, rows, unit.dtype, unit.dtype, "", "silu" if unit.silu else None, s, True, card).launches]


def compile_form(form, capability): cuda.cubin(form, capability)


def compile_peer(name, unit):
    "Leave the machine code of another contestant for a unit in its compiler's cache."
    sets, parameters = arrays(unit, Card, 1)
    norm = CONTESTANTS[name](unit)
    for direction in DIRECTIONS if name == "torch.compile" else ("both",):
        with context(direction): calls_of(norm, direction, sets, parameters)[0]()
    del sets
    torch.cuda.empty_cache()


def prepare(layers, seconds, workers=None):
    "Compile with several processes; the benchmark later finds the code on the disk. How much of it was done."
    workers, until, card = workers or max(1, (os.cpu_count() or 2)//2), time.time() + seconds, cuda.card(0)
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"            # in the processes below, which are many
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
    jobs, forms = [], set()
    for unit in units(layers):
        new = [form for form in forms_of(unit, card) if form not in forms]
        forms.update(new)
        jobs += [pool.submit(compile_form, form, card.capability) for form in new]
        peer = "torch.compile" if unit.compiled else "liger" if unit.layout == "contiguous" and not unit.silu else ""
        if peer and unit.bytes < 2**27:                          # or the card has no memory for all at once
            jobs.append(pool.submit(compile_peer, peer, unit))
    done, left = wait(jobs, max(0., until - time.time()))
    failed = Counter(reason(job.exception()) for job in done if job.exception())
    processes = [*(pool._processes or {}).values()]
    pool.shutdown(wait=False, cancel_futures=True)
    if left:
        for process in processes: process.terminate()
    return {"done": len(done) - failed.total(), "left": len(left), "failed": dict(failed)}


# The record

def versions():
    "Of all that takes part, and a digest of our own source: a changed kernel begins a new record."
    found = {"python": platform.python_version(), "gn_nb": gn_nb.__version__, "torch": torch.__version__,
             "cuda": torch.version.cuda or ""}
    for name in ("numpy", "numba", "numba-cuda", "cuda-core", "triton", "liger-kernel"):
        try: found[name] = version(name)
        except PackageNotFoundError: pass
    return found | {"source": digest((ROOT/"gn_nb"/f"{name}.py").read_text("utf-8")
                                     for name in ("cuda", "cpu", "ops", "shapes"))}


def digest(sources):
    "Of what these modules do: without comments and docstrings."
    trees = [ast.parse(source) for source in sources]
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            node.body[0] = ast.Pass()
    return hashlib.sha256("".join(map(ast.dump, trees)).encode()).hexdigest()[:12]


def empty_record(device, layers, quick):
    return dict(machine=device.machine(), versions=versions(), date=date.today().isoformat(), policy=POLICY,
                quick=quick, layers=json.loads(json.dumps([layer._asdict() for layer in layers])), probe={},
                measured=[], rows=[], absent=[], errors=[], memory=[], steps=[])


def write(path, record):
    "The whole file or none of it."
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(records.check_record(record), separators=(",", ":"), allow_nan=False) + "\n"
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)


def begun(path, device, layers, quick):
    "The record to go on with; one that was measured otherwise is put aside."
    fresh = empty_record(device, layers, quick)
    if not path.exists(): return fresh
    found = records.read(path)
    same = all(found[k] == fresh[k] for k in ("versions", "policy", "quick", "layers"))
    if same and found["machine"]["gpu"] == fresh["machine"]["gpu"]: return found
    aside = path.with_name(f"old-{path.name}")
    os.replace(path, aside)
    print(f"{path.name} was measured with other versions or layers: now {aside.name}", file=sys.stderr)
    return fresh


def remember(record, rows, absent, memory):
    "Add what a unit gave: each absence once, and of memory the most."
    record["rows"] += rows
    record["absent"] += [row for row in absent if row not in record["absent"]]
    def key(row): return tuple(row[k] for k in ("contestant", "mode", "dtype", "layout"))
    worst = {key(row): row for row in record["memory"]}
    for row in memory:
        if key(row) not in worst or row["extra"] > worst[key(row)]["extra"]: worst[key(row)] = row
    record["memory"] = [*worst.values()]


def forget(record, unit):
    "Drop the rows of a unit that is measured again."
    modes = {unit.mode(direction) for direction in DIRECTIONS}
    record["rows"] = [r for r in record["rows"] if not (r["layer"] == unit.layer.name and r["dtype"] == unit.dtype
                                                        and r["layout"] == unit.layout and r["mode"] in modes)]


def measure_steps(device):
    "Effective bandwidth of the kernels of chapter 8."
    if device.kind == "cpu": return [dict(step="a dry run", bandwidth=0.)]
    from gn_nb.lab.steps import MEASURED, time_steps
    return [dict(step=name, bandwidth=short(found)) for name, found in time_steps(*MEASURED).items()]


def again(seconds):
    "Begin anew in a process whose context is whole, with what is left of the time."
    sys.stdout.flush(); sys.stderr.flush()
    argv = [a for a in sys.argv if not a.startswith("--seconds=")]
    if "--seconds" in argv: del argv[argv.index("--seconds"):argv.index("--seconds") + 2]
    os.execv(sys.executable, [sys.executable, *argv, f"--seconds={max(0., seconds):.0f}"])


def before_units(record, save, device, contestants, until):
    "What stands in the record once: answers of the card, the steps of chapter 8, errors."
    jobs = {"probe": (ask_all if device.kind == "cuda" else dict, {}), "steps": (partial(measure_steps, device), []),
            "errors": (partial(measure_errors, device, contestants, ADVERSARIAL[::1 if device.kind == "cuda" else 4]),
                       ([], []))}
    for name, (job, nothing) in jobs.items():
        if name not in record["measured"] and time.time() < until:
            try: found, why = job(), []
            except Exception as error:
                found, why = nothing, [dict(contestant="gn_nb", dtype="", layout="", mode=name, reason=reason(error))]
            record[name], absent = found if name == "errors" else (found, [])
            remember(record, [], absent + why, [])
            record["measured"].append(name)
            save(record)
            if device.broken(): return again(until - time.time())
        if "FAILS" in record["probe"].get("cluster", {}): cuda.Card.cluster = property(lambda card: 1)


def slice_of_work(record, save, device, todo, contestants, seconds, rounds=ROUNDS):
    "Measure what is not in the record yet, until the time is up; what remains is left to the next slice."
    until, written = time.time() + seconds, time.time()
    before_units(record, save, device, contestants, until)
    todo = [unit for unit in todo if unit.name not in record["measured"]]
    for k, unit in enumerate(todo, 1):
        if time.time() >= until: break
        print(f"{k}/{len(todo)} {unit.name} {unit.layer.shape}", file=sys.stderr, flush=True)
        try: found = measure(unit, device, contestants, rounds)
        except Exception as error:
            found = [], [dict(contestant="gn_nb", dtype=unit.dtype, layout=unit.layout, mode=unit.mode("forward"),
                              reason=f"{unit.layer.name}: {reason(error)}")], []
        if unit.compiled: forget(record, unit)
        remember(record, *found)
        record["measured"].append(unit.name)
        if device.broken():
            save(record)
            return again(until - time.time())
        device.free()
        if time.time() - written > OFTEN: save(record); written = time.time()
    save(record)


def arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    def names(text): return [GPU_PEERS[GPU_PEERS.index(name)] for name in text.split(",") if name]
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no more work after so long; the same "
                        "command goes on from there")
    parser.add_argument("--peers", type=names, default=GPU_PEERS, metavar="PEER,...",
                        help=f"beside torch eager; of {', '.join(GPU_PEERS)}; '' for none; then --out must be given")
    parser.add_argument("--out", type=Path, help="where to write the record, in place of results/gpu-<card>.json")
    parser.add_argument("--dry-run", action="store_true", help="without a card: does it work? Its times mean nothing")
    parser.add_argument("--table", type=Path, metavar="RECORD", help="print the tables of a record, measure nothing")
    parser.add_argument("--probe", action="store_true", help="ask the card for what is uncertain, and measure nothing")
    parser.add_argument("--prepare", action="store_true", help="compile what a run needs, and measure nothing")
    parser.add_argument("--workers", type=int, help="processes that compile; half as many as there are cores")
    parser.add_argument("--ask", choices=PROBES, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.out is None and (args.dry_run or [*args.peers] != [*GPU_PEERS]) and not args.table:
        parser.error("--dry-run and --peers need --out: only a full run writes into results/")
    return args


def tables(record):
    return (f"{records.peer_table(record)!r}\n\n{records.goal_table(record)!r}\n" if record["rows"] else "no rows\n")


def main(argv=None):
    args = arguments(argv)
    if args.table: print(tables(records.read(args.table)), end=""); return 0
    if args.ask: print(json.dumps(PROBES[args.ask]())); return 0
    if not args.dry_run and not torch.cuda.is_available():
        print("no CUDA card is here: nothing was measured (--dry-run --out FILE tries the script)", file=sys.stderr)
        return 2
    if not args.dry_run and not args.probe and not cuda.compiles:
        print("no numba-cuda is here, or one too old: gn_nb would be torch's own operations, and nothing was measured",
              file=sys.stderr)
        return 2
    if args.probe:
        found = ask_all()
        print(json.dumps(found, indent=1))
        return int(any("FAILS" in facts for facts in found.values()))
    if args.prepare: print(json.dumps(prepare(GRID, args.seconds, args.workers))); return 0
    device, layers = (Pretend(), QUICK) if args.dry_run else (Card(), GRID)
    path = args.out or RESULTS/f"gpu-{slug(device.name)}.json"
    record, todo = begun(path, device, layers, args.dry_run), units(layers, COLUMNS[:3] if args.dry_run else COLUMNS)
    contestants = [name for name in CONTESTANTS if name not in GPU_PEERS or name in args.peers]
    slice_of_work(record, partial(write, path), device, todo, contestants, args.seconds, 1 if args.dry_run else ROUNDS)
    left = sum(unit.name not in record["measured"] for unit in todo)
    ill = [row for row in record["absent"] if row["contestant"] == "gn_nb"]
    print(tables(record), end="")
    for row in ill: print(f"gn_nb FAILS, {row['mode']}, {row['dtype']}, {row['layout']}: {row['reason']}")
    print(f"{path.name}: {len(todo) - left} of {len(todo)} units measured" + (
        "; the same command goes on with the rest" if left else ""))
    return int(bool(ill))


if __name__ == "__main__": sys.exit(main())
