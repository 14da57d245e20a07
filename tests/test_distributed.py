"Moments in parts, and one sample split over processes that end by themselves."
import json
import os
import subprocess
import sys
import time
import traceback
from datetime import timedelta
from functools import partial, reduce
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st

import gn_nb
from gn_nb import apply, distributed, merge, moments, reference
from gn_nb.distributed import sharded_group_norm
from gn_nb.testing import CASES, assert_close, max_error, must_raise

pytestmark = pytest.mark.alone

DTYPES = {torch.float64: 1e-10, torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}
LIMIT = 30            # seconds after which an error must have reached all ranks
PATIENCE = 60         # that a rank waits for the others: they may have kernels to compile, for which 30 were too few
needs_gloo = pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(),
                                reason="torch's gloo is missing here")


def random(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# In parts, in one process.

@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_parts_equal_the_reference(case, dtype):
    x, (w, b) = torch.tensor(case.make()).to(dtype), random(2, case.shape[1], dtype=dtype)
    exact = reference.group_norm(x.double().numpy(), case.num_groups, w.double().numpy(), b.double().numpy())
    found = moments(x, case.num_groups)
    assert [t.dtype for t in found] == [torch.float64]*3
    assert_close(apply(x, found, w, b), exact, DTYPES[dtype], dtype=dtype)


@settings(max_examples=30)
@given(st.integers(0, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 4),
       st.lists(st.integers(0, 5), min_size=1, max_size=5), st.floats(-1e6, 1e6), st.permutations(range(5)))
def test_merging_is_exact_in_any_order_and_bracketing(N, G, D, W, cuts, mean, order):
    x = random(N, G*D, sum(cuts), W) + mean
    parts = [moments(part, G) for part in x.split(cuts, 2)]
    shuffled = [parts[k] for k in order if k < len(parts)]
    middle = len(parts)//2
    halves = [merge(*half) for half in (parts[:middle], parts[middle:]) if half]
    for merged in (merge(*parts), merge(*shuffled), merge(*halves), reduce(merge, parts)):
        assert torch.equal(merged[0], moments(x, G)[0])
        for a, b in zip(merged[1:], moments(x, G)[1:], strict=True): assert_close(a, b, 1e-8)       # means of 1e6 in M2
    for a, b in zip(merge(*parts)[1:], reference.moments(x.numpy(), G)[1:], strict=True): assert_close(a, b, 1e-8)


@pytest.mark.parametrize("activation", [None, "relu", "silu", "gelu"])
def test_parts_are_differentiable_twice(activation):
    x, (w, b) = random(2, 6, 3, 2).requires_grad_(), random(2, 6).requires_grad_()
    mask = random(2, 1, 3, 2, seed=1) > -1

    def f(x, w, b):
        whole = merge(moments(x[..., :1], 3, mask[..., :1]), moments(x[..., 1:], 3, mask[..., 1:]))
        return apply(x, whole, w, b, activation=activation)

    assert torch.autograd.gradcheck(f, (x, w, b)) and torch.autograd.gradgradcheck(f, (x, w, b))
    mask = torch.ones_like(mask)
    assert_close(f(x, w, b), gn_nb.group_norm(x, 3, w, b, activation=activation), 1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("filling", [0., 1e4, torch.nan, torch.inf], ids=str)
def test_masked_equals_unpadded(dtype, filling):
    lengths, (w, b) = [1, 6, 4, 9], random(2, 6, dtype=dtype)
    mask = (torch.arange(9) < torch.tensor(lengths)[:, None])[:, None]
    x = torch.where(mask, random(4, 6, 9, dtype=dtype), filling)
    found = moments(x, 3, mask)
    assert found[0].tolist() == [[2.*n]*3 for n in lengths]
    y = apply(x, found, w, b)
    for k, n in enumerate(lengths):
        alone = reference.group_norm(x[k:k + 1, :, :n].double().numpy(), 3, w.double().numpy(), b.double().numpy())
        assert_close(y[k:k + 1, :, :n], alone, 1e-6 if dtype == torch.float32 else 1e-12, dtype=dtype)


def test_gradients_of_a_mask_are_those_of_the_unpadded():
    mask = (torch.arange(9) < torch.tensor([4, 9])[:, None])[:, None]
    x, dy = torch.where(mask, random(2, 6, 9), 1e4).requires_grad_(), torch.where(mask, random(2, 6, 9, seed=1), 0)
    dx, = torch.autograd.grad(apply(x, moments(x, 3, mask)), x, dy)
    assert (dx[0, :, 4:] == 0).all()
    for k, n in ((0, 4), (1, 9)):
        alone = x[k:k + 1, :, :n].detach().requires_grad_()
        expected, = torch.autograd.grad(torch.nn.functional.group_norm(alone, 3), alone, dy[k:k + 1, :, :n])
        assert_close(dx[k:k + 1, :, :n], expected, 1e-11)


def test_masks_of_channels_and_of_nothing():
    x, mask = random(2, 4, 5), torch.ones(2, 4, 1, dtype=torch.bool)
    mask[0, 0], mask[1] = False, False
    count, mean, M2 = moments(x, 2, mask)
    assert count.tolist() == [[5, 10], [0, 0]] and not mean[1].any() and not M2[1].any()
    assert_close(mean[0, 0], x[0, 1].mean(), 1e-14)
    assert_close(M2[0, 0], x[0, 1].var(correction=0)*5, 1e-12)
    for mine, whole in zip(moments(x, 2, torch.ones(1, 1, 1, dtype=torch.bool)), moments(x, 2), strict=True):
        assert torch.equal(mine, whole)


def test_masks_agree_with_flax():
    "With what flax.nnx gave, without its fast variance, rounded to six decimals: see golden/make.py."
    golden = json.loads((Path(__file__).parent/"golden/frameworks.json").read_text(encoding="utf-8"))
    x, mask, theirs = (torch.tensor(golden[k]).movedim(-1, 1) for k in ("x", "mask", "flax_masked"))
    y = apply(x, moments(x, 2, mask), torch.tensor(golden["weight"]), torch.tensor(golden["bias"]), 1e-6)
    assert_close(y, theirs, 5e-6)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_layouts_and_large_means(layout):
    x = (random(2, 8, 33, 31, dtype=torch.float32) + 1e5).contiguous(memory_format=layout)
    found = merge(moments(x[..., :7], 4), moments(x[..., 7:], 4))
    y = apply(x, found)
    assert y.is_contiguous(memory_format=layout)
    assert_close(y, reference.group_norm(x.double().numpy(), 4), 1e-6, dtype="float32")
    strided = x.transpose(2, 3)[..., ::2]
    assert_close(apply(strided, moments(strided, 4)), reference.group_norm(strided.double().numpy(), 4), 1e-6,
                 dtype="float32")
    swapped = random(8, 2, 3, 3).transpose(0, 1)                  # (2, 8, 3, 3), samples beside each other in memory
    assert apply(swapped, moments(swapped, 4)).is_contiguous()
    constant = torch.full((1, 4, 3, 3), 350.1)
    assert (apply(constant, moments(constant, 2), None, torch.ones(4)) == 1).all()


def test_without_processes():
    must_raise(RuntimeError, "sharded_group_norm needs torch.distributed.init_process_group, which was not called",
               sharded_group_norm, random(2, 4), 2, dim=1)
    must_raise(RuntimeError, "ShardedGroupNorm(dim=1) needs torch.distributed.init_process_group", partial(
        distributed.ShardedGroupNorm, dim=1), 2, 4)
    count, mean, M2 = moments(random(2, 4), 2)
    must_raise(TypeError, "moments must be a tuple (count, mean, M2) of tensors", apply, random(2, 4), (8, mean, M2))
    must_raise(ValueError, "moments must be three tensors of one shape (N, G), got (2, 2), (2, 2), (2, 1)", apply,
               random(2, 4), (count, mean, M2[:, :1]))
    must_raise(ValueError, "moments must have a number of groups that divides the channels of x (3), got 2", apply,
               random(2, 3), (count, mean, M2))
    must_raise(TypeError, "mask must be a torch.Tensor, got bool", moments, random(2, 4), 2, True)
    must_raise(ValueError, "mask must have as many dimensions as x, (2, 4), each of size 1 or x's, got (2, 3)", moments,
               random(2, 4), 2, torch.ones(2, 3, dtype=torch.bool))
    must_raise(ValueError, "eps (-1) must be finite and at least 0", apply, random(2, 4), (count, mean, M2), eps=-1)


def test_messages_lie_beside_the_input(monkeypatch):
    "For NCCL on the card of the input, which need not be the current one."
    first, second, cpu = torch.device("cuda", 0), torch.device("cuda", 1), torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    for backend, wanted in (("nccl", [second, first]), ("cpu:gloo,cuda:nccl", [second, first]), ("gloo", [cpu, cpu])):
        monkeypatch.setattr(dist, "get_backend", lambda group: backend)  # noqa: B023
        assert [distributed._device(device, None) for device in (second, cpu)] == wanted


# Split over processes. A function without `test` in its name runs on every rank: it gets its number, and groups.

def on_ranks(f, world, limit=60, codes=None):
    "What `f(rank, groups)` returns on each of `world` ranks; they speak by the loopback interface alone."
    with TemporaryDirectory() as folder:
        env = os.environ | {"GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo", "PYTHONWARNINGS": "",
                            "PYTHONPATH": str(Path(gn_nb.__file__).parent.parent)}
        command = [sys.executable, __file__, f.__name__, folder, str(world)]
        ranks = [subprocess.Popen([*command, str(k)], env=env, cwd=folder, text=True, stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE) for k in range(world)]
        end = time.monotonic() + limit
        try: said = [r.communicate(timeout=max(end - time.monotonic(), 0.1)) for r in ranks]
        except subprocess.TimeoutExpired: pytest.fail(f"{f.__name__} has not ended after {limit} s")
        finally:
            for r in ranks: r.kill(); r.wait()
        ends = "\n".join(f"{out}{err}"[-2000:] for out, err in said)
        assert [r.returncode for r in ranks] == (codes or [0]*world), ends
        return [torch.load(f"{folder}/{k}") for k in range(world) if not (codes and codes[k])]


def main(name, folder, world, rank):
    torch.set_num_threads(1)
    wait = timedelta(seconds=PATIENCE)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=int(rank), world_size=int(world),
                            timeout=wait)
    groups = {n: dist.new_group(range(n), timeout=wait) for n in range(1, int(world) + 1)}
    torch.save(globals()[name](int(rank), groups), f"{folder}/{rank}")
    dist.destroy_process_group()


TOPICS = {}                          # name of a test -> what its ranks do, all in one start of four processes


def topic(f): TOPICS[f.__name__] = f; return f


def everything(rank, groups):
    "What each topic returns, or the traceback of its exception."
    found = {}
    for name, f in TOPICS.items():
        try: found[name] = f(rank, groups)
        except Exception: found[name] = traceback.format_exc()
    return found


@pytest.fixture(scope="module")
def ranks():
    if not dist.is_available() or not dist.is_gloo_available(): pytest.skip("torch's gloo is missing here")
    found = on_ranks(everything, 4, limit=200)
    def of(name):
        for k, each in enumerate(found):
            if isinstance(each[name], str): pytest.fail(f"rank {k}: {each[name]}")
        return [each[name] for each in found]
    return of


def shard(t, dim, sizes, rank): return t.split(sizes, dim)[rank].clone()


SIZES = {1: [7], 2: [5, 2], 3: [1, 4, 2], 4: [1, 3, 0, 3]}              # of 7 rows, or of 14 channels in pairs


def whole(x, w, b, num_groups, activation, dy):
    "Results and gradients of the input in one piece."
    leaves = [t.detach().requires_grad_() for t in (x, w, b)]
    y = gn_nb.group_norm(leaves[0], num_groups, *leaves[1:], activation=activation)
    return [y.detach(), *torch.autograd.grad(y, leaves, dy)]


def splits(world):
    "dim, num_groups, sizes of the shards, and if the ranks are told: space, whole groups, and groups on two ranks."
    rows, pairs = SIZES[world], [2*n for n in SIZES[world]]
    odd = {1: [14], 2: [3, 11], 3: [1, 9, 4], 4: [5, 0, 8, 1]}[world]
    return [(2, 2, rows, False), (3, 7, {1: [3], 2: [1, 2], 3: [1, 1, 1], 4: [2, 0, 1, 0]}[world], False),
            (1, 7, pairs, True), (1, 7, pairs, False), (1, 2, odd, True), (1, 14, odd, True), (1, 1, odd, False)]


def sample(dtype, shape=(2, 14, 7, 3)):
    ramp = torch.linspace(-3, 3, shape[2], dtype=torch.float64).reshape(1, 1, -1, *(1,)*(len(shape) - 3))
    x, dy = random(*shape) + ramp, random(*shape, seed=1)
    return [t.to(dtype) for t in (x, *random(2, shape[1], seed=2), dy)]


class Counted:
    "How many numbers each message of this rank holds."
    def __enter__(self):
        self.sent, self.gather = [], dist.all_gather
        def counted(found, message, *args, **kwargs):
            self.sent.append(message.numel())
            return self.gather(found, message, *args, **kwargs)
        dist.all_gather = counted
        return self.sent

    def __exit__(self, *_): dist.all_gather = self.gather


@topic
def shards(rank, groups):
    "Errors of y, dx, dweight, dbias by number of ranks, dtype and way to split; messages by the latter."
    errors, messages, firsts = {}, {}, {}
    for world, group in groups.items():
        if rank >= world: continue
        for dtype, activation in ((torch.float64, "silu"), (torch.float32, None), (torch.bfloat16, "relu")):
            x, w, b, dy = sample(dtype)
            for dim, num_groups, lengths, told in splits(world):
                xs, dys = shard(x, dim, lengths, rank).requires_grad_(), shard(dy, dim, lengths, rank)
                ws, bs = (shard(v, 0, lengths, rank) if dim == 1 else v.clone() for v in (w, b))
                with Counted() as sent:
                    y = sharded_group_norm(xs, num_groups, ws.requires_grad_(), bs.requires_grad_(), 1e-5, activation,
                                           dim=dim, group=group, split=tuple(lengths) if told else None)
                    dx, dw, db = torch.autograd.grad(y, (xs, ws, bs), dys)
                assert y.dtype == dx.dtype == dw.dtype == db.dtype == dtype and y.shape == dx.shape == xs.shape
                messages[world, dim, num_groups, told] = sent
                firsts.setdefault((world, dim, num_groups, told), sent)
                full = whole(*(t.double() for t in (x, w, b)), num_groups, activation, dy.double())
                found = [y.detach(), dx, dw.double(), db.double()]
                if dim != 1:
                    for v in found[2:]: dist.all_reduce(v, group=group)
                full = [*(shard(t, dim, lengths, rank) for t in full[:2]),
                        *(shard(t, 0, lengths, rank) if dim == 1 else t for t in full[2:])]
                errors[world, dtype, dim, num_groups, told] = [*map(max_error, found, full)]
    return errors, messages, firsts


def test_shards_equal_the_whole(ranks):
    # bfloat16 has 8 bits: half a unit for each rounding, and each of four ranks rounds its share of dweight and dbias
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 2**-8}
    for errors, messages, firsts in ranks("shards"):
        for key, found in errors.items():
            rounded = (1, 1, 4, 4) if key[1] == torch.bfloat16 else (1,)*4
            assert all(e <= n*tolerance[key[1]] for e, n in zip(found, rounded, strict=True)), (key, found)
        for (world, dim, num_groups, told), sent in messages.items():
            counts = {(2, 2): 2, (3, 7): 2, (1, 7): 0 if told else 1, (1, 2): 2, (1, 14): 0, (1, 1): 3}
            wanted = counts[dim, num_groups] if world > 1 else 0          # whole groups: nothing to say, once one knows
            assert len(sent) == wanted and all(8*n <= 1 << 13 for n in sent), (world, dim, num_groups, told, sent)
            asked = told and not wanted and world > 1                     # by the first call alone
            assert len(firsts[world, dim, num_groups, told]) == wanted + asked


