"""The laboratory where a notebook cannot go: sweeps that are killed, a cluster that loses a worker, torchrun, a hub.

Sweeps run in processes of their own, started as a reader would start them, and are killed as a power cut would.
"""
import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
from collections import Counter
from http.server import BaseHTTPRequestHandler, HTTPServer
from multiprocessing import active_children
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from conftest import ROOT
from pyarrow import parquet

from gn_nb.lab import cli, evidence
from gn_nb.lab import data as lab_data
from gn_nb.lab import digits as bench
from gn_nb.lab import sweep as lab
from gn_nb.lab import train as lab_train
from gn_nb.lab.cli import main
from gn_nb.lab.data import load
from gn_nb.lab.evidence import recorded as recorded_by
from gn_nb.lab.figures import compare
from gn_nb.lab.group_count import image_moments as moments_of_all
from gn_nb.lab.models import BatchNorm, build, groups_of, norm_layer, precise
from gn_nb.lab.small_batches import averages, image_moments
from gn_nb.lab.train import check_config, loss_of, run, train
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


def wait_for(condition, seconds=180):
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
    configs = lab.grid(SLOW, {"seed": range(10)})
    (tmp_path/"many.json").write_text(json.dumps(configs))
    path = tmp_path/"many.jsonl"
    first = started(*COMMAND, "sweep", tmp_path/"many.json", "--results", tmp_path, "--workers", 2)
    wait_for(lambda: recorded(path) >= 2)
    orphans = workers_of(first.pid)
    first.kill()                                                        # no chance to tidy up
    assert len(orphans) == 2
    wait_for(lambda: not any(Path(f"/proc/{c}").exists() for c in orphans))            # they end by themselves
    before = path.read_bytes()
    assert 2 <= len(before.splitlines()) < 10
    path.write_bytes(before + b'{"key": "')                             # and the power failed in the middle of a line
    assert lab.sweep(configs, path, workers=0, progress=False) == {"done": 10 - len(before.splitlines())}
    assert path.read_bytes().startswith(before)                         # what was recorded was not touched
    records, problems = lab.read(path)
    assert {r["key"] for r in records} == {*map(lab.key, configs)} and len(path.read_bytes().splitlines()) == 11
    assert [p.split(" ")[:2] for p in problems] == [[f"{path}:{len(before.splitlines()) + 1}:", "skipped,"]]


def test_a_killed_worker_is_a_crashed_run(tmp_path):
    "Of two that are killed, one loses its run, recorded as crashed; the other waited, and its next run goes elsewhere."
    configs = lab.grid(QUICK, {"train.epochs": [1, 40], "seed": [0, 1]})[1:]            # a short one, two long ones
    path, runs = tmp_path/"many.jsonl", lab.local(configs, workers=2)
    lab.append(path, next(runs))                                        # and one worker waits while we look at this
    for process in active_children(): os.kill(process.pid, signal.SIGKILL); process.join()
    for record in runs: lab.append(path, record)
    records = {r["key"]: r for r in each_once(path, configs)}
    assert Counter(r["status"] for r in records.values()) == {"done": 2, "crashed": 1}
    assert records[lab.key(configs[1])]["error"] == "its process ended: -9"
    assert lab.missing(configs, path) == [] and lab.missing(configs, path, again=True) == [configs[1]]


def test_a_missing_file_stops_a_sweep_and_is_not_recorded(tmp_path):
    configs = [QUICK, QUICK | {"data": {"name": "cifar10", "folder": str(tmp_path/"nowhere")}}]
    must_raise(FileNotFoundError, "folder must hold train*.parquet", lab.sweep, configs, tmp_path/"a.jsonl", workers=1,
               progress=False)
    assert [r["key"] for r in lab.read(tmp_path/"a.jsonl")[0]] == [lab.key(QUICK)]


def test_interrupting_a_sweep(tmp_path, started):
    (tmp_path/"many.json").write_text(json.dumps(lab.grid(SLOW, {"seed": range(30)})))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)       # below a nohup it is ignored, also by heirs
    sweep = started(*COMMAND, "sweep", tmp_path/"many.json", "--results", tmp_path, "--workers", 1, "--quiet")
    signal.signal(signal.SIGINT, before)
    wait_for(lambda: recorded(tmp_path/"many.jsonl") >= 1)
    os.killpg(sweep.pid, signal.SIGINT)                                 # what Ctrl-C does: all processes are told
    out, err = sweep.communicate(timeout=180)
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
    out, err = sweep.communicate(timeout=180)
    assert sweep.returncode == 1 and "8 done" in out and "1 crashed" in out, (out, err)
    records = {r["key"]: r for r in each_once(path, configs)}
    here = run(configs[0])                                              # the same numbers as at home
    assert records[lab.key(configs[0])]["curves"] == here["curves"]


@pytest.mark.parametrize("norm, alone", [
    ({"name": "gn", "num_groups": 4}, {"name": "gn", "num_groups": 4}),
    ("bn", {"name": "bn", "ghost": 32})], ids=["gn", "bn"])             # each of two workers normalizes by its half
