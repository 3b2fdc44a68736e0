"""Tables as plain HTML that a script can sort, with rows that lead to points and trials."""

import html
from collections.abc import Sequence

from jopt.report.tables import Table

Key = float | str | None


def to_html(table: Table, keys: Sequence[Sequence[Key]] = (), targets: Sequence[str] = (), code: str = "") -> str:
    """A table whose every cell is escaped.

    Args:
      table: as in all reports.
      keys: what each cell is sorted by, where it is not its text; None stands last.
      targets: a fragment of the page's address for each row, such as `point=3`; its first cell leads there.
      code: the name of the column that holds commands.

    Example:
      >>> print(to_html(Table("", ("n",), "r", [("1",)]), keys=[[1.0]], targets=["point=0"]))
      <div class="wide" tabindex="0"><table class="sortable"><thead><tr><th class="r">n</th></tr></thead>
      <tbody>
      <tr data-target="point=0"><td class="r" data-key="1.0"><a href="#point=0">1</a></td></tr>
      </tbody></table></div>
    """
    marks = ['class="r"' if align == "r" else "" for align in table.align]
    body = []
    for i, row in enumerate(table.rows):
        cells = []
        for j, cell in enumerate(row):
            key = f'data-key="{"" if keys[i][j] is None else html.escape(str(keys[i][j]))}"' if keys else ""
            inner = html.escape(cell)
            if targets and j == 0:
                inner = f'<a href="#{html.escape(targets[i])}">{inner}</a>'
            if code and table.header[j] == code:
                inner = f"<code>{inner}</code>"
            cells.append(f"<{' '.join(filter(None, ('td', marks[j], key)))}>{inner}</td>")
        target = f' data-target="{html.escape(targets[i])}"' if targets else ""
        body.append(f"<tr{target}>{''.join(cells)}</tr>")
    head = "".join(
        f"<{' '.join(filter(None, ('th', mark)))}>{html.escape(name)}</th>"
        for mark, name in zip(marks, table.header, strict=True)
    )
    foot = "".join(
        f"<{' '.join(filter(None, ('td', m)))}>{html.escape(c)}</td>"
        for m, c in zip(marks, table.footer, strict=False)
    )
    caption = f"<caption>{html.escape(table.title)}</caption>" if table.title else ""
    mark = ' class="sortable"' if keys else ""
    footer = f"<tfoot><tr>{foot}</tr></tfoot>" if foot else ""
    rows = "\n".join(body)
    return (
        f'<div class="wide" tabindex="0"><table{mark}>{caption}<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody>{footer}</table></div>"
    )
