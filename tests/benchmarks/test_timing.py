import numpy as np
import pytest

from experiments.benchmarks.timing import alternate, ratio, spread


def test_contenders_take_turns_and_are_warmed_up_first():
    calls = []

    def contender(name):
        def work():
            calls.append(name)
            return 3

        return work

    times = alternate({"a": contender("a"), "b": contender("b")}, rounds=4, seconds=0.0)
    assert "".join(calls) == "aabb" + "ab" * 4
    assert {name: values.shape for name, values in times.items()} == {"a": (4,), "b": (4,)}
    assert all((values > 0).all() for values in times.values())


def test_ratio_is_taken_round_by_round():
    theirs, ours = np.array([1.0, 20.0, 3.0]), np.array([1.0, 10.0, 1.0])
    # The medians' ratio would be 3 / 1; of the rounds' ratios 1, 2, 3 the median is 2.
    assert ratio("x", theirs, ours).median == 2.0
    assert [ratio("x", theirs, ours, target=t).met for t in (None, 2.0, 2.1)] == [None, True, False]


def test_spread_is_the_middle_80_percent():
    assert spread(np.arange(11.0)) == pytest.approx((5.0, 1.0, 9.0))
