"""Converts the results and the summary of an ablation to the study that its report draws."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jopt.ablate.results import Results, TrialRow
from jopt.ablate.summary import grouped
from jopt.config import ConfigError, choice, require
from jopt.measure import Column
from jopt.report import formats
from jopt.report.study import Curve, MeanEstimate, Study, StudyAxis, StudyPoint, StudyTrial, text

_OF_A_TRIAL = ("theoretical_bytes", "bytes")


def study(results: Results, summary: Sequence[TrialRow], confidence: float = 0.95) -> Study:
    """The plain data of a report.

    Args:
      results: of the ablation.
      summary: the result of `jopt.ablate.summary.summarize`, a row for each of `results.points()`, in their order.
      confidence: of the summary's intervals; the curves get the same.

    Raises:
      ConfigError: if the summary is not of these points, or the metric is unknown.
    """
    choice("metric", results.metric, results.outcomes)
    axes = tuple(StudyAxis(a.name, a.values, "; ".join(a.fields)) for a in results.axes)
    points = results.points()
    require(len(summary) == len(points), "summary", len(summary), f"one row for each of the {len(points)} points")
    curves = _by_trial(results.curves)
    metrics = tuple(formats.of_run(column) for column in results.metrics)
    # In Python True == 1, and an axis may have both.
    places = [{(isinstance(v, bool), v): i for i, v in reversed([*enumerate(axis.values)])} for axis in axes]
    study_points = []
    for point, row, trials in zip(points, summary, grouped(results), strict=True):
        labels = {name: row.get(name) for name in point}
        # A summary in another order would put the numbers of one point under the name of another.
        if labels != point:
            raise ConfigError("summary", labels, f"in the order of the grid's points, here {point}")
        values = [point[axis.name] for axis in axes]
        at = tuple(indices[isinstance(value, bool), value] for indices, value in zip(places, values, strict=True))
        study_points.append(_point(results, at, trials, row, curves, confidence))
    # A size that decides is the outcome, and not drawn against itself.
    costs = tuple(column for column in results.columns if column.cost and column != results.decisive)
    return Study(results.name, results.decisive, axes, tuple(study_points), confidence, costs, metrics)


def trial_columns(results: Results) -> list[Column]:
    """The columns that a report shows of each trial: a few of the built-in ones, and all from outside."""
    keys = {*_OF_A_TRIAL, results.validated.key, *(column.key for column in results.metrics)}
    return [column for column in results.columns if column.key in keys or column.origin == "outside"]


def _point(
    results: Results,
    at: tuple[int, ...],
    rows: Sequence[TrialRow],
    row: Mapping[str, Any],
    curves: Mapping[str, list[TrialRow]],
    confidence: float,
) -> StudyPoint:
    metric = results.metric
    columns = trial_columns(results)
    return StudyPoint(
        at=at,
        trials=tuple(_trial(trial, columns) for trial in rows),
        diverged=sum(trial["status"] != "finished" for trial in rows),
        outcome=_estimate(row, f"{metric}_mean", f"{metric}_low", f"{metric}_high"),
        costs={c.key: float(v) for c in results.columns if c.cost and (v := row.get(f"{c.key}_mean")) is not None},
        difference=_estimate(row, "difference", "difference_low", "difference_high"),
        adjusted=_estimate(row, "difference", "difference_low_adjusted", "difference_high_adjusted"),
        verdict=row.get("verdict") or "",
        notes=_notes(row, results.decisive),
        settings=_shared([results.overrides.get(trial["trial"], {}) for trial in rows]),
        curves=_curves(
            [line for trial in rows for line in curves.get(trial["trial"], ())],
            [column.key for column in results.metrics],
            confidence,
        ),
    )


def _trial(row: TrialRow, columns: Sequence[Column]) -> StudyTrial:
    status = row["status"]
    if row.get("diverged_step") is not None:
        # The step tells a bad start from a late collapse.
        status += f" at step {row['diverged_step']}"
    # A trial that diverged has no outcomes.
    numbers = {column: row[column.key] for column in columns if row.get(column.key) is not None}
    return StudyTrial(str(row["trial"]), row["seed"], status, numbers, str(row.get("command") or ""))


def _estimate(row: Mapping[str, Any], mean: str, low: str, high: str) -> MeanEstimate | None:
    if row.get(mean) is None:
        return None
    ends = (row.get(low), row.get(high))
    return MeanEstimate(row[mean]) if None in ends else MeanEstimate(row[mean], *ends)


def _notes(row: Mapping[str, Any], column: Column) -> tuple[str, ...]:
    notes = [row["flags"]] if row.get("flags") else []
    if row.get("p_holm") is not None:
        notes.append(f"p = {row['p_holm']:.3g} (Holm)")
    if row.get("detectable") is not None:
        detectable = row["detectable"]
        size = f"{100 * detectable:.2f} pp" if column.fraction else formats.number(detectable)
        notes.append(f"a difference of {size} could have been shown")
    return tuple(notes)


def _shared(settings: Sequence[Mapping[str, object]]) -> dict[str, str]:
    """The config fields that all trials of a point set to the same value, without the seed."""
    # Only the seed should differ between the trials of a point; another field that does is no setting of the point.
    first = settings[0] if settings else {}
    return {k: text(v) for k, v in first.items() if k != "seed" and all(k in s and s[k] == v for s in settings)}


def _by_trial(rows: Iterable[TrialRow]) -> dict[str, list[TrialRow]]:
    grouped: dict[str, list[TrialRow]] = {}
    for row in rows:
        grouped.setdefault(row["trial"], []).append(row)
    return grouped


def _curves(rows: Sequence[TrialRow], metrics: Sequence[str], confidence: float) -> dict[str, dict[str, Curve]]:
    """Split, outcome, curve. A step that only some trials reached has the mean of these."""
    values: dict[tuple[str, str], dict[int, list[float]]] = {}
    for row in rows:
        for name in metrics:
            value = row.get(name)
            # A trial that diverged is counted where it still had a value.
            if value is not None and math.isfinite(value):
                values.setdefault((row["split"], name), {}).setdefault(row["step"], []).append(float(value))
    curves: dict[str, dict[str, Curve]] = {}
    for (split, name), steps in sorted(values.items()):
        curves.setdefault(split, {})[name] = curve(steps, confidence)
    return curves


def curve(values: Mapping[int, Sequence[float]], confidence: float = 0.95) -> Curve:
    """Means over trials with Student's interval, step by step.

    Args:
      values: optimizer step to one number a trial.
      confidence: of the interval.

    Example:
      >>> means = curve({10: [1.0, 3.0], 20: [5.0]})
      >>> means.step, means.mean, means.most, [round(v, 3) for v in means.high]
      ((10, 20), (2.0, 5.0), (3.0, 5.0), [14.706, 5.0])
    """
    from scipy.special import stdtrit

    steps = sorted(values)
    # One quantile for each number of seeds; there are few, and SciPy's functions are slow one by one.
    quantile = {n: float(stdtrit(n - 1, (1 + confidence) / 2)) for n in {len(v) for v in values.values()} if n > 1}
    columns: list[tuple[float, ...]] = []
    for step in steps:
        reached = values[step]
        n, mean = len(reached), math.fsum(reached) / len(reached)
        # Summed exactly, so that the order of the trials cannot change a bit of the report.
        spread = math.sqrt(math.fsum((x - mean) ** 2 for x in reached) / (n - 1)) if n > 1 else 0.0
        half = quantile[n] * spread / math.sqrt(n) if n > 1 else 0.0
        columns.append((mean, mean - half, mean + half, min(reached), max(reached)))
    mean, low, high, least, most = zip(*columns, strict=True) if columns else ((),) * 5
    counts = tuple(len(values[step]) for step in steps)
    return Curve(tuple(steps), counts, mean, low, high, least, most)