@topic
def many(rank, groups):
    "More numbers than the first message has room for, forward and backward: errors of y and dx, messages."
    x, dy = random(8, 128, 8, seed=4), random(8, 128, 8, seed=5)
    xs = shard(x, 2, [1, 3, 0, 4], rank).requires_grad_()
    with Counted() as sent:
        y = sharded_group_norm(xs, 64, dim=2)
        dx, = torch.autograd.grad(y, xs, shard(dy, 2, [1, 3, 0, 4], rank))
    full = whole(x, torch.ones(128).double(), torch.zeros(128).double(), 64, None, dy)[:2]
    return [max_error(a.detach(), shard(b, 2, [1, 3, 0, 4], rank)) for a, b in zip((y, dx), full, strict=True)], sent


def test_more_than_one_message_holds(ranks):
    first = 2 + len(distributed.FACTS) + distributed.ROOM
    for errors, sent in ranks("many"):
        assert max(errors) <= 1e-12
        assert sent == [first, 3*8*64 - distributed.ROOM, first, 2*8*64 - distributed.ROOM]


@topic
def ramp(rank, groups):
    "float32 on a ramp with a mean of 1e4: errors of y and dx."
    x, dy = sample(torch.float32)[0] + 1e4, random(2, 14, 7, 3, dtype=torch.float32, seed=1)
    xs = shard(x, 2, SIZES[4], rank).requires_grad_()
    y = sharded_group_norm(xs, 2, dim=2)
    dx, = torch.autograd.grad(y, xs, shard(dy, 2, SIZES[4], rank))
    full = whole(x.double(), torch.ones(14).double(), torch.zeros(14).double(), 2, None, dy.double())[:2]
    return [max_error(a, shard(b, 2, SIZES[4], rank)) for a, b in zip((y.detach(), dx), full, strict=True)]


