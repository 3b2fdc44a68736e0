"""The pictures of an ablation's report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from jopt.ablate.drawing import apart, climb, outcome_axis, within
from jopt.report import canvas, formats
from jopt.report.canvas import INK, PALETTE
from jopt.report.interactive import curves, forest, heat, sensitivity, tradeoff
from jopt.report.interactive.data import SIZES, Estimate, Study
from jopt.report.interactive.plot import labels, shades, size_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVES = 7
LABEL = 56
PICTURES = (
    "accuracy_against_size.png",
    "heat_map.png",
    "learning_curves.png",
    "sensitivity.png",
    "differences.png",
)
"""The files of `pictures`, in a report's order."""


def pictures(study: Study) -> dict[str, tuple[str, Figure]]:
    """File name to caption and figure, in a report's order; those for which there are data.

    What is chosen in the page is fixed here: the first size, the first two axes, the other axes at the control.
    """
    drawn = (draw(study) for draw in (_tradeoff, _heat, _curves, _sensitivity, _forest))
    return {name: own for name, own in zip(PICTURES, drawn, strict=True) if own is not None}


def _tradeoff(study: Study) -> tuple[str, Figure] | None:
    fronts = tradeoff.fronts(study)
    if not fronts:
        return None
    key, front = next(iter(fronts.items()))
    figure = canvas.new_figure(7.2, 3.8)
    axis = figure.subplots()
    canvas.plain_axes(axis)
    known = [(i, p.sizes[key], p.outcome) for i, p in enumerate(study.points) if p.outcome and p.sizes.get(key)]
    styles = {
        "on the front": (PALETTE[0], "o", [k for k in known if k[0] in front]),
        "beaten": ("#8a8a8a", "o", [k for k in known if k[0] not in front and not _control(study, k[0])]),
        "control": (PALETTE[1], "D", [k for k in known if _control(study, k[0])]),
    }
    x, y = zip(*[(size, own.mean) for i in front for j, size, own in known if i == j], strict=True)
    axis.plot(x, y, color=INK, linewidth=0.9, drawstyle="steps-post", zorder=2, label="Pareto front of the means")
    for name, (color, marker, own) in styles.items():
        if own:
            _marks(axis, study, [(size, e) for _, size, e in own], color, marker, name)
    axis.set_xscale("log")
    places, texts = size_ticks(key, [size for _, size, _ in known])
    axis.set_xticks(places, texts)
    axis.minorticks_off()
    axis.set_xlabel(SIZES[key], fontsize=9, color=INK)
    outcome_axis(axis, study)
    canvas.legend(axis, loc="best")
    caption = (
        f"{_title(study)} against {SIZES[key]}: means over seeds with {study.percent} intervals, and the Pareto "
        "front of the means."
    )  # fmt: skip
    return caption, figure


def _heat(study: Study) -> tuple[str, Figure] | None:
    pair = heat.default(study)
    means = [p.outcome.mean for p in study.points if p.outcome]
    if pair is None or not means:
        return None
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    rows, columns = (study.axes[i] for i in pair)
    fixed = study.fixed(pair)
    figure = canvas.new_figure(1.4 + 0.75 * len(columns.values), 1.1 + 0.42 * len(rows.values))
    axis = figure.subplots()
    stops = [color for _, color in heat.COLORS]
    shade = LinearSegmentedColormap.from_list("outcome", stops if study.higher else stops[::-1])
    norm = Normalize(*heat.limits(means, study.higher), clip=True)
    for point in study.points:
        if any(point.at[i] != place for i, place in fixed.items()):
            continue
        y, x = (point.at[i] for i in pair)
        text = "diverged"
        if point.outcome is not None:
            color = shade(norm(point.outcome.mean))
            axis.fill(
                [x - 0.48, x + 0.48, x + 0.48, x - 0.48],
                [y - 0.47, y - 0.47, y + 0.47, y + 0.47],
                color=color,
                lw=0,
            )
            half = study.width(point.outcome)
            text = study.amount(point.outcome.mean) + "*" * bool(point.diverged)
            text += f"\n{half}" if half else ""
        axis.text(x, y, text, ha="center", va="center", fontsize=7, color=INK)
    axis.set_xlim(-0.5, len(columns.values) - 0.5)
    axis.set_ylim(*((-0.5, len(rows.values) - 0.5) if rows.numeric else (len(rows.values) - 0.5, -0.5)))
    axis.set_xticks(range(len(columns.values)), [formats.shorten(_plain(t), 12) for t in columns.texts])
    axis.set_yticks(range(len(rows.values)), [formats.shorten(_plain(t), 20) for t in rows.texts])
    canvas.plain_axes(axis, grid="")
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    _slice(figure, study, fixed)
    axis.set_xlabel(_plain(columns.name), fontsize=9, color=INK)
    axis.set_ylabel(_plain(rows.name), fontsize=9, color=INK)
    caption = (
        f"{_title(study)}: the mean over seeds and half the width of its {study.percent} interval"
        f"{_where(study, fixed)}. An asterisk: some seeds diverged."
    )  # fmt: skip
    return caption, figure


