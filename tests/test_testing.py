"The strict comparator must reject: what it forgives, every other test forgives too."
import numpy as np
import pytest
import torch

from gn_nb.testing import (
    CASES,
    Case,
    Verdict,
    as_numpy,
    assert_close,
    exercise,
    finite_differences,
    max_error,
    must_raise,
)

pytestmark = pytest.mark.quick
x = np.array([1., -2., 300.])


@pytest.mark.parametrize("actual, expected, tol, words", [
    ([1., np.nan], [1., 2.], 1e300, "error nan"),
    ([1., 2.], [1., np.nan], 1e300, "error nan"),
    ([np.nan], [np.nan], 1e300, "error nan"),
    ([np.inf], [1.], 1e300, "error inf"),
    ([1.], [np.inf], 1e300, "error nan"),
    ([np.inf], [np.inf], 1e300, "error nan"),            # an overflow is not an answer, even an expected one
    ([-np.inf], [np.inf], 1e300, "error"),
    ([[1., 1.]], [1., 1.], 0, "shape is (1, 2), expected (2,)"),
    ([1.], 1., 0, "shape is (1,), expected ()"),
    (np.ones((0, 3)), np.ones((3, 0)), 0, "shape"),
    (np.float32([1.]), np.float64([1.]), 0, "dtype is float32, expected float64"),
    (np.float64([1.]), np.float32([1.]), 0, "dtype is float64, expected float32"),
    (np.int64([1]), np.float64([1.]), 0, "dtype is int64"),
    ([1. + 2e-6], [1.], 1e-6, "error 2e-06 exceeds tol 1e-06"),
    ([300.001], [300.], 1e-6, "exceeds"),                # relative above 1
    ([1e-3], [0.], 1e-4, "exceeds"),                     # absolute below 1
    (torch.ones(2), torch.ones(2, dtype=torch.float64), 0, "dtype is float32, expected float64"),
    (torch.ones(2, dtype=torch.bfloat16), torch.ones(2), 0, "dtype is bfloat16"),
    (torch.tensor([float("nan")], dtype=torch.bfloat16), torch.ones(1, dtype=torch.bfloat16), 1e300, "error nan"),
    (torch.ones(2), np.ones(3, np.float32), 0, "shape"),
])
def test_rejects(actual, expected, tol, words):
    as_given = [v if isinstance(v, (np.ndarray, torch.Tensor)) else np.array(v) for v in (actual, expected)]
    with pytest.raises(AssertionError) as raised: assert_close(*as_given, tol)
    assert words in str(raised.value)


def test_a_nan_tolerance_accepts_nothing():
    with pytest.raises(AssertionError, match="exceeds"): assert_close(x, x, float("nan"))


@pytest.mark.parametrize("actual, expected, tol, error", [
    (x, x, 0, 0), ([1. + 1e-9], [1.], 2e-9, 1e-9), ([303.], [300.], 0.01, 0.01), ([0.25], [0.], 0.25, 0.25),
    (np.ones((0, 3)), np.ones((0, 3)), 0, 0), (np.float32([2]), np.float32([1]), 1, 1),
    (torch.ones(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.bfloat16), 0, 0),
    (torch.ones(2), np.ones(2, np.float32), 0, 0), (torch.ones(2, requires_grad=True), torch.ones(2), 0, 0)])
def test_accepts_and_returns_the_error(actual, expected, tol, error):
    as_given = [v if isinstance(v, (np.ndarray, torch.Tensor)) else np.array(v) for v in (actual, expected)]
    assert assert_close(*as_given, tol) == pytest.approx(error, rel=1e-6)


def test_dtype_may_be_given():
    one, narrow = torch.ones(1), torch.ones(1, dtype=torch.bfloat16)
    assert_close(np.float32(x), x, 0, dtype="float32")
    assert_close(narrow, np.ones(1), 0, dtype=torch.bfloat16)
    with pytest.raises(AssertionError, match="expected float16"): assert_close(one, np.ones(1), 0, dtype=np.float16)
    with pytest.raises(AssertionError, match="expected bfloat16"): assert_close(one, narrow, 0, dtype=torch.bfloat16)


def test_max_error_is_measured_in_float64():
    assert max_error(np.float16([1024.]), np.float16([1025.])) == pytest.approx(1/1025)
    assert max_error(np.uint8([0]), np.uint8([255])) == 1        # no wrap-around
    assert max_error(np.float32([3e38]), np.float32([-3e38])) == pytest.approx(2)      # no overflow
    assert np.isnan(max_error([1., np.nan, 1e9], [1., 1., 1.]))
    assert max_error([], []) == 0


