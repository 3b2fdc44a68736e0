"""ONNX files against jopt: the same logits in floats, the same codes, sums and classes in integers."""

import dataclasses
import functools
import itertools
import json
import subprocess
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import quick

from jopt import data, models, quantize
from jopt.quantize import ActivationConfig, Spec, integer
from jopt.rules import named_leaves

onnx = pytest.importorskip("onnx", reason="needs the extra 'jopt[export]'")
pytest.importorskip("onnxruntime", reason="needs the extra 'jopt[export]'")
pytest.importorskip("jax2onnx", reason="needs the extra 'jopt[export]'")

from jopt.export import onnx as export  # noqa: E402

# Sums of products in another order: each is off by at most n eps sum |x w|, here far below a thousandth of the logits.
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}


class Quantized(NamedTuple):
    model: models.Model
    params: Any
    model_state: Any
    weights: dict[str, quantize.QTensor]
    activations: ActivationConfig

    def simulated(self, x):
        seen = {path: quantize.dequantize(q) for path, q in self.weights.items()}
        leaves = [seen.get(path, leaf) for path, leaf in named_leaves(self.params)]
        params = jax.tree.unflatten(jax.tree.structure(self.params), leaves)
        apply = quantize.activations(self.model, self.activations).apply
        return np.asarray(jax.jit(functools.partial(apply, train=False))(params, self.model_state, x)[0])

    def executed(self, x):
        return np.asarray(jax.jit(integer.network(*self))(x))

    def encoded(self, shape, **options):
        return export.encode_quantized(*self[:3], shape, *self[3:], **options)


def quantized(model, params, state, x, *, bits=8, axis=-1, weights_symmetric=True, **activations) -> Quantized:
    spec = Spec(bits, symmetric=weights_symmetric, axis=axis)
    weights = {path: quantize.quantize(w, spec) for path, w in named_leaves(params) if path.endswith("kernel")}
    config = ActivationConfig(**{"method": "absmax", **activations})
    params, state = quantize.calibrate(model, config, params, state, x)
    return Quantized(model, params, state, weights, config)


def fresh(config, shape, seed=0):
    """Parameters like those that are initialized, without compiling that, and biases that are not 0."""
    model = models.model(config)
    abstract, state = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, *shape)))
    rng = np.random.default_rng(seed)

    def draw(leaf):
        fan_in = np.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 100
        return jnp.asarray(rng.normal(0, (2 / fan_in) ** 0.5, leaf.shape).astype(np.float32))

    return model, jax.tree.map(draw, abstract), state


def examples(shape, count=64, seed=1):
    return np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float32)


def operators(content):
    return [node.op_type for node in onnx.load_from_string(content).graph.node]


def outputs(content, names, x):
    """Values from inside of a graph, which ONNX Runtime gives where they are outputs."""
    proto = onnx.load_from_string(content)
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return export.session(proto.SerializeToString(), threads=1).run(names, {export.INPUT: x})


SMALL = {
    "mlp": (models.Config("mlp", (7, 5), num_classes=3), (2, 3, 1)),
    "conv": (models.Config("cnn", (3, 4), hidden=5, num_classes=3), (8, 8, 2)),
}


@pytest.fixture(scope="module", params=SMALL)
def small(request):
    config, shape = SMALL[request.param]
    return request.param, *fresh(config, shape), shape


