"The notebooks: clean, in step with package, README, contents and bibliography; exercises that reject what is wrong."
import ast
import importlib
import re
import runpy
import subprocess
import sys
from collections import Counter

import nbformat
import pytest
import yaml
from execute import copy_to
from prepare import COLAB_CELL
from settings import root, settings

BOOKS = {path.stem: nbformat.read(path, 4) for path in sorted((root/"nbs").glob("*.ipynb"))}
chapter = pytest.mark.parametrize("name", BOOKS)


def code(name): return [c for c in BOOKS[name].cells if c.cell_type == "code"]
def prose(name): return "\n\n".join(c.source for c in BOOKS[name].cells if c.cell_type == "markdown")
def tags(cell): return cell.metadata.get("tags", [])
def directives(cell): return re.findall(r"^#\|\s*(.+?)\s*$", cell.source, re.M)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    "A copy of the repository after book/prepare.py has cleaned, exported and written there."
    folder = copy_to(tmp_path_factory.mktemp("prepared"))
    for module in (folder/"gn_nb").rglob("*.py"):                       # but for the one written by hand, exported anew
        if module.name != "__init__.py": module.unlink()
    subprocess.run([sys.executable, "book/prepare.py"], cwd=folder, check=True, capture_output=True)
    return folder


def test_preparing_changes_nothing(prepared):
    "Notebooks hold no outputs nor stray metadata; the package is what they export; README.md is what index.ipynb says."
    def files(folder): return {str(p.relative_to(folder)): p.read_text(encoding="utf-8") for p in sorted([
        *(folder/"nbs").glob("*.ipynb"), *(folder/"gn_nb").rglob("*.py"), folder/"README.md"])}
    before, after = files(root), files(prepared)
    assert [*before] == [*after]
    changed = [name for name in before if before[name] != after[name]]
    assert not changed, f"run `make prepare`: {', '.join(changed)}"


@pytest.mark.quick
def test_table_of_contents():
    toc = yaml.safe_load((root/"_toc.yml").read_text(encoding="utf-8"))
    files = [toc["root"], *(c["file"] for part in toc["parts"] for c in part["chapters"])]
    assert [f for f, n in Counter(files).items() if n > 1] == []
    assert {*files} == {f"nbs/{p.stem}" for p in (root/"nbs").iterdir() if p.suffix in (".ipynb", ".md")}
    numbers = [int(n) for f in files if (n := re.match(r"nbs/(\d+)_", f + "_") and re.match(r"nbs/(\d+)", f)[1])]
    assert numbers == sorted(numbers)


@pytest.mark.quick
@chapter
class TestChapter:
    def test_no_outputs(self, name):
        for cell in code(name): assert cell.outputs == [] and cell.execution_count is None

    def test_begins_with_the_colab_cell(self, name):
        first, *others = code(name)
        assert first.source == COLAB_CELL and tags(first) == ["colab"] and not any("colab" in tags(c) for c in others)

    def test_title(self, name):
        title, summary = BOOKS[name].cells[0].source.split("\n\n", 1)
        number = re.match(r"(\d+)_", name)
        assert re.fullmatch(rf"# {int(number[1])}\. \S.*" if number else r"# \S.*", title), title
        if name != "index": assert re.fullmatch(r"> \S.*", summary.strip()), "one line: the module's docstring"
        assert len(re.findall(r"^# ", prose(name), re.M)) == 1, "one title, sections below it"

    def test_one_module(self, name):
        found = [d.split() for c in code(name) for d in directives(c) if re.match(r"default_exp|export", d)]
        assert len({words[1] for words in found if len(words) > 1}) == bool(found)

    def test_figures_are_shown_with_caption_and_description(self, name):
        for cell in code(name):
            assert not re.search(r"plt\.show\(|\.savefig\(|display\(", cell.source) or name == "90_figures", cell.source
            if "plt.subplots" in cell.source and name != "90_figures": assert "show(" in cell.source, cell.source

    def test_code_parses_and_prints_no_sentences(self, name):
        for cell in code(name):
            if "colab" in tags(cell): continue
            tree = ast.parse(cell.source)
            calls = [n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
            assert "print" not in calls, cell.source
            assert "*" not in [n.names[0].name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)], cell.source

    def test_links_lead_to_chapters(self, name):
        for target in re.findall(r"\]\(([^):#\s]+)(?:#[^)\s]*)?\)", prose(name)):
            assert (root/"nbs"/target).exists(), target


LABEL = r"\$\$\s*\(([\w-]+)\)"


@pytest.mark.quick
def test_equations():
    labels = Counter(label for name in BOOKS for label in re.findall(LABEL, prose(name)))
    assert [label for label, n in labels.items() if n > 1] == []
    for name in BOOKS:
        for label in re.findall(r"\{eq\}`([^`]+)`", prose(name)): assert label in labels, f"{name}: {label}"
        if name != "index":
            for label in re.findall(LABEL, prose(name)): assert re.match(r"[a-z]+-[\w-]+$", label), f"{name}: {label}"


@pytest.mark.quick
def test_bibliography():
    keys = Counter(re.findall(r"^@\w+\{([^,\s]+),", (root/"references.bib").read_text(encoding="utf-8"), re.M))
    assert [key for key, n in keys.items() if n > 1] == []
    cited = {key.strip() for name in BOOKS for group in re.findall(r"\{cite(?::[tp])?\}`([^`]+)`", prose(name))
             for key in group.split(",")}
    assert cited - keys.keys() == set(), "cited, and not in references.bib"
    assert keys.keys() - cited == set(), "in references.bib, and cited nowhere"


