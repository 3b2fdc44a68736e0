"""What all interactive plots share: their parts, their look, and JSON that is the same for the same input."""

from __future__ import annotations

import colorsys
import html
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from jopt.report import formats
from jopt.report.canvas import GRID, INK, PALETTE, QUIET
from jopt.report.interactive.data import Axis, Study

if TYPE_CHECKING:
    import plotly.graph_objects

DIGITS = 6
_MORE = ("#882255", "#999933", "#44AA99", "#332288", "#999999", "#661100", "#AA4499", "#117733", "#DDCC77")


class Plot(NamedTuple):
    """An interactive plot.

    Attributes:
      kind: the file that draws it, without its ending.
      title: above it.
      caption: below it: what is shown, and what is not.
      figure: traces and layout, ready for JSON; what a choice of the reader's changes is filled in by the page.
      data: what the choices need.
    """

    kind: str
    title: str
    caption: str
    figure: Mapping[str, Any]
    data: Mapping[str, Any]


def figure(traces: Sequence[Any], **layout: Any) -> dict[str, Any]:
    """Traces in the look of the house, as plain data."""
    import plotly.graph_objects as go

    axis = {
        "gridcolor": GRID, "linecolor": QUIET, "ticks": "outside", "tickcolor": QUIET, "zeroline": False,
        "showline": True, "automargin": True, "title": {"font": {"size": 13}},
    }  # fmt: skip
    base = go.Layout(
        template=None, autosize=True, height=440, hovermode="closest", dragmode="zoom", paper_bgcolor="#ffffff",
        plot_bgcolor="#ffffff", font={"family": "system-ui, sans-serif", "size": 12, "color": INK},
        margin={"l": 60, "r": 16, "t": 30, "b": 50}, xaxis=axis, yaxis=axis, colorway=PALETTE,
        hoverlabel={"align": "left", "bgcolor": "#ffffff", "bordercolor": QUIET, "font": {"color": INK}},
        legend={"font": {"size": 11}, "tracegroupgap": 4},
    )  # fmt: skip
    base.update(layout)
    made: plotly.graph_objects.Figure = go.Figure(traces, base)
    return made.to_plotly_json()


