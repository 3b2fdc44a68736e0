"""The weights of each layer before and after compression."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jopt.layers import is_weight
from jopt.report import canvas, formats
from jopt.report.canvas import BEFORE, INK, PALETTE, QUIET
from jopt.rules import named_leaves

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BINS = 60
_LEVELS = 40
_LAYERS = 24
_COLUMNS = 4


def weight_histograms(before: Any, after: Any, title: str = "Weights before and after") -> Figure:
    """How the weights that are not zero are distributed in each layer, before (gray) and after (blue).

    Zeros are left out of the bars, which their spike would flatten, and counted in each panel's heading. The
    heights are shares of the nonzero weights: of each bin, and of each value where at most 40 are left after, as
    lines with a dot.

    Args:
      before: a pytree of concrete arrays; layers are its weights (all arrays, if there are none).
      after: a pytree with the same paths; shapes may differ, and a path that it lacks is drawn without.
      title: above the panels.

    Returns:
      A figure with a panel for each layer, for the 24 largest if there are more.
    """
    old, new = _layers(before), _layers(after)
    largest = sorted(old, key=lambda path: -old[path].size)[:_LAYERS]
    shown = [path for path in old if path in largest]
    columns = min(max(len(shown), 1), _COLUMNS)
    lines = -(-max(len(shown), 1) // columns)
    figure = canvas.new_figure(max(1.9 * columns, 4.6), 1.48 * lines + 0.6)
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis, path in zip(grid, shown, strict=False):
        _panel(axis, path, old[path], new.get(path))
    for axis in grid[len(shown) :]:
        axis.set_axis_off()
    handles = _handles()
    figure.legend(handles=handles, loc="outside lower left", frameon=False, fontsize=8, labelcolor=INK, ncols=2)
    left_out = f" (the {_LAYERS} largest of {len(old)} layers)" if len(old) > len(shown) else ""
    canvas.title(figure, title + left_out)
    return figure


def _layers(params: Any) -> Mapping[str, np.ndarray]:
    leaves = {path: np.asarray(leaf) for path, leaf in named_leaves(params)}
    kernels = {path: leaf for path, leaf in leaves.items() if is_weight(path, leaf.shape)} or leaves
    return {path: leaf.astype(np.float32, copy=False) for path, leaf in kernels.items()}


def _panel(axis: Axes, path: str, before: np.ndarray, after: np.ndarray | None) -> None:
    canvas.plain_axes(axis, grid="")
    axis.spines["left"].set_visible(False)
    axis.set_yticks([])
    old = _finite(before)
    new = _finite(after) if after is not None else np.zeros(0, np.float32)
    everything = np.concatenate([old, new])
    if everything.size:
        low, high = float(everything.min()), float(everything.max())
        room = 0.02 * (high - low) or max(abs(low), 1e-6)
        edges = np.linspace(low - room, high + room, _BINS + 1)
        levels, counts = np.unique(new, return_counts=True)
        few = 0 < levels.size <= _LEVELS
        _steps(axis, old, edges, filled=True)
        if few:
            share = counts / new.size
            axis.vlines(levels, 0, share, color=PALETTE[0], linewidth=1.0)
            axis.plot(levels, share, "o", color=PALETTE[0], markersize=2.2)
        elif new.size:
            _steps(axis, new, edges, filled=False)
        axis.set_xlim(edges[0], edges[-1])
        axis.set_ylim(bottom=0)
    axis.locator_params(axis="x", nbins=4)
    axis.tick_params(labelsize=7, length=2)
    axis.set_title(formats.shorten(path, 28), fontsize=7.5, color=INK, loc="left", pad=12)
    axis.annotate(
        _zeros(before, after), (0, 1), xycoords="axes fraction", xytext=(0, 2), textcoords="offset points",
        fontsize=6.5, color=QUIET, va="bottom",
    )  # fmt: skip


def _steps(axis: Axes, values: np.ndarray, edges: np.ndarray, filled: bool) -> None:
    if values.size:
        share = np.histogram(values, edges)[0] / values.size
        color = BEFORE if filled else PALETTE[0]
        axis.stairs(share, edges, fill=filled, color=color, linewidth=1.0)


def _finite(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values) & (values != 0)]


def _zeros(before: np.ndarray, after: np.ndarray | None) -> str:
    shares = [formats.percent(float(np.mean(v == 0))) if v.size else "-" for v in (before, after) if v is not None]
    return "zeros " + " → ".join(dict.fromkeys(shares))


def _handles() -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    return [Patch(color=BEFORE, label="before"), Line2D([], [], color=PALETTE[0], linewidth=1.2, label="after")]
