"""Differences to the control, a line a point, sorted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jopt.report.canvas import PALETTE
from jopt.report.interactive.data import Point, Study
from jopt.report.interactive.plot import Plot, figure, shown

MOST = 60
COLORS = {"better": PALETTE[0], "worse": PALETTE[1], "undecided": "#8a8a8a"}


def compared(study: Study) -> list[int]:
    """The places of the points that were compared, the best difference first, `MOST` at most."""
    sign = -1.0 if study.higher else 1.0
    known = [(sign * p.difference.mean, i) for i, p in enumerate(study.points) if p.difference is not None]
    return [i for _, i in sorted(known)][:MOST]


def judged(point: Point) -> str:
    """The verdict as it is colored: never better or worse where the interval holds 0 or is missing."""
    own = point.difference
    if own is None or own.low is None or own.high is None or own.low <= 0 <= own.high:
        return "undecided"
    return point.verdict if point.verdict in COLORS else "undecided"


def plot(study: Study) -> Plot | None:
    """Point and interval of each difference, colored by verdict."""
    import plotly.graph_objects as go

    order = compared(study)
    if not order:
        return None
    factor = 100.0 if study.fraction else 1.0
    traces = [_adjusted(study, order, factor)]
    for name, color in COLORS.items():
        rows = [(row, study.points[i], i) for row, i in enumerate(order) if judged(study.points[i]) == name]
        if not rows:
            continue
        means = [factor * p.difference.mean for _, p, _ in rows if p.difference]
        reach = [(p.difference.high, p.difference.low, p.difference.mean) for _, p, _ in rows if p.difference]
        traces.append(
            go.Scatter(
                name=name, x=means, y=[row for row, _, _ in rows], mode="markers",
                customdata=[i for _, _, i in rows],
                marker={"color": color, "size": 8, "symbol": "circle" if name != "undecided" else "circle-open"},
                error_x={
                    "type": "data", "symmetric": False, "thickness": 2.2, "width": 0,
                    "array": [0.0 if h is None else factor * (h - m) for h, _, m in reach],
                    "arrayminus": [0.0 if low is None else factor * (m - low) for _, low, m in reach],
                },
                text=[_hover(study, p) for _, p, _ in rows], hovertemplate="%{text}<extra></extra>",
            )
        )  # fmt: skip
    labels = [shown(study.label(study.points[i])) for i in order]
    unit = " (percentage points)" if study.fraction else " (nats)" if study.metric.endswith("loss") else ""
    drawn = figure(
        traces, height=132 + 20 * len(order),
        xaxis={"title": {"text": f"difference to the control{unit}"}, "showgrid": True},
        yaxis={"tickmode": "array", "tickvals": list(range(len(order))), "ticktext": labels, "showgrid": False,
               "range": [len(order) - 0.4, -0.6], "ticks": "", "showline": False},
        shapes=[{"type": "line", "xref": "x", "yref": "paper", "x0": 0, "x1": 0, "y0": 0, "y1": 1, "layer": "below",
                 "line": {"color": "#222222", "width": 1}}],
        legend={"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0}, margin={"t": 56},
    )  # fmt: skip
    left = sum(p.difference is not None for p in study.points) - len(order)
    caption = (
        f"Paired by seed, with {study.percent} intervals, the best first; thin lines are intervals for all "
        "comparisons at once (Bonferroni), which the verdict goes by. Gray, open: not decided, as the interval "
        "holds 0 or the seeds are too few."
    )  # fmt: skip
    caption += f" The {left} points at the lower end are left out; the table has all." if left else ""
    return Plot("forest", "Differences to the control", caption, drawn, {"labels": labels})


def _adjusted(study: Study, order: Sequence[int], factor: float) -> Any:
    """Thin lines: the intervals for all comparisons at once."""
    import plotly.graph_objects as go

    x: list[float | None] = []
    y: list[float | None] = []
    for row, i in enumerate(order):
        own = study.points[i].adjusted
        if own is not None and own.low is not None and own.high is not None:
            x += [factor * own.low, factor * own.high, None]
            y += [row, row, None]
    return go.Scatter(
        x=x, y=y, mode="lines", line={"width": 1, "color": "#b0b0b0"}, hoverinfo="skip", name="for all at once",
    )  # fmt: skip


def _hover(study: Study, point: Point) -> str:
    lines = [study.change(point.difference), point.verdict, *point.notes]
    if point.adjusted is not None:
        lines.insert(1, f"for all at once: {study.change(point.adjusted)}")
    return "<br>".join([f"<b>{shown(study.label(point))}</b>", *(shown(line) for line in lines if line)])
