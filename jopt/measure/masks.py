"""Which weights are kept: sparsity by layer, and how far two masks agree."""

from typing import Any, NamedTuple

import numpy as np

from jopt.measure.noise import paired_leaves
from jopt.measure.size import layers


class Overlap(NamedTuple):
    """How far two masks agree, in exact counts.

    Attributes:
      entries: of each mask.
      before: entries that the first keeps.
      after: entries that the second keeps.
      both: entries that both keep.
    """

    entries: int
    before: int
    after: int
    both: int

    @property
    def union(self) -> int:
        """Entries that either keeps."""
        return self.before + self.after - self.both

    @property
    def iou(self) -> float:
        """Intersection over union (Jaccard's index); 1.0 where neither keeps anything."""
        return self.both / self.union if self.union else 1.0

    @property
    def retained(self) -> float:
        """Share of what the first keeps that the second keeps too; 1.0 where it keeps nothing."""
        return self.both / self.before if self.before else 1.0

    @property
    def churn(self) -> float:
        """Share of all entries on which the masks differ: pruned or grown back in between."""
        return (self.union - self.both) / self.entries if self.entries else 0.0


def sparsity_by_layer(params: Any) -> dict[str, float]:
    """The share of zeros of each array, by path, in leaf order; 0.0 for an empty array.

    Args:
      params: a pytree of concrete arrays, or of masks.

    Raises:
      TypeError: if a leaf has no values to count.

    Example:
      >>> sparsity_by_layer({"bias": np.ones(3), "kernel": np.eye(4)})
      {'bias': 0.0, 'kernel': 0.75}
    """
    return {
        row.path: (row.parameters - row.nonzero_parameters) / row.parameters if row.parameters else 0.0
        for row in layers(params)
    }


def overlap(before: Any, after: Any) -> Overlap:
    """How far two trees of masks agree.

    A random mask that keeps the share d of the entries has an expected `retained` of d: what is above it is
    agreement.

    Args:
      before: a pytree of boolean arrays, True for kept; or of pruned weights, whose zeros are pruned. A leaf that
        is None, for a parameter without a mask, is left out.
      after: a pytree of the same structure and shapes, say of a later step.

    Returns:
      An `Overlap` over all entries.

    Raises:
      ValueError: if structures or shapes differ.

    Example:
      >>> found = overlap({"w": np.array([1, 1, 0, 0, 1]) > 0}, {"w": np.array([1, 0, 0, 1, 1]) > 0})
      >>> found, found.iou, round(found.retained, 3), found.churn
      (Overlap(entries=5, before=3, after=3, both=2), 0.5, 0.667, 0.4)
    """
    found = overlap_by_layer(before, after).values()
    return Overlap(*(sum(counts) for counts in zip(*found, strict=True))) if found else Overlap(0, 0, 0, 0)


def overlap_by_layer(before: Any, after: Any) -> dict[str, Overlap]:
    """The `overlap` of each array, by path, in leaf order."""
    return {path: _overlap(a != 0, b != 0) for path, a, b in paired_leaves(before, after)}


def _overlap(a: np.ndarray, b: np.ndarray) -> Overlap:
    return Overlap(a.size, int(np.count_nonzero(a)), int(np.count_nonzero(b)), int(np.count_nonzero(a & b)))
