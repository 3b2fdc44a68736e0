"""An ablation's directory: whose it is, what is done in it, what is under way, and whose trials they are."""

import json
import os

import pytest

from jopt.ablate import axis, load_trial
from jopt.ablate.files import AblationDir
from jopt.ablate.trials import axes, trials
from jopt.config import ConfigError
from jopt.train.workdir import WorkdirError


@pytest.fixture
def recorded(grid, tmp_path):
    """A directory that holds a grid of which nothing has been run, and the grid."""
    files, ablation = AblationDir(tmp_path), grid()
    listed = trials(ablation)
    files.record(
        ablation,
        listed,
        axes(ablation, listed),
        [{"group": 0, "structure": "s", "lanes": 1, "trials": [t.id for t in listed]}],
    )
    return files, ablation


def chunk(files, name, names, at, done=False):
    """A chunk on disk, begun at a time in seconds."""
    path = files.chunks / name
    path.mkdir(parents=True)
    (path / "chunk.json").write_text(
        json.dumps({"id": name, "trials": names, "width": 1, "lanes": 1, "devices": 1})
    )
    os.utime(path / "chunk.json", (at, at))
    if done:
        rows = [{"row": {"trial": name, "accuracy": 0.5}, "curves": []} for name in names]
        (path / "result.json").write_text(json.dumps({"trials": rows}))


def test_a_new_an_empty_and_a_hidden_only_directory_are_nobodys(tmp_path):
    assert AblationDir(tmp_path / "new").recorded() is None
    (tmp_path / ".lock").touch()
    assert AblationDir(tmp_path).recorded() is None


@pytest.mark.parametrize("name", ["thesis.tex", "config.json", "trials.csv"])
def test_a_directory_of_something_else_is_refused(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(WorkdirError, match=rf"{name} .*ablation\.json"):
        AblationDir(tmp_path).recorded()


def test_a_file_is_no_directory(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WorkdirError, match="is not a directory"):
        AblationDir(tmp_path / "file").recorded()


def test_a_recorded_grid_is_the_same_grid_and_a_part_of_a_larger_one(recorded, grid):
    files, ablation = recorded
    larger = grid(axis("optimizer.learning_rate", (1.0, 0.01, 0.1)), seeds=(2, 1, 0), name="other", metric="loss")
    for same in (ablation, larger):
        files.check_same(files.recorded(), same, trials(same))
    less = [grid(seeds=(0,)), grid(axis("optimizer.learning_rate", (0.1,)))]
    for fewer in less:
        files.check_same(files.recorded(), fewer, trials(fewer))  # nothing of the others is done
    chunk(files, "0", [trial.id for trial in trials(ablation)], at=0, done=True)
    for fewer in less:
        with pytest.raises(WorkdirError, match=r"grid: 2 .* 4 trials"):
            files.check_same(files.recorded(), fewer, trials(fewer))


def test_a_grid_with_no_trial_in_common_is_refused(recorded, grid):
    files, _ = recorded
    other = grid(seeds=(7,))
    with pytest.raises(WorkdirError, match=r"grid: 4 .* 4 trials"):
        files.check_same(files.recorded(), other, trials(other))


def test_a_grid_with_a_method_of_another_module_is_another_grid(recorded, grid):
    files, _ = recorded
    content, other = files.recorded(), grid(seeds=(7,))
    content["experiment"]["stages"][0]["methods"] = [{"class": "mine:MaxNorm"}]
    with pytest.raises(WorkdirError, match=r"another grid.*differs in stages\[0\]\.methods "):
        files.check_same(content, other, trials(other))


def test_a_trial_is_found_by_the_beginning_of_its_id(recorded):
    files, ablation = recorded
    for trial in trials(ablation):
        assert load_trial(files.path, trial.id) == load_trial(files.path, trial.id[:8]) == trial.config
    for beginning, count in (("xyz", "no trial"), ("", "4 trials")):
        with pytest.raises(ConfigError) as caught:
            load_trial(files.path, beginning)
        assert (caught.value.field, caught.value.value) == ("trial", beginning)
        assert str(files.path) in caught.value.accepted and count in caught.value.accepted


def test_there_are_no_trials_where_there_is_no_ablation(tmp_path):
    with pytest.raises(WorkdirError, match=r"no ablation\.json"):
        load_trial(tmp_path, "0")


@pytest.mark.parametrize(
    "change",
    [
        lambda recorded: recorded["experiment"].update(colour="red"),
        lambda recorded: recorded["trials"][0]["overrides"].update({"stages[7].epochs": 1}),
        lambda recorded: recorded["trials"][0]["overrides"].update({"optimizer.learning_rate": "fast"}),
    ],
)
def test_a_grid_of_another_version_is_named(recorded, change):
    files, ablation = recorded
    recorded = files.recorded()
    change(recorded)
    files.ablation.write_text(json.dumps(recorded))
    with pytest.raises(WorkdirError, match=r"ablation\.json.*version"):
        load_trial(files.path, trials(ablation)[0].id)


def test_what_is_done_and_what_is_under_way(recorded):
    files, _ = recorded
    chunk(files, "done", ["a", "b"], at=1, done=True)
    chunk(files, "older plan", ["c", "d"], at=2)
    chunk(files, "newer plan", ["d", "e"], at=3)
    chunk(files, "apart", ["f"], at=1)
    chunk(files, "unwanted", ["g", "h"], at=4)
    (files.chunks / "begun by nobody").mkdir()
    assert set(files.done()) == {"a", "b"}
    resumable = files.under_way({"c", "d", "e", "f", "g"})
    assert [c["id"] for c in resumable] == ["newer plan", "apart"]
    files.forget([c["id"] for c in resumable])
    assert sorted(p.name for p in files.chunks.iterdir()) == ["apart", "done", "newer plan"]
