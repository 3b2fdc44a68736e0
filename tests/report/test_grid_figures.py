import itertools
import re

import numpy as np
import plotly.graph_objects as go
import pytest

from jopt.measure import Column, columns_of
from jopt.report import figures, grid_curves, grid_figures
from jopt.report.study import Curve, MeanEstimate, Study, StudyAxis, StudyPoint, StudyTrial, labels

HOSTILE = "</script><img src=x onerror=alert(1)>"
ACCURACY, LOSS = (next(c for c in columns_of("trial") if c.key == key) for key in ("accuracy", "loss"))


def grid(axes, outcome=lambda at: 0.9 + 0.001 * sum(at), size=lambda at: 1000.0 + 10 * sum(at), **changes):
    """A study of all points over the axes, name to values."""
    own = tuple(StudyAxis(name, tuple(values), f"model.{name}") for name, values in axes.items())
    points = []
    for k, at in enumerate(itertools.product(*(range(len(a.values)) for a in own))):
        mean = outcome(at)
        trials = tuple(StudyTrial(f"{k:06d}{seed}", seed, "finished", {}, f"run {k} {seed}") for seed in range(2))
        found = None if mean is None else MeanEstimate(mean, mean - 0.01, mean + 0.01)
        costs = {} if mean is None else {"theoretical_bytes": size(at)}
        settings = {a.field: a.texts[i] for a, i in zip(own, at, strict=True)}
        points.append(StudyPoint(at, trials, 0 if found else 2, found, costs, settings=settings))
    return Study("grid", ACCURACY, own, tuple(points))._replace(**changes)


def every(study):
    drawn = (
        grid_figures.tradeoff,
        grid_figures.heat_map,
        grid_curves.curves,
        grid_curves.sensitivity,
        grid_figures.forest,
    )
    return [figure for draw in drawn if (figure := draw(study)) is not None]


def test_the_front_is_what_no_other_point_dominates():
    rng = np.random.default_rng(0)
    for _ in range(20):
        costs, gains = rng.integers(0, 6, 15).tolist(), rng.integers(0, 6, 15).tolist()
        every = list(zip(costs, gains, strict=True))
        best = {
            i for i, (c, g) in enumerate(every)
            if not any(a <= c and b >= g and (a, b) != (c, g) for a, b in every)
        }  # fmt: skip
        assert set(figures.front(costs, gains)) == best


def test_the_front_by_hand():
    # 10 bytes: 80%; 20: 90% and 85%; 30: 90%, no better than 20; 40: 95%.
    assert figures.front([30, 20, 20, 10, 40], [0.90, 0.90, 0.85, 0.80, 0.95]) == [3, 1, 4]
    assert figures.front([], []) == []


def test_of_a_loss_the_front_is_below():
    loss = {0: 0.5, 1: 0.4, 2: 0.6}
    study = grid({"width": (8, 16, 32)}, lambda at: loss[at[0]], column=LOSS)
    assert grid_figures.fronts(study) == {"theoretical_bytes": [0, 1]}
    assert grid_figures.fronts(study._replace(column=ACCURACY)) == {"theoretical_bytes": [0, 2]}


def test_sizes_that_do_not_vary_have_no_front_and_no_plot():
    study = grid({"rate": (0.1, 0.2)}, size=lambda at: 512.0)
    assert grid_figures.fronts(study) == {} and grid_figures.tradeoff(study) is None
    # A weight that happens to be zero is no size that was traded for anything; a fiftieth is.
    for step, drawn in ((1.0, False), (1000.0, True)):
        own = grid({"rate": (0.1, 0.2)}, size=lambda at, step=step: 50_609.0 + step * at[0])
        assert bool(grid_figures.fronts(own)) == drawn


