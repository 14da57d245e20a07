"gn_nb.GroupNorm in the place of torch.nn.GroupNorm: constructor, state, text, errors, and life inside a model."
import copy
import inspect
import io
import itertools
import pickle

import numpy as np
import pytest
import torch
import torch.fx
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from gn_nb import GroupNorm, group_norm
from gn_nb.testing import assert_close, max_error, must_raise

pytestmark = pytest.mark.quick
OPTIONS = [dict(num_groups=G, num_channels=6, eps=eps, affine=affine, bias=bias)
           for G, eps, affine, bias in itertools.product((1, 2, 6), (1e-5, 0.5), (True, False), (True, False))]
x = torch.randn(4, 6, 5, 5, generator=torch.Generator().manual_seed(0))


def pair(**options):
    "The module and torch's, with the same parameters, not those of the start."
    ours, theirs = GroupNorm(**options), nn.GroupNorm(**options)
    for p in theirs.parameters(): nn.init.normal_(p, 1, generator=torch.Generator().manual_seed(1))
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize("options", OPTIONS, ids=str)
class TestLikeTorch:
    def test_start(self, options):
        ours, theirs = GroupNorm(**options), nn.GroupNorm(**options)
        assert isinstance(ours, nn.GroupNorm) and repr(ours) == repr(theirs)
        assert (ours.weight is None, ours.bias is None) == (theirs.weight is None, theirs.bias is None)
        for state in (lambda m: m.state_dict(), lambda m: dict(m.named_parameters())):
            assert [*state(ours)] == [*state(theirs)]
            assert all(map(torch.equal, state(ours).values(), state(theirs).values()))

    def test_state_goes_both_ways(self, options):
        ours, _ = pair(**options)
        fresh = nn.GroupNorm(**options)
        assert str(fresh.load_state_dict(ours.state_dict(), strict=True)) == "<All keys matched successfully>"
        for a, b in zip(ours.state_dict().values(), fresh.state_dict().values(), strict=True): assert torch.equal(a, b)

    def test_result_and_gradients(self, options):
        ours, theirs = pair(**options)
        found, wanted = [], []
        for module, into in ((ours, found), (theirs.double(), wanted)):
            leaf = x.to(torch.float64 if into is wanted else torch.float32, copy=True).requires_grad_()
            y = module(leaf)
            y.square().sum().backward()
            into += [y.detach(), leaf.grad, *(p.grad for p in module.parameters())]
        # one rounding to float32 in the result; the gradients inherit it from dy = 2y, in sums of up to 150 terms
        for a, b in zip(found, wanted, strict=True): assert_close(a, b, 3e-6, dtype=torch.float32)

    def test_training_and_evaluation_agree(self, options):
        ours, _ = pair(**options)
        y = ours(x)
        before = copy.deepcopy(ours.state_dict())
        assert torch.equal(ours.eval()(x), y) and not [*ours.buffers()]
        assert all(torch.equal(v, before[k]) for k, v in ours.state_dict().items())

    def test_copies(self, options):
        ours, _ = pair(**options)
        ours.activation = "silu"
        saved = io.BytesIO()
        torch.save(ours, saved); saved.seek(0)
        for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)), torch.load(saved, weights_only=False)):
            assert repr(other) == repr(ours) and torch.equal(other(x), ours(x))


