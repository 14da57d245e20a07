"""Threads, forks, pools and caches: each test is a process of its own, which must end in time, at peace and in silence.

The functions without `test` in their names run there: `python -W error tests/test_processes.py name arguments`.
"""
import ast
import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from multiprocessing import get_context
from pathlib import Path
from threading import Barrier, Thread

import numpy as np
import pytest
import torch

import gn_nb
from gn_nb import cpu, group_norm
from gn_nb.testing import assert_close, max_error

pytestmark = pytest.mark.alone

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="os.fork is missing here")
needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="/proc/self/task is missing here")
# torch's threads are there when a test forks on purpose: Python 3.12 and later warn of that
WARNINGS = ("-W", "error", "-W", "ignore:This process:DeprecationWarning")
# Seconds for the first call of a process, without a cache on disk and with one, where `pace` takes PACE seconds
FIRST, LATER, PACE = 5, 0.3, 0.5                # PACE: an AMD EPYC at rest, the best of five in a new process


def child(f, *args, timeout=60, before=(), **environment):
    "What function `f` of this file, run in a process of its own, prints; its variables are added, or removed by None."
    env = os.environ | {"PYTHONPATH": str(Path(gn_nb.__file__).parent.parent), "PYTHONWARNINGS": ""} | environment
    command = [sys.executable, *before, *WARNINGS, __file__, f.__name__, json.dumps(args)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          env={k: str(v) for k, v in env.items() if v is not None}, cwd=Path(sys.executable).anchor,
                          start_new_session=True) as process:
        try: out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired: out = None
        finally:
            try: os.killpg(process.pid, signal.SIGKILL)      # its own children too, if any is left
            except ProcessLookupError: pass
        if out is None:
            pytest.fail(f"{f.__name__}{args} has not ended after {timeout} s\n" + "\n".join(process.communicate()))
    assert process.returncode == 0, f"{f.__name__}{args} ended with {process.returncode}\n{out}\n{err}"
    assert not err, f"{f.__name__}{args} wrote on stderr\n{err}"
    return out.split()


# What is computed there. The sizes are such that the work is worth sharing between threads: 1e5 elements and more.

FEW, MANY = ((1, 32, 64, 80), 1), ((6, 64, 40, 33), 32)                                # N*G = 1 and N*G = 192
CASES = [(*sizes, *rest) for sizes, *rest in itertools.product(
    (FEW, MANY), ("float32", "bfloat16"), ("contiguous_format", "channels_last"), (None, "silu"))]
PLAIN = [c for c in CASES if c[2:] == ("float32", "contiguous_format", None)]


def make(case):
    "x, weight, bias and dy of a case: always the same, whatever the number of threads."
    shape, dtype, layout = case[0], getattr(torch, case[2]), getattr(torch, case[3])
    generator = torch.Generator().manual_seed(0)
    x, dy = (torch.randn(shape, generator=generator).to(dtype).contiguous(memory_format=layout) for _ in range(2))
    return x, *torch.randn(2, shape[1], generator=generator).to(dtype), dy


def digest(*results):
    "The bits of tensors and arrays, in the order of their indices. NumPy does it: torch may not in a forked child."
    whole = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
    views = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    bits = [t.detach().view(views[t.element_size()]).numpy() if torch.is_tensor(t) else t for t in results]
    return hashlib.sha256(b"".join(b.view(whole[b.itemsize]).tobytes() for b in bits)).hexdigest()


def trained(case, given=None):
    "The bits of y, dx, dweight and dbias by autograd."
    x, weight, bias, dy = given or make(case)
    leaves = [t.detach().requires_grad_() for t in (x, weight, bias)]              # no copy: torch makes it in parallel
    y = group_norm(leaves[0], case[1], *leaves[1:], activation=case[4])
    return digest(y, *torch.autograd.grad(y, leaves, dy))


def inferred(case, given=None):
    "The bits of y."
    x, weight, bias, _ = given or make(case)
    return digest(group_norm(x, case[1], weight, bias, activation=case[4]))


