"Converting models: what is kept, what is refused, what is fused and what is not; models of other libraries; weights."
import copy
import gc
import io
import json
import pickle
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from torch import distributed as dist
from torch import nn
from torch.ao.nn.intrinsic import qat
from torch.ao.quantization import default_qat_qconfig
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from gn_nb import GroupNorm, accelerate, convert, convert_batch_norm, to_torch
from gn_nb.testing import assert_close, must_raise

# torch itself calls the deprecated torch.jit when inductor is first used: shown, not an error
torch_warns = pytest.mark.filterwarnings("default:.torch.jit.script:DeprecationWarning")


def rand(*shape, seed=0): return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_weights(model, seed=0):
    "Weights around 1 and biases around 0, none of them at the start, so that a dropped one shows."
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for m in model.modules():
            for name, t in (*m.named_parameters(recurse=False), *m.named_buffers(recurse=False)):
                if t.ndim == 1 and t.is_floating_point() and "running" not in name:
                    t.copy_(torch.randn(t.shape, generator=generator)*0.3 + (name == "weight"))
    return model


def in_threes(layer, C): return C//3


def expected(x, G, norm, eps=None):
    return F.group_norm(x, G, norm.weight, norm.bias, norm.eps if eps is None else eps)


@pytest.mark.quick
class TestBatchNorm:
    @pytest.mark.parametrize("cls, shape", [
        (nn.BatchNorm1d, (4, 12)), (nn.BatchNorm1d, (4, 12, 5)), (nn.BatchNorm2d, (2, 12, 5, 4)),
        (nn.BatchNorm3d, (2, 12, 3, 4, 5)), (nn.SyncBatchNorm, (2, 12, 5, 4))])
    @pytest.mark.parametrize("options", [{}, dict(eps=1e-2), dict(affine=False), dict(track_running_stats=False)],
                             ids=str)
    def test_result_is_group_norm_with_the_same_affine_map(self, cls, shape, options):
        model = random_weights(nn.Sequential(cls(12, **options)))
        old = model[0]
        report = convert_batch_norm(model)
        assert type(model[0]) is GroupNorm and report.model is model
        x, G = rand(*shape), 1 if cls is nn.BatchNorm1d else 4
        assert_close(model(x), expected(x, G, old), 1e-5)
        assert model[0].weight is old.weight and model[0].bias is old.bias and model[0].affine == old.affine
        row, = report.rows
        assert row[:5] == ("0", cls.__name__, 12, G, "GroupNorm")
        assert ("weight, bias" in row.kept) == old.affine and f"eps {old.eps:g}" in row.kept
        assert "accuracy drops" in repr(report)
        assert ("process group dropped" in row.kept) == (cls is nn.SyncBatchNorm)

    @pytest.mark.parametrize("C, G", [(1, 1), (2, 1), (3, 1), (4, 2), (8, 4), (9, 1), (32, 16), (48, 16), (64, 32),
                                      (96, 32), (100, 4), (1280, 32)])
    def test_groups(self, C, G):
        model = nn.Sequential(nn.BatchNorm2d(C))
        convert_batch_norm(model)
        assert model[0].num_groups == G == convert.gcd_groups(C)

    @pytest.mark.parametrize("C, G", [(2, 1), (16, 1), (31, 1), (32, 2), (48, 2), (64, 4), (100, 4), (512, 32)])
    def test_groups_of_vectors(self, C, G):
        "A group of D values of a vector has D - 2 left to say, so D is 16 unless there are fewer channels, or told."
        row, = convert_batch_norm(nn.Sequential(nn.BatchNorm1d(C))).rows
        assert row.groups == G and ("of vectors, groups of" in row.kept) == (C < 16)
        row, = convert_batch_norm(nn.Sequential(nn.BatchNorm1d(2*C)), C).rows
        assert row.groups == C and "of vectors, groups of 2 values" in row.kept
        lazy = convert_batch_norm(nn.Sequential(nn.LazyBatchNorm1d())).model
        lazy(rand(2, C))
        assert lazy[0].num_groups == G

    def test_vectors_keep_more_than_signs(self):
        model = nn.Sequential(nn.Linear(10, 32), nn.BatchNorm1d(32))
        y = convert_batch_norm(model).model(rand(64, 10)).abs()
        assert ((y - 1).abs() < 0.05).double().mean() < 0.2                       # groups of two: all of them

    def test_rules(self):
        def groups(**options):
            model = nn.Sequential(nn.BatchNorm2d(12), nn.BatchNorm1d(24))
            return [row.groups for row in convert_batch_norm(model, **options).rows]
        assert groups(num_groups=6) == [6, 6] and groups(group_size=4) == [3, 6]
        seen = []
        assert groups(rule=lambda layer, C: seen.append((layer, C)) or 2) == [2, 2] and seen == [("0", 12), ("1", 24)]

    def test_instance_normalization_on_request_but_not_of_vectors(self):
        assert convert_batch_norm(nn.BatchNorm2d(4), group_size=1).model.num_groups == 4
        for layer in (nn.BatchNorm1d(4), nn.SyncBatchNorm(4)):
            must_raise(ValueError, "the model: num_groups (4) must be less than num_channels (4)",
                       convert_batch_norm, layer, group_size=1)
        seen = []
        convert_batch_norm(nn.BatchNorm2d(4), rule=lambda layer, C: seen.append(layer) or 1)
        assert seen == [""]                                                       # as in the report
        must_raise(ValueError, "0: num_groups (1) must be less than num_channels (1)", convert_batch_norm,
                   nn.Sequential(nn.BatchNorm1d(1)))

    @pytest.mark.parametrize("error, words, options", [
        (ValueError, "at most one of num_groups, group_size and rule, got num_groups=8, group_size=4",
         dict(num_groups=8, group_size=4)),
        (ValueError, "num_groups (0) must be at least 1", dict(num_groups=0)),
        (TypeError, "num_groups must be an integer, got 2.0", dict(num_groups=2.)),
        (TypeError, "group_size must be an integer, got True", dict(group_size=True)),
        (ValueError, "b.1: num_channels (10) must be divisible by group_size (4)", dict(group_size=4)),
        (ValueError, "b.1: num_channels (10) must be divisible by num_groups (4)", dict(rule=lambda layer, C: 4)),
        (TypeError, "a: num_groups must be an integer, got None", dict(rule=lambda layer, C: None)),
        (TypeError, "rule must be a function", dict(rule=8)),
        (ValueError, "b.1: rule must allow 10 channels, got KeyError(10)", dict(rule=lambda layer, C: {8: 2}[C])),
        (ValueError, "only ('c*') fits none of the 2", dict(only="c*")),
        (ValueError, "skip ('a.0') fits none of the 2", dict(skip=["b.1", "a.0"])),
        (TypeError, "only must be path patterns or classes, got 3", dict(only=3))])
    def test_errors_leave_the_model_untouched(self, error, words, options):
        model = nn.ModuleDict({"a": nn.BatchNorm2d(8), "b": nn.Sequential(nn.ReLU(), nn.BatchNorm2d(10))})
        before = {k: id(m) for k, m in model.named_modules()}
        must_raise(error, words, convert_batch_norm, model, **options)
        assert {k: id(m) for k, m in model.named_modules()} == before

    def test_a_late_error_leaves_lazy_layers_alive(self):
        model = nn.Sequential(nn.LazyBatchNorm2d(), nn.BatchNorm2d(4, eps=-1))
        must_raise(ValueError, "1: eps (-1) must be finite", convert_batch_norm, model)
        for f in (convert_batch_norm, accelerate):
            norm = (nn.BatchNorm2d if f is convert_batch_norm else lambda C, eps: nn.GroupNorm(2, C, eps))(4, eps=-1)
            must_raise(ValueError, "the model: eps (-1) must be finite", f, norm)
        assert type(model[0]) is nn.LazyBatchNorm2d and model[0](rand(2, 4, 3, 3)).shape == (2, 4, 3, 3)

    def test_not_a_model(self):
        for f in (convert_batch_norm, accelerate, to_torch):
            must_raise(TypeError, "model must be a torch.nn.Module, got dict", f, {})

    def test_a_report_is_no_model(self):
        for options, words in (({}, "changed in place"), (dict(dry_run=True), "left as it was")):
            model = convert_batch_norm(nn.Sequential(nn.BatchNorm2d(8)), **options)
            must_raise(TypeError, f"this is the report of convert_batch_norm; the model, {words}, is report.model",
                       model, rand(2, 8, 3, 3))
            must_raise(TypeError, "this is the report", model, x=1)

    def test_only_skip_and_dry_run(self):
        def model(): return nn.ModuleDict({k: nn.Sequential(nn.BatchNorm2d(8), nn.BatchNorm1d(8)) for k in "ab"})
        def changed(**options): return [r.layer for r in convert_batch_norm(model(), **options).changed]
        assert changed() == ["a.0", "a.1", "b.0", "b.1"] and changed(only="a.*") == ["a.0", "a.1"]
        assert changed(only=["a.0", nn.BatchNorm1d]) == ["a.0", "a.1", "b.1"]
        assert changed(skip="*.1") == ["a.0", "b.0"] and changed(only="a.*", skip=nn.BatchNorm2d) == ["a.1"]
        m = model()
        report = convert_batch_norm(m, skip="a.0", dry_run=True)
        assert [r.kept for r in report.rows if not r.became] == ["not chosen"] and "3 of 4" in repr(report)
        assert "would change" in repr(report) and all(isinstance(b, nn.BatchNorm2d | nn.BatchNorm1d)
                                                      for s in m.values() for b in s)

    def test_dtype_device_mode_and_requires_grad(self):
        model = nn.Sequential(nn.BatchNorm2d(8, dtype=torch.float64), nn.BatchNorm2d(8, device="meta"),
                              nn.BatchNorm2d(8))
        model[0].eval()
        model[2].requires_grad_(False)
        report = convert_batch_norm(model)
        assert [m.training for m in model] == [False, True, True]
        assert (model[0].weight.dtype, model[1].bias.device.type) == (torch.float64, "meta")
        assert [p.requires_grad for p in model.parameters()] == [True]*4 + [False]*2
        assert ["frozen" in r.kept for r in report.rows] == [False, False, True]

    def test_names_and_optimizer(self):
        model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Flatten(),
                              nn.Linear(128, 2))
        x = rand(4, 1, 6, 6)
        model(x)
        names, optimizer = dict(model.named_parameters()), torch.optim.SGD(model.parameters(), lr=0.1)
        convert_batch_norm(model)
        assert [*model.state_dict()] == [*names] and all(p is names[k] for k, p in model.named_parameters())
        before = model[1].weight.detach().clone()
        model(x).square().sum().backward(); optimizer.step()
        assert not torch.equal(model[1].weight, before)

    def test_hooks(self):
        model, calls = nn.Sequential(nn.BatchNorm2d(8)), []
        handles = [model[0].register_forward_pre_hook(lambda m, args: calls.append("pre")),
                   model[0].register_forward_hook(lambda m, args, kwargs, y: calls.append("forward"), with_kwargs=True),
                   model[0].register_full_backward_hook(lambda m, dx, dy: calls.append("backward")),
                   model[0].register_state_dict_post_hook(lambda *given: calls.append("state"))]
        assert "hooks 4" in convert_batch_norm(model).rows[0].kept
        model(rand(2, 8, 3, 3, seed=1).requires_grad_()).sum().backward()
        model.state_dict()
        assert calls == ["pre", "forward", "backward", "state"]
        for handle in handles: handle.remove()
        model(rand(2, 8, 3, 3).requires_grad_()).sum().backward()
        assert len(calls) == 4

    def test_hooks_on_loading(self):
        model, calls = nn.Sequential(nn.BatchNorm2d(8)), []
        model[0].register_load_state_dict_pre_hook(lambda module, *given: calls.append(module))
        convert_batch_norm(model)
        gc.collect()                                                        # nothing else holds the old layer
        model.load_state_dict(model.state_dict())
        assert calls == [model[0]]

    def test_shared_modules_stay_shared(self):
        norm = nn.BatchNorm2d(8)
        block = nn.Sequential(norm)
        model = nn.ModuleDict({"a": norm, "b": nn.Sequential(nn.ReLU(), norm), "c": block, "d": block})
        report = convert_batch_norm(model)
        assert model["a"] is model["b"][1] is model["c"][0] and model["c"] is model["d"]
        assert type(model["a"]) is GroupNorm and len(report.rows) == 1 and "also b.1, c.0" in report.rows[0].kept

    def test_shared_modules_are_chosen_by_any_path(self):
        norm = nn.BatchNorm2d(8)
        model = nn.ModuleDict({"a": norm, "b": norm})
        must_raise(ValueError, "only ('c') fits none of the 1 normalizations", convert_batch_norm, model, only="c")
        assert [r.layer for r in convert_batch_norm(model, only="b").changed] == ["a"]

    def test_the_model_itself(self):
        old = nn.BatchNorm2d(8)
        report = convert_batch_norm(old)
        assert type(report.model) is GroupNorm and report.model.weight is old.weight
        assert "(the model)" in repr(report) and report.rows[0].layer == ""

    @pytest.mark.parametrize("affine", [True, False])
    def test_lazy(self, affine):
        model, calls = nn.Sequential(nn.LazyBatchNorm2d(affine=affine, eps=1e-3)), []
        handle = model[0].register_forward_hook(lambda *given: calls.append(1))
        row, = convert_batch_norm(model, group_size=4).rows
        assert row[2:5] == (0, 0, "LazyGroupNorm") and ("weight" in row.kept) == affine and "hooks 1" in row.kept
        x = rand(2, 12, 3, 3)
        assert_close(model(x), F.group_norm(x, 3, eps=1e-3), 1e-5)
        assert type(model[0]) is GroupNorm and repr(model[0]) == repr(GroupNorm(3, 12, eps=1e-3, affine=affine))
        assert calls == [1]
        handle.remove(); model(x)
        assert calls == [1] and model[0]._forward_pre_hooks == {} == model[0]._load_state_dict_pre_hooks
        must_raise(ValueError, "0: num_channels (10) must be divisible by group_size (4)",
                   convert_batch_norm(nn.Sequential(nn.LazyBatchNorm2d()), group_size=4).model, rand(2, 10, 3, 3))

    def test_lazy_ones_can_be_pickled_once_they_are_known(self):
        "And before, unless their rule cannot."
        model = convert_batch_norm(nn.Sequential(nn.LazyBatchNorm2d()), rule=lambda layer, C: 3).model
        x = rand(2, 12, 3, 3)
        with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"): pickle.dumps(model)
        early = convert_batch_norm(nn.Sequential(nn.LazyBatchNorm2d()), rule=in_threes).model
        early = pickle.loads(pickle.dumps(early))
        early(x)
        assert early[0].num_groups == 4
        y = model(x)
        assert torch.equal(pickle.loads(pickle.dumps(model))(x), y)

    def test_lazy_takes_a_checkpoint(self):
        model = convert_batch_norm(nn.Sequential(nn.LazyBatchNorm2d())).model
        state = random_weights(nn.Sequential(nn.GroupNorm(1, 12))).state_dict()
        model.load_state_dict(state)
        x = rand(2, 12, 3, 3)
        assert_close(model(x), F.group_norm(x, 4, state["0.weight"], state["0.bias"]), 1e-5)

    def test_frozen(self):
        class DetectionFrozenBatchNorm2d(nn.Module):
            def __init__(self, C):
                super().__init__()
                for name in ("weight", "bias", "running_mean", "running_var"):
                    self.register_buffer(name, torch.ones(C))
        model = random_weights(nn.Sequential(DetectionFrozenBatchNorm2d(12)))
        old = model[0]
        assert "frozen" in convert_batch_norm(model).rows[0].kept
        x = rand(2, 12, 3, 3)
        assert_close(model(x), expected(x, 4, old, 1e-5), 1e-5)
        assert not any(p.requires_grad for p in model.parameters()) and [*model.state_dict()] == ["0.weight", "0.bias"]

    def test_unknown_ones_are_left_visibly(self):
        class Odd(nn.BatchNorm2d):
            def forward(self, x): return super().forward(x) + 1
        class Same(nn.BatchNorm2d): pass
        model = nn.Sequential(Odd(8), Same(8), parametrizations.weight_norm(nn.BatchNorm2d(8), dim=None),
                              nn.InstanceNorm2d(8))
        classes = [type(m) for m in model]
        report = convert_batch_norm(model)
        assert [(r.layer, r.became) for r in report.rows] == [("0", ""), ("1", "GroupNorm"), ("2", "")]
        assert "forward of its own" in report.rows[0].kept and "parametrization" in report.rows[2].kept
        assert [type(model[k]) for k in (0, 2, 3)] == [classes[k] for k in (0, 2, 3)] and "1 of 3" in repr(report)

    def test_a_forward_set_on_the_layer_or_children_are_left_alone(self):
        "As libraries set it that load weights when they are needed, and chapter 14 for its synchronized layer."
        model = nn.Sequential(nn.BatchNorm2d(8), nn.BatchNorm2d(8), nn.BatchNorm2d(8))
        model[0].forward = lambda x: 2*nn.BatchNorm2d.forward(model[0], x)
        model[1].add_module("observer", nn.ReLU())
        x, before = rand(2, 8, 3, 3), [*model]
        wanted = model[:2](x)
        rows = convert_batch_norm(model).rows
        assert [r.became for r in rows] == ["", "", "GroupNorm"] and [*model[:2]] == before[:2]
        assert "a forward was set on it" in rows[0].kept and "it holds observer" in rows[1].kept
        assert torch.equal(model[:2](x), wanted)

    def test_what_a_user_registered_is_kept(self):
        for norm, change in ((nn.BatchNorm2d(8), convert_batch_norm), (nn.GroupNorm(2, 8), accelerate),
                             (GroupNorm(2, 8), to_torch)):
            model = nn.Sequential(norm)
            model[0].register_buffer("scale", torch.ones(1))
            model[0].register_buffer("secret", torch.ones(1), persistent=False)
            model[0].register_parameter("extra", nn.Parameter(torch.ones(1)))
            kept = {k: id(v) for k, v in model[0].named_buffers() if k in ("scale", "secret")}
            row, = change(model).rows
            assert "extra, scale, secret" in row.kept and model[0] is not norm
            assert {k: id(v) for k, v in model[0].named_buffers()} == kept and model[0].extra is norm.extra
            assert sorted(model.state_dict()) == ["0.bias", "0.extra", "0.scale", "0.weight"]

    @torch_warns
    @pytest.mark.filterwarnings("default:.torch.jit:DeprecationWarning")
    def test_a_scripted_model_is_explained(self):
        model = torch.jit.script(nn.Sequential(nn.BatchNorm2d(8)))
        for f in (convert_batch_norm, accelerate, to_torch):
            assert "0 of 0" in repr(f(model)) and "TorchScript has compiled cannot be exchanged" in repr(f(model))

    def test_norm_and_activation_in_one_module(self):
        "Built as timm builds it, which is not installed everywhere: see test_timm for the real one."
        class BatchNormAct2d(nn.BatchNorm2d):
            def __init__(self, C, drop, act):
                super().__init__(C)
                self.drop, self.act = drop, act
            def forward(self, x): return self.act(self.drop(super().forward(x)))
        BatchNormAct2d.__module__ = "timm.layers.norm_act"
        for drop, act, became, note in (
                (nn.Identity(), nn.ReLU(), GroupNorm, "; applies relu"), (nn.Identity(), nn.Identity(), GroupNorm, ""),
                (nn.Identity(), nn.PReLU(12), convert.GroupNormThen, ", act"),
                (nn.Dropout(0.), nn.ReLU(), convert.GroupNormThen, ", drop, act")):
            model = random_weights(nn.Sequential(BatchNormAct2d(12, drop, act)))
            old, x = model[0], rand(2, 12, 3, 3)
            names = [k for k, _ in model.named_parameters()]
            row, = convert_batch_norm(model).rows
            assert type(model[0]) is became and row.kept == "weight, bias, eps 1e-05" + note
            wanted = act(drop(expected(x, 4, old)))
            assert_close(model(x), wanted, 1e-5)
            assert sorted(model.state_dict()) == sorted(names) and accelerate(model).changed == []
            row, = to_torch(model).rows
            torch_name = type(model[0]).__name__
            assert not isinstance(model[0], GroupNorm)
            assert row.became == ("torch GroupNorm" if torch_name == "GroupNorm" else torch_name)
            assert_close(model(x), wanted, 1e-6)
            assert sorted(model.state_dict()) == sorted(names)

    def test_twice_is_once(self):
        model = nn.Sequential(nn.BatchNorm2d(8))
        convert_batch_norm(model)
        again = convert_batch_norm(model)
        assert again.rows == [] and "0 of 0" in repr(again) and "accuracy" not in repr(again)

    def test_copies_of_what_comes_out(self):
        model = nn.Sequential(nn.BatchNorm2d(8), nn.ReLU())
        accelerate(convert_batch_norm(model).model)
        x, saved = rand(2, 8, 3, 3), io.BytesIO()
        torch.save(model, saved); saved.seek(0)
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(saved, weights_only=False)):
            assert torch.equal(other(x), model(x))


