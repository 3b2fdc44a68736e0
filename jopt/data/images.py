"""Images: what the configs of sets of images share: layout, other classes, augmentation."""

import dataclasses
import math
from typing import Any

import numpy as np
from jaxtyping import PyTree

from jopt.config import choice, join_path, require
from jopt.data.examples import Split
from jopt.data.outline import Outline
from jopt.data.source import Source
from jopt.typing import Key

LAYOUTS = ("image", "sequence")


@dataclasses.dataclass(kw_only=True)
class Arranged(Source):
    """Examples that can be laid out as sequences, and whose classes can be others.

    Attributes:
      layout: 'image': [h, w, c]; 'sequence': rows as time steps, [h, w * c].
      relabel: another task: the new class of each class, such as its parity.
    """

    layout: str = "image"
    relabel: tuple[int, ...] = ()

    def validate(self, path: str = "data") -> None:
        """As `Source.validate`."""
        super().validate(path)
        choice(join_path(path, "layout"), self.layout, LAYOUTS)
        for i, label in enumerate(self.relabel):
            require(label >= 0, f"{join_path(path, 'relabel')}[{i}]", label, "a class, counted from 0")
        # A class without examples would be trained for nothing, and nobody would notice.
        missing = sorted(set(range(max(self.relabel, default=-1) + 1)) - set(self.relabel))
        accepted = f"classes from 0 without gaps (no class becomes {missing})"
        require(not missing, join_path(path, "relabel"), self.relabel, accepted)

    def arrange(self, splits: dict[str, Split], num_classes: int | None) -> tuple[dict[str, Split], int | None]:
        """As `Source.arrange`."""
        splits, num_classes = super().arrange(splits, num_classes)
        if self.relabel:
            accepted = f"a new class for each of the {num_classes} classes of {self.label!r}"
            require(len(self.relabel) == num_classes, "data.relabel", self.relabel, accepted)
            table, num_classes = np.array(self.relabel, np.int32), max(self.relabel) + 1
            splits = {name: part._replace(targets=table[part.targets]) for name, part in splits.items()}
        if self.layout == "sequence":
            inputs = splits["train"].inputs
            fine = isinstance(inputs, np.ndarray) and inputs.ndim > 1
            require(fine, "data.layout", self.layout, "'image' where inputs are not one array of images or vectors")
            splits = {name: part._replace(inputs=_as_sequence(part.inputs)) for name, part in splits.items()}
        return splits, num_classes

    def channels(self, shape: tuple[int, ...], arranged: tuple[int, ...]) -> int:
        """As `Source.channels`."""
        # Of a sequence of image rows: the image's channels, not columns times channels.
        return shape[-1] if len(shape) > 2 else super().channels(shape, arranged)

    def arranged(self, shape: tuple[int, ...], num_classes: int, **costs: Any) -> Outline:
        """The outline of a set whose makers gave it this shape and so many classes."""
        # A sequence's steps are the first axis: rows of an image, numbers of a vector.
        if self.layout == "sequence":
            shape = (shape[0], math.prod(shape[1:]))
        return Outline(shape, max(self.relabel, default=num_classes - 1) + 1, **costs)


@dataclasses.dataclass(kw_only=True)
class Images(Arranged):
    """Images that training can shift and mirror at random.

    Attributes:
      shift: random translation by up to n pixels each way, filled with raw 0.
      crop_padding: the same under its other name: pad n raw zeros all around, crop at random.
      flip: random horizontal mirror.
    """

    shift: int = 0
    crop_padding: int = 0
    flip: bool = False

    def validate(self, path: str = "data") -> None:
        """As `Source.validate`."""
        super().validate(path)
        for field in ("shift", "crop_padding"):
            value = getattr(self, field)
            require(value >= 0, join_path(path, field), value, "a number of pixels >= 0")
        require(
            not (self.shift and self.crop_padding),
            join_path(path, "crop_padding"),
            self.crop_padding,
            f"0 where shift is {self.shift}: both name the same random translation",
        )
        # A sequence's rows are time steps.
        for field in self._augmented() if self.layout != "image" else ():
            accepted = "off unless the inputs are images [h, w, c]"
            require(False, join_path(path, field), getattr(self, field), accepted)

    @property
    def varies(self) -> bool:
        """As `Source.varies`."""
        return super().varies or bool(self._augmented())

    def augment(self, key: Key, inputs: PyTree) -> PyTree:
        """As `Source.augment`."""
        from jopt.data.batches import augment

        return super().augment(key, augment(key, inputs, self))

    def arrange(self, splits: dict[str, Split], num_classes: int | None) -> tuple[dict[str, Split], int | None]:
        """As `Source.arrange`."""
        splits, num_classes = super().arrange(splits, num_classes)
        inputs = splits["train"].inputs
        for field in self._augmented():
            value = getattr(self, field)
            fine = isinstance(inputs, np.ndarray) and inputs.ndim == 4
            require(fine, f"data.{field}", value, "off unless the inputs are images [h, w, c]")
            size = min(inputs.shape[1:3])
            accepted = f"less than the {size} pixels of the images' shorter side"
            require(field == "flip" or value < size, f"data.{field}", value, accepted)
        return splits, num_classes

    def _augmented(self) -> list[str]:
        return [field for field in ("shift", "crop_padding", "flip") if getattr(self, field)]


def _as_sequence(inputs: np.ndarray) -> np.ndarray:
    # A vector is a sequence of numbers; of an image, each row is a time step.
    return inputs[..., None] if inputs.ndim == 2 else inputs.reshape(*inputs.shape[:2], -1)
