import itertools
import json
import re

import numpy as np
import pytest
from jopt.report.interactive import (
    Axis,
    Curve,
    Estimate,
    Point,
    Study,
    Trial,
    curves,
    forest,
    heat,
    sensitivity,
    tradeoff,
)
from jopt.report.interactive.plot import encode, labels, scale, shades, size_ticks

from jopt.report import interactive
from jopt.report.tables import Table

HOSTILE = "</script><img src=x onerror=alert(1)>"


def grid(axes, outcome=lambda at: 0.9 + 0.001 * sum(at), size=lambda at: 1000.0 + 10 * sum(at), **changes):
    """A study of all points over the axes, name to values."""
    own = tuple(Axis(name, tuple(values), f"model.{name}") for name, values in axes.items())
    points = []
    for k, at in enumerate(itertools.product(*(range(len(a.values)) for a in own))):
        mean = outcome(at)
        trials = tuple(Trial(f"{k:06d}{seed}", seed, "finished", "", f"run {k} {seed}") for seed in range(2))
        found = None if mean is None else Estimate(mean, mean - 0.01, mean + 0.01)
        sizes = {} if mean is None else {"theoretical_bytes": size(at)}
        settings = {a.field: a.texts[i] for a, i in zip(own, at, strict=True)}
        points.append(Point(at, trials, 0 if found else 2, found, sizes, settings=settings))
    return Study("grid", "accuracy", own, tuple(points), **changes)


def test_the_front_is_what_no_other_point_dominates():
    rng = np.random.default_rng(0)
    for _ in range(20):
        costs, gains = rng.integers(0, 6, 15).tolist(), rng.integers(0, 6, 15).tolist()
        every = list(zip(costs, gains, strict=True))
        best = {
            i for i, (c, g) in enumerate(every)
            if not any(a <= c and b >= g and (a, b) != (c, g) for a, b in every)
        }  # fmt: skip
        assert set(interactive.front(costs, gains)) == best


def test_the_front_by_hand():
    # 10 bytes: 80%; 20: 90% and 85%; 30: 90%, no better than 20; 40: 95%.
    assert interactive.front([30, 20, 20, 10, 40], [0.90, 0.90, 0.85, 0.80, 0.95]) == [3, 1, 4]
    assert interactive.front([], []) == []


def test_of_a_loss_the_front_is_below():
    loss = {0: 0.5, 1: 0.4, 2: 0.6}
    study = grid({"width": (8, 16, 32)}, lambda at: loss[at[0]], higher=False)
    assert tradeoff.fronts(study) == {"theoretical_bytes": [0, 1]}
    assert tradeoff.fronts(study._replace(higher=True)) == {"theoretical_bytes": [0, 2]}


def test_sizes_that_do_not_vary_have_no_front_and_no_plot():
    study = grid({"rate": (0.1, 0.2)}, size=lambda at: 512.0)
    assert tradeoff.fronts(study) == {} and tradeoff.plot(study) is None
    # A weight that happens to be zero is no size that was traded for anything; a fiftieth is.
    for step, drawn in ((1.0, False), (1000.0, True)):
        own = grid({"rate": (0.1, 0.2)}, size=lambda at, step=step: 50_609.0 + step * at[0])
        assert bool(tradeoff.fronts(own)) == drawn


@pytest.mark.parametrize(
    "difference, verdict, judged",
    [
        (Estimate(0.02, 0.01, 0.03), "better", "better"),
        (Estimate(0.02, -0.01, 0.05), "better", "undecided"),
        (Estimate(0.02, 0.0, 0.04), "better", "undecided"),
        (Estimate(-0.02, -0.03, -0.01), "worse", "worse"),
        (Estimate(0.02, 0.01, 0.03), "too few seeds", "undecided"),
        (Estimate(0.02), "better", "undecided"),
        (None, "control", "undecided"),
    ],
)
def test_nothing_is_colored_better_whose_interval_holds_zero(difference, verdict, judged):
    assert forest.judged(Point((), difference=difference, verdict=verdict)) == judged