def _curves(study: Study) -> tuple[str, Figure] | None:
    shown = curves.chosen(study, CURVES, CURVES)
    if not shown:
        return None
    split = curves.splits(study)[0]
    outcomes = curves.outcomes(study)
    names = [_label(study, i) for i in shown]
    figure = canvas.new_figure(3.6 * len(outcomes) + 0.075 * max(map(len, names)) + 0.5, 3.0)
    for axis, name in zip(figure.subplots(1, len(outcomes), squeeze=False)[0], outcomes, strict=True):
        canvas.plain_axes(axis)
        means: list[float] = []
        for i, label, color in zip(shown, names, canvas.colors(len(shown)), strict=True):
            own = study.points[i].curves.get(split, {}).get(name)
            if own is not None:
                axis.plot(own.step, own.mean, color=color, linewidth=1.4, label=label)
                low, high = ([within(v, name) for v in ends] for ends in (own.low, own.high))
                axis.fill_between(own.step, low, high, color=color, alpha=0.12, linewidth=0)
                means += own.mean
        axis.set_xlabel("optimizer step", fontsize=9, color=INK)
        axis.set_ylabel(f"{split} {name}{' (nats)' * (name == 'loss')}", fontsize=9, color=INK)
        if name == "accuracy" and means:
            axis.yaxis.set_major_formatter(lambda v, _: f"{100 * v:.4g}%")
            axis.set_ylim(*climb(means))
        elif means and min(means) > 0 and max(means) > 10 * min(means):
            axis.set_yscale("log")
    handles, texts = figure.axes[0].get_legend_handles_labels()
    if handles and (len(study.points) > 1 or texts[0]):
        figure.legend(handles, texts, loc="outside right upper", frameon=False, fontsize=8, labelcolor=INK)
    own = sum(bool(p.curves) for p in study.points)
    which = curves.which(study, shown, CURVES) if len(shown) < own else "all points"
    return f"Learning curves of {which}: the mean over seeds with its {study.percent} interval.", figure


def _sensitivity(study: Study) -> tuple[str, Figure] | None:
    against = sensitivity.numbers(study)
    if not against or all(p.outcome is None for p in study.points):
        return None
    x = against[0]
    by = next((i for i in sensitivity.lines(study) if i != x), None)
    used = [x] if by is None else [x, by]
    fixed = study.fixed(used)
    own = [p for p in study.points if all(p.at[i] == place for i, place in fixed.items())]
    figure = canvas.new_figure(5.6 if by is not None else 4.6, 3.2)
    axis = figure.subplots()
    canvas.plain_axes(axis)
    values = study.axes[x].values
    lost_rows = 0
    for k, color in enumerate([PALETTE[0]] if by is None else shades(study.axes[by])):
        line = sorted((p for p in own if by is None or p.at[by] == k), key=lambda p: values[p.at[x]])
        known = [(values[p.at[x]], p.outcome) for p in line if p.outcome]
        joined = study.joined(line, used)
        places = [place for place, _ in known]
        style = "o-" if joined else "o"
        axis.plot(places, [e.mean for _, e in known], style, color=color, markersize=4, linewidth=1.4,
                  label="" if by is None else formats.shorten(_plain(study.axes[by].texts[k]), 24))  # fmt: skip
        whole = [
            (place, study.inside(e.low), study.inside(e.high))
            for place, e in known
            if e.low is not None and e.high is not None
        ]
        if whole:
            at, low, high = (list(column) for column in zip(*whole, strict=True))
            if joined:
                axis.fill_between(at, low, high, color=color, alpha=0.14, linewidth=0)
            else:
                axis.vlines(at, low, high, color=color, linewidth=0.8, alpha=0.6)
        lost = [values[p.at[x]] for p in line if p.diverged]
        if lost:
            height = 0.02 + 0.035 * lost_rows
            axis.plot(
                lost, [height] * len(lost), "x", color=color, markersize=5, transform=axis.get_xaxis_transform()
            )
            lost_rows += 1
    means = [p.outcome.mean for p in own if p.outcome]
    if means:
        low, high = min(means), max(means)
        room = max(0.1 * (high - low), 0.005 * abs(high), 1e-9)
        share = 0.035 * lost_rows + 0.01 * bool(lost_rows)
        axis.set_ylim(low - room - share * (high - low + 2 * room) / (1 - share), high + room)
    if study.axes[x].log:
        axis.set_xscale("log")
    if len(values) <= 9:
        own_ticks = apart(values, study.axes[x].log)
        axis.set_xticks([values[i] for i in own_ticks], [_plain(study.axes[x].texts[i]) for i in own_ticks])
        axis.minorticks_off()
    _slice(figure, study, fixed)
    axis.set_xlabel(_plain(study.axes[x].name), fontsize=9, color=INK)
    outcome_axis(axis, study)
    if by is not None:
        figure.legend(*axis.get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=8,
                      labelcolor=INK, title=_plain(study.axes[by].name), title_fontsize=8)  # fmt: skip
    caption = (
        f"{_title(study)} against {study.axes[x].name}{_where(study, fixed)}: means over seeds with "
        f"{study.percent} intervals. Crosses at the bottom: trials diverged there."
    )  # fmt: skip
    return caption, figure


