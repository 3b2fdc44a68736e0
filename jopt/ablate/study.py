"""From results and their summary to what a report draws."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jopt.ablate.results import OUTCOMES, Results, Row
from jopt.ablate.summary import HIGHER_IS_BETTER
from jopt.config import ConfigError, choice, require
from jopt.report import formats
from jopt.report.interactive.data import SIZES, Axis, Curve, Estimate, Point, Study, Trial, text

_RESULT = ("accuracy", "loss", "validation_accuracy", "theoretical_bytes", "bytes")


def study(results: Results, summary: Sequence[Row], confidence: float = 0.95) -> Study:
    """The plain data of a report.

    Args:
      results: of the ablation.
      summary: what `jopt.ablate.summary.summarize` made of it, one row a point, in the order of `results.points()`.
      confidence: of the summary's intervals; the curves get the same.

    Raises:
      ConfigError: if the summary is not of these points, or the metric is unknown.
    """
    choice("metric", results.metric, OUTCOMES)
    axes = tuple(Axis(a.name, a.values, "; ".join(a.fields)) for a in results.axes)
    points = results.points()
    require(len(summary) == len(points), "summary", len(summary), f"one row for each of the {len(points)} points")
    curves = _by_trial(results.curves)
    made = []
    for point, row in zip(points, summary, strict=True):
        found = {name: row.get(name) for name in point}
        if found != point:
            raise ConfigError("summary", found, f"in the order of the grid's points, here {point}")
        at = tuple(axis.index(point[axis.name]) for axis in axes)
        made.append(_point(results, at, results.at(point), row, curves, confidence))
    return Study(results.name, results.metric, axes, tuple(made), results.metric in HIGHER_IS_BETTER, confidence)


def _point(
    results: Results,
    at: tuple[int, ...],
    rows: Sequence[Row],
    row: Mapping[str, Any],
    curves: Mapping[str, list[Row]],
    confidence: float,
) -> Point:
    metric = results.metric
    return Point(
        at=at,
        trials=tuple(_trial(own) for own in rows),
        diverged=sum(own["status"] != "finished" for own in rows),
        outcome=_estimate(row, f"{metric}_mean", f"{metric}_low", f"{metric}_high"),
        sizes={key: float(v) for key in SIZES if key != metric and (v := row.get(f"{key}_mean")) is not None},
        difference=_estimate(row, "difference", "difference_low", "difference_high"),
        adjusted=_estimate(row, "difference", "difference_low_adjusted", "difference_high_adjusted"),
        verdict=row.get("verdict") or "",
        notes=_notes(row, metric),
        settings=_shared([results.overrides.get(own["trial"], {}) for own in rows]),
        curves=_curves([line for own in rows for line in curves.get(own["trial"], ())], confidence),
    )


def _trial(row: Row) -> Trial:
    status = row["status"]
    if row.get("diverged_step") is not None:
        status += f" at step {row['diverged_step']}"
    known = [(key, row[key]) for key in _RESULT if row.get(key) is not None]
    result = ", ".join(f"{formats.name(k)} {formats.value(k, v).partition(' (')[0]}" for k, v in known)
    return Trial(str(row["trial"]), row["seed"], status, result, str(row.get("command") or ""))


def _estimate(row: Mapping[str, Any], mean: str, low: str, high: str) -> Estimate | None:
    if row.get(mean) is None:
        return None
    ends = (row.get(low), row.get(high))
    return Estimate(row[mean]) if None in ends else Estimate(row[mean], *ends)


def _notes(row: Mapping[str, Any], metric: str) -> tuple[str, ...]:
    notes = [row["flags"]] if row.get("flags") else []
    if row.get("p_holm") is not None:
        notes.append(f"p = {row['p_holm']:.3g} (Holm)")
    if row.get("detectable") is not None:
        detectable = row["detectable"]
        size = f"{100 * detectable:.2f} pp" if metric.endswith("accuracy") else formats.number(detectable)
        notes.append(f"a difference of {size} could have been shown")
    return tuple(notes)


def _shared(settings: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What all trials of a point set alike, but the seed."""
    first = settings[0] if settings else {}
    return {k: text(v) for k, v in first.items() if k != "seed" and all(k in s and s[k] == v for s in settings)}


def _by_trial(rows: Iterable[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["trial"], []).append(row)
    return found


def _curves(rows: Sequence[Row], confidence: float) -> dict[str, dict[str, Curve]]:
    """Split, outcome, curve. A step that only some trials reached has the mean of these."""
    values: dict[tuple[str, str], dict[int, list[float]]] = {}
    for row in rows:
        for name in ("loss", "accuracy"):
            value = row.get(name)
            if value is not None and math.isfinite(value):
                values.setdefault((row["split"], name), {}).setdefault(row["step"], []).append(float(value))
    out: dict[str, dict[str, Curve]] = {}
    for (split, name), steps in sorted(values.items()):
        out.setdefault(split, {})[name] = curve(steps, confidence)
    return out


def curve(values: Mapping[int, Sequence[float]], confidence: float = 0.95) -> Curve:
    """Means over trials with Student's interval, step by step.

    Args:
      values: optimizer step to one number a trial.
      confidence: of the interval.

    Example:
      >>> found = curve({10: [1.0, 3.0], 20: [5.0]})
      >>> found.step, found.mean, found.most, [round(v, 3) for v in found.high]
      ((10, 20), (2.0, 5.0), (3.0, 5.0), [14.706, 5.0])
    """
    from scipy.special import stdtrit

    steps = sorted(values)
    quantile = {n: float(stdtrit(n - 1, (1 + confidence) / 2)) for n in {len(v) for v in values.values()} if n > 1}
    columns: list[tuple[float, ...]] = []
    for step in steps:
        own = values[step]
        n, mean = len(own), math.fsum(own) / len(own)
        spread = math.sqrt(math.fsum((x - mean) ** 2 for x in own) / (n - 1)) if n > 1 else 0.0
        half = quantile[n] * spread / math.sqrt(n) if n > 1 else 0.0
        columns.append((mean, mean - half, mean + half, min(own), max(own)))
    mean, low, high, least, most = zip(*columns, strict=True) if columns else ((),) * 5
    counts = tuple(len(values[step]) for step in steps)
    return Curve(tuple(steps), counts, mean, low, high, least, most)