def test_differences_are_sorted_best_first_for_losses_too():
    points = tuple(Point((i,), difference=Estimate(d)) for i, d in enumerate((0.1, -0.2, 0.3)))
    study = Study("t", "accuracy", (Axis("a", (1, 2, 3)),), points)
    assert forest.compared(study) == [2, 0, 1]
    assert forest.compared(study._replace(metric="loss", higher=False)) == [1, 0, 2]


def test_a_map_needs_a_grid():
    assert heat.default(grid({"a": (1, 2), "b": (1, 2, 3), "c": range(5)})) == (1, 2)
    assert heat.default(grid({"a": (1, 2, 3)})) is None
    zipped = grid({"a": range(8), "b": range(8)})
    zipped = zipped._replace(points=tuple(p for p in zipped.points if p.at[0] == p.at[1]))
    assert heat.default(zipped) is None
    assert heat.default(grid({"a": range(30), "b": range(3)})) is None


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
        Axis("epochs", tuple(range(1, 9))),
        Axis("rate", (0.01, 0.02), "optimizer.learning_rate"),
        Axis("name", ("a", "b")),
    )
    study = Study("t", "accuracy", axes, ())
    assert sensitivity.numbers(study) == [1, 0] and sensitivity.lines(study) == [2, 0, 1]
    assert [a.log for a in axes] == [False, True, False]
    assert not Axis("learning_rate", (0.0, 0.1)).log, "zero has no logarithm"
    assert not Axis("flag", (True, False)).numeric


def test_curves_that_are_shown_for_being_controls_are_not_called_the_best():
    study = grid({"a": tuple(range(6)), "b": (1, 2)})
    curve = {"validation": {"accuracy": Curve(*((1,),) * 7)}}
    points = tuple(p._replace(curves=curve, verdict="control" if p.at[0] == 0 else "") for p in study.points)
    study = study._replace(points=points)
    # Of twelve points the mean rises; the controls are the first two.
    shown = curves.chosen(study, most=6, few=6)
    assert shown == [0, 1, 7, 9, 10, 11] or shown == [0, 1, 8, 9, 10, 11]
    assert curves.which(study, shown, 6) == "2 controls and the best 4 others of 12 points"
    # Of five, two are too many.
    shown = curves.chosen(study, most=5, few=5)
    assert not {0, 1} & set(shown) and curves.which(study, shown, 5) == "the best 5 of 12 points"


def test_long_names_are_all_given_by_their_values():
    study = grid({"optimizer": ("sgd", "adam, slow"), "rate": (1, 2), "same": (7,)})
    assert labels(study, 40)[2] == "optimizer=adam, slow, rate=1"
    assert labels(study, 20) == ["sgd, 1", "sgd, 2", "adam, slow, 1", "adam, slow, 2"]


def test_true_is_not_one():
    assert Axis("a", (1, True)).index(True) == 1
    with pytest.raises(ValueError, match="'bits' has the values 4, 8, got 3"):
        Axis("bits", (4, 8)).index(3)


def line(values, steps=None):
    own = tuple(float(v) for v in values)
    return Curve(tuple(steps or range(len(own))), (2,) * len(own), *(own,) * 5)


def test_of_many_curves_the_best_and_the_control_are_shown():
    study = grid({"a": range(40)})
    points = tuple(p._replace(curves={"train": {"loss": line([1, 2])}}) for p in study.points)
    points = (points[0]._replace(verdict="control"), *points[1:])
    assert curves.chosen(study._replace(points=points)) == [0, *range(29, 40)]
    assert curves.chosen(study._replace(points=points[:30])) == list(range(30))
    assert curves.chosen(study) == [] and curves.plot(study) is None


def test_a_long_curve_keeps_its_ends():
    own = curves.thin(line(range(1001)))
    assert len(own.step) == curves.STEPS and (own.step[0], own.step[-1]) == (0, 1000) and own.mean[-1] == 1000.0


def test_json_is_short_exact_and_harmless_in_a_script():
    found = encode(
        {"a": (1 / 3, np.float64(1e9 + 0.25), float("inf"), 12345678, True, None), "<b>": HOSTILE + "\u2028&"}
    )
    assert not set("<>&\u2028") & set(found)
    assert json.loads(found) == {
        "a": [0.333333, 1_000_000_000, None, 12345678, True, None],
        "<b>": HOSTILE + "\u2028&",
    }


