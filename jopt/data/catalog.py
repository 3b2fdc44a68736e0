"""Sets that TensorFlow Datasets prepares, read without TensorFlow: its catalog of images, and the UCI digits.

Only ArrayRecord data can be read without TensorFlow; `features.Image` needs TensorFlow to be prepared. This file is
imported only where such a set is named and has to be read: `tensorflow_datasets` takes most of a second.
"""

import contextlib
import difflib
import functools
import importlib.util
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from google.protobuf import json_format

from jopt.config import ConfigError
from jopt.data import feature_classes
from jopt.data.cache import DataError
from jopt.data.examples import Raw, Split, carve

Builder: TypeAlias = Any
"""A `tfds.core.DatasetBuilder`, whose features and splits TFDS declares too loosely to be read as what they are."""

TEST, VALIDATION = 360, 180  # of 1797; the other 1257 are for training

_DESCRIPTION = """\
8x8 grey images of handwritten digits, 1797 of them, values 0..16: the test part of the Optical Recognition of
Handwritten Digits set, as it ships with scikit-learn. Each pixel counts the dark pixels in a 4x4 block of a 32x32
scan. Splits are stratified by jopt.data.examples with seed 0."""

_CITATION = """\
@misc{alpaydin1998optical,
  author = {E. Alpaydin and C. Kaynak},
  title = {Optical Recognition of Handwritten Digits},
  howpublished = {UCI Machine Learning Repository},
  year = {1998},
  doi = {10.24432/C50P49}
}"""

# No part is `.` or `..`: TFDS joins the parts to a path.
_NAME = re.compile(r"([a-z0-9_]+)(?:/(?!\.{1,2}(?::|$))([\w.+-]+))?(?::(\d+\.\d+\.\d+))?", re.ASCII)


@functools.cache
def _names() -> frozenset[str]:
    return frozenset(tfds.list_builders(with_community_datasets=False))


def knows(name: str) -> bool:
    """Whether `name`, `name/config` or `name:1.2.3` names a builder that TFDS ships; asks no network.

    Example:
      >>> knows("mnist"), knows("cifar10:3.0.2"), knows("mnits")
      (True, True, False)
    """
    match = _NAME.fullmatch(name)
    return match is not None and match[1] in _names()


def similar(name: str, built_in: tuple[str, ...] = ()) -> list[str]:
    """Up to three names, of the catalog or of those that are built in, that look like `name`."""
    return difflib.get_close_matches(name, sorted(_names() | set(built_in)), n=3)


def read(name: str, root: Path, *, trusted: bool = False) -> Raw:
    """The arrays of a catalog set, which is prepared first where it has to be.

    Args:
      name: `mnist`, `cifar10`, `name/config`, `name:1.2.3`.
      root: the TFDS data directory; the set lies in `root/name/[config/]version`.
      trusted: accept feature classes that are not of TFDS, whose modules are then imported.

    Returns:
      Its official splits.

    Raises:
      ConfigError: if the set is not one of images of one size, uint8, with one class label each.
      DataError: if it is not prepared and cannot be: without TensorFlow, or without the download; if its files are
        damaged, or name a feature class of somebody else.
    """
    entry = open_entry(name, root, trusted=trusted)
    if not entry.prepared:
        _prepare(entry.builder, name, root)
    return read_prepared(entry.builder, name, root, entry.image, entry.label)


class Entry(NamedTuple):
    """A set of the catalog: its builder, the keys of its image and its label, and whether its files are there."""

    builder: Builder
    image: str
    label: str
    prepared: bool


def open_entry(name: str, root: Path, *, trusted: bool = False) -> Entry:
    """A set of the catalog. Downloads and prepares nothing.

    Raises:
      ConfigError, DataError: as `read`.
    """
    if not knows(name):
        raise ConfigError("data.name", name, "a name of TFDS's catalog, as 'name', 'name/config' or 'name:1.2.3'")
    with reading(name, root):
        builder = builder_of(name, root, trusted)
        prepared = builder.is_prepared()
    return Entry(builder, *_features(builder, name), prepared)


