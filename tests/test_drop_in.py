"""What a user of torch would trip over: mixed precision, extreme values, memory formats, out, compile, export.

Exact results are those of torch's own group norm in float64 on the same numbers.
"""
import io
import itertools
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils.checkpoint import checkpoint

from gn_nb import GroupNorm, group_norm, ops
from gn_nb.testing import assert_close, max_error

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
ACTIVATIONS = [*ops.ACTIVATIONS]
CL, CL3 = torch.channels_last, torch.channels_last_3d
# torch itself calls the deprecated torch.jit when inductor is first used: shown, not an error
torch_warns = pytest.mark.filterwarnings("default:.torch.jit.script:DeprecationWarning")
# One rounding to a dtype.
UNIT = {torch.float64: 2**-53, torch.float32: 2**-24, torch.float16: 2**-11, torch.bfloat16: 2**-8}
# Arithmetic in float32, on a few hundred numbers near 1: two dozen roundings that do not all have one sign.
ARITHMETIC = {torch.float64: 1e-12, torch.float32: 24*2**-24, torch.float16: 24*2**-24, torch.bfloat16: 24*2**-24}


def rand(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def given(shape, dtype=torch.float32, names=("input", "weight", "bias"), layout=torch.contiguous_format):
    "Arguments of group_norm by their names."
    sizes = dict(input=shape, weight=shape[1:2], bias=shape[1:2], scale=shape[:2], shift=shape[:2])
    found = {name: rand(*sizes[name], seed=k, dtype=dtype) for k, name in enumerate(sizes) if name in names}
    return found | dict(input=found["input"].contiguous(memory_format=layout))


def composed(input, num_groups, weight=None, bias=None, eps=1e-5, activation=None, *, scale=None, shift=None):
    "What group_norm fuses, in torch's own operations."
    y = F.group_norm(input, num_groups, None, None, eps)        # torch has no gradient for a bias without a weight
    def spread(v): return v.reshape(*v.shape, *(1,)*(y.ndim - 2))
    if weight is not None: y = y*spread(weight)
    if bias is not None: y = y + spread(bias)
    if scale is not None: y = y*(1 + spread(scale))
    if shift is not None: y = y + spread(shift)
    return y if activation is None else getattr(F, activation)(y)


def results(f, dy, num_groups, tensors, **options):
    "y and the gradients of all tensors, by their names."
    leaves = {k: t.detach().clone(memory_format=torch.preserve_format).requires_grad_() for k, t in tensors.items()}
    y = f(num_groups=num_groups, **leaves, **options)
    found = torch.autograd.grad(y, [*leaves.values()], dy)
    return dict(y=y.detach(), **{f"d{k}": t for k, t in zip(leaves, found, strict=True)})


def exactly(dy, num_groups, tensors, **options):
    return results(composed, dy.double(), num_groups, {k: t.double() for k, t in tensors.items()}, **options)


def compare(found, wanted, tol, dtypes, where=""):
    "tol is a number, or a function of the dtype of a result."
    assert {*found} == {*wanted}
    for name, a in found.items():
        dtype = dtypes[name.removeprefix("d")] if isinstance(dtypes, dict) else dtypes
        try: assert_close(a, wanted[name], tol(dtype) if callable(tol) else tol, dtype=dtype)
        except AssertionError as e: raise AssertionError(f"{name} {where}: {e}") from None


@pytest.mark.quick
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
class TestAutocast:
    def test_float32_stays_float32(self, dtype):
        "Mean 1e3, deviation 1: a cast to a half type would err by 1 at least; float32 errs by 1e3*2**-24 = 6e-5."
        tensors = given((2, 8, 9, 9))
        tensors["input"] += 1e3
        dy = rand(2, 8, 9, 9, seed=8)
        assert max_error(composed(tensors["input"].to(dtype).double(), 4), composed(tensors["input"].double(), 4)) > 0.1
        with torch.autocast("cpu", dtype=dtype): found = results(group_norm, dy, 4, tensors)
        # gradients of parameters add up 162 such errors, with dy
        compare(found, exactly(dy, 4, tensors), 2e-4, torch.float32)

    def test_half_types_have_statistics_in_float32(self, dtype):
        "Mean 60, deviation 1, on numbers that the half type holds: sums in it would err by 1/4 at least."
        tensors = given((2, 8, 9, 9))
        tensors["input"] = (tensors["input"] + 60).to(dtype)
        dy = rand(2, 8, 9, 9, seed=8, dtype=dtype)
        with torch.autocast("cpu", dtype=dtype): found = results(group_norm, dy, 4, tensors)
        dtypes = dict(y=dtype, input=dtype, weight=torch.float32, bias=torch.float32)
        # float32 on numbers near 60, 162 of them in the gradients of parameters; then one rounding
        compare(found, exactly(dy, 4, tensors), lambda d: 5e-5 + 1.01*UNIT[d], dtypes)

    def test_a_step_of_a_model(self, dtype):
        model = nn.Sequential(nn.Conv2d(3, 8, 3), GroupNorm(4, 8, activation="silu"), nn.Conv2d(8, 4, 3))
        seen = []
        model[1].register_forward_hook(lambda module, inputs, output: seen.append((inputs[0].dtype, output.dtype)))
        with torch.autocast("cpu", dtype=dtype): y = model(rand(2, 3, 9, 9))
        y.float().square().mean().backward()
        assert seen == [(dtype, dtype)] and y.dtype == dtype
        assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters())
        assert model[1].weight.grad.abs().min() > 0


