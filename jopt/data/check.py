"""Checks arrays of a data set: structure, lengths, shapes, dtypes, and that numbers are finite."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import PyTree

from jopt.data.cache import DataError
from jopt.data.examples import Split
from jopt.data.lazy import Lazy
from jopt.rules import named_leaves

_FINITE_ROWS = 65536  # of a check at a time: a large set is mapped from a file


def check_splits(name: str, splits: Mapping[str, Split]) -> None:
    """Raises unless the parts of a data set are arrays of numbers that go together.

    Args:
      name: of the set, for messages.
      splits: 'train', 'test' and perhaps 'validation'.

    Raises:
      DataError: naming the part, what it holds and what is accepted.

    Example:
      >>> check_splits("mine", {"train": Split(np.zeros((3, 2)), np.zeros(4))})
      Traceback (most recent call last):
      ...
      jopt.data.cache.DataError: data 'mine': targets of 'train' must be 3 examples, as the inputs are, got 4
    """
    first: dict[str, dict[str, np.ndarray]] = {}
    for part, split in splits.items():
        length: int | None = None
        for field, tree in split._asdict().items():
            what = f"{field} of {part!r}"
            leaves = dict(named_leaves(tree))
            if not leaves and field != "weights":
                _refuse(name, what, "an array, or a pytree of arrays", f"an empty {type(tree).__name__}")
            if field == "weights" and (lazy := next((a for a in leaves.values() if isinstance(a, Lazy)), None)):
                _refuse(name, what, "an array in memory or mapped from a file", type(lazy).__name__)
            if field == "weights" and leaves and list(leaves) != [""]:
                _refuse(name, what, "one array", f"a pytree with the leaves {sorted(leaves)}")
            for path, array in leaves.items():
                where = f"{what} at {path!r}" if path else what
                length = _check_array(name, where, array, length)
                if field == "weights" and not bool((array >= 0).all()):
                    _refuse(name, where, "at least 0", f"{array.min()}")
            reference = first.setdefault(field, leaves)
            if field == "weights" and bool(leaves) != bool(reference):
                accepted = "given in all parts or in none (ones, where all examples count equally)"
                _refuse(name, what, accepted, "an array" if leaves else "none")
            _check_alike(name, what, leaves, reference)
            if field == "weights" and leaves and not any(array.any() for array in leaves.values()):
                _refuse(name, what, "above 0 for at least one example", "zeros alone")
        if not length:
            _refuse(name, f"{part!r}", "at least one example", "none")


def _check_array(name: str, where: str, array: object, length: int | None) -> int:
    """Checks one array; returns the number of its examples."""
    if isinstance(array, Lazy):
        if length is not None and len(array) != length:
            _refuse(name, where, f"{length} examples, as the inputs are", str(len(array)))
        return len(array)
    if not isinstance(array, np.ndarray):
        _refuse(name, where, "an array", type(array).__name__)
    assert isinstance(array, np.ndarray)
    if array.dtype == object:
        _refuse(name, where, "an array of numbers of one shape", "an array of objects (rows of different lengths?)")
    # bfloat16 and other small floats are of kind 'V' in NumPy.
    if array.dtype.kind not in "biufV" or array.dtype.names is not None:
        _refuse(name, where, "an array of numbers", f"dtype {array.dtype}")
    if array.ndim < 1:
        _refuse(name, where, "an array with an axis of examples", "a single number")
    if length is not None and len(array) != length:
        _refuse(name, where, f"{length} examples, as the inputs are", str(len(array)))
    if array.dtype.kind in "fV":
        for start in range(0, len(array), _FINITE_ROWS):
            rows = array[start : start + _FINITE_ROWS]
            bad = ~np.isfinite(rows)
            if bad.any():
                index = [int(i[0]) for i in np.nonzero(bad)]
                shown = f"{rows[tuple(index)]} at index {[index[0] + start, *index[1:]]}"
                _refuse(name, where, "finite numbers", shown)
    return len(array)


def _check_alike(name: str, what: str, leaves: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> None:
    """Raises unless a part has the structure, shapes and dtypes of the first one."""
    if leaves.keys() != reference.keys():
        _refuse(name, what, f"a pytree with the leaves {sorted(reference)}", str(sorted(leaves)))
    for path, array in leaves.items():
        kinds = [f"{a.dtype}{list(a.shape[1:])}" for a in (reference[path], array)]
        if kinds[0] != kinds[1]:
            where = f"{what} at {path!r}" if path else what
            _refuse(name, where, f"examples of {kinds[0]}, as the first part's", kinds[1])


def _refuse(name: str, where: str, accepted: str, shown: str) -> None:
    message = f"data {name!r}: {where} must be {accepted}, got {shown}"
    raise DataError(message, field=where, value=shown, accepted=accepted)


def leaf_shapes(tree: PyTree) -> str:
    """A pytree of arrays or their shapes in words: 'float32[8, 8, 1]'."""
    shapes = {path: f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in named_leaves(tree)}
    if list(shapes) == [""]:
        return shapes[""]
    return ", ".join(f"{path}: {shape}" for path, shape in shapes.items())
