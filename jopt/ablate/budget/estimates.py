"""Estimates: what the trials of a point say of its accuracy, its cost against the control, and its size."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jopt.ablate import intervals
from jopt.ablate.paired import compare
from jopt.ablate.results import Row
from jopt.ablate.summary import bounds_of, by_seed

Key = tuple[Any, ...]
"""A point by its labels alone, in the order of the knobs."""


class Estimate(NamedTuple):
    """A point of the search, as its trials see it. A float is NaN where it is not known.

    Attributes:
      point: knob name to its label.
      n: seeds that finished.
      diverged: seeds that did not.
      accuracy: the mean over the seeds, in [0, 1].
      accuracy_low: the lower end of its t interval.
      accuracy_high: the upper end.
      drop: percentage points below the control: the mean difference, paired by seed.
      drop_low: the lower end of its t interval.
      drop_high: the upper end.
      drop_sd: the standard deviation of the paired differences, in percentage points.
      bytes: of the packed file, the mean over the seeds; see `size_of`.
      most_bytes: of the largest seed.
      latency_ms: the median call of the float network of this shape; None where it was not measured.
      latency_p90_ms: one call in ten was slower.
      pairs: seeds that both the point and the control finished; None: all of the point's.
    """

    point: dict[str, Any]
    n: int
    diverged: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    drop: float
    drop_low: float
    drop_high: float
    drop_sd: float
    bytes: float
    most_bytes: float
    latency_ms: float | None = None
    latency_p90_ms: float | None = None
    pairs: int | None = None

    @property
    def seeds(self) -> int:
        """The seeds that the drop is over: those of which the control finished too."""
        return self.n if self.pairs is None else self.pairs

    @property
    def key(self) -> Key:
        """The labels alone."""
        return tuple(self.point.values())


def size_of(row: Mapping[str, Any]) -> float | None:
    """The bytes of a trial's model: the length of its packed file.

    It is the one place that says what 'bytes' are.
    """
    return row.get("bytes")


def estimate(
    point: Mapping[str, Any],
    trials: Sequence[Row],
    control: Sequence[Row],
    *,
    metric: str,
    confidence: float = 0.95,
    resolution: float = 0.0,
) -> Estimate:
    """What the trials of a point say, its drop against those trials of the control that have the same seeds.

    Args:
      point: knob name to label.
      trials: of the point.
      control: of the control; more seeds than the point's are fine.
      metric: 'accuracy' (test) or 'validation_accuracy'.
      confidence: of the intervals.
      resolution: the step in which the metric moves (`jopt.ablate.paired.resolution`).

    Example:
      >>> def rows(*values):
      ...     same = {"status": "finished", "bytes": 100}
      ...     return [{"seed": i, "accuracy": v} | same for i, v in enumerate(values)]
      >>> found = estimate({"bits": 4}, rows(0.90, 0.93, 0.92), rows(0.92, 0.94, 0.95, 0.96), metric="accuracy")
      >>> round(found.drop, 4), round(found.drop_low, 4), round(found.drop_high, 4)
      (2.0, -0.4841, 4.4841)
    """
    own, other = by_seed(trials, metric), by_seed(control, metric)
    seeds = [seed for seed in own if seed in other]
    found = compare(
        [other[seed] for seed in seeds],
        [own[seed] for seed in seeds],
        confidence=confidence,
        resolution=resolution,
    )
    sizes = [float(size) for row in trials if row["status"] == "finished" and (size := size_of(row)) is not None]
    spread = intervals.t_interval(list(own.values()), confidence, bounds=bounds_of(metric))
    return Estimate(
        dict(point),
        len(own),
        len(trials) - len(own),
        intervals.mean(list(own.values())),
        spread.low,
        spread.high,
        100 * found.difference,
        100 * found.interval.low,
        100 * found.interval.high,
        100 * found.sd,
        intervals.mean(sizes),
        max(sizes, default=math.nan),
        pairs=len(seeds),
    )
