"""Sphinx extension: what the site has for those who come from elsewhere. Each page has a description and a card, the
site a map, a first page that leads on, a page for addresses that do not exist; no page loads what it does not use."""
import re
from html import escape
from xml.etree import ElementTree

from docutils import nodes
from settings import settings

CARD = (1200, 630)        # pixels; what those who show links expect
UNUSED = re.compile(r"thebe")            # live code needs a server, and two copies of its script stop each other
LOST = """<h1>No such page</h1>
<p>The address may be old, or mistyped. <a href="search.html">Search the book</a>, or begin at
<a href="nbs/index.html">its front page</a>, which has the map of chapters.</p>"""


def description(doctree, title):
    "The sentence under a page's title, or else its title and the book's."
    quote = next(doctree.findall(nodes.block_quote), None) if doctree else None
    return " ".join((quote.astext() if quote else f"{title}. {settings()['description']}").split())


def meta(title, text, address):
    "What search engines and those who show links read."
    image = f"{settings()['lib_url']}/_static/card.png"
    found = {"name": {"description": text, "twitter:card": "summary_large_image"},
             "property": {"og:title": title, "og:description": text, "og:type": "article", "og:url": address,
                          "og:site_name": settings()["title"], "og:image": image, "og:image:width": CARD[0],
                          "og:image:height": CARD[1],
                          "og:image:alt": "Blocks of cells, coloured by which cells are normalized together."}}
    return "".join(f'\n    <meta {kind}="{key}" content="{escape(str(value))}" />'
                   for kind, pairs in found.items() for key, value in pairs.items())


def lighten(app, pagename, templatename, context, doctree):
    "A page's description; and away with scripts that it does not use."
    if app.builder.format != "html" or app.builder.name == "epub": return
    address = f"{settings()['lib_url']}/{pagename}.html"
    title = re.sub("<.*?>", "", context.get("title") or settings()["title"])
    context["metatags"] = context.get("metatags", "") + meta(title, description(doctree, title), address)
    def used(file):
        text = f"{getattr(file, 'filename', file)} {getattr(file, 'attributes', {}).get('body', '')}"
        formulas = app.builder.name == "singlehtml" or 'class="math' in context.get("body", "")
        return not UNUSED.search(text.lower()) and (formulas or "mathjax" not in text.lower())
    if app.builder.name == "singlehtml":       # where links to the front page lead; Sphinx marks the other chapters so
        context["body"] = f'<span id="document-{app.config.root_doc}"></span>{context["body"]}'
    for kind in ("script_files", "css_files"): context[kind] = [f for f in context.get(kind, []) if used(f)]


def lost(app):
    "The page that the server shows for an address that does not exist."
    if app.builder.name == "html": yield "404", {"title": "No such page", "body": LOST}, "page.html"


def card(path):
    "The picture that goes with a link to the book: its title and the figure of the front page, drawn here."
    import matplotlib.pyplot as plt
    from matplotlib.patches import Polygon

    from gn_nb.lab.figures import COLORS, cube
    from gn_nb.reference import index_sets
    fig = plt.figure(figsize=(CARD[0]/100, CARD[1]/100), dpi=100, facecolor="white", layout="none")
    ax = fig.add_axes((0, 0, 1, 1), xlim=(0, CARD[0]), ylim=(CARD[1], 0)); ax.axis("off")
    ax.text(70, 140, settings()["title"], fontsize=50, color="#16191d", weight="bold", va="center")
    ax.text(70, 232, "derived, tested and made fast:\na textbook whose notebooks are the package", fontsize=25,
            color="#3d444d", va="center", linespacing=1.4)
    for k, kind in enumerate(("batch", "layer", "instance", "group")):
        x = 70 + 272*k
        faces, *_ = cube(index_sets((4, 8, 5), kind, *[2]*(kind == "group")), x, 370, 24)
        for face in map(ElementTree.fromstring, faces):
            points = [tuple(map(float, p.split(","))) for p in face.get("points").split()]
            ax.add_patch(Polygon(points, facecolor=face.get("fill"), alpha=float(face.get("fill-opacity")), lw=0))
            ax.add_patch(Polygon(points, fill=False, edgecolor="#16191d", lw=.8))
        ax.text(x, 358, kind, fontsize=20, color=COLORS["blue"] if kind == "group" else "#3d444d")
    fig.savefig(path, metadata={"Software": None}); plt.close(fig)


def finish(app, exception):
    "The files beside the pages."
    if exception or app.builder.name != "html": return
    out, cfg = app.builder.outdir, settings()
    card(out/"_static/card.png")
    places = "".join(f"\n  <url><loc>{cfg['lib_url']}/{name}.html</loc></url>" for name in sorted(app.env.found_docs))
    (out/"sitemap.xml").write_text('<?xml version="1.0" encoding="UTF-8"?>\n<urlset xmlns='
                                   f'"http://www.sitemaps.org/schemas/sitemap/0.9">{places}\n</urlset>\n',
                                   encoding="utf-8")
    front = f"{app.config.root_doc}.html"
    (out/"index.html").write_text(
        f'<!DOCTYPE html>\n<html lang="{app.config.language}">\n  <head>\n    <meta charset="utf-8" />\n'
        f'    <title>{cfg["title"]}</title>{meta(cfg["title"], cfg["description"], cfg["lib_url"] + "/")}\n'
        f'    <link rel="canonical" href="{cfg["lib_url"]}/{front}" />\n'
        f'    <link rel="icon" href="_static/favicon.svg" />\n'
        f'    <meta http-equiv="refresh" content="0; url={front}" />\n  </head>\n'
        f'  <body><p><a href="{front}">{cfg["title"]}</a></p></body>\n</html>\n', encoding="utf-8")
    page = out/"404.html"        # shown at any depth, so its own links must not depend on where it is shown
    page.write_text(re.sub(r'\b(href|src|action|data-content_root)="(?![#/]|\w+:)(?:\./)?',
                           rf'\1="{cfg["doc_baseurl"]}/', page.read_text(encoding="utf-8")), encoding="utf-8")


def setup(app):
    app.connect("html-page-context", lighten, priority=950)
    app.connect("html-collect-pages", lost)
    app.connect("build-finished", finish, priority=100)    # before those who would write their own index.html
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
