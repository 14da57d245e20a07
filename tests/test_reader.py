"What helps the reader: equations with their checks, the glossary, the questions at the end of a chapter."
import ast
import re
from types import SimpleNamespace

import equations
import extension
import glossary
import paths
import pytest
from bs4 import BeautifulSoup
from equations import Index, chapters
from settings import root
from test_notebooks import BOOKS, LABEL, code, namespace, prose, tags

from gn_nb.lab.quiz import Quiz, quiz

pytestmark = pytest.mark.quick
INDEX = Index(chapters(root/"nbs"))
TERMS = glossary.terms(glossary.read(root/"nbs"))
ASKING = [name for name in BOOKS if re.match(r"\d\d_", name) and int(name[:2]) <= 15]      # chapters with questions


def markdown(name): return [source for kind, source, _ in INDEX.books[name] if kind == "markdown"]


class TestEquations:
    def test_every_equation_has_a_check_that_can_fail_and_a_symbol_that_exists(self):
        assert [*INDEX.problems()] == []
        assert len(INDEX.equations) > 100

    def test_none_is_overlooked(self):
        "Another way of finding equations finds the same ones."
        for name in INDEX.books:
            assert [e.label for e in INDEX.equations if e.chapter == name] == re.findall(LABEL, prose(name))

    def book(self, *cells, checks="#| checks one-sum double\n", **more):
        "A chapter of one equation and one check, put together from parts that can be spoiled."
        parts = dict(equation="$$\nb = 2a\n$$ (one-sum)", definition="def double(a): return 2*a",
                     check=f"{checks}assert double(1) == 2") | more
        parts = [("markdown", "# 3. Title", []), ("markdown", parts["equation"], []), ("code", parts["definition"], []),
                 ("markdown", "## Section", []), ("code", parts["check"], [])]
        return Index({"03_x": [*parts, *cells]})

    def test_a_sound_chapter_has_no_problem(self): assert [*self.book().problems()] == []

    @pytest.mark.parametrize("more, found", [
        (dict(check="assert double(1) == 2"), "no cell checks (one-sum)"),
        (dict(checks="#| checks one-sum\n"), "names nothing that implements it"),
        (dict(checks="#| checks one-sum half\n"), "there is no half"),
        (dict(checks="#| checks one-sum testing.half\n"), "there is no testing.half"),
        (dict(checks="#| checks one-sum torch.nn.Half\n"), "there is no torch.nn.Half"),
        (dict(checks="#| checks one-sum double\n#| checks two-sum double\n"), "no such equation"),
        (dict(check="#| checks one-sum double\ndouble(1)"), "asserts nothing"),
        (dict(check="#| checks one-sum double\nassert 1 + 1 == 2"), "does not use double"),
        (dict(definition="#| checks one-sum double\nassert 1"), "there is no double"),
        (dict(equation="# none", checks="#| checks one-sum double\n"), "no such equation")])
    def test_each_problem_is_seen(self, more, found): assert any(found in p for p in self.book(**more).problems())

    def test_a_check_before_its_equation_is_seen(self):
        late = self.book(("markdown", "$$\nc\n$$ (two-sum)", []), checks="#| checks one-sum two-sum double\n")
        assert ["stands before" in p for p in late.problems()] == [True]

    def test_a_check_may_assert_in_a_function(self):
        "What a cell calls counts, at any remove."
        judge = "def double(a): return 2*a\ndef inner(): assert double(1) == 2\ndef judge(): inner()"
        assert [*self.book(definition=judge, check="#| checks one-sum double\njudge()").problems()] == []

    @pytest.mark.parametrize("code, symbol, same", [
        ("from gn_nb.reference import double\nassert double(1) == 2", "reference.double", True),
        ("from gn_nb.cpu import double\nassert double(1) == 2", "reference.double", False),
        ("from gn_nb import reference\nassert reference.double(1) == 2", "reference.double", True),
        ("from gn_nb import cpu, reference\nassert cpu.double(1) == 2", "reference.double", False),
        ("import gn_nb.reference as r\nassert r.double(1) == 2", "reference.double", True),
        ("from gn_nb.reference import double as twice\nassert twice(1) == 2", "reference.double", True),
        ("def double(a): return 2*a\nassert double(1) == 2", "reference.double", False),
        ("assert thing.double(1) == 2", "reference.double", False),
        ("from gn_nb import merge\nassert merge(1)", "distributed.merge", True),
        ("from gn_nb.reference import merge\nassert merge(1)", "distributed.merge", False),
        ("from torch import nn\nassert nn.ReLU()", "torch.nn.ReLU", True),
        ("from mine import nn\nassert nn.ReLU()", "torch.nn.ReLU", False),
        ("def own(a): return a\nassert own(1)", "own", True),
        ("def own(a): return a\nassert thing.own(1)", "own", False)])
    def test_a_name_means_what_the_chapter_imported(self, code, symbol, same):
        "A function of the same name from another module is not what implements the equation."
        def module(name, f):
            return [("code", f"#| default_exp {name}", []), ("code", f"#| export\ndef {f}(a): return 2*a", [])]
        books = {"01_a": module("reference", "double"), "02_b": module("cpu", "double"),
                 "03_c": module("distributed", "merge"), "04_d": [
                     ("markdown", "$$\nb = 2a\n$$ (one-sum)", []), ("code", f"#| checks one-sum {symbol}\n{code}", [])]}
        assert [*Index(books).problems()] == ([] if same else [
            f"04_d, the cell that checks one-sum: it does not use {symbol}"])

    def test_page_and_notes_link_both_ways(self):
        page, index = INDEX.page(), INDEX
        for e in index.equations: assert f"{{eq}}`{e.label}`" in page
        targets = re.findall(r"\]\(#([\w-]+)\)", page)
        notes = "\n".join(note for name, cells in index.books.items() for k in range(len(cells))
                          if (note := index.annotation(name, k)))
        anchors = re.findall(r"^\(([\w-]+)\)=$", notes, re.M)
        assert len(anchors) == len({*anchors}) and {*targets} == {*anchors}
        assert "checks {eq}`gn-merge`" in notes and "implements {eq}`gn-merge`" in notes

    def test_a_bare_name_that_its_chapter_exports_is_linked(self):
        "And one that only stands in the chapter is not."
        made = self.book(definition="#| export lab.twice\ndef double(a): return 2*a")
        assert [c.symbols for c in made.checks] == [("lab.twice.double",)] and [*made.problems()] == []
        assert "(#check-one-sum-03-4) · implemented by [`lab.twice.double`](#symbol-lab-twice-double)" in made.page()
        assert " · implemented by `double`, in the chapter" in self.book().page()

    @pytest.mark.parametrize("formula, shown", [
        ("a = b ,", "a = b"), (r"\begin{gathered} a\\ b . \end{gathered}", r"\begin{gathered} a\\ b \end{gathered}"),
        (r"a, \qquad b.", r"\begin{gathered} a, \\ b \end{gathered}"), (r"\text{per image,}", r"\text{per image}"),
        (r"\{a \qquad b\}\,", r"\begin{gathered} \{a \\ b\}\, \end{gathered}"), (r"{a \qquad b}", r"{a \qquad b}"),
        (r"\begin{cases} a \qquad b \end{cases}", r"\begin{cases} a \qquad b \end{cases}"),
        (r"\begin{aligned} a &= b \qquad c \end{aligned}", r"\begin{aligned} a &= b \qquad c \end{aligned}")])
    def test_formulas_on_the_page_of_equations(self, formula, shown):
        "Without the punctuation of the sentence they stood in, and one quantity a line."
        assert equations.in_line(formula) == shown

    def test_the_build_stops_when_an_equation_has_no_check(self, monkeypatch):
        monkeypatch.setattr(extension, "chapters", lambda folder: self.book(check="assert double(1) == 2").books)
        config = SimpleNamespace(html_theme_options={})
        with pytest.raises(extension.ExtensionError, match=r"no cell checks \(one-sum\)"):
            extension.configure(SimpleNamespace(), config)


