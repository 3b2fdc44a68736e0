"""A run on a table of one's own, from its files: its data are read again, its packed file tells no path."""

import dataclasses

import jax
import numpy as np
import pytest
from tiny import smallest_experiment

from jopt import data, models, task
from jopt.ablate import Ablation, axis
from jopt.ablate.trials import axes, trials
from jopt.apps.prediction import dataset_for
from jopt.config import ConfigError
from jopt.train import Stage, finished, packed, run

pytestmark = pytest.mark.unoptimized


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    numbers = np.random.RandomState(0).randn(40, 2)
    lines = [f"{a},{b},{'pqr'[i % 3]},{a - b}" for i, (a, b) in enumerate(numbers)]
    path = tmp_path_factory.mktemp("table") / "a.csv"
    path.write_text("\n".join(["a,b,kind,y", *lines]) + "\n")
    return path


@pytest.fixture(scope="module")
def done(table, tmp_path_factory):
    config = smallest_experiment(
        data=data.Csv(str(table), target="y", targets="numbers", categorical=("kind",)),
        task=task.Regression(),
        model=models.ModelConfig("mlp", features=(4,), num_classes=1),
        stages=[Stage("only", steps=4)],
        batch_size=8,
        pack=True,
    )
    directory = tmp_path_factory.mktemp("run") / "a"
    return directory, config, run(config, directory, quiet=True)


def test_a_run_s_data_are_read_again(done, table, tmp_path):
    directory, config, _ = done
    again = finished.load(directory)
    assert again.config == config and again.dataset.sizes == (29, 3, 8)
    (tmp_path / "b.csv").write_bytes(table.read_bytes())
    moved = finished.load(directory, data_dir=str(tmp_path / "b.csv"))
    assert moved.dataset.fingerprint == again.dataset.fingerprint
    assert moved.config.data.path == str(tmp_path / "b.csv")


def test_a_packed_file_names_no_path_and_asks_for_it(done, table):
    directory, config, _ = done
    model = packed.load(directory / "model.jopt")
    assert str(table).encode() not in (directory / "model.jopt").read_bytes()
    assert model.data == dataclasses.replace(config.data, path="")
    with pytest.raises(ConfigError) as caught:
        dataset_for(model, None, None)
    assert caught.value.field == "--data_dir" and "data.path" in caught.value.accepted
    read = dataset_for(model, None, str(table))
    assert read.fingerprint == data.load(config.data).fingerprint


def test_a_packed_file_in_its_run_s_directory_is_run_on_what_the_run_read(done, tmp_path):
    directory, config, _ = done
    model = packed.load(directory / "model.jopt")
    read = dataset_for(model, None, None, run=directory)
    assert read.fingerprint == data.load(config.data).fingerprint
    with pytest.raises(ConfigError) as caught:
        dataset_for(model, None, None, run=tmp_path)
    assert caught.value.field == "--data_dir"


def test_a_packed_file_of_a_set_larger_than_memory_is_run(done):
    """The file does not say where rows are gathered, as that changes no number."""
    directory, _, _ = done
    inputs = jax.ShapeDtypeStruct((3,), np.float32)
    model = packed.load(directory / "model.jopt")
    model = model._replace(data=data.Custom("own_sets:lazy_columns"), stored=inputs)
    assert dataset_for(model, None, None, trusted=True).sizes == (12, 3, 4)


def test_an_option_of_a_function_is_an_axis():
    config = smallest_experiment(data=data.Custom("own_sets:pairs", options={"n": 12}))
    grid = Ablation(name="sizes", experiment=config, seeds=(0,), space=axis("data.options.n", (12, 16)))
    listed = trials(grid)
    assert [trial.config.data.options for trial in listed] == [{"n": 12}, {"n": 16}]
    assert axes(grid, listed)[0].kind == "structural"
