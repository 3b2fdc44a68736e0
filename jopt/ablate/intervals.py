"""Statistics of one sample: mean, sd, t and bootstrap intervals, interquartile mean, and the power of n seeds."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float

from jopt.config import choice, require

RESAMPLES = 9999
BOOTSTRAP_SEED = 0
"""Every bootstrap draws from `numpy.random.default_rng(0)`: the same values give the same interval in every run."""

STATISTICS = ("mean", "interquartile_mean")

Sample: TypeAlias = Float[np.ndarray, " n"]
"""One value per seed, float64."""


class Interval(NamedTuple):
    """A closed confidence interval.

    Attributes:
      low: the lower end; NaN if the sample is too small to give one.
      high: the upper end.
    """

    low: float
    high: float

    def spans(self, value: float = 0.0) -> bool:
        """Whether the interval contains `value`; an unknown interval contains every value.

        Example:
          >>> Interval(0.1, 0.3).spans(0.0), Interval(math.nan, math.nan).spans(0.0)
          (False, True)
        """
        # Written as a negation so that NaN ends, which compare as False, give True.
        return not (self.low > value or self.high < value)


UNKNOWN = Interval(math.nan, math.nan)


def sample(values: Sequence[float], name: str = "values") -> Sample:
    """The values as a float64 vector.

    Raises:
      ConfigError: if a value is not finite. The caller drops diverged trials and reports how many there were.
    """
    vector = np.asarray(values, np.float64).reshape(-1)
    require(bool(np.isfinite(vector).all()), name, vector.tolist(), "a list of finite numbers")
    return vector


def check_confidence(confidence: float) -> None:
    """Raises `ConfigError` unless `confidence` lies in [0.5, 1)."""
    require(0.5 <= confidence < 1, "confidence", confidence, "a number in [0.5, 1)")


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean; NaN for an empty sample. The mean of equal values is exactly that value.

    Example:
      >>> mean([1.0, 2.0, 6.0])
      3.0
    """
    x = sample(values)
    if x.size == 0:
        return math.nan
    # The rounding of a sum would turn equal values into a mean beside them, and a zero difference into a nonzero
    # one.
    return float(x[0]) if np.ptp(x) == 0 else float(np.mean(x))


def sd(values: Sequence[float]) -> float:
    """The sample standard deviation, `sqrt(sum (x - mean)^2 / (n - 1))`; NaN for fewer than two values.

    Example:
      >>> sd([1.0, 2.0, 6.0])
      2.6457513110645907
    """
    x = sample(values)
    if x.size < 2:
        return math.nan
    return 0.0 if np.ptp(x) == 0 else float(np.std(x, ddof=1))


def t_interval(
    values: Sequence[float],
    confidence: float = 0.95,
    *,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Interval:
    """Student's interval of a mean, `mean -+ t_(n-1, (1 + confidence)/2) sd / sqrt(n)`, clipped to `bounds`.

    Student's formula does not use the range of the values, so a few accuracies near 1 give an upper end above 1.
    The mean itself lies in that range. Clipping therefore removes no possible mean, and the coverage does not
    change.

    Args:
      values: [n] numbers, one per seed.
      confidence: in [0.5, 1).
      bounds: the smallest and the largest possible value; (0, 1) for a share such as an accuracy.

    Returns:
      The interval; unknown (NaN) for fewer than two values.

    Raises:
      ConfigError: for a value out of bounds, or a confidence that is not in [0.5, 1).

    Reference:
      Student 1908.

    Example:
      >>> interval = t_interval([1.0, 2.0, 3.0, 4.0, 5.0])
      >>> round(interval.low, 4), round(interval.high, 4)
      (1.0368, 4.9632)
      >>> interval = t_interval([0.95, 1.0], bounds=(0, 1))  # without bounds: 0.975 -+ 0.3177
      >>> round(interval.low, 4), round(interval.high, 4)
      (0.6573, 1.0)
    """
    check_confidence(confidence)
    x = sample(values)
    low, high = bounds
    inside = bool(((x >= low) & (x <= high)).all())
    require(inside, "values", x.tolist(), f"numbers in [{low}, {high}]")
    if x.size < 2:
        return UNKNOWN
    center, half = mean(values), t_half_width(sd(values), x.size, (1 + confidence) / 2)
    return Interval(max(center - half, float(low)), min(center + half, float(high)))


def t_half_width(sd: float, n: int, quantile: float) -> float:
    """Half the width of Student's interval, `t_(n-1, quantile) sd / sqrt(n)`.

    Args:
      sd: sample standard deviation.
      n: values, at least 2.
      quantile: (1 + confidence) / 2.

    Example:
      >>> round(t_half_width(1.0, 10, 0.975), 4)
      0.7154
    """
    from scipy import special

    return float(special.stdtrit(n - 1, quantile)) * sd / math.sqrt(n)


def interquartile_mean(values: Sequence[float]) -> float:
    """The mean of the middle half: a quarter of the values, rounded down, is dropped at each end.

    This is SciPy's `trim_mean(values, 0.25)`, which the authors' code also uses: the middle 3 of 5 values, the
    middle 2 of 4, the middle 6 of 10. For fewer than 4 values it is the mean.

    Returns:
      The interquartile mean; NaN for an empty sample.

    Reference:
      Agarwal, Schwarzer, Castro, Courville and Bellemare 2021, section 4.3.

    Example:
      >>> interquartile_mean([0.0, 1.0, 2.0, 3.0, 100.0])
      2.0
    """
    from scipy import stats

    x = sample(values)
    return float(stats.trim_mean(x, 0.25)) if x.size else math.nan


def bootstrap_interval(
    values: Sequence[float], confidence: float = 0.95, statistic: str = "mean", resamples: int = RESAMPLES
) -> Interval:
    """The bias-corrected and accelerated (BCa) bootstrap interval of a mean.

    Where BCa is undefined (two values, or a sample whose jackknife does not vary) this is the percentile interval.
    Equal values give an interval of zero width, which is not evidence about other seeds.

    Args:
      values: [n] numbers, one per seed.
      confidence: in [0.5, 1).
      statistic: 'mean' or 'interquartile_mean'.
      resamples: how many samples of n values are drawn with replacement.

    Returns:
      The interval; unknown (NaN) for fewer than two values. It depends on the arguments alone. With few values it
      is too narrow: at n = 5 a nominal 95 % interval contains the mean in fewer than nine cases of ten.

    Raises:
      ConfigError: for an unknown statistic, or a confidence that is not in [0.5, 1).

    Reference:
      Efron 1987.

    Example:
      >>> interval = bootstrap_interval([1.0, 2.0, 3.0, 4.0, 7.0])
      >>> round(interval.low, 2), round(interval.high, 2)
      (2.0, 5.6)
    """
    check_confidence(confidence)
    choice("statistic", statistic, STATISTICS)
    x = sample(values)
    if x.size < 2:
        return UNKNOWN
    if np.ptp(x) == 0:
        return Interval(float(x[0]), float(x[0]))
    for method in ("BCa", "percentile") if x.size > 2 else ("percentile",):
        low, high = _bootstrap(x, confidence, _statistic(statistic), resamples, method)
        if math.isfinite(low) and math.isfinite(high):
            break
    return Interval(low, high)


def _statistic(name: str) -> Callable[..., np.ndarray]:
    from scipy import stats

    return np.mean if name == "mean" else lambda x, axis: stats.trim_mean(x, 0.25, axis=axis)


def _bootstrap(
    x: Sample,
    confidence: float,
    statistic: Callable[..., np.ndarray],
    resamples: int,
    method: Literal["BCa", "percentile"],
) -> tuple[float, float]:
    import warnings

    from scipy import stats

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # An undefined BCa interval has NaN ends, which the caller tests; the warnings would only repeat that.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        interval = stats.bootstrap(
            (x,),
            statistic,
            n_resamples=resamples,
            confidence_level=confidence,
            method=method,
            vectorized=True,
            rng=np.random.default_rng(BOOTSTRAP_SEED),
        ).confidence_interval
    return float(interval.low), float(interval.high)


