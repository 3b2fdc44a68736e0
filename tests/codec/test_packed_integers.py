"""The integers in a file are those of jopt.quantize, bit for bit."""

import jax.numpy as jnp
import numpy as np
import pytest
from packed_cases import SPECS, same

from jopt import codec, quantize

DEFAULT = SPECS[:1] + SPECS[2:3] + SPECS[5:6]
RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    "spec", [pytest.param(s, marks=() if s in DEFAULT else pytest.mark.slow) for s in SPECS], ids=str
)
def test_codes_scales_and_values_are_those_of_quantize(spec):
    x = RNG.normal(size=(8, 12)).astype(np.float32)
    x[:, 3], x[RNG.random(x.shape) < 0.5] = 0, 0
    q = quantize.quantize(jnp.asarray(x), quantize.Spec(**spec._asdict()))
    seen = np.asarray(quantize.dequantize(q))
    file = codec.decode(codec.encode({"w": seen}, specs={"w": q.spec}, ranges={"w": q.range}).data)
    integers = file.integers["w"]
    assert same(file.params["w"], seen)
    assert same(integers.codes, np.asarray(q.codes)) and same(integers.scale, np.asarray(q.scale))
    assert same(integers.zero_point, np.asarray(q.zero_point))
    codes, scale, zero_point, low, high = map(jnp.asarray, integers[:5])
    restored = quantize.QTensor(codes, scale, zero_point, q.spec, quantize.Range(low, high))
    assert same(np.asarray(quantize.dequantize(restored)), seen)


@pytest.mark.parametrize(
    "bits", [4, pytest.param(8, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)]
)
def test_fake_quantized_weights_are_recovered_without_a_range(bits):
    spec = quantize.Spec(bits, axis=-1)
    seen = np.asarray(quantize.fake_quantize(jnp.asarray(RNG.normal(size=(64, 10)), jnp.float32), spec))
    packed = codec.encode({"w": seen}, specs={"w": spec})
    assert f"{bits}-bit integers" in packed.ledger.entries[1].encoding
    assert codec.decode(packed.data).integers["w"].spec == codec.Spec(bits, axis=-1)


def test_signs_and_ternary_weights_are_integers():
    w = jnp.asarray(RNG.normal(size=(64, 10)), jnp.float32)
    seen = {"binary": quantize.xnor(w), "signs": quantize.binarize(w), "ternary": quantize.ternarize(w)}
    specs = {"binary": quantize.Spec(1, axis=-1), "signs": quantize.Spec(1), "ternary": quantize.Spec(2)}
    packed = codec.encode(seen, specs=specs)
    rows = {entry.path: entry for entry in packed.ledger.entries}
    file = codec.decode(packed.data)
    assert same(file.params, {name: np.asarray(w) for name, w in seen.items()})
    assert {name: set(np.unique(q.codes)) for name, q in file.integers.items()} == {
        "binary": {-1, 1}, "signs": {-1, 1}, "ternary": {-1, 0, 1}
    }  # fmt: skip
    # A bit a weight, in 80 bytes; a scale of four bytes each, or one that is exact as an int8.
    assert rows["signs"].bytes["values"] == 80 and rows["signs"].bytes["scales"] <= 6
    assert rows["binary"].bytes["scales"] <= 40 + 6


def test_a_wrong_range_falls_back_to_the_values():
    spec = quantize.Spec(4)
    seen = np.asarray(quantize.fake_quantize(jnp.asarray(RNG.normal(size=(16, 10)), jnp.float32), spec))
    wide = codec.encode({"w": seen}, specs={"w": spec}, ranges={"w": (np.float32(-9), np.float32(9))})
    assert wide.data == codec.encode({"w": seen}, specs={"w": spec}).data
    moved = seen + np.float32(0.01)
    packed = codec.encode({"w": moved}, specs={"w": spec}, ranges={"w": (np.float32(-9), np.float32(9))})
    file = codec.decode(packed.data)
    assert not file.integers and same(file.params["w"], moved)


def test_minus_zero_is_no_integer_but_comes_back():
    seen = np.float32([[0.5, -0.0, 1.0], [0.0, -1.0, -0.5]])
    file = codec.decode(codec.encode({"w": seen}, specs={"w": codec.Spec(2)}).data)
    assert not file.integers and same(file.params["w"], seen)


# Written at 2026-11-30 by quantize(x, spec, range) of [5, 2] values and codec.encode: the file and its values.
BEFORE = {
    # Spec(3, narrow=False) in [-1.3, 1.3]; -3 and -2 are below it, with the code -4.
    "below": (
        "4a4f5054010e0001010100017704000205020e00d827809f082300006666a63f070828943b27e21119b5",
        "-0x1.bbbbbap+0 0x1.bbbbbap-2 -0x1.bbbbbap+0 -0x1.bbbbbap-1 -0x1.4ccccc0p+0 0x1.4ccccc0p+0 0x1.bbbbbap-1 "
        "-0x1.4ccccc0p+0 0x1.4ccccc0p+0 0x0p+0",
        None,
    ),
    # Spec(3, narrow=False, axis=-1) in the whole range, where the lowest code is unused.
    "inside": (
        "4a4f5054010e0001010100017704000205021300c44bec60082301010000004040cdcc8c3f05076022131de6e5fd95",
        "-0x1.8p+1 0x1.777778p-2 -0x1.0p+1 -0x1.777778p-1 -0x1.0p+0 0x1.19999ap+0 0x1.0p+0 -0x1.19999ap+0 0x1.0p+1 "
        "0x0p+0",
        [[-3, 1], [-2, -2], [-1, 3], [1, -3], [2, 0]],
    ),
    "one bit": (
        "4a4f5054010e0001010100017704000205021200857af7790821010100d6a3f03f6666263f010308280afcf2edda",
        "-0x1.e147acp+0 0x1.4cccccp-1 -0x1.e147acp+0 -0x1.4cccccp-1 -0x1.e147acp+0 0x1.4cccccp-1 0x1.e147acp+0 "
        "-0x1.4cccccp-1 0x1.e147acp+0 0x1.4cccccp-1",
        [[-1, 1], [-1, -1], [-1, 1], [1, -1], [1, 1]],
    ),
}


@pytest.mark.parametrize("name", BEFORE)
def test_files_written_before_the_finer_scale_give_the_same_bits(name):
    data, values, codes = BEFORE[name]
    file = codec.decode(bytes.fromhex(data))
    expected = np.float32([float.fromhex(v) for v in values.split()]).reshape(5, 2)
    assert same(file.params["w"], expected)
    # A code below the lowest is of no Spec of today: the values are there, but no integers.
    assert [q.codes.tolist() for q in file.integers.values()] == ([codes] if codes else [])
    for q in file.integers.values():
        rewritten = codec.encode(file.params, specs={"w": q.spec}, ranges={"w": (q.low, q.high)})
        assert same(codec.decode(rewritten.data).params["w"], expected)