def test_torchrun(tmp_path, norm, alone):
    "Two processes compute what one does: to rounding, since sums of gradients have another order."
    config = {"data": {"name": "digits", "noise": .5}, "model": "plain", "norm": norm,
              "train": {"epochs": 2, "batch_size": 64, "lr": .05, "sampler": "sorted"}}     # so that the halves differ
    (tmp_path/"config.json").write_text(json.dumps(config))
    found = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--no-python",
                            "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", *COMMAND, "train",
                            str(tmp_path/"config.json"), "--quiet"],
                           env=ENVIRONMENT | {"GLOO_SOCKET_IFNAME": "lo"}, capture_output=True, text=True, timeout=180)
    assert found.returncode == 0 and "Warning" not in found.stderr, found.stderr
    record, = map(json.loads, found.stdout.splitlines())                # one process speaks for all
    wanted = run(config | {"norm": alone})
    # five digits are kept, and rounding in float32 grows little in 30 steps
    for curve in ("train_loss", "val_loss"): assert_close(record["curves"][curve], wanted["curves"][curve], 2e-4)
    for way in wanted["final"]:
        loss = record["final"][way]["test"]["loss"]
        assert_close(np.array(loss), np.array(wanted["final"][way]["test"]["loss"]), 2e-4)


def test_the_sweeps_for_a_card_come_in_an_order_that_works(tmp_path, monkeypatch, capsys):
    "What `make gpu-lab` runs: the configs of each can be made from what those before it have recorded, and no others."
    (tmp_path/"results").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["sweeps", "gpu"]) == 0
    names = capsys.readouterr().out.split()
    assert sorted(names) == sorted(name for name in lab.sweeps() if "gpu" in name) and len(names) == len({*names}) >= 8
    assert {"groups-gpu-lr", "groups-gpu", "dense-gpu", "video-gpu"} <= {*names} and names[0] == "batch-size-gpu"
    part = {"error": .2, "loss": 1.}
    found = {"status": "done", "final": {way: {"val": part, "test": part} for way in ("running", "precise", "batch")}}
    for name in names:
        configs, path = lab.configs_of(name), tmp_path/"results"/f"{name}.jsonl"
        assert configs and lab.missing(configs, path) == configs
        like = lab.record(configs[0], found)
        path.write_text("".join(json.dumps(like | {"key": lab.key(c), "config": c}) + "\n" for c in configs))
        assert lab.missing(configs, path) == []


def test_a_broken_line_is_reported_and_skipped(tmp_path, monkeypatch):
    "Half a line, a line whose config was changed, and no text at all: the chapters go on with the rest."
    path, good = tmp_path/"results"/"example.jsonl", [lab.record(c, {"status": "diverged"}) for c in lab.example()]
    lines = [json.dumps(r) for r in good]
    lines[1:1] = [lines[0][:80], lines[0].replace('"seed": 0', '"seed": 7')]
    path.parent.mkdir()
    path.write_bytes("\n".join(lines).encode() + b"\n\xff\xfe\n")
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning) as said: assert recorded_by("example") == good
    message, = (str(w.message) for w in said)
    assert [line.split(" skipped")[0] for line in message.splitlines()] == [f"{path}:{k}:" for k in (2, 3, 7)]


# What is asked wrongly

GN4 = {"name": "gn", "num_groups": 4}
RIGHT = {"data": "digits", "model": {"name": "resnet", "depth": 8, "width": 8}, "norm": GN4,
         "train": {"epochs": 1, "lr": .1}}


def own_net(norm, channels, classes, scale=1, **more):
    "A network of one's own, which asks for no normalization; it takes options that its signature does not name."
    return build("plain", "none", channels, classes)


@pytest.fixture
def ask(tmp_path, capsys):
    "A function that writes a file, text or plain data, and gives status, output and errors of a command on it."
    def asked(command, holds, *more, name="exp.json"):
        (tmp_path/name).parent.mkdir(exist_ok=True)
        text = holds if isinstance(holds, str) else json.dumps(holds)
        (tmp_path/name).write_text(text, encoding="utf-8")
        where = () if command == "train" else ("--results", str(tmp_path/"results"))
        try: status = main([command, str(tmp_path/name), *where, *more])
        except SystemExit as e: status = e.code
        return status, *capsys.readouterr()
    return asked


@pytest.mark.parametrize("option, value, said", [
    ("--workers", "-1", "must be an integer of at least 0, got '-1'"), ("--workers", "two", "got 'two'"),
    ("--workers", "1.5", "got '1.5'"), ("--seconds", "-5", "must be a number of at least 0, got '-5'"),
    ("--seconds", "nan", "got 'nan'")])
