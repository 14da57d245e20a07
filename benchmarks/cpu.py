"""Measure group normalization on the CPU: gn_nb beside torch eager, torch.compile, onnxruntime, JAX and a plain copy.

One process; on every layer, dtype, layout and mode all contestants take turns (gn_nb.lab.records). POLICY says what
each may do, GRID which layers are measured. Writes results/cpu.json, which chapter 12 draws, and prints the goals.
"""
import argparse
import ctypes
import dataclasses
import json
import os
import platform
import re
import subprocess
import sys
from collections import namedtuple
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import gn_nb
from gn_nb import reference
from gn_nb.lab import records
from gn_nb.lab.records import DTYPES, LAYOUTS, MODES, PEERS
from gn_nb.testing import max_error

RECORD = Path(__file__).resolve().parent.parent/"results/cpu.json"
EPS = 1e-5
ROUNDS, WINDOW, PAUSE = 7, 4e-3, 8e-3                            # see take_turns; seconds
TOLERANCE = {"float32": 1e-3, "bfloat16": 4e-2}                  # of what is timed, relative to the largest value
POLICY = {
    "turns": f"{ROUNDS} rounds in one process; turns of {1e3*WINDOW:.0f} ms or one call, {1e3*PAUSE:.0f} ms apart, "
             "each after an untimed call where calls are short; every result is first compared with torch's in float32",
    "allocation": "every contestant allocates a fresh result as its library does by default, and drops it before its "
                  "next call; x.clone(), the limit, too. Only in mode reuse a buffer of the caller is written",
    "allocator": "torch, gn_nb: malloc, after one block of 31 MiB was freed, so that malloc keeps blocks up to that "
                 "size, as in any process that has run a network; larger ones are new pages at each call, and for "
                 "large results gn_nb, alone, asks Linux for large pages. onnxruntime: its arena; JAX: XLA's allocator",
    "limit": "forward, silu: x.clone(); reuse: buffer.copy_(x); backward: x + dy, which reads two arrays, writes one",
    "forward": "torch.inference_mode(); parameters in the dtype of the input; silu: the activation after it, F.silu "
               "for torch, activation='silu' for gn_nb",
    "backward": "gradients by input, weight and bias of one retained graph: torch.autograd.grad; for JAX the jitted "
                "pull-back of jax.vjp, whose residuals were computed before",
    "layouts": "channels_last: the strides of torch.channels_last or channels_last_3d. JAX gets arrays (N, *, C), "
               "what flax.nnx.GroupNorm works on; for contiguous it gets (N, C, *) and moves the axis inside jit",
    "threads": "torch.get_num_threads() for torch, gn_nb, onnxruntime and XLA; onnxruntime does not spin",
    "errors": "max(|found - exact|/max(1, |exact|)) against float64 NumPy (gn_nb.reference); rounding: the exact "
              "result rounded to the dtype once",
    "memory": "a process of its own in which malloc returns every block from 64 KiB to the system; VmHWM of Linux, "
              "reset before the call, less the resident memory before it and the results; the least of three calls"}

