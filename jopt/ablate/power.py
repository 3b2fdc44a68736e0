"""What a number of seeds can show: the smallest difference, and the seeds that a difference needs."""

import functools
import math
from typing import Any

from jopt.config import require


def power(difference: float, sd: float, n: int, alpha: float = 0.05) -> float:
    """The chance that n seeds show a true difference, in the two-sided paired t test.

    `1 - F(t) + F(-t)` with F the noncentral t distribution of n - 1 degrees of freedom and noncentrality
    `difference sqrt(n) / sd`, and t the test's critical value.

    Args:
      difference: the true mean of the paired differences.
      sd: their standard deviation, above 0.
      n: seeds, at least 2.
      alpha: level of the test, in (0, 1); divided by the number of comparisons for Bonferroni's correction.

    Reference:
      Cohen 1988, section 2.

    Example:
      >>> round(power(1.0, 1.0, 10), 3)
      0.803
    """
    _check(sd, n, alpha)
    return _power(abs(difference) / sd * math.sqrt(n), n, alpha)


def detectable(sd: float, n: int, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest true difference that n seeds show with the chance `power`, in the two-sided paired t test.

    Args:
      sd: standard deviation of the paired differences, at least 0.
      n: seeds.
      alpha: level of the test, in (0, 1).
      power: in (alpha, 1).

    Returns:
      The difference, in the unit of `sd`; NaN below two seeds. A smaller one may well be there: that it was not
      found says little.

    Raises:
      ConfigError: for a level or a power that is not in its range.

    Reference:
      Cohen 1988, section 2; Bouthillier et al. 2021 for machine learning.

    Example:
      >>> round(detectable(1.0, 5), 3), round(detectable(1.0, 10), 3)
      (1.682, 0.996)
    """
    require(0 < alpha < power < 1, "power", power, f"in (alpha, 1), alpha being {alpha}")
    if n < 2 or math.isnan(sd):
        return math.nan
    if sd == 0:
        return 0.0
    _check(sd, n, alpha)
    return _shift(n, alpha, power) * sd / math.sqrt(n)


def _check(sd: float, n: int, alpha: float) -> None:
    require(sd > 0, "sd", sd, "above 0")
    require(n >= 2, "n", n, "at least 2")
    require(0 < alpha < 1, "alpha", alpha, "a number in (0, 1)")


# A report asks this of every comparison, with the same numbers each time.
@functools.lru_cache(maxsize=256)
def _shift(n: int, alpha: float, power: float) -> float:
    """The noncentrality at which the test has this power."""
    from scipy import optimize

    high = 1.0
    while _power(high, n, alpha) < power:
        high *= 2
    found: Any = optimize.brentq(lambda shift: _power(shift, n, alpha) - power, 0.0, high, xtol=1e-10)
    return float(found)


def _power(shift: float, n: int, alpha: float) -> float:
    from scipy import special

    critical = special.stdtrit(n - 1, 1 - alpha / 2)
    missed, other_side = (float(special.nctdtr(n - 1, shift, t)) for t in (critical, -critical))
    if math.isnan(missed):
        # SciPy gives up on shifts of thousands, where T is shift / (chi / sqrt(n - 1)) for all that matters.
        missed = float(special.chdtrc(n - 1, (n - 1) * (shift / critical) ** 2))
    # It says NaN far out in the other tail too; what lies there is below the normal tail beyond `shift`.
    return 1 - missed + (0.0 if math.isnan(other_side) else other_side)
