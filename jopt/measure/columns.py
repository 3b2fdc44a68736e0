"""The registry of columns: every number that tables, CSV files and figures show of a stage, a trial or a run.

A column has a name, a unit, a direction, a format and a computation. Terminal, Markdown, CSV and HTML read this
registry and nothing else, so a new column is added in one place. A column from outside the package is a `Column`
like these, named `package.module:name` or given as an object.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jopt.config import ConfigError, choice, require
from jopt.layers import Layers
from jopt.measure.compare import churn, sqnr
from jopt.measure.flops import effective_flops
from jopt.measure.size import IntegerCode, Storage, storage, total_storage
from jopt.reference import resolve
from jopt.task import Classification, Metric, Task

CLASSIFIER = Classification()
"""The task whose columns are meant where none is named."""

Number = float | int
Scope = Literal["run", "stage", "trial"]

Failed = Callable[[str, str, Exception], None]
"""Takes the key of a column that could not be computed, the name of the stage, and the error."""

TRIAL_FIELDS = ("trial", "group", "seed", "status", "diverged_step", "steps", "digest", "command")
"""What a row of a trial holds in addition to columns and axes, in the order of `trials.csv`."""

RESERVED = ("stage", *TRIAL_FIELDS, "name")
"""What rows of stages and of trials hold in addition to columns."""

FORMATS = ("percent", "points", "bytes", "si", "integer", "number", "seconds")
"""The named formats; any other format is a format specification of Python, such as `.3f`."""


class StageOutcome(NamedTuple):
    """A network at the end of a stage.

    Attributes:
      name: of the stage.
      params: the parameters as the model sees them, after every transform; concrete arrays.
      metrics: its numbers on the test part: `loss`, and the metrics of its task by key.
      predictions: what it decides for the test examples, integers [examples, ...]; None where it decides nothing.
      latent: the parameters before quantization, of the same structure and shapes; None if there is none.
      grids: path to the integers of an array, for `jopt.measure.storage`.
      flops: FLOPs by layer, where the stage changed the model's shapes; None: those of the first stage.
      bytes: length of its packed file, where there is one.
      layers: what the model says about its parameters; None: what their names and shapes say.
    """

    name: str
    params: Any
    metrics: Mapping[str, float] = {}
    predictions: ArrayLike | None = None
    latent: Any = None
    grids: Mapping[str, IntegerCode] | None = None
    flops: Mapping[str, int] | None = None
    bytes: int | None = None
    layers: Layers | None = None


class Measured:
    """What a column is computed from: an outcome, and what it is compared with.

    Attributes:
      outcome: the network and its metrics.
      first: the first stage of the run; for a first stage or a trial the object itself.
      labels: targets of the test examples; None where they are not known.
    """

    def __init__(
        self,
        outcome: StageOutcome,
        first: Measured | None = None,
        labels: ArrayLike | None = None,
        flops: Mapping[str, int] | None = None,
    ):
        """Computes nothing yet.

        Args:
          outcome: the network and its metrics.
          first: the first stage of the run; None if this is it.
          labels: true classes of the test examples.
          flops: FLOPs by layer, where the outcome has none.
        """
        self.outcome, self.labels = outcome, labels
        self.first = self if first is None else first
        self._flops = flops

    # Several columns need these two, and each walks all weights.
    @functools.cached_property
    def storage(self) -> Storage:
        """Parameters, nonzeros and theoretical bits of all arrays."""
        return total_storage(storage(self.outcome.params, self.outcome.grids), self.outcome.layers)

    @functools.cached_property
    def effective(self) -> dict[str, int] | None:
        """Effective FLOPs by layer; None where a model's layers cannot be seen."""
        return effective_flops(self.flops or {}, self.outcome.params, self.outcome.layers)

    @property
    def flops(self) -> Mapping[str, int] | None:
        """FLOPs by layer; None where they are not known."""
        return self._flops if self.outcome.flops is None else self.outcome.flops

    def metric(self, key: str) -> float | None:
        """A metric of the test part; None if it is not known."""
        return self.accuracy if key == "accuracy" else self.outcome.metrics.get(key)

    @property
    def accuracy(self) -> float | None:
        """The metric of this name, or else what the predictions say."""
        metric = self.outcome.metrics.get("accuracy")
        # The metric is by the task's own definition, so it comes before what the predictions give.
        if metric is None and self.labels is not None and self.outcome.predictions is not None:
            return 1.0 - churn(self.labels, self.outcome.predictions)
        return metric


