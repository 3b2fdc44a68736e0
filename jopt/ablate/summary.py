"""The summary of an ablation: one row per grid point with intervals and verdict, and the best point."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from jopt.ablate import intervals
from jopt.ablate.paired import LEAST_SEEDS, Comparison, compare, holm, resolution, smallest_p, verdict
from jopt.ablate.results import OUTCOMES, Results, TrialRow
from jopt.config import ConfigError, choice, require
from jopt.measure import Column

_COMPARISON_COLUMNS = (
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
      axes: the names of the axes, without the seed.
      metric: the outcome that decides.
      outcomes: the keys of the columns of trials.

    Raises:
      ConfigError: for an axis with the name of another column, or an unknown metric.

    Example:
      >>> columns(["bits"])[:6]
      ['bits', 'n', 'diverged', 'accuracy_mean', 'accuracy_sd', 'accuracy_low']
    """
    choice("metric", metric, outcomes)
    names = ["n", "diverged"]
    for outcome in (metric, *(name for name in outcomes if name != metric)):
        names += [f"{outcome}_mean", f"{outcome}_sd"]
        if outcome == metric:
            parts = ("low", "high", "boot_low", "boot_high", "iqm", "iqm_low", "iqm_high")
            names += [f"{outcome}_{part}" for part in parts]
    names += [*_COMPARISON_COLUMNS, "flags"]
    for axis in axes:
        require(axis not in names, f"the axis {axis!r}", axis, "a name that is not a column of the summary")
    return [*axes, *names]


def summarize(results: Results, confidence: float = 0.95, comparisons: int | None = None) -> list[TrialRow]:
    """The rows of `summary.csv`, one per grid point, in the grid's order.

    Means are over the finished trials. Diverged trials are counted and flagged, and their point gets the verdict
    'diverged', because the remaining seeds are not a fair sample of it. The comparison with the control is paired
    by the seeds that both finished. Its adjusted interval and `p_holm` count every point that has a control and is
    not one.

    Args:
      results: of the ablation.
      confidence: of all intervals, in [0.5, 1).
      comparisons: the number of comparisons to adjust for, if it is larger than that of the points with a control.

    Returns:
      Rows of `columns(...)`; None for an unknown number. `docs/statistics.md` explains each column.

    Raises:
      ConfigError: for a control that matches no point of the grid, or an axis with the name of another column.
    """
    intervals.check_confidence(confidence)
    header = columns([axis.name for axis in results.axes], results.metric, results.outcomes)
    controls = control_of(results)
    # Decided by the grid, not by what finished: a diverged point must not make the others' intervals narrower.
    family = max(sum(control not in (None, index) for index, control in enumerate(controls)), comparisons or 0)
    # One step for the whole grid, since a few values alone show only a multiple of it.
    step = resolution(values_of(results, results.metric))
    trials_of = grouped(results)
    rows, compared = [], []
    for index, (point, trials, control) in enumerate(zip(results.points(), trials_of, controls, strict=True)):
        rows.append({**point, **_sample_columns(trials, results.decisive, confidence, results.outcomes)})
        if control is None or control == index:
            compared.append(None)
        else:
            pair = paired_values(trials, trials_of[control], results.metric)
            compared.append(compare(*pair, confidence=confidence, comparisons=max(family, 1), resolution=step))
    # Holm's correction needs all p-values together, so the verdicts take a second pass.
    adjusted = holm([math.nan if c is None else c.p_t for c in compared], family)
    for index, (row, comparison, control) in enumerate(zip(rows, compared, controls, strict=True)):
        control_row = None if control in (None, index) else rows[control]
        row |= _comparison_columns(comparison, adjusted[index])
        row["verdict"] = _verdict(row, control_row, comparison, results, control == index)
        row["flags"] = "; ".join(_flags(row, control_row, comparison, results, confidence))
    return [{name: row[name] for name in header} for row in rows]


class Best(NamedTuple):
    """The best point of a grid, and the points not shown to be worse.

    Attributes:
      index: its index in `results.points()`; None if every point has a diverged trial.
      alike: the indices of the points not shown to be worse than it, itself included, best mean first.
      compared: the number of points compared, itself included: those without a diverged trial.
    """

    index: int | None
    alike: tuple[int, ...]
    compared: int


def best(results: Results, confidence: float = 0.95) -> Best:
    """The point with the best mean, and all points that are not shown to be worse.

    Each point is compared with the best one, paired by seed, by `jopt.ablate.paired.verdict`; the adjusted interval
    counts all the other points. The set therefore contains the truly best of the compared points with at least this
    confidence, whichever point had the best mean. A point with a diverged trial is not compared. The best mean
    itself is optimistic, because it is the largest of many.

    Args:
      results: of the ablation.
      confidence: in [0.5, 1).

    Reference:
      Hsu 1981.
    """
    intervals.check_confidence(confidence)
    trials_of = grouped(results)
    values = {index: by_seed(rows, results.metric) for index, rows in enumerate(trials_of)}
    values = {index: by for index, by in values.items() if len(by) == len(trials_of[index])}
    # Points are compared over complete seeds only: a mean over the survivors of divergence is not comparable.
    if not values:
        return Best(None, (), 0)
    higher = results.decisive.better == "higher"
    sign = 1 if higher else -1
    ranked = sorted(values, key=lambda index: (-sign * intervals.mean(list(values[index].values())), index))
    # The index breaks ties, so that the same results always name the same point.
    top = ranked[0]
    step = resolution(value for by in values.values() for value in by.values())

    def worse(index: int) -> bool:
        pair = paired_values(trials_of[index], trials_of[top], results.metric)
        comparison = compare(*pair, confidence=confidence, comparisons=len(values) - 1, resolution=step)
        return verdict(comparison, higher) == "worse"

    alike = tuple(index for index in ranked if index == top or not worse(index))
    return Best(top, alike, len(values))