@pytest.mark.parametrize("base, convert", [(nn.GroupNorm, accelerate), (nn.BatchNorm2d, convert_batch_norm)])
def test_what_subclasses_add(base, convert):
    class Scaled(base):
        def __init__(self, *args):
            super().__init__(*args)
            self.scale = 3.

    class Renaming(base):
        def _load_from_state_dict(self, state_dict, prefix, *rest):
            state_dict[prefix + "weight"] = state_dict.pop(prefix + "gamma")
            super()._load_from_state_dict(state_dict, prefix, *rest)

    arguments = (2, 4) if base is nn.GroupNorm else (4,)
    model = nn.Sequential(Scaled(*arguments), Renaming(*arguments))
    report = convert(model)
    assert type(model[0]) is GroupNorm and model[0].scale == 3. and "scale" in report.rows[0].kept
    assert type(model[1]) is Renaming
    assert report.rows[1].kept == "its class has a method _load_from_state_dict of its own"
    if base is nn.BatchNorm2d: assert not hasattr(model[0], "momentum")


def test_a_number_of_groups_of_numpy():
    assert convert_batch_norm(nn.Sequential(nn.BatchNorm2d(4)), np.int64(2)).model[0].num_groups == 2


def test_what_an_activation_has_is_its_own():
    model = nn.Sequential(nn.GroupNorm(2, 4), nn.SiLU(inplace=True))
    before = {*vars(model[1])}
    accelerate(model)
    to_torch(model)
    assert type(model[1]) is nn.SiLU and {*vars(model[1])} == before