@dataclasses.dataclass(frozen=True)
class Column:
    """A number that is reported.

    Attributes:
      key: its name in result.json, trials.csv and summary.csv: an identifier.
      label: the header of its column, and the title of its axis.
      unit: of the number, such as 'ms'; follows a number that a format specification writes.
      better: 'higher', 'lower', or None where neither is.
      format: one of `FORMATS` ('percent' and 'points' take a fraction), or a format specification such as '.3f'.
      compute: gives the number; None where it is not known, and the row then lacks it. A number that is not finite
        is null in JSON. None for a number that another part measures: a metric, a time, the length of a file.
      short: the header where 80 columns must do; without one the column is left out there.
      scopes: the tables that have it: of runs, of a run's stages, of an ablation's trials.
      cost: whether the metric that decides is drawn against it.
      origin: 'task' for a metric, 'jopt' for what jopt measures of any network, 'outside' for any other.

    Raises:
      ConfigError: for a key that is not an identifier, or an unknown direction, scope or format.

    Example:
      >>> total = Column("weights_sum", "sum of weights", "", None, ".3f", lambda m: m.outcome.params.sum())
      >>> stage_rows([StageOutcome("dense", np.float32([[1, 2], [3, 4]]))], columns=[total])[0]["weights_sum"]
      10.0
    """

    key: str
    label: str
    unit: str = ""
    better: Literal["higher", "lower"] | None = None
    format: str = "number"
    compute: Callable[[Measured], Number | None] | None = None
    short: str = ""
    scopes: tuple[Scope, ...] = ("stage", "trial")
    cost: bool = False
    origin: Literal["task", "jopt", "outside"] = "outside"

    def __post_init__(self) -> None:
        require(self.key.isidentifier(), "column.key", self.key, "an identifier, such as 'weights_l2'")
        require(bool(self.label), f"column {self.key}.label", self.label, "a text")
        choice(f"column {self.key}.better", self.better or "higher", ["higher", "lower"])
        for scope in self.scopes:
            choice(f"column {self.key}.scopes", scope, ["run", "stage", "trial"])
        if self.format not in FORMATS:
            try:
                format(1.0, self.format)
            except ValueError as error:
                accepted = f"one of {', '.join(FORMATS)}, or a format specification such as '.3f'"
                raise ConfigError(f"column {self.key}.format", self.format, accepted) from error

    @property
    def fraction(self) -> bool:
        """Whether it is a share in [0, 1], shown in percent."""
        return self.format == "percent"


class _Value(NamedTuple):
    """Computes a metric. A class and not a lambda, so that columns of equal tasks are equal."""

    key: str

    def __call__(self, m: Measured) -> float | None:
        return m.metric(self.key)


class _Change(NamedTuple):
    """Computes the change of a metric against the first stage."""

    key: str

    def __call__(self, m: Measured) -> float | None:
        before, after = m.first.metric(self.key), m.metric(self.key)
        return None if before is None or after is None else after - before


def _churn(m: Measured) -> float | None:
    # Against the first stage rather than the one before: small steps add up.
    before, after = m.first.outcome.predictions, m.outcome.predictions
    return None if before is None or after is None else churn(before, after)


def _flops(m: Measured) -> int | None:
    return None if m.flops is None else sum(m.flops.values())


def _effective(m: Measured) -> Number | None:
    if m.flops is None:
        return None
    # Of a model whose layers cannot be seen they exist and are not known: a null, not a missing entry.
    return math.nan if m.effective is None else sum(m.effective.values())


