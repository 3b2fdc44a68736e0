"""Figures of a run's stages: metric, size, sparsity and FLOPs, weights before and after, accuracy by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from jopt.layers import is_weight
from jopt.measure import CLASSIFIER, ClassChange, Column
from jopt.report import figures, formats
from jopt.report.figures import BEFORE, INK, PALETTE, QUIET, Figure, Json
from jopt.rules import named_leaves
from jopt.task import Task
from jopt.typing import Params, Record

_BINS, _LEVELS, _LAYERS = 60, 40, 24
_BAR = 24  # pixels


def size_column(rows: Sequence[Record]) -> Column:
    """The column of the rows' sizes: of packed files, where every row has one, else theoretical.

    Example:
      >>> size_column([{"theoretical_bytes": 9, "bytes": 30}]).label, size_column([{"theoretical_bytes": 9}]).label
      ('packed file', 'theoretical size')
    """
    # Sizes of two kinds on one axis would compare what is not comparable.
    packed = bool(rows) and all(row.get("bytes") is not None for row in rows)
    return formats.column("bytes" if packed else "theoretical_bytes", "stage")


def compression_overview(rows: Sequence[Record], title: str = "Stages", task: Task = CLASSIFIER) -> Figure:
    """All stages in one picture: the deciding metric, size, sparsity and effective FLOPs, a bar for each stage.

    Args:
      rows: what `jopt.measure.stage_rows` gave; a quantity that no row has gets no panel, one that a row lacks no
        bar there.
      title: above the figure.
      task: of the run.
    """
    size = size_column(rows)
    columns = [formats.column(task.deciding.key, "stage", task), size]
    columns += [formats.column(key, "stage") for key in ("sparsity", "effective_flops")]
    columns = [c for c in columns if any(row.get(c.key) is not None for row in rows)]
    gap = 34
    panel = _BAR * max(len(rows), 1)
    drawn = max((panel + gap) * len(columns) - gap, 20)
    layout = figures.layout(
        drawn + 60, showlegend=False, margin={"l": 44, "r": 14, "t": 50, "b": 10}, annotations=[]
    )
    traces: list[Json] = []
    names = [str(row.get("stage", "")) for row in rows]
    for k, column in enumerate(columns):
        number = "" if k == 0 else str(k + 1)
        top = 1 - k * (panel + gap) / drawn
        bottom = top - panel / drawn
        # Bars, as dots on an axis that does not begin at 0 make small changes look large.
        traces.append(_stage_bars(rows, column, number))
        values = [row[column.key] for row in rows if row.get(column.key) is not None]
        layout[f"yaxis{number}"] = {
            **figures.category_axis(names, 24), "domain": [max(bottom, 0.0), top], "anchor": f"x{number}"
        }  # fmt: skip
        # Bars of an accuracy begin at 0 too: what looks the same is the same. Some metrics are below 0.
        ends = [min(0, 1.5 * min(values)), 1.5 * max(max(values), 1e-9)]
        layout[f"xaxis{number}"] = {
            "range": ends, "visible": False, "anchor": f"y{number}", "fixedrange": True
        }  # fmt: skip
        layout["annotations"].append(
            {"text": column.label, "xref": "paper", "yref": "paper", "x": 0, "y": top, "xanchor": "left",
             "yanchor": "bottom", "showarrow": False, "font": {"size": 13}}
        )  # fmt: skip
    return Figure("compression", title, "", traces, layout)


def _stage_bars(rows: Sequence[Record], column: Column, number: str) -> Json:
    present = [(k, row[column.key]) for k, row in enumerate(rows) if row.get(column.key) is not None]
    first = present[0][1]
    names = [str(row.get("stage", "")) for row in rows]
    texts = [formats.text(column, value) for _, value in present]
    # A size says little without what it was before.
    if column.better == "lower" and column.origin != "task":
        texts = [t if v in (0, first) else f"{t}, {_times(first / v)} smaller" for t, (_, v) in
                 zip(texts, present, strict=True)]  # fmt: skip
    return {
        "type": "bar", "orientation": "h", "x": [value for _, value in present], "y": [k for k, _ in present],
        "xaxis": f"x{number}", "yaxis": f"y{number}", "text": texts, "textposition": "outside", "cliponaxis": False,
        "marker": {"color": [BEFORE if k == 0 else PALETTE[0] for k, _ in present]}, "width": 0.64,
        "hovertext": [figures.hover(names[k], [text]) for (k, _), text in zip(present, texts, strict=True)],
        "hoverinfo": "text",
    }  # fmt: skip


def _times(ratio: float) -> str:
    """How many times smaller.

    Example:
      >>> _times(12.34), _times(1.5), _times(234.5), _times(0.0123)
      ('12.3x', '1.50x', '234x', '0.012x')
    """
    if ratio < 0.095:
        return f"{ratio:.2g}x"
    return f"{ratio:.2f}x" if ratio < 9.995 else f"{ratio:.1f}x" if ratio < 99.95 else f"{ratio:.0f}x"


def metric_against_size(rows: Sequence[Record], task: Task = CLASSIFIER, title: str = "") -> Figure:
    """A point for each stage, joined in their order; the size axis is logarithmic.

    Args:
      rows: what `jopt.measure.stage_rows` gave; a row without the task's deciding metric or a size is left out.
      task: of the run.
      title: above the figure; '': the name of the metric.
    """
    size, metric = size_column(rows), formats.column(task.deciding.key, "stage", task)
    drawn = [r for r in rows if r.get(metric.key) is not None and r.get(size.key)]
    x, y = [r[size.key] for r in drawn], [r[metric.key] for r in drawn]
    traces: list[Json] = [
        {"type": "scatter", "mode": "lines", "x": x, "y": y, "line": {"color": QUIET, "width": 1, "dash": "dash"},
         "hoverinfo": "skip", "showlegend": False}
    ]  # fmt: skip
    for row, color in zip(drawn, figures.colors(len(drawn)), strict=True):
        lines = [
            f"{metric.label} {formats.text(metric, row[metric.key])}",
            f"{size.label} {formats.text(size, row[size.key])}",
        ]
        stage = str(row["stage"])
        traces.append(
            {"type": "scatter", "mode": "markers", "x": [row[size.key]], "y": [row[metric.key]],
             "name": figures.literal(formats.shorten(stage, 32)), "marker": {"size": 11, "color": color},
             "hovertext": figures.hover(stage, lines), "hoverinfo": "text"}
        )  # fmt: skip
    ticks, texts = figures.ticks_of(size.format, x) if x else ([], [])
    room = max(0.12 * (max(y) - min(y)), 0.005) if y else 0.5
    layout = figures.layout(
        380, showlegend=True,
        xaxis=figures.axis(size.label, type="log", tickmode="array", tickvals=ticks, ticktext=texts),
        yaxis=figures.axis(formats.titled(metric), range=[min(y) - room, max(y) + room] if y else None,
                           **({"tickformat": ",.3~%"} if metric.fraction else {})),
    )  # fmt: skip
    title = title or f"{formats.capitalized(task.deciding.label)} against size"
    caption = f"{formats.capitalized(metric.label)} against the size: {size.label}."
    return Figure(f"{metric.key}_against_size", title, caption, traces, layout)


def sparsity_bars(stages: Mapping[str, Mapping[str, float]], title: str = "Sparsity by layer") -> Figure:
    """The share of zeros of each array, a bar for each stage with the number at its end.

    Args:
      stages: name of a stage to path and sparsity, as `jopt.measure.sparsity_by_layer` gives them; an array that
        a stage lacks has no bar there.
      title: above the figure.
    """
    paths = list(dict.fromkeys(path for values in stages.values() for path in values))
    row_of = {path: k for k, path in enumerate(paths)}
    traces: list[Json] = []
    for (stage, values), color in zip(stages.items(), figures.colors(len(stages)), strict=True):
        texts = [formats.percent(v) for v in values.values()]
        traces.append(
            {"type": "bar", "orientation": "h", "name": figures.literal(formats.shorten(stage, 32)),
             "x": list(values.values()), "y": [row_of[path] for path in values], "marker": {"color": color},
             "text": texts if len(stages) <= 4 else None, "textposition": "outside", "cliponaxis": False,
             "textfont": {"size": 10},
             "hovertext": [figures.hover(path, [f"{stage}: {t}"]) for path, t in zip(values, texts, strict=True)],
             "hoverinfo": "text"}
        )  # fmt: skip
    layout = figures.layout(
        max(len(paths), 1) * (14 * max(len(stages), 1) + 10) + 130, barmode="group", showlegend=True,
        xaxis=figures.axis("share of zeros", range=[0, 1.18], tickvals=[0, 0.25, 0.5, 0.75, 1], tickformat=".0%"),
        yaxis=figures.category_axis(paths, 26),
    )  # fmt: skip
    return Figure("sparsity", title, "", traces, layout)


def class_bars(
    changes: Sequence[ClassChange], names: Sequence[str] | None = None, title: str = "Accuracy change by class"
) -> Figure:
    """The change of the accuracy on each class, in percentage points: orange below zero, blue above.

    Args:
      changes: what `jopt.measure.class_changes` gave; a class without examples has no bar.
      names: of the classes; None for their numbers.
      title: above the figure.
    """
    present = [c for c in changes if c.examples]
    labels = [str(names[c.label]) if names is not None else str(c.label) for c in present]
    values = [100 * c.change for c in present]
    total = sum(c.examples for c in present)
    mean = 100 * sum(c.correct_after - c.correct_before for c in present) / total if total else 0.0
    texts = [f"{value:+.1f}" if round(value, 1) else "0" for value in values]
    trace = {
        "type": "bar", "x": list(range(len(present))), "y": values, "text": texts if len(present) <= 20 else None,
        "textposition": "outside", "cliponaxis": False, "textfont": {"size": 10}, "showlegend": False,
        "marker": {"color": [PALETTE[1] if v < 0 else PALETTE[0] for v in values]},
        "hovertext": [
            figures.hover(f"class {label}", [f"{text} points", f"{c.examples:,} examples"])
            for label, text, c in zip(labels, texts, present, strict=True)
        ],
        "hoverinfo": "text",
    }  # fmt: skip
    # A hundred class names would overlap; every fifth does not.
    every = next(step for step in (1, 2, 5, 10, 20, 50, max(len(labels), 1)) if len(labels) <= 25 * step)
    low, high = min([*values, 0.0]), max([*values, 0.0])
    room = 0.14 * max(high - low, 1.0)
    line = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": mean, "y1": mean,
            "line": {"color": INK, "width": 1, "dash": "dot"}}  # fmt: skip
    layout = figures.layout(
        340, shapes=[line] if total else [],
        xaxis=figures.axis("class", tickmode="array", tickvals=list(range(0, len(labels), every)), showgrid=False,
                           ticktext=[figures.literal(formats.shorten(label, 18)) for label in labels[::every]]),
        yaxis=figures.axis("percentage points", zeroline=True, zerolinecolor=QUIET,
                           range=[low - room, high + room]),
    )  # fmt: skip
    caption = f"Percentage points by class; the dotted line is the change over all examples, {mean:+.2f}." * bool(
        total
    )
    return Figure("classes", title, caption, [trace], layout)


def weight_histograms(before: Params, after: Params, title: str = "Weights before and after") -> Figure:
    """The distribution of each layer's nonzero weights, before (gray) and after (blue).

    Zeros are left out of the bars, which their spike would flatten, and counted in each panel's heading. The
    heights are shares of the nonzero weights: of each bin, and of each value where at most 40 are left after, as
    lines with a dot.

    Args:
      before: a pytree of concrete arrays; layers are its weights (all arrays, if there are none).
      after: a pytree with the same paths; shapes may differ, and a path that it lacks is drawn without.
      title: above the figure.

    Returns:
      A figure with a panel for each layer, for the 24 largest if there are more.
    """
    old, new = _weights_of(before), _weights_of(after)
    # Small layers hold few weights, and nobody reads forty panels.
    largest = sorted(old, key=lambda path: -old[path].size)[:_LAYERS]
    shown = [path for path in old if path in largest]
    lines = -(-max(len(shown), 1) // 2)
    # Two columns are legible on a telephone, too.
    layout = figures.layout(150 * lines + 80, annotations=[], bargap=0, barmode="overlay")
    # The lowest row has its own room for ticks, so the legend can be close.
    layout["legend"] |= {"y": 0.12 / lines}
    traces: list[Json] = []
    for k, path in enumerate(shown):
        row, column = divmod(k, 2)
        number = "" if k == 0 else str(k + 1)
        top = 1 - row / lines
        start = 0.54 * column
        layout[f"xaxis{number}"] = figures.axis(
            domain=[start, start + 0.46], anchor=f"y{number}", nticks=5, showgrid=False
        )
        layout[f"yaxis{number}"] = figures.axis(
            domain=[top - 0.62 / lines, top - 0.1 / lines], anchor=f"x{number}", showticklabels=False,
            showgrid=False, ticks="", showline=False, rangemode="tozero",
        )  # fmt: skip
        text = f"{figures.literal(formats.shorten(path, 24))}<br>{_zeros(old[path], new.get(path))}"
        layout["annotations"].append(
            {"text": text, "xref": "paper", "yref": "paper", "x": start, "y": top - 0.1 / lines, "xanchor": "left",
             "yanchor": "bottom", "align": "left", "showarrow": False, "font": {"size": 10}}
        )  # fmt: skip
        traces += _histogram(old[path], new.get(path), number, legend=k == 0)
    left_out = f" (the {_LAYERS} largest of {len(old)} layers)" if len(old) > len(shown) else ""
    caption = "Shares of the nonzero weights: gray before, blue after; lines with a dot are single values."
    return Figure("weights", title + left_out, caption, traces, layout)


def _weights_of(params: Params) -> dict[str, np.ndarray]:
    leaves = {path: np.asarray(leaf) for path, leaf in named_leaves(params)}
    kernels = {path: leaf for path, leaf in leaves.items() if is_weight(path, leaf.shape)} or leaves
    return {path: leaf.astype(np.float32, copy=False) for path, leaf in kernels.items()}


def _histogram(before: np.ndarray, after: np.ndarray | None, number: str, legend: bool) -> list[Json]:
    old = _finite(before)
    new = _finite(after) if after is not None else np.zeros(0, np.float32)
    everything = np.concatenate([old, new])
    if not everything.size:
        return []
    low, high = float(everything.min()), float(everything.max())
    # Without it the outermost values would lie on the edge of the plot; one value needs a width at all.
    room = 0.02 * (high - low) or max(abs(low), 1e-6)
    edges = np.linspace(low - room, high + room, _BINS + 1)
    centers = [float(v) for v in (edges[:-1] + edges[1:]) / 2]
    axes: Json = {"xaxis": f"x{number}", "yaxis": f"y{number}", "showlegend": legend}
    traces: list[Json] = []

    def bars(values: np.ndarray, key: str, color: str) -> Json:
        # Shares rather than counts: after pruning there are fewer weights, not lower ones.
        heights = np.histogram(values, edges)[0] / values.size
        return {"type": "bar", "name": key, "legendgroup": key, "x": centers, "y": [float(h) for h in heights],
                "width": float(edges[1] - edges[0]), "marker": {"color": color, "line": {"width": 0}}, **axes,
                "hovertemplate": f"{key}<br>%{{x:.3g}}: %{{y:.2%}}<extra></extra>"}  # fmt: skip

    if old.size:
        traces.append(bars(old, "before", BEFORE))
    # A codebook has few values, which bins would blur.
    levels, counts = np.unique(new, return_counts=True)
    if 0 < levels.size <= _LEVELS:
        heights = [float(c / new.size) for c in counts]
        traces.append(
            {"type": "scatter", "mode": "markers", "name": "after", "legendgroup": "after",
             "x": [float(v) for v in levels], "y": heights, "marker": {"color": PALETTE[0], "size": 5},
             # A line from each dot down to 0.
             "error_y": {"type": "percent", "symmetric": False, "value": 0, "valueminus": 100, "width": 0,
                         "thickness": 1, "color": PALETTE[0]}, **axes,
             "hovertemplate": "after<br>%{x:.4g}: %{y:.2%}<extra></extra>"}
        )  # fmt: skip
    elif new.size:
        traces.append({**bars(new, "after", PALETTE[0]), "opacity": 0.6})
    return traces


def _finite(values: np.ndarray) -> np.ndarray:
    # A spike of zeros would flatten everything else.
    return values[np.isfinite(values) & (values != 0)]


def _zeros(before: np.ndarray, after: np.ndarray | None) -> str:
    shares = [formats.percent(float(np.mean(v == 0))) if v.size else "-" for v in (before, after) if v is not None]
    return "zeros " + " → ".join(dict.fromkeys(shares))
