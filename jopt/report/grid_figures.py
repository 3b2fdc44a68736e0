"""Figures of a grid: accuracy against cost, heat maps, learning curves, sensitivity and differences to the control.

Each mark shows its point's settings and the command that runs it again when the pointer rests on it; where a reader
may choose (a size, a slice, a part of the data), Plotly's own menu offers the choices.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jopt.measure import Column
from jopt.report import figures, formats
from jopt.report.figures import INK, PALETTE, Figure, Json, View
from jopt.report.study import Curve, MeanEstimate, Study, StudyAxis, StudyPoint, labels

ALIKE = 1.01
"""Costs within this ratio of each other are one: what differs is a weight or two that happen to be zero."""

CURVES, FEW, STEPS = 30, 12, 200
"""So many curves are shown; of more than that, only the few best at first; and so many steps of each."""

MOST_LINES, MOST_VALUES, MOST_ROWS = 12, 24, 60
"""Lines of a figure, values of an axis of a heat map, rows of the differences."""

HEAT = [[0.0, "#fdf3e1"], [0.5, "#b5dccb"], [1.0, "#5aa5d6"]]
"""Yellow to blue: every form of color blindness tells them apart, and dark text is legible on all of it."""

VERDICTS = {"better": PALETTE[0], "worse": PALETTE[1], "undecided": "#8a8a8a"}

_GRAY = "#8a8a8a"
_LABEL = 40
_FILLED = 0.3
_VIEWS = 24
_MARKS = 3000
"""The marks of all views of a figure together: each has its hover text, and a page should stay small."""


def grid_figures(study: Study) -> list[Figure]:
    """The figures for which there are data, in a report's order."""
    made = (tradeoff(study), heat_map(study), curves(study), sensitivity(study), forest(study))
    return [figure for figure in made if figure is not None]


def fronts(study: Study) -> dict[str, list[int]]:
    """The places of the points on the Pareto front, by cost and by rising cost.

    A point that has no outcome, or not that cost, is not on it. A cost that all points share, up to a percent,
    trades nothing off and is left out.
    """
    by_cost = {}
    for column in study.costs:
        known = [i for i, p in enumerate(study.points) if p.outcome is not None and p.costs.get(column.key)]
        costs = [study.points[i].costs[column.key] for i in known]
        if not costs or max(costs) <= ALIKE * min(costs):
            continue
        sign = 1.0 if study.higher else -1.0
        means = [sign * p.outcome.mean for p in (study.points[i] for i in known) if p.outcome is not None]
        by_cost[column.key] = [known[i] for i in figures.front(costs, means)]
    return by_cost


def tradeoff(study: Study) -> Figure | None:
    """The outcome against a cost with the Pareto front of the means; the menu chooses the cost and the colors."""
    by_cost = fronts(study)
    if not by_cost:
        return None
    columns = [column for column in study.costs if column.key in by_cost]
    # What is in a file comes before what is computed.
    columns.sort(key=lambda column: column.key != "bytes")
    coloring = [i for i, axis in enumerate(study.axes) if 1 < len(axis.values) <= MOST_LINES]
    views = [_tradeoff_view(study, column, by_cost[column.key], None) for column in columns]
    views += [_tradeoff_view(study, column, by_cost[column.key], i) for i in coloring for column in columns]
    traces, layout = figures.choose(_affordable(study, views), figures.layout(460, yaxis=_outcome_axis(study)))
    out = sum(p.outcome is None for p in study.points)
    caption = (
        f"Each mark is a point of the grid: the mean over seeds with its {study.percent} interval. The line is the "
        "Pareto front of the means: no other point costs less and is at least as good. Its points are estimates too; "
        "neighbors whose intervals overlap may change places. Open marks: some seeds diverged, the mean is of the "
        "others."
    )  # fmt: skip
    caption += f" Not drawn, as all their trials diverged: {out} point{'s' * (out > 1)}." if out else ""
    return Figure("tradeoff", f"{study.outcome_name.capitalize()} against cost", caption, traces, layout)


