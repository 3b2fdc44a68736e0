"""Lazy: a column of examples that is computed, decoded or read when its rows are asked for."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np
from jaxtyping import PyTree
from numpy.typing import DTypeLike

Rows: TypeAlias = np.ndarray
"""Integers [rows], the indices of examples."""


class Lazy:
    """An array [examples, ...] that is not in memory: inputs or targets of a set that is larger than it.

    It stands for an array in `Dataset.from_arrays` and in a `Raw`. The training part is then gathered segment by
    segment (`residency='host'`): the rows of one segment, and those of the next, are in memory.

    Attributes:
      shape: (examples, ...).
      dtype: of the numbers.
      fingerprint: says which numbers they are, as they are not read for a hash: a version, a path and a date.

    Example:
      >>> squares = Lazy(lambda rows: (rows**2).astype(np.float32), 10**9, (), np.float32, fingerprint="squares")
      >>> squares.shape, squares[np.array([3, 5])].tolist()
      ((1000000000,), [9.0, 25.0])
    """

    def __init__(
        self,
        gather: Callable[[Rows], np.ndarray],
        examples: int,
        shape: tuple[int, ...],
        dtype: DTypeLike,
        *,
        fingerprint: str,
    ):
        """Nothing is read.

        Args:
          gather: `int64 [rows] -> array [rows, ...]`, a pure function of the rows. It is called from a thread.
          examples: how many there are.
          shape: of one example.
          dtype: of its numbers.
          fingerprint: see the class.
        """
        self._gather = gather
        self.shape, self.dtype, self.fingerprint = (examples, *shape), np.dtype(dtype), fingerprint

    @classmethod
    def of(cls, source: Sequence[Any], *, fingerprint: str, column: Callable[[Any], Any] = lambda x: x) -> "Lazy":
        """A column of anything with `len` and `source[i]`, such as a data source of Grain or of ArrayRecord.

        Args:
          source: the examples.
          fingerprint: see the class.
          column: gives the array, or the number, of an example.

        Example:
          >>> images = Lazy.of([{"image": np.zeros((2, 2))}] * 5, fingerprint="five", column=lambda e: e["image"])
          >>> images.shape
          (5, 2, 2)
        """
        first = np.asarray(column(source[0]))

        def gather(rows: Rows) -> np.ndarray:
            return np.stack([np.asarray(column(source[int(row)]), first.dtype) for row in rows])

        return cls(gather, len(source), first.shape, first.dtype, fingerprint=fingerprint)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Rows | slice) -> np.ndarray:
        """The examples of these rows.

        Raises:
          ValueError: if what is computed is of another shape or dtype than promised.
        """
        index = np.arange(len(self))[rows] if isinstance(rows, slice) else np.asarray(rows, np.int64)
        # Masks and ranges are chosen without rows of a segment, and few functions stack nothing.
        if not len(index):
            return np.zeros((0, *self.shape[1:]), self.dtype)
        array = np.asarray(self._gather(index))
        if array.shape != (len(index), *self.shape[1:]) or array.dtype != self.dtype:
            kinds = [
                f"{a}{[*s]}" for a, s in ((self.dtype, (len(index), *self.shape[1:])), (array.dtype, array.shape))
            ]
            raise ValueError(f"a lazy column must give {kinds[0]} for {len(index)} rows, it gave {kinds[1]}")
        return array


SAMPLE = 256
"""So many rows of a lazy column are looked at in checks."""


def sample(tree: PyTree) -> PyTree:
    """A pytree with the first rows of its lazy columns in their place: what checks can look at.

    Example:
      >>> sample(Lazy(lambda rows: rows, 10**9, (), np.int64, fingerprint="rows")).shape
      (256,)
    """
    return jax.tree.map(lambda a: a[np.arange(min(SAMPLE, len(a)))] if isinstance(a, Lazy) else a, tree)
