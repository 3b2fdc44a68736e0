"""Spaces: which points they hold, in which order; what a search draws; and what is refused where it is written."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jopt.ablate import Range, axis, choices, points, product, search, zipped
from jopt.config import ConfigError

RATE = "optimizer.learning_rate"
MOMENTUM = "optimizer.momentum"


def fields(space):
    return [point.fields for point in space.points]


def labels(space):
    return [tuple(point.labels.values()) for point in space.points]


def rates():
    return axis(RATE, (0.1, 0.01))


def test_a_product_is_every_combination_the_last_axis_fastest():
    space = product(rates(), axis("epochs", (1, 2, 3)), axis("optimizer.name", ("sgd", "adam")))
    assert labels(space) == list(itertools.product((0.1, 0.01), (1, 2, 3), ("sgd", "adam")))
    assert list(space.points[0].labels) == ["learning_rate", "epochs", "name"]
    assert fields(space)[7] == {RATE: 0.01, "epochs": 1, "optimizer.name": "adam"}


def test_a_product_of_nothing_is_the_experiment_as_it_is():
    assert fields(product()) == [{}]


def test_a_zip_is_point_with_point():
    space = zipped(rates(), axis("epochs", (1, 2)))
    assert fields(space) == [{RATE: 0.1, "epochs": 1}, {RATE: 0.01, "epochs": 2}]


def test_a_sum_is_the_one_and_then_the_other():
    space = rates() + axis(RATE, (1.0,))
    assert labels(space) == [(0.1,), (0.01,), (1.0,)]


def test_spaces_of_all_kinds_combine():
    dense = choices("method", {"dense": {"epochs": 4}})
    pruned = choices("method", {"short": {"epochs": 1, "batch_size": 4}, "long": {"epochs": 8, "batch_size": 4}})
    space = product(dense + pruned, zipped(rates(), axis(MOMENTUM, (0.8, 0.9))))
    assert labels(space) == [
        (method, rate, momentum)
        for method in ("dense", "short", "long")
        for rate, momentum in ((0.1, 0.8), (0.01, 0.9))
    ]
    assert fields(space)[0] == {"epochs": 4, RATE: 0.1, MOMENTUM: 0.8}
    assert space.points[2].sets["method"] == ("epochs", "batch_size")


def test_listed_points_keep_the_order_of_the_first():
    space = points({"epochs": 1, "batch_size": 8}, {"batch_size": 16, "epochs": 2})
    assert fields(space) == [{"epochs": 1, "batch_size": 8}, {"epochs": 2, "batch_size": 16}]
    assert [list(point.fields) for point in space.points] == [["epochs", "batch_size"]] * 2


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (RATE, "learning_rate"),
        ("epochs", "epochs"),
        ("stages[0].quantize.bits", "bits"),
        # trials.csv has a column `sparsity`, and one `steps`.
        ("stages[1].prune.sparsity", "prune.sparsity"),
        ("stages[0].steps", "stages[0].steps"),
    ],
)
def test_a_column_is_called_like_the_fields_last_part(path, name):
    assert list(axis(path, (1,)).points[0].labels) == [name]


def test_points_and_searches_call_two_of_one_name_by_their_paths():
    both = ("stages[0].prune.end", "stages[1].prune.end")
    listed = points(dict.fromkeys(both, 0.5))
    searched = search(*(Range(path, 0.5, 1.0) for path in both), count=1)
    assert list(listed.points[0].labels) == list(searched.points[0].labels) == list(both)


@pytest.mark.parametrize(
    ("value", "label"),
    [(None, None), (True, True), (4, 4), (0.5, 0.5), ("adam", "adam"), ((300, 100), "300 100"), ((), "")],
)
def test_a_label_stands_for_a_value(value, label):
    assert labels(axis("field", (value,))) == [(label,)]


ENDS = st.floats(1e-6, 0.9, allow_subnormal=False)


@settings(max_examples=60, deadline=None)
@given(
    ends=st.tuples(ENDS, ENDS).filter(lambda ends: ends[0] < ends[1]),
    scale=st.sampled_from(["linear", "log", "logit"]),
    sequence=st.sampled_from(["sobol", "halton"]),
    seed=st.integers(0, 2**31),
    counts=st.tuples(st.integers(1, 20), st.integers(0, 20)),
)
def test_a_search_stays_inside_and_its_first_points_are_a_shorter_ones(ends, scale, sequence, seed, counts):
    ranges = Range(RATE, ends[0], ends[1], scale), Range(MOMENTUM, 0.0, 0.9)
    short, long = (search(*ranges, count=n, sequence=sequence, seed=seed) for n in (counts[0], sum(counts)))
    assert len(long) == sum(counts)
    assert fields(long)[: counts[0]] == fields(short)
    assert all(ends[0] <= point[RATE] <= ends[1] and 0 <= point[MOMENTUM] <= 0.9 for point in fields(long))
    assert labels(long) == [tuple(point.values()) for point in fields(long)]


def test_a_narrow_range_with_more_digits_than_are_kept_is_not_left():
    low, high = 0.12345678, 0.12345699
    assert all(low <= point[RATE] <= high for point in fields(search(Range(RATE, low, high), count=8)))


@pytest.mark.parametrize(("scale", "middle"), [("linear", 0.50005), ("log", 0.01), ("logit", 0.5)])
def test_a_search_is_even_in_its_scale(scale, middle):
    """Of 2^k points of a balanced sequence exactly half lie in each half of the range."""
    low, high = (1e-4, 1.0) if scale != "logit" else (1e-4, 1 - 1e-4)
    values = [point[RATE] for point in fields(search(Range(RATE, low, high, scale), count=64))]
    assert sum(value < middle for value in values) == 32


def test_integers_are_whole_and_all_are_hit():
    values = [p["epochs"] for p in fields(search(Range("epochs", 1, 4, integer=True), count=64))]
    assert {type(value) for value in values} == {int}
    assert set(values) == {1, 2, 3, 4}


def test_another_seed_is_another_search():
    a, b = (search(Range(RATE, 0.0, 1.0), count=8, seed=seed) for seed in (0, 1))
    assert not set(labels(a)) & set(labels(b))


def test_a_search_fills_the_square_better_than_chance_can():
    """Each of the 16 elementary boxes of a 4 x 4 grid holds exactly one of the first 16 Sobol points."""
    drawn = fields(search(Range(RATE, 0.0, 1.0), Range(MOMENTUM, 0.0, 1.0), count=16))
    boxes = {(int(4 * p[RATE]), int(4 * p[MOMENTUM])) for p in drawn}
    assert len(boxes) == 16


# What is wrong with the space itself shows where the config file is read.
SPACES = {
    "an axis without values": (
        lambda: axis(RATE, ()),
        "the axis 'learning_rate' must be a list of at least one value, got ()",
    ),
    "no alternatives": (lambda: choices("way", {}), "the axis 'way' must be at least one alternative, got {}"),
    "no listed points": (lambda: points(), "points must be a list of at least one point, got ()"),
    "points with other fields": (
        lambda: points({"epochs": 1}, {"epochs": 2, "batch_size": 8}),
        "points must be points that all set epochs, batch_size, got {'epochs': 1}",
    ),
    "two axes of one name": (
        lambda: product(axis(RATE, (0.1,), name="x"), axis("epochs", (1,), name="x")),
        "the axis 'x' must be named once: give the other one another name, got 'x'",
    ),
    "one field twice": (
        lambda: product(axis(RATE, (0.1,)), choices("way", {"a": {RATE: 0.2}})),
        "optimizer.learning_rate must be set by one axis only, got 0.2",
    ),
    "a zip of other lengths": (
        lambda: zipped(rates(), axis("epochs", (1, 2, 3))),
        "zipped must be spaces of the same number of points, got [2, 3]",
    ),
    "a sum of other axes": (
        lambda: rates() + axis("epochs", (1, 2)),
        "space must be a sum of spaces with the same axes, got '(learning_rate) + (epochs)'",
    ),
    "a search of nothing": (lambda: search(count=2), "search must be at least one Range, got ()"),
    "an empty range": (
        lambda: search(Range(RATE, 1.0, 0.1), count=2),
        "the range of 'optimizer.learning_rate' must be finite, the low end first, got (1.0, 0.1)",
    ),
    "an endless range": (
        lambda: search(Range(RATE, 0.1, np.inf), count=2),
        "the range of 'optimizer.learning_rate' must be finite, the low end first, got (0.1, inf)",
    ),
    "the logarithm of 0": (
        lambda: search(Range(RATE, 0.0, 0.1, "log"), count=2),
        "the range of 'optimizer.learning_rate' must be positive for scale 'log', got (0.0, 0.1)",
    ),
    "the logit of 1": (
        lambda: search(Range(MOMENTUM, 0.5, 1.0, "logit"), count=2),
        "the range of 'optimizer.momentum' must be within (0, 1) for scale 'logit', got (0.5, 1.0)",
    ),
    "an unknown scale": (
        lambda: search(Range(RATE, 0.1, 0.2, "cubic"), count=2),
        "the range of 'optimizer.learning_rate': scale must be one of 'linear', 'log', 'logit', got 'cubic'",
    ),
    "integers between broken ends": (
        lambda: search(Range("epochs", 1.5, 4, integer=True), count=2),
        "the range of 'epochs' must be whole numbers, because the range is of integers, got (1.5, 4)",
    ),
    "an unknown sequence": (
        lambda: search(Range(RATE, 0.1, 0.2), count=2, sequence="random"),
        "search.sequence must be one of 'halton', 'sobol', got 'random'",
    ),
    "a search of no points": (
        lambda: search(Range(RATE, 0.1, 0.2), count=0),
        "search.count must be at least 1, got 0",
    ),
    "one field in two ranges": (
        lambda: search(Range(RATE, 0.1, 0.2), Range(RATE, 0.3, 0.4), count=2),
        "optimizer.learning_rate must be searched in one range only, got 'optimizer.learning_rate'",
    ),
    "two ranges of one name": (
        lambda: search(Range(RATE, 0.1, 0.2, name="x"), Range(MOMENTUM, 0.1, 0.2, name="x"), count=2),
        "the axis 'x' must be named once: give the other one a name, got 'x'",
    ),
}


@pytest.mark.parametrize("case", SPACES)
def test_a_bad_space_is_refused_where_it_is_written(case):
    build, message = SPACES[case]
    with pytest.raises(ConfigError) as error:
        build()
    assert str(error.value) == message
