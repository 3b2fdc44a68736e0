"""Figures as Plotly's own JSON: the look that all share, the choices of a reader, ticks and colors.

Figures are plain dictionaries: building `plotly.graph_objects` takes longer than the rest of a page and gives the
same JSON. The tests build those objects from every figure, which checks the name and value of each property.
"""

from __future__ import annotations

import colorsys
import html
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jopt.report import formats

Json = dict[str, Any]
"""A trace, an axis or a layout of Plotly's."""

# Okabe and Ito's palette (2008), without its yellow, which is too light for a line: they can be distinguished in
# every common form of color blindness.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
INK, QUIET, GRID, BEFORE = "#222222", "#666666", "#e3e3e3", "#c4c4c4"
_TOL = ("#882255", "#999933", "#44AA99", "#332288", "#999999", "#661100", "#AA4499", "#117733", "#DDCC77")
_VIRIDIS = ("#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779")

_DIGITS = 6
_WRAP = 46
_TOP, _BOTTOM = 46, 56
_MENU = 40


class Figure(NamedTuple):
    """A figure of a report.

    Attributes:
      name: of its element in the page: letters and underscores.
      title: above it.
      caption: below it: what is shown, and what is not.
      traces: of Plotly.
      layout: of Plotly.
    """

    name: str
    title: str
    caption: str
    traces: list[Json]
    layout: Json

    def to_dict(self) -> Json:
        """What `plotly.graph_objects.Figure` and `plotly.io.to_html` take."""
        return {"data": compact(self.traces), "layout": compact(self.layout)}

    def _repr_mimebundle_(self, *args: Any, **kwargs: Any) -> Any:
        # What a notebook displays is up to the renderer that Plotly chooses for it.
        import plotly.graph_objects as go

        return go.Figure(self.to_dict())._repr_mimebundle_(*args, **kwargs)


class View(NamedTuple):
    """One choice of a figure's menu.

    Attributes:
      name: in the menu.
      traces: shown while it is chosen.
      layout: what it changes of the layout.
    """

    name: str
    traces: list[Json]
    layout: Json


def axis(title: str = "", **changes: object) -> Json:
    """An axis: a line, outer ticks, a light grid, and room for long labels."""
    base = {
        "gridcolor": GRID, "linecolor": QUIET, "ticks": "outside", "tickcolor": QUIET, "zeroline": False,
        "showline": True, "automargin": True, "title": {"text": literal(title), "font": {"size": 13}},
    }  # fmt: skip
    return {**base, **changes}


def category_axis(labels: Sequence[str], longest: int = 30) -> Json:
    """An upright axis of names, the first at the top."""
    return axis(
        tickmode="array", tickvals=list(range(len(labels))),
        ticktext=[literal(formats.shorten(label, longest)) for label in labels],
        # Ticks that cannot be seen keep the names off the bars.
        range=[len(labels) - 0.4, -0.6], showgrid=False, showline=False, ticklen=4, tickcolor="rgba(0,0,0,0)",
    )  # fmt: skip


def layout(height: int, **changes: object) -> Json:
    """The layout that all figures share; the legend lies below, so that a narrow page has room for the figure."""
    # The plot without its margins, in pixels.
    drawn = max(height - _TOP - _BOTTOM, 1)
    base = {
        "autosize": True, "height": height, "hovermode": "closest", "paper_bgcolor": "#ffffff",
        "plot_bgcolor": "#ffffff", "font": {"family": "system-ui, sans-serif", "size": 12, "color": INK},
        "margin": {"l": 44, "r": 14, "t": _TOP, "b": _BOTTOM}, "colorway": list(PALETTE),
        "hoverlabel": {"align": "left", "bgcolor": "#ffffff", "bordercolor": QUIET, "font": {"color": INK}},
        # Plotly counts in heights of the plot: 58 pixels leave room for the ticks and the title.
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": -58 / drawn, "yanchor": "top",
                   "font": {"size": 11}, "tracegroupgap": 4},
    }  # fmt: skip
    return {**base, **changes}


def choose(views: Sequence[View], base: Json) -> tuple[list[Json], Json]:
    """The traces of all views and a layout with Plotly's menu to choose among them; the first view is shown.

    Args:
      views: at least one.
      base: the layout that all share.

    Returns:
      Traces and layout. A single view needs no menu.
    """
    flat = [_dotted(view.layout) for view in views]
    keys = dict.fromkeys(key for changes in flat for key in changes)
    traces: list[Json] = []
    buttons = []
    total = sum(len(view.traces) for view in views)
    for view, changes in zip(views, flat, strict=True):
        shown: list[bool | str] = [False] * total
        for trace in view.traces:
            shown[len(traces)] = trace.get("visible", True)
            traces.append({**trace, "visible": trace.get("visible", True) if view is views[0] else False})
        # Each view sets every key that any view sets, or else the last choice would shine through.
        arguments = [{"visible": shown}, {key: changes.get(key) for key in keys}]
        buttons.append({"label": _menu_text(view.name), "method": "update", "args": arguments})
    combined = _merged(base, views[0].layout)
    if len(views) > 1:
        height = combined["height"] + _MENU
        margin = {**combined["margin"], "t": combined["margin"]["t"] + _MENU}
        menu = {
            "buttons": buttons, "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom", "pad": {"b": 12},
            "bgcolor": "#ffffff", "bordercolor": BEFORE, "font": {"size": 12, "color": INK}, "active": 0,
        }  # fmt: skip
        combined = {**combined, "height": height, "margin": margin, "updatemenus": [menu]}
    return traces, combined