def test_shards_that_differ_in_mean(ranks):
    for errors in ranks("ramp"): assert max(errors) <= 1e-6


def test_the_average_of_variances_is_off_on_a_ramp():
    "From -3 to 3 down an image of noise, in four equal strips: off by 2.9, which is the difference of two divisors."
    x = random(1, 32, 64, 64) + torch.linspace(-3, 3, 64, dtype=torch.float64)[:, None]
    exact, parts = gn_nb.group_norm(x, 8), [moments(strip, 8) for strip in x.chunk(4, 2)]
    count, mean, _ = merge(*parts)
    within = sum(M2 for *_, M2 in parts)                          # as if strips did not differ in their means
    off = (apply(x, (count, mean, within)) - exact).abs().max().item()
    values = x.reshape(8, -1)
    a, b = (values.var(1, correction=0) + 1e-5).rsqrt(), (within[0]/count[0] + 1e-5).rsqrt()
    assert_close(off, ((values - values.mean(1, keepdim=True)).abs().amax(1)*(b - a)).amax().item(), 1e-9)
    assert 2.85 < off < 2.95
    assert max_error(apply(x, merge(*parts)), exact) < 1e-12


BAD = {       # what all ranks must raise -> what rank 1 does otherwise, or what the others do and what rank 1 does
    "size 0 of input must be the same on all ranks, got 2 on rank 0 and 3 on rank 1": dict(input=random(3, 4, 2)),
    "size 1 of input must be the same on all ranks, got 4 on rank 0 and 6": dict(input=random(2, 6, 2)),
    "ndim of input must be the same on all ranks, got 3 on rank 0 and 4": dict(input=random(2, 4, 2, 1)),
    "num_groups must be the same on all ranks, got 2 on rank 0 and 4": dict(num_groups=4),
    "eps must be the same on all ranks, got 1e-05 on rank 0 and 0.1": dict(eps=0.1),
    "activation must be the same on all ranks, got None on rank 0 and 'silu'": dict(activation="silu"),
    "dtype must be the same on all ranks, got torch.float64 on rank 0 and torch.float32":
        dict(input=random(2, 4, 2, dtype=torch.float32)),
    "requires_grad must be the same on all ranks, got False on rank 0 and True":
        dict(input=random(2, 4, 2).requires_grad_()),
    "dim must be the same on all ranks, got 2 on rank 0 and 1": dict(dim=1),
    "split must be the same on all ranks, got one of hash":
        (dict(dim=1, split=(4,)*4, num_groups=1), dict(input=random(2, 5, 2), split=(4, 5, 4, 4), num_groups=1, dim=1)),
    "dim must be the same on all ranks, got 2 on rank 0 and 0": dict(dim=0),
    "dim must be the same on all ranks, got 0 on rank 0 and 2": (dict(dim=0, num_groups=4), dict(num_groups=4)),
    "dim must be the same on all ranks, got 1 on rank 0 and 0":
        (dict(dim=1, num_groups=4, split=(4,)*4), dict(dim=0, num_groups=4)),
    "split must be the same on all ranks, got None on rank 0": (dict(dim=1, num_groups=4),
                                                                dict(dim=1, num_groups=4, split=(4,)*4)),
    "on rank 0 and None on rank 1": (dict(dim=1, num_groups=4, split=(4,)*4), dict(dim=1, num_groups=4)),
    "num_groups must be the same on all ranks, got 4 on rank 0 and 1":          # whole groups, and one on all ranks
        (dict(dim=1, num_groups=4, split=(4,)*4), dict(dim=1, num_groups=1, split=(4,)*4)),
    "on rank 1: split must have a number for each of 4 ranks, got 2": (dict(dim=1), dict(dim=1, split=(8, 8))),
    "on rank 1: split must be given for dim=1 alone, got dim=2": dict(split=(2,)*4),
    "on rank 1: weight must have shape (4,), one value for each channel, got (5,)":      # of a call that needs nobody
        (dict(dim=0, num_groups=4), dict(dim=0, num_groups=4, weight=torch.ones(5))),
    "on rank 1: input must be a torch.Tensor, got list": dict(input=[[1.]]),
    "on rank 1: input must have a dtype of": dict(input=random(2, 4, 2).to(torch.float8_e5m2)),
    "on rank 1: input must have a floating dtype, got torch.int64": dict(input=torch.ones(2, 4, 2).long()),
    "on rank 1: input must have shape (N, C, *), 2 to 8 dimensions, got (3,)": dict(input=random(3)),
    "on rank 1: num_channels (4) must be divisible by num_groups (3)": dict(num_groups=3),
    "on rank 1: num_groups (0) must be at least 1": dict(num_groups=0),
    "on rank 1: weight must have shape (4,), one value for each channel, got (2,)": dict(weight=torch.ones(2)),
    "on rank 1: bias must be a torch.Tensor, got int": dict(bias=0),
    "on rank 1: eps (-1.0) must be finite and at least 0": dict(eps=-1.),
    "on rank 1: activation must be one of": dict(activation="swish"),
    "on rank 1: dim must be an integer from 0 to 2, got 3": dict(dim=3),
    "on rank 1: dim must be an integer from 0 to 2, got None": dict(dim=None)}
