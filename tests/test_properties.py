"What must hold for every shape, number of groups and rank: invariances, special cases, sums of gradients, merging."
from functools import reduce

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from gn_nb import cpu, ops, reference
from gn_nb.testing import assert_close

pytestmark = pytest.mark.quick


@st.composite
def inputs(draw, least=3):
    "x (N, C, *spatial) and num_groups; a group has at least `least` elements, a channel its own mean and scale."
    G, D = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    spatial = draw(st.lists(st.integers(1, 4), max_size=3))
    while D*int(np.prod(spatial)) < least: D += 1
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    N, C = draw(st.integers(1, 3)), G*D
    channel = (2, C, *(1,)*len(spatial))
    mean, scale = rng.standard_normal(channel)
    return rng.standard_normal((N, C, *spatial))*np.exp(scale) + 3*mean, G


def by_cpu(x, G, eps=1e-5): return cpu.forward(x, G, eps=eps)[0]
def by_ops(x, G, eps=1e-5): return ops.group_norm(torch.tensor(x.copy()), G, eps=eps).numpy()


# Equal up to rounding: a dozen operations of 1e-16 on numbers near 1, more where a deviation is small beside its mean.
TOL = 1e-10


@pytest.mark.parametrize("f", [reference.group_norm, by_cpu, by_ops])
class TestInvariance:
    @given(inputs(), st.floats(-5, 5), st.integers(-20, 20))
    def test_of_scale_and_shift_of_a_group(self, f, xG, shift, power):
        x, G = xG
        rng = np.random.default_rng(abs(power))
        size = (x.shape[0], G, 1, 1)                                       # another one for every sample and group
        a, b = 2.**power*np.exp(rng.standard_normal(size)), shift*rng.standard_normal(size)*2.**power
        moved = (a*reference.grouped(x, G) + b).reshape(x.shape)
        assert_close(f(moved, G, eps=0.), f(x, G, eps=0.), TOL)
        assert_close(f(-moved, G, eps=0.), -f(x, G, eps=0.), TOL)

    @given(inputs(), st.randoms(use_true_random=False))
    def test_of_order(self, f, xG, random):
        x, G = xG
        N, C = x.shape[:2]
        D = C//G
        def shuffled(n): return random.sample(range(n), n)
        samples, groups = shuffled(N), shuffled(G)
        within = np.concatenate([g*D + np.array(shuffled(D)) for g in range(G)])
        whole = np.concatenate([g*D + np.arange(D) for g in groups])
        for move in (lambda a: a[samples], lambda a: a[:, within], lambda a: a[:, whole],
                     lambda a: np.flip(a, range(2, a.ndim))):
            assert_close(f(np.ascontiguousarray(move(x)), G), move(f(x, G)), TOL)

    @given(inputs())
    def test_twice_is_once(self, f, xG):
        x, G = xG
        once = f(x, G, eps=0.)
        assert_close(f(once, G, eps=0.), once, TOL)

    @given(inputs())
    def test_output_has_mean_0_and_variance_1(self, f, xG):
        x, G = xG
        count, mean, M2 = reference.moments(f(x, G, eps=0.), G)
        assert_close(mean, np.zeros_like(mean), TOL)
        assert_close(M2/count, np.ones_like(M2), TOL)

    @given(inputs())
    def test_one_group_is_layer_norm_and_C_groups_instance_norm(self, f, xG):
        x, _ = xG
        t = torch.tensor(x)
        assert_close(f(x, 1), F.layer_norm(t, t.shape[1:]), TOL, dtype="float64")
        if x.ndim > 2 and x[0, 0].size > 1: assert_close(f(x, x.shape[1]), F.instance_norm(t), TOL, dtype="float64")


