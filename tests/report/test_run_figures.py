"""The figures of a run: that they are valid, and hold the numbers."""

import itertools
import math

import numpy as np
import plotly.graph_objects as go
import pytest
from compressed import stages

from jopt import measure, report
from jopt.report.page import Figure
from jopt.report.run_report import compression_parts


def named(figure, name):
    return [trace for trace in figure.traces if trace.get("name") == name]


def valid(figure):
    """Plotly's own classes know each property and its values."""
    return go.Figure(figure.to_dict())


def test_learning_curves_draw_the_rows(metric_rows):
    rows = metric_rows()
    figure = report.learning_curves(rows)
    accuracy, loss = named(figure, "validation")
    expected = [(r["step"], r["loss"]) for r in rows if r["split"] == "validation"]
    assert list(zip(loss["x"], loss["y"], strict=True)) == expected and loss["yaxis"] == "y2"
    assert len(named(figure, "train")[0]["x"]) == 60 and accuracy["yaxis"] == "y"
    assert figure.layout["yaxis2"]["type"] == "log" and "type" not in figure.layout["yaxis"]
    assert figure.layout["yaxis"]["tickformat"].endswith("%")
    assert figure.layout["xaxis"]["title"]["text"] == "optimizer step"
    ((x,),) = (trace["x"] for trace in named(figure, "test")[:1])
    assert x == rows[-1]["step"]
    valid(figure)


def test_the_loss_axis_is_linear_within_a_decade():
    rows = [{"step": i, "stage": "a", "split": "train", "loss": 1.0 + i / 10} for i in range(5)]
    figure = report.learning_curves(rows)
    assert "type" not in figure.layout["yaxis"] and "yaxis2" not in figure.layout
    assert figure.layout["yaxis"]["title"]["text"] == "loss (nats)"


def test_stage_boundaries_are_marked(metric_rows):
    layout = report.learning_curves(metric_rows()).layout
    assert [a["text"] for a in layout["annotations"]] == ["train", "prune", "fine-tune"]
    assert [shape["x0"] for shape in layout["shapes"]] == [3000, 5000]


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"step": 1, "stage": "a", "split": "test", "loss": 0.0, "accuracy": 1.0}],
        [{"step": i, "stage": "a", "split": "train", "loss": math.nan, "accuracy": 0.1} for i in range(3)],
        [{"step": i, "stage": "a", "split": "train", "loss": 10.0 ** (9 * i), "accuracy": 0.1} for i in range(5)],
        [{"step": 5, "stage": "a", "split": "train", "loss": math.inf, "accuracy": None}],
    ],
    ids=["none", "one", "nan", "diverging", "inf"],
)
def test_odd_runs_are_drawn(rows):
    for figure in (report.learning_curves(rows, "odd"), report.compare_runs({"a": rows, "b": rows})):
        valid(figure)
        assert "NaN" not in report.to_html("odd", [figure]).rpartition("Plotly.newPlot")[2]


def test_runs_have_a_color_each(metric_rows):
    runs = {f"run {i}": metric_rows(i, (("train", 6),)) for i in range(9)}
    figure = report.compare_runs(runs)
    solid = {t["name"]: t["line"]["color"] for t in figure.traces if t["line"]["dash"] == "solid"}
    assert list(solid) == [f"run {i}, validation" for i in range(9)] and len(set(solid.values())) == 9
    dashed = {t["name"]: t["line"]["color"] for t in figure.traces if t["line"]["dash"] == "dash"}
    assert list(dashed.values()) == list(solid.values())
    assert [t["name"] for t in figure.traces if t["showlegend"]] == list(solid), "one entry of the legend a run"


def figures_of(kind):
    outcomes, labels, flops = stages(kind)
    rows = measure.stage_rows(outcomes, labels, flops)
    parts = compression_parts(outcomes, rows, labels)
    return rows, {part.name: part for part in parts if isinstance(part, Figure)}


