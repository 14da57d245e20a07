"""Which cell checks an equation, and what implements it.

A checking cell begins with `#| checks LABEL... SYMBOL...`. A symbol is a name of the package (`reference.forward`), of
its chapter (`block`), or of torch (`torch.nn.BatchNorm2d`); `-` says that an equation states a fact and that nothing
implements it."""
import ast
import importlib
import json
import re
import sys
from typing import NamedTuple

from settings import root

from gn_nb import _public

EQUATION = r"^\$\$\n(.*?)\n\$\$ \(([\w-]+)\)"


class Equation(NamedTuple):
    label: str
    number: str      # 3.2
    chapter: str     # 03_group_normalization
    cell: int
    formula: str     # LaTeX


class Check(NamedTuple):
    label: str
    chapter: str
    cell: int
    symbols: tuple


def chapters(folder):
    "{name: cells} of the numbered notebooks; a cell is (kind, source, tags)."
    def cells(path):
        return [(c["cell_type"], "".join(c["source"]), c["metadata"].get("tags", []))
                for c in json.loads(path.read_text(encoding="utf-8"))["cells"]]
    return {p.stem: cells(p) for p in sorted(folder.glob("[0-9]*.ipynb"))}


def equations(books):
    "Every numbered equation, in the order and with the numbers of the book."
    found = []
    for name, cells in books.items():
        of_chapter = [(k, m) for k, (kind, source, _) in enumerate(cells) if kind == "markdown"
                      for m in re.finditer(EQUATION, source, re.M | re.S)]
        found += [Equation(m[2], f"{int(name.split('_')[0])}.{n}", name, k, m[1])
                  for n, (k, m) in enumerate(of_chapter, 1)]
    return found


def declared(source):
    "(labels, symbols) of the `checks` lines that a cell begins with."
    for line in source.splitlines():
        if not line.startswith("#|"): return
        words = line[2:].split()
        if words and words[0] == "checks":
            labels = [w for w in words[1:] if re.fullmatch(r"[a-z]\w*(-\w+)+", w)]
            yield labels, tuple(w for w in words[1:] if w not in labels)


def checks(books):
    return [Check(label, name, k, symbols) for name, cells in books.items() for k, (kind, source, _) in enumerate(cells)
            if kind == "code" for labels, symbols in declared(source) for label in labels]


def tree(source):
    "The syntax of a cell; what only IPython reads is left out."
    return ast.parse(re.sub(r"^(\s*)%.*", r"\1pass", source, flags=re.M))


def assigned(node):
    "Names that a statement at the top of a cell defines."
    if isinstance(node, ast.FunctionDef | ast.ClassDef): return {node.name}
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def mentioned(node):
    return {n.id if isinstance(n, ast.Name) else n.attr for n in ast.walk(node)
            if isinstance(n, ast.Name | ast.Attribute)}


def reached(books, chapter, cell):
    "Syntax trees of a cell and of what it uses of the chapter so far, at any remove."
    at, definitions = tree(books[chapter][cell][1]), {}
    for kind, source, tags in books[chapter][:cell]:
        if kind == "code" and "colab" not in tags:
            for node in tree(source).body:
                for name in assigned(node): definitions[name] = node
    trees, todo, done = [at], [*mentioned(at)], set()
    while todo:
        if (name := todo.pop()) in done: continue
        done.add(name)
        if name in definitions:
            trees.append(definitions[name])
            todo += mentioned(definitions[name])
    return trees


def asserts(trees):
    "Does a cell, the first of `trees`, or a function that it calls fail when something is not so?"
    trees = [t for k, t in enumerate(trees) if not k or isinstance(t, ast.FunctionDef)]
    return any(isinstance(n, ast.Assert) or (isinstance(n, ast.Name) and n.id in ("assert_close", "must_raise"))
               for t in trees for n in ast.walk(t))


def modules(cells):
    "For each cell of a chapter the module that it is exported to, or None."
    default = next((m[1] for _, source, _ in cells if (m := re.match(r"#\|\s*default_exp (\S+)", source))), None)
    for kind, source, _ in cells:
        export = re.match(r"#\|\s*export\b[ ]*(\S*)$", source, re.M) if kind == "code" else None
        yield (export[1] or default) if export else None


