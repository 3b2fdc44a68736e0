"""What a quantized ONNX file is made of, against NumPy's own arithmetic: packed codes, grids, weights."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jopt import quantize
from jopt.export import onnx_codes
from jopt.quantize import Spec

onnx = pytest.importorskip("onnx", reason="needs the extra 'jopt[export]'")
ir = pytest.importorskip("onnx_ir", reason="needs the extra 'jopt[export]'")


@given(st.data(), st.sampled_from([2, 4, 8]), st.booleans())
def test_packed_codes_come_back_as_onnx_reads_them(draw, bits, signed):
    low = -(1 << (bits - 1)) if signed else 0
    shape = draw.draw(st.lists(st.integers(0, 5), max_size=3))
    codes = draw.draw(
        st.lists(st.integers(low, low + (1 << bits) - 1), min_size=(n := int(np.prod(shape))), max_size=n)
    )
    codes = np.array(codes, np.int8 if signed else np.uint8).reshape(shape)
    tensor = ir.to_proto(ir.tensor(onnx_codes.narrow(codes, bits), name="codes"))
    assert len(tensor.raw_data) == -(-n * bits // 8)
    read = onnx.numpy_helper.to_array(tensor)
    assert read.shape == codes.shape and (read.astype(np.int32) == codes).all()


@pytest.mark.parametrize(
    ("spec", "stored", "kind"),
    [
        (Spec(1), 2, np.int8),
        (Spec(2, axis=-1), 2, np.int8),
        (Spec(3, symmetric=False), 4, np.uint8),
        (Spec(4, axis=-1, group=2), 4, np.int8),
        (Spec(5), 8, np.int8),
        (Spec(16), 16, np.int16),
    ],
)
def test_a_weight_stands_for_the_values_of_its_codes(spec, stored, kind):
    x = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    q = quantize.quantize(jnp.asarray(x), spec)
    w = onnx_codes.weight(q)
    assert (w.bits, w.codes.dtype) == (stored, kind)
    values = (w.codes.astype(np.int64) - w.zero) * w.scale.astype(np.float64)
    # The outermost codes stand for the range's ends, which the product can miss by one bit.
    np.testing.assert_allclose(values, quantize.dequantize(q), rtol=2**-23)


def grid_of(config, learned=None, held=None):
    return onnx_codes.inputs(config, ["layer"], {"layer": learned or {}}, {"layer": held or {}}).get("layer")


def test_grids_are_those_of_the_layers():
    x = np.linspace(-2, 3, 41).astype(np.float32)
    held = {"low": jnp.float32(-1), "high": jnp.float32(2)}
    for bits in (1, 2, 4, 8):
        for symmetric in (False, True):
            g = grid_of(quantize.Activations(calibration="absmax", bits=bits, symmetric=symmetric), held=held)
            spec = Spec(bits, symmetric=symmetric)
            q = quantize.quantize(jnp.asarray(x), spec, quantize.Range(jnp.float32(-1), jnp.float32(2)))
            shift = 128 if symmetric else 0
            raw = np.sign(x) + g.zero if g.sign else np.rint(x / g.scale) + g.zero
            assert (np.clip(raw, g.low, g.high) == np.asarray(q.codes, np.int64) + shift).all(), (bits, symmetric)
            assert g.zero == int(q.zero_point) + shift and g.dtype == np.uint8


def test_learned_grids():
    step = grid_of(quantize.LSQActivations(bits=4), {"step": jnp.float32(-0.5)}, {"signed": jnp.bool_(True)})
    assert (float(step.scale), step.low - step.zero, step.high - step.zero) == (0.5, -7, 7)
    level = grid_of(quantize.PACTActivations(bits=2), {"alpha": jnp.float32(3.0)}, {"signed": jnp.bool_(False)})
    assert (float(level.scale), level.zero, level.low, level.high) == (1.0, 0, 0, 3)


def test_layers_without_codes_are_left_out():
    empty = {"low": jnp.float32(0), "high": jnp.float32(0)}
    assert grid_of(quantize.Activations(calibration="absmax"), held=empty) is None
    assert grid_of(quantize.Activations(calibration="absmax", bits=32)) is None
    assert grid_of(quantize.Activations(calibration="absmax", rules=(("layer", None),))) is None
    with pytest.raises(ValueError, match=r"no range.*'layer'"):
        onnx_codes.inputs(quantize.Activations(calibration="absmax"), ["layer"], {}, {})