@pytest.mark.quick
def test_long_reports_are_shortened_and_escaped():
    report = convert_batch_norm(nn.Sequential(*[nn.BatchNorm2d(8) for _ in range(100)]))
    lines = repr(report).splitlines()
    assert len(lines) == 1 + 1 + 20 + 1 + 4 and lines[22].startswith("(76 more)") and lines[-1].startswith("99 ")
    whole = convert_batch_norm(nn.Sequential(*[nn.BatchNorm2d(8) for _ in range(25)]))
    assert len(repr(whole).splitlines()) == 27
    odd = convert.Report(None, [convert.Row("a<b", "Odd", 0, 0, "", "&")])._repr_html_()
    assert "<td>a&lt;b</td>" in odd and "<td>&amp;</td>" in odd and "<td>?</td>" in odd


def grads(model, x):
    leaf = x.clone().requires_grad_()
    y = model(leaf)
    return [y.detach(), *torch.autograd.grad(y.square().mean(), [leaf, *model.parameters()])]


@pytest.mark.quick
class TestAccelerate:
    @pytest.mark.parametrize("act, name", [
        (nn.ReLU(), "relu"), (nn.ReLU(inplace=True), "relu"), (nn.SiLU(), "silu"), (nn.GELU(), "gelu"),
        (nn.GELU("tanh"), None), (nn.LeakyReLU(), None), (nn.Dropout(0.), None), (nn.Sequential(nn.ReLU()), None)],
        ids=str)
    def test_neighbours(self, act, name):
        model = random_weights(nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8, eps=1e-3), nn.Identity(), act))
        reference, text, x = copy.deepcopy(model), repr(model), rand(2, 3, 7, 7)
        report = accelerate(model)
        assert type(model[1]) is GroupNorm and model[1].activation == name
        assert (report.rows[0].was, report.rows[0].became) == ("torch GroupNorm", "gn_nb GroupNorm")
        assert (f"applies {name}" if name else "no activation known") in report.rows[0].kept
        assert isinstance(model[3], convert.Fused) == bool(name)
        for a, b in zip(grads(model, x), grads(reference, x), strict=True): assert_close(a, b, 1e-5)
        assert [*model.state_dict()] == [*reference.state_dict()]
        model.load_state_dict(reference.state_dict()); reference.load_state_dict(model.state_dict())
        assert "fast already" in accelerate(model).rows[0].kept
        row, = to_torch(model).rows
        assert (row.was, row.became) == ("gn_nb GroupNorm", "torch GroupNorm")
        assert repr(model) == text and type(model[1]) is nn.GroupNorm and torch.equal(model(x), reference(x))

    def test_only_what_is_known_to_follow(self):
        class Functional(nn.Module):
            def __init__(self): super().__init__(); self.norm, self.act = nn.GroupNorm(2, 8), nn.ReLU()
            def forward(self, x): return self.act(x) - self.norm(x)
        class Backwards(nn.Sequential):
            def forward(self, x):
                for m in reversed(self): x = m(x)
                return x
        for model in (Functional(), Backwards(nn.GroupNorm(2, 8), nn.ReLU())):
            x, reference = rand(2, 8, 3, 3), copy.deepcopy(model)
            report = accelerate(model)
            assert report.changed and "no activation known to follow" in report.rows[0].kept
            assert_close(model(x), reference(x), 1e-5)

    def test_nothing_between_is_passed_over_that_somebody_looks_at(self):
        for between in (nn.Identity(), nn.Dropout(0.)):
            for watched in (False, True):
                model, seen = random_weights(nn.Sequential(nn.GroupNorm(2, 8), between, nn.ReLU())), []
                if watched: between.register_forward_hook(lambda m, args, y: seen.append(y))  # noqa: B023
                x = rand(2, 8, 3, 3)
                wanted = model(x)
                accelerate(model)
                assert (model[0].activation == "relu") != watched and type(model[1]) is type(between)
                assert_close(model(x), wanted, 1e-5)
                if watched: assert_close(seen[1], seen[0], 1e-5)
        model = nn.Sequential(nn.GroupNorm(2, 8), nn.Dropout(0.1), nn.ReLU())
        assert accelerate(model).model[0].activation is None

    @pytest.mark.parametrize("spot", ["norm", "act", "parent", "between"])
    def test_a_forward_set_on_a_module_is_kept(self, spot):
        "It replaces what the class does, as HF accelerate's hooks do."
        model = random_weights(nn.Sequential(nn.Sequential(nn.GroupNorm(2, 8), nn.Identity(), nn.ReLU())))
        target = {"norm": model[0][0], "between": model[0][1], "act": model[0][2], "parent": model[0]}[spot]
        old = target.forward
        target.forward = lambda x: old(x + 1)/2 if spot != "parent" else model[0][2](-model[0][0](x))
        x = rand(2, 8, 3, 3)
        wanted = model(x)
        row, = accelerate(model).rows
        assert_close(model(x), wanted, 1e-5)
        words = {"norm": "a forward was set on it", "parent": "a forward was set on what holds it",
                 "act": "a hook looks", "between": "no activation known"}
        assert words[spot] in row.kept and (row.became == "") == (spot == "norm")

    def test_a_forward_set_after_acceleration_is_kept_too(self):
        "It calls the fused layer alone, which goes on to apply the activation."
        model, x = nn.Sequential(nn.GroupNorm(2, 8), nn.ReLU()), rand(2, 8, 3, 3)
        accelerate(model)
        model.forward = lambda x: model[0](x)
        wanted = model(x)
        to_torch(model)
        assert not isinstance(model[0], GroupNorm)
        assert_close(model(x), wanted, 1e-5)

    def test_a_child_is_no_activation(self):
        "Unless the class is known to call it."
        for norm in (nn.GroupNorm(2, 8), GroupNorm(2, 8)):
            norm.add_module("observer", nn.ReLU())
            model, x = nn.Sequential(norm), rand(2, 8, 3, 3)
            wanted = model(x)
            for f in (accelerate, to_torch):
                for row in f(model).rows: assert row.became == "" and "it holds observer" in row.kept
                assert model[0] is norm and torch.equal(model(x), wanted)

    def test_hooks_on_an_activation_inside_stay(self):
        class BitGroupNormActivation(nn.GroupNorm):
            def __init__(self):
                super().__init__(2, 8)
                self.activation = nn.ReLU()
            def forward(self, x): return self.activation(super().forward(x))
        BitGroupNormActivation.__module__ = "transformers.models.bit.modeling_bit"
        for watched in (False, True):
            model, seen = nn.Sequential(BitGroupNormActivation()), []
            if watched: model[0].activation.register_forward_hook(lambda m, args, y: seen.append(1))  # noqa: B023
            accelerate(model)
            model(rand(2, 8, 3, 3))
            assert len(seen) == watched and type(model[0]) is (convert.GroupNormThen if watched else GroupNorm)

    def test_what_stands_for_an_activation(self):
        "Mode, and hooks made before, between and after: the handles work throughout."
        model, calls = nn.Sequential(nn.GroupNorm(2, 8), nn.ReLU()).eval(), []
        model[1].register_state_dict_post_hook(lambda *given: calls.append("state"))
        accelerate(model)
        assert not model[1].training and not model[1].activation.training
        handle = model[1].register_forward_hook(lambda m, args, y: calls.append(type(m)))
        model(rand(2, 8, 3, 3))
        to_torch(model)
        model(rand(2, 8, 3, 3))
        assert calls == [convert.Fused, nn.ReLU]
        handle.remove()
        model(rand(2, 8, 3, 3)); model.state_dict()
        assert calls == [convert.Fused, nn.ReLU, "state"] and not model[1].training

    def test_an_activation_that_blocks_call_with_vectors_calls_its_hooks_once(self):
        fused, calls = convert.Fused(nn.SiLU(), True), []
        convert.take_over(fused, fused.activation)
        fused.register_forward_hook(lambda m, args, y: calls.append(args[0].ndim))
        assert_close(fused(rand(2, 8)), F.silu(rand(2, 8)), 1e-6)
        fused(rand(2, 8, 3))
        assert calls == [2, 3]

    def test_hooks_keep_what_they_see(self):
        for spot in (0, 1):
            model, seen = nn.Sequential(nn.GroupNorm(2, 8), nn.ReLU()), []
            model[spot].register_forward_hook(lambda m, args, y: seen.append(y.min().item()))  # noqa: B023
            assert "a hook looks" in accelerate(model).rows[0].kept
            model(rand(2, 8, 3, 3))
            assert len(seen) == 1 and (seen[0] < 0) == (spot == 0)

    def test_shared(self):
        norm, act = nn.GroupNorm(2, 8), nn.SiLU()
        x = rand(2, 8, 3, 3)
        # the second activation is not idempotent: applied twice it shows
        for second, fused in ((nn.SiLU(), True), (nn.ReLU(), False), (nn.Conv2d(8, 8, 1), False)):
            model = nn.Sequential(norm, act, norm, second, act)          # act also stands alone, and stays there
            reference = copy.deepcopy(model)
            accelerate(model)
            assert model[0] is model[2] and bool(model[0].activation) == fused and model[4] is act
            assert_close(model(x), reference(x), 1e-5)

    def test_partners(self):
        "One activation behind two normalizations of which one cannot take it over: neither does."
        from gn_nb.convert import KNOWN, kind
        class Block(nn.Module):
            def __init__(self):
                super().__init__()
                self.norm1, self.norm2, self.act = nn.GroupNorm(2, 8), nn.GroupNorm(4, 8), nn.ReLU()
            def forward(self, x): return self.act(self.norm2(self.act(self.norm1(x)) - 1))
        x, key = rand(2, 8, 3, 3), kind(Block())
        KNOWN[key] = {"norm1": "act", "norm2": "act"}
        try:
            for options, fused in ((dict(), True), (dict(skip="norm2"), False)):
                model = random_weights(Block())
                reference = copy.deepcopy(model)
                report = accelerate(model, **options)
                assert (model.norm1.activation == "relu") == fused == isinstance(model.act, convert.Fused)
                assert fused or "also follows" in report.rows[0].kept
                assert_close(model(x), reference(x), 1e-5)
        finally: del KNOWN[key]

    def test_dry_run_only_skip(self):
        model = nn.Sequential(nn.GroupNorm(2, 8), nn.ReLU(), nn.GroupNorm(2, 8))
        before = [*model]
        report = accelerate(model, dry_run=True)
        assert len(report.changed) == 2 and [*model] == before and "would change" in repr(report)
        must_raise(ValueError, "only ('7') fits none of the 2", accelerate, model, only="7")
        assert [r.layer for r in accelerate(model, skip="2").changed] == ["0"]
        report = to_torch(model, dry_run=True)
        assert isinstance(model[1], convert.Fused) and report.rows[0].became == "torch GroupNorm"

    def test_after_a_conversion(self):
        model = random_weights(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()))
        convert_batch_norm(model)
        reference, x = copy.deepcopy(model), rand(2, 3, 5, 5)
        accelerate(model)
        assert model[1].activation == "relu"
        assert_close(model(x), reference(x), 1e-5)

    def test_subclasses_with_a_forward_of_their_own_stay(self):
        class Odd(nn.GroupNorm):
            def forward(self, x): return -super().forward(x)
        class Ours(GroupNorm):
            def forward(self, x): return -super().forward(x)
        model = nn.Sequential(Odd(2, 8), Ours(2, 8))
        assert accelerate(model).changed == [] == to_torch(model).changed and type(model[0]) is Odd

    def test_classes_are_told_apart_where_their_names_are_the_same(self):
        class Mine(nn.GroupNorm): pass
        model = nn.Sequential(Mine(2, 8), nn.GroupNorm(2, 8), GroupNorm(2, 8))
        names = [(r.was, r.became) for r in accelerate(model).rows]
        assert names == [("Mine", "GroupNorm"), ("torch GroupNorm", "gn_nb GroupNorm"), ("GroupNorm", "")]
        assert {(r.was, r.became) for r in to_torch(model).rows} == {("gn_nb GroupNorm", "torch GroupNorm")}

    @pytest.mark.parametrize("act", ["relu", "silu", "gelu"])
    def test_to_torch_of_models_built_with_the_package(self, act):
        model = random_weights(nn.Sequential(GroupNorm(2, 8, activation=act), GroupNorm(4, 8, bias=False)))
        model[0].eval()
        reference, x = copy.deepcopy(model), rand(2, 8, 3, 3)
        to_torch(model)
        assert not any(isinstance(m, GroupNorm) for m in model.modules())
        assert [m.training for m in model] == [False, True]
        assert [*model.state_dict()] == [*reference.state_dict()]
        assert_close(model(x), reference(x), 1e-5)
        accelerate(model)
        assert repr(model) == repr(reference)

    def test_to_torch_leaves_what_it_cannot_know(self):
        lazy = convert_batch_norm(nn.Sequential(nn.LazyBatchNorm2d())).model
        row, = to_torch(lazy).rows
        assert row.became == "" and "lazy" in row.kept

    @torch_warns
    def test_compile(self):
        model = random_weights(nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.SiLU()))
        accelerate(model)
        x = rand(2, 3, 5, 5)
        assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(x), model(x), 1e-6)


