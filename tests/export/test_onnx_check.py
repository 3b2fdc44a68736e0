"""A file that does not compute what the model computes is refused, and nothing is written."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import onnx_forms as forms
import pytest
import quick
from flax import linen as nn

from jopt import models, quantize
from jopt.export import ExportError
from jopt.export import export as export_run
from jopt.quantize import Spec
from jopt.rules import named_leaves

pytest.importorskip("onnx", reason="needs the extra 'jopt[export]'")
pytest.importorskip("onnxruntime", reason="needs the extra 'jopt[export]'")
pytest.importorskip("jax2onnx", reason="needs the extra 'jopt[export]'")
pytest.importorskip("onnxscript", reason="needs the extra 'jopt[export]'")

import onnx_ir as ir

from jopt.export import onnx as export

ROWS, TOKENS = forms.Form(lambda x: nn.Dense(3)(nn.relu(nn.Dense(5)(x))), (4,)), forms.FORMS["embedding"]


@pytest.fixture(autouse=True)
def compiled_quickly():
    with quick.compilation():
        yield


def started(form):
    model = forms.build(form)
    return model, *quick.start(model, forms.inputs(form, 1))


def spoil(monkeypatch, name, change):
    """The graph that is written has another constant."""
    simplify = export.simplify

    def spoiled(model, constants):
        simplify(model, constants)
        value = model.graph.initializers[name]
        value.const_value = ir.tensor(change(value.const_value.numpy().copy()), name=name)

    monkeypatch.setattr(export, "simplify", spoiled)


def test_a_file_with_other_logits_is_refused_with_the_difference_and_not_written(monkeypatch, tmp_path):
    model, params, state = started(ROWS)
    params["Dense_0"] = jax.tree.map(lambda leaf: leaf * 1e-5, params["Dense_0"])  # a small tolerance
    spoil(monkeypatch, "Dense_0/kernel", lambda kernel: kernel * np.float32(1.001))
    message = (
        r"on a batch of 3, the largest difference of two logits is \S+, where \S+ is the tolerance \(0.0001 of"
    )
    with pytest.raises(export.OnnxError, match=message):
        export.save(tmp_path / "a.onnx", model, params, state, ROWS.shape)
    assert not list(tmp_path.iterdir())
    export.save(tmp_path / "a.onnx", model, params, state, ROWS.shape, tolerance=0.01)
    assert (tmp_path / "a.onnx").exists()


def test_all_rows_of_a_table_are_looked_at_and_examples_can_be_given(monkeypatch):
    model, params, state = started(TOKENS)

    def last_row(table):
        table[9] += 0.1
        return table

    spoil(monkeypatch, "Embed_0/embedding", last_row)
    with pytest.raises(export.OnnxError, match="largest difference"):
        export.encode(model, params, state, TOKENS.shape)
    export.encode(model, params, state, TOKENS.shape, examples=np.full((1, *TOKENS.shape), 3))
    with pytest.raises(ValueError, match=r"examples.*7\].*\(2, 6\)"):
        export.encode(model, params, state, TOKENS.shape, examples=np.zeros((2, 6)))


def test_what_onnx_runtime_cannot_run_is_refused():
    form = forms.REFUSED["maximum over channels too"]
    with pytest.raises(export.OnnxError, match=r"ONNX Runtime [\d.]+ "):
        export.encode(*started(form), form.shape)


def test_logits_that_are_never_finite_say_nothing():
    form = forms.Form(lambda x: nn.Dense(2)(jnp.log(-jnp.abs(x))), (4,))
    with pytest.raises(export.OnnxError, match=r"logits.*finite.*examples="):
        export.encode(*started(form), form.shape)


@pytest.mark.parametrize("package", ["jax2onnx", "onnxscript"])
def test_without_a_package_the_extra_is_named(monkeypatch, package):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(ImportError, match=r"jopt\[export\]"):
        export.encode(*started(ROWS), ROWS.shape)


def test_without_onnx_runtime_a_warning_says_that_nothing_was_compared(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.warns(UserWarning, match="not run.*onnxruntime") as caught:
        export.save(tmp_path / "a.onnx", *started(ROWS), ROWS.shape)
    assert len(caught) == 1 and (tmp_path / "a.onnx").exists()


def calibrated(bits, form=ROWS, spec=None, **activations):
    model, params, state = started(form)
    x = forms.inputs(form, 64)
    spec = Spec(bits, axis=-1) if spec is None else spec
    weights = {path: quantize.quantize(w, spec) for path, w in named_leaves(params) if path.endswith("kernel")}
    config = quantize.Activations(calibration="absmax", bits=bits, **activations)
    return model, *quantize.calibrate(model, config, params, state, x), form.shape, weights, config


def test_biases_that_a_coarse_grid_rounds_away_are_refused_by_form():
    made = calibrated(2)
    export.encode_quantized(*made)
    with pytest.raises(export.CoarseBiasError, match=r"'qdq'.*biases.*'integer'"):
        export.encode_quantized(*made, form="qdq")


@pytest.mark.parametrize(("form", "bits"), [pytest.param("integer", 8, marks=pytest.mark.slow), ("qdq", 4)])
def test_a_quantized_file_with_other_codes_is_refused(monkeypatch, form, bits):
    made, quantized = calibrated(bits), export.onnx_quantize.quantize
    export.encode_quantized(*made, form=form)

    def spoiled(model, weights, *args):
        kernel = weights["Dense_0/kernel"]
        return quantized(
            model, {**weights, "Dense_0/kernel": kernel._replace(codes=kernel.codes[::-1].copy())}, *args
        )

    monkeypatch.setattr(export.onnx_quantize, "quantize", spoiled)
    with pytest.raises(export.OnnxError, match=r"mean square.* \d.*largest.* \d.* \d"):
        export.encode_quantized(*made, form=form)


def test_inputs_are_of_the_mean_and_deviation_that_the_graph_takes_off():
    form = forms.Form(lambda x: nn.Dense(2)(x), (2,))
    model, params, state = started(form)
    seen = []
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "check", lambda content, model, trees, batches, *args: seen.extend(batches))
        export.encode(model, params, state, form.shape, mean=np.float32([100, 0]), std=np.float32([1, 50]))
    assert [len(x) for x in seen] == [3, 16]
    x = np.concatenate(seen)
    assert abs(x[:, 0].mean() - 100) < 1 and 20 < x[:, 1].std() < 80


def test_the_app_writes_no_file_that_disagrees(exported, monkeypatch, tmp_path):
    written = export_run(exported.run, tmp_path / "a", ["onnx"], speed_batches=())
    assert [w.file.name for w in written] == ["float.onnx", "quantized.onnx", "quantized_qdq.onnx", "README.md"]
    spoil(monkeypatch, "Dense_0/kernel", lambda kernel: kernel[::-1].copy())
    with pytest.raises(ExportError, match=r"float\.onnx.*largest"):
        export_run(exported.run, tmp_path / "b", ["onnx"])
    assert not list((tmp_path / "b").iterdir())


def test_models_of_modules_of_jopt_are_taken_with_examples_of_the_data():
    model = models.model(models.ModelConfig("linear", num_classes=2))
    x = np.zeros((5, 3), np.float32)
    params, state = quick.start(model, x)
    assert export.encode(model, params, state, (3,), examples=x) == export.encode(model, params, state, (3,))