def _menu_text(name: str) -> str:
    return literal(formats.shorten(name, 40))


def _dotted(tree: Mapping[str, object], prefix: str = "") -> dict[str, Any]:
    # An axis that is given as one object would lose all that the view does not set.
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= _dotted(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return leaves


def _merged(base: Json, changes: Json) -> Json:
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def compact(value: object) -> Any:
    """Numbers of six digits, and null for what is not finite: shorter, and the same bytes for the same input.

    Example:
      >>> compact({"a": (1 / 3, float("nan"), 2.0)})
      {'a': [0.333333, None, 2]}
    """
    if isinstance(value, Mapping):
        return {str(key): compact(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [compact(v) for v in value]
    if isinstance(value, float):
        # JSON has neither NaN nor infinity; Plotly draws a gap for null.
        if not math.isfinite(value):
            return None
        rounded = float(f"{value:.{_DIGITS}g}")
        return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded
    # Some of the JSON writers that Plotly chooses among refuse a lone surrogate.
    return formats.encodable(value) if isinstance(value, str) else value


def literal(text: str) -> str:
    """Text that Plotly shows unchanged: its labels interpret some HTML tags.

    Example:
      >>> literal("a <b> & c")
      'a &lt;b&gt; &amp; c'
    """
    return html.escape(text, quote=False)


def hover(title: str, lines: Sequence[str]) -> str:
    """A hover text: a bold title, and lines that are wrapped where a narrow page would cut them.

    Example:
      >>> hover("bits=4", ["97.00%", ""])
      '<b>bits=4</b><br>97.00%'
    """
    return "<br>".join([f"<b>{wrapped(title)}</b>", *(wrapped(line) for line in lines if line)])


def wrapped(text: str, width: int = _WRAP) -> str:
    """Lines of at most `width` characters, broken at spaces where there are some.

    Example:
      >>> wrapped("jopt train --config=a.py --trial=0123", 20)
      'jopt train<br>--config=a.py<br>--trial=0123'
    """
    lines, line = [], ""
    for word in text.split(" "):
        pieces = [word[i : i + width] for i in range(0, len(word), width)] or [""]
        # A long path without spaces is cut rather than run out of the page.
        for piece in pieces:
            if line and len(line) + 1 + len(piece) > width:
                lines.append(line)
                line = piece
            else:
                line = f"{line} {piece}" if line else piece
    return "<br>".join(map(literal, [*lines, line]))


def colors(count: int) -> list[str]:
    """Colors without an order: the palette, more of Tol's (2021), then hues a golden section apart.

    Example:
      >>> colors(2)
      ['#0072B2', '#D55E00']
    """
    palette = [*PALETTE, *_TOL]
    for i in range(count - len(palette)):
        # The golden section puts each new hue far from all earlier ones, however many there will be.
        rgb = colorsys.hls_to_rgb((0.1 + 0.618034 * i) % 1, (0.35, 0.5, 0.62)[i % 3], 0.55)
        palette.append("#" + "".join(f"{round(255 * v):02x}" for v in rgb))
    return palette[:count]


def scale(count: int) -> list[str]:
    """Colors with an order: viridis without its light end, which is illegible on white and, inverted, on black.

    Example:
      >>> scale(3)
      ['#440154', '#31688e', '#35b779']
    """
    return [_between(i / max(count - 1, 1)) for i in range(count)]


def _between(share: float) -> str:
    at = share * (len(_VIRIDIS) - 1)
    low = min(int(at), len(_VIRIDIS) - 2)
    ends = [[int(color[k : k + 2], 16) for k in (1, 3, 5)] for color in _VIRIDIS[low : low + 2]]
    return "#" + "".join(f"{round(a + (at - low) * (b - a)):02x}" for a, b in zip(*ends, strict=True))


def faint(color: str, share: float = 0.15) -> str:
    """The color as a band behind lines has it.

    Example:
      >>> faint("#0072B2", 0.5)
      'rgba(0, 114, 178, 0.5)'
    """
    red, green, blue = (int(color[k : k + 2], 16) for k in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {share:g})"


def rising_limits(values: Sequence[float]) -> list[float] | None:
    """Limits that begin below the lowest tenth of the values: the climb of the start must not flatten the rest.

    Example:
      >>> [round(limit, 3) for limit in rising_limits([0.1, *[0.8] * 10, *[0.9] * 10]) or ()]
      [0.74, 0.905]
    """
    ordered = sorted(v for v in values if math.isfinite(v))
    if not ordered:
        return None
    # A tenth is enough to step over the first epochs and few enough to keep all stages in sight.
    low, high = ordered[len(ordered) // 10], ordered[-1]
    room = max(high - low, 0.01)
    return [max(low - 0.6 * room, ordered[0] - 0.05 * room), high + 0.05 * room]


def spans_decade(values: Sequence[float]) -> bool:
    """Whether positive values are better drawn on a logarithmic axis: they span more than a factor of ten."""
    finite = [v for v in values if math.isfinite(v)]
    return bool(finite) and min(finite) > 0 and max(finite) > 10 * min(finite)


def ticks_of(format: str, values: Sequence[float]) -> tuple[list[float], list[str]]:
    """Round places on a logarithmic axis, eight at most: powers of two of bytes, else 1, 2, 5.

    Args:
      format: of the column: 'bytes', or any other.
      values: positive.

    Example:
      >>> ticks_of("bytes", [3000, 9001])
      ([2048.0, 4096.0, 8192.0, 16384.0], ['2 KiB', '4 KiB', '8 KiB', '16 KiB'])
      >>> ticks_of("bytes", [600, 930])[1]
      ['600 B', '700 B', '800 B', '900 B', '1000 B']
      >>> ticks_of("si", [1.2e6, 4e6])[1]
      ['1 M', '2 M', '5 M']
    """
    low, high = min(values), max(values)
    # Powers of two would leave one tick or none.
    if high < 3 * low:
        return _even_ticks(format, low, high)
    if format == "bytes":
        first, last = math.floor(math.log2(low)), max(math.ceil(math.log2(high)), math.floor(math.log2(low)) + 1)
        # More than eight labels touch in a page of 420 pixels.
        every = max(1, math.ceil((last - first) / 7))
        ticks = [2.0**e for e in range(first, last + 1, every)]
        return ticks, [round_text(formats.binary(v)) for v in ticks]
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [m * 10.0**e for e in decades for m in (1, 2, 5)]
    inside = [v for v in ticks if v <= low][-1:] + [v for v in ticks if low < v < high]
    inside += [v for v in ticks if v >= max(high, inside[0] * 1.0001)][:1] if inside else []
    if len(inside) > 8:
        inside = [10.0**e for e in decades]
    return inside, [round_text(formats.si(v)) for v in inside]


def _even_ticks(format: str, low: float, high: float) -> tuple[list[float], list[str]]:
    """Evenly spaced ticks: within a factor of three a logarithm is nearly a line."""
    base, units = (1024.0, ("B", "KiB", "MiB", "GiB")) if format == "bytes" else (1000.0, ("", "k", "M", "G"))
    power = min(max(int(math.log(high, base)), 0), len(units) - 1)
    unit = base**power
    rough = (high - low) / unit / 3
    decade = 10.0 ** math.floor(math.log10(rough)) if rough > 0 else 1.0
    step = next(m * decade for m in (1.0, 2.0, 5.0, 10.0) if m * decade >= 0.7 * rough)
    first, last = math.floor(low / unit / step), math.ceil(high / unit / step)
    # Two ends at least, where all values are one.
    ticks = [round(k * step, 12) for k in range(first, max(last, first + 1) + 1) if k > 0]
    return [v * unit for v in ticks], [f"{v:g} {units[power]}".strip() for v in ticks]


def round_text(text: str) -> str:
    """An amount without the zeros behind its point.

    Example:
      >>> round_text("2.00 KiB"), round_text("0 B")
      ('2 KiB', '0 B')
    """
    amount, _, unit = text.partition(" ")
    return f"{float(amount):g} {unit}".strip()


def apart(values: Sequence[float], log: bool, gap: float = 0.09) -> list[int]:
    """The places of the values whose labels do not touch, by rising value.

    Example:
      >>> apart([0.0, 0.5, 0.9, 0.93], log=False)
      [0, 1, 2]
    """
    heights = [math.log10(v) if log else v for v in values]
    least = gap * (max(heights) - min(heights))
    chosen: list[int] = []
    for i in sorted(range(len(values)), key=lambda i: heights[i]):
        if not chosen or heights[i] - heights[chosen[-1]] >= least:
            chosen.append(i)
    return chosen


def front(costs: Sequence[float], gains: Sequence[float]) -> list[int]:
    """The Pareto front: no other point costs at most as much and gains at least as much, one of the two strictly.

    Args:
      costs: lower is better.
      gains: higher is better.

    Returns:
      The places of its points, by rising cost. Equal points are all in it, or none is.

    Example:
      >>> front([4.0, 2.0, 1.0, 3.0, 2.0], [0.9, 0.8, 0.5, 0.7, 0.8])
      [2, 1, 4, 0]
    """
    # By rising cost a point is on the front if it gains more than all cheaper ones: one pass is enough.
    order = sorted(range(len(costs)), key=lambda i: (costs[i], -gains[i], i))
    chosen: list[int] = []
    for i in order:
        last = chosen[-1] if chosen else None
        if last is None or gains[i] > gains[last] or (gains[i] == gains[last] and costs[i] == costs[last]):
            chosen.append(i)
    return chosen
