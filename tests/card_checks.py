"""What group_norm must do on a CUDA card, in plain functions: for test_cuda_card.py, and for a Python without pytest.

    python tests/card_checks.py               all of them, on this card, by several processes
    python tests/card_checks.py --sanitize    twenty shapes, once, with few kernels beside ours: under compute-sanitizer
"""
import argparse
import itertools
import os
import sys
import threading
import time
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context

import numpy as np
import torch
import torch.nn.functional as F

import gn_nb
from gn_nb import cuda, ops
from gn_nb.testing import must_raise

SMALL = cuda.Card((9, 0), 2, 1 << 20, warp=4, threads=8, most=16)
ACTIVATIONS = {None: lambda z: z, "relu": F.relu, "silu": F.silu, "gelu": F.gelu}
HALF = (torch.float16, torch.bfloat16)
DTYPES, LAYOUTS = (torch.float32, *HALF, torch.float64), ("contiguous", "channels_last")


class Skipped(Exception):
    "Why a check was not made."


class Place:
    "A card, or the CPU whose tensors a simulated card takes for its own."
    def __init__(self, device): self.device, self.simulated = device, device == "cpu"

    def needs_card(self, what):
        if self.simulated: raise Skipped(f"{what} needs a CUDA card")


@contextmanager
def simulated():
    "A Place on which every tensor of a dtype that the kernels know lies on the simulated card."
    changed = dict(card_kernels=lambda: cuda, for_card=lambda input: input.dtype in ops.DTYPE,
                   executor=lambda device: (SMALL, cuda.play))
    before = {name: getattr(ops, name) for name in changed}
    for name, f in changed.items(): setattr(ops, name, f)
    try: yield Place("cpu")
    finally:
        for name, f in before.items(): setattr(ops, name, f)


CHECKS = {}                     # name -> function of a place


def check(**axes):
    "Decorator: a check for every combination of the values of the axes."
    def register(f):
        for values in itertools.product(*axes.values()):
            which = ", ".join(str(v).removeprefix("torch.") for v in values)
            CHECKS[f"{f.__name__}[{which}]" if axes else f.__name__] = partial(f, **dict(zip(axes, values)))
        return f
    return register


def draw(place, shape, dtype=torch.float32, seed=0, layout="contiguous"):
    "Normal numbers, made on the CPU."
    x = torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).to(dtype).to(place.device)
    return arranged(x, layout)


def arranged(x, layout):
    last = ops.LAST.get(x.dim()) if layout == "channels_last" else None
    return x.contiguous(memory_format=last or torch.contiguous_format)


def composed(x, G, w=None, b=None, activation=None, scale=None, shift=None):
    "The same by torch, in the dtype of x."
    def spread(t): return t.to(x.dtype).reshape(-1, x.shape[1], *(1,)*(x.ndim - 2))
    y = F.group_norm(x, G)
    if w is not None: y = y*spread(w)
    if b is not None: y = y + spread(b)
    if scale is not None: y = y*(1 + spread(scale))
    if shift is not None: y = y + spread(shift)
    return ACTIVATIONS[activation](y)


def with_gradients(norm, dy, given):
    "The result of norm(*given) and its gradients by all that is given; the tensors are not changed."
    given = [None if t is None else t.detach().requires_grad_() for t in given]
    y = norm(*given)
    return y.detach(), *torch.autograd.grad(y, [t for t in given if t is not None], dy)


def error(found, wanted):
    "The largest difference, relative to the largest value where that is above 1."
    found, wanted = found.double(), wanted.double()
    assert found.shape == wanted.shape, f"shape is {tuple(found.shape)}, expected {tuple(wanted.shape)}"
    return float((found - wanted).abs().max())/max(1., float(wanted.abs().max())) if wanted.numel() else 0.


