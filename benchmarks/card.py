"""All that a CUDA card has to prove, in one command: questions to the card, correctness, sanitizers, the benchmark.

What can fail comes first and stops nothing behind it; what needs no timing runs side by side; the benchmark has the
card alone, and goes on where it was when the command is run again. Each step writes _build/card/STEP.log. Needs torch
and numba-cuda, and of this package nothing but its source; pytest, xdist, compute-sanitizer are used if they are here.
"""
import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT/"_build/card"
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
BEFORE, TESTS, LAST = 120, 230, 10       # seconds at most for the questions, for all tests, and after the benchmark
COMPILE = 75                             # for what is compiled before the benchmark, if nothing is tested meanwhile


@dataclass
class Step:
    name:str
    command:list       # empty: this step cannot be made here
    notice:str = ""    # why, or what is left out


def python(*args): return [sys.executable, *args]


def tests(workers):
    "Correctness by pytest, side by side with xdist; without pytest the checks alone, as a script."
    lacking = [name for name in ("pytest", "hypothesis", "jupyter_cache") if not find_spec(name)]
    if lacking: return Step("tests", python("tests/card_checks.py", "--workers", str(workers)), (
        f"no {', '.join(lacking)} here: tests/test_cuda.py is left out, tests/card_checks.py runs as a script"))
    command = python("-m", "pytest", "tests/test_cuda_card.py", "tests/test_cuda.py", "-k", "card and not simulated",
                     "-p", "no:cacheprovider", "-o", "filterwarnings=default", "--tb=short")
    if find_spec("xdist"): return Step("tests", [*command, "-n", str(workers)])
    return Step("tests", command, "pytest-xdist is not here: the tests run one after another")


def sanitizers():
    "Twenty shapes under each tool of compute-sanitizer."
    tool = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    if not tool: return [Step("sanitizers", [], f"compute-sanitizer is not here: no {', '.join(TOOLS)}")]
    return [Step(name, [tool, "--tool", name, "--error-exitcode", "9", "--print-limit", "5",
                        *python("tests/card_checks.py", "--sanitize")]) for name in TOOLS]


def environment():
    "Imports from the source tree; the CUDA toolkit beside nvcc, where nothing else names one."
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    # the processes of a step are many already; torch.compile needs no more of them
    found = {"PYTHONPATH": paths, "PYTHONUNBUFFERED": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    nvcc = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    if nvcc and not os.environ.get("CUDA_HOME"): found["CUDA_HOME"] = str(Path(nvcc).resolve().parent.parent)
    return os.environ | found


def together(steps, seconds):
    "Run steps side by side; name -> how each ended. What is not done in time is stopped."
    LOGS.mkdir(parents=True, exist_ok=True)
    running, ended, until = {}, {}, time.time() + seconds
    for step in steps:
        if step.notice: print(f"NOTICE {step.notice}", flush=True)
        if not step.command: ended[step.name] = "not run"; continue
        # else torch's own allocator would hide what is read behind an array
        env = environment() | ({"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"} if step.name in TOOLS else {})
        with open(LOGS/f"{step.name}.log", "w", encoding="utf-8") as log:
            running[step.name] = subprocess.Popen(step.command, cwd=ROOT, env=env, stdout=log,
                                                  stderr=subprocess.STDOUT, start_new_session=True)
    try:
        for name, process in running.items():
            try: status = process.wait(max(0.1, until - time.time()))
            except subprocess.TimeoutExpired: ended[name] = f"FAILED: not done in {seconds:.0f} seconds"
            else: ended[name] = "passed" if status == 0 else f"FAILED: status {status}"
    finally:
        for process in running.values(): stop(process)
    return ended


def stop(process):
    "End a step and what it has started: the processes of its own session."
    try: os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError: pass
    process.wait()


def tail(name, lines):
    path = LOGS/f"{name}.log"
    text = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    return "\n".join(f"    {line}" for line in text[-lines:])


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=470, help="for everything")
    parser.add_argument("--only", choices=("tests", "benchmark"), help="one part, with all of the time")
    args = parser.parse_args(argv)
    until = time.time() + args.seconds
    def left(): return until - time.time()
    ended, script = {}, str(ROOT/"benchmarks/gpu.py")
    def report(found, lines=3):
        ended.update(found)
        for name, how in found.items():
            print(f"{how}  {name}\n{tail(name, max(lines, 25) if how.startswith('FAILED') else lines)}", flush=True)
    report(together([Step("probe", python(script, "--probe"))], min(BEFORE, left())), 60)
    if args.only != "benchmark":
        workers = max(1, (os.cpu_count() or 2)//2)
        steps = [tests(workers), *sanitizers()]
        if args.only is None: steps.append(Step("prepare", python(script, "--prepare", "--seconds", str(TESTS - 15))))
        report(together(steps, left() - LAST if args.only else min(TESTS, left() - LAST)))
    if args.only == "benchmark":                                 # else a peer's compiler takes most of its time
        work = python(script, "--prepare", "--seconds", str(COMPILE), "--workers", str(os.cpu_count() or 2))
        report(together([Step("prepare", work)], min(COMPILE + 15, left() - LAST)))
    if args.only != "tests":
        seconds = max(0., left() - 4*LAST)
        report(together([Step("benchmark", python(script, "--seconds", f"{seconds:.0f}"))], left() - LAST + 15), 60)
    print("\n".join(f"{how}  {name}" for name, how in ended.items()))
    return int(any(how.startswith("FAILED") for how in ended.values()))


if __name__ == "__main__": sys.exit(main())