@pytest.mark.parametrize(
    "difference, verdict, judged",
    [
        (MeanEstimate(0.02, 0.01, 0.03), "better", "better"),
        (MeanEstimate(0.02, -0.01, 0.05), "better", "undecided"),
        (MeanEstimate(0.02, 0.0, 0.04), "better", "undecided"),
        (MeanEstimate(-0.02, -0.03, -0.01), "worse", "worse"),
        (MeanEstimate(0.02, 0.01, 0.03), "too few seeds", "undecided"),
        (MeanEstimate(0.02), "better", "undecided"),
        (None, "control", "undecided"),
    ],
)
def test_nothing_is_colored_better_whose_interval_holds_zero(difference, verdict, judged):
    assert grid_figures.judged(StudyPoint((), difference=difference, verdict=verdict)) == judged


def test_differences_are_sorted_best_first_for_losses_too():
    points = tuple(StudyPoint((i,), difference=MeanEstimate(d)) for i, d in enumerate((0.1, -0.2, 0.3)))
    study = Study("t", ACCURACY, (StudyAxis("a", (1, 2, 3)),), points)
    assert grid_figures.compared(study) == [2, 0, 1]
    assert grid_figures.compared(study._replace(column=LOSS)) == [1, 0, 2]


def test_a_map_needs_a_grid():
    assert grid_figures.heat_axes(grid({"a": (1, 2), "b": (1, 2, 3), "c": range(5)})) == (1, 2)
    assert grid_figures.heat_axes(grid({"a": (1, 2, 3)})) is None
    zipped = grid({"a": range(8), "b": range(8)})
    zipped = zipped._replace(points=tuple(p for p in zipped.points if p.at[0] == p.at[1]))
    assert grid_figures.heat_axes(zipped) is None
    assert grid_figures.heat_axes(grid({"a": range(30), "b": range(3)})) is None


def test_other_axes_stand_at_the_control_where_they_must_be_fixed():
    study = grid({"a": (1, 2), "b": (1, 2, 3), "c": ("x", "y")})
    assert study.fixed([0, 1, 2]) == {}
    assert study.fixed([0, 1]) == {2: 0}
    points = tuple(p._replace(verdict="control" if p.at == (1, 2, 1) else "") for p in study.points)
    assert study._replace(points=points).fixed([1]) == {0: 1, 2: 1}
    zipped = study._replace(points=tuple(p for p in study.points if p.at[0] == p.at[2]))
    assert zipped.fixed([0, 1]) == {}, "the third axis goes with the first"


def test_learning_rates_come_first_and_are_logarithmic():
    axes = (
        StudyAxis("epochs", tuple(range(1, 9))),
        StudyAxis("rate", (0.01, 0.02), "optimizer.learning_rate"),
        StudyAxis("name", ("a", "b")),
    )
    study = Study("t", ACCURACY, axes, ())
    assert grid_curves.numeric_axes(study) == [1, 0] and grid_curves.line_axes(study) == [2, 0, 1]
    assert [a.log for a in axes] == [False, True, False]
    assert not StudyAxis("learning_rate", (0.0, 0.1)).log, "zero has no logarithm"
    assert not StudyAxis("flag", (True, False)).numeric


def test_curves_that_are_shown_for_being_controls_are_not_called_the_best():
    study = grid({"a": tuple(range(6)), "b": (1, 2)})
    curve = {"validation": {"accuracy": Curve(*((1,),) * 7)}}
    points = tuple(p._replace(curves=curve, verdict="control" if p.at[0] == 0 else "") for p in study.points)
    study = study._replace(points=points)
    # Of twelve points the mean rises; the controls are the first two.
    shown = grid_curves.chosen_curves(study, most=6, few=6)
    assert shown == [0, 1, 7, 9, 10, 11] or shown == [0, 1, 8, 9, 10, 11]
    assert grid_curves.chosen_names(study, shown, 6) == "2 controls and the best 4 others of 12 points"
    # Of five, two are too many.
    shown = grid_curves.chosen_curves(study, most=5, few=5)
    assert not {0, 1} & set(shown) and grid_curves.chosen_names(study, shown, 5) == "the best 5 of 12 points"