def compare(x, dy, G, parameters, activation=None, scaling=(None, None)):
    """Value and gradients of group_norm against float64, where torch in the same dtype, and rounding, say what error is
    natural: at most twice as much, for a few numbers are rounded by luck; and 4 units of 2**-24."""
    def ours(x, w, b, scale, shift):
        return gn_nb.group_norm(x, G, w, b, activation=activation, scale=scale, shift=shift)
    def torchs(x, w, b, scale, shift): return composed(x, G, w, b, activation, scale, shift)
    given = [x, *parameters, *scaling]
    found = with_gradients(ours, dy, given)
    exact = with_gradients(torchs, dy.double(), [t if t is None else t.double() for t in given])
    theirs = with_gradients(torchs, dy, given)
    names = "y", *(name for name, t in zip(("dx", "dweight", "dbias", "dscale", "dshift"), given) if t is not None)
    for name, a, e, t, like in zip(names, found, exact, theirs, [x, *(t for t in given if t is not None)], strict=True):
        assert a.dtype is like.dtype, f"{name} is {a.dtype}, expected {like.dtype}"
        floor = 1e-12 if x.dtype is torch.float64 else 2.4e-7
        bound = 2*max(error(t, e), error(e.to(a.dtype), e), floor)
        assert error(a, e) <= bound, f"{name} is off by {error(a, e):.3g}, more than {bound:.3g}"
    assert found[0].stride() == found[1].stride() == x.stride() or x.numel() == x.shape[1]


TINY = (((2, 8, 5, 7), 4), ((1, 6, 9, 5), 1), ((3, 12, 1, 2), 3))
SHAPES = (*TINY, ((2, 320, 32, 32), 32), ((1, 128, 256, 256), 32), ((3, 30, 37, 41), 3), ((8, 13, 17, 19), 13),
          ((1, 32, 512, 512), 1), ((16, 64, 16, 16), 64), ((2, 70, 33, 35), 10), ((1, 64, 4, 40, 42), 8),
          ((64, 512, 7, 7), 32), ((1, 128, 512, 512), 32), ((8, 256, 56, 56), 32), ((2, 960, 64, 64), 32))


# Values

@check(dtype=DTYPES, layout=LAYOUTS)
def values(place, dtype, layout):
    "Values and gradients, with and without parameters and activation."
    some = TINY if place.simulated else SHAPES[::3] if dtype is torch.float64 else SHAPES
    for k, (shape, G) in enumerate(some):
        x, dy = (draw(place, shape, dtype, seed, layout) for seed in (k, k + 1))
        w, b = (draw(place, shape[1:2], dtype, seed) for seed in (k + 2, k + 3))
        activation = ("silu", None, "gelu")[k % 3]
        compare(x, dy, G, ((w, b), (w, None), (None, b), (w, b))[k % 4], activation)


@check(layout=LAYOUTS)
def ranks(place, layout):
    "From (N, C) to three spatial axes and more."
    for shape, G in (((5, 12), 3), ((2, 6, 9), 2), ((2, 4, 3, 5, 2), 2), ((2, 4, 2, 3, 2, 2), 2)):
        x, dy = (draw(place, shape, torch.float32, seed, layout) for seed in (0, 1))
        compare(x, dy, G, (draw(place, shape[1:2], seed=2), draw(place, shape[1:2], seed=3)), "silu")


@check(dtype=(torch.float32, torch.bfloat16), layout=LAYOUTS)
def scale_and_shift(place, dtype, layout):
    for shape, G in TINY if place.simulated else SHAPES[:6]:
        x, dy = (draw(place, shape, dtype, seed, layout) for seed in (0, 1))
        w, b = (draw(place, shape[1:2], dtype, seed) for seed in (2, 3))
        compare(x, dy, G, (w, b), "silu", [draw(place, shape[:2], dtype, seed) for seed in (4, 5)])


@check(layout=LAYOUTS)
def wide_parameters(place, layout):
    "bfloat16 with parameters of float32: a result in bfloat16, their gradients in float32."
    for shape, G in TINY if place.simulated else SHAPES[:6]:
        x, dy = (draw(place, shape, torch.bfloat16, seed, layout) for seed in (0, 1))
        w, b = (draw(place, shape[1:2], seed=seed) for seed in (2, 3))
        found = with_gradients(lambda x, w, b, G=G: gn_nb.group_norm(x, G, w, b), dy, (x, w, b))
        exact = with_gradients(lambda x, w, b, G=G: composed(x, G, w, b), dy.double(), [t.double() for t in (x, w, b)])
        for a, e, kind, tol in zip(found, exact, (torch.bfloat16,)*2 + (torch.float32,)*2, (5e-3, 5e-3, 1e-5, 1e-5)):
            assert a.dtype is kind and error(a, e) <= tol, (a.dtype, error(a, e))        # a rounding is 2**-9 to 2**-8


