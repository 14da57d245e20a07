"Moments in parts, and one sample split over processes that end by themselves."
import pytest
import torch

import gn_nb
from gn_nb import apply, merge, moments, reference
from gn_nb.testing import CASES, assert_close, must_raise

DTYPES = {torch.float64: 1e-10, torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}


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