@pytest.fixture
def alone(tmp_path, monkeypatch):
    "A process group of this process alone, for wrappers that ask for one."
    if not dist.is_available() or not dist.is_gloo_available(): pytest.skip("torch's gloo is missing here")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try: yield
    finally: dist.destroy_process_group()


def refused(model, words, conversions=(convert_batch_norm, accelerate, to_torch)):
    "These conversions refuse this model, and leave it as it was and able to learn."
    before = [id(m) for m in model.modules()]
    for f in conversions:
        for dry_run in (False, True):
            must_raise(ValueError, f"model must not be or contain {words}", f, model, dry_run=dry_run)
    assert [id(m) for m in model.modules()] == before
    model(rand(2, 8, 3, 3)).sum().backward()


def mixed(): return nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.GroupNorm(2, 8), nn.ReLU())


@pytest.mark.filterwarnings("default::UserWarning:torch", "default::FutureWarning:torch",
                            "default::DeprecationWarning:torch")
class TestDistributed:
    "What torch.distributed has wrapped or sharded remembers modules, weights or buffers: convert first."
    def test_distributed_data_parallel(self, alone):
        model = nn.parallel.DistributedDataParallel(mixed())
        words = "convert its module, then wrap it anew"
        refused(model, f"DistributedDataParallel (at the top): {words}", [convert_batch_norm])
        refused(nn.Sequential(nn.Identity(), model), f"DistributedDataParallel (at 1): {words}", [convert_batch_norm])
        for f in (accelerate, to_torch):                                # the same parameters in other modules
            assert f(model).changed
            model(rand(2, 8, 3, 3)).sum().backward()
        convert_batch_norm(model.module)
        nn.parallel.DistributedDataParallel(model.module)(rand(2, 8, 3, 3)).sum().backward()

    def test_fully_shard(self, alone):
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard
        mesh = init_device_mesh("cpu", (1,))
        refused(fully_shard(mixed(), mesh=mesh), "FSDPModule (at the top): convert first, then shard")
        model = mixed()
        fully_shard(model[2], mesh=mesh)
        refused(model, "FSDPModule (at 2): convert first, then shard")
        model = mixed()
        for f in (convert_batch_norm, accelerate): f(model)
        fully_shard(model, mesh=mesh)(rand(2, 8, 3, 3)).sum().backward()

    def test_sharded_parameters(self, alone):
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor import distribute_tensor
        model = mixed()
        model[2].bias = nn.Parameter(distribute_tensor(model[2].bias, init_device_mesh("cpu", (1,))))
        words = "model must not be or contain DTensor (at 2.bias): convert first, then shard"
        for f in (convert_batch_norm, accelerate, to_torch): must_raise(ValueError, words, f, model)

    @pytest.mark.parametrize("originals", [False, True])
    def test_fully_sharded_data_parallel(self, alone, originals):
        from torch.distributed.fsdp import FullyShardedDataParallel
        model = FullyShardedDataParallel(mixed(), use_orig_params=originals, device_id=torch.device("cpu"))
        refused(model, "FullyShardedDataParallel (at the top): convert first, then shard")

    def test_a_class_of_somebody_else_may_have_such_a_name(self):
        class FSDPModule(nn.Sequential): pass
        assert accelerate(FSDPModule(nn.GroupNorm(2, 8))).changed