def test_the_command_refuses_what_is_below_0(tmp_path, option, value, said):
    found = subprocess.run([*COMMAND, "sweep", "example", "--quiet", "--results", str(tmp_path), option, value],
                           env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert found.returncode == 2 and f"argument {option}: " in found.stderr and said in found.stderr, found.stderr
    assert not [*tmp_path.iterdir()]


def test_a_sweep_refuses_what_is_below_0(tmp_path):
    for wrong in ({"workers": -1}, {"seconds": -5}, {"seconds": math.nan}):
        (name, value), = wrong.items()
        must_raise(ValueError, f"{name} ({value}) must be at least 0", lab.sweep, [QUICK], tmp_path/"no"/"a.jsonl",
                   progress=False, **{"workers": 0} | wrong)
    assert not [*tmp_path.iterdir()]
    must_raise(ValueError, "workers (-1) must be at least 0", next, lab.local([QUICK], workers=-1))


WRONG = [({"train": {"epoch": 3}}, "got 'epoch'; did you mean 'epochs'?"), ({"train": {"seed": 1}}, "got 'seed'"),
         ({"train": 3}, "train must be a dict of options, got 3"),
         ({"train": {"lr": "0.1"}}, "train.lr must be a number, got '0.1'"),
         ({"train": {"batch_size": "32"}}, "train.batch_size must be an integer, got '32'"),
         ({"train": {"batch_size": 0}}, "train.batch_size (0) must be at least 1"),
         ({"train": {"epochs": True}}, "train.epochs must be an integer, got True"),
         ({"train": {"augmented": 1}}, "train.augmented must be true or false, got 1"),
         ({"train": {"schedule": ["cosine"]}}, "train.schedule must be a text, got ['cosine']"),
         ({"train": {"epochs": None}}, "train.epochs must be an integer, got None"),
         ({"model": "resnt"}, "got 'resnt'; did you mean 'resnet'?"), ({"model": {"depth": 8}}, "model must be a name"),
         ({"model": {"name": "resnet", "dept": 8}}, "got 'dept'; did you mean 'depth'?"),
         ({"model": {"name": "plain", "norm": "bn"}}, "model must have options among "),
         ({"model": {"name": "video", "widths": 8}}, "model.widths must be a list, got 8"),
         ({"model": "gn_nb.lab.train:nothing"}, "model must name a function, got 'gn_nb.lab.train:nothing'"),
         ({"data": ["digits"]}, "data must be a name, or a dict with a name, got ['digits']"),
         ({"data": {"noise": 1}}, "data must be a name, or a dict with a name, got {'noise': 1}"),
         ({"data": {"name": "digits", "nois": 1}}, "got 'nois'; did you mean 'noise'?"),
         ({"data": {"name": "digits", "frames": 1}}, "got 'frames'"),
         ({"data": {"name": "clips", "frames": "8"}}, "data.frames must be an integer, got '8'"),
         ({"norm": "batchnorm"}, "norm must be one of none, bn, ln, in, gn, "),
         ({"norm": {"name": "bn", "gohst": 2}}, "got 'gohst'; did you mean 'ghost'?"),
         ({"norm": {"name": "none", "num_groups": 2}}, "norm must have options among "),
         ({"norm": {"name": "ln", "weight_standardization": 1}}, "must be true or false, got 1"),
         ({"norm": "gn"}, "norm must say one of num_groups and group_size, as "),
         ({"norm": GN4 | {"group_size": 2}}, "norm must say one of num_groups and group_size, as "),
         ({"norm": GN4 | {"num_groups": 0}}, "norm.num_groups (0) must be at least 1"),
         ({"norm": {"name": "gn", "group_size": 0}}, "norm.group_size (0) must be at least 1"),
         ({"norm": {"name": "bn", "ghost": -8}}, "norm.ghost (-8) must be at least 1"),
         ({"entrance": {"name": "bn", "ghost": 0}}, "entrance.ghost (0) must be at least 1"),
         ({"norm": {"name": "ln", "noise": -2}}, "norm.noise (-2) must be at least 1"),
         ({"pretrain": {"data": "digits", "ghost": 0}}, "pretrain.ghost (0) must be at least 1"),
         ({"norm": None}, "config must say norm, for instance {'name': 'gn', 'num_groups': 8}, got "),
         ({"entrance": "gn"}, "entrance must say one of num_groups and group_size, as "),
         ({"entrance": {"name": "in", "esp": 1.}}, "got 'esp'; did you mean 'eps'?"),
         ({"pretrain": {"train": {}}}, "pretrain must be a dict of data, and perhaps of train and ghost, got "),
         ({"pretrain": 3}, "pretrain must be a dict of data, and perhaps of train and ghost, got 3"),
         ({"pretrain": {"data": "digts"}}, "pretrain.data must be one of digits, "),
         ({"pretrain": {"data": "digits", "train": {"epoch": 1}}}, "pretrain.train must have options among epochs, "),
         ({"seed": "0"}, "seed must be an integer, got '0'"), ({"trian": {}}, "got trian; did you mean 'train'?"),
         ({"probe": "look"}, "probe must be 'package.module:function', got 'look'")]


@pytest.mark.parametrize("wrong, said", WRONG, ids=[json.dumps(wrong) for wrong, _ in WRONG])
def test_a_wrong_config_is_refused_before_anything_runs(wrong, said, ask, tmp_path):
    config = RIGHT | wrong
    must_raise(ValueError, said, check_config, config)
    for status, out, err in (ask("train", config), ask("sweep", [RIGHT, config], "--workers", "0")):
        assert status == 2 and not out and err.startswith(f"gn-nb: {tmp_path/'exp.json'}") and said in err, (out, err)
    assert ", config 2 of 2: " in err and not (tmp_path/"results").exists()


def test_layers_refuse_what_is_below_1():
    for words, f, more in (("num_groups (0) must be at least 1", groups_of, {"num_groups": 0, "fallback": "gcd"}),
                           ("num_groups (-8) must be at least 1", groups_of, {"num_groups": -8, "fallback": "divisor"}),
                           ("group_size (0) must be at least 1", groups_of, {"group_size": 0}),
                           ("group_size (-8) must be at least 1", groups_of, {"group_size": -8}),
                           ("ghost (0) must be at least 1", BatchNorm, {"ghost": 0}),
                           ("ghost (-8) must be at least 1", BatchNorm, {"ghost": -8}),
                           ("noise (0) must be at least 1", norm_layer, {"name": "ln", "noise": 0}),
                           ("noise (-2) must be at least 1", norm_layer, {"name": "ln", "noise": -2})):
        must_raise(ValueError, words, f, 16, **more)


def test_what_is_right_is_accepted(tmp_path):
    "Whole numbers for others, lists for tuples, None where it says nothing, and functions of your own."
    assert check_config(RIGHT) is RIGHT
    for more in ({"train": {"lr": 1, "slice_size": None}}, {"model": {"name": "video", "widths": [4], "strides": [1]}},
                 {"norm": {"name": "gn", "group_size": 4, "num_groups": None, "weight_standardization": True}},
                 {"norm": {"name": "bn", "ghost": 2, "momentum": .1, "offset": 1, "noise": 4}}, {"norm": "variance"}):
        if more == {"norm": "variance"}: must_raise(ValueError, "norm must say one of", check_config, RIGHT | more)
        else: check_config(RIGHT | more)
    own = {"data": "digits", "model": {"name": "test_lab:own_net", "scale": .5, "whatever": 1}, "seed": None,
           "entrance": None, "train": {"epochs": 1}}
    assert lab.key(own) == lab.key(own | {"norm": "gn", "seed": 0}) and run(own)["status"] == "done"


@pytest.mark.parametrize("name", [name for name in lab.sweeps() if "gpu" not in name])      # those: see above
def test_the_sweeps_of_the_book_are_accepted(name):
    configs = lab.configs_of(name)
    assert configs and all(check_config(c) is c for c in configs)


def test_files_that_hold_no_config(ask, tmp_path):
    path = tmp_path/"exp.json"
    for command, holds, said in (("sweep", [1, 2], f"{path}, config 1 of 2: config must be a dict, got 1"),
                                 ("train", [RIGHT], f"{path}: config must be a dict, got ["),
                                 ("sweep", '[{"a": }]', f"{path} must be JSON in UTF-8: Expecting value: line 1 col"),
                                 ("report", '[{"a": }]', f"{path} must be JSON in UTF-8: "),
                                 ("train", "", f"{path} must be JSON in UTF-8: Expecting value: line 1 column 1")):
        (tmp_path/"results").mkdir(exist_ok=True)
        lab.append(tmp_path/"results"/"exp.jsonl", lab.record(RIGHT, {"status": "diverged"}))
        status, out, err = ask(command, holds)
        assert status == 2 and not out and err.startswith(f"gn-nb: {said}"), err


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "1" + "0"*400])
def test_numbers_that_json_has_not_are_refused(number, ask, tmp_path):
    text = json.dumps(RIGHT).replace("0.1", number)
    for command, holds in (("train", text), ("sweep", f"[{text}]")):
        status, out, err = ask(command, holds, "--quiet")
        assert status == 2 and not out, out
        assert str(tmp_path/"exp.json") in err and "train.lr must be a finite number, got " in err
    must_raise(ValueError, "norm.0.eps must be a finite", lab_train.check_finite, [{"eps": math.inf}], "norm")