def _noise(m: Measured) -> float | None:
    return None if m.outcome.latent is None else sqnr(m.outcome.latent, m.outcome.params)


_STAGE: tuple[Scope, ...] = ("stage",)
_TRIAL: tuple[Scope, ...] = ("trial",)
_RUN: tuple[Scope, ...] = ("run",)

_CHURN = Column("churn", "churn", "", "lower", "percent", _churn, short="churn", scopes=_STAGE, origin="jopt")
_MEASURES = tuple(dataclasses.replace(column, origin="jopt") for column in (
    Column("parameters", "parameters", "", "lower", "integer", lambda m: m.storage.parameters),
    Column("nonzero_parameters", "nonzero parameters", "", "lower", "integer",
           lambda m: m.storage.nonzero_parameters, scopes=("run", "stage", "trial"), cost=True),
    Column("sparsity", "sparsity", "", "higher", "percent", lambda m: m.storage.sparsity, short="zeros",
           scopes=("run", "stage", "trial")),
    Column("distinct_values", "distinct values", "", "lower", "integer", lambda m: m.storage.distinct_values,
           scopes=_STAGE),
    Column("theoretical_bytes", "theoretical size", "", "lower", "bytes", lambda m: m.storage.bytes, short="size",
           cost=True),
    Column("bytes", "packed file", "", "lower", "bytes", lambda m: m.outcome.bytes, short="file", cost=True),
    # A run without a packed file reports the bytes of its dense arrays under this key.
    Column("bytes", "bytes", "", "lower", "bytes", scopes=_RUN),
    Column("bits_per_parameter", "theoretical bits/parameter", "", "lower", ".2f",
           lambda m: m.storage.bits_per_parameter, short="bits"),
    Column("flops", "FLOPs", "", "lower", "si", _flops, scopes=("run", "stage", "trial")),
    Column("effective_flops", "theoretical effective FLOPs", "", "lower", "si", _effective, short="FLOPs",
           cost=True),
    Column("sqnr_db", "SQNR", "dB", "higher", ".1f", _noise, scopes=_STAGE),
    Column("wall_seconds", "wall time", "s", "lower", "seconds", scopes=_RUN),
    Column("compile_seconds", "compile time", "s", "lower", "seconds", scopes=_RUN),
))  # fmt: skip


def task_columns(task: Task = CLASSIFIER) -> tuple[Column, ...]:
    """The columns of a task's metrics: on the test part, the change of the deciding one, churn, then validation.

    Args:
      task: whose metrics they are.

    Example:
      >>> from jopt.task import Regression
      >>> [column.key for column in task_columns(Regression())][:4]
      ['r2', 'r2_change', 'mse', 'rmse']
      >>> [column.label for column in task_columns()][:2]
      ['test accuracy', 'change']
    """
    task = task.resolved()
    deciding, loss = task.deciding, task.loss_metric
    others = [metric for metric in (*task.metrics, loss) if metric.key != deciding.key]
    # In percentage points, as a change of 1 % could mean either.
    points = "points" if deciding.format == "percent" else "+.4g"
    change = Column(f"{deciding.key}_change", "change", deciding.unit, deciding.better, points,
                    _Change(deciding.key), short="change", scopes=_STAGE)  # fmt: skip
    # The order is that of the columns in trials.csv, which programs read.
    columns = [
        _metric_column(deciding, "test", _Value(deciding.key), short=deciding.label),
        change,
        *(_metric_column(metric, "test") for metric in others),
        _CHURN,
        *(_metric_column(metric, "validation", scopes=_TRIAL) for metric in (deciding, *others)),
        _metric_column(loss, "train", scopes=_TRIAL),
    ]
    return tuple(c if c is _CHURN else dataclasses.replace(c, origin="task") for c in columns)


def _metric_column(
    metric: Metric, part: str, compute: Callable[[Measured], Number | None] | None = None, **fields: Any
) -> Column:
    key = metric.key if part == "test" else f"{part}_{metric.key}"
    label = f"{'training' if part == 'train' else part} {metric.label}"
    return Column(key, label, metric.unit, metric.better, metric.format, compute, **fields)


