"""Tables of a run: its model, its plan, its result, its stages, and its layers and classes before and after."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jopt.layers import is_weight
from jopt.measure import CLASSIFIER, ClassChange, Column, LayerStorage, columns_of, load_columns, total_storage
from jopt.report import formats
from jopt.report.tables import Table
from jopt.rules import Assignment
from jopt.task import Task
from jopt.typing import Record

if TYPE_CHECKING:
    from jopt.measure import Layer


_SHORT_STAGE = 14


def model_table(layers: Sequence[Layer], flops: Mapping[str, int] | None = None, title: str = "Model") -> Table:
    """The parameters of a model, one row for each array.

    Args:
      layers: what `jopt.measure.layers` gave.
      flops: FLOPs by layer, as `jopt.measure.flops_by_layer` gives them; they are in the row of the layer's
        largest array. `''` holds what belongs to no layer.
      title: the table's title.

    Returns:
      A `Table`: path, shape, dtype, parameters, share of all parameters, nonzeros where any weight is zero, FLOPs
      where given.
    """
    total = sum(layer.parameters for layer in layers)
    nonzero = sum(layer.nonzero_parameters for layer in layers)
    pruned = any(
        layer.nonzero_parameters < layer.parameters for layer in layers if is_weight(layer.path, layer.shape)
    )
    # The FLOPs of a layer belong to its kernel, which is its largest array.
    largest: dict[str, Layer] = {}
    for layer in layers:
        owner = layer.path.rpartition("/")[0]
        if owner not in largest or layer.parameters > largest[owner].parameters:
            largest[owner] = layer
    by_path = {layer.path: (flops or {}).get(owner, 0) for owner, layer in largest.items()}

    def row(path: str, shape: str, dtype: str, count: int, nonzeros: int, operations: int) -> tuple[str, ...]:
        cells = [path, shape, dtype, formats.integer(count)]
        cells.append(f"{100 * count / total:.1f}%" if total else "-")
        if pruned:
            cells.append(formats.integer(nonzeros))
        if flops is not None:
            cells.append(formats.si(operations) if operations else "")
        return tuple(cells)

    rows = [
        row(x.path, "x".join(map(str, x.shape)) or "scalar", x.dtype, x.parameters, x.nonzero_parameters,
            by_path.get(x.path, 0))
        for x in layers
    ]  # fmt: skip
    # Without this row the totals would not add up.
    if flops and flops.get("") and "" not in largest:
        rows.append(row("(no layer)", "", "", 0, 0, flops[""]))
    header = ["parameter", "shape", "dtype", "count", "share"] + ["nonzero"] * pruned
    header += ["FLOPs"] * (flops is not None)
    footer = row("total", "", "", total, nonzero, sum((flops or {}).values()))
    return Table(title, tuple(header), "lll" + "r" * (len(header) - 3), rows, footer)


def plan_table(plans: Mapping[str, Sequence[Assignment[object]]], title: str = "Plan") -> Table:
    r"""What each parameter was given by the rules of each transform.

    Args:
      plans: the name of a transform, or of what it sets, to what `jopt.rules.plan` gave; all over one tree.
      title: the table's title.

    Returns:
      A `Table`: the parameter's path and, for each plan, the value. A lone plan also shows the pattern that
      gave the value.

    Example:
      >>> from jopt.report.tables import to_markdown
      >>> from jopt.rules import plan
      >>> sparsity = plan([(".*kernel", 0.9)], {"Dense_0": {"bias": 0, "kernel": 0}}, None)
      >>> print(to_markdown(plan_table({"sparsity": sparsity}, title="")))
      | parameter | sparsity | rule |
      | :--- | :--- | :--- |
      | Dense\_0/bias | - | (default) |
      | Dense\_0/kernel | 0.9 | .\*kernel |
    """
    if not plans:
        return Table(title, ("parameter",), "l", [])
    columns = list(plans.values())
    rows = []
    for assignments in zip(*columns, strict=True):
        paths = {a.path for a in assignments}
        # Plans over different trees would be printed side by side as if they were of one parameter.
        if len(paths) > 1:
            raise ValueError(f"plans must be over one tree, got the parameters {sorted(paths)} in one row")
        cells = [assignments[0].path] + ["-" if a.value is None else str(a.value) for a in assignments]
        if len(columns) == 1:
            cells.append(assignments[0].pattern or "(default)")
        rows.append(tuple(cells))
    header = ("parameter", *plans, *(["rule"] if len(columns) == 1 else []))
    return Table(title, header, "l" * len(header), rows)


def result_table(
    result: Mapping[str, object],
    title: str = "Result",
    columns: Sequence[Column | str] = (),
    task: Task = CLASSIFIER,
) -> Table:
    """The numbers of one run's `result.json`, one a row; nested values are left out.

    Args:
      result: of the run.
      title: the table's title.
      columns: columns from outside, or their names.
      task: of the run.

    Example:
      >>> from jopt.report.tables import to_markdown
      >>> print(to_markdown(result_table({"accuracy": 0.9712, "parameters": 266610}, title="")))
      | metric | value |
      | :--- | ---: |
      | accuracy | 97.12% |
      | parameters | 266,610 |
    """
    outside = {column.key: column for column in load_columns(columns, task=task)}
    rows = [
        (outside[k].label, formats.text(outside[k], v)) if k in outside and not isinstance(v, str) else
        (formats.name(k, task), formats.shorten(formats.value(k, v, task), 25))
        for k, v in result.items() if v is None or isinstance(v, bool | int | float | str)
    ]  # fmt: skip
    return Table(title, ("metric", "value"), "lr", rows)


def last_rows_table(rows: Sequence[Record], task: Task = CLASSIFIER) -> Table:
    """The last metric row of every stage and split."""
    last = {(row.get("stage", ""), row.get("split", "")): row for row in rows}
    metrics = [metric.key for metric in task.metrics]
    keys = [k for k in ("loss", *metrics, "steps_per_second") if any(k in row for row in last.values())]
    cells = [
        (
            *map(str, stage_and_split),
            formats.integer(row["step"]),
            *(formats.value(k, row.get(k), task) for k in keys),
        )
        for stage_and_split, row in last.items()
    ]
    names = ["steps/s" if k == "steps_per_second" else formats.name(k, task) for k in keys]
    header = ("stage", "split", "last step", *names)
    return Table("", header, "ll" + "r" * (1 + len(keys)), cells)


def results_table(
    results: Mapping[str, Mapping[str, object]],
    columns: Sequence[str] | None = None,
    title: str = "Results",
    task: Task = CLASSIFIER,
) -> Table:
    """Several runs, one a row.

    Args:
      results: the name of a run to its `result.json`.
      columns: the metrics to show; one that no run has is left out. None: those of the task, and sizes.
      title: the table's title.
      task: of the runs.
    """
    if columns is None:
        columns = (*(metric.key for metric in task.metrics), "loss", "nonzero_parameters", "bytes", "flops")
    shown = [c for c in columns if any(c in result for result in results.values())]
    rows = [(run, *(_brief(c, result.get(c), task) for c in shown)) for run, result in results.items()]
    return Table(title, ("run", *(formats.name(c, task) for c in shown)), "l" + "r" * len(shown), rows)


def _brief(key: str, value: object, task: Task) -> str:
    return formats.value(key, value, task).partition(" (")[0]


def stages_table(
    rows: Sequence[Record],
    title: str = "Stages",
    brief: bool = False,
    columns: Sequence[Column | str] = (),
    task: Task = CLASSIFIER,
) -> Table:
    """The stages of a compression, one a row.

    Args:
      rows: what `jopt.measure.stage_rows` gave. What a row lacks, or has as None, is `-`; a column that no row has
        is left out; a number of the rows that has no column gets one.
      title: the table's title.
      brief: only what fits a terminal of 80 columns; the title has the units, and says what is theoretical.
      columns: columns from outside, or their names.
      task: whose metrics the rows have.

    Example:
      >>> from jopt.report.tables import to_markdown
      >>> rows = [{"stage": "a", "accuracy": 0.98, "theoretical_bytes": 4096}, {"stage": "b", "churn": 0.01}]
      >>> print(to_markdown(stages_table(rows, title="")))
      | stage | test accuracy | churn | theoretical size |
      | :--- | ---: | ---: | ---: |
      | a | 98.00% | - | 4.00 KiB |
      | b | - | 1.00% | - |
    """
    shown = [c for c in _columns_in(rows, columns, task) if any(row.get(c.key) is not None for row in rows)]
    names = [formats.shorten(str(row.get("stage", "")), _SHORT_STAGE if brief else 80) for row in rows]
    if brief:
        # Of two sizes a narrow table has room for the one that is not theoretical.
        packed = any(c.key == "bytes" for c in shown)
        shown = [c for c in shown if c.short or c.origin == "outside"]
        shown = [c for c in shown if not (packed and c.key == "theoretical_bytes")]
        theoretical = [c.short for c in shown if c.label.startswith("theoretical")]
        units = ["change: percentage points"] * any(c.format == "points" and c.origin == "task" for c in shown)
        units += [f"{', '.join(theoretical)}: theoretical"] * bool(theoretical)
        title = f"{title} ({'; '.join(units)})" if units else title
    header = ("stage", *(c.short or c.label if brief else c.label for c in shown))
    show = formats.short if brief else formats.text
    cells = [(name, *(show(c, row.get(c.key)) for c in shown)) for name, row in zip(names, rows, strict=True)]
    return Table(title, header, "l" + "r" * len(shown), cells)


def _columns_in(rows: Sequence[Record], columns: Sequence[Column | str], task: Task) -> list[Column]:
    registered = columns_of("stage", columns, task)
    keys = {column.key for column in registered}
    # A number that is no metric of the task has no column and is shown all the same.
    numbers = dict.fromkeys(
        key for row in rows for key, v in row.items() if isinstance(v, int | float) and not isinstance(v, bool)
    )
    return [*registered, *(formats.column(key, "stage", task) for key in numbers if key not in keys)]


def layers_table(
    before: Sequence[LayerStorage],
    after: Sequence[LayerStorage],
    sqnr: Mapping[str, float] | None = None,
    title: str = "Layers before and after",
) -> Table:
    """The arrays of a model before and after compression, one a row; what did not change is written once.

    Args:
      before: what `jopt.measure.storage` gave for the first model.
      after: the same for the last; an array that only one of the two has shows `-` for the other.
      sqnr: decibels by path, as `jopt.measure.sqnr_by_layer` gives them.
      title: the table's title.

    Returns:
      A `Table`: path, shape, nonzeros, sparsity after, distinct values, bits a parameter and size, the code of the
      array after, and the ratio where given; with totals.
    """
    old, new = {row.path: row for row in before}, {row.path: row for row in after}
    header = ["parameter", "shape", "nonzero", "sparsity", "distinct values"]
    header += ["theoretical bits/parameter", "theoretical size", "code"] + ["SQNR"] * (sqnr is not None)
    rows = []
    for path in dict.fromkeys((*old, *new)):
        a, b = old.get(path), new.get(path)
        cells = [
            path,
            _both(a, b, lambda r: "x".join(map(str, r.shape)) or "scalar"),
            _both(a, b, lambda r: formats.integer(r.nonzero_parameters)),
            formats.percent(b.sparsity) if b else "-",
            _both(a, b, lambda r: formats.integer(r.distinct_values)),
            _both(a, b, lambda r: f"{r.bits_per_parameter:.2f}"),
            _both(a, b, lambda r: formats.binary(-(-r.bits // 8))),
            b.code if b else "-",
        ]
        if sqnr is not None:
            cells.append(_decibels(sqnr.get(path)))
        rows.append(tuple(cells))
    footer = ["total", "", *_totals(before, after), ""] + [""] * (sqnr is not None)
    return Table(title, tuple(header), "ll" + "r" * 5 + "l" + "r" * (sqnr is not None), rows, tuple(footer))


def classes_table(
    changes: Sequence[ClassChange], names: Sequence[str] | None = None, title: str = "Classes before and after"
) -> Table:
    """The accuracy on each class before and after compression.

    Args:
      changes: what `jopt.measure.class_changes` gave.
      names: of the classes; None for their numbers.
      title: the table's title.

    Example:
      >>> from jopt.measure import class_changes
      >>> table = classes_table(class_changes(before=[0, 0, 1], after=[0, 1, 1], labels=[0, 0, 1]))
      >>> table.rows, table.footer  # doctest: +NORMALIZE_WHITESPACE
      ([('0', '2', '100.00%', '50.00%', '-50.00 pp'), ('1', '1', '100.00%', '100.00%', '0.00 pp')],
       ('all', '3', '100.00%', '66.67%', '-33.33 pp'))
    """

    def cells(name: str, examples: int, before: int, after: int) -> tuple[str, ...]:
        if not examples:
            return name, "0", "-", "-", "-"
        shares = formats.percent(before / examples), formats.percent(after / examples)
        return name, formats.integer(examples), *shares, formats.points((after - before) / examples)

    rows = [cells(str(names[c.label]) if names is not None else str(c.label), *c[1:]) for c in changes]
    footer = cells("all", *(sum(c[i] for c in changes) for i in (1, 2, 3)))
    return Table(title, ("class", "examples", "before", "after", "change"), "lrrrr", rows, footer)


def _both(before: object, after: object, text: Callable[[Any], str]) -> str:
    a, b = (text(row) if row else "-" for row in (before, after))
    return a if a == b else f"{a} → {b}"


def _totals(before: Sequence[LayerStorage], after: Sequence[LayerStorage]) -> list[str]:
    a, b = total_storage(before), total_storage(after)
    return [
        _both(a, b, lambda t: formats.integer(t.nonzero_parameters)),
        formats.percent(b.sparsity),
        "",
        _both(a, b, lambda t: f"{t.bits_per_parameter:.2f}"),
        _both(a, b, lambda t: formats.binary(t.bytes)),
    ]


def _decibels(value: float | None) -> str:
    """A ratio; `exact` where nothing was rounded."""
    return "-" if value is None else "exact" if value == float("inf") else f"{value:.1f} dB"
