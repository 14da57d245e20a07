"""Sphinx extension of this book: nbdev's directives become cell tags, equations are numbered by chapter and linked to
the cells that check them, terms to the glossary, every page carries a stamp, and the repository's address comes from
settings.ini."""
import json
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

import glossary
import paths
from equations import Index, chapters
from settings import root, settings
from sphinx.domains.math import MathDomain
from sphinx.errors import ExtensionError

# nbdev directive or cell tag -> the tag myst-nb understands. A directive not listed only loses its line.
TAGS = {"hide": "remove-cell", "default_exp": "remove-cell", "colab": "remove-cell", "echo: false": "remove-input",
        "output: false": "remove-output", "code-fold: true": "hide-input", "eval: false": "skip-execution",
        "cuda": "skip-execution", "figure": "hide-input", "checker": "hide-input", "solution": "hide-cell",
        "quiz": "hide-input", "verdict": "hide-input"}
PROMPTS = {"figure": "How the figure is drawn", "checker": "How the answer is checked", "solution": "A solution",
           "quiz": "How the questions are made", "verdict": "How the verdict is reached"}
VERSIONS = ("numpy", "numba", "torch")


def split_directives(source):
    "The `#|` lines at the top of a cell, without their mark, and the rest of the cell."
    lines = source.splitlines(keepends=True)
    n = next((i for i, line in enumerate(lines) if not line.startswith("#|")), len(lines))
    return [line[2:].strip() for line in lines[:n]], "".join(lines[n:]).lstrip("\n")


def translate(notebook):
    "A notebook (as parsed JSON) with nbdev's directives turned into tags; its source stays as it is on disk."
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code": continue
        directives, cell["source"] = split_directives("".join(cell["source"]))
        tags = cell["metadata"].setdefault("tags", [])
        words = [d if d in TAGS else d.split()[0] for d in directives if d] + tags
        tags += [TAGS[w] for w in dict.fromkeys(words) if w in TAGS]
        for word in PROMPTS.keys() & set(words):
            cell["metadata"].setdefault("mystnb", {})["code_prompt_show"] = PROMPTS[word]
    return notebook


def connect(notebook, chapter, index, terms):
    "A notebook with links from terms to the glossary, and before code cells the equations they check or implement."
    cells, prose = notebook["cells"], [c for c in notebook["cells"] if c["cell_type"] == "markdown"]
    notes = [index.annotation(chapter, k) for k in range(len(cells))]
    for cell, text in zip(prose, glossary.link(["".join(c["source"]) for c in prose], terms)): cell["source"] = text
    for k, note in reversed([*enumerate(notes)]):
        if note: cells.insert(k, {"cell_type": "markdown", "id": f"note-{k}", "metadata": {}, "source": note})
    return notebook


def read_source(app, docname, source):
    chapter = Path(docname).name
    if chapter == "equations": source[0] = source[0].replace("<!-- equations -->", app.gn_nb_index.page())
    if chapter == "paths": source[0] = paths.page(source[0], app.gn_nb_index.books)
    if chapter == "glossary": source[0] = glossary.page(source[0], app.gn_nb_index.books)
    if Path(app.env.doc2path(docname)).suffix != ".ipynb": return
    notebook = json.loads(source[0])
    if chapter in app.gn_nb_index.books:
        notebook = connect(notebook, chapter, app.gn_nb_index, glossary.of_chapter(app.gn_nb_terms, chapter))
    notebook = translate(notebook)
    code = [c["metadata"]["tags"] for c in notebook["cells"] if c["cell_type"] == "code"]
    app.env.metadata.setdefault(docname, {})["gn_nb_cells"] = (
        sum("skip-execution" not in tags for tags in code), len(code))
    source[0] = json.dumps(notebook)


class ChapterMathDomain(MathDomain):
    "Equations are numbered (chapter.equation), so that a number means the same on every page."

    def note_equation(self, docname, labelid, location=None):
        super().note_equation(docname, labelid, location)
        chapter = re.match(r"(\d+)", Path(docname).name)
        serial = sum(doc == docname for doc, _ in self.equations.values())
        self.equations[labelid] = (docname, f"{int(chapter[1])}.{serial}" if chapter else str(serial))


def commit():
    "Short hash of the checked-out commit, marked when files differ from it."
    def git(*args):
        return subprocess.run(["git", "-C", str(root), *args], capture_output=True, text=True).stdout.strip()
    return (git("rev-parse", "--short", "HEAD") + (" + changes" if git("status", "--porcelain") else "")) or "no git"


def stamp(app, pagename, templatename, context, doctree):
    "At the foot of each page: what it was made from, and whether its code ran."
    if doctree is None or "body" not in context: return
    parts = [f"commit {app.gn_nb_commit}", f"Python {platform.python_version()}",
             *(f"{name} {version(name)}" for name in VERSIONS)]
    cells = app.env.metadata.get(pagename, {}).get("gn_nb_cells")
    run = app.env.nb_metadata.get(pagename, {}).get("exec_data")
    if cells and run:
        parts.append(f"{cells[0]} of {cells[1]} code cells executed by the build, in {run['runtime']:.0f} s")
    context["body"] += f'<p class="stamp">{" · ".join(parts)}</p>'


def at_the_tag(app, pagename, templatename, context, doctree):
    "Colab opens the notebook of the release that its first cell installs; only editing is done on the branch."
    cfg = settings()
    for group in context.get("header_buttons", []):
        for button in group.get("buttons", []):
            if "colab" in button.get("url", ""):
                button["url"] = button["url"].replace(f"/blob/{cfg['branch']}/", f"/blob/v{cfg['version']}/")


def configure(app, config):
    cfg = settings()
    config.html_theme_options |= {
        "repository_url": cfg["git_url"], "repository_branch": cfg["branch"], "path_to_docs": "",
        "navbar_persistent": [],          # the sidebar has the search field
        "use_repository_button": True, "use_issues_button": True, "use_edit_page_button": True}
    config.html_baseurl, config.version = cfg["lib_url"] + "/", cfg["version"]
    app.gn_nb_commit = commit()
    app.gn_nb_index, app.gn_nb_terms = Index(chapters(root/"nbs")), glossary.terms(glossary.read(root/"nbs"))
    if found := [*app.gn_nb_index.problems()]: raise ExtensionError("equations:\n" + "\n".join(found))


def setup(app):
    app.add_domain(ChapterMathDomain, override=True)
    app.connect("config-inited", configure, priority=900)
    app.connect("source-read", read_source)
    app.connect("html-page-context", stamp)
    app.connect("html-page-context", at_the_tag, priority=900)         # after the theme has made its buttons
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