def test_a_byte_order_mark_is_no_error(ask):
    status, out, err = ask("train", "\ufeff" + json.dumps(RIGHT), "--quiet")
    assert status == 0 and json.loads(out)["config"] == RIGHT, err


def test_what_is_not_finite_is_recorded_as_null(tmp_path):
    found = lab_train.rounded({"loss": math.nan, "more": [math.inf, 1/3]})
    assert found == {"loss": None, "more": [None, .33333]}
    lab.append(tmp_path/"a.jsonl", lab.record(QUICK, {"status": "done"} | found))


def test_a_run_that_raises_is_a_sentence(ask):
    "What no signature tells beforehand: the run's own exception, with the place."
    status, out, err = ask("train", RIGHT | {"model": {"name": "video", "widths": ["a", 1, 1]}}, "--quiet")
    assert (status, out) == (2, "") and err.startswith("gn-nb: crashed, TypeError: ") and ".py:" in err


def test_crashed_runs_are_told_of(ask):
    wrong = [RIGHT | {"norm": {"name": "bn", "ghost": b}} for b in (3, 5, 7)]
    wrong += [wrong[0] | {"seed": 1}]
    first, again = (ask("sweep", [RIGHT, *wrong], "--quiet", "--workers", "0") for _ in range(2))
    assert first[0] == 1 and "1 done, 4 crashed; 4 of 5 recorded runs crashed: gn-nb report " in first[1], first
    assert again[0] == 1 and "all recorded; 4 of 5 recorded runs crashed" in again[1] and "--again" in again[1]
    status, out, _ = ask("report", [RIGHT, *wrong])
    assert status == 0 and "\n2 crashed: ValueError: N (64) must be divisible by ghost (3)\n1 crashed: " in out, out
    assert "by ghost (5)\n" in out and "by ghost (7)\n" in out and "exp.json --again runs once more what crashed" in out
    assert ask("sweep", [RIGHT], "--quiet")[0] == 0                     # of this file's configs, none crashed
    assert "--again" not in ask("report", [RIGHT])[1]