def homes(books):
    "{reference.forward: (chapter, cell)} of all that the notebooks export."
    found = {}
    for name, cells in books.items():
        for k, module in enumerate(modules(cells)):
            if not module: continue
            for node in tree(cells[k][1]).body:
                for n in assigned(node): found.setdefault(f"{module}.{n}", (name, k))
    return found


def meanings(cells, cell):
    "{name: gn_nb.reference.forward or torch.nn} of what a cell finds imported or exported; what is local is itself."
    meant = {}
    for (kind, source, tags), module in zip(cells[:cell + 1], modules(cells)):
        if kind != "code" or "colab" in tags: continue
        for node in tree(source).body:
            if isinstance(node, ast.Import):
                meant |= {a.asname: a.name for a in node.names if a.asname}
                meant |= {top: top for a in node.names if not a.asname and (top := a.name.split(".")[0])}
            elif isinstance(node, ast.ImportFrom):
                meant |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
            else: meant |= {name: f"gn_nb.{module}.{name}" if module else name for name in assigned(node)}
    return meant


def resolved(trees, meant):
    "What the names in `trees` stand for, in full; `gn_nb.GroupNorm` is found where the package has it from."
    found = set()
    for node in (n for t in trees for n in ast.walk(t)):
        path = []
        while isinstance(node, ast.Attribute): path, node = [node.attr, *path], node.value
        if not isinstance(node, ast.Name): continue
        name = ".".join([meant.get(node.id, node.id), *path])
        public = _public.get(name.removeprefix("gn_nb.")) if name.startswith("gn_nb.") else None
        found.add(name.replace("gn_nb.", f"gn_nb.{public}.", 1) if public else name)
    return found


def locals_of(books, chapter):
    return {n for kind, source, tags in books[chapter] if kind == "code" and "colab" not in tags
            for node in tree(source).body if isinstance(node, ast.FunctionDef | ast.ClassDef) for n in assigned(node)}


def exists(name):
    "Is this a name of torch?"
    try:
        *path, last = name.split(".")
        return hasattr(importlib.import_module(".".join(path)), last)
    except ImportError: return False


def anchor(kind, *names): return re.sub(r"[^a-z0-9]+", "-", "-".join((kind, *names)).lower()).strip("-")


def check_anchor(c): return anchor("check", c.label, c.chapter.split("_")[0], str(c.cell))


def quantities(formula):
    r"A formula cut at each `\qquad` that stands in no braces and in no environment."
    parts, depth = [""], 0
    for token in re.findall(r"\\(?:begin|end)\{\w+\*?\}|\\[A-Za-z]+|\\.|.", formula, re.S):
        depth += token in ("{", r"\left") or token.startswith(r"\begin")
        depth -= token in ("}", r"\right") or token.startswith(r"\end")
        if token == r"\qquad" and not depth: parts.append("")
        else: parts[-1] += token
    return [part.strip() for part in parts]


def in_line(formula):
    "A formula as inline mathematics: one quantity a line, without the punctuation of the sentence that it ends."
    formula = re.sub(r"\s+", " ", formula).strip()
    ending = re.search(r"\s*(\\end\{(?:gathered|aligned)\})?$", formula)
    body = re.sub(r"(?:\s|(?<!\\)[.,:;])+$", "", formula[:ending.start()])
    body = re.sub(r"(\\text\{[^{}]*?)[\s.,:;]+\}$", r"\1}", body)
    formula = f"{body} {ending[1]}" if ending[1] else body
    inner = re.fullmatch(r"\\begin\{gathered\} (.*) \\end\{gathered\}", formula)
    parts = quantities(inner[1] if inner else formula)
    return r"\begin{gathered} " + r" \\ ".join(parts) + r" \end{gathered}" if inner or len(parts) > 1 else formula


