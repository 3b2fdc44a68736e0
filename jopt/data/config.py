"""What to train on: the data set, where it lives, how it is laid out and augmented."""

import dataclasses
import math
import os
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import PyTree

from jopt.config import ConfigError, join_path, require
from jopt.data.examples import Raw, Split
from jopt.data.source import Source
from jopt.hyper import structural
from jopt.paths import cache, expanded
from jopt.typing import Key

BUILT_IN = ("digits", "synthetic", "xor")
LAYOUTS = ("image", "sequence")


@dataclasses.dataclass
class Synthetic:
    """Shape and size of the `synthetic` set: one smooth random image a class, plus noise; balanced classes."""

    shape: tuple[int, int, int] = (8, 8, 1)  # height, width, channels
    num_classes: int = 10
    train: int = 512  # examples
    validation: int = 128
    test: int = 128
    noise: float = structural(48.0)  # standard deviation of a pixel, in raw units of 0..255
    seed: int = 0  # of the set itself, not of the run


@dataclasses.dataclass
class DataConfig(Source):
    """A data set. Every field is structure: another value is another program or other constants.

    Example:
      >>> config = DataConfig(name="digits", shift=1)
      >>> validate(config)
    """

    name: str = "digits"  # digits, xor, synthetic, or a TFDS catalog set: mnist, cifar10, 'name/config:1.2.3'
    data_dir: str | None = None  # None: $JOPT_DATA_DIR, else $TFDS_DATA_DIR, else ~/.cache/jopt/data
    layout: str = "image"  # image: [h, w, c]; sequence: rows as time steps, [h, w * c]
    relabel: tuple[int, ...] = ()  # another task: the new class of each class, such as its parity
    shift: int = 0  # random translation by up to n pixels each way, filled with raw 0
    crop_padding: int = 0  # the same under its other name: pad n raw zeros all around, crop at random
    flip: bool = False  # random horizontal mirror
    PATHS: ClassVar[tuple[str, ...]] = ("data_dir",)
    synthetic: Synthetic = dataclasses.field(default_factory=Synthetic)  # read where name is 'synthetic'

    def validate(self, path: str = "data") -> None:
        super().validate(path)
        _validate(self, path)

    @property
    def label(self) -> str:
        return self.name

    @property
    def varies(self) -> bool:
        return super().varies or bool(self.shift or self.flip or self.crop_padding)

    def augment(self, key: Key, inputs: PyTree) -> PyTree:
        from jopt.data.batches import augment

        return super().augment(key, augment(key, inputs, self))

    def read(self, *, trusted: bool = False) -> Raw:
        from jopt.data.cache import cached
        from jopt.data.dataset import arrays_folder
        from jopt.data.examples import synthetic, xor

        if self.name == "xor":
            return xor()
        if self.name == "synthetic":
            return synthetic(self.synthetic)
        root = directory(self)

        def decode() -> Raw:
            from jopt.data import catalog

            if self.name == "digits":
                return catalog.read_digits(root)
            return catalog.read(self.name, root, trusted=trusted)

        return cached(root, arrays_folder(root, self.name).name, decode)

    def arrange(self, splits: dict[str, Split], num_classes: int | None) -> tuple[dict[str, Split], int | None]:
        splits, num_classes = super().arrange(splits, num_classes)
        if self.relabel:
            accepted = f"a new class for each of the {num_classes} classes of {self.name!r}"
            require(len(self.relabel) == num_classes, "data.relabel", self.relabel, accepted)
            table, num_classes = np.array(self.relabel, np.int32), max(self.relabel) + 1
            splits = {name: part._replace(targets=table[part.targets]) for name, part in splits.items()}
        if self.layout == "sequence":
            splits = {name: part._replace(inputs=_as_sequence(part.inputs)) for name, part in splits.items()}
        for field in ("shift", "crop_padding"):
            value = getattr(self, field)
            if value:
                size = min(splits["train"].inputs.shape[1:3])
                accepted = f"less than the {size} pixels of the images' shorter side"
                require(value < size, f"data.{field}", value, accepted)
        return splits, num_classes

    def channels(self, shape: tuple[int, ...], arranged: tuple[int, ...]) -> int:
        # Of a sequence of image rows: the image's channels, not columns times channels.
        return shape[-1] if len(shape) > 2 else arranged[-1]


def _as_sequence(inputs: np.ndarray) -> np.ndarray:
    # A vector is a sequence of numbers; of an image, each row is a time step.
    return inputs[..., None] if inputs.ndim == 2 else inputs.reshape(*inputs.shape[:2], -1)