@check(dtype=(torch.float32, torch.bfloat16, torch.float16))
def misaligned(place, dtype):
    "A tensor that begins between two multiples of 16 bytes."
    for shape, G in TINY[:2] if place.simulated else SHAPES[:8]:
        n = int(np.prod(shape))
        x, dy = (draw(place, (n + 1,), dtype, seed)[1:].view(shape) for seed in (0, 1))
        assert x.data_ptr() % 16
        compare(x, dy, G, [draw(place, shape[1:2], dtype, seed) for seed in (2, 3)])


@check()
def not_contiguous(place):
    "Slices, transposed and expanded tensors give what their copies give, bit by bit."
    for shape, G in TINY[:2] if place.simulated else SHAPES[:6]:
        wide = draw(place, (shape[0], 2*shape[1], *shape[2:]))
        for x in (wide[:, ::2], draw(place, (shape[1], shape[0], *shape[2:])).transpose(0, 1),
                  draw(place, (1, *shape[1:])).expand(shape)):
            dy = draw(place, (1,)*len(shape), seed=1).expand(shape)
            norm = partial(gn_nb.group_norm, num_groups=G)
            for a, e in zip(with_gradients(norm, dy, [x]), with_gradients(norm, dy.contiguous(), [x.contiguous()])):
                assert torch.equal(a, e)


@check(layout=LAYOUTS)
def means(place, layout):
    "The same accuracy whatever the mean; a constant group is exactly the bias."
    shape, G = ((2, 8, 8, 6), 2) if place.simulated else ((2, 64, 48, 48), 8)
    noise = draw(place, shape, torch.float64)
    for mean in (0, 1e2, 1e4, 1e5):
        x = arranged((noise + mean).float(), layout)
        assert error(gn_nb.group_norm(x, G), F.group_norm(x.double(), G)) <= 1e-6, mean
    for dtype, value in itertools.product(DTYPES, (0.1, 350.1, -1e4)):
        x = arranged(torch.full(shape, value, dtype=dtype, device=place.device), layout)
        b = draw(place, (shape[1],), dtype)
        y = gn_nb.group_norm(x, G, None, b)
        assert torch.equal(y, b.reshape(1, -1, 1, 1).expand(shape)), (dtype, value)


@check(layout=LAYOUTS)
def not_finite(place, layout):
    "NaN and infinity stay in their group."
    shape, G = ((3, 8, 5, 5), 4) if place.simulated else ((3, 64, 33, 35), 4)
    x, dy = (draw(place, shape, seed=seed, layout=layout) for seed in (0, 1))
    norm = partial(gn_nb.group_norm, num_groups=G, activation="silu")
    clean, D = with_gradients(norm, dy, [x]), shape[1]//G
    for bad in (torch.nan, torch.inf):
        spoilt = x.clone()
        spoilt[1, D, 3, 3] = bad
        inside = torch.zeros(shape, dtype=torch.bool, device=place.device)
        inside[1, D:2*D] = True
        for a, e in zip(with_gradients(norm, dy, [spoilt]), clean):
            assert torch.equal(a[~inside], e[~inside]) and not a[inside].isfinite().any()


@check()
def empty(place):
    w, b = torch.ones(4, device=place.device), torch.zeros(4, device=place.device)
    for shape in ((0, 4, 5), (2, 4, 0)):
        x = torch.empty(shape, device=place.device)
        y, dx, dw, db = with_gradients(lambda x, w, b: gn_nb.group_norm(x, 2, w, b), x, (x, w, b))
        assert y.shape == dx.shape == shape and not dw.any() and not db.any()