Layer = namedtuple("Layer", "name shape groups family source")
GRID = tuple(Layer(*fields) for fields in (
    ("resnet stem", (8, 64, 112, 112), 32, "ResNet", "ResNet-50 with GN, images of 224, batch 8: stem"),
    ("resnet 56", (4, 256, 56, 56), 32, "ResNet", "ResNet-50 with GN, batch 4: end of the first stage"),
    ("resnet 28", (8, 128, 28, 28), 32, "ResNet", "ResNet-50 with GN, batch 8: inside the second stage"),
    ("resnet 14", (2, 1024, 14, 14), 32, "ResNet", "ResNet-50 with GN, batch 2: end of the third stage"),
    ("resnet 7", (32, 2048, 7, 7), 32, "small maps", "ResNet-50 with GN, batch 32: end of the last stage"),
    ("resnet 7 one image", (1, 512, 7, 7), 32, "small maps", "ResNet-50 with GN, one image: inside the last stage"),
    ("box head 7", (128, 256, 7, 7), 32, "small maps", "Mask R-CNN with GN in its box head: 128 regions"),
    ("cifar 32", (128, 16, 32, 32), 16, "ResNet", "ResNet-20 on CIFAR, batch 128, as many groups as channels"),
    ("cifar 8", (128, 64, 8, 8), 16, "small maps", "ResNet-20 on CIFAR, batch 128: last stage"),
    ("poolformer 56", (8, 64, 56, 56), 1, "ResNet", "PoolFormer, batch 8: one group over all channels"),
    ("poolformer 7", (8, 512, 7, 7), 1, "small maps", "PoolFormer, batch 8: last stage"),
    ("unet 256", (1, 64, 256, 256), 8, "U-Net", "U-Net for segmentation, image of 256: first level"),
    ("unet 16", (2, 1024, 16, 16), 8, "U-Net", "U-Net for segmentation, images of 256: bottom"),
    ("style 256", (1, 32, 256, 256), 32, "U-Net", "style transfer, image of 256, as many groups as channels"),
    ("diffusion 64", (2, 320, 64, 64), 32, "U-Net", "Stable Diffusion 1.5, image of 512 with guidance: first level"),
    ("diffusion 64 skip", (2, 960, 64, 64), 32, "U-Net", "the same, with the skip connection concatenated"),
    ("diffusion 32", (2, 640, 32, 32), 32, "U-Net", "the same: second level"),
    ("diffusion 16", (2, 1280, 16, 16), 32, "U-Net", "the same: third level"),
    ("diffusion 8", (2, 1280, 8, 8), 32, "small maps", "the same: middle block"),
    ("diffusion 4", (16, 256, 4, 4), 32, "small maps", "DDPM on CIFAR, batch 16: lowest level"),
    ("vae 64", (1, 512, 64, 64), 32, "VAE", "Stable Diffusion's decoder, image of 512: middle block"),
    ("vae 128", (1, 512, 128, 128), 32, "VAE", "the same: second block"),
    ("vae 256", (1, 256, 256, 256), 32, "VAE", "the same: third block"),
    ("vae 512", (1, 128, 512, 512), 32, "VAE", "the same: last block"),
    ("video vae 8x128", (1, 128, 8, 128, 128), 32, "3-D", "a causal video decoder, 8 frames"),
    ("volume 64", (1, 32, 64, 64, 64), 8, "3-D", "3-D U-Net on a scan, patch of 64: first level"),
    ("volume 32 instance", (2, 64, 32, 32, 32), 64, "3-D", "3-D U-Net, as many groups as channels: second level"),
    ("volume 8", (2, 256, 8, 8, 8), 8, "3-D", "3-D U-Net: bottom")))
QUICK = (Layer("quick", (2, 32, 8, 8), 8, "small maps", "no network"),
         Layer("quick volume", (1, 16, 4, 6, 6), 4, "3-D", "no network"),
         Layer("quick 1 MB", (1, 64, 64, 64), 32, "U-Net", "no network"))


@dataclasses.dataclass
class Task:
    "What is to be normalized, by which groups, and in which mode."
    x:torch.Tensor
    weight:torch.Tensor
    bias:torch.Tensor
    dy:torch.Tensor
    groups:int
    layout:str
    mode:str = "forward"

    def to(self, dtype):
        return dataclasses.replace(self, **{k: getattr(self, k).to(dtype) for k in ("x", "weight", "bias", "dy")})


def arranged(t, layout):
    "The tensor with the strides of a layout."
    last = {4: torch.channels_last, 5: torch.channels_last_3d}[t.dim()]
    return t.contiguous(memory_format=last if layout == "channels_last" else torch.contiguous_format)


def make_task(x, groups, dtype, layout):
    "A task in forward mode with random parameters and cotangent; x float32 or float64, (N, C, *)."
    source = torch.Generator().manual_seed(1)
    weight, bias = torch.randn(2, x.shape[1], generator=source, dtype=torch.float32)
    dy = torch.randn(x.shape, generator=source, dtype=torch.float32)
    kind = getattr(torch, dtype)
    return Task(arranged(x.to(kind), layout), (1 + weight/4).to(kind), bias.to(kind), arranged(dy.to(kind), layout),
                groups, layout)


def context(mode):
    "Gradients are recorded in backward mode only."
    return torch.enable_grad() if mode == "backward" else torch.inference_mode()


class Absent(Exception):
    "Why a contestant does not take part."


# The contestants: each takes a task and returns a function without arguments, to be timed, and one that turns its
# result into tensors (N, C, *): the output, or the gradients by input, weight and bias.

