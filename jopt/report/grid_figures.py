"""Figures of a grid: the outcome against cost, heat maps and differences to the control.

Each mark shows its point's settings and the command that runs it again when the pointer rests on it; where a reader
may choose (a size, a slice, a part of the data), Plotly's own menu offers the choices.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from jopt.measure import Column
from jopt.report import figures, formats
from jopt.report.figures import INK, PALETTE, Figure, Json, View
from jopt.report.study import MeanEstimate, Study, StudyAxis, StudyPoint, labels

ALIKE = 1.01
"""Costs within this ratio of each other are one: what differs is a weight or two that happen to be zero."""

MOST_LINES, MOST_VALUES, MOST_ROWS = 12, 24, 60
"""Lines of a figure, values of an axis of a heat map, rows of the differences."""

LABEL = 24
"""Points with longer names are named by their values alone."""

HEAT = [[0.0, "#fdf3e1"], [0.5, "#b5dccb"], [1.0, "#5aa5d6"]]
"""Yellow to blue: distinguishable in every form of color blindness, and dark text is legible on all of it."""

VERDICTS = {"better": PALETTE[0], "worse": PALETTE[1], "undecided": "#8a8a8a"}

_GRAY = "#8a8a8a"
_FILLED = 0.3
_VIEWS = 24
_MARKS = 3000
"""The marks of all views of a figure together: each has its hover text, and a page should stay small."""


def fronts(study: Study) -> dict[str, list[int]]:
    """The places of the points on the Pareto front, by cost and by rising cost.

    A point that has no outcome, or not that cost, is not on it. A cost that all points share, up to a percent,
    trades nothing off and is left out.
    """
    by_cost = {}
    for column in study.costs:
        measured = [i for i, p in enumerate(study.points) if p.outcome is not None and p.costs.get(column.key)]
        costs = [study.points[i].costs[column.key] for i in measured]
        # A front over one cost would be its best point and nothing else.
        if not costs or max(costs) <= ALIKE * min(costs):
            continue
        sign = 1.0 if study.higher else -1.0
        means = [sign * p.outcome.mean for p in (study.points[i] for i in measured) if p.outcome is not None]
        by_cost[column.key] = [measured[i] for i in figures.front(costs, means)]
    return by_cost


def tradeoff(study: Study) -> Figure | None:
    """The outcome against a cost with the Pareto front of the means; the menu chooses the cost and the colors."""
    by_cost = fronts(study)
    if not by_cost:
        return None
    columns = [column for column in study.costs if column.key in by_cost]
    # What is in a file comes before what is computed.
    columns.sort(key=lambda column: (column.key != "bytes", column.format != "bytes"))
    coloring = [i for i, axis in enumerate(study.axes) if 1 < len(axis.values) <= MOST_LINES]
    views = [_tradeoff_view(study, column, by_cost[column.key], None) for column in columns]
    # Coloring by an axis costs a view, since Plotly's menu cannot color what is drawn already.
    views += [_tradeoff_view(study, column, by_cost[column.key], i) for i in coloring for column in columns]
    traces, layout = figures.choose(affordable(study, views), figures.layout(460, yaxis=outcome_axis(study)))
    lost = sum(p.outcome is None for p in study.points)
    caption = (
        f"Each mark is a point of the grid: the mean over seeds with its {study.percent} interval. The line is the "
        "Pareto front of the means: no other point costs less and is at least as good. Its points are estimates; "
        "neighbors whose intervals overlap may change places. Open marks: some seeds diverged, the mean is of the "
        "others."
    )  # fmt: skip
    caption += f" Not drawn, as all their trials diverged: {lost} point{'s' * (lost > 1)}." if lost else ""
    return Figure("tradeoff", f"{formats.capitalized(study.outcome_name)} against cost", caption, traces, layout)


def _tradeoff_view(study: Study, column: Column, best: Sequence[int], by: int | None) -> View:
    measured = [i for i, p in enumerate(study.points) if p.outcome is not None and p.costs.get(column.key)]
    costs = [study.points[i].costs[column.key] for i in measured]
    line = {
        "type": "scatter", "mode": "lines", "name": "Pareto front of the means", "hoverinfo": "skip",
        "x": [study.points[i].costs[column.key] for i in best], "y": [_mean(study.points[i]) for i in best],
        "line": {"shape": "hv", "color": INK, "width": 1.2},
    }  # fmt: skip
    traces = [line]
    for name, color, symbol, members in _mark_groups(study, measured, set(best), by):
        if members:
            x = [study.points[i].costs[column.key] for i in members]
            amounts = [f"{column.label}: {formats.text(column, v)}" for v in x]
            trace = marks(study, [study.points[i] for i in members], x, color, amounts)
            trace["marker"] |= {"symbol": [symbol + ("-open" if study.points[i].diverged else "") for i in members]}
            traces.append({**trace, "name": figures.literal(formats.shorten(name, 24))})
    ticks, texts = figures.ticks_of(column.format, costs)
    axis = figures.axis(formats.titled(column), type="log", tickmode="array", tickvals=ticks, ticktext=texts)
    name = column.label if by is None else f"{column.label}, colored by {study.axes[by].name}"
    return View(name, traces, {"xaxis": axis})


def _mark_groups(
    study: Study, measured: Sequence[int], best: set[int], by: int | None
) -> list[tuple[str, str, str, list[int]]]:
    """Name, color, symbol and points of each entry of the legend."""
    if by is not None:
        axis = study.axes[by]
        return [
            (f"{axis.name}={text}", color, "circle", [i for i in measured if study.points[i].at[by] == k])
            for k, (text, color) in enumerate(zip(axis.texts, shades(axis), strict=True))
        ]
    controls = [i for i in measured if study.points[i].verdict == "control"]
    others = [i for i in measured if i not in controls]
    return [
        ("on the front", PALETTE[0], "circle", [i for i in others if i in best]),
        ("not on the front", _GRAY, "circle", [i for i in others if i not in best]),
        ("control", PALETTE[1], "diamond", controls),
    ]


def heat_map(study: Study) -> Figure | None:
    """A cell for each pair of values of two axes; the menu chooses the axes and the values of the others."""
    pair = heat_axes(study)
    means = [p.outcome.mean for p in study.points if p.outcome is not None]
    if pair is None or not means:
        return None
    low, high = heat_limits(means, study.higher)
    pairs = [pair, *(p for p in itertools.combinations(_mappable(study), 2) if set(p) != set(pair))]
    first = study.fixed(pair)
    choices = [(pair, first), *((pair, other) for other in slices(study, pair) if other != first)]
    choices += [(p, study.fixed(p)) for p in pairs[1:]]
    views = [_heat_view(study, rows, columns, fixed, low, high) for (rows, columns), fixed in choices]
    traces, layout = figures.choose(affordable(study, views), figures.layout(300, showlegend=False))
    caption = (
        f"The mean over seeds and half the width of its {study.percent} interval. An asterisk: some seeds "
        "diverged, the mean is of the others; x: all diverged. Nothing is averaged over the axes that a map does "
        "not have."
    )  # fmt: skip
    if low > min(means) or high < max(means):
        side, end = ("below", low) if low > min(means) else ("above", high)
        caption += f" All that is {side} {study.amount(end)} has one color."
    unit = " (%)" if study.fraction else ""
    return Figure(
        "heat_map", f"{formats.capitalized(study.outcome_name)}{unit} over two axes", caption, traces, layout
    )


def _mappable(study: Study) -> list[int]:
    return [i for i, axis in enumerate(study.axes) if 2 <= len(axis.values) <= MOST_VALUES]


def heat_axes(study: Study) -> tuple[int, int] | None:
    """Rows and columns of the first map: the pair with the most points; None if none fills a third of its cells."""
    pairs = []
    for a, b in itertools.combinations(_mappable(study), 2):
        cells = len(study.axes[a].values) * len(study.axes[b].values)
        filled = len({(p.at[a], p.at[b]) for p in study.points})
        # A search fills a map in a few places, and the gaps would be all one sees.
        if filled >= _FILLED * cells and cells > 2:
            # Of pairs with as many points the first in the grid's order.
            pairs.append((filled, -a, -b))
    if not pairs:
        return None
    _, a, b = max(pairs)
    # The longer axis runs to the right, where there is room.
    return (-b, -a) if len(study.axes[-a].values) > len(study.axes[-b].values) else (-a, -b)


def heat_limits(values: Sequence[float], higher: bool) -> tuple[float, float]:
    """The ends of the color scale: a few collapsed points must not wash out the others (Tukey's fence, 1977).

    Example:
      >>> heat_limits([9.0, 9.25, 9.5, 9.75, 1.0], higher=True)
      (8.25, 9.75)
      >>> heat_limits([1.0, 2.0], higher=True)
      (1.0, 2.0)
    """
    ordered = sorted(values)
    low, high = (ordered[round(q * (len(ordered) - 1))] for q in (0.25, 0.75))
    # Tukey's fence: one point that collapsed would take the whole scale.
    reach = 1.5 * max(high - low, 1e-12)
    if len(ordered) < 4:
        return ordered[0], ordered[-1]
    if higher:
        return max(ordered[0], low - reach), ordered[-1]
    return ordered[0], min(ordered[-1], high + reach)


def _heat_view(study: Study, rows: int, columns: int, fixed: Mapping[int, int], low: float, high: float) -> View:
    down, across = study.axes[rows], study.axes[columns]
    shape = (len(down.values), len(across.values))
    z: list[list[float | None]] = [[None] * shape[1] for _ in range(shape[0])]
    texts, hovers, commands = ([[""] * shape[1] for _ in range(shape[0])] for _ in range(3))
    for point in points_at(study, fixed):
        r, c = point.at[rows], point.at[columns]
        hovers[r][c], commands[r][c] = hover_text(study, point), first_command(point)
        texts[r][c] = "x"
        if point.outcome is not None:
            z[r][c] = point.outcome.mean
            # The unit is in the title; five characters fit a cell of a narrow page.
            amount = study.amount(point.outcome.mean).removesuffix("%") + "*" * bool(point.diverged)
            texts[r][c] = "<br>".join(filter(None, (amount, study.width(point.outcome))))
    cells = {
        "type": "heatmap", "z": z, "text": texts, "texttemplate": "%{text}", "hovertext": hovers,
        "hoverinfo": "text", "customdata": commands, "colorscale": HEAT, "reversescale": not study.higher,
        "zmin": low, "zmax": high, "xgap": 2, "ygap": 2, "textfont": {"color": INK, "size": 11}, "showscale": False,
        "x": list(range(shape[1])), "y": list(range(shape[0])),
    }  # fmt: skip
    where = f"at {study.where(fixed)}" if fixed else ""
    changes = {
        "xaxis": _names_axis(across), "yaxis": _names_axis(down, upright=True), "height": 130 + 44 * shape[0],
        "title": {"text": figures.literal(formats.shorten(where, 60)), "font": {"size": 12}, "x": 0.01, "y": 0.98},
    }  # fmt: skip
    name = f"{down.name} by {across.name}" + (f", {where}" if where else "")
    return View(name, [cells], changes)


def _names_axis(axis: StudyAxis, upright: bool = False) -> Json:
    n = len(axis.values)
    # Numbers rise to the top; names are read from there.
    turned = upright and not (axis.numeric and axis.values[0] < axis.values[-1])
    return figures.axis(
        axis.name, tickmode="array", tickvals=list(range(n)), showgrid=False, showline=False, ticks="",
        ticktext=[figures.literal(formats.shorten(text, 18)) for text in axis.texts],
        range=[n - 0.5, -0.5] if turned else [-0.5, n - 0.5],
    )  # fmt: skip


def compared(study: Study) -> list[int]:
    """The places of the points that were compared, the best difference first, `MOST_ROWS` at most."""
    sign = -1.0 if study.higher else 1.0
    differences = [(sign * p.difference.mean, i) for i, p in enumerate(study.points) if p.difference is not None]
    return [i for _, i in sorted(differences)][:MOST_ROWS]


def judged(point: StudyPoint) -> str:
    """The verdict as it is colored: never better or worse where the interval holds 0 or is missing."""
    difference = point.difference
    if (
        difference is None
        or difference.low is None
        or difference.high is None
        or difference.low <= 0 <= difference.high
    ):
        return "undecided"
    return point.verdict if point.verdict in VERDICTS else "undecided"


def forest(study: Study) -> Figure | None:
    """Each difference to the control with its interval, a line a point, colored by verdict."""
    order = compared(study)
    if not order:
        return None
    # Differences of shares are read in percentage points.
    factor = 100.0 if study.fraction else 1.0
    traces = [_adjusted_lines(study, order, factor)]
    for verdict, color in VERDICTS.items():
        rows = [(row, i) for row, i in enumerate(order) if judged(study.points[i]) == verdict]
        if rows:
            traces.append(_verdict_marks(study, rows, verdict, color, factor))
    texts, title = labels(study, LABEL)
    unit = "pp" if study.fraction else study.column.unit
    zero = {"type": "line", "xref": "x", "yref": "paper", "x0": 0, "x1": 0, "y0": 0, "y1": 1, "layer": "below",
            "line": {"color": INK, "width": 1}}  # fmt: skip
    layout = figures.layout(
        140 + 20 * len(order), shapes=[zero], showlegend=True,
        xaxis=figures.axis(f"difference{f' ({unit})' if unit else ''}"),
        yaxis={**figures.category_axis([texts[i] for i in order], 32),
               "title": {"text": figures.literal(formats.shorten(title, 40)), "font": {"size": 13}}},
    )  # fmt: skip
    dropped = sum(p.difference is not None for p in study.points) - len(order)
    caption = (
        f"{'In percentage points, paired' if study.fraction else 'Paired'} by seed, with {study.percent} "
        "intervals, the best first; thin lines are intervals for all comparisons at once (Bonferroni), which "
        "decide the verdict. Gray and open: not decided, as the interval contains 0 or the seeds are too few."
    )  # fmt: skip
    caption += f" The {dropped} points at the lower end are left out; the table has all." if dropped else ""
    return Figure("differences", "Differences to the control", caption, traces, layout)


def _verdict_marks(study: Study, rows: Sequence[tuple[int, int]], verdict: str, color: str, factor: float) -> Json:
    points = [study.points[i] for _, i in rows]
    differences = [p.difference or MeanEstimate(0.0) for p in points]
    return {
        "type": "scatter", "mode": "markers", "name": verdict, "x": [factor * d.mean for d in differences],
        "y": [row for row, _ in rows], "customdata": [first_command(p) for p in points],
        "marker": {"color": color, "size": 8, "symbol": "circle-open" if verdict == "undecided" else "circle"},
        "error_x": {
            "type": "data", "symmetric": False, "thickness": 2.2, "width": 0, "color": color,
            "array": [0.0 if d.high is None else factor * (d.high - d.mean) for d in differences],
            "arrayminus": [0.0 if d.low is None else factor * (d.mean - d.low) for d in differences],
        },
        "hovertext": [hover_text(study, p) for p in points], "hoverinfo": "text",
    }  # fmt: skip


def _adjusted_lines(study: Study, order: Sequence[int], factor: float) -> Json:
    """Thin lines: the intervals for all comparisons at once."""
    x: list[float | None] = []
    y: list[float | None] = []
    for row, i in enumerate(order):
        adjusted = study.points[i].adjusted
        if adjusted is not None and adjusted.low is not None and adjusted.high is not None:
            # None ends the line, so that all intervals are one trace.
            x += [factor * adjusted.low, factor * adjusted.high, None]
            y += [row, row, None]
    return {"type": "scatter", "mode": "lines", "x": x, "y": y, "line": {"width": 1, "color": "#b0b0b0"},
            "hoverinfo": "skip", "name": "for all comparisons at once"}  # fmt: skip


def shades(axis: StudyAxis) -> list[str]:
    """A color for each value: along viridis where there is an order, of three numbers or more; else apart.

    Example:
      >>> shades(StudyAxis("act", ("relu", "tanh"))), shades(StudyAxis("bits", (2, 4, 8)))
      (['#0072B2', '#D55E00'], ['#440154', '#31688e', '#35b779'])
    """
    n = len(axis.values)
    return figures.scale(n) if axis.numeric and n > 2 else figures.colors(n)


def marks(
    study: Study, points: Sequence[StudyPoint], x: Sequence[float], color: str, amounts: Sequence[str] = ()
) -> Json:
    """Marks with whiskers; each has its hover text, and the command that runs it in `customdata`."""
    means = [_mean(p) for p in points]
    ends = [drawn_ends(study, p.outcome) for p in points]
    return {
        "type": "scatter", "mode": "markers", "x": list(x), "y": means, "marker": {"color": color, "size": 9},
        "error_y": {
            "type": "data", "symmetric": False, "thickness": 1, "width": 2, "color": color,
            "array": [high - mean for (_, high), mean in zip(ends, means, strict=True)],
            "arrayminus": [mean - low for (low, _), mean in zip(ends, means, strict=True)],
        },
        "hovertext": [hover_text(study, p, a) for p, a in zip(points, amounts or [""] * len(points), strict=True)],
        "hoverinfo": "text", "customdata": [first_command(p) for p in points],
    }  # fmt: skip


def _mean(point: StudyPoint) -> float:
    return float("nan") if point.outcome is None else point.outcome.mean


def drawn_ends(study: Study, estimate: MeanEstimate | None) -> tuple[float, float]:
    """The interval as it is drawn; without one, the mean."""
    if estimate is None:
        return float("nan"), float("nan")
    # A single seed has no interval: a whisker of length 0 shows none.
    low, high = (estimate.mean if end is None else study.inside(end) for end in (estimate.low, estimate.high))
    return low, high


def hover_text(study: Study, point: StudyPoint, amount: str = "") -> str:
    """The point, its numbers and verdict, its settings, and the command that runs its first trial again."""
    ran = f"{len(point.trials)} seed{'s' * (len(point.trials) != 1)}"
    lines = [study.estimate(point.outcome), amount]
    lines.append(ran + (f", {point.diverged} diverged" if point.diverged else ""))
    if point.difference is not None:
        lines.append(f"to the control: {study.change(point.decisive)} (adjusted), {point.verdict}")
    elif point.verdict == "control":
        lines.append("control")
    lines += point.notes
    lines += [f"{field} = {value}" for field, value in point.settings.items()]
    # Last, as it is the longest.
    lines.append(first_command(point))
    return figures.hover(study.label(point), lines)


def first_command(point: StudyPoint) -> str:
    """The command that runs the first trial of a point again."""
    return point.trials[0].command if point.trials else ""


def outcome_axis(study: Study) -> Json:
    """An axis of the outcome, in percent where it is a share."""
    return figures.axis(study.outcome_name, **({"tickformat": ",.3~%"} if study.fraction else {}))


def points_at(study: Study, fixed: Mapping[int, int]) -> list[StudyPoint]:
    """The points at which the axes in `fixed` have these values."""
    return [p for p in study.points if all(p.at[i] == index for i, index in fixed.items())]


def slices(study: Study, used: Sequence[int]) -> Iterator[dict[int, int]]:
    """The values of the other axes for which there are points, where they must be fixed at all."""
    # If the axes in use distinguish all points, no slice is needed.
    free = list(study.fixed(used))
    for indices in sorted({tuple(p.at[i] for i in free) for p in study.points}):
        yield dict(zip(free, indices, strict=True))


def affordable(study: Study, views: Sequence[View]) -> list[View]:
    """The first views, as many as a page can carry."""
    # The first view is always there, however many points it has.
    return list(views[: min(_VIEWS, max(1, _MARKS // max(len(study.points), 1)))])
