"""What a source gives: official splits as arrays, before layout, subsets and statistics."""

from typing import NamedTuple

import numpy as np


class Split(NamedTuple):
    """Examples, as a pytree of arrays on the host or on a device."""

    inputs: np.ndarray  # [n, ...], uint8 (raw units)
    labels: np.ndarray  # int32 [n]


class Source(NamedTuple):
    """A data set as its makers split it."""

    splits: dict[str, Split]  # 'train' and 'test'; 'validation' where the set has one
    num_classes: int
    scale: float  # the largest value that an input can have, in raw units