def as_torch(norm, task):
    "A contestant in torch, from its function of input, weight and bias."
    given = task.x, task.weight, task.bias
    if task.mode != "backward": return partial(norm, *given), lambda y: (y,)
    given = [t.detach().requires_grad_() for t in given]
    y = norm(*given)
    return partial(torch.autograd.grad, y, given, task.dy, retain_graph=True), lambda grads: grads


def ours(task):
    activation = "silu" if task.mode == "silu" else None
    options = {"out": torch.empty_like(task.x)} if task.mode == "reuse" else {}
    return as_torch(lambda x, w, b: gn_nb.group_norm(x, task.groups, w, b, EPS, activation, **options), task)


def theirs(task):
    "torch's own, as a function of input, weight and bias."
    if task.mode == "reuse": raise Absent("torch's group_norm takes no buffer for its result")
    if task.mode == "silu": return lambda x, w, b: F.silu(F.group_norm(x, task.groups, w, b, EPS))
    return lambda x, w, b: F.group_norm(x, task.groups, w, b, EPS)


def torch_eager(task): return as_torch(theirs(task), task)


def torch_compiled(task):
    norm = theirs(task)
    torch._dynamo.reset()                                        # every task is compiled for its own shape
    torch._functorch.config.donated_buffer = False               # the graph is retained, so its buffers must be
    return as_torch(torch.compile(norm, fullgraph=True, dynamic=False), task)


def limit(task):
    "What no function that reads x and writes as much can be much faster than."
    if task.mode == "reuse": return partial(torch.empty_like(task.x).copy_, task.x), lambda y: None
    return (partial(torch.add, task.x, task.dy) if task.mode == "backward" else task.x.clone), lambda y: None


