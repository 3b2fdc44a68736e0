import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jopt.measure import Changes, ClassChange, changes, churn, class_changes

pytestmark = pytest.mark.unoptimized

LABELS = [0, 0, 0, 1, 1, 2]
BEFORE = [0, 0, 1, 1, 2, 0]
AFTER = [0, 1, 0, 1, 0, 1]


def test_by_hand():
    assert churn(BEFORE, AFTER) == 4 / 6
    differences = changes(BEFORE, AFTER, LABELS)
    assert differences == Changes(examples=6, both_correct=2, lost=1, gained=1, moved=2)
    assert differences.churn == 4 / 6 and differences.accuracy_change == 0.0 and differences.lost_share == 1 / 3
    assert class_changes(BEFORE, AFTER, LABELS, 4) == [
        ClassChange(0, 3, 2, 2),
        ClassChange(1, 2, 1, 1),
        ClassChange(2, 1, 0, 0),
        ClassChange(3, 0, 0, 0),
    ]


def test_change_of_a_class():
    lost, same = class_changes([0, 0, 1], [1, 0, 1], [0, 0, 1])
    assert (lost.change, same.change) == (-0.5, 0.0)
    assert math.isnan(ClassChange(3, 0, 0, 0).change)


def test_nothing():
    assert churn([], []) == 0.0
    differences = changes([], [], [])
    assert differences == Changes(0, 0, 0, 0, 0)
    assert differences.churn == differences.accuracy_change == differences.lost_share == 0.0
    assert class_changes([], [], []) == [] and class_changes([], [], [], 2)[1] == ClassChange(1, 0, 0, 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: churn([0, 1], [0]), "one class for each example: got 2 before, 1 after"),
        (lambda: changes([0], [0], [0, 1]), "got 1 before, 1 after, 2 labels"),
        (lambda: churn([0.5], [0]), "before must be a vector of integer classes, got float64"),
        (lambda: churn([0], [[0]]), r"after must be a vector of integer classes, got int64 of shape \(1, 1\)"),
        (lambda: class_changes([0], [0], [-1]), "labels must be at least 0, got -1 at index 0"),
        (lambda: changes([0, 0], [0, 0], [0, -1]), "labels must be at least 0, got -1 at index 1"),
        (lambda: class_changes([0], [0], [3], 3), r"labels must lie in \[0, 3\), got 3 at index 0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


triples = st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=40)


@settings(max_examples=50, deadline=None)
@given(triples)
def test_counts_are_consistent(examples):
    a, b, y = (np.array(v) for v in zip(*examples, strict=True))
    differences = changes(a, b, y)
    assert differences.churn == churn(a, b) == churn(b, a) == sum(p != q for p, q, _ in examples) / len(examples)
    assert differences.accuracy_change == pytest.approx(np.mean(b == y) - np.mean(a == y), abs=1e-15)
    assert differences.churn >= abs(differences.accuracy_change)
    classes = class_changes(a, b, y, 4)
    assert sum(c.examples for c in classes) == len(examples)
    assert sum(c.correct_before for c in classes) == differences.both_correct + differences.lost
    assert sum(c.correct_after for c in classes) == differences.both_correct + differences.gained
