"Every backend, dtype, layout and affine form on every awkward input, against the float64 reference on the same input."
import re
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numba import cfunc, types

from gn_nb import cpu, ops, reference
from gn_nb.testing import CASES, Case, as_numpy, assert_close, finite_differences, max_error, must_raise

EPS = 1e-5


def arrays(backend, x, dy, num_groups, weight, bias):
    "y, dx, dweight, dbias of a backend that takes arrays; .numpy() is a view, so strides stay as they are."
    x, dy, weight, bias = (None if t is None else t.numpy() for t in (x, dy, weight, bias))
    y, mean, rstd = backend.forward(x, num_groups, weight, bias, EPS)
    return map(torch.from_numpy, (y, *backend.backward(dy, x, mean, rstd, num_groups, weight)))


def autograd(f, x, dy, num_groups, weight, bias):
    "The same of a differentiable function; None for what was not given."
    leaves = [None if t is None else t.detach().requires_grad_() for t in (x, weight, bias)]
    y = f(leaves[0], num_groups, leaves[1], leaves[2], EPS)
    found = iter(torch.autograd.grad(y, [t for t in leaves if t is not None], dy))
    return y.detach(), *(None if t is None else next(found) for t in leaves)


def generic(x, dy, num_groups, weight, bias):
    "The same of the operators' bodies for devices without kernels; the dispatcher sends no CPU tensor there."
    y, mean, rstd = ops.forward_anywhere(x, num_groups, weight, bias, EPS)
    return y, *ops.backward_anywhere(dy, x, mean, rstd, num_groups, weight)[:3]


BACKENDS = {"cpu": lambda *a: arrays(cpu, *a), "ops": lambda *a: autograd(ops.group_norm, *a),
            "plain": lambda *a: autograd(lambda *b: ops.plain(*b)[0], *a), "generic": generic}
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
GRID = [(b, d) for b in BACKENDS for d in DTYPES if (b, d) != ("cpu", torch.bfloat16)]     # NumPy has no bfloat16

# One rounding of an exact result to its dtype: u = 2**-24, 2**-11, 2**-8, and 1 % for rounding by way of float32.
ROUNDING = {torch.float64: 0, torch.float32: 1.01*2**-24, torch.float16: 1.01*2**-11, torch.bfloat16: 1.01*2**-8}

def tolerance(backend, case, dtype, result, name, rstd):
    "Largest error of a result: the arithmetic on inputs of this dtype, then one rounding to the dtype of the result."
    if dtype != torch.float64 and name in ("dweight", "dbias"):
        arithmetic = 2e-5 if backend in ("cpu", "ops") else 5e-5      # up to 450 terms, which reach 23 in "outlier"
    elif backend in ("plain", "generic") and dtype != torch.float64:
        # float32: 2**-24 for each of up to 450 terms; times rstd = 316 in "constant"
        arithmetic = 5e-5
    elif dtype != torch.float64:
        # float32 lanes: a few units of 2**-24; dx is a difference of terms as large as rstd
        arithmetic = 1e-6*(max(1, rstd) if name == "dx" else 1)
    elif dtype == torch.float64 and case.values == "offset":
        # the mean is wrong by 1e-16*1e3, seen through rstd = 95, in dx twice, in dweight 256 times
        arithmetic = 1e-9
    else:
        # float64: 1e-16 for each of up to 4000 terms near 1
        arithmetic = 1e-12
    return arithmetic + ROUNDING[result]


def channels_last(t): return {4: torch.channels_last, 5: torch.channels_last_3d}.get(t.ndim)


LAYOUTS = {
    "contiguous": lambda t: t,
    "samples innermost": lambda t: t.transpose(0, 1).contiguous().transpose(0, 1),
    "axes reversed": lambda t: t.permute(*range(t.ndim)[::-1]).contiguous().permute(*range(t.ndim)[::-1]),
    "misaligned": lambda t: torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape),
    "gaps": lambda t: torch.stack([t, torch.full_like(t, torch.nan)], -1)[..., 0],
    "channels_last": lambda t: t.contiguous(memory_format=channels_last(t)),
    "channels_last, misaligned": lambda t: torch.cat([t.new_zeros(1), t.movedim(1, -1).flatten()])[1:].view(
        t.movedim(1, -1).shape).movedim(-1, 1)}


