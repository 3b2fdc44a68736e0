"""What a compression costs and saves: accuracy against size, and all stages in one picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jopt.report import canvas, formats
from jopt.report.canvas import INK, PALETTE, QUIET

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

Row = Mapping[str, Any]

_NAME = 32


def accuracy_against_size(rows: Sequence[Row], title: str = "Accuracy against size") -> Figure:
    """A point for each stage, joined in their order; names at the right, tied to their points by thin lines.

    Args:
      rows: what `jopt.measure.stage_rows` gave; a row without `accuracy` or a size is left out.
      title: above the panel.

    Returns:
      A figure whose size axis is logarithmic; sizes are theoretical, or those of packed files (see `size_of`).
    """
    size, meaning = size_of(rows)
    known = [r for r in rows if r.get("accuracy") is not None and r.get(size)]
    names = [formats.shorten(str(r["stage"]), _NAME) for r in known]
    height = max(2.7, 0.19 * len(known) + 0.9)
    figure = canvas.new_figure(4.2 + 0.075 * max(map(len, names), default=0), height)
    axis = figure.subplots()
    canvas.plain_axes(axis)
    x, y = [r[size] for r in known], [r["accuracy"] for r in known]
    axis.plot(x, y, color=QUIET, linewidth=0.8, linestyle=(0, (3, 2)), zorder=2)
    shades = canvas.colors(len(known))
    for a, b, color in zip(x, y, shades, strict=True):
        axis.plot([a], [b], "o", color=color, markersize=6, zorder=3)
    _size_axis(axis, x)
    _accuracy_axis(axis.yaxis)
    low, high = _limits(y)
    axis.set_ylim(low, high)
    axis.set_ylabel("test accuracy", fontsize=9, color=INK)
    axis.set_xlabel(meaning, fontsize=9, color=INK)
    heights = canvas.spread([(b - low) / (high - low) for b in y], gap=min(0.17 / (height - 0.9), 0.12))
    line = {"arrowstyle": "-", "linewidth": 0.6, "alpha": 0.6, "shrinkA": 2, "shrinkB": 4, "relpos": (0, 0.5)}
    for name, a, b, place, color in zip(names, x, y, heights, shades, strict=True):
        axis.annotate(
            name, (a, b), xytext=(1.04, place), textcoords="axes fraction", ha="left", va="center", fontsize=8,
            color=INK, annotation_clip=False, arrowprops={**line, "color": color},
        )  # fmt: skip
    canvas.title(figure, title)
    return figure


def size_of(rows: Sequence[Row]) -> tuple[str, str]:
    """The key of the rows' sizes and what they are: of packed files, where every row has one, else theoretical.

    Example:
      >>> size_of([{"theoretical_bytes": 9, "bytes": 30}]), size_of([{"theoretical_bytes": 9}])
      (('bytes', 'packed file'), ('theoretical_bytes', 'theoretical size'))
    """
    packed = bool(rows) and all(row.get("bytes") is not None for row in rows)
    return ("bytes", "packed file") if packed else ("theoretical_bytes", "theoretical size")


def compression_overview(rows: Sequence[Row], title: str = "") -> Figure:
    """All stages in one picture: accuracy, size, sparsity and effective FLOPs, a line for each stage.

    Args:
      rows: what `jopt.measure.stage_rows` gave; a quantity that no row has gets no panel, one that a row lacks no
        mark there.
      title: above the panels.

    Returns:
      A figure with the stages from top to bottom and a panel for each quantity.
    """
    size, meaning = size_of(rows)
    every = [(size, f"{meaning} (x smaller)", draw) if key == "size" else (key, name, draw)
             for key, name, draw in _PANELS]  # fmt: skip
    panels = [panel for panel in every if any(row.get(panel[0]) is not None for row in rows)]
    names = [formats.shorten(str(r.get("stage", "")), _NAME) for r in rows]
    width = 2.05 * max(len(panels), 1) + 0.075 * max(map(len, names), default=0) + 0.2
    figure = canvas.new_figure(width, 0.3 * max(len(rows), 1) + 0.85)
    axes = figure.subplots(1, max(len(panels), 1), squeeze=False)[0]
    shades = _stage_colors(len(rows))
    if not panels:
        axes[0].set_axis_off()
    for i, (axis, (key, name, draw)) in enumerate(zip(axes, panels, strict=False)):
        canvas.plain_axes(axis, grid="")
        axis.set_title(name, fontsize=8.5, color=INK, loc="left")
        axis.set_ylim(len(rows) - 0.45, -0.55)
        axis.set_yticks(range(len(rows)))
        axis.set_yticklabels(names if i == 0 else [""] * len(rows))
        axis.tick_params(axis="y", length=0)
        axis.spines[["left"]].set_visible(False)
        known = [(k, r[key], shades[k]) for k, r in enumerate(rows) if r.get(key) is not None]
        draw(axis, known)
    canvas.title(figure, title)
    return figure


Known = Sequence[tuple[int, float, Any]]


def _dots(axis: Axes, known: Known) -> None:
    values = [v for _, v, _ in known]
    low, high = _limits(values)
    axis.plot(values, [k for k, _, _ in known], color=QUIET, linewidth=0.8, linestyle=(0, (3, 2)), zorder=2)
    for k, value, color in known:
        axis.plot([value], [k], "o", color=color, markersize=6, zorder=3)
    for k, value, _ in known:
        axis.annotate(
            formats.percent(value), (1, k), xycoords=("axes fraction", "data"), xytext=(-8, 0),
            textcoords="offset points", ha="right", va="center", fontsize=7.5, color=INK,
        )  # fmt: skip
    axis.set_xlim(low, high + 0.7 * (high - low))
    _accuracy_axis(axis.xaxis)
    axis.set_xticks([tick for tick in _locator(3).tick_values(low, high) if low <= tick <= min(high, 1)])


def _shares(axis: Axes, known: Known) -> None:
    _draw(axis, known)
    _label(axis, known, formats.percent)
    axis.set_xlim(0, 1.5)
    axis.set_xticks([0, 0.5, 1], ["0%", "50%", "100%"])


def _amounts(text: Callable[[float], str]) -> Callable[[Axes, Known], None]:
    def draw(axis: Axes, known: Known) -> None:
        _draw(axis, known)
        first = known[0][1]
        _label(axis, known, lambda v: text(v) if v == first or not v else f"{text(v)}, {_times(first / v)}")
        axis.set_xlim(0, 1.8 * max(max(v for _, v, _ in known), 1e-9))
        axis.set_xticks([])
        axis.spines[["bottom"]].set_visible(False)

    return draw


def _draw(axis: Axes, known: Known) -> None:
    axis.barh([k for k, _, _ in known], [v for _, v, _ in known], height=0.62, color=[c for _, _, c in known])
    axis.axvline(0, color=QUIET, linewidth=0.8)


def _label(axis: Axes, known: Known, text: Callable[[float], str]) -> None:
    for k, value, _ in known:
        axis.annotate(
            text(value), (value, k), xytext=(3, 0), textcoords="offset points", va="center", fontsize=7.5,
            color=INK,
        )  # fmt: skip


_PANELS: tuple[tuple[str, str, Callable[[Any, Known], None]], ...] = (
    ("accuracy", "test accuracy", _dots),
    ("size", "", _amounts(lambda v: formats.binary(int(v)))),
    ("sparsity", "sparsity", _shares),
    ("effective_flops", "theoretical effective FLOPs", _amounts(lambda v: formats.si(int(v)))),
)


def _times(ratio: float) -> str:
    """How many times smaller.

    Example:
      >>> _times(12.34), _times(1.5), _times(234.5), _times(0.0123)
      ('12.3x', '1.50x', '234x', '0.012x')
    """
    if ratio < 0.095:
        return f"{ratio:.2g}x"
    return f"{ratio:.2f}x" if ratio < 9.995 else f"{ratio:.1f}x" if ratio < 99.95 else f"{ratio:.0f}x"


def _plain(size: int) -> str:
    """A power of two of bytes, without decimals.

    Example:
      >>> _plain(512), _plain(16 * 1024), _plain(2**20)
      ('512 B', '16 KiB', '1 MiB')
    """
    amount, unit = formats.binary(size).split()
    return f"{float(amount):g} {unit}"


def _stage_colors(n: int) -> Sequence[Any]:
    """The first stage gray, what follows in one blue: they are told apart by their place."""
    return [canvas.BEFORE if i == 0 else PALETTE[0] for i in range(n)]


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """Room around the accuracies, at least a point in all, and hardly any above 100%."""
    if not values:
        return 0.0, 1.0
    room = max(0.12 * (max(values) - min(values)), 0.005)
    low = min(values) - room
    return low, min(max(values) + room, 1 + 0.04 * (1 - low))


def _locator(intervals: int) -> MaxNLocator:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(intervals, steps=[1, 2, 2.5, 5, 10])


def _accuracy_axis(axis: Any) -> None:
    axis.set_major_locator(_locator(5))
    axis.set_major_formatter(lambda v, _: f"{100 * v:.4g}%")


def _size_axis(axis: Axes, sizes: Sequence[float]) -> None:
    """Powers of two, as many as fit."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axis.set_xscale("log", base=2)
    low, high = math.floor(math.log2(min(sizes, default=1))), math.ceil(math.log2(max(sizes, default=2)))
    high = max(high, low + 1)
    every = max(1, math.ceil((high - low) / 5))
    axis.set_xlim(2.0 ** (low - 0.1), 2.0 ** (high + 0.1))
    axis.xaxis.set_major_locator(FixedLocator([2.0**e for e in range(low, high + 1, every)]))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda v, _: _plain(round(v))))
    axis.xaxis.set_minor_locator(NullLocator())