@check()
def errors(place):
    x = draw(place, (2, 6, 4))
    must_raise(ValueError, "num_channels (6) must be divisible by num_groups (4)", gn_nb.group_norm, x, 4)
    must_raise(ValueError, "weight", gn_nb.group_norm, x, 2, torch.ones(5, device=place.device))
    must_raise(TypeError, "floating", gn_nb.group_norm, x.long(), 2)
    if not place.simulated: must_raise(ValueError, "device", gn_nb.group_norm, x, 2, torch.ones(6))


@check(layout=LAYOUTS)
def in_place(place, layout):
    for shape, G in TINY if place.simulated else SHAPES[:8]:
        x = draw(place, shape, layout=layout)
        y, out = gn_nb.group_norm(x, G), arranged(torch.full(shape, torch.nan, device=place.device), layout)
        assert gn_nb.group_norm(x, G, out=out) is out and torch.equal(out, y)
        assert gn_nb.group_norm(x, G, out=x) is x and torch.equal(x, y)


@check(layout=LAYOUTS)
def huge(place, layout):
    "More than 2**31 elements: the first group and the last, forward and backward."
    place.needs_card("a tensor of more than 2**31 elements")
    shape, G = (2, 16, 8192, 8200), 2
    count = int(np.prod(shape))
    free = torch.cuda.mem_get_info()[0]
    if free < 13*count: raise Skipped(f"needs {13*count/2**30:.0f} GiB of free memory, {free/2**30:.0f} are there")
    x = torch.empty(shape, dtype=torch.bfloat16, device="cuda", memory_format=torch.channels_last) if (
        layout == "channels_last") else torch.empty(shape, dtype=torch.bfloat16, device="cuda")
    for sample in x: sample.normal_()
    w = (1 + draw(place, (16,))/4).bfloat16()
    x.requires_grad_()
    y = gn_nb.group_norm(x, G, w)
    dx, = torch.autograd.grad(y, x, x.detach())
    with torch.no_grad():
        for n, g in ((0, 0), (1, 1)):
            some, ws = (n, slice(8*g, 8*g + 8)), w[8*g:8*g + 8].float().reshape(8, 1, 1)
            v = x.detach()[some].float()
            # sums in float64, of parts, so that no copy of all in float64 is needed
            mean = sum(float(row.double().sum()) for row in v)/v.numel()
            v -= mean
            rstd = (sum(float(row.double().square().sum()) for row in v)/v.numel() + 1e-5)**-.5
            v *= rstd
            assert float((y.detach()[some] - v*ws).abs().max()) <= 2**-7*8, "y"          # values below 8, rounded twice
            dz = x.detach()[some].float()*ws
            a, c = (sum(float(row.double().sum()) for row in t)/v.numel() for t in (dz, dz*v))
            assert float((dx[some] - rstd*(dz - a - v*c)).abs().max()) <= 2**-7*8, "dx"
            del v, dz


# The same every time

@check(dtype=(torch.float32, torch.bfloat16, torch.float16), layout=LAYOUTS)
def same_bits(place, dtype, layout):
    "A hundred runs."
    for shape, G in TINY[:1] if place.simulated else (*SHAPES[3:5], SHAPES[7], *SHAPES[11:13]):
        given = [draw(place, shape, dtype, 0, layout), *(draw(place, shape[1:2], dtype, seed) for seed in (1, 2))]
        dy = draw(place, shape, dtype, 3, layout)
        def norm(x, w, b, G=G): return gn_nb.group_norm(x, G, w, b, activation="silu")
        first = with_gradients(norm, dy, given)
        for _ in range(2 if place.simulated else 99):
            assert all(map(torch.equal, with_gradients(norm, dy, given), first)), shape


# torch

