"""Stages that end when the deciding metric no longer improves: alone, resumed, and each trial of a grid."""

import dataclasses
import itertools

import pytest
from tiny import tiny_experiment

from jopt import ablate, optim, prune
from jopt.ablate import Ablation, axis
from jopt.ablate.trials import trials as trials_of
from jopt.config import ConfigError
from jopt.task import ACCURACY
from jopt.train import EarlyStopping, Experiment, Stage, metrics, run
from jopt.train.workdir import StopRequested


def experiment(**changes) -> Experiment:
    first = Stage("dense", epochs=8, early_stopping=EarlyStopping(patience=2))
    return tiny_experiment(**{"stages": [first, Stage("after", epochs=1)], "checkpoint_every": 1, **changes})


def steps_of(directory, stage: str) -> list[int]:
    rows = metrics.read(directory / "metrics.jsonl")
    return [row["step"] for row in rows if (row["stage"], row["split"]) == (stage, "validation")]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    path = tmp_path_factory.mktemp("alone")
    return path, run(experiment(), path)


def test_the_stage_ends_when_the_best_value_is_two_evaluations_old(alone):
    path, _ = alone
    rows = metrics.read(path / "metrics.jsonl")
    values = [r["accuracy"] for r in rows if (r["stage"], r["split"]) == ("dense", "validation")]
    assert len(values) < 8 and max(values[:-2]) >= max(values[-2:])
    assert not any(EarlyStopping(patience=2).is_over(ACCURACY, values[:i]) for i in range(len(values)))
    assert steps_of(path, "after") == [8 * 6 + 6]


def test_a_run_that_is_stopped_and_resumed_stops_early_at_the_same_step(alone, tmp_path):
    path, result = alone
    stopped_at = len(steps_of(path, "dense"))
    # In the middle of the stage, at the boundary where it stops, and after it.
    for boundaries in (stopped_at - 1, 1, 1):
        asked = itertools.count()
        with pytest.raises(StopRequested):
            run(experiment(), tmp_path, should_stop=lambda _, a=asked, b=boundaries: next(a) == b)
    again = run(experiment(), tmp_path)
    assert again["digest"] == result["digest"] and steps_of(tmp_path, "dense") == steps_of(path, "dense")


def test_a_pruning_stage_is_not_left_half_pruned(tmp_path):
    gradual = Stage(
        "pruned", epochs=8, methods=(prune.Gradual(0.5, end=0.5),), early_stopping=EarlyStopping(patience=1)
    )
    constant = dataclasses.replace(experiment(stages=[gradual]), optimizer=optim.Config("sgd", learning_rate=1e-9))
    # Nothing improves: it stops at the second evaluation that counts, after the end of the schedule.
    result = run(constant, tmp_path)
    assert result["sparsity"] == pytest.approx(0.5, abs=0.05)
    assert 24 < steps_of(tmp_path, "pruned")[-1] <= 36


def test_each_trial_of_a_grid_stops_by_itself_with_the_bits_of_its_own_run(tmp_path):
    grid = Ablation(
        name="grid", experiment=experiment(), seeds=(0,), space=axis("optimizer.learning_rate", (1e-2, 1e-9)),
        strategy="map",
    )  # fmt: skip
    results = ablate.run(grid, tmp_path / "grid")
    trials = trials_of(grid)
    rows = {row["trial"]: row for row in results.trials}
    for trial in trials:
        assert rows[trial.id]["digest"] == run(trial.config, tmp_path / trial.id)["digest"]
    lengths = {len(steps_of(tmp_path / trial.id, "dense")) for trial in trials}
    assert len(lengths) > 1


@pytest.mark.parametrize(("field", "value"), [("patience", 0), ("min_change", -1.0), ("min_change", float("nan"))])
def test_bad_numbers_are_refused(field, value):
    stage = Stage(early_stopping=dataclasses.replace(EarlyStopping(), **{field: value}))
    with pytest.raises(ConfigError) as caught:
        experiment(stages=[stage])
        from jopt.train import prepare

        prepare(experiment(stages=[stage]))
    assert caught.value.field == f"stages[0].early_stopping.{field}"