@pytest.mark.quick
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_beside_every_other(dtype, activation):
    "Of input, weight and bias: the result has the input's dtype, a gradient that of its own tensor."
    dy = rand(2, 8, 5, 5, seed=8, dtype=dtype)
    for others in itertools.product(DTYPES, repeat=2):
        dtypes = dict(zip(("input", "weight", "bias"), (dtype, *others), strict=True))
        tensors = {k: t.to(dtypes[k]) for k, t in given((2, 8, 5, 5), torch.float64).items()}
        found, wanted = (f(dy=dy, num_groups=4, tensors=tensors, activation=activation)
                         for f in (partial(results, group_norm), exactly))
        # gradients of parameters add up 50 terms; with an activation each term may have been rounded three times to
        # the input's dtype, which shows as up to 7 roundings of a sum (sqrt(50)), and dx has them times rstd*weight
        inner = 0 if activation is None else 12*UNIT[dtype]
        def tol(d, inner=inner): return 5*ARITHMETIC[dtype] + inner + 1.01*UNIT[d]
        compare(found, wanted, tol, dtypes | dict(y=dtype), f"beside {others}")


@pytest.mark.quick
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("names", [("weight",), ("bias",), ("weight", "scale"), ("bias", "shift"), ("scale", "shift")],
                         ids="+".join)
def test_parameters_alone_for_every_rank(names, activation):
    for shape in ((5, 12), (2, 12, 7), (2, 12, 3, 4), (2, 12, 2, 3, 2), (2, 12, 2, 1, 3, 2)):
        tensors, dy = given(shape, torch.float64, ("input", *names)), rand(*shape, seed=8, dtype=torch.float64)
        found = results(group_norm, dy, 3, tensors, activation=activation)
        compare(found, exactly(dy, 3, tensors, activation=activation), 1e-12, torch.float64, f"{shape}")


@pytest.mark.quick
@pytest.mark.parametrize("layout", [torch.contiguous_format, CL], ids=str)
@pytest.mark.parametrize("G", [1, 4, 8])
def test_float16_near_its_end(G, layout):
    "Values of 6e4 and -6e4: their sum, their squares, and weight times dy are beyond 65504."
    signs = rand(2, 8, 5, 5).sign()
    signs[:, ::2, 0, 0] *= 0.5
    tensors = dict(input=(6e4*signs).half().contiguous(memory_format=layout), weight=torch.full((8,), 300.).half(),
                   bias=rand(8, seed=2).half())
    dy = (300*rand(2, 8, 5, 5, seed=8)).half()
    found, wanted = results(group_norm, dy, G, tensors), exactly(dy, G, tensors)
    assert all(t.isfinite().all() for t in found.values())
    compare(found, wanted, ARITHMETIC[torch.float32] + 1.01*UNIT[torch.float16], torch.float16)
    assert wanted["dinput"].abs().max() > 1          # weight*dy*rstd, with rstd of 2e-5: not a comparison of zeros