@check(layout=LAYOUTS)
def graph(place, layout):
    "Captured in a CUDA graph, forward and backward, and replayed on other numbers: the bits of eager mode."
    place.needs_card("a CUDA graph")
    for shape, G in (*SHAPES[3:5], SHAPES[7], SHAPES[12]):
        x, dy = (draw(place, shape, torch.bfloat16, seed, layout) for seed in (0, 1))
        w, b = (draw(place, shape[1:2], torch.bfloat16, seed) for seed in (2, 3))
        def norm(x, w, b, G=G): return gn_nb.group_norm(x, G, w, b, activation="silu")
        work = partial(with_gradients, norm, dy, (x, w, b))
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side): work()                             # loads the kernels
        torch.cuda.current_stream().wait_stream(side)
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured): found = work()
        for seed in (4, 5):
            x.copy_(draw(place, shape, torch.bfloat16, seed, layout))
            for t in found: t.fill_(torch.nan)
            captured.replay()
            assert all(map(torch.equal, found, work()))


@check()
def streams(place):
    "On whatever stream is torch's current one, and without waiting for the card."
    place.needs_card("a stream")
    shape, G = SHAPES[4]
    x = draw(place, shape)
    wanted = gn_nb.group_norm(3*x, G)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        late = torch.zeros_like(x)
        torch.cuda._sleep(10**8)
        late.copy_(3*x)
        y = gn_nb.group_norm(late, G)
        done = side.record_event()
    assert not done.query(), "the call waited for the card"
    side.synchronize()
    assert torch.equal(y, wanted)


@check()
def side_by_side(place):
    "On three streams at once, each time the same bits."
    place.needs_card("a stream")
    shape, G = SHAPES[12]
    given = [draw(place, shape, torch.bfloat16, seed) for seed in (0, 1)]
    w, b = (draw(place, shape[1:2], torch.bfloat16, seed) for seed in (2, 3))
    def norm(x, w, b): return gn_nb.group_norm(x, G, w, b, activation="silu")
    wanted = with_gradients(norm, given[1], (given[0], w, b))
    sides, found = [torch.cuda.Stream() for _ in range(3)], []
    for side in sides: side.wait_stream(torch.cuda.current_stream())
    for _ in range(30):
        for side in sides:
            with torch.cuda.stream(side): found.append(with_gradients(norm, given[1], (given[0], w, b)))
        torch.cuda.synchronize()
        assert all(all(map(torch.equal, some, wanted)) for some in found)
        found.clear()


@check()
def threads(place):
    "Several threads of Python at once."
    shapes, failures = TINY[:2]*2 if place.simulated else SHAPES[:8], []
    def work(k):
        try:
            shape, G = shapes[k]
            x = draw(place, shape, seed=k)
            for _ in range(1 if place.simulated else 20):
                assert error(gn_nb.group_norm(x, G), F.group_norm(x.double(), G)) <= 1e-6
        except Exception as e: failures.append(e)
    running = [threading.Thread(target=work, args=(k,)) for k in range(len(shapes))]
    for t in running: t.start()
    for t in running: t.join()
    if failures: raise failures[0]


@check()
def other_devices(place):
    "A tensor on another card than the current one."
    place.needs_card("a second card")
    if torch.cuda.device_count() < 2: raise Skipped("needs two CUDA cards")
    x = draw(place, *SHAPES[3][:1]).to("cuda:1")
    y = gn_nb.group_norm(x, 32)
    assert y.device == x.device and error(y, F.group_norm(x.double(), 32)) <= 1e-6


@check()
def second_order(place):
    "Gradients by finite differences, and gradients of gradients."
    x, w, b = (draw(place, shape, torch.float64, seed) for seed, shape in enumerate(((2, 4, 3), (4,), (4,))))
    def norm(x, w, b): return gn_nb.group_norm(x, 2, w, b, 1e-2, "silu")
    given = [t.requires_grad_() for t in (x, w, b)]
    assert torch.autograd.gradcheck(norm, given, fast_mode=place.simulated)
    assert torch.autograd.gradgradcheck(norm, given, fast_mode=place.simulated)