def _tradeoff_view(study: Study, column: Column, best: Sequence[int], by: int | None) -> View:
    known = [i for i, p in enumerate(study.points) if p.outcome is not None and p.costs.get(column.key)]
    costs = [study.points[i].costs[column.key] for i in known]
    line = {
        "type": "scatter", "mode": "lines", "name": "Pareto front of the means", "hoverinfo": "skip",
        "x": [study.points[i].costs[column.key] for i in best], "y": [_mean(study.points[i]) for i in best],
        "line": {"shape": "hv", "color": INK, "width": 1.2},
    }  # fmt: skip
    traces = [line]
    for name, color, symbol, members in _mark_groups(study, known, set(best), by):
        if members:
            x = [study.points[i].costs[column.key] for i in members]
            amounts = [f"{column.label}: {formats.text(column, v)}" for v in x]
            trace = _marks(study, members, x, color, amounts)
            trace["marker"] |= {"symbol": [symbol + ("-open" if study.points[i].diverged else "") for i in members]}
            traces.append({**trace, "name": figures.literal(formats.shorten(name, 24))})
    places, texts = figures.ticks_of(column.format, costs)
    axis = figures.axis(formats.titled(column), type="log", tickmode="array", tickvals=places, ticktext=texts)
    name = column.label if by is None else f"{column.label}, colored by {study.axes[by].name}"
    return View(name, traces, {"xaxis": axis})