ALL_BAD = {   # what all ranks do -> what all must raise
    "input must have more than one value per group": dict(input=random(1, 1, 0), num_groups=1),
    "num_channels (16) must be divisible by num_groups (3)": dict(dim=1, num_groups=3),
    "split must have a number for each of 4 ranks, got 2": dict(dim=1, split=(8, 8)),
    "split must be given for dim=1 alone, got dim=2": dict(split=(2, 2, 2, 2)),
    "split must be a tuple of integers of at least 0, got 4": dict(dim=1, split=4),
    "split must be a tuple of integers of at least 0, got (4, 4, 4, -4)": dict(dim=1, split=(4, 4, 4, -4)),
    "input must have the 5 channels that split gives to rank": dict(dim=1, split=(5, 5, 5, 5))}


@topic
def bad(rank, groups):
    "The messages of all errors, and the result of a sound call at the end."
    said = []
    for words, changed in (*BAD.items(), *ALL_BAD.items()):
        if rank == 3 and "more than one" in words: changed = changed | dict(input=random(1, 1, 1))
        if words in BAD: changed = (changed if isinstance(changed, tuple) else ({}, changed))[rank == 1]
        call = dict(input=random(2, 4, 2), num_groups=2, dim=2) | changed
        start = time.monotonic()
        try: sharded_group_norm(**call); said.append((words, "nothing raised", 0))
        except (TypeError, ValueError) as e: said.append((words, str(e), time.monotonic() - start))
    x = random(2, 4, 2)
    for _ in range(2): assert_close(sharded_group_norm(x, 4, dim=0), gn_nb.group_norm(x, 4), 0)
    with Counted() as sent:                                   # that is agreed now: an error of one concerns nobody else
        if rank == 1: must_raise(ValueError, "weight must have shape", sharded_group_norm, x, 4, torch.ones(5), dim=0)
    assert not sent
    y = sharded_group_norm(random(2, 4, 2), 2, dim=2)
    return said, max_error(y, gn_nb.group_norm(random(2, 4, 2).repeat(1, 1, 4), 2)[..., :2])


