"The wheel: what is in it, what it asks for, and that every chapter is run with it."
import ast
import os
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from email.parser import Parser

import nbformat
import pytest
from execute import TIMED, copy_to, execute
from extension import translate
from jupyter_cache import get_cache
from packaging.requirements import Requirement
from settings import root, settings

import gn_nb

# JAX, once another test of this process has imported it, warns of every fork; the children here do without it
pytestmark = pytest.mark.filterwarnings(r"ignore:os\.fork\(\) was called:RuntimeWarning")

CHAPTERS = sorted((root/"nbs").glob("*.ipynb"))
PIP = ("-m", "pip", "install", "-q", "--disable-pip-version-check")


def test_contents(wheel):
    files = {f for f in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in f}
    assert files == {str(p.relative_to(root)) for p in (root/"gn_nb").rglob("*.py")} | {"gn_nb/py.typed"}
    dist_info = {f.split("/", 1)[1] for f in zipfile.ZipFile(wheel).namelist() if ".dist-info/" in f}
    assert dist_info == {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "top_level.txt", "licenses/LICENSE"}
    assert "py3-none-any" in wheel.name


def test_the_sdist_builds_the_same_wheel(wheel, tmp_path):
    "What a release uploads, and what packagers of other systems begin with."
    command = [sys.executable, "-m", "build", "--no-isolation", "-o", tmp_path]
    done = subprocess.run(command, cwd=copy_to(tmp_path/"copy"), capture_output=True, text=True)
    assert not done.returncode, done.stdout + done.stderr
    (source,), (built,) = tmp_path.glob("*.tar.gz"), tmp_path.glob("*.whl")
    def contents(path): return {i.filename: i.CRC for i in zipfile.ZipFile(path).infolist()
                                if ".dist-info/" not in i.filename}
    assert contents(built) == contents(wheel)
    with tarfile.open(source) as t: names = {name.split("/", 1)[-1] for name in t.getnames()}
    assert {"settings.ini", "LICENSE", "README.md", "gn_nb/py.typed"} <= names
    assert not any(name.startswith("tests") for name in names)


def test_what_type_checkers_see():
    "The names that load when first used are imported for tools that only read."
    tree = ast.parse((root/"gn_nb/__init__.py").read_text())
    block, = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.asname: node.module for node in block.body for alias in node.names if alias.name == alias.asname}
    assert block.test.id == "TYPE_CHECKING" and seen == gn_nb._public


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
    assert meta.get_payload().strip() == (root/"README.md").read_text(encoding="utf-8").strip()
    assert {*meta.get_all("Project-URL")} == {f"Source, {cfg['git_url']}", f"Book, {cfg['lib_url']}"}


def test_constraints_pin_what_settings_ask_for():
    pins = [Requirement(line) for line in (root/"constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    pinned = {r.name.lower(): r for r in pins}
    for kind in ("", "cuda13_", "lab_", "cluster_", "bench_", "dev_"):
        for r in map(Requirement, settings()[f"{kind}requirements"].split()):
            version = next(iter(pinned[r.name.lower()].specifier)).version
            assert r.specifier.contains(version), f"{r} against {version}"
    assert all(s.operator == ">=" for r in settings()["requirements"].split() for s in Requirement(r).specifier)


def notebook(path, *cells):
    nbformat.write(nbformat.v4.new_notebook(cells=[*map(nbformat.v4.new_code_cell, cells)], metadata={
        "kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}), path)
    return path


def test_chapters_are_run_with_the_wheel_alone(installed, tmp_path):
    "In a folder of their own; what failed is said, what succeeded is kept and not run again."
    good = notebook(tmp_path/"good.ipynb", f"""
import os, tempfile
from pathlib import Path
import gn_nb
assert tempfile.gettempdir() == os.environ["TMPDIR"] == {tempfile.gettempdir()!r}
assert Path(gn_nb.__file__).is_relative_to({str(installed)!r}), gn_nb.__file__
assert Path.cwd().is_relative_to({str(tmp_path/"run")!r}) and not [*Path.cwd().iterdir()], Path.cwd()
with open({str(tmp_path/"ran")!r}, "a") as f: f.write("x")""")
    timed = notebook(tmp_path/f"{TIMED[0]}.ipynb", f"with open({str(tmp_path/'ran')!r}, 'a') as f: f.write('t')")
    bad = notebook(tmp_path/"bad.ipynb", "1 + 1", "{}['absent']")
    before = dict(os.environ)
    options = [good, timed, bad], tmp_path/"cache", installed, tmp_path/"run"
    for _ in range(2):
        problem, = execute(*options)
        assert problem.startswith("bad.ipynb: ") and "KeyError" in problem and "{}['absent']" in problem
    assert (tmp_path/"ran").read_text() == "tx" and dict(os.environ) == before


def test_the_book_was_built_so():
    "Every chapter is in the cache, run with the package as it is now."
    package = root/"_build/package/gn_nb"
    assert {p.relative_to(package): p.read_bytes() for p in package.rglob("*.py")} == {
        p.relative_to(root/"gn_nb"): p.read_bytes() for p in (root/"gn_nb").rglob("*.py")}
    cache = get_cache(root/"_build/.jupyter_cache")
    for path in CHAPTERS: cache.match_cache_notebook(translate(nbformat.read(path, 4)))        # else KeyError


@pytest.mark.parametrize("path", [p for p in CHAPTERS if '"../results/' in str(nbformat.read(p, 4))],
                         ids=lambda path: path.stem[:2])
def test_a_chapter_runs_without_records(path, installed, tmp_path):
    "Those that draw one say that there is none."
    assert not execute([path], tmp_path/"cache", installed, tmp_path/"run")


def test_runtime_dependencies_are_enough(wheel, tmp_path):
    "In a fresh environment with the wheel and what it requires, from the package index that pip is set up to use."
    venv.create(tmp_path/"env", with_pip=True)
    python = tmp_path/"env/bin/python"
    subprocess.run([python, *PIP, "--no-compile", "-c", root/"constraints.txt", wheel], check=True, cwd=tmp_path)
    out = subprocess.run([python, "-W", "error", "-c", """
import importlib.util as u
import gn_nb, torch
y = gn_nb.GroupNorm(2, 4)(torch.ones(2, 4, 3))
print(y.abs().max().item(), *(m for m in ("matplotlib", "sklearn", "nbdev", "fastcore", "IPython") if u.find_spec(m)))
"""], check=True, capture_output=True, text=True, cwd=tmp_path)
    assert out.stdout.split() == ["0.0"]
