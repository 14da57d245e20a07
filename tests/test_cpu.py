"The CPU kernels where the grid of backends does not reach: fused operations, streaming, awkward shifts, other threads."
import ctypes
import functools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numba import cfunc, types

from gn_nb import cpu, ops, reference
from gn_nb.testing import assert_close, max_error, must_raise

SHAPES = [((2, 8, 5, 7), 4), ((3, 12), 3), ((1, 40, 33, 35), 8), ((2, 2064, 3, 2), 2), ((2, 6, 3, 4, 5), 6)]
ACTIVATIONS = {None: lambda z: z, "relu": F.relu, "silu": F.silu, "gelu": F.gelu}
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}   # of values up to 4


@pytest.fixture
def without_openmp(monkeypatch):
    "As where torch brings no OpenMP library that can be called."
    def begin():
        cpu.order_of.cache_clear()
        monkeypatch.setattr(cpu, "openmp", lambda: None)
    yield begin
    cpu.order_of.cache_clear()


def contiguous(x): return np.ascontiguousarray(x)
def channels_last(x): return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
both_layouts = pytest.mark.parametrize("layout", [contiguous, channels_last])


def draw(shape, dtype="float32", seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def exact(x, dy, G, activation, w, b, scale, shift):
    "y and the gradients by x, w, b, scale and shift in float64, by torch's autograd."
    leaves = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (x, w, b, scale, shift)]
    x, w, b, scale, shift = leaves
    def spread(v): return v.reshape(-1, x.shape[1], *(1,)*(x.ndim - 2))
    z = (F.group_norm(x, G)*spread(w) + spread(b))*(1 + spread(scale)) + spread(shift)
    y = ACTIVATIONS[activation](z)
    return y.detach().numpy(), z.detach().numpy(), *(
        g.numpy() for g in torch.autograd.grad(y, leaves, torch.tensor(dy, dtype=torch.float64)))


@both_layouts
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_fused_operations_and_their_gradients(layout, activation, dtype):
    for shape, G in SHAPES:
        x, dy, (w, b), (scale, shift) = draw(shape), draw(shape, seed=1), draw((2, shape[1]), seed=2), draw(
            (2, *shape[:2]), seed=3)
        wanted_y, z, *wanted = exact(x, dy, G, activation, w, b, scale, shift)
        if activation == "relu": dy[np.abs(z) < 1e-4] = 0            # where rounding decides on which side of 0 z lies
        wanted = exact(x, dy, G, activation, w, b, scale, shift)[2:]
        x, dy = layout(x.astype(dtype)), layout(dy.astype(dtype))
        given = dict(activation=activation, scale=scale, shift=shift)
        y, mean, rstd = cpu.forward(x, G, w, b, **given)
        found = cpu.backward(dy, x, mean, rstd, G, w, b, **given)
        # float32: units of 6e-8 of numbers up to 20; sums of up to 1155 terms for the parameters
        tol, sums = (1e-11, 1e-10) if dtype == "float64" else (3e-6, 1e-4)
        assert_close(y, wanted_y, tol, dtype=dtype)
        for a, e, t, kind in zip(found, wanted, (tol, *[sums]*4), (dtype, *["float64"]*4), strict=True):
            assert_close(a, e, t, dtype=kind)
        assert y.strides == found[0].strides == x.strides


@both_layouts
def test_out_and_in_place(layout):
    x = layout(draw((2, 8, 5, 7)))
    y = cpu.forward(x, 4)[0]
    out = np.full_like(x, np.nan)
    assert cpu.forward(x, 4, out=out)[0] is out and np.array_equal(out, y)
    assert cpu.forward(x, 4, out=x)[0] is x and np.array_equal(x, y)
    for bad in (out[:1], out.astype(np.float64), np.ascontiguousarray(out).transpose(0, 1, 3, 2)):
        must_raise(ValueError, "out must have shape", cpu.forward, x, 4, out=bad)
    misaligned = np.ndarray(x.shape, x.dtype, np.zeros(x.nbytes + 1, np.uint8), 1, x.strides)
    out[:], out.flags.writeable = 7, False
    for bad, why in ((misaligned, "misaligned"), (out, "read-only")):
        must_raise(ValueError, f"out must be aligned and writeable, got an array that is {why}", cpu.forward, x, 4,
                   out=bad)
    assert (misaligned == 0).all() and (out == 7).all()


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_in_place_at_the_end_of_a_channel(dtype):
    "The last register of a channel overlaps the one before, which has been written."
    for S in (15, 16, 17, 31, 33, 49, 63, 65):
        x = torch.randn(3, 8, S, generator=torch.Generator().manual_seed(S)).to(dtype)
        y, mask = ops.group_norm(x, 4, activation="silu"), torch.full_like(x, torch.nan)
        memory = torch.cat([mask, x, mask])
        assert ops.group_norm(memory[3:6], 4, activation="silu", out=memory[3:6]).equal(y)
        assert memory[:3].isnan().all() and memory[6:].isnan().all()
        assert_close(y.double(), F.silu(F.group_norm(x.double(), 4)), TOLERANCE[dtype])