def onnx_model(task):
    "GroupNormalization of opset 21, with x*sigmoid(x) behind it in mode silu, as bytes."
    from onnx import TensorProto, helper
    kind = {torch.float32: TensorProto.FLOAT, torch.bfloat16: TensorProto.BFLOAT16,
            torch.float16: TensorProto.FLOAT16}[task.x.dtype]
    silu = task.mode == "silu"
    nodes = [helper.make_node("GroupNormalization", ["x", "w", "b"], ["z" if silu else "y"], num_groups=task.groups,
                              epsilon=EPS)]
    if silu: nodes += [helper.make_node("Sigmoid", ["z"], ["s"]), helper.make_node("Mul", ["z", "s"], ["y"])]
    shapes = {"x": [*task.x.shape], "w": [*task.weight.shape], "b": [*task.bias.shape], "y": [*task.x.shape]}
    x, w, b, y = (helper.make_tensor_value_info(name, kind, shape) for name, shape in shapes.items())
    graph = helper.make_graph(nodes, "group_norm", [x, w, b], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return model.SerializeToString()


def onnx_runtime(task):
    import onnxruntime
    if task.mode == "backward": raise Absent("onnxruntime computes no gradients")
    if task.mode == "reuse": raise Absent("left out: its arena reuses the memory of results anyway")
    if task.layout != "contiguous": raise Absent("a tensor of ONNX is (N, C, *), contiguous")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4
    # its idle threads would otherwise spin into the turn of the next contestant
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(onnx_model(task), options, providers=["CPUExecutionProvider"])
    if task.x.dtype == torch.bfloat16: raise Absent("it has the kernels, but NumPy has no bfloat16 to hand over")
    given = {name: onnxruntime.OrtValue.ortvalue_from_numpy(t.numpy())
             for name, t in {"x": task.x, "w": task.weight, "b": task.bias}.items()}
    return partial(session.run_with_ort_values, ["y"], given), lambda y: (torch.from_numpy(y[0].numpy()),)


def jax_function(task):
    "flax.nnx.GroupNorm as a function of input, weight and bias; the features are its last axis."
    import jax.numpy as jnp
    from flax import nnx
    dtype = jnp.dtype(str(task.x.dtype).removeprefix("torch."))
    module = nnx.GroupNorm(task.x.shape[1], num_groups=task.groups, epsilon=EPS, dtype=dtype, param_dtype=dtype,
                           rngs=nnx.Rngs(0))
    definition, _ = nnx.split(module)
    def norm(x, w, b):
        x = x if task.layout == "channels_last" else jnp.moveaxis(x, 1, -1)
        y = nnx.merge(definition, nnx.State({"scale": nnx.Param(w), "bias": nnx.Param(b)}))(x)
        if task.mode == "silu": y = nnx.silu(y)
        return y if task.layout == "channels_last" else jnp.moveaxis(y, -1, 1)
    return norm


def jax_flax(task):
    os.environ.setdefault("NPROC", str(torch.get_num_threads()))         # how many threads XLA starts
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax
    if task.mode == "reuse": raise Absent("arrays of JAX cannot be written to")
    last = task.layout == "channels_last"
    x, dy, w, b = (jax.dlpack.from_dlpack(t.movedim(1, -1) if last and t.dim() > 1 else t)
                   for t in (task.x, task.dy, task.weight, task.bias))
    def back(y): return torch.from_dlpack(y).movedim(-1, 1) if last and y.ndim > 1 else torch.from_dlpack(y)
    norm = jax.jit(jax_function(task))
    if task.mode != "backward": return lambda: jax.block_until_ready(norm(x, w, b)), lambda y: (back(y),)
    _, pull = jax.vjp(norm, x, w, b)
    pull_back = jax.jit(lambda pull, dy: pull(dy))
    return lambda: jax.block_until_ready(pull_back(pull, dy)), lambda grads: tuple(map(back, grads))


CONTESTANTS = {"gn_nb": ours, "torch": torch_eager, "torch.compile": torch_compiled, "limit": limit,
               "onnxruntime": onnx_runtime, "jax": jax_flax}


def reason(error):
    "Why a peer is absent, in one line that names no folder."
    if isinstance(error, ModuleNotFoundError): return f"{error.name} is not installed"
    line = next(iter(str(error).splitlines()), "")[:200]
    if isinstance(error, Absent): return line
    return re.sub(r"(?<![\w.])/[\w./-]+", "...", f"{type(error).__name__}: {line}")


def entry(name, task):
    "(call, read) of a contestant and its first result as tensors, or the reason why it is absent."
    try:
        call, to_tensors = CONTESTANTS[name](task)
        with context(task.mode): return call, to_tensors(call()), None
    except Exception as error:
        if name not in PEERS and not isinstance(error, Absent): raise
        return None, None, reason(error)


# Time

def expected(task):
    "What the contestants should return, torch's results in float32, each with its largest value."
    mode = "forward" if task.mode == "reuse" else task.mode
    _, found, _ = entry("torch", dataclasses.replace(task.to(torch.float32), mode=mode))
    return [(t, float(t.abs().max())) for t in found]


def wrong(found, wanted, dtype):
    "A sentence if some result is not what it should be."
    for a, (b, largest) in zip(found, wanted, strict=True):
        if a.shape != b.shape: return f"wrong result, shape {tuple(a.shape)} in place of {tuple(b.shape)}"
        error = float((a - b).abs_().max())/largest
        if not error <= TOLERANCE[dtype]: return f"wrong result, error {error:.2g} of the largest value"


def measure(task, where, contestants, rounds, window):
    "Rows of all who take part in one task, and who is absent; every result is checked before it is timed."
    calls, absent, wanted = {}, [], expected(task)
    for name in contestants:
        call, found, why = entry(name, task)
        if not why and found is not None: why = wrong(found, wanted, where["dtype"])
        if why and name == "gn_nb": raise RuntimeError(f"{where}: {why}")
        if why: absent.append({k: v for k, v in where.items() if k != "layer"} | {"contestant": name, "reason": why})
        else: calls[name] = call
        del found
    with context(task.mode): turns = records.take_turns(calls, rounds, window, PAUSE)
    return records.timed_rows(where, turns), absent


def tasks(layer, modes):
    "(where, task) of a layer in every dtype, layout and mode."
    x = 0.5 + 1.5*torch.randn(layer.shape, generator=torch.Generator().manual_seed(0))
    for dtype, layout in product(DTYPES, LAYOUTS):
        task = make_task(x, layer.groups, dtype, layout)
        for mode in modes:
            yield dict(layer=layer.name, dtype=dtype, layout=layout, mode=mode), dataclasses.replace(task, mode=mode)


def measure_layers(layers, contestants, modes, rounds, window):
    "Rows of the whole grid, and the absent, each reason once."
    rows, absent = [], {}
    torch.empty(31 << 20, dtype=torch.uint8)                     # see POLICY["allocator"]; freed at once
    for k, layer in enumerate(layers, 1):
        print(f"{k}/{len(layers)} {layer.name} {layer.shape}", file=sys.stderr, flush=True)
        for where, task in tasks(layer, modes):
            found, missing = measure(task, where, contestants, rounds, window)
            rows += found
            absent |= {tuple(sorted(row.items())): row for row in missing}
    return rows, [*absent.values()]


def compile_one(layer, modes):
    "Leave the machine code of torch.compile for a layer in inductor's cache."
    for _, task in tasks(layer, modes): entry("torch.compile", task)


def compile_ahead(layers, modes):
    "Compile with all cores before anything is timed; torch.compile later finds its code on the disk."
    print(f"compiling {len(layers)} layers for torch.compile ...", file=sys.stderr, flush=True)
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        for _ in pool.map(partial(compile_one, modes=modes), layers): pass


# Errors

def one_outlier(x):
    x[0, 0, 0, 0] = 1e4
    return x


def one_constant_group(x):
    x[0, :8] = 7.25
    return x


SHAPE, GROUPS = (2, 64, 32, 32), 8
ADVERSARIAL = (      # name, dtype, function of standard normal numbers
    ("mean 1e3, deviation 1e-2", "float32", lambda x: 1e3 + 1e-2*x),
    ("one value of 1e4", "float32", one_outlier),
    ("a constant group", "float32", one_constant_group),
    ("near overflow", "float16", lambda x: np.clip(3e4*x, -6.5e4, 6.5e4)),
    ("mean near overflow", "float16", lambda x: 6e4 + 1e3*np.clip(x, -5, 5)),
    ("normal", "bfloat16", lambda x: x),
    ("mean 10, deviation 0.1", "bfloat16", lambda x: 10 + .1*x),
    ("one value of 1e4", "bfloat16", one_outlier))


def exact(task):
    "Name -> float64 result, by the definition in NumPy."
    x, weight, bias, dy = (t.double().contiguous().numpy() for t in (task.x, task.weight, task.bias, task.dy))
    y, mean, rstd = reference.forward(x, task.groups, weight, bias, EPS)
    if task.mode == "forward": return {"y": y}
    if task.mode == "silu": return {"y": F.silu(torch.from_numpy(y)).numpy()}
    return dict(zip(("dx", "dweight", "dbias"), reference.backward(dy, x, mean, rstd, task.groups, weight)))


def error_row(where, contestant, output, found, wanted):
    error = max_error(found, wanted)
    error = float(f"{error:.4g}") if np.isfinite(error) else None
    return where | {"contestant": contestant, "output": output, "error": error}


def measure_errors(contestants, modes):
    "Rows of the error of every contestant, and of rounding once, on every adversarial case."
    rows = []
    for (case, dtype, values), layout, mode in product(ADVERSARIAL, LAYOUTS, modes):
        x = torch.from_numpy(values(np.random.default_rng(0).standard_normal(SHAPE)))
        task = dataclasses.replace(make_task(x, GROUPS, dtype, layout), mode=mode)
        where, wanted = dict(case=case, dtype=dtype, layout=layout, mode=mode), exact(task)
        for output, values_wanted in wanted.items():
            rounded = torch.from_numpy(values_wanted).to(task.x.dtype)
            rows.append(error_row(where, "rounding", output, rounded, values_wanted))
        for name in contestants:
            found = entry(name, task)[1]
            if found is None: continue
            rows += [error_row(where, name, output, f, wanted[output]) for output, f in zip(wanted, found, strict=True)]
    return rows


# Memory

MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(64 << 10)}     # for the process that measures it, see POLICY["memory"]