@pytest.mark.quick
def test_the_owner_stands_in_settings_alone():
    "One place to change when the repository moves."
    cfg, found = settings(), []
    words = [f"{cfg['user']}/{cfg['repo']}", f"{cfg['user']}.github.io", cfg["lib_url"], cfg["author_email"]]
    tracked = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=root, capture_output=True, text=True,
                             check=True).stdout
    for path in tracked.splitlines():
        if path in ("settings.ini", "README.md") or not (root/path).is_file(): continue     # one is made of the other
        text = (root/path).read_bytes().decode("utf-8", "replace")
        found += [f"{path}: {word}" for word in words if word in text]
    assert tracked and not found


def namespace(name):
    "What a checker may use: the imports of its chapter, the modules that the chapter exports to, the other checkers."
    names = {"__name__": "__main__"}
    for cell in code(name):
        body = ast.parse(cell.source).body if "colab" not in tags(cell) else []
        if "checker" in tags(cell) or (body and all(isinstance(n, ast.Import | ast.ImportFrom) for n in body)):
            exec(compile(cell.source, f"{name}, imports or checker", "exec"), names)
        for d in directives(cell):
            if target := re.match(r"(?:default_exp|export\w*) (\S+)", d):
                module = vars(importlib.import_module(f"gn_nb.{target[1]}"))
                names.update({k: v for k, v in module.items() if not k.startswith("__")})
    return names


def exercises(name):
    "(checker, its stub cell, its solution cell, name of the answer) of every exercise, in order."
    cells = code(name)
    for i, cell in enumerate(cells):
        if "checker" not in tags(cell): continue
        check = re.search(r"^@exercise\ndef (check_\w+)\(", cell.source, re.M)
        assert check, f"a checker cell without @exercise: {cell.source[:60]}"
        stub, solution = cells[i + 1:i + 3]
        last = ast.parse(stub.source).body[-1]
        assert isinstance(last, ast.Expr) and last.value.func.id == check[1], f"the stub must end with {check[1]}(...)"
        assert "solution" in tags(solution) and not tags(stub), f"{check[1]}: a stub, then a solution follow a checker"
        yield check[1], stub, solution, last.value.args[0].id


SAY_WHY = "00", "01", "02", "03", "04", "05", "11", "13"       # here a likely mistake gets a sentence of its own
EXERCISES = [pytest.param(name, *e, id=f"{name}-{e[0]}") for name in BOOKS for e in exercises(name)]


@pytest.mark.quick
@pytest.mark.parametrize("name, check, stub, solution, answer", EXERCISES)
class TestExercise:
    def test_stub_is_not_yet_right(self, name, check, stub, solution, answer):
        names = namespace(name)
        assert "# your answer" in stub.source
        exec(stub.source, names)
        assert not names[check](names[answer])

    def test_solution_is_right(self, name, check, stub, solution, answer):
        names = namespace(name)
        exec(solution.source, names)
        assert f"assert {check}({answer})" in solution.source
        assert names[check](names[answer]), names[check](names[answer])

    def test_wrong_answers_are_rejected(self, name, check, stub, solution, answer):
        answers = runpy.run_path(root/f"tests/wrong_answers/{name}.py")["WRONG"].get(check, [])
        assert len(answers) >= 3, f"tests/wrong_answers/{name}.py must hold three wrong answers to {check}"
        assert len({*answers}) == len(answers)
        for wrong in answers:
            names = namespace(name)
            names.pop(answer, None)
            exec(compile(wrong, "wrong answer", "exec"), names)                    # it must itself be sound
            verdict = names[check](names[answer])
            assert not verdict, f"accepted:\n{wrong}"
            assert not re.match(r"(Name|UnboundLocal|Syntax|Import)Error", verdict.why), f"{verdict.why}:\n{wrong}"
            if name[:2] in SAY_WHY: assert not verdict.why.startswith("error "), f"{verdict.why}, no more:\n{wrong}"


RIGHT = {   # answers that differ from the solution and are right, too
    ("01_batch_normalization", "check_depth_limit"):
        "def depth_limit(gain, floor): return np.floor(np.log(floor)/np.log(gain)).astype(int)",
    ("03_group_normalization", "check_gn"): """def gn(x, G, weight, bias, eps):
    xg, per = x.unflatten(1, (G, -1)).flatten(2), (1, -1) + (1,)*(x.ndim - 2)
    xg = (xg - xg.mean(2, True))*(xg.var(2, correction=0, keepdim=True) + eps).rsqrt()
    return xg.view_as(x)*weight.view(per) + bias.view(per)"""}


@pytest.mark.quick
@pytest.mark.parametrize("name, check", RIGHT)
def test_another_right_answer_is_accepted(name, check):
    names = namespace(name)
    exec(RIGHT[name, check], names)
    verdict = names[check](names[re.match(r"def (\w+)", RIGHT[name, check])[1]])
    assert verdict, verdict.why


@pytest.mark.quick
def test_every_wrong_answer_belongs_to_an_exercise():
    known = {(e.values[0], e.values[1]) for e in EXERCISES}
    for path in sorted((root/"tests/wrong_answers").glob("*.py")):
        for check in runpy.run_path(path)["WRONG"]: assert (path.stem, check) in known, f"{path.name}: {check}"
    for name in BOOKS:
        sections = len(re.findall(r"^### Exercise", prose(name), re.M))
        assert sections == sum(n == name for n, _ in known), f"{name}: a heading for every exercise"