@pytest.mark.filterwarnings("default::UserWarning:torch", "default::DeprecationWarning")
def test_quantization_knows_the_layer_of_torch_alone():
    "The row of chapter 11's table."
    quantization = pytest.importorskip("torch.ao.quantization")
    if torch.backends.quantized.engine == "none": pytest.skip("torch was built without quantized operators here")

    def quantized(model):
        model = nn.Sequential(quantization.QuantStub(), model, quantization.DeQuantStub()).eval()
        model.qconfig = quantization.get_default_qconfig(torch.backends.quantized.engine)
        prepared = quantization.prepare(model)
        prepared(x)
        return quantization.convert(prepared)

    torch.manual_seed(0)
    x, model = rand(2, 8, 3, 3), nn.Sequential(nn.Conv2d(8, 8, 1), GroupNorm(2, 8))
    as_it_is = quantized(copy.deepcopy(model))
    assert type(as_it_is[1][1]) is GroupNorm
    must_raise(TypeError, "input must have a floating dtype, got torch.quint8", as_it_is, x)
    found = quantized(to_torch(copy.deepcopy(model)).model)
    assert type(found[1][1]) is torch.ao.nn.quantized.GroupNorm
    assert_close(found(x), model(x), 0.2)        # three roundings, to steps of 0.03 to 0.05; errors seen: 0.06 to 0.1


