"""The optimizer protocol: every method is tuned in the same space by validation and judged on test (AlgoPerf)."""

import math
import statistics
from collections.abc import Mapping, Sequence

from jopt.ablate import intervals
from jopt.ablate.findings import few_seeds, label
from jopt.ablate.results import Results, TrialRow
from jopt.ablate.space import Value
from jopt.ablate.summary import by_seed, columns, grouped, summarize
from jopt.config import ConfigError, require
from jopt.measure import Column

_TIE = 1e-6
"""Metrics whose relative difference is below this are equal: they may be counts of examples in float32."""

_TUNING_COLUMNS = ("budget", "steps", "validation_mean", "validation_sd", "steps_to_target", "misses", "at_edge")


def check_tuning(
    points: Sequence[Mapping[str, Value]], tuned: Sequence[str], steps: Sequence[int] | None = None
) -> None:
    """Checks, before anything runs, that all methods have the same search space and budget.

    A method is a combination of values of the axes that are not tuned.

    Args:
      points: of the grid, axis name to value.
      tuned: the axes chosen by validation.
      steps: optimizer steps of a trial of each point, if they are known.

    Raises:
      ConfigError: for an axis that the grid does not have, a grid of one method, or methods with different tuned
        values or different numbers of steps.

    Example:
      >>> check_tuning([{"optimizer": o, "rate": r} for o in ("sgd", "adam") for r in (0.1, 0.01)], ["rate"])
      >>> check_tuning([{"optimizer": "sgd", "rate": 0.1}, {"optimizer": "adam", "rate": 0.01}], ["rate"])
      Traceback (most recent call last):
      ...
      jopt.config.ConfigError: space must be the same of rate for each method, got (0.01,) for optimizer=adam, ...
    """
    names = list(points[0]) if points else []
    valid = len(tuned) > 0 and all(name in names for name in tuned)
    require(valid, "tuned", tuple(tuned), f"one or more of the axes {', '.join(names)}")
    for name in names:
        require(name not in _TUNING_COLUMNS, f"the axis {name!r}", name, "a name that is not a column of the table")
    spaces: dict[tuple, list[tuple]] = {}
    for point in points:
        spaces.setdefault(_method(point, tuned), []).append(tuple(point[name] for name in tuned))
    require(len(spaces) > 1, "tuned", tuple(tuned), "fewer axes: the axes that are not tuned name the methods")
    (first, space), *others = spaces.items()
    method_axes = [name for name in names if name not in tuned]
    for method, values in others:
        # By repr, since the values of an axis may have different types and no order.
        if sorted(map(repr, values)) != sorted(map(repr, space)):
            shown = [
                f"{_short(tried)} for {label(dict(zip(method_axes, key, strict=True)))}"
                for key, tried in ((method, values), (first, space))
            ]
            accepted = f"the same of {', '.join(tuned)} for each method"
            raise ConfigError("space", _Unquoted(", ".join(shown)), accepted)
    # A method with more steps would win by its budget.
    if steps is not None:
        require(len(set(steps)) <= 1, "steps", sorted(set(steps)), "the same number of steps for each method")


