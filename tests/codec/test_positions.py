"""Gaps by hand, as a round trip over masks, counted before they are made, and damaged."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jopt.codec import CodecError
from jopt.codec.positions import count_runs, from_gaps, to_gaps


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
    codes = to_gaps(np.array([1, 4, 15]), 16, 3)
    assert codes.tolist() == [1, 2, 7, 3]
    assert from_gaps(codes, 3, 16).tolist() == [1, 4, 15]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 2000), st.floats(0, 1), st.integers(1, 16))
def test_masks_come_back(seed, size, density, width):
    positions = np.flatnonzero(np.random.default_rng(seed).random(size) < density)
    codes = to_gaps(positions, size, width)
    assert codes.tolist() == loop(positions.tolist(), width)
    assert codes.dtype == (np.uint8 if width <= 8 else np.uint16)
    np.testing.assert_array_equal(from_gaps(codes, width, size, positions.size), positions)
    runs = count_runs(positions)
    assert int(runs.times.sum()) == positions.size and np.unique(runs.zeros).size == runs.zeros.size
    np.testing.assert_array_equal(runs.codes(width), np.bincount(codes, minlength=1 << width))
    assert runs.fillers(width) == np.count_nonzero(codes == (1 << width) - 1)


def test_one_value_at_the_end_of_a_large_tensor():
    positions = np.array([24_999_999])
    codes = to_gaps(positions, 25_000_000, 8)
    assert codes.size == 24_999_999 // 255 + 1
    assert np.count_nonzero(codes == 255) == codes.size - 1
    assert from_gaps(codes, 8, 25_000_000).tolist() == [24_999_999]
    assert count_runs(positions).zeros.tolist() == [24_999_999]


@pytest.mark.parametrize(
    ("codes", "width", "size", "count"),
    [
        ([4], 2, 10, None),  # a code above the filler
        ([1, 3], 2, 10, None),  # a filler at the end
        ([3, 3, 3, 1], 2, 10, None),  # the position 10 of 10
        ([0, 0, 0], 2, 2, None),
        ([0, 0], 2, 10, 3),  # two positions instead of three
        ([3, 0], 2, 10, 2),
        ([0], 2, 0, None),
    ],
)
def test_damage_is_an_error(codes, width, size, count):
    with pytest.raises(CodecError):
        from_gaps(np.array(codes, np.uint8), width, size, count)


@pytest.mark.parametrize("positions", [[3, 3], [3, 1], [-1, 2], [1, 10], [0.5]])
def test_positions_must_be_integers_that_ascend_within_the_tensor(positions):
    with pytest.raises(ValueError):
        to_gaps(np.array(positions), 10, 3)


@pytest.mark.parametrize("width", [0, 17])
def test_bad_widths_are_refused(width):
    with pytest.raises(ValueError):
        to_gaps(np.array([1]), 10, width)
