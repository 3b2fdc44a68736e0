"""The summary of an ablation: a row a grid point, with intervals and the comparison with the control."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jopt.ablate import intervals
from jopt.ablate.exact import smallest_p
from jopt.ablate.multiple import holm
from jopt.ablate.paired import LEAST_SEEDS, Comparison, compare, resolution, verdict
from jopt.ablate.results import OUTCOMES, Results, Row
from jopt.config import ConfigError, choice, require
from jopt.measure import columns_of

HIGHER_IS_BETTER = tuple(column.key for column in columns_of("trial") if column.better == "higher")
"""Of `OUTCOMES`. Of the others, losses and sizes, less is better."""

SHARES = tuple(column.key for column in columns_of("trial") if column.fraction)
"""Of `OUTCOMES`, those that lie in [0, 1]."""

_AGAINST = (
    "difference",
    "difference_low",
    "difference_high",
    "difference_low_adjusted",
    "difference_high_adjusted",
    "p_t",
    "p_exact",
    "p_wilcoxon",
    "p_holm",
    "detectable",
    "verdict",
)


def columns(axes: Sequence[str], metric: str = "accuracy", outcomes: Sequence[str] = OUTCOMES) -> list[str]:
    """The columns of `summary.csv`, in order.

    Args:
      axes: the names of the axes, the seed left out.
      metric: the outcome that decides.
      outcomes: the keys of the columns of trials.

    Raises:
      ConfigError: for an axis with the name of another column, or an unknown metric.

    Example:
      >>> columns(["bits"])[:6]
      ['bits', 'n', 'diverged', 'accuracy_mean', 'accuracy_sd', 'accuracy_low']
    """
    choice("metric", metric, outcomes)
    own = ["n", "diverged"]
    for name in (metric, *(name for name in outcomes if name != metric)):
        own += [f"{name}_mean", f"{name}_sd"]
        if name == metric:
            own += [
                f"{name}_{part}" for part in ("low", "high", "boot_low", "boot_high", "iqm", "iqm_low", "iqm_high")
            ]
    own += [*_AGAINST, "flags"]
    for name in axes:
        require(
            name not in own, f"the axis {name!r}", name, "named otherwise: the summary has a column of this name"
        )
    return [*axes, *own]


def summarize(results: Results, confidence: float = 0.95, comparisons: int | None = None) -> list[Row]:
    """The rows of `summary.csv`, one a grid point, in the grid's order.

    Means are over the finished trials. Diverged ones are counted and flagged; their point is judged 'diverged', for
    the seeds that are left are not a fair sample of it. The comparison with the control is paired by the seeds that
    both finished; its adjusted interval and `p_holm` count all the points that have a control and are none.

    Args:
      results: of the ablation.
      confidence: of all intervals, in [0.5, 1).
      comparisons: how many the adjustment counts, where there are more than those with the control.

    Returns:
      Rows of `columns(...)`; None where a number is not known. `docs/statistics.md` explains each column.

    Raises:
      ConfigError: for a control that no point of the grid matches, or an axis with the name of another column.
    """
    intervals.check_confidence(confidence)
    header = columns([axis.name for axis in results.axes], results.metric, results.outcomes)
    points = results.points()
    controls = control_of(results)
    made = sum(control not in (None, index) for index, control in enumerate(controls))
    planned = max(made, comparisons or 0)
    step = resolution(values_of(results, results.metric))
    trials_of = grouped(results)
    rows, found = [], []
    for point, trials, control in zip(points, trials_of, controls, strict=True):
        rows.append({**point, **_alone(trials, results.metric, confidence, results.outcomes)})
        other = None if control is None else trials_of[control]
        found.append(None if other is None else _compare(trials, other, results.metric, confidence, planned, step))
    adjusted = holm(
        [
            math.nan if c is None or control == index else c.p_t
            for index, (c, control) in enumerate(zip(found, controls, strict=True))
        ],
        planned,
    )
    for index, row in enumerate(rows):
        control = controls[index]
        other = None if control in (None, index) else rows[control]
        comparison = found[index] if other is not None else None
        row |= _against(comparison, adjusted[index])
        row["verdict"] = _judge(row, other, comparison, results, control == index)
        row["flags"] = "; ".join(_flags(row, other, comparison, results, confidence))
    return [{name: row[name] for name in header} for row in rows]


def control_of(results: Results) -> list[int | None]:
    """For each point the place of the point that it is compared with: its own for a control, None for none.

    Raises:
      ConfigError: if a control is named, and no point of the grid is one.
    """
    points = results.points()
    if results.control is None:
        return [None] * len(points)
    places = {tuple(point.values()): index for index, point in enumerate(points)}
    found = [places.get(tuple({**point, **results.control}.values())) for point in points]
    if all(index is None for index in found):
        raise ConfigError(
            "control", results.control, "a point of the grid, or the values that some of its points have"
        )
    return found


def grouped(results: Results) -> list[list[Row]]:
    """The trials of each point, by seed, in the order of `results.points()`."""
    found: dict[tuple, list[Row]] = {}
    for row in results.trials:
        found.setdefault(tuple(row[axis.name] for axis in results.axes), []).append(row)
    return [sorted(rows, key=lambda row: row["seed"]) for rows in found.values()]


def by_seed(trials: Iterable[Mapping[str, Any]], name: str) -> dict[int, float]:
    """An outcome of the trials that finished, and have it, by seed."""
    found = ((row["seed"], _outcome(row, name)) for row in trials)
    return {seed: value for seed, value in found if value is not None}


def values_of(results: Results, name: str) -> list[float]:
    """All values of an outcome in a grid."""
    return [value for row in results.trials for value in [_outcome(row, name)] if value is not None]


def bounds_of(metric: str) -> tuple[float, float]:
    """The smallest and the largest value that an outcome can have, where they are known.

    Example:
      >>> bounds_of("accuracy"), bounds_of("loss")
      ((0.0, 1.0), (-inf, inf))
    """
    return (0.0, 1.0) if metric in SHARES else (-math.inf, math.inf)


def _outcome(row: Mapping[str, Any], name: str) -> float | None:
    value = row.get(name)
    if row["status"] != "finished" or value is None or not math.isfinite(value):
        return None
    return float(value)


def _alone(trials: Sequence[Row], metric: str, confidence: float, outcomes: Sequence[str]) -> Row:
    row: Row = {
        "n": sum(trial["status"] == "finished" for trial in trials),
        "diverged": sum(trial["status"] != "finished" for trial in trials),
    }
    for name in outcomes:
        values = list(by_seed(trials, name).values())
        row[f"{name}_mean"] = _known(intervals.mean(values))
        row[f"{name}_sd"] = _known(intervals.sd(values))
        if name != metric:
            continue
        row[f"{name}_iqm"] = _known(intervals.interquartile_mean(values))
        for prefix, interval in (
            ("", intervals.t_interval(values, confidence, bounds=bounds_of(metric))),
            ("boot_", intervals.bootstrap_interval(values, confidence)),
            ("iqm_", intervals.bootstrap_interval(values, confidence, "interquartile_mean")),
        ):
            row |= {f"{name}_{prefix}{end}": _known(value) for end, value in interval._asdict().items()}
    return row


def _compare(
    trials: Sequence[Row], control: Sequence[Row], metric: str, confidence: float, planned: int, step: float
) -> Comparison:
    own, other = by_seed(trials, metric), by_seed(control, metric)
    seeds = [seed for seed in own if seed in other]
    pair = ([values[seed] for seed in seeds] for values in (own, other))
    return compare(*pair, confidence=confidence, comparisons=max(planned, 1), resolution=step)


def _against(comparison: Comparison | None, p_holm: float) -> Row:
    if comparison is None:
        return dict.fromkeys(_AGAINST)
    numbers = {
        "difference": comparison.difference,
        "difference_low": comparison.interval.low,
        "difference_high": comparison.interval.high,
        "difference_low_adjusted": comparison.adjusted.low,
        "difference_high_adjusted": comparison.adjusted.high,
        "p_t": comparison.p_t,
        "p_exact": comparison.p_exact,
        "p_wilcoxon": comparison.p_wilcoxon,
        "p_holm": p_holm,
        # Without any spread, nothing is known of what could have been shown.
        "detectable": comparison.detectable or math.nan,
    }
    return {name: _known(value) for name, value in numbers.items()} | {"verdict": None}


def _judge(
    row: Row, control: Row | None, comparison: Comparison | None, results: Results, is_control: bool
) -> str | None:
    if is_control:
        return "control"
    if row["diverged"]:
        return "diverged"
    if comparison is None or control is None:
        return None
    found = verdict(comparison, results.decisive.better == "higher")
    # A control that lost seeds is no longer the control that was asked for.
    whole = not control["diverged"] and comparison.n == row["n"] == control["n"]
    return found if whole or found == "too few seeds" else "undecided"


def _flags(
    row: Row, control: Row | None, comparison: Comparison | None, results: Results, confidence: float
) -> list[str]:
    flags = []
    if row["n"] < LEAST_SEEDS:
        flags.append(f"n < {LEAST_SEEDS}")
    if row["diverged"]:
        flags.append(f"{row['diverged']} diverged")
    if row["verdict"] is None and results.control is not None:
        flags.append("no control")
    if comparison is None or control is None:
        return flags
    if control["diverged"]:
        flags.append(f"control: {control['diverged']} diverged")
    if not comparison.n == row["n"] == control["n"]:
        flags.append(f"{comparison.n} pairs")
    if smallest_p(comparison.n) > 1 - confidence:
        flags.append(f"exact p >= {smallest_p(comparison.n):g}")
    if comparison.no_spread:
        flags.append("no spread")
    return flags


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
