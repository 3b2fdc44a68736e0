"""Limits: what a budget says, and whether a point is shown to keep to it."""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from jopt.ablate.budget.estimates import Estimate
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
    """One quantity, and what it must stay below.

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
      ConfigError: for anything else, naming the text and what is accepted.

    Example:
      >>> parse("accuracy_drop<0.5, bytes<20kB")
      (Limit(quantity='accuracy_drop', value=0.5), Limit(quantity='bytes', value=20000.0))
      >>> parse("accuracy>98")
      Traceback (most recent call last):
      ...
      jopt.config.ConfigError: budget must be limits joined by commas: ..., got 'accuracy>98'
    """
    found: list[Limit] = []
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
        known = [limit.quantity for limit in found]
        require(quantity not in known, "budget", text, f"one limit for each quantity, {quantity} has two")
        found.append(Limit(quantity, value))
    return tuple(found)


def judge(limit: Limit, estimate: Estimate) -> str:
    """Whether a point keeps to one limit: one of `VERDICTS`.

    | quantity | 'meets it' | 'meets it on average, not shown' |
    | --- | --- | --- |
    | accuracy_drop | the upper end of the interval of the paired drop is below; 5 seeds at least | the mean is |
    | bytes | those of every seed are below | the mean is |
    | latency_ms | nine of ten calls took less | the median call did |

    A point of which any seed diverged meets nothing.

    Example:
      >>> from jopt.ablate.budget.estimates import Estimate
      >>> point = Estimate({"bits": 4}, 5, 0, 0.97, 0.96, 0.98, 0.2, -0.1, 0.5, 0.24, 9000.0, 9100.0)
      >>> judge(Limit("accuracy_drop", 0.6), point), judge(Limit("accuracy_drop", 0.5), point)
      ('meets it', 'meets it on average, not shown')
    """
    e = estimate
    if e.diverged or not e.n:
        return MISSES
    if limit.quantity == "accuracy_drop":
        # Below five seeds an interval is no ground to decide anything on (`jopt.ablate.paired`).
        shown = e.seeds >= LEAST_SEEDS and e.seeds == e.n
        return _verdict(e.drop_high if shown else math.nan, e.drop, limit.value)
    if limit.quantity == "bytes":
        return _verdict(e.most_bytes, e.bytes, limit.value)
    if e.latency_ms is None or e.latency_p90_ms is None:
        return MISSES
    return _verdict(e.latency_p90_ms, e.latency_ms, limit.value)


def _verdict(surely: float, likely: float, limit: float) -> str:
    # A comparison with NaN, what is not known, is False.
    return MEETS if surely < limit else AVERAGE if likely < limit else MISSES


def judge_all(limits: Sequence[Limit], estimate: Estimate) -> str:
    """The worst verdict of all limits."""
    return max((judge(limit, estimate) for limit in limits), key=VERDICTS.index)


def distance(limits: Sequence[Limit], estimate: Estimate) -> float:
    """How far a point is from the nearest limit, as a share of the limit: where a search should look closely.

    Example:
      >>> from jopt.ablate.budget.estimates import Estimate
      >>> distance(parse("bytes<8000"), Estimate({}, 5, 0, 0.97, 0.96, 0.98, 0.2, -0.1, 0.5, 0.24, 9000.0, 9100.0))
      0.125
    """
    values = {"accuracy_drop": estimate.drop, "bytes": estimate.bytes, "latency_ms": estimate.latency_ms}
    known = [(values[limit.quantity], limit.value) for limit in limits]
    return min((abs(value - limit) / limit for value, limit in known if value is not None), default=math.inf)
