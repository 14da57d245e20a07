"The CUDA planner on layers of real networks, the machine code of the kernels, its cache, and what a launch hands over."
import ctypes
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from itertools import cycle, product
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from gn_nb import cuda
from gn_nb.shapes import sizes
from gn_nb.testing import must_raise

T4 = cuda.Card((7, 5), 40, 4 << 20)
CARDS = dict(T4=T4, A100=cuda.Card((8, 0), 108, 40 << 20), L4=cuda.Card((8, 9), 58, 48 << 20),
             H100=cuda.Card((9, 0), 132, 50 << 20, shared=233472),
             B200=cuda.Card((10, 0), 148, 126 << 20, shared=233472))
CAPABILITIES = (7, 5), (8, 0), (9, 0), (10, 0)


def maps(N, *pairs, G=32): return [((N, C, side, side), G) for C, side in pairs]


RESNET = [(64, 112), (64, 56), (256, 56), (128, 56), (128, 28), (512, 28), (256, 28), (256, 14), (1024, 14), (512, 14),
          (512, 7), (2048, 7)]
DIFFUSION = [(320, 64), (640, 64), (960, 64), (320, 32), (640, 32), (960, 32), (1280, 32), (1920, 32), (640, 16),
             (1280, 16), (1920, 16), (2560, 16), (1280, 8), (2560, 8)]
DIFFUSION_XL = [(320, 128), (640, 128), (960, 128), (1280, 64), (1920, 64), (2560, 32)]
DECODER = [(512, 64), (512, 128), (512, 256), (256, 256), (256, 512), (128, 512)]
LARGE_DECODER = [(512, 512), (256, 1024), (128, 1024)]
SMALL_DIFFUSION = [(128, 32), (256, 32), (384, 32), (256, 16), (512, 16), (256, 8), (512, 8), (256, 4), (512, 4)]
WIDE_RESNET = [(192, 112), (768, 56), (384, 56), (1536, 28), (768, 28), (3072, 14), (1536, 14), (6144, 7)]
LAYERS = {
    "classification": [*(x for N in (1, 8, 32, 256) for x in maps(N, *RESNET)), *maps(16, *WIDE_RESNET)],
    "diffusion": [*(x for N in (2, 8) for x in maps(N, *DIFFUSION)), *maps(2, *DIFFUSION_XL),
                  *maps(128, *SMALL_DIFFUSION), *maps(16, *SMALL_DIFFUSION)],
    "autoencoders": [*(x for N in (1, 4) for x in maps(N, *DECODER)), *maps(1, *LARGE_DECODER),
                     *maps(8, (128, 256), (128, 128), (256, 64), (256, 32), (512, 16))],
    "video": [((1, 128, 20, 256, 256), 32), ((1, 512, 16, 180, 320), 32), ((1, 512, 5, 60, 106), 32),
              ((1, 512, 9, 120, 212), 32), ((1, 256, 17, 240, 424), 32), ((1, 128, 17, 480, 848), 32),
              *(((8, C, T, side, side), 32) for C, T, side in ((64, 16, 56), (256, 16, 56), (512, 8, 28), (1024, 4, 14),
                                                               (2048, 2, 7)))],
    "detection and segmentation": [
        *(((2, 256, h, w), 32) for h, w in ((200, 304), (100, 152), (50, 76), (25, 38), (13, 19))),
        ((512, 256, 14, 14), 32), ((1024, 256, 7, 7), 32), ((1024, 1024), 32),
        *(((2, C, s, s, s), 8) for C, s in ((32, 128), (64, 64), (128, 32), (256, 16), (320, 8), (320, 4))),
        *maps(1, (64, 512), (128, 256), (256, 128), (512, 65), (1024, 32)), *maps(2, (256, 129), (2048, 33)),
        *maps(2, (304, 129), (48, 257), G=16),
        ((4, 64, 360, 480), 16), ((4, 256, 45, 60), 16), ((2, 48, 96, 96, 96), 16), ((2, 16, 176, 208, 176), 8)],
    "one group": [*maps(32, (64, 112), (256, 14), (512, 14), G=1), *maps(8, (48, 160), (96, 80), (192, 40), G=1),
                  *maps(64, (64, 56), (128, 28), (320, 14), (512, 7), G=1), *maps(1, (64, 56), (512, 7), G=1),
                  *maps(64, (96, 56), (192, 28), (384, 14), (768, 7), G=1), ((4, 128, 3200), 1), ((4, 512, 16000), 1)],
    "a group for each channel": [*(((1, C, s, s), C) for C, s in ((32, 256), (64, 128), (128, 64), (256, 32))),
                                 ((4, 512, 3199), 512), ((1, 512, 63999), 512), ((4, 3, 224, 224), 3)],
    "no space, or little": [((4096, 512), 32), ((65536, 128), 8), ((32, 2048), 32), ((1, 1280), 32), ((256, 10), 5),
                            ((64, 256, 16), 8), ((64, 512, 8), 8), ((64, 1024, 4), 8), ((16, 1000, 1, 1), 40)],
}
ALL = [layer for group in LAYERS.values() for layer in group]
KINDS = [*product(("forward", "backward"), (False, True), ("float32", "bfloat16"))]