def resident(field, file="status"):
    "Bytes, from /proc/self."
    return 1024*int(re.search(rf"^{field}:\s*(\d+) kB", Path(f"/proc/self/{file}").read_text(), re.M)[1])


def peak_extra(call, to_tensors):
    "Bytes that a call needs at its peak beside its results; see POLICY['memory']."
    ctypes.CDLL(None).malloc_trim(0)
    before = resident("Rss", "smaps_rollup")
    Path("/proc/self/clear_refs").write_text("5")                # the peak begins anew
    result = call()
    return resident("VmHWM") - before - sum(t.nbytes for t in to_tensors(result))


def memory_rows(layers, modes, contestants=("gn_nb", "torch")):
    "The largest extra memory of each contestant in every mode, dtype and layout, and the layer where it was."
    worst = {}
    for layer in layers:
        for where, task in tasks(layer, modes):
            for name in contestants:
                call, to_tensors = CONTESTANTS[name](task)
                with context(task.mode):
                    call()
                    extra = min(peak_extra(call, to_tensors) for _ in range(3))
                key = (name, task.mode, where["dtype"], task.layout)
                if key not in worst or extra > worst[key]["extra"]:
                    worst[key] = where | {"contestant": name, "extra": extra}
    return [*worst.values()]


def measure_memory(quick, modes):
    "memory_rows in a process of its own; empty where the system does not tell."
    if not Path("/proc/self/clear_refs").exists(): return []
    print("peak memory ...", file=sys.stderr, flush=True)
    command = [sys.executable, __file__, "--memory", "--only", ",".join(modes), *["--quick"]*quick]
    found = subprocess.run(command, env=os.environ | MALLOC, check=True,
                           capture_output=True, text=True)
    return json.loads(found.stdout)


