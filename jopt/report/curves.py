"""Learning curves of one run, and of several runs against one another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jopt.report import canvas
from jopt.report.canvas import INK, PALETTE, QUIET, spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]

_DIRECT_LABELS = 5


def learning_curves(rows: Sequence[Row], title: str = "") -> Figure:
    """Loss and accuracy of one run against the optimizer step.

    Training is blue and thin, validation orange with a mark at each evaluation while there are few; a test
    result is an open diamond. Where the run has several stages, a vertical line marks the end of each. The
    loss axis is logarithmic if its values span more than a decade; the accuracy axis begins below the lowest tenth
    of the values. Values that are not finite are left out.

    Args:
      rows: metric rows: `step`, `stage`, `split` (`train`, `validation` or `test`), `loss`, and `accuracy` in
        [0, 1]. Without any accuracy there is only the loss panel.
      title: above the panels.

    Returns:
      A figure 7.2 inches wide (3.6 with one panel), attached to no global state.
    """
    figure, axes = _panels(_metrics(rows))
    for metric, axis in axes.items():
        for split, color in (("train", PALETTE[0]), ("validation", PALETTE[1])):
            x, y = series(rows, split, metric)
            if x:
                marker = "o" if split == "validation" and len(x) <= 40 else ""
                axis.plot(
                    x, y, color=color, label=split, linewidth=1.2 if split == "train" else 1.8, marker=marker,
                    markersize=3, alpha=0.9, zorder=2.5 if split == "train" else 3,
                )  # fmt: skip
        x, y = series(rows, "test", metric)
        if x:
            axis.plot(
                x,
                y,
                "D",
                color="black",
                markerfacecolor="white",
                label="test",
                markersize=5,
                zorder=4,
                clip_on=False,
            )
        _scale(axis, metric, rows)
        _stages(axis, rows)
    first = next(iter(axes.values()))
    if first.get_legend_handles_labels()[0]:
        canvas.legend(first, loc="best")
    canvas.title(figure, title)
    return figure


def compare_runs(runs: Mapping[str, Sequence[Row]], title: str = "") -> Figure:
    """Loss and accuracy of several runs in one color each: training dashed, validation solid.

    Up to five runs are named at the ends of their lines, more in a legend beside the panels.

    Args:
      runs: name to metric rows, as for `learning_curves`.
      title: above the panels.

    Returns:
      A figure 7.2 inches wide (3.6 with one panel) and, with a legend, somewhat more.
    """
    from matplotlib.lines import Line2D

    everything = [row for rows in runs.values() for row in rows]
    colors = dict(zip(runs, canvas.colors(len(runs)), strict=True))
    direct = len(runs) <= _DIRECT_LABELS
    longest = max(map(len, runs), default=0)
    figure, axes = _panels(_metrics(everything), margin=0.075 * longest + (0.1 if direct else 0.5))
    for metric, axis in axes.items():
        ends = []
        for run, rows in runs.items():
            end = None
            for split, style in (("train", (0, (3, 1.5))), ("validation", "-")):
                x, y = series(rows, split, metric)
                if x:
                    solid = split == "validation"
                    axis.plot(
                        x, y, color=colors[run], linestyle=style, linewidth=1.7 if solid else 1.0,
                        alpha=1.0 if solid else 0.65, zorder=3 if solid else 2.5,
                    )  # fmt: skip
                    end = _last_finite(x, y) or end
            if end is not None:
                ends.append((run, *end, colors[run]))
        _scale(axis, metric, everything)
        if direct and axis is list(axes.values())[-1]:
            _end_labels(axis, ends)
    splits = {row.get("split") for row in everything}
    styles = [
        Line2D([], [], color=QUIET, linestyle="-", linewidth=1.7, label="validation"),
        Line2D([], [], color=QUIET, linestyle=(0, (3, 1.5)), linewidth=1.0, label="train"),
    ]
    if {"train", "validation"} <= splits:
        canvas.legend(next(iter(axes.values())), handles=styles, loc="best")
    if not direct:
        handles = [Line2D([], [], color=c, linewidth=1.7, label=run) for run, c in colors.items()]
        figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=8, labelcolor=INK)
    canvas.title(figure, title)
    return figure


def series(rows: Sequence[Row], split: str, metric: str) -> tuple[list[int], list[float]]:
    """Steps and values of one metric on one split; a value that is not finite becomes NaN, a gap in the line.

    Example:
      >>> series([{"step": 5, "split": "train", "loss": 0.5}, {"step": 9, "split": "test", "loss": 1.0}],
      ...        "train", "loss")
      ([5], [0.5])
    """
    pairs = [(r["step"], float(r[metric])) for r in rows if r.get("split") == split and r.get(metric) is not None]
    return [x for x, _ in pairs], [y if math.isfinite(y) else math.nan for _, y in pairs]


def _metrics(rows: Sequence[Row]) -> list[str]:
    return ["loss", "accuracy"] if any(row.get("accuracy") is not None for row in rows) else ["loss"]


def _panels(metrics: Sequence[str], margin: float = 0.0) -> tuple[Figure, dict[str, Axes]]:
    figure = canvas.new_figure(3.6 * len(metrics) + margin, 2.7)
    grid = figure.subplots(1, len(metrics), squeeze=False)[0]
    for axis in grid:
        canvas.plain_axes(axis)
        axis.set_xlabel("optimizer step", fontsize=9, color=INK)
    return figure, dict(zip(metrics, grid, strict=True))


def _scale(axis: Axes, metric: str, rows: Sequence[Row]) -> None:
    from matplotlib.ticker import (
        EngFormatter,
        FuncFormatter,
        LogLocator,
        MaxNLocator,
        NullFormatter,
    )

    values = [y for split in ("train", "validation", "test") for y in series(rows, split, metric)[1] if y == y]
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    if max((row["step"] for row in rows), default=0) >= 10_000:
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    if metric == "accuracy":
        axis.set_ylabel("accuracy", fontsize=9, color=INK)
        axis.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.4g}%"))
        if values:
            low, high = _accuracy_limits(values)
            axis.set_ylim(low, high)
        return
    axis.set_ylabel("loss (nats)" if metric == "loss" else metric, fontsize=9, color=INK)
    if values and min(values) > 0 and max(values) > 10 * min(values):
        axis.set_yscale("log")
        decades = math.log10(max(values) / min(values))
        plain = FuncFormatter(lambda y, _: f"{y:g}")
        axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 2.5 else (1.0,), numticks=12))
        axis.yaxis.set_major_formatter(plain)
        axis.yaxis.set_minor_formatter(NullFormatter())


def _accuracy_limits(values: Sequence[float]) -> tuple[float, float]:
    """Begins below the lowest tenth of the values: the climb from chance must not flatten the rest."""
    ordered = sorted(values)
    low, high = ordered[len(ordered) // 10], ordered[-1]
    room = max(high - low, 0.01)
    bottom = low - 0.6 * room
    return (ordered[0] - 0.05 * room if ordered[0] > bottom else bottom), high + 0.05 * room


def _stages(axis: Axes, rows: Sequence[Row]) -> None:
    """Marks where each stage ends and writes its name above the panel, if there are several."""
    ends: list[tuple[str, int]] = []
    for row in rows:
        if not row.get("stage") or row.get("split") == "test":
            continue
        if ends and ends[-1][0] == row["stage"]:
            ends[-1] = row["stage"], max(row["step"], ends[-1][1])
        else:
            ends.append((row["stage"], row["step"]))
    if len(ends) < 2:
        return
    begin = min((row["step"] for row in rows), default=0)
    width = ends[-1][1] - begin or 1
    for i, (name, end) in enumerate(ends):
        if i < len(ends) - 1:
            axis.axvline(end, color=QUIET, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
        if (end - begin) / width > 0.012 * len(name):
            axis.annotate(
                name, ((begin + end) / 2, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 2),
                textcoords="offset points", ha="center", va="bottom", fontsize=7.5, color=QUIET,
            )  # fmt: skip
        begin = end


def _last_finite(x: Sequence[int], y: Sequence[float]) -> tuple[int, float] | None:
    return next(((a, b) for a, b in zip(reversed(x), reversed(y), strict=True) if b == b), None)


def _end_labels(axis: Axes, ends: Sequence[tuple[str, int, float, str]]) -> None:
    """Names the lines at their right ends, pushed apart in height so that no two names touch."""
    to_axes = axis.transData + axis.transAxes.inverted()
    heights = [(float(to_axes.transform((x, y))[1]), name, color) for name, x, y, color in ends]
    placed = spread([h for h, _, _ in heights], gap=0.075)
    for (_, name, color), height in zip(heights, placed, strict=True):
        axis.annotate(
            name, (1.0, height), xycoords="axes fraction", xytext=(5, 0), textcoords="offset points",
            ha="left", va="center", fontsize=8, color=color, annotation_clip=False,
        )  # fmt: skip
