"The figures that answer: their scripts, run by V8, against gn_nb; labels, fallback, weight; several on one page."
import inspect
import json
import re

import numpy as np
import pytest
from bs4 import BeautifulSoup
from hypothesis import given
from hypothesis import strategies as st
from py_mini_racer import MiniRacer

from gn_nb import cuda, reference
from gn_nb.lab import interactive
from gn_nb.lab.figures import COLORS, contrast
from gn_nb.shapes import sizes
from gn_nb.testing import must_raise

pytestmark = pytest.mark.quick
FIGURES = {"explorer": interactive.explorer(), "kernel": interactive.kernel_view(),
           "tradeoff": interactive.tradeoff(0.6, 0.04, 1.4)}
figure = pytest.mark.parametrize("name", FIGURES)


class Script:
    "The pure part of a figure's script, without a page."
    def __init__(self, shown):
        self.engine = MiniRacer()
        self.engine.eval(f"const core = ({shown.core})({json.dumps(shown.config)}); 0")

    def __call__(self, name, *args):
        given = ", ".join(json.dumps(a) for a in args)
        return json.loads(self.engine.eval(f"JSON.stringify(core.{name}({given}))"))


SCRIPTS = {name: Script(shown) for name, shown in FIGURES.items()}


@st.composite
def explorer_states(draw):
    N, C, S = (draw(st.integers(1, most)) for most in (4, 8, 6))
    at = (draw(st.integers(0, size - 1)) for size in (N, C, S))
    G = sum(C % g == 0 for g in range(1, C + 1))
    return dict(norm=draw(st.sampled_from(reference.NORMS)), N=N, C=C, S=S, G=draw(st.integers(0, G - 1)),
                show=draw(st.sampled_from(["input", "output"])), at=",".join(map(str, at)))


@st.composite
def kernel_states(draw):
    tier = draw(st.integers(0, len(interactive.TIERS) - 1))
    told = FIGURES["kernel"].config["tiers"][tier]
    return dict(tier=str(tier), by=draw(st.sampled_from(["block", "warp", "thread"])),
                step=draw(st.integers(0, len(told["steps"]) - 1)),
                at=draw(st.integers(0, told["N"]*told["across"]*told["down"] - 1)))


STATES = {"explorer": explorer_states(), "kernel": kernel_states(),
          "tradeoff": st.fixed_dictionaries(dict(b=st.integers(0, 11), D=st.integers(0, 5), spread=st.integers(0, 99)))}


def python(name, state):
    "The same state, drawn by Python."
    if name == "explorer": return interactive.Explorer(state)
    view = dict(kernel=interactive.KernelView, tradeoff=interactive.Tradeoff)[name]
    return view(FIGURES[name].config, state)


@figure
def test_script_and_python_draw_the_same(name):
    @given(STATES[name])
    def check(state):
        there, here = SCRIPTS[name], python(name, state)
        assert there("settle", state) == state, "a state that the controls can reach is left alone"
        assert there("text", state) == here.text()
        assert there("draw", state) == here.draw()
    check()


