"""How two models differ: in their masks, in the values of their parameters, in single predictions."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from numpy.typing import ArrayLike

from jopt.measure.size import layers, zero_share
from jopt.rules import named_leaves
from jopt.typing import Params


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


def sparsity_by_layer(params: Params) -> dict[str, float]:
    """The share of zeros of each array, by path, in leaf order; 0.0 for an empty array.

    Args:
      params: a pytree of concrete arrays, or of masks.

    Raises:
      TypeError: if a leaf has no values to count.

    Example:
      >>> sparsity_by_layer({"bias": np.ones(3), "kernel": np.eye(4)})
      {'bias': 0.0, 'kernel': 0.75}
    """
    return {row.path: zero_share(row.parameters, row.nonzero_parameters) for row in layers(params)}


def overlap(before: Params, after: Params) -> Overlap:
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
      >>> masks = overlap({"w": np.array([1, 1, 0, 0, 1]) > 0}, {"w": np.array([1, 0, 0, 1, 1]) > 0})
      >>> masks, masks.iou, round(masks.retained, 3), masks.churn
      (Overlap(entries=5, before=3, after=3, both=2), 0.5, 0.667, 0.4)
    """
    overlaps = overlap_by_layer(before, after).values()
    # Counts are summed and not shares averaged, so a large layer weighs as much as its entries.
    return Overlap(*(sum(counts) for counts in zip(*overlaps, strict=True))) if overlaps else Overlap(0, 0, 0, 0)


def overlap_by_layer(before: Params, after: Params) -> dict[str, Overlap]:
    """The `overlap` of each array, by path, in leaf order."""
    return {path: _overlap(a != 0, b != 0) for path, a, b in paired_leaves(before, after)}


def _overlap(a: np.ndarray, b: np.ndarray) -> Overlap:
    return Overlap(a.size, int(np.count_nonzero(a)), int(np.count_nonzero(b)), int(np.count_nonzero(a & b)))


def sqnr(reference: Params, quantized: Params) -> float:
    """Signal to quantization noise ratio over all arrays of a tree, in decibels.

    10 log10(sum x^2 / sum (x - q)^2), in float64. A uniform quantizer gains 20 log10 2 = 6.02 dB with each bit, as
    its step halves (Widrow and Kollar, 2008, *Quantization Noise*). Equal trees have inf, an all-zero reference
    with noise -inf.

    Args:
      reference: a pytree of concrete arrays, x.
      quantized: a pytree of the same structure and shapes, q.

    Returns:
      The ratio.

    Raises:
      ValueError: if structures or shapes differ.

    Example:
      >>> sqnr({"w": np.float32([3.0, 4.0])}, {"w": np.float32([3.0, 4.5])})     # 10 log10(25 / 0.25)
      20.0
    """
    pairs = [_energies(x, q) for _, x, q in paired_leaves(reference, quantized)]
    return _decibels(sum(s for s, _ in pairs), sum(n for _, n in pairs))


def sqnr_by_layer(reference: Params, quantized: Params) -> dict[str, float]:
    """The ratio of `sqnr` of each array, by path, in leaf order.

    Example:
      >>> sqnr_by_layer({"b": np.ones(2), "w": np.ones(2)}, {"b": np.ones(2), "w": np.array([1.0, 0.8])})
      {'b': inf, 'w': 16.98...}
    """
    return {path: _decibels(*_energies(x, q)) for path, x, q in paired_leaves(reference, quantized)}


def paired_leaves(a: Params, b: Params) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """The arrays of two trees side by side, by path.

    Raises:
      ValueError: if the trees do not have the same paths and shapes.
    """
    first, second = dict(named_leaves(a)), dict(named_leaves(b))
    if odd := sorted(set(first) ^ set(second)):
        raise ValueError(f"the trees must have the same parameters, but only one of them has {', '.join(odd)}")
    pairs = []
    for path, leaf in first.items():
        x, y = np.asarray(leaf), np.asarray(second[path])
        if x.shape != y.shape:
            raise ValueError(f"{path} must have one shape in both trees, got {x.shape} and {y.shape}")
        pairs.append((path, x, y))
    return pairs


def _energies(reference: np.ndarray, quantized: np.ndarray) -> tuple[float, float]:
    """The sums of squares of the values and of the errors."""
    # In float64, because a float32 sum of millions of squares would lose the small ones.
    x, q = reference.astype(np.float64), quantized.astype(np.float64)
    return float(np.sum(x * x)), float(np.sum((x - q) ** 2))


def _decibels(signal: float, noise: float) -> float:
    # Equal trees first: an all-zero tree that is kept as it is has no noise, so it is infinitely good and not bad.
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else math.nan if math.isnan(signal) else -math.inf


class Changes(NamedTuple):
    """How the predictions of two models differ, in exact counts of examples.

    Attributes:
      examples: all.
      both_correct: right before and after.
      lost: right before, wrong after.
      gained: wrong before, right after.
      moved: wrong before and after, in different classes.
    """

    examples: int
    both_correct: int
    lost: int
    gained: int
    moved: int

    @property
    def churn(self) -> float:
        """Share of examples whose predicted class differs; 0.0 without examples."""
        return (self.lost + self.gained + self.moved) / self.examples if self.examples else 0.0

    @property
    def accuracy_change(self) -> float:
        """Accuracy after less accuracy before."""
        return (self.gained - self.lost) / self.examples if self.examples else 0.0

    @property
    def lost_share(self) -> float:
        """Share of the examples that were right before that are wrong after; 0.0 if there were none."""
        correct = self.both_correct + self.lost
        return self.lost / correct if correct else 0.0


