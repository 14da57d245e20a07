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
OTHERWISE = re.compile(r"^\| \$([^$]+)\$ \| (.+) \|$", re.M)         # | $b$ | 0, 6: the second number; 90: blue |
GREEK = ("alpha beta gamma delta epsilon zeta eta theta kappa lambda mu nu xi rho sigma tau phi varphi chi psi omega "
         "Gamma Delta Theta Lambda Phi Psi Sigma Omega").split()
LETTER = re.compile(rf"[A-Za-z]|\\(?:{'|'.join(GREEK)})|\\math\w+<\w>")
ACCENTS = {r"\hat", r"\bar", r"\dot", r"\tilde"}


class Term(NamedTuple):
    name: str       # what stands in the glossary
    meaning: str    # Markdown
    symbols: tuple  # LaTeX, each as tokens; empty for a word
    otherwise: frozenset = frozenset()      # numbers of the chapters in which the letter means something else
    apart: tuple = ()                       # symbols of other entries that begin with it, as m_c with m


def tokens(formula):
    "LaTeX as a list: commands, letters and signs; text inside a formula is no symbol."
    formula = re.sub(r"_(\{)?\\(?:text|mathrm)\{(\w+)\}(?(1)\})", r"_<\2>", formula)
    formula = re.sub(r"\\(?:text|operatorname|mathrm|begin|end)\*?\{[^}]*\}", " ", formula)
    formula = re.sub(r"\\math(cal|bb|bf)\s*(\{)?(\w|\\?\d)(?(2)\})", r"\\math\1<\3>", formula)
    return re.findall(r"\\math\w+<\w>|_<\w+>|\\[A-Za-z]+|\S", formula)


def terms(text):
    "The entries of the glossary."
    found, elsewhere = [], otherwise(text)
    for block in re.findall(r"^:::\{glossary\}\n(.*?)^:::", text, re.M | re.S):
        for m in TERM.finditer(block):
            meaning = " ".join(m[2].split())
            written = re.match(r"\$([^$]+)\$(?: or \$([^$]+)\$)?,", meaning)
            symbols = tuple(tuple(tokens(w)) for w in written.groups() if w) if written else ()
            other = elsewhere.get("".join(symbols[0]), ()) if symbols else ()
            found.append(Term(m[1], meaning, symbols, frozenset(other)))
    every = [symbol for t in found for symbol in t.symbols if len(symbol) > 1]
    return [t._replace(apart=tuple(s for s in every if s[:1] in t.symbols)) for t in found]


def otherwise(text):
    "{letter: numbers of the chapters whose meaning of it a table of the glossary tells}."
    found = {}
    for letter, meanings in OTHERWISE.findall(text):
        numbers = [int(n) for part in re.findall(r"(?:^|; )([\d, ]+): ", meanings) for n in part.split(", ")]
        if len(numbers) != len({*numbers}): raise ValueError(f"{letter}: a chapter is named twice")
        found[tokens(letter)[0]] = {*numbers}
    return found


def number(chapter): return int(chapter.split("_")[0])


def of_chapter(known, chapter):
    "The terms that mean in this chapter what the glossary says."
    return [t for t in known if not (chapter[:2].isdigit() and number(chapter) in t.otherwise)]


def formulas(source):
    "The formulas of a Markdown cell, in order; code is not one."
    return [a or b for a, b in FORMULA.findall(re.sub(r"```.*?```|`[^`]*`", " ", source, flags=re.S))]


def index(found, k):
    "The tokens of the subscript that begins at `found[k]`."
    if k >= len(found) or not found[k].startswith("_"): return []
    if found[k] != "_": return [found[k]]
    return found[k + 2:found.index("}", k)] if found[k + 1] == "{" else found[k + 1:k + 2]


def indices(found):
    "Places of the tokens that are nothing but an index, as B in mu_B; the G of GN_{G=1} is not."
    places = set()
    for k, token in enumerate(found):
        inner = index(found, k)
        if token == "_" and all(t in ",'" or t.isalpha() for t in inner):
            first = k + 1 + (found[k + 1] == "{")
            places |= {*range(first, first + len(inner))}
    return places


def holds(formula, symbol, apart=()):
    """Does the symbol stand in the formula? A Latin letter is another symbol under an accent and with an index, unless
    that only counts samples, channels, positions, values, groups or parts; and no symbol where it is an index."""
    found, n = tokens(formula), len(symbol)
    inside = indices(found)
    for k in range(len(found) - n + 1):
        if tuple(found[k:k + n]) != symbol or any(tuple(found[k:k + len(s)]) == s for s in apart): continue
        if n > 1 or not symbol[0].isalpha(): return True
        named = not {*index(found, k + 1)} <= {*"ncpikjg',"}
        if not (named or k in inside or (k and found[k - 1] in ACCENTS)): return True
    return False


def letters(formula):
    "The letters of a formula, indices among them; one that an index in words makes another symbol has that index."
    found = tokens(formula)
    return {t + (found[k + 1] if found[k + 1:] and found[k + 1].startswith("_<") else "")
            for k, t in enumerate(found) if LETTER.fullmatch(t)}


def word(term): return re.compile(rf"(?<![\w-]){re.escape(term.name)}s?(?![\w-])", re.I)


def plain_parts(source):
    "(text, may a link be put here?) of a cell, one after another."
    at = 0
    for m in KEEP.finditer(source):
        yield source[at:m.start()], True
        yield m[0], False
        at = m.end()
    yield source[at:], True


def in_formula(term, formula): return any(holds(formula, s, term.apart) for s in term.symbols)


def uses(term, source):
    "Does a Markdown cell use the term, so that it can be linked?"
    if term.symbols: return any(in_formula(term, f) for f in formulas(source))
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
        if term.symbols: used.append((at, [in_formula(term, f) for f in formulas(sources[at])].index(True), term))
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
        for term in of_chapter(known, chapter):
            if term.name in found or not any(uses(term, source) for source in prose): continue
            labels = [m[2] for source in prose for m in re.finditer(r"\$\$\n(.*?)\n\$\$ \(([\w-]+)\)", source, re.S)
                      if in_formula(term, m[1])]
            found[term.name] = chapter, labels[0] if labels else None
    return found


def page(text, books):
    "The glossary with where each of its entries is first used."
    first = first_uses(books, terms(text))
    def entry(m):
        if m[1] not in first: return m[0]
        chapter, label = first[m[1]]
        where = f"[chapter {number(chapter)}]({chapter}.ipynb)" + (f", {{eq}}`{label}`" if label else "")
        return f"{m[1]}\n{m[2].rstrip()} First in {where}.\n\n"
    return re.sub(r"(?<=:::\{glossary\}\n).*?(?=^:::)", lambda block: TERM.sub(entry, block[0]), text,
                  flags=re.M | re.S)


def read(folder): return (Path(folder)/"glossary.md").read_text(encoding="utf-8")