def by_arrays(case, given=None):
    "The bits of y, dx, dweight and dbias by the kernels that take arrays: no torch, no autograd. Float32 alone."
    x, weight, bias, dy = (t.numpy() for t in given or make(case))
    y, mean, rstd = cpu.forward(x, case[1], weight, bias)
    return digest(y, mean, rstd, *cpu.backward(dy, x, mean, rstd, case[1], weight))


def single(f, cases):
    "What f gives for each case with one thread."
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    wanted = [f(c) for c in cases]
    torch.set_num_threads(threads)
    return wanted


class Repeat(Thread):
    "A thread that calls f again and again, until it is told to stop; what f raised is raised there."
    def __init__(self, f):
        super().__init__(daemon=True)
        self.f, self.go, self.calls, self.error = f, True, 0, None
        self.start()

    def run(self):
        try:
            while self.go: self.f(); self.calls += 1
        except BaseException as e: self.error = e

    def stop(self):
        self.go = False
        self.join()
        if self.error: raise self.error
        assert self.calls


# Threads.

def eight_threads(seconds):
    "Eight threads go through all cases, two in step, for some seconds."
    wanted, given = single(trained, CASES), [make(c) for c in CASES]
    torch.set_num_threads(2)
    start, wrong, calls, until = Barrier(8), [], [], time.monotonic() + seconds
    def work(k):
        start.wait()
        for n in itertools.count(k//2*len(CASES)//4):
            if time.monotonic() > until: return calls.append(n)
            i = n % len(CASES)
            if trained(CASES[i], given[i]) != wanted[i]: wrong.append(CASES[i])
    threads = [Thread(target=work, args=(k,)) for k in range(8)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert not wrong, wrong[:3]
    assert len(calls) == 8, f"{8 - len(calls)} threads stopped with an error"


def eight_threads_at_once():
    "The first call of the process is eight calls."
    given, start, found = [make(c) for c in PLAIN], Barrier(8), []
    def work(k):
        start.wait()
        found.append((k % 2, trained(PLAIN[k % 2], given[k % 2])))
    threads = [Thread(target=work, args=(k,)) for k in range(8)]
    for t in threads: t.start()
    for t in threads: t.join()
    wanted = single(trained, PLAIN)
    assert sorted(found) == sorted([*enumerate(wanted)]*4)


def test_eight_threads_call_at_once(): child(eight_threads, 3, timeout=120)         # many kernels, if none is cached


def test_eight_threads_make_the_first_call(tmp_path): child(eight_threads_at_once, NUMBA_CACHE_DIR=tmp_path)


def beside_a_parallel_kernel():
    "Numba's workqueue aborts the process when two threads use it at once. A user's kernel may: ours must not."
    import numba
    @numba.njit(parallel=True)
    def user(a):
        total = 0.
        for i in numba.prange(a.size): total += np.sqrt(a[i])
        return total
    a = np.ones(100_000)
    user(a)
    assert numba.threading_layer() == "workqueue"
    wanted, other = single(trained, CASES), Repeat(lambda: user(a))
    torch.set_num_threads(2)
    for _ in range(3): assert [trained(c) for c in CASES] == wanted
    wanted = single(by_arrays, PLAIN)
    for _ in range(20): assert [by_arrays(c) for c in PLAIN] == wanted
    other.stop()


def test_a_parallel_kernel_of_the_users_runs_in_another_thread():
    child(beside_a_parallel_kernel, NUMBA_THREADING_LAYER="workqueue", NUMBA_NUM_THREADS=2)


def seconds_of_threads():
    "CPU time of each thread of this process, by its number."
    tick, times = os.sysconf("SC_CLK_TCK"), {}
    for task in Path("/proc/self/task").iterdir():
        fields = (task/"stat").read_text().rpartition(")")[2].split()
        times[int(task.name)] = (int(fields[11]) + int(fields[12]))/tick
    return times


def share_of_others(f, seconds=0.5):
    "Of the CPU time while f is repeated, the part that is not the calling thread's."
    before, until = seconds_of_threads(), time.monotonic() + seconds
    while time.monotonic() < until: f()
    spent = {k: v - before.get(k, 0) for k, v in seconds_of_threads().items()}
    own = spent.pop(os.getpid())
    return sum(spent.values())/(own + sum(spent.values()))


def one_thread():
    given = [make(c) for c in CASES]
    def torchs(): given[0][0].exp()
    def ours():
        for c, g in zip(CASES, given, strict=True): trained(c, g)
    def arrays():
        for c in PLAIN: by_arrays(c, given[CASES.index(c)])
    # a thread that shared in the work would spend up to a half; clocks tick each 1/100 s, of 50 ticks
    torch.set_num_threads(1)
    for f in (ours, arrays): f(); assert (share := share_of_others(f)) < 0.05, (f.__name__, share)
    torch.set_num_threads(2)
    share = share_of_others(torchs)
    assert share > 0.2, f"the clocks do not show torch's own second thread: {share}"
    ours(); arrays()
    torch.set_num_threads(1)
    time.sleep(0.3)                                        # threads of before wait for work, busily for a while
    for f in (ours, arrays): assert (share := share_of_others(f)) < 0.05, (f.__name__, share, "after two threads")


@needs_proc
def test_one_thread_means_one_thread(): child(one_thread)


def numbers_of_threads(runs, dtype, activation):
    "The number of threads changes from run to run."
    for case in CASES:
        if (case[2], case[4]) != (dtype, activation): continue
        given, results = make(case), {}
        for threads in (1, 2, 3, 8)*(runs//4):
            torch.set_num_threads(threads)
            results.setdefault(trained(case, given), set()).add(threads)
        assert [*results.values()] == [{1, 2, 3, 8}], (case, "threads of each result", [*results.values()])


@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_same_bits_for_any_number_of_threads_and_every_time(dtype, activation):
    child(numbers_of_threads, 20, dtype, activation)


# Forks. A forked child of a process that used OpenMP's threads has none of them, and waits for them for ever.

def in_a_fork(f):
    "What f gives in a forked child: a string, or None where it raised."
    read, write = os.pipe()
    if not (pid := os.fork()):
        try: os.write(write, f().encode())
        except BaseException: sys.excepthook(*sys.exc_info())
        finally: os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe: found = pipe.read()
    assert os.waitpid(pid, 0)[1] == 0
    return found or None


def forks(number, dtype, activation):
    "Children of a process that has used several threads; then the process itself, again."
    torch.set_num_threads(2)
    cases = [c for c in CASES if (c[2], c[4]) == (dtype, activation)]
    given = [make(c) for c in cases]
    functions = [inferred] if dtype == "bfloat16" or activation else [inferred, by_arrays]
    for f, (c, g) in itertools.product(functions, zip(cases, given, strict=True)):
        print(f.__name__, c, flush=True)                  # to be seen if it hangs
        wanted = f(c, g)
        for _ in range(number):
            assert in_a_fork(lambda f=f, c=c, g=g: f(c, g)) == wanted, (f.__name__, c)
            assert f(c, g) == wanted, (f.__name__, c)


def forks_that_train(number):
    "A child may differentiate as long as its parent has not: torch's rule. Its parent has used several threads."
    torch.set_num_threads(2)
    case = PLAIN[1]
    given = make(case)
    y, arrays = inferred(case, given), by_arrays(case, given)
    found = {in_a_fork(lambda: trained(case, given)) for _ in range(number)}
    assert found == {trained(case, given)}
    assert (inferred(case, given), by_arrays(case, given)) == (y, arrays)


def forks_during_calls(number):
    "A child is born while another thread of its parent is inside a call."
    torch.set_num_threads(2)
    given = [make(c) for c in PLAIN]
    wanted = [by_arrays(c, g) for c, g in zip(PLAIN, given, strict=True)]
    other = Repeat(lambda: (by_arrays(PLAIN[0], given[0]), inferred(PLAIN[0], given[0])))
    y = inferred(PLAIN[1], given[1])
    for _ in range(number):
        assert in_a_fork(lambda: by_arrays(PLAIN[1], given[1])) == wanted[1]
        assert in_a_fork(lambda: inferred(PLAIN[1], given[1])) == y
    other.stop()
    assert by_arrays(PLAIN[0], given[0]) == wanted[0]


def forks_by_multiprocessing():
    torch.set_num_threads(2)
    wanted = [f(c) for f in (inferred, by_arrays) for c in PLAIN]
    with get_context("fork").Pool(2) as pool:
        for _ in range(3):
            found = [p.get() for p in [pool.apply_async(f, (c,)) for f in (inferred, by_arrays) for c in PLAIN]]
            assert found == wanted
            assert [f(c) for f in (inferred, by_arrays) for c in PLAIN] == wanted
        pool.close(); pool.join()


@needs_fork
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_forked_children(dtype, activation): child(forks, 3, dtype, activation, timeout=30)


@needs_fork
@pytest.mark.parametrize("f, args", [(forks_that_train, (3,)), (forks_during_calls, (10,)),
                                     (forks_by_multiprocessing, ())], ids=lambda v: getattr(v, "__name__", ""))
def test_forks(f, args): child(f, *args, timeout=30)


class Samples(torch.utils.data.Dataset):
    "As many samples as cases; each is the bits of a result, and the number of the worker."
    def __len__(self): return len(CASES)
    def __getitem__(self, i):
        arrays = by_arrays(CASES[i]) if CASES[i] in PLAIN else ""
        return inferred(CASES[i]), arrays, torch.utils.data.get_worker_info().id


def loader():
    "Workers are forked after their parent has used several threads, in two epochs."
    warnings.filterwarnings("ignore", "This DataLoader will create 2 worker processes")           # one core
    torch.set_num_threads(2)
    wanted = [(inferred(c), by_arrays(c) if c in PLAIN else "") for c in CASES]
    loader = torch.utils.data.DataLoader(Samples(), None, num_workers=2, multiprocessing_context="fork")
    for _ in range(2):
        found = [*loader]
        assert [(y, arrays) for y, arrays, _ in found] == wanted and {worker for *_, worker in found} == {0, 1}
        assert [inferred(c) for c in CASES] == [w[0] for w in wanted]


@needs_fork
def test_workers_of_a_loader(): child(loader)


def by_joblib(backend):
    from joblib import Parallel, delayed
    torch.set_num_threads(2)
    f = by_arrays if backend == "multiprocessing" else trained       # forked children may not differentiate
    cases = PLAIN if backend == "multiprocessing" else CASES
    wanted = [f(c) for c in cases]
    for _ in range(2):
        assert Parallel(2, backend=backend)(delayed(f)(c) for c in cases*2) == wanted*2
        assert [f(c) for c in cases] == wanted


@pytest.mark.parametrize("backend", ["loky", "threading",
                                     pytest.param("multiprocessing", marks=needs_fork)])
def test_inside_joblib(backend):
    pytest.importorskip("joblib", reason="joblib is missing: it comes with scikit-learn")
    child(by_joblib, backend)


# Two processes that train one model.

def model_and_batch():
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3), gn_nb.GroupNorm(4, 16, activation="silu"), torch.nn.Conv2d(16, 8, 3),
        gn_nb.GroupNorm(2, 8, activation="relu"), torch.nn.Flatten(), torch.nn.Linear(8*12*12, 1))
    return model.double(), torch.randn(8, 3, 16, 16).double(), torch.randn(8, 1).double()


def steps(run, model, x, target):
    "The parameters after three steps of descent."
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    for _ in range(3):
        optimizer.zero_grad()
        (run(x) - target).square().mean().backward()
        optimizer.step()
    return [p.detach() for p in model.parameters()]


def rank(k, folder):
    "One process of two, with half of the batch; they meet in a file and speak by the loopback interface alone."
    from datetime import timedelta

    import torch.distributed as dist
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=k, world_size=2,
                            timeout=timedelta(seconds=40))
    model, x, target = model_and_batch()
    half = slice(4*k, 4*k + 4)
    torch.save(steps(torch.nn.parallel.DistributedDataParallel(model), model, x[half], target[half]), f"{folder}/{k}")
    dist.barrier(); dist.destroy_process_group()


