"""The site as its readers meet it: every page in a chromium, light and dark, wide and narrow, by keyboard.

What can be read off the HTML alone is in book/check.py; here is what only shows when styles and scripts have run.
"""
import ast
import gzip
import mimetypes
import re
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from browser import MISSING, chromium
from settings import root, settings

sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(not chromium(), reason=MISSING)
SITE = root/"_build/html"
BASE = settings()["doc_baseurl"]                       # the folder under which the site is published
LOOK = (Path(__file__).parent/"look.js").read_text(encoding="utf-8")
WIDTHS = {1280: 800, 390: 844}
LOOKS = ((1280, "light"), (1280, "dark"), (390, "dark"), (390, "light"))
HEAVY = 1.5e6                                          # bytes of a page with all it loads, as they are sent
PAGES = sorted(str(p.relative_to(SITE)) for p in SITE.rglob("*.html")
               if not {"_static", "_sources"} & {*p.relative_to(SITE).parts})
CHAPTERS = [p for p in PAGES if p.startswith("nbs/")]
FRONT = "nbs/index.html"


@lru_cache(None)
def compressed(path): return gzip.compress(path.read_bytes(), 6)


class Pages(BaseHTTPRequestHandler):
    "The site as GitHub Pages serves it: below the repository's name, text compressed, 404.html for what is not there."
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        place = unquote(urlsplit(self.path).path)
        path, status = SITE/place.removeprefix(BASE + "/"), 200
        if path.is_dir(): path /= "index.html"
        if not place.startswith(BASE + "/") or not path.is_file(): path, status = SITE/"404.html", 404
        kind = mimetypes.guess_type(path)[0] or "application/octet-stream"
        text = kind.startswith("text/") or kind.endswith(("javascript", "json", "xml"))
        body = b"" if not path.is_file() else compressed(path) if text else path.read_bytes()
        self.send_response(status)
        self.send_header("Content-Type", kind + "; charset=utf-8"*text)
        if text: self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "max-age=600")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args): pass


