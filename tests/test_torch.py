"The operator inside torch: derivatives of every kind, compile, export, transforms, PyTorch's own samples, errors."
import itertools
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, vjp, vmap

from gn_nb import GroupNorm, group_norm, ops
from gn_nb.testing import CASES, assert_close, must_raise

FORMS = list(itertools.product((True, False), repeat=2))                    # weight given, bias given
# torch itself calls the deprecated torch.jit when its forward mode or inductor are first used: shown, not an error
torch_warns = pytest.mark.filterwarnings("default:.torch.jit.script:DeprecationWarning")
CL, CL3 = torch.channels_last, torch.channels_last_3d


def rand(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def arguments(shape, weight=True, bias=True, dtype=torch.float64):
    return rand(*shape, dtype=dtype), *(rand(shape[1], seed=k, dtype=dtype) if given else None
                                        for k, given in ((1, weight), (2, bias)))


def composed(x, G, weight=None, bias=None, eps=1e-5, activation=None, *, scale=None, shift=None):
    "What group_norm fuses, in torch's own operations."
    y = F.group_norm(x, G, None, None, eps)
    def spread(v): return v.reshape(-1, x.shape[1], *(1,)*(x.ndim - 2))
    if weight is not None: y = y*spread(weight)
    if bias is not None: y = y + spread(bias)
    if scale is not None: y = y*(1 + spread(scale))
    if shift is not None: y = y + spread(shift)
    return y if activation is None else getattr(F, activation)(y)


class TestDerivatives:
    @pytest.mark.parametrize("shape", [(2, 4, 3), (3, 4), (1, 4, 2, 2)], ids=str)
    @pytest.mark.parametrize("form", FORMS, ids=str)
    def test_first_and_second_order_for_every_subset_of_leaves(self, shape, form):
        given = arguments(shape, *form)
        for needs in itertools.product((True, False), repeat=3):
            leaves = [t if t is None else t.clone().requires_grad_(need) for t, need in zip(given, needs, strict=True)]
            wanted = [t for t in leaves if t is not None and t.requires_grad]
            if not wanted: continue
            def f(*_, leaves=leaves): return group_norm(leaves[0], 2, *leaves[1:], eps=1e-2)
            assert gradcheck(f, wanted, nondet_tol=0, check_forward_ad=False)
            assert gradgradcheck(f, wanted, nondet_tol=0)

    @pytest.mark.quick
    @pytest.mark.parametrize("form", FORMS, ids=str)
    def test_backward_fills_exactly_what_is_asked_for(self, form):
        for needs in itertools.product((True, False), repeat=3):
            given = arguments((2, 4, 3), *form)
            leaves = [None if t is None else t.requires_grad_(need) for t, need in zip(given, needs, strict=True)]
            y = group_norm(leaves[0], 2, *leaves[1:])
            asked = [t is not None and t.requires_grad for t in leaves]
            assert y.requires_grad == any(asked)
            if any(asked): y.sum().backward()
            assert [t is not None and t.grad is not None for t in leaves] == asked

    @torch_warns
    @pytest.mark.quick
    def test_forward_mode(self):
        given = arguments((2, 4, 3))
        h, steps = 1e-6, [rand(*t.shape, seed=9) for t in given]
        def f(x, w, b): return group_norm(x, 2, w, b)
        with forward_ad.dual_level():
            tangent = forward_ad.unpack_dual(f(*map(forward_ad.make_dual, given, steps))).tangent
        up, down = (f(*(t + sign*h*d for t, d in zip(given, steps, strict=True))) for sign in (1, -1))
        assert_close(tangent, (up - down)/(2*h), 1e-8)                       # rounding: 1e-16/h
        leaves = [t.requires_grad_() for t in given]
        assert gradcheck(f, leaves, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True)

    @pytest.mark.parametrize("activation", [*ops.ACTIVATIONS])
    @pytest.mark.parametrize("form", [dict(scale=True), dict(shift=True), dict(scale=True, shift=True), {}], ids=str)
    def test_scale_shift_activation(self, activation, form):
        x, w, b = arguments((2, 4, 2, 1))
        extra = {k: rand(2, 4, seed=5 + i) for i, k in enumerate(form)}
        results = []
        for f in (group_norm, composed):
            leaves = [t.clone().requires_grad_() for t in (x, w, b, *extra.values())]
            y = f(leaves[0], 2, leaves[1], leaves[2], 1e-5, activation, **dict(zip(extra, leaves[3:], strict=True)))
            results.append((y, *torch.autograd.grad(y, leaves, rand(*x.shape, seed=8))))
        for a, e in zip(*results, strict=True): assert_close(a, e, 1e-12)
        leaves = [t.clone().requires_grad_() for t in (x, w, b, *extra.values())]
        if activation in (None, "silu"):         # smooth
            def fused(x, w, b, *rest):
                return group_norm(x, 2, w, b, 1e-2, activation, **dict(zip(extra, rest, strict=True)))
            assert gradgradcheck(fused, leaves, nondet_tol=0)

    @pytest.mark.quick
    def test_third_order(self):
        x, *_ = arguments((1, 4, 3))
        leaf = x.requires_grad_()
        def derivative(f):
            y = f(leaf, 2)
            for k in range(3): y, = torch.autograd.grad((y*rand(*x.shape, seed=k)).sum(), leaf, create_graph=True)
            return y.detach()
        assert_close(derivative(group_norm), derivative(lambda x, G: composed(x, G)), 1e-9)

    @pytest.mark.quick
    def test_retained_graph_gives_the_same_twice(self):
        x, w, b = (t.requires_grad_() for t in arguments((2, 4, 3)))
        y = group_norm(x, 2, w, b)
        first, second = (torch.autograd.grad(y.sum(), (x, w, b), retain_graph=True) for _ in range(2))
        assert all(map(torch.equal, first, second))

    @pytest.mark.quick
    def test_changing_a_saved_input_is_noticed(self):
        x, w, b = (t.requires_grad_() for t in arguments((2, 4, 3)))
        y = group_norm(x*1, 2, w, b)
        with torch.no_grad(): w.mul_(2)
        must_raise(RuntimeError, "modified by an inplace operation", y.sum().backward)

    @pytest.mark.quick
    def test_parameters_whose_data_were_exchanged(self):
        "torch does not notice an assignment to .data; the kernels must not read the new memory as the old."
        x, w, b = arguments((2, 4, 3), dtype=torch.float32)
        x.requires_grad_()
        for change in (torch.Tensor.double, lambda t: t.repeat_interleave(2)[::2]):
            weight = torch.nn.Parameter(w.clone(), requires_grad=False)
            y = group_norm(x, 2, weight, b)
            wanted = torch.autograd.grad(y, x, x.detach(), retain_graph=True)
            weight.data = change(weight.data)
            assert_close(torch.autograd.grad(y, x, x.detach())[0].numpy(), wanted[0].numpy(), 1e-6, dtype="float32")

    @pytest.mark.quick
    @pytest.mark.parametrize("form", FORMS, ids=str)
    def test_gradients_of_a_known_kind_of_call(self, form):
        for shape, order in (((3, 8, 5, 7), CL), ((3, 8, 5, 7), torch.contiguous_format), ((70, 8, 300), None)):
            given = arguments(shape, *form, dtype=torch.float32)
            if order: given = given[0].to(memory_format=order), *given[1:]
            dy = torch.stack([rand(*shape, seed=3)]*2, -1)[..., 0]                               # strides of no layout
            def gradients(f, dtype, given=given, dy=dy):
                leaves = [None if t is None else t.to(dtype).requires_grad_() for t in given]
                y = f(leaves[0], 4, *leaves[1:], 1e-5, "silu")
                return torch.autograd.grad(y, [t for t in leaves if t is not None], dy.to(dtype))
            for a, e in zip(gradients(group_norm, torch.float32), gradients(composed, torch.float64), strict=True):
                assert_close(a.numpy(), e.numpy(), 1e-5, dtype="float32")

    @pytest.mark.quick
    @pytest.mark.parametrize("parameters", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
    def test_gradients_of_a_known_kind_are_the_operators_rounded_once(self, parameters):
        "Many channels, many blocks of samples, and both."
        kinds = [parameters, *([torch.bfloat16] if parameters is torch.float32 else [])]         # of the input
        for (shape, G), dtype in itertools.product((((3, 1030, 6), 2), ((300, 4, 20), 2), ((70, 520, 20), 4)), kinds):
            x, dy = (rand(*shape, seed=k, dtype=dtype) for k in (0, 3))
            w, b = (rand(shape[1], seed=k, dtype=parameters).requires_grad_() for k in (1, 2))
            _, mean, rstd = ops.forward_op(x, G, w.detach(), b.detach(), 1e-5)
            wanted = ops.backward_op(dy, x, mean, rstd, G, w.detach(), b.detach())[:3]
            x.requires_grad_()
            found = torch.autograd.grad(group_norm(x, G, w, b), (x, w, b), dy)
            for a, e in zip(found, wanted, strict=True): assert torch.equal(a, e.to(a.dtype))
            assert [a.dtype for a in found] == [dtype, parameters, parameters]


@pytest.mark.quick
class TestTransforms:
    def test_vmap(self):
        x, w, b = arguments((5, 2, 4, 3))[0], rand(4, seed=1), rand(4, seed=2)
        each = torch.stack([group_norm(t, 2, w, b) for t in x])
        assert_close(vmap(lambda t: group_norm(t, 2, w, b))(x), each, 1e-12)
        many = rand(5, 4, seed=3)
        assert_close(vmap(lambda t, v: group_norm(t, 2, v, None))(x, many),
                     torch.stack([group_norm(t, 2, v) for t, v in zip(x, many, strict=True)]), 1e-12)
        inner = vmap(lambda t: group_norm(t, 2, w, b), in_dims=1, out_dims=1)
        assert_close(inner(x.movedim(0, 1)), each.movedim(0, 1), 1e-12)

    @torch_warns
    def test_jacobians(self):
        x, w, b = arguments((1, 4, 3))
        def of(f): return lambda *a: f(a[0], 2, *a[1:], eps=1e-2)
        for jacobian in (jacrev, jacfwd):
            both = (jacobian(of(f), (0, 1, 2))(x, w, b) for f in (group_norm, composed))
            for a, e in zip(*both, strict=True): assert_close(a, e, 1e-10)
        assert_close(jacfwd(jacrev(of(group_norm)))(x), jacfwd(jacrev(of(composed)))(x), 1e-9)

    @torch_warns
    def test_jvp_vjp(self):
        x, w, b = arguments((2, 4, 3))
        tangents = tuple(rand(*t.shape, seed=7) for t in (x, w, b))
        def of(f): return lambda *a: f(a[0], 2, *a[1:])
        for a, e in zip(jvp(of(group_norm), (x, w, b), tangents), jvp(of(composed), (x, w, b), tangents), strict=True):
            assert_close(a, e, 1e-12)
        pulled = (vjp(of(f), x, w, b)[1](x) for f in (group_norm, composed))
        for a, e in zip(*pulled, strict=True): assert_close(a, e, 1e-11)

    def test_gradients_of_single_samples(self):
        module, x = GroupNorm(2, 4, activation="silu").double(), rand(5, 4, 3)
        params = {k: v.detach() for k, v in module.named_parameters()}
        def loss(params, sample): return functional_call(module, params, (sample[None],)).square().sum()
        found = vmap(grad(loss), in_dims=(None, 0))(params, x)
        for n, sample in enumerate(x):
            module.zero_grad(); module(sample[None]).square().sum().backward()
            for k, p in module.named_parameters(): assert_close(found[k][n], p.grad, 1e-11)


OPCHECKS = [*((rand(2, 4, 3), *form) for form in FORMS), *((x, True, True) for x in (
    rand(3, 4), rand(0, 4, 3), rand(2, 4, 0), rand(2, 4, 1).expand(2, 4, 3),
    rand(2, 4, 3, 3).contiguous(memory_format=CL), rand(2, 4, 2, 3, 2).contiguous(memory_format=CL3),
    rand(4, 2, 3).transpose(0, 1), rand(2, 4, 3).bfloat16()))]


class TestOperator:
    @pytest.mark.parametrize("x, weight, bias", OPCHECKS,
                             ids=lambda v: f"{v.dtype}{tuple(v.stride())}" if torch.is_tensor(v) else str(v))
    def test_opcheck(self, x, weight, bias):
        w, b = (t.to(x.dtype) if t is not None else None for t in arguments((1, 4), weight, bias)[1:])
        leaf = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        torch.library.opcheck(ops.forward_op, (leaf, 2, w, b, 1e-5))
        _, mean, rstd = ops.forward_op(x, 2, w, b, 1e-5)
        given = torch.ones((), dtype=x.dtype).expand(x.shape), x, mean, rstd, 2, w
        torch.library.opcheck(ops.backward_op, given)
        whole, part = (ops.backward_op(*given, need_parameters=need) for need in (True, False))
        assert torch.equal(part[0], whole[0]) and not any(t.numel() for t in part[1:])
        torch.library.opcheck(ops.backward_op, given, {"need_parameters": False})

    def test_fake_agrees_on_every_case(self):
        "On the meta device: shape, dtype and strides of what the kernels return."
        for case, dtype in itertools.product(CASES, (torch.float32, torch.bfloat16)):
            x = torch.tensor(case.make()).to(dtype)
            for lay in (x, x.transpose(0, 1).contiguous().transpose(0, 1),
                        *([x.contiguous(memory_format=CL if x.ndim == 4 else CL3)] if x.ndim in (4, 5) else [])):
                real, fake = (ops.forward_op(t, case.num_groups, None, None, 1e-5) for t in (lay, lay.to("meta")))
                again, fake_again = (ops.backward_op(s[0], t, s[1], s[2], case.num_groups, None)
                                     for t, s in ((lay, real), (lay.to("meta"), fake)))
                for a, b in zip((*real, *again), (*fake, *fake_again), strict=True):
                    assert (a.shape, a.dtype, b.device.type) == (b.shape, b.dtype, "meta"), case
                    assert a.stride() == b.stride() or not a.numel(), case            # empty: strides mean nothing

    def test_meta_tensors_through_the_public_function(self):
        x = torch.empty(2, 4, 3, 3, device="meta", dtype=torch.bfloat16).contiguous(memory_format=CL).requires_grad_()
        y = group_norm(x, 2, activation="relu")
        assert (y.shape, y.dtype, y.device.type) == (x.shape, x.dtype, "meta") and y.is_contiguous(memory_format=CL)
        assert torch.autograd.grad(y.sum(), x)[0].shape == x.shape


def block(x, w, b, scale): return F.conv1d(group_norm(x, 2, w, b, 1e-5, "silu", scale=scale), x.new_ones(3, 4, 1)).exp()


class TestCompile:
    @torch_warns
    @pytest.mark.parametrize("backend, dtype", [("aot_eager", torch.bfloat16), ("inductor", torch.float32)], ids=str)
    def test_same_bits_as_eager_in_one_graph(self, backend, dtype):
        torch._dynamo.reset()
        compiled = torch.compile(lambda *a: group_norm(a[0], 2, *a[1:]), fullgraph=True, backend=backend)
        results = []
        for f in (lambda *a: group_norm(a[0], 2, *a[1:]), compiled):
            leaves = [t.requires_grad_() for t in arguments((2, 4, 5), dtype=dtype)]
            y = f(*leaves)
            results.append((y.detach(), *torch.autograd.grad(y, leaves, rand(2, 4, 5, seed=4, dtype=dtype))))
        for eager, comp in zip(*results, strict=True): assert eager.dtype == comp.dtype and torch.equal(eager, comp)

    def test_no_graph_break_in_a_block(self):
        torch._dynamo.reset()
        args = *arguments((2, 4, 5)), rand(2, 4, seed=3)
        explained = torch._dynamo.explain(block)(*args)
        assert (explained.graph_count, explained.graph_break_count) == (1, 0), explained.break_reasons
        assert_close(torch.compile(block, fullgraph=True, backend="aot_eager")(*args), block(*args), 1e-12)

    def test_one_graph_for_many_sizes(self):
        torch._dynamo.reset()
        graphs = []
        def count(gm, _): graphs.append(gm); return gm
        compiled = torch.compile(lambda x, w: group_norm(x, 2, w), fullgraph=True, backend=count, dynamic=True)
        for N, H, W in ((3, 5, 6), (2, 7, 8), (7, 9, 3), (5, 8, 8)):
            x, w = rand(N, 4, H, W), rand(4)
            assert torch.equal(compiled(x, w), group_norm(x, 2, w))
        assert len(graphs) == 1

    @torch_warns
    @pytest.mark.parametrize("transform", [
        pytest.param(f, id=name) for name, f in dict(
            grad=grad, vjp=lambda f: lambda x: vjp(f, x)[1](torch.ones(()).double())[0], jacrev=jacrev, jacfwd=jacfwd,
            vmap_of_grad=lambda f: vmap(grad(f)), jvp=lambda f: lambda x: jvp(f, (x,), (x.cos(),))[1],
            grad_of_vmap=lambda f: grad(lambda x: vmap(f)(x).sum()),
            hessian=lambda f: torch.func.hessian(lambda x: f(x[:1, :, :1]))).items()])
    def test_transforms_within(self, transform):
        "In one graph, as outside of a compiler; vmap alone keeps the operator."
        def cubes(x): return group_norm(x if x.ndim == 3 else x[None], 2, activation="silu").pow(3).sum()
        torch._dynamo.reset()
        x, f = rand(2, 4, 5), transform(cubes)
        assert_close(torch.compile(f, fullgraph=True, backend="aot_eager")(x), f(x), 1e-9)

    def test_vmap_within_keeps_the_operator(self):
        torch._dynamo.reset()
        seen = []
        def note(gm, _): seen.extend(str(n.target) for n in gm.graph.nodes); return gm
        x, f = rand(3, 2, 4, 5), vmap(lambda x: group_norm(x, 2))
        assert_close(torch.compile(f, fullgraph=True, backend=note)(x), f(x), 1e-12)
        assert "gn_nb.forward.default" in seen

    def test_errors_are_those_of_eager(self):
        torch._dynamo.reset()
        compiled = torch.compile(lambda x: group_norm(x, 3), backend="aot_eager")
        with pytest.raises(Exception, match=r"num_channels \(4\) must be divisible by num_groups \(3\)"):
            compiled(rand(2, 4, 3))


def test_export():
    module = GroupNorm(2, 4, activation="silu").eval()
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(module, (rand(3, 4, 5).float(),), dynamic_shapes=({0: batch},))
    targets = [str(n.target) for n in program.graph.nodes if n.op == "call_function"]
    assert targets.count("gn_nb.forward.default") == 1
    for N in (2, 3, 9):
        x = rand(N, 4, 5).float()
        assert torch.equal(program.module()(x), module(x))


@pytest.mark.quick
@pytest.mark.parametrize("grad", [False, True])
def test_what_a_transform_leaves_behind(grad):
    "A tensor that outlives a transform is a wrapper around one, though its type is Tensor."
    def kept(t):
        found = []
        torch.func.grad(lambda t: (found.append(t), t.sum())[1])(t)
        return found[0]
    x, w, b = arguments((2, 4, 3))
    wanted = group_norm(x, 2, w, b)                                         # from now on a known kind of call
    with torch.set_grad_enabled(grad):
        for given in ((kept(x), w, b), (x, kept(w), b), (x, w, kept(b))):
            for leaf in (w, b): leaf.requires_grad_(grad)
            assert_close(group_norm(given[0], 2, *given[1:]).detach(), wanted, 1e-12)


@pytest.mark.quick
class TestOut:
    def test_writes_there(self):
        x, w, b = arguments((2, 4, 3, 3))
        wanted = group_norm(x, 2, w, b, 1e-5, "relu")
        for out in (torch.full_like(x, torch.nan), torch.full_like(x, torch.nan).contiguous(memory_format=CL),
                    torch.full((2, 4, 3, 6), torch.nan, dtype=x.dtype)[..., ::2]):
            strides = out.stride()
            assert group_norm(x, 2, w, b, 1e-5, "relu", out=out) is out
            assert torch.equal(out, wanted) and out.stride() == strides
        assert group_norm(x, 2, w, b, 1e-5, "relu", out=x) is x and torch.equal(x, wanted)             # in place
        with torch.no_grad(): group_norm(x.clone().requires_grad_(), 2, out=torch.empty_like(x))     # none is lost here

    @pytest.mark.parametrize("known", [False, True])
    def test_memory_that_is_shared(self, known):
        "Results do not depend on which kinds of calls were made before."
        ops._known.clear()
        x, w, b = arguments((2, 4, 3, 3))
        wanted = group_norm(x, 2, w, b) if known else F.group_norm(x, 2, w, b)
        memory = torch.full((3*x.numel(),), torch.nan, dtype=x.dtype)
        def place(start): return memory[start:start + x.numel()].view(x.shape)
        with torch.no_grad():
            for start in (x.numel(), 0, x.numel() + 4, x.numel() - 4, 2*x.numel()):
                source, out = place(x.numel()).copy_(x), place(start)
                assert group_norm(source, 2, w, b, out=out) is out
                assert_close(out, wanted, 1e-12)
            for out in (torch.full_like(x, torch.nan), x):
                assert_close(group_norm(x, 2, w, b, out=out), wanted, 1e-12)
            must_raise(ValueError, "input's shape", group_norm, x, 2, w, b, out=torch.empty_like(x)[:1])
            must_raise(TypeError, "out must be a torch.Tensor", group_norm, x, 2, w, b, out=x.numpy())
            must_raise(ValueError, "device of input", group_norm, x, 2, w, b, out=torch.empty_like(x, device="meta"))

    @pytest.mark.parametrize("error, words, out", [
        (ValueError, "input's shape (2, 4, 3) and dtype torch.float64, got (2, 4)", torch.ones(2, 4).double()),
        (ValueError, "got (2, 4, 3) and torch.float32", torch.ones(2, 4, 3)),
        (TypeError, "out must be a torch.Tensor, got ndarray", np.ones((2, 4, 3))),
        (TypeError, "out must have a floating dtype, got torch.int64", torch.ones(2, 4, 3, dtype=torch.int64)),
        (ValueError, "out must be on the device of input, cpu, got meta", torch.ones(2, 4, 3, device="meta").double()),
        (ValueError, "out must not be given while out requires a gradient", rand(2, 4, 3).requires_grad_())])
    def test_errors(self, error, words, out): must_raise(error, words, group_norm, rand(2, 4, 3), 2, out=out)

    @pytest.mark.parametrize("name", ["input", "weight", "bias", "scale", "shift"])
    def test_refuses_gradients(self, name):
        x, w, b = arguments((2, 4, 3))
        given = dict(input=x, weight=w, bias=b, scale=rand(2, 4), shift=rand(2, 4))
        given[name] = given[name].requires_grad_()
        must_raise(ValueError, f"out must not be given while {name} requires a gradient",
                   lambda: group_norm(**given, num_groups=2, out=rand(2, 4, 3)))


x = rand(2, 6, 3)
PER_CHANNEL = "must have shape (6,), one value for each channel"
SHAPE = "input must have shape (N, C, *), at least 2 dimensions"
VALUES = "input must have more than one value per group, got shape"
NAMES = "activation must be one of None, 'relu', 'silu', 'gelu'"


@pytest.mark.quick
@pytest.mark.parametrize("error, words, args, options", [
    (ValueError, "num_channels (6) must be divisible by num_groups (4)", (x, 4), {}),
    (ValueError, "num_groups (7)", (x, 7), {}),
    (ValueError, "num_groups (0) must be at least 1", (x, 0), {}),
    (ValueError, "num_groups (-3) must be at least 1", (x, -3), {}),
    (TypeError, "num_groups must be an integer, got 2.0", (x, 2.), {}),
    (TypeError, "num_groups must be an integer, got '2'", (x, "2"), {}),
    (TypeError, "num_groups must be an integer, got True", (x, True), {}),
    (TypeError, "num_groups must be an integer, got None", (x, None), {}),
    (ValueError, f"weight {PER_CHANNEL}, got (3,)", (x, 3, torch.ones(3)), {}),
    (ValueError, f"weight {PER_CHANNEL}, got (1, 6)", (x, 3, torch.ones(1, 6)), {}),
    (ValueError, f"bias {PER_CHANNEL}, got ()", (x, 3, None, torch.ones(())), {}),
    (TypeError, "weight must have a floating dtype, got torch.int64", (x, 3, torch.ones(6, dtype=torch.int64)), {}),
    (TypeError, "bias must have a floating dtype, got torch.bool", (x, 3, None, torch.ones(6) > 0), {}),
    (TypeError, "weight must be a torch.Tensor, got ndarray", (x, 3, np.ones(6)), {}),
    (TypeError, "bias must be a torch.Tensor, got float", (x, 3, None, 1.), {}),
    (ValueError, "weight must be on the device of input, cpu, got meta", (x, 3, torch.ones(6, device="meta")), {}),
    (ValueError, "bias must be on the device of input, cpu, got meta", (x, 3, None, torch.ones(6, device="meta")), {}),
    (ValueError, "weight must be on the device of input, meta, got cpu", (x.to("meta"), 3, torch.ones(6)), {}),
    (ValueError, f"{SHAPE}, got (6,)", (rand(6), 3), {}),
    (ValueError, f"{SHAPE}, got ()", (rand(), 1), {}),
    (ValueError, "num_channels (0) must be at least 1", (rand(2, 0, 3), 1), {}),
    (TypeError, "input must have a floating dtype, got torch.int64", (x.long(), 3), {}),
    (TypeError, "input must have a floating dtype, got torch.bool", (x > 0, 3), {}),
    (TypeError, "input must have a floating dtype, got torch.complex128", (x + 0j, 3), {}),
    (TypeError, "input must be a torch.Tensor, got ndarray", (x.numpy(), 3), {}),
    (TypeError, "input must be a torch.Tensor, got list", (x.tolist(), 3), {}),
    (ValueError, f"{VALUES} (1, 6) with num_groups (6)", (rand(1, 6), 6), {}),
    (ValueError, f"{VALUES} (1, 6, 1, 1)", (rand(1, 6, 1, 1), 6), {}),
    (ValueError, "eps (-1e-05) must be finite and at least 0", (x, 3), dict(eps=-1e-5)),
    (ValueError, "eps (nan) must be finite and at least 0", (x, 3), dict(eps=float("nan"))),
    (ValueError, "eps (inf) must be finite and at least 0", (x, 3), dict(eps=float("inf"))),
    (TypeError, "eps must be a number, got '1e-5'", (x, 3), dict(eps="1e-5")),
    (TypeError, "eps must be a number, got None", (x, 3), dict(eps=None)),
    (ValueError, f"{NAMES}, got 'swish'", (x, 3), dict(activation="swish")),
    (ValueError, f"{NAMES}, got 'ReLU'", (x, 3), dict(activation="ReLU")),
    (ValueError, "scale must have shape (2, 6), got (6,)", (x, 3), dict(scale=rand(6))),
    (ValueError, "shift must have shape (2, 6), got (2, 6, 1)", (x, 3), dict(shift=rand(2, 6, 1))),
    (ValueError, "shift must have shape (2, 6), got (1, 6)", (x, 3), dict(shift=rand(1, 6))),
    (TypeError, "scale must be a torch.Tensor, got float", (x, 3), dict(scale=1.)),
    (TypeError, "shift must have a floating dtype, got torch.int64", (x, 3), dict(shift=rand(2, 6).long())),
    (ValueError, "scale must be on the device of input, cpu, got meta", (x, 3), dict(scale=rand(2, 6).to("meta"))),
    (TypeError, "positional", (x, 3, None, None, 1e-5, None, rand(2, 6)), {}),
], ids=lambda v: v if isinstance(v, str) else "")
def test_errors_name_argument_rule_and_value(error, words, args, options):
    must_raise(error, words, group_norm, *args, **options)


@pytest.mark.quick
def test_an_activation_that_cannot_be_looked_up():
    must_raise((ValueError, TypeError), "activation", group_norm, x, 3, activation=["relu"])


@pytest.mark.quick
def test_numbers_that_are_integers_count_as_such():
    assert torch.equal(group_norm(x, np.int64(3)), group_norm(x, 3))
    assert torch.equal(group_norm(x, 3, eps=np.float64(1e-5)), group_norm(x, 3))
    assert torch.equal(group_norm(x, 3, eps=0), group_norm(x, 3, eps=0.))


@pytest.mark.quick
def test_subclasses_and_threads():
    p = torch.nn.Parameter(x.clone())
    assert torch.equal(group_norm(p, 3), group_norm(x, 3))
    with torch.inference_mode(): assert torch.equal(group_norm(x.clone(), 3), group_norm(x, 3))
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(y, group_norm(x, 3)) for y in pool.map(lambda _: group_norm(x, 3), range(64)))


@pytest.fixture(scope="module")
def internal():
    "PyTorch's own tests of its own group norm. Their import may warn; nothing else here may."
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        from torch.testing._internal.common_methods_invocations import op_db
        from torch.testing._internal.common_modules import module_db
    op, = (o for o in op_db if o.name == "nn.functional.group_norm")
    module, = (m for m in module_db if m.module_cls is torch.nn.GroupNorm)
    return op, module


class TestPyTorchsOwnSamples:
    # OpInfo rebinds `kwargs` in its loop over weight and bias, so each of its four permutations is the one with both:
    # the others are tested by the forms above.
    def test_values_and_gradients(self, internal):
        op, _ = internal
        kinds = (op.sample_inputs, op.reference_inputs)
        samples = [s for kind in kinds for s in kind("cpu", torch.float64, requires_grad=True)]
        assert len(samples) > 40
        negative = 0
        for s in samples:
            if s.kwargs.get("eps", 1) < 0:           # torch computes with a negative eps; it is an error here
                must_raise(ValueError, "eps (-0.5)", group_norm, s.input, *s.args, **s.kwargs)
                s.kwargs["eps"] *= -1; negative += 1
            results = []
            for f in (group_norm, F.group_norm):
                leaves = [t for t in (s.input, *s.kwargs.values()) if torch.is_tensor(t)]
                y = f(s.input, *s.args, **s.kwargs)
                results.append((y, *torch.autograd.grad(y, leaves, rand(*y.shape))))
            for a, b in zip(*results, strict=True): assert_close(a, b, 1e-11)
        assert 0 < negative < len(samples)/2

    def test_their_errors_are_ours(self, internal):
        op, _ = internal
        cases = [*op.error_inputs("cpu")]
        assert len(cases) >= 2
        for e in cases:
            s = e.sample_input
            with pytest.raises(e.error_type): F.group_norm(s.input, *s.args, **s.kwargs)
            with pytest.raises((ValueError, TypeError), match=r"must"): group_norm(s.input, *s.args, **s.kwargs)

    def test_modules(self, internal):
        _, info = internal
        samples = info.module_inputs_func(info, device="cpu", dtype=torch.float64, requires_grad=True, training=True)
        assert len(samples) >= 10
        for s in samples:
            build, call = s.constructor_input, s.forward_input
            ours, theirs = (cls(*build.args, **build.kwargs).double() for cls in (GroupNorm, torch.nn.GroupNorm))
            x = call.args[0]
            results = [(y := m(x), torch.autograd.grad(y.sin().sum(), (x, *m.parameters()))) for m in (ours, theirs)]
            assert_close(results[0][0], results[1][0], 1e-12)
            for a, b in zip(results[0][1], results[1][1], strict=True): assert_close(a, b, 1e-11)


class TestMemory:
    @pytest.mark.parametrize("layout", [torch.contiguous_format, CL], ids=str)
    def test_saved_tensors_that_come_back_in_another_memory_format(self, layout):
        other = CL if layout is torch.contiguous_format else torch.contiguous_format
        x, dy = (rand(2, 4, 5, 3, seed=k, dtype=torch.float32).contiguous(memory_format=layout) for k in (0, 1))
        w, wanted = rand(4, seed=2, dtype=torch.float32).requires_grad_(), []
        x.requires_grad_()
        for norm in F.group_norm, group_norm, group_norm:                                # the last is a known call
            def unpack(t): return t.clone(memory_format=other) if t.dim() == 4 else t
            with torch.autograd.graph.saved_tensors_hooks(lambda t: t, unpack): y = norm(x, 2, w)
            found = torch.autograd.grad(y, (x, w), dy)
            wanted = wanted or found
            for a, b in zip(found, wanted, strict=True): assert_close(a, b, 1e-5)

    def test_a_result_written_by_a_kernel_counts_as_a_change(self):
        ops._known.clear()
        for _ in range(2):                                                               # at first, and once known
            leaf = rand(2, 4, 3, dtype=torch.float32).requires_grad_()
            x = leaf.exp()
            with torch.no_grad(): group_norm(x, 2, out=x)
            assert x._version == 1
            with pytest.raises(RuntimeError, match="modified by an inplace operation"): x.sum().backward()

    @pytest.mark.parametrize("name", ["weight", "bias", "scale", "shift"])
    def test_a_result_over_another_argument(self, name):
        memory = rand(24, dtype=torch.float32)
        part = memory[:4] if name in ("weight", "bias") else memory[:8].view(2, 4)
        x = rand(2, 4, 3, seed=1, dtype=torch.float32)
        wanted = composed(x, 2, **{name: part.clone()})
        for _ in range(2):
            values = memory.clone()
            found = group_norm(x, 2, **{name: part}, out=memory.view(2, 4, 3))
            assert found.data_ptr() == memory.data_ptr()
            assert_close(found, wanted, 1e-5)
            memory.copy_(values)

    def test_a_result_in_a_tensor_of_inference_mode(self):
        x = rand(2, 4, 3, dtype=torch.float32)
        with torch.inference_mode():
            out = torch.empty_like(x)
            group_norm(x, 2, out=out); group_norm(x, 2, out=out)
        for _ in range(2): must_raise(ValueError, "out must not be", group_norm, x, 2, out=out)

    def test_another_default_device(self):
        ops._known.clear()
        x, scale = rand(2, 4, 3, dtype=torch.float32), rand(2, 4, seed=1, dtype=torch.float32)
        wanted = composed(x, 2), composed(x, 2, scale=scale)
        with torch.device("meta"):
            assert_close(group_norm(x, 2), wanted[0], 1e-5)
            assert_close(group_norm(x, 2, scale=scale), wanted[1], 1e-5)
            assert_close(torch.ops.gn_nb.forward(x, 2, None, None, 1e-5)[0], wanted[0], 1e-5)
        x.requires_grad_()
        dx, = torch.autograd.grad(group_norm(x, 2), x, x.detach())
        assert_close(dx, torch.autograd.grad(F.group_norm(x, 2), x, x.detach())[0], 1e-5)

    def test_values_that_are_only_marked(self):
        x = rand(2, 4, 3, dtype=torch.float32)
        nothing = torch._efficientzerotensor((2, 4, 3))
        for _ in range(2):
            assert not group_norm(nothing, 2).any()
            leaf = x.clone().requires_grad_()
            assert not torch.autograd.grad(group_norm(leaf, 2), leaf, nothing)[0].any()
