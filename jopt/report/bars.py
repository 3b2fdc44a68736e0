"""Bars: the sparsity of each layer, and the change of each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from jopt.measure import ClassChange
from jopt.report import canvas, formats
from jopt.report.canvas import INK, PALETTE, QUIET

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NAME = 44
_HALO = {"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.85}


def sparsity_bars(stages: Mapping[str, Mapping[str, float]], title: str = "Sparsity by layer") -> Figure:
    """The share of zeros of each array, a bar for each stage, the number at its end.

    Args:
      stages: name of a stage to path and sparsity, as `jopt.measure.sparsity_by_layer` gives them; an array that
        a stage lacks has no bar there. More than four stages get thin bars without numbers.
      title: above the bars.

    Returns:
      A figure as high as there are bars.
    """
    paths = list(dict.fromkeys(path for values in stages.values() for path in values))
    count = max(len(stages), 1)
    thick = 0.17 if count > 1 else 0.2
    row = count * thick + 0.1
    figure = canvas.new_figure(7.2, max(len(paths) * row, 0.3) + 0.75 + 0.2 * (count > 1))
    axis = figure.subplots()
    canvas.plain_axes(axis, grid="x")
    for i, ((stage, values), color) in enumerate(zip(stages.items(), canvas.colors(len(stages)), strict=True)):
        present = [(k * row + i * thick, values[path]) for k, path in enumerate(paths) if path in values]
        axis.barh(
            [y for y, _ in present], [v for _, v in present], height=0.9 * thick, color=color, label=stage,
        )  # fmt: skip
        for y, value in present:
            if count <= 4:
                axis.annotate(
                    formats.percent(value), (value, y), xytext=(3, 0), textcoords="offset points", va="center",
                    fontsize=7, color=INK,
                )  # fmt: skip
    axis.set_xlim(0, 1)
    axis.set_ylim(max(len(paths), 1) * row - 0.5 * thick - 0.05, -0.5 * thick - 0.05)
    axis.set_yticks([k * row + (count - 1) / 2 * thick for k in range(len(paths))])
    axis.set_yticklabels([formats.shorten(path, _NAME) for path in paths])
    axis.tick_params(axis="y", length=0)
    axis.xaxis.set_major_formatter(lambda x, _: f"{100 * x:.4g}%")
    axis.set_xlabel("share of zeros", fontsize=9, color=INK)
    if count > 1:
        handles, labels = axis.get_legend_handles_labels()
        figure.legend(
            handles, [formats.shorten(label, 24) for label in labels], loc="outside lower left", frameon=False,
            fontsize=8, labelcolor=INK, ncols=min(count, 4),
        )  # fmt: skip
    canvas.title(figure, title)
    return figure


def class_bars(
    changes: Sequence[ClassChange], names: Sequence[str] | None = None, title: str = "Accuracy change by class"
) -> Figure:
    """The change of the accuracy on each class, in percentage points: orange below zero, blue above.

    Args:
      changes: what `jopt.measure.class_changes` gave; a class without examples has no bar.
      names: of the classes; None for their numbers.
      title: above the bars.

    Returns:
      A figure with a dotted line at the change over all classes.
    """
    shown = [c for c in changes if c.examples]
    figure = canvas.new_figure(7.2, 2.6)
    axis = figure.subplots()
    canvas.plain_axes(axis)
    values = [100 * c.change for c in shown]
    bars = axis.bar(
        range(len(shown)), values, width=0.72, color=[PALETTE[1] if v < 0 else PALETTE[0] for v in values]
    )
    if len(shown) <= 20:
        for bar, value in zip(bars, values, strict=True):
            axis.annotate(
                f"{value:+.1f}" if round(value, 1) else "0", (bar.get_x() + bar.get_width() / 2, value),
                xytext=(0, -2 if value < 0 else 2), textcoords="offset points", ha="center",
                va="top" if value < 0 else "bottom", fontsize=7, color=INK, bbox=_HALO,
            )  # fmt: skip
    low, high = min([*values, 0.0]), max([*values, 0.0])
    room = 0.14 * max(high - low, 1.0)
    axis.set_ylim(low - room if low < 0 else -0.3 * room, max(high + room, 0.3 if low < 0 else 1.0))
    axis.axhline(0, color=QUIET, linewidth=0.8)
    total = sum(c.examples for c in shown)
    if total:
        mean = 100 * sum(c.correct_after - c.correct_before for c in shown) / total
        axis.axhline(mean, color=INK, linewidth=1, linestyle=(0, (1, 2)), label=f"all examples: {mean:+.2f}")
        axis.margins(x=0.02)
        figure.legend(loc="outside upper right", frameon=False, fontsize=8, labelcolor=INK)
    labels = [str(names[c.label]) if names is not None else str(c.label) for c in shown]
    every = next(step for step in (1, 2, 5, 10, 20, 50, len(labels)) if len(labels) <= 40 * step)
    slanted = max(map(len, labels), default=0) * len(labels) > 90 * every
    axis.set_xticks(range(0, len(labels), every))
    axis.set_xticklabels(
        [formats.shorten(label, 18) for label in labels[::every]],
        **({"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if slanted else {}),
    )
    axis.tick_params(axis="x", length=0)
    axis.set_ylabel("percentage points", fontsize=9, color=INK)
    if names is None:
        axis.set_xlabel("class", fontsize=9, color=INK)
    canvas.title(figure, title)
    return figure