@check(layout=LAYOUTS)
def brought_back(place, layout):
    "Gradients where what was saved comes back in the other memory format, or at an address that is no multiple of 16."
    other = LAYOUTS[layout == LAYOUTS[0]]
    x, dy = (draw(place, (2, 8, 5, 7), seed=k, layout=layout) for k in (0, 1))
    w, b = draw(place, (2, 8), seed=2)
    def elsewhere(t):
        moved = torch.empty_like(F.pad(t.flatten(), (1, 0)))[1:].as_strided(t.shape, t.stride())
        return moved.copy_(t)
    given = x, w, b
    exact = with_gradients(lambda x, w, b: composed(x, 4, w, b), dy.double(), [t.double() for t in given])
    for unpack in (lambda t: arranged(t, other).clone() if t.dim() == 4 else t), elsewhere:
        def norm(x, w, b, unpack=unpack):
            with torch.autograd.graph.saved_tensors_hooks(lambda t: t, unpack): return gn_nb.group_norm(x, 4, w, b)
        for _ in range(2):                                                       # at first, and once known
            for found, wanted in zip(with_gradients(norm, dy, given), exact, strict=True):
                assert error(found, wanted) <= 2e-6


@check()
def operator(place):
    "torch's own checks of an operator: schema, fake tensors, autograd, ahead-of-time dispatch."
    place.needs_card("torch.library.opcheck")
    for dtype in (torch.float32, torch.bfloat16):
        x, w, b = (draw(place, shape, dtype, seed).requires_grad_()
                   for seed, shape in enumerate(((2, 8, 5, 7), (8,), (8,))))
        torch.library.opcheck(ops.forward_op, (x, 4, w, b, 1e-5, "silu"), test_utils=(
            "test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"))


@check(dtype=(torch.float32, torch.bfloat16))
def module(place, dtype):
    "GroupNorm takes torch's state and does what torch's does."
    shape, G = ((2, 8, 5, 7), 4) if place.simulated else SHAPES[3]
    x, dy = (draw(place, shape, dtype, seed) for seed in (0, 1))
    theirs = torch.nn.GroupNorm(G, shape[1], device=place.device, dtype=dtype)
    with torch.no_grad():
        for seed, p in enumerate(theirs.parameters(), 2): p.copy_(draw(place, p.shape, dtype, seed))
    ours = gn_nb.GroupNorm(G, shape[1], device=place.device, dtype=dtype, activation="silu")
    ours.load_state_dict(theirs.state_dict())
    found, wanted = (torch.autograd.grad(f(x), [*m.parameters()], dy) for m, f in (
        (ours, ours), (theirs, lambda x: F.silu(theirs(x)))))
    tol = 2e-5 if dtype is torch.float32 else 4e-2                          # torch rounds before SiLU, too
    for a, e in zip(found, wanted, strict=True): assert a.dtype is dtype and error(a, e) <= tol, error(a, e)


@check(layout=LAYOUTS)
def compiled(place, layout):
    "torch.compile takes a network with the module in one graph, trains it, and keeps its layout."
    place.needs_card("torch.compile")
    net = torch.nn.Sequential(torch.nn.Conv2d(8, 16, 3), gn_nb.GroupNorm(4, 16, activation="silu"),
                              torch.nn.Conv2d(16, 4, 3)).cuda()
    if layout == "channels_last": net = net.to(memory_format=torch.channels_last)
    x = draw(place, (2, 8, 20, 20), layout=layout)
    def step(f):
        y = f(x)
        return y.detach(), *torch.autograd.grad(y.square().sum(), [*net.parameters()])
    wanted, found = step(net), step(torch.compile(net, fullgraph=True))
    for a, e in zip(found, wanted, strict=True): assert error(a, e) <= 2e-3, error(a, e)       # convolutions in tf32
    assert found[0].stride() == wanted[0].stride()


@check()
def memory(place):
    "Beside its result a call takes less than a megabyte, forward and backward."
    place.needs_card("the memory of a card")
    x, dy = (torch.randn(4, 64, 256, 256, device="cuda") for _ in "xy")
    w, b = torch.ones(2, 64, device="cuda").unbind()
    def forward(): return gn_nb.group_norm(x, 8, w, b),
    given = [t.detach().requires_grad_() for t in (x, w, b)]
    y = gn_nb.group_norm(given[0], 8, *given[1:])
    def backward(): return torch.autograd.grad(y, given, dy, retain_graph=True)
    for f in (forward, backward):
        f()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        found = f()
        extra = torch.cuda.max_memory_allocated() - before - sum(t.nbytes for t in found)
        assert extra < 1e6, extra
        del found


