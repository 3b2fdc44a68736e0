"""Comparisons paired by seed: interval, exact tests, correction for many comparisons, and the verdict.

SciPy has the t and rank distributions, which this module uses. The sign flips are enumerated here: for 5 to 16
differences `scipy.stats.permutation_test` gives the same p in 12 to 168 times the time, and a report of a large
grid makes thousands of them. SciPy 1.17 has no Holm correction, and its exact Wilcoxon test is wrong with ties.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from jopt.ablate import intervals
from jopt.ablate.intervals import UNKNOWN, Interval, Sample, check_confidence, mean, sample, t_half_width
from jopt.config import require

LEAST_SEEDS = 5
"""With fewer seeds no point is called better or worse."""

POWER = 0.8
ROUNDING = 1e-6
"""Outcomes are float32 numbers: a difference below this share of the largest value counts as zero."""

LARGEST_TEST_SET = 2**18
SHARE_ROUNDING = 2.0**-23
"""The relative error of a share of examples computed in float32: two roundings."""

EXACT_UP_TO = 16
SAMPLED_FLIPS = 99_999
FLIPS_SEED = 0
"""For more than `EXACT_UP_TO` differences the flips are drawn from `numpy.random.default_rng(0)`."""


class Comparison(NamedTuple):
    """Statistics of paired differences `d_i = value_i - control_i`. A float is NaN if it is unknown.

    Attributes:
      n: pairs.
      difference: mean of d.
      sd: of d.
      interval: Student's interval of the mean difference, for this comparison alone.
      adjusted: the interval that holds for all comparisons together (Bonferroni), at level
        1 - (1 - confidence) / comparisons.
      p_t: two-sided, of the paired t test; below 1 - confidence exactly if `interval` excludes 0.
      p_exact: two-sided, of the sign flips.
      p_wilcoxon: two-sided, of the signed ranks.
      detectable: the smallest true difference that n seeds show with probability 80 % at the adjusted level.
      no_spread: whether `sd` is below half a step of the outcome, so that half a step replaced it.
    """

    n: int
    difference: float
    sd: float
    interval: Interval
    adjusted: Interval
    p_t: float
    p_exact: float
    p_wilcoxon: float
    detectable: float
    no_spread: bool


def compare(
    values: Sequence[float],
    control: Sequence[float],
    *,
    confidence: float = 0.95,
    comparisons: int = 1,
    resolution: float = 0.0,
) -> Comparison:
    """Compares outcomes with those of a control, seed by seed.

    The interval is `mean d -+ t_(n-1) sd / sqrt(n)`, where d are the differences. If the outcome moves in steps of
    r, the sd is at least r / 2, the most that rounding to such steps can hide. Without this floor, five seeds that
    happen to differ by the same one test example would give an interval of zero width, and noise would win. If r is
    unknown too, equal nonzero differences have no interval.

    Args:
      values: [n] one per seed.
      control: [n] of the control, for the same seeds in the same order.
      confidence: of the intervals, in [0.5, 1).
      comparisons: the number of comparisons in the family, at least 1.
      resolution: r, see `resolution`.

    Raises:
      ConfigError: if the lengths differ, or an argument is out of range.

    Reference:
      Student 1908; Dunn 1961 for the adjusted interval.

    Example:
      >>> comparison = compare([0.91, 0.92, 0.93, 0.94, 0.95], [0.90, 0.90, 0.91, 0.91, 0.92])
      >>> low, high = comparison.interval
      >>> round(comparison.difference, 4), round(low, 4), round(high, 4)
      (0.022, 0.0116, 0.0324)
      >>> comparison.p_exact
      0.0625
    """
    check_confidence(confidence)
    require(comparisons >= 1, "comparisons", comparisons, "at least 1")
    a, b = sample(values), sample(control, "control")
    require(a.size == b.size, "control", b.tolist(), f"of the {a.size} seeds of the values")
    d = a - b
    n = int(d.size)
    if n == 0:
        return Comparison(0, math.nan, math.nan, UNKNOWN, UNKNOWN, math.nan, math.nan, math.nan, math.nan, False)
    tolerance = ROUNDING * float(max(np.abs(a).max(), np.abs(b).max()))
    difference, sd = mean(d.tolist()), intervals.sd(d.tolist())
    floor = resolution / 2
    # The factor keeps an sd of exactly half a step, up to rounding, from being flagged.
    no_spread = n > 1 and sd <= max(floor, tolerance) * (1 - 1e-9)
    floored_sd = max(sd, floor) if n > 1 else math.nan
    # Bonferroni rather than Holm for the interval: Holm's procedure has no simple confidence intervals.
    alpha = (1 - confidence) / comparisons
    interval, adjusted, p_t = UNKNOWN, UNKNOWN, math.nan
    if n > 1 and floored_sd > tolerance:
        interval, adjusted = (
            _around(difference, t_half_width(floored_sd, n, 1 - level / 2)) for level in (1 - confidence, alpha)
        )
        p_t = _t_test_p(difference, floored_sd, n)
    elif n > 1 and abs(difference) <= tolerance:
        # Identical results, not an unknown spread: every seed gave the control's value.
        interval, adjusted, p_t = Interval(0.0, 0.0), Interval(0.0, 0.0), 1.0
    return Comparison(
        n=n,
        difference=difference,
        sd=sd,
        interval=interval,
        adjusted=adjusted,
        p_t=p_t,
        p_exact=sign_flip_p(d.tolist(), tolerance),
        p_wilcoxon=wilcoxon_p(d.tolist(), tolerance),
        detectable=intervals.detectable(floored_sd, n, alpha, POWER),
        no_spread=no_spread,
    )


def _around(center: float, half: float) -> Interval:
    return Interval(center - half, center + half)


def _t_test_p(difference: float, sd: float, n: int) -> float:
    from scipy import special

    return float(2 * special.stdtr(n - 1, -abs(difference) / (sd / math.sqrt(n))))


def verdict(comparison: Comparison, higher_is_better: bool = True) -> str:
    """The verdict of a comparison: 'better', 'worse', 'undecided' or 'too few seeds'.

    A point is better or worse if the adjusted interval excludes 0. If all true differences of a family are 0, the
    probability of any 'better' or 'worse' is therefore at most 1 - confidence; Holm's adjusted p is then also below
    it. With fewer than `LEAST_SEEDS` pairs nothing is decided.

    Args:
      comparison: the result of `compare`.
      higher_is_better: False for a loss.

    Example:
      >>> verdict(compare([0.91, 0.92, 0.93, 0.94, 0.95], [0.90, 0.90, 0.91, 0.91, 0.92]))
      'better'
      >>> verdict(compare([0.91, 0.92, 0.93, 0.94, 0.95], [0.90, 0.90, 0.91, 0.91, 0.92], comparisons=20))
      'undecided'
    """
    if comparison.n < LEAST_SEEDS:
        return "too few seeds"
    if comparison.adjusted.spans(0.0):
        return "undecided"
    return "better" if (comparison.difference > 0) == higher_is_better else "worse"


def resolution(values: Iterable[float]) -> float:
    """The step in which an outcome moves: the largest step that divides every gap between two values.

    If all values are k / N to within float32 rounding, for integers k and N up to `LARGEST_TEST_SET`, they are
    taken as shares of N examples and the step is exact: the greatest common divisor of the differences of k, over
    N. Other values go through Euclid's algorithm, whose errors grow with its quotients; it finds steps down to
    about 1/3000.

    Args:
      values: all values of one outcome in a grid, in any order.

    Returns:
      The step, to within float32 rounding; 0 if there is none, because all values are equal or the outcome is
      continuous. An accuracy over N examples moves in steps of 1/N.

    Example:
      >>> resolution([0.5, 0.75, 0.5, 1.25])
      0.25
      >>> resolution([0.75432, 0.75446, 0.76101, 0.77002, 0.77777])
      1e-05
    """
    x = np.unique(sample(list(values)))
    noise = ROUNDING * float(np.abs(x).max(initial=0.0))
    gaps = np.diff(x)
    if not (gaps > noise).any():
        return 0.0
    # Accuracies, the common case, have an exact answer; Euclid's algorithm loses it for large test sets.
    if step := _share_step(x):
        return step
    step = 0.0
    for gap in np.sort(gaps[gaps > noise]).tolist():
        step = _common_step(gap, step)
        if step < 10 * noise:
            return 0.0
    return step


def _share_step(x: Sample) -> float:
    """The step of values that are k / N, for the smallest such N; 0 if there is none or it may be coincidence."""
    sizes = np.arange(1, LARGEST_TEST_SET + 1, dtype=np.float64)
    for value in x:
        count = value * sizes
        sizes = sizes[np.abs(count - np.rint(count)) <= SHARE_ROUNDING * np.abs(count)]
    if not sizes.size:
        return 0.0
    n = sizes[0]
    # A random number is this close to some k / N with probability `chance`, and N sizes were tried.
    chance = 2 * SHARE_ROUNDING * n * np.abs(x[x != 0])
    if (chance >= 1).any() or n * np.prod(chance) > 0.05:
        return 0.0
    return float(np.gcd.reduce(np.diff(np.rint(x * n).astype(np.int64))) / n)


def _common_step(a: float, b: float) -> float:
    """Euclid's algorithm for numbers with rounding errors."""
    while b > 0:
        remainder = abs(a - b * round(a / b))
        # A remainder of exactly 0 never occurs in floats; 5 % of the step is far above their error.
        if remainder <= 0.05 * b:
            return b
        a, b = b, remainder
    return a