def _mark_groups(
    study: Study, known: Sequence[int], best: set[int], by: int | None
) -> list[tuple[str, str, str, list[int]]]:
    """Name, color, symbol and points of each entry of the legend."""
    if by is not None:
        axis = study.axes[by]
        return [
            (f"{axis.name}={text}", color, "circle", [i for i in known if study.points[i].at[by] == k])
            for k, (text, color) in enumerate(zip(axis.texts, shades(axis), strict=True))
        ]
    controls = [i for i in known if study.points[i].verdict == "control"]
    rest = [i for i in known if i not in controls]
    return [
        ("on the front", PALETTE[0], "circle", [i for i in rest if i in best]),
        ("beaten", _GRAY, "circle", [i for i in rest if i not in best]),
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
    slices = [(pair, first), *((pair, other) for other in _slices(study, pair) if other != first)]
    slices += [(p, study.fixed(p)) for p in pairs[1:]]
    views = [_heat_view(study, rows, columns, fixed, low, high) for (rows, columns), fixed in slices]
    traces, layout = figures.choose(_affordable(study, views), figures.layout(300, showlegend=False))
    caption = (
        f"The mean over seeds and half the width of its {study.percent} interval. An asterisk: some seeds diverged, "
        "the mean is of the others. Nothing is averaged over the axes that a map does not have."
    )  # fmt: skip
    if low > min(means) or high < max(means):
        side, end = ("below", low) if low > min(means) else ("above", high)
        caption += f" All that is {side} {study.amount(end)} has one color."
    return Figure("heat_map", f"{study.outcome_name.capitalize()} over two axes", caption, traces, layout)


def _mappable(study: Study) -> list[int]:
    return [i for i, axis in enumerate(study.axes) if 2 <= len(axis.values) <= MOST_VALUES]


def heat_axes(study: Study) -> tuple[int, int] | None:
    """Rows and columns of the first map: the pair with the most points; None if none fills a third of its cells."""
    pairs = []
    for a, b in itertools.combinations(_mappable(study), 2):
        cells = len(study.axes[a].values) * len(study.axes[b].values)
        filled = len({(p.at[a], p.at[b]) for p in study.points})
        if filled >= _FILLED * cells and cells > 2:
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
    for point in _at(study, fixed):
        r, c = point.at[rows], point.at[columns]
        hovers[r][c], commands[r][c] = _hover(study, point), _command(point)
        texts[r][c] = "diverged"
        if point.outcome is not None:
            z[r][c] = point.outcome.mean
            amount = study.amount(point.outcome.mean).removesuffix("%") + "*" * bool(point.diverged)
            texts[r][c] = "<br>".join(filter(None, (amount, study.width(point.outcome))))
    cells = {
        "type": "heatmap", "z": z, "text": texts, "texttemplate": "%{text}", "hovertext": hovers, "hoverinfo": "text",
        "customdata": commands, "colorscale": HEAT, "reversescale": not study.higher, "zmin": low, "zmax": high,
        "xgap": 2, "ygap": 2, "textfont": {"color": INK, "size": 11}, "showscale": False,
        "x": list(range(shape[1])), "y": list(range(shape[0])), "hoverongaps": False,
    }  # fmt: skip
    lost = [(r, c) for r in range(shape[0]) for c in range(shape[1]) if texts[r][c] == "diverged"]
    # Plotly writes no text in a cell without a number.
    gone = {
        "type": "scatter", "mode": "text", "x": [c for _, c in lost], "y": [r for r, _ in lost],
        "text": ["×"] * len(lost), "textfont": {"size": 15, "color": INK}, "hoverinfo": "text",
        "hovertext": [hovers[r][c] for r, c in lost], "customdata": [commands[r][c] for r, c in lost],
    }  # fmt: skip
    unit = " (%)" if study.fraction else ""
    where = f"at {study.where(fixed)}" if fixed else ""
    changes = {
        "xaxis": _names_axis(across), "yaxis": _names_axis(down, upright=True), "height": 130 + 44 * shape[0],
        "title": {"text": figures.literal(formats.shorten(where, 60)), "font": {"size": 12}, "x": 0.01, "y": 0.98},
    }  # fmt: skip
    name = f"{down.name} by {across.name}{unit}" + (f", {where}" if where else "")
    return View(name, [cells, gone] if lost else [cells], changes)


def _names_axis(axis: StudyAxis, upright: bool = False) -> Json:
    n = len(axis.values)
    # Numbers rise to the top; names are read from there.
    turned = upright and not axis.numeric
    return figures.axis(
        axis.name, tickmode="array", tickvals=list(range(n)), showgrid=False, showline=False, ticks="",
        ticktext=[figures.literal(formats.shorten(text, 18)) for text in axis.texts],
        range=[n - 0.5, -0.5] if turned else [-0.5, n - 0.5],
    )  # fmt: skip


def chosen_curves(study: Study, most: int = CURVES, few: int = FEW) -> list[int]:
    """The points whose curves are shown first, in order: all up to `most`, else the control and the best of others.

    They are `few` together. Where controls would take more than a third of these, they have no precedence.
    """
    first = _controls_first(study, few)
    with_curves = [i for i, p in enumerate(study.points) if p.curves]
    sign = -1.0 if study.higher else 1.0

    def rank(i: int) -> tuple[bool, bool, float]:
        point = study.points[i]
        return (
            not first or point.verdict != "control",
            point.outcome is None,
            sign * point.outcome.mean if point.outcome else 0.0,
        )

    return with_curves if len(with_curves) <= most else sorted(sorted(with_curves, key=rank)[:few])


def chosen_names(study: Study, shown: Sequence[int], few: int = FEW) -> str:
    """What `chosen_curves` chose where that is not all: a control that is there for being one is not the best."""
    total = sum(bool(p.curves) for p in study.points)
    controls = sum(study.points[i].verdict == "control" for i in shown)
    if not controls or not _controls_first(study, few):
        return f"the best {len(shown)} of {total} points"
    named = "the control" if controls == 1 else f"{controls} controls"
    return f"{named} and the best {len(shown) - controls} others of {total} points"


def _controls_first(study: Study, few: int) -> bool:
    return 3 * sum(p.verdict == "control" and bool(p.curves) for p in study.points) <= few


def thin(curve: Curve, most: int = STEPS) -> Curve:
    """Every k-th step of a long curve, its last one always.

    Example:
      >>> steps = tuple(range(10))
      >>> thin(Curve(*(steps,) * 7), most=4).step
      (0, 3, 6, 9)
    """
    n = len(curve.step)
    if n <= most:
        return curve
    keep = [round(i * (n - 1) / (most - 1)) for i in range(most)]

    def column(values: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(values[i] for i in keep)

    return Curve(*map(column, curve))


def curves(study: Study) -> Figure | None:
    """Means over seeds with bands; the menu chooses the part of the data, the outcome and what the band is."""
    with_curves = [i for i, p in enumerate(study.points) if p.curves]
    if not with_curves:
        return None
    shown = chosen_curves(study)
    # Curves that are hidden at first can be switched on in the legend, as long as the legend is legible.
    order = [*shown, *(i for i in with_curves if i not in shown)][: max(CURVES, len(shown))]
    decisive = "loss" if study.column.key.endswith("loss") else "accuracy"
    splits = sorted({s for p in study.points for s in p.curves}, key=lambda s: (s != "validation", s != "train", s))
    outcomes = sorted({o for p in study.points for c in p.curves.values() for o in c}, key=lambda o: (o != decisive, o))
    views = [
        _curves_view(study, sorted(order), shown, split, outcome, extremes)
        for extremes in (False, True) for split in splits for outcome in outcomes
    ]  # fmt: skip
    views = [view for view in views if view.traces]
    traces, layout = figures.choose(views, figures.layout(520, xaxis=figures.axis("optimizer step", rangemode="tozero")))
    caption = (
        f"The mean over the seeds that got that far, and a band over the same seeds: the {study.percent} interval, or "
        "the least and the most."
    )
    if len(shown) < len(with_curves):
        caption += f" Shown are {chosen_names(study, shown)}; a click on an entry of the legend shows or hides a curve."
    return Figure("curves", "Learning curves", caption, traces, layout)


def _curves_view(
    study: Study, order: Sequence[int], shown: Sequence[int], split: str, outcome: str, extremes: bool
) -> View:
    names, styles = labels(study, 56), _styles(study)
    fraction = outcome == "accuracy"
    number = ":.2%" if fraction else ":.4g"
    traces: list[Json] = []
    means: list[float] = []
    for i in order:
        whole = study.points[i].curves.get(split, {}).get(outcome)
        if whole is None:
            continue
        curve, (color, dash) = thin(whole), styles[i]
        low, high = (curve.least, curve.most) if extremes else (curve.low, curve.high)
        common = {"legendgroup": f"point {i}", "visible": True if i in shown else "legendonly", "type": "scatter"}
        if low != high:
            low, high = ([min(max(v, 0.0), 1.0) if fraction else v for v in ends] for ends in (low, high))
            traces.append(
                {**common, "x": [*curve.step, *reversed(curve.step)], "y": [*low, *reversed(high)], "mode": "none",
                 "fill": "toself", "fillcolor": figures.faint(color, 0.08 if len(shown) > 6 else 0.15),
                 "hoverinfo": "skip", "showlegend": False}
            )  # fmt: skip
        traces.append(
            {**common, "x": list(curve.step), "y": list(curve.mean), "mode": "lines+markers", "marker": {"size": 3},
             "line": {"color": color, "width": 1.8, "dash": dash}, "meta": _command(study.points[i]),
             "name": figures.literal(formats.shorten(names[i], 56)) or "all",
             "customdata": [list(row) for row in zip(low, high, curve.count, strict=True)],
             "hovertemplate": f"%{{fullData.name}}<br>step %{{x}}: %{{y{number}}} [%{{customdata[0]{number}}}, "
                              f"%{{customdata[1]{number}}}], %{{customdata[2]}} seeds<extra></extra>"}
        )  # fmt: skip
        means += curve.mean if i in shown else ()
    axis = figures.axis(f"{split} {outcome}{'' if fraction else ' (nats)'}", type="linear")
    if fraction:
        axis |= {"tickformat": ",.3~%", "range": figures.accuracy_limits(means)}
    elif figures.spans_decade(means):
        axis |= {"type": "log", "exponentformat": "none", "dtick": "D2"}
    return View(f"{split} {outcome}, {'least to most' if extremes else 'interval'}", traces, {"yaxis": axis})


def _styles(study: Study) -> list[tuple[str, str]]:
    """Color and dash of each point: by the first axis that has few values, and by another one."""
    varied = [i for i, axis in enumerate(study.axes) if len(axis.values) > 1]
    color = next((i for i in varied if len(study.axes[i].values) <= len(PALETTE)), varied[0] if varied else None)
    dashes = ("solid", "dash", "dot", "dashdot", "longdash")
    dashed = next((i for i in varied if i != color and len(study.axes[i].values) <= len(dashes)), None)
    tones = [PALETTE[0]] if color is None else shades(study.axes[color])
    return [
        (tones[0 if color is None else p.at[color]], dashes[0 if dashed is None else p.at[dashed]]) for p in study.points
    ]


def numeric_axes(study: Study) -> list[int]:
    """The axes that the sensitivity can be against, the first one first: learning rates, then the one with most values."""

    def rank(i: int) -> tuple[bool, int, int]:
        axis = study.axes[i]
        rate = axis.field.endswith("learning_rate") or axis.name.endswith("learning_rate")
        return not rate, -len(axis.values), i

    return sorted((i for i, a in enumerate(study.axes) if a.numeric and len(a.values) > 1), key=rank)


def line_axes(study: Study) -> list[int]:
    """The axes that can have a line for each value, the first one first: names before numbers."""
    few = [i for i, a in enumerate(study.axes) if 2 <= len(a.values) <= MOST_LINES]
    return sorted(few, key=lambda i: (study.axes[i].numeric, i))


def sensitivity(study: Study) -> Figure | None:
    """The outcome against a number that was varied, with lines for another axis; the menu chooses both and the slice."""
    against = numeric_axes(study)
    if not against or all(p.outcome is None for p in study.points):
        return None
    choices: list[tuple[int, int | None, Mapping[int, int]]] = []
    for x in against:
        by = next((i for i in line_axes(study) if i != x), None)
        used = [x] if by is None else [x, by]
        first = study.fixed(used)
        choices += [(x, by, first), *((x, by, other) for other in _slices(study, used) if other != first)]
        choices += [(x, i, study.fixed([x, i])) for i in line_axes(study) if i not in (x, by)]
    # The first slice of each pair comes before the other slices.
    choices.sort(key=lambda c: c[2] != study.fixed([i for i in c[:2] if i is not None]))
    views = [_sensitivity_view(study, *c) for c in choices]
    traces, layout = figures.choose(_affordable(study, views), figures.layout(440))
    name = study.axes[against[0]].name.replace("_", " ")
    caption = (
        f"The mean over seeds; bands and bars are {study.percent} intervals. A cross at the bottom: trials diverged "
        "there, and the mean, if there is one, is of the others. Nothing is averaged over the axes that are not drawn."
    )
    return Figure("sensitivity", f"Sensitivity to {name}", caption, traces, layout)


def _sensitivity_view(study: Study, x: int, by: int | None, fixed: Mapping[int, int]) -> View:
    points, values = _at(study, fixed), study.axes[x].values
    used = [x] if by is None else [x, by]
    traces: list[Json] = []
    lost: list[Json] = []
    for k, color in enumerate([PALETTE[0]] if by is None else shades(study.axes[by])):
        line = sorted((p for p in points if by is None or p.at[by] == k), key=lambda p: values[p.at[x]])
        known = [p for p in line if p.outcome is not None]
        group = {"type": "scatter", "legendgroup": f"line {k}"}
        name = "" if by is None else figures.literal(formats.shorten(f"{study.axes[by].name}={study.axes[by].texts[k]}", 24))
        # Where more than x changes from mark to mark, as in a search, no line leads from one to the next.
        joined = study.joined(line, used)
        ends = [(values[p.at[x]], *_ends(study, p.outcome)) for p in known if p.outcome and p.outcome.low is not None]
        if joined and len(ends) > 1:
            at, low, high = (list(column) for column in zip(*ends, strict=True))
            traces.append({**group, "x": [*at, *reversed(at)], "y": [*low, *reversed(high)], "mode": "none",
                           "fill": "toself", "fillcolor": figures.faint(color), "hoverinfo": "skip",
                           "showlegend": False})  # fmt: skip
        if known:
            trace = _marks(study, [study.points.index(p) for p in known], [values[p.at[x]] for p in known], color)
            trace["marker"] |= {"size": 7, "symbol": ["circle-open" if p.diverged else "circle" for p in known]}
            if joined:
                trace |= {"mode": "lines+markers", "line": {"color": color, "width": 1.8}}
                del trace["error_y"]
            traces.append({**trace, **group, "name": name, "showlegend": by is not None})
        gone = [p for p in line if p.diverged]
        if gone:
            # One row of crosses a line, so that none hides another's.
            lost.append({**group, "x": [values[p.at[x]] for p in gone], "y": [0.02 + 0.035 * len(lost)] * len(gone),
                         "mode": "markers", "marker": {"symbol": "x", "size": 8, "color": color}, "yaxis": "y2",
                         "hovertext": [_hover(study, p) for p in gone], "hoverinfo": "text", "showlegend": False,
                         "customdata": [_command(p) for p in gone]})  # fmt: skip
    means = [p.outcome.mean for p in points if p.outcome is not None]
    where = f"at {study.where(fixed)}" if fixed else ""
    changes = {
        "xaxis": _number_axis(study.axes[x]),
        "yaxis": {**_outcome_axis(study), "range": _reach(means, len(lost))},
        "yaxis2": {"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True},
        "title": {"text": figures.literal(formats.shorten(where, 60)), "font": {"size": 12}, "x": 0.01, "y": 0.98},
    }  # fmt: skip
    name = study.axes[x].name + ("" if by is None else f", lines by {study.axes[by].name}") + (f", {where}" if where else "")
    return View(name, [*traces, *lost], changes)


def _number_axis(axis: StudyAxis) -> Json:
    made = figures.axis(axis.name, type="log" if axis.log else "linear", exponentformat="none")
    if len(axis.values) <= 9:
        ticks = figures.apart(axis.values, axis.log)
        made |= {"tickmode": "array", "tickvals": [axis.values[i] for i in ticks],
                 "ticktext": [figures.literal(axis.texts[i]) for i in ticks]}  # fmt: skip
    return made


def _reach(means: Sequence[float], rows: int) -> list[float] | None:
    """Limits from the means, as one wide interval must not flatten the others; below is room for the crosses."""
    if not means:
        return None
    low, high = min(means), max(means)
    room = max(0.12 * (high - low), 0.005 * abs(high), 1e-9)
    share = 0.035 * rows + 0.01
    return [low - room - (share * (high - low + 2 * room) / (1 - share) if rows else 0.0), high + room]


def compared(study: Study) -> list[int]:
    """The places of the points that were compared, the best difference first, `MOST_ROWS` at most."""
    sign = -1.0 if study.higher else 1.0
    known = [(sign * p.difference.mean, i) for i, p in enumerate(study.points) if p.difference is not None]
    return [i for _, i in sorted(known)][:MOST_ROWS]


def judged(point: StudyPoint) -> str:
    """The verdict as it is colored: never better or worse where the interval holds 0 or is missing."""
    difference = point.difference
    if difference is None or difference.low is None or difference.high is None or difference.low <= 0 <= difference.high:
        return "undecided"
    return point.verdict if point.verdict in VERDICTS else "undecided"


def forest(study: Study) -> Figure | None:
    """Each difference to the control with its interval, a line a point, colored by verdict."""
    order = compared(study)
    if not order:
        return None
    factor = 100.0 if study.fraction else 1.0
    traces = [_adjusted_lines(study, order, factor)]
    for verdict, color in VERDICTS.items():
        rows = [(row, i) for row, i in enumerate(order) if judged(study.points[i]) == verdict]
        if rows:
            traces.append(_verdict_marks(study, rows, verdict, color, factor))
    names = [labels(study, _LABEL)[i] for i in order]
    unit = "percentage points" if study.fraction else study.column.unit
    zero = {"type": "line", "xref": "x", "yref": "paper", "x0": 0, "x1": 0, "y0": 0, "y1": 1, "layer": "below",
            "line": {"color": INK, "width": 1}}  # fmt: skip
    layout = figures.layout(
        140 + 20 * len(order), shapes=[zero], yaxis=figures.category_axis(names, _LABEL), showlegend=True,
        xaxis=figures.axis(f"difference to the control{f' ({unit})' if unit else ''}"),
    )  # fmt: skip
    dropped = sum(p.difference is not None for p in study.points) - len(order)
    caption = (
        f"Paired by seed, with {study.percent} intervals, the best first; thin lines are intervals for all comparisons "
        "at once (Bonferroni), which decide the verdict. Gray and open: not decided, as the interval contains 0 or the "
        "seeds are too few."
    )  # fmt: skip
    caption += f" The {dropped} points at the lower end are left out; the table has all." if dropped else ""
    return Figure("differences", "Differences to the control", caption, traces, layout)


def _verdict_marks(study: Study, rows: Sequence[tuple[int, int]], verdict: str, color: str, factor: float) -> Json:
    points = [study.points[i] for _, i in rows]
    differences = [p.difference or MeanEstimate(0.0) for p in points]
    return {
        "type": "scatter", "mode": "markers", "name": verdict, "x": [factor * d.mean for d in differences],
        "y": [row for row, _ in rows], "customdata": [_command(p) for p in points],
        "marker": {"color": color, "size": 8, "symbol": "circle-open" if verdict == "undecided" else "circle"},
        "error_x": {
            "type": "data", "symmetric": False, "thickness": 2.2, "width": 0, "color": color,
            "array": [0.0 if d.high is None else factor * (d.high - d.mean) for d in differences],
            "arrayminus": [0.0 if d.low is None else factor * (d.mean - d.low) for d in differences],
        },
        "hovertext": [_hover(study, p) for p in points], "hoverinfo": "text",
    }  # fmt: skip


def _adjusted_lines(study: Study, order: Sequence[int], factor: float) -> Json:
    """Thin lines: the intervals for all comparisons at once."""
    x: list[float | None] = []
    y: list[float | None] = []
    for row, i in enumerate(order):
        adjusted = study.points[i].adjusted
        if adjusted is not None and adjusted.low is not None and adjusted.high is not None:
            x += [factor * adjusted.low, factor * adjusted.high, None]
            y += [row, row, None]
    return {"type": "scatter", "mode": "lines", "x": x, "y": y, "line": {"width": 1, "color": "#b0b0b0"},
            "hoverinfo": "skip", "name": "for all comparisons at once"}  # fmt: skip


def shades(axis: StudyAxis) -> list[str]:
    """A color for each value: along viridis where there is an order, of three numbers or more; else apart.

    Example:
      >>> shades(StudyAxis("act", ("relu", "tanh"))), shades(StudyAxis("bits", (2, 4, 8)))
      (['#0072B2', '#D55E00'], ['#440154', '#26828e', '#b5de2b'])
    """
    n = len(axis.values)
    return figures.scale(n) if axis.numeric and n > 2 else figures.colors(n)


def _marks(study: Study, places: Sequence[int], x: Sequence[float], color: str, amounts: Sequence[str] = ()) -> Json:
    """Marks with whiskers; each has its hover text, and the command that runs it in `customdata`."""
    points = [study.points[i] for i in places]
    means = [_mean(p) for p in points]
    ends = [_ends(study, p.outcome) for p in points]
    return {
        "type": "scatter", "mode": "markers", "x": list(x), "y": means, "marker": {"color": color, "size": 9},
        "error_y": {
            "type": "data", "symmetric": False, "thickness": 1, "width": 2, "color": color,
            "array": [high - mean for (_, high), mean in zip(ends, means, strict=True)],
            "arrayminus": [mean - low for (low, _), mean in zip(ends, means, strict=True)],
        },
        "hovertext": [_hover(study, p, amount) for p, amount in itertools.zip_longest(points, amounts, fillvalue="")],
        "hoverinfo": "text", "customdata": [_command(p) for p in points],
    }  # fmt: skip


def _mean(point: StudyPoint) -> float:
    return float("nan") if point.outcome is None else point.outcome.mean


def _ends(study: Study, estimate: MeanEstimate | None) -> tuple[float, float]:
    """The interval as it is drawn; without one, the mean."""
    if estimate is None:
        return float("nan"), float("nan")
    low, high = (estimate.mean if end is None else study.inside(end) for end in (estimate.low, estimate.high))
    return low, high


def _hover(study: Study, point: StudyPoint, amount: str = "") -> str:
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
    lines.append(_command(point))
    return figures.hover(study.label(point), lines)


def _command(point: StudyPoint) -> str:
    return point.trials[0].command if point.trials else ""


def _outcome_axis(study: Study) -> Json:
    return figures.axis(study.outcome_name, **({"tickformat": ",.3~%"} if study.fraction else {}))


def _at(study: Study, fixed: Mapping[int, int]) -> list[StudyPoint]:
    return [p for p in study.points if all(p.at[i] == place for i, place in fixed.items())]


def _slices(study: Study, used: Sequence[int]) -> Iterator[dict[int, int]]:
    """The values of the other axes for which there are points, where they must be fixed at all."""
    free = list(study.fixed(used))
    for places in sorted({tuple(p.at[i] for i in free) for p in study.points}):
        yield dict(zip(free, places, strict=True))


def _affordable(study: Study, views: Sequence[View]) -> list[View]:
    """The first views, as many as a page can carry."""
    return list(views[: min(_VIEWS, max(1, _MARKS // max(len(study.points), 1)))])


