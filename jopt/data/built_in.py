"""The sets that need no files: the digits of scikit-learn, exclusive or, and synthetic images."""

import dataclasses
import math
from typing import ClassVar

import numpy as np

from jopt.config import join_path, require
from jopt.data.directory import arrays_folder, check_directory, directory
from jopt.data.examples import Raw, Split
from jopt.data.images import Arranged, Images
from jopt.data.outline import Outline
from jopt.hyper import structural

_PER_VALUE = 32  # bytes that making a synthetic value takes, in float64


@dataclasses.dataclass
class Digits(Images):
    """8x8 grey images of handwritten digits, as they ship with scikit-learn.

    Attributes:
      data_dir: where they are kept as arrays; None: $JOPT_DATA_DIR, else $TFDS_DATA_DIR, else ~/.cache/jopt/data.

    Example:
      >>> Digits(shift=1).outline()
      Outline(shape=(8, 8, 1), num_classes=10, downloads=False, bytes_to_make=0)
    """

    data_dir: str | None = None
    kind: ClassVar[str] = "digits"
    PATHS: ClassVar[tuple[str, ...]] = ("data_dir",)

    def validate(self, path: str = "data") -> None:
        """As `Source.validate`."""
        super().validate(path)
        check_directory(self.data_dir, join_path(path, "data_dir"))

    def outline(self, *, trusted: bool = False) -> Outline:
        """As `Source.outline`."""
        return self.arranged((8, 8, 1), 10)

    def read(self, *, trusted: bool = False) -> Raw:
        """As `Source.read`."""
        from jopt.data.cache import cached

        root = directory(self.data_dir)

        def decode() -> Raw:
            from jopt.data import catalog

            return catalog.read_digits(root)

        return cached(root, arrays_folder(root, self.kind).name, decode)


@dataclasses.dataclass
class Xor(Arranged):
    """The four points of exclusive or; training, validation and test part are the same four.

    Example:
      >>> part = Xor().read().splits["train"]
      >>> part.inputs.tolist(), part.targets.tolist()
      ([[0, 0], [0, 1], [1, 0], [1, 1]], [0, 1, 1, 0])
    """

    kind: ClassVar[str] = "xor"

    def outline(self, *, trusted: bool = False) -> Outline:
        """As `Source.outline`."""
        return self.arranged((2,), 2)

    def read(self, *, trusted: bool = False) -> Raw:
        """As `Source.read`."""
        points = Split(
            np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.uint8),
            np.array([0, 1, 1, 0], np.int32),
        )
        return Raw({"train": points, "validation": points, "test": points}, num_classes=2, scale=1.0)


@dataclasses.dataclass
class Synthetic(Images):
    """Images that scatter around one smooth random template a class; balanced classes.

    Pixel = round(template + noise * normal), clipped to 0..255. Example i of a part has label `i % num_classes`.
    The draws come from `numpy.random.RandomState`, whose stream NumPy keeps as it is.

    Attributes:
      shape: height, width, channels.
      num_classes: of the set.
      train, validation, test: examples of each part.
      noise: standard deviation of a pixel, in raw units of 0..255.
      seed: of the set itself, not of the run.

    Example:
      >>> part = Synthetic(shape=(4, 4, 3), num_classes=2, train=6).read().splits["train"]
      >>> part.inputs.shape, part.targets.tolist()
      ((6, 4, 4, 3), [0, 1, 0, 1, 0, 1])
    """

    shape: tuple[int, int, int] = (8, 8, 1)
    num_classes: int = 10
    train: int = 512
    validation: int = 128
    test: int = 128
    noise: float = structural(48.0)
    seed: int = 0
    kind: ClassVar[str] = "synthetic"

    def validate(self, path: str = "data") -> None:
        """As `Source.validate`."""
        super().validate(path)
        shape, noise = self.shape, self.noise
        fine = all(size > 0 for size in shape)
        require(fine, join_path(path, "shape"), shape, "three sizes > 0: (height, width, channels)")
        require(self.num_classes >= 2, join_path(path, "num_classes"), self.num_classes, "a number of classes >= 2")
        for field in ("train", "validation", "test"):
            require(
                getattr(self, field) > 0, join_path(path, field), getattr(self, field), "a number of examples > 0"
            )
        require(0 <= noise < math.inf, join_path(path, "noise"), noise, "a finite standard deviation >= 0")
        require(0 <= self.seed < 2**32, join_path(path, "seed"), self.seed, "an integer in [0, 2**32)")

    def outline(self, *, trusted: bool = False) -> Outline:
        """As `Source.outline`."""
        examples = max(self.train, self.validation, self.test) + self.num_classes
        size = _PER_VALUE * examples * math.prod(self.shape)
        return self.arranged(self.shape, self.num_classes, bytes_to_make=size)

    def read(self, *, trusted: bool = False) -> Raw:
        """As `Source.read`."""
        # Not `default_rng`, whose stream may change with NumPy: the set would be another one under the same config.
        rng = np.random.RandomState(self.seed)
        height, width, channels = self.shape
        # Blocks of 2 x 2 equal pixels: in single random pixels a convolution would have no structure to learn.
        coarse = rng.uniform(0, 255, (self.num_classes, -(-height // 2), -(-width // 2), channels))
        templates = coarse.repeat(2, axis=1).repeat(2, axis=2)[:, :height, :width]

        def draw(n: int) -> Split:
            labels = np.arange(n, dtype=np.int32) % np.int32(self.num_classes)
            pixels = templates[labels] + self.noise * rng.standard_normal((n, *self.shape))
            return Split(np.clip(np.rint(pixels), 0, 255).astype(np.uint8), labels)

        splits = {name: draw(getattr(self, name)) for name in ("train", "validation", "test")}
        return Raw(splits, self.num_classes, scale=255.0)
