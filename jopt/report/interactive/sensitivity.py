"""The outcome against a number that was varied, such as the learning rate, with lines for another axis."""

from __future__ import annotations

from jopt.report.interactive.data import Study
from jopt.report.interactive.plot import Plot, figure, outcome_axis

MOST_LINES = 12


def numbers(study: Study) -> list[int]:
    """The axes that it can be against, the default one first: learning rates, then the one with most values."""

    def rank(i: int) -> tuple[bool, int, int]:
        axis = study.axes[i]
        rate = axis.field.endswith("learning_rate") or axis.name.endswith("learning_rate")
        return not rate, -len(axis.values), i

    return sorted((i for i, a in enumerate(study.axes) if a.numeric and len(a.values) > 1), key=rank)


def lines(study: Study) -> list[int]:
    """The axes that can have a line for each value, the default one first: names before numbers."""
    own = [i for i, a in enumerate(study.axes) if 2 <= len(a.values) <= MOST_LINES]
    return sorted(own, key=lambda i: (study.axes[i].numeric, i))


def plot(study: Study) -> Plot | None:
    """Means with intervals; where trials diverged, crosses stand at the bottom."""
    import plotly.graph_objects as go

    against = numbers(study)
    if not against or all(p.outcome is None for p in study.points):
        return None
    line = go.Scatter(
        mode="lines+markers", line={"width": 1.8}, marker={"size": 7}, hovertemplate="%{text}<extra></extra>"
    )
    band = go.Scatter(mode="none", fill="toself", hoverinfo="skip", showlegend=False)
    crosses = go.Scatter(
        mode="markers", marker={"symbol": "x", "size": 8}, yaxis="y2", hovertemplate="%{text}<extra></extra>",
        showlegend=False,
    )  # fmt: skip
    drawn = figure(
        [line, band, crosses], yaxis=outcome_axis(study),
        yaxis2={"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True},
    )  # fmt: skip
    name = study.axes[against[0]].name
    caption = (
        f"The mean over seeds; bands and bars are {study.percent} intervals. A cross at the bottom: trials "
        "diverged there, the mean, if there is one, is of the others. Where an axis is left, its value is chosen "
        "above; nothing is averaged over it."
    )  # fmt: skip
    return Plot("sensitivity", f"Sensitivity to {name.replace('_', ' ')}", caption, drawn,
                {"against": against, "lines": lines(study)})  # fmt: skip