class TestGlossary:
    def test_terms(self):
        names = [t.name.lower() if not t.symbols else t.name for t in TERMS]
        assert len(names) == len({*names}) > 30
        for t in TERMS: assert t.meaning.endswith(".") and len(t.meaning) > 10, t.name

    @pytest.mark.parametrize("term", TERMS, ids=lambda t: t.name)
    def test_every_term_is_used_and_each_chapter_links_its_first_use(self, term):
        used = [name for name in INDEX.books if term in glossary.of_chapter(TERMS, name)
                and any(glossary.uses(term, s) for s in markdown(name))]
        assert used, "no chapter uses it"
        for name in used:
            before, after = markdown(name), glossary.link(markdown(name), glossary.of_chapter(TERMS, name))
            first = next(k for k, s in enumerate(before) if glossary.uses(term, s))
            link = f"{{term}}`{term.name}`" if term.symbols else f" <{term.name}>`"
            where = [k for k, s in enumerate(after) if link in s]
            assert len(where) == 1 and after[where[0]].count(link) == 1
            if term.symbols: assert where[0] <= first or after[where[0]].startswith(glossary.OPENING)
            else: assert where[0] == first

    @pytest.mark.parametrize("formula, symbol, found", [
        (r"\frac{1}{NS}", "N", True), (r"\frac{1}{NS}", "S", True), (r"\mathcal S_i", "S", False),
        (r"k \in \mathcal S_i", r"\mathcal S", True), (r"\mathcal{S}", r"\mathcal S", True), ("M_2", "M", False),
        ("M_{2,a}", "M_2", False), ("M_2 = M", "M", True), (r"\text{N}", "N", False),
        (r"\operatorname{GN}(x)", "N", False),
        (r"\mu_c", r"\mu", True), (r"\hat x_i", r"\hat x", True), (r"S_{\text{eff}}", "S", False),
        (r"S_{\mathrm{eff}}", r"S_{\text{eff}}", True), ("D = C/G", "D", True), (r"D_0", "D", False),
        ("x_{ncp}", "x", True), ("x_i", "x", True), ("L_n", "L", True), ("L_1", "L", False), ("S_w^2", "S", False),
        (r"\mu_B", "B", False), (r"\mu_B B", "B", True), ("x_k - K", "K", True), (r"\mu_{nB}", "B", False),
        (r"\operatorname{GN}_{G=C}", "C", True),
        (r"\text{scale}_{\lfloor c/D \rfloor}", "D", True), (r"\bar m_g", "m", False), ("m_j", "m", True),
        (r"\hat A/b", "A", False), (r"\bar A", r"\bar A", True), ("m_c", "m_c", True), (r"i_N", "N", False)])
    def test_symbols_in_formulas(self, formula, symbol, found):
        assert glossary.holds(formula, tuple(glossary.tokens(symbol))) is found

    def test_one_entry_is_not_another_with_an_index(self):
        m, mean = glossary.terms(":::{glossary}\nm\n  $m$, a count.\n\nm_c\n  $m_c$, a mean.\n:::\n")
        assert [glossary.in_formula(t, "m_c") for t in (m, mean)] == [False, True]
        assert [glossary.in_formula(t, "m_j + m_c") for t in (m, mean)] == [True, True]

    def test_links_stay_out_of_code_formulas_and_links(self):
        shard = next(t for t in TERMS if t.name == "shard")
        for cell in ("# Shards", "`shard`", "$shard$", "[shard](x.md)", "> shard", "| shard |", "```\nshard\n```",
                     "sharded", "{term}`shard`", "<b title=shard>"):
            assert not glossary.uses(shard, cell), cell
        cell, = glossary.link(["`shard`, [a shard](b), and two *Shards*: shard"], TERMS)
        assert cell == "`shard`, [a shard](b), and two *{term}`Shards <shard>`*: shard"

    def test_every_letter_that_two_chapters_share_is_explained(self):
        "It is an entry, or the table has the chapters; and what the table says is of letters that are there."
        known = {"".join(symbol) for t in TERMS for symbol in t.symbols}
        table, shared = glossary.otherwise(glossary.read(root/"nbs")), {}
        for e in INDEX.equations:
            for letter in glossary.letters(e.formula):
                letter = letter if letter in known else letter.split("_")[0]
                shared.setdefault(letter, set()).add(glossary.number(e.chapter))
        missing = {letter: found - table.get(letter, set()) for letter, found in shared.items()
                   if len(found) > 1 and letter not in known}
        assert len(shared) > 50 and {letter: sorted(rest) for letter, rest in missing.items() if rest} == {}
        written = {glossary.number(name): {letter.split("_")[0] for s in markdown(name) for f in glossary.formulas(s)
                                           for letter in glossary.letters(f)} for name in INDEX.books}
        assert {letter: rest for letter, chapters in table.items()
                if (rest := [n for n in chapters if letter not in written[n]])} == {}

    def test_a_letter_is_not_linked_where_it_means_something_else(self):
        text = ":::{glossary}\nb\n  $b$, a batch.\n:::\n\n| $b$ | 3, 90: blue; 12: a shift |\n"
        term, = known = glossary.terms(text)
        assert term.otherwise == {3, 12, 90}
        assert glossary.of_chapter(known, "05_x") == known == glossary.of_chapter(known, "index")
        assert glossary.of_chapter(known, "03_x") == glossary.of_chapter(known, "90_x") == []
        cells = [("markdown", "$b$", [])]
        assert glossary.first_uses({"03_x": cells, "05_x": cells}, known) == {"b": ("05_x", None)}
        with pytest.raises(ValueError, match="named twice"): glossary.otherwise("| $b$ | 3: blue; 3, 4: red |")

    def test_first_uses_are_told(self):
        page = glossary.page(glossary.read(root/"nbs"), INDEX.books)
        assert page.count("First in [chapter") == len(TERMS)
        assert "First in [chapter 3](03_group_normalization.ipynb), {eq}`gn-moments`." in page


