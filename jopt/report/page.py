"""A report as a list of parts, written as one HTML file that needs no other, or as Markdown."""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from typing import NamedTuple

from jopt.files import write_text
from jopt.report import tables
from jopt.report.figures import Figure
from jopt.report.formats import encodable
from jopt.report.tables import Table, escape, to_markdown

PAGE = "report.html"
"""Where Markdown, which has no figures, says that they are."""


class Heading(NamedTuple):
    """A heading of a report.

    Attributes:
      text: one line.
      level: 1 for the title, 2 for a section, 3 within one.
    """

    text: str
    level: int = 2


class Findings(NamedTuple):
    """Sentences, one a line: what a report begins with.

    Attributes:
      sentences: plain text.
    """

    sentences: Sequence[str]


class Code(NamedTuple):
    """Text that is copied verbatim.

    Attributes:
      text: such as a command.
      language: for its colors in Markdown.
    """

    text: str
    language: str = "sh"


class Details(NamedTuple):
    """Parts that open on a click.

    Attributes:
      summary: shown before.
      parts: shown after.
    """

    summary: str
    parts: Sequence[Part]


Part = Heading | Findings | Code | Figure | Table | Details | str
"""A string is a paragraph of plain text."""

# Inverting a drawn figure turns white into black and keeps the hues, so figures need no second set of colors.
_STYLE = """
:root { color-scheme: light dark; --ink: #222; --quiet: #666; --paper: #fff; --band: #f4f4f4; --line: #999; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 80rem;
  margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere; }
h1, h2, h3 { line-height: 1.2; margin: 1.6em 0 0.5em; }
.wide { overflow-x: auto; margin: 0.8em 0 1.4em; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding-bottom: 0.3em; }
th, td { padding: 0.28em 0.6em; text-align: left; white-space: nowrap; overflow-wrap: normal; }
th.r, td.r { text-align: right; }
thead th { border-bottom: 1px solid var(--line); vertical-align: bottom; white-space: normal; }
tbody tr:nth-child(even) { background: var(--band); }
tfoot td { border-top: 1px solid var(--line); font-weight: 600; }
pre { background: var(--band); padding: 0.6em 0.8em; font-size: 12px; white-space: pre-wrap; }
figure { margin: 1em 0 1.6em; break-inside: avoid; overflow: hidden; }
figcaption { color: var(--quiet); font-size: 13px; }
summary { cursor: pointer; }
details > details { margin-left: 1rem; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ddd; --quiet: #aaa; --paper: #181818; --band: #242424; --line: #777; }
  .plotly-graph-div { filter: invert(0.9) hue-rotate(180deg); }
}
""".strip()

# Selections lead nowhere here, and a logo is not a finding.
_CONFIG = {
    "displaylogo": False,
    "responsive": True,
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"],
}
_NOSCRIPT = (
    "<noscript><p>The figures need JavaScript, which is part of this page; the tables need none.</p></noscript>"
)


def to_html(title: str, parts: Sequence[Part]) -> str:
    """The parts of a report as one HTML page that loads nothing from anywhere.

    Args:
      title: of the page.
      parts: in order.

    Returns:
      The page. With figures it holds Plotly's script, some 5 MB, once. The same parts give the same page.

    Example:
      >>> page = to_html("a < b", [Heading("Result"), "One <line>.", Table("", ("n",), "r", [("1",)])])
      >>> "<title>a &lt; b</title>" in page, "<p>One &lt;line&gt;.</p>" in page, '<td class="r">1</td>' in page
      (True, True, True)
    """
    # Five megabytes, so only a page with figures carries them.
    script = ""
    if any(isinstance(part, Figure) for part in _flat(parts)):
        from plotly.offline import get_plotlyjs

        script = f"<script>{get_plotlyjs()}</script>\n{_NOSCRIPT}\n"
    body = "\n".join(map(_html, parts))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{_STYLE}\n</style>\n</head>\n"
        f"<body>\n{script}{body}\n</body>\n</html>\n"
    )


def write_html(path: str | os.PathLike[str], title: str, parts: Sequence[Part]) -> None:
    """Writes the page of `to_html`, at once or not at all, in UTF-8; '?' stands for what that lacks."""
    write_text(path, encodable(to_html(title, parts)))


def write_markdown(path: str | os.PathLike[str], parts: Sequence[Part], page: str = PAGE, end: str = "") -> None:
    """Writes `parts_markdown`, and `end` after it, as `write_html` does."""
    write_text(path, encodable(parts_markdown(parts, page) + "\n" + end))


def parts_markdown(parts: Sequence[Part], page: str = PAGE) -> str:
    """The same parts as GitHub Markdown; a figure is a link to the page that has it.

    Example:
      >>> loss = Figure("loss", "Loss", "By step.", [], {})
      >>> print(parts_markdown([Heading("Result"), Findings(["It fits."]), loss]))
      ## Result
      <BLANKLINE>
      - It fits.
      <BLANKLINE>
      Figure: [Loss](<report.html#loss>). By step.
    """
    return "\n\n".join(_markdown(part, page) for part in parts)


def fence(text: str, language: str = "sh") -> str:
    """A code block whose fence is longer than any run of backticks inside."""
    mark = "```"
    while mark in text:
        mark += "`"
    return f"{mark}{language}\n{text}\n{mark}"


def _flat(parts: Sequence[Part]) -> list[Part]:
    return [inner for part in parts for inner in ([part] if not isinstance(part, Details) else _flat(part.parts))]


def _markdown(part: Part, page: str) -> str:
    if isinstance(part, Heading):
        return f"{'#' * part.level} {escape(part.text)}"
    if isinstance(part, Findings):
        return "\n".join(f"- {escape(sentence)}" for sentence in part.sentences)
    if isinstance(part, Code):
        return fence(part.text, part.language)
    if isinstance(part, Figure):
        return f"Figure: [{escape(part.title)}](<{page}#{part.name}>). {escape(part.caption)}".rstrip()
    if isinstance(part, Details):
        # GitHub renders Markdown inside of HTML only between blank lines.
        inner = parts_markdown(part.parts, page)
        return f"<details><summary>{html.escape(part.summary)}</summary>\n\n{inner}\n\n</details>"
    return to_markdown(part) if isinstance(part, Table) else escape(part)


def _html(part: Part) -> str:
    if isinstance(part, Heading):
        return f"<h{part.level}>{html.escape(part.text)}</h{part.level}>"
    if isinstance(part, Findings):
        return "<ul>\n" + "\n".join(f"<li>{html.escape(s)}</li>" for s in part.sentences) + "\n</ul>"
    if isinstance(part, Code):
        return f"<pre><code>{html.escape(part.text)}</code></pre>"
    if isinstance(part, Figure):
        return _figure(part)
    if isinstance(part, Details):
        inner = "\n".join(map(_html, part.parts))
        return f"<details><summary>{html.escape(part.summary)}</summary>\n{inner}\n</details>"
    return tables.to_html(part) if isinstance(part, Table) else f"<p>{html.escape(part)}</p>"


def _figure(figure: Figure) -> str:
    from plotly.io import to_html as plotly_html

    # Plotly escapes what could end the script; its validation took longer than all else, and the tests do it.
    drawn = plotly_html(
        figure.to_dict(), config=_CONFIG, include_plotlyjs=False, full_html=False, div_id=f"plot_{figure.name}",
        validate=False,
    )  # fmt: skip
    return (
        f'<figure id="{html.escape(figure.name)}"><h3>{html.escape(figure.title)}</h3>\n{drawn}\n'
        f"<figcaption>{html.escape(figure.caption)}</figcaption></figure>"
    )
