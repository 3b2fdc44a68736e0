import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jopt.measure import Overlap, overlap, overlap_by_layer, sparsity_by_layer


def test_sparsity_by_layer():
    params = {"Dense_0": {"bias": jnp.zeros(2), "kernel": jnp.eye(4)}, "empty": np.zeros((0, 2))}
    assert sparsity_by_layer(params) == {"Dense_0/bias": 1.0, "Dense_0/kernel": 0.75, "empty": 0.0}


def test_overlap_by_hand():
    before = {"a": np.array([1, 1, 0, 0], bool), "b": np.array([[1], [0]], bool), "c": None}
    after = {"a": np.array([1, 0, 1, 0], bool), "b": np.array([[1], [1]], bool), "c": None}
    assert overlap_by_layer(before, after) == {"a": Overlap(4, 2, 2, 1), "b": Overlap(2, 1, 2, 1)}
    agreement = overlap(before, after)
    assert agreement == Overlap(entries=6, before=3, after=4, both=2)
    assert (agreement.union, agreement.iou, agreement.retained, agreement.churn) == (5, 2 / 5, 2 / 3, 3 / 6)


def test_limits():
    none, all_ = {"w": np.zeros(4, bool)}, {"w": np.ones(4, bool)}
    assert overlap(none, none).iou == overlap(none, none).retained == overlap(all_, all_).iou == 1.0
    assert overlap(all_, none)[1:] == (4, 0, 0)
    assert overlap(all_, none).churn == 1.0 and overlap(all_, none).iou == overlap(all_, none).retained == 0.0
    assert overlap({}, {}) == Overlap(0, 0, 0, 0) and overlap({}, {}).churn == 0.0


def test_pruned_weights_are_masks():
    w = jnp.array([[0.5, 0.0], [-0.0, -2.0]])
    assert overlap({"w": w}, {"w": np.array([[True, False], [True, True]])}) == Overlap(4, 2, 3, 2)


def test_different_trees_are_refused():
    with pytest.raises(ValueError, match=r"parameters.* b$"):
        overlap({"a": np.ones(2, bool), "b": None}, {"a": np.ones(2, bool), "b": np.ones(2, bool)})


masks = st.integers(0, 30).flatmap(lambda n: st.tuples(*[st.lists(st.booleans(), min_size=n, max_size=n)] * 2))


@settings(max_examples=50, deadline=None)
@given(masks)
def test_counts_are_those_of_sets(pair):
    a, b = ({i for i, keeps in enumerate(mask) if keeps} for mask in pair)
    agreement, back = overlap(*map(np.array, pair)), overlap(*map(np.array, pair[::-1]))
    assert agreement[1:] == (len(a), len(b), len(a & b)) and agreement.union == len(a | b)
    assert (agreement.iou, agreement.churn) == (back.iou, back.churn)
    if pair[0]:
        assert agreement.churn == len(a ^ b) / len(pair[0])
    if len(a) == len(b) > 0:  # as where the sparsity stays
        assert agreement.retained == back.retained
