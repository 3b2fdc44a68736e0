"""One layer of each form as an ONNX file: ONNX Runtime gives the model's logits, for several batch sizes."""

import functools

import jax
import numpy as np
import onnx_forms as forms
import pytest
import quick

from jopt import quantize
from jopt.quantize import Spec
from jopt.rules import named_leaves

onnx = pytest.importorskip("onnx", reason="needs the extra 'jopt[export]'")
pytest.importorskip("onnxruntime", reason="needs the extra 'jopt[export]'")
pytest.importorskip("jax2onnx", reason="needs the extra 'jopt[export]'")
pytest.importorskip("onnxscript", reason="needs the extra 'jopt[export]'")

from jopt.export import onnx as export  # noqa: E402

# Written wrong, rejected by ONNX Runtime, or a crash, before they were tested; the others were right all the time.
WERE_WRONG = (
    "transposed, stride 2, dilated kernel",
    "transposed, stride 2, transpose_kernel",
    "transposed, mean behind",
    "grouped, dilated input",
    "transposed, scanned",
    "embedding, tied",
    "a number added to a convolution",
    "maximum, dilated",
)


INSIDE_LOOPS = ("transposed, scanned", "scanned layers", "GRU")


@pytest.fixture(autouse=True)
def as_in_a_users_session():
    """Flax's mean pooling divides by an integer; rows are added to columns."""
    with quick.compilation(), jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def marked(name):
    return pytest.param(name, marks=() if name in WERE_WRONG else pytest.mark.slow)


@pytest.mark.parametrize("name", [marked(name) for name in forms.FORMS])
def test_a_form_gives_the_logits_of_the_model(name):
    form = forms.FORMS[name]
    model = forms.build(form)
    params, state = quick.start(model, forms.inputs(form, 3))
    content = export.encode(model, params, state, form.shape)
    for batch in (1, 3, 7):
        x = forms.inputs(form, batch)
        wanted = np.asarray(model.apply(params, state, x, train=False)[0])
        np.testing.assert_allclose(export.run(content, x), wanted, atol=2e-6 * np.abs(wanted).max(), rtol=0)


# One scale for each output unit: heads x features of these.
HEADS = {layer: (1, 2) for layer in ("query", "key", "value", "DenseGeneral_1")}
QUANTIZED = [
    ("attention", "integer", 4, True),
    ("transposed, mean behind", "integer", 8, True),
]
SLOW = [
    (name, form, bits, symmetric)
    for name in forms.FORMS
    for form in export.FORMS
    for bits, symmetric in ((8, False), (4, False), (2, True))
    if (name, form, bits, symmetric) not in QUANTIZED
]


@pytest.mark.parametrize(
    ("name", "kind", "bits", "symmetric"),
    [*QUANTIZED, *(pytest.param(*row, marks=pytest.mark.slow) for row in SLOW)],
)
def test_a_form_gives_the_logits_of_its_simulation(name, kind, bits, symmetric):
    form = forms.FORMS[name]
    model = forms.build(form)
    x = forms.inputs(form, 64)
    params, state = quick.start(model, x)
    config, weights = quantize.Activations(calibration="absmax"), {}
    for path, w in named_leaves(params):
        if path.endswith("kernel"):
            spec = Spec(bits, symmetric=symmetric, axis=HEADS.get(path.split("/")[-2], -1))
            weights[path] = quantize.quantize(w, spec)
    if name in INSIDE_LOOPS:
        with pytest.raises(ValueError, match=r"layer.*trace"):
            quantize.calibrate(model, config, params, state, x)
        return
    params, state = quantize.calibrate(model, config, params, state, x)
    content = export.encode_quantized(model, params, state, form.shape, weights, config, form=kind)
    leaves = [quantize.dequantize(weights[p]) if p in weights else leaf for p, leaf in named_leaves(params)]
    seen = jax.tree.unflatten(jax.tree.structure(params), leaves)
    apply = functools.partial(quantize.activations(model, config).apply, train=False)
    wanted = [np.asarray(apply(seen, state, forms.inputs(form, batch))[0]) for batch in (1, 3, 7)]
    found = [export.run(content, forms.inputs(form, batch)) for batch in (1, 3, 7)]
    difference = np.concatenate([np.abs(f - w).ravel() for f, w in zip(found, wanted, strict=True)])
    largest = max(np.abs(w).max() for w in wanted)
    # A code beside a boundary may be the next one; the form 'qdq' also rounds biases, to a kernel's coarse steps.
    if kind == "integer":
        assert np.median(difference) < 2e-6 * largest and difference.max() < 0.05 * largest
    else:
        assert np.sqrt(np.mean(difference**2)) < {8: 0.01, 4: 0.02, 2: 0.1}[bits] * largest
    if name in ("attention", "heads") and bits < 8:
        kinds = [node.op_type for node in onnx.load_from_string(content).graph.node]
        assert kinds.count("MatMulInteger" if kind == "integer" else "DequantizeLinear") >= 2
        assert kinds.count("Einsum") <= 1  # the softmax with the values


def test_zeros_between_inputs_are_one_padding():
    form = forms.FORMS["transposed, mean behind"]
    model = forms.build(form)
    params, state = quick.start(model, forms.inputs(form, 1))
    graph = onnx.load_from_string(export.encode(model, params, state, form.shape)).graph
    kinds = ["Reshape", "Pad", "Reshape", "Transpose", "Conv", "Relu", "Transpose", "ReduceSum", "Div", "Gemm"]
    assert [node.op_type for node in graph.node] == kinds