def make(case, dtype, seed=0):
    "x, dy, weight, bias of one case, rounded to the dtype."
    rng = np.random.default_rng(seed + 1)
    values = case.make(seed=seed), rng.standard_normal(case.shape), *rng.standard_normal((2, case.shape[1]))
    return [torch.tensor(v).to(dtype) for v in values]


def check(backend, case, x, dy, weight, bias, where):
    "One call against the reference: values, dtypes, memory format, and arguments left as they were."
    given = {"x": x, "dy": dy, "weight": weight, "bias": bias}
    before = {k: None if t is None else t.clone() for k, t in given.items()}
    found = BACKENDS[backend](x, dy, case.num_groups, weight, bias)
    wanted = arrays(reference, *(None if t is None else t.double() for t in (x, dy)), case.num_groups,
                    *(None if t is None else t.double() for t in (weight, bias)))
    rstd = reference.forward(x.double().numpy(), case.num_groups, eps=EPS)[2].max(initial=0)
    for name, a, b, like in zip(("y", "dx", "dweight", "dbias"), found, wanted, (x, x, weight, bias), strict=True):
        if like is None and backend in ("ops", "plain"): assert a is None; continue
        # the kernels give the parameters' gradients in float64; autograd rounds them to the parameter's dtype
        dtype = torch.float64 if name in ("dweight", "dbias") and backend in ("cpu", "generic") else like.dtype
        try: assert_close(a, b, tolerance(backend, case, x.dtype, dtype, name, rstd), dtype=dtype)
        except AssertionError as e: raise AssertionError(f"{name}, {where}: {e}") from None
        if name in ("y", "dx") and backend != "plain" and a.numel():       # an empty tensor has no layout
            keeps = "channels_last" in where and "only dy" not in where
            layout = channels_last(x) if keeps else torch.contiguous_format
            assert a.is_contiguous(memory_format=layout), f"{name}, {where}: not {layout}"
    for name, old in before.items():
        assert old is None or torch.equal(given[name], old), f"{name} was changed, {where}"


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("backend, dtype", GRID, ids=lambda v: str(v).removeprefix("torch."))
class TestGrid:
    def test_layouts(self, backend, dtype, case):
        x, dy, weight, bias = make(case, dtype)
        for name, lay in LAYOUTS.items():
            if "channels_last" in name and not channels_last(x): continue            # a format of rank 4 and 5 alone
            assert torch.equal(lay(x), x)
            check(backend, case, lay(x), lay(dy), weight, bias, name)
            check(backend, case, x, lay(dy), weight, bias, f"only dy {name}")
            check(backend, case, lay(x), dy, weight, bias, f"only x {name}")
        half = torch.tensor(0.5, dtype=dtype)
        check(backend, case, x, half.expand(x.shape), weight, bias, "dy expanded, as from a sum")
        check(backend, case, x, dy[:, :1].expand(x.shape), weight, bias, "dy expanded over channels")
        strided = torch.stack([weight, bias], 1)
        check(backend, case, x, dy, strided[:, 0], strided[:, 1], "parameters with gaps")

    def test_affine_forms(self, backend, dtype, case):
        x, dy, weight, bias = make(case, dtype, seed=1)
        for w in (weight, None):
            for b in (bias, None): check(backend, case, x, dy, w, b, f"weight {w is not None}, bias {b is not None}")

    def test_same_bits_every_time(self, backend, dtype, case):
        x, dy, weight, bias = make(case, dtype)
        first, again = (list(BACKENDS[backend](x, dy, case.num_groups, weight, bias)) for _ in range(2))
        assert all(map(torch.equal, first, again))


