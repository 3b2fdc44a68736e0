"""The Pareto front: the points that no other point beats in every respect."""

from collections.abc import Sequence

import numpy as np


def pareto_front(costs: Sequence[Sequence[float]]) -> list[int]:
    """The indices of the points that no other point dominates, by the first cost, then the next.

    A point dominates another if none of its costs is higher and one is lower. Equal points are all on the front, or
    none is. A quantity of which more is better is given with its sign changed.

    Args:
      costs: [points, costs] finite numbers; less is better.

    Example:
      >>> pareto_front([(4, 0.0), (2, 1.0), (3, 1.0), (1, 5.0)])
      [3, 1, 0]
      >>> accuracies, sizes = [0.9, 0.8, 0.7], [300, 100, 200]
      >>> pareto_front([(size, -accuracy) for size, accuracy in zip(sizes, accuracies)])
      [1, 0]
    """
    matrix = np.asarray(costs, np.float64)
    if not matrix.size:
        return []
    # All pairs at once: a report has at most a few thousand points, and this holds for any number of costs.
    not_higher = np.all(matrix[None, :] <= matrix[:, None], axis=-1)
    lower = np.any(matrix[None, :] < matrix[:, None], axis=-1)
    dominated = np.any(not_higher & lower, axis=1).tolist()
    # lexsort sorts by its last key first. It is stable, so equal points stay in their order.
    return [index for index in np.lexsort(matrix.T[::-1]).tolist() if not dominated[index]]