def smallest_p(n: int) -> float:
    """The smallest two-sided p that an exact test of n differences can give, `2 / 2^n`.

    Even if all n seeds agree, two of the 2^n sign vectors are as extreme. Five seeds therefore cannot be
    significant at 0.05 by such a test, whatever the differences; six can, in a single comparison.

    Args:
      n: the number of nonzero differences.

    Returns:
      The bound; for more than `EXACT_UP_TO` differences 1 / (1 + `SAMPLED_FLIPS`); 1 if there are none.

    Example:
      >>> smallest_p(5), smallest_p(6), smallest_p(10)
      (0.0625, 0.03125, 0.001953125)
    """
    if n <= EXACT_UP_TO:
        return min(1.0, 2.0 ** (1 - n))
    return 1 / (1 + SAMPLED_FLIPS)


def sign_flip_p(differences: Sequence[float], tolerance: float = 0.0) -> float:
    """The two-sided p of the sign-flip (paired permutation) test that the differences are symmetric around zero.

    `p = #{s in {-1, 1}^n : |sum s_i d_i| >= |sum d_i|} / 2^n`, over all s for n <= 16. For larger n, over 99 999
    random flips and the observed one: `p = (1 + #) / 100 000`, which is valid and not finer than 0.00001.

    Args:
      differences: [n] numbers, one per seed. Zeros are kept: flipping them changes nothing.
      tolerance: sums that differ by less than this times n count as equal, so that rounding cannot make p smaller.

    Returns:
      p, at least `smallest_p(n)`; NaN for an empty sample.

    Reference:
      Fisher 1935, section 21; for the sampled test Phipson and Smyth 2010.

    Example:
      >>> sign_flip_p([1.0, 2.0, 3.0, 4.0, 5.0]), sign_flip_p([1.0, 2.0, -1.0])
      (0.0625, 0.75)
    """
    d = sample(differences, "differences")
    n = d.size
    if n == 0:
        return math.nan
    threshold = abs(d.sum()) - max(tolerance * n, 1e-12 * float(np.abs(d).sum()))
    if n <= EXACT_UP_TO:
        # Half of the sign vectors suffice: the other half are their negatives, with the same absolute sum.
        bits = np.arange(2 ** (n - 1))[:, None] >> np.arange(n)[None, :]
        sums = np.abs((1.0 - 2.0 * (bits & 1)) @ d)
        return float(np.mean(sums >= threshold))
    # A fixed seed: the same differences give the same p in every report.
    rng = np.random.default_rng(FLIPS_SEED)
    signs = 1.0 - 2.0 * rng.integers(0, 2, size=(SAMPLED_FLIPS, n), dtype=np.int8)
    return float((1 + np.sum(np.abs(signs @ d) >= threshold)) / (1 + SAMPLED_FLIPS))


