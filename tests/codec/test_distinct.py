"""Distinct values and codebook indices against numpy.unique, by bit pattern."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jopt.codec import distinct

DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16, np.float64, np.int8, np.uint16, np.int64]


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(DTYPES), st.integers(0, 2**32 - 1), st.integers(1, 500), st.integers(0, 9000))
def test_finds_every_bit_pattern_once(dtype, seed, kinds, size):
    rng, dtype = np.random.default_rng(seed), np.dtype(dtype)
    # Any bits at all: NaNs, infinities and subnormals among them.
    values = np.frombuffer(rng.bytes(kinds * dtype.itemsize), dtype)
    array = values[rng.integers(0, kinds, size)]
    found = distinct.distinct(array)
    assert found is not None
    np.testing.assert_array_equal(np.sort(distinct.patterns(found)), np.unique(distinct.patterns(array)))
    back = distinct.indices(array, found)
    assert back.dtype == (np.uint8 if found.size <= 256 else np.uint16)
    np.testing.assert_array_equal(distinct.patterns(found[back]), distinct.patterns(array))
    assert distinct.distinct(array, found.size) is not None
    if found.size:
        assert distinct.distinct(array, found.size - 1) is None


def test_zeros_and_nans_differ_by_their_bits():
    bits = np.array([0x00000000, 0x80000000, 0x7FC00000, 0x7FC00001, 0xFFC00000], np.uint32)
    found = distinct.distinct(bits.view(np.float32))
    assert found is not None
    # The total order: -NaN, -0, 0, NaN of the lesser payload, NaN of the greater.
    assert found.view(np.uint32).tolist() == [0xFFC00000, 0x80000000, 0x00000000, 0x7FC00000, 0x7FC00001]
    assert distinct.indices(bits.view(np.float32), found).tolist() == [2, 1, 3, 4, 0]


def test_values_that_come_late():
    array = np.zeros(700_000, np.float32)
    array[300_000], array[-1] = 1.0, -2.0
    found = distinct.distinct(array)
    assert found is not None
    assert found.tolist() == [-2.0, 0.0, 1.0]
    assert np.flatnonzero(distinct.indices(array, found) != 1).tolist() == [300_000, 699_999]


def test_as_many_as_a_codebook_holds():
    array = np.random.default_rng(0).permutation(1 << 16).astype(np.float32)
    found = distinct.distinct(array)
    assert found is not None
    np.testing.assert_array_equal(found, np.arange(1 << 16))
    np.testing.assert_array_equal(distinct.indices(array, found), array)
    assert distinct.distinct(np.append(array, np.float32(0.5))) is None


def test_bad_codebooks_are_refused():
    array = np.array([1.0, 2.0], np.float32)
    with pytest.raises(ValueError, match=r"2.0 is not in the codebook"):
        distinct.indices(array, np.array([1.0], np.float32))
    with pytest.raises(ValueError, match="all different"):
        distinct.indices(array, np.array([1.0, 1.0], np.float32))
    with pytest.raises(ValueError, match="dtype float32, got float64"):
        distinct.indices(array, np.array([1.0, 2.0]))
    with pytest.raises(ValueError, match="the codebook is empty"):
        distinct.indices(array, np.zeros(0, np.float32))
    with pytest.raises(ValueError, match="1, 2, 4 or 8 bytes"):
        distinct.distinct(np.zeros(2, np.complex128))
    with pytest.raises(ValueError, match="0 to 65536"):
        distinct.distinct(array, 1 << 17)
