"""Tables of a compression: its stages, its layers before and after, its classes before and after."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jopt.measure import ClassChange, LayerStorage, total_storage
from jopt.report import formats
from jopt.report.tables import Table

Row = Mapping[str, Any]


class _Column(NamedTuple):
    """A column of `stages_table`; where 80 columns must do it has a short name and text, or is left out."""

    key: str
    name: str
    text: Callable[[Any], str]
    short_name: str = ""
    short_text: Callable[[Any], str] | None = None


def _tenths(v: float) -> str:
    return f"{100 * v:.1f}%"


_COLUMNS = (
    _Column("accuracy", "accuracy", formats.percent, "accuracy"),
    _Column("accuracy_change", "change", formats.points, "change", lambda v: formats.points(v).removesuffix(" pp")),
    _Column("loss", "loss", formats.number),
    _Column("churn", "churn", formats.percent, "churn", _tenths),
    _Column("parameters", "parameters", formats.integer),
    _Column("nonzero_parameters", "nonzero", formats.integer),
    _Column("sparsity", "sparsity", formats.percent, "zeros", _tenths),
    _Column("distinct_values", "distinct values", formats.integer),
    _Column("bits_per_parameter", "theoretical bits/parameter", lambda v: f"{v:.2f}", "bits"),
    _Column("theoretical_bytes", "theoretical size", formats.binary, "size"),
    _Column("bytes", "packed file", formats.binary, "file"),
    _Column("flops", "FLOPs", formats.si),
    _Column("effective_flops", "theoretical effective FLOPs", formats.si, "FLOPs"),
    _Column("sqnr_db", "SQNR", lambda v: f"{v:.1f} dB"),
)
_SHORT_STAGE = 14


def stages_table(rows: Sequence[Row], title: str = "Stages", brief: bool = False) -> Table:
    """The stages of a compression, one a row.

    Args:
      rows: what `jopt.measure.stage_rows` gave: mappings with `stage`, `accuracy`, `accuracy_change`, `loss`,
        `churn`, `parameters`, `nonzero_parameters`, `sparsity`, `distinct_values`, `bits_per_parameter`,
        `theoretical_bytes`, `bytes`, `flops`, `effective_flops`, `sqnr_db`. What a row lacks, or has as None, is
        `-`; a column that no row has is left out.
      title: the table's title.
      brief: only what fits a terminal of 80 columns; the title says units, and what is theoretical.

    Example:
      >>> from jopt.report.tables import to_markdown
      >>> rows = [{"stage": "a", "accuracy": 0.98, "theoretical_bytes": 4096}, {"stage": "b", "churn": 0.01}]
      >>> print(to_markdown(stages_table(rows, title="")))
      | stage | accuracy | churn | theoretical size |
      | :--- | ---: | ---: | ---: |
      | a | 98.00% | - | 4.00 KiB |
      | b | - | 1.00% | - |
    """
    known = [c for c in _COLUMNS if any(row.get(c.key) is not None for row in rows)]
    names = [formats.shorten(str(row.get("stage", "")), _SHORT_STAGE if brief else 80) for row in rows]
    if brief:
        # Of two sizes a narrow table has room for the one that is not theoretical.
        packed = any(c.key == "bytes" for c in known)
        known = [c for c in known if c.short_name and not (packed and c.key == "theoretical_bytes")]
        known = [c._replace(text=c.short_text or c.text) for c in known]
        theoretical = [c.short_name for c in known if c.name.startswith("theoretical")]
        units = ["change: percentage points"] * any(c.key == "accuracy_change" for c in known)
        units += [f"{', '.join(theoretical)}: theoretical"] * bool(theoretical)
        title = f"{title} ({'; '.join(units)})" if units else title
    header = ("stage", *(c.short_name if brief else c.name for c in known))
    cells = [
        (name, *("-" if row.get(c.key) is None else c.text(row[c.key]) for c in known))
        for name, row in zip(names, rows, strict=True)
    ]
    return Table(title, header, "l" + "r" * len(known), cells)


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


def _both(before: Any, after: Any, text: Callable[[Any], str]) -> str:
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
