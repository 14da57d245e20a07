"""The laboratory where a notebook cannot go: sweeps that are killed, a cluster that loses a worker, torchrun.

Sweeps run in processes of their own, started as a reader would start them, and are killed as a power cut would.
"""
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from gn_nb.lab import sweep as lab
from gn_nb.lab.train import run
from gn_nb.testing import assert_close, must_raise

COMMAND = (str(Path(sys.executable).with_name("gn-nb")),)
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": ""}
QUICK = {"data": "digits", "model": "plain", "norm": "bn", "train": {"epochs": 1}}
SLOW = {"data": "digits", "model": "plain", "norm": "bn", "train": {"epochs": 4}}     # about half a second


@pytest.fixture
def started():
    "A function that starts a command; what it started is killed at the end."
    processes = []
    def start(*command, **more):
        processes.append(subprocess.Popen([*map(str, command)], env=ENVIRONMENT, start_new_session=True, text=True,
                                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more))
        return processes[-1]
    yield start
    for process in processes:
        if process.poll() is None: os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(.05)


def recorded(path): return len(path.read_bytes().splitlines()) if path.exists() else 0


def children(pid):
    "Of a process, by Linux's list of them."
    return [int(c) for task in Path(f"/proc/{pid}/task").glob("*") for c in (task/"children").read_text().split()]


def workers_of(pid):
    "The processes among its children that execute configs, not the one that keeps track of resources."
    return [c for c in children(pid) if "spawn_main" in Path(f"/proc/{c}/cmdline").read_text()]


needs_proc = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="/proc/self/task is missing here")


def each_once(path, configs):
    "Every config has one line, and no line is broken."
    records, problems = lab.read(path)
    assert not problems
    assert Counter(json.loads(line)["key"] for line in path.read_text().splitlines()) == Counter(map(lab.key, configs))
    return records


@needs_proc
def test_a_killed_sweep_goes_on_where_it_was(tmp_path, started):
    configs = lab.grid(SLOW, {"seed": range(6)})
    (tmp_path/"many.json").write_text(json.dumps(configs))
    path = tmp_path/"many.jsonl"
    command = [*COMMAND, "sweep", str(tmp_path/"many.json"), "--results", str(tmp_path), "--workers", "2"]
    first = started(*command)
    wait_for(lambda: recorded(path) >= 2)
    orphans = workers_of(first.pid)
    first.kill()                                                        # no chance to tidy up
    assert len(orphans) == 2
    wait_for(lambda: not any(Path(f"/proc/{c}").exists() for c in orphans))            # they end by themselves
    before = path.read_bytes()
    assert 2 <= len(before.splitlines()) < 6
    path.write_bytes(before + b'{"key": "')                             # and the power failed in the middle of a line
    second = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert second.returncode == 0 and f"{path}:{len(before.splitlines()) + 1}: skipped" in second.stderr
    assert path.read_bytes().startswith(before)                         # what was recorded was not touched
    records, problems = lab.read(path)
    assert [*Counter(r["key"] for r in records).values()] == [1]*6 and len(problems) == 1
    assert len(path.read_bytes().splitlines()) == 7


@needs_proc
def test_a_killed_worker_is_a_crashed_run(tmp_path, started):
    configs = lab.grid(SLOW | {"train": {"epochs": 12}}, {"seed": range(4)})
    (tmp_path/"many.json").write_text(json.dumps(configs))
    path = tmp_path/"many.jsonl"
    sweep = started(*COMMAND, "sweep", tmp_path/"many.json", "--results", tmp_path, "--workers", 2, "--quiet")
    wait_for(lambda: recorded(path) >= 1)                               # so both have something to do
    os.kill(workers_of(sweep.pid)[0], signal.SIGKILL)
    out, err = sweep.communicate(timeout=60)
    assert (sweep.returncode, out, err) == (0, f"{path}: 3 done, 1 crashed\n", "")
    crashed, = (r for r in each_once(path, configs) if r["status"] == "crashed")
    assert crashed["error"] == "its process ended: -9"
    assert lab.sweep(configs, path, workers=0, again=True, progress=False) == {"done": 1}
    assert {r["status"] for r in lab.read(path)[0]} == {"done"}