FIGURES = {"compression", "accuracy_against_size", "sparsity", "weights", "classes"}


@pytest.mark.parametrize("kind", ["1 stage", "3 stages", "10 stages", "20 layers"])
def test_a_compression_is_drawn(kind):
    rows, drawn = figures_of(kind)
    assert set(drawn) == ({"compression"} if kind == "1 stage" else FIGURES)
    for figure in drawn.values():
        valid(figure)
    accuracy, size, sparsity, flops = drawn["compression"].traces
    for trace, key in ((accuracy, "accuracy"), (size, "theoretical_bytes"), (sparsity, "sparsity"),
                       (flops, "effective_flops")):  # fmt: skip
        assert trace["x"] == [row[key] for row in rows] and trace["y"] == list(range(len(rows)))
    layout = drawn["compression"].layout
    assert layout["yaxis"]["ticktext"][0] == "dense"
    titles = [a["text"] for a in layout["annotations"]]
    assert titles == ["test accuracy", "theoretical size", "sparsity", "theoretical effective FLOPs"]
    domains = [layout[name]["domain"] for name in ("yaxis", "yaxis2", "yaxis3", "yaxis4")]
    assert all(upper[0] > lower[1] for upper, lower in itertools.pairwise(domains)), "panels must not overlap"
    if kind != "1 stage":
        line, *points = drawn["accuracy_against_size"].traces
        assert list(zip(line["x"], line["y"], strict=True)) == [
            (r["theoretical_bytes"], r["accuracy"]) for r in rows
        ]
        assert [(p["x"][0], p["y"][0]) for p in points] == list(zip(line["x"], line["y"], strict=True))
        assert drawn["accuracy_against_size"].layout["xaxis"]["type"] == "log"
        assert drawn["accuracy_against_size"].layout["xaxis"]["title"]["text"] == "theoretical size"
        panels = [a["text"].partition("<br>")[0] for a in drawn["weights"].layout["annotations"]]
        assert len(panels) == (20 if kind == "20 layers" else 3) and all(p.endswith("kernel") for p in panels)


def test_sparsity_bars_are_the_sparsities():
    values = {"one": {"a/kernel": 0.5, "b/kernel": 0.25}, "two": {"a/kernel": 0.75}}
    figure = report.sparsity_bars(values)
    assert [trace["x"] for trace in figure.traces] == [[0.5, 0.25], [0.75]]
    assert [trace["text"] for trace in figure.traces] == [["50.00%", "25.00%"], ["75.00%"]]
    assert figure.layout["yaxis"]["ticktext"] == ["a/kernel", "b/kernel"]
    many = report.sparsity_bars({str(i): {"w": 0.5} for i in range(5)})
    assert len(many.traces) == 5 and all(trace["text"] is None for trace in many.traces)
    valid(report.sparsity_bars({}))


def test_only_the_stages_that_changed_the_sparsity_have_bars():
    outcomes, labels, _ = stages("3 stages")
    same = [outcomes[0]._replace(name="longer"), *outcomes[1:], outcomes[0]._replace(name="prune")]
    chosen = [outcomes[0], *same]
    parts = compression_parts(chosen, measure.stage_rows(chosen, labels), labels)
    (figure,) = (part for part in parts if isinstance(part, Figure) and part.name == "sparsity")
    assert [trace["name"] for trace in figure.traces] == ["prune", "prune (5)"]
    dense_only = [outcomes[0], outcomes[0]._replace(name="b")]
    parts = compression_parts(dense_only, measure.stage_rows(dense_only, labels), labels)
    assert "sparsity" not in {part.name for part in parts if isinstance(part, Figure)}


def test_histograms_leave_zeros_out_and_count_them():
    before = {"w": np.linspace(-1, 1, 101, dtype=np.float32).reshape(101, 1)}  # with one zero
    after = {"w": np.where(np.abs(before["w"]) < 0.495, 0, np.sign(before["w"]))}
    figure = report.weight_histograms(before, after)
    (bars,), (marks,) = named(figure, "before"), named(figure, "after")
    assert sum(bars["y"]) == pytest.approx(1.0)
    assert marks["x"] == [-1.0, 1.0] and marks["y"] == [0.5, 0.5]
    assert figure.layout["annotations"][0]["text"] == "w<br>zeros 0.99% → 48.51%"