@pytest.fixture(scope="module")
def site():
    "The address of the served site."
    assert CHAPTERS, "the book is not built: `make book`, or `make test`, which builds it first"
    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}{BASE}/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium(), args=[
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"])          # no network
        yield browser
        browser.close()


class Tab:
    "One page of a browser, with a list of what went wrong since it was opened: `tab.noise`."
    def __init__(self, browser, width=1280):
        # reduced motion: what changes its colour does so at once
        self.context = browser.new_context(viewport={"width": width, "height": WIDTHS[width]}, reduced_motion="reduce")
        self.page, self.noise = self.context.new_page(), []
        def hear(event, text): self.page.on(event, lambda it: self.noise.append(text(it)) if text(it) else None)
        hear("console", lambda m: m.type in ("error", "warning") and f"console: {m.text}")
        hear("pageerror", lambda e: f"error: {e}")
        hear("requestfailed", lambda r: f"failed: {r.url} {r.failure}")
        hear("response", lambda r: r.status >= 400 and f"status {r.status}: {r.url}")
        hear("request", lambda r: urlsplit(r.url).hostname not in ("127.0.0.1", None, "") and f"foreign: {r.url}")

    def open(self, address):
        "Load a page, and wait until its formulas are typeset."
        self.noise.clear()
        self.page.goto(address, wait_until="load")
        self.page.evaluate("() => window.MathJax?.startup?.promise")
        return self.page

    def problems(self, *looks):
        "What is wrong with the page as it stands, for each (width, theme): the window is resized, the theme follows."
        for width, theme in looks or LOOKS:
            self.page.set_viewport_size({"width": width, "height": WIDTHS[width]})
            self.page.emulate_media(color_scheme=theme)
            self.page.wait_for_function("theme => document.documentElement.dataset.theme === theme", arg=theme)
            self.page.wait_for_function("document.getAnimations().every(a => a.playState !== 'running')")
            for problem in self.page.evaluate(LOOK): yield f"{width} px, {theme}: {problem}"
        yield from self.noise


@pytest.fixture(scope="module")
def tabs(browser):
    "A tab for each width."
    tabs = {width: Tab(browser, width) for width in WIDTHS}
    yield tabs
    for tab in tabs.values(): tab.context.close()


def unfold(page):
    "Open every fold with the keyboard."
    for summary in page.query_selector_all("article details:not([open]) > summary"):
        if not summary.is_visible(): continue                  # a quiz hides its list of answers
        summary.focus()
        page.keyboard.press("Enter")
        unfolded = summary.evaluate("e => e.parentElement.open && e.nextElementSibling.checkVisibility()")
        assert unfolded, f"a fold stays closed: {summary.inner_text()}"


def slide(page):
    "Move every slider with an arrow key: its number must change, and by one of them what the figure says."
    for figure in page.query_selector_all(".gn-interactive"):
        name, live = figure.get_attribute("data-figure"), figure.query_selector("[aria-live]")
        sliders = figure.query_selector_all("input[type=range]:enabled")
        assert name and live and sliders, f"{name}: an interactive figure needs a name, sliders and a text"
        spoken = {live.inner_text()}
        for slider in sliders:
            shown = figure.inner_text()
            slider.focus()
            page.keyboard.press("ArrowLeft" if slider.evaluate("e => e.value === e.max") else "ArrowRight")
            assert figure.inner_text() != shown, f"{name}: {slider.get_attribute('name')} moved, and nothing changed"
            spoken.add(live.inner_text())
        assert len(spoken) > 1 and all(spoken), f"{name} says nothing, or always the same"


def answer(page):
    "Choose every answer of every quiz with the keyboard: each must be explained."
    for quiz in page.query_selector_all(".gn-quiz"):
        for question in quiz.query_selector_all("fieldset"):
            choices = question.query_selector_all("input[type=radio], button")
            assert len(choices) > 1, question.inner_text()
            for choice in choices:
                choice.focus()
                page.keyboard.press("Space")
                live = question.query_selector("[aria-live]") or quiz.query_selector("[aria-live]")
                assert live and live.inner_text().strip(), f"not explained: {question.inner_text()}"


def makers(kind):
    "Names whose call makes a `kind`: the class, and the functions of gn_nb.lab that say they return one."
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (root/"gn_nb/lab").glob("*.py")]
    return {kind} | {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
                     and isinstance(node.returns, ast.Name) and node.returns.id == kind}


@pytest.mark.parametrize("kind, selector", [("Interactive", "gn-interactive"), ("Quiz", "gn-quiz")])
def test_no_page_lacks_what_its_notebook_makes(kind, selector):
    "Cells that end in a call which makes such a thing, against the things on the pages; test_page uses each of them."
    names = makers(kind)
    for path in sorted((root/"nbs").glob("*.ipynb")):
        cells = [c for c in nbformat.read(path, 4).cells if c.cell_type == "code" and c.get("id") != "colab"]
        ends = [body[-1].value for c in cells if (body := ast.parse(c.source).body) and isinstance(body[-1], ast.Expr)]
        made = sum(isinstance(v, ast.Call) and isinstance(v.func, ast.Name) and v.func.id in names for v in ends)
        text = (SITE/f"nbs/{path.stem}.html").read_text(encoding="utf-8") if made else ""
        assert len(re.findall(rf'class="[^"]*\b{selector}\b', text)) >= made, f"{path.stem}: {made} made"


@pytest.mark.parametrize("name", [p for p in PAGES if p != "index.html"])
def test_page(tabs, site, name):
    tab = tabs[1280]
    page = tab.open(site + name)
    for use in (unfold, slide, answer): use(page)
    assert [*tab.problems()] == []
    weight = page.evaluate("performance.getEntries().reduce((sum, e) => sum + (e.encodedBodySize || 0), 0)")
    assert 1e4 < weight < HEAVY, f"{weight} bytes"