# The record

def machine():
    "What the times depend on; no names."
    def text(path): return Path(path).read_text().strip() if Path(path).exists() else ""
    model = re.search(r"^model name\s*:\s*(.+)$", text("/proc/cpuinfo"), re.M)
    caches = {f"L{text(i/'level')} {text(i/'type').lower()}": text(i/"size")
              for i in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"))}
    pages = re.search(r"\[(\w+)\]", text("/sys/kernel/mm/transparent_hugepage/enabled"))
    return {"cpu": model[1] if model else platform.processor(), "cores": os.cpu_count(), "caches": caches,
            "simd": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads(),
            "system": f"{platform.system()} {platform.machine()}", "huge pages": pages[1] if pages else "",
            "load before": round(os.getloadavg()[0], 2)}


def versions():
    "Of all that took part."
    found = {"python": platform.python_version()}
    for name in ("gn_nb", "torch", "numpy", "numba", "jax", "flax", "onnx", "onnxruntime"):
        try: found[name] = version(name)
        except PackageNotFoundError: pass
    return found


def make_record(args, layers, modes, contestants):
    "Measure everything."
    about = dict(machine=machine(), versions=versions(), date=date.today().isoformat(), policy=POLICY, quick=args.quick,
                 layers=[layer._asdict() for layer in layers])
    timed = [m for m in modes if m != "reuse"]
    if "torch.compile" in contestants: compile_ahead(layers, timed)
    rounds, window = (3, WINDOW/4) if args.quick else (ROUNDS, WINDOW)
    rows, absent = measure_layers(layers, contestants, modes, rounds, window)
    errors = measure_errors([c for c in contestants if c != "limit"], timed)
    return about | dict(rows=rows, absent=absent, errors=errors, memory=measure_memory(args.quick, timed))


def arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    def names(known): return lambda text: [known[known.index(name)] for name in text.split(",") if name]
    parser.add_argument("--quick", action="store_true", help="three tiny layers: does it work?")
    parser.add_argument("--only", type=names(MODES), default=MODES, metavar="MODE,...", help=f"of {', '.join(MODES)}")
    parser.add_argument("--peers", type=names(PEERS), default=PEERS, metavar="PEER,...",
                        help=f"beside torch eager; of {', '.join(PEERS)}; '' for none")
    parser.add_argument("--out", type=Path, help="where to write the record; a full run writes results/cpu.json")
    parser.add_argument("--table", action="store_true", help="print the tables of the record, and measure nothing")
    parser.add_argument("--memory", action="store_true", help="measure and print peak memory alone")
    return parser.parse_args(argv)


def main(argv=None):
    args = arguments(argv)
    layers, partial_run = (QUICK if args.quick else GRID), args.quick or (args.only, args.peers) != (MODES, PEERS)
    if args.memory: return print(json.dumps(memory_rows(layers, args.only)))
    out = args.out or (None if partial_run and not args.table else RECORD)
    if args.table: record = records.read(out)
    else:
        contestants = [name for name in CONTESTANTS if name not in PEERS or name in args.peers]
        record = records.check_record(make_record(args, layers, args.only, contestants))
        if out:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(record, separators=(",", ":"), allow_nan=False) + "\n", encoding="utf-8")
    print(records.peer_table(record), records.goal_table(record), sep="\n\n")


if __name__ == "__main__": main()
