"""What docs/onnx.md says about the versions that files need is what is written in them."""

import re
from pathlib import Path

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

ROOT = Path(__file__).parents[2]
TABLE = re.findall(
    r"^\| (float|integer|qdq) \| ([\d to,]+) \| (\d+) \| (\d+) \| (1\.\d+) \|$",
    (ROOT / "docs" / "onnx.md").read_text(),
    re.MULTILINE,
)


@pytest.fixture(autouse=True)
def compiled_quickly():
    with quick.compilation():
        yield


FAST = (("float", "32"), ("integer", "3, 4"), ("qdq", "3, 4"), ("qdq", "1, 2"))
ROWS = [pytest.param(r, id=f"{r[0]} {r[1]}", marks=() if r[:2] in FAST else pytest.mark.slow) for r in TABLE]


@pytest.mark.parametrize("row", ROWS)
def test_files_have_the_versions_that_the_document_says(row):
    form, widths, opset, ir_version, _ = row
    bits = int(widths.split()[-1])
    network = forms.FORMS["a maximum with 0 of a sum"]
    model = forms.build(network)
    x = forms.inputs(network, 16)
    params, state = quick.start(model, x)
    if form == "float":
        content = export.encode(model, params, state, network.shape)
    else:
        weights = {p: quantize.quantize(w, Spec(bits, axis=-1)) for p, w in named_leaves(params) if "kernel" in p}
        config = quantize.Activations(calibration="absmax")
        made = *quantize.calibrate(model, config, params, state, x), network.shape, weights, config
        content = export.encode_quantized(model, *made, form=form)
    proto = onnx.load_from_string(content)
    assert [(o.domain, o.version) for o in proto.opset_import] == [("", int(opset))]
    assert proto.ir_version == int(ir_version)
    kinds = [node.op_type for node in proto.graph.node]
    # A cast from 4 bits needs ONNX Runtime 1.23, and DequantizeLinear none; integer products take bytes.
    assert ("Cast" in kinds) == (form == "integer" or (form == "qdq" and bits == 2))


def test_all_forms_are_in_the_table_and_the_bound_of_the_package_is_the_highest():
    assert {(form, widths) for form, widths, *_ in TABLE} == {
        ("float", "32"),
        *((form, widths) for form in export.FORMS for widths in ("5 to 8", "3, 4", "1, 2")),
    }
    highest = max(int(version.split(".")[1]) for *_, version in TABLE)
    assert f'"onnxruntime>=1.{highest}"' in (ROOT / "pyproject.toml").read_text()