def test_what_one_rank_gets_wrong_all_are_told(ranks):
    for said, error in ranks("bad"):
        assert len(said) == len(BAD) + len(ALL_BAD)
        for words, text, seconds in said: assert words in text and seconds < LIMIT/2, (words, text, seconds)
        assert error <= 1e-12


@topic
def modules(rank, groups):
    "Errors of the module along space and channels, and its text."
    found, (x, w, b, _) = [], sample(torch.float64)
    for dim, options in ((2, {}), (1, {}), (1, dict(split=(5, 0, 8, 1))), (1, dict(split=(4, 4, 4, 2), bias=False))):
        lengths = SIZES[4] if dim == 2 else options.get("split", (4, 4, 4, 2))
        module = distributed.ShardedGroupNorm(2, 14, 1e-3, dtype=torch.float64, dim=dim, activation="gelu", **options)
        state = {k: v if dim == 2 else shard(v, 0, lengths, rank) for k, v in (("weight", w), ("bias", b))}
        assert (module.weight == 1).all() and (module.bias is None or (module.bias == 0).all())
        module.load_state_dict({k: state[k] for k in module.state_dict()})
        y = module(shard(x, dim, lengths, rank))
        full = gn_nb.group_norm(x, 2, w, None if module.bias is None else b, 1e-3, "gelu")
        found.append(max_error(y.detach(), shard(full, dim, lengths, rank)))
    for words, options in (("split must add up to num_channels (14), got (4, 4, 4, 4)", dict(split=(4,)*4)),
                           ("num_channels (14) must be divisible by num_groups (3)", dict(num_groups=3))):
        options = dict(num_groups=2, num_channels=14, dim=1) | options
        must_raise(ValueError, words, distributed.ShardedGroupNorm, **options)
    return found, repr(module)


