"""Intervals of one sample: Student's t, the bootstrap, the interquartile mean."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jopt.config import choice, require

RESAMPLES = 9999
BOOTSTRAP_SEED = 0
"""Every bootstrap draws from `numpy.random.default_rng(0)`: the same values, the same interval, in any launch."""

STATISTICS = ("mean", "interquartile_mean")


class Interval(NamedTuple):
    """A confidence interval, its ends included.

    Attributes:
      low: the lower end; NaN where the sample does not give one.
      high: the upper end.
    """

    low: float
    high: float

    def spans(self, value: float = 0.0) -> bool:
        """Whether `value` lies in the interval; an interval that is not known spans everything.

        Example:
          >>> Interval(0.1, 0.3).spans(0.0), Interval(math.nan, math.nan).spans(0.0)
          (False, True)
        """
        return not (self.low > value or self.high < value)


UNKNOWN = Interval(math.nan, math.nan)


def sample(values: Sequence[float], name: str = "values") -> np.ndarray:
    """A sample as a float64 vector [n].

    Raises:
      ConfigError: if a value is not finite: what diverged is left out (and said) by the caller.
    """
    out = np.asarray(values, np.float64).reshape(-1)
    require(bool(np.isfinite(out).all()), name, out.tolist(), "a list of finite numbers")
    return out


def check_confidence(confidence: float) -> None:
    """Raises `ConfigError` unless `confidence` lies in [0.5, 1)."""
    require(0.5 <= confidence < 1, "confidence", confidence, "a number in [0.5, 1)")


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean; NaN of nothing, and of equal values exactly this value.

    Example:
      >>> mean([1.0, 2.0, 6.0])
      3.0
    """
    x = sample(values)
    if x.size == 0:
        return math.nan
    return float(x[0]) if np.ptp(x) == 0 else float(np.mean(x))


def sd(values: Sequence[float]) -> float:
    """The sample standard deviation, `sqrt(sum (x - mean)^2 / (n - 1))`; NaN below two values.

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
    least_sd: float = 0.0,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Interval:
    """Student's interval of a mean, `mean -+ t_(n-1, (1 + confidence)/2) sd / sqrt(n)`, within `bounds`.

    The formula knows nothing of the values' bounds, and few accuracies near 1 give an end above it. The mean lies
    within the bounds, so to cut the interval there takes no possible mean away: its coverage stays as it was.

    Args:
      values: [n] numbers, one a seed.
      confidence: in [0.5, 1).
      least_sd: the sd is taken to be at least this (`jopt.ablate.paired.compare` says why).
      bounds: the smallest and the largest value that there can be: (0, 1) of a share, as an accuracy is.

    Returns:
      The interval; unknown (NaN) below two values.

    Raises:
      ConfigError: for a value out of bounds, or a confidence that is not in [0.5, 1).

    Reference:
      Student 1908.

    Example:
      >>> interval = t_interval([1.0, 2.0, 3.0, 4.0, 5.0])
      >>> round(interval.low, 4), round(interval.high, 4)
      (1.0368, 4.9632)
      >>> interval = t_interval([0.95, 1.0], bounds=(0, 1))  # without them -+ 0.3177
      >>> round(interval.low, 4), round(interval.high, 4)
      (0.6573, 1.0)
    """
    from scipy import special

    check_confidence(confidence)
    x = sample(values)
    least, most = bounds
    inside = bool(((x >= least) & (x <= most)).all())
    require(inside, "values", x.tolist(), f"numbers in [{least}, {most}]")
    if x.size < 2:
        return UNKNOWN
    half = special.stdtrit(x.size - 1, (1 + confidence) / 2) * max(sd(values), least_sd) / math.sqrt(x.size)
    return Interval(max(float(mean(values) - half), float(least)), min(float(mean(values) + half), float(most)))


def interquartile_mean(values: Sequence[float]) -> float:
    """The mean of the middle half: a quarter of the values, rounded down, is left out at each end.

    This is SciPy's `trim_mean(values, 0.25)`, as in the authors' own code: of 5 values the middle 3, of 4 the
    middle 2, of 10 the middle 6. Below 4 values it is the mean.

    Returns:
      The interquartile mean; NaN of nothing.

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
    """The bootstrap interval of a mean, bias-corrected and accelerated (BCa).

    Where BCa is not defined (two values, or a sample whose jackknife does not vary) it is the percentile interval.
    Values that are all equal give an interval of no width, which says nothing of what other seeds would do.

    Args:
      values: [n] numbers, one a seed.
      confidence: in [0.5, 1).
      statistic: 'mean' or 'interquartile_mean'.
      resamples: how many samples of n are drawn, with replacement.

    Returns:
      The interval; unknown (NaN) below two values. It is a function of the arguments alone. With few values it is
      too narrow: at n = 5 it holds the mean in less than nine cases of ten where 95 % are asked for.

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


def _statistic(name: str) -> Callable[..., Any]:
    from scipy import stats

    return np.mean if name == "mean" else lambda x, axis: stats.trim_mean(x, 0.25, axis=axis)


def _bootstrap(
    x: np.ndarray, confidence: float, statistic: Callable[..., Any], resamples: int, method: Any
) -> tuple[float, float]:
    import warnings

    from scipy import stats

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # A BCa that is not defined is seen in its ends, which are then NaN.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        found = stats.bootstrap(
            (x,),
            statistic,
            n_resamples=resamples,
            confidence_level=confidence,
            method=method,
            vectorized=True,
            rng=np.random.default_rng(BOOTSTRAP_SEED),
        ).confidence_interval
    return float(found.low), float(found.high)