def test_the_root_leads_to_the_front_page(tabs, site):
    tab = tabs[1280]
    tab.page.goto(site)
    tab.page.wait_for_url(site + FRONT)
    assert [noise for noise in tab.noise if "ERR_ABORTED" not in noise] == []      # what the root had begun to load


def test_a_missing_page_says_so_at_any_depth(tabs, site):
    tab = tabs[390]
    page = tab.open(site + "nbs/deep/gone.html")
    assert page.inner_text("article h1").startswith("No such page")
    assert [p for p in tab.problems() if "404" not in p] == [] and len(tab.noise) == 2, tab.noise   # the page itself
    page.click("article a[href$='nbs/index.html']")
    page.wait_for_url(site + FRONT)


def test_the_front_page_is_there_in_a_second(browser):
    "From the disk, with nothing in the browser's cache: the page's own work, not what else the machine does meanwhile."
    tab = Tab(browser)
    session = tab.context.new_cdp_session(tab.page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    tab.page.goto((SITE/FRONT).as_uri(), wait_until="load")
    seconds = {m["name"]: m["value"] for m in session.send("Performance.getMetrics")["metrics"]}["TaskDuration"]
    tab.context.close()
    assert tab.noise == [] and .01 < seconds < 1, f"{seconds} s"


# what has the focus: where it is, whether it is seen, and whether it looks different from the same without focus
FOCUS = """() => {
  for (const a of document.getAnimations()) if (isFinite(a.effect.getComputedTiming().endTime)) a.finish();
  const e = document.activeElement, r = e.getBoundingClientRect(), s = getComputedStyle(e);
  const places = {skip: ".skip-link", search: ".search-button-field, .search-button", nav: ".bd-sidebar-primary",
                  header: ".bd-header-article", article: "article", contents: ".bd-sidebar-secondary"};
  const place = Object.keys(places).find(k => e.closest(places[k])) || e.tagName;
  const seen = e.checkVisibility() && r.width > 1 && r.right > 0 && r.bottom > 0
    && r.left < innerWidth && r.top < innerHeight;
  const ring = s.outlineStyle !== "none" || s.boxShadow !== "none";
  return [place, seen && ring, (e.innerText || e.getAttribute("aria-label") || e.className).slice(0, 40)];
}"""


@pytest.mark.parametrize("width", WIDTHS)
def test_the_tab_key_goes_through_the_page_in_its_order(tabs, site, width):
    tab, order = tabs[width], []
    page = tab.open(site + "nbs/06_numerics.html")
    page.set_viewport_size({"width": width, "height": WIDTHS[width]})
    while len(order) < 200 and [place for place, *_ in order].count("article") < 5:
        page.keyboard.press("Tab")
        order.append(page.evaluate(FOCUS))
    places = [*dict.fromkeys(place for place, *_ in order)]
    wide, narrow = ["skip", "nav", "search", "header", "article"], ["skip", "header", "search", "article"]
    assert places == (wide if width == 1280 else narrow)             # the sidebar has the title above the search
    assert [focus for focus in order if not focus[1]] == [], "not seen, or looks as it does without the focus"
    page.keyboard.press("Home")
    page.focus(".skip-link a")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('main') !== null")


@pytest.mark.parametrize("width", WIDTHS)
def test_search_finds_a_word(tabs, site, width):
    "By the keyboard, from the front page."
    tab = tabs[width]
    page = tab.open(site + FRONT)
    page.set_viewport_size({"width": width, "height": WIDTHS[width]})
    page.keyboard.press("Control+k")
    page.keyboard.type("cancellation")
    page.keyboard.press("Enter")
    page.wait_for_url(site + "search.html?q=cancellation")
    page.wait_for_selector("ul.search li a[href*='06_numerics.html']")
    assert [*tab.problems()] == []
    page.click("ul.search li a[href*='06_numerics.html']")
    page.wait_for_url(site + "nbs/06_numerics.html*")
    assert "ancellation" in page.inner_text("article")
