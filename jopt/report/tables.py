"""Tables as data, written for a terminal, as Markdown or as HTML."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from jopt.report.formats import printable

if TYPE_CHECKING:
    import rich.table


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


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def escape(text: str) -> str:
    r"""Text that Markdown shows unchanged.

    Example:
      >>> print(escape("a_b <c> | d"))
      a\_b \<c\> \| d
    """
    return "".join("\\" + c if c in "\\`*_[]<>|#~" else c for c in text).replace("\n", " ")


def to_html(table: Table) -> str:
    """The table as HTML, in an element that scrolls where it is too wide; every cell is escaped.

    Example:
      >>> print(to_html(Table("", ("n",), "r", [("<1>",)])))
      <div class="wide"><table><thead><tr><th class="r">n</th></tr></thead>
      <tbody>
      <tr><td class="r">&lt;1&gt;</td></tr>
      </tbody></table></div>
    """

    def line(cells: Sequence[str], tag: str) -> str:
        marked = zip((' class="r"' if align == "r" else "" for align in table.align), cells, strict=True)
        return "<tr>" + "".join(f"<{tag}{mark}>{_cell(cell)}</{tag}>" for mark, cell in marked) + "</tr>"

    caption = f"<caption>{html.escape(table.title)}</caption>" if table.title else ""
    body = "\n".join(line(row, "td") for row in table.rows)
    footer = f"<tfoot>{line(table.footer, 'td')}</tfoot>" if table.footer else ""
    return (
        f'<div class="wide"><table>{caption}<thead>{line(table.header, "th")}</thead>\n<tbody>\n{body}\n</tbody>'
        f"{footer}</table></div>"
    )


def _cell(text: str) -> str:
    # A command is copied verbatim, so it is set as code.
    escaped = html.escape(text)
    return f"<code>{escaped}</code>" if text.startswith(("jopt ", "jopt.", "python ")) else escaped


def to_rich(table: Table) -> rich.table.Table:
    """The table for a rich console: long names fold, numbers stay whole, at 80 columns too."""
    import rich.box
    import rich.table
    import rich.text

    grid = rich.table.Table(
        title=rich.text.Text(printable(table.title), style="bold") if table.title else None,
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
        grid.add_column(
            rich.text.Text(printable(name)), rich.text.Text(printable(total)),
            justify="right" if right else "left", no_wrap=right, overflow="fold",
        )  # fmt: skip
    for row in table.rows:
        grid.add_row(*(rich.text.Text(printable(cell)) for cell in row))
    return grid


def fit(table: Table, width: int) -> list[Table]:
    """Cuts a table with too many columns into tables that are at most `width` wide; each has the first column.

    Example:
      >>> wide = Table("T", ("", "aaaa", "bbbb", "cccc"), "lrrr", [("x", "1", "2", "3")])
      >>> [part.header for part in fit(wide, 20)]
      [('', 'aaaa', 'bbbb'), ('', 'cccc')]
    """
    columns = list(zip(table.header, *table.rows, strict=True))
    # Rich puts three characters between columns.
    gap, widest = 3, 32  # Longer cells fold.
    sizes = [min(max(map(len, column)), widest) + gap for column in columns]
    parts: list[list[int]] = [[]]
    for i in range(1, len(columns)):
        # The first column is repeated in each part: without it no row could be read.
        if parts[-1] and sizes[0] + sum(sizes[j] for j in parts[-1]) + sizes[i] > width:
            parts.append([])
        parts[-1].append(i)
    return [_columns(table, [0, *part], " (continued)" if n else "") for n, part in enumerate(parts)]


def _columns(table: Table, keep: Sequence[int], suffix: str) -> Table:
    def cut(cells: Sequence[str]) -> tuple[str, ...]:
        return tuple(cells[i] for i in keep)

    return Table(table.title + suffix, cut(table.header), "".join(cut(table.align)), [cut(r) for r in table.rows])
