"""Limits: parsing a budget, and whether a point is shown to meet it."""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from jopt.ablate.budget.estimates import PointEstimate
from jopt.ablate.paired import LEAST_SEEDS
from jopt.config import ConfigError, require

QUANTITIES = ("accuracy_drop", "bytes", "latency_ms")

MEETS = "meets it"
AVERAGE = "meets it on average, not shown"
MISSES = "does not meet it"
VERDICTS = (MEETS, AVERAGE, MISSES)
"""From best to worst."""

_BYTES = {"": 1, "B": 1, "kB": 1000, "MB": 1000**2, "KiB": 1024, "MiB": 1024**2}
_ACCEPTED = (
    "limits joined by commas: 'accuracy_drop<0.5' (percentage points below the dense control), 'bytes<20000' "
    f"(or with a unit: {', '.join(unit for unit in _BYTES if unit)}), 'latency_ms<0.05'"
)
_LIMIT = re.compile(r"(?P<quantity>\w+)\s*<\s*(?P<number>[\d.]+(?:[eE][+-]?\d+)?)\s*(?P<unit>[A-Za-z]*)")


class Limit(NamedTuple):
    """An upper bound on one quantity.

    Attributes:
      quantity: one of `QUANTITIES`.
      value: percentage points, bytes, or milliseconds.
    """

    quantity: str
    value: float

    def __str__(self) -> str:
        return f"{self.quantity}<{self.value:.10g}"


def parse(text: str) -> tuple[Limit, ...]:
    """The limits of a budget, in its order.

    Args:
      text: such as 'accuracy_drop<0.5,bytes<20kB'.

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
    limits: list[Limit] = []
    for part in text.split(","):
        match = _LIMIT.fullmatch(part.strip())
        if match is None or match["quantity"] not in QUANTITIES:
            raise ConfigError("budget", text, _ACCEPTED)
        quantity, unit = match["quantity"], match["unit"]
        try:
            value = float(match["number"])
        except ValueError as error:
            raise ConfigError("budget", text, _ACCEPTED) from error
        require(unit in (_BYTES if quantity == "bytes" else ("",)), "budget", text, _ACCEPTED)
        value *= _BYTES[unit]
        require(math.isfinite(value) and value > 0, "budget", text, f"of positive numbers, in {_ACCEPTED}")
        repeated = quantity in [limit.quantity for limit in limits]
        require(not repeated, "budget", text, f"one limit for each quantity; {quantity} has two")
        limits.append(Limit(quantity, value))
    return tuple(limits)


def judge(limit: Limit, estimate: PointEstimate) -> str:
    """Whether a point meets one limit: one of `VERDICTS`.

    | quantity | 'meets it' | 'meets it on average, not shown' |
    | --- | --- | --- |
    | accuracy_drop | the upper end of the interval of the paired drop is below; at least 5 seeds | the mean is
    below |
    | bytes | every seed is below | the mean is below |
    | latency_ms | the 90th percentile of the calls is below | the median is below |

    A point with a diverged seed meets no limit.

    Example:
      >>> from jopt.ablate.budget.estimates import PointEstimate
      >>> point = PointEstimate({"bits": 4}, 5, 0, 0.97, 0.96, 0.98, 0.2, -0.1, 0.5, 0.24, 9000.0, 9100.0)
      >>> judge(Limit("accuracy_drop", 0.6), point), judge(Limit("accuracy_drop", 0.5), point)
      ('meets it', 'meets it on average, not shown')
    """
    e = estimate
    if e.diverged or not e.n:
        return MISSES
    if limit.quantity == "accuracy_drop":
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
      >>> from jopt.ablate.budget.estimates import PointEstimate
      >>> point = PointEstimate({"bits": 4}, 5, 0, 0.97, 0.96, 0.98, 0.2, -0.1, 0.5, 0.24, 9000.0, 9100.0)
      >>> distance(parse("bytes<8000"), point)
      0.125
    """
    values = {"accuracy_drop": estimate.drop, "bytes": estimate.bytes, "latency_ms": estimate.latency_ms}
    pairs = [(values[limit.quantity], limit.value) for limit in limits]
    return min((abs(value - limit) / limit for value, limit in pairs if value is not None), default=math.inf)