@both_layouts
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_streaming_stores_give_the_same(layout, dtype, monkeypatch):
    "Streaming is for large outputs; here from the first byte on, aligned and misaligned."
    def run(x, dy, G):
        cpu.plan.cache_clear()
        y, mean, rstd = cpu.forward(x, G, activation="silu")
        return y, mean, *cpu.backward(dy, x, mean, rstd, G, activation="silu")
    for shape, G in (((2, 32, 33, 35), 4), ((1, 16, 40, 40), 2)):
        x, dy = layout(draw(shape, dtype)), layout(draw(shape, dtype, seed=1))
        plain = run(x, dy, G)
        monkeypatch.setattr(cpu, "STREAM", 1)
        streamed = run(x, dy, G)
        streams = cpu.FIELDS.index("stream") - cpu.FIELDS.index("N")
        kind = "forward_runs" if layout is contiguous else "forward_rows"
        S = math.prod(shape[2:])
        assert cpu.plan(kind, dtype, "silu", *shape[:2], G, S, False, 1e-5, cpu.default_threads()).fields[streams] == 1
        monkeypatch.undo()
        cpu.plan.cache_clear()
        assert all(map(np.array_equal, plain, streamed))


def check_runs(shape, G, dtype, verb, length):
    "y and gradients against torch in float64; which kernel ran; and that a sample does not notice its neighbours."
    x, dy, (w, b) = draw(shape, dtype), draw(shape, dtype, seed=1), draw((2, shape[1]), dtype, seed=2)
    y, mean, rstd = cpu.forward(x, G, w, b, activation="silu")
    p = cpu.plan(f"{verb}_runs", dtype, "silu", *shape[:2], G, math.prod(shape[2:]), False, 1e-5, 1)
    assert p.address == cpu.compiled(f"{verb}_{length}", dtype, "silu").address
    leaves = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (x, w, b)]
    wanted = F.silu(F.group_norm(leaves[0], G, *leaves[1:]))
    tol, sums = (1e-11, 1e-10) if dtype == "float64" else (3e-6, 1e-4)
    assert_close(y, wanted.detach().numpy(), tol, dtype=dtype)
    grads = torch.autograd.grad(wanted, leaves, torch.tensor(dy, dtype=torch.float64))
    found = cpu.backward(dy, x, mean, rstd, G, w, b, "silu")
    for a, e, t, kind in zip(found, grads, (tol, sums, sums), (dtype, "float64", "float64"), strict=True):
        assert_close(a, e.numpy(), t, dtype=kind)
    for n in (0, shape[0] - 1):
        alone = cpu.forward(x[n:n + 1], G, w, b, activation="silu")
        assert np.array_equal(alone[0], y[n:n + 1])
        assert np.array_equal(cpu.backward(dy[n:n + 1], x[n:n + 1], *alone[1:], G, w, b, "silu")[0], found[0][n:n + 1])


@pytest.mark.parametrize(("shape", "G"), [
    ((130, 8, 3, 3), 2),           # a block of more samples than a chunk
    ((3, 600, 2, 2), 1),           # more channels than the tables hold
    ((1000, 1024, 2), 1),          # both
    ((70, 40, 1), 8), ((300, 2080), 2)])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_short_channels(shape, G, dtype): check_runs(shape, G, dtype, "forward", "short")


@pytest.mark.parametrize(("shape", "G"), [((20, 12, 5, 7), 3), ((1, 324, 3, 7), 2)])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_channels_that_fill_no_registers_are_short_in_backward(shape, G, dtype):
    check_runs(shape, G, dtype, "backward", "short")


@pytest.mark.parametrize(("shape", "G"), [
    ((70, 8, 8, 8), 2),            # more samples than lanes hold
    ((300, 4, 20, 4), 4),          # and more blocks than one
    ((2, 1024, 5, 16), 2),         # as many channels as the tables hold
    ((90, 24, 8, 8), 12),          # several groups to a task, the last task with fewer
    ((2, 6, 1024), 2), ((1, 6, 7, 13), 1), ((20, 12, 7, 7), 3)])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_channels_of_middle_length(shape, G, dtype): check_runs(shape, G, dtype, "backward", "middle")


