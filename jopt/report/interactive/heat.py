"""Heat maps of the outcome over two axes."""

from __future__ import annotations

from collections.abc import Sequence

from jopt.report.canvas import INK
from jopt.report.interactive.data import Study
from jopt.report.interactive.plot import Plot, figure

MOST_VALUES = 24
COLORS = [[0.0, "#fdf3e1"], [0.5, "#b5dccb"], [1.0, "#5aa5d6"]]
"""Yellow to blue, told apart by every form of color blindness, and light enough for dark figures on all of it."""

_FILLED = 0.3


def axes(study: Study) -> list[int]:
    """The axes that a map can be over, the default ones first: rows, then columns."""
    return [i for i, a in enumerate(study.axes) if 2 <= len(a.values) <= MOST_VALUES]


def default(study: Study) -> tuple[int, int] | None:
    """Rows and columns of the first map: the pair with the most points; None if none fills a third of its cells."""
    pairs = []
    own = axes(study)
    for k, a in enumerate(own):
        for b in own[k + 1 :]:
            cells = len(study.axes[a].values) * len(study.axes[b].values)
            filled = len({(p.at[a], p.at[b]) for p in study.points})
            if filled >= _FILLED * cells and cells > 2:
                pairs.append((filled, -a, -b))
    if not pairs:
        return None
    _, a, b = max(pairs)
    # The longer axis runs to the right, where there is room.
    return (-b, -a) if len(study.axes[-a].values) > len(study.axes[-b].values) else (-a, -b)


def limits(values: Sequence[float], higher: bool) -> tuple[float, float]:
    """The ends of the color scale: a few collapsed points must not wash out the rest (Tukey's fence, 1977).

    Example:
      >>> limits([9.0, 9.25, 9.5, 9.75, 1.0], higher=True)
      (8.25, 9.75)
      >>> limits([1.0, 2.0], higher=True)
      (1.0, 2.0)
    """
    ordered = sorted(values)
    low, high = (ordered[round(q * (len(ordered) - 1))] for q in (0.25, 0.75))
    reach = 1.5 * max(high - low, 1e-12)
    if len(ordered) < 4:
        return ordered[0], ordered[-1]
    if higher:
        return max(ordered[0], low - reach), ordered[-1]
    return ordered[0], min(ordered[-1], high + reach)


def plot(study: Study) -> Plot | None:
    """A cell for each pair of values; the reader chooses the axes, and the values of those that are left."""
    import plotly.graph_objects as go

    pair = default(study)
    means = [p.outcome.mean for p in study.points if p.outcome is not None]
    if pair is None or not means:
        return None
    low, high = limits(means, study.higher)
    bar = {
        "thickness": 12,
        "outlinewidth": 0,
        "tickfont": {"size": 11},
        "title": {"text": study.outcome_name, "side": "right"},
    }
    if study.fraction:
        bar["tickformat"] = ",.3~%"
    cells = go.Heatmap(
        colorscale=COLORS, zmin=low, zmax=high, xgap=2, ygap=2, texttemplate="%{text}",
        hovertemplate="%{hovertext}<extra></extra>", textfont={"color": INK},
        reversescale=not study.higher, colorbar=bar,
    )  # fmt: skip
    gone = go.Scatter(
        mode="text", textfont={"size": 11}, hovertemplate="%{hovertext}<extra></extra>", showlegend=False
    )
    drawn = figure([cells, gone])
    caption = (
        f"The mean over seeds and half the width of its {study.percent} interval. An asterisk: some seeds "
        "diverged, the mean is of the others. Each map is of the points with the values chosen above it; "
        "nothing is averaged over axes."
    )  # fmt: skip
    if low > min(means) or high < max(means):
        side, end = ("below", low) if low > min(means) else ("above", high)
        caption += f" What is {side} {study.amount(end)} has one color."
    return Plot("heat", f"{study.outcome_name.capitalize()} over two axes", caption, drawn,
                {"rows": pair[0], "columns": pair[1], "axes": axes(study)})  # fmt: skip