def built_in(task: Task = CLASSIFIER) -> tuple[Column, ...]:
    """The columns of jopt's own for a task: its metrics, then what is measured of any network."""
    return (*task_columns(task), *_MEASURES)


BUILT_IN = built_in()
"""The columns of jopt's own for a classifier."""


def columns_of(scope: Scope, extra: Sequence[Column | str] = (), task: Task = CLASSIFIER) -> tuple[Column, ...]:
    """The columns of a kind of table: the built-in ones, then those from outside.

    Args:
      scope: 'run', 'stage' or 'trial'.
      extra: columns, or their names `package.module:name`.
      task: whose metrics the table has.

    Raises:
      ConfigError: see `load_columns`.

    Example:
      >>> [column.key for column in columns_of("trial")][:3]
      ['accuracy', 'loss', 'validation_accuracy']
    """
    return tuple(c for c in (*built_in(task), *load_columns(extra, task=task)) if scope in c.scopes)


def load_columns(
    columns: Sequence[Column | str], *, trusted: bool = True, task: Task = CLASSIFIER
) -> tuple[Column, ...]:
    """Columns from outside, imported where only their name is given; `trusted` as in `jopt.reference.resolve`.

    Args:
      columns: columns, or their names.
      trusted: whether modules may be imported.
      task: whose metrics have keys that no other column may have.

    Raises:
      ConfigError: for a name that is not `package.module:name`, cannot be imported or is no `Column`; for a key
        that two columns have, or that tables use themselves.

    Example:
      >>> load_columns(["jopt.measure.columns:IntegerCode"])
      Traceback (most recent call last):
      ...
      jopt.config.ConfigError: columns must be a jopt.measure.Column, got 'jopt.measure.columns:IntegerCode'
    """
    # All are imported before any is used, so a wrong name ends a run before it trains.
    loaded = tuple(_imported(column, trusted) for column in columns)
    keys = [column.key for column in built_in(task)]
    for column in loaded:
        # Two columns of one key would overwrite each other in result.json and in CSV.
        require(column.key not in keys, "columns", column.key, "a column with a key that no other has")
        require(
            column.key not in RESERVED, "columns", column.key, f"a column with a key unlike {', '.join(RESERVED)}"
        )
        keys.append(column.key)
    return loaded


def _imported(column: Column | str, trusted: bool) -> Column:
    if isinstance(column, Column):
        return column
    value = resolve(column, "columns", trusted=trusted)
    require(isinstance(value, Column), "columns", column, "a jopt.measure.Column")
    return value


def stage_rows(
    outcomes: Sequence[StageOutcome],
    labels: ArrayLike | None = None,
    flops: Mapping[str, int] | None = None,
    columns: Sequence[Column | str] = (),
    failed: Failed | None = None,
    task: Task = CLASSIFIER,
) -> list[dict[str, Any]]:
    """One row of numbers for each stage, ready for JSON; the others are compared with the first stage.

    Args:
      outcomes: the stages, the dense model first.
      labels: true classes of the test examples, integers [examples]; only for the accuracy of a stage whose
        metrics lack it.
      flops: FLOPs of one example by layer, as `jopt.measure.flops_by_layer` gives them.
      columns: columns from outside, or their names.
      failed: told of a column from outside that cannot be computed, which is None then; without it that is an
        error.
      task: whose metrics the stages have.

    Returns:
      For each stage: `stage`, its metrics, and the columns of scope 'stage' for which the data are there: always
      `parameters`, `nonzero_parameters`, `sparsity`, `distinct_values`, `bits_per_parameter`, `theoretical_bytes`
      (see `storage`); the change of the deciding metric (`accuracy_change`) and `churn` (against the first stage),
      `bytes`, `flops`, `effective_flops` (None where a model's layers cannot be seen) and `sqnr_db` (None where
      nothing was rounded: JSON has no infinity).

    Raises:
      ValueError: if a stage's predictions are of other examples than the first's or the labels.
      ConfigError: for columns that cannot be loaded, or computed.

    Example:
      >>> dense = StageOutcome("dense", {"kernel": np.float32([[1, 2], [3, 4]])}, {"accuracy": 0.5})
      >>> pruned = StageOutcome("prune", {"kernel": np.float32([[0, 0], [0, 4]])}, {"accuracy": 0.25})
      >>> rows = stage_rows([dense, pruned], flops={"": 8})
      >>> [row["accuracy_change"] for row in rows], [row["sparsity"] for row in rows]
      ([0.0, -0.25], [0.0, 0.75])
    """
    chosen = columns_of("stage", columns, task)
    rows: list[dict[str, Any]] = []
    first: Measured | None = None
    for outcome in outcomes:
        measured = Measured(outcome, first, labels, flops)
        # Change and churn are against the dense model, whatever the stages between did.
        first = first or measured
        rows.append({"stage": outcome.name, **_metrics(outcome), **_computed(measured, chosen, failed)})
    return rows