def test_a_missing_file_stops_a_sweep_and_is_not_recorded(tmp_path):
    configs = [QUICK, QUICK | {"data": {"name": "cifar10", "folder": str(tmp_path/"nowhere")}}]
    must_raise(FileNotFoundError, "folder must hold train*.parquet", lab.sweep, configs, tmp_path/"a.jsonl", workers=1,
               progress=False)
    assert [r["key"] for r in lab.read(tmp_path/"a.jsonl")[0]] == [lab.key(QUICK)]


def test_interrupting_a_sweep(tmp_path, started):
    (tmp_path/"many.json").write_text(json.dumps(lab.grid(SLOW, {"seed": range(30)})))
    sweep = started(*COMMAND, "sweep", tmp_path/"many.json", "--results", tmp_path, "--workers", 1, "--quiet")
    wait_for(lambda: recorded(tmp_path/"many.jsonl") >= 1)
    os.killpg(sweep.pid, signal.SIGINT)                                 # what Ctrl-C does: all processes are told
    out, err = sweep.communicate(timeout=30)
    assert (sweep.returncode, out, err) == (130, "", "stopped; the same command goes on from here\n")


def test_a_cluster_that_loses_a_worker(tmp_path, started):
    "A scheduler and two workers on this machine, one of them killed: every config is recorded once, none is lost."
    dask = str(Path(sys.executable).with_name("dask"))
    started(dask, "scheduler", "--host", "127.0.0.1", "--port", 0, "--no-dashboard", "--scheduler-file",
            tmp_path/"at.json")
    wait_for(lambda: (tmp_path/"at.json").exists() and (tmp_path/"at.json").read_text())
    address = json.loads((tmp_path/"at.json").read_text())["address"]
    def worker():
        return started(dask, "worker", address, "--host", "127.0.0.1", "--nthreads", 1, "--no-dashboard", "--no-nanny",
                       "--local-directory", tmp_path)
    first, _ = worker(), worker()
    configs = [*lab.grid(SLOW, {"seed": range(8)}), QUICK | {"norm": {"name": "bn", "ghost": 3}}]
    (tmp_path/"many.json").write_text(json.dumps(configs))
    path = tmp_path/"many.jsonl"
    sweep = started(*COMMAND, "sweep", tmp_path/"many.json", "--results", tmp_path, "--dask", address, "--quiet")
    wait_for(lambda: recorded(path) >= 2)
    first.kill()
    out, err = sweep.communicate(timeout=60)
    assert sweep.returncode == 0 and "8 done" in out and "1 crashed" in out, (out, err)
    records = {r["key"]: r for r in each_once(path, configs)}
    here = run(configs[0])                                              # the same numbers as at home
    assert records[lab.key(configs[0])]["curves"] == here["curves"]


@pytest.mark.parametrize("norm, alone", [
    ({"name": "gn", "num_groups": 4}, {"name": "gn", "num_groups": 4}),
    ("bn", {"name": "bn", "ghost": 32}),                                # each of two workers normalizes by its half
    ({"name": "bn", "ghost": 8}, {"name": "bn", "ghost": 8})], ids=["gn", "bn", "ghost"])
def test_torchrun(tmp_path, norm, alone):
    "Two processes compute what one does: to rounding, since sums of gradients have another order."
    config = {"data": {"name": "digits", "noise": .5}, "model": "plain", "norm": norm,
              "train": {"epochs": 2, "batch_size": 64, "lr": .05}}
    (tmp_path/"config.json").write_text(json.dumps(config))
    found = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--no-python",
                            "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", *COMMAND, "train",
                            str(tmp_path/"config.json"), "--quiet"],
                           env=ENVIRONMENT | {"GLOO_SOCKET_IFNAME": "lo"}, capture_output=True, text=True, timeout=90)
    assert found.returncode == 0, found.stderr
    record, = map(json.loads, found.stdout.splitlines())                # one process speaks for all
    wanted = run(config | {"norm": alone})
    # float32 rounding, grown by 30 steps of training; the curves of another seed differ by 0.1
    for curve in ("train_loss", "val_loss"): assert_close(record["curves"][curve], wanted["curves"][curve], 2e-3)
    for way in wanted["final"]:
        loss = record["final"][way]["test"]["loss"]
        assert_close(np.array(loss), np.array(wanted["final"][way]["test"]["loss"]), 2e-3)