def test_long_names_are_all_given_by_their_values():
    study = grid({"optimizer": ("sgd", "adam, slow"), "rate": (1, 2), "same": (7,)})
    assert labels(study, 40)[0][2] == "optimizer=adam, slow, rate=1"
    assert labels(study, 20) == (["sgd, 1", "sgd, 2", "adam, slow, 1", "adam, slow, 2"], "optimizer, rate")


def test_true_is_not_one():
    assert StudyAxis("a", (1, True)).index(True) == 1
    with pytest.raises(ValueError, match=r"'bits'.*4, 8.*3"):
        StudyAxis("bits", (4, 8)).index(3)


def line(values, steps=None):
    own = tuple(float(v) for v in values)
    return Curve(tuple(steps or range(len(own))), (2,) * len(own), *(own,) * 5)


def test_of_many_curves_the_best_and_the_control_are_shown():
    study = grid({"a": range(40)})
    points = tuple(p._replace(curves={"train": {"loss": line([1, 2])}}) for p in study.points)
    points = (points[0]._replace(verdict="control"), *points[1:])
    assert grid_curves.chosen_curves(study._replace(points=points)) == [0, *range(29, 40)]
    assert grid_curves.chosen_curves(study._replace(points=points[:30])) == list(range(30))
    assert grid_curves.chosen_curves(study) == [] and grid_curves.curves(study) is None


def test_a_long_curve_keeps_its_ends():
    own = grid_curves.thin(line(range(1001)))
    assert (
        len(own.step) == grid_curves.STEPS and (own.step[0], own.step[-1]) == (0, 1000) and own.mean[-1] == 1000.0
    )


def test_colors_are_different_and_few_values_have_the_palette():
    for axis in (
        StudyAxis("a", ("x", "y", "z")),
        StudyAxis("a", tuple(range(9))),
        StudyAxis("a", tuple("abcdefghij")),
    ):
        assert len(set(grid_figures.shades(axis))) == len(axis.values) and all(
            re.fullmatch("#[0-9A-Fa-f]{6}", c) for c in grid_figures.shades(axis)
        )
    # What has no order has no scale, however many there are: neighbors are no likelier alike than others.
    assert not set(grid_figures.shades(StudyAxis("a", tuple("abcdefghij")))) & set(figures.scale(10))
    assert len(set(grid_figures.shades(StudyAxis("a", tuple(map(str, range(40))))))) == 40
    assert grid_figures.shades(StudyAxis("a", tuple(range(9)))) == figures.scale(9)
    assert grid_figures.shades(StudyAxis("a", ("x",))) == ["#0072B2"] and figures.scale(1) == ["#440154"]


@pytest.mark.parametrize("low, high", [(1, 1), (600, 930), (1e3, 1e6), (5.0, 5e9), (2047, 2049), (0.5, 900)])
@pytest.mark.parametrize("key", ["bytes", "si"])
def test_ticks_are_few_distinct_and_within_reach(key, low, high):
    places, texts = figures.ticks_of(key, [low, high])
    assert 1 <= len(places) <= 16 and len(set(texts)) == len(texts) and places == sorted(places)
    assert places[0] <= 2 * high and places[-1] >= low / 2


@pytest.mark.parametrize(
    "axes, lost, kinds",
    [
        ({"width": (8, 16, 32)}, False, ["tradeoff", "sensitivity"]),
        ({"name": ("a", "b", "c")}, False, ["tradeoff"]),
        ({"bias": (True, False), "clip": (None, 1.0)}, False, ["tradeoff", "heat_map"]),
        ({"a": (1, 2), "b": (0.1, 0.01), "c": ("x", "y")}, False, ["tradeoff", "heat_map", "sensitivity"]),
        ({"width": (8,)}, False, []),
        ({}, False, []),
        ({"width": (8, 16)}, True, []),
    ],
)
def test_figures_are_drawn_where_there_are_data(axes, lost, kinds):
    study = grid(axes, (lambda at: None) if lost else (lambda at: 0.9 + 0.001 * sum(at)))
    drawn = every(study)
    assert [figure.name for figure in drawn] == kinds
    for figure in drawn:
        # Plotly's own classes know each property and its values.
        go.Figure(figure.to_dict())


