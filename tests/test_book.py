"The checker of pages sees each kind of problem, the Sphinx extension translates, and the built book has no problem."
import json
import re
from html import unescape
from pathlib import Path
from types import SimpleNamespace

import build
import extension
import glossary
import pytest
import yaml
from bs4 import BeautifulSoup
from check import BASE, problems
from PIL import Image
from settings import root, settings

SITE = root/"_build/html"
GOOD = """<html><head><link rel="stylesheet" href="a.css"><link rel="canonical" href="https://elsewhere.org/page.html">
<script src="a.js"></script><style>p {background: url(data:image/png;base64,AA)}</style></head>
<body><article id="top-of-it"><p>Seen <a href="https://elsewhere.org">elsewhere</a>, <a href="#top-of-it">above</a>,
<a href="other.html#there">there</a>, <a href="sub/">a folder</a>, <a href="mailto:a@b.org">mail</a>,
<a href="other.html?x=1">a query</a>,
<a href="BASEother.html">from the top</a>, <a href="#">the top</a>.</p>
<img src="a.png" alt="Two curves that cross at 4">
<div class="highlight"><pre>x = 1  #| not a directive</pre></div><div class="output">Traceback is a word</div>
<figure><svg role="img" aria-label="Three boxes"></svg></figure>
<figure><div role="img" aria-label="Two boxes"><svg></svg><svg></svg></div></figure></article></body></html>"""


@pytest.fixture
def site(tmp_path):
    "A small site without problems, as a function of the HTML put in front of the end of its article."
    (tmp_path/"sub").mkdir()
    for name in ("other.html", "sub/index.html"): (tmp_path/name).write_text("<h1 id='there'>There</h1>")
    def write(extra="", head=""):
        page = GOOD.replace("BASE", BASE).replace("</article>", extra + "</article>")
        page = page.replace("</head>", head + "</head>")
        (tmp_path/"page.html").write_text(page)
        return problems(tmp_path)
    return write


@pytest.mark.quick
def test_a_good_page_has_no_problem(site): assert site() == []


@pytest.mark.quick
@pytest.mark.parametrize("extra, found", [
    ('<script src="https://cdn.org/x.js"></script>', "loads from another host: https://cdn.org/x.js"),
    ('<script src="//cdn.org/x.js"></script>', "loads from another host: //cdn.org/x.js"),
    ('<img src="https://cdn.org/x.png" alt="A">', "loads from another host: https://cdn.org/x.png"),
    ('<iframe src="https://video.org/x"></iframe>', "loads from another host: https://video.org/x"),
    ('<video src="http://video.org/x"></video>', "loads from another host: http://video.org/x"),
    ('<link rel="stylesheet" href="https://cdn.org/x.css">', "loads from another host: https://cdn.org/x.css"),
    ('<link rel="preconnect" href="https://fonts.org">', "loads from another host: https://fonts.org"),
    ('<style>@import "https://fonts.org/f.css";</style>', "loads from another host: https://fonts.org/f.css"),
    ("<style>b {src: url('https://fonts.org/f.woff')}</style>", "loads from another host: https://fonts.org/f.woff"),
    ('<div class="output text_plain"><pre>(np.int64(3), 1)</pre></div>',
     "a number as it is stored, not as it is read: np.int64("),
    ('<div class="output text_plain"><pre>0.1234567891</pre></div>',
     "a number as it is stored, not as it is read: 0.1234567891"),
    ('<img src="a.png">', "image without alt text: a.png"),
    ('<img src="a.png" alt=" ">', "image without alt text: a.png"),
    ('<img src="a.png" alt="../_images/1f3a.png">', "file name as alt text: ../_images/1f3a.png"),
    ("<figure><svg></svg></figure>", "figure without a label"),
    ('<figure><svg role="img" aria-label=""></svg></figure>', "figure without a label"),
    ('<figure><svg aria-label="Boxes"></svg></figure>', "figure without a label"),
    ('<figure><div role="img"><svg></svg></div></figure>', "figure without a label"),
    ('<div class="output traceback">ValueError: no</div>', "traceback or stderr: 'ValueError: no'"),
    ('<div class="cell_output"><div class="stderr">UserWarning</div></div>', "traceback or stderr: 'UserWarning'"),
    ('<div class="output stderr">UserWarning</div>', "traceback or stderr: 'UserWarning'"),
    ('<div class="highlight"><pre>#| export\nx = 1</pre></div>', "an nbdev directive is shown"),
    ('<div class="highlight"><pre>x = 1\n#| hide</pre></div>', "an nbdev directive is shown"),
    ('<a href="gone.html">x</a>', "dead link: gone.html"),
    ('<a href="../outside.html">x</a>', "dead link: ../outside.html"),
    ('<a href="nowhere/">x</a>', "dead link: nowhere/"),
    ('<a href="other.html#nowhere">x</a>', "dead anchor: other.html#nowhere"),
    ('<a href="#nowhere">x</a>', "dead anchor: #nowhere"),
    (f'<a href="{BASE}gone.html">x</a>', f"dead link: {BASE}gone.html"),
    ('<a href="/other.html">x</a>', "dead link: /other.html")])
