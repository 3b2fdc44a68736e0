"""Curves of a grid: learning curves with bands, and the outcome against a number that was varied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jopt.measure import Column
from jopt.report import figures, formats
from jopt.report.figures import PALETTE, Figure, Json, View
from jopt.report.grid_figures import (
    LABEL,
    MOST_LINES,
    affordable,
    drawn_ends,
    first_command,
    hover_text,
    marks,
    outcome_axis,
    points_at,
    shades,
    slices,
)
from jopt.report.study import Curve, Study, StudyAxis, labels

CURVES, FEW, STEPS = 30, 12, 200
"""So many curves are shown; of more than that, only the few best at first; and so many steps of each."""


def chosen_curves(study: Study, most: int = CURVES, few: int = FEW) -> list[int]:
    """The points whose curves are shown first, in order: all up to `most`, else the control and the best of others.

    They are `few` together. Where controls would take more than a third of these, they have no precedence.
    """
    # A grid of many controls would otherwise show nothing but them.
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
    # The ends are kept exactly: the last value is the one that is compared.
    keep = [round(i * (n - 1) / (most - 1)) for i in range(most)]

    def column(values: Sequence[object]) -> tuple[Any, ...]:
        return tuple(values[i] for i in keep)

    return Curve(*map(column, curve))


def curves(study: Study) -> Figure | None:
    """Means over seeds with bands; the menu chooses the part of the data, the outcome and what the band is."""
    with_curves = [i for i, p in enumerate(study.points) if p.curves]
    if not with_curves:
        return None
    shown = chosen_curves(study)
    # Curves that are hidden at first can be switched on in the legend, as long as the legend is legible.
    # All splits and outcomes repeat these curves, so their number decides the size of the page.
    order = [*shown, *(i for i in with_curves if i not in shown)][: max(CURVES, len(shown))]
    named = {metric.key: metric for metric in study.metrics}
    # That of the part of the data that decides, or else the task's deciding one.
    decisive = next(
        (k for k in named if study.column.key in (k, f"validation_{k}", f"train_{k}")), study.metrics[0].key
    )
    splits = sorted({s for p in study.points for s in p.curves}, key=lambda s: (s != "validation", s != "train", s))
    outcomes = sorted(
        {o for p in study.points for c in p.curves.values() for o in c if o in named},
        key=lambda o: (o != decisive, o),
    )
    views = [
        _curves_view(study, sorted(order), shown, split, named[outcome], extremes)
        for extremes in (False, True) for split in splits for outcome in outcomes
    ]  # fmt: skip
    views = [view for view in views if view.traces]
    base = figures.layout(520, xaxis=figures.axis("optimizer step", rangemode="tozero"))
    title = {"text": figures.literal(labels(study, LABEL)[1]), "side": "top"}
    base["legend"] |= {"title": title, "maxheight": 160, "y": -0.22}
    traces, layout = figures.choose(views, base)
    caption = (
        f"The mean over the seeds that got that far, and a band over the same seeds: the {study.percent} interval, "
        "or the least and the most."
    )
    if len(shown) < len(with_curves):
        caption += (
            f" Shown are {chosen_names(study, shown)}; a click on an entry of the legend shows or hides a curve."
        )
    return Figure("curves", "Learning curves", caption, traces, layout)


def _curves_view(
    study: Study, order: Sequence[int], shown: Sequence[int], split: str, metric: Column, extremes: bool
) -> View:
    names, styles = labels(study, LABEL)[0], _styles(study)
    fraction = metric.fraction
    number = ":.2%" if fraction else ":.4g"
    traces: list[Json] = []
    means: list[float] = []
    for i in order:
        full = study.points[i].curves.get(split, {}).get(metric.key)
        if full is None:
            continue
        curve, (color, dash) = thin(full), styles[i]
        low, high = (curve.least, curve.most) if extremes else (curve.low, curve.high)
        common = {"legendgroup": f"point {i}", "visible": True if i in shown else "legendonly", "type": "scatter"}
        # A band of no width would only make the page larger.
        if low != high:
            low, high = ([min(max(v, 0.0), 1.0) if fraction else v for v in ends] for ends in (low, high))
            traces.append(
                {**common, "x": [*curve.step, *reversed(curve.step)], "y": [*low, *reversed(high)], "mode": "none",
                 "fill": "toself", "fillcolor": figures.faint(color, 0.08 if len(shown) > 6 else 0.15),
                 "hoverinfo": "skip", "showlegend": False}
            )  # fmt: skip
        traces.append(
            {**common, "x": list(curve.step), "y": list(curve.mean), "mode": "lines+markers", "marker": {"size": 3},
             "line": {"color": color, "width": 1.8, "dash": dash}, "meta": first_command(study.points[i]),
             "name": figures.literal(formats.shorten(names[i], 56)) or "all",
             "customdata": [list(row) for row in zip(low, high, curve.count, strict=True)],
             "hovertemplate": f"%{{fullData.name}}<br>step %{{x}}: %{{y{number}}} [%{{customdata[0]{number}}}, "
                              f"%{{customdata[1]{number}}}], %{{customdata[2]}} seeds<extra></extra>"}
        )  # fmt: skip
        # Curves that are hidden at first must not decide the limits.
        means += curve.mean if i in shown else ()
    axis = figures.axis(f"{split} {formats.titled(metric)}", type="linear")
    if metric.better == "higher":
        axis |= {"tickformat": ",.3~%"} if fraction else {}
        axis |= {"range": figures.rising_limits(means)}
    elif figures.spans_decade(means):
        axis |= {"type": "log", "exponentformat": "none", "dtick": "D2"}
    return View(f"{split} {metric.label}, {'least to most' if extremes else 'interval'}", traces, {"yaxis": axis})


def _styles(study: Study) -> list[tuple[str, str]]:
    """Color and dash of each point: by the first axis that has few values, and by another one."""
    varied = [i for i, axis in enumerate(study.axes) if len(axis.values) > 1]
    # Colors distinguish few values, dashes fewer: the first axis that fits gets the color.
    color = next((i for i in varied if len(study.axes[i].values) <= len(PALETTE)), varied[0] if varied else None)
    dashes = ("solid", "dash", "dot", "dashdot", "longdash")
    dashed = next((i for i in varied if i != color and len(study.axes[i].values) <= len(dashes)), None)
    tones = [PALETTE[0]] if color is None else shades(study.axes[color])
    return [
        (tones[0 if color is None else p.at[color]], dashes[0 if dashed is None else p.at[dashed]])
        for p in study.points
    ]


def numeric_axes(study: Study) -> list[int]:
    """The axes that the sensitivity can be against: learning rates first, then the one with most values."""

    def rank(i: int) -> tuple[bool, int, int]:
        axis = study.axes[i]
        # The rate decides most of all whether a run works, so it comes first.
        rate = axis.field.endswith("learning_rate") or axis.name.endswith("learning_rate")
        return not rate, -len(axis.values), i

    return sorted((i for i, a in enumerate(study.axes) if a.numeric and len(a.values) > 1), key=rank)


def line_axes(study: Study) -> list[int]:
    """The axes that can have a line for each value, the first one first: names before numbers."""
    few = [i for i, a in enumerate(study.axes) if 2 <= len(a.values) <= MOST_LINES]
    return sorted(few, key=lambda i: (study.axes[i].numeric, i))


def sensitivity(study: Study) -> Figure | None:
    """The outcome against a number that was varied, with lines for another axis; the menu chooses among them."""
    against = numeric_axes(study)
    if not against or all(p.outcome is None for p in study.points):
        return None
    choices: list[tuple[int, int | None, Mapping[int, int]]] = []
    for x in against:
        by = next((i for i in line_axes(study) if i != x), None)
        used = [x] if by is None else [x, by]
        first = study.fixed(used)
        choices += [(x, by, first), *((x, by, other) for other in slices(study, used) if other != first)]
        choices += [(x, i, study.fixed([x, i])) for i in line_axes(study) if i not in (x, by)]
    # The first slice of each pair comes before the other slices.
    choices.sort(key=lambda c: c[2] != study.fixed([i for i in c[:2] if i is not None]))
    views = [_sensitivity_view(study, *c) for c in choices]
    traces, layout = figures.choose(affordable(study, views), figures.layout(440))
    name = study.axes[against[0]].name.replace("_", " ")
    caption = (
        f"The mean over seeds; bands and bars are {study.percent} intervals. A cross at the bottom: trials "
        "diverged there, and the mean, if there is one, is of the others. Nothing is averaged over the axes that "
        "are not drawn."
    )
    return Figure("sensitivity", f"Sensitivity to {name}", caption, traces, layout)


def _sensitivity_view(study: Study, x: int, by: int | None, fixed: Mapping[int, int]) -> View:
    points, values = points_at(study, fixed), study.axes[x].values
    used = [x] if by is None else [x, by]
    traces: list[Json] = []
    lost: list[Json] = []
    for k, color in enumerate([PALETTE[0]] if by is None else shades(study.axes[by])):
        line = sorted((p for p in points if by is None or p.at[by] == k), key=lambda p: values[p.at[x]])
        finished = [p for p in line if p.outcome is not None]
        group = {"type": "scatter", "legendgroup": f"line {k}"}
        name = (
            ""
            if by is None
            else figures.literal(formats.shorten(f"{study.axes[by].name}={study.axes[by].text(k)}", 24))
        )
        # Where more than x changes from mark to mark, as in a search, no line leads from one to the next.
        joined = study.joined(line, used)
        # A point of one seed has no interval, and would tear a hole into the band.
        banded = [p for p in finished if p.outcome is not None and p.outcome.low is not None]
        ends = [(values[p.at[x]], *drawn_ends(study, p.outcome)) for p in banded]
        if joined and len(ends) > 1:
            at, low, high = (list(column) for column in zip(*ends, strict=True))
            traces.append({**group, "x": [*at, *reversed(at)], "y": [*low, *reversed(high)], "mode": "none",
                           "fill": "toself", "fillcolor": figures.faint(color), "hoverinfo": "skip",
                           "showlegend": False})  # fmt: skip
        if finished:
            trace = marks(study, finished, [values[p.at[x]] for p in finished], color)
            trace["marker"] |= {"size": 7, "symbol": ["circle-open" if p.diverged else "circle" for p in finished]}
            if joined:
                trace |= {"mode": "lines+markers", "line": {"color": color, "width": 1.8}}
                del trace["error_y"]
            traces.append({**trace, **group, "name": name, "showlegend": by is not None})
        # Crosses have a separate axis: a point that diverged has no outcome to be drawn at.
        gone = [p for p in line if p.diverged]
        if gone:
            # One row of crosses a line, so that none hides another's.
            lost.append({**group, "x": [values[p.at[x]] for p in gone], "y": [0.02 + 0.035 * len(lost)] * len(gone),
                         "mode": "markers", "marker": {"symbol": "x", "size": 8, "color": color}, "yaxis": "y2",
                         "hovertext": [hover_text(study, p) for p in gone], "hoverinfo": "text",
                         "showlegend": False, "customdata": [first_command(p) for p in gone]})  # fmt: skip
    means = [p.outcome.mean for p in points if p.outcome is not None]
    where = f"at {study.where(fixed)}" if fixed else ""
    changes = {
        "xaxis": _number_axis(study.axes[x]),
        "yaxis": {**outcome_axis(study), "range": _reach(means, len(lost))},
        "yaxis2": {"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True},
        "title": {"text": figures.literal(formats.shorten(where, 60)), "font": {"size": 12}, "x": 0.01, "y": 0.98},
    }  # fmt: skip
    name = (
        study.axes[x].name
        + ("" if by is None else f", lines by {study.axes[by].name}")
        + (f", {where}" if where else "")
    )
    return View(name, [*traces, *lost], changes)


def _number_axis(axis: StudyAxis) -> Json:
    axis_layout = figures.axis(axis.name, type="log" if axis.log else "linear", exponentformat="none")
    if len(axis.values) <= 9:
        ticks = figures.apart(axis.values, axis.log)
        axis_layout |= {"tickmode": "array", "tickvals": [axis.values[i] for i in ticks],
                 "ticktext": [figures.literal(axis.text(i)) for i in ticks]}  # fmt: skip
    return axis_layout


def _reach(means: Sequence[float], rows: int) -> list[float] | None:
    """Limits from the means, as one wide interval must not flatten the others; below is room for the crosses."""
    if not means:
        return None
    low, high = min(means), max(means)
    room = max(0.12 * (high - low), 0.005 * abs(high), 1e-9)
    # The rows of crosses take a share of the height, so the limits must be moved by more than that.
    share = 0.035 * rows + 0.01
    return [low - room - (share * (high - low + 2 * room) / (1 - share) if rows else 0.0), high + room]
