"""From a source, or arrays, to a data set: what is held out, layout, statistics, fingerprint; onto the device."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32, PyTree, Shaped

from jopt.config import ConfigError, require
from jopt.data.cache import DataError, digest
from jopt.data.check import check_splits
from jopt.data.examples import LabelError, Raw, Split, carve, check_labels, examples_in, take
from jopt.data.lazy import Lazy, sample
from jopt.data.source import Source
from jopt.data.statistics import Moments, normalized_dtype, statistics
from jopt.mesh.arrays import put

PARTS = ("train", "validation", "test")
_HIDDEN = "; TFDS writes -1 where a set's makers keep the labels of its test part: such a set cannot be evaluated"


class Dataset(NamedTuple):
    """A data set in NumPy arrays on the host, some of them memory-mapped and read-only.

    Inputs and targets are arrays, or pytrees of arrays, whose first axis is that of the examples.
    """

    name: str
    train: Split  # as stored, in raw units
    validation: Split
    test: Split
    mean: Moments  # along each input's last axis, of the training part, in raw units; None: not normalized
    std: Moments  # 1 where a channel is constant
    num_classes: int | None  # of integer targets; None: targets are no classes
    fingerprint: str  # SHA-256 over dtype, shape and bytes of the arrays above
    residency: str = "device"  # of the training part, as `Source.residency`

    @classmethod
    def from_arrays(
        cls,
        train: tuple[Any, ...],
        validation: tuple[Any, ...] | None = None,
        test: tuple[Any, ...] | None = None,
        *,
        name: str = "arrays",
        num_classes: int | None = None,
        normalize: bool = True,
        tokens: bool = False,
        validation_fraction: float = 0.1,
        residency: str = "device",
    ) -> "Dataset":
        """A data set of one's own arrays.

        Args:
          train: `(inputs, targets)`, or `(inputs, targets, weights)`: arrays, or pytrees of arrays, of any shape
            and any dtype of numbers; `Lazy` where they are larger than memory. `weights`, at least 0, are of the
            examples or of their positions.
          validation: likewise; None: a part of `train` is held out, stratified where targets are classes.
          test: likewise; required.
          name: what tables call the set.
          num_classes: of integer targets; None: one more than the largest of them.
          normalize: as `Source.normalize`.
          tokens: uint8 inputs are tokens, not numbers. Integers of other types always are.
          validation_fraction: what is held out.
          residency: as `Source.residency`.

        Raises:
          DataError: for parts of unequal structure, lengths, shapes or dtypes, numbers that are not finite, and
            arrays of objects: the message names part, value and what is accepted.

        Example:
          >>> x, y = np.arange(20, dtype=np.float32).reshape(10, 2), np.arange(10, dtype=np.float32)
          >>> dataset = Dataset.from_arrays((x, y), test=(x, y))
          >>> len(dataset.train.targets), len(dataset.validation.targets), dataset.mean.shape
          (9, 1, (2,))
        """
        source = _Plain(normalize=normalize, validation_fraction=validation_fraction, residency=residency)
        source.validate()
        given = {"train": train, "validation": validation, "test": test}
        if test is None:
            raise DataError("test must be a tuple (inputs, targets), got None", field="test", accepted="a tuple")
        splits = {part: _split(part, arrays) for part, arrays in given.items() if arrays is not None}
        return assemble(name, Raw(splits, num_classes, _scale(splits), tokens), source)

    @property
    def example(self) -> PyTree:
        """The inputs of one example as the network sees them: `jax.ShapeDtypeStruct`s."""
        return example_of(self.train.inputs, self.mean)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Examples of the training, validation and test part."""
        train, validation, test = (examples_in(getattr(self, part).targets) for part in PARTS)
        return train, validation, test


class _Plain(Source):
    """Arrays as they are."""