def test_each_problem_is_seen(site, extra, found): assert site(extra) == [f"page.html: {found}"]


@pytest.mark.quick
def test_problems_count_once_and_an_empty_site_is_one(site, tmp_path):
    assert len(site('<a href="gone.html">x</a>'*3)) == 1
    assert len(site('<a href="gone.html">x</a><img src="a.png">')) == 2
    (tmp_path/"none").mkdir()
    assert problems(tmp_path/"none") == [f"{tmp_path/'none'}: no pages"]


@pytest.mark.quick
@pytest.mark.parametrize("source, tags, seen, wanted", [
    ("x = 1", [], "x = 1", []),
    ("#| export\nx = 1", [], "x = 1", []),
    ("#| hide\nx = 1", [], "x = 1", ["remove-cell"]),
    ("#| default_exp ops", [], "", ["remove-cell"]),
    ("#| echo: false\n#| export\n\nx = 1", [], "x = 1", ["remove-input"]),
    ("#| output: false\nx", [], "x", ["remove-output"]),
    ("#|eval: false\nx", [], "x", ["skip-execution"]),
    ("#| code-fold: true\nx", [], "x", ["hide-input"]),
    ("#| cuda\nx", [], "x", ["skip-execution"]),
    ("#|\nx", [], "x", []),
    ("x\n#| export", [], "x\n#| export", []),                          # not at the top: the page check finds it
    ("x", ["figure"], "x", ["figure", "hide-input"]),
    ("x", ["solution"], "x", ["solution", "hide-cell"]),
    ("x", ["checker"], "x", ["checker", "hide-input"]),
    ("#| export\nx", ["verdict"], "x", ["verdict", "hide-input"]),
    ("x", ["colab"], "x", ["colab", "remove-cell"]),
    ("#| hide\nx", ["mine"], "x", ["mine", "remove-cell"])])
def test_directives_become_tags(source, tags, seen, wanted):
    lines = source.splitlines(keepends=True)
    for stored in (source, lines):                                     # notebooks hold either
        notebook = {"cells": [{"cell_type": "code", "source": stored, "metadata": {"tags": [*tags]} if tags else {}},
                              {"cell_type": "markdown", "source": "#| hide", "metadata": {}}]}
        cell, prose = extension.translate(notebook)["cells"]
        assert (cell["source"], cell["metadata"]["tags"]) == (seen, wanted)
        assert prose == {"cell_type": "markdown", "source": "#| hide", "metadata": {}}


@pytest.mark.quick
def test_cells_are_counted_for_the_stamp():
    sources = ("x", "#| eval: false\nx", "#| cuda\nx")
    notebook = {"cells": [{"cell_type": "code", "source": s, "metadata": {}} for s in sources]}
    env = SimpleNamespace(metadata={}, doc2path=lambda name: f"{name}.ipynb")
    source = [json.dumps(notebook)]
    app = SimpleNamespace(env=env, gn_nb_index=SimpleNamespace(books={}))
    extension.read_source(app, "nbs/01_x", source)
    assert env.metadata["nbs/01_x"]["gn_nb_cells"] == (1, 3) and "#|" not in source[0]
    text, env.doc2path = ["#| hide"], lambda name: f"{name}.md"
    extension.read_source(app, "nbs/references", text)
    assert text == ["#| hide"]


@pytest.mark.quick
def test_equations_are_numbered_by_chapter():
    env = SimpleNamespace(domaindata={}, new_serialno=lambda category: 0)
    domain = extension.ChapterMathDomain(env)
    for page, label in (("nbs/04_backward", "a"), ("nbs/04_backward", "b"), ("nbs/10_torch", "c"), ("nbs/index", "d"),
                        ("nbs/04_backward", "e")): domain.note_equation(page, label)
    assert [domain.equations[k][1] for k in "abcde"] == ["4.1", "4.2", "10.1", "1", "4.3"]