@pytest.mark.quick
@pytest.mark.parametrize("backend, dtype", GRID, ids=lambda v: str(v).removeprefix("torch."))
class TestPromises:
    @pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
    def test_what_is_not_finite_stays_in_its_group(self, backend, dtype, bad):
        x, dy, weight, bias = make(Case("", (3, 8, 5, 5), 4, "normal", ""), dtype)
        spoilt = x.clone(); spoilt[1, 2, 3, 3] = bad               # sample 1, group 1: channels 2 and 3
        clean, found = (list(BACKENDS[backend](t, dy, 4, weight, bias)) for t in (x, spoilt))
        inside = torch.zeros(x.shape, dtype=bool); inside[1, 2:4] = True
        for a, b in zip(clean[:2], found[:2], strict=True):
            assert torch.equal(a[~inside], b[~inside]) and not b[inside].isfinite().any()
        for a, b in zip(clean[2:], found[2:], strict=True):
            assert torch.equal(a[[0, 1, 4, 5, 6, 7]], b[[0, 1, 4, 5, 6, 7]])
        assert not found[2][2:4].isfinite().any()

    @pytest.mark.parametrize("value", [7.25, 0.1, 1/3, 350.1, -1e4, 0., 1e-3])
    def test_a_constant_group_gives_exactly_the_bias(self, backend, dtype, value):
        "A sum of equal numbers is not exactly their number times one of them."
        for shape, G in (((2, 8, 5, 7), 4), ((1, 6, 7, 11), 2), ((3, 7, 1), 1), ((1, 26, 37), 2)):
            _, dy, weight, bias = make(Case("", shape, G, "normal", ""), dtype)
            y = next(iter(BACKENDS[backend](torch.full(shape, value, dtype=dtype), dy, G, weight, bias)))
            assert torch.equal(y, bias.reshape(1, -1, *(1,)*(y.ndim - 2)).expand(y.shape))

    def test_a_sample_alone_gives_the_same_bits(self, backend, dtype):
        for case in CASES:
            x, dy, weight, bias = make(case, dtype)
            y, dx, *_ = BACKENDS[backend](x, dy, case.num_groups, weight, bias)
            for n in range(case.shape[0]):
                if case.name == "one-value" and backend == "ops": continue       # refused, as in torch
                alone = BACKENDS[backend](x[n:n + 1], dy[n:n + 1], case.num_groups, weight, bias)
                for a, b in zip((y, dx), alone, strict=False): assert torch.equal(a[n:n + 1], b), (case.name, n)

    def test_error_does_not_grow_with_the_mean(self, backend, dtype):
        if dtype in (torch.float16, torch.bfloat16): return          # they cannot hold such inputs
        noise, dy, weight, bias = make(Case("", (2, 32, 16, 16), 8, "normal", ""), torch.float64)
        for offset in (0, 1e2, 1e4, 1e5):
            case = Case("", noise.shape, 8, "offset", "")
            check(backend, case, *(t.to(dtype) for t in (noise + offset, dy, weight, bias)), f"mean {offset:g}")

    def test_large_and_small_values(self, backend, dtype):
        "No square overflows or vanishes before it can be added up: half types reach 6e4, float32 3e38."
        noise, dy, weight, bias = make(CASES[0], torch.float64)
        big = {torch.float16: 1e4, torch.float32: 1e4 if backend in ("plain", "generic") else 1e30}.get(dtype, 1e18)
        for scale in (1e-4, big):
            check(backend, CASES[0], *(t.to(dtype) for t in (scale*noise, dy, weight, bias)), f"scale {scale:g}")


def test_statistics_are_those_of_the_reference():
    for case in CASES:
        x = case.make("float32")
        _, mean, rstd = reference.forward(x, case.num_groups)
        by_torch = ops.forward_op(torch.tensor(x), case.num_groups, None, None, EPS)
        for _, m, r in (cpu.forward(x, case.num_groups), by_torch):
            # float32 lanes about a shift: relative to the deviation a few units of 2**-24, whatever the mean
            assert_close(r, rstd, 1e-6)
            assert np.abs((as_numpy(m)[0] - mean)*rstd).max(initial=0) <= 3e-7


def test_kernels_are_compiled_to_keep_nan_and_infinity():
    "A compiler that may assume there are none (nnan, ninf, fast) need not, so no result shows it on every machine."
    for kernel in cpu.KERNELS:
        work = types.void(cpu.Work("float32", None, kernel))      # afresh: code from the disk has no source
        code = cfunc(work, error_model="numpy")(cpu.work.py_func).inspect_llvm()
        found = {word for line in code.splitlines() if re.search(r"= f(add|sub|mul|div|cmp)", line)
                 for word in line.split() if word in ("nnan", "ninf", "fast", "afn", "arcp", "reassoc", "nsz")}
        assert "contract" in code and found == set()