def power(difference: float, sd: float, n: int, alpha: float = 0.05) -> float:
    """The probability that n seeds show a true difference in the two-sided paired t test.

    `1 - F(t) + F(-t)`, where F is the noncentral t distribution with n - 1 degrees of freedom and noncentrality
    `difference sqrt(n) / sd`, and t is the critical value of the test.

    Args:
      difference: the true mean of the paired differences.
      sd: their standard deviation, above 0.
      n: seeds, at least 2.
      alpha: level of the test, in (0, 1); divide it by the number of comparisons for Bonferroni's correction.

    Reference:
      Cohen 1988, section 2.

    Example:
      >>> round(power(1.0, 1.0, 10), 3)
      0.803
    """
    _check_test(sd, n, alpha)
    return _power(abs(difference) / sd * math.sqrt(n), n, alpha)


def detectable(sd: float, n: int, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest true difference that n seeds show with probability `power` in the two-sided paired t test.

    Args:
      sd: standard deviation of the paired differences, at least 0.
      n: seeds.
      alpha: level of the test, in (0, 1).
      power: in (alpha, 1).

    Returns:
      The difference, in the unit of `sd`; NaN for fewer than two seeds. A smaller difference may exist: not finding
      it is weak evidence against it.

    Raises:
      ConfigError: for a level or a power that is out of range.

    Reference:
      Cohen 1988, section 2; Bouthillier et al. 2021 for machine learning.

    Example:
      >>> round(detectable(1.0, 5), 3), round(detectable(1.0, 10), 3)
      (1.682, 0.996)
    """
    require(0 < alpha < power < 1, "power", power, f"in (alpha, 1), where alpha is {alpha}")
    if n < 2 or math.isnan(sd):
        return math.nan
    if sd == 0:
        return 0.0
    _check_test(sd, n, alpha)
    return _noncentrality(n, alpha, power) * sd / math.sqrt(n)


def _check_test(sd: float, n: int, alpha: float) -> None:
    require(sd > 0, "sd", sd, "above 0")
    require(n >= 2, "n", n, "at least 2")
    require(0 < alpha < 1, "alpha", alpha, "a number in (0, 1)")


# A report asks this for every comparison with the same arguments.
@functools.lru_cache(maxsize=256)
def _noncentrality(n: int, alpha: float, power: float) -> float:
    """The noncentrality at which the test has this power."""
    from scipy import optimize

    high = 1.0
    while _power(high, n, alpha) < power:
        high *= 2
    # With full_output False, the default, brentq returns the root alone.
    return float(optimize.brentq(lambda shift: _power(shift, n, alpha) - power, 0.0, high, xtol=1e-10))  # pyright: ignore[reportArgumentType]


def _power(shift: float, n: int, alpha: float) -> float:
    from scipy import special

    critical = special.stdtrit(n - 1, 1 - alpha / 2)
    missed, wrong_sign = (float(special.nctdtr(n - 1, shift, t)) for t in (critical, -critical))
    if math.isnan(missed):
        # SciPy returns NaN for noncentralities of thousands. There T is shift / (chi / sqrt(n - 1)) to within
        # rounding.
        missed = float(special.chdtrc(n - 1, (n - 1) * (shift / critical) ** 2))
    # SciPy also returns NaN far out in the other tail, whose mass is below the normal tail beyond `shift`.
    return 1 - missed + (0.0 if math.isnan(wrong_sign) else wrong_sign)