def encode(value: Any) -> str:
    r"""JSON that may stand in a script element: floats to six digits, what is not finite as null, no `<`, `>`, `&`.

    Example:
      >>> print(encode({"a": [1 / 3, float("nan"), 2.0, "</script>"]}))
      {"a":[0.333333,null,2,"\u003c/script\u003e"]}
    """
    text = json.dumps(_plain(value), separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        short = float(f"{value:.{DIGITS}g}")
        return int(short) if short.is_integer() and abs(short) < 1e15 else short
    return value


def shown(text: str) -> str:
    """Text that Plotly shows as it stands: its labels know some tags of HTML."""
    return html.escape(text, quote=False)


def shades(axis: Axis) -> list[str]:
    """A color for each value: along viridis where there is an order, of three numbers or more; else apart.

    Example:
      >>> shades(Axis("act", ("relu", "tanh"))), shades(Axis("bits", (2, 4, 8)))
      (['#0072B2', '#D55E00'], ['#440154', '#26838e', '#bcdf2a'])
    """
    n = len(axis.values)
    return scale(n) if axis.numeric and n > 2 else _apart(n)


def _apart(n: int) -> list[str]:
    """Colors without an order: the palette, more of Tol's (2021), then hues a golden section apart."""
    own = [*PALETTE, *_MORE]
    for i in range(n - len(own)):
        rgb = colorsys.hls_to_rgb((0.1 + 0.618034 * i) % 1, (0.35, 0.5, 0.62)[i % 3], 0.55)
        own.append("#" + "".join(f"{round(255 * v):02x}" for v in rgb))
    return own[:n]


def scale(n: int) -> list[str]:
    """Viridis without its lightest end, which is no color for a line."""
    from plotly.colors import sample_colorscale

    return [_hex(str(c)) for c in sample_colorscale("Viridis", [0.9 * i / max(n - 1, 1) for i in range(n)])]


def _hex(color: str) -> str:
    numbers = color.removeprefix("rgb(").removesuffix(")").split(",")
    return "#" + "".join(f"{round(float(v)):02x}" for v in numbers)


def labels(study: Study, most: int) -> list[str]:
    """All points in words; where one is longer than `most`, all in values: a cut might hide what differs."""
    found = [study.label(point) for point in study.points]
    if max(map(len, found), default=0) <= most:
        return found
    varied = [k for k, axis in enumerate(study.axes) if len(axis.values) > 1]
    return [", ".join(study.axes[k].texts[point.at[k]] for k in varied) for point in study.points]


def outcome_axis(study: Study) -> dict[str, Any]:
    """Title and ticks of an axis of the outcome."""
    return {"title": {"text": study.outcome_name}} | ({"tickformat": ",.3~%"} if study.fraction else {})


def size_ticks(key: str, values: Sequence[float]) -> tuple[list[float], list[str]]:
    """Round places on a logarithmic axis of sizes, eight at most: powers of two of bytes, else 1, 2, 5.

    Example:
      >>> size_ticks("theoretical_bytes", [3000, 9001])
      ([2048.0, 4096.0, 8192.0, 16384.0], ['2 KiB', '4 KiB', '8 KiB', '16 KiB'])
      >>> size_ticks("theoretical_bytes", [600, 930])[1]
      ['600 B', '700 B', '800 B', '900 B', '1000 B']
      >>> size_ticks("effective_flops", [1.2e6, 4e6])[1]
      ['1 M', '2 M', '5 M']
    """
    low, high = min(values), max(values)
    if high < 3 * low:
        return _even(key, low, high)
    if key.endswith("bytes"):
        first, last = math.floor(math.log2(low)), max(math.ceil(math.log2(high)), math.floor(math.log2(low)) + 1)
        every = max(1, math.ceil((last - first) / 7))
        places = [2.0**e for e in range(first, last + 1, every)]
        return places, [_short(formats.binary(v)) for v in places]
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    places = [m * 10.0**e for e in decades for m in (1, 2, 5)]
    inside = [v for v in places if v <= low][-1:] + [v for v in places if low < v < high]
    inside += [v for v in places if v >= max(high, inside[0] * 1.0001)][:1] if inside else []
    if len(inside) > 8:
        inside = [10.0**e for e in decades]
    return inside, [_short(formats.si(v)) for v in inside]


def _even(key: str, low: float, high: float) -> tuple[list[float], list[str]]:
    """Evenly spaced places: within a factor of three a logarithm is nearly a line."""
    base, units = (1024.0, ("B", "KiB", "MiB", "GiB")) if key.endswith("bytes") else (1000.0, ("", "k", "M", "G"))
    power = min(max(int(math.log(high, base)), 0), len(units) - 1)
    unit = base**power
    rough = (high - low) / unit / 3
    decade = 10.0 ** math.floor(math.log10(rough)) if rough > 0 else 1.0
    step = next(m * decade for m in (1.0, 2.0, 5.0, 10.0) if m * decade >= 0.7 * rough)
    first, last = math.floor(low / unit / step), math.ceil(high / unit / step)
    # Two ends at least, where all is one place.
    places = [round(k * step, 12) for k in range(first, max(last, first + 1) + 1) if k > 0]
    return [v * unit for v in places], [f"{v:g} {units[power]}".strip() for v in places]


def _short(text: str) -> str:
    """`2 KiB` for `2.00 KiB`."""
    amount, _, unit = text.partition(" ")
    return f"{float(amount):g} {unit}".strip()


def names(values: Sequence[str], most: int = 3) -> str:
    """Some of many names, in one line.

    Example:
      >>> names(["a", "b"]), names(["a", "b", "c", "d", "e"])
      ('a, b', 'a, b, c and 2 more')
    """
    return ", ".join(values[:most]) + (f" and {len(values) - most} more" if len(values) > most else "")
