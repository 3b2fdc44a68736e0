"""The Pareto front: what nothing else beats in one respect without losing in the other."""

from collections.abc import Sequence


def front(costs: Sequence[float], gains: Sequence[float]) -> list[int]:
    """The points for which no other costs at most as much and gains at least as much, one of the two strictly.

    Args:
      costs: lower is better.
      gains: higher is better.

    Returns:
      Their places, by rising cost. Equal points are all in it, or none is.

    Example:
      >>> front([4.0, 2.0, 1.0, 3.0, 2.0], [0.9, 0.8, 0.5, 0.7, 0.8])
      [2, 1, 4, 0]
    """
    order = sorted(range(len(costs)), key=lambda i: (costs[i], -gains[i], i))
    found: list[int] = []
    for i in order:
        last = found[-1] if found else None
        if last is None or gains[i] > gains[last] or (gains[i] == gains[last] and costs[i] == costs[last]):
            found.append(i)
    return found
