"Chapter 28: a row for every verdict, each with a link to where it comes from; a changed record changes its word."
import json
import pkgutil
import re
from collections import Counter
from importlib import import_module

import nbformat
import numpy as np
import pytest
from conftest import ROOT

import gn_nb.lab
from gn_nb.lab.evidence import check_verdict, verdict_table
from gn_nb.testing import must_raise

SOURCES = {"20_batch_size", "21_small_batches", "22_how_many_groups", "23_what_groups_are", "24_entrance_and_affine",
           "25_regularization", "26_dense_prediction", "27_video"}


def cells(name): return nbformat.read(ROOT/"nbs"/f"{name}.ipynb", 4).cells


def execute(names, *wanted):
    "Run the chapter's code in `names`; of `wanted`, only cells that have one of these words."
    for cell in cells("28_what_readers_asked"):
        if cell.cell_type != "code" or "colab" in cell.metadata.get("tags", []): continue
        if not wanted or any(word in cell.source for word in wanted): exec(cell.source, names)


@pytest.fixture(scope="module")
def chapter():
    "What the chapter's cells define, run beside the records of this repository."
    names = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        execute(names)
    return names


def rows(chapter): return [row for who in (*chapter["SENTENCES"], None) for row in chapter["table_of"](who).rows]


def test_every_verdict_has_one_row(chapter, monkeypatch):
    monkeypatch.chdir(ROOT)
    modules = [import_module(f"gn_nb.lab.{m.name}") for m in pkgutil.iter_modules(gn_nb.lab.__path__)]
    told = [v for m in modules if hasattr(m, "verdicts") for v in m.verdicts()]
    assert {v.chapter for v in told} == SOURCES
    wanted = Counter((f"“{v.claim}”", v.word) for v in told)
    found = Counter((row[0], row[-4]) for row in rows(chapter))
    assert wanted <= found and (found - wanted).total() == 4                    # and this chapter's own four


def test_every_row_leads_to_a_section_that_shows_something(chapter):
    for row in rows(chapter):
        name, anchor = re.fullmatch(r"(\w+)\.html#([a-z0-9-]+)", row[-1].address).groups()
        section, shows = None, {}
        for cell in cells(name):
            if cell.cell_type == "code": shows[section] = shows.get(section, 0) + 1
            elif headings := re.findall(r"^#+ (.+)", cell.source, re.M):
                section = re.sub(r"\W+", "-", headings[-1].lower()).strip("-")
        assert shows.get(anchor, 0) > 0, row[-1].address


def test_what_the_paper_says_stands_beside_the_word(chapter):
    "Small data decide the word, not the paper: a sentence that reports it rightly may not hold here."
    found = {row[0]: row[-4:-2] for row in rows(chapter)}
    of = {part: next(v for claim, v in found.items() if part in claim) for part in (
        "a 10% increase", "as there is more than one group", "per group", "entrance", "a balance point")}
    word, paper = of["a 10% increase"]
    assert word == "does not hold here" and paper.startswith("says so: 10.6 points")
    assert of["as there is more than one group"][1].startswith("says so, but for two channels per group")
    assert of["per group"][1].startswith("says otherwise") and of["entrance"][1] == "does not say"
    assert of["a balance point"][1] == "–"                                      # a reader's own thought
    told = [v for v in chapter["verdicts"] if v.source.startswith("the paper")]
    assert told and all(v.paper for v in told)
    assert all(v.paper for v in chapter["verdicts"] if v.source == "the second summary")
    v = told[0]
    assert verdict_table([v]).rows[0][3] == v.paper and len(verdict_table([v._replace(paper="")]).rows[0]) == 4
    must_raise(ValueError, "paper must begin with one of says so", check_verdict, v._replace(paper="it does"))


def test_samples_are_judged_over_networks(chapter):
    "One network of five below a half does not decide, nor do four above it."
    word = {}
    for name, shares in (("holds", .9), ("does not hold here", .2), ("open", [.9, .85, 1.3, .3, .1])):
        names = chapter | {"worths": np.tile(np.array(shares).reshape(-1, 1)*np.array(chapter["channels"]), (5, 1))[:5]}
        execute(names, "of_samples = Verdict")
        word[name] = names["of_samples"].word
    assert all(name == found for name, found in word.items()) and chapter["of_samples"].because.endswith("mean alone")


def test_a_changed_record_changes_a_word(chapter, tmp_path, monkeypatch):
    "GN in paper mode, made equally good at every b: its word turns, the others stay."
    changed = tmp_path/"results"/"batch-size-paper.jsonl"
    changed.parent.mkdir()
    for path in (ROOT/"results").glob("*.jsonl"):
        if path.name != changed.name: (changed.parent/path.name).symlink_to(path)
    records = [json.loads(line) for line in (ROOT/"results"/changed.name).read_text().splitlines()]
    for r in records:
        if r["config"]["norm"]["name"] == "gn": r["final"]["running"]["test"]["error"] = .06 + .001*r["config"]["seed"]
    changed.write_text("".join(json.dumps(r) + "\n" for r in records))
    before, again = rows(chapter), dict(chapter)
    monkeypatch.chdir(tmp_path)
    execute(again, "MODULES = ", "def table_of")
    words = {b[0]: (b[-4], a[-4]) for b, a in zip(before, rows(again), strict=True) if b[-4] != a[-4]}
    assert words == {"“GN results in the same performance no matter the batch size”": ("does not hold here", "holds")}