@pytest.mark.parametrize(("D", "S", "length"), [
    (4, 16, "short"), (4, 17, "short"), (4, 40, "short"), (4, 41, "middle"), (4, 32, "middle"), (512, 40, "short"),
    (512, 49, "middle"), (513, 40, "runs"), (513, 16, "short"), (512, 1024, "middle"), (513, 1024, "runs"),
    (4, 1025, "runs"), (8192, 8, "short"), (8193, 8, "runs"), (10**5, 1, "short")])
def test_which_kernel_channels_get(D, S, length):
    assert cpu._length("backward", "float32", D, S) == length
    assert cpu._length("forward", "float32", D, S) == (length if S <= 16 else "runs")


@both_layouts
@pytest.mark.parametrize("where", [0, 3, 17, 400])
def test_an_outlier_among_the_first_elements_costs_no_accuracy(layout, where):
    "The shift of the sums is then far from the mean, and they are taken once more."
    x = draw((2, 8, 32, 32)) + 5
    x[:, ::2].reshape(2, -1)[:, where] = 1e4
    x[0, 0].flat[where] = 1e4
    y, _, rstd = cpu.forward(layout(x), 2)
    wanted = reference.forward(x, 2)
    assert_close(y, wanted[0], 1e-6, dtype="float32")
    assert np.abs(rstd/wanted[2] - 1).max() < 1e-6


@both_layouts
@pytest.mark.parametrize("size", [1e30, 1e-30, 1e18])
def test_where_float32_cannot_hold_a_square(layout, size):
    x = (draw((2, 8, 6, 6)).astype(np.float64)*size).astype(np.float32)
    assert_close(cpu.forward(layout(x), 2, eps=0.)[0], reference.forward(x, 2, eps=0.)[0], 1e-6, dtype="float32")


@both_layouts
def test_accuracy_does_not_depend_on_the_mean(layout):
    noise, dy = draw((2, 32, 32, 32), "float64"), draw((2, 32, 32, 32), seed=1)
    for mean in (0, 1, 1e2, 1e3, 1e4, 1e5):
        x = (noise + mean).astype(np.float32)
        y, m, r = cpu.forward(layout(x), 8)
        wanted, wm, wr = reference.forward(x, 8)
        assert_close(y, wanted, 3e-6, dtype="float32")
        dweight, found = reference.backward(dy, x, wm, wr, 8)[1], cpu.backward(layout(dy), layout(x), m, r, 8)[1]
        assert max_error(found, dweight) <= 1e-4


@pytest.mark.parametrize("shape, G", [((1, 8, 128, 128), 1), ((64, 32, 4, 4), 8), ((2, 64, 32, 32), 32)])
@both_layouts
def test_pythons_own_threads_give_the_same(layout, shape, G, without_openmp, monkeypatch):
    x, dy = layout(draw(shape)), layout(draw(shape, seed=1))
    def run():
        y, mean, rstd = cpu.forward(x, G, threads=3)
        return y, mean, *cpu.backward(dy, x, mean, rstd, G, threads=3)
    wanted, used = run(), []
    pool = cpu._pool
    without_openmp()
    monkeypatch.setattr(cpu, "_pool", lambda: used.append(1) or pool())
    for _ in range(5): assert all(map(np.array_equal, run(), wanted))
    assert used and cpu.default_threads() >= 1


def test_ctrl_c_waits_until_pythons_threads_are_ready(without_openmp, monkeypatch):
    "They write into memory that the driver gives back when it is done."
    x, waits, wait = draw((1, 8, 128, 128)), [], cpu.wait
    wanted = cpu.forward(x, 1, threads=3)[0]
    def interrupted(others):
        waits.append(others)
        if len(waits) == 1: raise KeyboardInterrupt
        return wait(others)
    without_openmp()
    monkeypatch.setattr(cpu, "wait", interrupted)
    y = np.full_like(x, np.nan)
    with pytest.raises(KeyboardInterrupt): cpu.forward(x, 1, out=y, threads=3)
    assert np.array_equal(y, wanted) and waits[1] is waits[0] and waits[2] is not waits[0]     # the second phase


