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
    not_higher = (matrix[None, :] <= matrix[:, None]).all(-1)
    lower = (matrix[None, :] < matrix[:, None]).any(-1)
    dominated = (not_higher & lower).any(1)
    # lexsort sorts by its last key first, and is stable: equal points stay in order.
    order = np.lexsort(matrix.T[::-1])
    return [int(index) for index in order if not dominated[index]]
