"""Several comparisons at once: Holm's correction of their p-values."""

import math
from collections.abc import Sequence

import numpy as np

from jopt.config import require


def holm(p: Sequence[float], comparisons: int | None = None) -> list[float]:
    """Holm's step-down adjusted p-values: the chance of any false rejection stays below the level.

    With p_(1) <= ... <= p_(m), the k-th is `min(1, max_(j <= k) (m - j + 1) p_(j))`.

    Args:
      p: p-values in [0, 1]; NaN stands for a comparison that could not be made.
      comparisons: how many were planned, m; None: those that are not NaN.

    Returns:
      The adjusted ones, in the order of `p`; NaN stays NaN.

    Raises:
      ConfigError: for a p outside [0, 1], or fewer planned comparisons than made ones.

    Reference:
      Holm 1979.

    Example:
      >>> holm([0.01, 0.04, 0.03])
      [0.03, 0.06, 0.06]
    """
    values = np.asarray(p, np.float64).reshape(-1)
    known = np.flatnonzero(~np.isnan(values))
    m = len(known) if comparisons is None else comparisons
    require(m >= len(known), "comparisons", comparisons, f"at least the {len(known)} that were made")
    inside = bool(((values[known] >= 0) & (values[known] <= 1)).all())
    require(inside, "p", values.tolist(), "a list of numbers in [0, 1], or NaN")
    adjusted = [math.nan] * len(values)
    largest = 0.0
    for rank, index in enumerate(known[np.argsort(values[known], kind="stable")]):
        largest = max(largest, min(1.0, (m - rank) * float(values[index])))
        adjusted[index] = largest
    return adjusted
