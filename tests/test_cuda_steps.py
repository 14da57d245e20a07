"The kernels of chapter 8: on the simulator for other sizes, and compiled for cards that are not here."
import os
import signal
import subprocess
import sys
import threading
import time
from importlib.util import find_spec

import numpy as np
import pytest
from bs4 import BeautifulSoup
from settings import root

from gn_nb.lab import steps
from gn_nb.lab.steps import Toy, cuda, puzzle
from gn_nb.testing import exercise

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

PUZZLES = """
import sys
import threading
import time
from types import SimpleNamespace
sys.path[:0] = ["book", "tests"]
from numba import cuda, types
import numba.cuda.dispatcher as dispatcher
from test_notebooks import exercises, namespace

array, i = types.float32[::1], types.int64
signatures = dict(doubled=(array, array, i), strided=(array, array, i), summed=(array, array), largest=(array, array),
                  normed=(array, array, i, types.float32))
dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=(7, 5))
found = []
for check, stub, solution, answer in exercises("08_cuda_steps"):
    if answer not in signatures: continue
    names = namespace("08_cuda_steps")
    exec(solution.source.split("\\nassert")[0], names)
    ptx, _ = cuda.compile_ptx(names[answer], signatures[answer], cc=(7, 5))
    assert ".f64" not in ptx, f"{answer}: computes in float64"
    found.append(answer)
assert found == [*signatures]
"""


def run(code, **environment):
    "Run code in a process of its own, for numba decides on import whether it simulates."
    found = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=300,
                           env=os.environ | environment)
    assert found.returncode == 0, found.stderr[-3000:]


def test_steps_on_the_simulator(): run(SIMULATE, NUMBA_ENABLE_CUDASIM="1")


@pytest.mark.skipif(not find_spec("numba_cuda"), reason="numba-cuda, which compiles without a card, is not installed")
def test_steps_compile_for_cards(): run(COMPILE, NUMBA_ENABLE_CUDASIM="0")


@pytest.mark.skipif(not find_spec("numba_cuda"), reason="numba-cuda, which compiles without a card, is not installed")
def test_solutions_of_the_puzzles_are_kernels(): run(PUZZLES, NUMBA_ENABLE_CUDASIM="0")


def before(x, y):                      # thread 0 would read the last number
    y[cuda.grid(1)] = x[cuda.grid(1) - 1]


def beyond(x, y):
    y[cuda.grid(1)] = x[cuda.grid(1) + 1]


def handed_on(x, y):
    s = cuda.shared.array(8, np.float32)
    s[cuda.threadIdx.x] = x[cuda.grid(1)]
    y[cuda.grid(1)] = s[cuda.blockDim.x - 1 - cuda.threadIdx.x]


def two_arrays(x, y):                  # the same index, but not the same place
    a, b = cuda.shared.array(8, np.float32), cuda.shared.array(8, np.float32)
    t = cuda.threadIdx.x
    a[t] = x[cuda.grid(1)]
    b[(t + 1) % 8] = x[cuda.grid(1)]
    cuda.syncthreads()
    y[cuda.grid(1)] = a[(t + 1) % 8] + b[t]


def half_waits(x, y):
    if cuda.threadIdx.x < 4: cuda.syncthreads()


def too_wide(x, y):
    y[cuda.grid(1)] = cuda.shfl_xor_sync(0xff, x[cuda.grid(1)], 8)


def some_here_some_there(x, y):
    if cuda.threadIdx.x < 4: cuda.syncthreads()
    else: cuda.syncthreads()


def shuffled_here_and_there(x, y):
    if cuda.threadIdx.x % 2: y[cuda.grid(1)] = cuda.shfl_xor_sync(0xff, 1., 1)
    else: y[cuda.grid(1)] = cuda.shfl_xor_sync(0xff, 1., 1)


def unnamed(x, y):
    y[cuda.grid(1)] = cuda.shfl_xor_sync(0x7f, x[cuda.grid(1)], 1)


def halves(x, y):
    y[cuda.grid(1)] = x[cuda.grid(1)/2]


def two_blocks(x, y):
    if cuda.threadIdx.x == 0: y[3] = x[3]


def endless(x, y):
    while x[0] < 1: y[cuda.grid(1)] = x[0]


def uneven(x, y):                      # some warps, but whole ones, wait once more than others
    if cuda.threadIdx.x < 8: cuda.shfl_xor_sync(0xff, 1., 1)
    cuda.syncthreads()
    if cuda.threadIdx.x >= 8: cuda.shfl_xor_sync(0xff, 1., 1)
    cuda.syncthreads()


@pytest.mark.quick
def test_warps_need_not_wait_alike(): Toy(uneven)(1, 16, np.arange(16.), np.zeros(16))


@pytest.mark.quick
@pytest.mark.parametrize("kernel, error, words", [
    (some_here_some_there, RuntimeError, "wait at different places"), (unnamed, ValueError, "mask must .* got 0x7f"),
    (shuffled_here_and_there, RuntimeError, "wait at different places"), (halves, TypeError, "as an integer"),
    (two_blocks, RuntimeError, r"blocks 0 and 1 both use y\[3\]"), (endless, RuntimeError, "does every loop end"),
    (before, IndexError, r"thread 0 of block 0: x\[-1\], and x has 16 numbers"),
    (beyond, IndexError, r"x\[16\]"), (handed_on, RuntimeError, r"both use shared\[\d\], one of them to write"),
    (half_waits, RuntimeError, "not all threads come to the barrier"), (too_wide, ValueError, "warp has 8 threads")])
def test_the_toy_card_is_strict(kernel, error, words):
    with pytest.raises(error, match=words): Toy(kernel)(2, 8, np.arange(16.), np.zeros(16))


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_an_interrupted_launch_stops(monkeypatch):
    monkeypatch.setattr(steps, "MOST", 3*10**6)
    toy, soon = Toy(endless), threading.Timer(.3, os.kill, (os.getpid(), signal.SIGINT))
    soon.start()
    with pytest.raises(KeyboardInterrupt): toy(1, 8, np.arange(16.), np.zeros(16))
    time.sleep(.3)
    many = len(toy.log)
    time.sleep(.3)
    assert len(toy.log) == many


@pytest.mark.quick
def test_the_toy_card_computes_logs_and_draws():
    x, y, verdicts = np.arange(16.), np.zeros(16), []
    toy = Toy(two_arrays)
    toy(2, 8, x, y)
    wanted = [x[8*b + (t + 1) % 8] + x[8*b + (t - 1) % 8] for b in range(2) for t in range(8)]
    assert y.tolist() == wanted
    assert {*toy.count("read", "x").values()} == {2} and {*toy.count("write", "y").values()} == {1}

    @puzzle
    @exercise
    def check(launch):
        launch(2, 8, x, y)
        assert not verdicts, "<once>"

    for kernel in (two_arrays, beyond, two_arrays): verdicts.append(check(kernel))
    assert [bool(v) for v in verdicts] == [True, False, False]
    for verdict, words in zip(verdicts, ("Right.", "Not yet: IndexError", "Not yet: <once>")):
        page = BeautifulSoup(verdict._repr_html_(), "html.parser")
        assert page.figcaption.get_text().startswith(words) and page.svg["aria-label"].startswith("2 blocks of 8")
    page = BeautifulSoup(verdicts[0]._repr_html_(), "html.parser")
    labels = [t.get_text() for t in page.select("text")]
    assert {"x", "threads", "shared", "shared'", "y"} <= {*labels}
    assert len(page.select("line")) == len({*toy.log}) == 16*6 and "32 reads of x" in page.svg["aria-label"]
