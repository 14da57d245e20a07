"The book in one piece, from the pages that `make book` has executed: one page of HTML, a PDF of it, an EPUB."
import shutil
import sys

from browser import MISSING, chromium
from build import sphinx
from settings import root, settings

BUILD = root/"_build"
FRONT = "nbs/index"                        # the root of _toc.yml
ONEPAGE, PDF, EPUB = BUILD/"singlehtml", BUILD/"pdf/book.pdf", BUILD/"epub/book.epub"


def onepage():
    "The whole book on one page, with what it needs beside it. Its path, or None if the build failed."
    shutil.rmtree(ONEPAGE, ignore_errors=True)
    if sphinx("-q", "--builder", "singlehtml"): return None
    return shutil.move(ONEPAGE/f"{FRONT}.html", ONEPAGE/"index.html")     # where its own addresses lead from


def epub():
    "The book as an EPUB. Its path, or None if the build failed."
    if not chromium(): sys.exit(f"an EPUB's formulas are set by a browser, and there is {MISSING}")
    shutil.rmtree(EPUB.parent, ignore_errors=True)
    return None if sphinx("-q", "--builder", "custom", "--custom-builder", "epub") else EPUB


def pdf(
    source=None,  # path of a page; by default the whole book on one
    to=PDF,
):
    "A page as the browser prints it. Its path, or None if the build failed."
    from playwright.sync_api import sync_playwright
    if not chromium(): sys.exit(f"a PDF is printed by a browser, and there is {MISSING}")
    source = source or onepage()
    if not source: return None
    to.parent.mkdir(exist_ok=True)
    foot = '<div style="width:100%;text-align:center;font:8pt sans-serif"><span class="pageNumber"></span></div>'
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium())
        page = browser.new_page()
        page.set_default_timeout(600_000)
        page.goto(source.as_uri(), wait_until="load")
        page.evaluate("() => window.MathJax?.startup?.promise")
        page.pdf(path=to, format="A4", outline=True, tagged=True, display_header_footer=True, footer_template=foot,
                 header_template="<i></i>", margin=dict(top="18mm", bottom="18mm", left="16mm", right="16mm"))
        browser.close()
    return to


if __name__ == "__main__":
    made = {"onepage": onepage, "pdf": pdf, "epub": epub}[sys.argv[1]]()
    if made: print(f"{settings()['title']}: {made} ({made.stat().st_size/1e6:.1f} MB)")
    sys.exit(not made)
