"""The page: text, tables and plots in one file that loads nothing from anywhere."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jopt.report.interactive import curves, forest, heat, sensitivity, tradeoff
from jopt.report.interactive.data import Axis, Point, Study
from jopt.report.interactive.plot import Plot, encode, shades, shown
from jopt.report.interactive.tables import Key, to_html
from jopt.report.tables import Table

_HERE = Path(__file__).parent
_NOSCRIPT = (
    "<noscript><p>The plots are drawn by a script that is part of this page; the tables need none.</p></noscript>"
)
_HINT = "Choose a point in a plot, or a row of a table: its settings, its trials and their commands appear here."
_SCRIPTS = ("base", "tradeoff", "heat", "curves", "sensitivity", "forest", "details", "main")


class Section(NamedTuple):
    """A heading and what stands under it.

    Attributes:
      title: one line.
      body: HTML.
      folded: whether it opens on a click only.
    """

    title: str
    body: str
    folded: bool = False


def plots(study: Study) -> list[Plot]:
    """The plots for which there are data, in the page's order."""
    made = [module.plot(study) for module in (tradeoff, heat, curves, sensitivity, forest)]
    return [plot for plot in made if plot is not None]


def paragraph(text: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{html.escape(text)}</p>"


def command(text: str) -> str:
    """A command on lines of its own."""
    return f'<pre class="command"><code>{html.escape(text)}</code></pre>'


def table(own: Table, keys: Sequence[Sequence[Key]] = (), targets: Sequence[str] = (), code: str = "") -> str:
    """A table: `jopt.report.interactive.tables.to_html`."""
    return to_html(own, keys, targets, code)


def page(study: Study, lead: str, before: Sequence[Section], after: Sequence[Section]) -> str:
    """The page.

    Args:
      study: what is drawn.
      lead: HTML under the title.
      before: sections above the plots.
      after: sections below them.

    Returns:
      HTML with Plotly's script inside it, some 5 MB; the same for the same input.
    """
    from plotly.offline import get_plotlyjs

    drawn = plots(study)
    body = [f"<h1>{html.escape(study.title)}</h1>", lead, *map(_section, before)]
    if drawn:
        body.append(_NOSCRIPT)
    body += [_plot(plot) for plot in drawn]
    body += map(_section, after)
    scripts = "\n".join(_read(f"{name}.js") for name in _SCRIPTS)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(study.title)}</title>\n<script>\n{_read('watch.js')}</script>\n"
        f"<style>\n{_read('page.css')}</style>\n</head>\n"
        '<body>\n<main>\n' + "\n".join(body) + "\n</main>\n"
        f'<aside id="details" aria-live="polite" aria-label="Details"><p class="hint">{_HINT}</p></aside>\n'
        f'<script type="application/json" id="data">{encode(_data(study, drawn))}</script>\n'
        f"<script>\n{get_plotlyjs()}\n</script>\n<script>\n(() => {{\n{scripts}\n}})();\n</script>\n"
        "</body>\n</html>\n"
    )  # fmt: skip


def _section(section: Section) -> str:
    title = html.escape(section.title)
    if section.folded:
        return f"<details><summary><h2>{title}</h2></summary>\n{section.body}\n</details>"
    return f"<section>\n<h2>{title}</h2>\n{section.body}\n</section>"


def _plot(plot: Plot) -> str:
    return (
        f'<section class="plot" id="{plot.kind}">\n<h2>{html.escape(plot.title)}</h2>\n'
        f'<div class="controls"></div>\n<div class="chart"></div>\n'
        f'<p class="caption">{html.escape(plot.caption)}</p>\n</section>'
    )


def _data(study: Study, drawn: Sequence[Plot]) -> dict[str, Any]:
    return {
        "outcome": study.outcome_name,
        "fraction": study.fraction,
        "confidence": study.confidence,
        "axes": [_axis(axis) for axis in study.axes],
        "points": [_point(study, point) for point in study.points],
        "plots": [plot._asdict() for plot in drawn],
    }


def _axis(axis: Axis) -> dict[str, Any]:
    values = axis.values if axis.numeric else None
    return {"name": axis.name, "texts": axis.texts, "values": values, "log": axis.log, "colors": shades(axis)}


def _point(study: Study, point: Point) -> dict[str, Any]:
    own = point.outcome
    amount = "diverged" if own is None else study.amount(own.mean)
    return {
        "label": study.label(point), "at": point.at, "n": len(point.trials), "diverged": point.diverged,
        "mean": own and own.mean, "low": own and own.low, "high": own and own.high,
        "cell": [amount, "" if own is None else study.width(own)],
        "outcome": study.estimate(own), "change": study.change(point.decisive) if point.decisive else "",
        "verdict": point.verdict, "notes": point.notes, "settings": list(point.settings.items()),
        "hover": _hover(study, point), "trials": [t._asdict() for t in point.trials],
    }  # fmt: skip


def _hover(study: Study, point: Point) -> str:
    """The label that Plotly shows beside the pointer."""
    ran = f"{len(point.trials)} seed{'s' * (len(point.trials) != 1)}"
    lines = [study.estimate(point.outcome), ran + (f", {point.diverged} diverged" if point.diverged else "")]
    if point.difference is not None:
        lines.append(f"to the control: {study.change(point.decisive)} (adjusted), {point.verdict}")
    elif point.verdict == "control":
        lines.append("control")
    return "<br>".join([f"<b>{shown(study.label(point))}</b>", *map(shown, lines)])


def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")
