"""The answer to "which should I use?", in plain sentences."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jopt.ablate.budget.config import Search
from jopt.ablate.budget.estimates import Estimate
from jopt.ablate.budget.finalists import Final
from jopt.ablate.budget.limits import AVERAGE, MEETS, Limit, distance
from jopt.ablate.trials import named
from jopt.report import formats
from jopt.report.study import text


def answer(
    limits: Sequence[Limit],
    finals: Sequence[Final],
    best: Final | None,
    other: Final | None,
    front: Sequence[Estimate],
    control: Sequence[Estimate],
    config: Search,
) -> str:
    """What to use, what it costs, and how sure that is.

    Args:
      limits: of the budget.
      finals: the finalists.
      best: the one to use, or None.
      other: the runner-up, or None.
      front: the Pareto set, from the rounds.
      control: the dense point, from the rounds and then from the fresh seeds.
      config: of the search.
    """
    budget = " and ".join(map(str, limits))
    if best is None:
        return _nothing(budget, limits, finals, front)
    e, dense = best.estimate, control[-1]
    name = "the dense control itself" if e.key == dense.key else words(e.point)
    shown = {
        MEETS: f"It meets {budget}.",
        AVERAGE: f"It meets {budget} on average; that it does is not shown by so many seeds.",
    }
    said = [
        f"Use {name}: {size(e.bytes)}, {dense.bytes / e.bytes:.1f} times smaller than the dense control; test "
        f"accuracy {percent(e.accuracy, e.accuracy_low, e.accuracy_high)}, {drop(e)}, over {e.seeds} fresh seeds.",
        shown[best.verdict],
    ]
    if e.latency_ms is not None:
        said.append(
            f"The float network of its shape takes {milliseconds(e.latency_ms)} a call of batch {config.batch} "
            f"here (one call in ten more than {milliseconds(e.latency_p90_ms)})."
        )
    if other is not None:
        said.append(_other(other, e))
    elif len(finals) == 1:
        said.append("No other point was near enough to the budget to be compared.")
    return " ".join(said)


def _other(other: Final, e: Estimate) -> str:
    o = other.estimate
    more = o.bytes - e.bytes
    amount = f"{size(abs(more))} {'more' if more > 0 else 'less'} ({100 * more / e.bytes:+.0f} %)"
    points = o.drop - e.drop
    return (
        f"The runner-up, {words(o.point)}, would take {amount} and be {abs(points):.2f} points "
        f"{'less' if points > 0 else 'more'} accurate; it {_verdict(other)}."
    )


def _verdict(final: Final) -> str:
    if final.verdict == MEETS and not final.reached:
        return "meets the budget by itself, but comes after one that did not, so it is not claimed"
    return final.verdict.replace("it", "the budget", 1)


def _nothing(budget: str, limits: Sequence[Limit], finals: Sequence[Final], front: Sequence[Estimate]) -> str:
    said = f"No point can be recommended under {budget}: "
    if finals:
        said += f"{len(finals)} met it in the rounds, and none of them with fresh seeds."
        front = [final.estimate for final in finals]
    else:
        said += "none that was tried meets it, not even on average."
    if front:
        e = min(front, key=lambda e: distance(limits, e))
        latency = "" if e.latency_ms is None else f", {milliseconds(e.latency_ms)}"
        said += f" The nearest is {words(e.point)}: {size(e.bytes)}{latency}, {drop(e)}, over {e.seeds} seeds."
    return said


def words(point: Mapping[str, Any]) -> str:
    """A point in words.

    Example:
      >>> words({"prune.sparsity": 0.9, "bits": 4, "pattern": "channel"})
      'prune.sparsity = 0.9, bits = 4, pattern = channel'
    """
    return named({name: text(value) for name, value in point.items()})


def size(value: float) -> str:
    """Bytes in words.

    Example:
      >>> size(9120.4)
      '9,120 bytes'
    """
    return f"{formats.integer(round(value))} bytes"


def percent(mean: float, low: float, high: float) -> str:
    """An accuracy with its interval.

    Example:
      >>> percent(0.98, 0.975, 0.985)
      '98.00 % [97.50, 98.50]'
    """
    return f"{100 * mean:.2f} % [{100 * low:.2f}, {100 * high:.2f}]"


def drop(e: Estimate) -> str:
    """How far below the control, in words."""
    side = "below" if e.drop >= 0 else "above"
    return f"{abs(e.drop):.2f} points {side} the control (drop {interval(e)})"


def interval(e: Estimate) -> str:
    """The drop with its interval, in percentage points; without one where it is not known.

    Example:
      >>> interval(Estimate({}, 5, 0, 0.97, 0.96, 0.98, -0.001, -0.25, 0.25, 0.2, 9.0, 9.0))
      '+0.00 [-0.25, +0.25]'
    """
    # Adding 0.0 makes a rounded -0.0 a 0.0.
    mean, low, high = (f"{round(value, 2) + 0.0:+.2f}" for value in (e.drop, e.drop_low, e.drop_high))
    return mean if math.isnan(e.drop_low) else f"{mean} [{low}, {high}]"


def milliseconds(value: float | None) -> str:
    """A latency.

    Example:
      >>> milliseconds(0.01234)
      '0.0123 ms'
    """
    return "-" if value is None else f"{value:.3g} ms"
