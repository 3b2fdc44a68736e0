"""The UCI handwritten digits as a TFDS builder that needs neither a network nor TensorFlow.

Imported only where digits are prepared: `tensorflow_datasets` costs most of a second.
"""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from jopt.data.catalog import read_prepared
from jopt.data.partition import carve
from jopt.data.source import Source

TEST, VALIDATION = 360, 180  # of 1797; the other 1257 are for training

_DESCRIPTION = """\
8x8 grey images of handwritten digits, 1797 of them, values 0..16: the test part of the Optical Recognition of
Handwritten Digits set, as it ships with scikit-learn. Each pixel counts the dark pixels in a 4x4 block of a 32x32
scan. Splits are stratified by jopt.data.partition with seed 0."""

_CITATION = """\
@misc{alpaydin1998optical,
  author = {E. Alpaydin and C. Kaynak},
  title = {Optical Recognition of Handwritten Digits},
  howpublished = {UCI Machine Learning Repository},
  year = {1998},
  doi = {10.24432/C50P49}
}"""


class Digits(tfds.core.GeneratorBasedBuilder):
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

    def _split_generators(self, dl_manager):
        del dl_manager
        from sklearn.datasets import load_digits

        pixels, labels = map(np.asarray, load_digits(return_X_y=True))
        images = pixels.astype(np.uint8).reshape(-1, 8, 8, 1)
        sizes = [TEST, VALIDATION, len(images) - TEST - VALIDATION]
        test, validation, train = carve(images, labels, sizes)
        rows = {"train": train, "validation": validation, "test": test}
        return {name: self._generate_examples(images, labels, part) for name, part in rows.items()}

    def _generate_examples(self, images, labels, rows):
        for row in rows:
            yield int(row), {"image": images[row], "label": int(labels[row]), "row": int(row)}


def read(root: Path) -> Source:
    """The official splits, prepared as ArrayRecord under `root/digits` on the first call."""
    with _quiet():
        builder = Digits(data_dir=str(root), file_format="array_record")
        if not builder.is_prepared():
            options = tfds.download.DownloadConfig(try_download_gcs=False)
            builder.download_and_prepare(file_format="array_record", download_config=options)
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
