"Programs that leave Python: standard operators and nothing else, the same numbers in onnxruntime and from AOTInductor."
import copy
import itertools
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gn_nb import GroupNorm, accelerate, convert_batch_norm, group_norm, ops, to_torch
from gn_nb.testing import assert_close, must_raise

onnx = pytest.importorskip("onnx", reason="onnx is not installed: see [onnx]")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: see [onnx]")
pytest.importorskip("onnxscript", reason="onnxscript is not installed: see [onnx]")
# torch's exporter calls what torch deprecates, and copies trees in a deprecated way: shown, not an error
pytestmark = pytest.mark.filterwarnings("default::FutureWarning", "default::DeprecationWarning")

SPACE = {2: (), 3: (7,), 4: (5, 6), 5: (3, 4, 2)}                             # rank -> spatial sizes
ACTS = (None, "relu", "silu", "gelu")
DYNAMIC = torch.export.Dim.DYNAMIC


def rand(*shape, seed=0): return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def norm(activation, affine, seed, **options):
    "A layer with random parameters and an eps of its own, so that no two nodes of a graph are the same."
    layer = GroupNorm(4, 8, 1e-5*(1 + seed), affine=False, activation=activation)
    if affine in ("both", "weight"): layer.weight = nn.Parameter(1 + rand(8, seed=seed))
    if affine in ("both", "bias"): layer.bias = nn.Parameter(rand(8, seed=seed + 1))
    return layer.requires_grad_(False)


CASES = [*itertools.product(SPACE, ACTS, ("both", "none")), (4, None, "weight"), (3, "silu", "bias")]


class All(nn.Module):
    "Every activation and affine form for each rank, and a scale and a shift: one export for all."
    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(norm(act, affine, k) for k, (_, act, affine) in enumerate(CASES))

    def forward(self, scale, shift, *inputs):
        x = dict(zip(SPACE, inputs, strict=True))
        found = [n(x[rank]) for n, (rank, _, _) in zip(self.norms, CASES, strict=True)]
        return found + [group_norm(x[rank], 2, activation=act, scale=scale, shift=shift)
                        for rank in SPACE for act in ("silu", None)]


def inputs(batch): return [rand(batch, 8, seed=1), rand(batch, 8, seed=2),
                           *(rand(batch, 8, *space, seed=rank) for rank, space in SPACE.items())]


def shapes(model, n, dynamic):
    "dynamic_shapes of n inputs."
    if not dynamic: return None
    return tuple({0: DYNAMIC} for _ in range(n)) if not isinstance(model, All) else (
        {0: DYNAMIC}, {0: DYNAMIC}, tuple({0: DYNAMIC} for _ in SPACE))


def to_onnx(model, args, opset=21, dynamic=True):
    "ONNX model of a module or a program, checked."
    options = {} if isinstance(model, torch.export.ExportedProgram) else dict(
        args=tuple(args), dynamic_shapes=shapes(model, len(args), dynamic))
    proto = torch.onnx.export(model, dynamo=True, opset_version=opset, verbose=False, **options).model_proto
    onnx.checker.check_model(proto, full_check=True)
    assert [(i.domain, i.version) for i in proto.opset_import] == [("", opset)] and not proto.functions
    return proto


def operators(proto): return Counter(node.op_type for node in proto.graph.node)


def session(proto):
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(where, args):
    "Outputs of onnxruntime as tensors."
    given = {i.name: v.numpy() for i, v in zip(where.get_inputs(), args, strict=True)}
    return [torch.from_numpy(y) for y in where.run(None, given)]


@pytest.fixture(scope="module")
def programs():
    "(opset, dynamic) -> (model, ONNX, session), made once."
    model, made = All().eval(), {}
    def get(opset, dynamic):
        if (opset, dynamic) not in made:
            proto = to_onnx(model, inputs(3), opset, dynamic)
            made[opset, dynamic] = model, proto, session(proto)
        return made[opset, dynamic]
    return get


@pytest.mark.parametrize("dynamic", [True, False], ids=["dynamic", "fixed"])
@pytest.mark.parametrize("opset", [18, 21, 23])
class TestGrid:
    def test_operators(self, programs, opset, dynamic):
        found, layers = operators(programs(opset, dynamic)[1]), len(CASES) + 2*len(SPACE) - len(SPACE)
        kinds = {"GroupNormalization", "InstanceNormalization"}
        assert {k: n for k, n in found.items() if k in kinds} == {
            "InstanceNormalization" if opset == 18 else "GroupNormalization": layers}
        assert found["Relu"] == len(SPACE)*2 and found["Sigmoid"] == len(SPACE)*3 + 1
        assert found["Erf" if opset == 18 else "Gelu"] == len(SPACE)*2
        # nothing is left of the statistics, which only a derivative needs
        assert not {*found} & {"ReduceMean", "ReduceSum", "Sqrt", "Reciprocal"}

    def test_results(self, programs, opset, dynamic):
        "float32: a few roundings, on results of size up to ten."
        model, _, where = programs(opset, dynamic)
        for batch in (1, 3, 5) if dynamic else (3,):
            args = inputs(batch)
            for case, y, wanted in itertools.zip_longest(CASES, run(where, args), model(*args)):
                try: assert_close(y, wanted, 3e-6)
                except AssertionError as e: raise AssertionError(f"{case}, batch {batch}: {e}") from None


