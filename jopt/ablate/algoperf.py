"""The optimizer protocol: each is tuned in the same space by validation, and judged on test (AlgoPerf's idea)."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from jopt.ablate import intervals
from jopt.ablate.findings import few_seeds, label
from jopt.ablate.results import Results, Row
from jopt.ablate.summary import by_seed, columns, grouped, summarize
from jopt.config import require

_TIE = 1e-6
"""Accuracies that differ by less than this share are one: they are counts of examples, in float32."""

_OWN = ("budget", "steps", "validation_mean", "validation_sd", "steps_to_target", "misses", "at_edge")


def check_tuning(
    points: Sequence[Mapping[str, Any]], tuned: Sequence[str], steps: Sequence[int] | None = None
) -> None:
    """Checks, before anything runs, that all methods have the same search space and budget.

    A method is a point of the axes that are not tuned.

    Args:
      points: of the grid, axis name to value.
      tuned: the axes that are chosen by validation.
      steps: optimizer steps of a trial of each point, where they are known.

    Raises:
      ConfigError: for an axis that the grid does not have, a grid of one method, or methods that differ in the
        tuned values that they try, or in their steps.

    Example:
      >>> check_tuning([{"optimizer": o, "rate": r} for o in ("sgd", "adam") for r in (0.1, 0.01)], ["rate"])
      >>> check_tuning([{"optimizer": "sgd", "rate": 0.1}, {"optimizer": "adam", "rate": 0.01}], ["rate"])
      Traceback (most recent call last):
      ...
      jopt.config.ConfigError: space must be the same of rate for each method, got (0.01,) for optimizer=adam, ...
    """
    names = list(points[0]) if points else []
    require(len(tuned) > 0, "tuned", tuple(tuned), f"one or more of the axes {', '.join(names)}")
    for name in tuned:
        require(name in names, "tuned", tuple(tuned), f"one or more of the axes {', '.join(names)}")
    for name in names:
        require(
            name not in _OWN, f"the axis {name!r}", name, "named otherwise: the protocol's table has this column"
        )
    spaces: dict[tuple, list[tuple]] = {}
    for point in points:
        spaces.setdefault(_method(point, tuned), []).append(tuple(point[name] for name in tuned))
    require(len(spaces) > 1, "tuned", tuple(tuned), "fewer axes: what is left tells the methods that are compared")
    (first, space), *others = spaces.items()
    rest = [name for name in names if name not in tuned]
    for method, own in others:
        if sorted(map(repr, own)) != sorted(map(repr, space)):
            shown = [
                f"{_short(s)} for {label(dict(zip(rest, m, strict=True)))}"
                for m, s in ((method, own), (first, space))
            ]
            require(False, "space", _Text(", ".join(shown)), f"the same of {', '.join(tuned)} for each method")
    if steps is not None:
        require(len(set(steps)) <= 1, "steps", sorted(set(steps)), "the same budget of steps for each method")


def optimizers(
    results: Results, tuned: Sequence[str], target: float | None = None, confidence: float = 0.95
) -> tuple[list[Row], list[str]]:
    """Of each method the point with the best validation accuracy, reported on test.

    The mean over seeds decides; a diverged trial counts as an accuracy of 0. A small validation part gives ties:
    among points of equal accuracy the lowest mean validation loss decides (infinite where a trial diverged or has
    none), then the order. What choosing adds to the noise is not in the intervals, as a sentence says.

    The chosen points are compared, paired by seed, with the control's method or, without a control, with the one of
    the best validation accuracy; as that one is chosen by its result, the adjustment then counts all pairs.

    Args:
      results: of the ablation.
      tuned: the axes that are chosen.
      target: a validation accuracy. `steps_to_target` is the median over seeds of the first evaluation's step that
        reaches it; a seed that does not, or that diverges, is a miss and counts as infinitely many.
      confidence: of the intervals.

    Returns:
      A row a method, and sentences. A row has the method's axes, the tuned values that were chosen, `budget`
      (points tried), `steps` (of a trial), `validation_mean`, `validation_sd`, `steps_to_target` (`inf`: missed by
      the median seed), `misses`, `at_edge` (the tuned axes whose chosen value is the smallest or the largest that
      was tried), then the columns of the summary.

    Raises:
      ConfigError: as `check_tuning`.

    Reference:
      Dahl et al. 2023, sections 4 and 5.
    """
    points, trials = results.points(), grouped(results)
    check_tuning(points, tuned)
    methods: dict[tuple, list[int]] = {}
    for index, point in enumerate(points):
        methods.setdefault(_method(point, tuned), []).append(index)
    scores, losses = [_score(rows) for rows in trials], [_loss(rows) for rows in trials]
    chosen = [_first(own, scores, losses) for own in methods.values()]
    axes = tuple(axis for axis in results.axes if axis.name not in tuned)
    metric = results.metric if results.metric in ("accuracy", "loss") else "accuracy"
    names = [axis.name for axis in axes]
    control, comparisons = _reference(results, points, chosen, _first(chosen, scores, losses), names)
    part = results._replace(
        axes=axes, metric=metric, control=control, trials=[row for index in chosen for row in trials[index]]
    )
    curves = _curves(results)
    rows = []
    for index, own, row in zip(chosen, methods.values(), summarize(part, confidence, comparisons), strict=True):
        validation = list(by_seed(trials[index], "validation_accuracy").values())
        reached = [_steps_to(curves, trial, target) for trial in trials[index]]
        spread = intervals.sd(validation)
        more = {
            "budget": len(own),
            "steps": max((r["steps"] for r in trials[index] if r["status"] == "finished"), default=None),
            "validation_mean": intervals.mean(validation) if validation else None,
            "validation_sd": None if math.isnan(spread) else spread,
            "steps_to_target": None if target is None else statistics.median(reached),
            "misses": None if target is None else sum(map(math.isinf, reached)),
            "at_edge": ", ".join(
                name for name in tuned if _at_edge(points[index][name], [points[i][name] for i in own])
            ),
        }
        head = {name: row[name] for name in names} | {name: points[index][name] for name in tuned}
        rows.append(head | more | {k: row[k] for k in columns([], metric)})
    return rows, _sentences(rows, names, tuned, target, metric, control, results.control is None, confidence)


class _Text(str):
    """Text that an error shows without quotes."""

    __repr__ = str.__str__


def _short(values: Sequence[tuple], most: int = 8) -> str:
    shown = tuple(v[0] if len(v) == 1 else v for v in values[:most])
    return f"{shown}" if len(values) <= most else f"{shown} and {len(values) - most} more"


def _method(point: Mapping[str, Any], tuned: Sequence[str]) -> tuple:
    return tuple(value for name, value in point.items() if name not in tuned)


def _score(trials: Sequence[Row]) -> float:
    return math.fsum(by_seed(trials, "validation_accuracy").values()) / len(trials)


def _loss(trials: Sequence[Row]) -> float:
    values = by_seed(trials, "validation_loss").values()
    return math.fsum(values) / len(trials) if len(values) == len(trials) else math.inf


def _first(own: Sequence[int], scores: Sequence[float], losses: Sequence[float]) -> int:
    """Of these points the one of the highest score; of equal ones that of the lowest loss, then the first.

    Example:
      >>> _first([0, 1, 2], [0.7, 0.9, 0.9], [0.1, 0.5, 0.4]), _first([0, 1], [0.9, 0.9], [0.5, 0.5])
      (2, 0)
    """
    top = max(scores[index] for index in own)
    return min((i for i in own if scores[i] >= top * (1 - _TIE)), key=lambda index: (losses[index], index))


def _reference(
    results: Results,
    points: Sequence[Mapping[str, Any]],
    chosen: Sequence[int],
    first: int,
    names: list[str],
) -> tuple[dict[str, Any], int]:
    """Which method the others are compared with, and how many comparisons that makes."""
    own = {name: value for name, value in (results.control or {}).items() if name in names}
    if own:
        return own, len(chosen) - 1
    return {name: points[first][name] for name in names}, math.comb(len(chosen), 2)


def _curves(results: Results) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in results.curves:
        if row["split"] == "validation":
            found.setdefault(row["trial"], []).append(row)
    return found


def _steps_to(curves: Mapping[str, Sequence[Row]], trial: Row, target: float | None) -> float:
    if target is None or trial["status"] != "finished":
        return math.inf
    return min(
        (row["step"] for row in curves.get(trial["trial"], ()) if row["accuracy"] >= target), default=math.inf
    )


def _at_edge(value: Any, tried: Sequence[Any]) -> bool:
    numbers = {x for x in tried if isinstance(x, int | float) and not isinstance(x, bool)}
    return len(numbers) > 2 and not isinstance(value, bool) and value in (min(numbers), max(numbers))


def _sentences(
    rows: Sequence[Row],
    names: Sequence[str],
    tuned: Sequence[str],
    target: float | None,
    metric: str,
    control: Mapping[str, Any],
    by_validation: bool,
    confidence: float,
) -> list[str]:
    why = ", which has the best validation accuracy; all pairs are counted" if by_validation else ""
    out = [
        f"Each of {len(rows)} methods chose the best of {rows[0]['budget']} points by validation accuracy; "
        f"compared is {metric} on test, paired by seed, with {label(control)}{why}.",
        "The intervals are of the chosen points as they stand: they do not hold the noise of choosing, and other "
        "seeds or other validation examples might choose other values.",
    ]
    for row in rows:
        who = label({name: row[name] for name in names})
        if row["at_edge"]:
            edges = " and ".join(label({name: row[name]}) for name in row["at_edge"].split(", ") if name in tuned)
            out.append(
                f"{who}: {edges} is at the edge of what was tried. A better value may lie beyond: widen the range."
            )
        if row["diverged"]:
            out.append(
                f"{who}: {row['diverged']} of {row['n'] + row['diverged']} seeds diverged even where it did best."
            )
        if row["misses"]:
            seeds = row["n"] + row["diverged"]
            out.append(
                f"{who}: {row['misses']} of {seeds} seeds missed the target of {target:g}; a miss stays a miss."
            )
    verdicts = {name: [r for r in rows if r["verdict"] == name] for name in ("better", "worse")}
    for name, found in verdicts.items():
        if found:
            who = "; ".join(label({k: row[k] for k in names}) for row in found)
            out.append(f"Shown to be {name} than {label(control)}: {who}.")
    if not any(verdicts.values()):
        out.append(f"None is shown to be better or worse than {label(control)}.")
    if len({row["steps"] for row in rows if row["steps"] is not None}) > 1:
        out.append("The methods' trials differ in their number of steps: this is no comparison at one budget.")
    return out + few_seeds([row["n"] for row in rows], confidence)