class DeviceArrays(NamedTuple):
    """One split on the device, with what `normalize` needs: a pytree to hand to a jitted function."""

    inputs: PyTree[Shaped[Array, "examples ..."]]
    targets: PyTree[Shaped[Array, "examples ..."]]
    mean: Moments
    std: Moments
    teacher: PyTree = ()  # of a stage that learns from one: its outputs [examples, ...], or its parameters
    count: Int32[Array, ""] | tuple[()] = ()  # so many rows are examples, those after them padding; (): all are
    weights: PyTree = ()  # of the losses, float32 [examples, ...]; (): all are 1
    # Where the training part stays on the host, arrays are [steps, batch, ...], those of a segment, and these are
    # the examples that choices draw, by name; (): the rows are the whole part.
    drawn: dict[str, Split] | tuple[()] = ()

    @property
    def rows(self) -> int:
        """Examples, padding included."""
        return examples_in(self.targets)


def load(source: Source, *, trusted: bool = False) -> Dataset:
    """Reads a data set; the first call prepares it under the data directory.

    Args:
      source: which set, where and how.
      trusted: accept feature classes that are not of TFDS in a prepared set's files: their modules are imported.

    Returns:
      Training, validation and test part. Mean and standard deviation are those of the training part alone,
      after the validation part has been taken from it and `train_examples` has been applied.

    Raises:
      ConfigError: see `validate`; also if `train_examples` is more than there are.
      DataError: if the set is not there and cannot be made, the directory cannot be written, a label is not in
        [0, classes), or arrays are not what they should be: the message names part, value and index.

    Example:
      >>> from jopt.data import Xor
      >>> dataset = load(Xor())
      >>> dataset.train.inputs.shape, dataset.mean.tolist(), dataset.std.tolist()
      ((4, 2), [0.5, 0.5], [0.5, 0.5])
    """
    source.validate()
    raw = source.read(trusted=trusted)
    if not isinstance(raw, Raw):
        accepted = f"{type(source).__name__}.read() to give a jopt.data.Raw"
        raise DataError(f"data must be {accepted}, got {type(raw).__name__}", field="data", accepted=accepted)
    return assemble(source.label, raw, source)


def assemble(name: str, raw: Raw, source: Source) -> Dataset:
    """A data set of what a source has read.

    Args:
      name: of the set.
      raw: the parts.
      source: says what is held out, selected, arranged and normalized.

    Raises:
      ConfigError, DataError: as `load`.
    """
    check_splits(name, raw.splits)
    splits, num_classes = dict(raw.splits), _classes(name, raw)
    # The order matters: a validation part that was cut after `train_examples` would change with that number.
    if "validation" not in splits:
        splits["train"], splits["validation"] = _hold_out(splits["train"], num_classes, source.validation_fraction)
    if source.train_examples is not None:
        splits["train"] = _subset(splits["train"], num_classes, source.train_examples)
    before = splits["train"].inputs
    splits, num_classes = source.arrange(splits, num_classes)
    check_splits(name, splits)
    if source.preprocess is not None and raw.num_classes is None:
        # Of the targets that the function gives: it may make classes of numbers, or numbers of classes.
        num_classes = _classes(name, raw._replace(splits=splits))
    train, validation, test = (splits[part] for part in PARTS)
    leaves = zip(*map(jax.tree.leaves, (before, train.inputs)), strict=True)
    pairs = [_moments(raw, source, old, new) for old, new in leaves]
    structure = jax.tree.structure(train.inputs)
    mean, std = (structure.unflatten([pair[i] for pair in pairs]) for i in (0, 1))
    fingerprint = digest(jax.tree.leaves([train, validation, test, mean, std]))
    _check_lazy(source, train, validation, test)
    return Dataset(name, train, validation, test, mean, std, num_classes, fingerprint, source.residency)


