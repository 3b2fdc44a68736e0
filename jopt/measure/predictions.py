"""What compression does to single predictions, which one accuracy hides."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


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
    """Share of examples on which two models predict different classes.

    Milani Fard, Cormier, Canini and Gupta (2016), *Launch and iterate: reducing prediction churn*.
    Two models of one accuracy can differ on many examples; churn is at least the change of accuracy.

    Args:
      before: predicted classes, integers [examples].
      after: those of the other model, on the same examples.

    Returns:
      A number in [0, 1]; 0.0 without examples.

    Raises:
      ValueError: if these are not integer vectors of one length, or a class is below 0.

    Example:
      >>> churn([0, 1, 2, 2], [0, 1, 1, 2])
      0.25
    """
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
      >>> found = changes(before=[0, 1, 2, 3], after=[0, 2, 1, 1], labels=[0, 1, 1, 4])
      >>> found, found.churn, found.accuracy_change, found.lost_share
      (Changes(examples=4, both_correct=1, lost=1, gained=1, moved=1), 0.75, 0.0, 0.5)
    """
    a, b, y = _classes(before=before, after=after, labels=labels)
    was, is_ = a == y, b == y
    return Changes(
        int(y.size),
        int(np.count_nonzero(was & is_)),
        int(np.count_nonzero(was & ~is_)),
        int(np.count_nonzero(~was & is_)),
        int(np.count_nonzero(~was & ~is_ & (a != b))),
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
    examples, was, is_ = (np.bincount(v, minlength=classes) for v in (y, y[a == y], y[b == y]))
    return [ClassChange(i, int(examples[i]), int(was[i]), int(is_[i])) for i in range(classes)]


def _classes(**vectors: ArrayLike) -> list[np.ndarray]:
    """Checked integer vectors; a model's ties between classes are its argmax's to break, not seen here."""
    out = {name: np.asarray(v) for name, v in vectors.items()}
    for name, v in out.items():
        if v.ndim != 1 or (v.size and not np.issubdtype(v.dtype, np.integer)):
            raise ValueError(f"{name} must be a vector of integer classes, got {v.dtype} of shape {v.shape}")
        if v.size and v.min() < 0:
            index = int(np.argmax(v < 0))
            raise ValueError(f"{name} must be at least 0, got {v[index]} at index {index}")
    if len({v.size for v in out.values()}) > 1:
        raise ValueError("one class for each example: got " + ", ".join(f"{v.size} {n}" for n, v in out.items()))
    return [v if v.size else v.astype(int) for v in out.values()]