def test_files_of_one_name(ask, tmp_path):
    "Each is shown what is its own."
    one, two = [RIGHT], [RIGHT | {"seed": seed} for seed in (1, 2)]
    assert ask("sweep", one, "--quiet", "--workers", "0", name="c1/exp.json")[0] == 0
    status, out, _ = ask("report", two, name="c2/exp.json")
    assert status == 1 and "no records of " in out and "1 more records belong to none of its configs" in out
    assert ask("sweep", two, "--quiet", "--workers", "0", name="c2/exp.json")[0] == 0
    status, out, _ = ask("report", two, name="c2/exp.json")
    assert status == 0 and ": 2 records; 0 configs are not recorded; 1 more records belong to none" in out, out
    assert recorded(tmp_path/"results"/"exp.jsonl") == 3


def test_the_names_of_the_book_are_its_own(ask, tmp_path, capsys):
    for command in ("sweep", "report"):
        status, out, err = ask(command, [RIGHT], name="example.json")
        assert status == 2 and "example.json must not have the name of a sweep of the book" in err, (out, err)
    results = ["--results", str(tmp_path/"results")]
    assert main(["sweep", "test_lab:example", "--quiet", *results]) == 2
    assert "test_lab:example must not have the name" in capsys.readouterr().err
    assert main(["report", "gn_nb.lab.sweep:example", *results]) == 1   # the book's own, by its long name
    assert capsys.readouterr().out == f"{tmp_path/'results'/'example.jsonl'}: no records\n"
    assert main(["sweep", "test_lab:few", "--quiet", "--workers", "0", *results]) == 0
    assert recorded(tmp_path/"results"/"few.jsonl") == 1                # of a function, the last word


def example(): return [QUICK]
def few(): return [QUICK]


def numpy_probe(net, data, config): return {"n": [1, np.int64(len(data.x))]}
def keyed_probe(net, data, config): return {(1, 2): 3}
def tensor_probe(net, data, config): return torch.ones(1)
def plain_probe(net, data, config): return {"n": [1, 2.5, "a", None, True], "m": np.float64(.123456789)}
def web_probe(net, data, config): raise urllib.error.HTTPError("http://nowhere", 404, "Not Found", {}, None)


@pytest.mark.parametrize("name, what", [("numpy", "int64 at probe.n.1"), ("keyed", "the key (1, 2) at probe"),
                                        ("tensor", "Tensor at probe")])
def test_a_probe_that_is_not_plain_is_a_crashed_run(name, what, ask):
    config = RIGHT | {"probe": f"test_lab:{name}_probe"}
    status, out, err = ask("sweep", [config, RIGHT], "--quiet", "--workers", "0")
    assert status == 1 and "1 crashed" in out and "1 done" in out and not err, (out, err)
    said = f"TypeError: probe must return plain values, got {what}\n"
    assert f"1 crashed: {said}" in ask("report", [config, RIGHT])[1]
    status, out, err = ask("train", config, "--quiet")
    assert status == 2 and err.startswith(f"gn-nb: crashed, {said[:-1]} ("), err


def test_a_plain_probe_is_kept():
    assert run(QUICK | {"probe": "test_lab:plain_probe"})["probe"] == {"n": [1, 2.5, "a", None, True], "m": .12346}


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_that_no_pipe_carries_is_a_sentence(workers, ask, monkeypatch):
    "One of urllib's cannot be put together again in another process."
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT/"tests")]))
    config = RIGHT | {"probe": "test_lab:web_probe"}
    status, out, err = ask("sweep", [config], "--quiet", "--workers", str(workers))
    assert (status, out, err) == (2, "", "gn-nb: HTTPError: HTTP Error 404: Not Found\n")


def test_what_may_have_been_meant(capsys):
    assert main(["sweep", "exampl"]) == 2
    listed = capsys.readouterr().err.removeprefix("gn-nb: sweep must be one of ").split(", got ")
    assert listed[1] == "'exampl'; did you mean 'example'?\n" and listed[0].split(", ") == sorted(lab.sweeps())
    assert main(["sweeps", "exampl"]) == 1
    assert capsys.readouterr().out == "no sweep has the word 'exampl' in its name; did you mean 'example'?\n"


def test_a_module_of_your_own_that_is_missing(ask):
    "No extra of the package brings it, and no run is begun for it."
    for command in ("train", "sweep"):
        config = RIGHT | {"probe": "nomodule:look"}
        status, out, err = ask(command, config if command == "train" else [config], "--quiet")
        assert (status, out, err) == (2, "", "gn-nb: probe 'nomodule:look': No module named 'nomodule'\n")


@pytest.mark.parametrize("name, said", [
    ("nowhere", "does not exist"), ("file", "is no folder"), ("folder", "folder: empty")])
def test_the_doctor_looks_for_the_data(name, said, tmp_path, monkeypatch, capsys):
    (tmp_path/"folder").mkdir(); (tmp_path/"file").write_text("")
    monkeypatch.setenv("GN_NB_DATA", str(tmp_path/name))
    main(["doctor"])
    line, = (line for line in capsys.readouterr().out.splitlines() if line.startswith("data folder"))
    assert said in line and str(tmp_path/name) in line


def short_of(*command, stdout, **more):
    return subprocess.run([*COMMAND, *map(str, command)], env=ENVIRONMENT | more, stdout=stdout, text=True,
                          stderr=subprocess.PIPE, timeout=180)


