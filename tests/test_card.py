"The torch side of the kernels for cards, on tensors of the CPU that a simulated card takes for its own."
import itertools
import warnings
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from gn_nb import cuda, group_norm, ops
from gn_nb.testing import must_raise

CARD = cuda.Card((9, 0), 2, 1 << 20, warp=4, threads=8, most=16)
ACTIVATIONS = {None: lambda z: z, "relu": F.relu, "silu": F.silu, "gelu": F.gelu}


@pytest.fixture
def simulated(monkeypatch):
    "Every tensor of a dtype that the kernels know lies on the simulated card."
    monkeypatch.setattr(ops, "card_kernels", lambda: cuda)
    monkeypatch.setattr(ops, "_known", {})                               # other tests have met these shapes on the CPU
    monkeypatch.setattr(ops, "for_card", lambda input: input.dtype in ops.DTYPE)
    monkeypatch.setattr(ops, "executor", lambda device: (CARD, cuda.play))
    monkeypatch.setattr(ops.cpu.Order, "__call__", None)                 # nobody falls back to the CPU unseen


def rand(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def composed(x, G, weight, bias, activation=None, scale=None, shift=None):
    def spread(v): return v.double().reshape(-1, x.shape[1], *(1,)*(x.ndim - 2))
    y = F.group_norm(x.double(), G)                 # torch 2.13 raises in backward for a bias without a weight
    if weight is not None: y = y*spread(weight)
    if bias is not None: y = y + spread(bias)
    if scale is not None: y = y*(1 + spread(scale))
    if shift is not None: y = y + spread(shift)
    return ACTIVATIONS[activation](y)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("last", [False, True])
def test_eager(simulated, dtype, last):
    "Values, layout and gradients, for parameters of either dtype, some of them missing."
    tol = {torch.float64: 1e-10, torch.float32: 2e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}[dtype]
    for k, (wide, form) in enumerate(itertools.product((False, True), (3, 2, 1, 0))):
        x = rand(2, 8, 3, 5, seed=k, dtype=dtype)
        if last: x = x.to(memory_format=torch.channels_last)
        kind = torch.float32 if wide and dtype is not torch.float64 else dtype
        w, b = (rand(8, seed=9 + i, dtype=kind) if form & 1 << i else None for i in range(2))
        leaves = [t.requires_grad_() for t in (x, w, b) if t is not None]
        y = group_norm(x, 4, w, b, activation="silu")
        wanted = composed(x, 4, w, b, "silu")
        assert y.dtype is dtype and y.stride() == x.stride()
        assert (y - wanted).abs().max() < tol
        dy = rand(*x.shape, seed=5, dtype=dtype)
        for a, e, t in zip(torch.autograd.grad(y, leaves, dy), torch.autograd.grad(wanted, leaves, dy.double()), leaves,
                           strict=True):
            assert a.dtype is t.dtype and (a - e).abs().max() < tol*10


@pytest.mark.parametrize("given", [(True, True), (True, False), (False, True)])
def test_scale_and_shift(simulated, given):
    x, w, b = rand(3, 6, 7), rand(6, seed=1), rand(6, seed=2)
    scale, shift = (rand(3, 6, seed=3 + k) if there else None for k, there in enumerate(given))
    leaves = [t.requires_grad_() for t in (x, w, b, scale, shift) if t is not None]
    y, wanted = group_norm(x, 3, w, b, scale=scale, shift=shift), composed(x, 3, w, b, None, scale, shift)
    assert (y - wanted).abs().max() < 2e-5
    dy = rand(3, 6, 7, seed=6)
    for a, e in zip(torch.autograd.grad(y, leaves, dy), torch.autograd.grad(wanted, leaves, dy.double()), strict=True):
        assert (a - e).abs().max() < 1e-4


def test_the_operator_and_a_large_mean(simulated):
    "The statistics pass through float64 and back without losing the second part of the mean."
    x, w, b, dy = 1e5 + rand(2, 4, 8), rand(4, seed=1), rand(4, seed=2), rand(2, 4, 8, seed=3)
    y, mean, rstd = ops.forward_on_card(x, 2, w, b, 1e-5)
    leaves = [t.requires_grad_() for t in (x, w, b)]
    wanted = composed(x, 2, w, b)
    assert mean.dtype is rstd.dtype is torch.float64
    # one float32 at 1e5 is off by up to 4e-3; the second part is a float32 of that size, and a mean of 16 numbers
    assert (mean - x.double().reshape(2, 2, -1).mean(-1)).abs().max() < 1e-6
    assert (y - wanted).abs().max() < 1e-5
    found = ops.backward_on_card(dy, x.detach(), mean, rstd, 2, w.detach(), b.detach())
    for a, e in zip(found[:3], torch.autograd.grad(wanted, leaves, dy.double()), strict=True):
        assert (a - e).abs().max() < 1e-4
    assert all(t.dtype is torch.float64 for t in found[1:]) and found[3].numel() == 0


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("shape", [(2, 8, 3, 5), (3, 8), (1, 8, 16, 20)])
def test_frozen_parameters(simulated, monkeypatch, shape, scaled):
    "Where nobody asks for gradients of parameters, the input's are the same and fewer kernels run."
    ran = []
    def execute(plan, *rest):
        ran.extend(l.form.kernel for l in plan.launches)
        cuda.play(plan, *rest)
    monkeypatch.setattr(ops, "executor", lambda device: (CARD, execute))
    x, w, b, dy = rand(*shape), rand(8, seed=1), rand(8, seed=2), rand(*shape, seed=3)
    more = dict(scale=rand(shape[0], 8, seed=4), shift=rand(shape[0], 8, seed=5)) if scaled else {}
    found = []
    for trained in ((x, w, *more.values()), (x,)):
        leaves = [t.requires_grad_() for t in trained]
        y, _ = group_norm(x, 4, w, b, activation="silu", **more), ran.clear()
        found.append(torch.autograd.grad(y, leaves, dy)[0])
        assert ("parameter_gradients" in ran) is (len(trained) > 1) and ran
        _ = [t.requires_grad_(False) for t in trained]
    assert torch.equal(*found)


@pytest.fixture
def known(monkeypatch):
    "A maker of calls that are known on the simulated card, and the kernels that they have run."
    ran = []
    def launch(plan, addresses, workspace, eps, capability, stream, device):
        assert (capability, stream, device) == (CARD.capability, 17, None)
        ran.extend(l.form.kernel for l in plan.launches)
        cuda.play(plan, addresses, workspace, eps)
    kernels = SimpleNamespace(card=lambda index: CARD, plan=cuda.plan, launch=launch)
    monkeypatch.setattr(ops, "card_kernels", lambda: kernels)
    monkeypatch.setattr(torch._C, "_cuda_getDevice", lambda: None, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: 17, raising=False)
    def make(x, G, parameters, activation=None):
        return ops.KnownOnCard(x, ops.sizes(x.shape, G), activation, 1e-5, parameters)
    return make, ran


@pytest.mark.parametrize("dtype, parameters", [(torch.float32, torch.float32), (torch.bfloat16, torch.bfloat16),
                                               (torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
@pytest.mark.parametrize("last", [False, True])
def test_a_known_call(known, dtype, parameters, last):
    "The short way of a call that was seen before: the same values, for every choice of gradients."
    make, ran = known
    x, dy = (rand(2, 8, 4, 8, seed=k, dtype=dtype) for k in range(2))
    if last: x, dy = (t.to(memory_format=torch.channels_last) for t in (x, dy))
    w, b = (rand(8, seed=2 + k, dtype=parameters) for k in range(2))
    call, tol = make(x, 4, parameters, "silu"), {torch.float32: 1e-5, torch.bfloat16: 5e-2, torch.float64: 1e-12}[dtype]
    assert (call(x, w, b) - composed(x, 4, w, b, "silu")).abs().max() < tol
    for needs in itertools.product((True, False), repeat=3):
        leaves = [t for t, need in zip((x, w, b), needs, strict=True) if t.requires_grad_(need).requires_grad]
        if not leaves: continue
        y = call(x, w, b)
        ran.clear()
        found = torch.autograd.grad(y, leaves, dy)
        assert ("parameter_gradients" in ran) is (needs[1] or needs[2]), needs
        for a, e in zip(found, torch.autograd.grad(composed(x, 4, w, b, "silu"), leaves, dy.double()), strict=True):
            assert a.dtype is e.dtype and (a - e).abs().max() < 20*tol, needs


def test_out_no_gradient_and_empty(simulated):
    x = rand(2, 4, 5)
    out = torch.empty_like(x)
    assert group_norm(x, 2, out=out) is out and (out - composed(x, 2, None, None)).abs().max() < 1e-5
    assert group_norm(x, 2, out=x) is x and torch.equal(x, out)
    empty = torch.empty(0, 4, 5, requires_grad=True)
    w = torch.ones(4, requires_grad=True)
    y = group_norm(empty, 2, w)
    gradients = torch.autograd.grad(y.sum(), (empty, w))
    assert y.shape == gradients[0].shape == (0, 4, 5) and torch.equal(gradients[1], torch.zeros(4))
    _, mean, rstd = ops.forward_on_card(torch.empty(2, 4, 0), 2, None, None, 1e-4)
    assert torch.equal(mean, torch.zeros(2, 2).double()) and (rstd - 100).abs().max() < 1e-4


def test_second_order_goes_through_the_plain_version(simulated):
    x = rand(2, 4, 3, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: group_norm(x, 2, eps=1e-2), (x,))


def test_without_the_compiler(monkeypatch):
    "One warning that names the extra, and torch's own operations; none where torch knows no card."
    ops.card_kernels.cache_clear()
    assert torch.version.cuda is None and ops.card_kernels() is None
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(cuda, "compiles", False)
    ops.card_kernels.cache_clear()
    try:
        with pytest.warns(UserWarning, match=r'pip install "gn_nb\[cuda12\]"'): assert ops.card_kernels() is None
        with warnings.catch_warnings(): warnings.simplefilter("error"); assert ops.card_kernels() is None
    finally: ops.card_kernels.cache_clear()
    monkeypatch.setattr(ops, "for_card", lambda input: False)
    y, mean, _ = ops.forward_on_card(x := rand(2, 4, 5), 2, None, None, 1e-5)
    assert (y - composed(x, 2, None, None)).abs().max() < 1e-5 and mean.shape == (2, 2)


def test_a_card_that_the_compiler_does_not_know(monkeypatch):
    "One warning for each device, and torch's own operations."
    monkeypatch.setattr(ops, "card_kernels", lambda: cuda)
    monkeypatch.setattr(cuda, "trouble", lambda device: "for capability 13.0 E: what" if device else None)
    ops.runs_kernels.cache_clear()
    try:
        assert ops.runs_kernels(0)
        with pytest.warns(UserWarning, match=r"cuda:1 .* cannot be compiled \(for capability 13.0 E: what\)"):
            assert not ops.runs_kernels(1)
        with warnings.catch_warnings(): warnings.simplefilter("error"); assert not ops.runs_kernels(1)
        one = [SimpleNamespace(is_cuda=True, dtype=torch.float32, device=torch.device("cuda", k)) for k in (0, 1)]
        assert [*map(ops.for_card, one)] == [True, False]
    finally: ops.runs_kernels.cache_clear()


def test_errors_are_those_of_the_cpu(simulated):
    must_raise(ValueError, "eps", group_norm, rand(2, 4, 5), 2, eps=-1.)
    must_raise(ValueError, "weight", group_norm, rand(2, 4, 5), 2, torch.ones(3))