# Under compute-sanitizer

@contextmanager
def without_pools(place):
    "A card that cannot hold a group, and so reads groups again from its cache, however small they are."
    if place.simulated: yield; return
    real, names = cuda.card, ("FEW", "MANY", "card")
    before = {name: getattr(cuda, name) for name in names}
    def install(values):
        for name in names: setattr(cuda, name, values[name])
        cuda.plan.cache_clear(); ops._known.clear()
    install(dict(FEW=0, MANY=0, card=lambda device: real(device)._replace(shared=0, most=64)))
    try: yield
    finally: install(before)


RELAYED = tuple((((2, 6, 96, 96), 2), ((1, 4, 97, 127), 1))[k] for k in (0, 0, 1, 1, 0, 1, 1))     # contiguous: even k


def sanitize(place):
    "Twenty shapes with both layouts among them: numbers come from the CPU and are compared there."
    shapes = (*SHAPES[:4], *SHAPES[5:7], *SHAPES[8:11], ((2, 8, 64, 64), 2), ((1, 16, 96, 96), 1), ((5, 12), 3),
              ((4, 6, 31), 6), ((1, 64, 3, 3), 32), ((2, 10, 6, 6), 2), ((2, 60, 9, 7), 2), ((3, 320, 4, 4), 32),
              ((2, 14, 21, 3), 7), ((1, 8, 8, 9, 10), 4), ((2, 24, 40, 40), 3))
    assert len(shapes) == 20
    agree(place, TINY if place.simulated else shapes)
    with without_pools(place): agree(place, () if place.simulated else RELAYED)


def agree(place, shapes):
    "Our results with float64, by turns in three dtypes and two layouts."
    for k, (shape, G) in enumerate(shapes):
        dtype, layout = (torch.float32, *HALF)[k % 3], LAYOUTS[k % 2]
        x, dy = (draw(Place("cpu"), shape, dtype, seed, layout) for seed in (0, 1))
        w, b = (draw(Place("cpu"), shape[1:2], dtype, seed) for seed in (2, 3))
        activation = ("silu", None)[k//2 % 2]
        there = [t.to(place.device) for t in (x, w, b)]
        found = with_gradients(lambda x, w, b: gn_nb.group_norm(x, G, w, b, activation=activation),     # noqa: B023
                               dy.to(place.device), there)
        exact = with_gradients(lambda x, w, b: composed(x, G, w, b, activation), dy.double(),           # noqa: B023
                               [t.double() for t in (x, w, b)])
        tol = 1e-5 if dtype is torch.float32 else 1e-2
        for a, e in zip(found, exact, strict=True): assert error(a.cpu(), e) <= tol, (shape, dtype, error(a.cpu(), e))


# Without pytest

def run(name, device="cuda"):
    "(status, seconds, why) of one check."
    start = time.perf_counter()
    try: CHECKS[name](Place(device))
    except Skipped as e: status, why = "skipped", str(e)
    except Exception: status, why = "FAILED", traceback.format_exc()
    else: status, why = "passed", ""
    return status, time.perf_counter() - start, why


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sanitize", action="store_true", help="twenty shapes once, for compute-sanitizer")
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1), help="processes")
    args = parser.parse_args(argv)
    if not torch.cuda.is_available():
        print("skipped: no CUDA card is here")
        return 0
    if not cuda.compiles:
        print("FAILED: no numba-cuda is here, or one too old")
        return 1
    if args.sanitize:
        sanitize(Place("cuda"))
        print("twenty shapes agree with float64")
        return 0
    found = Counter()
    with ProcessPoolExecutor(args.workers, mp_context=get_context("spawn")) as pool:
        for name, (status, seconds, why) in zip(CHECKS, pool.map(run, CHECKS)):
            found[status] += 1
            print(f"{status} {name} ({seconds:.1f} s){': ' if why else ''}{why}", flush=True)
    print(", ".join(f"{n} {status}" for status, n in found.items()))
    return int(found["FAILED"] > 0)


if __name__ == "__main__": sys.exit(main())
