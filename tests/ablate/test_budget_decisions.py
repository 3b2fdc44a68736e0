"""What a budget says, which points may be called within it, and which one is recommended."""

import math

import numpy as np
import pytest
from scipy import stats

from jopt.ablate.budget import Limit, PointEstimate, parse
from jopt.ablate.budget.answer import answer
from jopt.ablate.budget.config import Search
from jopt.ablate.budget.estimates import estimate, pareto
from jopt.ablate.budget.finalists import choose, decide, half_width, runner_up
from jopt.ablate.budget.limits import AVERAGE, MEETS, MISSES, distance, judge, judge_all
from jopt.config import ConfigError
from jopt.measure import columns_of


def point(name, size, drop, half=0.1, *, n=10, diverged=0, sd=0.2, most=None, latency=None):
    ends = (drop - half, drop + half)
    return PointEstimate(
        {"name": name}, n, diverged, 0.97, 0.96, 0.98, drop, *ends, sd, size, most or size,
        latency, None if latency is None else 1.5 * latency,
    )  # fmt: skip


ACCURACY = columns_of("trial")[0]
DROP = parse("accuracy_drop<0.5")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("accuracy_drop<0.5", [("accuracy_drop", 0.5)]),
        ("bytes<20000", [("bytes", 20000)]),
        ("bytes < 20kB", [("bytes", 20000)]),
        ("bytes<16 KiB", [("bytes", 16384)]),
        ("bytes<1.5MB", [("bytes", 1_500_000)]),
        ("latency_ms<5e-2", [("latency_ms", 0.05)]),
        ("accuracy_drop<0.5,bytes<20000", [("accuracy_drop", 0.5), ("bytes", 20000)]),
    ],
)
def test_budgets_are_read(text, expected):
    assert parse(text) == tuple(Limit(*pair) for pair in expected)
    assert parse(",".join(map(str, parse(text)))) == parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "", "accuracy", "accuracy>98", "accuracy_drop<=0.5", "accuracy_drop<0", "accuracy_drop<-1",
        "accuracy_drop<1%", "bytes<20 GB", "bytes<kB", "bytes<1..5", "bytes<inf", "latency_ms<5ms", "latency<5",
        "bytes<20000,", "accuracy_drop<1,accuracy_drop<2", "bytes<1e999", "accuracy_drop<0.5 bytes<20000",
    ],
)  # fmt: skip
def test_anything_else_is_refused_with_what_is_accepted(text):
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert (caught.value.field, caught.value.value) == ("budget", text)


def rows(values, sizes=None, first=0):
    sizes = sizes or [100] * len(values)
    return [
        {
            "seed": first + i,
            "status": "diverged" if value is None else "finished",
            "accuracy": value,
            "bytes": None if value is None else size,
        }
        for i, (value, size) in enumerate(zip(values, sizes, strict=True))
    ]


def test_the_drop_is_paired_by_seed_in_percentage_points():
    values, dense = [0.95, 0.94, 0.97, 0.93], [0.96, 0.96, 0.97, 0.94]
    # The control has seeds before and after those of the point.
    control = rows([0.5, *dense, 0.4], first=0)
    result = estimate({"bits": 4}, rows(values, [90, 100, 110, 100], first=1), control, metric=ACCURACY)
    expected = stats.ttest_rel(dense, values)
    interval = expected.confidence_interval(0.95)
    assert result.drop == pytest.approx(1.0) and result.n == 4
    assert (result.drop_low, result.drop_high) == pytest.approx((100 * interval.low, 100 * interval.high))
    assert result.drop_sd == pytest.approx(100 * np.std(np.subtract(dense, values), ddof=1))
    assert (result.bytes, result.most_bytes) == (100.0, 110.0)
    assert result.metric == pytest.approx(0.9475)


def test_a_point_that_lost_a_seed_meets_nothing_and_is_on_no_front():
    result = estimate({"bits": 2}, rows([0.99, None, 0.99, 0.99, 0.99, 0.99]), rows([0.9] * 6), metric=ACCURACY)
    assert (result.n, result.diverged) == (5, 1)
    assert judge_all(parse("accuracy_drop<5,bytes<1000"), result) == MISSES
    assert pareto([result]) == []