def wilcoxon_p(differences: Sequence[float], tolerance: float = 0.0) -> float:
    """The two-sided p of Wilcoxon's signed-rank test, exact even with zeros and ties.

    Zeros are dropped (Wilcoxon's rule); equal sizes share their mean rank. Without ties this is SciPy's
    `wilcoxon(d, method='exact')`. SciPy's exact table does not hold with ties, so then the signs of the ranks are
    flipped (`sign_flip_p`: exact for n <= 16, sampled above).

    Args:
      differences: [n] numbers, one per seed.
      tolerance: sizes that differ by at most this are tied, and a difference of at most this is zero.

    Returns:
      p; 1 if all differences are zero, NaN for an empty sample.

    Reference:
      Wilcoxon 1945.

    Example:
      >>> wilcoxon_p([1.0, 2.0, 3.0, 4.0, 5.0]), wilcoxon_p([0.0, 1.0, 1.0, -1.0])
      (0.0625, 1.0)
    """
    from scipy import stats

    d = sample(differences, "differences")
    if d.size == 0:
        return math.nan
    d = d[np.abs(d) > tolerance]
    if d.size == 0:
        return 1.0
    sizes = np.sort(np.abs(d))
    # Sizes within the tolerance of their neighbour form one class of ties, which the ranks are computed from.
    starts = np.concatenate([[True], np.diff(sizes) > tolerance])
    classes = np.cumsum(starts)[np.searchsorted(sizes, np.abs(d))]
    if classes.max() == d.size and d.size > EXACT_UP_TO:
        return float(stats.wilcoxon(d, method="exact").pvalue)  # pyright: ignore[reportAttributeAccessIssue]
    return sign_flip_p(np.sign(d) * stats.rankdata(classes), 0.0)


