"""Floats with coded exponents: every bit comes back, at the size that was said; then damaged."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jopt.codec import exponents
from jopt.codec.cursor import Cursor
from jopt.codec.error import CodecError

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def bits_of(array):
    return array.view(f"u{array.itemsize}")


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(DTYPES)), st.integers(0, 2**32 - 1), st.integers(1, 400), st.integers(0, 3))
def test_every_bit_comes_back_at_the_size_that_was_said(name, seed, count, kind):
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal(count, np.float32) * np.float32(2.0 ** rng.integers(-20, 9))
    # Normal numbers, magnitudes, their opposites, and any bits at all: infinities, NaNs, subnormals, zeros.
    array = (normal, abs(normal), -abs(normal))[kind % 3].astype(DTYPES[name])
    if kind == 3:
        array = np.frombuffer(rng.bytes(array.nbytes), array.dtype)
    data = exponents.pack(bits_of(array), name)
    assert len(data) == exponents.least(bits_of(array), name)
    cursor = Cursor(data + b"behind", "weights")
    np.testing.assert_array_equal(exponents.unpack(cursor, name, count), bits_of(array))
    assert cursor.left == 6


def test_more_than_a_block():
    array = np.random.default_rng(0).standard_normal(300_000, np.float32)
    data = exponents.pack(bits_of(array), "float32")
    np.testing.assert_array_equal(exponents.unpack(Cursor(data, "weights"), "float32", array.size), bits_of(array))
    assert exponents.least(bits_of(array), "float32") <= len(data) < 0.84 * array.nbytes


def test_what_is_alike_takes_no_bits():
    # Eight powers of two: one sign; a table of 3 bytes or less; 3 bits each on average; mantissas of 23 bits.
    array = (2.0 ** np.arange(8)).astype(np.float32)
    assert exponents.least(bits_of(array), "float32") == 3 + 2 + 1 + 3 + 23
    # One exponent and two signs: no table, no stream.
    array = np.array([1.0, -1.5, 1.25], np.float32)
    assert exponents.pack(bits_of(array), "float32")[:4] == bytes([0, 127, 0, 0])
    assert exponents.least(bits_of(array), "float32") == 3 + 1 + 9


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        ({0: 3}, "signs must be 0 to 2"),
        ({2: 200}, "exponents 0 to 255, got 0, 120 and 200 more"),
        ({-1: None}, "bytes are wanted"),
    ],
)
def test_damage_is_an_error(edit, text):
    array = np.array([2.0**-7, 0.25, -0.5, 0.3], np.float32)
    data = bytearray(exponents.pack(bits_of(array), "float32"))
    assert data[1] == 120
    for at, byte in edit.items():
        if byte is None:
            del data[at]
        else:
            data[at] = byte
    with pytest.raises(CodecError, match=text):
        exponents.unpack(Cursor(bytes(data), "weights"), "float32", 4)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(DTYPES)), st.binary(max_size=60), st.integers(1, 40))
def test_hostile_bytes_are_errors_or_floats(name, data, count):
    try:
        found = exponents.unpack(Cursor(data, "weights"), name, count)
    except CodecError:
        return
    assert found.shape == (count,)
    assert found.itemsize == np.dtype(DTYPES[name]).itemsize