def trial_row(
    outcome: StageOutcome,
    columns: Sequence[Column | str] = (),
    failed: Failed | None = None,
    task: Task = CLASSIFIER,
) -> dict[str, Any]:
    """The row of a trial's last network: its metrics and the columns of scope 'trial' that can be computed.

    Args:
      outcome: of the trial's last stage.
      columns: columns from outside, or their names.
      failed: as in `stage_rows`.
      task: whose metrics the trial has.

    Example:
      >>> row = trial_row(StageOutcome("prune", {"kernel": np.float32([[0, 0], [0, 4]])}, {"accuracy": 0.25}))
      >>> row["accuracy"], row["sparsity"], "churn" in row
      (0.25, 0.75, False)
    """
    return {**_metrics(outcome), **_computed(Measured(outcome), columns_of("trial", columns, task), failed)}


def describe_failure(column: str, stage: str, error: Exception) -> str:
    """What a warning says of a column that `failed` was told of.

    Example:
      >>> describe_failure("mine", "prune", KeyError("kernel"))
      "column 'mine' of stage 'prune' cannot be computed and is null (KeyError: 'kernel')"
    """
    reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return f"column {column!r} of stage {stage!r} cannot be computed and is null ({reason})"


def _metrics(outcome: StageOutcome) -> dict[str, Any]:
    return {key: _json(value) for key, value in outcome.metrics.items()}


def _computed(measured: Measured, columns: Sequence[Column], failed: Failed | None) -> dict[str, Any]:
    # None is left out, as a stage without a packed file has no length of it at all; not so what JSON has no number
    # for: an infinite SQNR says that nothing was rounded.
    values = {column.key: _value(column, measured, failed) for column in columns if column.compute is not None}
    return {key: _json(value) for key, value in values.items() if value is not None}


def _value(column: Column, measured: Measured, failed: Failed | None) -> Any:
    try:
        return _number(column, measured)
    except ConfigError as error:
        # A built-in column that fails is a defect, which no warning may hide.
        if failed is None or column.origin != "outside":
            raise
        cause = error.__cause__
        failed(column.key, measured.outcome.name, cause if isinstance(cause, Exception) else error)
        return math.nan


def _number(column: Column, measured: Measured) -> Any:
    accepted = "a column whose compute gives a number, or None where it is not known"
    assert column.compute is not None
    try:
        value = column.compute(measured)
        plain = _json(value)
    # A column is the user's code and can fail in any way; without its key the message would say nothing.
    except Exception as error:
        raise ConfigError("columns", column.key, f"{accepted} ({type(error).__name__}: {error})") from error
    require(plain is None or isinstance(plain, int | float), "columns", column.key, f"{accepted}, not {value!r}")
    return value


def _json(value: Any) -> Any:
    """A Python number; None for what JSON does not have."""
    if isinstance(value, np.generic) or (hasattr(value, "item") and np.ndim(value) == 0):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
