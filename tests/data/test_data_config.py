from pathlib import Path

import pytest

from jopt import config as base
from jopt import data, hyper


@pytest.mark.parametrize(
    ("source", "field", "accepted"),
    [
        (data.Tfds("mnits"), "name", "did you mean 'mnist'"),
        (data.Tfds(""), "name", "a TFDS catalog name"),
        (data.Tfds("../digits"), "name", "a TFDS catalog name"),
        (data.Tfds("cifar10:3"), "name", "a TFDS catalog name"),
        (data.Digits(layout="flat"), "layout", "'sequence'"),
        (data.Digits(validation_fraction=0.0), "validation_fraction", "in (0, 1)"),
        (data.Digits(validation_fraction=1.0), "validation_fraction", "in (0, 1)"),
        (data.Digits(validation_fraction=float("nan")), "validation_fraction", "in (0, 1)"),
        (data.Digits(train_examples=0), "train_examples", "None or a number of examples > 0"),
        (data.Digits(residency="disk"), "residency", "'host'"),
        (data.Digits(preprocess="jopt.keys:streem"), "preprocess", "a name that exists"),
        (data.Digits(shift=-1), "shift", ">= 0"),
        (data.Digits(shift=1.5), "shift", "int"),
        (data.Digits(crop_padding=-2), "crop_padding", ">= 0"),
        (data.Digits(shift=1, crop_padding=2), "crop_padding", "0 where shift is 1"),
        (data.Digits(layout="sequence", flip=True), "flip", "off unless the inputs are images"),
        (data.Digits(layout="sequence", shift=1), "shift", "off unless the inputs are images"),
        (data.Synthetic(shape=(0, 8, 1)), "shape", "three sizes"),
        (data.Synthetic(num_classes=1), "num_classes", ">= 2"),
        (data.Synthetic(test=0), "test", "> 0"),
        (data.Synthetic(noise=-1.0), "noise", ">= 0"),
        (data.Synthetic(seed=-1), "seed", "[0, 2**32)"),
    ],
)
def test_bad_fields_are_named_with_what_would_do(source, field, accepted):
    with pytest.raises(base.ConfigError) as caught:
        source.validate()
    assert caught.value.field == f"data.{field}" and accepted in caught.value.accepted
    assert repr(caught.value.value) == repr(getattr(source, field))


@pytest.mark.parametrize(
    ("older", "source"),
    [
        ({}, data.Digits()),
        ({"name": "digits", "data_dir": "/sets", "shift": 1}, data.Digits(data_dir="/sets", shift=1)),
        ({"layout": "sequence", "relabel": [0, 1]}, data.Digits(layout="sequence", relabel=(0, 1))),
        ({"name": "mnist", "flip": True}, data.Tfds("mnist", flip=True)),
        ({"name": "xor", "shift": 0, "flip": False, "data_dir": None, "synthetic": {"seed": 0}}, data.Xor()),
        (
            {"name": "synthetic", "data_dir": "/sets", "shift": 1, "synthetic": {"shape": [4, 4, 1], "test": 8}},
            data.Synthetic(shape=(4, 4, 1), test=8, shift=1),
        ),
    ],
)
def test_a_set_in_a_file_of_before_is_read_as_its_class(older, source):
    assert base.decode(older, data.Source, "data") == source
    assert base.decode(base.encode(source, data.Source), data.Source, "data") == source


@pytest.mark.parametrize(
    ("older", "field"), [({"name": 5}, "name"), ({"shape": 3}, "shape"), ({"name": "xor", "flip": True}, "flip")]
)
def test_an_older_set_with_other_fields_is_refused(older, field):
    with pytest.raises(base.ConfigError) as caught:
        base.decode(older, data.Source, "data")
    assert caught.value.field == f"data.{field}"


def test_a_data_dir_under_a_file_is_refused_before_anything_is_read(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    config = data.Digits(data_dir=str(file / "sets"))
    for check, field in (
        (lambda: config.validate("experiment.data"), "experiment.data.data_dir"),
        (lambda: data.load(config), "data.data_dir"),
    ):
        with pytest.raises(base.ConfigError) as caught:
            check()
        assert (caught.value.field, caught.value.value) == (field, str(file / "sets"))
        assert f"({file} " in caught.value.accepted


def test_validation_writes_nothing(tmp_path):
    data.Digits(data_dir=str(tmp_path / "a" / "b")).validate()
    assert list(tmp_path.iterdir()) == []


def test_catalog_names_are_known_without_a_network(tmp_path):
    for name in ("mnist", "fashion_mnist", "cifar10", "cifar10:3.0.2", "emnist/letters"):
        data.Tfds(name, data_dir=str(tmp_path)).validate()


def test_where_data_live(monkeypatch):
    for variable in ("JOPT_DATA_DIR", "TFDS_DATA_DIR"):
        monkeypatch.delenv(variable, raising=False)
    assert data.directory() == Path.home() / ".cache" / "jopt" / "data"
    monkeypatch.setenv("TFDS_DATA_DIR", "/tfds")
    assert data.directory() == Path("/tfds")
    monkeypatch.setenv("JOPT_DATA_DIR", "/jopt")
    assert data.directory() == Path("/jopt")
    assert data.directory("~/x") == Path.home() / "x"


def test_nothing_in_a_data_config_is_swept():
    assert hyper.split(data.Digits())[1] == {}


def test_a_config_survives_json():
    config = data.Synthetic(shape=(4, 4, 3), shift=1)
    assert base.from_dict(data.Synthetic, base.to_dict(config)) == config