def test_module(ranks):
    for found, text in ranks("modules"):
        assert max(found) <= 1e-12
        assert text.startswith("ShardedGroupNorm(2, 14, eps=0.001") and text.endswith("activation='gelu', dim=1)"), text


@topic
def dtensors(rank, groups):
    "Errors of y, dx, dweight, dbias by mesh and placement."
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
    line, square = init_device_mesh("cpu", (4,)), init_device_mesh("cpu", (2, 2))
    errors = {}
    for mesh, placements, C, num_groups in [
            *((line, [p], 14, G) for p in (Shard(0), Shard(1), Shard(2), Shard(3), Replicate()) for G in (2, 7)),
            (line, [Shard(1)], 6, 3), (line, [Shard(1)], 6, 2), (square, [Shard(0), Shard(2)], 14, 2),
            (square, [Shard(2), Shard(0)], 14, 2), (square, [Shard(0), Shard(1)], 14, 2),
            (square, [Shard(1), Replicate()], 14, 7), (square, [Replicate(), Shard(3)], 14, 2),
            (square, [Shard(0), Shard(0)], 14, 2)]:
        x, w, b, dy = sample(torch.float64, (5, C, 7, 3))
        full = whole(x, w, b, num_groups, "silu", dy)
        xd, dyd = (distribute_tensor(t, mesh, placements) for t in (x, dy))
        wd, bd = (distribute_tensor(t, mesh, [Replicate()]*mesh.ndim).requires_grad_() for t in (w, b))
        y = sharded_group_norm(xd.requires_grad_(), num_groups, wd, bd, activation="silu")
        assert y.placements == xd.placements and y.shape == x.shape
        y.backward(dyd)
        found = [t.full_tensor().detach() for t in (y, xd.grad, wd.grad, bd.grad)]
        plain = sharded_group_norm(xd.detach(), num_groups, w, b, activation="silu").full_tensor()
        errors[str((placements, C, num_groups))] = [*map(max_error, (*found, plain), (*full, full[0]))]
    xd = distribute_tensor(sample(torch.float64)[0], square, [Shard(1), Shard(2)])
    must_raise(ValueError, "input must be sharded beyond dimension 0 along 1 axis of its mesh at most, got",
               sharded_group_norm, xd, 2)
    must_raise(ValueError, "dim, group and split must not be given with a DTensor", sharded_group_norm, xd, 2, dim=1)
    must_raise(TypeError, "input must not be a DTensor, whose statistics may lie on other ranks: gn_nb.distributed."
               "sharded_group_norm takes it", gn_nb.group_norm, xd, 2)
    partial = DTensor.from_local(random(2, 4, 3), line, [Partial()])
    must_raise(ValueError, "input must be sharded or replicated along each axis of its mesh, got (Partial(sum),)",
               sharded_group_norm, partial, 2)
    must_raise(ValueError, "weight must have shape (14,), one value for each channel, got (3,)", sharded_group_norm,
               distribute_tensor(sample(torch.float64)[0], line, [Shard(1)]), 2, torch.ones(3))
    return errors


