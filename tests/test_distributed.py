"Moments in parts, and one sample split over processes that end by themselves."
import ast
import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
import torch.distributed as dist

import gn_nb
from gn_nb import apply, distributed, merge, moments, reference
from gn_nb.testing import CASES, assert_close, max_error, must_raise

DTYPES = {torch.float64: 1e-10, torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}
LIMIT = 8             # seconds that a rank waits for the others
UNTIDY = ("some_dies",)          # functions after which not all ranks are there
needs_gloo = pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="torch's gloo is missing here")


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


# Split over processes. A function without `test` in its name runs on every rank: it gets its rank and their number.

def on_ranks(f, world, *args, limit=60, codes=None):
    "What `f(rank, world, *args)` returns on each of `world` ranks; they speak by the loopback interface alone."
    with TemporaryDirectory() as folder:
        env = os.environ | {"GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo", "PYTHONWARNINGS": "",
                            "PYTHONPATH": str(Path(gn_nb.__file__).parent.parent)}
        command = [sys.executable, __file__, f.__name__, folder, str(world), repr(args)]
        ranks = [subprocess.Popen([*command, str(k)], env=env, cwd=folder, text=True, stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE) for k in range(world)]
        end = time.monotonic() + limit
        try: said = [r.communicate(timeout=max(end - time.monotonic(), 0.1)) for r in ranks]
        except subprocess.TimeoutExpired: pytest.fail(f"{f.__name__}{args} has not ended after {limit} s")
        finally:
            for r in ranks: r.kill(); r.wait()
        ends = "\n".join(f"{out}{err}"[-2000:] for out, err in said)
        assert [r.returncode for r in ranks] == (codes or [0]*world), ends
        return [torch.load(f"{folder}/{k}") for k in range(world) if not (codes and codes[k])]


def main(name, folder, world, args, rank):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=int(rank), world_size=int(world),
                            timeout=timedelta(seconds=LIMIT))
    torch.save(globals()[name](int(rank), int(world), *ast.literal_eval(args)), f"{folder}/{rank}")
    if name not in UNTIDY: dist.barrier()
    dist.destroy_process_group()


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


def given(dtype, shape=(2, 14, 7, 3)):
    ramp = torch.linspace(-3, 3, shape[2], dtype=torch.float64).reshape(1, 1, -1, *(1,)*(len(shape) - 3))
    x, dy = random(*shape) + ramp, random(*shape, seed=1)
    return [t.to(dtype) for t in (x, *random(2, shape[1], seed=2), dy)]


def compare(rank, world):
    "The largest error of y, dx, dweight, dbias of each split, dtype and activation, and the messages of each split."
    errors, messages = {}, {}
    gather = dist.all_gather
    def counted(*args, **kwargs): sent.append(args[1].numel()); return gather(*args, **kwargs)
    dist.all_gather = counted
    for dtype, activation in ((torch.float64, "silu"), (torch.float32, None), (torch.bfloat16, "relu")):
        x, w, b, dy = given(dtype)
        for dim, num_groups, sizes, told in splits(world):
            sent = []
            xs, dys = shard(x, dim, sizes, rank).requires_grad_(), shard(dy, dim, sizes, rank)
            ws, bs = (shard(v, 0, sizes, rank) if dim == 1 else v.clone() for v in (w, b))
            y = distributed.sharded_group_norm(xs, num_groups, ws.requires_grad_(), bs.requires_grad_(),
                                               activation=activation, dim=dim, split=tuple(sizes) if told else None)
            assert y.dtype == dtype and y.shape == xs.shape
            dx, dw, db = torch.autograd.grad(y, (xs, ws, bs), dys)
            messages[dim, num_groups, told] = [*sent]
            full = whole(*(t.double() for t in (x, w, b)), num_groups, activation, dy.double())
            found = [y.detach(), dx, dw, db]
            if dim != 1:
                for v in found[2:]: dist.all_reduce(v)
            full = [*(shard(t, dim, sizes, rank) for t in full[:2]),
                    *(shard(t, 0, sizes, rank) if dim == 1 else t for t in full[2:])]
            errors[str(dtype), dim, num_groups, told] = [max_error(a, b) for a, b in zip(found, full, strict=True)]
    return errors, messages


@needs_gloo
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_shards_equal_the_whole(world):
    tolerance = {"torch.float64": 1e-12, "torch.float32": 1e-6, "torch.bfloat16": 2**-7}
    for errors, messages in on_ranks(compare, world):
        for key, found in errors.items():
            # sums of 294 products of bfloat16 numbers are rounded by each rank, then once more
            limits = [tolerance[key[0]]]*2 + [tolerance[key[0]]*(4 if "bfloat" in key[0] else 3)]*2
            assert all(e <= t for e, t in zip(found, limits, strict=True)), (key, found)
        if world > 1:
            assert messages[1, 7, True] == []                           # whole groups: nothing to say
            assert len(messages[1, 7, False]) == 1                      # but for how many channels there are
            assert len(messages[2, 2, False]) == len(messages[1, 2, True]) == 2            # forward, backward
        else: assert not any(messages.values())


if __name__ == "__main__": main(*sys.argv[1:])
