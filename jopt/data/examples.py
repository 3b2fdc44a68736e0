"""Examples: splits as their makers made them, and stratified selections of examples.

Everything is NumPy on the host, before layout, normalization and statistics.
"""

import hashlib
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jaxtyping import Int, PyTree, Shaped
from numpy.typing import ArrayLike

T = TypeVar("T")


class Split(NamedTuple):
    """Examples: pytrees of arrays whose first axis is that of the examples."""

    inputs: PyTree[Shaped[Any, "examples ..."]]
    targets: PyTree[Shaped[Any, "examples ..."]]
    weights: Shaped[Any, "examples ..."] | tuple[()] = ()  # of the losses, float32, at least 0; (): all are 1


class Raw(NamedTuple):
    """A data set as its makers split it, before anything is held out or normalized."""

    splits: dict[str, Split]  # 'train' and 'test'; 'validation' where the set has one
    num_classes: int | None  # of integer targets; None: targets are no classes
    scale: float = 1.0  # the largest value that a uint8 input can have, in raw units
    tokens: bool = False  # uint8 inputs are tokens, not numbers to normalize


def examples_in(tree: PyTree) -> int:
    """The number of examples of a pytree of arrays.

    Example:
      >>> examples_in({"a": np.zeros((3, 2)), "b": np.zeros(3)})
      3
    """
    return jax.tree.leaves(tree)[0].shape[0]


def take(tree: T, rows: Int[np.ndarray, " rows"]) -> T:
    """The examples of these rows, of a pytree of arrays on the host."""
    return jax.tree.map(lambda array: array[rows], tree)


class LabelError(ValueError):
    """A label is not a class.

    Args:
      field: what the labels are called.
      value: the first wrong label, or the dtype where labels are no integers.
      accepted: what would be accepted.
      where: the end of the message.
    """

    def __init__(self, field: str, value: object, accepted: str, where: str = ""):
        super().__init__(f"{field} must be {accepted}, got {value}{where}")
        self.field, self.value, self.accepted, self.where = field, value, accepted, where

    def __reduce__(self):
        return type(self), (self.field, self.value, self.accepted, self.where)


def check_labels(labels: ArrayLike, classes: int, name: str = "labels") -> None:
    """Raises `LabelError` for a label that is not a class.

    In a program nothing can be raised, and a loss that picks the logit of a class would pick none for it.

    Args:
      labels: integers, any shape.
      classes: how many classes there are.
      name: what the message calls the labels.

    Raises:
      LabelError: a `ValueError` that names the first wrong label, its index and what would be accepted.

    Example:
      >>> check_labels(np.array([0, 1, -1]), 2, "labels of 'train'")
      Traceback (most recent call last):
      ...
      jopt.data.examples.LabelError: labels of 'train' must be integers in [0, 2), got -1 at index 2 (1 of 3 labels
      are out of range)
    """
    labels = np.asarray(labels)
    accepted = f"integers in [0, {classes})"
    if not np.issubdtype(labels.dtype, np.integer):
        raise LabelError(name, labels.dtype, accepted)
    wrong = (labels < 0) | (labels >= classes)
    if count := int(np.count_nonzero(wrong)):
        index = tuple(int(i[0]) for i in np.nonzero(wrong))
        at = index[0] if len(index) == 1 else index
        where = f" at index {at} ({count} of {labels.size} labels are out of range)"
        raise LabelError(name, int(labels[index]), accepted, where)


def stratified_order(
    inputs: Shaped[np.ndarray, "examples ..."], labels: Int[np.ndarray, " examples"], seed: int = 0
) -> Int[np.ndarray, " examples"]:
    """A permutation, every prefix of which is stratified by label.

    Within a class, examples are ranked by the SHA-256 of `seed`, label and content, so the order follows from
    the data alone: not from the order in which a source yields them, nor from a random number generator. The
    classes are then interleaved: rank r of a class with m examples stands at `(r + 1/2) / m`. A prefix of k
    holds of every class its share of k, to within one example. Prefixes are nested.

    Args:
      inputs: array [n, ...].
      labels: integer array [n].
      seed: another seed gives another order.

    Returns:
      int64 [n], a permutation of 0..n-1.

    Example:
      >>> labels = np.array([0, 0, 0, 0, 1, 1])
      >>> order = stratified_order(np.arange(6, dtype=np.uint8)[:, None], labels)
      >>> sorted(order.tolist()), labels[order[:3]].tolist()
      ([0, 1, 2, 3, 4, 5], [0, 1, 0])
    """
    prefix = f"{seed}:".encode()
    hashes = [hashlib.sha256(prefix + x.tobytes()).digest() for x in np.ascontiguousarray(inputs)]
    # The index breaks ties between identical examples, between which there is nothing to choose.
    by_hash = sorted(range(len(hashes)), key=lambda i: (hashes[i], i))
    position = np.empty(len(labels))
    sorted_labels = np.asarray(labels)[by_hash]
    for label in np.unique(labels):
        members = np.asarray(by_hash)[sorted_labels == label]
        # Without the half the first example of every class would stand at 0, however small its class is.
        position[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.lexsort((labels, position))


def carve(
    inputs: Shaped[np.ndarray, "examples ..."],
    labels: Int[np.ndarray, " examples"],
    sizes: Sequence[int],
    seed: int = 0,
) -> list[Int[np.ndarray, " part"]]:
    """Index sets of the given sizes, disjoint and stratified, each in ascending order.

    Args:
      inputs: array [n, ...].
      labels: integer array [n].
      sizes: how many examples each part takes, adding up to at most n.
      seed: of `stratified_order`.

    Returns:
      One int64 array a size.

    Example:
      >>> parts = carve(np.arange(6, dtype=np.uint8)[:, None], np.array([0, 0, 0, 1, 1, 1]), [2, 4])
      >>> [len(p) for p in parts], sorted(np.concatenate(parts).tolist())
      ([2, 4], [0, 1, 2, 3, 4, 5])
    """
    order = stratified_order(inputs, labels, seed)
    edges = np.cumsum([0, *sizes])
    # In ascending order, because a memory-mapped array is read from the disk in that order.
    return [np.sort(order[a:b]) for a, b in itertools.pairwise(edges)]