def test_marks_have_the_numbers_the_settings_and_the_command():
    study = grid({"width": (8, 16), "act": ("relu", "tanh")})
    drawn = [t for t in grid_figures.tradeoff(study).traces if t["visible"] is True and "customdata" in t]
    marks = {c: (x, y) for t in drawn for c, x, y in zip(t["customdata"], t["x"], t["y"], strict=True)}
    assert marks == {p.trials[0].command: (p.costs["theoretical_bytes"], p.outcome.mean) for p in study.points}
    texts = {c: text for t in drawn for c, text in zip(t["customdata"], t["hovertext"], strict=True)}
    text = texts[study.points[0].trials[0].command]
    assert "<b>width=8, act=relu</b>" in text and "model.width = 8" in text and "run 0 0" in text
    assert "90.00% [89.00, 91.00]" in text and "theoretical size: 1000 B" in text


def test_intervals_are_drawn_within_a_fraction():
    wide = MeanEstimate(0.95, 0.31, 1.59)
    study = grid({"rate": (0.1, 0.2)}, size=lambda at: 100.0 + 100 * at[0])
    study = study._replace(points=tuple(p._replace(outcome=wide) for p in study.points))
    marks = grid_figures.tradeoff(study).traces[1]
    assert marks["error_y"]["array"] == pytest.approx([0.05] * len(marks["x"]))
    (band, _) = grid_curves.sensitivity(study).traces
    assert max(band["y"]) == 1.0 and min(band["y"]) == 0.31


def test_the_menu_shows_one_view_at_a_time():
    study = grid({"width": (8, 16), "act": ("relu", "tanh"), "bits": (2, 4)})
    for figure in every(study):
        shown = [bool(trace["visible"]) for trace in figure.traces]
        buttons = figure.layout["updatemenus"][0]["buttons"] if "updatemenus" in figure.layout else []
        masks = [[bool(v) for v in button["args"][0]["visible"]] for button in buttons]
        assert not masks or masks[0] == shown
        # Each trace belongs to exactly one view, and each view changes the same part of the layout.
        assert all(sum(column) == 1 for column in zip(*masks, strict=True))
        assert len({tuple(button["args"][1]) for button in buttons}) <= 1


def test_a_slice_is_named_and_the_other_slices_are_in_the_menu():
    study = grid({"rate": (0.1, 0.2, 0.3), "act": ("a", "b"), "bias": (True, False)})
    points = tuple(p._replace(verdict="control" if p.at == (0, 0, 1) else "") for p in study.points)
    figure = grid_figures.heat_map(study._replace(points=points))
    assert figure.layout["title"]["text"] == "at bias=false"
    names = [button["label"] for button in figure.layout["updatemenus"][0]["buttons"]]
    assert names[0] == "act by rate, at bias=false" and "act by rate, at bias=true" in names
    (cells,) = (trace for trace in figure.traces if trace["visible"] is True)
    assert cells["z"][1][2] == next(p.outcome.mean for p in points if p.at == (2, 1, 1))


def test_what_diverged_is_drawn_as_such():
    study = grid(
        {"rate": (0.1, 0.2, 0.3), "act": ("a", "b")}, lambda at: None if at[0] == 2 else 0.9 + 0.01 * at[1]
    )
    (cells,) = (trace for trace in grid_figures.heat_map(study).traces if trace["visible"] is True)
    assert cells["z"] == [[0.9, 0.9, None], [0.91, 0.91, None]]
    assert [row[2] for row in cells["text"]] == ["x", "x"] and "2 diverged" in cells["hovertext"][0][2]
    crosses = [t for t in grid_curves.sensitivity(study).traces if t["visible"] is True and t.get("yaxis") == "y2"]
    assert [t["x"] for t in crosses] == [[0.3], [0.3]] and crosses[0]["y"] != crosses[1]["y"]
    assert "Not drawn, as all their trials diverged: 2 points." in grid_figures.tradeoff(study).caption