def test_without_a_pair_nothing_is_known():
    result = estimate({}, rows([0.9], first=7), rows([0.9], first=0), metric=ACCURACY)
    assert math.isnan(result.drop) and judge(DROP[0], result) == MISSES and pareto([result]) == []


@pytest.mark.parametrize(
    ("budget", "e", "expected"),
    [
        ("accuracy_drop<0.5", point("a", 1, 0.3, 0.1), MEETS),
        ("accuracy_drop<0.5", point("a", 1, 0.3, 0.2), AVERAGE),  # the upper end is at the limit, not below
        ("accuracy_drop<0.5", point("a", 1, 0.3, 0.1, n=4), AVERAGE),  # four seeds show nothing
        ("accuracy_drop<0.5", point("a", 1, 0.3, math.nan, n=1), AVERAGE),
        ("accuracy_drop<0.5", point("a", 1, 0.5, 0.0), MISSES),
        ("bytes<100", point("a", 99, 0.0), MEETS),
        ("bytes<100", point("a", 99, 0.0, most=101), AVERAGE),
        ("bytes<100", point("a", 100, 0.0), MISSES),
        ("latency_ms<1", point("a", 1, 0.0, latency=0.6), MEETS),
        ("latency_ms<1", point("a", 1, 0.0, latency=0.7), AVERAGE),  # its p90 is 1.05
        ("latency_ms<1", point("a", 1, 0.0, latency=1.1), MISSES),
        ("latency_ms<1", point("a", 1, 0.0), MISSES),  # not measured
        ("accuracy_drop<0.5,bytes<100", point("a", 99, 0.3, 0.2), AVERAGE),
        ("accuracy_drop<0.5,bytes<100", point("a", 199, 0.3), MISSES),
    ],
)  # fmt: skip
def test_verdicts(budget, e, expected):
    assert judge_all(parse(budget), e) == expected


def test_the_nearest_limit_is_what_a_search_looks_at():
    e = point("a", 150, 0.4)
    assert distance(parse("bytes<100"), e) == pytest.approx(0.5)
    assert distance(parse("bytes<100,accuracy_drop<0.5"), e) == pytest.approx(0.2)
    assert distance(parse("latency_ms<1"), e) == math.inf


def test_the_pareto_set_is_of_bytes_and_drop_and_of_latency_if_asked_for():
    points = [
        point("a", 100, 1.0, latency=2.0),
        point("b", 200, 1.5, latency=1.0),  # larger and worse than a, but faster
        point("c", 300, 0.5, latency=2.0),
        point("d", 400, 0.5, latency=2.0),  # larger than c, otherwise the same
    ]
    assert [e.point["name"] for e in pareto(points)] == ["a", "c"]
    assert [e.point["name"] for e in pareto(points, with_latency=True)] == ["a", "b", "c"]


FRONT = [
    point("tiny", 100, 4.0), point("small", 200, 0.45), point("less", 300, 0.4), point("good", 400, 0.3),
    point("safe", 500, 0.2), point("safer", 600, 0.1),
]  # fmt: skip


def names(estimates):
    return [e.point["name"] for e in estimates]


def test_finalists_surround_the_smallest_point_that_should_be_shown():
    # Ten seeds of sd 0.2 give +-0.143: 'good' should be shown (0.443), 'less' not (0.543).
    assert half_width(FRONT, 10) == pytest.approx(stats.t.ppf(0.975, 9) * 0.2 / math.sqrt(10))
    assert names(choose(FRONT, DROP, 4, 10)) == ["safe", "good", "less", "small"]
    assert names(choose(FRONT, DROP, 1, 10)) == ["good"]
    assert names(choose(FRONT, DROP, 9, 10)) == ["safer", "safe", "good", "less", "small"]
    # With three seeds (+-0.497) only a drop of nothing would be shown: the least drops, from large to small.
    assert names(choose(FRONT, DROP, 2, 3)) == ["safer", "safe"]
    assert choose(FRONT[:1], DROP, 4, 10) == [] and choose([], DROP, 4, 10) == []


