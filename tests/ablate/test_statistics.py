"""Intervals, exact tests, Holm's correction and power, against SciPy and by hand."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from jopt.ablate import intervals, paired
from jopt.config import ConfigError

GREENHOUSE = [1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30]
"""Hollander and Wolfe 1973, table 3.1: depression scores of nine patients, before and (below) after a drug."""
AFTER = [0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29]


def test_t_interval_is_scipys_and_by_hand():
    # mean 3, sd sqrt(2.5), t_(4, 0.975) = 2.776: 3 -+ 2.776 * 0.7071
    low, high = intervals.t_interval([1, 2, 3, 4, 5])
    np.testing.assert_allclose((low, high), (3 - 1.96324, 3 + 1.96324), atol=1e-4)
    for level in (0.5, 0.9, 0.999):
        result = intervals.t_interval(GREENHOUSE, level)
        reference = stats.ttest_1samp(GREENHOUSE, 0).confidence_interval(level)
        np.testing.assert_allclose(result, reference, rtol=1e-12)


def test_samples_too_small_or_without_spread():
    assert math.isnan(intervals.mean([])) and math.isnan(intervals.sd([3.0])) and intervals.mean([3.0]) == 3.0
    assert math.isnan(intervals.interquartile_mean([]))
    for find in (intervals.t_interval, intervals.bootstrap_interval):
        assert all(map(math.isnan, find([3.0])))
        assert find([3.0]).spans(100.0)
        assert find([0.7, 0.7, 0.7]) == (0.7, 0.7)
    assert intervals.bootstrap_interval([1.0, 2.0]) == (1.0, 2.0)
    # BCa is not defined here: all but one value are cut off or not, and the jackknife does not vary.
    low, high = intervals.bootstrap_interval([1.0, 1.0, 1.0, 1.0, 2.0], statistic="interquartile_mean")
    assert 1.0 <= low <= high <= 2.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_refused(bad):
    with pytest.raises(ConfigError) as caught:
        intervals.mean([1.0, bad])
    assert caught.value.field == "values"


@pytest.mark.parametrize("confidence", [0.0, 0.3, 1.0, 95])
def test_a_confidence_out_of_range_is_refused(confidence):
    with pytest.raises(ConfigError) as caught:
        intervals.t_interval([1.0, 2.0], confidence)
    assert caught.value.field == "confidence"


def test_bootstrap_is_scipys_bca_and_the_same_every_time():
    result = intervals.bootstrap_interval(GREENHOUSE)
    reference = stats.bootstrap(
        (GREENHOUSE,), np.mean, n_resamples=9999, method="BCa", rng=np.random.default_rng(0)
    ).confidence_interval
    assert result == (reference.low, reference.high)
    assert result == intervals.bootstrap_interval(GREENHOUSE)
    other = stats.bootstrap((GREENHOUSE,), np.mean, n_resamples=20000, rng=np.random.default_rng(9))
    np.testing.assert_allclose(result, other.confidence_interval, atol=0.02)


@pytest.mark.parametrize(
    ("n", "middle"), [(1, (0, 1)), (3, (0, 3)), (4, (1, 3)), (5, (1, 4)), (8, (2, 6)), (10, (2, 8))]
)
def test_interquartile_mean_by_hand(n, middle):
    x = np.arange(1.0, n + 1) ** 3
    assert intervals.interquartile_mean(list(reversed(x))) == pytest.approx(x[slice(*middle)].mean())
    assert intervals.interquartile_mean(x.tolist()) == pytest.approx(stats.trim_mean(x, 0.25))


def _all_flips(d, tolerance=0.0):
    d = np.asarray(d)
    sums = [abs(np.dot(signs, d)) for signs in itertools.product((1, -1), repeat=len(d))]
    return np.mean(np.array(sums) >= abs(d.sum()) - 1e-9)


def test_sign_flips_by_hand_and_by_scipy():
    # Of the 8 flips of (1, 2, -1), whose sum is 2, six have a sum of at least 2 in size; the others have 0.
    assert paired.sign_flip_p([1, 2, -1]) == 0.75
    assert paired.sign_flip_p([1, 2, 3]) == 0.25
    d = np.subtract(GREENHOUSE, AFTER)
    reference = stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert paired.sign_flip_p(d.tolist()) == pytest.approx(reference.pvalue) == pytest.approx(_all_flips(d))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-9, 9), min_size=1, max_size=8))
def test_sign_flips_are_all_counted(d):
    p = paired.sign_flip_p(d)
    assert p == pytest.approx(_all_flips(d))
    assert p == paired.sign_flip_p([-x for x in d])
    assert paired.smallest_p(len(d)) <= p <= 1


def test_no_five_seeds_are_significant_by_an_exact_test():
    assert paired.smallest_p(5) == 0.0625 > 0.05
    for d in ([1, 1, 1, 1, 1], [1e6, 1, 1, 1, 1], [5, 4, 3, 2, 1]):
        assert paired.sign_flip_p(d) == 0.0625
        assert paired.wilcoxon_p(d) == 0.0625
    assert paired.sign_flip_p([1.0] * 6) == paired.smallest_p(6) == 0.03125
    assert paired.smallest_p(0) == 1.0
    assert math.isnan(paired.sign_flip_p([])) and math.isnan(paired.wilcoxon_p([]))


def test_float32_rounding_does_not_make_a_p_smaller():
    # Equal in tenths, not in floats: 0.3 - 0.2 - 0.1 is not 0. All sums but +-0.6 and the zeros...
    d = [0.1 + 1e-8, 0.2, -0.3]
    assert paired.sign_flip_p(d, tolerance=1e-6) == 1.0
    assert paired.wilcoxon_p([0.1, -0.1 - 1e-8, 0.2], tolerance=1e-6) == paired.wilcoxon_p([1, -1, 2])


def test_sampled_flips_above_sixteen():
    rng = np.random.default_rng(3)
    d = rng.normal(0.5, 1, 18)
    exact_p = np.mean(
        np.abs((1 - 2 * ((np.arange(2**18)[:, None] >> np.arange(18)) & 1)) @ d) >= abs(d.sum()) - 1e-12
    )
    result = paired.sign_flip_p(d.tolist())
    assert result == paired.sign_flip_p(d.tolist())
    assert result == pytest.approx(exact_p, abs=4 * math.sqrt(exact_p / paired.SAMPLED_FLIPS))
    assert paired.sign_flip_p([1.0] * 40) == paired.smallest_p(40) == 1e-5


def test_wilcoxon_is_the_books_and_scipys():
    # The sum of the negative ranks is 5; the book's two-sided p is 20 / 512.
    d = np.subtract(GREENHOUSE, AFTER)
    assert paired.wilcoxon_p(d.tolist()) == pytest.approx(0.0390625)
    rng = np.random.default_rng(1)
    for n in (3, 6, 12, 16, 17, 25):
        x = rng.normal(0.3, 1, n)
        assert paired.wilcoxon_p(x.tolist()) == pytest.approx(stats.wilcoxon(x, method="exact").pvalue)


def test_wilcoxon_with_ties_and_zeros():
    # Without the zero: ranks 2, 2, 2, 4 with signs + - + +. W- = 2: of the 16 sign vectors those with W- in
    # {0, 2, 8, 10} are as extreme: 1 + 3 + 3 + 1.
    assert paired.wilcoxon_p([0, 1, -1, 1, 5]) == 0.5
    assert paired.wilcoxon_p([0, 0, 0]) == 1.0
    reference = stats.wilcoxon([1, -1, 1, 5, 5, 2], method=stats.PermutationMethod(n_resamples=np.inf))
    assert paired.wilcoxon_p([1, -1, 1, 5, 5, 2]) == pytest.approx(reference.pvalue)


def test_holm_by_hand():
    # Sorted: .005 * 4, .01 * 3, .03 * 2 = .06, .04 * 1 -> .06 (monotone).
    assert paired.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert paired.holm([0.4, 0.9]) == pytest.approx([0.8, 0.9])
    assert paired.holm([]) == []
    result = paired.holm([0.01, math.nan, 0.03])
    assert result[0] == 0.02 and math.isnan(result[1]) and result[2] == 0.03
    assert paired.holm([0.01, math.nan, 0.03], comparisons=5) == pytest.approx([0.05, math.nan, 0.12], nan_ok=True)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_p_and_bonferroni_and_keeps_the_order(p):
    result = paired.holm(p)
    assert all(a <= b <= min(1.0, len(p) * a) + 1e-15 for a, b in zip(p, result, strict=True))
    order = np.argsort(p, kind="stable")
    assert np.all(np.diff(np.array(result)[order]) >= 0)


@pytest.mark.parametrize("p", [[1.2], [-0.1]])
def test_holm_refuses_what_is_no_p(p):
    with pytest.raises(ConfigError) as caught:
        paired.holm(p)
    assert caught.value.field == "p"
    with pytest.raises(ConfigError) as caught:
        paired.holm([0.1, 0.2], comparisons=1)
    assert caught.value.field == "comparisons"


# Cohen 1988 and G*Power 3.1, difference of two dependent means, two-sided, alpha 0.05.
@pytest.mark.parametrize(("n", "difference", "chance"), [(10, 1.0, 0.8031), (34, 0.5, 0.8078)])
def test_power_is_the_published_one(n, difference, chance):
    assert intervals.power(difference, 1.0, n) == pytest.approx(chance, abs=1e-4)
    result = 1 - stats.nct.cdf(stats.t.ppf(0.975, n - 1), n - 1, difference * math.sqrt(n))
    result += stats.nct.cdf(-stats.t.ppf(0.975, n - 1), n - 1, difference * math.sqrt(n))
    assert intervals.power(difference, 1.0, n) == pytest.approx(result, rel=1e-9)


@pytest.mark.parametrize("n", [2, 3, 5, 10, 40])
@pytest.mark.parametrize("comparisons", [1, 19, 4950])
def test_the_detectable_difference_is_detected_so_often(n, comparisons):
    alpha = 0.05 / comparisons
    smallest = intervals.detectable(0.02, n, alpha, 0.8)
    critical = stats.t.ppf(1 - alpha / 2, n - 1)
    rng = np.random.default_rng(n)
    chi = np.sqrt(rng.chisquare(n - 1, 50_000) / (n - 1))
    t = (rng.normal(size=50_000) + smallest / 0.02 * math.sqrt(n)) / chi
    assert np.mean(np.abs(t) > critical) == pytest.approx(0.8, abs=0.008)


def test_what_can_be_detected_at_the_edges():
    assert math.isnan(intervals.detectable(1.0, 1)) and intervals.detectable(0.0, 5) == 0.0
    with pytest.raises(ConfigError) as caught:
        intervals.detectable(1.0, 5, alpha=0.9)
    assert caught.value.field == "power"


def test_an_interval_of_shares_stays_between_their_bounds():
    rng = np.random.default_rng(0)
    cut = 0
    for _ in range(400):
        values = np.minimum(rng.normal(0.98, 0.02, 3), [1, 1, 0.999])
        low, high = intervals.t_interval(values.tolist(), bounds=(0, 1))
        # SciPy's interval, cut.
        free = stats.ttest_1samp(values, 0).confidence_interval()
        np.testing.assert_allclose((low, high), np.clip(free, 0, 1), rtol=1e-12)
        cut += free[1] > 1
    assert cut > 100, "the bound matters"
    with pytest.raises(ConfigError) as caught:
        intervals.t_interval([0.5, 1.5], bounds=(0, 1))
    assert caught.value.field == "values"
