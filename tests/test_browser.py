"""The site as its readers meet it: every page in a chromium, light and dark, wide and narrow, by keyboard.

What can be read off the HTML alone is in book/check.py; here is what only shows when styles and scripts have run.
"""
import ast
import gzip
import mimetypes
import re
from collections import Counter
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from browser import MISSING, chromium
from settings import root, settings

from gn_nb.lab import interactive
from gn_nb.lab.figures import cubes
from gn_nb.lab.quiz import quiz
from gn_nb.reference import NORMS, index_sets

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


def state(figure):
    "What a figure shows and says: its picture, and the text below; not the numbers beside its own controls."
    return figure.query_selector(".gn-stage").inner_html(), figure.query_selector("[aria-live]").inner_text()


def slide(page):
    "Move every slider with an arrow key: the picture or the text must change, and not its own number alone."
    for figure in page.query_selector_all(".gn-interactive"):
        name, sliders = figure.get_attribute("data-figure"), figure.query_selector_all("input[type=range]:enabled")
        assert name and sliders, "an interactive figure needs a name and sliders"
        for slider in sliders:
            before, shown = state(figure), figure.query_selector_all(".gn-value")
            number = [v.inner_text() for v in shown]
            slider.focus()
            page.keyboard.press("ArrowLeft" if slider.evaluate("e => e.value === e.max") else "ArrowRight")
            moved = f"{name}: {slider.get_attribute('name')} moved"
            assert [v.inner_text() for v in shown] != number, f"{moved}, and its number stayed"
            assert state(figure) != before and state(figure)[1], f"{moved}, and the figure stayed"
            beside = slider.evaluate("e => e.closest('.gn-control').querySelector('.gn-value').textContent")
            assert slider.get_attribute("aria-valuetext") == beside, f"{moved}: what is read out is not what is shown"


def press(page):
    "Choose every pill, and go a step on and back: what the figure shows or says must follow."
    for figure in page.query_selector_all(".gn-interactive"):
        name = figure.get_attribute("data-figure")
        for pill in figure.query_selector_all("input[type=radio]:not(:checked)"):
            before = state(figure)
            pill.evaluate("e => e.closest('label').scrollIntoView({block: 'center'})")
            pill.check()
            assert pill.is_checked() and state(figure) != before, f"{name}: {pill.get_attribute('value')} chosen"
        buttons = {b.inner_text(): b for b in figure.query_selector_all("button")}
        if not buttons: continue
        for _ in range(int(figure.query_selector("input[name=step]").get_attribute("max"))):
            if buttons["Previous"].get_attribute("aria-disabled") == "false": buttons["Previous"].click()
        assert buttons["Previous"].get_attribute("aria-disabled") == "true", f"{name}: Previous ends before"
        first = state(figure)
        buttons["Previous"].press("Enter")                     # says that it is disabled, so nothing clicks it
        assert state(figure) == first, f"{name}: there is nothing before the first step"
        buttons["Next"].click()
        assert state(figure)[0] != first[0] and state(figure)[1] != first[1], f"{name}: Next does nothing"
        buttons["Previous"].click()
        assert state(figure) == first, f"{name}: Previous does not lead back"


def walk(page):
    "Click a cell of every grid, then go by the arrow keys: the focus, the mark and the text go along."
    for figure in page.query_selector_all(".gn-interactive:has([role=gridcell])"):
        name, cells = figure.get_attribute("data-figure"), figure.query_selector_all("[role=gridcell]")
        def chosen(figure=figure, name=name):
            mark, = figure.query_selector_all("[aria-selected=true]")
            assert mark.get_attribute("tabindex") == "0" and mark.query_selector(".gn-ring"), name
            return mark.get_attribute("data-at")
        other = next(c for c in cells if c.get_attribute("aria-selected") == "false")
        at, said = other.get_attribute("data-at"), state(figure)[1]
        other.click()
        assert chosen() == at and state(figure)[1] != said, f"{name}: {at} clicked"
        seen = {at}
        for key in ("End", "Home", "ArrowRight", "ArrowLeft", "ArrowDown", "ArrowUp"):
            said, here = state(figure)[1], chosen()
            page.keyboard.press(key)
            focus = page.evaluate("document.activeElement.dataset.at")
            assert focus == chosen(), f"{name}: the focus stays behind after {key}"
            assert (state(figure)[1] != said) == (focus != here), f"{name}: {key} moves, and the text does not"
            seen.add(focus)
        assert len(seen) > 2, f"{name}: keys do not move the mark"


