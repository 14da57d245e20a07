"The book to take along: each kind holds every chapter, the EPUB is XML with formulas as MathML, the PDF has its pages."
import posixpath
import re
import zipfile
from xml.etree import ElementTree

import nbformat
import offline
import pytest
from browser import MISSING, chromium
from bs4 import BeautifulSoup
from ereader import Reader
from settings import root

from gn_nb.lab.quiz import quiz

needs_browser = pytest.mark.skipif(not chromium(), reason=MISSING)
BOOKS = {path.stem: nbformat.read(path, 4) for path in sorted((root/"nbs").glob("*.ipynb"))}
TITLES = {name: re.search(r"^# (.+)$", book.cells[0].source, re.M)[1] for name, book in BOOKS.items()}
EQUATIONS = sum(len(re.findall(r"\$\$\s*\([\w-]+\)", c.source)) for book in BOOKS.values() for c in book.cells
                if c.cell_type == "markdown")
MATHML = "{http://www.w3.org/1998/Math/MathML}math"
QUIZ = quiz(("Which?", ("this", True, "for a reason."), ("that", False, "a mistake."), ("none", False, "an error.")),
            ("Or?", ("yes", False, "wrongly."), ("no", True, "of course."), ("both", False, "never.")))


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
    assert [a["href"] for a in page.select("article a[href]") if re.match(r"\w+\.html", a["href"])] == []


@pytest.fixture
def browser():
    "For one test: what prints and converts starts a driver of its own, and a process has one at a time."
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium())
        yield browser
        browser.close()


def on_paper(page):
    "The page as it is printed: the print styles, and what its scripts do before."
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")


@needs_browser
def test_on_paper_a_quiz_has_its_answers_and_no_buttons(browser):
    page = browser.new_page()
    page.set_content(QUIZ._repr_html_())
    assert not page.is_visible("text=for a reason")                         # on the screen one has to choose
    page.check("input >> nth=1")
    page.click("button >> nth=0")
    assert page.is_visible("text=Not yet") and page.is_visible("input >> nth=0")
    on_paper(page)
    assert page.locator(":is(input, button):visible").count() == 0 and page.locator("[aria-live]:visible").count() == 0
    assert page.locator("li:visible").all_inner_texts() == ["this: for a reason.", "no: of course."]
    assert page.locator("label:visible").all_inner_texts() == ["this", "that", "none", "yes", "no", "both"]
    page.close()


@needs_browser
def test_in_an_epub_a_quiz_has_its_answers_and_no_buttons():
    reader = Reader()
    quiz = BeautifulSoup(reader.xml(QUIZ._repr_html_()), "html.parser").select_one(".gn-quiz")
    reader.close()
    assert not quiz.select("input, button, [aria-live], [hidden], script")
    assert [li.get_text() for li in quiz.select("details[open] li")] == ["this: for a reason.", "no: of course."]
    assert [label.get_text() for label in quiz.select("label")] == ["this", "that", "none", "yes", "no", "both"]


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
    ids = {name: {e.get("id") for e in tree.iter()} for name, tree in trees.items()}
    for name, tree in trees.items():
        for address in (e.get("href", "") for e in tree.iter() if e.tag.endswith("}a")):
            if re.match(r"[\w/.-]*html", address):
                to, _, anchor = address.partition("#")
                to = posixpath.normpath(posixpath.join(posixpath.dirname(name), to))
                assert to in trees and (not anchor or anchor in ids[to]), f"{name}: dead link {address}"
    def found(word, of=None):
        "Elements of that class, or that name if it is one, in an element or the whole book."
        for tree in [of] if of is not None else trees.values():
            yield from (e for e in tree.iter() if word in (e.get("class") or "").split() or e.tag.endswith(f"}}{word}"))
    quizzes, figures = [*found("gn-quiz")], [*found("gn-interactive")]
    assert quizzes and all(len([*found("li", q)]) == len([*found("fieldset", q)]) > 0 for q in quizzes)
    assert figures and all(next(found("rect", f), None) is not None or next(found("path", f), None) is not None
                           for f in figures)
    assert [word for word in ("input", "button", "form", "gn-live") if next(found(word), None) is not None] == []
    formulas = [e for tree in trees.values() for e in tree.iter() if (e.get("class") or "").startswith("math ")]
    assert formulas and all(next(e.iter(MATHML), None) is not None for e in formulas)
    displayed = [m for tree in trees.values() for m in tree.iter(MATHML) if m.get("display") == "block"]
    assert len(displayed) >= EQUATIONS and not any("merror" in text for text in pages.values())


@needs_browser
def test_the_printed_page_is_the_chapter_alone(built, browser):
    """On paper: light, without bars and buttons, solutions open, code of figures away; answers of the quiz and the
    first state of the figure that moves."""
    page = browser.new_page(color_scheme="dark")
    page.goto((root/"_build/html/nbs/03_group_normalization.html").as_uri(), wait_until="load")
    on_paper(page)
    seen = page.evaluate("""() => {
      const shown = s => [...document.querySelectorAll(s)].filter(e => e.checkVisibility()).length;
      return {theme: document.documentElement.dataset.theme,
              titles: shown("h1"), around: shown(".bd-sidebar, .bd-header-article, button, input"),
              solutions: shown(".tag_solution pre"), plumbing: shown(".tag_checker pre"),
              questions: shown(".gn-quiz fieldset"), answers: shown(".gn-quiz details li"),
              still: shown(".gn-static svg"), moving: shown(".gn-live")}; }""")
    page.close()
    assert (seen["theme"], seen["titles"], seen["around"], seen["plumbing"]) == ("light", 1, 0, 0)
    assert seen["solutions"] > 0 and seen["answers"] == seen["questions"] > 2
    assert seen["still"] > 0 and seen["moving"] == 0


@needs_browser
def test_the_pdf_has_pages_and_an_outline(built, tmp_path):
    "Of one chapter, which takes seconds; `make pdf` prints the page of all in the same way."
    made = offline.pdf(root/"_build/html/nbs/03_group_normalization.html", tmp_path/"pdf/chapter.pdf")
    data = made.read_bytes()
    assert data.startswith(b"%PDF") and len(re.findall(rb"/Type\s*/Page\b", data)) > 5
    assert b"/Outlines" in data and b"/StructTreeRoot" in data
