"""Rules: first match wins, whole paths, and no rule that does nothing."""

import jax.numpy as jnp
import pytest

from jopt.rules import RuleError, named_leaves, plan, resolve

PARAMS = {"Dense_0": {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3)}, "layers": [jnp.zeros(1), jnp.zeros(2)]}


def test_paths_of_dictionaries_and_lists():
    assert [name for name, _ in named_leaves(PARAMS)] == ["Dense_0/bias", "Dense_0/kernel", "layers/0", "layers/1"]


def test_first_match_wins_and_the_rest_gets_the_default():
    values = resolve([("Dense_0/kernel", 1), ("Dense_0/.*", 2), (r"layers/\d", 3)], PARAMS, 0)
    assert values == {"Dense_0": {"kernel": 1, "bias": 2}, "layers": [3, 3]}
    assert resolve([], PARAMS, None) == {"Dense_0": {"kernel": None, "bias": None}, "layers": [None, None]}


def test_the_plan_says_which_rule_gave_what():
    rows = plan([(".*bias", 0.5)], PARAMS, 1.0)
    assert [(r.value, r.pattern) for r in rows] == [(0.5, ".*bias"), (1.0, None), (1.0, None), (1.0, None)]


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([("Dense_0", 1)], "matches no parameter"),  # a part of a path is no match
        ([("dense_0/.*", 1)], "matches no parameter"),
        ([(".*", 1), ("Dense_0/.*", 2)], "is hidden behind the rules before it"),
        ([("(", 1)], "is not a regular expression"),
    ],
)
def test_a_rule_that_does_nothing_is_an_error(rules, message):
    with pytest.raises(RuleError, match=message):
        plan(rules, PARAMS, 0)