def two_ranks(folder):
    ranks = [get_context("spawn").Process(target=rank, args=(k, folder)) for k in range(2)]
    for r in ranks: r.start()
    for r in ranks: r.join()
    assert [r.exitcode for r in ranks] == [0, 0]


@pytest.mark.skipif(not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
                    reason="torch's gloo is missing here")
def test_distributed_data_parallel(tmp_path):
    child(two_ranks, str(tmp_path), GLOO_SOCKET_IFNAME="lo0" if sys.platform == "darwin" else "lo")
    first, second = (torch.load(tmp_path/str(k)) for k in range(2))
    assert all(map(torch.equal, first, second))
    model, x, target = model_and_batch()
    start = [p.detach().clone() for p in model.parameters()]
    alone = steps(model, model, x, target)
    # float64: the mean of two halves is that over all but for 1e-16 of gradients of 1e2, in each of three steps
    for a, b in zip(first, alone, strict=True): assert_close(a, b, 1e-12)
    assert all(max_error(a, b) > 1e-3 for a, b in zip(alone, start, strict=True))        # they did learn


# The first call, and the cache on disk.

def pace():
    "Seconds that this machine takes at this moment for work much like numba's: objects, names, trees."
    source, start = Path(__file__).read_text(encoding="utf-8"), time.perf_counter()
    for _ in range(20): compile(ast.parse(source), __file__, "exec")
    return time.perf_counter() - start


