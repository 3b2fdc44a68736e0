"""The real `cifar10` builder of TFDS, on a small archive in the true layout."""

import importlib.resources.abc
import importlib.util
import io
import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import cifar_archive
import numpy as np
import pytest

from jopt import config as base
from jopt import data
from jopt.data import catalog, prepare

# A Python that has TensorFlow may stand elsewhere, so that this environment stays without.
TENSORFLOW_PYTHON = os.environ.get("JOPT_TENSORFLOW_PYTHON", sys.executable)
HAS_TENSORFLOW = sys.executable != TENSORFLOW_PYTHON or importlib.util.find_spec("tensorflow") is not None
without_tensorflow = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is not None, reason="states what happens where TensorFlow is missing"
)


def check(dataset):
    """What the archive holds, each image with its label, 10 of the 100 training examples held out."""
    train = {**_by_image(dataset.train), **_by_image(dataset.validation)}
    assert train == cifar_archive.expected("train")
    assert _by_image(dataset.test) == cifar_archive.expected("test")
    assert [len(s.targets) for s in (dataset.train, dataset.validation, dataset.test)] == [90, 10, 20]
    assert np.bincount(dataset.validation.targets).tolist() == [1] * 10  # stratified
    assert dataset.num_classes == 10 and dataset.mean.shape == (3,)


def _by_image(split):
    assert split.inputs.shape[1:] == (32, 32, 3)
    return {x.tobytes(): int(y) for x, y in zip(split.inputs, split.targets, strict=True)}


def encode_png(encoder, image):
    """What `tf.image.encode_png` does in TFDS's image encoder: PNG is lossless, so any encoder will do."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="png")
    return buffer.getvalue()


@pytest.fixture
def prepare_cifar(monkeypatch):
    """Prepares cifar10 from the extracted archive, with TFDS's builder, writer and serializer, without TensorFlow.

    Three things stand in for what this environment lacks: `open` for `tf.io.gfile.GFile`, Pillow for
    `tf.image.encode_png`, and the standard library's importlib.resources for its backport.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.features import image_feature
    from tensorflow_datasets.image_classification import cifar

    def run(root, file_format="array_record"):
        cifar_archive.plant(root, extracted=True)
        gfile = types.SimpleNamespace(GFile=open)
        monkeypatch.setattr(cifar, "tf", types.SimpleNamespace(io=types.SimpleNamespace(gfile=gfile)))
        monkeypatch.setattr(image_feature._ImageEncoder, "_encode_image", encode_png)
        monkeypatch.setitem(sys.modules, "importlib_resources", importlib.resources)
        builder = tfds.builder("cifar10", data_dir=str(root), try_gcs=False)
        options = tfds.download.DownloadConfig(try_download_gcs=False)
        builder.download_and_prepare(file_format=file_format, download_config=options)
        monkeypatch.undo()

    return run


def test_cifar10_is_read_as_its_builder_wrote_it(tmp_path, prepare_cifar):
    prepare_cifar(tmp_path)
    config = data.Tfds("cifar10", data_dir=str(tmp_path))
    check(data.load(config))
    assert "tensorflow" not in sys.modules
    (tmp_path / "cifar10").rename(tmp_path / "elsewhere")
    check(data.load(config))  # from the decoded arrays


def test_a_named_version_is_read_from_its_files_of_tfds_s_own_features(tmp_path, prepare_cifar):
    prepare_cifar(tmp_path)
    config = data.Tfds("cifar10:3.0.2", data_dir=str(tmp_path))
    check(data.load(config))
    assert config.outline() == data.Outline((32, 32, 3), 10)


@pytest.mark.parametrize("damage", ["shard is absent", "shard is cut", "info is cut", "features are cut"])
def test_half_copied_data_name_the_directory(tmp_path, prepare_cifar, damage):
    prepare_cifar(tmp_path)
    folder = tmp_path / "cifar10" / "3.0.2"
    shard = next(folder.glob("*train.array_record*"))
    match damage:
        case "shard is absent":
            shard.unlink()
        case "shard is cut":
            shard.write_bytes(shard.read_bytes()[:100])
        case _:
            file = folder / ("features.json" if damage.startswith("features") else "dataset_info.json")
            file.write_text(file.read_text()[:40])
    for name in ("cifar10", "cifar10:3.0.2"):
        with pytest.raises(data.DataError, match=str(tmp_path / "cifar10")):
            data.load(data.Tfds(name, data_dir=str(tmp_path)))


@pytest.mark.parametrize("damage", ["info is cut", "shard is cut"])
def test_half_copied_digits_name_the_directory(tmp_path, damage):
    config = data.Digits(data_dir=str(tmp_path))
    data.load(config)
    shutil.rmtree(tmp_path / "arrays")
    folder = tmp_path / "digits" / "1.0.0"
    file = folder / "dataset_info.json" if damage == "info is cut" else next(folder.glob("*train.array_record*"))
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(data.DataError, match=str(tmp_path / "digits")):
        data.load(config)


