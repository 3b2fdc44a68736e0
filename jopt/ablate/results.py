"""Results of an ablation, as the statistics and the report read them, and their tables as CSV files."""

import csv
import io
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jopt.config import require
from jopt.files import write_text
from jopt.measure import Column, columns_of
from jopt.measure.columns import TRIAL_FIELDS

TrialRow = dict[str, Any]
"""A row of a table: column name to value."""

OUTCOMES = tuple(column.key for column in columns_of("trial"))
"""The numbers of a classifier's trial, as columns of `trials.csv`; `jopt.measure.BUILT_IN` describes each.

`accuracy` and `loss`, or the metrics of another task, are of the test part; `theoretical_bytes` is what a code of
fixed width would need (`jopt.measure.storage`), `bytes` the length of the packed file where the experiment asks
for one. FLOPs are of one example's forward pass, `effective_flops` without the products that a zero weight takes
part in.
"""

COLUMNS = TRIAL_FIELDS
"""The other columns of `trials.csv`, in addition to the axes."""


# A spreadsheet runs a cell that begins like this, and takes one behind an apostrophe for text.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")


class Axis(NamedTuple):
    """One axis of a grid.

    Attributes:
      name: of its column.
      fields: the dotted paths of the config fields that it sets.
      kind: 'traced' (a number in the program) or 'structural' (another program).
      values: the different values (numbers, strings, booleans, None), in the grid's order.
    """

    name: str
    fields: tuple[str, ...]
    kind: str
    values: tuple[Any, ...]


class Results(NamedTuple):
    """The trials of an ablation.

    Attributes:
      name: of the ablation.
      axes: the axes of the grid, without the seed.
      control: the point that the others are compared with, axis name to value; None if there is none.
      metric: the key of the column that decides.
      trials: a row a trial, in the grid's order. `trial` (its id, 12 hexadecimal digits), `group` (programs are
        compiled once a group), a column for each axis by its name, `seed`, `status` ('finished' or 'diverged'),
        `diverged_step` (the first step, 0-based, whose loss was not finite, or None), every outcome (None where the
        trial diverged), `steps` (optimizer steps), `digest`, `command` (a command that runs this trial alone).
      curves: rows of `trial`, `stage`, `step`, `split` ('train' or 'validation'), `loss` and the task's metrics, in
        order of step.
      overrides: trial id to the config fields that the grid sets, dotted path to value.
      columns: of the outcomes: the built-in ones, then those from outside.
    """

    name: str
    axes: tuple[Axis, ...]
    control: dict[str, Any] | None
    metric: str
    trials: list[TrialRow]
    curves: list[TrialRow]
    overrides: dict[str, dict[str, Any]]
    columns: tuple[Column, ...] = columns_of("trial")

    @property
    def outcomes(self) -> tuple[str, ...]:
        """The keys of the columns."""
        return tuple(column.key for column in self.columns)

    @property
    def decisive(self) -> Column:
        """The column of the metric."""
        return next(column for column in self.columns if column.key == self.metric)

    @property
    def metrics(self) -> tuple[Column, ...]:
        """The columns of the task's metrics on the test part, the deciding one first; the loss is one of them."""
        keys = {column.key for column in self.columns if column.origin == "task"}
        return tuple(c for c in self.columns if c.origin == "task" and f"validation_{c.key}" in keys)

    @property
    def tested(self) -> Column:
        """The column of the metric that decides, on the test part; of the task's own if that is no metric."""
        return next((m for m in self.metrics if self.metric in (m.key, f"validation_{m.key}")), self.metrics[0])

    @property
    def validated(self) -> Column:
        """The column of the task's deciding metric on the validation part."""
        return next(column for column in self.columns if column.key == f"validation_{self.metrics[0].key}")

    def points(self) -> list[dict[str, Any]]:
        """The grid's points in order, axis name to value; trials that differ only in the seed share a point."""
        # A dictionary keeps the order of the grid and drops the seeds.
        points = {tuple(row[a.name] for a in self.axes): None for row in self.trials}
        return [dict(zip((a.name for a in self.axes), values, strict=True)) for values in points]

    def at(self, point: dict[str, Any]) -> list[TrialRow]:
        """The trials of a point, by seed."""
        rows = [row for row in self.trials if all(row[name] == value for name, value in point.items())]
        return sorted(rows, key=lambda row: row["seed"])


def to_csv(rows: Iterable[Mapping[str, object]], columns: Sequence[str] | None = None) -> str:
    r"""Rows as CSV text. Floats are written by `repr`, so that equal tables are equal bytes.

    Text that a spreadsheet would run, as it begins with `=`, `+`, `-`, `@`, a tab or a carriage return, gets an
    apostrophe in front, which `read_csv` takes away; numbers stay numbers.

    Args:
      rows: the same keys in each.
      columns: the header; None: the first row's keys.

    Raises:
      ConfigError: if a row has other keys than the header.

    Example:
      >>> to_csv([{"bits": 4, "accuracy": 0.1 + 0.2, "note": None}])
      'bits,accuracy,note\n4,0.30000000000000004,\n'
      >>> to_csv([{"name": "=1+1", "change": -0.5}])
      "name,change\n'=1+1,-0.5\n"
    """
    rows = list(rows)
    header = list(columns if columns is not None else (rows[0] if rows else ()))
    text = io.StringIO(newline="")
    # One newline everywhere: files of two systems must be equal bytes.
    writer, quoting = (csv.writer(text, lineterminator="\n", quoting=q) for q in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL))

    def write(values: Iterable[Any]) -> None:
        cells = [_text(value) for value in values]
        # The reader ends a line at a carriage return, and the writer does not quote it.
        (quoting if any("\r" in cell for cell in cells) else writer).writerow(cells)

    write(header)
    for row in rows:
        # A missing cell would be read as None, which means 'diverged' to the statistics.
        require(set(row) == set(header), "rows", list(row), f"rows of the columns {', '.join(header)}")
        write(row[name] for name in header)
    return text.getvalue()


def write_csv(
    path: str | os.PathLike[str], rows: Iterable[Mapping[str, object]], columns: Sequence[str] | None = None
) -> None:
    """Writes `to_csv(rows, columns)` atomically."""
    write_text(path, to_csv(rows, columns))


def read_csv(path: str | os.PathLike[str], text: Collection[str] = ()) -> list[dict[str, Any]]:
    """Reads a file of `write_csv`. Cells become None, booleans, integers or floats where they can, else strings.

    Args:
      path: of the file.
      text: columns whose cells stay strings even if they look like numbers, such as digests.

    Returns:
      One dictionary for each row. Outside `text`, a string that looks like a number is read as one.

    Raises:
      OSError, ValueError, csv.Error: for a file that cannot be read or is no such table.
    """
    with Path(path).open(newline="", encoding="utf-8") as file:
        lines = csv.reader(file)
        header = [_unquoted(name) for name in next(lines, [])]
        return [
            {n: _unquoted(cell) if n in text else _value(cell) for n, cell in zip(header, row, strict=True)}
            for row in lines
            if row
        ]


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        # The shortest text that reads back as the same float; NumPy's own repr has its type in it.
        return repr(float(value))
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else str(value)


def _unquoted(cell: str) -> str:
    """The text of a cell, without the apostrophe that `_text` put before it."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _value(cell: str) -> Any:
    # Before the numbers, since float('') fails and bool('False') is true.
    if cell in ("", "True", "False"):
        return {"": None, "True": True, "False": False}[cell]
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return _unquoted(cell)
