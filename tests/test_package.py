"The wheel: what is in it, what it asks for, and every chapter run with it, outside the repository."
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from concurrent.futures import ProcessPoolExecutor
from email.parser import Parser
from itertools import repeat
from multiprocessing import get_context

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient
from packaging.requirements import Requirement
from settings import settings

CHAPTERS = sorted((ROOT/"nbs").glob("*.ipynb"))
PIP = ("-m", "pip", "install", "-q", "--disable-pip-version-check")


def test_contents(wheel):
    files = {f for f in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in f}
    assert files == {str(p.relative_to(ROOT)) for p in (ROOT/"gn_nb").rglob("*.py")}
    dist_info = {f.split("/", 1)[1] for f in zipfile.ZipFile(wheel).namelist() if ".dist-info/" in f}
    assert dist_info == {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "top_level.txt", "licenses/LICENSE"}
    assert "py3-none-any" in wheel.name


def test_metadata(wheel):
    with zipfile.ZipFile(wheel) as z:
        name, = (f for f in z.namelist() if f.endswith("/METADATA"))
        meta = Parser().parsestr(z.read(name).decode("utf-8"))
    cfg = settings()
    wanted = [Requirement(r) for r in cfg["requirements"].split()]
    for extra in ("cuda12", "cuda13", "onnx", "lab", "cluster", "bench", "dev"):
        wanted += [Requirement(f'{r}; extra == "{extra}"') for r in cfg[f"{extra}_requirements"].split()]
    assert {*map(Requirement, meta.get_all("Requires-Dist"))} == {*wanted}
    assert (meta["Name"], meta["Version"], meta["Summary"]) == (cfg["lib_name"], cfg["version"], cfg["description"])
    assert (meta["Requires-Python"], meta["License-Expression"]) == (f">={cfg['min_python']}", "Apache-2.0")
    assert meta.get_payload().strip() == (ROOT/"README.md").read_text(encoding="utf-8").strip()
    assert {*meta.get_all("Project-URL")} == {f"Source, {cfg['git_url']}", f"Book, {cfg['lib_url']}"}


def test_constraints_pin_what_settings_ask_for():
    pins = [Requirement(line) for line in (ROOT/"constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    pinned = {r.name.lower(): r for r in pins}
    for kind in ("", "cuda13_", "lab_", "cluster_", "bench_", "dev_"):
        for r in map(Requirement, settings()[f"{kind}requirements"].split()):
            version = next(iter(pinned[r.name.lower()].specifier)).version
            assert r.specifier.contains(version), f"{r} against {version}"
    assert all(s.operator == ">=" for r in settings()["requirements"].split() for s in Requirement(r).specifier)


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    target = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, *PIP, "--no-deps", "--no-index", "--target", target, wheel], check=True)
    return target


def run(path, target, folder):
    "Execute a chapter in a folder of its own; the sentence of what went wrong, or nothing."
    notebook = nbformat.read(path, 4)
    notebook.cells.append(nbformat.v4.new_code_cell(        # last: what the chapter itself imported
        f"import gn_nb, pathlib\nassert pathlib.Path(gn_nb.__file__).is_relative_to({str(target)!r}), gn_nb.__file__"))
    folder.mkdir()
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    try: client.execute(env=os.environ | {"PYTHONPATH": str(target), "OMP_NUM_THREADS": "1"})
    except Exception as e: return f"{path.stem}: {str(e)[-1500:]}"
    cells = [c for c in notebook.cells if c.cell_type == "code" and c.source.strip()]
    unrun = [c.source[:60] for c in cells if c.execution_count is None]
    noise = [o.text[:200] for c in cells for o in c.outputs if o.output_type == "stream" and o.name == "stderr"]
    return f"{path.stem}: not run {unrun}, stderr {noise}" if unrun or noise else ""


def test_every_chapter_runs_with_the_wheel_alone(installed, tmp_path):
    "Top to bottom, outside the repository, two at a time. Clients leave sockets open: each is in a process of its own."
    shutil.copytree(ROOT/"results", tmp_path/"book/results")            # the evidence is drawn from records
    folders = [tmp_path/("book" if path.stem[0] == "2" else "alone")/path.stem for path in CHAPTERS]
    (tmp_path/"alone").mkdir()
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        problems = [p for p in pool.map(run, CHAPTERS, repeat(installed), folders) if p]
    assert len(CHAPTERS) > 10 and not problems, "\n\n".join(problems)


def test_runtime_dependencies_are_enough(wheel, tmp_path):
    "In a fresh environment with the wheel and what it requires, from the package index that pip is set up to use."
    venv.create(tmp_path/"env", with_pip=True)
    python = tmp_path/"env/bin/python"
    subprocess.run([python, *PIP, "--no-compile", "-c", ROOT/"constraints.txt", wheel], check=True, cwd=tmp_path)
    out = subprocess.run([python, "-W", "error", "-c", """
import importlib.util as u
import gn_nb, torch
y = gn_nb.GroupNorm(2, 4)(torch.ones(2, 4, 3))
print(y.abs().max().item(), *(m for m in ("matplotlib", "sklearn", "nbdev", "fastcore", "IPython") if u.find_spec(m)))
"""], check=True, capture_output=True, text=True, cwd=tmp_path)
    assert out.stdout.split() == ["0.0"]
