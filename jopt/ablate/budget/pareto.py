"""The Pareto set: the points that no other beats in every respect."""

import math
from collections.abc import Sequence

from jopt.ablate.budget.estimates import Estimate


def front(costs: Sequence[Sequence[float]]) -> list[int]:
    """The places of the points that none dominates, in order of the first cost, then the next.

    A point dominates another if it costs at most as much in every respect, and less in one. Of equal points all
    stay.

    Args:
      costs: for each point its costs, finite numbers; less is better.

    Example:
      >>> front([(4, 0.0), (2, 1.0), (3, 1.0), (1, 5.0)])
      [3, 1, 0]
    """

    def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
        return all(x <= y for x, y in zip(a, b, strict=True)) and tuple(a) != tuple(b)

    kept = [i for i, own in enumerate(costs) if not any(dominates(other, own) for other in costs)]
    return sorted(kept, key=lambda i: (*costs[i], i))


def pareto(estimates: Sequence[Estimate], with_latency: bool = False) -> list[Estimate]:
    """The points whose accuracy nothing smaller (and, if asked for, faster) reaches, by rising bytes.

    Accuracy is compared as the drop against the control, for points differ in the seeds that they have. Points of
    which a seed diverged are left out, and so is everything if no seed of the control finished.

    Args:
      estimates: of all points.
      with_latency: whether latency is a cost too; then all points must have been measured.
    """
    fine = [e for e in estimates if not e.diverged and math.isfinite(e.drop)]
    # Accuracies are float32 numbers: what differs by less than a thousandth of a point does not differ.
    costs = [(e.bytes, round(e.drop, 3), *([e.latency_ms or 0.0] if with_latency else [])) for e in fine]
    return [fine[i] for i in front(costs)]