def plans(card, layers=tuple(ALL), kinds=tuple(KINDS), aligned=True, activation="silu"):
    for (shape, G), (direction, rows, dtype) in product(layers, kinds):
        if rows and len(shape) == 2: continue
        s = sizes(shape, G)
        yield s, rows, cuda.plan(direction, rows, dtype, "float32", "", activation, s, aligned, card)


@pytest.mark.parametrize("name", CARDS)
def test_plans_fit_the_card_and_fill_it(name):
    assert len({*ALL}) == len(ALL) >= 200
    card = CARDS[name]
    for s, rows, plan in plans(card):
        for l in plan.launches:
            f = l.form
            where = s, rows, l
            assert 0 < l.blocks < 2**31, where
            # of a block at most; two blocks with gradients
            most = card.shared//(1 + (f.kernel == "pool_gradients")) - 1024
            assert l.shared <= (most if f.stages else 48 << 10), where
            assert 32 <= f.threads <= card.most and f.threads % 32 == 0 and f.team & (f.team - 1) == 0, where
            assert f.threads == f.team or f.team <= 32, where
            assert f.streams <= (s.N*s.C*s.S*cuda.SIZE[f.dtype] > card.cache//2), where
            assert l.blocks % f.cluster == 0 and 1 <= f.cluster <= 8, where
            assert f.cluster == 1 or card.capability >= (9, 0), where
            if f.kernel in cuda._OWN or f.vectors == 1 or f.stages: continue
            # else no thread has two vectors while others have none
            if f.columns: assert l.blocks >= 2*card.processors, where
            else: assert l.blocks*f.threads >= card.processors*card.threads or f.team == card.most, where
        assert plan.workspace < max(1 << 20, (30 if s.S == 1 else 12)*s.N*s.C*s.S), (s, rows)


def test_every_element_belongs_to_one_team():
    "Slices cover a run, tiles a slice; edges have a thread each."
    many = [((N, C, S), G) for N, C, G in ((1, 6, 2), (3, 10, 5), (2, 96, 1), (1, 40, 40)) for S in (
        1, 2, 3, 5, 7, 8, 49, 100, 1023, 4096, 50_001)]
    small = cuda.Card((8, 0), 2, 1 << 20, warp=4, threads=8, most=16)
    for card in (*CARDS.values(), small, small._replace(capability=(9, 0))):
        for s, _, plan in plans(card, (*ALL, *many)):
            for l in plan.launches:
                f, (units, slice) = l.form, l.sizes[6:8]
                length = dict(moments=s.M, apply=s.M, input_gradient=s.M, hold=s.M, gradient_sums=s.S,
                              apply_channels=s.S, input_gradient_channels=s.S, relay=s.S, relay_gradients=s.S
                              ).get(f.kernel)
                if f.kernel.startswith("pool_rows"):
                    wide = f.columns*f.width
                    assert s.C % wide == 0 and wide % s.D == 0 and slice == units*wide, (s, l)
                    assert (f.cluster - 1)*units < s.S <= f.cluster*units, (s, l)
                    assert l.blocks == s.N*s.C//wide*f.cluster and f.columns <= f.threads, (s, l)
                    assert f.team*wide//s.D <= f.threads and f.team <= f.warp, (s, l)
                    assert wide*cuda.SIZE[f.dtype] >= 32 or wide == s.C, (s, l)
                    assert l.shared == cuda.stages_at(f) + f.stages*slice*cuda.SIZE[f.dtype], (s, l)
                    continue
                if f.columns and "row" in f.kernel:
                    lanes = f.threads//f.columns
                    assert slice % (lanes*f.vectors) == 0 and (units - 1)*slice < s.S <= units*slice, (s, l)
                    assert l.blocks == s.N*units*-(-s.C//(f.columns*f.width)) and s.C % f.width == 0, (s, l)
                if f.stages:
                    assert (f.cluster - 1)*slice < s.M <= f.cluster*slice and l.blocks == s.N*s.G*f.cluster, (s, l)
                    assert l.shared == cuda.stages_at(f) + f.stages*slice*cuda.SIZE[f.dtype], (s, l)
                    assert f.kernel == "pool" or slice % s.S == 0 or s.S % slice == 0, (s, l)
                    ends = [i for c in range(1, s.D) for i in (c*s.S//f.width - 1, c*s.S//f.width)]
                    assert all(i*l.sizes[9] >> 42 == i*f.width//s.S for i in (0, *ends, s.M//f.width - 1)), (s, l)
                if length is None: continue
                part = min(length, slice)
                assert f.team*f.vectors*f.width >= part//f.width*f.width and f.team >= 2*(f.width - 1)*f.edges, (s, l)
                assert f.edges or length % f.width == 0, (s, l)
                if f.kernel == "hold":
                    assert (f.cluster - 1)*slice < length <= f.cluster*slice, (s, l)
                    assert slice % f.width == 0 or f.cluster == 1, (s, l)
                    continue
                assert (units - 1)*slice < length <= units*slice and slice % f.width == 0, (s, l)
                runs = s.N*(s.C if length == s.S else s.G)
                assert l.blocks*(f.threads//f.team) >= units*runs*(1 + ("relay" in f.kernel)), (s, l)
                if "relay" in f.kernel:                           # a block reads the notes of all slices of a group
                    assert l.blocks == 2*units*runs and s.D*units <= f.columns*f.team, (s, l)
                    assert s.D*units <= l.sizes[8] <= units*runs, (s, l)


def test_a_vector_touches_no_more_channels_than_the_form_says():
    for s, rows, plan in plans(CARDS["H100"]):
        for f in (l.form for l in plan.launches if l.form.kernel in ("hold", "apply", "input_gradient")):
            starts = range(0, 8*s.S, f.width) if not f.edges else range(8*s.S)
            touched = max(len({(i + j)//s.S for j in range(f.width)}) for i in starts[:200])
            assert not rows and min(touched, 3) <= f.across, (s, f)


@pytest.mark.parametrize("shape, blocks, each", [
    ((1, 512, 128, 128), 7, 2), ((2, 960, 64, 64), 2, 1), ((4, 640, 64, 64), 1, 1), ((8, 64, 8, 56, 56), 1, 2)],
    ids=str)
def test_blocks_of_pools(shape, blocks, each):
    "As few turns as can be: what was fastest on an H200."
    card = CARDS["H100"]
    first = cuda.plan("forward", False, "bfloat16", "bfloat16", "", "silu", sizes(shape, 32), True, card).launches[0]
    found = first.form.kernel, first.form.cluster, 1 + (first.shared <= card.shared//2)
    assert found == ("pool", blocks, each)


@pytest.mark.parametrize("shape, dtype, forward, backward", [
    ((1, 128, 512, 512), "bfloat16", "relay", "relay"), ((1, 512, 128, 128), "bfloat16", "pool", "relay"),
    ((1, 512, 128, 128), "float32", "relay", "relay"), ((4, 320, 128, 128), "bfloat16", "relay", "relay"),
    ((4, 640, 64, 64), "bfloat16", "pool", "relay"), ((4, 640, 64, 64), "float32", "relay", "relay"),
    ((2, 320, 64, 64), "bfloat16", "pool", "pool"), ((2, 320, 64, 64), "float32", "pool", "pool"),
    ((1, 320, 128, 128), "float32", "pool", "relay"), ((32, 64, 112, 112), "bfloat16", "hold", "pool"),
    ((32, 64, 112, 112), "float32", "pool", "pool"), ((8, 64, 8, 56, 56), "bfloat16", "pool", "pool"),
    ((8, 64, 8, 56, 56), "float32", "pool", "relay"), ((1, 128, 1024, 1024), "bfloat16", "relay", "gradient_sums"),
    ((1, 512, 16, 180, 320), "bfloat16", "moments", "gradient_sums")], ids=str)
def test_where_slices_are_read_again_from_the_cache(shape, dtype, forward, backward):
    "What was fastest on an H200; never where a card cannot be told what to keep, nor in float64."
    s, h200 = sizes(shape, 32), CARDS["H100"]._replace(cache=60 << 20)
    for direction, wanted in (("forward", forward), ("backward", backward)):
        names = [l.form.kernel for l in cuda.plan(direction, False, dtype, dtype, "", "silu", s, True, h200).launches]
        assert next(name for name in names if name != "clear_notes").removesuffix("_gradients") == wanted, direction
        for kind, card in ((dtype, T4), (dtype, h200._replace(capability=(7, 5), shared=0)), ("float64", h200)):
            launches = cuda.plan(direction, False, kind, kind, "", "silu", s, True, card).launches
            assert not any("relay" in l.form.kernel for l in launches)


@pytest.mark.parametrize("shape, forward, backward", [
    ((1, 512, 64, 64), (8, 8), (8, 8)), ((2, 320, 64, 64), (5, 6), (5, 6)), ((2, 1280, 8, 8), (5, 1), (5, 1)),
    ((4, 1280, 32, 32), (10, 2), (10, 2)), ((32, 512, 28, 28), (32, 2), (8, 2)), ((4, 320, 128, 128), None, None),
    ((32, 64, 112, 112), (2, 2), None), ((1, 128, 512, 512), None, None)], ids=str)
def test_blocks_of_pools_of_rows(shape, forward, backward):
    "Vectors of a row and blocks of a cluster: what was fastest on an H200; where it was slower, rows are read twice."
    for direction, wanted in (("forward", forward), ("backward", backward)):
        first = cuda.plan(direction, True, "bfloat16", "bfloat16", "", "silu", sizes(shape, 32), True,
                          CARDS["H100"]).launches[0].form
        assert ((first.columns, first.cluster) if first.kernel.startswith("pool_rows") else None) == wanted, direction


def test_a_slice_and_its_table_fit_a_block():
    card, seen = CARDS["H100"], set()
    for kb in range(100, 240):
        s = sizes((128, 32, kb*512), 32)
        for l in cuda.plan("forward", False, "bfloat16", "bfloat16", "", None, s, True, card).launches:
            if l.form.kernel != "pool": continue
            assert l.shared <= card.shared - 1024 and l.form.cluster*l.sizes[7] >= s.M
            seen.add((l.form.cluster, l.shared > card.shared//2))
    assert {(1, False), (1, True)} <= seen


@pytest.mark.parametrize("shape, G, dtype", [((8, 192, 40, 40), 1, "bfloat16"), ((8, 192, 40, 40), 1, "float32"),
                                             ((32, 384, 28, 28), 1, "bfloat16"), ((8, 512, 32, 32), 2, "float32")])
def test_groups_of_many_channels_are_read_once(shape, G, dtype):
    plan = cuda.plan("forward", False, dtype, dtype, "", None, sizes(shape, G), True, CARDS["H100"])
    assert [l.form.kernel for l in plan.launches] == ["pool"]


@pytest.mark.parametrize("C, dtype, width", [(12, "bfloat16", 4), (30, "bfloat16", 2), (7, "bfloat16", 1),
                                             (6, "float32", 2), (64, "bfloat16", 8), (5, "float64", 1)])
def test_channels_last_takes_the_widest_vectors_that_divide_a_row(C, dtype, width):
    for direction in ("forward", "backward"):
        plan = cuda.plan(direction, True, dtype, dtype, "", None, sizes((4, C, 64, 64), 1), True, CARDS["H100"])
        assert {l.form.width for l in plan.launches if l.form.kernel not in cuda._OWN} == {width}


def test_parts_that_one_block_merges_are_few():
    "Channels last, one group of many channels: fewer parts, while two blocks are left for each multiprocessor."
    card = CARDS["H100"]
    for C in (1024, 4096):
        plan = cuda.plan("forward", True, "bfloat16", "bfloat16", "", None, sizes((1, C, 64, 64), 1), True, card)
        moments, merge, _ = plan.launches
        assert (moments.form.kernel, merge.form.kernel) == ("row_moments", "merge_rows")
        assert moments.sizes[6] == merge.sizes[6] and moments.blocks >= 1.9*card.processors
        assert C*moments.sizes[6] <= max(cuda.PARTS, 2*C*card.processors//(moments.blocks//moments.sizes[6]))


def test_many_samples_are_shared_by_many_blocks():
    "Gradients of the parameters: a card is filled, and no block adds up less than 64 samples."
    card = CARDS["H100"]
    for shape in ((1 << 20, 32), (1 << 15, 128, 4), (64, 2048, 7, 7)):
        plan = cuda.plan("backward", False, "float32", "float32", "", None, sizes(shape, 8), True, card)
        l = next(l for l in plan.launches if l.form.kernel == "parameter_gradients")
        assert l.sizes[7] >= cuda.SHARE and (l.blocks >= 2*card.processors or l.sizes[7] == cuda.SHARE)


def test_a_card_without_rounding_is_not_asked_to_round():
    for _, _, plan in plans(T4): assert not any(l.form.rounds for l in plan.launches)
    assert any(l.form.rounds for _, _, plan in plans(CARDS["A100"]) for l in plan.launches)


# --- machine code -----------------------------------------------------------------------------------------------------

def tool():
    import nvidia
    return next((f for d in nvidia.__path__ for f in Path(d).glob("*/bin/cuobjdump")), None)


def report(form, capability, folder):
    "PTX, registers and a count of the instructions of a kernel."
    name, ptx, code = cuda.build(form, capability)
    file = folder/"kernel.cubin"
    file.write_bytes(code)
    usage, sass = (subprocess.run([tool(), option, file], capture_output=True, text=True, check=True).stdout
                   for option in ("-res-usage", "-sass"))
    assert name in usage
    return ptx, max(map(int, re.findall(r"REG:(\d+)", usage))), Counter(re.findall(
        r"\*/\s+(?:@!?\w+\s+)?([A-Z][\w.]*)", sass))


def count(names, pattern): return sum(n for name, n in names.items() if re.match(pattern, name))


def variants(dtype, card):
    "Of all forms chosen for the layers, those that hold the most of each kernel, width, and way to meet channels."
    out, activations = {}, cycle(("silu", "gelu", None, "relu"))
    both = product(("forward", "backward"), (False, True))
    for aligned, scaling, (shape, G), (direction, rows) in product((True, False), ("", dtype), ALL[::3], both):
        if rows and len(shape) == 2: continue
        parameter, s = dtype if dtype == "float64" or scaling else "float32", sizes(shape, G)
        for l in cuda.plan(direction, rows, dtype, parameter, scaling, "gelu", s, aligned, card).launches:
            f = l.form
            key = f.kernel, f.width, f.across, f.cluster > 1, f.scaling != "" and f.kernel in ("hold", "slopes")
            held = f.threads*f.vectors, f.edges, f.streams
            out[key] = max(out.get(key, (held, f)), (held, f), key=lambda v: v[0])
    return [f._replace(activation=next(activations) if f.activation else None) for _, f in out.values()]


@pytest.mark.skipif(not cuda.compiles or tool() is None, reason="needs numba-cuda and cuobjdump")
@pytest.mark.parametrize("capability", CAPABILITIES, ids=lambda c: f"sm_{c[0]}{c[1]}")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_machine_code(dtype, capability, tmp_path):
    "Vectors of 16 bytes, nothing spilled, no float64 in float32, registers for all threads of the block."
    card = next(c for c in CARDS.values() if c.capability == capability)
    forms, pools = variants(dtype, card), {"pool", "pool_gradients", "pool_rows", "pool_rows_gradients"}
    relays = {"clear_notes", "relay", "relay_gradients"}
    lacking = (set() if card.shared and dtype != "float64" else pools) | (
        set() if capability >= (8, 0) and dtype != "float64" else relays)
    assert {f.kernel for f in forms} == {*cuda.KERNELS} - lacking
    if (dtype, capability) != ("float32", (9, 0)):                        # some of them, others for each
        forms = forms[(3*CAPABILITIES.index(capability) + len(dtype)) % 8::8 if capability != (9, 0) else 3]
    for f in forms:
        ptx, registers, names = report(f, capability, tmp_path)
        assert registers*f.threads <= 65536 and f".maxntid {f.threads}" in ptx, f
        if dtype != "float64": assert ".f64" not in ptx and count(names, "(DADD|DMUL|DFMA|F2F.*F64)") == 0, f
        assert count(names, "LDL|STL") <= 8, (f, registers)                   # a word or two that is used once
        wide = f.width*cuda.SIZE[f.dtype] == 16
        reads = 0 if f.kernel in cuda._OWN or f.stages else 2 if "gradient" in f.kernel else 1
        loads, stores = (count(names, rf"{which}.*\.128(?!\.STRONG)") for which in ("LDG", "STG"))
        notes = count(names, r"STG.*\.128\.STRONG"), count(names, r"LDG.*\.128\.STRONG") > 0      # written, and read?
        assert notes == ((f.kernel == "clear_notes" or "relay" in f.kernel), "relay" in f.kernel), (f, names)
        assert loads >= reads*f.vectors*wide and (wide or f.kernel in cuda._OWN or loads == 0), (f, names)
        assert f.kernel not in cuda._WRITE or stores == f.vectors*wide, (f, names)
        assert (count(names, r"LDGSTS.*\.128") > 0) == f.kernel.startswith("pool_rows"), (f, names)
        half = f.kernel == "pool_gradients" and f.width*cuda.SIZE[f.dtype] == 8           # vectors of 8 bytes
        assert not half or count(names, r"STG.*\.64") >= f.vectors, (f, names)
        if f.streams and wide: assert count(names, r"STG.*\.EF\.128") == f.vectors, (f, names)
        assert not f.rounds or count(names, "F2FP.*BF16") >= f.vectors, (f, names)
        assert count(names, "(ATOM|RED)") == 0, f
        assert (count(names, "UCGABAR") > 0) == (f.cluster > 1) == (".reqnctapercluster" in ptx), (f, names)


@pytest.mark.skipif(not cuda.compiles, reason="needs numba-cuda")
class TestCache:
    form = cuda.plan("forward", False, "float32", "float32", "", None, sizes((2, 8, 4), 4), True, T4).launches[0].form

    def test_code_is_kept_and_found(self, tmp_path, monkeypatch):
        monkeypatch.setattr(cuda, "folders", lambda: (tmp_path/"a", tmp_path/"b"))
        first = cuda.cubin(self.form, (7, 5))
        file, = (tmp_path/"a").iterdir()
        monkeypatch.setattr(cuda, "build", None)                      # nothing is compiled any more
        assert cuda.cubin(self.form, (7, 5)) == first and not (tmp_path/"b").exists()
        assert first[1][:4] == b"\x7fELF" and file.name.startswith("hold-")

    def test_where_nothing_may_be_written(self, tmp_path, monkeypatch):
        (tmp_path/"file").write_text("")
        calls = []
        monkeypatch.setattr(cuda, "build", lambda *a: calls.append(a) or ("name", "", b"code"))
        monkeypatch.setattr(cuda, "folders", lambda: (tmp_path/"file", tmp_path/"b"))
        for _ in range(2): assert cuda.cubin(self.form, (8, 0)) == ("name", b"code")
        assert len(calls) == 1 and len([*(tmp_path/"b").iterdir()]) == 1
        monkeypatch.setattr(cuda, "folders", lambda: (tmp_path/"file",))
        for _ in range(2): assert cuda.cubin(self.form, (8, 0)) == ("name", b"code")
        assert len(calls) == 3

    @pytest.mark.parametrize("damage", [lambda code: b"", lambda code: code[:-9], lambda code: code[:-1] + b"?"])
    def test_a_damaged_file_is_written_anew(self, tmp_path, monkeypatch, damage):
        monkeypatch.setattr(cuda, "folders", lambda: (tmp_path,))
        monkeypatch.setattr(cuda, "build", lambda *a: ("name", "", b"machine code"))
        cuda.cubin(self.form, (8, 0))
        file, = tmp_path.iterdir()
        whole = file.read_bytes()
        file.write_bytes(damage(whole))
        assert cuda.cubin(self.form, (8, 0)) == ("name", b"machine code") and file.read_bytes() == whole

    def test_a_full_disk_leaves_nothing_behind(self, tmp_path, monkeypatch):
        monkeypatch.setattr(cuda, "folders", lambda: (tmp_path,))
        monkeypatch.setattr(cuda, "build", lambda *a: ("name", "", b"code"))
        def full(*a): raise OSError(28, "No space left on device")
        monkeypatch.setattr(os, "replace", full)
        assert cuda.cubin(self.form, (8, 0)) == ("name", b"code") and not [*tmp_path.iterdir()]

    def test_a_user_without_a_home(self, monkeypatch):
        def none(): raise RuntimeError("Could not determine home directory.")
        monkeypatch.setattr(cuda.Path, "home", none)
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        assert cuda.folders() == (ROOT/"gn_nb/__pycache__",)
        monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
        assert len(cuda.folders()) == 2

    def test_what_others_compile_meanwhile_is_for_their_card(self, monkeypatch):
        seen, dispatcher = [], cuda.numba.cuda.dispatcher
        def compile(*a, cc, **k):
            seen.append(dispatcher.get_current_device().compute_capability)
            thread = threading.Thread(target=lambda: seen.append(dispatcher.get_current_device()))
            thread.start(); thread.join()
            raise KeyError("enough")
        monkeypatch.setattr(dispatcher, "get_current_device", lambda: "theirs")
        monkeypatch.setattr(cuda.compiler, "compile", compile)
        must_raise(KeyError, "enough", cuda.build, self.form, (8, 0))
        assert seen == [(8, 0), "theirs"] and dispatcher.get_current_device() == "theirs"

    def test_key(self, tmp_path, monkeypatch):
        "Another form, another capability or another source is another file."
        monkeypatch.setattr(cuda, "build", lambda form, capability: ("n", "", repr((form, capability)).encode()))
        monkeypatch.setattr(cuda, "folders", lambda: (tmp_path,))
        found = {cuda.cubin(f, c)[1] for f in (self.form, self.form._replace(team=16)) for c in ((7, 5), (9, 0))}
        assert len(found) == 4 == len([*tmp_path.iterdir()])
        monkeypatch.setattr(cuda, "_source", lambda: b"another source")
        cuda.cubin(self.form, (7, 5))
        assert len([*tmp_path.iterdir()]) == 5

    def test_threads_may_compile_at_once(self):
        found = []
        def work(team): found.append(cuda.build(self.form._replace(team=team), (8, 0))[0])
        threads = [threading.Thread(target=work, args=(t,)) for t in (8, 16, 32)]
        for t in threads: t.start()
        for t in threads: t.join()
        assert len({*found}) == 3


# --- launch -----------------------------------------------------------------------------------------------------------

class Driver:
    "A driver that notes what it is asked for, and launches nothing with more shared memory than its kernel may have."
    def __init__(self):
        self.calls, self.fail, self.context, self.room, self.device = [], 0, 5, {}, 0
        self.meanwhile = lambda: None                          # what else happens while a launch is under way

    def __getattr__(self, name):
        def call(*args):
            if name == "cuGetErrorName": args[1]._obj.value = b"CUDA_ERROR_INVALID_VALUE"; return 0
            facts = {75: 9, 76: 0, 16: 132, 38: 50 << 20, 81: 233472, 97: 232448}
            if name == "cuDeviceGetAttribute": args[0]._obj.value = facts[args[1]]
            if name == "cuCtxGetCurrent": args[0]._obj.value = self.context
            if name in ("cuLibraryLoadData", "cuLibraryGetKernel"): args[0]._obj.value = 1000 + len(self.calls)
            if name == "cuCtxGetDevice": args[0]._obj.value = self.device
            if name == "cuKernelSetAttribute" and args[0] == 8: self.room[args[2].value, args[3].value] = args[1]
            if name == "cuLaunchKernel":
                self.meanwhile()
                if args[7] > self.room.get((args[0].value, self.device), 48*1024): return 1
                options = ctypes.cast(args[-1], ctypes.POINTER(ctypes.c_void_p))[:5]
                size = ctypes.cast(options[3], ctypes.POINTER(ctypes.c_size_t))[0]
                args = (*args, ctypes.string_at(options[1], size), options[::2])
            self.calls.append((name, args))
            return self.fail
        return call


@pytest.fixture
def driver(monkeypatch):
    d = Driver()
    monkeypatch.setattr(cuda, "driver", lambda: d)
    monkeypatch.setattr(cuda, "cubin", lambda form, capability: (form.kernel, b"code"))
    monkeypatch.setattr(cuda, "_bound", threading.local())
    for f in (cuda.card, cuda.loaded, cuda.plan): f.cache_clear()
    yield d
    for f in (cuda.card, cuda.loaded, cuda.plan): f.cache_clear()


def test_card(driver): assert cuda.card(0) == CARDS["H100"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_what_a_launch_hands_over(driver, dtype):
    s = sizes((1, 128, 256, 256), 32)
    plan = cuda.plan("forward", False, dtype, dtype, "", "silu", s, True, CARDS["H100"])
    for _ in range(2): cuda.launch(plan, range(101, 115), 2**40, 1e-5, (9, 0), 77)
    loads = [a for name, a in driver.calls if name == "cuLibraryGetKernel"]
    launches = [a for name, a in driver.calls if name == "cuLaunchKernel"]
    kernels = [b"moments", b"merge", b"apply_channels"] if dtype == "float64" else [b"pool"]
    assert [a[2] for a in loads] == kernels and len(launches) == 2*len(kernels)                      # loaded once
    asked = {"cuLibraryLoadData", "cuLibraryGetKernel", "cuLaunchKernel", "cuCtxGetCurrent"}
    room = {"cuCtxGetDevice", "cuDeviceGetAttribute", "cuKernelSetAttribute"}
    assert {name for name, _ in driver.calls} == (asked if dtype == "float64" else asked | room)
    if dtype != "float64":
        found = [a[:2] for name, a in driver.calls if name == "cuKernelSetAttribute"]
        assert found == [(8, 232448), (9, 100)]
    for a, l in zip(launches, plan.launches*2, strict=True):
        assert a[1:7] == (l.blocks, 1, 1, l.form.threads, 1, 1) and a[7] == l.shared and a[8].value == 77
        assert a[9] is None and a[12] == [1, 2, None]
        numbers = np.frombuffer(a[11][:8*(len(cuda.FIELDS) - 1)], np.int64)
        places = [2**40 + k for k in (plan.partial, plan.sums, plan.slopes, plan.table)]
        assert numbers.tolist() == [*range(101, 115), *places, *s, *l.sizes[6:]]
        eps = np.frombuffer(a[11][8*(len(cuda.FIELDS) - 1):], np.float64 if dtype == "float64" else np.float32)
        assert eps.tolist() == [np.float64(1e-5) if dtype == "float64" else np.float32(1e-5)]
    driver.fail = 1
    must_raise(RuntimeError, "cuLaunchKernel failed: CUDA_ERROR_INVALID_VALUE", cuda.launch, plan, range(14), 0, 0.,
               (9, 0), 0)


def test_launches_from_several_threads(driver):
    "Each hands over its own numbers, also while another is between two launches."
    s, others = sizes((1, 128, 256, 256), 32), []
    plan = cuda.plan("forward", False, "float64", "float64", "", None, s, True, CARDS["H100"])
    def meanwhile():
        if len(others) == 3: return
        other = threading.Thread(target=cuda.launch, args=(plan, range(200, 214), 0, 0., (9, 0), 78))
        others.append(other)
        other.start()
        other.join()
    driver.meanwhile = meanwhile
    cuda.launch(plan, range(100, 114), 0, 0., (9, 0), 77)
    launches = [a for name, a in driver.calls if name == "cuLaunchKernel"]
    found = [(a[8].value, np.frombuffer(a[11][:8], np.int64)[0]) for a in launches]
    assert {*found} == {(77, 100), (78, 200)} and len(found) == 4*len(plan.launches) == 12


def test_launches_of_one_kernel_may_differ_in_shared_memory(driver):
    "A layer that needs less of it takes nothing from one that came before."
    plans = [cuda.plan("forward", False, "bfloat16", "bfloat16", "", "silu", sizes(shape, 32), True, CARDS["H100"])
             for shape in ((4, 640, 64, 64), (4, 480, 64, 64))]
    (first,), (second,) = (plan.launches for plan in plans)
    assert first.form == second.form and first.shared > second.shared > 48*1024
    for plan in (*plans, plans[0]): cuda.launch(plan, range(14), 0, 0., (9, 0), 0)


def test_two_cards_alike(driver):
    "They share plans; what a kernel may have is asked for on each."
    s = sizes((4, 640, 64, 64), 32)
    plan = cuda.plan("forward", False, "bfloat16", "bfloat16", "", "silu", s, True, CARDS["H100"])
    for driver.device in (0, 1, 0, 1): cuda.launch(plan, range(14), 0, 0., (9, 0), 0, driver.device)
    assert len(driver.room) == 2 and sum(name == "cuKernelSetAttribute" for name, _ in driver.calls) == 4


def test_a_capability_that_the_compiler_does_not_know(driver, monkeypatch):
    "Found out once for each device, and said; without a card nothing is."
    cuda.trouble.cache_clear()
    assert cuda.trouble(0) is None
    def unknown(form, capability): raise ValueError("no such architecture")
    monkeypatch.setattr(cuda, "cubin", unknown)
    assert cuda.trouble(0) is None and cuda.trouble(1) == "for capability 9.0 ValueError: no such architecture"
    cuda.trouble.cache_clear()
    cuda.card.cache_clear()
    driver.fail = 100
    assert cuda.trouble(0) is None
    cuda.trouble.cache_clear()


def test_a_thread_without_a_context_gets_that_of_the_device(driver):
    "Once for each thread and device; one that has a context keeps it."
    plan = cuda.plan("forward", False, "float32", "float32", "", None, sizes((2, 8, 4), 4), True, CARDS["H100"])
    def work(device):
        for _ in range(2): cuda.launch(plan, range(14), 0, 0., (9, 0), 0, device)
    def names(): return [name for name, _ in driver.calls if name.startswith(("cuCtx", "cuDevice"))]
    for device in (0, 1, 0): work(device)
    assert names() == ["cuCtxGetCurrent"]*2
    driver.calls, driver.context = [], None
    for device in (0, 1):
        thread = threading.Thread(target=work, args=(device,))
        thread.start(); thread.join()
    assert names() == ["cuCtxGetCurrent", "cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuCtxSetCurrent"]*2
    assert [a[1] for name, a in driver.calls if name == "cuDeviceGet"] == [0, 1]


@pytest.mark.skipif(not cuda.compiles, reason="needs numba-cuda")
def test_numpy_without_a_name_that_numba_cuda_looks_for():
    "NumPy 2.5 has no row_stack, which numba-cuda 0.30 gives a meaning when it compiles for the first time."
    print(fresh("import numpy as np\n"
                "del np.row_stack; np.__all__ = [name for name in np.__all__ if name != 'row_stack']\n"
                "from gn_nb import cuda\nfrom gn_nb.shapes import sizes\n"
                "card = cuda.Card((8, 0), 108, 1)\n"
                "plan = cuda.plan('forward', False, 'float32', 'float32', '', None, sizes((2, 8, 4), 4), True, card)\n"
                "cuda.build(plan.launches[0].form, (8, 0))\nassert not hasattr(np, 'row_stack')"))


def test_parameters_of_the_kernel_are_those_of_the_launch():
    "The order and size of a kernel's parameters in PTX are those of the block that launch fills."
    if not cuda.compiles: pytest.skip("needs numba-cuda")
    for dtype, last in (("float32", ".f32"), ("float64", ".f64")):
        form = cuda.Form("fold_sums", dtype, dtype, "", None, 0, 0, warp=32, team=32, threads=256)
        _, ptx, _ = cuda.build(form, (9, 0))
        kinds = re.findall(r"^\s*\.param (\.\w+) ", ptx.split(".entry")[1].split(")")[0], re.M)
        assert kinds == [".u64"]*(len(cuda.FIELDS) - 1) + [last]


def fresh(code, **env):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True,
                          env=os.environ | env).stdout


BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.startswith({names!r}): raise ModuleNotFoundError(f"No module named {{name!r}}")
sys.meta_path.insert(0, Block())
from gn_nb import cuda
from gn_nb.shapes import sizes
assert not cuda.compiles
plan = cuda.plan("forward", False, "float32", "float32", "", None, sizes((2, 8, 4), 4), True, cuda.Card((9, 0), 132, 1))
try: cuda.build(plan.launches[0].form, (9, 0))
except ImportError as e: print(e)
"""


@pytest.mark.parametrize("names, simulator", [(("numba.cuda", "numba_cuda"), "0"), (("numba.cuda.datamodel",), "0"),
                                              (("cuda.core",), "0"), (("no such module",), "1")],
                         ids=["no numba-cuda", "the one that came with numba", "too old", "numba's simulator"])
def test_without_the_compiler(names, simulator):
    out = fresh(BLOCKED.format(names=names), NUMBA_ENABLE_CUDASIM=simulator).strip()
    assert out == ('CUDA tensors need numba-cuda, pip install "gn_nb[cuda12]" or "gn_nb[cuda13]", whichever is nearer '
                   'to torch.version.cuda, and NUMBA_ENABLE_CUDASIM not set')


def test_import_does_not_need_torch():
    assert fresh("import sys; from gn_nb import cuda; print('torch' in sys.modules)").split() == ["False"]


def test_without_a_driver(monkeypatch):
    cuda.driver.cache_clear()
    def missing(name): raise OSError(f"{name}: cannot open shared object file")
    monkeypatch.setattr(ctypes, "CDLL", missing)
    must_raise(OSError, "libcuda", cuda.driver)
    cuda.driver.cache_clear()
