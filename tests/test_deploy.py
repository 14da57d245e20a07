"Programs that leave Python: standard operators and nothing else, the same numbers in onnxruntime and from AOTInductor."
import copy
import itertools
import subprocess
import sys
from collections import Counter

import pytest
import torch
from torch import nn

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


@pytest.mark.filterwarnings("ignore")             # what torch deprecates here is what is tested
def test_the_exporter_before_dynamo(tmp_path):
    model, file = nn.Sequential(nn.Conv2d(3, 8, 1), GroupNorm(4, 8, activation="silu")).eval(), tmp_path/"model.onnx"
    torch.onnx.export(model, (rand(2, 3, 5, 6),), file, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "n"}})
    for n in (1, 4):
        x = rand(n, 3, 5, 6, seed=n)
        assert_close(run(session(onnx.load(file)), [x])[0], model(x), 5e-6)


def test_where_it_stands_in_for_torchs_function(monkeypatch):
    "As in a library whose code is not changed: torch's layer calls ours, and neither calls itself."
    monkeypatch.setattr(nn.functional, "group_norm", group_norm)
    layer, x = nn.GroupNorm(2, 8).eval(), rand(2, 8, 5)
    assert_close(run(session(to_onnx(layer, [x], dynamic=False)), [x])[0], layer(x), 1e-4)


TOLERANCE = {          # float32, on results of size up to ten
    18: 5e-6,          # InstanceNormalization: a few roundings
    21: 1e-4}          # mean of squares less square of mean, as ONNX has it: pairs of rank 2 may be near one another


@pytest.mark.parametrize("opset, dynamic", [(18, True), (21, True), (21, False)])
class TestGrid:
    def test_operators(self, programs, opset, dynamic):
        found, layers = operators(programs(opset, dynamic)[1]), len(CASES) + len(SPACE)
        assert {k: n for k, n in found.items() if k.endswith("Normalization")} == {
            "InstanceNormalization" if opset == 18 else "GroupNormalization": layers}
        assert found["Relu"] == 2*len(SPACE) and found["Sigmoid"] == 3*len(SPACE) + 1
        assert found["Erf" if opset == 18 else "Gelu"] == 2*len(SPACE)
        # nothing is left of the statistics, which only a derivative needs
        assert not {*found} & {"ReduceMean", "ReduceSum", "Sqrt", "Reciprocal", "Cast"}

    def test_results(self, programs, opset, dynamic):
        model, _, where = programs(opset, dynamic)
        for batch in (1, 3, 5) if dynamic else (3,):
            args = inputs(batch)
            for case, y, wanted in itertools.zip_longest(CASES, run(where, args), model(*args)):
                try: assert_close(y, wanted, TOLERANCE[opset])
                except AssertionError as e: raise AssertionError(f"{case}, batch {batch}: {e}") from None

    def test_a_fixed_batch_is_fixed(self, programs, opset, dynamic):
        sizes = [i.shape[0] for i in programs(opset, dynamic)[2].get_inputs()]
        assert all(isinstance(n, str) if dynamic else n == 3 for n in sizes)


class Two(nn.Module):
    "Layers of two ranks."
    def __init__(self, dtype=torch.float32, of=None):
        super().__init__()
        self.norms = nn.ModuleList(norm(act, "both", k).to(of or dtype) for k, act in enumerate(("silu", None)))

    def forward(self, a, b): return self.norms[0](a), self.norms[1](b)


def two(dtype=torch.float32, mean=0.): return [(mean + rand(3, 8, *space)).to(dtype) for space in ((5, 6), (7,))]


def exact(model, args):
    "In float64, by torch."
    return [ops.standard(x.double(), n.num_groups, n.weight.double(), n.bias.double(), n.eps, n.activation)
            for n, x in zip(model.norms, args, strict=True)]


@pytest.mark.parametrize("of", [torch.float16, torch.float32], ids=str)
def test_half(of):
    "float16: statistics in float32, by stash_type or between casts; one rounding of the result, one of the affine map."
    model, args = Two(torch.float16, of).eval(), two(torch.float16)
    proto = to_onnx(model, args)
    found = operators(proto)
    assert found["GroupNormalization"] == 2 and (found["Cast"] > 0) == (of is torch.float32)
    for y, wanted in zip(run(session(proto), args), exact(model, args), strict=True):
        assert_close(y, wanted, 3*2**-11, dtype=torch.float16)


def test_double():
    "stash_type 1 makes the statistics float32, whatever the input: the file is as good as float32, and no better."
    model, args = Two(torch.float64).eval(), two(torch.float64)
    for y, wanted in zip(run(session(to_onnx(model, args)), args), exact(model, args), strict=True):
        assert 1e-9 < assert_close(y, wanted, 5e-6, dtype=torch.float64)


def test_bfloat16_is_written():
    "onnxruntime's CPU provider lacks the activations of it, so the checker alone judges."
    proto = to_onnx(Two(torch.bfloat16).eval(), two(torch.bfloat16))
    assert operators(proto)["GroupNormalization"] == 2
    assert {i.type.tensor_type.elem_type for i in proto.graph.input} == {onnx.TensorProto.BFLOAT16}


def exported(model, args): return torch.export.export(model, tuple(args), dynamic_shapes=({0: DYNAMIC},)*len(args))


