"""The answer of a search in plain sentences, and its numbers as text."""

import math
from collections.abc import Mapping, Sequence

from jopt.ablate.budget.config import Search
from jopt.ablate.budget.estimates import PointEstimate, worsening
from jopt.ablate.budget.finalists import Final
from jopt.ablate.budget.limits import AVERAGE, MEETS, Limit, distance
from jopt.ablate.space import Value
from jopt.ablate.trials import named
from jopt.measure import Column
from jopt.report import formats
from jopt.report.study import text


def answer(
    limits: Sequence[Limit],
    finals: Sequence[Final],
    best: Final | None,
    other: Final | None,
    front: Sequence[PointEstimate],
    control: Sequence[PointEstimate],
    config: Search,
) -> str:
    """Which point to use, what it costs, and how certain that is.

    Args:
      limits: of the budget.
      finals: the finalists.
      best: the finalist to use, or None.
      other: the runner-up, or None.
      front: the Pareto set, from the rounds.
      control: the dense point, from the rounds and then from the fresh seeds.
      config: of the search.
    """
    budget = " and ".join(map(str, limits))
    if best is None:
        return _no_recommendation(budget, limits, finals, front, config.tested)
    # The control of the fresh seeds: the same seeds and the same part of the data as the finalist's.
    e, dense, metric = best.estimate, control[-1], config.tested
    name = "the dense control itself" if e.key == dense.key else words(e.point)
    certainty = {
        MEETS: f"It meets {budget}.",
        AVERAGE: f"It meets {budget} on average, which {e.seeds} seeds do not show to be more than chance.",
    }
    sentences = [
        f"Use {name}: {size(e.bytes)}, {dense.bytes / e.bytes:.1f} times smaller than the dense control; "
        f"{metric.label} {value(e, metric)}, {drop(e, metric)}, over {e.seeds} fresh seeds.",
        certainty[best.verdict],
    ]
    if e.latency_ms is not None:
        sentences.append(
            f"The float network of its shape takes {milliseconds(e.latency_ms)} for a call of batch {config.batch} "
            f"on this device (90th percentile {milliseconds(e.latency_p90_ms)})."
        )
    if other is not None:
        sentences.append(_runner_up(other, e, metric))
    elif len(finals) == 1:
        sentences.append("No other point was near enough to the budget to be compared.")
    return " ".join(sentences)


def _runner_up(other: Final, e: PointEstimate, metric: Column) -> str:
    o = other.estimate
    difference, worse = o.bytes - e.bytes, o.drop - e.drop
    amount = f"{size(abs(difference))} {'more' if difference > 0 else 'less'} ({100 * difference / e.bytes:+.0f} %)"
    return f"The runner-up, {words(o.point)}, takes {amount} and {_better(worse, metric)}; it {_verdict(other)}."


def _better(worse: float, metric: Column) -> str:
    if metric.key == "accuracy":
        return f"is {abs(worse):.2f} points {'less' if worse > 0 else 'more'} accurate"
    return f"has a {metric.label} that is {_amount(abs(worse), metric)} {'worse' if worse > 0 else 'better'}"


def _amount(value: float, metric: Column) -> str:
    """A difference of a metric with its unit."""
    return f"{value:.2f} points" if metric.fraction else f"{value:.4g} {metric.unit}".rstrip()


def _verdict(final: Final) -> str:
    if final.verdict == MEETS and not final.reached:
        return "meets the budget by itself, but comes after one that did not, so it is not claimed"
    # The verdicts are written about 'it'; in this sentence 'it' is the runner-up.
    return final.verdict.replace("it", "the budget", 1)


def _no_recommendation(
    budget: str,
    limits: Sequence[Limit],
    finals: Sequence[Final],
    front: Sequence[PointEstimate],
    metric: Column,
) -> str:
    text = f"No point can be recommended under {budget}: "
    if finals:
        text += f"{len(finals)} met it in the rounds, and none of them with fresh seeds."
        front = [final.estimate for final in finals]
    else:
        text += "no point that was tried meets it, not even on average."
    if front:
        # A near miss tells the user how far to relax the budget.
        e = min(front, key=lambda e: distance(limits, e))
        latency = "" if e.latency_ms is None else f", {milliseconds(e.latency_ms)}"
        text += (
            f" The nearest is {words(e.point)}: {size(e.bytes)}{latency}, {drop(e, metric)}, over {e.seeds} seeds."
        )
    return text


def words(point: Mapping[str, Value]) -> str:
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


def value(e: PointEstimate, metric: Column) -> str:
    """The metric with its interval.

    Example:
      >>> from jopt.measure import columns_of
      >>> point = PointEstimate({}, 5, 0, 0.98, 0.975, 0.985, 0.0, 0.0, 0.0, 0.0, 9.0, 9.0)
      >>> value(point, columns_of("trial")[0])
      '98.00 % [97.50, 98.50]'
    """
    if metric.fraction:
        return f"{100 * e.metric:.2f} % [{100 * e.metric_low:.2f}, {100 * e.metric_high:.2f}]"
    ends = (formats.text(metric, end) for end in (e.metric_low, e.metric_high))
    return f"{formats.text(metric, e.metric)} [{', '.join(ends)}]"


def drop(e: PointEstimate, metric: Column) -> str:
    """How much worse than the control a point is, in words."""
    kind = worsening(metric.better)
    side = "below" if (e.drop >= 0) == (kind == "drop") else "above"
    return f"{_amount(abs(e.drop), metric)} {side} the control ({kind} {interval(e, metric)})"


def interval(e: PointEstimate, metric: Column) -> str:
    """The drop with its interval, in percentage points or units; the drop alone if the interval is unknown.

    Example:
      >>> from jopt.measure import columns_of
      >>> point = PointEstimate({}, 5, 0, 0.97, 0.96, 0.98, -0.001, -0.25, 0.25, 0.2, 9.0, 9.0)
      >>> interval(point, columns_of("trial")[0])
      '+0.00 [-0.25, +0.25]'
    """
    # Adding 0.0 turns a rounded -0.0 into 0.0, which prints without a minus sign.
    form, digits = ("+.2f", 2) if metric.fraction else ("+.4g", 12)
    mean, low, high = (format(round(end, digits) + 0.0, form) for end in (e.drop, e.drop_low, e.drop_high))
    return mean if math.isnan(e.drop_low) else f"{mean} [{low}, {high}]"


def milliseconds(value: float | None) -> str:
    """A latency.

    Example:
      >>> milliseconds(0.01234)
      '0.0123 ms'
    """
    return "-" if value is None else f"{value:.3g} ms"
