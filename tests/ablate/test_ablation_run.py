"""Ablations in their directory: what they leave, what a second launch does, and what one trial does to another."""

import json
import shutil

import numpy as np
import pytest
from directories import TABLES, curves, files, last_event, rows, tables

from jopt.ablate import axis, load_trial, run
from jopt.ablate.files import AblationDir
from jopt.ablate.results import read_csv
from jopt.ablate.trials import trials
from jopt.train import metrics
from jopt.train import run as run_alone
from jopt.train.compiler import Compiler
from jopt.train.loop import NonFiniteError
from jopt.train.workdir import WorkdirError

pytestmark = pytest.mark.unoptimized

RATE = "optimizer.learning_rate"
RATES = (0.1, 0.01)
TOO_HIGH = 1e30


@pytest.fixture(scope="module")
def extended(first, grid, tmp_path_factory):
    """The same, gone on with: another seed, and a rate at which trials diverge."""
    path = tmp_path_factory.mktemp("grids") / "more"
    shutil.copytree(first[0], path)
    ablation = grid(axis(RATE, (*RATES, TOO_HIGH)), seeds=(0, 1, 2))
    return path, run(ablation, path, devices=1, quiet=True)


@pytest.fixture
def copy(first, tmp_path):
    return shutil.copytree(first[0], tmp_path / "copy")


# What is left


def test_a_finished_grid_leaves_its_files(first):
    path, results = first
    files = {p.name for p in path.iterdir()}
    reports = {"report.md", "report.html", "manifest.json", ".lock", "chunks"}
    assert files == {*TABLES, *reports}
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["exit_status"] == "finished"
    # One program: every function is compiled once for all four trials.
    assert last_event(path)["compilations"] == {"0": {"evaluate": 1, "init": 1, "segment": 1}}
    assert [p.name for p in path.glob("chunks/*/*")] == [p.name for p in path.glob("chunks/*/*.json")]
    assert len(results.trials) == 4


def test_the_table_is_what_was_returned(first):
    path, results = first
    assert read_csv(path / "trials.csv", text=("trial", "digest", "command")) == results.trials
    assert [json.loads(line) for line in (path / "curves.jsonl").read_text().splitlines()] == results.curves
    assert [row["steps"] for row in results.trials] == [8] * 4
    assert {row["status"] for row in results.trials} == {"finished"}
    # Two segments of an epoch each, training and validation.
    assert [(c["step"], c["split"]) for c in results.curves[:4]] == [
        (4, "train"), (4, "validation"), (8, "train"), (8, "validation"),
    ]  # fmt: skip
    validation = {c["trial"]: c["accuracy"] for c in results.curves if c["split"] == "validation"}
    assert [row["validation_accuracy"] for row in results.trials] == [
        validation[r["trial"]] for r in results.trials
    ]


def test_every_trial_can_be_made_again_from_the_directory(first, grid):
    path, _ = first
    for trial in trials(grid()):
        assert load_trial(path, trial.id) == load_trial(path, trial.id[:6]) == trial.config


def test_a_trial_alone_is_the_trial_in_the_grid(first, tmp_path):
    """To a few units in the last place of float32: the two are different programs of the same sums."""
    path, results = first
    row = results.trials[1]
    alone = run_alone(load_trial(path, row["trial"]), tmp_path / "alone", quiet=True)
    for name in ("loss", "accuracy"):
        assert alone[name] == pytest.approx(row[name], rel=1e-5)
    same = ("parameters", "nonzero_parameters", "sparsity", "bytes", "flops")
    assert [alone[name] for name in same] == [row[name] for name in same]
    assert (tmp_path / "alone" / "model.jopt").stat().st_size == row["bytes"]
    alone = [c for c in metrics.read(tmp_path / "alone" / "metrics.jsonl") if c["split"] != "test"]
    in_grid = [c for c in results.curves if c["trial"] == row["trial"]]
    assert [(c["stage"], c["step"], c["split"]) for c in alone] == [
        (c["stage"], c["step"], c["split"]) for c in in_grid
    ]
    np.testing.assert_allclose([c["loss"] for c in alone], [c["loss"] for c in in_grid], rtol=1e-5)


# Launched again


def test_a_second_launch_runs_nothing_and_changes_nothing(first, copy, grid, monkeypatch):
    monkeypatch.setattr(Compiler, "compiled", lambda *args, **kwargs: pytest.fail("something was compiled"))
    before = files(copy)
    again = run(grid(), copy, devices=1, quiet=True)
    changed = {name for name, content in files(copy).items() if content != before.get(name)}
    assert changed == {"manifest.json"}
    assert again == first[1]
    assert last_event(copy)["compilations"] == {}


