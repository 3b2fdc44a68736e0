"""ImageFolder: files of images in one directory a class."""

import dataclasses
import os
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from jopt.config import choice, join_path, require
from jopt.data.cache import cached
from jopt.data.directory import check_directory, directory
from jopt.data.examples import Raw, Split
from jopt.data.images import Images
from jopt.data.parts import digest_of_files, hold_out_test, refuse, require_fraction, require_path
from jopt.data.pictures import COLOURS, FITS, SUFFIXES, decode
from jopt.paths import expanded

_PARTS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
_ALL = "all"  # the name of the only part of a tree that nobody has split


@dataclasses.dataclass
class ImageFolder(Images):
    """Images in files, decoded by Pillow once and then kept as arrays.

    The directory holds `train/CLASS/*.png` and `test/CLASS/*.png`, perhaps `val/CLASS/*.png`, or `CLASS/*.png`
    alone, of which a test part is held out. Classes are the sorted names of the training part's directories. Files
    that end otherwise than images do, or begin with a dot, are passed over; one that leads out of the directory by
    a link is an error.

    Attributes:
      path: the directory.
      size: height and width, or one number for both; None: as they are, where all are of one size.
      fit: 'crop': scaled to cover the size, the rest cut off on both sides; 'stretch': scaled to the size.
      colours: 'rgb' or 'grey': three channels or one.
      test_fraction: of the images, where there is no `test`.
      data_dir: where decoded images are kept; None: $JOPT_DATA_DIR, else $TFDS_DATA_DIR, else ~/.cache/jopt/data.

    Example:
      >>> config = ImageFolder("flowers", size=64, flip=True)
    """

    path: str = ""
    size: int | tuple[int, int] | None = None
    fit: str = "crop"
    colours: str = "rgb"
    test_fraction: float = 0.2
    data_dir: str | None = None
    kind: ClassVar[str] = "images"
    PATHS: ClassVar[tuple[str, ...]] = ("path", "data_dir")

    def validate(self, path: str = "data") -> None:
        """As `Source.validate`."""
        super().validate(path)
        require_path(self.path, join_path(path, "path"), "a directory that exists")
        size = self.size
        fine = size is None or all(n > 0 for n in (size if isinstance(size, tuple) else (size,)))
        require(fine, join_path(path, "size"), size, "a number of pixels > 0, a pair (height, width), or None")
        choice(join_path(path, "fit"), self.fit, FITS)
        choice(join_path(path, "colours"), self.colours, COLOURS)
        require_fraction(self.test_fraction, join_path(path, "test_fraction"))
        check_directory(self.data_dir, join_path(path, "data_dir"))

    def read(self, *, trusted: bool = False) -> Raw:
        """As `Source.read`."""
        root = expanded(self.path, "data.path")
        listing = _list(root)
        files = sorted(file for classes in listing.values() for images in classes.values() for file in images)
        name = f"images-{digest_of_files(root, files, self.size, self.fit, self.colours)[:32]}"
        raw = cached(directory(self.data_dir), name, lambda: self._decoded(root, listing))
        first = _ALL if _ALL in raw.splits else "train"
        if "test" not in raw.splits:
            held_out = hold_out_test(raw.splits[first], self.test_fraction)
            raw = raw._replace(splits={**{k: v for k, v in raw.splits.items() if k != _ALL}, **held_out})
        return raw

    def _decoded(self, root: Path, listing: dict[str, dict[str, list[Path]]]) -> Raw:
        classes = sorted(listing.get(_ALL, listing.get("train", {})))
        splits: dict[str, Split] = {}
        size = self.size if self.size is None or isinstance(self.size, tuple) else (self.size, self.size)
        for part, images in listing.items():
            unknown = sorted(set(images) - set(classes))
            if unknown:
                refuse(f"{root}: classes of {part!r}", unknown, f"among those of the training part, {classes}")
            pairs = [(file, classes.index(label)) for label, files in sorted(images.items()) for file in files]
            inputs = decode([file for file, _ in pairs], size, self.fit, self.colours)
            splits[part] = Split(inputs, np.array([label for _, label in pairs], np.int32))
        return Raw(splits, len(classes), scale=255.0)


def _list(root: Path) -> dict[str, dict[str, list[Path]]]:
    """Part to class to its files, sorted. Raises DataError for a directory that holds no classes of images."""
    if not root.is_dir():
        refuse("data.path", root, "a directory")
    names = {entry.name for entry in root.iterdir() if entry.is_dir()}
    parts: dict[str, Any] = {_ALL: root}
    if "train" in names:
        parts = {_PARTS[name]: root / name for name in sorted(names) if name in _PARTS}
        beside = sorted(name for name in names if name not in _PARTS and not name.startswith("."))
        if beside:
            refuse(
                str(root), f"{beside} beside 'train'", f"a directory with {', '.join(_PARTS)} alone, or of classes"
            )
    inside = Path(os.path.realpath(root))
    listing = {part: _classes(folder, inside) for part, folder in parts.items()}
    for part, classes in listing.items():
        if not classes:
            refuse(str(parts[part]), "no such directory", f"a directory of one directory a class, with {_ENDINGS}")
    return listing


_ENDINGS = f"files *{', *'.join(SUFFIXES)}"


def _classes(folder: Path, inside: Path) -> dict[str, list[Path]]:
    classes: dict[str, list[Path]] = {}
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not entry.name.startswith("."):
            files = sorted(file for file in entry.rglob("*") if file.suffix.lower() in SUFFIXES)
            classes[entry.name] = [file for file in files if not file.name.startswith(".")]
            if not classes[entry.name]:
                refuse(str(entry), "none", f"a class of at least one image ({_ENDINGS})")
            for file in classes[entry.name]:
                if not Path(os.path.realpath(file)).is_relative_to(inside):
                    refuse(str(file), os.path.realpath(file), f"a file of {inside}, also after following links")
    return classes