def _moments(raw: Raw, source: Source, before: np.ndarray, inputs: np.ndarray) -> tuple[Any, Any]:
    number = (inputs.dtype == np.uint8 and not raw.tokens) or jnp.issubdtype(inputs.dtype, jnp.floating)
    # The statistics of what is not in memory would be a pass over all of it: its maker scales it.
    if not number or isinstance(inputs, Lazy) or (not source.normalize and inputs.dtype != np.uint8):
        return None, None
    channels = source.channels(before.shape, inputs.shape)
    if source.normalize:
        mean, std = statistics(inputs, channels)
    else:
        mean, std = np.zeros(channels, np.float32), np.full(channels, raw.scale, np.float32)
    if inputs.ndim == 1:
        return mean.reshape(()), std.reshape(())
    return np.tile(mean, inputs.shape[-1] // channels), np.tile(std, inputs.shape[-1] // channels)


def _classes(name: str, raw: Raw) -> int | None:
    """The number of classes, of targets that are integers; checks that all are in range."""
    targets = {part: sample(split.targets) for part, split in raw.splits.items()}
    integer = all(isinstance(t, np.ndarray) and np.issubdtype(t.dtype, np.integer) for t in targets.values())
    if raw.num_classes is None:
        if integer and any(isinstance(split.targets, Lazy) for split in raw.splits.values()):
            accepted = "given: the largest of lazy targets is not known"
            raise DataError(f"num_classes must be {accepted}, got None", field="num_classes", accepted=accepted)
        return 1 + max(int(t.max()) if t.size else -1 for t in targets.values()) if integer else None
    for part, labels in targets.items():
        try:
            # Numbers below 0 are positions that do not count, where targets are sequences.
            counted = np.maximum(labels, 0) if np.ndim(labels) > 1 else labels
            check_labels(counted, raw.num_classes, f"labels of the split {part!r}")
        except LabelError as error:
            raise DataError(
                f"data.name {name!r}: {error}{_HIDDEN if error.value == -1 else ''}",
                field=f"labels of {part!r}",
                value=error.value,
                accepted=error.accepted,
            ) from error
    return raw.num_classes


def _check_lazy(source: Source, train: Split, validation: Split, test: Split) -> None:
    if any(isinstance(leaf, Lazy) for leaf in jax.tree.leaves((validation, test))):
        accepted = "arrays in memory or mapped from a file: they are evaluated on the device"
        raise DataError(
            f"validation and test must be {accepted}, got a lazy column", field="validation", accepted=accepted
        )
    if any(isinstance(leaf, Lazy) for leaf in jax.tree.leaves(train)):
        accepted = "'host' where columns of the training part are lazy"
        require(source.residency == "host", "residency", source.residency, accepted)


def example_of(inputs: PyTree, mean: Moments) -> PyTree:
    """The inputs of one example as the network sees them."""
    return jax.tree.map(lambda x, m: jax.ShapeDtypeStruct(x.shape[1:], normalized_dtype(x.dtype, m)), inputs, mean)


def batch_of(example: PyTree, size: int = 1) -> PyTree:
    """The shapes of a batch of examples.

    Example:
      >>> batch_of(jax.ShapeDtypeStruct((8, 8, 1), np.float32), 2).shape
      (2, 8, 8, 1)
    """
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((size, *x.shape), x.dtype), example)


def device_arrays(
    dataset: Dataset, split: str = "train", device: object = None, *, rows: int | None = None
) -> DeviceArrays:
    """Puts one split on the device, inputs as they are stored: a byte a value of an image.

    Args:
      dataset: what `load` gave.
      split: 'train', 'validation' or 'test'.
      device: a `jax.Device` or a sharding; None for JAX's default.
      rows: so many rows, the last of them padding, so that parts of different sizes are given to one program; None:
        the examples alone.

    Raises:
      ValueError: for another split.
    """
    if split not in PARTS:
        raise ValueError(f"split must be 'train', 'validation' or 'test', got {split!r}")
    part: Split = getattr(dataset, split)
    examples = examples_in(part.targets)

    def padded(array: np.ndarray) -> np.ndarray:
        if rows is not None:
            array = np.pad(array, [(0, rows - examples)] + [(0, 0)] * (array.ndim - 1))
        # A copy: on a CPU JAX may share the host's memory, and this one is a file that others could damage.
        return np.array(array)

    part = jax.tree.map(padded, part)
    moments = jax.tree.map(np.array, (dataset.mean, dataset.std))
    (inputs, targets, weights), (mean, std) = put((tuple(part), moments), device)
    count = () if rows is None else put(np.int32(examples), device)
    return DeviceArrays(inputs, targets, mean, std, count=count, weights=weights)