MODELS = {}


def model_of(f):
    "Register a function () -> (model, inputs), of another library and with random weights."
    MODELS[f.__name__] = f
    return f


@model_of
def autoencoder_kl():
    from diffusers import AutoencoderKL
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",)*2, up_block_types=("UpDecoderBlock2D",)*2, norm_num_groups=8,
        block_out_channels=(32, 64), layers_per_block=1), [rand(1, 3, 16, 16)]


@model_of
def unet2d_condition():
    from diffusers import UNet2DConditionModel
    return UNet2DConditionModel(
        layers_per_block=1, block_out_channels=(32, 64), down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=16, attention_head_dim=8,
        norm_num_groups=8,
    ), [rand(1, 4, 8, 8), torch.tensor(3), rand(1, 3, 16)]


@model_of
def unet2d_scale_shift():
    from diffusers import UNet2DModel
    return UNet2DModel(
        layers_per_block=1, block_out_channels=(32, 64), down_block_types=("DownBlock2D",)*2,
        up_block_types=("UpBlock2D",)*2, norm_num_groups=8, resnet_time_scale_shift="scale_shift",
    ), [rand(1, 3, 8, 8), torch.tensor(3)]


@model_of
def segresnet():
    from monai.networks.nets import SegResNet
    model = SegResNet(spatial_dims=3, init_filters=8, in_channels=1, blocks_down=(1, 1), blocks_up=(1,))
    return model, [rand(1, 1, 8, 8, 8)]


@model_of
def bit():
    from transformers import BitConfig, BitModel
    config = BitConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], num_groups=4)
    return BitModel(config), [rand(1, 3, 32, 32)]


@model_of
def bit_leaky():
    from transformers import BitConfig, BitModel
    config = BitConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], num_groups=4, hidden_act="leaky_relu")
    return BitModel(config), [rand(1, 3, 32, 32)]


def densenet(dims):
    from monai.networks.nets import DenseNet121
    return DenseNet121(spatial_dims=dims, in_channels=1, out_channels=2), [rand(2, 1, *(32,)*dims)]


def resnet(dims):
    from monai.networks.nets import resnet18
    return resnet18(spatial_dims=dims, n_input_channels=1, num_classes=2), [rand(2, 1, *(32,)*dims)]


def hf_resnet(dims):
    from transformers import ResNetConfig, ResNetModel
    config = ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic")
    return ResNetModel(config), [rand(2, 3, 32, 32)]


def first(y):
    "The tensor in the output of a model of any of these libraries."
    return y if isinstance(y, torch.Tensor) else next(v for v in y.values() if isinstance(v, torch.Tensor))


# normalizations, and how many of them apply the activation behind: read off the sources, block by block
ACCELERATED = {"autoencoder_kl": (24, 22), "unet2d_condition": (21, 17), "unet2d_scale_shift": (17, 1),
               "segresnet": (7, 7), "bit": (7, 7), "bit_leaky": (7, 0)}


@pytest.mark.parametrize("name", MODELS)
def test_models_of_other_libraries_accelerated(name):
    torch.manual_seed(0)
    model, args = MODELS[name]()
    reference = random_weights(model).eval()
    model = copy.deepcopy(reference)
    with torch.no_grad():
        wanted = first(reference(*args))
        report = accelerate(model)
        assert (len(report.changed), sum("applies" in r.kept for r in report.changed)) == ACCELERATED[name], report
        assert not any(type(m) is nn.GroupNorm for m in model.modules())
        # a hundred layers, each with a few roundings of its own, on results of size up to ten
        assert_close(first(model(*args)), wanted, 2e-5)
        for a, b in ((model, reference), (reference, model)):
            assert [*a.state_dict()] == [*b.state_dict()]
            a.load_state_dict(b.state_dict())
        assert_close(first(model(*args)), wanted, 2e-5)
        assert len(to_torch(model).changed) == len(report.changed)
        assert_close(first(model(*args)), wanted, 1e-6)


def test_gradients_of_an_accelerated_model():
    model, args = unet2d_condition()
    model = random_weights(model).train()
    found = []
    for _ in range(2):
        model.zero_grad()
        model(*args).sample.square().mean().backward()
        found.append({k: p.grad.clone() for k, p in model.named_parameters()})
        accelerate(model)
    scale = max(g.abs().max().item() for g in found[0].values())
    for k, g in found[0].items(): assert (found[1][k] - g).abs().max() <= 1e-5*scale, k


@torch_warns
@pytest.mark.parametrize("name", ["segresnet", "autoencoder_kl", "unet2d_condition", "bit", "converted ResNet"])
def test_accelerated_models_compile(name):
    "The graph of torch.compile, run without code generation: what that would add is torch's matter and takes minutes."
    torch.manual_seed(0)
    model, args = MODELS[name]() if name in MODELS else hf_resnet(2)
    model = random_weights(model).eval()
    converted = name not in MODELS             # to what is fast already, with no activation known to follow
    if converted: assert convert_batch_norm(model).changed
    assert bool(accelerate(model).changed) != converted
    with torch.no_grad():
        wanted = first(model(*args))
        assert_close(first(torch.compile(model, backend="aot_eager")(*args)), wanted, 1e-5)