@given(explorer_states())
def test_statistics_of_a_cell(state):
    "From the definition, written once more: neither the script nor the figure's Python is asked."
    shape, at = (state["N"], state["C"], state["S"]), tuple(map(int, state["at"].split(",")))
    G = [g for g in range(1, shape[1] + 1) if shape[1] % g == 0][state["G"]]
    x = np.fromfunction(lambda n, c, p: 3*n + 2*c + p % 4, shape)
    run = dict(batch=reference.batch_norm, layer=reference.layer_norm, instance=reference.instance_norm,
               group=lambda x: reference.group_norm(x, G))[state["norm"]]
    of, D = tuple(np.indices(shape)), shape[1]//G
    mine = x[dict(batch=of[1] == at[1], layer=of[0] == at[0], instance=(of[0] == at[0]) & (of[1] == at[1]),
                  group=(of[0] == at[0]) & (of[1]//D == at[1]//D))[state["norm"]]]
    found = SCRIPTS["explorer"]("numbers", state)
    assert (found["x"], found["count"]) == (x[at], mine.size)
    assert abs(found["mean"] - mine.mean()) < 1e-12
    assert abs(found["std"] - np.sqrt(mine.var() + 1e-5)) < 1e-12
    assert abs(found["output"] - run(x)[at]) < 1e-11


@given(STATES["tradeoff"], st.floats(0.02, 1), st.floats(0, 1), st.sampled_from([4, 6, 32]))
def test_errors_of_estimators(state, A, share, C):
    "The formulas of chapter 5, for other layers too."
    B, sigma2 = share*A, A + 0.8
    shown = interactive.tradeoff(A, B, sigma2, C, D=1)
    state["D"] = state["D"] % sum(C % d == 0 for d in range(1, C + 1))
    found = Script(shown)("numbers", state)
    b, D = interactive.BATCHES[state["b"]], [d for d in range(1, C + 1) if C % d == 0][state["D"]]
    spread = state["spread"]/100
    def mse(D): return spread + B + (A - B - spread)/D
    assert abs(found["batch"]["error"] - A/b) < 1e-14 and found["batch"]["bias2"] == 0
    assert abs(found["group"]["error"] - mse(D)) < 1e-14 and abs(found["layer"]["error"] - mse(C)) < 1e-14
    for one in (found["batch"], found["group"], found["layer"]):
        assert abs(one["bias2"] + one["variance"] - one["error"]) < 1e-15
        assert abs(one["reads"]*sigma2 - (sigma2 + one["bias2"] - one["variance"])) < 1e-14
    assert abs(found["crossing"]*mse(D) - A) < 1e-13
    if D > 1: assert found["crossing"] <= D*(1 + 1e-12)


@pytest.mark.parametrize("tier", interactive.TIERS)
class TestKernel:
    def told(self, tier): return FIGURES["kernel"].config["tiers"][[*interactive.TIERS].index(tier)]

    def test_plan_is_the_planners(self, tier):
        shape, G, rows, card = interactive.TIERS[tier]
        plan = cuda.plan("forward", rows, "float32", "float32", "", None, sizes(shape, G), True, card)
        first = plan.launches[0]
        forms = [launch.form for launch in plan.launches]
        expected = {"a warp": first.form.team == card.warp,
                    "a cluster": [f.kernel for f in forms] == ["hold"] and first.form.cluster > 1,
                    "a pool": [f.kernel for f in forms] == ["pool"] and first.form.cluster > 1,
                    "a block": first.form.team > card.warp and first.form.cluster == 1 and len(forms) == 1,
                    "slices": [f.kernel for f in forms] == ["moments", "merge", "apply"],
                    "channels last": [f.kernel for f in forms] == ["row_moments", "merge_rows", "apply_rows"],
                    "a pool of rows": [f.kernel for f in forms] == ["pool_rows"] and first.form.cluster > 1}
        assert expected[tier]
        words = [step["words"] for step in self.told(tier)["steps"]]
        order = list(dict.fromkeys(re.match(r"Kernel (\w+), (\d+) blocks? of (\d+)", w).groups() for w in words))
        assert order == [(l.form.kernel, str(l.blocks), str(l.form.threads)) for l in plan.launches]

    def test_every_vector_is_loaded_and_stored_once(self, tier):
        told = self.told(tier)
        boxes = [*range(told["N"]*told["C"]*told["S"]//4)]
        loads = {}
        for step in told["steps"]:
            if step["stage"] == 0: loads.setdefault(step["words"].split(",")[0], []).extend(step["now"])
        assert loads and all(sorted(found) == boxes for found in loads.values())
        stores = [step for step in told["steps"] if step["stage"] == 3]
        assert len(stores) == 1 and stores[0]["now"] == boxes and -1 not in stores[0]["owner"]

    def test_elements_go_to_the_threads_of_the_formula(self, tier):
        """Thread t of a team takes vectors t, t + team, ... of its run; a row is shared by the threads of a block.
        After the moments, units of work are taken from the last to the first."""
        shape, G, rows, card = interactive.TIERS[tier]
        form = cuda.plan("forward", rows, "float32", "float32", "", None, sizes(shape, G), True, card).launches[-1].form
        run = np.prod(shape[1:])//G//4
        if form.cluster > 1: run //= form.cluster
        if form.kernel == "apply": run = form.team*form.vectors
        owner = self.told(tier)["steps"][-1]["owner"]
        sample = shape[1]*shape[2]//4
        for box, g in enumerate(owner):
            unit, place = divmod(box, run)
            if form.kernel == "apply": unit = len(owner)//run - 1 - unit
            if form.kernel == "pool_rows":               # each block some rows, of all channels
                block, place = divmod(box, sample//form.cluster)
                expected = block*form.threads + place % form.threads
            elif rows: expected = (shape[0] - 1 - box//sample)*form.threads + box % sample % form.threads
            else:
                block, team = divmod(unit, form.threads//form.team)
                expected = block*form.threads + team*form.team + place % form.team
            assert g == expected, (box, g, expected)

    def test_values_of_the_threads(self, tier):
        "The last sums are those of the groups, the mean is the mean."
        shape, G, _, _ = interactive.TIERS[tier]
        _, mean, rstd = reference.forward(interactive.example(*shape), G)
        steps = self.told(tier)["steps"]
        shown = {v for v in steps[-1]["values"] if v}
        assert shown == {f"{m:.4g}" for m in mean.ravel()}
        squares = [step for step in steps if "squared deviations" in step["words"]][-1]
        M = np.prod(shape[1:])//G
        assert {float(v) for v in squares["values"]} == {float(f"{M/r**2 - M*1e-5:.4g}") for r in rstd.ravel()}


def test_a_pool_is_filled_by_one_thread_of_each_block():
    told = FIGURES["kernel"].config["tiers"][[*interactive.TIERS].index("a pool")]
    copy, taken = told["steps"][:2]
    half = len(copy["owner"])//2                                          # of two blocks, eight threads each
    assert copy["owner"] == [0]*half + [8]*half and copy["lit"] == [0, 8]
    assert taken["owner"] == [i % 8 for i in range(half)] + [8 + i % 8 for i in range(half)]
    x = interactive.example(1, 8, 48).ravel()
    k = np.sort(x.reshape(2, -1)[:, :3])[:, 1]                            # the middle one of a slice's first three
    sums = [(x - k.repeat(192)).reshape(2, -1, 8, 4)[b, :, t].sum() for b in range(2) for t in range(8)]
    assert [float(v.replace("−", "-")) for v in taken["values"]] == sums


def test_a_pool_of_rows_adds_up_channels_and_then_groups():
    told = FIGURES["kernel"].config["tiers"][[*interactive.TIERS].index("a pool of rows")]
    x = interactive.example(1, 16, 16)[0]                                 # (C, S); two blocks with eight rows each
    d = x - x[::8, :1].repeat(8, 0)                                       # k is a group's first element
    own = [d[4*(t % 4), 8*b + t//4:8*b + 8:4].sum() for b in range(2) for t in range(16)]
    columns = [d[t, 8*b:8*b + 8].sum() for b in range(2) for t in range(16)]
    groups = [d[t//8*8:t//8*8 + 8, 8*b:8*b + 8].sum() for b in range(2) for t in range(16)]
    shown = [[float(v.replace("−", "-")) for v in step["values"]] for step in told["steps"][1:6]]
    assert [shown[0], shown[1], shown[-1]] == [own, columns, groups]


@figure
class TestMarkup:
    def soup(self, name): return BeautifulSoup(FIGURES[name]._repr_html_(), "html.parser")

    def test_hooks(self, name):
        root = self.soup(name).select_one("figure.gn-figure.gn-interactive")
        assert root["data-figure"] == name and root.figcaption.get_text(strip=True)
        assert len(root.select(".gn-live [aria-live=polite]")) == 1 and root.select_one(".gn-live").has_attr("hidden")

    def test_every_control_has_a_name(self, name):
        root = self.soup(name)
        inputs = root.find_all("input")
        assert inputs and all(i.find_parent("label").get_text(strip=True) for i in inputs)
        labelable = ["button", "input", "meter", "output", "progress", "select", "textarea"]   # the first gets the name
        assert all(label.find(labelable).name == "input" for label in root.find_all("label"))
        assert all(f.legend.get_text(strip=True) for f in root.find_all("fieldset"))
        assert all(b.get_text(strip=True) and b["type"] == "button" for b in root.find_all("button"))
        assert len(root.select("input[type=range]")) == len(root.select(".gn-control > .gn-value"))

    def test_first_picture_needs_no_script(self, name):
        shown, root = FIGURES[name], self.soup(name)
        still = root.select_one(".gn-static")
        assert still.find("svg") and still.select_one("[role=img]")["aria-label"] == shown.alt
        assert still.select_one(".gn-text").get_text() == shown.words == SCRIPTS[name]("text", shown.config["start"])
        assert shown.svg == SCRIPTS[name]("draw", shown.config["start"])
        first = BeautifulSoup(shown.svg, "html.parser")
        assert still.find("div").get_text() == first.get_text()
        assert len(still.find_all("rect")) == len(first.find_all("rect"))
        assert not still.select("[tabindex], input, button")

    def test_asks_nobody(self, name):
        page = FIGURES[name]._repr_html_().replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert not re.search(r"https?:|//\w+\.|\burl\(|\bimport\b|\bfetch\(|XMLHttp", page)
        assert not re.search(r"\son\w+=", page), "no inline handlers"
        assert len(page.encode()) < 150_000

    def test_two_on_a_page_share_nothing(self, name):
        page = BeautifulSoup(FIGURES[name]._repr_html_()*2, "html.parser")
        ids = [node["id"] for node in page.select("[id]")]
        assert len(ids) == len({*ids})
        forms = page.find_all("form")
        assert len(forms) == 2 and all(i.find_parent("form") for i in page.find_all("input"))     # a radio's group
        script = page.find("script").string
        assert re.fullmatch(r"\(function \(\) \{.*\}\)\(\);", script, re.S) and "window" not in script

    def test_the_same_twice(self, name):
        shown = FIGURES[name]
        assert shown._repr_html_() == shown._repr_html_()

    def test_one_cell_is_in_the_order_of_tabs(self, name):
        cells = BeautifulSoup(FIGURES[name].svg, "html.parser").select("[tabindex]")
        assert [c["tabindex"] for c in cells].count("0") == (name != "tradeoff")
        assert all(c["role"] == "gridcell" and c["aria-label"] for c in cells)


@pytest.mark.parametrize("name", ["explorer", "kernel"])
def test_keys(name):
    "Arrows reach every cell and never leave the picture."
    script, state = SCRIPTS[name], {**FIGURES[name].config["start"]}
    cells = {c["data-at"] for c in BeautifulSoup(FIGURES[name].svg, "html.parser").select("[data-at]")}
    seen, todo = set(), [state]
    while todo:
        s = todo.pop()
        if str(s["at"]) in seen: continue
        seen.add(str(s["at"]))
        todo += [script("settle", {**s, **script("move", s, f"Arrow{way}")}) for way in ("Left", "Right", "Up", "Down")]
    assert seen == cells
    assert script("move", state, "a") in (None, {})
    ends = [script("settle", {**state, **script("move", state, key)})["at"] for key in ("Home", "End")]
    assert ends[0] != ends[1]


@pytest.mark.parametrize("key, by", [("PageDown", 1), ("PageUp", -1)])
def test_keys_of_the_steps(key, by):
    state = {**FIGURES["kernel"].config["start"], "step": 3}
    assert SCRIPTS["kernel"]("move", state, key) == {"step": 3 + by}


@figure
def test_controls_out_of_range(name):
    "Whatever a page sends, a state that can be drawn comes out."
    start = FIGURES[name].config["start"]
    cases = (dict(step=99), dict(step=-1), dict(at="9,9,9" if name == "explorer" else 999), dict(G=9), dict(C=1),
             dict(b=99), dict(b=-1), dict(D=99), dict(D=-1), dict(spread=101), dict(spread=-5))
    cases = [wild for wild in cases if {*wild} <= {*start}]
    assert len(cases) >= 2
    for wild in cases:
        state = SCRIPTS[name]("settle", {**start, **wild})
        assert SCRIPTS[name]("draw", state) == python(name, state).draw()
        if name == "tradeoff":                           # limits may move with the state only elsewhere
            for key, (low, high) in SCRIPTS[name]("limits", state).items(): assert low <= state[key] <= high


def test_what_figures_refuse():
    for words, f, args, more in (("D (-4) must be at least 1", interactive.tradeoff, (.6, .04, 1.4), dict(D=-4)),
                                 ("D (0) must be at least 1", interactive.tradeoff, (.6, .04, 1.4), dict(D=0)),
                                 ("C (0) must be at least 1", interactive.tradeoff, (.6, .04, 1.4), dict(C=0)),
                                 ("step must be an integer from 0 to", interactive.kernel_view, (), dict(step=1.5)),
                                 ("at must be a cell of shape (2, 8, 4), got (0, 0.5, 1)", interactive.explorer, (),
                                  dict(at=(0, .5, 1)))):
        must_raise(ValueError, words, f, *args, **more)


@pytest.mark.parametrize("page, ink", [("#ffffff", "#222832"), ("#14181e", "#ced6dd")], ids=["light", "dark"])
def test_numbers_on_colours_can_be_read(page, ink):
    "The strongest tint of a cell, .5, against the text of the book's theme."
    def mixed(color): return "#" + "".join(f"{round((int(color[i:i + 2], 16) + int(page[i:i + 2], 16))/2):02x}"
                                           for i in (1, 3, 5))
    assert all(contrast(mixed(color), ink) >= 4.5 for color in COLORS.values())
    assert '"fill-opacity": mine ? ".5"' in interactive.EXPLORER and '".5"' in interactive.KERNEL


def test_logging_leaves_the_machine_as_it_was():
    before = {name: getattr(cuda, name) for name in ("vector", "put", "exchange", "shared", "fetch", "take",
                                                    "gathered")}
    with pytest.raises(RuntimeError), interactive.logged():
        assert cuda.vector is not before["vector"]
        raise RuntimeError
    assert all(getattr(cuda, name) is word for name, word in before.items())
    interactive.performed(*interactive.TIERS["a warp"])
    assert all(getattr(cuda, name) is word for name, word in before.items())
    assert not any(inspect.signature(f).parameters for f in (cuda.barrier, cuda.thread))