def test_as_numpy_keeps_dtype_and_values():
    a, name = as_numpy(torch.tensor([1.5], dtype=torch.bfloat16, requires_grad=True))
    assert (a.dtype, name, a[0]) == (np.float64, "bfloat16", 1.5)
    assert as_numpy(torch.ones(1, dtype=torch.float16))[0].dtype == np.float16


def test_must_raise():
    def fail(): raise ValueError("num_groups (3) is wrong")
    assert must_raise(ValueError, "num_groups", fail) == "num_groups (3) is wrong"
    with pytest.raises(AssertionError, match="lacks 'weight'"): must_raise(ValueError, "weight", fail)
    with pytest.raises(AssertionError, match="len did not raise ValueError"): must_raise(ValueError, "", len, "fine")
    with pytest.raises(ValueError): must_raise(TypeError, "", fail)          # another error is not the expected one


def test_verdicts():
    @exercise
    def check(answer):
        "Its docstring."
        assert answer() == 3, "the answer is not 3"
    assert isinstance(check(lambda: 3), Verdict) and check(lambda: 3) and repr(check(lambda: 3)) == "Right."
    assert not check(lambda: 4) and repr(check(lambda: 4)).startswith("Not yet: the answer is not 3")
    def empty(): "Its docstring."; ...
    def nothing(): return len([]) or None
    assert check(empty).why == "write your answer in place of the dots" and "dots" not in check(nothing).why
    assert not check(lambda: 1/0) and "ZeroDivisionError" in check(lambda: 1/0).why
    assert not check(None)
    assert (check.__name__, check.__doc__) == ("check", "Its docstring.")

    @exercise
    def silent(answer): raise AssertionError
    assert not silent(0) and silent(0).why == "AssertionError"       # false, though the exception says nothing
    with pytest.raises(KeyboardInterrupt): check(lambda: (_ for _ in ()).throw(KeyboardInterrupt))


@pytest.mark.parametrize("f, gradient", [
    (lambda x: x, lambda x, v: v),                     # returns its argument, which changes under it
    (np.square, lambda x, v: 2*v*x),
    (np.sin, lambda x, v: v*np.cos(x)),
    (lambda x: x[::-1], lambda x, v: v[::-1]),         # a view
    (lambda x: np.cumsum(x, 0), lambda x, v: np.cumsum(v[::-1], 0)[::-1]),
    (lambda x: np.zeros_like(x), lambda x, v: 0*x)])
def test_finite_differences(f, gradient):
    at, v = np.random.default_rng(0).standard_normal((2, 3, 4))
    before = at.copy()
    # truncation is of order h**2 = 2.5e-11, rounding of order 1e-16/h = 2e-11
    assert_close(finite_differences(f, at, v), gradient(at, v), tol=1e-9)
    assert (at == before).all()
    assert finite_differences(lambda x: x, np.float32(at), v).dtype == np.float64


def test_finite_differences_of_another_shape():
    at = np.array([1., 2.])
    assert_close(finite_differences(lambda x: x.prod(keepdims=True), at, np.array([3.])), np.array([6., 3.]), tol=1e-9)
    assert finite_differences(np.sum, np.ones((0, 2)), np.ones(())).shape == (0, 2)


def test_cases_are_what_their_names_say():
    by_name = {c.name: c for c in CASES}
    assert len(by_name) == len(CASES) and all(str(c) == c.name and c.why for c in CASES)
    for c in CASES:
        x = c.make()
        assert (x.shape, x.dtype) == (c.shape, np.float64) and c.shape[1] % c.num_groups == 0
        assert np.array_equal(x, c.make()) and c.make("float16").dtype == np.float16
    assert by_name["offset"].make().mean()/by_name["offset"].make().std() > 9e4
    assert np.ptp(by_name["constant"].make()) == 0 and by_name["outlier"].make().max() == 1e4
    assert {c.shape[1]//c.num_groups for c in CASES} >= {1, 2, 3, 5, 7, 10, 30}
    assert {len(c.shape) for c in CASES} == {2, 3, 4, 5, 6} and {0, 1} <= {c.shape[0] for c in CASES}
    case = Case("a", (2, 4), 2, "normal", "")
    assert case.make(seed=1)[0, 0] != case.make(seed=2)[0, 0]