@torch_warns
def test_an_accelerated_model_compiles_to_machine_code():
    "With inductor: a minute of a C++ compiler, so one model stands for all. The operator is in its code, by name."
    from torch._inductor.utils import run_and_get_code
    torch.manual_seed(0)
    model, _ = MODELS["autoencoder_kl"]()
    model = random_weights(model).eval()
    accelerate(model)
    latent = rand(1, 4, 8, 8)
    with torch.no_grad():
        wanted = first(model.decode(latent))
        found, code = run_and_get_code(torch.compile(lambda latent: first(model.decode(latent))), latent)
    assert_close(found, wanted, 1e-5)
    norms = sum(isinstance(m, GroupNorm) for part in (model.decoder, model.post_quant_conv) for m in part.modules())
    assert sum(c.count("torch.ops.gn_nb.forward.default(") for c in code) == norms > 0


@pytest.mark.parametrize("make, dims, norms", [
    (densenet, 2, 121), (densenet, 3, 121), (resnet, 2, 20), (resnet, 3, 20), (hf_resnet, 2, 6)])
def test_models_of_other_libraries_converted(make, dims, norms):
    torch.manual_seed(0)
    model, args = make(dims)
    random_weights(model)
    names = {k: v.clone() for k, v in model.named_parameters()}
    report = convert_batch_norm(model)
    assert len(report.changed) == len(report.rows) == norms and all(r.channels//r.groups > 1 for r in report.rows)
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    assert [*model.state_dict()] == [*names] and all(torch.equal(v, names[k]) for k, v in model.named_parameters())
    model.eval()
    with torch.no_grad():
        y = first(model(*args))
        assert y.isfinite().all()
        assert_close(first(model(args[0][:1])), y[:1], 2e-5)               # what batch normalization in training cannot
        accelerate(model)
        assert_close(first(model(*args)), y, 2e-5)
    first(model.train()(*args)).square().mean().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_timm():
    pytest.importorskip("torchvision", reason="timm needs torchvision, which is not installed")
    timm = pytest.importorskip("timm")
    from timm.layers import BatchNormAct2d, GroupNormAct
    model = random_weights(nn.Sequential(BatchNormAct2d(12), BatchNormAct2d(12, act_layer=nn.LeakyReLU),
                                         GroupNormAct(12, 4)))
    x, norms = rand(2, 12, 5, 5), [*model]
    convert_batch_norm(model)
    y = expected(F.relu(expected(x, 4, norms[0])), 4, norms[1])
    assert_close(model[:2](x), F.leaky_relu(y, 0.01), 1e-5)
    wanted = model(x)
    accelerate(model)
    assert_close(model(x), wanted, 1e-5)
    net = timm.create_model("resnet18").eval()
    assert len(convert_batch_norm(net).changed) == 20 and net(rand(1, 3, 64, 64)).isfinite().all()


@pytest.mark.quick
class TestCalibrate:
    def test_moments_after_it(self):
        "Layer by layer: the second one is set on what the calibrated first one gives."
        torch.manual_seed(0)
        model = random_weights(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3),
                                             nn.BatchNorm2d(12))).eval()
        affine = [(m.weight.detach().clone(), m.bias.detach().clone()) for m in (model[1], model[4])]
        report, seen = convert_batch_norm(model), []
        x = rand(64, 3, 9, 9)
        rows = convert.calibrate(report, [x]).rows
        assert [r.became for r in rows] == ["GroupNorm"]*2 and f"from {64*49} values" in rows[0].kept
        for k in (1, 4): model[k].register_forward_hook(lambda m, args, y: seen.append(y.detach()))
        model(x)
        for y, (weight, bias) in zip(seen, affine, strict=True):
            assert_close(y.mean((0, 2, 3)), bias, 1e-5)
            assert_close(y.std((0, 2, 3), correction=0), weight.abs(), 1e-3)        # eps within the root: 5e-6 over 0.1
        assert not any(m._forward_pre_hooks for m in model.modules())

    def test_without_affine_or_bias_and_shared(self):
        norm = nn.BatchNorm2d(8)
        norm.bias = None
        model = nn.Sequential(nn.BatchNorm2d(8, affine=False), norm, nn.ReLU(), norm)
        report = convert_batch_norm(model)
        x = rand(16, 8, 5, 5)*3
        rows = convert.calibrate(report, [x]).rows
        assert ["no weight to set" in r.kept for r in rows] == [True, False]
        y = model[:2](x)
        assert_close((y - y.mean((0, 2, 3), keepdim=True)).std((0, 2, 3), correction=0), torch.ones(8), 1e-3)
        assert model[0].weight is None and model[1].bias is None

    def made(self, dtype=torch.float32):
        torch.manual_seed(0)
        model = random_weights(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3),
                                             nn.BatchNorm2d(12))).eval().to(dtype)
        return model, convert_batch_norm(model)

    def test_again_is_the_same(self):
        model, report = self.made()
        start = copy.deepcopy(model.state_dict())
        def set_by(batches):
            convert.calibrate(report, batches)
            return copy.deepcopy(model.state_dict())
        batches = [*(2*rand(24, 3, 9, 9) + 1).split(8)]
        found = set_by(batches)
        for k, v in set_by(iter(batches)).items(): assert torch.equal(v, found[k]), k
        accelerate(model)                                                       # other modules, the same layers
        for k, v in set_by(batches).items(): assert_close(v, found[k], 1e-5)
        model.load_state_dict(start)                                            # as the conversion left it
        for k, v in set_by([dict(input=b) for b in batches]).items(): assert_close(v, found[k], 1e-5)
        with torch.no_grad(): model[4].bias += 1
        changed = copy.deepcopy(model.state_dict())
        must_raise(ValueError, "4: weight and bias must be as the last calibration left them", convert.calibrate,
                   report, batches)
        for k, v in model.state_dict().items(): assert torch.equal(v, changed[k]), k

    def test_batches_are_pooled(self):
        "For the first layer, which no other moves, as if they were one; of unlike sizes and means."
        model, report = self.made(torch.float64)
        x = rand(48, 3, 9, 9).double()*torch.linspace(1, 3, 48).reshape(-1, 1, 1, 1).double()
        x = x + torch.linspace(0, 2, 48).reshape(-1, 1, 1, 1)
        other, whole = self.made(torch.float64)
        convert.calibrate(report, [(b,) for b in x.split([30, 6, 12])])
        convert.calibrate(whole, [x])
        for a, b in zip(model[1].parameters(), other[1].parameters()): assert_close(a, b, 1e-12)
        assert 0 < max((a - b).abs().max() for a, b in zip(model[4].parameters(), other[4].parameters())) < 0.2

    def test_float64_is_not_narrowed(self):
        model = random_weights(nn.Sequential(nn.BatchNorm2d(8))).double()
        weight = model[0].weight.detach().clone()
        x = rand(16, 8, 5, 5).double()
        convert.calibrate(convert_batch_norm(model), [x])
        z = F.group_norm(x, 4)
        assert_close(model[0].weight, weight/(z.var((0, 2, 3), correction=0) + 1e-5).sqrt(), 1e-13)

    def test_called_by_keyword_lazily_and_not_at_all(self):
        class Odd(nn.Module):
            def __init__(self): super().__init__(); self.a, self.b = nn.LazyBatchNorm2d(), nn.BatchNorm2d(8)
            def forward(self, x): return self.a(input=x)
        model = Odd()
        rows = convert.calibrate(convert_batch_norm(model), [3*rand(16, 8, 5, 5)]).rows
        assert [r.became for r in rows] == ["GroupNorm", ""] and rows[1].kept == "the model did not call it"
        assert_close(model(3*rand(16, 8, 5, 5)).std((0, 2, 3), correction=0), torch.ones(8), 1e-3)

    def test_errors_leave_the_model_as_it_was(self):
        model = nn.Sequential(nn.BatchNorm2d(8), nn.BatchNorm2d(8))
        must_raise(ValueError, "report must come from a conversion, got that of a dry run", convert.calibrate,
                   convert_batch_norm(model, dry_run=True), [rand(2, 8, 3, 3)])
        must_raise(TypeError, "report must be what convert_batch_norm returned, got Sequential", convert.calibrate,
                   model, [rand(2, 8, 3, 3)])
        report = convert_batch_norm(model)
        must_raise(ValueError, "report must come from a conversion, got that of accelerate", convert.calibrate,
                   accelerate(nn.Sequential(nn.GroupNorm(2, 8))), [rand(2, 8, 3, 3)])
        model = report.model
        before = copy.deepcopy(model.state_dict())
        x = rand(2, 8, 3, 3)
        model[0].register_forward_hook(lambda m, args, y: y.repeat(1, 2, 1, 1) if y.shape[0] > 2 else y)
        for error, words, batches in (
                (TypeError, "batches must be an iterable of batches, got a tensor", x),
                (ValueError, "batches must hold at least 1 batch, got none", []),
                (TypeError, "batches must hold the arguments of the model, got a tuple of 2: if they are input and "
                 "label, give (x for x, _ in loader); Sequential.forward() takes 2 positional arguments but 3 were "
                 "given", [x, (x, torch.zeros(2))]),
                (TypeError, "batches must hold the arguments of the model, got a list of 3", [[x, x, x]]),
                (ValueError, "0: weight must have shape (16,), one value for each channel, got (8,)",
                 [rand(2, 16, 3, 3)]),
                (ValueError, "1: weight must have shape (16,), one value for each channel, got (8,)",
                 [x, rand(3, 8, 3, 3)]),
                (ValueError, "0: input must be finite and not empty, got (2, 8, 3, 3)", [x, x*torch.nan])):
            must_raise(error, words, convert.calibrate, report, batches)
            assert not any(m._forward_pre_hooks for m in model)
            for k, v in model.state_dict().items(): assert torch.equal(v, before[k]), (words, k)

    def test_a_tuple_of_one_needs_no_hint(self):
        assert "batches" not in must_raise(TypeError, "", convert.run_on, nn.Conv2d(8, 8, 1), (None,))


