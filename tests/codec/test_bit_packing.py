"""Packed bits by hand, as a round trip, and damaged."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jopt.codec import CodecError, bits


def by_digits(values, width):
    """The format from texts of 0 and 1: the full low bytes, then the other bits of each from the lowest on."""
    octet_count, extra = divmod(width, 8)
    low = b"".join((int(v) & (1 << 8 * octet_count) - 1).to_bytes(octet_count, "little") for v in values)
    digits = "".join(f"{int(v) >> 8 * octet_count:0{extra}b}"[::-1] for v in values) if extra else ""
    octets = (digits[i : i + 8].ljust(8, "0")[::-1] for i in range(0, len(digits), 8))
    return low + bytes(int(octet, 2) for octet in octets)


def test_hand_packed():
    # 5, 2, 7 in 3 bits from the lowest on: 101 then 010 then 11|1: 0b11010101, 0b1.
    assert bits.pack(np.array([5, 2, 7], np.uint8), 3) == bytes([0b11010101, 0b1])
    # 0x1ABCD in 17 bits: two whole bytes, then one bit.
    assert bits.pack(np.array([0x1ABCD], np.uint32), 17) == bytes([0xCD, 0xAB, 0x01])
    assert bits.pack(np.array([True, False, True]), 1) == b"\x05"


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 32), st.integers(0, 70), st.integers(0, 2**32 - 1))
def test_packs_as_the_format_says_and_comes_back(width, count, seed):
    values = np.random.default_rng(seed).integers(0, 1 << width, count, dtype=np.uint64).astype(np.uint32)
    data = bits.pack(values, width)
    assert data == by_digits(values, width)
    assert len(data) == bits.size(count, width) == -(-count * width // 8)
    unpacked = bits.unpack(data, width, count)
    np.testing.assert_array_equal(unpacked, values)
    assert unpacked.dtype == (np.uint8 if width <= 8 else np.uint16 if width <= 16 else np.uint32)


@pytest.mark.parametrize("width", [3, 4, 11])
def test_more_than_a_block(width):
    values = np.random.default_rng(width).integers(0, 1 << width, 300_001).astype(np.uint16)
    np.testing.assert_array_equal(bits.unpack(bits.pack(values, width), width, values.size), values)


def test_unpacked_arrays_can_be_written_to():
    for width in (1, 3, 8, 12, 16, 32):
        bits.unpack(bits.pack(np.zeros(4, np.uint8), width), width, 4)[0] = 1


@pytest.mark.parametrize("width", range(33))
def test_damage_is_an_error(width):
    data = bits.pack(np.full(5, (1 << width) - 1, np.uint64), width)
    for damaged in (data + b"\0", data[:-1]) if width else (b"\0",):
        with pytest.raises(CodecError):
            bits.unpack(damaged, width, 5)
    if width % 8:
        with pytest.raises(CodecError):
            bits.unpack(data[:-1] + bytes([data[-1] | 0x80]), width, 5)
    with pytest.raises(CodecError):
        bits.unpack(data, width, 10**12 if width else -1)


@pytest.mark.parametrize(
    ("values", "width"),
    [
        (np.array([8], np.uint8), 3),
        (np.array([1], np.uint8), 0),
        (np.array([1]), 3),  # signed
        (np.array([1], np.uint8), 33),
    ],
)
def test_bad_values_are_refused(values, width):
    with pytest.raises(ValueError):
        bits.pack(values, width)
