"""One layer of each form as an ONNX file: ONNX Runtime gives the model's logits, for several batch sizes."""

import numpy as np
import onnx_forms as forms
import pytest
import quick

onnx = pytest.importorskip("onnx", reason="needs the extra 'jopt[export]'")
pytest.importorskip("onnxruntime", reason="needs the extra 'jopt[export]'")
pytest.importorskip("jax2onnx", reason="needs the extra 'jopt[export]'")

from jopt.export import onnx as export  # noqa: E402

# Written wrong, rejected by ONNX Runtime, or a crash, before they were tested; the others were right all the time.
WERE_WRONG = (
    "transposed, stride 2, dilated kernel",
    "transposed, stride 2, transpose_kernel",
    "transposed, stride 2, negative padding",
    "transposed, mean behind",
    "grouped, dilated input",
    "transposed, scanned",
    "embedding, tied",
    "a number added to a convolution",
    "maximum, dilated",
)


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


def test_zeros_between_inputs_are_one_padding():
    form = forms.FORMS["transposed, mean behind"]
    model = forms.build(form)
    params, state = quick.start(model, forms.inputs(form, 1))
    graph = onnx.load_from_string(export.encode(model, params, state, form.shape)).graph
    kinds = ["Reshape", "Pad", "Reshape", "Transpose", "Conv", "Relu", "Transpose", "ReduceSum", "Div", "Gemm"]
    assert [node.op_type for node in graph.node] == kinds