def first_call():
    "Seconds of the first forward and of the first backward call of this process, pace, and where the package lies."
    x, weight, bias, dy = make(PLAIN[0])
    leaf = x.clone().requires_grad_()
    leaf.relu().backward(dy)                 # torch's own first backward call imports sympy, in 0.3 s: not counted
    before = pace()
    start = time.perf_counter()
    y = group_norm(leaf, PLAIN[0][1], weight, bias)
    middle = time.perf_counter()
    y.backward(dy)
    end = time.perf_counter()
    print(middle - start, end - middle, (before + pace())/2, gn_nb.__file__)
    exact = torch.nn.functional.group_norm(x.double(), PLAIN[0][1], weight.double(), bias.double())
    assert (y - exact).abs().max() <= 1e-6*exact.abs().max()          # a wrong result is quick, too


def slow(limit, every):
    """Times of the first calls of some processes, if none is within the limit; the best counts: others may be at work.

    On a machine that is slower than the one the limit was set on, the limit is longer by as much.
    """
    found = []
    for options in every:
        forward, backward, tempo, _ = child(first_call, **options)
        within = limit*max(1, float(tempo)/PACE)
        found.append(f"forward {float(forward):.2f} s, backward {float(backward):.2f} s, of {within:.2f} s")
        if max(float(forward), float(backward)) < within: return []
    return found