def test_finalists_under_a_limit_on_size_are_the_most_accurate_ones():
    assert names(choose(FRONT, parse("bytes<450"), 2, 10)) == ["good", "less"]


def test_the_first_that_fails_ends_the_sequence():
    tested = [point("safe", 500, 0.1), point("good", 400, 0.2), point("less", 300, 0.45), point("luck", 200, 0.1)]
    finals, best = decide(tested, DROP)
    assert [final.verdict for final in finals] == [MEETS, MEETS, AVERAGE, MEETS]
    assert [final.reached for final in finals] == [True, True, True, False]
    assert best is not None and best.estimate.point == {"name": "good"} and best.verdict == MEETS
    other = runner_up(finals, best)
    assert other is not None and other.estimate.point == {"name": "safe"}


def test_if_the_first_fails_nothing_is_claimed():
    tested = [point("safe", 500, 0.45), point("good", 400, 0.2), point("less", 300, 0.7)]
    _, best = decide(tested, DROP)
    assert best is not None and best.estimate.point == {"name": "good"} and best.verdict == AVERAGE
    assert decide([point("safe", 500, 0.9)], DROP)[1] is None
    assert decide([], DROP) == ([], None)


def test_under_a_limit_on_size_the_most_accurate_that_keeps_to_it_is_used():
    limits = parse("bytes<450")
    tested = [point("grew", 460, 0.1), point("once", 440, 0.2, most=455), point("good", 400, 0.3)]
    _, best = decide(tested, limits)
    assert best is not None and best.estimate.point == {"name": "good"}
    _, best = decide(tested[:2], limits)
    assert best is not None and (best.estimate.point, best.verdict) == ({"name": "once"}, AVERAGE)


def test_a_fixed_sequence_claims_a_bad_point_in_at_most_one_search_of_forty():
    """Four finalists, all of them exactly at the limit: a claim is false, and comes with a chance of 2.5 %."""
    rng = np.random.default_rng(0)
    false = 0
    for _ in range(400):
        dense = rng.normal(0.97, 0.004, 10)
        control = rows(dense.tolist())
        tested = [
            estimate({"i": i}, rows((dense - 0.005 + rng.normal(0, 0.004, 10)).tolist()), control, metric=ACCURACY)
            for i in range(4)
        ]
        _, best = decide(tested, DROP)
        false += best is not None and best.verdict == MEETS
    assert false <= 0.025 * 400 + 2 * math.sqrt(400 * 0.025 * 0.975)


def test_the_answer_says_what_it_costs_and_how_sure_it_is():
    finals, best = decide([point("safe", 500, 0.1), point("good", 400, 0.2, latency=0.02)], DROP)
    assert best is not None
    control = [point("dense", 4000, 0.0)]
    text = answer(DROP, finals, best, runner_up(finals, best), FRONT, control, Search())
    assert text.startswith(
        "Use name = good: 400 bytes, 10.0 times smaller than the dense control; test accuracy 97.00 % "
        "[96.00, 98.00], 0.20 points below the control (drop +0.20 [+0.10, +0.30]), over 10 fresh seeds. It meets "
        "accuracy_drop<0.5."
    )
    assert "takes 0.02 ms for a call of batch 1 on this device (90th percentile 0.03 ms)" in text
    assert "The runner-up, name = safe, takes 100 bytes more (+25 %) and is 0.10 points more" in text

    finals, best = decide([point("safe", 500, 0.45)], DROP)
    text = answer(DROP, finals, best, None, FRONT, control, Search())
    assert "It meets accuracy_drop<0.5 on average, which 10 seeds do not show to be more than chance" in text

    text = answer(DROP, [], None, None, FRONT[:1], control, Search())
    assert text.startswith("No point can be recommended under accuracy_drop<0.5: no point that was tried meets it")
    assert "The nearest is name = tiny: 100 bytes, 4.00 points below the control" in text
