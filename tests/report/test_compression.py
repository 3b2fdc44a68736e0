"""The pictures of a compression: that they are drawn, show the numbers, and that no label touches another."""

import itertools
import re

import numpy as np
import pytest
from compressed import stages
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image

from jopt import measure, report

FILES = {"compression.png", "accuracy_against_size.png", "sparsity.png", "weights.png", "classes.png"}


def bars(axis):
    return [patch for container in axis.containers for patch in container]


def test_pictures_are_files(drawn):
    kind, directory, found = drawn
    expected = {"compression.png"} if kind == "1 stage" else FILES
    assert {path.name for path in directory.iterdir()} == expected == set(found.figures)
    for path in directory.iterdir():
        with Image.open(path) as image:
            assert image.width > 500 and len(image.convert("L").getcolors() or []) > 10, path
    assert {p.path for p in found.parts if isinstance(p, report.Picture)} == expected
    assert set(re.findall(r"<(\w+\.png)>", found.markdown)) == expected


def labels_of(figure):
    """Every text that is drawn, with its box in pixels; ticks beyond an axis's limits are not drawn."""
    texts = [figure._suptitle, *(t for x in figure.legends for t in x.get_texts())]
    for axes in figure.axes:
        if not axes.axison:
            continue
        texts += [*axes.texts, axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = axis.get_major_ticks()
            texts += [t.label1 for t in ticks if low - 1e-9 <= t.get_loc() <= high + 1e-9]
    drawn = [t for t in texts if t is not None and t.get_visible() and t.get_text().strip()]
    return [(t.get_text(), Text.get_window_extent(t)) for t in drawn]  # of the text: without an annotation's arrow


def test_no_label_is_clipped_or_touches_another(drawn):
    _, _, found = drawn
    for name, figure in found.figures.items():
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        width, height = canvas.get_width_height()
        boxes = labels_of(figure)
        assert len(boxes) > 4, name
        for text, box in boxes:
            inside = box.x0 > -1 and box.x1 < width + 1 and box.y0 > -1 and box.y1 < height + 1
            assert inside, (name, text, box)
        for (a, one), (b, two) in itertools.combinations(boxes, 2):
            across = min(one.x1, two.x1) - max(one.x0, two.x0)
            down = min(one.y1, two.y1) - max(one.y0, two.y0)
            assert across < 1 or down < 2, (name, a, b)


def test_the_overview_has_a_mark_for_each_stage(drawn):
    _, _, found = drawn
    n = len(found.rows)
    accuracy, size, sparsity, flops = found.figures["compression.png"].axes
    assert len(accuracy.get_yticklabels()) == n and accuracy.get_yticklabels()[0].get_text() == "dense"
    assert len([line for line in accuracy.get_lines() if line.get_marker() == "o"]) == n
    for axis, key in ((size, "theoretical_bytes"), (sparsity, "sparsity"), (flops, "effective_flops")):
        assert [bar.get_width() for bar in bars(axis)] == [row[key] for row in found.rows]
    assert size.get_title(loc="left").startswith("theoretical") and flops.get_title(loc="left").startswith("theor")


def test_accuracy_against_size_has_a_point_and_a_name_for_each_stage(drawn):
    kind, _, found = drawn
    if kind == "1 stage":
        return
    (axis,) = found.figures["accuracy_against_size.png"].axes
    points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in axis.get_lines() if line.get_marker() == "o"]
    assert points == [(row["theoretical_bytes"], row["accuracy"]) for row in found.rows]
    assert axis.get_xscale() == "log" and len(axis.texts) == len(found.rows)
    assert axis.get_xlabel() == "theoretical size"


def test_sparsity_bars_are_the_sparsities():
    values = {"one": {"a/kernel": 0.5, "b/kernel": 0.25}, "two": {"a/kernel": 0.75}}
    (axis,) = report.sparsity_bars(values).axes
    assert [[bar.get_width() for bar in container] for container in axis.containers] == [[0.5, 0.25], [0.75]]
    assert [t.get_text() for t in axis.texts] == ["50.00%", "25.00%", "75.00%"]
    assert [t.get_text() for t in axis.get_yticklabels()] == ["a/kernel", "b/kernel"]
    (many,) = report.sparsity_bars({str(i): {"w": 0.5} for i in range(5)}).axes
    assert len(bars(many)) == 5 and not many.texts


def test_only_the_stages_that_changed_the_sparsity_have_bars():
    outcomes, labels, _ = stages("3 stages")
    same = [outcomes[0]._replace(name="longer"), *outcomes[1:], outcomes[0]._replace(name="prune")]
    (axis,) = report.summarize([outcomes[0], *same], labels).figures["sparsity.png"].axes
    assert [c.get_label() for c in axis.containers] == ["prune", "prune (5)"]
    dense_only = report.summarize([outcomes[0], outcomes[0]._replace(name="b")], labels)
    assert "sparsity.png" not in dense_only.figures


