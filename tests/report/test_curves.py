import itertools
import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jopt.report.canvas import spread
from PIL import Image

from jopt.report import compare_runs, learning_curves, save_figure


def drawn(axis, label):
    return next(line for line in axis.get_lines() if line.get_label() == label)


def test_learning_curves_draw_the_rows(metric_rows):
    rows = metric_rows()
    loss, accuracy = learning_curves(rows).axes
    line = drawn(loss, "validation")
    expected = [(r["step"], r["loss"]) for r in rows if r["split"] == "validation"]
    assert list(zip(line.get_xdata(), line.get_ydata(), strict=True)) == expected
    assert len(drawn(accuracy, "train").get_xdata()) == 60
    assert loss.get_yscale() == "log" and accuracy.get_yscale() == "linear"
    assert loss.get_xlabel() == accuracy.get_xlabel() == "optimizer step"


def test_the_loss_axis_is_linear_within_a_decade():
    rows = [{"step": i, "stage": "a", "split": "train", "loss": 1.0 + i / 10} for i in range(5)]
    figure = learning_curves(rows)
    assert [axis.get_yscale() for axis in figure.axes] == ["linear"]


def test_stage_boundaries_are_marked(metric_rows):
    axis = learning_curves(metric_rows()).axes[0]
    assert [t.get_text() for t in axis.texts] == ["train", "prune", "fine-tune"]
    marks = [line.get_xdata()[0] for line in axis.get_lines() if len(set(line.get_xdata())) == 1]
    assert marks[-2:] == [3000, 5000]


def test_accuracy_is_in_percent(tmp_path, metric_rows):
    figure = learning_curves(metric_rows())
    save_figure(figure, tmp_path / "a.png")
    assert all(t.get_text().endswith("%") for t in figure.axes[1].get_yticklabels())


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
def test_odd_runs_are_drawn(rows, tmp_path):
    for i, figure in enumerate((learning_curves(rows, "odd"), compare_runs({"a": rows, "b": rows}))):
        save_figure(figure, tmp_path / f"{i}.png")


def test_few_runs_are_named_at_their_lines_and_many_in_a_legend(metric_rows):
    few = compare_runs({f"run {i}": metric_rows(i) for i in range(3)})
    assert {t.get_text() for t in few.axes[-1].texts} == {"run 0", "run 1", "run 2"} and not few.legends
    many = compare_runs({f"run {i}": metric_rows(i, (("train", 6),)) for i in range(9)})
    assert len(many.legends[0].get_texts()) == 9
    lines = [line for line in many.axes[0].get_lines() if line.get_linestyle() == "-"]
    assert len({str(line.get_color()) for line in lines}) == 9


def test_png_is_deterministic_and_atomic(tmp_path, metric_rows):
    for name in ("a.png", "b.png"):
        save_figure(learning_curves(metric_rows(), "title"), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (1152, 432) and "Software" not in image.info
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png"]
    with pytest.raises(FileNotFoundError):
        save_figure(learning_curves([]), tmp_path / "missing" / "a.png")


def test_no_global_state_of_matplotlib_is_touched(tmp_path):
    code = """
import sys, jopt.report
rows = [{"step": i, "stage": "a", "split": "train", "loss": 1.0, "accuracy": 0.5} for i in range(3)]
jopt.report.save_figure(jopt.report.compare_runs({"a": rows}), sys.argv[1])
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code, tmp_path / "a.png"], check=True)


@given(st.lists(st.floats(-0.5, 1.5), max_size=8))
def test_labels_keep_apart_in_order_and_in_the_panel(heights):
    placed = spread(heights, 0.075)
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    ordered = [placed[i] for i in order]
    assert all(b - a > 0.07 for a, b in itertools.pairwise(ordered))
    assert all(-1e-9 <= h <= 1 + 1e-9 for h in placed)