def answer(page):
    """Go through every quiz by Tab, arrows and Enter alone. An option that one comes by is not judged; the button gives
    the reason of the chosen one and says whether it is right."""
    for whole in page.query_selector_all(".gn-quiz"):
        whole.evaluate("e => { e.tabIndex = -1; e.focus(); }")
        for question in whole.query_selector_all("fieldset"):
            choices, live = question.query_selector_all("input[type=radio]"), question.query_selector("[aria-live]")
            text, seen = question.inner_text(), []
            assert len(choices) > 1 and not live.inner_text(), text
            page.keyboard.press("Tab")
            page.keyboard.press("Space")
            for _ in choices:
                at = page.evaluate_handle("document.activeElement").as_element()
                seen.append(at.evaluate("e => e.closest('label').textContent"))
                assert at.is_checked() and not live.inner_text(), f"{text}: judged before it was asked"
                page.keyboard.press("Tab")
                page.keyboard.press("Enter")
                why = at.evaluate("e => e.closest('label').querySelector('[hidden]').textContent")
                mark = "Right." if at.get_attribute("value") == "right" else "Not yet."
                said = live.evaluate("e => e.textContent")
                assert said == f"{mark} {why}", f"{text}: {said}"
                page.keyboard.press("Shift+Tab")
                page.keyboard.press("ArrowDown")
            assert len({*seen}) == len(choices), f"{text}: only {seen} are reached"
            page.keyboard.press("Tab")


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
    for use in (unfold, slide, press, walk, answer): use(page)
    assert [*tab.problems()] == []
    weight = page.evaluate("performance.getEntries().reduce((sum, e) => sum + (e.encodedBodySize || 0), 0)")
    assert 1e4 < weight < HEAVY, f"{weight} bytes"


QUIZ = quiz(("One?", ("a", True, "So it is."), ("b", False, "It is not."), ("c", False, "Nor is it.")),
            ("Two?", ("d", False, "No."), ("e", True, "Yes."), ("f", False, "Hardly.")))
FIGURES = {"explorer": interactive.explorer, "kernel": interactive.kernel_view,
           "tradeoff": lambda: interactive.tradeoff(.6, .04, 1.4)}


@pytest.fixture
def alone(browser):
    "A function that shows something on a page of its own, in a context with these settings."
    contexts = []
    def shown(thing, **more):
        contexts.append(browser.new_context(**more))
        page = contexts[-1].new_page()
        page.set_content(f"<!doctype html><body style='margin: 16px'>{thing._repr_html_()}</body>")
        return page
    yield shown
    for context in contexts: context.close()


def test_a_quiz_alone(alone):
    page = alone(QUIZ)
    page.click("button >> nth=1")
    assert page.locator("[aria-live]").all_inner_texts() == ["", "Choose an answer first."]
    page = alone(QUIZ)
    answer(page)
    page.click("label >> nth=1")                               # another answer: the reply to the last one goes
    assert page.locator("[aria-live]").all_inner_texts()[0] == ""
    page.emulate_media(media="print")
    assert page.locator("button:visible, input:visible, [aria-live]:visible").count() == 0
    assert page.locator("li:visible").count() == 2
    plain = alone(QUIZ, java_script_enabled=False)
    assert plain.locator("button:visible").count() == 0 and plain.locator("summary:visible").count() == 1


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_on_a_narrow_screen(alone, name):
    "It scrolls in its own box, and its letters do not shrink below nine pixels."
    page = alone(FIGURES[name](), viewport={"width": 320, "height": 640})
    slide(page)
    smallest = page.evaluate("""() => Math.min(...[...document.querySelectorAll(".gn-stage svg text")].map(e => {
      const svg = e.closest("svg");
      return parseFloat(getComputedStyle(e).fontSize)*svg.getBoundingClientRect().width/svg.viewBox.baseVal.width;
    }))""")
    assert smallest >= 9, smallest
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    assert page.evaluate("""() => { const e = document.querySelector(".gn-stage");
      e.scrollTo(999, 0);
      const ends = [...e.querySelectorAll("svg")].map(s => s.getBoundingClientRect().right);
      return Math.max(...ends) <= e.getBoundingClientRect().right + 1 && e.scrollHeight <= e.clientHeight; }""")


@pytest.mark.parametrize("name", ["explorer", "kernel"])
def test_the_chosen_pill_shows_in_forced_colours(alone, name):
    page = alone(FIGURES[name](), forced_colors="active")
    found = page.evaluate("""() => [...document.querySelectorAll(".gn-pills input")].map(e => [e.checked,
      getComputedStyle(e.nextElementSibling).backgroundColor])""")
    # without transparency: a tint is the page's own colour then, and cannot be seen on it
    chosen, others = ({tuple(re.findall(r"[\d.]+", look)[:3]) for checked, look in found if checked == on}
                      for on in (True, False))
    assert len(chosen) == len(others) == 1 and chosen != others, (chosen, others)


def test_links_below_the_pointer_can_be_read(tabs, site):
    tab = tabs[1280]
    page = tab.open(site + "nbs/03_group_normalization.html")
    page.set_viewport_size({"width": 1280, "height": WIDTHS[1280]})
    for place in (".bd-sidebar-primary .bd-links a", "article p a:not(.headerlink)", "dialog.bd-sidebar-secondary a"):
        page.evaluate("scrollTo(0, 0)")
        if "dialog" in place: page.click("button.secondary-toggle")
        page.locator(f"{place} >> visible=true").nth(1).hover()
        assert [*tab.problems((1280, "light"), (1280, "dark"))] == [], place