class Index:
    "What is declared in the chapters, read once."
    def __init__(self, books):
        self.books, self.equations, self.exported = books, equations(books), homes(books)
        own = {(chapter, s.rsplit(".", 1)[1]): s for s, (chapter, _) in self.exported.items()}
        self.checks = [c._replace(symbols=tuple(own.get((c.chapter, s), s) for s in c.symbols)) for c in checks(books)]

    def of(self, label): return [c for c in self.checks if c.label == label]

    def problems(self):
        "What is missing or untrue in the declarations, one sentence each."
        known = {e.label: e for e in self.equations}
        for e in self.equations:
            if not self.of(e.label): yield f"{e.chapter}: no cell checks ({e.label})"
        for c in self.checks:
            where = f"{c.chapter}, the cell that checks {c.label}"
            if not (e := known.get(c.label)): yield f"{where}: there is no such equation"; continue
            if (c.chapter, c.cell) <= (e.chapter, e.cell): yield f"{where}: it stands before the equation"
            if not c.symbols: yield f"{where}: it names nothing that implements it; `-` if nothing does"
            trees = reached(self.books, c.chapter, c.cell)
            if not asserts(trees): yield f"{where}: it asserts nothing"
            meant = meanings(self.books[c.chapter], c.cell)
            names = resolved(trees, meant)
            for s in c.symbols:
                if s == "-": continue
                if s.startswith("torch."): there = exists(s)
                else: there = s in (self.exported if "." in s else locals_of(self.books, c.chapter))
                if not there: yield f"{where}: there is no {s}"
                elif self.full_name(s, c.chapter, meant) not in names: yield f"{where}: it does not use {s}"

    def full_name(self, s, chapter, meant):
        "A symbol as `resolved` writes it; a name without a module is the chapter's own, exported or not."
        if s in self.exported: return f"gn_nb.{s}"
        exported = meant.get(s, s).removeprefix("gn_nb.")
        return f"gn_nb.{exported}" if self.exported.get(exported, ("",))[0] == chapter else s

    def heading(self, chapter, cell):
        "The heading that a cell stands under."
        return next(m[-1] for kind, source, _ in self.books[chapter][cell::-1]
                    if kind == "markdown" and (m := re.findall(r"^#+ (.*)", source, re.M)))

    def check_link(self, c, chapter):
        "A link to a checking cell, as seen from the table of `chapter`."
        place = "" if c.chapter == chapter else f"chapter {int(c.chapter.split('_')[0])}, "
        return f"{place}[{self.heading(c.chapter, c.cell)}](#{check_anchor(c)})"

    def symbol_link(self, s):
        if s in self.exported: return f"[`{s}`](#{anchor('symbol', s)})"
        return f"`{s}`" if "." in s else f"`{s}`, in the chapter"

    def page(self):
        "The page of equations, in Markdown: a section for each chapter, an entry for each equation."
        out, chapter = [], None
        for e in self.equations:
            if e.chapter != chapter:
                chapter = e.chapter
                out += ["", f"## {self.heading(chapter, 0)}"]
            mine = self.of(e.label)
            where = " and ".join(self.check_link(c, chapter) for c in mine)
            what = ", ".join(dict.fromkeys(self.symbol_link(s) for c in mine for s in c.symbols if s != "-"))
            what = f"implemented by {what}" if what else "a fact"
            out += ["", f"{{eq}}`{e.label}` ${in_line(e.formula)}$", f": checked in {where} · {what}"]
        return "\n".join(out) + "\n"

    def annotation(self, chapter, cell):
        "Markdown to stand before a code cell: anchors that lead to it, and which equations it checks or implements."
        here = [c for c in self.checks if (c.chapter, c.cell) == (chapter, cell)]
        symbols = [s for s, home in self.exported.items() if home == (chapter, cell)]
        behind = [c for c in self.checks if {*c.symbols} & {*symbols}]
        anchors = [*map(check_anchor, here),
                   *(anchor("symbol", s) for s in symbols if any(s in c.symbols for c in behind))]
        words = [f"{verb} {', '.join(dict.fromkeys(f'{{eq}}`{c.label}`' for c in found))}"
                 for verb, found in (("checks", here), ("implements", behind)) if found]
        return "\n".join([*(f"({a})=" for a in anchors), f"[{'; '.join(words)}]{{.gn-checks}}"]) if anchors else None


if __name__ == "__main__":
    found = [*Index(chapters(root/"nbs")).problems()]
    print(*found, sep="\n")
    sys.exit(bool(found))
