"""Image classification sets through TensorFlow Datasets, read without TensorFlow.

Only ArrayRecord data can be read without TensorFlow; `features.Image` needs TensorFlow to be prepared.
"""

import difflib
import functools
import importlib.util
import re
from pathlib import Path
from typing import Any

import numpy as np

from jopt.config import ConfigError
from jopt.data.cache import DataError
from jopt.data.source import Source, Split

_NAME = re.compile(r"[a-z0-9_]+(/[\w.+-]+)?(:\d+\.\d+\.\d+)?")


@functools.cache
def _names() -> frozenset[str]:
    import tensorflow_datasets as tfds

    return frozenset(tfds.list_builders(with_community_datasets=False))


def knows(name: str) -> bool:
    """Whether `name`, `name/config` or `name:1.2.3` names a builder that TFDS ships; asks no network.

    Example:
      >>> knows("mnist"), knows("cifar10:3.0.2"), knows("mnits")
      (True, True, False)
    """
    return bool(_NAME.fullmatch(name)) and re.split("[/:]", name)[0] in _names()


def similar(name: str, more: tuple[str, ...] = ()) -> list[str]:
    """Up to three known names that look like `name`."""
    return difflib.get_close_matches(name, sorted(_names() | set(more)), n=3)


def read(name: str, root: Path) -> Source:
    """The arrays of a catalog set, which is prepared first where it has to be.

    Args:
      name: `mnist`, `cifar10`, `name/config`, `name:1.2.3`.
      root: the TFDS data directory; the set lies in `root/name/[config/]version`.

    Returns:
      Its official splits.

    Raises:
      ConfigError: if the set is not one of images of one size, uint8, with one class label each.
      DataError: if it is not prepared and cannot be: without TensorFlow, or without the download.
    """
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=str(root), try_gcs=False)
    except (tfds.core.DatasetNotFoundError, ValueError, AssertionError) as error:
        raise ConfigError("data.name", name, f"a name that tensorflow_datasets can build ({error})") from error
    image, label = _features(builder, name)
    if not builder.is_prepared():
        _prepare(builder, name, root)
    return read_prepared(builder, name, root, image, label)


def read_prepared(builder: Any, name: str, root: Path, image: str = "image", label: str = "label") -> Source:
    """Decodes what a TFDS builder has prepared as ArrayRecord.

    Args:
      builder: a prepared `tfds.core.DatasetBuilder`.
      name: for messages.
      root: the TFDS data directory, for messages.
      image: the key of the images.
      label: the key of the class label.
    """
    form = builder.info.file_format.value
    if form != "array_record":
        raise DataError(
            f"data.name {name!r} is prepared in {builder.data_path} as {form}, which only TensorFlow reads. "
            f"Move that directory away (or name another data.data_dir), pip install 'jopt[catalog]' and prepare it "
            f"as array_record, from the same downloads:\n    {_command(name, root)}"
        )
    present = [split for split in ("train", "validation", "test") if split in builder.info.splits]
    if not {"train", "test"} <= set(present):
        found = sorted(builder.info.splits)
        raise ConfigError("data.name", name, f"a set with splits 'train' and 'test' (this one has {found})")
    splits = {}
    for split in present:
        records = builder.as_data_source(split)
        inputs = np.empty((len(records), *builder.info.features[image].shape), np.uint8)
        labels = np.empty(len(records), np.int32)
        for i in range(len(records)):
            record = records[i]
            inputs[i], labels[i] = record[image], record[label]
        splits[split] = Split(inputs, labels)
    return Source(splits, builder.info.features[label].num_classes, scale=255.0)


def _features(builder: Any, name: str) -> tuple[str, str]:
    keys = builder.info.supervised_keys or ()
    features = builder.info.features
    if len(keys) == 2 and all(isinstance(k, str) for k in keys):
        image, label = features[keys[0]], features[keys[1]]
        shape = image.shape
        sized = isinstance(shape, tuple) and len(shape) == 3 and None not in shape
        if sized and image.np_dtype == np.uint8 and hasattr(label, "num_classes") and label.shape == ():
            return keys
    accepted = "a set of uint8 images [h, w, c] of one size with one class label each"
    raise ConfigError("data.name", name, f"{accepted} (this one has {_one_line(features)})")


def _prepare(builder: Any, name: str, root: Path) -> None:
    import tensorflow_datasets as tfds

    # TFDS 4.9.10 imports importlib_resources here without declaring it.
    missing = [m for m in ("tensorflow", "importlib_resources") if importlib.util.find_spec(m) is None]
    if missing:
        raise DataError(
            f"data.name {name!r} is not prepared in {builder.data_path}, and to prepare it (not to read it) takes "
            f"{' and '.join(missing)}: pip install 'jopt[catalog]', here or on another machine, then\n"
            f"    {_command(name, root)}\n"
            f"A directory prepared elsewhere with --file_format=array_record can be copied to {builder.data_path}."
        )
    options = tfds.download.DownloadConfig(try_download_gcs=False)
    try:
        builder.download_and_prepare(file_format="array_record", download_config=options)
    except (OSError, tfds.download.DownloadError) as error:  # requests' errors are OSErrors
        raise DataError(
            f"data.name {name!r} is not prepared in {builder.data_path}, and cannot be downloaded from here: "
            f"{_one_line(error)}. With a network run\n    {_command(name, root)}\n"
            f"and copy what it makes to {builder.data_path}, or put the archives under {root / 'downloads'}."
        ) from error


def _command(name: str, root: Path | str) -> str:
    return f"python -m jopt.data.prepare {name} --data_dir={root}"


def _one_line(thing: object) -> str:
    return " ".join(str(thing).split())[:300]