@pytest.mark.parametrize("backend", [reference, cpu], ids=["reference", "cpu"])
class TestBackward:
    @given(inputs(least=4), st.integers(0, 2**32))
    def test_dx_is_orthogonal_to_one_and_to_xhat(self, backend, xG, seed):
        "The output does not change with a group's shift or scale, so no gradient points there."
        x, G = xG
        dy = np.random.default_rng(seed).standard_normal(x.shape)
        xhat, mean, rstd = backend.forward(x, G, eps=0.)
        dx = reference.grouped(backend.backward(dy, x, mean, rstd, G)[0], G)/rstd[..., None, None]     # the scale of dy
        for direction in (np.ones_like(dx), reference.grouped(xhat, G)):
            assert_close((dx*direction).sum((2, 3)), np.zeros(rstd.shape), TOL)

    @given(inputs(), st.integers(0, 2**32), st.floats(-3, 3))
    def test_is_linear_in_dy(self, backend, xG, seed, a):
        x, G = xG
        first, second = np.random.default_rng(seed).standard_normal((2, *x.shape))
        weight = np.linspace(-1, 2, x.shape[1])
        _, mean, rstd = backend.forward(x, G, weight)
        parts = [backend.backward(dy, x, mean, rstd, G, weight) for dy in (first, second, a*first + second)]
        for p, q, whole in zip(*parts, strict=True): assert_close(whole, a*p + q, TOL)


class TestMerge:
    @given(inputs(), st.data())
    def test_of_any_parts_is_the_whole(self, xG, data):
        x, G = xG
        pixels = reference.grouped(x, G)                                    # (N, G, D, S): cut D*S anywhere
        N, D, S = x.shape[0], *pixels.shape[2:]
        flat = pixels.reshape(N, G, D*S)
        cuts = sorted(data.draw(st.lists(st.integers(0, D*S), max_size=4)))         # parts may be empty
        parts = [reference.moments(part.reshape(N, -1), G) if part.size else (0, np.zeros((N, G)), np.zeros((N, G)))
                 for part in np.split(flat, cuts, axis=2)]
        count, mean, M2 = reduce(reference.merge, data.draw(st.permutations(parts)))
        whole = reference.moments(x, G)
        assert count == whole[0] == D*S
        assert_close(mean, whole[1], TOL); assert_close(M2, whole[2], TOL)
        assert_close(reference.apply(x, (count, mean, M2)), reference.forward(x, G)[0], TOL)

    @given(st.lists(st.tuples(st.integers(0, 9), st.floats(-10, 10), st.floats(0, 10)), min_size=3, max_size=3))
    def test_is_commutative_and_associative(self, three):
        a, b, c = ((n, np.array([[m]])*(n > 0), np.array([[M2]])*(n > 1)) for n, m, M2 in three)
        for left, right in ((reference.merge(a, b), reference.merge(b, a)),
                            (reference.merge(reference.merge(a, b), c), reference.merge(a, reference.merge(b, c)))):
            assert left[0] == right[0]
            if left[0]: assert_close(left[1], right[1], TOL)
            assert_close(left[2], right[2], TOL)

    @given(inputs())
    def test_of_samples_is_the_moments_over_the_batch(self, xG):
        x, G = xG
        parts = [reference.moments(x[n:n + 1], G) for n in range(len(x))]
        for a, b in zip(reduce(reference.merge, parts), reference.moments(x, G, over_batch=True), strict=True):
            assert_close(np.asarray(a), np.asarray(b), TOL)


@given(inputs(), st.sampled_from(["float32", "float16"]), st.booleans())
def test_backends_agree(xG, dtype, affine):
    "Random shapes beyond the table of cases."
    x, G = xG[0].astype(dtype), xG[1]
    weight, bias = (np.linspace(-1, 2, x.shape[1]), np.linspace(2, -2, x.shape[1])) if affine else (None, None)
    dy = np.cos(np.arange(x.size)).reshape(x.shape).astype(dtype)
    y, mean, rstd = reference.forward(x, G, weight, bias)
    found, m, r = cpu.forward(x, G, weight, bias)
    u = {"float32": 1.01*2**-24, "float16": 1.01*2**-11}[dtype]               # one rounding
    lanes = 1e-6                                                              # a few units of float32's
    assert_close(found, y, u + lanes, dtype=dtype); assert_close(m, mean, lanes); assert_close(r, rstd, lanes)
    (dx, dw, db), (ex, ew, eb) = cpu.backward(dy, x, m, r, G, weight), reference.backward(dy, x, mean, rstd, G, weight)
    assert_close(dx, ex, u + lanes*max(1, rstd.max(initial=0)), dtype=dtype)  # a difference of terms as large as rstd
    assert_close(dw, ew, 2e-5); assert_close(db, eb, 2e-5)                    # sums of hundreds of terms
