"""From a config to arrays: splits, layout, statistics, fingerprint; and onto the device."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int32, PyTree, Shaped, UInt8

from jopt.config import ConfigError, require
from jopt.data.cache import DataError, cached, digest
from jopt.data.config import DataConfig, directory, validate
from jopt.data.source import LabelError, Source, Split, carve, check_labels, synthetic, xor

_HIDDEN = "; TFDS writes -1 where a set's makers keep the labels of its test part: such a set cannot be evaluated"


class Dataset(NamedTuple):
    """A data set in NumPy arrays on the host, some of them memory-mapped and read-only."""

    name: str
    train: Split  # inputs [n, ...] uint8 in raw units, labels int32 [n]
    validation: Split
    test: Split
    mean: Float32[np.ndarray, " channels"]  # along the inputs' last axis, of the training part, in raw units
    std: Float32[np.ndarray, " channels"]  # 1 where a channel is constant
    num_classes: int
    fingerprint: str  # SHA-256 over dtype, shape and bytes of the arrays above


class Arrays(NamedTuple):
    """One split on the device, with what `normalize` needs: a pytree to hand to a jitted function."""

    inputs: UInt8[Array, "examples ..."]
    labels: Int32[Array, " examples"]
    mean: Float32[Array, " channels"]
    std: Float32[Array, " channels"]
    teacher: PyTree = ()  # of a stage that learns from one: its logits [examples, classes], or its parameters
    count: Int32[Array, ""] | tuple[()] = ()  # so many rows are examples, those after them padding; (): all are


def load(config: DataConfig, *, trusted: bool = False) -> Dataset:
    """Reads a data set; the first call prepares it under the data directory.

    Args:
      config: which set, where and how; see `DataConfig`.
      trusted: accept feature classes that are not of TFDS in a prepared set's files: their modules are imported.

    Returns:
      Training, validation and test part. Mean and standard deviation are those of the training part alone,
      after the validation part has been taken from it and `train_examples` has been applied. With
      `normalize=False` they are 0 and the largest raw value, so that inputs land in [0, 1].

    Raises:
      ConfigError: see `validate`; also if `train_examples` is more than there are.
      DataError: if the set is not there and cannot be made, the directory cannot be written, or a label is not in
        [0, classes): the message names split, label and index.

    Example:
      >>> dataset = load(DataConfig(name="xor"))
      >>> dataset.train.inputs.shape, dataset.mean.tolist(), dataset.std.tolist()
      ((4, 2), [0.5, 0.5], [0.5, 0.5])
    """
    validate(config)
    source = _source(config, trusted)
    splits = dict(source.splits)
    for split, part in splits.items():
        try:
            check_labels(part.labels, source.num_classes, f"labels of the split {split!r}")
        except LabelError as error:
            raise DataError(
                f"data.name {config.name!r}: {error}{_HIDDEN if error.value == -1 else ''}",
                field=f"labels of {split!r}",
                value=error.value,
                accepted=error.accepted,
            ) from error
    # The order matters: a validation part that was cut after `train_examples` would change with that number.
    if "validation" not in splits:
        splits["train"], splits["validation"] = _hold_out(splits["train"], config.validation_fraction)
    if config.train_examples is not None:
        splits["train"] = _subset(splits["train"], config.train_examples)
    num_classes = source.num_classes
    if config.relabel:
        accepted = f"a new class for each of the {num_classes} classes of {config.name!r}"
        require(len(config.relabel) == num_classes, "data.relabel", config.relabel, accepted)
        table, num_classes = np.array(config.relabel, np.int32), max(config.relabel) + 1
        splits = {name: Split(part.inputs, table[part.labels]) for name, part in splits.items()}
    train, validation, test = (_arrange(splits[name], config.layout) for name in ("train", "validation", "test"))
    for field in ("shift", "crop_padding"):
        value = getattr(config, field)
        if value:
            size = min(train.inputs.shape[1:3])
            require(
                value < size, f"data.{field}", value, f"less than the {size} pixels of the images' shorter side"
            )
    width = train.inputs.shape[-1]  # channels, but for a sequence of image rows: columns times channels
    channels = splits["train"].inputs.shape[-1] if splits["train"].inputs.ndim > 2 else width
    if config.normalize:
        mean, std = _statistics(train.inputs, channels)
    else:
        mean, std = np.zeros(channels, np.float32), np.full(channels, source.scale, np.float32)
    mean, std = np.tile(mean, width // channels), np.tile(std, width // channels)
    fingerprint = digest([*train, *validation, *test, mean, std])
    return Dataset(config.name, train, validation, test, mean, std, num_classes, fingerprint)


def device_arrays(
    dataset: Dataset, split: str = "train", device: object = None, *, rows: int | None = None
) -> Arrays:
    """Puts one split on the device, inputs as they are stored: a byte a value.

    Args:
      dataset: what `load` gave.
      split: 'train', 'validation' or 'test'.
      device: a `jax.Device` or a sharding; None for JAX's default.
      rows: so many rows, the last of them padding, so that parts of different sizes are given to one program; None:
        the examples alone.

    Raises:
      ValueError: for another split; `LabelError`, which is one, for a label that is not in [0, classes).
    """
    if split not in ("train", "validation", "test"):
        raise ValueError(f"split must be 'train', 'validation' or 'test', got {split!r}")
    part: Split = getattr(dataset, split)
    check_labels(part.labels, dataset.num_classes, f"labels of the split {split!r}")
    examples = part.labels.shape[0]
    arrays: list[Any] = [*part, dataset.mean, dataset.std]
    if rows is not None:
        arrays[:2] = (np.pad(a, [(0, rows - examples)] + [(0, 0)] * (a.ndim - 1)) for a in part)
    # A copy: on a CPU JAX may share the host's memory, and this one is a file that others could damage.
    inputs, labels, mean, std = jax.device_put(tuple(np.array(a) for a in arrays), device)
    count = () if rows is None else jax.device_put(np.int32(examples), device)
    return Arrays(inputs, labels, mean, std, count=count)


def normalize(
    inputs: Shaped[Array, "*batch channels"], mean: Float32[Array, " channels"], std: Float32[Array, " channels"]
) -> Float32[Array, "*batch channels"]:
    """`(inputs - mean) / std` in float32, over the last axis.

    Args:
      inputs: [..., channels], uint8 or float32, in raw units.
      mean: float32 [channels].
      std: float32 [channels].

    Returns:
      float32, of the shape of `inputs`.

    Example:
      >>> x = jnp.array([[0], [4]], jnp.uint8)
      >>> normalize(x, jnp.array([2.0]), jnp.array([2.0])).tolist()
      [[-1.0], [1.0]]
    """
    # Written out, because rank promotion may be an error.
    shape = (1,) * (inputs.ndim - 1) + mean.shape
    return (inputs.astype(jnp.float32) - mean.reshape(shape)) / std.reshape(shape)


def _source(config: DataConfig, trusted: bool) -> Source:
    if config.name == "xor":
        return xor()
    if config.name == "synthetic":
        return synthetic(config.synthetic)
    root = directory(config)
    return cached(root, arrays_folder(root, config.name).name, lambda: _read(config.name, root, trusted))


def arrays_folder(root: Path, name: str) -> Path:
    """Where `load` keeps the decoded arrays of a set that it reads from the data directory `root`."""
    # As a file name: 'cifar10/plain:3.0.2' would be a directory, and on some systems not a name at all.
    return root / "arrays" / name.replace("/", "+").replace(":", "-")


def _read(name: str, root: Path, trusted: bool) -> Source:
    # Imported here, so that decoded arrays are read without TFDS.
    from jopt.data import catalog

    return catalog.read_digits(root) if name == "digits" else catalog.read(name, root, trusted=trusted)


def _hold_out(train: Split, fraction: float) -> tuple[Split, Split]:
    n = len(train.labels)
    size = round(n * fraction)
    require(
        0 < size < n, "data.validation_fraction", fraction, f"a part of {n} examples that leaves both parts some"
    )
    validation, training = carve(train.inputs, train.labels, [size, n - size])
    return _take(train, training), _take(train, validation)


def _subset(train: Split, count: int) -> Split:
    n = len(train.labels)
    if count > n:
        raise ConfigError("data.train_examples", count, f"None or at most {n}, the size of the training part")
    # Another seed than the hold-out's, whose prefix is gone from this part.
    (rows,) = carve(train.inputs, train.labels, [count], seed=1)
    return _take(train, rows)


def _take(split: Split, rows: np.ndarray) -> Split:
    return Split(split.inputs[rows], split.labels[rows])


def _arrange(split: Split, layout: str) -> Split:
    inputs = split.inputs
    if layout == "sequence":
        # A vector is a sequence of numbers; of an image, each row is a time step.
        inputs = inputs[..., None] if inputs.ndim == 2 else inputs.reshape(*inputs.shape[:2], -1)
    return Split(inputs, split.labels)


def _statistics(
    inputs: UInt8[np.ndarray, "examples ..."], channels: int
) -> tuple[Float32[np.ndarray, " channels"], Float32[np.ndarray, " channels"]]:
    """Mean and population standard deviation of each channel, exact in integers but for the last division."""
    values = np.arange(256, dtype=np.int64)
    mean, std = np.zeros(channels), np.ones(channels)
    columns = inputs.reshape(-1, channels)
    for channel in range(channels):
        # From a histogram of the 256 values: the sums are integers,
        # so the order of the examples cannot change a bit.
        counts = np.bincount(columns[:, channel], minlength=256)
        n, total, squares = (int((counts * values**power).sum()) for power in (0, 1, 2))
        mean[channel] = total / n
        variance = (n * squares - total * total) / (n * n)
        std[channel] = np.sqrt(variance) if variance > 0 else 1.0
    return mean.astype(np.float32), std.astype(np.float32)
