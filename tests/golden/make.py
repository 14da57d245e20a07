"""Write frameworks.json anew: group normalization by flax, Keras and ONNX's reference evaluator, on the input in it.

Run it where jax, flax, onnx and keras are installed, with KERAS_BACKEND=jax; what is missing keeps its values.
"""
import json
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("frameworks.json")
GIVEN = json.loads(FILE.read_text(encoding="utf-8"))
X, WEIGHT, BIAS = (np.float32(GIVEN[k]) for k in ("x", "weight", "bias"))                   # X: (N, S, C)
MASK = np.array([[True, True, False], [True, False, True]])[..., None]                      # (N, S, 1)


def flax():
    import jax.numpy as jnp
    from flax import linen, nnx
    both = dict(scale=jnp.asarray(WEIGHT), bias=jnp.asarray(BIAS))
    def new(**options):
        norm = nnx.GroupNorm(6, num_groups=2, rngs=nnx.Rngs(0), **options)
        norm.scale[...], norm.bias[...] = both["scale"], both["bias"]
        return norm
    by_size = linen.GroupNorm(num_groups=None, group_size=2, epsilon=1e-2, use_bias=False)
    return dict(flax=linen.GroupNorm(num_groups=2).apply(dict(params=both), X),
                flax_group_size=by_size.apply(dict(params=dict(scale=both["scale"])), X), nnx=new()(X),
                flax_masked=new(use_fast_variance=False)(X, mask=jnp.broadcast_to(MASK, X.shape)))


def keras():
    from keras.layers import GroupNormalization
    found = {}
    for name, options, weights in (("keras", dict(groups=2), [WEIGHT, BIAS]),
                                   ("keras_instance", dict(groups=-1, scale=False), [BIAS])):
        layer = GroupNormalization(**options)
        layer.build(X.shape)
        layer.set_weights(weights)
        found[name] = layer(X)
    return found


def onnx():
    from onnx import TensorProto, helper
    from onnx.reference import ReferenceEvaluator
    found, values = {}, dict(x=np.moveaxis(X, -1, 1))
    for opset, size in ((21, 6), (18, 2)):
        values |= dict(scale=WEIGHT[:size], bias=BIAS[:size])
        node = helper.make_node("GroupNormalization", [*values], ["y"], num_groups=2)
        inputs = [helper.make_tensor_value_info(k, TensorProto.FLOAT, v.shape) for k, v in values.items()]
        graph = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
        found[f"onnx{opset}"] = np.moveaxis(ReferenceEvaluator(model).run(None, values)[0], 1, -1)
    return found


def main():
    golden = GIVEN | dict(mask=MASK.tolist())
    for needed, make in ((("jax", "flax"), flax), (("keras",), keras), (("onnx",), onnx)):
        if lacking := [name for name in needed if not find_spec(name)]:
            print(f"{make.__name__} keeps its values: no {', '.join(lacking)} here")
            continue
        golden |= {name: np.round(np.asarray(y, np.float64), 6).tolist() for name, y in make().items()}
        golden["versions"] |= {name: version(name) for name in needed}
    FILE.write_text(json.dumps(golden) + "\n", encoding="utf-8")


if __name__ == "__main__": main()