def _forest(study: Study) -> tuple[str, Figure] | None:
    order = forest.compared(study)[:40]
    if not order:
        return None
    factor = 100.0 if study.fraction else 1.0
    names = [_label(study, i) for i in order]
    figure = canvas.new_figure(4.3 + 0.07 * max(map(len, names)), 0.9 + 0.19 * len(order))
    axis = figure.subplots()
    canvas.plain_axes(axis, grid="x")
    axis.axvline(0, color=INK, linewidth=0.8)
    for row, i in enumerate(order):
        point = study.points[i]
        color = forest.COLORS[forest.judged(point)]
        for own, width, shade in ((point.adjusted, 0.8, "#b0b0b0"), (point.difference, 2.0, color)):
            if own is not None and own.low is not None and own.high is not None:
                axis.plot([factor * own.low, factor * own.high], [row, row], color=shade, linewidth=width)
        if point.difference is not None:
            face = color if forest.judged(point) != "undecided" else "white"
            axis.plot(
                [factor * point.difference.mean], [row], "o", color=color, markerfacecolor=face, markersize=4.5
            )
    axis.set_ylim(len(order) - 0.4, -0.6)
    axis.set_yticks(range(len(order)), names)
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel("difference to the control" + " (percentage points)" * study.fraction, fontsize=9, color=INK)
    caption = (
        f"Differences to the control, paired by seed, with {study.percent} intervals; thin lines are intervals for "
        "all comparisons at once. Blue is better, orange is worse, gray is not decided."
    )  # fmt: skip
    return caption, figure


def _marks(
    axis: Axes, study: Study, own: Sequence[tuple[float, Estimate]], color: str, marker: str, name: str
) -> None:
    means = [e.mean for _, e in own]
    below = [0.0 if e.low is None else e.mean - study.inside(e.low) for _, e in own]
    above = [0.0 if e.high is None else study.inside(e.high) - e.mean for _, e in own]
    axis.errorbar(
        [size for size, _ in own], means, yerr=[below, above], fmt=marker, color=color, markersize=5,
        elinewidth=0.8, capsize=1.5, label=name, zorder=3,
    )  # fmt: skip


def _control(study: Study, i: int) -> bool:
    return study.points[i].verdict == "control"


def _label(study: Study, i: int) -> str:
    return formats.shorten(_plain(labels(study, LABEL)[i]), LABEL)


def _where(study: Study, fixed: Mapping[int, int]) -> str:
    return f", at {study.where(fixed)}" if fixed else ""


def _slice(figure: Figure, study: Study, fixed: Mapping[int, int]) -> None:
    """What the picture is a slice at: it may be looked at without its caption."""
    if fixed:
        canvas.title(figure, f"at {formats.shorten(_plain(study.where(fixed)), 60)}")


def _title(study: Study) -> str:
    return study.outcome_name.capitalize()


def _plain(text: str) -> str:
    """Text without what matplotlib takes for mathematics."""
    return text.replace("$", r"\$")