def test_a_report_in_ascii(tmp_path):
    path = tmp_path/"example.jsonl"
    final = {"running": {part: {"error": .1, "loss": 1.} for part in ("val", "test")}}
    for c in lab.example(): lab.append(path, lab.record(c, {"status": "done", "final": final}))
    found = short_of("report", "example", "--results", tmp_path, stdout=subprocess.PIPE, PYTHONIOENCODING="ascii")
    assert found.returncode == 0 and "10.00 ? 0.00" in found.stdout and not found.stderr, found.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is missing here")
def test_what_cannot_be_written_is_a_sentence():
    with open("/dev/full", "w") as full: found = short_of("sweeps", stdout=full)
    assert found.returncode == 2, found
    assert found.stderr == "gn-nb: standard output could not be written: [Errno 28] No space left on device\n"
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed: found = short_of("sweeps", stdout=closed)
    assert found.returncode == 2 and found.stderr == (
        "gn-nb: standard output could not be written: [Errno 32] Broken pipe\n")
    found = subprocess.run(["sh", "-c", '"$0" sweeps >&-', *COMMAND], env=ENVIRONMENT, capture_output=True, text=True)
    assert found.returncode == 2 and found.stderr == "gn-nb: standard output could not be written: it is closed\n"


def test_buffers_are_left_alone_in_the_words_of_every_torch():
    def old(module, broadcast_buffers=True): return {"broadcast_buffers": broadcast_buffers}
    def new(module, broadcast_buffers=None, forward_sync_buffers=None):
        assert broadcast_buffers is None                                # deprecated
        return {"forward_sync_buffers": forward_sync_buffers}
    assert lab_train._shared(None, old) == {"broadcast_buffers": False}
    assert lab_train._shared(None, new) == {"forward_sync_buffers": False}


# Photographs: made-up ones, in the columns that the sets have on the hub.

def made_up(name, n, seed=0):
    "A datasets.Dataset of n images in the columns of a set, and what it holds."
    rng, files = np.random.default_rng(seed), lab_data.FILES[name]
    x = rng.integers(256, size=(n, 8, 12) + ((3,) if name != "fashion_mnist" else ()), dtype=np.uint8)
    y = rng.integers(12, size=(n, 8, 12), dtype=np.uint8) if name == "camvid" else np.arange(n) % 10
    features = {files.image: datasets.Image(),
                files.label: datasets.Image() if name == "camvid" else datasets.ClassLabel(num_classes=10)}
    rows = {"more": ["-"]*n, files.image: [*x], files.label: [*y]}
    features = datasets.Features(features | {"more": datasets.Value("string")})
    return datasets.Dataset.from_dict(rows, features=features), x, y


@pytest.fixture
def hub(monkeypatch):
    "In place of the hub: a dict of what `load_dataset` finds there, name -> parts."
    found = {}
    def load_dataset(name, verification_mode):
        assert verification_mode == "all_checks"
        if name not in found: raise datasets.exceptions.NonMatchingChecksumError(f"{name} is not what it was")
        return found[name]
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.delenv("GN_NB_DATA", raising=False)
    lab_data.source.cache_clear()
    yield found
    lab_data.source.cache_clear()


@pytest.mark.parametrize("name", lab_data.FILES)
def test_the_hub_and_a_folder_give_the_same(name, hub, tmp_path, monkeypatch):
    parts = {"train": made_up(name, 30), "validation": made_up(name, 10, 1), "test": made_up(name, 10, 2)}
    hub["an/other"] = {part: rows for part, (rows, *_) in parts.items()}
    far, classes, far_sum = lab_data.source(name, (("hub", "an/other"),))
    (tmp_path/name).mkdir()
    halves = parts["train"][0].select(range(12)), parts["train"][0].select(range(12, 30))
    for k, half in enumerate(halves):                                   # plain parquet, without the library's notes
        parquet.write_table(half.with_format("arrow")[:].replace_schema_metadata(None),
                            tmp_path/name/f"train-{k}-of-2.parquet")
    parts["validation"][0].to_parquet(tmp_path/name/"val.parquet")
    parts["test"][0].to_parquet(tmp_path/name/"test.parquet")
    monkeypatch.setenv("GN_NB_DATA", str(tmp_path))
    near, _, near_sum = lab_data.source(name)
    assert [*near] == [*far] == ["train", "val", "test"] and near_sum == far_sum
    assert classes == lab_data.FILES[name].classes
    for part, (_, x, y) in zip(near, parts.values()):
        for images, labels in (near[part], far[part]):
            assert_close(images, x[:, None] if x.ndim == 3 else x.transpose(0, 3, 1, 2), 0)
            assert_close(labels, y.astype(np.int64), 0)
    found = lab_data.load(name, train=20, val=5)
    assert (len(found.x), len(found.x_val), len(found.x_test)) == (20, 5, 10) and found.checksum == near_sum
    if name == "camvid":                                                # and a network learns from it
        curves = train(build("unet", "in", channels=3, classes=11), found, epochs=2, batch_size=4)
        assert curves["train_loss"][1] < curves["train_loss"][0]


def test_what_the_hub_cannot_give(hub):
    message = must_raise(ConnectionError, "uoft-cs/cifar10 could not be loaded (NonMatchingChecksumError: ",
                         lab_data.load, "cifar10")
    assert "give a local folder with train.parquet" in message and "GN_NB_DATA" in message


