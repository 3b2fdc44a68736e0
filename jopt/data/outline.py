"""What a data set would be, before anything is downloaded, prepared, read or made."""

import math
from typing import NamedTuple

from jopt.data.config import DataConfig, directory, validate
from jopt.data.dataset import arrays_folder

_PER_VALUE = 32  # bytes that making a synthetic value takes, in float64


class Outline(NamedTuple):
    """A data set in numbers.

    Attributes:
      shape: of one example, in the config's layout.
      num_classes: as the config relabels them.
      downloads: whether reading it would download and prepare it.
      bytes_to_make: memory that making it takes, about; 0 of a set that is read from files.
    """

    shape: tuple[int, ...]
    num_classes: int
    downloads: bool = False
    bytes_to_make: int = 0


def outline(config: DataConfig, *, trusted: bool = False) -> Outline:
    """The outline of a data set.

    Args:
      config: which set.
      trusted: as for `load`.

    Raises:
      ConfigError, DataError: as `load`.

    Example:
      >>> outline(DataConfig(name="digits", layout="sequence"))
      Outline(shape=(8, 8), num_classes=10, downloads=False, bytes_to_make=0)
    """
    validate(config)
    if config.name == "xor":
        raw = Outline((2,), 2)
    elif config.name == "digits":
        raw = Outline((8, 8, 1), 10)
    elif config.name == "synthetic":
        s = config.synthetic
        examples = max(s.train, s.validation, s.test) + s.num_classes
        raw = Outline(s.shape, s.num_classes, bytes_to_make=_PER_VALUE * examples * math.prod(s.shape))
    else:
        raw = _catalog(config, trusted)
    # A sequence's steps are the first axis: rows of an image, numbers of a vector.
    shape = (raw.shape[0], math.prod(raw.shape[1:])) if config.layout == "sequence" else raw.shape
    return raw._replace(shape=shape, num_classes=max(config.relabel, default=raw.num_classes - 1) + 1)


def _catalog(config: DataConfig, trusted: bool) -> Outline:
    # Imported here, as TFDS takes most of a second.
    from jopt.data import catalog

    root = directory(config)
    entry = catalog.open_entry(config.name, root, trusted=trusted)
    features = entry.builder.info.features
    # Decoded arrays are read without the files that TFDS prepared, which may be gone.
    on_disk = entry.prepared or (arrays_folder(root, config.name) / "meta.json").is_file()
    return Outline(tuple(features[entry.image].shape), features[entry.label].num_classes, downloads=not on_disk)
