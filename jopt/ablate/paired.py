"""A comparison paired by seed, and the rule by which something is called better."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from jopt.ablate import exact, intervals, power
from jopt.ablate.intervals import UNKNOWN, Interval, check_confidence, mean, sample
from jopt.config import require

LEAST_SEEDS = 5
"""With fewer seeds nothing is called better or worse."""

POWER = 0.8
ROUNDING = 1e-6
"""Outcomes are float32 numbers: what differs by less than this share of the largest one does not differ."""


LARGEST_TEST_SET = 2**18
SHARE_ROUNDING = 2.0**-23
"""A share of examples, computed in float32, has at most this relative error: two roundings."""


class Comparison(NamedTuple):
    """What paired differences `d_i = value_i - control_i` say. A float is NaN where it is not known.

    Attributes:
      n: pairs.
      difference: mean of d.
      sd: of d.
      interval: Student's interval of the mean difference, for this comparison alone.
      adjusted: the same for all comparisons at once (Bonferroni): at level 1 - (1 - confidence) / comparisons.
      p_t: two-sided, of the paired t test; it is below 1 - confidence where `interval` leaves 0 out.
      p_exact: two-sided, of the sign flips.
      p_wilcoxon: two-sided, of the signed ranks.
      detectable: the smallest true difference that so many seeds show with a chance of 80 %, at the adjusted level.
      no_spread: whether `sd` is below half a step of the outcome, so that this was taken in its place.
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


def resolution(values: Iterable[float]) -> float:
    """The step in which an outcome moves: the largest that makes every gap between two values a multiple of it.

    Values that are all k / N to within the rounding of float32, with k integers and N up to `LARGEST_TEST_SET`, are
    taken for shares of N examples, and the step is exact: the greatest common divisor of the differences of k, over
    N. Others go through Euclid's algorithm, whose errors grow with its quotients: it finds steps to about 1/3000.

    Args:
      values: all values of one outcome in a grid, any order.

    Returns:
      The step, to within the rounding of float32; 0 where there is none: all values are equal, or they are those of
      a continuous outcome. An accuracy over N examples moves in steps of 1/N.

    Example:
      >>> resolution([0.5, 0.75, 0.5, 1.25])
      0.25
      >>> resolution([0.75432, 0.75446, 0.76101, 0.77002, 0.77777])
      1e-05
    """
    x = np.unique(sample(list(values)))
    least = ROUNDING * float(np.abs(x).max(initial=0.0))
    gaps = np.diff(x)
    if not (gaps > least).any():
        return 0.0
    if step := _share_step(x):
        return step
    step = 0.0
    for gap in np.sort(gaps[gaps > least]).tolist():
        step = _common_step(gap, step)
        if step < 10 * least:
            return 0.0
    return step


def _share_step(x: np.ndarray) -> float:
    """The step of values that are k / N, for the smallest such N; 0 if there is none, or it may be chance."""
    sizes = np.arange(1, LARGEST_TEST_SET + 1, dtype=np.float64)
    for value in x:
        count = value * sizes
        sizes = sizes[np.abs(count - np.rint(count)) <= SHARE_ROUNDING * np.abs(count)]
    if not sizes.size:
        return 0.0
    n = sizes[0]
    # By chance a number is so near to some k / N with this probability; and N sizes were tried.
    chance = 2 * SHARE_ROUNDING * n * np.abs(x[x != 0])
    if (chance >= 1).any() or n * np.prod(chance) > 0.05:
        return 0.0
    return float(np.gcd.reduce(np.diff(np.rint(x * n).astype(np.int64))) / n)


def _common_step(a: float, b: float) -> float:
    """Euclid's algorithm, for numbers with rounding errors."""
    while b > 0:
        rest = abs(a - b * round(a / b))
        if rest <= 0.05 * b:
            return b
        a, b = b, rest
    return a


def compare(
    values: Sequence[float],
    control: Sequence[float],
    *,
    confidence: float = 0.95,
    comparisons: int = 1,
    resolution: float = 0.0,
) -> Comparison:
    """Compares outcomes with a control's, seed by seed.

    `mean d -+ t_(n-1) sd / sqrt(n)`, with d the differences. Where the outcome moves in steps of r, the sd is taken
    to be at least r / 2, the most that rounding to such steps can hide. Without this floor, five seeds that happen
    to differ by the same one test example would make an interval of no width, and a winner out of noise. Where r is
    not known either, equal nonzero differences have no interval.

    Args:
      values: [n] one a seed.
      control: [n] the control's, of the same seeds in the same order.
      confidence: of the intervals, in [0.5, 1).
      comparisons: how many there are in the family, at least 1.
      resolution: r, see `resolution`.

    Raises:
      ConfigError: if the two are not equally long, or an argument is out of range.

    Reference:
      Student 1908; Dunn 1961 for the adjusted interval.

    Example:
      >>> found = compare([0.91, 0.92, 0.93, 0.94, 0.95], [0.90, 0.90, 0.91, 0.91, 0.92])
      >>> round(found.difference, 4), round(found.interval.low, 4), round(found.interval.high, 4)
      (0.022, 0.0116, 0.0324)
      >>> found.p_exact
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
    no_spread = n > 1 and sd <= max(floor, tolerance) * (1 - 1e-9)
    used = max(sd, floor) if n > 1 else math.nan
    alpha = (1 - confidence) / comparisons
    interval, adjusted, p_t = UNKNOWN, UNKNOWN, math.nan
    if n > 1 and used > tolerance:
        interval, adjusted = (_interval(difference, used, n, level) for level in (1 - confidence, alpha))
        p_t = _p_t(difference, used, n)
    elif n > 1 and abs(difference) <= tolerance:
        interval, adjusted, p_t = Interval(0.0, 0.0), Interval(0.0, 0.0), 1.0
    return Comparison(
        n=n,
        difference=difference,
        sd=sd,
        interval=interval,
        adjusted=adjusted,
        p_t=p_t,
        p_exact=exact.sign_flip_p(d.tolist(), tolerance),
        p_wilcoxon=exact.wilcoxon_p(d.tolist(), tolerance),
        detectable=power.detectable(used, n, alpha, POWER),
        no_spread=no_spread,
    )


def verdict(comparison: Comparison, higher_is_better: bool = True) -> str:
    """What may be said of a comparison: 'better', 'worse', 'undecided' or 'too few seeds'.

    It is decided by the adjusted interval: better or worse if that leaves 0 out. So of all comparisons of a family
    together, true differences of 0 make a false 'better' or 'worse' with a chance of at most 1 - confidence, and
    Holm's adjusted p is below it too. Below `LEAST_SEEDS` pairs nothing is decided.

    Args:
      comparison: what `compare` found.
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


def _interval(center: float, sd: float, n: int, alpha: float) -> Interval:
    from scipy import special

    half = float(special.stdtrit(n - 1, 1 - alpha / 2)) * sd / math.sqrt(n)
    return Interval(center - half, center + half)


def _p_t(difference: float, sd: float, n: int) -> float:
    from scipy import special

    return float(2 * special.stdtr(n - 1, -abs(difference) / (sd / math.sqrt(n))))
