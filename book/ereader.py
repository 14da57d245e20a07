"""Sphinx extension: what an EPUB needs and a page of HTML does not. Its pages are XML, no script runs in them, and a
formula is MathML. A browser that has MathJax turns a page into all that. And links to other pages, within outputs."""
import re
from pathlib import Path

from browser import chromium
from settings import root

PAGE = f"<script src='{(root/'book/static/mathjax/tex-chtml.js').as_uri()}'></script>"
# formulas by MathJax's own TeX, solutions open, code of figures and checkers and all that reacts away, HTML as XML
TO_XML = r"""html => {
  const body = new DOMParser().parseFromString(html, "text/html").body;
  for (const e of body.querySelectorAll("span.math, div.math")) {
    const display = e.matches("div"), number = e.querySelector(".eqno");
    const tex = e.textContent.replace(number?.textContent ?? "", "").trim().replace(/^\\[\[(]|\\[\])]$/g, "");
    const math = new DOMParser().parseFromString(MathJax.tex2mml(tex, {display}), "text/html").body.firstElementChild;
    e.replaceChildren(...(number ? [number] : []), math);
  }
  const gone = "script, form, button, .gn-live, .gn-quiz :is(input, [aria-live], [hidden]), .headerlink, "
    + "div.cell:not(.tag_solution) details.hide";
  for (const e of body.querySelectorAll(gone)) e.remove();
  for (const e of body.querySelectorAll("details")) e.open = true;
  for (const e of body.querySelectorAll("a[href]"))
    e.setAttribute("href", e.getAttribute("href").replace(/^(\w+)\.html(#|$)/, "$1.xhtml$2"));
  return [...body.childNodes].map(e => new XMLSerializer().serializeToString(e)).join("");
}"""


class Reader:
    "A browser with a page that has MathJax, started for the first page that needs it."
    page = None

    def xml(self, html):
        if not self.page:
            from playwright.sync_api import sync_playwright
            self.driver = sync_playwright().start()
            self.browser = self.driver.chromium.launch(executable_path=chromium())
            self.page = self.browser.new_page()
            here = Path(root/"_build/mathjax.html"); here.write_text(PAGE)
            self.page.goto(here.as_uri())
            self.page.evaluate("() => MathJax.startup.promise")
        return self.page.evaluate(TO_XML, html)

    def close(self):
        if self.page: self.browser.close(); self.driver.stop(); self.page = None


READER = Reader()


def convert(app, pagename, templatename, context, doctree):
    if app.builder.name == "epub" and "body" in context: context["body"] = READER.xml(context["body"])
    if app.builder.name == "singlehtml" and "body" in context:              # where a heading may stand in two chapters
        context["body"] = re.sub(r'<a href="\w+\.html#[\w-]+">(.*?)</a>', r"\1", context["body"])


def plain(app):
    "Nothing is launched from an e-reader, and it needs no MathJax."
    if app.builder.name != "epub": return
    app.config.html_theme_options.pop("launch_buttons", None)
    static = root/"book/static"
    app.config.epub_exclude_files = [f"_static/{p.relative_to(static)}" for p in (static/"mathjax").rglob("*")]


def setup(app):
    app.connect("builder-inited", plain)
    app.connect("html-page-context", convert, priority=990)
    app.connect("build-finished", lambda app, exception: READER.close())
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