def test_a_folder_that_fails_its_sums_is_refused(tmp_path):
    made_up("cifar10", 20)[0].to_parquet(tmp_path/"train.parquet")
    (tmp_path/"SHA256SUMS").write_text(f"{'0'*64}  train.parquet\n")
    must_raise(ValueError, "train.parquet must have the SHA-256 000", lab_data.load, "cifar10", folder=tmp_path)


# What functions refuse, and what they used to get wrong in silence

def made_up_run(seed=0, **config):
    "A record of a config."
    final = {"running": {part: {"error": .1 + .01*seed} for part in ("val", "test")}}
    return lab.record(QUICK | config | {"seed": seed}, {"status": "done", "final": final, "seconds": 1.})


def test_configs_that_differ_in_a_list():
    "As the widths of a network do, in a report and in what is picked of it."
    def net(*widths): return {"model": {"name": "plain", "widths": [*widths]}}
    runs = [made_up_run(k, **net(*w)) for w in ((4, 8), (8, 8)) for k in (0, 1)]
    assert [row[0] for row in lab.report(runs).rows] == ["(4, 8)", "(8, 8)"]
    for asked in ([4, 8], (4, 8), {(4, 8)}): assert evidence.pick(runs, {"model.widths": asked}) == runs[:2]


def test_configs_that_differ_in_a_list_of_lists():
    def net(*widths): return {"model": {"name": "plain", "widths": [*widths]}}
    runs = [made_up_run(k, **net(*w)) for w in (([4, 8], [1]), ([8, 8], [1])) for k in (0, 1)]
    assert [row[0] for row in lab.report(runs).rows] == ["((4, 8), (1,))", "((8, 8), (1,))"]
    assert len(lab.replicates([made_up_run(k, **net({"width": k})) for k in (4, 8)])) == 2


def test_an_entrance_may_be_a_name():
    a, b = made_up_run(0, entrance="in"), made_up_run(1, entrance={"name": "in"})
    assert len(lab.replicates([a, b])) == 1 and evidence.pick([a, b], {"entrance.name": "in"}) == [a, b]


def test_every_sweep_is_fetched_but_into_no_folder_of_your_own(tmp_path, monkeypatch):
    source, here = tmp_path/"source/results", tmp_path/"here"
    source.mkdir(parents=True); here.mkdir()
    for name in "ab": lab.append(source/f"{name}.jsonl", made_up_run())
    monkeypatch.chdir(here)
    for name in "abab": assert len(recorded_by(name, url=f"file://{source.parent}")) == 1
    own = tmp_path/"own"
    (own/"results").mkdir(parents=True)
    monkeypatch.chdir(own)
    must_raise(FileNotFoundError, "no records", recorded_by, "a", url=f"file://{source.parent}")


def served(body, length):
    "A server on this machine that answers all with these bytes, of which it says that there are so many; its address."
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(body)
        def log_message(self, *args): pass
    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}"


@pytest.mark.parametrize("case", ["cut off", "a page", "half a line", "nothing"])
def test_what_is_fetched_must_be_records(case, tmp_path, monkeypatch):
    "Else nothing is kept, and the next time it is fetched again."
    lab.append(tmp_path/"a.jsonl", made_up_run())
    good = (tmp_path/"a.jsonl").read_bytes()
    body = {"cut off": good, "a page": b"<html>Sign in</html>", "half a line": good + good[:80], "nothing": b""}[case]
    (tmp_path/"here").mkdir()
    monkeypatch.chdir(tmp_path/"here")
    server, url = served(body, len(body) + 9*(case == "cut off"))
    with server: assert recorded_by("a", required=False, url=url) == []; server.shutdown()
    assert not [*Path("results").glob("*")]
    server, url = served(good, len(good))
    with server: assert len(recorded_by("a", url=url)) == 1; server.shutdown()
    assert {p.name for p in Path("results").glob("*")} == {".fetched", "a.jsonl"}


@pytest.mark.parametrize("f, args", [(precise, (64,)), (image_moments, ()), (moments_of_all, ()), (averages, (8,))])
def test_what_looks_into_a_network_leaves_it_as_it_was(f, args):
    "Also when an image does not fit: no hook, and each layer in its mode."
    class Late(torch.nn.Module):
        def forward(self, x): raise RuntimeError("too late")
    for training in (True, False):
        net = torch.nn.Sequential(BatchNorm(1), BatchNorm(1).eval(), Late()).train(training)
        net[1].eval()
        must_raise(RuntimeError, "too late", f, net, torch.randn(64, 1, 2, 2), *args)
        assert not any(m._forward_pre_hooks for m in net.modules())
        if f is not moments_of_all: assert [m.training for m in net] == [training, False, training]


def test_what_a_pretraining_froze_learns_again():
    kept, net = [], build("plain", "bn")
    data = load("digits", train=64)
    def note(m, inputs): kept.append((m.training, m.frozen))
    net[1].register_forward_pre_hook(note)
    train(net, data, epochs=1, batch_size=32, freeze_at=0.)
    assert (True, True) in kept
    kept.clear()
    train(net, data, epochs=1, batch_size=32)
    assert (True, False) in kept and (True, True) not in kept


