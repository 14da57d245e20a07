"The kernels of chapter 8: on the simulator for other sizes, and compiled for cards that are not here."
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
from settings import root

SIMULATE = """
import numpy as np
from gn_nb import reference
from gn_nb.lab import steps
from gn_nb.testing import assert_close

for N, C, G, S, mean in ((1, 3, 1, 100, 0.), (3, 2, 2, 4, 1e5), (1, 6, 3, 132, 1e3)):
    x = (mean + np.random.default_rng(0).standard_normal((N, C, S))).astype(np.float32)
    w, b = np.random.default_rng(1).standard_normal((2, C)).astype(np.float32)
    wanted = reference.group_norm(x.astype(np.float64), G, w, b)
    for name, run in steps.STEPS.items():
        y = np.full(x.size, np.nan, np.float32)
        run(x.ravel(), w, b, y, N, G, C//G, S, np.float32(1e-5))
        # the mean of these kernels is one float32: an error of its last digit, 0.004 at 1e5, remains
        assert_close(y.reshape(x.shape), wanted, 3e-6 + 1e-7*mean, dtype="float32")
    y = np.full(x.size, np.nan, np.float32)
    steps.shared_out(x.ravel(), w, b, y, N, G, C//G, S, np.float32(1e-5), P=3)
    assert_close(y.reshape(x.shape), wanted, 3e-6 + 1e-7*mean, dtype="float32")
"""

COMPILE = """
import re
from types import SimpleNamespace
from numba import cuda, types
import numba.cuda.dispatcher as dispatcher
from gn_nb.lab import steps

array, i, f = types.float32[::1], types.int64, types.float32
sums = types.float32[:, :, ::1]
common, one = (array, array, array, array, i, i, i, f), (array, array, array, array, i, i, i, i, f)
kernels = {steps.one_thread_kernel: (one, 0, 0), steps.one_block_kernel: (common, 0, 0),
           steps.shuffled_kernel: (common, 0, 10), steps.wide_kernel: (common, 2, 10), steps.warps_kernel: (one, 2, 10),
           steps.parts_kernel: ((array, sums, i, i, i), 1, 10),
           steps.rest_kernel: ((array, array, array, array, sums, i, i, i, i, f), 1, 0),
           steps.one_read_kernel(1): (common, 1, 10), steps.one_read_kernel(8): (common, 8, 10)}
for cc in ((7, 5), (9, 0)):
    dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=cc)      # there is none to ask
    for kernel, (signature, loads, shuffles) in kernels.items():
        ptx, _ = cuda.compile_ptx(kernel.py_func, signature, cc=cc)
        name = kernel.py_func.__name__
        assert ".f64" not in ptx, f"{name}: computes in float64"
        assert ".local" not in ptx, f"{name}: what should be in registers is in memory"
        assert len(re.findall(r"ld[.][a-z.]*v4", ptx)) >= loads, f"{name}: loads of 16 bytes"
        assert (len(re.findall(r"st[.][a-z.]*v4", ptx)) > 0) == (loads > 0 and kernel is not steps.parts_kernel), name
        assert len(re.findall("shfl", ptx)) == shuffles, f"{name}: shuffles"
"""


def run(code, **environment):
    "Run code in a process of its own, for numba decides on import whether it simulates."
    found = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=300,
                           env=os.environ | environment)
    assert found.returncode == 0, found.stderr[-3000:]


def test_steps_on_the_simulator(): run(SIMULATE, NUMBA_ENABLE_CUDASIM="1")


@pytest.mark.skipif(not find_spec("numba_cuda"), reason="numba-cuda, which compiles without a card, is not installed")
def test_steps_compile_for_cards(): run(COMPILE, NUMBA_ENABLE_CUDASIM="0")
