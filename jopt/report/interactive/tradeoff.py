"""The outcome against size, with the Pareto front of the means."""

from __future__ import annotations

from typing import Any

from jopt.report import formats
from jopt.report.interactive.data import SIZES, Study
from jopt.report.interactive.pareto import front
from jopt.report.interactive.plot import Plot, figure, outcome_axis, size_ticks

ALIKE = 1.01
"""Sizes within this ratio of each other are one: what differs is a weight or two that happen to be zero."""


def fronts(study: Study) -> dict[str, list[int]]:
    """The places of the points on the front, by size and by rising size; sizes that do not vary are left out.

    A point that has no outcome, or not that size, is not on it. A size that all points share, up to a percent,
    trades nothing off.
    """
    found = {}
    for key in SIZES:
        known = [i for i, p in enumerate(study.points) if p.outcome is not None and p.sizes.get(key)]
        sizes = [study.points[i].sizes[key] for i in known]
        if not sizes or max(sizes) <= ALIKE * min(sizes):
            continue
        sign = 1.0 if study.higher else -1.0
        means = [sign * p.outcome.mean for p in (study.points[i] for i in known) if p.outcome is not None]
        found[key] = [known[i] for i in front(sizes, means)]
    return found


def size(key: str, value: float) -> str:
    """A size as it is shown.

    Example:
      >>> size("theoretical_bytes", 2048.0), size("effective_flops", 1.2e6)
      ('2.00 KiB', '1.20 M')
    """
    return formats.binary(value) if key.endswith("bytes") else formats.si(value)


def plot(study: Study) -> Plot | None:
    """Points with intervals, x logarithmic; the reader chooses the size and what the colors mean."""
    import plotly.graph_objects as go

    views: list[dict[str, Any]] = []
    for key, best in fronts(study).items():
        x = [p.sizes.get(key) or None for p in study.points]
        values, texts = size_ticks(key, [v for v in x if v])
        shown = ["" if v is None else f"{SIZES[key]}: {size(key, v)}" for v in x]
        views.append(
            {"name": SIZES[key], "x": x, "texts": shown, "front": best, "tickvals": values, "ticktext": texts}
        )
    if not views:
        return None
    line = go.Scatter(
        name="Pareto front of the means", mode="lines", line={"shape": "hv", "color": "#222222", "width": 1.2},
        hoverinfo="skip",
    )  # fmt: skip
    marks = go.Scatter(
        mode="markers", marker={"size": 9}, hovertemplate="%{text}<extra></extra>",
        error_y={"type": "data", "symmetric": False, "thickness": 1, "width": 2},
    )  # fmt: skip
    drawn = figure([line, marks], xaxis_type="log", yaxis=outcome_axis(study))
    out = sum(p.outcome is None for p in study.points)
    caption = (
        f"Each mark is a point of the grid: the mean over seeds with its {study.percent} interval. The line is the "
        "Pareto front of the means: no other point is smaller and at least as good. Its points are estimates, too; "
        "neighbors whose intervals overlap may trade places. Sizes and FLOPs are theoretical, none is of a file or "
        "a clock. Open marks: some of the seeds diverged, the mean is of the others."
    )  # fmt: skip
    caption += f" Not drawn, as all their trials diverged: {out} point{'s' * (out > 1)}." if out else ""
    return Plot("tradeoff", f"{study.outcome_name.capitalize()} against size", caption, drawn, {"views": views})
