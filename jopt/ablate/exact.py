"""Exact tests of paired differences: sign flips and Wilcoxon's signed ranks."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jopt.ablate.intervals import sample

EXACT_UP_TO = 16
SAMPLED_FLIPS = 99_999
FLIPS_SEED = 0
"""Above `EXACT_UP_TO` differences the flips are drawn from `numpy.random.default_rng(0)`."""


def smallest_p(n: int) -> float:
    """The smallest two-sided p that n differences can give in an exact test, `2 / 2^n`.

    Even where all n seeds agree, two of the 2^n ways to give them signs are as extreme. So five seeds cannot be
    significant at 0.05 by such a test, whatever they show; six can, in a single comparison.

    Args:
      n: how many differences, none of them zero.

    Returns:
      The bound; above `EXACT_UP_TO` differences at least 1 / (1 + `SAMPLED_FLIPS`). 1 where there are none.

    Example:
      >>> smallest_p(5), smallest_p(6), smallest_p(10)
      (0.0625, 0.03125, 0.001953125)
    """
    if n <= EXACT_UP_TO:
        return min(1.0, 2.0 ** (1 - n))
    return 1 / (1 + SAMPLED_FLIPS)


def sign_flip_p(differences: Sequence[float], tolerance: float = 0.0) -> float:
    """The two-sided p of the sign-flip (paired permutation) test that the differences are symmetric around zero.

    `p = #{s in {-1, 1}^n : |sum s_i d_i| >= |sum d_i|} / 2^n`, all of them for n <= 16. For more, 99 999 random
    flips and the observed one: `p = (1 + #) / 100 000`, which is valid and no finer than 0.00001.

    Args:
      differences: [n] numbers, one a seed. Zeros stay: they flip to themselves.
      tolerance: sums this close, times n, count as equal: rounding must not make a p smaller.

    Returns:
      p, at least `smallest_p(n)`; NaN of nothing.

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
    least = abs(d.sum()) - max(tolerance * n, 1e-12 * float(np.abs(d).sum()))
    if n <= EXACT_UP_TO:
        # Half of the flips will do: the other half are their negatives.
        bits = np.arange(2 ** (n - 1))[:, None] >> np.arange(n)[None, :]
        sums = np.abs((1.0 - 2.0 * (bits & 1)) @ d)
        return float(np.mean(sums >= least))
    rng = np.random.default_rng(FLIPS_SEED)
    signs = 1.0 - 2.0 * rng.integers(0, 2, size=(SAMPLED_FLIPS, n), dtype=np.int8)
    return float((1 + np.sum(np.abs(signs @ d) >= least)) / (1 + SAMPLED_FLIPS))


def wilcoxon_p(differences: Sequence[float], tolerance: float = 0.0) -> float:
    """The two-sided p of Wilcoxon's signed-rank test, exact with zeros and ties too.

    Zeros are left out (Wilcoxon's own rule); equal sizes share the mean of their ranks. Without ties this is
    SciPy's `wilcoxon(d, method='exact')`; with ties, where SciPy's exact table does not hold, the ranks' own
    signs are flipped (`sign_flip_p`, exact for n <= 16, sampled above).

    Args:
      differences: [n] numbers, one a seed.
      tolerance: sizes this close are equal, and a difference this small is zero.

    Returns:
      p; 1 if all differences are zero, NaN of nothing.

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
    # Each size becomes the first of those it cannot be told from.
    starts = np.concatenate([[True], np.diff(sizes) > tolerance])
    classes = np.cumsum(starts)[np.searchsorted(sizes, np.abs(d))]
    if classes.max() == d.size and d.size > EXACT_UP_TO:
        found: Any = stats.wilcoxon(d, method="exact")
        return float(found.pvalue)
    return sign_flip_p(np.sign(d) * stats.rankdata(classes), 0.0)
