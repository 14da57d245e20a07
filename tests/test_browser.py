"""The site as its readers meet it: every page in a chromium, light and dark, wide and narrow, with keys instead of a mouse.

What can be read off the HTML alone is in book/check.py; here is what only shows when styles and scripts have run.
"""
import gzip
import mimetypes
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

import pytest
from browser import MISSING, chromium
from settings import root, settings

sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(not chromium(), reason=MISSING)
SITE = root/"_build/html"
BASE = settings()["doc_baseurl"]                       # the folder under which the site is published
LOOK = (Path(__file__).parent/"look.js").read_text(encoding="utf-8")
WIDTHS, THEMES = {1280: 800, 390: 844}, ("light", "dark")
HEAVY = 1.5e6                                          # bytes of a page with all it loads, as they are sent
PAGES = sorted(str(p.relative_to(SITE)) for p in SITE.rglob("*.html")
               if not {"_static", "_sources"} & {*p.relative_to(SITE).parts})
CHAPTERS = [p for p in PAGES if p.startswith("nbs/")]


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
        browser = p.chromium.launch(executable_path=chromium(), args=["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"])
        yield browser
        browser.close()


class Tab:
    "One page of a browser, with a list of what went wrong since it was opened: `tab.noise`."
    def __init__(self, browser, width, theme="light", **more):
        self.context = browser.new_context(viewport={"width": width, "height": WIDTHS[width]}, color_scheme=theme, **more)
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


@pytest.fixture(scope="module")
def tabs(browser):
    "One tab for each width and theme."
    tabs = {(width, theme): Tab(browser, width, theme) for width in WIDTHS for theme in THEMES}
    yield tabs
    for tab in tabs.values(): tab.context.close()


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_page(tabs, site, name, width, theme):
    tab = tabs[width, theme]
    page = tab.open(site + name)
    assert page.evaluate("document.documentElement.dataset.theme") == theme
    assert page.evaluate(LOOK) + tab.noise == []
    weight = page.evaluate("performance.getEntries().reduce((sum, e) => sum + (e.encodedBodySize || 0), 0)")
    assert 1e4 < weight < HEAVY, f"{weight} bytes"
