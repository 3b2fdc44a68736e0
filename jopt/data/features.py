"""Features of a prepared set of TensorFlow Datasets as inputs and targets, read without TensorFlow.

Imported only where such a set is read, as `tensorflow_datasets` takes most of a second.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jopt.config import ConfigError
from jopt.data import catalog, feature_classes
from jopt.data.cache import DataError
from jopt.data.examples import Split
from jopt.data.parts import refuse, stacked
from jopt.paths import expanded

Fields = str | tuple[str, ...]


def open_builder(name: str, root: Path, directory: str, trusted: bool) -> catalog.Builder:
    """The builder of a prepared set: of `directory`, or of the catalog's `name` below `root`.

    Raises:
      DataError: if it is not prepared, its files are damaged, or they name a feature class of somebody else.
    """
    if not directory:
        with catalog.reading(name, root):
            builder = catalog.builder_of(name, root, trusted)
            if not builder.is_prepared():
                refuse(f"data.name {name!r}", "absent", f"a set that is prepared in {builder.data_path}")
            return builder
    folder = expanded(directory, "data.directory")
    feature_classes.check(folder, trusted=trusted)
    try:
        return tfds.builder_from_directory(os.fspath(folder))
    # Whatever damaged files make the readers of TFDS and protobuf raise.
    except Exception as error:
        message = f"{type(error).__name__}: {catalog.one_line(error)}"
        refuse(str(folder), message, "the directory of a prepared set's version", error)


def read(
    builder: catalog.Builder, name: str, inputs: Fields, targets: Fields, names: tuple[str, ...]
) -> tuple[dict[str, Split], int | None]:
    """The parts of a prepared set, and the number of its classes, if its target is a class label.

    Args:
      builder: of the set.
      name: of the set, for messages.
      inputs: a feature, or several; "": the set's own pair of inputs and targets.
      targets: likewise.
      names: what it calls training, validation and test part.

    Raises:
      ConfigError: if it has no such features or parts.
      DataError: if its records cannot be read, or a feature is no array of numbers of one shape.
    """
    catalog.check_format(builder, name)
    if not inputs:
        keys = builder.info.supervised_keys
        if keys is None or len(keys) != 2 or not all(isinstance(key, str) for key in keys):
            accepted = (
                f"one of its features ({', '.join(builder.info.features)}), as the set names no pair of its own"
            )
            raise ConfigError("data.inputs", inputs, accepted)
        inputs, targets = keys
    for field, features in (("inputs", inputs), ("targets", targets)):
        for feature in (features,) if isinstance(features, str) else features:
            _feature(builder, feature, field)
    present = dict(builder.info.splits)
    if names[0] not in present:
        raise ConfigError("data.splits", names, f"names of its splits, {sorted(present)}")
    parts = zip(("train", "validation", "test"), names, strict=True)
    splits = {part: _split(builder, split, inputs, targets) for part, split in parts if split in present}
    return splits, getattr(_feature(builder, targets, "targets"), "num_classes", None) if isinstance(
        targets, str
    ) else None


def _feature(builder: catalog.Builder, path: str, field: str) -> Any:
    """The feature at a path such as 'a/b'. Raises ConfigError if there is none."""
    feature = builder.info.features
    for part in path.split("/"):
        keys = list(feature.keys()) if hasattr(feature, "keys") else []
        if part not in keys:
            accepted = f"a feature of {', '.join(keys) or 'no features'} (the set has {catalog.one_line(feature)})"
            raise ConfigError(f"data.{field}", path, accepted)
        feature = feature[part]
    return feature


def _split(builder: catalog.Builder, split: str, inputs: Fields, targets: Fields) -> Split:
    paths = {*_paths(inputs), *_paths(targets)}
    columns: dict[str, list[Any]] = {path: [] for path in paths}
    try:
        records = builder.as_data_source(split)
        for i in range(len(records)):
            record = records[i]
            for path, column in columns.items():
                column.append(_at(record, path))
    # Whatever half-copied or damaged records make their readers raise: of ArrayRecord, TFDS, protobuf or Pillow.
    except Exception as error:
        raise DataError(
            f"the records in {builder.data_path} cannot be read ({catalog.one_line(error)}); copy or prepare the "
            "set again",
            field=str(builder.data_path),
            accepted="the files that TFDS prepared",
        ) from error
    arrays = {path: stacked(column, f"feature {path!r} of {split!r}") for path, column in columns.items()}
    chosen = [arrays[f] if isinstance(f, str) else {path: arrays[path] for path in f} for f in (inputs, targets)]
    return Split(*chosen)


def _paths(features: Fields) -> tuple[str, ...]:
    return (features,) if isinstance(features, str) else features


def _at(record: Any, path: str) -> np.ndarray:
    for part in path.split("/"):
        record = record[part]
    return record