def holm(p: Sequence[float], comparisons: int | None = None) -> list[float]:
    """Holm's step-down adjusted p-values, which control the probability of any false rejection.

    With p_(1) <= ... <= p_(m), the k-th is `min(1, max_(j <= k) (m - j + 1) p_(j))`.

    Args:
      p: p-values in [0, 1]; NaN stands for a comparison that could not be made.
      comparisons: the number of planned comparisons, m; None: those that are not NaN.

    Returns:
      The adjusted p-values, in the order of `p`; NaN stays NaN.

    Raises:
      ConfigError: for a p outside [0, 1], or fewer planned comparisons than p-values.

    Reference:
      Holm 1979.

    Example:
      >>> holm([0.01, 0.04, 0.03])
      [0.03, 0.06, 0.06]
    """
    values = np.asarray(p, np.float64).reshape(-1)
    defined = np.flatnonzero(~np.isnan(values))
    m = len(defined) if comparisons is None else comparisons
    require(m >= len(defined), "comparisons", comparisons, f"at least the {len(defined)} that were made")
    inside = bool(((values[defined] >= 0) & (values[defined] <= 1)).all())
    require(inside, "p", values.tolist(), "a list of numbers in [0, 1], or NaN")
    adjusted = [math.nan] * len(values)
    largest = 0.0
    for rank, index in enumerate(defined[np.argsort(values[defined], kind="stable")]):
        # The running maximum makes the adjusted values monotone in p.
        largest = max(largest, min(1.0, (m - rank) * float(values[index])))
        adjusted[index] = largest
    return adjusted
