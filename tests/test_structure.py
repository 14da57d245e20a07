"What imports what, what an import costs, and that names, versions and docstrings are in place."
import ast
import importlib
import inspect
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from settings import root, settings

import gn_nb

pytestmark = pytest.mark.quick
MODULES = sorted((root/"gn_nb").rglob("*.py"))
# A module may import the ones named here from the package, and nothing else of it: left before right, as in the design.
MAY_IMPORT = {"testing": set(), "shapes": set(), "reference": {"shapes"}, "cpu": {"shapes"}, "cuda": {"cpu", "shapes"},
              "ops": {"cpu", "cuda", "shapes"}, "layers": {"ops", "shapes"}, "convert": {"layers", "ops", "shapes"},
              "distributed": {"layers", "ops", "shapes"}, "__init__": set()}
THIRD = {"testing": {"numpy"}, "shapes": set(), "reference": {"numpy"}, "cpu": {"numpy", "numba", "llvmlite"},
         "cuda": {"numpy", "numba", "llvmlite", "cuda"}, "ops": {"numpy", "torch"}, "layers": {"torch"},
         "convert": {"numpy", "torch"}, "distributed": {"torch"}, "__init__": set()}
LAB = {"numpy", "torch", "matplotlib", "sklearn", "numba", "llvmlite", "scipy", "datasets", "pyarrow", "tqdm",
       "filelock", "distributed"}


def imports(path):
    "Absolute names of all that a module imports when it runs, wherever in it: 'gn_nb.shapes', 'numpy'."
    package, tree = path.relative_to(root).parent.parts, ast.parse(path.read_text(encoding="utf-8"))
    read = (node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    never = {inner for node in read for part in node.body for inner in ast.walk(part)}
    for node in ast.walk(tree):
        if node in never: continue
        if isinstance(node, ast.Import): yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[:len(package) - node.level + 1] if node.level else ()
            base = ".".join((*above, node.module or "")).rstrip(".")
            yield from (f"{base}.{a.name}" for a in node.names) if base == "gn_nb" else (base,)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(root)))
def test_layers(path):
    name, lab = path.stem, path.parent.name == "lab"
    found = {*imports(path)}
    own = {n.split(".")[1] for n in found if n.startswith("gn_nb.")} - {"__version__"}
    third = {n.split(".")[0] for n in found} - set(sys.stdlib_module_names) - {"gn_nb"}
    assert own <= (MAY_IMPORT.keys() | {"lab"} if lab else MAY_IMPORT[name]), f"{name} must not import {own}"
    assert third <= (LAB if lab else THIRD[name]), f"{name} must not import {third}"


def test_every_module_is_in_the_table():
    assert {p.stem for p in MODULES if p.parent.name != "lab"} == {*MAY_IMPORT}
    assert {*gn_nb._modules} == {*MAY_IMPORT} - {"__init__"}


def fresh(code):
    "Standard output of code in an interpreter of its own, started outside the repository."
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          cwd=Path(sys.executable).anchor).stdout


def test_import_costs_nothing():
    out = fresh("""
import sys, time
def forbid(event, args):
    if event.startswith(("socket.", "subprocess.", "os.system", "urllib.")): raise RuntimeError(event)
sys.addaudithook(forbid)
start = time.perf_counter()
import gn_nb
print(time.perf_counter() - start, *({"torch", "numba", "numpy", "matplotlib"} & {*sys.modules}))
""")
    assert len(out.split()) == 1, f"import gn_nb also imports {out.split()[1:]}"
    timed = "import time; t = time.perf_counter(); import gn_nb; print(time.perf_counter() - t)"
    assert min(float(fresh(timed)) for _ in range(5)) < 0.2            # seconds; the best, for the machine may be busy


def test_lazy_names():
    out = fresh("""
import gn_nb, sys
print(*dir(gn_nb))
gn_nb.shapes; gn_nb.testing; print('torch' in sys.modules)
gn_nb.GroupNorm; print('torch' in sys.modules)
del gn_nb.__getattr__; print(gn_nb.GroupNorm.__name__)""").splitlines()
    assert {*gn_nb._public, "reference", "cpu", "__version__"} <= {*out[0].split()}
    assert out[1:] == ["False", "True", "GroupNorm"]                               # asked for once, then at hand
    assert gn_nb.GroupNorm is importlib.import_module("gn_nb.layers").GroupNorm
    with pytest.raises(AttributeError, match="'gn_nb' has no attribute 'group_nrom'"): getattr(gn_nb, "group_nrom")  # noqa: B009
    with pytest.raises(ImportError): exec("from gn_nb import group_nrom")
    names = {}
    exec("from gn_nb import *", names)
    assert {*gn_nb.__all__} <= {*names} and all(callable(getattr(gn_nb, n)) for n in gn_nb.__all__)


def test_versions():
    assert gn_nb.__version__ == settings()["version"] == version("gn_nb")
    major = version("nbdev").split(".")[0]
    assert major == "2", f"nbdev {version('nbdev')} does not read settings.ini; 2.x is the last that does"


PUBLIC = [".".join(p.relative_to(root).with_suffix("").parts) for p in MODULES if p.stem[0] != "_"]


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_exist_and_are_documented(name):
    module = importlib.import_module(name)
    assert module.__doc__ and len(module.__doc__) < 150 and "\n" not in module.__doc__.strip()
    assert len({*module.__all__}) == len(module.__all__) > 0
    for n in module.__all__:
        f = getattr(module, n)
        if inspect.isfunction(f) or inspect.isclass(f): assert (f.__doc__ or "").strip(), f"{name}.{n} has no docstring"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_a_name_of_a_module_has_one_value(path):
    "A constant given a second value further down would have it in all functions that are called later."
    body = ast.parse(path.read_text(encoding="utf-8")).body
    targets = [t for node in body if isinstance(node, ast.Assign) for t in node.targets]
    names = [n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    names += [node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assert [name for name in dict.fromkeys(names) if names.count(name) > 1 and name != "_"] == []


def test_the_readme_says_what_is_required():
    text = " ".join((root/"README.md").read_text(encoding="utf-8").split())
    required = [r.replace(">=", " ") for r in settings()["requirements"].split()]
    assert len(required) == 3 and all(r in text for r in (*required, f"Python {settings()['min_python']}"))
