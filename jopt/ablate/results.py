"""Results of an ablation: the trials, their curves and what varied, as the statistics and the report read them."""

from typing import Any, NamedTuple

from jopt.measure import Column, columns_of

Row = dict[str, Any]

OUTCOMES = tuple(column.key for column in columns_of("trial"))
"""The numbers of a trial, as columns of `trials.csv`; `jopt.measure.BUILT_IN` says what each is.

`accuracy` and `loss` are of the test part, in [0, 1] and nats; `theoretical_bytes` is what a code of fixed width
would need (`jopt.measure.storage`), `bytes` the length of the packed file where the experiment asks for one. FLOPs
are of one example's forward pass, `effective_flops` without the products that a zero weight takes part in.
"""

COLUMNS = ("trial", "group", "seed", "status", "diverged_step", "steps", "digest", "command")
"""The other columns of `trials.csv`, in addition to the axes."""


class Axis(NamedTuple):
    """One thing that a grid varies.

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
      axes: what varies, the seed left out.
      control: the point that the others are compared with, axis name to value; None if there is none.
      metric: the key of the column that decides.
      trials: a row a trial, in the grid's order. `trial` (its id, 12 hexadecimal digits), `group` (programs are
        compiled once a group), a column for each axis by its name, `seed`, `status` ('finished' or 'diverged'),
        `diverged_step` (the first step, 0-based, whose loss was not finite, or None), every outcome (None where the
        trial diverged), `steps` (optimizer steps), `digest`, `command` (what runs this trial alone).
      curves: rows of `trial`, `stage`, `step`, `split` ('train' or 'validation'), `loss`, `accuracy`, in order of
        step.
      overrides: trial id to its config fields, dotted path to value: what the grid sets.
      columns: of the outcomes: the built-in ones, then those from outside.
    """

    name: str
    axes: tuple[Axis, ...]
    control: dict[str, Any] | None
    metric: str
    trials: list[Row]
    curves: list[Row]
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

    def points(self) -> list[dict[str, Any]]:
        """The grid's points, axis name to value, in order: what trials of other seeds share."""
        # A dictionary keeps the order of the grid and drops the seeds.
        points = {tuple(row[a.name] for a in self.axes): None for row in self.trials}
        return [dict(zip((a.name for a in self.axes), values, strict=True)) for values in points]

    def at(self, point: dict[str, Any]) -> list[Row]:
        """The trials of a point, by seed."""
        rows = [row for row in self.trials if all(row[name] == value for name, value in point.items())]
        return sorted(rows, key=lambda row: row["seed"])