def test_colors_are_different_and_few_values_have_the_palette():
    for axis in (Axis("a", ("x", "y", "z")), Axis("a", tuple(range(9))), Axis("a", tuple("abcdefghij"))):
        assert len(set(shades(axis))) == len(axis.values) and all(
            re.fullmatch("#[0-9A-Fa-f]{6}", c) for c in shades(axis)
        )
    # What has no order has no scale, however many there are: neighbors are no likelier alike than others.
    assert not set(shades(Axis("a", tuple("abcdefghij")))) & set(scale(10))
    assert len(set(shades(Axis("a", tuple(map(str, range(40))))))) == 40
    assert shades(Axis("a", tuple(range(9)))) == scale(9)
    assert shades(Axis("a", ("x",))) == ["#0072B2"] and scale(1) == ["#440154"]


@pytest.mark.parametrize("low, high", [(1, 1), (600, 930), (1e3, 1e6), (5.0, 5e9), (2047, 2049), (0.5, 900)])
@pytest.mark.parametrize("key", ["theoretical_bytes", "effective_flops"])
def test_ticks_are_few_distinct_and_within_reach(key, low, high):
    places, texts = size_ticks(key, [low, high])
    assert 1 <= len(places) <= 16 and len(set(texts)) == len(texts) and places == sorted(places)
    assert places[0] <= 2 * high and places[-1] >= low / 2


def page(study):
    table = Table("", ("a", "command"), "ll", [(HOSTILE, "run --x='<b>'")])
    before = [interactive.Section("One <1>", interactive.table(table, [["x", None]], ["point=0"], "command"))]
    return interactive.page(study, interactive.paragraph("a & b") + interactive.command("run <x>"), before, [])


def parts(text):
    """The page's tags outside its scripts, and the data in it."""
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return re.sub(r"<script.*?</script>", "", text, flags=re.S), json.loads(data[1])


def test_the_page_loads_nothing_and_escapes_everything():
    study = grid({HOSTILE: (HOSTILE, "b"), "width": (8, 16)})._replace(title=HOSTILE)
    text = page(study)
    own, data = parts(text)
    assert not re.search(r"https?:|@import|url\(|<img|<link|<iframe", own)
    assert all(address.startswith("#") for address in re.findall(r'(?:src|href)="([^"]*)"', own))
    assert text.count(HOSTILE) == 0 and own.count("&lt;img src=x onerror=alert(1)&gt;") >= 3
    assert data["axes"][0]["name"] == HOSTILE and HOSTILE in data["points"][0]["label"]
    # What Plotly shows knows some tags: there, too, nothing of a config is one.
    assert "<img" not in data["points"][0]["hover"]
    for name in ("One &lt;1&gt;", "a &amp; b", "run &lt;x&gt;", "run --x=&#x27;&lt;b&gt;&#x27;"):
        assert name in own


def test_the_same_study_gives_the_same_page():
    assert page(grid({"a": (1, 2), "b": ("x", "y")})) == page(grid({"a": (1, 2), "b": ("x", "y")}))


@pytest.mark.parametrize(
    "axes, lost, kinds",
    [
        ({"width": (8, 16, 32)}, False, ["tradeoff", "sensitivity"]),
        ({"name": ("a", "b", "c")}, False, ["tradeoff"]),
        ({"bias": (True, False), "clip": (None, 1.0)}, False, ["tradeoff", "heat"]),
        ({"a": (1, 2), "b": (0.1, 0.01), "c": ("x", "y")}, False, ["tradeoff", "heat", "sensitivity"]),
        ({"width": (8,)}, False, []),
        ({}, False, []),
        ({"width": (8, 16)}, True, []),
    ],
)
def test_plots_are_drawn_where_there_are_data(axes, lost, kinds):
    study = grid(axes, (lambda at: None) if lost else (lambda at: 0.9 + 0.001 * sum(at)))
    assert [plot.kind for plot in interactive.plots(study)] == kinds
    assert [plot["kind"] for plot in parts(page(study))[1]["plots"]] == kinds


def test_a_line_joins_only_what_differs_in_nothing_else():
    study = grid({"a": (1, 2), "b": (1, 2)})
    assert study.joined(study.points[:2], [1]) and not study.joined(study.points[1:3], [1])
    assert study.joined(study.points, [0, 1])
