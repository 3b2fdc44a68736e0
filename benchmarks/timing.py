"""The timing loop that every suite uses: contenders in turn, in one process, with medians and spread."""

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np


class MissingPackageError(ImportError):
    """A contender needs a package that is not installed."""


@dataclasses.dataclass(frozen=True)
class Options:
    """The command line's options, shared by all suites.

    Attributes:
      repeats: rounds of each comparison.
      seconds: how long a contender works in each round.
      cases: suites `train` and `matmul` measure only cases whose name contains this.
      runs: runs of `experiments.train` with a cold, and with a warm compilation cache.
      sample: trials of the grid that suite `ablate` also runs one at a time.
      grids: runs of the whole grid in suite `ablate`.
      matmul_size: rows and columns of the large matrices.
      weights: numbers of weights to choose among in suite `masks`.
      parameters: parameters that suite `codec` writes and reads.
      torch, qwix: whether these contenders run.
    """

    repeats: int = 12
    seconds: float = 0.3
    cases: str = ""
    runs: int = 5
    sample: int = 5
    grids: int = 2
    matmul_size: int = 2048
    weights: Sequence[int] = (50_000, 1_000_000, 25_000_000)
    parameters: int = 25_000_000
    torch: bool = True
    qwix: bool = True

    def fewer(self, repeats: int, seconds: float = 1) -> "Options":
        """The same with the rounds and the time of a round divided by these."""
        return dataclasses.replace(self, repeats=max(1, self.repeats // repeats), seconds=self.seconds / seconds)


class Target(NamedTuple):
    """What a median should reach: `relation` is '≥' or '≤'."""

    relation: str
    limit: float


def at_least(limit: float | None) -> Target | None:
    """A target from below, or None if there is no limit."""
    return None if limit is None else Target("≥", limit)


def at_most(limit: float | None) -> Target | None:
    """A target from above, or None if there is no limit."""
    return None if limit is None else Target("≤", limit)


class Spread(NamedTuple):
    """A measured number: its median over the rounds, and the range of the middle 80 % of them.

    Attributes:
      median, p10, p90: of the rounds.
      target: what the median should reach, or None.
      met: whether it does, or None.
    """

    median: float
    p10: float
    p90: float
    target: Target | None = None
    met: bool | None = None


Value = Spread | int | float | str | None


class Row(NamedTuple):
    """One contender in one case: a line of a table and an object in the JSON.

    Attributes:
      case: what is measured.
      contender: who does it.
      values: column (a key of `output.COLUMNS`) to the number.
    """

    case: str
    contender: str
    values: dict[str, Value]


Work = Callable[[], int]
"""Does some units of work, waits for them, and returns how many they were."""


def spread(values: Sequence[float] | np.ndarray, target: Target | None = None) -> Spread:
    """Median, 10th and 90th percentile.

    Example:
      >>> spread([1.0, 2.0, 3.0], at_most(1.5))
      Spread(median=2.0, p10=1.2, p90=2.8, target=Target(relation='≤', limit=1.5), met=False)
    """
    p10, median, p90 = (float(q) for q in np.quantile(np.asarray(values), (0.1, 0.5, 0.9)))
    met = None if target is None else (median >= target.limit if target.relation == "≥" else median <= target.limit)
    return Spread(median, p10, p90, target, met)


def alternate(contenders: Mapping[str, Work], options: Options) -> dict[str, np.ndarray]:
    """Times every contender once in each round: A, B, C, A, B, C, ...

    Args:
      contenders: name to work. Each is called twice before anything is timed, so compilation is not in the times.
      options: `repeats` and `seconds`.

    Returns:
      Name to float64 [repeats]: seconds for each unit of work.
    """
    calls = {}
    for name, work in contenders.items():
        work()
        start = time.perf_counter()
        work()
        calls[name] = max(1, round(options.seconds / (time.perf_counter() - start)))
    times: dict[str, list[float]] = {name: [] for name in contenders}
    # Turns, not blocks: what slows the machine for a while slows all contenders, and hardly changes a ratio.
    for _ in range(options.repeats):
        for name, work in contenders.items():
            start = time.perf_counter()
            units = sum(work() for _ in range(calls[name]))
            times[name].append((time.perf_counter() - start) / units)
    return {name: np.array(values) for name, values in times.items()}


def compared(
    case: str,
    times: Mapping[str, np.ndarray],
    column: str,
    against: str | Mapping[str, str],
    targets: Mapping[str, Target | None] | None = None,
    *,
    speedup: bool = False,
) -> list[Row]:
    """A row for each contender, with its time and its ratio to a reference.

    Args:
      case: what was measured.
      times: contender to its seconds, one for each round.
      column: of the times.
      against: the reference of all contenders, or contender to reference. References themselves get no ratio.
      targets: of the ratios, by contender.
      speedup: the ratio is the reference's time over the contender's ('times as fast'), not its inverse.
    """
    rows = []
    for name, seconds in times.items():
        reference = against if isinstance(against, str) else against.get(name, name)
        values: dict[str, Value] = {column: spread(seconds)}
        if reference != name:
            # Round by round: times measured one right after the other share the machine's state, medians do not.
            ratios = times[reference] / seconds if speedup else seconds / times[reference]
            target = (targets or {}).get(name)
            values |= {"speedup" if speedup else "ratio": spread(ratios, target), "against": reference}
        rows.append(Row(case, name, values))
    return rows


def once(function: Callable[..., object], *args: object) -> Work:
    """Work of one unit: a call that waits by itself."""

    def work() -> int:
        function(*args)
        return 1

    return work


@contextlib.contextmanager
def one_core() -> Iterator[int | None]:
    """Pins this thread to one processor and yields which, or None where the system cannot."""
    if not hasattr(os, "sched_setaffinity"):
        yield None
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield max(before)
    finally:
        os.sched_setaffinity(0, before)