def test_working_memory_is_given_back_and_its_lack_is_an_error():
    "A driver whose memory comes from here."
    x, dy, taken = draw((3, 8, 6, 6)), draw((3, 8, 6, 6), seed=1), {}
    @ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)
    def allocate(count, size):
        block = np.zeros(count, dtype=np.int64)
        assert size == 8
        taken[block.ctypes.data] = block
        return block.ctypes.data
    @ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    def free(address): del taken[address]
    @ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)
    def nothing(count, size): return None
    def order(verb, allocate):
        order = cpu.Order(cpu.plan(f"{verb}_runs", "float32", None, 3, 8, 2, 36, False, 1e-5, 1, True))
        for name, f in (("allocate", allocate), ("free", free)):
            order.memory[cpu.ORDER.index(name)] = cpu.address_of(f)
        return order
    y, mean, rstd = cpu.forward(x, 2)
    result, dx, dw, db = np.zeros_like(x), np.zeros_like(x), *np.zeros((2, 8), dtype=np.float32)
    at = [a.ctypes.data for a in (x, result, mean, rstd, dy, dx, dw, db)]
    order("forward", allocate)(at[0], at[1], *(0,)*8)                # nobody asks for the statistics
    assert np.array_equal(result, y) and not taken
    order("backward", allocate)(at[0], 0, 0, 0, *at[2:])
    wanted = cpu.backward(dy, x, mean, rstd, 2)
    assert all(np.array_equal(a, e.astype(np.float32)) for a, e in zip((dx, dw, db), wanted, strict=True)) and not taken
    with pytest.raises(MemoryError, match="no working memory"): order("forward", nothing)(at[0], at[1], *(0,)*8)


def mapped(expression, x, dtype, activation=None):
    "A kernel y = expression(p, x) over an array, compiled here."
    def kernel(p):
        for i in range(0, p.N, cpu.width(p)):
            cpu.put_some(p, p.y, i, expression(p, cpu.some(p, p.x, i, p.N - i, 0.)), p.N - i)
    f = cfunc(types.void(cpu.Work(dtype, activation)), error_model="numpy")(kernel)
    y, block = np.zeros_like(x), np.zeros(cpu.COUNTERS + cpu.LINE, dtype=np.int64)
    for name, v in dict(x=x.ctypes.data, y=y.ctypes.data, N=x.size).items(): block[cpu.FIELDS.index(name)] = v
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(f.address)(block.ctypes.data)
    return y


def test_exponential_is_within_its_bound_over_the_whole_range():
    "Every 97th float32 from -87 to 88.3: 22 million of them."
    exp = cpu.plainly()(lambda p, v: cpu.exp(p, v))
    worst = 0.
    for low, high in ((0., 88.3), (-87., -0.)):
        first, last = sorted(np.array([low, high], dtype=np.float32).view(np.int32).astype(np.int64) & 0x7fffffff)
        bits = np.arange(first, last, 97, dtype=np.int64)
        x = (bits | (0x80000000 if low < 0 else 0)).astype(np.uint32).view(np.float32)
        y, wanted = mapped(exp, x, "float32"), np.exp(x.astype(np.float64))
        worst = max(worst, float((np.abs(y - wanted)/np.spacing(wanted.astype(np.float32))).max()))
    assert 0.5 < worst < 2                                       # ulp


@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_is_rounded_to_the_nearest_even(native, monkeypatch):
    "By the processor's instruction, where there is one, and by integers."
    if native and not cpu.ROUNDS_BFLOAT: pytest.skip("this processor has no instruction that rounds to bfloat16")
    monkeypatch.setattr(cpu, "ROUNDS_BFLOAT", native)
    x = torch.cat([torch.randn(100_003, generator=torch.Generator().manual_seed(0)),
                   torch.tensor([math.inf, -math.inf, 3.4e38, 0., -0.])]).bfloat16()
    times = cpu.plainly()(lambda p, v: v*1.5)                 # of 9 bits: every second result is a tie
    # helpers compiled for one type of work stay as they are: each way has a type of its own
    def found_of(x): return torch.from_numpy(mapped(
        times, x.view(torch.int16).numpy(), "bfloat16", None if native else "relu")).view(torch.bfloat16)
    found = found_of(x)
    assert torch.equal(found, (x.float()*1.5).bfloat16())
    nan = torch.tensor([math.nan]*5).bfloat16()
    assert found_of(nan).isnan().all()


def test_plans_do_not_let_threads_into_the_bits():
    "Units, blocks and samples of a block are the same for any number of threads."
    units = [cpu.FIELDS.index(name) - cpu.FIELDS.index("N") for name in ("unit", "units", "samples", "blocks")]
    for kernel in cpu.KERNELS:
        for N, C, G, S in ((1, 64, 1, 4096), (32, 2048, 32, 49), (2, 320, 32, 4096), (8, 16, 16, 1), (1, 8, 2, 2**20),
                           (64, 16, 16, 64)):
            plans = [cpu.plan(kernel, "float32", None, N, C, G, S, False, 1e-5, threads) for threads in (1, 2, 5, 64)]
            assert len({(*(p.fields[k] for k in units), p.slots) for p in plans}) == 1
            # working memory stays below 1 MB (more only for very many groups, as in instance normalization of a batch)
            assert all(8*(p.partial + p.totals + 2*p.slots*C) < 1 << 20 for p in plans), (kernel, N, C, G, S)


