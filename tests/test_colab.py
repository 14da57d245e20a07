"Colab: what the package needs is what Colab has, and the first cell of a chapter installs what fits."
import re
import sys
from importlib.metadata import PackageNotFoundError, requires
from types import ModuleType

import extension
import pytest
import torch
from colab import LIST, constraints, image, requirements, table
from IPython.core.interactiveshell import InteractiveShell
from packaging.requirements import Requirement
from packaging.version import Version
from prepare import COLAB_CELL, ON_GPU
from settings import root, settings
from test_notebooks import BOOKS, prose

pytestmark = pytest.mark.quick


def test_the_list_is_dated_and_names_its_source():
    text = LIST.read_text(encoding="utf-8")
    assert re.fullmatch(r"colab-\d{4}-\d\d-\d\d", LIST.stem) and LIST.stem[6:] in text
    assert "googlecolab/backend-info" in text and re.search(r"commit [0-9a-f]{8}", text)
    for name, v in image().items(): assert name == name.lower() and Version(v)


def test_colab_has_what_the_package_needs():
    "A bound that Colab's image does not meet would replace one of its packages, and ask for a restart."
    has, added = image(), re.search("pip adds them: (.*)", LIST.read_text(encoding="utf-8"))[1].split()
    assert not {*added} & {*has}
    for r in requirements("lab"):
        assert r.name in has or r.name in added, f"{LIST.name} does not say which {r.name} Colab has"
        assert r.name in added or r.specifier.contains(has[r.name]), f"{r}: Colab has {has[r.name]}"
        assert {s.operator for s in r.specifier} == {">="}, f"{r}: lower bounds only"
    assert Version(has["python"]) >= Version(settings()["min_python"])


def test_the_compiler_is_asked_for_with_its_cuda():
    "numba-cuda alone would bring the libraries of the newest CUDA; Colab's own is older than the kernels need."
    for major in ("12", "13"):
        r, = (r for r in requirements(f"cuda{major}") if r.name == "numba-cuda")
        assert r.extras == {f"cu{major}"}
    assert image()["cuda-bindings"].startswith("12.") and image()["torch"].endswith("+cu128")


def test_a_card_replaces_two_packages_of_colab_and_chapter_9_says_so():
    "The exceptions by name: the image's numba-cuda is too old for the kernels, its cuda-core for the newer numba-cuda."
    try: needed = [Requirement(r) for r in requires("numba-cuda")]
    except PackageNotFoundError: pytest.skip("numba-cuda, which knows what it needs, is not installed")
    has, own = image(), requirements("cuda12")
    needed = [*own, *(r for r in needed if not r.marker or r.marker.evaluate({"extra": "cu12"}))]
    assert {"numba", "cuda-bindings", "cuda-core"} <= {r.name for r in needed}
    replaced = {r.name for r in needed if r.name in has and not r.specifier.contains(has[r.name])}
    assert replaced == {"numba-cuda", "cuda-core"}
    bound, = next(r for r in own if r.name == "numba-cuda").specifier
    said = " ".join(prose("09_cuda").split())
    told = [f"from {bound.version} on", *(f"{name} {has[name]}" for name in replaced)]
    assert [words for words in told if words not in said] == []
    assert bound.operator == ">="


@pytest.fixture
def first_cell(monkeypatch, capsys):
    "Run the first cell with a given CUDA and card: (what pip was told, what is printed)."
    shell, told = InteractiveShell(history_length=0), []
    shell.history_manager.enabled = False
    shell.register_magic_function(told.append, "line", "pip")
    def run(cuda, card, in_colab=True):
        if in_colab: monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: card is not None)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: card)
        assert shell.run_cell(COLAB_CELL).success
        return told, capsys.readouterr().out
    yield run
    shell.history_manager.end_session()


@pytest.mark.parametrize("cuda, extras", [
    ("12.8", "lab,cuda12"), ("13.0", "lab,cuda13"), (None, "lab"), ("14.1", "lab")])
def test_first_cell_installs_what_fits(first_cell, cuda, extras):
    told, out = first_cell(cuda, "Tesla T4")
    assert told == [f'install -q "gn_nb[{extras}]=={settings()["version"]}"']
    versions, card = out.splitlines()
    assert re.fullmatch(r"gn_nb \S+, numpy \S+, numba \S+, torch \S+", versions) and card == "GPU: Tesla T4"


def test_first_cell_says_what_to_do_without_a_card(first_cell):
    _, out = first_cell(None, None)
    said = out.splitlines()[-1]
    assert said.startswith("No GPU: every cell still runs") and "Runtime > Change runtime type" in said


def test_first_cell_does_nothing_elsewhere(first_cell): assert first_cell("12.8", None, in_colab=False) == ([], "")


def test_colab_opens_kernels_with_a_card():
    with_card = {name for name, book in BOOKS.items() if book.metadata.get("accelerator") == "GPU"}
    assert with_card == {*ON_GPU} and all(name in BOOKS for name in ON_GPU)
    for name in with_card: assert BOOKS[name].metadata.colab == {"gpuType": "T4"}


def test_the_button_names_the_release():
    cfg = settings()
    place = f"https://{{}}/{cfg['user']}/{cfg['repo']}/{{}}/{cfg['branch']}/nbs/x.ipynb"
    urls = [place.format("colab.research.google.com/github", "blob"), place.format("github.com", "edit")]
    buttons = [{"type": "link", "url": u} for u in urls]
    extension.at_the_tag(None, "x", "", {"header_buttons": [{"buttons": buttons}, {"type": "script"}]}, None)
    assert buttons[0]["url"] == urls[0].replace(f"/{cfg['branch']}/", f"/v{cfg['version']}/")
    assert buttons[1]["url"] == urls[1]


def test_the_trial_takes_colab_versions_but_no_cuda():
    pins = constraints("2.0+cpu")
    assert pins["numba"] == image()["numba"] and pins["numpy"] == image()["numpy"] and pins["torch"] == "2.0+cpu"
    assert not any("cuda" in name or name in ("triton", "python") for name in pins)
    assert table([("a", "b"), ("ccc", "d")]) == "a    b\nccc  d"
    assert "colab:" in (root/"Makefile").read_text(encoding="utf-8")