def test_eps_is_the_one_given():
    x, _, weight, bias = (t.numpy() for t in make(CASES[0], torch.float64))
    for eps in (0, 1e-12, 0.1, 3, 1e6):
        for a, b in zip(cpu.forward(x, 4, weight, bias, eps), reference.forward(x, 4, weight, bias, eps), strict=True):
            assert_close(a, b, 1e-12)
        for f in (ops.group_norm, lambda *a: ops.plain(*a)[0]):
            y = f(torch.tensor(x), 4, torch.tensor(weight), torch.tensor(bias), float(eps))
            assert_close(y, reference.forward(x, 4, weight, bias, eps)[0], 1e-12, dtype="float64")


def test_parameters_of_another_dtype():
    for xtype in DTYPES:
        for ptype in DTYPES:
            x, dy, *_ = make(CASES[0], xtype)
            *_, weight, bias = make(CASES[0], ptype)
            check("ops", CASES[0], x, dy, weight, bias, f"{xtype} input, {ptype} parameters")


def test_cpu_takes_arrays_of_any_layout_and_arrays_it_may_not_write():
    x, dy = np.random.default_rng(0).standard_normal((2, 2, 8, 5, 7))
    w, b = np.linspace(1, 2, 8), np.linspace(-1, 1, 8)
    y, mean, rstd = cpu.forward(x, 4, w, b)
    grads = cpu.backward(dy, x, mean, rstd, 4, w)
    for lay in (np.asfortranarray, lambda a: a[:, ::-1][:, ::-1], lambda a: np.repeat(a, 2, -1)[..., ::2]):
        assert all(map(np.array_equal, cpu.forward(lay(x), 4, w, b), (y, mean, rstd)))
        assert all(map(np.array_equal, cpu.backward(lay(dy), lay(x), mean, rstd, 4, w), grads))
    for a in (x, dy, w, b): a.setflags(write=False)
    assert all(map(np.array_equal, cpu.forward(x, 4, w, b), (y, mean, rstd)))
    assert all(map(np.array_equal, cpu.backward(dy, x, mean, rstd, 4, w), grads))


x = np.arange(24.).reshape(2, 6, 2)
y, mean, rstd = reference.forward(x, 3)
PER_CHANNEL = "must have shape (6,), one value for each channel"


@pytest.mark.parametrize("backend", [reference, cpu], ids=["reference", "cpu"])
@pytest.mark.parametrize("error, words, call", [
    (ValueError, "num_channels (6) must be divisible by num_groups (4)", lambda b: b.forward(x, 4)),
    (ValueError, "num_groups (0) must be at least 1", lambda b: b.forward(x, 0)),
    (ValueError, "num_groups (-2) must be at least 1", lambda b: b.forward(x, -2)),
    (TypeError, "num_groups must be an integer, got 2.0", lambda b: b.forward(x, 2.)),
    (TypeError, "num_groups must be an integer, got True", lambda b: b.forward(x, True)),
    (TypeError, "num_groups must be an integer, got '2'", lambda b: b.forward(x, "2")),
    (TypeError, "num_groups must be an integer, got None", lambda b: b.forward(x, None)),
    (ValueError, "at least 2 dimensions, got (6,)", lambda b: b.forward(np.ones(6), 3)),
    (ValueError, "at least 2 dimensions, got ()", lambda b: b.forward(np.ones(()), 1)),
    (ValueError, "num_channels (0) must be at least 1", lambda b: b.forward(np.ones((2, 0)), 1)),
    (ValueError, f"weight {PER_CHANNEL}, got (3,)", lambda b: b.forward(x, 3, np.ones(3))),
    (ValueError, f"weight {PER_CHANNEL}, got (6, 1)", lambda b: b.forward(x, 3, np.ones((6, 1)))),
    (ValueError, f"bias {PER_CHANNEL}, got ()", lambda b: b.forward(x, 3, None, np.ones(()))),
    (ValueError, "eps (-1e-05) must be finite and at least 0", lambda b: b.forward(x, 3, eps=-1e-5)),
    (ValueError, "eps (nan) must be finite", lambda b: b.forward(x, 3, eps=np.nan)),
    (ValueError, "eps (inf) must be finite", lambda b: b.forward(x, 3, eps=np.inf)),
    (TypeError, "eps must be a number, got '1e-5'", lambda b: b.forward(x, 3, eps="1e-5")),
    (TypeError, "eps must be a number, got None", lambda b: b.forward(x, 3, eps=None)),
    (ValueError, "dy must have the shape of x (2, 6, 2), got (2, 6, 1)",
     lambda b: b.backward(x[..., :1], x, mean, rstd, 3)),
    (ValueError, "num_channels (6) must be divisible by num_groups (4)", lambda b: b.backward(x, x, mean, rstd, 4)),
    (ValueError, "weight must have shape (6,)", lambda b: b.backward(x, x, mean, rstd, 3, np.ones(2)))])
