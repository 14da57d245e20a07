"What a built page must not have: a traceback, directives, raw numbers, other hosts, dead links, nameless figures."
import re
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup
from settings import root, settings

LOADS = dict.fromkeys(("script", "img", "iframe", "source", "video", "audio", "embed"), "src")
BASE = settings()["doc_baseurl"] + "/"
PASSIVE = {"canonical", "search", "next", "prev", "author", "index", "edit"}   # link relations that load nothing


def is_foreign(address): return bool(urlsplit(address).netloc)


def page_problems(page, text, ids, site):
    "The problems of one page; ids: {page: set of its anchors} of the whole site, a folder."
    soup = BeautifulSoup(text, "html.parser")
    for tag, attribute in LOADS.items():
        for node in soup.find_all(tag):
            if is_foreign(node.get(attribute) or ""): yield f"loads from another host: {node[attribute]}"
    for node in soup.find_all("link"):
        if not PASSIVE & set(node.get("rel", [])) and is_foreign(node.get("href") or ""):
            yield f"loads from another host: {node['href']}"
    for node in soup.find_all("style"):
        for address in re.findall(r"(?:url\(|@import)\s*['\"]?([^'\")\s;]+)", node.text):
            if is_foreign(address): yield f"loads from another host: {address}"
    for node in soup.find_all("img"):
        if not (node.get("alt") or "").strip(): yield f"image without alt text: {node.get('src', '')[:80]}"
        elif re.fullmatch(r"\.*/*_images/\S+", node["alt"].strip()): yield f"file name as alt text: {node['alt']}"
    for node in soup.select("figure svg"):
        node = node.find_parent(attrs={"role": "img"}) or node           # a picture may be of several
        if not (node.get("role") == "img" and (node.get("aria-label") or "").strip()): yield "figure without a label"
    article = soup.select_one("article") or soup
    for node in article.select("div.output.traceback, div.cell_output .stderr, div.output.stderr"):
        yield f"traceback or stderr: {node.get_text()[:80]!r}"
    for node in article.select("div.output.text_plain pre"):
        raw = re.search(r"np\.\w+\(|\d\.\d{9,}", node.get_text())
        if raw: yield f"a number as it is stored, not as it is read: {raw[0]}"
    for node in article.select("div.highlight pre"):
        if re.search(r"^#\|", node.get_text(), re.M): yield "an nbdev directive is shown"
    for node in soup.find_all("a", href=True):
        address = urlsplit(node["href"])
        if address.scheme or address.netloc: continue
        place = unquote(address.path)
        if place.startswith(BASE): place = site/place.removeprefix(BASE)           # from the top of the published site
        target = (page.parent/place).resolve() if address.path else page
        if target.is_dir(): target /= "index.html"
        if not target.exists(): yield f"dead link: {node['href']}"
        elif address.fragment and target in ids and unquote(address.fragment) not in ids[target]:
            yield f"dead anchor: {node['href']}"


def problems(site):
    "Every problem of every page under `site`, as `page: problem`."
    pages = {page.resolve(): page.read_text(encoding="utf-8") for page in sorted(Path(site).rglob("*.html"))
             if "_static" not in page.parts and "_sources" not in page.parts}
    ids = {page: set(re.findall(r"""\b(?:id|name)=["']([^"']+)""", text)) | {"", "top"} for page, text in pages.items()}
    top = Path(site).resolve()
    found = [f"{page.relative_to(top)}: {problem}"
             for page, text in pages.items() for problem in dict.fromkeys(page_problems(page, text, ids, top))]
    return found if pages else [f"{site}: no pages"]


if __name__ == "__main__":
    found = problems(root/"_build/html")
    print(*found, sep="\n")
    sys.exit(bool(found))