class ClassChange(NamedTuple):
    """One class, before and after.

    Attributes:
      label: the class.
      examples: of that class.
      correct_before: of these, how many the first model had right.
      correct_after: how many the second has right.
    """

    label: int
    examples: int
    correct_before: int
    correct_after: int

    @property
    def change(self) -> float:
        """Accuracy on the class after less before; NaN without examples."""
        return (self.correct_after - self.correct_before) / self.examples if self.examples else float("nan")


def churn(before: ArrayLike, after: ArrayLike) -> float:
    """Share of the decisions that differ between two models: of classes, or of labels or positions of examples.

    Milani Fard, Cormier, Canini and Gupta (2016), *Launch and iterate: reducing prediction churn*.
    Two models of one accuracy can differ on many examples; churn is at least the change of accuracy.

    Args:
      before: what a model decides, such as classes: integers [examples, ...].
      after: the same of the other model, on the same examples.

    Returns:
      A number in [0, 1]; 0.0 without examples.

    Raises:
      ValueError: if these are not integers of one shape, or one is below 0.

    Example:
      >>> churn([0, 1, 2, 2], [0, 1, 1, 2])
      0.25
    """
    before, after = np.asarray(before), np.asarray(after)
    if before.shape == after.shape:
        before, after = before.reshape(-1), after.reshape(-1)
    before, after = _classes(before=before, after=after)
    return float(np.count_nonzero(before != after) / before.size) if before.size else 0.0


def changes(before: ArrayLike, after: ArrayLike, labels: ArrayLike) -> Changes:
    """Counts on which examples two models agree, and which of them is right.

    Args:
      before: predicted classes of the first model, integers [examples].
      after: those of the second.
      labels: the true classes.

    Raises:
      ValueError: if these are not integer vectors of one length, or a class is below 0.

    Example:
      >>> both = changes(before=[0, 1, 2, 3], after=[0, 2, 1, 1], labels=[0, 1, 1, 4])
      >>> both, both.churn, both.accuracy_change, both.lost_share
      (Changes(examples=4, both_correct=1, lost=1, gained=1, moved=1), 0.75, 0.0, 0.5)
    """
    a, b, y = _classes(before=before, after=after, labels=labels)
    right_before, right_after = a == y, b == y
    return Changes(
        int(y.size),
        int(np.count_nonzero(right_before & right_after)),
        int(np.count_nonzero(right_before & ~right_after)),
        int(np.count_nonzero(~right_before & right_after)),
        int(np.count_nonzero(~right_before & ~right_after & (a != b))),
    )


def class_changes(
    before: ArrayLike, after: ArrayLike, labels: ArrayLike, classes: int | None = None
) -> list[ClassChange]:
    """How many examples of each class two models have right: a mean can hide a class that is lost.

    Hooker et al. (2019), *What do compressed deep neural networks forget?*: the loss falls on few classes.

    Args:
      before: predicted classes of the first model, integers [examples].
      after: those of the second.
      labels: the true classes, in [0, classes).
      classes: how many there are; None for one more than the largest label.

    Returns:
      A `ClassChange` for each class, those without examples too.

    Raises:
      ValueError: if these are not integer vectors of one length, a class is below 0, or a label is out of range.

    Example:
      >>> for row in class_changes(before=[0, 0, 1, 1], after=[0, 1, 1, 1], labels=[0, 0, 1, 0]):
      ...     print(row.label, row.examples, row.correct_before, row.correct_after, round(row.change, 2))
      0 3 2 1 -0.33
      1 1 1 1 0.0
    """
    a, b, y = _classes(before=before, after=after, labels=labels)
    classes = (int(y.max()) + 1 if y.size else 0) if classes is None else classes
    if y.size and y.max() >= classes:
        index = int(np.argmax(y >= classes))
        raise ValueError(f"labels must lie in [0, {classes}), got {y[index]} at index {index}")
    # A class without test examples gets a row too: to leave
    # it out would look like a class that nothing happened to.
    counts = [np.bincount(labels, minlength=classes) for labels in (y, y[a == y], y[b == y])]
    return [ClassChange(label, *(int(count[label]) for count in counts)) for label in range(classes)]


def _classes(**vectors: ArrayLike) -> list[Int[np.ndarray, " examples"]]:
    """The vectors as arrays, checked; their names are for the messages."""
    arrays = {name: np.asarray(v) for name, v in vectors.items()}
    for name, v in arrays.items():
        if v.ndim != 1 or (v.size and not np.issubdtype(v.dtype, np.integer)):
            raise ValueError(f"{name} must be a vector of integer classes, got {v.dtype} of shape {v.shape}")
        if v.size and v.min() < 0:
            index = int(np.argmax(v < 0))
            raise ValueError(f"{name} must be at least 0, got {v[index]} at index {index}")
    if len({v.size for v in arrays.values()}) > 1:
        raise ValueError("one class for each example: got " + ", ".join(f"{v.size} {n}" for n, v in arrays.items()))
    # An empty list is an array of float64, which could not index anything.
    return [v if v.size else v.astype(int) for v in arrays.values()]
