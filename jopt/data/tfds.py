"""Tfds: sets that TensorFlow Datasets prepares."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from jopt.config import ConfigError, join_path, require
from jopt.data.directory import arrays_folder, check_directory, directory
from jopt.data.examples import Raw
from jopt.data.images import Images
from jopt.data.outline import Outline
from jopt.data.parts import hold_out_test, require_fraction
from jopt.data.source import ReadPath
from jopt.paths import expanded

PARTS = ("train", "validation", "test")


@dataclasses.dataclass
class Tfds(Images):
    """A set of the catalog of TensorFlow Datasets, or any that it has prepared as ArrayRecord in a directory.

    Attributes:
      name: 'mnist', 'cifar10', 'emnist/letters', 'name/config:1.2.3'.
      data_dir: holds `name/[config/]version`; None: $JOPT_DATA_DIR, else $TFDS_DATA_DIR, else ~/.cache/jopt/data.
      directory: in the place of a name: one that holds `features.json`, such as 'sets/mine/1.0.0'.
      inputs: a feature, or several, which become a dictionary; 'a/b' is the feature b in a. "": the image of a set
        of images of one size with one class label each.
      targets: likewise; "": the label.
      splits: what the set calls training, validation and test part.
      test_fraction: of the training part, where a directory has no test part.
      tokens: whether uint8 inputs are tokens and not numbers.

    Example:
      >>> Tfds("mnist", shift=2).validate()
    """

    name: str = ""
    data_dir: str | None = None
    directory: str = ""
    inputs: str | tuple[str, ...] = ""
    targets: str | tuple[str, ...] = ""
    splits: tuple[str, str, str] = PARTS
    test_fraction: float = 0.2
    tokens: bool = False
    PATHS: ClassVar[tuple[str, ...]] = ("data_dir", "directory")

    def validate(self, path: str = "data") -> None:
        """As `Source.validate`. Imports tensorflow_datasets (not TensorFlow), and asks no network."""
        super().validate(path)
        accepted = "a TFDS catalog name where there is no data.directory, and none beside it"
        require(not (self.name and self.directory), join_path(path, "name"), self.name, accepted)
        require_fraction(self.test_fraction, join_path(path, "test_fraction"))
        both = bool(self.inputs) == bool(self.targets)
        require(
            both, join_path(path, "targets"), self.targets, "features where there are inputs, and none elsewhere"
        )
        if self.directory:
            file = expanded(self.directory, join_path(path, "directory")) / "features.json"
            accepted = "the directory of a prepared set's version, with features.json"
            require(file.is_file(), join_path(path, "directory"), self.directory, accepted)
            return
        # Imported here, as TFDS takes most of a second.
        from jopt.data import catalog

        if not catalog.knows(self.name):
            close = catalog.similar(self.name)
            hint = f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""
            accepted = f"a TFDS catalog name such as 'mnist', 'cifar10' or 'name/config:1.2.3'{hint}"
            raise ConfigError(join_path(path, "name"), self.name, accepted)
        check_directory(self.data_dir, join_path(path, "data_dir"))

    @property
    def label(self) -> str:
        """The set's name."""
        return self.name or Path(self.directory).name

    def paths(self) -> Iterator[ReadPath]:
        """The folders that the set is read from, outermost first; a name that was not checked may hold anything."""
        if self.directory:
            yield ReadPath("directory", self.directory)
        if not self.data_dir:
            return
        root, arrays = self.data_dir, arrays_folder(directory(self.data_dir), self.name)
        # A run directory can be called `mnist`, or `arrays`, and its parent be named as the data's.
        parts = re.split("[/:]", self.name)
        yield ReadPath("data_dir", root, recursive=False)
        for end in range(1, len(parts) + 1):
            # TFDS chooses a version, or a config, where the name has none: the run's directory can be that.
            yield ReadPath("data_dir", "/".join([root, *parts[:end]]), recursive=end == 1)
        for path in (arrays.parent, arrays):
            yield ReadPath("data_dir", str(path), recursive=False)

    def outline(self, *, trusted: bool = False) -> Outline:
        """As `Source.outline`."""
        if self.directory or self.inputs:
            return Outline()
        from jopt.data import catalog

        root = directory(self.data_dir)
        entry = catalog.open_entry(self.name, root, trusted=trusted)
        features = entry.builder.info.features
        # Decoded arrays are read without the files that TFDS prepared, which may be gone.
        on_disk = entry.prepared or (arrays_folder(root, self.name) / "meta.json").is_file()
        shape, classes = tuple(features[entry.image].shape), features[entry.label].num_classes
        return self.arranged(shape, classes, downloads=not on_disk)

    def read(self, *, trusted: bool = False) -> Raw:
        """As `Source.read`; the first call prepares a set of the catalog, and keeps the arrays of images."""
        from jopt.data.cache import cached

        root = directory(self.data_dir)
        if self.directory or self.inputs or self.splits != PARTS:
            from jopt.data import features

            builder = features.open_builder(self.name, root, self.directory, trusted)
            splits, classes = features.read(builder, self.label, self.inputs, self.targets, self.splits)
            if "test" not in splits:
                splits |= hold_out_test(splits["train"], self.test_fraction)
            return Raw(splits, classes, scale=255.0, tokens=self.tokens)

        def decode() -> Raw:
            from jopt.data import catalog

            return catalog.read(self.name, root, trusted=trusted)

        return cached(root, arrays_folder(root, self.name).name, decode)
