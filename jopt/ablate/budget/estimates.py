"""Estimates of a search's points: accuracy, drop against the control and bytes; and the Pareto set of them."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jopt.ablate import intervals
from jopt.ablate.paired import compare
from jopt.ablate.pareto import pareto_front
from jopt.ablate.results import TrialRow
from jopt.ablate.space import Value
from jopt.ablate.summary import bounds_of, by_seed, paired_values

Key = tuple[Value, ...]
"""The labels of a point, in the order of the knobs."""


class PointEstimate(NamedTuple):
    """What the trials of a point show. A float is NaN if it is unknown.

    Attributes:
      point: knob name to its label.
      n: seeds that finished.
      diverged: seeds that diverged.
      accuracy: the mean over the seeds, in [0, 1].
      accuracy_low: the lower end of its t interval.
      accuracy_high: the upper end.
      drop: percentage points below the control: the mean difference, paired by seed.
      drop_low: the lower end of its t interval.
      drop_high: the upper end.
      drop_sd: the standard deviation of the paired differences, in percentage points.
      bytes: of the packed file, the mean over the seeds; see `size_of`.
      most_bytes: of the largest seed.
      latency_ms: the median call of the float network of this shape; None if it was not measured.
      latency_p90_ms: the 90th percentile of the calls.
      pairs: seeds that both the point and the control finished; None: all of the point's.
    """

    point: dict[str, Value]
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
        """The seeds that the drop is over: those that the control finished too."""
        return self.n if self.pairs is None else self.pairs

    @property
    def key(self) -> Key:
        """The labels alone."""
        return tuple(self.point.values())


Estimate = PointEstimate
"""The former name, which the display imports."""


def size_of(row: TrialRow) -> float | None:
    """The bytes of a trial's model: the length of its packed file.

    No other function defines what 'bytes' are.
    """
    return row.get("bytes")


def estimate(
    point: Mapping[str, Value],
    trials: Sequence[TrialRow],
    control: Sequence[TrialRow],
    *,
    metric: str,
    confidence: float = 0.95,
    resolution: float = 0.0,
) -> PointEstimate:
    """The estimate of a point. Its drop is against the trials of the control that have the same seeds.

    Args:
      point: knob name to label.
      trials: of the point.
      control: of the control; it may have more seeds than the point.
      metric: 'accuracy' (test) or 'validation_accuracy'.
      confidence: of the intervals.
      resolution: the step in which the metric moves (`jopt.ablate.paired.resolution`).

    Example:
      >>> def rows(*values):
      ...     return [{"seed": i, "accuracy": v, "status": "finished", "bytes": 100} for i, v in enumerate(values)]
      >>> e = estimate({"bits": 4}, rows(0.90, 0.93, 0.92), rows(0.92, 0.94, 0.95, 0.96), metric="accuracy")
      >>> round(e.drop, 4), round(e.drop_low, 4), round(e.drop_high, 4)
      (2.0, -0.4841, 4.4841)
    """
    accuracies, control_accuracies = paired_values(trials, control, metric)
    # The drop is the control's accuracy minus the point's, so the control comes first.
    drop = compare(control_accuracies, accuracies, confidence=confidence, resolution=resolution)
    # The accuracy is over all of the point's seeds, also those that the control lost.
    values = list(by_seed(trials, metric).values())
    # A diverged trial may have no packed file.
    sizes = [float(size) for row in trials if row["status"] == "finished" and (size := size_of(row)) is not None]
    accuracy = intervals.t_interval(values, confidence, bounds=bounds_of(metric))
    return PointEstimate(
        dict(point),
        len(values),
        len(trials) - len(values),
        intervals.mean(values),
        accuracy.low,
        accuracy.high,
        100 * drop.difference,
        100 * drop.interval.low,
        100 * drop.interval.high,
        100 * drop.sd,
        intervals.mean(sizes),
        max(sizes, default=math.nan),
        pairs=drop.n,
    )


def pareto(estimates: Sequence[PointEstimate], with_latency: bool = False) -> list[PointEstimate]:
    """The points whose accuracy no smaller (and, if asked for, faster) point reaches, by rising bytes.

    Accuracy is compared as the drop against the control, since points differ in their seeds. Points with a diverged
    seed are left out. If no seed of the control finished, no point has a drop and the set is empty.

    Args:
      estimates: of all points.
      with_latency: whether latency is a cost too; all points must then have been measured.
    """
    complete = [e for e in estimates if not e.diverged and math.isfinite(e.drop)]
    # Accuracies are float32 numbers: a difference below a thousandth of a point is rounding.
    costs = [(e.bytes, round(e.drop, 3), *([e.latency_ms or 0.0] if with_latency else [])) for e in complete]
    return [complete[i] for i in pareto_front(costs)]
