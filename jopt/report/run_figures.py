"""Figures of runs: their learning curves, and where the bytes of a packed file are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from jopt.codec.ledger import KINDS, Ledger
from jopt.measure import CLASSIFIER, Column
from jopt.report import figures, formats
from jopt.report.figures import PALETTE, QUIET, Figure, Json
from jopt.report.ledger import COLORS, ledger_headline, named_entries, share
from jopt.task import Task
from jopt.typing import Record

_TENSORS = 24


def learning_curves(rows: Sequence[Record], title: str = "Learning curves", task: Task = CLASSIFIER) -> Figure:
    """The deciding metric and the loss of one run against the optimizer step, one above the other.

    Training is blue, validation orange with a mark at each evaluation while there are few; a test result is an open
    diamond. Where the run has several stages, a dotted line marks the end of each. The loss axis is logarithmic if
    its values span more than a decade; the axis of a metric of which more is better begins below the lowest tenth
    of the values. A value that is not finite is a gap in the line.

    Args:
      rows: metric rows: `step`, `stage`, `split` (`train`, `validation` or `test`), `loss`, and the metric that
        decides. Where no row has it there is only the panel of the loss.
      title: above the figure.
      task: of the run.
    """
    metrics = _metrics_of(rows, task)
    traces: list[Json] = []
    for k, metric in enumerate(metrics):
        for split, color in (("train", PALETTE[0]), ("validation", PALETTE[1])):
            x, y = series(rows, split, metric.key)
            marks = split == "validation" and len(x) <= 40
            line = {"color": color, "width": 1.8 if split == "validation" else 1.2}
            traces += _curve(k, split, x, y, metric, line, marks=marks)
        # The test part is evaluated once: a mark, as one point makes no line.
        x, y = series(rows, "test", metric.key)
        if x:
            marker = {"symbol": "diamond-open", "size": 9, "color": "#000000"}
            traces.append({**_points(k, "test", x, y, metric), "mode": "markers", "marker": marker})
    return Figure("learning_curves", title, "", traces, _panels(metrics, rows, _ends_of_stages(rows)))


def compare_runs(runs: Mapping[str, Sequence[Record]], title: str = "All runs", task: Task = CLASSIFIER) -> Figure:
    """The deciding metric and the loss of several runs in one color each: training dashed, validation solid.

    Args:
      runs: name to metric rows, as for `learning_curves`.
      title: above the figure.
      task: of the runs.
    """
    everything = [row for rows in runs.values() for row in rows]
    metrics = _metrics_of(everything, task)
    traces: list[Json] = []
    for (name, rows), color in zip(runs.items(), figures.colors(len(runs)), strict=True):
        for k, metric in enumerate(metrics):
            for split, width, dash in (("train", 1.0, "dash"), ("validation", 1.8, "solid")):
                x, y = series(rows, split, metric.key)
                line = {"color": color, "width": width, "dash": dash}
                traces += _curve(k, f"{name}, {split}", x, y, metric, line, group=name)
    # One entry a run: the dashes say the same of all of them, and a click hides both lines.
    named: set[str] = set()
    for trace in reversed(traces):
        trace["showlegend"] = trace["yaxis"] == "y" and trace["legendgroup"] not in named
        named |= {trace["legendgroup"]} if trace["showlegend"] else set()
    layout = _panels(metrics, everything, [])
    # A legend of many rows makes the panels lower, and with them this distance.
    layout["legend"] |= {"y": -0.2}
    return Figure("all_runs", title, "Training is dashed, validation solid.", traces, layout)


def series(rows: Sequence[Record], split: str, metric: str) -> tuple[list[int], list[float]]:
    """Steps and values of one metric on one split; a value that is not finite becomes NaN.

    Example:
      >>> series([{"step": 5, "split": "train", "loss": 0.5}, {"step": 9, "split": "test", "loss": 1.0}],
      ...        "train", "loss")
      ([5], [0.5])
    """
    pairs = [(r["step"], float(r[metric])) for r in rows if r.get("split") == split and r.get(metric) is not None]
    # NaN is a gap in the line, where infinity would stretch the axis.
    return [x for x, _ in pairs], [y if math.isfinite(y) else math.nan for _, y in pairs]


def _metrics_of(rows: Sequence[Record], task: Task) -> list[Column]:
    keys = dict.fromkeys((task.deciding.key, "loss"))
    drawn = [key for key in keys if key == "loss" or any(row.get(key) is not None for row in rows)]
    return [formats.column(key, task=task) for key in drawn]


def _points(panel: int, name: str, x: Sequence[int], y: Sequence[float], metric: Column) -> Json:
    value = "%{y:.2%}" if metric.fraction else "%{y:.4g}"
    return {
        "type": "scatter", "name": figures.literal(formats.shorten(name, 40)), "legendgroup": figures.literal(name),
        "x": list(x), "y": list(y), "xaxis": "x", "yaxis": "y" if panel == 0 else "y2", "showlegend": panel == 0,
        "hovertemplate": f"%{{fullData.name}}<br>step %{{x}}: {value}<extra></extra>",
    }  # fmt: skip


def _curve(
    panel: int, name: str, x: Sequence[int], y: Sequence[float], metric: Column, line: Json, group: str = "",
    marks: bool = False,
) -> list[Json]:  # fmt: skip
    if not x:
        return []
    mode = "lines+markers" if marks else "lines"
    return [{**_points(panel, name, x, y, metric), "mode": mode, "line": line, "marker": {"size": 4},
             "legendgroup": figures.literal(group or name)}]  # fmt: skip


def _panels(metrics: Sequence[Column], rows: Sequence[Record], ends: Sequence[tuple[str, int, int]]) -> Json:
    """A panel for each metric, the first at the top, over one axis of steps; stages are named above the first."""
    height = 260 * len(metrics) + 60
    shapes = [
        {"type": "line", "xref": "x", "yref": "paper", "x0": end, "x1": end, "y0": 0, "y1": 1, "layer": "below",
         "line": {"color": QUIET, "width": 1, "dash": "dot"}}
        for _, _, end in ends[:-1]
    ]  # fmt: skip
    width = ends[-1][2] - ends[0][1] or 1 if ends else 1
    names = [
        {"text": figures.literal(name), "xref": "x", "yref": "paper", "x": (begin + end) / 2, "y": 1,
         "yanchor": "bottom", "showarrow": False, "font": {"size": 11, "color": QUIET}}
        # A name that is wider than its stage would run into the next; 420 pixels hold some 55 characters.
        for name, begin, end in ends if (end - begin) / width > 0.018 * len(name)
    ]  # fmt: skip
    layout = figures.layout(
        height, shapes=shapes, annotations=names,
        xaxis=figures.axis("optimizer step", rangemode="tozero", anchor="y" if len(metrics) == 1 else "y2"),
    )  # fmt: skip
    for k, metric in enumerate(metrics):
        splits = ("train", "validation", "test")
        values = [y for split in splits for y in series(rows, split, metric.key)[1] if y == y]
        # The gap between the panels has room for the ticks of the upper one.
        domain = [0.0, 1.0] if len(metrics) == 1 else [[0.54, 1.0], [0.0, 0.46]][k]
        layout["yaxis" if k == 0 else "yaxis2"] = {**_value_axis(metric, values), "domain": domain, "anchor": "x"}
    return layout


def _value_axis(metric: Column, values: Sequence[float]) -> Json:
    title = formats.titled(metric)
    if metric.better == "higher":
        ticks = {"tickformat": ",.3~%"} if metric.fraction else {}
        return figures.axis(title, **ticks, range=figures.rising_limits(values))
    if figures.spans_decade(values):
        return figures.axis(title, type="log", exponentformat="none", dtick="D2" if len(values) > 1 else None)
    return figures.axis(title)


def _ends_of_stages(rows: Sequence[Record]) -> list[tuple[str, int, int]]:
    """Name, first and last step of each stage, where there are several."""
    ends: list[tuple[str, int]] = []
    for row in rows:
        if not row.get("stage") or row.get("split") == "test":
            continue
        # Rows of one stage follow each other, train and validation in turn.
        if ends and ends[-1][0] == row["stage"]:
            ends[-1] = row["stage"], max(row["step"], ends[-1][1])
        else:
            ends.append((row["stage"], row["step"]))
    # A run that was resumed, or starts from another one, need not begin at step 0.
    starts = [min((row["step"] for row in rows), default=0), *(end for _, end in ends)]
    return [(name, begin, end) for (name, end), begin in zip(ends, starts, strict=False)] if len(ends) > 1 else []


def ledger_figure(ledger: Ledger, title: str = "") -> Figure:
    """Where the bytes go: a bar for the whole file, and one for each tensor, stacked by kind.

    Args:
      ledger: of the file.
      title: above the figure; without one, what `ledger_headline` says.

    Returns:
      A figure with the tensors in the file's order; beyond 24 the smaller ones share a bar. At a bar's end are its
      bytes and its share of the file; the legend has the same of each kind.
    """
    rows, kinds = named_entries(ledger, _TENSORS), ledger.by_kind()
    drawn = 22 * (max(len(rows), 1) + 3.5)
    # The whole file has a separate axis: on the tensors' axis its bar would make theirs invisible.
    split = 22 * (len(rows) + 0.6) / drawn
    traces: list[Json] = []
    for kind in KINDS:
        if kinds.get(kind):
            # Many kinds are thinner than a line: the legend says what a bar cannot show.
            name = f"{kind} {formats.binary(kinds[kind])} ({share(kinds[kind], ledger.total)})"
            traces.append(_stack(kind, [("whole file", kinds)], "2", name, legend=True))
            traces.append(_stack(kind, rows, "", name, legend=False))
    totals = [sum(amounts.values()) for _, amounts in rows]
    ends = [
        {"text": f"{formats.binary(n)}, {share(n, ledger.total)}", "x": n, "y": k, "xref": "x", "yref": "y",
         "xanchor": "left", "showarrow": False, "font": {"size": 10}}
        for k, n in enumerate(totals)
    ]  # fmt: skip
    largest = max(totals, default=0)
    ticks = binary_ticks(largest)
    layout = figures.layout(
        round(drawn) + 150, barmode="stack", annotations=ends, showlegend=True,
        xaxis=figures.axis(range=[0, 1.8 * max(largest, 1)], tickmode="array", tickvals=ticks, anchor="y",
                           tickangle=0, ticktext=[figures.round_text(formats.binary(v)) for v in ticks]),
        yaxis={**figures.category_axis([name for name, _ in rows] or [""], 20), "domain": [0, split], "anchor": "x",
               "tickfont": {"size": 10}},
        xaxis2={"range": [0, max(ledger.total, 1)], "visible": False, "anchor": "y2"},
        yaxis2={**figures.category_axis(["whole file"]), "domain": [1 - 30 / drawn, 1], "anchor": "x2"},
    )  # fmt: skip
    return Figure("bytes", title or ledger_headline(ledger), "", traces, layout)


def _stack(kind: str, rows: Sequence[tuple[str, Mapping[str, int]]], number: str, name: str, legend: bool) -> Json:
    present = [(k, label, amounts[kind]) for k, (label, amounts) in enumerate(rows) if amounts.get(kind)]
    return {
        "type": "bar", "orientation": "h", "name": name, "legendgroup": kind, "showlegend": legend,
        "x": [n for _, _, n in present], "y": [k for k, _, _ in present], "width": 0.76,
        "xaxis": f"x{number}", "yaxis": f"y{number}",
        "marker": {"color": COLORS[kind], "line": {"color": "#ffffff", "width": 0.5}},
        "hovertext": [figures.hover(label, [f"{kind}: {n:,} bytes"]) for _, label, n in present],
        "hoverinfo": "text",
    }  # fmt: skip


def binary_ticks(largest: int) -> list[int]:
    """At most four multiples of a power of two, and 0: they are round in binary units.

    Example:
      >>> binary_ticks(1_180_000)
      [0, 524288, 1048576]
    """
    # The smallest power of two that needs at most four ticks.
    step = next(1 << n for n in range(largest.bit_length() + 1) if largest <= 4 << n)
    return list(range(0, largest + 1, step))
