"""Functions of somebody's own in a run: metrics that are not defined, preprocessing to classes, augmentations."""

import dataclasses
import json
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
import pytest

from jopt import ablate, data, export, models
from jopt.ablate import Ablation, axis
from jopt.config import ConfigError
from jopt.task import Metric, Task
from jopt.train import EarlyStopping, Experiment, Stage, run
from jopt.train.prepared import prepare
from jopt.train.workdir import WorkdirError

X = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
NUMBERS = X.sum(1)


@dataclasses.dataclass(frozen=True)
class Undefined(Task):
    """A task whose deciding metric is 0 / 0."""

    name: ClassVar[str] = "undefined"

    def losses(self, outputs, targets):
        return jnp.abs(outputs[:, 0] - targets)

    @property
    def metrics(self):
        return (Metric("hits", "hits", lambda y, t, w: {"sum": w.sum()}, lambda s: np.nan * s["sum"]),)


def experiment(**changes):
    fields = {
        "model": models.Custom("flax.linen:Dense", options={"features": 2}),
        "stages": [Stage("dense", epochs=1, early_stopping=EarlyStopping(patience=1))],
        "batch_size": 16,
        "evaluate_every": 1,
    }
    return Experiment("own", **{**fields, **changes})


def test_a_metric_that_is_not_defined_is_absent_and_ends_no_run(tmp_path):
    dataset = data.Dataset.from_arrays((X, NUMBERS), test=(X, NUMBERS))
    result = run(experiment(task=Undefined()), tmp_path / "a", data=dataset)
    assert result["hits"] is None and result["loss"] > 0
    rows = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    assert {row["split"] for row in rows} == {"train", "validation", "test"}
    assert not any("hits" in row for row in rows) and all("loss" in row for row in rows)
    assert (tmp_path / "a" / "report.html").exists()
    grid = Ablation("own", experiment(task=Undefined()), axis("optimizer.learning_rate", (0.1, 0.01)), seeds=(0,))
    results = ablate.run(grid, tmp_path / "grid", data=dataset)
    assert [(row["status"], row["hits"]) for row in results.trials] == [("finished", None)] * 2


def numbers():
    return {"train": (X, NUMBERS), "test": (X, NUMBERS)}


def signs(inputs, targets):
    return inputs, (targets > 0).astype(np.int64)


def test_preprocessing_may_make_classes_of_numbers():
    source = data.Custom(numbers, preprocess=signs)
    assert data.load(source).num_classes == 2
    prepare(experiment(data=source))


def narrower(key, inputs):
    return inputs[:, :1]


def without_key(inputs):
    return inputs


@pytest.mark.parametrize("augmentation", [narrower, without_key])
def test_an_augmentation_of_another_kind_is_refused_before_anything_compiles(augmentation):
    with pytest.raises(ConfigError) as caught:
        prepare(experiment(data=data.Custom(numbers, preprocess=signs, augmentation=augmentation)))
    assert caught.value.field == "data.augmentation"


def tokens():
    part = (np.arange(96, dtype=np.int32).reshape(24, 4) % 5, np.arange(24) % 2)
    return {"train": part, "test": part}


def looked_up():
    def init(key):
        return {"rows": jnp.ones((5, 3)), "out": jnp.ones((3, 2))}

    return init, lambda params, x: params["rows"][x].mean(1) @ params["out"]


def test_a_model_may_look_up_rows_of_its_parameters_in_packed_files_and_exports(tmp_path):
    config = experiment(data=data.Custom(tokens), model=models.Custom(looked_up), batch_size=8, pack=True)
    run(config, tmp_path / "a")
    export.export(tmp_path / "a", tmp_path / "out", ["packed", "stablehlo"], trusted=True, speed_batches=(1,))
    assert {".jopt", ".stablehlo"} <= {file.suffix for file in (tmp_path / "out").iterdir()}


def test_a_run_on_a_data_set_that_was_given_is_exported_with_the_same(tmp_path):
    x, y = tokens()["train"]
    dataset = data.Dataset.from_arrays((x, y), test=(x, y))
    run(experiment(model=models.Custom(looked_up), batch_size=8, pack=True), tmp_path / "a", data=dataset)
    with pytest.raises(WorkdirError, match="data="):
        export.export(tmp_path / "a", tmp_path / "out", ["packed"], trusted=True)
    export.export(tmp_path / "a", tmp_path / "out", ["packed"], trusted=True, data=dataset)
    assert (tmp_path / "out" / "model.jopt").exists()
