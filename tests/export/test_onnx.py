"""ONNX files against jopt: the same logits in floats, the same codes, sums and classes in integers."""

import dataclasses
import functools
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

from jopt import data, intercept, models, quantize
from jopt.quantize import Spec, integer
from jopt.rules import named_leaves

onnx = pytest.importorskip("onnx", reason="needs the extra 'jopt[export]'")
pytest.importorskip("onnxruntime", reason="needs the extra 'jopt[export]'")
pytest.importorskip("jax2onnx", reason="needs the extra 'jopt[export]'")
pytest.importorskip("onnxscript", reason="needs the extra 'jopt[export]'")

from jopt.export import onnx as export  # noqa: E402

# Sums of the same products in another order: off by at most n eps sum |x w|, far below a thousandth of the logits.
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}


class Quantized(NamedTuple):
    model: models.Model
    params: Any
    model_state: Any
    weights: dict[str, quantize.QTensor]
    activations: quantize.ActivationMethod

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


def quantized(
    model, params, state, x, *, bits=8, axis=-1, weights_symmetric=True, method=quantize.Activations, **activations
) -> Quantized:
    spec = Spec(bits, symmetric=weights_symmetric, axis=axis)
    weights = {path: quantize.quantize(w, spec) for path, w in named_leaves(params) if path.endswith("kernel")}
    default = {"calibration": "absmax"} if method is quantize.Activations else {}
    config = method(**{**default, **activations})
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
    "mlp": (models.ModelConfig("mlp", (7, 5), num_classes=3), (2, 3, 1)),
    "conv": (models.ModelConfig("cnn", (3, 4), hidden=5, num_classes=3), (8, 8, 2)),
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
    wanted = quick.jit(lambda x: model.apply(params, state, x, train=False)[0])((x - mean) / std)
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