def test_histograms_are_of_the_24_largest_layers():
    many = {f"layer_{i:02d}": np.ones((2, 1 + i), np.float32) for i in range(30)}
    figure = report.weight_histograms(many, many)
    panels = [a["text"].partition("<br>")[0] for a in figure.layout["annotations"]]
    assert panels == [f"layer_{i:02d}" for i in range(6, 30)]
    assert "24 largest of 30" in figure.title


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {}),
        ({"w": np.zeros((2, 2), np.float32)}, {"w": np.zeros((2, 2), np.float32)}),
        ({"w": np.ones((2, 2), np.float32)}, {}),
        ({"w": np.float32([[np.nan, np.inf], [1, 2]])}, {"w": np.float32([[1.0]])}),
        ({"b": np.ones(3, np.int8)}, {"b": np.ones(2, np.int8)}),
        ({"w": np.zeros((0, 3), np.float32)}, {"w": np.zeros((0, 3), np.float32)}),
    ],
    ids=["none", "zeros", "gone", "not finite", "vectors", "empty"],
)
def test_odd_weights_are_drawn(before, after):
    valid(report.weight_histograms(before, after))


def test_odd_rows_are_drawn():
    rows = [
        {"stage": "no size", "accuracy": 1.0},
        {"stage": "no accuracy", "theoretical_bytes": 10},
        {"stage": "empty", "accuracy": 1.0, "theoretical_bytes": 0, "sparsity": 0.0, "effective_flops": 0},
        {"stage": "huge", "accuracy": 0.0, "theoretical_bytes": 10**13, "effective_flops": 10**18},
    ]
    for chosen in ([], rows, rows[:1], rows[1:2], [{"stage": "x"}]):
        valid(report.compression_overview(chosen))
        valid(report.metric_against_size(chosen))
    valid(report.class_bars([]))


def test_class_bars():
    changes = measure.class_changes([0, 0, 1, 1, 3], [0, 1, 1, 1, 0], [0, 0, 1, 0, 3], 5)
    figure = report.class_bars(changes)
    (bars,) = figure.traces
    assert [round(v, 2) for v in bars["y"]] == [-33.33, 0.0, -100.0]  # no example of 2 and 4
    assert figure.layout["xaxis"]["ticktext"] == ["0", "1", "3"]
    assert figure.layout["shapes"][0]["y0"] == pytest.approx(-40) and "-40.00" in figure.caption
    many = report.class_bars([measure.ClassChange(i, 10, 5, 5 + i % 3) for i in range(100)])
    assert many.layout["xaxis"]["ticktext"] == [str(i) for i in range(0, 100, 5)] and many.traces[0]["text"] is None
    valid(figure)


def test_names_that_look_like_tags_are_text(metric_rows):
    hostile = "</script><img src=x onerror=alert(1)>"
    rows = [{**row, "stage": hostile} if row["stage"] == "prune" else row for row in metric_rows()]
    outcomes, labels, _ = stages("3 stages")
    outcomes = [outcome._replace(name=hostile + outcome.name) for outcome in outcomes]
    stage_rows = measure.stage_rows(outcomes, labels)
    parts = [report.learning_curves(rows), report.compare_runs({hostile: rows})]
    parts += [part for part in compression_parts(outcomes, stage_rows, labels) if isinstance(part, Figure)]
    for figure in parts:
        assert "<img" not in repr(figure.to_dict())
    page = report.to_html(hostile, compression_parts(outcomes, stage_rows, labels))
    assert "<img" not in page.partition("<body>")[2].replace(
        page.partition("<script>")[2].partition("</script>")[0], ""
    )
