"""Limits: parsing a budget, and whether a point is shown to meet it."""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from jopt.ablate.budget.estimates import PointEstimate, worsening
from jopt.ablate.paired import LEAST_SEEDS
from jopt.config import ConfigError, require
from jopt.measure import CLASSIFIER, Column
from jopt.task import Metric, Task

COSTS = ("bytes", "latency_ms")
"""The quantities that are no metric."""

MEETS = "meets it"
AVERAGE = "meets it on average, not shown"
MISSES = "does not meet it"
VERDICTS = (MEETS, AVERAGE, MISSES)
"""From best to worst."""

_BYTES = {"": 1, "B": 1, "kB": 1000, "MB": 1000**2, "KiB": 1024, "MiB": 1024**2}
_LIMIT = re.compile(r"(?P<quantity>\w+)\s*<\s*(?P<number>[\d.]+(?:[eE][+-]?\d+)?)\s*(?P<unit>[A-Za-z]*)")


class Limit(NamedTuple):
    """An upper bound on one quantity.

    Attributes:
      quantity: one of `COSTS`, or how a metric may get worse: see `quantities`.
      value: bytes, milliseconds, percentage points of a share, or units of any other metric.
    """

    quantity: str
    value: float

    def __str__(self) -> str:
        return f"{self.quantity}<{self.value:.10g}"


def quantities(task: Task) -> dict[str, Metric]:
    """How the metrics of a task may get worse: they drop where more is better, and rise where less is.

    Example:
      >>> from jopt.task import NextToken
      >>> list(quantities(NextToken()))
      ['bits_per_byte_rise', 'perplexity_rise', 'accuracy_drop', 'loss_rise']
    """
    task = task.resolved()
    return {quantity_of(metric): metric for metric in (*task.metrics, task.loss_metric)}


def quantity_of(metric: Metric | Column) -> str:
    """How a metric may get worse: `accuracy_drop`, `loss_rise`."""
    return f"{metric.key}_{worsening(metric.better)}"


def limited(limits: Sequence[Limit]) -> str | None:
    """The key of the metric that a budget limits; None if it limits none."""
    named = [limit.quantity for limit in limits if limit.quantity not in COSTS]
    return named[0].rpartition("_")[0] if named else None


def parse(text: str, task: Task | None = CLASSIFIER) -> tuple[Limit, ...]:
    """The limits of a budget, in its order.

    Args:
      text: such as 'accuracy_drop<0.5,bytes<20kB', or 'r2_drop<0.01' for a regression. A share, such as an
        accuracy, is limited in percentage points, any other metric in its units.
      task: whose metrics can be limited, one of them; None: it is not known yet, and so are its metrics.

    Raises:
      ConfigError: for any other text.

    Example:
      >>> parse("accuracy_drop<0.5, bytes<20kB")
      (Limit(quantity='accuracy_drop', value=0.5), Limit(quantity='bytes', value=20000.0))
      >>> parse("accuracy>98")
      Traceback (most recent call last):
      ...
      jopt.config.ConfigError: budget must be limits joined by commas: ..., got 'accuracy>98'
    """
    accepted = _accepted(task or CLASSIFIER)
    limits: list[Limit] = []
    for part in text.split(","):
        match = _LIMIT.fullmatch(part.strip())
        if match is None or not _is_known(match["quantity"], task):
            raise ConfigError("budget", text, accepted)
        quantity, unit = match["quantity"], match["unit"]
        try:
            value = float(match["number"])
        except ValueError as error:
            raise ConfigError("budget", text, accepted) from error
        require(unit in (_BYTES if quantity == "bytes" else ("",)), "budget", text, accepted)
        value *= _BYTES[unit]
        require(math.isfinite(value) and value > 0, "budget", text, f"of positive numbers, in {accepted}")
        repeated = quantity in [limit.quantity for limit in limits]
        require(not repeated, "budget", text, f"one limit for each quantity; {quantity} has two")
        limits.append(Limit(quantity, value))
    several = [limit.quantity for limit in limits if limit.quantity not in COSTS]
    # The rounds are guided by one metric, and the sequence of tests is over one.
    require(len(several) < 2, "budget", text, f"a limit on one metric; it has {' and '.join(several)}")
    return tuple(limits)