@pytest.mark.parametrize(("form", "bits"), [("integer", 4), ("qdq", 8)])
def test_quantized_files_compute_on_the_codes_of_the_simulation(small, form, bits):
    name, model, params, state, shape = small
    x = examples(shape)
    made = quantized(model, params, state, x, bits=bits)
    content = made.encoded(shape, form=form)
    layers = [path.removesuffix("/kernel") for path in made.weights]
    found = outputs(content, [f"{layer}/codes" for layer in layers], x)
    wanted = codes_of_inputs(made, x)
    for layer, codes in zip(layers, found, strict=True):
        same = codes.shape == wanted[layer].shape
        difference = np.abs((codes if same else codes.transpose(0, 2, 3, 1)).astype(int) - wanted[layer])
        # Rounded biases are off by at most half a step of the sums, and so move a code by at most one, rarely.
        assert difference.max() <= (form == "qdq") and (difference > 0).mean() < 0.02, layer
    kinds, convolutions = operators(content), {"mlp": 0, "conv": 2}[name]
    if form == "qdq":
        assert kinds.count("DequantizeLinear") == 3 * len(layers)
        return
    assert (kinds.count("ConvInteger"), "DequantizeLinear" in kinds) == (convolutions, False)
    assert kinds.count("MatMulInteger") == len(layers) - convolutions
    np.testing.assert_allclose(export.run(content, x), made.simulated(x), **CLOSE)
    (kernel,) = (i for i in onnx.load_from_string(content).graph.initializer if i.name == "Dense_0/kernel_codes")
    assert onnx.TensorProto.DataType.Name(kernel.data_type) == "INT4"
    assert len(kernel.raw_data) == -(-np.prod(params["Dense_0"]["kernel"].shape) // 2)


def codes_of_inputs(made, x):
    """The codes of each layer's input, by the simulation's own rounding."""
    seen = {path: quantize.dequantize(q) for path, q in made.weights.items()}
    leaves = [seen.get(path, leaf) for path, leaf in named_leaves(made.params)]
    params = jax.tree.unflatten(jax.tree.structure(made.params), leaves)
    apply = functools.partial(quantize.activations(made.model, made.activations).apply, train=False)
    _, calls = quick.jit(intercept.capture(apply))(params, made.model_state, x)
    ranges = made.model_state["activation_ranges"]
    return {
        layer: np.asarray(
            quantize.quantize(
                call.input, made.activations.layer_spec(layer), quantize.Range(**ranges[layer])
            ).codes,
            int,
        )
        for layer, (call, *_) in calls.items()
    }


GROUPS, OFFSETS = Spec(4, axis=-1, group=3), Spec(4, symmetric=False, axis=-1)


@pytest.mark.parametrize("spec", [GROUPS, OFFSETS, Spec(2), Spec(1, axis=-1)])
def test_any_scales_and_zero_points(spec):
    config, shape = SMALL["conv"]
    model, params, state = fresh(config, shape)
    x = examples(shape)
    kernels = {path: w for path, w in named_leaves(params) if path.endswith("kernel")}
    other = Spec(3) if spec.group else spec
    specs = {path: spec if path.startswith("Conv") else other for path in kernels}
    weights = {path: quantize.quantize(w, specs[path]) for path, w in kernels.items()}
    activations = quantize.Activations(
        calibration="absmax", bits=5, symmetric=True, rules=(("Conv_1", None), ("Dense_0", 16))
    )
    params, state = quantize.calibrate(model, activations, params, state, x)
    made = Quantized(model, params, state, weights, activations)
    content = made.encoded(shape)
    np.testing.assert_allclose(export.run(content, x), made.simulated(x), **CLOSE)
    # What has no quantized input of a byte, or shares scales by group, is computed in floats.
    integers = [kind for kind in operators(content) if kind.endswith("Integer")]
    assert integers == (["MatMulInteger"] if spec.group else ["ConvInteger", "MatMulInteger"])


def test_bad_input_is_refused_by_name():
    config, shape = SMALL["mlp"]
    model, params, state = fresh(config, shape)
    made = quantized(model, params, state, examples(shape))
    with pytest.raises(ValueError, match="form must be one of"):
        made.encoded(shape, form="int")
    wrong = made._replace(weights={"Dense_9/kernel": made.weights["Dense_0/kernel"]})
    with pytest.raises(ValueError, match=r"weights.*'Dense_9/kernel'.*\(6, 7\)"):
        wrong.encoded(shape)
    with pytest.raises(ValueError, match=r"no range.*'Dense_0'"):
        made._replace(model_state={}).encoded(shape)
    with pytest.raises(ValueError, match=r"mean .*std None"):
        export.encode(model, params, state, shape, mean=np.zeros(1))


def test_equal_models_are_equal_bytes_and_conversion_leaves_no_trace(small):
    import logging

    _, model, params, state, shape = small
    handlers, patched = list(logging.getLogger().handlers), models.layers.nn.Dense.__call__
    assert export.encode(model, params, state, shape) == export.encode(model, params, state, shape)
    assert logging.getLogger().handlers == handlers and models.layers.nn.Dense.__call__ is patched


def test_importing_it_imports_no_onnx():
    code = (
        "import sys, jopt.export.onnx; print([m for m in ('onnx', 'onnxruntime', 'jax2onnx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


class Trained(NamedTuple):
    model: models.Model
    params: Any
    model_state: Any
    train: np.ndarray
    test: np.ndarray
    labels: np.ndarray


NETWORKS = {
    "mlp": models.ModelConfig("mlp", (300, 100)),
    "lenet5": models.ModelConfig("lenet5"),
    "rnn": models.ModelConfig("rnn", (256,)),
    "resnet18": models.ModelConfig("resnet18", (8,)),
}


@pytest.fixture(scope="module", params=NETWORKS)
def trained(request):
    """A network trained on the digits for some passes, its batch normalizations folded."""
    digits = data.load(data.Digits())
    part = {
        name: np.asarray(data.normalize(*map(jnp.asarray, (arrays.inputs, digits.mean, digits.std))))
        for name, arrays in (("train", digits.train), ("test", digits.test))
    }
    module: Any = models.build(NETWORKS[request.param])
    model = models.from_linen(module)
    params, state = jax.jit(model.init)(jax.random.key(0), part["train"][:1])
    optimizer, labels = optax.adam(2e-3), jnp.asarray(digits.train.targets)
    x = jnp.asarray(part["train"])

    @jax.jit
    def step(carry, rows):
        params, state, moments = carry

        def loss(params):
            logits, new = model.apply(params, state, x[rows], train=True)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows]).mean(), new

        (_, state), grads = jax.value_and_grad(loss, has_aux=True)(params)
        with jax.numpy_dtype_promotion("standard"):
            updates, moments = optimizer.update(grads, moments)
        return (optax.apply_updates(params, updates), state, moments), None

    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.permutation(len(x))[: len(x) // 64 * 64].reshape(-1, 64) for _ in range(6)])
    carry = params, state, optimizer.init(params)
    for row in rows:
        carry, _ = step(carry, jnp.asarray(row))
    module, params, state = quantize.fold(module, carry[0], carry[1])
    found = Trained(models.from_linen(module), params, state, part["train"], part["test"], digits.test.targets)
    accuracy = (
        np.asarray(found.model.apply(params, state, found.test, train=False)[0]).argmax(-1) == found.labels
    ).mean()
    assert accuracy > 0.9, (request.param, accuracy)
    return request.param, found


@pytest.mark.slow
@pytest.mark.parametrize("masked", [False, True])
def test_trained_networks_predict_the_same_in_floats(trained, masked):
    _, (model, params, state, _, test, _) = trained
    if masked:
        params = jax.tree.map(lambda w: jnp.where(jnp.abs(w) < jnp.median(jnp.abs(w)), 0, w), params)
    content = export.encode(model, params, state, test.shape[1:])
    wanted = np.asarray(jax.jit(lambda x: model.apply(params, state, x, train=False)[0])(test))
    found = export.run(content, test)
    np.testing.assert_allclose(found, wanted, **CLOSE)
    assert (found.argmax(-1) == wanted.argmax(-1)).all()


@pytest.mark.slow
@pytest.mark.parametrize("axis", [None, -1])
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_trained_networks_predict_the_same_in_integers(trained, bits, axis, tmp_path):
    _, (model, params, state, train, test, _) = trained
    made = quantized(model, params, state, train[:512], bits=bits, axis=axis, calibration="percentile")
    content = made.encoded(test.shape[1:])
    size = export.save_quantized(tmp_path / "model.onnx", *made[:3], test.shape[1:], *made[3:])
    assert size == len(content) and (tmp_path / "model.onnx").read_bytes() == content
    found = export.run(content, test).argmax(-1)
    assert (found == made.executed(test).argmax(-1)).all()
    assert (found == made.simulated(test).argmax(-1)).all()
    plain = export.encode(model, params, state, test.shape[1:])
    assert len(plain) >= {8: 3.5, 4: 6, 2: 10}[bits] * len(content), (len(plain), len(content))


@pytest.mark.slow
def test_quantized_recurrent_states_are_computed_as_simulated(trained):
    name, (model, params, state, train, test, _) = trained
    if name != "rnn":
        pytest.skip("only the recurrent network has states")
    made = quantized(model, params, state, train[:512], bits=8, calibration="percentile")
    made = made._replace(activations=dataclasses.replace(made.activations, state=True))
    found = export.run(made.encoded(test.shape[1:]), test)
    assert (found.argmax(-1) == made.simulated(test).argmax(-1)).all()
    # A state beside a boundary may fall on its other side, and be off by one code from there on.
    assert np.median(np.abs(found - made.simulated(test))) < 1e-3
