"""Protocols of an ablation: checks before anything runs, then tables and sentences for the report."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from jopt.ablate.algoperf import check_tuning, tuned_comparison
from jopt.ablate.checks import control
from jopt.ablate.config import Ablation
from jopt.ablate.findings import sentences
from jopt.ablate.plan import GroupPlan
from jopt.ablate.results import Results, TrialRow
from jopt.ablate.shrinkbench import Setting, check_pruning, pruning_protocol_table, setting_of
from jopt.ablate.trials import Trial
from jopt.measure import Column
from jopt.report import Table, formats


class Judgement(NamedTuple):
    """The result of a protocol.

    Attributes:
      tables: for the report: the columns of `rows` that fit a page.
      sentences: for the report.
      rows: with all columns, for `protocol.csv`; empty without a protocol.
    """

    tables: list[Table]
    sentences: list[str]
    rows: list[TrialRow]


class _Column(NamedTuple):
    """A column of a table.

    Attributes:
      header: with the unit.
      key: of the row; of a mean with an interval, the mean.
      ends: keys of the ends of its interval.
      form: the format of a number, one of `_FORMS`; 'text' is no format.
    """

    header: str
    key: str
    ends: tuple[str, str] | None = None
    form: str = "text"


def check(ablation: Ablation, trials: Sequence[Trial]) -> None:
    """Checks that the grid meets the requirements of its protocol.

    Raises:
      ConfigError: if it does not.
    """
    points = [point.labels for point in ablation.space.points]
    if ablation.protocol == "optimizers":
        check_tuning(points, ablation.tuned)
    if ablation.protocol == "pruning":
        check_pruning(points, settings(ablation, trials), control(ablation))


def check_budget(ablation: Ablation, trials: Sequence[Trial], plans: Sequence[GroupPlan]) -> None:
    """Checks that all methods of the protocol 'optimizers' train for the same number of steps.

    The plans know the lengths, the ablation alone does not.

    Raises:
      ConfigError: if they differ.
    """
    if ablation.protocol == "optimizers":
        # Trials come seed by seed, so every len(seeds)-th one is the first of its point.
        steps = {trial.id: p.steps for p in plans for trial in p.group.trials}
        points = [point.labels for point in ablation.space.points]
        check_tuning(points, ablation.tuned, [steps[trial.id] for trial in trials[:: len(ablation.seeds)]])


def settings(ablation: Ablation, trials: Sequence[Trial]) -> list[Setting]:
    """The pruning of each point of the grid."""
    return [setting_of(trial.config) for trial in trials[:: len(ablation.seeds)]]


def judge(ablation: Ablation, trials: Sequence[Trial], results: Results, summary: Sequence[TrialRow]) -> Judgement:
    """The tables and sentences of the report, and the rows of the protocol's table."""
    if ablation.protocol == "optimizers":
        rows, text = tuned_comparison(results, ablation.tuned, ablation.target, ablation.confidence)
        # No sentences about the whole grid: it would judge points that validation rejected.
        return Judgement([optimizers_table(results, rows, ablation.tuned)], text, rows)
    text = sentences(results, summary, ablation.confidence)
    if ablation.protocol == "pruning":
        rows, pruning_text = pruning_protocol_table(results, settings(ablation, trials), ablation.confidence)
        return Judgement([pruning_table(results, rows)], pruning_text + text, rows)
    return Judgement([], text, [])


def optimizers_table(results: Results, rows: Sequence[TrialRow], tuned: Sequence[str]) -> Table:
    """The columns of `algoperf.tuned_comparison` that fit a page, in % and percentage points."""
    # The method first, then the values that validation chose for it.
    names = [axis.name for axis in results.axes if axis.name not in tuned]
    columns = [_Column(name, name) for name in (*names, *tuned)]
    chosen_by = results.validated
    percent = chosen_by.fraction
    form = "percent" if percent else "number"
    columns.append(_Column(f"{chosen_by.label}{', %' * percent}", "validation_mean", form=form))
    columns += _compared(results.tested)
    columns += [_Column("steps to target", "steps_to_target"), _Column("misses", "misses")]
    columns += [_Column("at edge", "at_edge"), _Column("diverged", "diverged")]
    return _table("Chosen by validation", rows, columns)