def test_signature_is_torchs_and_one_argument_more():
    theirs = inspect.signature(nn.GroupNorm).parameters
    ours = inspect.signature(GroupNorm).parameters
    assert {*ours} - {*theirs} == {"activation"} and {*theirs} <= {*ours}
    for name, p in theirs.items(): assert (ours[name].default, ours[name].kind) == (p.default, p.kind), name
    assert [n for n, p in ours.items() if p.kind is p.POSITIONAL_OR_KEYWORD] == \
        [n for n, p in theirs.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert GroupNorm(2, 6, 1e-3, False).eps == 1e-3


def test_activation_is_shown_and_applied():
    for name, f in (("relu", nn.ReLU()), ("silu", nn.SiLU()), ("gelu", nn.GELU())):
        module = GroupNorm(2, 6, activation=name)
        assert repr(module) == repr(nn.GroupNorm(2, 6))[:-1] + f", activation={name!r})"
        assert_close(module(x), f(GroupNorm(2, 6)(x)), 1e-6)             # fused: one rounding less, its own exponential
    assert repr(GroupNorm(2, 6, activation=None)) == repr(nn.GroupNorm(2, 6))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtype_and_device(dtype):
    module = GroupNorm(2, 6, dtype=dtype, device="meta")
    assert {(p.dtype, p.device.type) for p in module.parameters()} == {(dtype, "meta")}
    assert module(torch.empty(3, 6, 2, dtype=dtype, device="meta")).shape == (3, 6, 2)
    real = GroupNorm(2, 6, dtype=dtype)
    assert real.weight.dtype == real.bias.dtype == dtype and real(x.to(dtype)).dtype == dtype
    assert GroupNorm(2, 6).to(dtype).weight.dtype == dtype
    assert GroupNorm(2, 6)(x.to(dtype)).dtype == dtype                   # float32 parameters, as in mixed precision
    moved = module.to_empty(device="cpu"); moved.reset_parameters()
    assert torch.equal(moved(x.to(dtype)), real(x.to(dtype)))


def test_doubles_throughout():
    module = GroupNorm(2, 6).double()
    assert_close(module(x.double()), nn.GroupNorm(2, 6).double()(x.double()), 1e-12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert GroupNorm(2, 6)(x).dtype == nn.GroupNorm(2, 6)(x).dtype
        assert GroupNorm(2, 6)(x.bfloat16()).dtype == nn.GroupNorm(2, 6)(x.bfloat16()).dtype


@pytest.mark.parametrize("error, words, args, options", [
    (ValueError, "num_channels (6) must be divisible by num_groups (4)", (4, 6), {}),
    (ValueError, "num_groups (0) must be at least 1", (0, 6), {}),
    (ValueError, "num_groups (-1) must be at least 1", (-1, 6), {}),
    (ValueError, "num_channels (0) must be at least 1", (1, 0), {}),
    (TypeError, "num_groups must be an integer, got 2.0", (2., 6), {}),
    (TypeError, "num_groups must be an integer, got True", (True, 6), {}),
    (TypeError, "num_channels must be an integer, got '6'", (2, "6"), {}),
    (ValueError, "eps (-1) must be finite and at least 0", (2, 6, -1), {}),
    (ValueError, "eps (nan) must be finite and at least 0", (2, 6, float("nan")), {}),
    (TypeError, "eps must be a number, got '1e-5'", (2, 6, "1e-5"), {}),
    (ValueError, "one of None, 'relu', 'silu', 'gelu', got 'swish'", (2, 6), dict(activation="swish")),
    (TypeError, "positional", (2, 6, 1e-5, True, None, None, "relu"), {})])
def test_constructor_errors(error, words, args, options): must_raise(error, words, GroupNorm, *args, **options)


def test_call_errors():
    for affine, C in ((True, 9), (True, 8), (False, 8)):
        must_raise(ValueError, f"input must have num_channels (6) channels, got shape (2, {C}, 3)",
                   GroupNorm(3, 6, affine=affine), torch.ones(2, C, 3))
    must_raise(ValueError, "at least 2 dimensions", GroupNorm(3, 6), torch.ones(6))
    must_raise(TypeError, "input must be a torch.Tensor, got ndarray", GroupNorm(3, 6), x.numpy())
    must_raise(RuntimeError, "size mismatch", GroupNorm(3, 6).load_state_dict, GroupNorm(3, 9).state_dict())
    must_raise(RuntimeError, "Missing key", GroupNorm(3, 6).load_state_dict, {})


def test_with_parametrizations():
    class Positive(nn.Module):
        def forward(self, weight): return weight.exp()
    module = GroupNorm(2, 6, bias=False)
    parametrize.register_parametrization(module, "weight", Positive())
    leaf = x.clone().requires_grad_()
    y = module(leaf)
    assert_close(y, torch.e*GroupNorm(2, 6)(x), 1e-6)
    y.square().sum().backward()
    assert module.parametrizations.weight.original.grad.abs().min() > 1
    normed = parametrizations.weight_norm(GroupNorm(2, 6), dim=None)
    with torch.no_grad(): normed.parametrizations.weight.original0.mul_(3)
    assert_close(normed(x), 3*GroupNorm(2, 6)(x), 1e-6)


def test_in_place_relu_behind_it():
    leaf = x.clone().requires_grad_()
    model = nn.Sequential(nn.Conv2d(6, 6, 3), GroupNorm(2, 6), nn.ReLU(inplace=True))
    plain = nn.Sequential(model[0], GroupNorm(2, 6), nn.ReLU())
    wanted = torch.autograd.grad(plain(leaf).square().sum(), leaf)[0]
    assert torch.equal(torch.autograd.grad(model(leaf).square().sum(), leaf)[0], wanted)


def test_frozen_parts():
    for frozen in ("weight", "bias"):
        module = GroupNorm(2, 6)
        getattr(module, frozen).requires_grad_(False)
        module(x.clone().requires_grad_()).square().sum().backward()
        assert getattr(module, frozen).grad is None
        assert getattr(module, "bias" if frozen == "weight" else "weight").grad is not None


def test_it_learns():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(6, 8, 3), GroupNorm(4, 8, activation="relu"), nn.Flatten(), nn.Linear(72, 1))
    target = x.mean((1, 2, 3), keepdim=False)[:, None]
    start = [p.detach().clone() for p in model[1].parameters()]
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=0.01), []
    for _ in range(20):
        loss = (model(x) - target).square().mean()
        optimizer.zero_grad(); loss.backward(); optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]/2
    assert all(max_error(p, q) > 1e-3 for p, q in zip(model[1].parameters(), start, strict=True))


def test_the_module_calls_the_function():
    ours, _ = pair(num_groups=3, num_channels=6, eps=0.1)
    ours.activation = "gelu"
    assert torch.equal(ours(x), group_norm(x, 3, ours.weight, ours.bias, 0.1, "gelu"))


def test_symbolic_tracing():
    model = nn.Sequential(nn.Conv2d(6, 6, 1), GroupNorm(3, 6, activation="silu"))
    traced = torch.fx.symbolic_trace(model)
    assert_close(traced(x), model(x), 0)
    assert_close(pickle.loads(pickle.dumps(traced))(x), model(x), 0)


def test_numbers_of_numpy():
    norm = GroupNorm(np.int64(3), np.int64(6), eps=np.float32(0.5))
    assert type(norm.eps) is float
    assert_close(norm(x), nn.GroupNorm(3, 6, eps=0.5)(x), 1e-6)
    must_raise(TypeError, "dtype must be a floating one, got torch.complex64", GroupNorm, 2, 6, dtype=torch.complex64)


def test_a_module_that_is_given_the_class():
    "As some libraries do, in place of a new module."
    layer, x = nn.GroupNorm(2, 6), torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))
    wanted, text = layer(x), repr(layer)
    layer.__class__ = GroupNorm
    assert_close(layer(x), wanted, 1e-6)
    assert repr(layer) == text and copy.deepcopy(layer).activation is None
