"""A report as one HTML file that needs no other: tables, and pictures inside it."""

import base64
import html
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jopt.files import write_text
from jopt.report.tables import Table, escape, to_markdown


class Heading(NamedTuple):
    """A heading of a report.

    Attributes:
      text: one line.
      level: 1 for the title, 2 for a section, 3 within one.
    """

    text: str
    level: int = 2


class Picture(NamedTuple):
    """A picture of a report.

    Attributes:
      caption: what it shows; also its text for those who cannot see it.
      path: of the PNG file, relative to the report's directory.
    """

    caption: str
    path: str


Part = Heading | Picture | Table | str

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2, h3 { line-height: 1.2; margin: 1.6em 0 0.5em; }
h1 { margin-top: 0; }
.wide { overflow-x: auto; margin: 0.8em 0 1.4em; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding-bottom: 0.3em; }
th, td { padding: 0.28em 0.8em; text-align: left; white-space: nowrap; }
th.r, td.r { text-align: right; }
thead th { border-bottom: 1px solid #888; vertical-align: bottom; white-space: normal; }
tbody tr:nth-child(even) { background: #f6f6f6; }
tfoot td { border-top: 1px solid #888; font-weight: 600; }
figure { margin: 1em 0 1.6em; }
img { max-width: 100%; height: auto; }
figcaption { color: #666; font-size: 13px; }
""".strip()


def to_html(title: str, parts: Sequence[Part], directory: str | os.PathLike[str]) -> str:
    """The parts of a report as one HTML page: no scripts, and nothing is loaded from anywhere.

    Args:
      title: of the page.
      parts: headings, tables, pictures, and paragraphs of plain text, in order.
      directory: where the pictures are; each is put into the page.

    Returns:
      The page.

    Raises:
      OSError: if a picture cannot be read.

    Example:
      >>> page = to_html("a < b", [Heading("Result"), "One <line>.", Table("", ("n",), "r", [("1",)])], ".")
      >>> "<title>a &lt; b</title>" in page, "<p>One &lt;line&gt;.</p>" in page, '<td class="r">1</td>' in page
      (True, True, True)
    """
    body = "\n".join(_part(part, Path(directory)) for part in parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{_STYLE}\n</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def write_html(path: str | os.PathLike[str], title: str, parts: Sequence[Part]) -> None:
    """Writes the page of `to_html` atomically; pictures are looked for beside it."""
    write_text(path, to_html(title, parts, Path(path).parent))


def parts_markdown(parts: Sequence[Part]) -> str:
    """The same parts as GitHub Markdown; pictures stay files beside it.

    Example:
      >>> print(parts_markdown([Heading("Result"), "It fits.", Picture("Loss", "loss.png")]))
      ## Result
      <BLANKLINE>
      It fits.
      <BLANKLINE>
      ![Loss](<loss.png>)
    """
    return "\n\n".join(_markdown(part) for part in parts)


def _markdown(part: Part) -> str:
    if isinstance(part, Heading):
        return f"{'#' * part.level} {escape(part.text)}"
    if isinstance(part, Picture):
        return f"![{escape(part.caption)}](<{part.path}>)"
    return to_markdown(part) if isinstance(part, Table) else escape(part)


def _part(part: Part, directory: Path) -> str:
    if isinstance(part, Heading):
        return f"<h{part.level}>{html.escape(part.text)}</h{part.level}>"
    if isinstance(part, Picture):
        data = base64.b64encode((directory / part.path).read_bytes()).decode()
        caption = html.escape(part.caption)
        return (
            f'<figure><img alt="{caption}" src="data:image/png;base64,{data}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    return _table(part) if isinstance(part, Table) else f"<p>{html.escape(part)}</p>"


def _table(table: Table) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        marks = (' class="r"' if align == "r" else "" for align in table.align)
        return "<tr>" + "".join(
            f"<{tag}{mark}>{html.escape(cell)}</{tag}>" for mark, cell in zip(marks, cells, strict=True)
        ) + "</tr>"  # fmt: skip

    caption = f"<caption>{html.escape(table.title)}</caption>" if table.title else ""
    body = "\n".join(line(row, "td") for row in table.rows)
    footer = f"<tfoot>{line(table.footer, 'td')}</tfoot>" if table.footer else ""
    return (
        f'<div class="wide"><table>{caption}<thead>{line(table.header, "th")}</thead>\n<tbody>\n{body}\n</tbody>'
        f"{footer}</table></div>"
    )
