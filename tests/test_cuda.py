"The CUDA kernels on the simulated machine and, where there is one, on a card: the same cases, against float64."
import ctypes
import mmap
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_cpu import exact

from gn_nb import cuda
from gn_nb.shapes import Sizes, sizes
from gn_nb.testing import CASES, Case, assert_close, max_error

SMALL = cuda.Card((8, 0), 2, 1 << 20, warp=4, threads=8, most=16)        # small arrays make many slices on it
CLUSTERS = SMALL._replace(capability=(9, 0))
POOLS = CLUSTERS._replace(processors=16, shared=2 << 14)                 # with shared memory that copies can fill
DTYPE = {torch.float64: "float64", torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
PLACES = ["simulated", pytest.param("card", marks=pytest.mark.skipif(
    not (torch.cuda.is_available() and cuda.compiles), reason="needs a CUDA card and numba-cuda"))]
# one rounding to the dtype: 2**-24, 2**-11, 2**-8, and 1 % for rounding by way of float32
ROUNDING = {torch.float64: 0, torch.float32: 1.01*2**-24, torch.float16: 1.01*2**-11, torch.bfloat16: 1.01*2**-8}


@pytest.fixture(params=PLACES)
def machine(request): return Machine(request.param)


class Machine:
    "Where a plan is carried out: memory for it, and a way to run it."
    def __init__(self, kind):
        self.device = "cuda" if kind == "card" else "cpu"
        self.card = cuda.card(torch.cuda.current_device()) if kind == "card" else SMALL
        self.cut = self.card if kind == "card" else CLUSTERS               # the same, with clusters if it has them
        # channels last: kernels that read twice, and pools of rows
        self.rows = {True: self.card._replace(shared=0), "pool": self.card if kind == "card" else POOLS}

    def empty(self, shape, dtype, rows=False, shift=0):
        "A tensor of NaN, channels last if `rows`, that begins `shift` elements behind a multiple of 16 bytes."
        moved = (shape[0], *shape[2:], shape[1]) if rows else shape
        space = torch.full((int(np.prod(moved)) + 16,), torch.nan, dtype=dtype, device=self.device)
        start = -space.data_ptr() % 16//space.element_size() + shift
        out = space[start:start + int(np.prod(moved))].view(moved)
        return out.movedim(-1, 1) if rows else out

    def copy(self, t, **how): return None if t is None else self.empty(t.shape, t.dtype, **how).copy_(t)

    def execute(self, tensors, plan, addresses, workspace, eps):
        if self.device == "cpu":
            where = [(t.data_ptr(), t.numel()*t.element_size()) for t in tensors if t is not None]
            cuda.play(plan, addresses, workspace, eps, where)
        else:
            stream = torch.cuda.current_stream().cuda_stream
            cuda.launch(plan, addresses, workspace, eps, self.card.capability, stream)

    def run(self, x, dy, num_groups, weight=None, bias=None, rows=False, activation=None, scale=None, shift=None,
            eps=1e-5, misaligned=0, in_place=False, need_dx=True, need_parameters=True, statistics=True, card=None):
        "y, mean, rstd, dx, dweight, dbias and, with scale or shift, dscale and dshift; on the CPU."
        card, rows = card or self.rows.get(rows, self.card), bool(rows)
        s, real = sizes(x.shape, num_groups), torch.float64 if x.dtype == torch.float64 else torch.float32
        how = dict(rows=rows, shift=misaligned)
        xs, dys, y, dx = self.copy(x, **how), self.copy(dy, **how), *(self.empty(x.shape, x.dtype, **how) for _ in "yd")
        w, b, sc, sh = (self.copy(t) for t in (weight, bias, scale, shift))
        mean, rstd = self.empty((2, s.N, s.G), real), self.empty((s.N, s.G), real)
        of_parameters = next((t.dtype for t in (weight, bias) if t is not None), real)
        dw, db = (self.empty((s.C,), of_parameters) for _ in "wb")
        dsc, dsh = (self.empty((s.N, s.C), real) for _ in "cs")
        parameter = DTYPE[of_parameters]
        scaling = next((DTYPE[t.dtype] for t in (scale, shift) if t is not None), "")
        tensors = dict(x=xs, y=y, w=w, b=b, sc=sc, sh=sh, mean=mean, rstd=rstd, dy=dys, dx=dx, dw=dw, db=db, dsc=dsc,
                       dsh=dsh)
        at = SimpleNamespace(**{k: 0 if t is None else t.data_ptr() for k, t in tensors.items()})
        def planned(direction):
            plan = cuda.plan(direction, rows, DTYPE[x.dtype], parameter, scaling, activation, s, not misaligned,
                             card, need_dx, need_parameters)
            space = self.empty((plan.workspace//4 + 4,), torch.float32)
            return plan, space.data_ptr(), partial(self.execute, (*tensors.values(), space))
        plan, space, run = planned("forward")
        target = at.x if in_place else at.y
        stats = (at.mean, at.rstd) if statistics or plan.reads_twice else (0, 0)
        cuda.forward(plan, at.x, target, at.w, at.b, *stats, eps, at.sc, at.sh, space, run)
        if in_place: return [xs.cpu()]
        plan, space, run = planned("backward")
        cuda.backward(plan, at.dy, at.x, at.mean, at.rstd, at.w, at.b, at.sc, at.sh, at.dx if need_dx else 0, at.dw,
                      at.db, at.dsc, at.dsh, space, run)
        return [t.cpu() for t in (y, mean, rstd, dx, dw, db, *((dsc, dsh) if scaling else ()))]


def draw(shape, dtype=torch.float32, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).to(dtype)


def make(case, dtype, seed=0):
    "x, dy, weight and bias of a case, rounded to the dtype."
    rng = np.random.default_rng(seed + 1)
    values = case.make(seed=seed), rng.standard_normal(case.shape), *rng.standard_normal((2, case.shape[1]))
    return [torch.tensor(v).to(dtype) for v in values]


def check(found, x, dy, G, weight=None, bias=None, activation=None, scale=None, shift=None):
    "Results against torch's autograd in float64 on the same numbers."
    N, C = x.shape[:2]
    given = [torch.full((C,), v) if t is None else t for v, t in ((1., weight), (0., bias))]
    given += [torch.zeros(N, C) if t is None else t for t in (scale, shift)]
    wanted = exact(x.double().numpy(), dy.double().numpy(), G, activation, *(t.double().numpy() for t in given))
    xg = x.double().reshape(N, G, -1)
    mean, rstd = xg.mean(-1), (xg.var(-1, unbiased=False) + 1e-5).rsqrt()
    single, out = x.dtype != torch.float64, ROUNDING[x.dtype]
    # float32: a few units of 2**-24, in dx of terms as large as rstd; float64: 1e-16 for each of up to 4000 terms, and
    # a mean of 1e3 seen through rstd = 95
    base = 2e-6 if single else 1e-9
    assert_close(found[0], wanted[0], base + out, dtype=x.dtype)
    spread = rstd.reciprocal().clamp(min=1)                          # the mean, in deviations where they are large
    assert max_error(found[1].double().sum(0)/spread, mean/spread) <= (3e-7 if single else 1e-12)
    assert max_error(found[2].double()/rstd, torch.ones_like(rstd)) <= (5e-7 if single else 1e-9)
    r = max(1., rstd.max().item())
    if found[3] is not None: assert_close(found[3].double()/r, wanted[2]/r, 2*base + out)
    for a, e in zip(found[4:], wanted[3:], strict=False):
        assert_close(a, e, (1e-4 if single else 1e-8) + ROUNDING[a.dtype], dtype=a.dtype)
    assert all(t.isfinite().all() for t in found if t is not None)


both_layouts = pytest.mark.parametrize("rows", [False, True, "pool"], ids=["contiguous", "channels_last", "pool"])
dtypes = pytest.mark.parametrize("dtype", DTYPE, ids=str)
REAL_CASES = [*(c for c in CASES if 0 not in c.shape),
              Case("slices", (2, 6, 13, 29), 2, "channels", "more than a team holds, and an uneven rest"),
              Case("slices-of-one", (1, 5, 17, 19), 1, "offset", "one group, likewise"),
              Case("slices-of-channels", (1, 2, 41, 37), 2, "normal", "a channel that is cut, of odd size")]


@both_layouts
@dtypes
@pytest.mark.parametrize("case", REAL_CASES, ids=str)
def test_awkward_inputs(machine, case, dtype, rows):
    if rows and len(case.shape) < 3: return                                       # no pixels, no rows
    if dtype in (torch.float16, torch.bfloat16) and case.values in ("offset", "outlier"): return    # beyond them
    x, dy, weight, bias = make(case, dtype)
    found = machine.run(x, dy, case.num_groups, weight, bias, rows)
    check(found, x, dy, case.num_groups, weight, bias)
    assert found[0].is_contiguous() != rows or x[0, 0].numel() == 1 or x.shape[1] == 1


@dtypes
@pytest.mark.parametrize("shape, G", [((2, 6, 13, 25), 2), ((1, 5, 13, 15), 1), ((2, 8, 16, 12), 2),
                                      ((1, 4, 32, 14), 1), ((1, 1, 1023), 1)])
def test_clusters(machine, dtype, shape, G):
    "Groups that two to eight blocks hold between them, each a slice."
    card, (w, b) = machine.cut, draw((2, shape[1]), dtype, 2)
    for x in (draw(shape, dtype), draw(shape, dtype) + 3, torch.full(shape, 0.1, dtype=dtype)):
        plan = cuda.plan("forward", False, DTYPE[dtype], DTYPE[dtype], "", "silu", sizes(shape, G), True, card)
        assert card is not CLUSTERS or [l.form.cluster > 1 for l in plan.launches] == [True]
        first = machine.run(x, x, G, w, b, activation="silu", card=card)
        wanted = F.silu(F.group_norm(x.double(), G, w.double(), b.double()))
        assert_close(first[0], wanted, (2e-6 if dtype != torch.float64 else 1e-12) + 4*ROUNDING[dtype], dtype=dtype)
        xg = x.double().reshape(shape[0], G, -1)
        assert max_error(first[1].double().sum(0), xg.mean(-1)) <= (3e-7 if dtype != torch.float64 else 1e-12)
        assert max_error(first[2], (xg.var(-1, unbiased=False) + 1e-5).rsqrt()) <= 2e-4*(dtype != torch.float64) + 1e-9
        for _ in range(2 if machine.device == "cpu" else 100):
            again = machine.run(x, x, G, w, b, activation="silu", card=card)
            assert all(map(torch.equal, again[:3], first[:3]))
    offset = (draw(shape, torch.float64) + 1e5).float()
    y = machine.run(offset, offset, G, card=card)[0]
    assert_close(y, F.group_norm(offset.double(), G), 1e-6, dtype=torch.float32)


POOL = [((1, 4, 16, 32), 2, 16, 1024), ((3, 6, 8, 32), 3, 16, 512), ((2, 10, 4, 32), 2, 16, 2100),
        ((70, 4, 8, 8), 2, 8, 3000), ((2, 8, 8, 8), 2, 16, 600), ((2, 6, 32, 16), 2, 16, 4096),
        ((3, 16, 7, 7), 2, 16, 8192), ((2, 16, 6, 7), 2, 16, 4096), ((2, 16, 2, 14), 2, 16, 4096)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape, G, processors, room", POOL)
def test_groups_in_the_shared_memory_of_a_cluster(monkeypatch, shape, G, processors, room, dtype):
    "Slices of whole channels and of parts of one; one block and several; more samples than one block adds up."
    monkeypatch.setattr(cuda, "HELD", 2)                                   # registers that hold little
    cuda.plan.cache_clear()
    card = cuda.Card((9, 0), processors, 1 << 20, warp=4, threads=8, most=8, shared=2*(6144 + room))
    x, dy, w, b = (draw(s, dtype, seed) for seed, s in enumerate((shape, shape, shape[1:2], shape[1:2])))
    scale, shift = (draw(shape[:2], dtype, seed) for seed in (4, 5))
    if dtype is torch.float32: x += 1e4
    kind, s = DTYPE[dtype], sizes(shape, G)
    plans = [cuda.plan(d, False, kind, kind, kind, "silu", s, True, card) for d in ("forward", "backward")]
    first, second = (plan.launches[0].form.kernel for plan in plans)
    assert (first in ("pool", "hold") or s.S % 8) and second == "pool_gradients"
    found = Machine("simulated").run(x, dy, G, w, b, activation="silu", scale=scale, shift=shift, card=card)
    check(found, x, dy, G, w, b, "silu", scale, shift)
    cuda.plan.cache_clear()


def test_a_slice_of_a_group_of_many_channels(monkeypatch, fresh_plans):
    "The table is of the channels that a slice touches, not of those of the group."
    monkeypatch.setattr(cuda, "HELD", 2)
    monkeypatch.setattr(cuda, "TABLE", 4)
    card = cuda.Card((9, 0), 16, 1 << 20, warp=4, threads=8, most=8, shared=2*(6144 + 2048))
    x, w, b = draw((2, 16, 8, 32)), draw((16,), seed=1), draw((16,), seed=2)
    for shape, names in ((x.shape, ["pool"]), ((2, 64, 4, 4), ["moments", "merge", "apply"])):
        plan = cuda.plan("forward", False, "float32", "float32", "", "silu", sizes(shape, 1), True, card)
        assert [l.form.kernel for l in plan.launches] == names
    check(Machine("simulated").run(x, x, 1, w, b, activation="silu", card=card), x, x, 1, w, b, "silu")


@pytest.mark.parametrize("G", [4, 1])
def test_slices_summed_as_if_they_were_samples(G):
    "After a pool no kernel adds up slices where they are few; the gradients are the same but for rounding."
    x, dy, w, b = (draw(s, seed=k) for k, s in enumerate(((3, 8, 5, 7), (3, 8, 5, 7), (8,), (8,))))
    s, card = sizes(x.shape, G), POOLS
    names = [l.form.kernel for l in cuda.plan("backward", True, "float32", "float32", "", None, s, True, card).launches]
    assert names[0] == "pool_rows_gradients" and "fold_sums" not in names
    check(Machine("simulated").run(x, dy, G, w, b, rows=True, card=card), x, dy, G, w, b)


ROW_POOL = [((1, 4, 16, 4), 2, 3000), ((3, 8, 5, 7), 2, 3000), ((2, 24, 9, 5), 4, 3000), ((2, 16, 6, 6), 16, 20_000),
            ((1, 40, 33, 1), 4, 8192), ((70, 8, 5, 3), 4, 8192), ((2, 24, 64, 3), 1, 4000), ((1, 80, 7, 7), 8, 20_000)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape, G, room", ROW_POOL)
def test_rows_in_the_shared_memory_of_a_cluster(monkeypatch, shape, G, room, dtype):
    "Slabs of one group and of several, groups that share a vector, rows in one block and cut, threads without a row."
    monkeypatch.setattr(cuda, "TWICE", 1 << 20)
    cuda.plan.cache_clear()
    card = cuda.Card((9, 0), 4, 1 << 20, warp=4, threads=8, most=16, shared=2*room)
    x, dy, w, b = (draw(s, dtype, seed) for seed, s in enumerate((shape, shape, shape[1:2], shape[1:2])))
    scale, shift = (draw(shape[:2], dtype, seed) for seed in (4, 5))
    if dtype is torch.float32: x += 1e4
    kind, s = DTYPE[dtype], sizes(shape, G)
    plans = [cuda.plan(d, True, kind, kind, kind, "silu", s, True, card) for d in ("forward", "backward")]
    kernels = [plan.launches[0].form.kernel for plan in plans]
    whole = shape[1]*cuda.SIZE[kind] % 16 == 0                               # is a row a number of vectors?
    assert (kernels == ["pool_rows", "pool_rows_gradients"]) == whole
    found = Machine("simulated").run(x, dy, G, w, b, rows=True, activation="silu", scale=scale, shift=shift, card=card)
    check(found, x, dy, G, w, b, "silu", scale, shift)
    cuda.plan.cache_clear()


RELAY = [((2, 4, 19, 37), 2, 8), ((1, 8, 600), 2, 24), ((3, 2, 40, 40), 2, 0), ((5, 2, 1060), 2, 8),
         ((2, 3, 515), 1, 1 << 10)]


def relays(monkeypatch, ahead):
    "A card that has no room for a group but its cache, and little to do until it is filled."
    for name, value in dict(FEW=0, MANY=0, AHEAD=ahead).items(): monkeypatch.setattr(cuda, name, value)
    cuda.plan.cache_clear()
    return SMALL._replace(most=8)


@pytest.fixture
def fresh_plans():
    yield
    cuda.plan.cache_clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape, G, ahead", RELAY)
def test_slices_read_again_from_the_cache(monkeypatch, fresh_plans, shape, G, ahead, dtype):
    "With and without edges, one note for a thread and two, first reads hardly ahead of second ones and all before."
    card = relays(monkeypatch, ahead)
    x, dy, w, b = (draw(s, dtype, seed) for seed, s in enumerate((shape, shape, shape[1:2], shape[1:2])))
    scale, shift = (draw(shape[:2], dtype, seed) for seed in (4, 5))
    if dtype is torch.float32: x += 1e4
    kind, s = DTYPE[dtype], sizes(shape, G)
    for direction, name, vectors in (("forward", "relay", 8), ("backward", "relay_gradients", 4)):
        first, second = cuda.plan(direction, False, kind, kind, kind, "silu", s, True, card).launches[:2]
        slices = s.D*-(-s.S//(second.form.team*vectors*second.form.width))
        if slices > 2*second.form.team: assert first.form.kernel == "gradient_sums"      # more notes than a block reads
        else:
            assert (first.form.kernel, second.form.kernel) == ("clear_notes", name)
            assert second.form.columns == 1 + (slices > second.form.team)
    run = partial(Machine("simulated").run, x, dy, G, w, b, activation="silu", scale=scale, shift=shift, card=card)
    found = run()
    check(found, x, dy, G, w, b, "silu", scale, shift)
    assert torch.equal(run(in_place=True)[0], found[0])


def test_a_slice_is_read_twice_and_late_enough():
    "Once first, once again, and then all slices of its group were begun before."
    for many, group, ahead in ((12, 3, 3), (12, 3, 5), (12, 4, 12), (1, 1, 1), (40, 1, 7), (40, 40, 40), (35, 5, 34)):
        turns = []
        def turn(p, many=many, turns=turns): turns.append(cuda.turn_of(p, many))
        form = cuda.Form("relay", "float32", "float32", "", None, 0, 0, 1, 1, 1)
        cuda.simulate(turn, 2*many, SimpleNamespace(threads=1, cluster=1, per=ahead, real=np.float32, form=form))
        assert [i for i, first in turns if first] == [i for i, first in turns if not first] == [*range(many)]
        for at, (i, first) in enumerate(turns):
            begun = sum(first for _, first in turns[:at])
            if not first: assert begun >= min(many, (i//group + 1)*group), (many, group, ahead, i)
            assert begun - sum(not first for _, first in turns[:at]) <= ahead + 1


def test_the_simulated_machine_sees_what_would_wait_for_ever(monkeypatch, fresh_plans):
    "A second read before all first reads of its group have begun."
    card = relays(monkeypatch, 8)
    s = sizes((1, 4, 600), 2)
    plan = cuda.plan("forward", False, "float32", "float32", "", None, s, True, card)
    clear, relay = plan.launches
    plan.launches = clear, relay._replace(sizes=(*relay.sizes[:8], 2, 0))
    x, y, w, stats, work = (torch.ones(n) for n in (2400, 2400, 4, 6, plan.workspace))
    with pytest.raises(RuntimeError, match="waits for one behind it"):
        cuda.forward(plan, x.data_ptr(), y.data_ptr(), w.data_ptr(), w.data_ptr(), stats.data_ptr(),
                     stats[4:].data_ptr(), 1e-5, 0, 0, work.data_ptr(), cuda.play)


def test_shared_memory_is_read_in_whole_vectors():
    "What the card would call a misaligned address."
    form = cuda.Form("hold", "float32", "float32", "", None, 0, 0, warp=4, team=4, threads=4)
    def askew(p): cuda.shared(p, 3, np.zeros(2))
    with pytest.raises(ValueError, match="2 numbers at 3 of shared memory"): cuda.simulate(askew, 1, cuda.example(form))


def written_and_read(p):
    cuda.share(p, cuda.thread(), 1.)
    cuda.exchange(p, 1., 1)                                                          # a barrier to nothing else
    cuda.shared(p, cuda.thread() ^ 1, 0.)


def read_and_written(p):
    cuda.shared(p, 0, 0.)
    if cuda.thread() == 1: cuda.share(p, 0, 1.)


def written_by_the_cluster(p):
    rank = cuda.block() % 2
    cuda.share_with(p, 1 - rank, cuda.thread(), 1.)
    cuda.barrier()                                                                   # of this block only
    cuda.shared(p, cuda.thread(), 0.)


def overtaken(p):
    cuda.share(p, cuda.thread(), 1.)
    cuda.barrier()
    cuda.shared(p, cuda.thread() ^ 1, 0.)
    cuda.share(p, cuda.thread(), 2.)


def not_reached(p):
    if cuda.thread(): cuda.barrier()


@pytest.mark.parametrize("kernel, cluster", [
    (written_and_read, 1), (read_and_written, 1), (written_by_the_cluster, 2), (overtaken, 1), (not_reached, 1)])
def test_barriers_that_are_missing(kernel, cluster, monkeypatch):
    "On the simulated machine they are errors, however the threads happen to run; with them there are none."
    monkeypatch.setattr(cuda, "PATIENCE", .3)
    form = SimpleNamespace(columns=0, warp=2, cluster=cluster, stages=0, kernel="hold")
    p = SimpleNamespace(threads=2, cluster=cluster, real=np.float32, form=form)
    message = "barrier that others do not" if kernel is not_reached else "memory, with no barrier after another"
    for _ in range(5):
        with pytest.raises(RuntimeError, match=message): cuda.simulate(kernel, 2, p)
    if kernel in (not_reached, read_and_written): return
    def waiting(f): return lambda *args: (cuda.cluster_barrier(p), f(*args), cuda.cluster_barrier(p))[1]
    for name in ("share", "share_with", "shared"): monkeypatch.setattr(cuda, name, waiting(getattr(cuda, name)))
    cuda.simulate(kernel, 2, p)


def test_nothing_is_launched_for_nothing():
    for s in (Sizes(0, 6, 3, 2, 16, 32), Sizes(2, 6, 3, 2, 0, 0)):
        for direction in ("forward", "backward"):
            assert cuda.plan(direction, False, "float32", "float32", "", None, s, True, SMALL).launches == ()


@both_layouts
@dtypes
@pytest.mark.parametrize("activation", [None, "relu", "silu", "gelu"])
def test_fused_operations_and_their_gradients(machine, activation, dtype, rows):
    for shape, G in (((2, 8, 5, 7), 4), ((1, 16, 8, 9), 2), ((3, 12, 1, 3), 3)):
        x, dy, (w, b) = draw(shape, dtype), draw(shape, dtype, 1), draw((2, shape[1]), dtype, 2)
        scale, shift = draw((2, *shape[:2]), dtype, 3)
        if activation == "relu":                                    # rounding decides on which side of 0 a few lie
            z = (F.group_norm(x.double(), G, w.double(), b.double())*(1 + spread(scale, x)) + spread(shift, x)).abs()
            dy[z < 1e-3] = 0
        found = machine.run(x, dy, G, w, b, rows, activation, scale, shift)
        check_scaled(found, x, dy, G, w, b, activation, scale, shift)


def spread(t, x): return t.double().reshape(*t.shape, *(1,)*(x.ndim - t.ndim))


def check_scaled(found, x, dy, *rest):
    "Results that weights and scales make up to 50 times as large: errors by that measure."
    wanted = exact(x.double().numpy(), dy.double().numpy(), rest[0], rest[3],
                   *(t.double().numpy() for t in (rest[1], rest[2], rest[4], rest[5])))
    # float32: units of 2**-24; the polynomial of gelu has the digits of the dtype
    base = {torch.float64: 1e-11, torch.bfloat16: 3e-5}.get(x.dtype, 5e-6)
    for a, e, name in zip([found[0], *found[3:]], [wanted[0], *wanted[2:]],
                          ("y", "dx", "dweight", "dbias", "dscale", "dshift"), strict=True):
        size, out = max(1, np.abs(e).max()), ROUNDING[a.dtype]
        err = max_error(a.double()/size, e/size)
        assert err <= base + out, (name, err)


@both_layouts
def test_parameters_of_other_dtypes(machine, rows):
    "bfloat16 with float32 parameters, or float32 scales with bfloat16 ones; weight alone, bias alone, shift alone."
    x, dy = draw((2, 12, 5, 3), torch.bfloat16), draw((2, 12, 5, 3), torch.bfloat16, 1)
    w, b = draw((2, 12), torch.float32, 2)
    scale, shift = draw((2, 2, 12), torch.float16, 3)
    half = {"weight": w.bfloat16(), "bias": b.bfloat16()}
    for given in (dict(weight=w, bias=b), dict(weight=w), dict(bias=b), dict(**half, shift=shift), dict(scale=scale),
                  half):
        found = machine.run(x, dy, 3, rows=rows, **given)
        order = [given.get(k) for k in ("weight", "bias")]
        full = [torch.full((12,), v) if t is None else t for v, t in zip((1., 0.), order, strict=True)]
        scales = [given.get(k, torch.zeros(2, 12)) for k in ("scale", "shift")]
        wanted = exact(x.double().numpy(), dy.double().numpy(), 3, None,
                       *(t.double().numpy() for t in (*full, *scales)))
        for a, e in zip([found[0], *found[3:]], [wanted[0], *wanted[2:]], strict=False):
            assert max_error(a.double(), e) <= 2e-5 + ROUNDING[a.dtype]


@both_layouts
def test_where_vectors_do_not_fit(machine, rows):
    "Arrays that begin between two multiples of 16 bytes, channels that do not fill a vector."
    for dtype in (torch.float32, torch.bfloat16):
        for shape, G in (((2, 8, 5, 7), 4), ((2, 6, 4, 4), 3), ((1, 7, 9), 7)):
            x, dy, (w, b) = draw(shape, dtype), draw(shape, dtype, 1), draw((2, shape[1]), dtype, 2)
            check(machine.run(x, dy, G, w, b, rows, misaligned=1), x, dy, G, w, b)


@both_layouts
def test_in_place_and_without_dx(machine, rows):
    for shape, G in (((2, 8, 5, 7), 4), ((1, 8, 40, 20), 2)):
        x, dy = draw(shape), draw(shape, seed=1)
        whole = machine.run(x, dy, G, rows=rows)
        assert torch.equal(machine.run(x, dy, G, rows=rows, in_place=True)[0], whole[0])
        part = machine.run(x, dy, G, rows=rows, need_dx=False)
        assert part[3].isnan().all()
        # where a pool makes dx the terms, up to 1600 of size 1, are added up in another order
        for a, e in zip(part[4:], whole[4:], strict=True):
            assert torch.equal(a, e) or (rows == "pool" and max_error(a, e) <= 2e-5)


@both_layouts
def test_without_gradients_of_parameters(machine, rows):
    "dx is the same to the bit, and nothing is written where they would stand."
    for shape, G in (((2, 8, 5, 7), 4), ((1, 8, 40, 20), 2), ((70, 8, 4), 4), ((3, 8), 2)):
        x, dy, scale = draw(shape), draw(shape, seed=1), draw(shape[:2], seed=2)
        for scaled in ({}, {"scale": scale}):
            whole = machine.run(x, dy, G, rows=rows, activation="silu", **scaled)
            part = machine.run(x, dy, G, rows=rows, activation="silu", need_parameters=False, **scaled)
            assert all(map(torch.equal, part[:4], whole[:4])) and all(t.isnan().all() for t in part[4:])


@both_layouts
def test_statistics_that_nobody_wants(machine, rows):
    "They are not written, unless a later kernel reads them."
    for shape, G in (((2, 8, 5, 7), 4), ((1, 8, 40, 20), 2), ((1, 2, 100, 40), 1), ((3, 8), 2)):
        x = draw(shape)
        wanted = machine.run(x, x, G, rows=rows, in_place=True)
        assert torch.equal(*wanted, *machine.run(x, x, G, rows=rows, in_place=True, statistics=False))


@both_layouts
def test_same_bits_every_time(machine, rows):
    for shape, G in (((3, 8, 5, 7), 4), ((3, 8, 20, 20), 2)):
        x, dy = draw(shape, torch.bfloat16), draw(shape, torch.bfloat16, 1)
        first = machine.run(x, dy, G, rows=rows, activation="silu")
        for _ in range(3 if machine.device == "cpu" else 100):
            assert all(map(torch.equal, machine.run(x, dy, G, rows=rows, activation="silu"), first))


@both_layouts
def test_accuracy_does_not_depend_on_the_mean(machine, rows):
    noise, dy = draw((2, 8, 16, 12), torch.float64), draw((2, 8, 16, 12), seed=1)
    for mean in (0, 1e2, 1e4, 1e5):
        x = (noise + mean).float()
        found = machine.run(x, dy, 2, rows=rows)
        check(found, x, dy, 2)
        assert_close(found[0], F.group_norm(x.double(), 2), 1e-6, dtype=torch.float32)


@both_layouts
@pytest.mark.parametrize("where", [0, 1, 17, 191])
def test_an_outlier_costs_no_accuracy(machine, where, rows):
    "Not even as the shift of the sums: a part of the group too far from the rest."
    x = draw((1, 4, 12, 16)) + 5
    x.reshape(1, 2, -1)[..., where] = 1e4
    y = machine.run(x, x, 2, rows=rows)[0]
    assert_close(y, F.group_norm(x.double(), 2), 1e-6, dtype=torch.float32)


@both_layouts
@dtypes
def test_a_constant_group_gives_exactly_the_bias(machine, dtype, rows):
    for value in (0.1, 350.1, -1e4, 1/3):
        # 41, 47 and 83 times their rounded reciprocals are not 1
        for shape, G in (((2, 8, 5, 7), 4), ((1, 6, 7, 11), 2), ((1, 4, 41), 4), ((1, 4, 47), 2), ((1, 4, 83, 7), 1)):
            b = draw((shape[1],), dtype)
            b[::2] = 0                                                # beside which not even 1e-20 would vanish
            x = torch.full(shape, value, dtype=dtype)
            y = machine.run(x, x, G, bias=b, rows=rows)[0]
            assert torch.equal(y, b.reshape(1, -1, *(1,)*(len(shape) - 2)).expand(shape))


@both_layouts
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_stays_in_its_group(machine, bad, rows):
    for shape in ((3, 8, 5, 5), (3, 8, 17, 20)):
        x, dy = draw(shape), draw(shape, seed=1)
        spoilt = x.clone(); spoilt[1, 2, 3, 3] = bad                         # sample 1, group 1: channels 2 and 3
        clean, found = (machine.run(t, dy, 4, rows=rows, activation="silu") for t in (x, spoilt))
        inside = torch.zeros(shape, dtype=torch.bool); inside[1, 2:4] = True
        for k in (0, 3):
            assert torch.equal(clean[k][~inside], found[k][~inside]) and not found[k][inside].isfinite().any()
        for k in (4, 5): assert torch.equal(clean[k][[0, 1, 4, 5, 6, 7]], found[k][[0, 1, 4, 5, 6, 7]])


@pytest.mark.parametrize("kind", ["plain", "pool", "relay"])
@pytest.mark.parametrize("rows", [False, True])
def test_squares_that_overflow(monkeypatch, fresh_plans, kind, rows):
    "As torch: a variance that is inf makes the result the bias, and nothing NaN."
    shape, card = (2, 4, 19, 37), dict(plain=SMALL, pool=POOLS._replace(shared=2*(6144 + 8192)), relay=SMALL)[kind]
    if kind == "relay": card = relays(monkeypatch, 8)
    else: cuda.plan.cache_clear()
    b = draw((4,), seed=3)
    for size in (1e15, 1e19, 1e20, 1e30):
        x = draw(shape)*size
        y = Machine("simulated").run(x, x, 2, bias=b, rows=rows, card=card)[0]
        assert_close(y, F.group_norm(x, 2, bias=b), 1e-6)


def test_eps_is_the_one_given(machine):
    x = draw((2, 8, 5, 7))
    for eps in (0., 1e-12, 0.1, 1e6):
        assert_close(machine.run(x, x, 4, eps=eps)[0], F.group_norm(x.double(), 4, eps=eps), 1e-6, dtype=torch.float32)


@pytest.mark.parametrize("case", [Case("short", (2, 8, 5, 7), 4, "normal", ""),
                                  Case("long", (1, 8, 16, 16), 2, "normal", "")], ids=str)
def test_the_simulated_machine_sees_what_is_outside(case, monkeypatch):
    "An array that is one byte too short is found out, wherever it is used."
    machine, (x, dy, w, b) = Machine("simulated"), make(case, torch.float32)
    play, dropped = cuda.play, []
    def shorter(plan, addresses, workspace, eps, where):
        for k in range(len(where)):
            short = [(a, n - (j == k)) for j, (a, n) in enumerate(where)]
            try: play(plan, addresses, workspace, eps, short)
            except IndexError: dropped.append(k)
        play(plan, addresses, workspace, eps, where)
    monkeypatch.setattr(cuda, "play", shorter)
    machine.run(x, dy, case.num_groups, w, b)
    assert {*dropped} >= {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}


def test_beyond_two_to_the_31_elements():
    "The last slice of a channel of 2**31 and some, which is first; memory is handed out only where it is touched."
    S = 2**31 + 2**20
    sparse = [mmap.mmap(-1, 2*S, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) for _ in "xy"]
    x, y = (np.frombuffer(m, np.float16) for m in sparse)
    x[-8:] = np.arange(8)
    stats, weight = np.array([1, 0, 2], np.float32), np.array([3], np.float32)
    plan = cuda.plan("forward", False, "float16", "float32", "", None, sizes((1, 1, S), 1), True, SMALL)
    last = plan.launches[-1]
    assert last.form.kernel == "apply_channels"
    addresses = dict(x=x.ctypes.data, y=y.ctypes.data, mean=stats.ctypes.data, rstd=stats[2:].ctypes.data,
                     weight=weight.ctypes.data)
    values = [addresses.get(name, 0) for name in cuda.FIELDS[:cuda.FIELDS.index("N")]]
    cuda.simulate(cuda.apply_channels, 1, cuda.Call(last.form, (*values, *last.sizes, 1e-5)),
                  [(a.ctypes.data, a.nbytes) for a in (x, y, stats, weight)])
    assert y[-8:].tolist() == [6*(v - 1) for v in range(8)] and (y[-16:-8] == -6).all()
    del x, y


def test_all_of_bfloat16_and_float16():
    "Every number of 16 bits through the simulated memory, and rounding to the nearest even."
    every = np.arange(2**16, dtype=np.uint16)
    for dtype, kind in ((torch.bfloat16, "bfloat16"), (torch.float16, "float16")):
        p = cuda.example(cuda.Form("apply", kind, "float32", "", None, 0, 1, warp=1, team=1, threads=1, width=8))
        wide = cuda._wide(p, kind, every if kind == "bfloat16" else every.view(np.float16))
        assert np.array_equal(wide, torch.from_numpy(every.view(np.int16)).view(dtype).float().numpy(), equal_nan=True)
        some = np.sort(wide[np.isfinite(wide)]).astype(np.float64)
        many = np.concatenate([draw((10_000,)), (some[1:] + some[:-1])/2, [np.inf, -np.inf]]).astype(np.float32)
        with np.errstate(over="ignore"): narrow = cuda._narrow(kind, many).view(np.int16)      # half of them are ties
        assert torch.equal(torch.from_numpy(narrow).view(dtype), torch.from_numpy(many).to(dtype))
    assert ctypes.sizeof(ctypes.c_void_p) == 8                                   # addresses are integers of 64 bits