def directory(config: DataConfig) -> Path:
    """The directory that holds prepared data; it may not exist yet.

    Raises:
      ConfigError: if it lies in a home directory, and there is none.

    Example:
      >>> directory(DataConfig(data_dir="/tmp/sets")).as_posix()
      '/tmp/sets'
    """
    chosen = config.data_dir or os.environ.get("JOPT_DATA_DIR") or os.environ.get("TFDS_DATA_DIR")
    default = None if chosen else cache("data")
    accepted = "a directory (or set JOPT_DATA_DIR): there is no home directory for the default, ~/.cache/jopt/data"
    require(chosen is not None or default is not None, "data.data_dir", config.data_dir, accepted)
    return expanded(chosen or default or "", "data.data_dir")


def validate(config: Source, path: str = "data") -> None:
    """Checks a config before anything is read or compiled.

    Writes nothing. A name that is not built in is looked up among the builders that tensorflow_datasets ships,
    which imports that package (without TensorFlow, and without a network).

    Args:
      config: what to check.
      path: where the config stands in its tree, for messages.

    Raises:
      ConfigError: naming the field, its value and what would be accepted.

    Example:
      >>> validate(DataConfig(shift=-1))
      Traceback (most recent call last):
      ...
      jopt.config.ConfigError: data.shift must be a number of pixels >= 0, got -1
    """
    config.validate(path)


def _validate(config: DataConfig, path: str) -> None:
    _check_name(config.name, join_path(path, "name"))
    require(
        config.layout in LAYOUTS,
        join_path(path, "layout"),
        config.layout,
        "'image' ([h, w, c]) or 'sequence' ([h, w * c])",
    )
    for i, label in enumerate(config.relabel):
        require(label >= 0, f"{join_path(path, 'relabel')}[{i}]", label, "a class, counted from 0")
    # A class without examples would be trained for nothing, and nobody would notice.
    missing = sorted(set(range(max(config.relabel, default=-1) + 1)) - set(config.relabel))
    accepted = f"classes from 0 without gaps (no class becomes {missing})"
    require(not missing, join_path(path, "relabel"), config.relabel, accepted)
    _check_augmentation(config, path)
    if config.name == "synthetic":
        _check_synthetic(config.synthetic, join_path(path, "synthetic"))
    elif config.name != "xor":
        _check_directory(config, join_path(path, "data_dir"))


def _check_name(name: str, field: str) -> None:
    # Before the catalog is imported, whose package takes most of a second.
    if name in BUILT_IN:
        return
    from jopt.data import catalog

    if not catalog.knows(name):
        built_in = ", ".join(map(repr, BUILT_IN))
        hint = f"one of {built_in}, or a TFDS catalog name such as 'mnist', 'cifar10' or 'name/config:1.2.3'"
        close = catalog.similar(name, BUILT_IN)
        raise ConfigError(
            field, name, hint + (f" (did you mean {' or '.join(map(repr, close))}?)" if close else "")
        )


def _check_augmentation(config: DataConfig, path: str) -> None:
    for field in ("shift", "crop_padding"):
        value = getattr(config, field)
        require(value >= 0, join_path(path, field), value, "a number of pixels >= 0")
    require(
        not (config.shift and config.crop_padding),
        join_path(path, "crop_padding"),
        config.crop_padding,
        f"0 where shift is {config.shift}: both name the same random translation",
    )
    # A sequence's rows are time steps, and XOR has no pixels.
    image = config.layout == "image" and config.name != "xor"
    for field in ("shift", "crop_padding", "flip"):
        value = getattr(config, field)
        require(image or not value, join_path(path, field), value, "off unless the inputs are images [h, w, c]")


def _check_synthetic(config: Synthetic, path: str) -> None:
    positive = len(config.shape) == 3 and all(size > 0 for size in config.shape)
    require(positive, join_path(path, "shape"), config.shape, "three sizes > 0: (height, width, channels)")
    require(config.num_classes >= 2, join_path(path, "num_classes"), config.num_classes, "a number of classes >= 2")
    for field in ("train", "validation", "test"):
        value = getattr(config, field)
        require(value > 0, join_path(path, field), value, "a number of examples > 0")
    fine = 0 <= config.noise < math.inf
    require(fine, join_path(path, "noise"), config.noise, "a finite standard deviation >= 0")
    require(0 <= config.seed < 2**32, join_path(path, "seed"), config.seed, "an integer in [0, 2**32)")


def _check_directory(config: DataConfig, field: str) -> None:
    folder = directory(config)
    # A set that is already there can be read from a disk that cannot be written.
    if folder.is_dir() and os.access(folder, os.R_OK) and any(folder.iterdir()):
        return
    # It may be made later with its parents: the nearest directory that exists decides whether that is possible.
    nearest = folder
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    usable = nearest.is_dir() and os.access(nearest, os.W_OK)
    require(usable, field, str(folder), f"a directory that can be made and written ({nearest} is in the way)")