@pytest.mark.quick
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_empty_batch_has_gradients_of_zero(dtype):
    for activation, layout in itertools.product(ACTIVATIONS, (torch.contiguous_format, CL)):
        tensors = given((0, 8, 3, 3), dtype, ("input", "weight", "bias", "scale", "shift"), layout)
        found = results(group_norm, torch.empty(0, 8, 3, 3, dtype=dtype), 4, tensors, activation=activation)
        for name, t in tensors.items():
            assert torch.equal(found[f"d{name}"], torch.zeros_like(t)) and found[f"d{name}"].dtype == dtype, name
    module = GroupNorm(4, 8, activation="gelu", dtype=dtype)
    module(torch.empty(0, 8, 3, dtype=dtype)).sum().backward()
    assert all(torch.equal(p.grad, torch.zeros(8, dtype=dtype)) for p in module.parameters())


@pytest.mark.quick
class TestActivations:
    # In the half type: y rounded, the activation's gradient rounded, then the result; dx is rstd*weight, up to 3, times
    # that of three terms; the gradients of parameters are sums of 72 such roundings, which grow as their root.
    @pytest.mark.parametrize("activation", ACTIVATIONS)
    @pytest.mark.parametrize("dtype, tol", [(torch.float32, 48*2**-24), (torch.bfloat16, 24*2**-8)], ids=str)
    @pytest.mark.parametrize("names", [("input", "weight", "bias"), ("input", "weight", "bias", "scale", "shift")],
                             ids=["affine", "all"])
    def test_fused_is_unfused(self, names, dtype, tol, activation):
        def unfused(activation, scale=None, shift=None, **others):
            y = group_norm(**others)
            if scale is not None: y = y*(1 + scale)[..., None, None] + shift[..., None, None]
            return y if activation is None else getattr(F, activation)(y)
        for layout in (torch.contiguous_format, CL):
            tensors = given((2, 8, 6, 6), dtype, names, layout)
            dy = rand(2, 8, 6, 6, seed=8, dtype=dtype)
            found, apart = (results(f, dy, 4, tensors, activation=activation) for f in (group_norm, unfused))
            compare(found, apart, tol, dtype, "against the two apart")
            compare(found, exactly(dy, 4, tensors, activation=activation), tol, dtype, "against float64")

    @pytest.mark.parametrize("activation", ACTIVATIONS)
    def test_the_result_may_be_changed_in_place(self, activation):
        "By what follows: the gradient is right, or torch says that it needs what was changed."
        leaf, dy = rand(2, 8, 5, dtype=torch.float64).requires_grad_(), rand(2, 8, 5, seed=8, dtype=torch.float64)
        y = group_norm(leaf, 4, activation=activation)
        wanted, = torch.autograd.grad(y, leaf, 2*dy, retain_graph=True)
        y.mul_(2)
        try: found, = torch.autograd.grad(y, leaf, dy)
        except RuntimeError as e: assert "modified by an inplace operation" in str(e)
        else: assert_close(found, wanted, 1e-14)

    def test_checkpointed(self):
        module, x = GroupNorm(2, 8, activation="silu"), rand(2, 8, 5, 5)
        both = []
        for f in (module, lambda t: checkpoint(module, t, use_reentrant=False)):
            leaf = x.clone().requires_grad_()
            y = f(leaf)
            both.append((y.detach(), *torch.autograd.grad(y.square().sum(), (leaf, *module.parameters()))))
        assert all(map(torch.equal, *both))


