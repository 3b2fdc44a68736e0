"""Chooses the shortest of several ways to write the same, building as few of them as possible."""

from collections.abc import Callable, Sequence
from typing import NamedTuple


class Candidate(NamedTuple):
    """A way to write something.

    Attributes:
      least: bytes it takes at least; most often exactly.
      build: gives the bytes.
    """

    least: int
    build: Callable[[], bytes]


def shortest(candidates: Sequence[Candidate]) -> bytes:
    """The bytes of the candidate with the fewest; of equals the first, by its least size and then in order.

    Example:
      >>> shortest([Candidate(3, lambda: b"abc"), Candidate(1, lambda: b"12345"), Candidate(4, lambda: 1 / 0)])
      b'abc'
    """
    best: bytes | None = None
    for candidate in sorted(candidates, key=lambda c: c.least):
        if best is not None and len(best) <= candidate.least:
            break
        built = candidate.build()
        if best is None or len(built) < len(best):
            best = built
    assert best is not None, "there must be a candidate"
    return best


def least(candidates: Sequence[Candidate]) -> int:
    """A bound from below for the length of `shortest`."""
    return min(candidate.least for candidate in candidates)