def builder_of(name: str, root: Path, trusted: bool) -> Builder:
    """As `tfds.builder`, but of files that were checked: it is decided here which ones are read."""
    match = _NAME.fullmatch(name)
    assert match is not None, name
    set_name, config, version = match.groups()
    builder_class = tfds.builder_cls(set_name)
    if folder := _version_folder(builder_class, root / set_name, config, version):
        feature_classes.check(folder, trusted=trusted)
        return tfds.builder_from_directory(str(folder))
    builder = builder_class(config=config, version=version, data_dir=str(root))
    # TFDS's code says what the features are, not this file; but one that is damaged tells of a half-copied set.
    feature_classes.check(Path(builder.data_path), trusted=trusted)
    return builder


def _version_folder(builder_class: Builder, folder: Path, config: str | None, version: str | None) -> Path | None:
    """The folder whose `features.json` says what a set is; None where TFDS's own code does.

    TFDS would also take the name of a config from a file in `folder`, which may lead anywhere; this does not.
    """
    if version is not None:
        default = builder_class.default_builder_config if builder_class.BUILDER_CONFIGS else None
        configs = [config] if config else ["", *([default.name] if default else [])]
        candidates = [folder / name / version for name in configs]
    elif config is not None and config not in builder_class.builder_configs:
        found = [path for path in (folder / config).glob("*.*.*") if re.fullmatch(r"\d+\.\d+\.\d+", path.name)]
        candidates = sorted(found, key=lambda path: tuple(map(int, path.name.split("."))), reverse=True)
    else:
        candidates = []
    return next((path for path in candidates if (path / feature_classes.FILE).exists()), None)


@contextlib.contextmanager
def reading(name: str, root: Path) -> Iterator[None]:
    """Silences TFDS, and says of which set its errors are.

    Raises:
      ConfigError, DataError: as `read`.
    """
    try:
        with _quiet():
            yield
    except (tfds.core.DatasetNotFoundError, ValueError, AssertionError) as error:
        raise ConfigError("data.name", name, f"a name that tensorflow_datasets can build ({error})") from error
    except (OSError, RuntimeError, json_format.ParseError) as error:
        folder = root / re.split("[/:]", name)[0]
        raise DataError(f"data.name {name!r}: the files in {folder} cannot be read: {one_line(error)}") from error


def check_format(builder: Builder, name: str, command: str = "") -> None:
    """Raises DataError unless a set was prepared in the form that can be read without TensorFlow."""
    form = builder.info.file_format.value
    if form != "array_record":
        remedy = (
            "Move that directory away (or name another data.data_dir), pip install 'jopt[catalog]' and prepare it "
            f"as array_record, from the same downloads:\n    {command}"
        )
        raise DataError(
            f"data {name!r} is prepared in {builder.data_path} as {form}, which only TensorFlow reads. "
            + (remedy if command else "Prepare it with file_format='array_record'."),
            field=str(builder.data_path),
            value=form,
            accepted="a set that was prepared as array_record",
        )


def read_prepared(builder: Builder, name: str, root: Path, image: str = "image", label: str = "label") -> Raw:
    """Decodes what a TFDS builder has prepared as ArrayRecord.

    Args:
      builder: a prepared `tfds.core.DatasetBuilder`.
      name: for messages.
      root: the TFDS data directory, for messages.
      image: the key of the images.
      label: the key of the class label.
    """
    check_format(builder, name, _command(name, root))
    present = [split for split in ("train", "validation", "test") if split in builder.info.splits]
    if not {"train", "test"} <= set(present):
        splits = sorted(builder.info.splits)
        raise ConfigError("data.name", name, f"a set with splits 'train' and 'test' (this one has {splits})")
    try:
        splits = {split: _decode(builder, split, image, label) for split in present}
    # Whatever half-copied or damaged records make their readers raise: of ArrayRecord, TFDS, protobuf or Pillow.
    except Exception as error:
        raise DataError(
            f"data.name {name!r}: the records in {builder.data_path} cannot be read ({one_line(error)}); copy or "
            "prepare the set again",
            field=str(builder.data_path),
            accepted="the files that TFDS prepared",
        ) from error
    return Raw(splits, builder.info.features[label].num_classes, scale=255.0)