@pytest.mark.quick
@pytest.mark.parametrize("shape, layout", [((2, 8, 5, 6), CL), ((2, 8, 3, 4, 5), CL3)], ids=str)
class TestMemoryFormats:
    ALL = ("input", "weight", "bias", "scale", "shift")

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    def test_of_result_and_gradient_are_the_inputs(self, shape, layout, dtype):
        for activation, names in itertools.product(ACTIVATIONS, (self.ALL[:1], self.ALL[:3], self.ALL)):
            tensors = given(shape, dtype, names, layout)
            plain = rand(*shape, seed=8, dtype=dtype)
            for dy in (plain, plain.contiguous(memory_format=layout), plain.new_ones(()).expand(shape)):
                found = results(group_norm, dy, 4, tensors, activation=activation)
                for name in ("y", "dinput"):
                    assert found[name].stride() == tensors["input"].stride(), (name, activation, names)
                same = results(group_norm, dy, 4, given(shape, dtype, names), activation=activation)
                assert same["y"].is_contiguous() and same["dinput"].is_contiguous()

    def test_what_is_given_is_not_changed(self, shape, layout):
        "Nor what lies between its elements. Sums may be in another order: 32 roundings of results of scale and shift."
        kinds = {"gaps": lambda t: torch.stack([t, torch.full_like(t, 7)], -1), "rows": lambda t: torch.cat([t, t], -1),
                 "layout": lambda t: t.contiguous(memory_format=layout) if t.ndim > 2 else t,
                 "swapped": lambda t: t.transpose(0, 1).contiguous()}
        views = {"gaps": lambda t: t[..., 0], "rows": lambda t: t[..., :t.shape[-1]//2], "layout": lambda t: t,
                 "swapped": lambda t: t.transpose(0, 1)}
        for kind, activation in itertools.product(kinds, ACTIVATIONS):
            tensors = given(shape, torch.float32, self.ALL)
            held = tensors | dict(dy=rand(*shape, seed=8))
            held = {k: kinds[kind](t) if t.ndim > 1 else t for k, t in held.items()}
            before = {k: t.clone() for k, t in held.items()}
            leaves = {k: views[kind](t) if t.ndim > 1 else t for k, t in held.items()}
            dy = leaves.pop("dy")
            y = group_norm(num_groups=4, **{k: t.requires_grad_() for k, t in leaves.items()}, activation=activation)
            torch.autograd.grad(y, [*leaves.values()], dy)
            for k, t in held.items(): assert torch.equal(t, before[k]), (k, kind)
            assert_close(y, group_norm(num_groups=4, **tensors, activation=activation), 32*2**-24)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    def test_out(self, shape, layout, dtype):
        gaps = torch.full((*shape, 2), 7., dtype=dtype)
        outs = {"contiguous": torch.full(shape, torch.nan, dtype=dtype), "gaps": gaps[..., 0],
                "layout": torch.full(shape, torch.nan, dtype=dtype).contiguous(memory_format=layout)}
        for of, activation in itertools.product((torch.contiguous_format, layout), ACTIVATIONS):
            tensors = given(shape, dtype, self.ALL, of)
            wanted = group_norm(num_groups=4, **tensors, activation=activation)
            for kind, out in outs.items():
                strides = out.fill_(torch.nan).stride()
                assert group_norm(num_groups=4, **tensors, activation=activation, out=out) is out
                assert torch.equal(out, wanted) and out.stride() == strides, (kind, of, activation)
            assert (gaps[..., 1] == 7).all()
            strides, given_ = tensors["input"].stride(), tensors["input"]
            assert group_norm(num_groups=4, **tensors, activation=activation, out=given_) is given_        # in place
            assert torch.equal(given_, wanted) and given_.stride() == strides

    def test_out_that_shares_memory_with_the_input(self, shape, layout):
        "Other than being the input: the result is right, or an error."
        whole = rand(*shape[:-1], 2*shape[-1])
        turned = rand(*shape[:-1], shape[-2])
        for x, out in ((whole[..., :shape[-1]], whole[..., 1:shape[-1] + 1]), (turned, turned.transpose(-1, -2)),
                       (turned.transpose(-1, -2), turned)):
            wanted = group_norm(x.clone(), 4, activation="silu")
            try: group_norm(x, 4, activation="silu", out=out)
            except (ValueError, RuntimeError) as e: assert "out" in str(e) or "memory" in str(e)
            else: assert torch.equal(out, wanted)
        with pytest.raises((ValueError, RuntimeError)):                        # one place for several results
            group_norm(rand(*shape), 4, out=torch.empty(*shape[:-1], 1).expand(shape))


class Net(nn.Module):
    "Two convolutions, each with a group norm of its own activation; any spatial size."
    def __init__(self, norm=GroupNorm):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.norms = nn.ModuleList([norm(4, 16, activation="silu"), norm(8, 16, activation="relu")])
        self.last = nn.Linear(16, 2)

    def forward(self, x):
        for conv, norm in zip((self.first, self.second), self.norms, strict=True): x = norm(conv(x))
        return self.last(x.mean((2, 3)))


def net():
    torch.manual_seed(0)
    return Net()


class TestCompile:
    @pytest.fixture(autouse=True)
    def fresh(self): torch._dynamo.reset()

    @torch_warns
    @pytest.mark.parametrize("layout", [torch.contiguous_format, CL], ids=str)
    def test_steps_of_training(self, layout):
        trained = []
        for f in (lambda m: m, lambda m: torch.compile(m, fullgraph=True)):
            model = net().to(memory_format=layout)
            run, optimizer, losses = f(model), torch.optim.SGD(model.parameters(), lr=0.1), []
            for k in range(3):
                x, target = rand(4, 3, 12, 12, seed=k).contiguous(memory_format=layout), rand(4, 2, seed=k)
                loss = (run(x) - target).square().mean()
                optimizer.zero_grad(); loss.backward(); optimizer.step()
                losses.append(loss.detach())
            trained.append([torch.stack(losses), *model.state_dict().values()])
        # inductor may sum in another order: 576 terms of 2**-24, in three steps
        for a, b in zip(*trained, strict=True): assert_close(a, b, 2e-6)
        assert max_error(trained[0][2], net().first.bias) > 1e-4                  # it did learn

    @torch_warns
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    def test_silu_has_the_same_bits(self, dtype):
        "A promise: the activation is part of the operator, in eager mode as in a compiled graph."
        shape = (2, 8, 7, 9)
        compiled = torch.compile(group_norm, fullgraph=True)
        tensors, dy = given(shape, dtype), rand(*shape, seed=8, dtype=dtype)
        eager, comp = (results(f, dy, 4, tensors, activation="silu") for f in (group_norm, compiled))
        for name, t in eager.items(): assert torch.equal(t, comp[name]), (name, max_error(t, comp[name]))

    @pytest.mark.parametrize("layout", [torch.contiguous_format, CL], ids=str)
    def test_one_graph_for_all_spatial_sizes(self, layout):
        graphs, seen = [], []
        def counter(graph, inputs):
            graphs.append(graph)
            return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)
        model = net().to(memory_format=layout)
        compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=counter)
        module = GroupNorm(4, 8, activation="gelu")
        alone = torch.compile(module, fullgraph=True, dynamic=True, backend=counter)
        for H, W in ((5, 6), (8, 7), (3, 11), (16, 16)):
            x = rand(2, 3, H, W).contiguous(memory_format=layout)
            grads = [torch.autograd.grad(f(x).square().sum(), [*model.parameters()]) for f in (model, compiled)]
            for a, b in zip(*grads, strict=True): assert torch.equal(a, b)
            both = []
            for f in (module, alone):
                leaf = rand(2, 8, H, W).contiguous(memory_format=layout).requires_grad_()
                y = f(leaf)
                both.append((y.detach(), *torch.autograd.grad(y.square().sum(), leaf)))
                assert all(t.is_contiguous(memory_format=layout) for t in both[-1])
            assert all(map(torch.equal, *both))
            seen.append(len(graphs))
        assert len({*seen}) == 1, f"graphs after each size: {seen}"


