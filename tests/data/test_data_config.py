from pathlib import Path

import pytest

from jopt import config as base
from jopt import data, hyper


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"name": "mnits"},
            "data.name must be one of 'digits', 'synthetic', 'xor', or a TFDS catalog name .*did you mean 'mnist'",
        ),
        ({"name": ""}, "data.name must be one of .*, got ''"),
        ({"name": "../digits"}, "data.name must be one of"),
        ({"name": "cifar10:3"}, "data.name must be one of"),
        ({"layout": "flat"}, "data.layout must be 'image' .* or 'sequence'"),
        ({"validation_fraction": 0.0}, r"data.validation_fraction must be a number in \(0, 1\), got 0.0"),
        ({"validation_fraction": 1.0}, r"data.validation_fraction must be a number in \(0, 1\), got 1.0"),
        ({"validation_fraction": float("nan")}, r"data.validation_fraction must be a number in \(0, 1\), got nan"),
        ({"train_examples": 0}, "data.train_examples must be None or a number of examples > 0, got 0"),
        ({"shift": -1}, "data.shift must be a number of pixels >= 0, got -1"),
        ({"shift": 1.5}, "data.shift must be of type int, got 1.5"),
        ({"crop_padding": -2}, "data.crop_padding must be a number of pixels >= 0, got -2"),
        ({"shift": 1, "crop_padding": 2}, "data.crop_padding must be 0 where shift is 1"),
        ({"layout": "sequence", "flip": True}, "data.flip must be off unless the inputs are images"),
        ({"layout": "sequence", "shift": 1}, "data.shift must be off unless the inputs are images"),
        ({"name": "xor", "flip": True}, "data.flip must be off unless the inputs are images"),
        (
            {"name": "synthetic", "synthetic": data.Synthetic(shape=(0, 8, 1))},
            "data.synthetic.shape must be three sizes",
        ),
        ({"name": "synthetic", "synthetic": data.Synthetic(num_classes=1)}, "data.synthetic.num_classes must be"),
        ({"name": "synthetic", "synthetic": data.Synthetic(test=0)}, "data.synthetic.test must be"),
        ({"name": "synthetic", "synthetic": data.Synthetic(noise=-1.0)}, "data.synthetic.noise must be"),
        ({"name": "synthetic", "synthetic": data.Synthetic(seed=-1)}, "data.synthetic.seed must be"),
    ],
)
def test_bad_fields_are_named_with_what_would_do(changes, message):
    with pytest.raises(base.ConfigError, match=message):
        data.validate(data.DataConfig(**changes))


def test_a_data_dir_under_a_file_is_refused_before_anything_is_read(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    config = data.DataConfig(data_dir=str(file / "sets"))
    for check, field in (
        (lambda: data.validate(config, "experiment.data"), "experiment.data.data_dir"),
        (lambda: data.load(config), "data.data_dir"),
    ):
        with pytest.raises(base.ConfigError) as caught:
            check()
        assert (caught.value.field, caught.value.value) == (field, str(file / "sets"))
        assert f"({file} " in caught.value.accepted


def test_validation_writes_nothing(tmp_path):
    data.validate(data.DataConfig(data_dir=str(tmp_path / "a" / "b")))
    assert list(tmp_path.iterdir()) == []


def test_catalog_names_are_known_without_a_network(tmp_path):
    for name in ("mnist", "fashion_mnist", "cifar10", "cifar10:3.0.2", "emnist/letters"):
        data.validate(data.DataConfig(name=name, data_dir=str(tmp_path)))


def test_where_data_live(monkeypatch):
    for variable in ("JOPT_DATA_DIR", "TFDS_DATA_DIR"):
        monkeypatch.delenv(variable, raising=False)
    assert data.directory(data.DataConfig()) == Path.home() / ".cache" / "jopt" / "data"
    monkeypatch.setenv("TFDS_DATA_DIR", "/tfds")
    assert data.directory(data.DataConfig()) == Path("/tfds")
    monkeypatch.setenv("JOPT_DATA_DIR", "/jopt")
    assert data.directory(data.DataConfig()) == Path("/jopt")
    assert data.directory(data.DataConfig(data_dir="~/x")) == Path.home() / "x"


def test_nothing_in_a_data_config_is_swept():
    assert hyper.split(data.DataConfig())[1] == {}


def test_a_config_survives_json():
    config = data.DataConfig(name="synthetic", shift=1, synthetic=data.Synthetic(shape=(4, 4, 3)))
    assert base.from_dict(data.DataConfig, base.to_dict(config)) == config
