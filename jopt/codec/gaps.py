"""Positions of what is not zero, as the zeros between.

Han, Mao and Dally 2016 (Deep Compression), section 2, put a zero of its own among the values where a distance
does not fit, so that a filler costs a gap and a value. Here the largest code is kept for it: it says
`2**width - 1` zeros and no value, and a filler costs a gap alone.
"""

import numpy as np

from jopt.codec.error import CodecError

_DENSE = 1 << 20


def runs(positions: np.ndarray, size: int) -> np.ndarray:
    """Zeros before each position since the one before.

    Example:
      >>> runs(np.array([2, 3, 9]), 12)
      array([2, 0, 5])
    """
    positions = np.asarray(positions)
    if positions.ndim != 1 or positions.dtype.kind not in "iu":
        raise ValueError(f"positions must be a vector of integers, got {positions.dtype}, {positions.shape}")
    zeros = np.diff(positions.astype(np.int64, copy=False), prepend=-1)
    zeros -= 1
    if zeros.size and (zeros.min() < 0 or positions[-1] >= size):
        raise ValueError(f"positions must ascend from 0 and stay below {size}")
    return zeros


def tally(runs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The runs that occur, ascending, and how often each does.

    Example:
      >>> tally(np.array([2, 0, 5, 2]))
      (array([0, 2, 5]), array([1, 2, 1]))
    """
    if runs.size and int(runs.max()) < _DENSE:
        often = np.bincount(runs)
        occur = np.flatnonzero(often)
        return occur, often[occur]
    return np.unique(runs, return_counts=True)


def counts(runs: np.ndarray, width: int, often: np.ndarray | None = None) -> np.ndarray:
    """How often each gap code occurs; the last is the filler. Prices a width without making its gaps.

    Args:
      runs: (n,) zeros before each value, or those of a tally.
      width: bits of a gap, 1 to 16.
      often: (n,) of a tally; None: once each.

    Returns:
      (2^width,) int64 counts.

    Example:
      >>> counts(np.array([2, 0, 5]), 2)  # 2, 0, and 5 as 3 + 2
      array([1, 0, 2, 1])
      >>> counts(np.array([0, 2, 5]), 2, np.array([10, 20, 30]))
      array([10,  0, 50, 30])
    """
    filler = _filler(width)
    weight = np.ones(runs.size, np.int64) if often is None else often
    fillers = runs // filler
    out = np.bincount(runs - fillers * filler, weight, filler + 1).astype(np.int64)
    out[filler] = np.dot(fillers, weight)
    return out


def split(positions: np.ndarray, size: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions to gap codes.

    A run of z zeros before a value is z // F times the filler F = 2^width - 1 and then z mod F. What follows the
    last value is not coded: the size says it.

    Args:
      positions: (n,) integers, ascending, below `size`.
      size: elements of the tensor.
      width: bits of a gap, 1 to 16.

    Returns:
      (m,) uint8 or uint16 codes, and (m,) bool: which of them are fillers.

    Raises:
      ValueError: if the positions do not ascend within the tensor, or the width is out of range.

    Example:
      >>> split(np.array([2, 3, 9]), 12, 2)
      (array([2, 0, 3, 2], dtype=uint8), array([False, False,  True, False]))
    """
    filler = _filler(width)
    dtype = np.uint8 if width <= 8 else np.uint16
    zeros = runs(positions, size)
    if not zeros.size or zeros.max() < filler:
        return zeros.astype(dtype), np.zeros(zeros.size, bool)
    fillers = zeros // filler
    ends = np.cumsum(fillers + 1) - 1
    codes = np.full(int(ends[-1]) + 1, filler, dtype)
    codes[ends] = zeros - fillers * filler
    return codes, codes == filler


def join(gaps: np.ndarray, width: int, size: int, count: int | None = None) -> np.ndarray:
    """Gap codes to positions.

    Args:
      gaps: (m,) codes as `split` gives them.
      width: bits of a gap, 1 to 16.
      size: elements of the tensor.
      count: number of positions there must be, where it is known.

    Returns:
      (n,) int64 positions, ascending.

    Raises:
      CodecError: if a code is above the filler, the last code is a filler, a position lies outside the tensor, or
        there are not `count` of them.

    Example:
      >>> join(np.array([2, 0, 3, 2], np.uint8), 2, 12)
      array([2, 3, 9])
    """
    filler = _filler(width)
    gaps = np.asarray(gaps)
    if gaps.size and int(gaps.max()) > filler:
        raise CodecError(f"a gap of {width} bits must lie below {filler + 1}, got {int(gaps.max())}")
    real = gaps != filler
    ahead = np.cumsum(gaps, dtype=np.int64)
    if gaps.size and not real[-1]:
        raise CodecError("the last gap must not be a filler")
    if not real.all():
        ahead = ahead[real]
    positions = ahead
    positions += np.arange(positions.size)
    if count is not None and positions.size != count:
        raise CodecError(f"{count} values need as many gaps, got {positions.size}")
    if positions.size and positions[-1] >= size:
        raise CodecError(f"a position must lie below {size}, got {positions[-1]}")
    return positions


def _filler(width: int) -> int:
    if not 1 <= width <= 16:
        raise ValueError(f"the width of a gap must lie in 1 to 16, got {width}")
    return (1 << width) - 1