class TestQuiz:
    def found(self, name):
        "The quiz of a chapter, made by its cell with the chapter's imports and exports alone."
        cells = [c for c in code(name) if "quiz" in tags(c)]
        assert len(cells) == 1, f"{name}: one cell tagged `quiz`"
        tree, names = ast.parse(cells[0].source), namespace(name) | {"quiz": quiz}
        last = tree.body.pop()
        exec(compile(tree, f"{name}, quiz", "exec"), names)
        return eval(compile(ast.Expression(last.value), f"{name}, quiz", "eval"), names)

    @pytest.mark.parametrize("name", ASKING)
    def test_chapter(self, name):
        shown = self.found(name)
        assert isinstance(shown, Quiz) and len(shown.questions) >= 3
        page = BeautifulSoup(shown._repr_html_(), "html.parser")
        root = page.select_one("div.gn-quiz")
        assert len(root.select("fieldset")) == len(root.select("fieldset > legend")) == len(shown.questions)
        for field in root.select("fieldset"):
            radios = field.select("label > input[type=radio]")
            assert 3 <= len(radios) <= 4 and len({r["name"] for r in radios}) == 1
            assert [r["value"] for r in radios].count("right") == 1
            for label in field.select("label"):
                option, why = label.select("label > span")
                assert option.get_text(strip=True) and "hidden" in why.attrs and len(why.get_text(strip=True)) > 10
            live, = field.select("[aria-live]")
            assert live["aria-live"] == "polite" and not live.get_text()
        assert len(root.select("details li")) == len(shown.questions)                    # what stays without a script
        assert not page.find_all(["img", "link", "iframe"]) and not page.find_all("script", src=True)
        assert not re.search(r"https?:|//\w", str(page).replace(str(page.style), ""))
        names = [i["name"] for i in root.select("input")]
        assert len({*names}) == len(shown.questions)

    def test_ids_and_questions_are_unique_in_the_book(self):
        every = [self.found(name) for name in ASKING]
        assert len({q.id for q in every}) == len(every)
        texts = [text for q in every for text, *_ in q.questions]
        assert len(texts) == len({*texts})

    @pytest.mark.parametrize("name", ASKING)
    def test_answers_are_folded_away_everywhere(self, name):
        cell, = (c for c in code(name) if "quiz" in tags(c))
        assert cell.metadata.cellView == "form" and cell.metadata.jupyter.source_hidden is True        # Colab, Jupyter
        shown, = extension.translate({"cells": [
            {"cell_type": "code", "source": cell.source, "metadata": {"tags": ["quiz"]}}]})["cells"]
        assert "hide-input" in shown["metadata"]["tags"]                                              # the book