def test_another_order_metric_and_control_are_the_same_trials(copy, grid, monkeypatch):
    monkeypatch.setattr(Compiler, "compiled", lambda *args, **kwargs: pytest.fail("something was compiled"))
    before = rows(copy)
    other = grid(axis(RATE, RATES[::-1]), seeds=(1, 0), metric="loss", control={"learning_rate": 0.01}, chunk=3)
    run(other, copy, devices=1, quiet=True)
    assert rows(copy) == before
    assert list(rows(copy)) == [t.id for t in trials(other)]


def test_only_what_is_new_is_run(first, extended):
    path, results = extended
    old = first[0]
    assert rows(old).items() <= rows(path).items()
    assert curves(old).items() <= curves(path).items()
    chunks = files(old / "chunks")
    assert chunks.items() <= files(path / "chunks").items()
    (new,) = [p for p in path.glob("chunks/*/result.json") if p.parent.name not in {c[:12] for c in chunks}]
    assert len(json.loads(new.read_text())["trials"]) == len(results.trials) - 4 == 5


def test_a_grid_without_an_earlier_point_is_refused_and_nothing_changes(copy, grid):
    before = files(copy)
    with pytest.raises(WorkdirError) as error:
        run(grid(axis(RATE, (0.1, 0.5))), copy, devices=1, quiet=True)
    assert "holds another grid: 2 of its 4 trials are not in this one, {'learning_rate': 0.01} with seed 0" in str(
        error.value
    )
    assert before == files(copy)


def test_another_experiment_is_refused_naming_its_fields(copy, grid, small):
    before = files(copy)
    with pytest.raises(WorkdirError, match=r"experiment.* epochs \(2\b.* 3\b"):
        run(grid(experiment=small(epochs=3)), copy, devices=1, quiet=True)
    assert before == files(copy)


def test_another_strategy_is_refused(copy, grid):
    before = files(copy)
    with pytest.raises(WorkdirError, match=r"strategy 'vmap'.*'map'"):
        run(grid(strategy="map"), copy, devices=1, quiet=True)
    assert before == files(copy)


def test_a_directory_in_use_is_refused(copy, grid):
    before = tables(copy)
    with AblationDir(copy).locked(), pytest.raises(WorkdirError, match="in use"):
        run(grid(seeds=(0, 1, 2)), copy, devices=1, quiet=True)
    assert before == tables(copy)


@pytest.mark.parametrize("name", ["ablation.json", "chunks/*/result.json"])
def test_a_damaged_file_is_named_and_nothing_is_run(copy, grid, name, monkeypatch):
    monkeypatch.setattr(Compiler, "compiled", lambda *args, **kwargs: pytest.fail("something was compiled"))
    (damaged,) = copy.glob(name)
    damaged.write_text(damaged.read_text()[:100])
    before = files(copy)
    with pytest.raises(WorkdirError, match=f"{damaged.name} .*read"):
        run(grid(), copy, devices=1, quiet=True)
    assert before == files(copy)


# Divergence


def test_a_trial_that_diverges_is_marked_and_ends_there(extended):
    _, results = extended
    diverged = [row for row in results.trials if row["status"] == "diverged"]
    assert [(row["learning_rate"], row["seed"]) for row in diverged] == [(TOO_HIGH, seed) for seed in (0, 1, 2)]
    for row in diverged:
        assert row["accuracy"] is row["loss"] is row["digest"] is row["steps"] is None
        assert 0 <= row["diverged_step"] < 8
        of_it = [c for c in results.curves if c["trial"] == row["trial"]]
        assert all(c["step"] <= row["diverged_step"] for c in of_it)


def test_a_trial_diverges_alone_at_the_step_at_which_it_does_in_the_grid(extended, tmp_path):
    path, results = extended
    row = results.trials[-1]
    with pytest.raises(NonFiniteError, match=rf"step {row['diverged_step']} "):
        run_alone(load_trial(path, row["trial"]), tmp_path / "alone", quiet=True)


def test_neither_company_nor_history_changes_a_bit(extended, grid, tmp_path):
    """All at once, and without those that diverge, a grid ends as the one that was gone on with."""
    run(grid(seeds=(0, 1, 2), chunk=8), tmp_path / "whole", devices=1, quiet=True)
    assert rows(tmp_path / "whole").items() <= rows(extended[0]).items()
    assert curves(tmp_path / "whole").items() <= curves(extended[0]).items()
