"The glossary: which of its symbols and words a chapter uses, and the links from there."
import re
from pathlib import Path
from typing import NamedTuple

FORMULA = re.compile(r"\$\$(.*?)\$\$|(?<![\\$])\$([^$]+)\$", re.S)
TERM = re.compile(r"^(\S.*)\n((?:  .*\n?|\n)+)", re.M)         # a line, and the indented ones below it
# what a word may not be linked inside: code, formulas, links, roles, headings, HTML, tables, quotations
KEEP = re.compile(r"```.*?```|~~~.*?~~~|\$\$.*?\$\$(?: \([\w-]+\))?|\{[\w:]+\}`[^`]*`|`[^`]*`|\$[^$]+\$|"
                  r"!?\[[^\]]*\]\([^)]*\)|<[^>]*>|^#[^\n]*|^\|[^\n]*|^>[^\n]*", re.S | re.M)
OPENING = "**After this chapter you can**"


class Term(NamedTuple):
    name: str       # what stands in the glossary
    meaning: str    # Markdown
    symbol: tuple   # LaTeX tokens; empty for a word


def tokens(formula):
    "LaTeX as a list: commands, letters and signs; text inside a formula is no symbol."
    formula = re.sub(r"_\{?\\(?:text|mathrm)\{(\w+)\}\}?", r"_<\1>", formula)
    formula = re.sub(r"\\(?:text|operatorname|mathrm|begin|end)\*?\{[^}]*\}", " ", formula)
    formula = re.sub(r"\\math(cal|bb|bf)\s*\{?(\w|\\?\d)\}?", r"\\math\1<\2>", formula)
    return re.findall(r"\\math\w+<\w>|_<\w+>|\\[A-Za-z]+|\S", formula)


def terms(text):
    "The entries of the glossary."
    found = []
    for block in re.findall(r"^:::\{glossary\}\n(.*?)^:::", text, re.M | re.S):
        for m in TERM.finditer(block):
            meaning = " ".join(m[2].split())
            symbol = re.match(r"\$([^$]+)\$,", meaning)
            found.append(Term(m[1], meaning, tuple(tokens(symbol[1])) if symbol else ()))
    return found


def formulas(source):
    "The formulas of a Markdown cell, in order; code is not one."
    return [a or b for a, b in FORMULA.findall(re.sub(r"```.*?```|`[^`]*`", " ", source, flags=re.S))]


def holds(formula, symbol):
    "Does the symbol stand in the formula? A single Latin letter with an index is another symbol."
    found, n = tokens(formula), len(symbol)
    for k in range(len(found) - n + 1):
        if tuple(found[k:k + n]) != symbol: continue
        after = found[k + n] if k + n < len(found) else ""
        if n == 1 and symbol[0].isalpha() and after.startswith("_"): continue
        return True
    return False


def word(term): return re.compile(rf"(?<![\w-]){re.escape(term.name)}s?(?![\w-])", re.I)


def plain_parts(source):
    "(text, may a link be put here?) of a cell, one after another."
    at = 0
    for m in KEEP.finditer(source):
        yield source[at:m.start()], True
        yield m[0], False
        at = m.end()
    yield source[at:], True


def uses(term, source):
    "Does a Markdown cell use the term, so that it can be linked?"
    if term.symbol: return any(holds(f, term.symbol) for f in formulas(source))
    return any(free and word(term).search(part) for part, free in plain_parts(source))


def link_word(term, source):
    "A cell with the first use of a word made a link to the glossary."
    parts = [*plain_parts(source)]
    for k, (part, free) in enumerate(parts):
        if free and (m := word(term).search(part)):
            role = f"{{term}}`{m[0]} <{term.name}>`"
            parts[k] = (part[:m.start()] + role + part[m.end():], False)
            return "".join(p for p, _ in parts)


def link(sources, known):
    "The Markdown cells of a chapter with links to the glossary: symbols in its opening, words at their first use."
    sources, used = [*sources], []
    for term in known:
        at = next((k for k, source in enumerate(sources) if uses(term, source)), None)
        if at is None: continue
        if term.symbol: used.append((at, [holds(f, term.symbol) for f in formulas(sources[at])].index(True), term))
        else: sources[at] = link_word(term, sources[at])
    opening = next((k for k, source in enumerate(sources) if source.startswith(OPENING)), None)
    if used and opening is not None:
        used = ", ".join(f"{{term}}`{term.name}`" for _, _, term in sorted(used, key=lambda u: u[:2]))
        sources[opening] += f"\n\n**Symbols** {used}."
    return sources


def first_uses(books, known):
    "{name of a term: (chapter, label of the first equation there that holds it, or None)}; chapters in order."
    found = {}
    for chapter, cells in books.items():
        prose = [source for kind, source, _ in cells if kind == "markdown"]
        for term in known:
            if term.name in found or not any(uses(term, source) for source in prose): continue
            labels = [m[2] for source in prose for m in re.finditer(r"\$\$\n(.*?)\n\$\$ \(([\w-]+)\)", source, re.S)
                      if term.symbol and holds(m[1], term.symbol)]
            found[term.name] = chapter, labels[0] if labels else None
    return found


def page(text, books):
    "The glossary with where each of its entries is first used."
    first = first_uses(books, terms(text))
    def entry(m):
        if m[1] not in first: return m[0]
        chapter, label = first[m[1]]
        where = f"[chapter {int(chapter.split('_')[0])}]({chapter}.ipynb)" + (f", {{eq}}`{label}`" if label else "")
        return f"{m[1]}\n{m[2].rstrip()} First in {where}.\n\n"
    return re.sub(r"(?<=:::\{glossary\}\n).*?(?=^:::)", lambda block: TERM.sub(entry, block[0]), text,
                  flags=re.M | re.S)


def read(folder): return (Path(folder)/"glossary.md").read_text(encoding="utf-8")