def test_export_is_saved_and_loaded():
    model, file = net().eval(), io.BytesIO()
    batch, height = torch.export.Dim("batch", min=2), torch.export.Dim("height", min=3)
    program = torch.export.export(model, (rand(3, 3, 8, 9),), dynamic_shapes=({0: batch, 2: height},))
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file)
    assert {*loaded.state_dict} == {*model.state_dict()}
    for N, H in ((2, 8), (3, 5), (5, 12)):
        x = rand(N, 3, H, 9)
        assert torch.equal(loaded.module()(x), model(x))


wide = partial(rand, dtype=torch.float64)


class TestHooks:
    @pytest.mark.filterwarnings("ignore:Using backward.. with create_graph")
    @pytest.mark.parametrize("scaled", [False, True])
    def test_fire_once_where_gradients_are_differentiated(self, scaled):
        "create_graph: those of the caller's tensors, and what retain_grad keeps."
        more, found = {"scale": torch.zeros(2, 4)} if scaled else {}, []
        for norm in (F.group_norm, partial(group_norm, **more)):
            leaf, w = wide(2, 4, 5).requires_grad_(), wide(4, seed=1).requires_grad_()
            x, calls = leaf*1, []
            x.retain_grad()
            x.register_hook(lambda g, calls=calls: calls.append(g) or 2*g)
            w.register_hook(lambda g: 3*g)
            norm(x, 2, w, eps=.1).pow(3).sum().backward(create_graph=True)
            again, = torch.autograd.grad(leaf.grad.square().sum(), w)
            found.append((leaf.grad, x.grad, w.grad, again, torch.tensor(len(calls))))
        for theirs, ours in zip(*found, strict=True): assert (theirs - ours).abs().max() < 1e-9*(1 + theirs.abs().max())

    @pytest.mark.parametrize("way", ["known", "scaled", "operator"])
    @pytest.mark.parametrize("spoil", [torch.Tensor.half, lambda t: t[..., :3].contiguous()], ids=["dtype", "shape"])
    def test_that_spoil_what_was_saved_are_noticed(self, way, spoil):
        "Before a kernel believes the shape or dtype that it was promised."
        calls = {"known": lambda x: group_norm(x, 2), "scaled": lambda x: group_norm(x, 2, scale=torch.zeros(2, 4)),
                 "operator": lambda x: ops.forward_op(x, 2, None, None, 1e-5)[0]}
        x = rand(2, 4, 64).requires_grad_()
        calls[way](x)
        def pack(t): return spoil(t.detach()) if t.shape == x.shape else t
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t): y = calls[way](x)
        with pytest.raises(RuntimeError, match="saved input must have shape, dtype and device"): y.sum().backward()

    def test_that_spoil_saved_parameters_are_noticed(self):
        x, w = wide(2, 4, 64).requires_grad_(), wide(4, seed=1).requires_grad_()
        def pack(t): return t.detach()[:2] if t.shape == w.shape else t
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t): y = group_norm(x, 2, w)
        with pytest.raises(RuntimeError, match=r"saved weight must have shape \(4,\)"): y.sum().backward()