@pytest.mark.parametrize("width, rows", [(390, [2, 2]), (1280, [4])])
def test_no_block_of_cells_is_out_of_sight(browser, width, rows):
    sets = {name: index_sets((4, 8, 5), name, 2) for name in NORMS}
    page = browser.new_page(viewport={"width": width, "height": WIDTHS[width]})
    page.set_content(cubes(sets, "A caption.", "Four blocks.")._repr_html_())
    blocks = [page.locator("svg").nth(k).bounding_box() for k in range(page.locator("svg").count())]
    assert all(b["x"] >= 0 and b["x"] + b["width"] <= width for b in blocks)
    assert [*Counter(b["y"] for b in blocks).values()] == rows and page.locator("[role=img]").count() == 1
    page.close()


@pytest.mark.parametrize("width", (*WIDTHS, 1600))
def test_the_contents_of_a_page_lead_into_it(tabs, site, width):
    "Beside the text where there is room for both, else behind a button, where a choice or Escape closes them."
    tab = tabs[1280 if width > 1000 else width]
    page = tab.open(site + "nbs/03_group_normalization.html")
    page.set_viewport_size({"width": width, "height": WIDTHS.get(width, 900)})
    link, button = ".bd-sidebar-secondary a[href='#the-index-set']", page.locator("button.secondary-toggle")
    assert button.is_visible() == (width < 1600) and page.is_visible(link) == (width >= 1600)
    page.evaluate("scrollTo({top: 900, behavior: 'instant'})")
    box = button.bounding_box()
    def press(): page.mouse.click(box["x"] + box["width"]/2, box["y"] + box["height"]/2)      # click() would scroll

    if width < 1600:
        press()
        assert page.is_visible(link) and page.evaluate("scrollY") == 900
        page.keyboard.press("Escape")
        page.wait_for_selector(link, state="hidden")
        assert page.evaluate("scrollY") == 900
        press()
    page.click(link)
    page.wait_for_function("Math.abs(document.getElementById('the-index-set').getBoundingClientRect().top) < 200")
    page.wait_for_selector(link, state="visible" if width >= 1600 else "hidden")
    assert [*tab.problems()] == []


def test_the_wholeleads_to_the_front_page(tabs, site):
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
    """From the disk, with nothing in the browser's cache: the page's own work, and the time by the clock. The best of
    five, for the machine may have something else to do."""
    work, clock = [], []
    for _ in range(5):
        tab = Tab(browser)
        session = tab.context.new_cdp_session(tab.page)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})
        tab.page.goto((SITE/FRONT).as_uri(), wait_until="load")
        metrics = {m["name"]: m["value"] for m in session.send("Performance.getMetrics")["metrics"]}
        work.append(metrics["TaskDuration"])
        clock.append(tab.page.evaluate("performance.getEntriesByType('navigation')[0].loadEventStart")/1000)
        tab.context.close()
        assert tab.noise == []
    assert .01 < min(work) < 1 and .01 < min(clock) < 1, f"{min(work)} s of work, {min(clock)} s by the clock"


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


# what the tab key should stop at within an element, in the order of the page; of radio buttons the chosen, or the first
STOPS = """root => [...root.querySelectorAll("input, button, summary, a[href], [tabindex='0']")].filter(e => {
  const same = e.type === "radio" ? [...root.querySelectorAll("input")].filter(o => o.name === e.name) : [e];
  return e.checkVisibility() && !e.disabled && e === (same.find(o => o.checked) || same[0]);
}).map(e => (e.dataset.stop = e.name || e.dataset.at || e.textContent))"""
# where the focus is; whether it is in the window and shows: by the text of a pill, by the ring of a cell, by an outline
STOP = """() => {
  const e = document.activeElement, r = e.getBoundingClientRect();
  const ring = e.querySelector(".gn-ring"), by = e.closest(".gn-pills") ? e.nextElementSibling : e;
  const shows = ring ? getComputedStyle(ring).strokeDasharray !== "none" : getComputedStyle(by).outlineStyle !== "none";
  return [e.dataset.stop ?? e.tagName, shows && r.bottom > 0 && r.top < innerHeight];
}"""


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name, selector, least", [
    ("03_group_normalization", ".gn-interactive", 6), ("09_cuda", ".gn-interactive", 6),
    ("03_group_normalization", ".gn-quiz", 3)])
def test_the_tab_key_goes_through_figures_and_quizzes(tabs, site, width, name, selector, least):
    "Every control once, in its order, a grid and a group of radio buttons as one; then it leaves."
    page = tabs[width].open(f"{site}nbs/{name}.html")
    page.set_viewport_size({"width": width, "height": WIDTHS[width]})
    root = page.query_selector(selector)
    stops, found = root.evaluate(STOPS), []
    assert len(stops) >= least
    root.evaluate("e => { e.tabIndex = -1; e.focus(); }")
    for _ in range(len(stops) + 1):
        page.keyboard.press("Tab")
        found.append(page.evaluate(STOP))
    assert [stop for stop, _ in found[:-1]] == stops
    assert all(shows for _, shows in found[:-1]), found
    assert not root.evaluate("e => e.contains(document.activeElement)")


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