def test_dtensors(ranks):
    for errors in ranks("dtensors"):
        for key, found in errors.items(): assert max(found) <= 1e-12, (key, found)
        assert len(errors) == 18


def gone(rank, groups):
    "Seconds until the others hear of a rank that does not come, and then of one that has died."
    impatient, alone, seconds = dist.new_group(timeout=timedelta(seconds=1)), dist.new_group(
        timeout=timedelta(seconds=1)), []
    if rank == 0:                              # an error that nobody comes to hear is this rank's own
        must_raise(ValueError, "split must be given for dim=1 alone, got dim=2", sharded_group_norm, random(2, 4, 2), 2,
                   dim=2, split=(4,)*3, group=alone)
    for group in (impatient, None):
        if rank == 1:
            if group is None: os._exit(7)
            time.sleep(3)
            continue
        start = time.monotonic()
        must_raise(RuntimeError, f"rank {rank} did not hear from all ranks of its group in time", sharded_group_norm,
                   random(2, 4, 2), 2, dim=2, group=group)
        seconds.append(time.monotonic() - start)
    return seconds


@needs_gloo
def test_a_rank_that_is_late_or_dead_is_an_error_on_all_others():
    for late, dead in on_ranks(gone, 3, codes=[0, 7, 0]): assert late < 10 and dead < LIMIT, (late, dead)


