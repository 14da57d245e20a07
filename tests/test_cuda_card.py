"group_norm on the simulated card and, where there is one, on a card: the checks of card_checks.py."
import os
import subprocess
import sys

import card_checks
import pytest
import torch
from settings import root

from gn_nb import cuda, ops
from gn_nb.shapes import sizes

HERE = torch.cuda.is_available() and cuda.compiles
PLACES = ["simulated", pytest.param("card", marks=pytest.mark.skipif(
    not HERE, reason="needs a CUDA card and numba-cuda"))]


@pytest.fixture(params=PLACES)
def place(request):
    if request.param == "card": yield card_checks.Place("cuda")
    else:
        with card_checks.simulated() as there: yield there


@pytest.mark.parametrize("name", card_checks.CHECKS)
def test_check(place, name):
    try: card_checks.CHECKS[name](place)
    except card_checks.Skipped as why: pytest.skip(str(why))


def test_what_a_sanitizer_watches(place): card_checks.sanitize(place)


def test_a_sanitizer_sees_slices_read_again_from_the_cache(monkeypatch):
    "Small as the shapes are; and afterwards the card is what it was."
    monkeypatch.setattr(cuda, "card", lambda device: cuda.Card((9, 0), 132, 60 << 20, shared=233472))
    before, seen = (cuda.card, cuda.FEW, cuda.MANY), set()
    with card_checks.without_pools(card_checks.Place("cuda")):
        for k, (shape, G) in enumerate(card_checks.RELAYED[::2]):
            for direction in ("forward", "backward"):
                dtype = ("float32", "bfloat16", "float16", "float32")[k]
                launches = cuda.plan(direction, False, dtype, dtype, "", "silu", sizes(shape, G), True,
                                     cuda.card(0)).launches
                seen |= {(l.form.kernel, dtype, l.form.edges) for l in launches}
    assert before == (cuda.card, cuda.FEW, cuda.MANY)
    for kernel in ("relay", "relay_gradients"):
        assert {edges for name, _, edges in seen if name == kernel} == {0, 1}
        assert {dtype for name, dtype, _ in seen if name == kernel} >= {"float32", "bfloat16"}


def test_nothing_falls_back_to_the_cpu():
    "On the simulated card the kernels for cards do the work."
    calls = []
    with card_checks.simulated() as place:
        execute = ops.executor(None)[1]
        ops.executor = lambda device: (card_checks.SMALL, lambda *plan: (calls.append(plan), execute(*plan)))
        card_checks.CHECKS["values[float32, contiguous]"](place)
    assert calls


def test_without_pytest(monkeypatch):
    "The same as a script: it says what is missing, and tells what passed from what failed."
    found = subprocess.run([sys.executable, "tests/card_checks.py"], cwd=root, capture_output=True, text=True,
                           check=True, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""})
    assert found.stdout == "skipped: no CUDA card is here\n"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda, "compiles", False)
    assert card_checks.main([]) == 1
    with card_checks.simulated():
        assert card_checks.run("empty", "cpu")[0] == "passed"
        assert card_checks.run("graph[contiguous]", "cpu")[0] == "skipped"
        card_checks.CHECKS["broken"] = lambda place: 1/0
        try: status, _, why = card_checks.run("broken", "cpu")
        finally: del card_checks.CHECKS["broken"]
        assert status == "FAILED" and "ZeroDivisionError" in why