def control_of(results: Results) -> list[int | None]:
    """For each point the index of its control: its own index for a control, None for a point without one.

    Raises:
      ConfigError: if a control is named and no point of the grid matches it.
    """
    points = results.points()
    if results.control is None:
        return [None] * len(points)
    indices = {tuple(point.values()): index for index, point in enumerate(points)}
    # A control may name some axes only; the others then have the point's own values.
    controls = [indices.get(tuple({**point, **results.control}.values())) for point in points]
    if all(index is None for index in controls):
        raise ConfigError("control", results.control, "a point of the grid, or values that some of its points have")
    return controls


def grouped(results: Results) -> list[list[TrialRow]]:
    """The trials of each point, by seed, in the order of `results.points()`."""
    # A dict keeps the order of first appearance, which is that of `results.points()`.
    by_point: dict[tuple, list[TrialRow]] = {}
    for row in results.trials:
        by_point.setdefault(tuple(row[axis.name] for axis in results.axes), []).append(row)
    # By seed, whatever order the trials ran in: the bootstrap depends on the order of its values.
    return [sorted(rows, key=lambda row: row["seed"]) for rows in by_point.values()]


def by_seed(trials: Iterable[TrialRow], name: str) -> dict[int, float]:
    """Seed to outcome, for the trials that finished and have this outcome."""
    values = ((row["seed"], _outcome(row, name)) for row in trials)
    return {seed: value for seed, value in values if value is not None}


def paired_values(
    trials: Iterable[TrialRow], control: Iterable[TrialRow], name: str
) -> tuple[list[float], list[float]]:
    """The outcomes of two points over the seeds that both finished, in the order of the first one's seeds.

    Example:
      >>> def rows(first, *values):
      ...     return [{"seed": first + i, "status": "finished", "loss": v} for i, v in enumerate(values)]
      >>> paired_values(rows(1, 0.5, 0.6), rows(0, 0.1, 0.2, 0.3, 0.4), "loss")
      ([0.5, 0.6], [0.2, 0.3])
    """
    values, control_values = by_seed(trials, name), by_seed(control, name)
    seeds = [seed for seed in values if seed in control_values]
    return [values[seed] for seed in seeds], [control_values[seed] for seed in seeds]


def values_of(results: Results, name: str) -> list[float]:
    """All values of an outcome in a grid."""
    return [value for row in results.trials for value in [_outcome(row, name)] if value is not None]


def bounds_of(column: Column) -> tuple[float, float]:
    """The smallest and the largest possible value of an outcome; infinite if unknown.

    Example:
      >>> from jopt.measure import columns_of
      >>> [bounds_of(column) for column in columns_of("trial")[:2]]
      [(0.0, 1.0), (-inf, inf)]
    """
    return (0.0, 1.0) if column.fraction else (-math.inf, math.inf)


def _outcome(row: TrialRow, name: str) -> float | None:
    value = row.get(name)
    # A diverged trial may have a last, meaningless value.
    if row["status"] != "finished" or value is None or not math.isfinite(value):
        return None
    return float(value)


def _sample_columns(
    trials: Sequence[TrialRow], decisive: Column, confidence: float, outcomes: Sequence[str]
) -> TrialRow:
    """The columns that need no control."""
    row: TrialRow = {
        "n": sum(trial["status"] == "finished" for trial in trials),
        "diverged": sum(trial["status"] != "finished" for trial in trials),
    }
    for name in outcomes:
        values = list(by_seed(trials, name).values())
        row[f"{name}_mean"] = _finite(intervals.mean(values))
        row[f"{name}_sd"] = _finite(intervals.sd(values))
        # Only the metric that decides gets intervals: two bootstraps for each outcome would dominate a report's
        # time.
        if name != decisive.key:
            continue
        row[f"{name}_iqm"] = _finite(intervals.interquartile_mean(values))
        for prefix, interval in (
            ("", intervals.t_interval(values, confidence, bounds=bounds_of(decisive))),
            ("boot_", intervals.bootstrap_interval(values, confidence)),
            ("iqm_", intervals.bootstrap_interval(values, confidence, "interquartile_mean")),
        ):
            row |= {f"{name}_{prefix}{end}": _finite(value) for end, value in interval._asdict().items()}
    return row


def _comparison_columns(comparison: Comparison | None, p_holm: float) -> TrialRow:
    if comparison is None:
        return dict.fromkeys(_COMPARISON_COLUMNS)
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
        # An sd of 0 gives a detectable difference of 0, which would claim that any effect could be shown.
        "detectable": comparison.detectable or math.nan,
    }
    return {name: _finite(value) for name, value in numbers.items()} | {"verdict": None}


def _verdict(
    row: TrialRow, control: TrialRow | None, comparison: Comparison | None, results: Results, is_control: bool
) -> str | None:
    if is_control:
        return "control"
    if row["diverged"]:
        return "diverged"
    if comparison is None or control is None:
        return None
    by_interval = verdict(comparison, results.decisive.better == "higher")
    # A control that lost seeds is a biased sample of itself, so a difference from it decides nothing.
    complete = not control["diverged"] and comparison.n == row["n"] == control["n"]
    return by_interval if complete or by_interval == "too few seeds" else "undecided"


def _flags(
    row: TrialRow, control: TrialRow | None, comparison: Comparison | None, results: Results, confidence: float
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


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