def pruning_table(results: Results, rows: Sequence[TrialRow]) -> Table:
    """The columns of `shrinkbench.pruning_protocol_table` that fit a page, in % and percentage points."""
    first = [name for name in rows[0] if name in {axis.name for axis in results.axes}]
    columns = [_Column(name, name) for name in dict.fromkeys((*first, "score", "sparsity", "n"))]
    columns += _compared(results.decisive)
    columns += [
        _Column("theoretical bytes", "theoretical_bytes", form="integer"),
        _Column("compression ratio", "compression_ratio", form="ratio"),
        _Column("effective FLOPs", "effective_flops", form="integer"),
        _Column("theoretical speed-up", "theoretical_speedup", form="ratio"),
    ]
    unit, form = _change(results.decisive)
    ends = ("random_low", "random_high")
    columns.append(_Column(f"difference to random{unit} [adjusted]", "random_difference", ends, form))
    columns.append(_Column("against random", "random_verdict"))
    name = formats.capitalized(_named(results.decisive).removeprefix("test "))
    return _table(f"{name}, size and FLOPs by score and ratio", rows, columns)


def _compared(column: Column) -> list[_Column]:
    """The metric on test with its interval, and the difference with the interval that decides the verdict."""
    metric, percent = column.key, column.fraction
    unit, form = _change(column)
    ends = ("difference_low_adjusted", "difference_high_adjusted")
    return [
        _Column(f"{_named(column)}{', %' * percent} [interval]", f"{metric}_mean",
                (f"{metric}_low", f"{metric}_high"), "percent" if percent else "number"),
        _Column(f"difference{unit} [adjusted]", "difference", ends, form),
        _Column("verdict", "verdict"),
    ]  # fmt: skip


def _named(column: Column) -> str:
    return column.label if column.origin == "task" else formats.name(column.key)


def _change(column: Column) -> tuple[str, str]:
    return (", points", "points") if column.fraction else ("", "signed")


# By name and not as functions in `_Column`, so that columns stay comparable and printable.
_FORMS: dict[str, Callable[[float], str]] = {
    "percent": lambda v: f"{100 * v:.2f}",
    "points": lambda v: formats.points(v).removesuffix(" pp"),
    "number": formats.number,
    "signed": lambda v: f"{v:+.4g}",
    "integer": formats.integer,
    "ratio": lambda v: f"{v:.2f}",
}


def _table(title: str, rows: Sequence[TrialRow], columns: Sequence[_Column]) -> Table:
    """The rows as a table, without empty columns."""
    # A run without a target or a control would otherwise print columns of dashes.
    shown = [c for c in columns if any(row[c.key] not in (None, "") for row in rows)]
    # Text to the left, numbers to the right; a flag such as True counts as text.
    align = "".join("l" if any(isinstance(row[c.key], bool | str) for row in rows) else "r" for c in shown)
    header = tuple(c.header.replace("_", " ") for c in shown)
    return Table(title, header, align, [tuple(_cell(row, c) for c in shown) for row in rows])


def _cell(row: TrialRow, column: _Column) -> str:
    value = row[column.key]
    if value is None:
        return "-"
    if column.form == "text":
        return formats.shorten(f"{value:.4g}" if isinstance(value, float) else str(value), 40)
    show = _FORMS[column.form]
    ends = [row[key] for key in column.ends or ()]
    # With one seed a mean has no interval, and with two an adjusted one may be infinite.
    if not ends or any(end is None or not math.isfinite(end) for end in ends):
        return show(value)
    return f"{show(value)} [{', '.join(map(show, ends))}]"