KEPT = {order: functools.cache(cpu._compile.__wrapped__) for order in (True, False)}


@pytest.fixture(params=[True, False], ids=["apart", "in order"])
def order(request, monkeypatch):
    "Kernels compiled for either order of bfloat16's lanes."
    monkeypatch.setattr(cpu, "APART", request.param)
    monkeypatch.setattr(cpu, "_compile", KEPT[request.param])
    monkeypatch.setattr(cpu, "plan", functools.cache(cpu.plan.__wrapped__))


@both_layouts
@pytest.mark.parametrize(("shape", "G"), [((3, 24, 9, 11), 4), ((40, 20, 3, 3), 4), ((40, 20, 5, 5), 4), ((5, 40), 8),
                                          ((2, 6, 33, 33), 2), ((2, 1064, 3, 5), 8)])
def test_bfloat16_in_either_order_of_lanes(order, layout, shape, G):
    "Every kernel, lengths that fill no register, parameters of either dtype, scale and shift: against float64."
    x, dy = (torch.from_numpy(layout(draw(shape, seed=k))).bfloat16() for k in (0, 1))
    for kind in (torch.bfloat16, torch.float32):
        w, b = torch.from_numpy(draw((2, shape[1]), seed=2)).to(kind)
        scale, shift = torch.from_numpy(draw((2, *shape[:2]), seed=3)).to(kind)
        wanted_y, _, *wanted = exact(*(t.double().numpy() for t in (x, dy)), G, "silu",
                                    *(t.double().numpy() for t in (w, b, scale, shift)))
        y, mean, rstd = ops.forward_op(x, G, w, b, 1e-5, "silu", scale, shift)
        found = ops.backward_op(dy, x, mean, rstd, G, w, b, "silu", scale, shift)
        # y and dx are written in bfloat16, of 8 bits, after a polynomial that is good for these
        for a, e, tol in zip((y, *found), (wanted_y, *wanted), (4e-3, 4e-3, *[1e-3]*4), strict=True):
            assert_close(a.double().numpy(), e, tol*np.abs(e).max(), dtype="float64")


@both_layouts
@pytest.mark.parametrize("bits, wide", [(0x7fffffff, (1 << 63) - 1), (-1, -1), (0x7f800001, 0x7ff0000000000001)])
def test_a_nan_of_any_bits_stays_nan_in_bfloat16(order, layout, bits, wide):
    "In a weight of float32, and in statistics that a caller brings; the other channels and groups do not notice."
    nan = torch.tensor(bits, dtype=torch.int32).view(torch.float32)
    for shape in ((2, 8, 5, 7), (2, 8, 3, 3), (2, 8, 30, 30)):
        x = torch.from_numpy(layout(draw(shape))).bfloat16()
        w = torch.ones(8).index_fill_(0, torch.tensor([5]), nan)
        y, mean, rstd = ops.forward_op(x, 4, w, None, 1e-5)
        assert y[:, 5].isnan().all() and not y[:, [0, 1, 2, 3, 4, 6, 7]].isnan().any()
        rstd[1, 2] = torch.tensor(wide).view(torch.float64)
        dx = ops.backward_op(x, x, mean, rstd, 4, None, None)[0]
        assert dx[1, 4:6].isnan().all() and not dx[0].isnan().any() and not dx[1, [0, 1, 2, 3, 6, 7]].isnan().any()


def test_how_many_groups_make_a_task_is_not_seen_in_the_bits():
    "Threads decide on it."
    x, dy = (torch.from_numpy(draw((64, 16, 8, 8), seed=k)) for k in (0, 1))
    w, b = torch.from_numpy(draw((2, 16), seed=2))
    groups, found = cpu.FIELDS.index("groups") - cpu.FIELDS.index("N"), []
    for threads in (1, 4):
        torch.set_num_threads(threads)
        try:
            y, mean, rstd = ops.forward_op(x, 16, w, b, 1e-5)
            found.append((y, mean, rstd, *ops.backward_op(dy, x, mean, rstd, 16, w, b)[:3]))
        finally: torch.set_num_threads(1)
    plans = [cpu.plan("backward_runs", "float32", None, 64, 16, 16, 64, False, 0., threads) for threads in (1, 4)]
    assert [p.fields[groups] for p in plans] == [4, 1]
    assert all(map(torch.equal, *found))
