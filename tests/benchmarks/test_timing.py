import doctest
import os

import numpy as np
import pytest

from benchmarks import files, output, summary, timing
from benchmarks.timing import Options, Row, alternate, at_least, compared, spread


def test_contenders_take_turns_and_are_warmed_up_first():
    calls = []

    def contender(name):
        def work():
            calls.append(name)
            return 3

        return work

    times = alternate({"a": contender("a"), "b": contender("b")}, Options(repeats=4, seconds=0.0))
    assert "".join(calls) == "aabb" + "ab" * 4
    assert {name: values.shape for name, values in times.items()} == {"a": (4,), "b": (4,)}
    assert all((values > 0).all() for values in times.values())


def test_ratio_is_taken_round_by_round():
    times = {"x": np.array([1.0, 20.0, 3.0]), "us": np.array([1.0, 10.0, 1.0])}
    for target, met in ((None, None), (2.0, True), (2.1, False)):
        other, ours = compared("case", times, "seconds", "us", {"x": at_least(target)})
        # The medians' ratio would be 3 / 1; of the rounds' ratios 1, 2, 3 the median is 2.
        assert (other.values["ratio"].median, other.values["ratio"].met) == (2.0, met)
        assert other.values["against"] == "us" and "ratio" not in ours.values
    faster, _ = compared("case", times, "seconds", "us", speedup=True)
    assert faster.values["speedup"].median == 0.5


def test_spread_is_the_middle_80_percent():
    assert spread(np.arange(11.0))[:3] == pytest.approx((5.0, 1.0, 9.0))


def test_the_table_has_a_heading_a_case_and_leaves_out_what_a_row_lacks():
    rows = [
        Row("net", "us", {"seconds_per_step": spread([2e-6]), "units": 1234}),
        Row("net", "x", {"seconds_per_step": spread([4e-6]), "ratio": spread([2.0], at_least(3))}),
        Row("other", "us", {"flops": 5_000_000}),
    ]
    table = output.table("title", rows)
    assert table.header == ("case, contender", "µs a step", "units", "ratio", "MFLOP")
    assert table.rows == [
        ("net", "", "", "", ""),
        ("· us", "2 [2, 2]", "1,234", "", ""),
        ("· x", "4 [4, 4]", "", "2 [2, 2] ≥ 3 MISSED", ""),
        ("other", "", "", "", ""),
        ("· us", "", "", "", "5"),
    ]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not pin threads")
def test_one_core_is_one_core_for_a_while():
    before = os.sched_getaffinity(0)
    with timing.one_core() as core:
        assert os.sched_getaffinity(0) == {core}
    assert os.sched_getaffinity(0) == before


# Pytest collects doctests of the installed packages and of tests alone.
@pytest.mark.parametrize("module", [timing, output, files, summary], ids=lambda module: module.__name__)
def test_examples_in_the_docstrings_hold(module):
    result = doctest.testmod(module)
    assert result.attempted > 0 and result.failed == 0