def test_parameters_of_another_tensor_class():
    "Their class decides what becomes of the call; the numbers are theirs, not none."
    x, w = wide(2, 4, 5), wide(4, seed=1)
    y = group_norm(x, 2, TwoTensor(w, w))
    assert isinstance(y, TwoTensor) and (y.a - F.group_norm(x, 2, w)).abs().max() < 1e-12


def test_out_in_memory_of_another_storage():
    "Two arrays of NumPy's may overlap though each is a storage of its own."
    memory = np.random.default_rng(0).standard_normal(30)
    x, out = (torch.from_numpy(memory[k:k + 24]).view(1, 4, 6) for k in (0, 6))
    wanted = F.group_norm(x, 2)
    assert (group_norm(x, 2, out=out) - wanted).abs().max() < 1e-12


def test_numbers_that_are_only_marked_as_negative():
    "torch has a bit for that; who reads the memory sees the opposite numbers."
    x, dy = torch._neg_view(wide(2, 1, 8)), wide(2, 1, 8, seed=2)
    w = rand(1, seed=1, dtype=torch.complex128).conj().imag
    assert x.is_neg() and w.is_neg()
    wanted = F.group_norm(x, 1, w)
    for _ in range(2): assert (group_norm(x, 1, w) - wanted).abs().max() < 1e-12
    for bias in (None, w): assert (group_norm(x, 1, w, bias) - F.group_norm(x, 1, w, bias)).abs().max() < 1e-12
    leaf = wide(2, 1, 8).requires_grad_()
    for given in (dy, torch._neg_view(dy)):
        found, wanted = (torch.autograd.grad(f(leaf, 1, w), leaf, given)[0] for f in (group_norm, F.group_norm))
        assert (found - wanted).abs().max() < 1e-12
    out = torch._neg_view(torch.empty(2, 1, 8, dtype=torch.float64))
    assert (group_norm(x, 1, out=out) - F.group_norm(x, 1)).abs().max() < 1e-12