def test_the_fraction_and_the_layout_apply_to_catalog_sets(tmp_path, prepare_cifar):
    prepare_cifar(tmp_path)
    config = data.Tfds("cifar10", data_dir=str(tmp_path), validation_fraction=0.3, layout="sequence")
    dataset = data.load(config)
    assert dataset.train.inputs.shape == (70, 32, 96) and dataset.validation.inputs.shape == (30, 32, 96)
    config.validation_fraction = 0.001
    with pytest.raises(base.ConfigError) as caught:
        data.load(config)
    assert (caught.value.field, caught.value.value) == ("data.validation_fraction", 0.001)
    assert " 100 " in caught.value.accepted


@without_tensorflow
def test_an_unprepared_set_names_the_extra_and_the_command(tmp_path):
    with pytest.raises(data.DataError) as error:
        data.load(data.Tfds("mnist", data_dir=str(tmp_path)))
    message = str(error.value)
    assert f"'mnist' is not prepared in {tmp_path}/mnist/" in message and "takes tensorflow" in message
    assert "pip install 'jopt[catalog]'" in message
    assert f"python -m jopt.data.prepare mnist --data_dir={tmp_path}\n" in message


def test_tfrecord_data_are_refused_with_what_to_do(tmp_path, prepare_cifar):
    prepare_cifar(tmp_path)
    info = next((tmp_path / "cifar10").glob("*/dataset_info.json"))
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    for shard in info.parent.glob("*.array_record-*"):
        shard.rename(shard.with_name(shard.name.replace("array_record", "tfrecord")))
    with pytest.raises(data.DataError, match=r"'cifar10'.*tfrecord.*TensorFlow") as error:
        data.load(data.Tfds("cifar10", data_dir=str(tmp_path)))
    assert f"python -m jopt.data.prepare cifar10 --data_dir={tmp_path}" in str(error.value)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("imagenet2012", "uint8 images.* one size"),  # sizes vary
        ("ag_news_subset", "uint8 images"),  # text
        ("cifar10:1.0.0", "tensorflow_datasets"),  # no such version
        ("emnist/nosuch", "tensorflow_datasets"),  # no such config
    ],
)
def test_sets_of_another_kind_are_refused(tmp_path, name, reason):
    with pytest.raises(base.ConfigError) as caught:
        data.load(data.Tfds(name, data_dir=str(tmp_path)))
    assert (caught.value.field, caught.value.value) == ("data.name", name)
    assert re.search(reason, caught.value.accepted)


@pytest.mark.parametrize(
    "name",
    [
        "mnist/..:9.9.9",
        "mnist/.:9.9.9",
        "mnist/..",
        "mnist//etc:1.0.0",
        "mnist/a/b",
        "/mnist",
        "..",
        "mnist:1.0.0/..",
    ],
)
def test_a_name_that_is_a_path_is_no_name(tmp_path, name):
    (tmp_path / "9.9.9").mkdir()
    (tmp_path / "9.9.9" / "features.json").write_text("{")  # would be an error of another type, if it were read
    with pytest.raises(base.ConfigError) as caught:
        data.load(data.Tfds(name, data_dir=str(tmp_path)))
    assert (caught.value.field, caught.value.value) == ("data.name", name)
    with pytest.raises(base.ConfigError):
        catalog.open_entry(name, tmp_path, trusted=True)


def test_without_a_network_the_set_and_the_directory_are_named(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def unreachable(*args, **kwargs):
        raise ConnectionError("Failed to resolve 'storage.googleapis.com'")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)  # as if TensorFlow were there
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", unreachable)
    with pytest.raises(data.DataError, match=r"downloaded.*Failed to resolve") as error:
        data.load(data.Tfds("mnist", data_dir=str(tmp_path)))
    assert f"{tmp_path}/mnist/" in str(error.value) and "jopt.data.prepare mnist" in str(error.value)


def test_prepare_reports_on_the_command_line(tmp_path, capsys):
    assert prepare.main(["mnits", f"--data_dir={tmp_path}"]) == 1
    assert "did you mean 'mnist'" in capsys.readouterr().err


@pytest.mark.skipif(
    not HAS_TENSORFLOW, reason="needs TensorFlow: pip install 'jopt[catalog]', or JOPT_TENSORFLOW_PYTHON"
)
def test_tensorflow_prepares_from_the_archive_and_we_read_without(tmp_path):
    cifar_archive.plant(tmp_path, extracted=False)
    command = [TENSORFLOW_PYTHON, "-m", "jopt.data.prepare", "cifar10", f"--data_dir={tmp_path}"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=root)
    assert done.returncode == 0, done.stderr
    assert "cifar10: 90 train, 10 validation, 20 test, 10 classes, inputs [32, 32, 3] uint8" in done.stdout
    for cached in (tmp_path / "arrays" / "cifar10").iterdir():
        cached.unlink()  # so that the records are decoded again, here
    check(data.load(data.Tfds("cifar10", data_dir=str(tmp_path))))