def test_labels_that_are_no_class():
    logits, y = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([1, -1, 9])
    assert_close(loss_of(logits, y), torch.nn.functional.cross_entropy(logits[:1], y[:1]), 1e-6)


def test_what_the_laboratory_refuses():
    digits = {"name": "digits", "train": 256, "val": 40}
    y, rng = torch.arange(50) % 10, torch.Generator().manual_seed(0)
    for words, f, *args in (
            ("a and b must be lists of the same length, got shapes (3,) and (1,)", compare, [1., 2., 3.], [1.], .5),
            ("a and b must be lists of the same length, got shapes (3,) and ()", compare, [1., 2., 3.], 2., .5),
            ("a and b must be finite, got the differences [0.0, nan]", compare, [1., np.nan], [1., 2.], .5),
            ("ghost (64) must not exceed the images of val and test (40)", run,
             QUICK | {"data": digits, "norm": {"name": "bn", "ghost": 64}}),
            ("batch_size (40) must not exceed the images in full slices of one class, of 8 each, got none",
             lab_data.batches, y, 40, rng, "pure", 8),
            ("shrink (0) must be at least 1", lab_data.load, "digits"),
            ("batch_size (2000) must be between 1 and the 1", bench.train, torch.nn.BatchNorm2d, 2000),
            ("record 7 must say train.lr", evidence.best_rates, [{"key": 7, "config": {"data": "digits"}}], str),
            ("x must be positive and differ, got [1, 1]", evidence.slopes, [1, 1], [[1., 2.]]),
            ("x must be positive and differ, got [0, 2]", evidence.slopes, [0, 2], [[1., 2.]])):
        must_raise(ValueError, words, f, *args, **({"shrink": 0} if words.startswith("shrink") else {}))
    words = "dropout (0.5) must be 0 for unet, which does not end in a linear layer"
    must_raise(ValueError, words, build, "unet", "bn", dropout=.5)
    assert evidence.provenance("a", []) == "No records yet: gn-nb sweep a"


def test_a_blank_line_among_sums(tmp_path):
    made_up("cifar10", 20)[0].to_parquet(tmp_path/"train.parquet")
    sums = hashlib.sha256((tmp_path/"train.parquet").read_bytes()).hexdigest()
    (tmp_path/"SHA256SUMS").write_text(f"\n{sums}  train.parquet\n\n")
    lab_data.check_sums(tmp_path)


@pytest.mark.parametrize("line", ["0123", "train.parquet", f"{'0'*64} "])
def test_a_line_that_is_no_sum(line, tmp_path):
    (tmp_path/"SHA256SUMS").write_text(f"\n{line}\n")
    said = f"{tmp_path/'SHA256SUMS'}, line 2 must be a sum and a file's name, got {line!r}"
    must_raise(ValueError, said, lab_data.check_sums, tmp_path)


def test_only_a_sweep_goes_on_where_it_was_stopped(monkeypatch, capsys):
    for command, said in ((["doctor"], "stopped\n"), (["sweep", "example"], "stopped; the same command goes on")):
        def stop(args): raise KeyboardInterrupt
        monkeypatch.setattr(cli, f"{command[0]}_command", stop)
        assert main(command) == 130 and capsys.readouterr().err.startswith(said)


# Without the extras

def test_the_doctor_needs_no_extra():
    lacking = ["sklearn", "datasets", "matplotlib", "scipy", "tqdm", "filelock", "distributed"]
    code = (f"import sys; sys.modules.update(dict.fromkeys({lacking}))\n"
            "from gn_nb.lab.cli import main; sys.exit(main(['doctor']))")
    found = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, timeout=180)
    assert found.returncode == 0 and "group_norm on the CPU  works" in found.stdout
    assert 'pip install "gn_nb[lab]"' in found.stdout and 'pip install "gn_nb[cluster]"' in found.stdout


@pytest.mark.parametrize("setting,status,said", [
    ({}, 0, "group_norm on the CPU  works"), ({"NUMBA_DISABLE_JIT": "1"}, 1, "which NUMBA_DISABLE_JIT forbids")])
def test_the_doctor_knows_of_machine_code(tmp_path, setting, status, said):
    code = "import sys; from gn_nb.lab.cli import main; sys.exit(main(['doctor']))"
    found = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT | {"NUMBA_CACHE_DIR": str(tmp_path)} | setting,
                           capture_output=True, text=True, timeout=180)
    files = len([*tmp_path.rglob("*.nbc")])
    assert found.returncode == status and said in found.stdout, found.stdout
    assert bool(files) == (not setting)
    assert (f" {files} files, " in found.stdout and f" MB, in {tmp_path}" in found.stdout) if files else (
        "machine code           none yet\n" in found.stdout)


def test_what_to_install_for_the_other_commands(monkeypatch, capsys, tmp_path):
    command = "sweep", "example", "--quiet", "--results", str(tmp_path), "--dask", "tcp://127.0.0.1:1"
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert main(command) == 2 and capsys.readouterr().err == (
        'gn-nb: distributed is missing: pip install "gn_nb[cluster]"\n')
    monkeypatch.delitem(sys.modules, "gn_nb.lab.sweep")
    monkeypatch.setitem(sys.modules, "filelock", None)
    assert main(command) == 2 and capsys.readouterr().err == 'gn-nb: filelock is missing: pip install "gn_nb[lab]"\n'