def _strata(split: Split, num_classes: int | None) -> tuple[np.ndarray, np.ndarray]:
    """The first array of the inputs, and the classes by which a selection is stratified; 0 if there are none."""
    inputs, targets = jax.tree.leaves(split.inputs)[0], split.targets
    stratified = num_classes is not None and targets.ndim == 1
    return inputs, targets if stratified else np.zeros(len(inputs), np.int32)


def _hold_out(train: Split, num_classes: int | None, fraction: float) -> tuple[Split, Split]:
    if any(isinstance(leaf, Lazy) for leaf in jax.tree.leaves(train)):
        accepted = "a part of its own: nothing is held out of lazy columns, which would have to be read whole"
        raise DataError(f"validation must be {accepted}, got None", field="validation", accepted=accepted)
    inputs, labels = _strata(train, num_classes)
    n = len(labels)
    size = round(n * fraction)
    require(
        0 < size < n, "data.validation_fraction", fraction, f"a part of {n} examples that leaves both parts some"
    )
    validation, training = carve(inputs, labels, [size, n - size])
    return take(train, training), take(train, validation)


def _subset(train: Split, num_classes: int | None, count: int) -> Split:
    inputs, labels = _strata(train, num_classes)
    n = len(labels)
    if count > n:
        raise ConfigError("data.train_examples", count, f"None or at most {n}, the size of the training part")
    # Another seed than the hold-out's, whose prefix is gone from this part.
    (rows,) = carve(inputs, labels, [count], seed=1)
    return take(train, rows)


def _split(part: str, arrays: Any) -> Split:
    if not isinstance(arrays, tuple | list) or len(arrays) not in (2, 3):
        accepted = "a tuple (inputs, targets) or (inputs, targets, weights)"
        shown = type(arrays).__name__ + (f" of {len(arrays)}" if isinstance(arrays, tuple | list) else "")
        raise DataError(f"{part} must be {accepted}, got {shown}", field=part, value=shown, accepted=accepted)
    return split_of(part, arrays)


def split_of(part: str, arrays: Sequence[Any]) -> Split:
    """The arrays of a part: inputs, targets and perhaps weights, which are one array of numbers.

    Raises:
      DataError: for other weights, and for integers that 32 bits cannot hold.
    """
    split = Split(*(jax.tree.map(as_numpy, tree) for tree in arrays))
    weights = split.weights
    if weights is None or isinstance(weights, tuple):
        return split._replace(weights=())
    if not isinstance(weights, np.ndarray) or weights.dtype.kind not in "biuf":
        accepted = "one array of numbers in memory, or None"
        shown = f"dtype {weights.dtype}" if isinstance(weights, np.ndarray) else type(weights).__name__
        where = f"weights of {part!r}"
        raise DataError(f"{where} must be {accepted}, got {shown}", field=where, value=shown, accepted=accepted)
    return split._replace(weights=weights.astype(np.float32))


def as_numpy(array: Any) -> Any:
    """An array on the host, or a lazy column; 64-bit numbers become those of 32 bits, in which JAX computes.

    Raises:
      DataError: for an integer that 32 bits cannot hold.
    """
    if isinstance(array, Lazy):
        return array
    array = np.asarray(array)
    narrow = {np.dtype(np.float64): np.float32, np.dtype(np.int64): np.int32, np.dtype(np.uint64): np.uint32}
    if array.dtype not in narrow:
        return array
    if array.dtype.kind in "iu" and array.size:
        low, high, limits = int(array.min()), int(array.max()), np.iinfo(narrow[array.dtype])
        # They would come out as others, and nothing would say so.
        if low < limits.min or high > limits.max:
            shown, accepted = low if low < limits.min else high, f"integers in [{limits.min}, {limits.max}]"
            raise DataError(f"data must be {accepted}, got {shown}", field="data", value=shown, accepted=accepted)
    with np.errstate(over="ignore"):
        return array.astype(narrow[array.dtype])


def _scale(splits: dict[str, Split]) -> float:
    """What uint8 inputs without statistics are divided by."""
    return 255.0 if any(x.dtype == np.uint8 for x in jax.tree.leaves(splits["train"].inputs)) else 1.0