class TestPrograms:
    def test_a_program_needs_a_decomposition(self):
        model, args = Two().eval(), two()
        program = exported(model, args)
        called = [n.target for n in program.graph.nodes if n.op == "call_function"]
        assert called.count(ops.forward_op) == 2
        must_raise(torch.onnx.OnnxExporterError, "No ONNX function found for <OpOverload(op='gn_nb.forward'",
                   torch.onnx.export, program, verbose=False)
        known = program.run_decompositions({ops.forward_op: ops.decomposed})
        called = [n.target for n in known.graph.nodes if n.op == "call_function"]
        assert called.count(torch.ops.aten.group_norm.default) == 2 and ops.forward_op not in called
        assert len(called) == 3                                          # two normalizations and a silu: no statistics
        for y, wanted in zip(known.module()(*args), model(*args), strict=True): assert_close(y, wanted, 5e-6)
        proto = to_onnx(known, args)
        assert operators(proto)["GroupNormalization"] == 2
        for y, wanted in zip(run(session(proto), args), model(*args), strict=True): assert_close(y, wanted, 5e-6)

    def test_elementary_operators_hold_for_any_mean(self):
        "And for an empty batch, on which onnxruntime refuses the body of GroupNormalization."
        model, args = Two().eval(), two()
        proto = to_onnx(exported(model, args).run_decompositions({ops.forward_op: ops.forward_anywhere}), args)
        assert not any("Normalization" in name for name in operators(proto))
        where = session(proto)
        for mean in (0., 1e2, 1e5):
            args = two(mean=mean)
            for y, wanted in zip(run(where, args), exact(model, args), strict=True): assert_close(y, wanted, 3e-6,
                                                                                                  dtype=y.dtype)
        assert [y.shape for y in run(where, [a[:0] for a in args])] == [(0, 8, 5, 6), (0, 8, 7)]

    def test_the_export_is_noticed_and_forgotten(self):
        "Nothing of torch.onnx stays switched on, and torch.compile keeps the operator."
        model, args, graphs = Two().eval(), two(), []
        to_onnx(model, args)
        def backend(graph, inputs): graphs.append(graph); return graph.forward
        torch.compile(model, fullgraph=True, backend=backend)(*args)
        called = [n.target for n in graphs[0].graph.nodes if n.op == "call_function"]
        assert called.count(ops.forward_op) + called.count(torch.ops.gn_nb.forward) == 2
        assert [n.target for n in exported(model, args).graph.nodes].count(ops.forward_op) == 2


def test_a_converted_network():
    "Batch normalization to a file: converted, fused, exported; the way back to torch gives the same file."
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3),
                          nn.BatchNorm2d(4)).eval()
    convert_batch_norm(model)
    accelerate(model)
    x = rand(3, 3, 9, 9)
    proto, plain = to_onnx(model, [x]), to_onnx(to_torch(copy.deepcopy(model)).model, [x])
    assert operators(proto) == operators(plain) == {"Conv": 2, "GroupNormalization": 2, "Relu": 1}
    assert_close(run(session(proto), [x])[0], model(x), 5e-6)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a C++ compiler of GCC's kind")
def test_ahead_of_time(tmp_path):
    "AOTInductor, half a minute of a C++ compiler: the operator in a library, its batch open, its activation once."
    model = nn.Sequential(nn.Conv2d(3, 8, 3), norm("silu", "both", 0), nn.ReLU()).eval().requires_grad_(False)
    x = rand(3, 3, 9, 9)
    file = torch._inductor.aoti_compile_and_package(exported(model, [x]), package_path=str(tmp_path/"model.pt2"))
    compiled = torch._inductor.aoti_load_package(file)
    for batch in (1, 3): assert_close(compiled(x[:batch]), model(x[:batch]), 5e-6)


class TestStandard:
    @pytest.mark.parametrize("rank, act", [*((4, act) for act in ACTS), (2, None), (3, "silu"), (5, "silu")])
    def test_is_the_operator(self, rank, act):
        x, given = rand(3, 8, *SPACE[rank]), (rand(8, seed=1), rand(8, seed=2))
        more = dict(scale=rand(3, 8, seed=3), shift=rand(3, 8, seed=4))
        found = ops.decomposed(x, 2, *given, 1e-3, act, **more)
        for y, wanted in zip(found, ops.forward_op(x, 2, *given, 1e-3, act, **more), strict=True):
            assert_close(y, wanted, 3e-6)
        assert_close(ops.standard(x.bfloat16(), 2, *given, 1e-3, act), group_norm(x.bfloat16(), 2, *given, 1e-3, act),
                     1.01*2**-7)                       # of a value near a tie the last place may differ by one

    def test_parameters_of_the_same_type_are_left_alone(self):
        "So that a file in float16 has no casts; torch's kernel computes in float32 inside."
        seen = []
        class Watch(torch.utils._python_dispatch.TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                seen.append(str(func))
                return func(*args, **(kwargs or {}))
        x, w, half = rand(3, 8, 5).half(), rand(8), rand(8).half()
        with Watch(): ops.standard(x, 2, half, half)
        assert "aten._to_copy.default" not in seen
        with Watch(): ops.standard(x, 2, w, w)
        assert seen.count("aten._to_copy.default") == 2                                     # the input and the result


@pytest.mark.quick
def test_eager_calls_do_not_load_the_exporter():
    code = """
import sys, torch, gn_nb
x = torch.ones(2, 4, 3)
gn_nb.group_norm(x, 2); torch.func.vmap(lambda x: gn_nb.group_norm(x, 2))(x[None])
print(*sorted(m for m in sys.modules if m.startswith(("onnx", "torch.onnx._internal.exporter"))))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