def _decode(builder: Builder, split: str, image: str, label: str) -> Split:
    records = builder.as_data_source(split)
    # Filled in place: stacking a list of records would hold the whole set in memory twice.
    inputs = np.empty((len(records), *builder.info.features[image].shape), np.uint8)
    labels = np.empty(len(records), np.int32)
    for i in range(len(records)):
        record = records[i]
        inputs[i], labels[i] = record[image], record[label]
    return Split(inputs, labels)


def _features(builder: Builder, name: str) -> tuple[str, str]:
    keys = builder.info.supervised_keys or ()
    features = builder.info.features
    if len(keys) == 2 and all(isinstance(k, str) for k in keys):
        image, label = features[keys[0]], features[keys[1]]
        shape = image.shape
        sized = isinstance(shape, tuple) and len(shape) == 3 and None not in shape
        if sized and image.np_dtype == np.uint8 and hasattr(label, "num_classes") and label.shape == ():
            return keys
    accepted = "a set of uint8 images [h, w, c] of one size with one class label each"
    raise ConfigError("data.name", name, f"{accepted} (this one has {one_line(features)})")


def _prepare(builder: Builder, name: str, root: Path) -> None:
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
            f"{one_line(error)}. With a network run\n    {_command(name, root)}\n"
            f"and copy what it makes to {builder.data_path}, or put the archives under {root / 'downloads'}."
        ) from error


def _command(name: str, root: Path | str) -> str:
    return shlex.join(["python", "-m", "jopt.data.prepare", name, f"--data_dir={root}"])


def one_line(message: object) -> str:
    """The beginning of a message, on one line."""
    # Errors of TFDS and descriptions of features fill screens.
    return " ".join(str(message).split())[:300]


class Digits(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Builder of `digits`: image uint8 [8, 8, 1] in 0..16, label, and the row in scikit-learn's array."""

    VERSION = tfds.core.Version("1.0.0")
    # Nothing is downloaded. TFDS 4.9.10 would look for checksums through a package it does not declare.
    url_infos = {}  # noqa: RUF012

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION,
            features=tfds.features.FeaturesDict(
                {
                    # features.Image would need TensorFlow to encode; 64 bytes need no encoding.
                    "image": tfds.features.Tensor(shape=(8, 8, 1), dtype=np.uint8),
                    "label": tfds.features.ClassLabel(num_classes=10),
                    "row": tfds.features.Scalar(dtype=np.int64),
                }
            ),
            supervised_keys=("image", "label"),
            disable_shuffling=True,
            homepage="https://archive.ics.uci.edu/dataset/80",
            citation=_CITATION,
        )

    def _split_generators(self, dl_manager: object) -> dict[str, Iterator]:
        del dl_manager
        from sklearn.datasets import load_digits

        # scikit-learn has them as float64; every value is an integer.
        pixels, labels = map(np.asarray, load_digits(return_X_y=True))
        images = pixels.astype(np.uint8).reshape(-1, 8, 8, 1)
        sizes = [TEST, VALIDATION, len(images) - TEST - VALIDATION]
        test, validation, train = carve(images, labels, sizes)
        rows = {"train": train, "validation": validation, "test": test}
        return {name: self._generate_examples(images, labels, part) for name, part in rows.items()}

    def _generate_examples(
        self, images: np.ndarray, labels: np.ndarray, rows: np.ndarray
    ) -> Iterator[tuple[int, dict]]:
        for row in rows:
            yield int(row), {"image": images[row], "label": int(labels[row]), "row": int(row)}


def read_digits(root: Path) -> Raw:
    """The official splits of the digits, prepared as ArrayRecord under `root/digits` on the first call."""
    with reading("digits", root):
        builder = Digits(data_dir=str(root), file_format="array_record")
        if not builder.is_prepared():
            options = tfds.download.DownloadConfig(try_download_gcs=False)
            builder.download_and_prepare(file_format="array_record", download_config=options)
    # The catalog's images are bytes of 0 to 255; these pixels count to 16.
    return read_prepared(builder, "digits", root)._replace(scale=16.0)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences TFDS: its progress bars outlive the fifth of a second that they measure."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.enable_progress_bar()
        logging.set_verbosity(verbosity)