def tuned_comparison(
    results: Results, tuned: Sequence[str], target: float | None = None, confidence: float = 0.95
) -> tuple[list[TrialRow], list[str]]:
    """Compares the methods on test, each at the point with its best deciding metric in validation.

    The mean of the deciding metric over seeds chooses the point; a diverged trial counts as 0 in a share such as an
    accuracy, and as infinitely bad in any other metric. A small validation part gives ties: among points of equal
    metric the lowest mean validation loss decides (infinite if a trial diverged
    or has none), then the order of the grid. The intervals do not include the noise of this choice, and one of the
    sentences says so.

    The chosen points are compared, paired by seed, with the control's method. Without a control they are compared
    with the method that is best in validation; since that one is chosen by its result, the adjustment then
    counts all pairs.

    Args:
      results: of the ablation.
      tuned: the axes chosen by validation.
      target: a value of the deciding metric in validation. `steps_to_target` is the median over seeds of the step
        of the first evaluation that reaches it; a seed that does not reach it, or diverges, is a miss and counts
        as infinitely many steps.
      confidence: of the intervals.

    Returns:
      One row per method, and sentences. A row has the method's axes, the chosen values of the tuned axes, `budget`
      (points tried), `steps` (of a trial), `validation_mean`, `validation_sd`, `steps_to_target` (`inf`: the median
      seed missed it), `misses`, `at_edge` (the tuned axes whose chosen value is the smallest or the largest that
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
    scores = [_mean_score(rows, results.validated) for rows in trials]
    losses = [_mean_loss(rows) for rows in trials]
    chosen = [_best_by_validation(indices, scores, losses) for indices in methods.values()]
    axes = tuple(axis for axis in results.axes if axis.name not in tuned)
    names = [axis.name for axis in axes]
    # Validation chose the points, so only a test outcome may judge them.
    metric = results.tested.key
    # A control may name tuned axes too; those are chosen by validation, for it as for every method.
    control = {name: value for name, value in (results.control or {}).items() if name in names}
    comparisons = len(chosen) - 1
    if not control:
        reference = points[_best_by_validation(chosen, scores, losses)]
        control, comparisons = {name: reference[name] for name in names}, math.comb(len(chosen), 2)
    # The rejected points are no comparisons, so they must not count in the adjustment.
    chosen_results = results._replace(
        axes=axes, metric=metric, control=control, trials=[row for index in chosen for row in trials[index]]
    )
    curves = _validation_curves(results)
    rows = []
    summary = summarize(chosen_results, confidence, comparisons)
    for index, indices, row in zip(chosen, methods.values(), summary, strict=True):
        validation = list(by_seed(trials[index], results.validated.key).values())
        reached = [_steps_to(curves, trial, results.metrics[0], target) for trial in trials[index]]
        sd = intervals.sd(validation)
        tuning = {
            "budget": len(indices),
            "steps": max((r["steps"] for r in trials[index] if r["status"] == "finished"), default=None),
            "validation_mean": intervals.mean(validation) if validation else None,
            "validation_sd": None if math.isnan(sd) else sd,
            "steps_to_target": None if target is None else statistics.median(reached),
            "misses": None if target is None else sum(map(math.isinf, reached)),
            "at_edge": ", ".join(
                name for name in tuned if _at_edge(points[index][name], [points[i][name] for i in indices])
            ),
        }
        axis_values = {name: row[name] for name in names} | {name: points[index][name] for name in tuned}
        rows.append(axis_values | tuning | {name: row[name] for name in columns([], metric, results.outcomes)})
    text = _sentences(rows, results, metric, control)
    text += [line for row in rows for line in _warnings(row, names, tuned, target)]
    text += _verdict_sentences(rows, names, control)
    return rows, text + few_seeds([row["n"] for row in rows], confidence)


class _Unquoted(str):
    """Text that an error message shows without quotes."""

    __repr__ = str.__str__


def _short(values: Sequence[tuple], limit: int = 8) -> str:
    shown = tuple(v[0] if len(v) == 1 else v for v in values[:limit])
    return f"{shown}" if len(values) <= limit else f"{shown} and {len(values) - limit} more"


def _method(point: Mapping[str, Value], tuned: Sequence[str]) -> tuple:
    return tuple(value for name, value in point.items() if name not in tuned)


def _mean_score(trials: Sequence[TrialRow], column: Column) -> float:
    """The mean of a metric, the higher the better."""
    values, sign = by_seed(trials, column.key).values(), 1 if column.better == "higher" else -1
    # The worst value of a share is known, and so it is what a trial that diverged has.
    if len(values) == len(trials) or (column.fraction and sign > 0):
        return sign * math.fsum(values) / len(trials)
    return -math.inf


def _mean_loss(trials: Sequence[TrialRow]) -> float:
    values = by_seed(trials, "validation_loss").values()
    return math.fsum(values) / len(trials) if len(values) == len(trials) else math.inf


def _best_by_validation(indices: Sequence[int], scores: Sequence[float], losses: Sequence[float]) -> int:
    """The point with the highest score; of equal scores the lowest loss, then the first.

    Example:
      >>> _best_by_validation([0, 1, 2], [0.7, 0.9, 0.9], [0.1, 0.5, 0.4])
      2
      >>> _best_by_validation([0, 1], [0.9, 0.9], [0.5, 0.5])
      0
    """
    # Relative, because float32 shares of the same count may differ in their last bit.
    top = max(scores[index] for index in indices)
    return min((i for i in indices if scores[i] >= top - _TIE * abs(top)), key=lambda index: (losses[index], index))


def _validation_curves(results: Results) -> dict[str, list[TrialRow]]:
    curves: dict[str, list[TrialRow]] = {}
    for row in results.curves:
        if row["split"] == "validation":
            curves.setdefault(row["trial"], []).append(row)
    return curves


def _steps_to(
    curves: Mapping[str, Sequence[TrialRow]], trial: TrialRow, metric: Column, target: float | None
) -> float:
    if target is None or trial["status"] != "finished":
        return math.inf
    # The first evaluation that reaches it: a later one below the target does not undo it.
    sign = 1 if metric.better == "higher" else -1
    rows = curves.get(trial["trial"], ())
    return min((row["step"] for row in rows if sign * row[metric.key] >= sign * target), default=math.inf)


def _at_edge(value: Value, tried: Sequence[Value]) -> bool:
    numbers = {x for x in tried if isinstance(x, int | float) and not isinstance(x, bool)}
    # Of two values, both are ends: that says nothing about the range.
    return len(numbers) > 2 and not isinstance(value, bool) and value in (min(numbers), max(numbers))


def _sentences(rows: Sequence[TrialRow], results: Results, metric: str, control: Mapping[str, Value]) -> list[str]:
    chosen_by, by_validation = results.validated.label, results.control is None
    reason = f", which has the best {chosen_by}; all pairs are counted" if by_validation else ""
    return [
        f"Each of {len(rows)} methods uses the best of {rows[0]['budget']} points by {chosen_by}; their "
        f"{metric} on test is compared, paired by seed, with {label(control)}{reason}.",
        "The intervals are those of the chosen points and do not include the noise of choosing: other seeds or "
        "other validation examples might choose other values.",
    ]


def _warnings(row: TrialRow, names: Sequence[str], tuned: Sequence[str], target: float | None) -> list[str]:
    method, seeds = label({name: row[name] for name in names}), row["n"] + row["diverged"]
    text = []
    if row["at_edge"]:
        edges = " and ".join(label({name: row[name]}) for name in row["at_edge"].split(", ") if name in tuned)
        text.append(
            f"{method}: {edges} is at the edge of the range. A better value may lie beyond: widen the range."
        )
    if row["diverged"]:
        text.append(f"{method}: {row['diverged']} of {seeds} seeds diverged even at its best point.")
    if row["misses"]:
        text.append(f"{method}: {row['misses']} of {seeds} seeds missed the target of {target:g}.")
    return text


def _verdict_sentences(rows: Sequence[TrialRow], names: Sequence[str], control: Mapping[str, Value]) -> list[str]:
    text = []
    for verdict in ("better", "worse"):
        methods = [label({name: row[name] for name in names}) for row in rows if row["verdict"] == verdict]
        if methods:
            text.append(f"Shown to be {verdict} than {label(control)}: {'; '.join(methods)}.")
    if not text:
        text.append(f"No method is shown to be better or worse than {label(control)}.")
    if len({row["steps"] for row in rows if row["steps"] is not None}) > 1:
        text.append("The methods' trials differ in their number of steps: this is not a comparison at one budget.")
    return text
