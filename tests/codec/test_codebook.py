"""Distinct values and codebook indices against numpy.unique, by bit pattern."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jopt.codec.codebook import distinct, indices
from jopt.codec.elements import bits_of

DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16, np.float64, np.int8, np.uint16, np.int64]


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(DTYPES), st.integers(0, 2**32 - 1), st.integers(1, 500), st.integers(0, 9000))
def test_finds_every_bit_pattern_once(dtype, seed, kinds, size):
    rng, dtype = np.random.default_rng(seed), np.dtype(dtype)
    # Any bits at all: NaNs, infinities and subnormals among them.
    values = np.frombuffer(rng.bytes(kinds * dtype.itemsize), dtype)
    array = values[rng.integers(0, kinds, size)]
    codebook = distinct(array)
    assert codebook is not None
    np.testing.assert_array_equal(np.sort(bits_of(codebook)), np.unique(bits_of(array)))
    chosen = indices(array, codebook)
    assert chosen.dtype == (np.uint8 if codebook.size <= 256 else np.uint16)
    np.testing.assert_array_equal(bits_of(codebook[chosen]), bits_of(array))
    assert distinct(array, codebook.size) is not None
    if codebook.size:
        assert distinct(array, codebook.size - 1) is None


def test_zeros_and_nans_differ_by_their_bits():
    bits = np.array([0x00000000, 0x80000000, 0x7FC00000, 0x7FC00001, 0xFFC00000], np.uint32)
    codebook = distinct(bits.view(np.float32))
    assert codebook is not None
    # The total order: -NaN, -0, 0, NaN of the lesser payload, NaN of the greater.
    assert codebook.view(np.uint32).tolist() == [0xFFC00000, 0x80000000, 0x00000000, 0x7FC00000, 0x7FC00001]
    assert indices(bits.view(np.float32), codebook).tolist() == [2, 1, 3, 4, 0]


def test_values_that_come_late():
    array = np.zeros(700_000, np.float32)
    array[300_000], array[-1] = 1.0, -2.0
    codebook = distinct(array)
    assert codebook is not None
    assert codebook.tolist() == [-2.0, 0.0, 1.0]
    assert np.flatnonzero(indices(array, codebook) != 1).tolist() == [300_000, 699_999]


def test_as_many_as_a_codebook_holds():
    array = np.random.default_rng(0).permutation(1 << 16).astype(np.float32)
    codebook = distinct(array)
    assert codebook is not None
    np.testing.assert_array_equal(codebook, np.arange(1 << 16))
    np.testing.assert_array_equal(indices(array, codebook), array)
    assert distinct(np.append(array, np.float32(0.5))) is None


def test_entries_that_share_a_slot_of_the_hash_table_are_found():
    # 60,000 entries in 2^18 slots: about a tenth of them lose their slot to another.
    entries = np.random.default_rng(1).permutation(1 << 16).astype(np.float64)[:60_000]
    np.testing.assert_array_equal(indices(np.tile(entries, 5), entries), np.tile(np.arange(60_000), 5))
    with pytest.raises(ValueError):
        indices(np.append(entries, 0.5), entries)


@pytest.mark.parametrize(
    "codebook",
    [
        np.array([1.0], np.float32),  # 2.0 is missing
        np.array([1.0, 1.0], np.float32),  # equal entries
        np.array([1.0, 2.0]),  # another dtype
        np.zeros(0, np.float32),
    ],
)
def test_bad_codebooks_are_refused(codebook):
    array = np.array([1.0, 2.0], np.float32)
    assert indices(array, np.array([1.0, 2.0], np.float32)).tolist() == [0, 1]
    with pytest.raises(ValueError):
        indices(array, codebook)


def test_elements_of_16_bytes_and_large_limits_are_refused():
    with pytest.raises(ValueError):
        distinct(np.zeros(2, np.complex128))
    with pytest.raises(ValueError):
        distinct(np.zeros(2, np.float32), 1 << 17)