GOLDEN = json.loads((ROOT/"tests/golden/frameworks.json").read_text(encoding="utf-8"))
"Outputs of flax, Keras and ONNX's reference evaluator, of the versions named in it, on one small input (N, S, C)."


@pytest.mark.quick
class TestImport:
    x = torch.tensor(GOLDEN["x"]).movedim(-1, 1)
    weight, bias = (np.float32(GOLDEN[k]) for k in ("weight", "bias"))

    def check(self, name, norm):
        "Golden values have six decimals, and flax's variance is of one pass: 5e-6 is above that, and tells eps apart."
        wanted = torch.tensor(GOLDEN[name]).movedim(-1, 1)
        assert_close(norm(self.x), wanted, 5e-6)
        for eps in {1e-6, 1e-5, 1e-3} - {norm.eps}:
            other = copy.deepcopy(norm)
            other.eps = eps
            with pytest.raises(AssertionError, match="exceeds tol"): assert_close(other(self.x), wanted, 5e-6)

    def test_flax(self):
        both = dict(scale=self.weight, bias=self.bias)
        for name in ("flax", "nnx"): self.check(name, convert.from_flax(both, 2))
        self.check("flax_group_size", convert.from_flax(dict(scale=self.weight), None, 2, epsilon=1e-2))

    def test_keras(self):
        self.check("keras", convert.from_keras([self.weight, self.bias], 2))
        self.check("keras_instance", convert.from_keras([self.bias], -1, scale=False))

    def test_onnx(self):
        self.check("onnx21", convert.from_onnx(self.weight, self.bias, 2, 6))
        self.check("onnx18", convert.from_onnx(self.weight[:2], self.bias[:2], 2, 6, opset=18))

    def test_an_epsilon_of_numpy(self):
        assert convert.from_flax(dict(scale=self.weight), 2, epsilon=np.float32(0.5)).eps == 0.5

    def test_dtypes(self):
        for dtype, wanted in ((np.float64, torch.float64), (np.float16, torch.float16), (np.int64, torch.float32)):
            assert convert.from_keras([np.ones(4, dtype)], 2, center=False).weight.dtype == wanted

    @pytest.mark.parametrize("error, words, f, args, options", [
        (ValueError, "must not both be missing", convert.from_flax, [{}, 2], {}),
        (ValueError, "params must hold scale and bias only, got ['kernel']", convert.from_flax, [dict(kernel=1)], {}),
        (ValueError, "params must hold scale and bias only, got ['params']: give what is in ['params'], of one layer",
         convert.from_flax, [dict(params=dict(GroupNorm_0=dict(scale=[1.]*4)))], {}),
        (ValueError, "one of num_groups and group_size must be None, got num_groups=32, group_size=2",
         convert.from_flax, [dict(scale=[1.]*4), 32, 2], {}),
        (ValueError, "params: num_channels (4) must be divisible by group_size (3)", convert.from_flax,
         [dict(scale=[1.]*4), None, 3], {}),
        (ValueError, "bias must have shape (4,), one value for each channel, got (3,)", convert.from_flax,
         [dict(scale=[1.]*4, bias=[0.]*3), 2], {}),
        (ValueError, "num_channels (4) must be divisible by num_groups (32)",
         convert.from_keras, [[[1.]*4, [0.]*4]], {}),
        (ValueError, "weights must hold 1 arrays for scale=False, center=True, got 2", convert.from_keras,
         [[[1.]*4, [0.]*4]], dict(scale=False)),
        (ValueError, "weight and bias must not both be missing",
         convert.from_keras, [[]], dict(scale=False, center=False)),
        (ValueError, "scale must have shape (6,) in opset 21", convert.from_onnx, [[1.]*2, [0.]*2, 2, 6], {}),
        (ValueError, "bias must have shape (2,) in opset 18",
         convert.from_onnx, [[1.]*2, [0.]*6, 2, 6], dict(opset=18)),
        (ValueError, "opset (17) must be at least 18", convert.from_onnx, [[1.]*2, [0.]*2, 2, 6], dict(opset=17)),
        (ValueError, "num_channels (6) must be divisible by num_groups (4)",
         convert.from_onnx, [[1.]*6]*2 + [4, 6], {})])
    def test_errors(self, error, words, f, args, options): must_raise(error, words, f, *args, **options)


class TestOddHolders:
    def test_a_layer_that_is_also_in_a_list(self):
        "calibrate sees that the old one is called, and leaves the model as it was."
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.norm = nn.BatchNorm2d(4)
                self.order = [self.norm]
            def forward(self, x): return self.order[0](x)
        net = Net()
        report = convert_batch_norm(net)
        with pytest.raises(ValueError, match="must not call what was replaced, but it calls a BatchNorm2d"):
            convert.calibrate(report, [torch.randn(2, 4, 3, 3)])
        assert not any(m._forward_pre_hooks for m in (net.norm, net.order[0]))

    def test_two_layers_of_one_weight(self):
        net = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4))
        net[2].weight = net[0].weight
        report = convert_batch_norm(net.eval())
        before = net[0].weight.clone()
        with pytest.raises(ValueError, match="0 and 2 must not share weight or bias"):
            convert.calibrate(report, [torch.randn(2, 4, 3, 3)])
        assert torch.equal(net[0].weight, before)

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_a_layer_whose_holder_reads_its_statistics(self):
        "As torch's modules for training with quantization in mind do."
        fused = qat.ConvBn2d(3, 4, 3, qconfig=default_qat_qconfig)
        net = nn.Sequential(fused, nn.BatchNorm2d(4))
        report = convert_batch_norm(net)
        assert type(net[0].bn) is nn.BatchNorm2d and type(net[1]) is GroupNorm
        row, = (row for row in report.rows if row.layer == "0.bn")
        assert "reads its running statistics" in row.kept
        assert net(torch.randn(2, 3, 5, 5)).shape == (2, 4, 3, 3)
