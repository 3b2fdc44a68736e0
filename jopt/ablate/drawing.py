"""What the pictures of a report share: their files, and where values, ends and labels stand."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jopt.report.canvas import INK, PALETTE
from jopt.report.interactive.data import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def encode(figure: Figure, dpi: int = 128) -> bytes:
    """A figure as PNG of 256 colors, a third of the size of full color; equal figures give equal bytes.

    The colors are those of lines, which a legend must have to the bit, and the most frequent ones of this figure;
    any other, where an edge is smoothed or bands overlap, becomes the nearest of them.

    Args:
      figure: a matplotlib figure.
      dpi: pixels an inch.
    """
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image, ImageColor

    whole, out = io.BytesIO(), io.BytesIO()
    FigureCanvasAgg(figure).print_figure(whole, format="png", dpi=dpi, metadata={"Software": None})
    with Image.open(whole) as image:
        pixels = np.asarray(image.convert("RGB"), np.int32)
    # One number a color: rows are slow to sort.
    codes, place, counts = np.unique(pixels @ (1 << 16, 1 << 8, 1), return_inverse=True, return_counts=True)
    colors = np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=-1)
    lines = np.asarray([ImageColor.getrgb(color) for color in PALETTE])
    kept = np.concatenate([lines, colors[np.argsort(-counts, kind="stable")][: 256 - len(lines)]])
    # By hand: Pillow's own search for the nearest color is coarse, and makes white gray.
    nearest = np.asarray([np.argmin(((kept - color) ** 2).sum(-1)) for color in colors], np.uint8)
    short = Image.fromarray(nearest[place.reshape(pixels.shape[:2])])
    short.putpalette(kept.astype(np.uint8).tobytes())
    short.save(out, format="png", optimize=True, dpi=(dpi, dpi))
    return out.getvalue()


def outcome_axis(axis: Axes, study: Study) -> None:
    """The name of the outcome, and its ticks, on the upright axis."""
    axis.set_ylabel(study.outcome_name, fontsize=9, color=INK)
    if study.fraction:
        axis.yaxis.set_major_formatter(lambda v, _: f"{100 * v:.4g}%")


def climb(values: Sequence[float]) -> tuple[float, float]:
    """Begins below the lowest tenth: the climb from chance must not flatten the rest."""
    ordered = sorted(values)
    low, high = ordered[len(ordered) // 10], ordered[-1]
    room = max(high - low, 0.01)
    return max(low - 0.6 * room, ordered[0] - 0.05 * room), high + 0.06 * room


def apart(values: Sequence[float], log: bool) -> list[int]:
    """The places of the values whose labels do not touch, by rising value.

    Example:
      >>> apart([0.0, 0.5, 0.9, 0.93], log=False)
      [0, 1, 2]
    """
    heights = [math.log10(v) if log else v for v in values]
    gap = 0.07 * (max(heights) - min(heights))
    kept: list[int] = []
    for i in sorted(range(len(values)), key=lambda i: heights[i]):
        if not kept or heights[i] - heights[kept[-1]] >= gap:
            kept.append(i)
    return kept


def within(value: float, outcome: str) -> float:
    """Where a value of a curve is drawn: no band of an accuracy reaches below 0 or past 1."""
    return min(max(value, 0.0), 1.0) if outcome == "accuracy" else value