def test_float_files_hold_one_node_an_operation_and_give_the_logits(small, tmp_path):
    name, model, params, state, shape = small
    x = examples(shape)
    mean, std = np.float32([0.5] * shape[-1]), np.float32([2.0] * shape[-1])
    path = tmp_path / "model.onnx"
    size = export.save(path, model, params, state, shape, mean=mean, std=std, metadata={"run": "a"})
    assert size == path.stat().st_size
    wanted = quick.jit(lambda x: model.apply(params, state, (x - mean) / std, train=False)[0])(x)
    np.testing.assert_allclose(export.run(path, x), wanted, **CLOSE)
    np.testing.assert_allclose(export.run(path, x[:1]), wanted[:1], **CLOSE)  # the batch size is open
    proto = onnx.load(path)
    assert [i.name for i in proto.graph.input] == ["input"]
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "B"
    assert {p.key: p.value for p in proto.metadata_props} == {"run": "a"}
    kinds = [node.op_type for node in proto.graph.node]
    product = {"mlp": ["Reshape", "Gemm", "Relu", "Gemm", "Relu", "Gemm"]}
    stage = ["Conv", "Relu", "MaxPool"]
    product["conv"] = ["Transpose", *stage, *stage, "Transpose", "Reshape", "Gemm", "Relu", "Gemm"]
    assert kinds == ["Sub", "Div", *product[name]]
    stored = {i.name: onnx.numpy_helper.to_array(i) for i in proto.graph.initializer}
    for path_, leaf in named_leaves(params):
        assert np.isclose(np.sort(stored[path_].ravel()), np.sort(np.asarray(leaf).ravel())).all(), path_


@pytest.mark.parametrize("form", export.FORMS)
def test_quantized_files_compute_on_the_codes_of_the_simulation(small, form):
    name, model, params, state, shape = small
    x = examples(shape)
    made = quantized(model, params, state, x, bits=4)
    content = made.encoded(shape, form=form)
    layers = list(dict(quantize.activations.__wrapped__) if False else _layers(made))
    found = outputs(content, [f"{layer}/codes" for layer in layers], x)
    wanted = _codes(made, x)
    moved = 0
    for layer, codes in zip(layers, found, strict=True):
        channels_last = codes.transpose(0, 2, 3, 1) if codes.ndim == 4 and codes.shape != wanted[layer].shape else codes
        difference = np.abs(channels_last.astype(int) - wanted[layer])
        assert difference.max() <= (0 if form == "integer" else 1), layer
        moved += (difference > 0).mean()
    kinds = operators(content)
    integer_ops = {"mlp": 0, "conv": 2}[name]
    if form == "integer":
        assert kinds.count("ConvInteger") == integer_ops
        assert kinds.count("MatMulInteger") == len(layers) - integer_ops
        assert "DequantizeLinear" not in kinds
        np.testing.assert_allclose(export.run(content, x), made.simulated(x), **CLOSE)
    else:
        assert kinds.count("DequantizeLinear") == 3 * len(layers) and moved < 0.05
    stored = {i.name: i for i in onnx.load_from_string(content).graph.initializer}
    kernel = stored["Dense_0/kernel_codes"]
    assert onnx.TensorProto.DataType.Name(kernel.data_type) == "INT4"
    assert len(kernel.raw_data) == -(-np.prod(params["Dense_0"]["kernel"].shape) // 2)


def _layers(made):
    return [path.removesuffix("/kernel") for path in made.weights]


def _codes(made, x):
    """The codes of each layer's input, by the simulation's own rounding."""
    from jopt import intercept
    from jopt.quantize.integer.grids import layer_grid

    seen = {path: quantize.dequantize(q) for path, q in made.weights.items()}
    params, learned = quantize.activations_module.split("params", made.params) if False else (made.params, {})
    leaves = [seen.get(path, leaf) for path, leaf in named_leaves(params)]
    params = jax.tree.unflatten(jax.tree.structure(params), leaves)
    held = made.model_state["activation_ranges"]
    apply = functools.partial(quantize.activations(made.model, made.activations).apply, train=False)
    _, calls = quick.jit(intercept.capture(apply))(params, made.model_state, x)
    out = {}
    for layer, (call, *_) in calls.items():
        spec, g, _ = layer_grid(made.activations, layer, learned, held)
        codes = quantize.quantize(call.input, spec, quantize.Range(**held[layer])).codes
        out[layer] = np.asarray(codes, int)
        assert float(g.scale) > 0
    return out
