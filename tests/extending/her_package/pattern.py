"""A pruning pattern: pairs of neighbouring columns are kept or pruned together."""

import dataclasses
from typing import ClassVar

import numpy as np

from jopt.prune import Pattern


@dataclasses.dataclass(frozen=True)
class Pairs(Pattern):
    """Groups of `width` columns of the last axis."""

    unit: ClassVar[str] = "pairs"
    width: int = 2

    def labels(self, shape):
        """The group of each entry."""
        return np.broadcast_to(np.arange(shape[-1]) // self.width, shape)