def test_differences_are_a_forest():
    differences = [
        None,
        MeanEstimate(-0.02, -0.03, -0.01),
        MeanEstimate(0.01, -0.01, 0.03),
        MeanEstimate(0.04, 0.02, 0.06),
    ]
    verdicts = ("control", "worse", "undecided", "better")
    study = grid({"a": (1, 2, 3, 4)})
    points = [
        p._replace(difference=d, adjusted=d and d._replace(low=d.low - 0.005), verdict=v)
        for p, d, v in zip(study.points, differences, verdicts, strict=True)
    ]
    figure = grid_figures.forest(study._replace(points=tuple(points)))
    assert figure.layout["yaxis"]["ticktext"] == ["a=4", "a=3", "a=2"]
    thin, *marks = figure.traces
    assert thin["x"][:2] == pytest.approx([1.5, 6.0]) and thin["x"][2] is None
    assert {m["name"]: (m["x"], m["y"]) for m in marks} == {
        "better": ([pytest.approx(4.0)], [0]),
        "undecided": ([pytest.approx(1.0)], [1]),
        "worse": ([pytest.approx(-2.0)], [2]),
    }
    (better,) = (m for m in marks if m["name"] == "better")
    assert better["error_x"]["array"] == pytest.approx([2.0]) and better["error_x"]["arrayminus"] == pytest.approx(
        [2.0]
    )
    assert "decide the verdict" in figure.caption


def test_curves_have_their_bands_and_both_outcomes():
    curve = Curve((10, 20), (2, 2), (0.5, 0.75), (0.4, 0.7), (0.6, 0.8), (0.45, 0.72), (0.55, 0.78))
    loss = Curve((10, 20), (2, 2), (2.0, 0.1), (1.0, 0.05), (3.0, 0.2), (1.0, 0.05), (3.0, 0.2))
    study = grid({"a": (1, 2)})
    by_split = {"validation": {"accuracy": curve, "loss": loss}, "train": {"loss": loss}}
    study = study._replace(points=tuple(p._replace(curves=by_split) for p in study.points))
    figure = grid_curves.curves(study)
    names = [button["label"] for button in figure.layout["updatemenus"][0]["buttons"]]
    assert names[:3] == ["validation accuracy, interval", "validation loss, interval", "train loss, interval"]
    assert names[3] == "validation accuracy, least to most"
    band, line_, *_ = figure.traces
    assert (
        line_["x"] == [10, 20]
        and line_["y"] == [0.5, 0.75]
        and line_["customdata"] == [[0.4, 0.6, 2], [0.7, 0.8, 2]]
    )
    assert band["y"] == [0.4, 0.7, 0.8, 0.6]
    logs = [button["args"][1]["yaxis.type"] for button in figure.layout["updatemenus"][0]["buttons"]]
    assert logs[:3] == ["linear", "log", "log"]
    go.Figure(figure.to_dict())


def test_names_that_look_like_tags_are_text():
    study = grid({HOSTILE: (HOSTILE, "b"), "width": (8, 16)})
    for figure in every(study):
        assert "<img" not in repr(figure.to_dict())


def test_a_column_from_outside_is_a_cost():
    latency = Column("latency_ms", "latency", "ms", "lower", ".3f", cost=True)
    study = grid({"a": (1, 2, 3)})
    points = tuple(p._replace(costs={"latency_ms": 1.0 + p.at[0]}) for p in study.points)
    figure = grid_figures.tradeoff(study._replace(points=points, costs=(*study.costs, latency)))
    assert figure.layout["xaxis"]["title"]["text"] == "latency (ms)"
    assert "latency: 1.000 ms" in figure.traces[1]["hovertext"][0]


def test_a_line_joins_only_what_differs_in_nothing_else():
    study = grid({"a": (1, 2), "b": (1, 2)})
    assert study.joined(study.points[:2], [1]) and not study.joined(study.points[1:3], [1])
    assert study.joined(study.points, [0, 1])