def test_errors_name_argument_rule_and_value(backend, error, words, call): must_raise(error, words, call, backend)


@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool", "complex128"])
def test_cpu_refuses_dtypes_it_has_no_kernel_for(dtype):
    bad, words = x.astype(dtype), f"must be float16, float32 or float64, got {dtype}"
    must_raise(TypeError, f"x {words}", cpu.forward, bad, 3)
    must_raise(TypeError, f"x {words}", cpu.backward, x, bad, mean, rstd, 3)
    must_raise(TypeError, f"dy {words}", cpu.backward, bad, x, mean, rstd, 3)


# The truth itself: the reference against its definition, against torch in float64, and against exact arithmetic.

def sets_of(norm, case): return reference.index_sets(case.shape, norm, case.num_groups if norm == "group" else None)


FULL = [c for c in CASES if np.prod(c.shape)]
SMALL = [c for c in CASES if np.prod(c.shape) <= 400 and c.values != "offset"]     # two forward passes for each entry


@pytest.mark.quick
class TestReference:
    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_is_the_definition(self, case):
        x = case.make()
        # sums in another order: 1e-16 times the size of the numbers, 1e3/1e-2 in "offset"
        tol = 1e-9 if case.values == "offset" else 1e-12
        results = {"batch": reference.batch_norm(x), "layer": reference.layer_norm(x),
                   "instance": reference.instance_norm(x), "group": reference.group_norm(x, case.num_groups)}
        for norm in reference.NORMS: assert_close(results[norm], reference.normalize(x, sets_of(norm, case)), tol)

    @pytest.mark.parametrize("case", FULL, ids=str)
    def test_is_torch(self, case):
        tol = 1e-8 if case.values == "offset" else 1e-11
        x, dy, weight, bias = make(case, torch.float64)
        def batch_norm(x, G, weight, bias, eps): return F.batch_norm(x, None, None, weight, bias, True, 0, eps)
        for over_batch, f in ((False, F.group_norm), (True, batch_norm)):
            G = case.shape[1] if over_batch else case.num_groups
            if over_batch and x.numel() == x.shape[1]: continue          # torch wants more than one value per channel
            y, m, r = reference.forward(x.numpy(), G, weight.numpy(), bias.numpy(), EPS, over_batch=over_batch)
            found = y, *reference.backward(dy.numpy(), x.numpy(), m, r, G, weight.numpy(), over_batch=over_batch)
            for a, b in zip(found, autograd(f, x, dy, G, weight, bias), strict=True): assert_close(a, b, tol)

    @pytest.mark.parametrize("case", SMALL, ids=str)
    def test_backward_is_the_derivative(self, case):
        x, dy, weight, bias = (t.numpy() for t in make(case, torch.float64))
        G = case.num_groups
        _, m, r = reference.forward(x, G, weight, bias, 0.1)
        found = reference.backward(dy, x, m, r, G, weight)
        def at(x=x, weight=weight, bias=bias): return reference.forward(x, G, weight, bias, 0.1)[0]
        slopes = (finite_differences(at, x, dy), finite_differences(lambda v: at(weight=v), weight, dy),
                  finite_differences(lambda v: at(bias=v), bias, dy))
        for a, slope in zip(found, slopes, strict=True): assert_close(a, slope, 1e-7)       # steps of 5e-6: ten digits

    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_takes_any_layout_and_dtype(self, case):
        x, dy, weight, bias = make(case, torch.float16)
        wide = list(arrays(reference, x.double(), dy.double(), case.num_groups, weight.double(), bias.double()))
        for name, lay in LAYOUTS.items():
            if "channels_last" in name and not channels_last(x): continue
            for a, b in zip(arrays(reference, lay(x), lay(dy), case.num_groups, weight, bias), wide, strict=True):
                assert_close(a, b, 1e-12)


