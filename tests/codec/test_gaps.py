"""Gaps by hand, as a round trip over masks, priced before they are made, and damaged."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jopt.codec import gaps
from jopt.codec.error import CodecError


def loop(positions, width):
    """The format, one zero at a time."""
    filler, codes, before = (1 << width) - 1, [], -1
    for position in positions:
        zeros = position - before - 1
        while zeros >= filler:
            codes.append(filler)
            zeros -= filler
        codes.append(zeros)
        before = position
    return codes


def test_deep_compression_figure_2():
    # Their example: values at 1, 4 and 15 of 16, in 3 bits. They write a zero at 12; here 7 are skipped.
    codes, filler = gaps.split(np.array([1, 4, 15]), 16, 3)
    assert codes.tolist() == [1, 2, 7, 3]
    assert filler.tolist() == [False, False, True, False]
    assert gaps.join(codes, 3, 16).tolist() == [1, 4, 15]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 2000), st.floats(0, 1), st.integers(1, 16))
def test_masks_come_back(seed, size, density, width):
    positions = np.flatnonzero(np.random.default_rng(seed).random(size) < density)
    codes, filler = gaps.split(positions, size, width)
    assert codes.tolist() == loop(positions.tolist(), width)
    assert codes.dtype == (np.uint8 if width <= 8 else np.uint16)
    assert (filler == (codes == (1 << width) - 1)).all()
    np.testing.assert_array_equal(gaps.join(codes, width, size, positions.size), positions)
    zeros = gaps.runs(positions, size)
    expected = np.bincount(codes, minlength=1 << width)
    np.testing.assert_array_equal(gaps.counts(zeros, width), expected)
    distinct, often = gaps.tally(zeros)
    assert int(often.sum()) == zeros.size
    np.testing.assert_array_equal(gaps.counts(distinct, width, often), expected)


def test_one_value_at_the_end_of_a_large_tensor():
    positions = np.array([24_999_999])
    codes, filler = gaps.split(positions, 25_000_000, 8)
    assert codes.size == 24_999_999 // 255 + 1
    assert int(filler.sum()) == codes.size - 1
    assert gaps.join(codes, 8, 25_000_000).tolist() == [24_999_999]
    assert gaps.tally(gaps.runs(positions, 25_000_000))[0].tolist() == [24_999_999]


@pytest.mark.parametrize(
    ("codes", "width", "size", "count", "text"),
    [
        ([4], 2, 10, None, "below 4, got 4"),
        ([1, 3], 2, 10, None, "must not be a filler"),
        ([3, 3, 3, 1], 2, 10, None, "below 10, got 10"),
        ([0, 0, 0], 2, 2, None, "below 2, got 2"),
        ([0, 0], 2, 10, 3, "3 values need as many gaps, got 2"),
        ([3, 0], 2, 10, 2, "2 values need as many gaps, got 1"),
        ([0], 2, 0, None, "below 0, got 0"),
    ],
)
def test_damage_is_an_error(codes, width, size, count, text):
    with pytest.raises(CodecError, match=text):
        gaps.join(np.array(codes, np.uint8), width, size, count)


@pytest.mark.parametrize("positions", [[3, 3], [3, 1], [-1, 2], [1, 10]])
def test_positions_must_ascend_within_the_tensor(positions):
    with pytest.raises(ValueError, match="ascend from 0 and stay below 10"):
        gaps.split(np.array(positions), 10, 3)


def test_bad_widths_are_refused():
    for width in (0, 17):
        with pytest.raises(ValueError, match=f"1 to 16, got {width}"):
            gaps.split(np.array([1]), 10, width)
    with pytest.raises(ValueError, match="vector of integers, got float64"):
        gaps.runs(np.array([0.5]), 10)
