"""The look that all figures share: colors, axes, legends, titles, and labels that do not touch."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jopt.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette (2008), without its yellow, which is too light for a line: told apart by every common
# form of color blindness.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
INK, QUIET, GRID, BEFORE = "#222222", "#666666", "#e3e3e3", "#c4c4c4"


def new_figure(width: float, height: float) -> Figure:
    """A figure of that many inches, attached to no global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def plain_axes(axis: Axes, grid: str = "y") -> None:
    """Two spines, small quiet ticks, and a light grid along one direction (`x`, `y`; none if empty)."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(QUIET)
    axis.tick_params(colors=QUIET, labelcolor=INK, labelsize=8, which="both")
    if grid:
        axis.grid(axis="x" if grid == "x" else "y", color=GRID, linewidth=0.6)
    axis.set_axisbelow(True)


def legend(axis: Axes, **kwargs: Any) -> None:
    """A legend without a frame, in small type."""
    axis.legend(frameon=False, fontsize=8, labelcolor=INK, handlelength=2.2, borderaxespad=0.2, **kwargs)


def title(figure: Figure, text: str) -> None:
    """The figure's title, at its left; none if empty."""
    if text:
        figure.suptitle(text, fontsize=10, color=INK, x=0.01, ha="left")


def colors(n: int) -> Sequence[Any]:
    """As many colors as asked for: the palette, or viridis where it is too small."""
    if n <= len(PALETTE):
        return PALETTE[:n]
    import matplotlib

    viridis = matplotlib.colormaps["viridis"]
    return [viridis(0.92 * i / (n - 1)) for i in range(n)]


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Moves heights within [0, 1], little, until neighbors are `gap` apart (closer if there is no room).

    The order is kept: pairs that are too close part evenly, in sweeps, and what leaves the range is pushed back.

    Example:
      >>> [round(h, 3) for h in spread([0.5, 0.1, 0.5], gap=0.1)]
      [0.45, 0.1, 0.55]
      >>> [round(h, 3) for h in spread([1.0, 0.99], gap=0.1)]
      [1.0, 0.9]
    """
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    placed = [heights[i] for i in order]
    last = len(placed) - 1
    gap = min(gap, 1 / last) if last > 0 else gap
    for _ in range(200):
        for i in range(last):
            lack = gap - (placed[i + 1] - placed[i])
            if lack > 1e-9:
                placed[i] -= lack / 2
                placed[i + 1] += lack / 2
        placed = [min(max(h, i * gap), 1 - (last - i) * gap) for i, h in enumerate(placed)]
    out = [0.0] * len(placed)
    for i, height in zip(order, placed, strict=True):
        out[i] = height
    return out


def save_figure(figure: Figure, path: str | os.PathLike[str], dpi: int = 160) -> None:
    """Writes the figure as PNG, at once or not at all; equal figures give equal bytes.

    Args:
      figure: a matplotlib figure.
      path: the file, replaced if it is there.
      dpi: pixels an inch.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    content = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(content, format="png", dpi=dpi, metadata={"Software": None})
    write_bytes(path, content.getvalue())
