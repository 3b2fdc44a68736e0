"""Parts of sets that are read from files: test parts that are held out, and lists of values as arrays."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np

from jopt.config import require
from jopt.data.cache import DataError
from jopt.data.check import check_splits
from jopt.data.examples import Split, carve, examples_in, take
from jopt.data.lazy import Lazy
from jopt.paths import expanded

_SEED = 2  # Another one than those of the validation part and of `train_examples`, which are taken from the rest.


def refuse(field: str, value: object, accepted: str, cause: Exception | None = None) -> NoReturn:
    """Raises DataError: in one line what field or file, what it holds and what would be accepted."""
    shown = " ".join(str(value).split())[:200]
    raise DataError(
        f"{field} must be {accepted}, got {shown}", field=field, value=value, accepted=accepted
    ) from cause


def require_path(value: str, field: str, accepted: str = "a file or a directory that exists") -> None:
    """Raises ConfigError unless a path exists."""
    require(bool(value) and expanded(value, field).exists(), field, value, accepted)


def require_fraction(value: float, field: str) -> None:
    """Raises ConfigError unless a fraction leaves both parts something."""
    require(0 < value < 1, field, value, "a number in (0, 1)")


def hold_out_test(examples: Split, fraction: float, field: str = "data.test_fraction") -> dict[str, Split]:
    """Training and test part of examples that nobody has split.

    The selection follows from the contents alone (`jopt.data.examples.carve`), stratified where targets are
    classes: it stays the same in whatever order files are read.

    Args:
      examples: all of them.
      fraction: of them, for the test part.
      field: the config field that holds it, for messages.

    Example:
      >>> parts = hold_out_test(Split(np.arange(10), np.arange(10) % 2), 0.2)
      >>> len(parts["train"].targets), sorted(parts["test"].targets.tolist())
      (8, [0, 1])
    """
    inputs, targets = jax.tree.leaves(examples.inputs)[0], examples.targets
    if any(isinstance(leaf, Lazy) for leaf in jax.tree.leaves(examples)):
        refuse(
            "the part 'test'",
            "none",
            "given: nothing is held out of lazy columns, which would have to be read whole",
        )
    check_splits("all examples", {"all": examples})
    n = examples_in(examples.inputs)
    size = round(n * fraction)
    require(0 < size < n, field, fraction, f"a part of {n} examples that leaves both parts some")
    classes = isinstance(targets, np.ndarray) and targets.ndim == 1 and np.issubdtype(targets.dtype, np.integer)
    labels = targets if classes else np.zeros(n, np.int32)
    test, train = carve(inputs, labels, [size, n - size], seed=_SEED)
    return {"train": take(examples, train), "test": take(examples, test)}


def stacked(values: Sequence[Any], where: str) -> np.ndarray:
    """One array of the values of all examples, 64-bit numbers as those of 32 bits.

    Args:
      values: of each example: numbers, lists or arrays.
      where: what they are, for messages.

    Raises:
      DataError: if they are of different shapes, or no numbers.

    Example:
      >>> stacked([[1, 2], [3, 4]], "column 'ids'").dtype
      dtype('int32')
    """
    from jopt.data.dataset import as_numpy

    arrays = [np.asarray(value) if not _is_ragged(value) else refuse(where, value, _ALIKE) for value in values]
    for i, array in enumerate(arrays):
        if array.dtype.kind not in "biuf":
            kind = "nothing" if values[i] is None else f"{type(values[i]).__name__} {values[i]!r:.60}"
            refuse(f"{where}, example {i},", kind, "numbers")
        if array.shape != arrays[0].shape:
            refuse(
                f"{where}, example {i},", f"shape {array.shape}", f"of the shape of the first, {arrays[0].shape}"
            )
    return as_numpy(np.stack(arrays)) if arrays else np.zeros(0, np.float32)


_ALIKE = "lists of one length"


def _is_ragged(value: Any) -> bool:
    """Whether NumPy would refuse a nested list."""
    if not isinstance(value, list | tuple) or not value:
        return False
    lengths = {len(inner) if isinstance(inner, list | tuple) else -1 for inner in value}
    return len(lengths) > 1 or any(map(_is_ragged, value))


def digest_of_files(root: Path, files: Sequence[Path], *options: object) -> str:
    """SHA-256 (hexadecimal) over the files' places below `root`, their contents, and how they are read."""
    sha = hashlib.sha256(repr(options).encode())
    for path in files:
        content = path.read_bytes()
        sha.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode("utf-8", "surrogateescape"))
        sha.update(content)
    return sha.hexdigest()
