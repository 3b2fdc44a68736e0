"""Floats with coded exponents: every bit comes back, in as many bytes as predicted; then damaged."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jopt.codec.container import CodecError, Cursor
from jopt.codec.elements import bits_of, coded_exponents, read_exponents

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(DTYPES)), st.integers(0, 2**32 - 1), st.integers(1, 400), st.integers(0, 3))
def test_every_bit_comes_back_in_the_bytes_that_were_predicted(name, seed, count, kind):
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal(count, np.float32) * np.float32(2.0 ** rng.integers(-20, 9))
    # Normal numbers, magnitudes, their opposites, and any bits at all: infinities, NaNs, subnormals, zeros.
    array = (normal, abs(normal), -abs(normal))[kind % 3].astype(DTYPES[name])
    if kind == 3:
        array = np.frombuffer(rng.bytes(array.nbytes), array.dtype)
    coded = coded_exponents(bits_of(array), name)
    data = coded.build()
    assert len(data) == coded.least
    cursor = Cursor(data + b"behind", "weights")
    np.testing.assert_array_equal(read_exponents(cursor, name, count), bits_of(array))
    assert cursor.remaining == 6


def test_more_than_a_block():
    array = np.random.default_rng(0).standard_normal(300_000, np.float32)
    coded = coded_exponents(bits_of(array), "float32")
    data = coded.build()
    np.testing.assert_array_equal(read_exponents(Cursor(data, "weights"), "float32", array.size), bits_of(array))
    assert coded.least <= len(data) < 0.84 * array.nbytes


def test_what_is_alike_takes_no_bits():
    # Eight powers of two: one sign; a table of 3 bytes or less; 3 bits each on average; mantissas of 23 bits.
    array = (2.0 ** np.arange(8)).astype(np.float32)
    assert coded_exponents(bits_of(array), "float32").least == 3 + 2 + 1 + 3 + 23
    # One exponent and two signs: no table, no stream.
    array = np.array([1.0, -1.5, 1.25], np.float32)
    assert coded_exponents(bits_of(array), "float32").build()[:4] == bytes([0, 127, 0, 0])
    assert coded_exponents(bits_of(array), "float32").least == 3 + 1 + 9


@pytest.mark.parametrize("edit", [{0: 3}, {2: 200}, {-1: None}], ids=["signs", "exponents", "cut"])
def test_damage_is_an_error(edit):
    array = np.array([2.0**-7, 0.25, -0.5, 0.3], np.float32)
    data = bytearray(coded_exponents(bits_of(array), "float32").build())
    assert data[1] == 120
    for position, byte in edit.items():
        if byte is None:
            del data[position]
        else:
            data[position] = byte
    with pytest.raises(CodecError) as error:
        read_exponents(Cursor(bytes(data), "weights"), "float32", 4)
    assert error.value.where == "weights"


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(DTYPES)), st.binary(max_size=60), st.integers(1, 40))
def test_hostile_bytes_are_errors_or_floats(name, data, count):
    try:
        patterns = read_exponents(Cursor(data, "weights"), name, count)
    except CodecError:
        return
    assert patterns.shape == (count,)
    assert patterns.itemsize == np.dtype(DTYPES[name]).itemsize
