"""Estimates of a search's points: metric, drop against the control and bytes; and the Pareto set of them."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jopt.ablate import intervals
from jopt.ablate.paired import compare
from jopt.ablate.pareto import pareto_front
from jopt.ablate.results import TrialRow
from jopt.ablate.space import Value
from jopt.ablate.summary import bounds_of, by_seed, paired_values
from jopt.measure import Column

Key = tuple[Value, ...]
"""The labels of a point, in the order of the knobs."""


class PointEstimate(NamedTuple):
    """What the trials of a point show. A float is NaN if it is unknown.

    Attributes:
      point: knob name to its label.
      n: seeds that finished.
      diverged: seeds that diverged.
      metric: the mean over the seeds.
      metric_low: the lower end of its t interval.
      metric_high: the upper end.
      drop: how much worse than the control: the mean difference, paired by seed, in percentage points of a share
        and in units of any other metric. Of a metric of which less is better it is a rise.
      drop_low: the lower end of its t interval.
      drop_high: the upper end.
      drop_sd: the standard deviation of the paired differences, in the same.
      bytes: of the packed file, the mean over the seeds; see `size_of`.
      most_bytes: of the largest seed.
      latency_ms: the median call of the float network of this shape; None if it was not measured.
      latency_p90_ms: the 90th percentile of the calls.
      pairs: seeds that both the point and the control finished; None: all of the point's.
    """

    point: dict[str, Value]
    n: int
    diverged: int
    metric: float
    metric_low: float
    metric_high: float
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


def worsening(better: str | None) -> str:
    """How a metric gets worse: by a 'drop' where more is better, else by a 'rise'."""
    return "drop" if better == "higher" else "rise"


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
    metric: Column,
    confidence: float = 0.95,
    resolution: float = 0.0,
) -> PointEstimate:
    """The estimate of a point. Its drop is against the trials of the control that have the same seeds.

    Args:
      point: knob name to label.
      trials: of the point.
      control: of the control; it may have more seeds than the point.
      metric: of the test or of the validation part.
      confidence: of the intervals.
      resolution: the step in which the metric moves (`jopt.ablate.paired.resolution`).

    Example:
      >>> def rows(*values):
      ...     return [{"seed": i, "accuracy": v, "status": "finished", "bytes": 100} for i, v in enumerate(values)]
      >>> from jopt.measure import columns_of
      >>> accuracy = columns_of("trial")[0]
      >>> e = estimate({"bits": 4}, rows(0.90, 0.93, 0.92), rows(0.92, 0.94, 0.95, 0.96), metric=accuracy)
      >>> round(e.drop, 4), round(e.drop_low, 4), round(e.drop_high, 4)
      (2.0, -0.4841, 4.4841)
    """
    pair = paired_values(trials, control, metric.key)
    # A drop is the control's number minus the point's, so the control comes first; a rise is the reverse.
    pair = pair[::-1] if metric.better == "higher" else pair
    drop, scale = compare(*pair, confidence=confidence, resolution=resolution), 100 if metric.fraction else 1
    # The metric is over all of the point's seeds, also those that the control lost.
    values = list(by_seed(trials, metric.key).values())
    # A diverged trial may have no packed file.
    sizes = [float(size) for row in trials if row["status"] == "finished" and (size := size_of(row)) is not None]
    interval = intervals.t_interval(values, confidence, bounds=bounds_of(metric))
    return PointEstimate(
        dict(point),
        len(values),
        len(trials) - len(values),
        intervals.mean(values),
        interval.low,
        interval.high,
        scale * drop.difference,
        scale * drop.interval.low,
        scale * drop.interval.high,
        scale * drop.sd,
        intervals.mean(sizes),
        max(sizes, default=math.nan),
        pairs=drop.n,
    )


def pareto(estimates: Sequence[PointEstimate], with_latency: bool = False) -> list[PointEstimate]:
    """The points whose metric no smaller (and, if asked for, faster) point reaches, by rising bytes.

    The metric is compared as the drop against the control, since points differ in their seeds. Points with a
    diverged seed are left out. If no seed of the control finished, no point has a drop and the set is empty.

    Args:
      estimates: of all points.
      with_latency: whether latency is a cost too; all points must then have been measured.
    """
    complete = [e for e in estimates if not e.diverged and math.isfinite(e.drop)]
    # Metrics are float32 numbers: a difference below a thousandth of a point, or of a small drop, is rounding.
    largest = max((abs(e.drop) for e in complete), default=0.0)
    digits = 3 if largest >= 0.1 else 3 - math.floor(math.log10(largest or 1.0))
    costs = [(e.bytes, round(e.drop, digits), *([e.latency_ms or 0.0] if with_latency else [])) for e in complete]
    return [complete[i] for i in pareto_front(costs)]