def test_the_reference_is_exact_arithmetic():
    "Variances 11 and 4 with eps = 5 have the rational roots 4 and 3."
    x = [[Fraction(v) for v in group] for group in ((1, 1, 5, 9), (0, 4, 0, 4))]       # (G, M), D = 2, S = 2
    dy = [[Fraction(v) for v in group] for group in ((1, -2, 3, 0), (2, 2, -1, 5))]
    w, b, eps, roots = [Fraction(v, 2) for v in (1, 3, -2, 4)], [Fraction(v) for v in (5, -1, 0, 2)], 5, (4, 3)
    y, dx, dw, db = [], [], [Fraction(0)]*4, [Fraction(0)]*4
    for g, (group, root) in enumerate(zip(x, roots, strict=True)):
        mu = sum(group)/4
        assert sum((v - mu)**2 for v in group)/4 + eps == root**2
        xhat = [(v - mu)/root for v in group]
        y += [xhat[i]*w[2*g + i//2] + b[2*g + i//2] for i in range(4)]
        def slope(i, j, group=group, mu=mu, root=root):          # of xhat_i by x_j, from the quotient rule, M = 4
            return (Fraction(i == j) - Fraction(1, 4))/root - (group[i] - mu)*(group[j] - mu)/(4*root**3)
        dx += [sum(dy[g][i]*w[2*g + i//2]*slope(i, j) for i in range(4)) for j in range(4)]
        for i in range(4): dw[2*g + i//2] += dy[g][i]*xhat[i]; db[2*g + i//2] += dy[g][i]
    def numbers(v): return np.array(v, dtype=float)
    for backend in (reference, cpu):
        found, mean, rstd = backend.forward(numbers(x).reshape(1, 4, 2), 2, numbers(w), numbers(b), eps)
        assert_close(mean, np.array([[4., 2.]]), 0); assert_close(rstd, np.array([[1/4, 1/3]]), 1e-16)
        grads = backend.backward(numbers(dy).reshape(1, 4, 2), numbers(x).reshape(1, 4, 2), mean, rstd, 2, numbers(w))
        for a, e in zip((found, *grads), (y, dx, dw, db), strict=True): assert_close(a.ravel(), numbers(e), 1e-15)


def test_index_sets():
    sets = reference.index_sets((2, 4, 1), "group", 2)[..., 0]
    assert sets.tolist() == [[0, 0, 1, 1], [2, 2, 3, 3]]                     # neighbours, not every second channel
    for norm, number in (("batch", 4), ("layer", 2), ("instance", 8)):
        assert len(np.unique(reference.index_sets((2, 4, 3), norm))) == number
    must_raise(ValueError, "batch, layer, instance, group, got 'spectral'", reference.index_sets, (2, 4), "spectral")
    must_raise(TypeError, "num_groups must be an integer, got None", reference.index_sets, (2, 4), "group")


def test_moments_apply_and_statistics_over_the_batch():
    x = np.random.default_rng(0).standard_normal((3, 4, 5)) + 2
    count, mean, M2 = reference.moments(x, 2)
    assert count == 10 and mean.shape == M2.shape == (3, 2)
    assert_close(M2/count, x.reshape(3, 2, 10).var(-1), 1e-14)
    count, mean, M2 = reference.moments(x, 4, over_batch=True)
    assert count == 15 and mean.shape == (1, 4)
    assert_close(mean[0], x.mean((0, 2)), 1e-14); assert_close(M2[0]/count, x.var((0, 2)), 1e-14)
    half = reference.apply(x[:1], reference.moments(x, 2, over_batch=True))        # statistics of more than x
    assert max_error(half, reference.forward(x, 2, over_batch=True)[0][:1]) <= 1e-14