def _is_known(quantity: str, task: Task | None) -> bool:
    if quantity in COSTS:
        return True
    return quantity.endswith(("_drop", "_rise")) if task is None else quantity in quantities(task)


def _accepted(task: Task) -> str:
    quantity, deciding = next(iter(quantities(task).items()))
    side = "below" if deciding.better == "higher" else "above"
    amount, unit = (
        ("0.5", "percentage points") if deciding.format == "percent" else ("0.01", deciding.unit or "units")
    )
    others = [name for name in quantities(task) if name not in (quantity, "loss_rise")]
    more = f" or {', '.join(others)}" if others else ""
    units = ", ".join(unit for unit in _BYTES if unit)
    return (
        f"limits joined by commas: '{quantity}<{amount}' ({unit} {side} the dense control){more}, 'bytes<20000' "
        f"(or with a unit: {units}), 'latency_ms<0.05'"
    )


def judge(limit: Limit, estimate: PointEstimate) -> str:
    """Whether a point meets one limit: one of `VERDICTS`.

    | quantity | 'meets it' | 'meets it on average, not shown' |
    | --- | --- | --- |
    | accuracy_drop, loss_rise, ... | the upper end of the interval of the paired drop or rise is below; at least 5
    seeds | the mean is below |
    | bytes | every seed is below | the mean is below |
    | latency_ms | the 90th percentile of the calls is below | the median is below |

    A point with a diverged seed meets no limit.

    Example:
      >>> from jopt.ablate.budget.estimates import PointEstimate, worsening
      >>> point = PointEstimate({"bits": 4}, 5, 0, 0.97, 0.96, 0.98, 0.2, -0.1, 0.5, 0.24, 9000.0, 9100.0)
      >>> judge(Limit("accuracy_drop", 0.6), point), judge(Limit("accuracy_drop", 0.5), point)
      ('meets it', 'meets it on average, not shown')
    """
    e = estimate
    if e.diverged or not e.n:
        return MISSES
    if limit.quantity not in COSTS:
        # A t interval of fewer than five seeds decides nothing (`jopt.ablate.paired`), nor does one of which the
        # control lost seeds.
        decisive = e.seeds >= LEAST_SEEDS and e.seeds == e.n
        bound, mean = e.drop_high if decisive else math.nan, e.drop
    elif limit.quantity == "bytes":
        bound, mean = e.most_bytes, e.bytes
    elif e.latency_ms is None or e.latency_p90_ms is None:
        return MISSES
    else:
        bound, mean = e.latency_p90_ms, e.latency_ms
    # A comparison with NaN, an unknown number, is False.
    return MEETS if bound < limit.value else AVERAGE if mean < limit.value else MISSES


def judge_all(limits: Sequence[Limit], estimate: PointEstimate) -> str:
    """The worst verdict of all limits."""
    return max((judge(limit, estimate) for limit in limits), key=VERDICTS.index)


def distance(limits: Sequence[Limit], estimate: PointEstimate) -> float:
    """The relative distance of a point to the nearest limit. A search should look closely where it is small.

    Example:
      >>> from jopt.ablate.budget.estimates import PointEstimate, worsening
      >>> point = PointEstimate({"bits": 4}, 5, 0, 0.97, 0.96, 0.98, 0.2, -0.1, 0.5, 0.24, 9000.0, 9100.0)
      >>> distance(parse("bytes<8000"), point)
      0.125
    """
    costs = {"bytes": estimate.bytes, "latency_ms": estimate.latency_ms}
    pairs = [(costs.get(limit.quantity, estimate.drop), limit.value) for limit in limits]
    return min((abs(value - limit) / limit for value, limit in pairs if value is not None), default=math.inf)
