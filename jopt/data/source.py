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


def check_labels(labels: np.ndarray, classes: int, name: str = "labels") -> None:
    """Raises `ValueError` for a label that is no class: a loss would only be smaller by such an example.

    Args:
      labels: integers, any shape.
      classes: how many classes there are.
      name: what the message calls the labels.

    Raises:
      ValueError: names the first wrong label, its index and what would be accepted.

    Example:
      >>> check_labels(np.array([0, 1, -1]), 2, "labels of 'train'")
      Traceback (most recent call last):
      ...
      ValueError: labels of 'train' must be integers in [0, 2), got -1 at index 2 (1 of 3 labels are out of range)
    """
    labels = np.asarray(labels)
    accepted = f"{name} must be integers in [0, {classes})"
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{accepted}, got {labels.dtype}")
    wrong = (labels < 0) | (labels >= classes)
    if count := int(np.count_nonzero(wrong)):
        index = tuple(int(i[0]) for i in np.nonzero(wrong))
        at = index[0] if len(index) == 1 else index
        raise ValueError(
            f"{accepted}, got {labels[index]} at index {at} ({count} of {labels.size} labels are out of range)"
        )