class TestPaths:
    def test_tables_of_existing_chapters(self):
        page = paths.page((root/"nbs/paths.md").read_text(encoding="utf-8"), INDEX.books)
        assert "<!--" not in page and page.count("**in all**") == 4
        names = re.findall(r"\((\d\d_\w+)\.ipynb\)", page)
        assert len(names) > 15 and all(name in INDEX.books for name in names)
        with pytest.raises(ValueError): paths.table(["77"], INDEX.books)

    def test_times_are_of_the_chapter(self):
        cells = [("markdown", "w "*2000, []), ("code", "x\n"*50, []), ("code", "x\n"*500, ["colab"]),
                 ("code", "x", ["checker"])]
        assert paths.minutes(cells) == (15, 10)                          # 10 and 2 minutes, rounded up; one exercise
        head = "**After this chapter you can** say $|a|$. More.\n\n**Runs** in two seconds, alone."
        assert paths.opening([("markdown", head, [])]) == (r"say $\vert a\vert $.", "two seconds")
        assert [paths.hours(m) for m in (0, 5, 60, 185)] == ["0 min", "5 min", "1 h", "3 h 5 min"]
        said = ("about a minute on one CPU core", "under a minute on one core", "one to two minutes", "a minute")
        assert [paths.runs(text) for text in said] == ["a minute", "a minute", "one to two minutes", "a minute"]