@pytest.fixture(scope="module")
def pages():
    assert (SITE/"nbs").exists(), "the book is not built: `make book`, or `make test`, which builds it first"
    return {p.stem: BeautifulSoup(p.read_text(encoding="utf-8"), "html.parser") for p in (SITE/"nbs").glob("*.html")}


CHAPTERS = sorted(p.stem for p in (root/"nbs").glob("*.ipynb"))


class TestBuiltBook:
    def test_has_no_problems(self, pages): assert problems(SITE) == []

    def test_has_every_page_of_the_table_of_contents(self, pages):
        toc = yaml.safe_load((root/"_toc.yml").read_text(encoding="utf-8"))
        files = [toc["root"], *(c["file"] for part in toc["parts"] for c in part["chapters"])]
        assert {Path(f).stem for f in files} == {*pages} and (SITE/"index.html").exists()
        for name, page in pages.items():
            shown = {Path(a["href"]).stem for a in page.select("nav.bd-links a.reference.internal")}
            assert {*pages} - {"index", name} <= shown, f"{name}: the sidebar lacks {({*pages} - shown)}"

    @pytest.mark.parametrize("name", CHAPTERS)
    def test_chapter(self, pages, name):
        page, cfg = pages[name], settings()
        article = page.select_one("article")
        numbers = [node.get_text().strip("()#¶\uf0c1 ") for node in article.select("span.eqno")]
        if chapter := re.match(r"(\d+)_", name):
            assert numbers == [f"{int(chapter[1])}.{k + 1}" for k in range(len(numbers))]
            assert article.h1.get_text().startswith(f"{int(chapter[1])}. ")
        source = json.loads((root/f"nbs/{name}.ipynb").read_text(encoding="utf-8"))
        prose = "\n".join("".join(c["source"]) for c in source["cells"] if c["cell_type"] == "markdown")
        assert len(numbers) == len(re.findall(r"\$\$\s*\([\w-]+\)", prose))
        links = [a["href"] for a in page.find_all("a", href=True)]
        place = f"{cfg['user']}/{cfg['repo']}/blob/v{cfg['version']}/nbs/{name}.ipynb"       # a tag: what pip installs
        assert f"https://colab.research.google.com/github/{place}" in links
        assert any(href.startswith(f"{cfg['git_url']}/edit/{cfg['branch']}/nbs/{name}.ipynb") for href in links)
        assert f"{cfg['git_url']}/issues/new" in " ".join(links)
        stamp = article.find_parent().select_one("p.stamp") or page.select_one("p.stamp")
        assert re.search(r"commit (\w+|no git).*Python 3\.\d+\.\d+.*numpy \d.*numba \d.*torch \d", stamp.get_text())
        run = re.search(r"(\d+) of (\d+) code cells executed by the build", stamp.get_text())
        assert run and run[1] == run[2] == str(sum(c["cell_type"] == "code" for c in source["cells"])), stamp.get_text()

    @pytest.mark.parametrize("name", CHAPTERS)
    def test_figures_and_folds(self, pages, name):
        source = json.loads((root/f"nbs/{name}.ipynb").read_text(encoding="utf-8"))
        cells = [c["metadata"].get("tags", []) for c in source["cells"] if c["cell_type"] == "code"]
        article = pages[name].select_one("article")
        figures = article.select("figure.gn-figure")
        cards = any((root/"results").glob("gpu-*.json"))       # two figures are drawn once a card has been measured
        drawn = [c for c in source["cells"] if "figure" in c["metadata"].get("tags", []) and (
            cards or not re.search(r"gpu_records|if not cards", "".join(c["source"])))]
        if name != "90_figures": assert len(figures) >= len(drawn)
        assert all(f.svg and f.figcaption.get_text(strip=True) for f in figures)
        for tag in ("solution", "verdict"):
            assert len(article.select(f"div.cell.tag_{tag} details")) == sum(tag in tags for tags in cells)
        assert "google.colab" not in unescape(str(article))                    # the Colab cell is for Colab

    def test_equations_glossary_and_questions(self, pages):
        article = pages["equations"].select_one("article")
        numbers = [a.get_text() for a in article.select("dl > dt > a")]
        assert len(numbers) == len({*numbers}) > 100
        assert len(article.select("dl > dd a[href*='#check-']")) >= len(numbers)
        assert len(article.select("dd a[href*='#symbol-']")) > 40
        for name in CHAPTERS:
            page = pages[name].select_one("article")
            equations, notes = page.select("div.math span.eqno"), page.select("span.gn-checks")
            assert notes or not equations, f"{name}: no cell says what it checks"
            if name[:2].isdigit() and int(name[:2]) <= 15:
                quiz, = page.select("div.cell.tag_quiz div.gn-quiz")
                assert quiz.find_parent("div", class_="cell").select_one("details.hide") is not None
            source = json.loads((root/f"nbs/{name}.ipynb").read_text(encoding="utf-8"))
            prose = ["".join(c["source"]) for c in source["cells"] if c["cell_type"] == "markdown"]
            known = glossary.of_chapter(glossary.terms(glossary.read(root/"nbs")), name)
            used = [t for t in known if any(glossary.uses(t, s) for s in prose)]
            links = page.select("a[href^='glossary.html#term-']")
            if name != "index": assert len(links) == len(used), f"{name}: {len(used)} terms, {len(links)} links"
        assert len(pages["paths"].select("article table")) == 4

    def test_is_described_to_those_who_link_to_it(self, pages):
        seen = {}
        for name, page in pages.items():
            meta = {m.get("name") or m.get("property"): m["content"] for m in page.select("meta[content]")}
            assert meta["description"] == meta["og:description"] and 20 < len(meta["description"]) < 320, name
            assert meta["og:title"] in page.select_one("article h1").get_text()
            assert meta["og:url"] == page.select_one("[rel=canonical]")["href"]
            assert meta["og:image"] == f"{settings()['lib_url']}/_static/card.png"
            seen.setdefault(meta["description"], []).append(name)
        assert {*map(len, seen.values())} == {1}, "a description for each page"
        with Image.open(SITE/"_static/card.png") as card:
            assert card.size == (1200, 630) and len(card.getcolors(1 << 20)) > 20

    def test_has_a_map_and_a_page_for_what_is_missing(self, pages):
        places = re.findall(r"<loc>(.*?)</loc>", (SITE/"sitemap.xml").read_text(encoding="utf-8"))
        assert places == sorted(f"{settings()['lib_url']}/nbs/{name}.html" for name in pages)
        lost = BeautifulSoup((SITE/"404.html").read_text(encoding="utf-8"), "html.parser")
        for node in lost.select("script[src], link[rel=stylesheet], a[href], form[action]"):       # at any depth
            address = node.get("src") or node.get("href") or node.get("action")
            assert address.startswith((BASE, "#", "https://")), address
        assert 'href="nbs/index.html"' in (SITE/"index.html").read_text(encoding="utf-8")

    def test_formulas_need_no_network(self, pages):
        script = SITE/"_static/mathjax/tex-chtml.js"
        assert script.stat().st_size > 5e5 and len([*script.parent.rglob("MathJax_*.woff")]) > 20
        with_formulas = [name for name, page in pages.items() if page.select("span.math, div.math")]
        assert len(with_formulas) > 3 and not pages["index"].select("script[src*=mathjax]")       # nor load it in vain
        for name in with_formulas:
            loaded = [s["src"] for s in pages[name].find_all("script", src=True) if "mathjax" in s["src"].lower()]
            assert loaded and all((SITE/"nbs"/src.split("?")[0]).resolve() == script for src in loaded), name

    def test_is_not_older_than_its_sources(self, pages):
        assert build.has(build.BUILT/".site", build.PAGES), "the book is older than what it is made of: make book"


@pytest.mark.quick
@pytest.mark.parametrize("file, runs, writes", [
    ("gn_nb/lab/data.py", True, True), ("results/cpu.json", True, True), ("results/groups.jsonl", True, True),
    ("constraints.txt", True, True), ("settings.ini", True, True), ("nbs/07_cpu.ipynb", False, True),
    ("nbs/glossary.md", False, True), ("book/static/book.css", False, True), ("_toc.yml", False, True),
    ("references.bib", False, True), ("book/__pycache__/build.pyc", False, False), ("CHANGELOG.md", False, False)])
def test_what_has_to_be_done_again(file, runs, writes, tmp_path, monkeypatch):
    "All chapters are run again only if their results may change; a chapter that changes itself is known by the cache."
    monkeypatch.setattr(build, "root", tmp_path)
    path = tmp_path/file
    path.parent.mkdir(parents=True, exist_ok=True)
    keys = []
    for text in ("before", "after"):
        path.write_text(text)
        keys.append([build.key(patterns) for patterns in (build.CODE, build.PAGES)])
    assert [a != b for a, b in zip(*keys)] == [runs, writes]
