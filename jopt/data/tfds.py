"""Tfds: sets that TensorFlow Datasets prepares."""

import dataclasses
import re
from collections.abc import Iterator
from typing import ClassVar

from jopt.config import ConfigError, join_path
from jopt.data.directory import arrays_folder, check_directory, directory
from jopt.data.examples import Raw
from jopt.data.images import Images
from jopt.data.outline import Outline
from jopt.data.source import ReadPath


@dataclasses.dataclass
class Tfds(Images):
    """A set of the catalog of TensorFlow Datasets: images of one size with one class label each.

    Attributes:
      name: 'mnist', 'cifar10', 'emnist/letters', 'name/config:1.2.3'.
      data_dir: holds `name/[config/]version`; None: $JOPT_DATA_DIR, else $TFDS_DATA_DIR, else ~/.cache/jopt/data.

    Example:
      >>> Tfds("mnist", shift=2).validate()
    """

    name: str = ""
    data_dir: str | None = None
    PATHS: ClassVar[tuple[str, ...]] = ("data_dir",)

    def validate(self, path: str = "data") -> None:
        """As `Source.validate`. Imports tensorflow_datasets (not TensorFlow), and asks no network."""
        super().validate(path)
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
        return self.name

    def paths(self) -> Iterator[ReadPath]:
        """The folders that the set is read from, outermost first; a name that was not checked may hold anything."""
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
        from jopt.data import catalog

        root = directory(self.data_dir)
        entry = catalog.open_entry(self.name, root, trusted=trusted)
        features = entry.builder.info.features
        # Decoded arrays are read without the files that TFDS prepared, which may be gone.
        on_disk = entry.prepared or (arrays_folder(root, self.name) / "meta.json").is_file()
        shape, classes = tuple(features[entry.image].shape), features[entry.label].num_classes
        return self._arranged(Outline(shape, classes, downloads=not on_disk))

    def read(self, *, trusted: bool = False) -> Raw:
        """As `Source.read`; the first call prepares the set, and keeps its decoded arrays."""
        from jopt.data.cache import cached

        root = directory(self.data_dir)

        def decode() -> Raw:
            from jopt.data import catalog

            return catalog.read(self.name, root, trusted=trusted)

        return cached(root, arrays_folder(root, self.name).name, decode)