def test_histograms_leave_zeros_out_and_count_them():
    before = {"w": np.linspace(-1, 1, 101, dtype=np.float32).reshape(101, 1)}  # with one zero
    after = {"w": np.where(np.abs(before["w"]) < 0.495, 0, np.sign(before["w"]))}
    (axis,) = report.weight_histograms(before, after).axes
    (steps,) = (p for p in axis.patches if hasattr(p, "get_data"))
    assert steps.get_data().values.sum() == pytest.approx(1.0)
    (marks,) = (line for line in axis.get_lines() if line.get_marker() == "o")
    assert marks.get_xdata().tolist() == [-1.0, 1.0] and marks.get_ydata().tolist() == [0.5, 0.5]
    assert [t.get_text() for t in axis.texts] == ["zeros 0.99% → 48.51%"]


def test_histograms_have_a_panel_for_each_kernel_up_to_24(drawn):
    kind, _, found = drawn
    if kind != "1 stage":
        titles = [axis.get_title(loc="left") for axis in found.figures["weights.png"].axes]
        assert len([t for t in titles if t.endswith("kernel")]) == (20 if kind == "20 layers" else 3)
    many = {f"layer_{i:02d}": np.ones((2, 1 + i), np.float32) for i in range(30)}
    figure = report.weight_histograms(many, many)
    panels = [axis.get_title(loc="left") for axis in figure.axes]
    assert panels == [f"layer_{i:02d}" for i in range(6, 30)]
    assert "24 largest of 30" in figure.get_suptitle()


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
def test_odd_weights_are_drawn(before, after, tmp_path):
    report.save_figure(report.weight_histograms(before, after), tmp_path / "a.png")


def test_odd_rows_are_drawn(tmp_path):
    rows = [
        {"stage": "no size", "accuracy": 1.0},
        {"stage": "no accuracy", "theoretical_bytes": 10},
        {"stage": "empty", "accuracy": 1.0, "theoretical_bytes": 0, "sparsity": 0.0, "effective_flops": 0},
        {"stage": "huge", "accuracy": 0.0, "theoretical_bytes": 10**13, "effective_flops": 10**18},
    ]
    for chosen in ([], rows, rows[:1], rows[1:2], [{"stage": "x"}]):
        report.save_figure(report.compression_overview(chosen), tmp_path / "a.png")
        report.save_figure(report.accuracy_against_size(chosen), tmp_path / "b.png")
    report.save_figure(report.sparsity_bars({}), tmp_path / "c.png")
    report.save_figure(report.class_bars([]), tmp_path / "d.png")


def test_class_bars():
    changes = measure.class_changes([0, 0, 1, 1, 3], [0, 1, 1, 1, 0], [0, 0, 1, 0, 3], 5)
    (axis,) = report.class_bars(changes).axes
    assert [round(bar.get_height(), 2) for bar in bars(axis)] == [-33.33, 0.0, -100.0]  # no example of 2 and 4
    assert [t.get_text() for t in axis.get_xticklabels()] == ["0", "1", "3"]
    mean = axis.get_lines()[-1]
    assert mean.get_ydata()[0] == pytest.approx(-40) and mean.get_label() == "all examples: -40.00"
    (many,) = report.class_bars([measure.ClassChange(i, 10, 5, 5 + i % 3) for i in range(100)]).axes
    assert [t.get_text() for t in many.get_xticklabels()] == [str(i) for i in range(0, 100, 5)] and not many.texts


def test_markdown_and_page_have_the_same_tables(drawn):
    _, _, found = drawn
    tables = [part for part in found.parts if isinstance(part, report.Table)]
    assert found.markdown.count("\n| :---") == len(tables) == (1 if len(found.rows) == 1 else 3)
    assert found.markdown.startswith("## Compression\n\n| stage |")


def test_summaries_are_deterministic_and_leave_out_what_is_not_known():
    outcomes, labels, flops = stages("3 stages")
    a, b = (report.summarize(outcomes, labels, flops) for _ in range(2))
    assert a.rows == b.rows and a.markdown == b.markdown
    bare = report.summarize([o._replace(predictions=None, metrics={}, latent=None) for o in outcomes])
    assert set(bare.figures) == {"compression.png", "sparsity.png", "weights.png"}
    assert len(bare.figures["compression.png"].axes) == 2 and "Predictions" not in bare.markdown
    with pytest.raises(ValueError, match="at least one stage"):
        report.summarize([])
