"""Tables of a model, a plan and a result: plain data first, then rich or Markdown."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from jopt.layers import is_weight
from jopt.report import formats
from jopt.rules import Assignment

if TYPE_CHECKING:
    import rich.console
    import rich.table

    from jopt.measure import Layer


class Table(NamedTuple):
    """A table as data.

    Attributes:
      title: one line, or an empty string.
      header: a name for each column.
      align: `l` or `r` for each column, as one string.
      rows: a string for each cell.
      footer: the totals, a string for each cell; empty where there are none.
    """

    title: str
    header: tuple[str, ...]
    align: str
    rows: list[tuple[str, ...]]
    footer: tuple[str, ...] = ()


def model_table(layers: Sequence[Layer], flops: Mapping[str, int] | None = None, title: str = "Model") -> Table:
    """The parameters of a model, one row for each array.

    Args:
      layers: what `jopt.measure.layers` gave.
      flops: FLOPs by layer, as `jopt.measure.flops_by_layer` gives them; they stand in the row of the layer's
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
    if flops and flops.get("") and "" not in largest:
        rows.append(row("(no layer)", "", "", 0, 0, flops[""]))
    header = ["parameter", "shape", "dtype", "count", "share"] + ["nonzero"] * pruned
    header += ["FLOPs"] * (flops is not None)
    footer = row("total", "", "", total, nonzero, sum((flops or {}).values()))
    return Table(title, tuple(header), "lll" + "r" * (len(header) - 3), rows, footer)


def plan_table(plans: Mapping[str, Sequence[Assignment[Any]]], title: str = "Plan") -> Table:
    r"""What each parameter was given by the rules of each transform.

    Args:
      plans: the name of a transform, or of what it sets, to what `jopt.rules.plan` gave; all over one tree.
      title: the table's title.

    Returns:
      A `Table`: the parameter's path and, for each plan, the value. A lone plan also shows the pattern that
      gave the value.

    Example:
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
        if len(paths) > 1:
            raise ValueError(f"plans must be over one tree, got the parameters {sorted(paths)} in one row")
        cells = [assignments[0].path] + ["-" if a.value is None else str(a.value) for a in assignments]
        if len(columns) == 1:
            cells.append(assignments[0].pattern or "(default)")
        rows.append(tuple(cells))
    header = ("parameter", *plans, *(["rule"] if len(columns) == 1 else []))
    return Table(title, header, "l" * len(header), rows)


def result_table(result: Mapping[str, Any], title: str = "Result") -> Table:
    """The numbers of one run's `result.json`, one a row; nested values are left out.

    Example:
      >>> print(to_markdown(result_table({"accuracy": 0.9712, "parameters": 266610}, title="")))
      | metric | value |
      | :--- | ---: |
      | accuracy | 97.12% |
      | parameters | 266,610 |
    """
    rows = [(formats.name(k), _shorten(formats.value(k, v))) for k, v in result.items() if _scalar(v)]
    return Table(title, ("metric", "value"), "lr", rows)


def results_table(
    results: Mapping[str, Mapping[str, Any]],
    columns: Sequence[str] = ("accuracy", "loss", "nonzero_parameters", "bytes", "flops"),
    title: str = "Results",
) -> Table:
    """Several runs, one a row.

    Args:
      results: the name of a run to its `result.json`.
      columns: the metrics to show; one that no run has is left out.
      title: the table's title.
    """
    shown = [c for c in columns if any(c in result for result in results.values())]
    rows = [(run, *(_brief(c, result.get(c)) for c in shown)) for run, result in results.items()]
    return Table(title, ("run", *(formats.name(c) for c in shown)), "l" + "r" * len(shown), rows)


def _brief(key: str, value: Any) -> str:
    return formats.value(key, value).partition(" (")[0]


def _scalar(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def _shorten(text: str, width: int = 48) -> str:
    return text if len(text) <= width else text[: width // 2 - 1] + "…" + text[-(width // 2 - 1) :]


def to_markdown(table: Table) -> str:
    r"""The table in GitHub Markdown, under its title in bold; every cell is escaped.

    Example:
      >>> print(to_markdown(Table("T", ("a", "b"), "lr", [("x|y", "1")], ("all", "1"))))
      **T**
      <BLANKLINE>
      | a | b |
      | :--- | ---: |
      | x\|y | 1 |
      | **all** | **1** |
    """
    lines = [f"**{escape(table.title)}**", ""] if table.title else []
    lines.append(_line(map(escape, table.header)))
    lines.append(_line("---:" if a == "r" else ":---" for a in table.align))
    lines += [_line(map(escape, row)) for row in table.rows]
    if table.footer:
        lines.append(_line(f"**{escape(cell)}**" if cell else "" for cell in table.footer))
    return "\n".join(lines)


def _line(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |"


def escape(text: str) -> str:
    r"""Text that Markdown shows as it stands.

    Example:
      >>> print(escape("a_b <c> | d"))
      a\_b \<c\> \| d
    """
    return "".join("\\" + c if c in "\\`*_[]<>|#~" else c for c in text).replace("\n", " ")


def to_rich(table: Table) -> rich.table.Table:
    """The table for a rich console: long names fold, numbers stay whole, at 80 columns too."""
    import rich.box
    import rich.table
    import rich.text

    out = rich.table.Table(
        title=rich.text.Text(table.title, style="bold") if table.title else None,
        title_justify="left",
        box=rich.box.SIMPLE_HEAD,
        show_footer=bool(table.footer),
        header_style="bold",
        footer_style="bold",
        pad_edge=False,
    )
    footer = table.footer or ("",) * len(table.header)
    for name, align, total in zip(table.header, table.align, footer, strict=True):
        right = align == "r"
        out.add_column(
            rich.text.Text(name), rich.text.Text(total), justify="right" if right else "left", no_wrap=right,
            overflow="fold",
        )  # fmt: skip
    for row in table.rows:
        out.add_row(*(rich.text.Text(cell) for cell in row))
    return out


def show(table: Table, console: rich.console.Console | None = None, width: int = 80) -> None:
    """Prints the table; without colors and `width` columns wide where the output is not a terminal."""
    import rich.console

    own = None if sys.stdout.isatty() else width
    (console or rich.console.Console(highlight=False, width=own)).print(to_rich(table))
