"""Contenders timed in turn in one process: medians and the spread of the ratios of each round."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Spread(NamedTuple):
    """A measured number: its median over the rounds and the range of the middle 80 % of them."""

    median: float
    p10: float
    p90: float


class Ratio(NamedTuple):
    """How many times as long as jopt the alternative took.

    Attributes:
      against: the alternative's name.
      median, p10, p90: of the ratios of the rounds, each of times measured one right after the other.
      target: what the median should reach, or None.
      met: whether it does, or None.
    """

    against: str
    median: float
    p10: float
    p90: float
    target: float | None
    met: bool | None


def spread(values: Sequence[float] | np.ndarray) -> Spread:
    """Median, 10th and 90th percentile.

    Example:
      >>> spread([1.0, 2.0, 3.0])
      Spread(median=2.0, p10=1.2, p90=2.8)
    """
    p10, median, p90 = (float(q) for q in np.quantile(np.asarray(values), (0.1, 0.5, 0.9)))
    return Spread(median, p10, p90)


def ratio(against: str, theirs: np.ndarray, ours: np.ndarray, target: float | None = None) -> Ratio:
    """Compares two contenders round by round: above 1, ours is the faster.

    Args:
      against: the alternative's name.
      theirs: its seconds, one for each round.
      ours: ours, of the same rounds.
      target: what the median should reach.

    Example:
      >>> ratio("eager", np.array([2.0, 9.0, 4.0]), np.array([1.0, 3.0, 2.0]), target=2.0)
      Ratio(against='eager', median=2.0, p10=2.0, p90=2.8, target=2.0, met=True)
    """
    median, p10, p90 = spread(theirs / ours)
    return Ratio(against, median, p10, p90, target, None if target is None else median >= target)


def alternate(contenders: Mapping[str, Callable[[], int]], rounds: int, seconds: float) -> dict[str, np.ndarray]:
    """Times every contender once in each round: A, B, C, A, B, C, ...

    What slows the machine for a while then slows all of them, and the ratio of a round hardly changes.

    Args:
      contenders: name to a function that does some units of work, waits for them, and returns how many they were.
        Each is called twice before anything is timed, so compilation is not in the times.
      rounds: how often each is timed.
      seconds: how long about a contender works in one round.

    Returns:
      Name to float64 [rounds]: seconds for each unit of work.
    """
    calls = {}
    for name, work in contenders.items():
        work()
        start = time.perf_counter()
        work()
        calls[name] = max(1, round(seconds / (time.perf_counter() - start)))
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, work in contenders.items():
            start = time.perf_counter()
            units = sum(work() for _ in range(calls[name]))
            times[name].append((time.perf_counter() - start) / units)
    return {name: np.array(values) for name, values in times.items()}