def test_first_call_of_all_and_of_a_later_process(tmp_path):
    caches = [tmp_path/str(k) for k in range(3)]
    assert not (found := slow(FIRST, [dict(NUMBA_CACHE_DIR=c) for c in caches])), found
    assert [*caches[0].rglob("*.nb?")], "nothing is kept for later processes"
    assert not (found := slow(LATER, [dict(NUMBA_CACHE_DIR=caches[0])]*3)), found


UNPRIVILEGED = """
import ctypes, os, sys
if not os.geteuid(): ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)     # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE: as for any user
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@pytest.fixture
def read_only(tmp_path):
    "A copy of the package that may not be written to, also by root, and an empty home; options of `child`."
    if os.name != "posix": pytest.skip("permissions of folders are those of POSIX")
    copy, home = tmp_path/"site", tmp_path/"home"
    home.mkdir()
    shutil.copytree(Path(gn_nb.__file__).parent, copy/"gn_nb", ignore=shutil.ignore_patterns("__pycache__"))
    folders = [copy, *(p for p in copy.rglob("*") if p.is_dir())]
    for folder in folders: folder.chmod(0o555)
    before = ("-c", UNPRIVILEGED)
    probe = subprocess.run([sys.executable, *before, "-c", f"open({str(copy/'gn_nb'/'probe')!r}, 'w')"],
                           capture_output=True, text=True)
    if "PermissionError" not in probe.stderr: pytest.skip("a folder cannot be made read-only for this user")
    yield home, dict(before=before, PYTHONPATH=copy, HOME=home, NUMBA_CACHE_DIR=None, XDG_CACHE_HOME=None)
    for folder in (*folders, home): folder.chmod(0o755)


def test_a_read_only_package_is_cached_in_the_home_folder(read_only):
    home, options = read_only
    *_, place = child(first_call, **options)
    assert Path(place).is_relative_to(options["PYTHONPATH"])
    assert [*home.rglob("*.nb?")], "nothing is kept for later processes"
    assert not (found := slow(LATER, [options]*3)), found
    assert not [*options["PYTHONPATH"].rglob("__pycache__")]


def test_code_that_came_with_a_read_only_package_is_used(read_only):
    "As in a container image that was built with one call of each kind."
    home, options = read_only
    package = options["PYTHONPATH"]/"gn_nb"
    package.chmod(0o755)
    child(first_call, PYTHONPATH=package.parent, NUMBA_CACHE_DIR=None)
    kept = {*package.rglob("*.nb?")}
    for folder in ((package/"__pycache__"), package, home): folder.chmod(0o555)
    assert kept and not (found := slow(LATER, [options]*3)), found
    assert {*package.rglob("*.nb?")} == kept and not [*home.iterdir()]


def damaged():
    "Two warnings, for the kernel and its driver, and the right result."
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        x = torch.arange(24.).reshape(2, 4, 3)
        assert_close(group_norm(x, 2), torch.nn.functional.group_norm(x, 2), 1e-6)
    print(*(str(w.message).replace(" ", "_") for w in found if "damaged" in str(w.message)))


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
@pytest.mark.parametrize("size", [0, 100])
def test_damaged_code_is_thrown_away(tmp_path, kind, size):
    assert not child(damaged, NUMBA_CACHE_DIR=tmp_path)
    for file in tmp_path.rglob(f"*.{kind}"): os.truncate(file, size)
    found = child(damaged, NUMBA_CACHE_DIR=tmp_path)
    assert len(found) == 2 and all(f"machine_code_in_{tmp_path}" in text for text in found), found
    assert not child(damaged, NUMBA_CACHE_DIR=tmp_path)


def no_room():
    "No file may have more than 4 kB."
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    damaged()


@pytest.mark.skipif(os.name != "posix", reason="limits of files are those of POSIX")
def test_a_full_disk(tmp_path):
    assert not child(no_room, NUMBA_CACHE_DIR=tmp_path)
    assert not [f for f in tmp_path.rglob("*.nbc") if f.stat().st_size]


def test_nothing_may_be_written_at_all(read_only):
    home, options = read_only
    home.chmod(0o555)
    *_, place = child(first_call, **options)
    assert Path(place).is_relative_to(options["PYTHONPATH"])
    assert not [*home.iterdir()] and not [*options["PYTHONPATH"].rglob("__pycache__")]


IMPORT = """
import os, sys, time
import numba, numpy, torch
from numba.core import event
def threads(): return len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0
before = threads()
with event.install_recorder("numba:compile") as compiled, event.install_recorder("numba:run_pass") as passes:
    start = time.perf_counter()
    import gn_nb.ops
    seconds = time.perf_counter() - start
print(seconds, threads() - before, len(compiled.buffer) + len(passes.buffer))
with event.install_recorder("numba:compile") as compiled, event.install_recorder("numba:run_pass") as passes:
    numba.njit(lambda a: a + 1)(1)
assert compiled.buffer and passes.buffer, "the recorder records nothing"
"""


def test_import_starts_no_thread_and_compiles_nothing(tmp_path):
    env = os.environ | {"PYTHONPATH": str(Path(gn_nb.__file__).parent.parent), "NUMBA_CACHE_DIR": str(tmp_path)}
    times = []
    while len(times) < 3 and not (times and times[-1] < 0.5):          # seconds; the best, for the machine may be busy
        done = subprocess.run([sys.executable, *WARNINGS, "-c", IMPORT], capture_output=True, text=True, timeout=60,
                              env=env, cwd=Path(sys.executable).anchor)
        assert done.returncode == 0 and not done.stderr, done
        seconds, *others = done.stdout.split()
        assert others == ["0", "0"], f"threads started, steps of the compiler: {others}"
        times.append(float(seconds))
    assert min(times) < 0.5, times
    assert not [*tmp_path.rglob("*.nb?")]


if __name__ == "__main__": globals()[sys.argv[1]](*json.loads(sys.argv[2]))
