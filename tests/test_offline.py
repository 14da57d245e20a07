"The book to take along: each kind holds every chapter, the EPUB is XML with formulas as MathML, the PDF has its pages."
import re
import zipfile
from xml.etree import ElementTree

import nbformat
import offline
import pytest
from browser import MISSING, chromium
from bs4 import BeautifulSoup
from settings import root

needs_browser = pytest.mark.skipif(not chromium(), reason=MISSING)
BOOKS = {path.stem: nbformat.read(path, 4) for path in sorted((root/"nbs").glob("*.ipynb"))}
TITLES = {name: re.search(r"^# (.+)$", book.cells[0].source, re.M)[1] for name, book in BOOKS.items()}
EQUATIONS = sum(len(re.findall(r"\$\$\s*\([\w-]+\)", c.source)) for book in BOOKS.values() for c in book.cells
                if c.cell_type == "markdown")
MATHML = "{http://www.w3.org/1998/Math/MathML}math"


@pytest.fixture(scope="module")
def built():
    assert (root/"_build/.doctrees").exists(), "the book is not built: `make book`, or `make test`, which does that"


@pytest.fixture(scope="module")
def onepage(built): return offline.onepage()


def test_one_page_holds_every_chapter(onepage):
    page = BeautifulSoup(onepage.read_text(encoding="utf-8"), "html.parser")
    headings = page.select("article :is(h1, h2)")                      # a chapter is a section of the one page
    titles = [re.sub(r"[#¶\uf0c1]", "", h.get_text()).strip().replace("’", "'") for h in headings]
    assert {*TITLES.values()} <= {*titles}
    assert len(page.select("span.eqno")) == EQUATIONS
    for node in page.select("script[src], link[rel=stylesheet], img"):
        address = (node.get("src") or node.get("href")).split("?")[0]
        assert address.startswith("data:") or (onepage.parent/address).exists(), address
    ids = {node["id"] for node in page.select("[id]")}
    dead = {a["href"] for a in page.select("article a[href^='#']") if a["href"][1:] and a["href"][1:] not in ids}
    assert dead == set()


@needs_browser
def test_the_epub_is_a_book(built):
    with zipfile.ZipFile(offline.epub()) as book:
        assert book.namelist()[0] == "mimetype" and book.read("mimetype") == b"application/epub+zip"
        pages = {name: book.read(name).decode("utf-8") for name in book.namelist() if name.endswith(".xhtml")}
    trees = {name: ElementTree.fromstring(text) for name, text in pages.items()}           # each of them is XML
    headings = {name: [*tree.iter("{http://www.w3.org/1999/xhtml}h1")] for name, tree in trees.items()}
    for name, title in TITLES.items():
        words = " ".join("".join(headings[f"nbs/{name}.xhtml"][0].itertext()).split()).replace("’", "'")
        assert words.startswith(title), name
    assert not any("<script" in text for text in pages.values())
    formulas = [e for tree in trees.values() for e in tree.iter() if (e.get("class") or "").startswith("math ")]
    assert formulas and all(next(e.iter(MATHML), None) is not None for e in formulas)
    displayed = [m for tree in trees.values() for m in tree.iter(MATHML) if m.get("display") == "block"]
    assert len(displayed) >= EQUATIONS and not any("merror" in text for text in pages.values())


@needs_browser
def test_the_printed_page_is_the_chapter_alone(onepage, tmp_path):
    "On paper: light, without bars and buttons, solutions open, code of figures away."
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium())
        page = browser.new_page(color_scheme="dark")
        page.goto((root/"_build/html/nbs/03_group_normalization.html").as_uri(), wait_until="load")
        page.emulate_media(media="print")
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        seen = page.evaluate("""() => {
          const shown = s => [...document.querySelectorAll(s)].filter(e => e.checkVisibility()).length;
          return {theme: document.documentElement.dataset.theme,
                  titles: shown("h1"), around: shown(".bd-sidebar, .bd-header-article, button"),
                  solutions: shown(".tag_solution pre"), plumbing: shown(".tag_checker pre")}; }""")
        pdf = page.pdf(format="A5")
        browser.close()
    assert (seen["theme"], seen["titles"], seen["around"], seen["plumbing"]) == ("light", 1, 0, 0)
    assert seen["solutions"] > 0
    assert pdf.startswith(b"%PDF") and len(re.findall(rb"/Type\s*/Page\b", pdf)) > 5