RUN = """
import sys
import torch
import torch.distributed as dist
from torch import nn
from gn_nb import GroupNorm

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(1, 8, 3), GroupNorm(4, 8, activation="relu"), nn.Flatten(), nn.Linear(288, 10)).double()
x, y = torch.randn(16, 1, 8, 8).double(), torch.randint(10, (16,))
net = nn.parallel.DistributedDataParallel(net)
optimizer, losses = torch.optim.SGD(net.parameters(), lr=.1), []
for _ in range(3):
    loss = nn.functional.cross_entropy(net(x.chunk(world)[rank]), y.chunk(world)[rank])
    optimizer.zero_grad(); loss.backward(); optimizer.step()
    mean = loss.detach()/world
    dist.all_reduce(mean)
    losses.append(mean.item())
if rank == 0: torch.save(losses, sys.argv[1])
dist.destroy_process_group()
"""


@needs_gloo
def test_torchrun(tmp_path):
    "The same training started by torchrun on 1, 2 and 4 processes: the losses do not depend on how many."
    (tmp_path/"script.py").write_text(RUN)
    env = os.environ | {"GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo", "PYTHONWARNINGS": "",
                        "PYTHONPATH": str(Path(gn_nb.__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    for world in (1, 2, 4):
        subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1",
                        "--nproc-per-node", str(world), "script.py", str(world)], cwd=tmp_path, env=env, check=True,
                       capture_output=True, timeout=100)
    losses = [torch.tensor(torch.load(tmp_path/str(world)), dtype=torch.float64) for world in (1, 2, 4)]
    assert losses[0][-1] < losses[0][0]
    for other in losses[1:]: assert_close(other, losses[0], 1e-12)


if __name__ == "__main__": main(*sys.argv[1:])
