"""Runs and grids in a remote directory: killed at an upload, resumed on another machine, the same bits."""

import contextlib

import pytest
from faulty import Faulty, Killed
from tiny import smallest_experiment, tiny_ablation

from jopt import ablate, train
from jopt.remote import commits
from jopt.remote.errors import RemoteError
from jopt.remote.reading import local_copy
from jopt.remote.store import Store
from jopt.train.checkpoint import steps_in
from jopt.train.workdir import Workdir

URL = "faulty://bucket/runs/a"


def small():
    return smallest_experiment(epochs=3, pack=False, checkpoint_every=1, keep_checkpoints=1)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return train.run(small(), tmp_path_factory.mktemp("local") / "run")["digest"]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return str(ablate.run(tiny_ablation(), tmp_path_factory.mktemp("local") / "grid").trials)


def killed(fatal, job):
    """Runs a job that is killed at a write, None is never; how many writes it has tried."""
    Faulty.reset(fatal, is_done=bool(fatal and fatal % 2))
    with contextlib.suppress(Killed):
        job()
    total = Faulty.count
    Faulty.reset()
    return total


def steps():
    with contextlib.suppress(RemoteError), local_copy(URL) as copy:
        return steps_in(copy / "checkpoints")
    return []


def test_a_killed_run_goes_on_on_another_machine(machine, expected):
    total = killed(None, lambda: train.run(small(), URL))
    assert commits.latest(Store(URL)).owner is None
    reached = set()
    for number, fatal in enumerate((total // 3, total // 2)):
        Faulty.clear()
        machine(f"{number}a")
        killed(fatal, lambda: train.run(small(), URL))
        before = steps()
        reached |= set(before)
        machine(f"{number}b")
        resumed = train.run(small(), URL)
        assert resumed["digest"] == expected
        with local_copy(URL) as copy:
            events = Workdir(copy).load_json(copy / "manifest.json")["events"]
        assert [event["step"] for event in events if event["event"] == "resume"] == before[-1:]
    assert len(reached) > 1


def test_a_run_is_uploaded_before_it_ends(machine, expected):
    result = train.run(small(), URL)
    with local_copy(URL) as copy:
        assert Workdir(copy).load_result()["digest"] == expected == result["digest"]
        assert Workdir(copy).load_json(copy / "manifest.json")["exit_status"] == "finished"
    machine("b")
    before = Faulty.count
    assert train.run(small(), URL)["digest"] == expected
    # Taking it and giving it back: a commit, its probe, and the removal of an old one, twice.
    assert Faulty.count - before < 10


def test_a_stopped_run_is_uploaded_too(machine, expected):
    with pytest.raises(train.StopRequested):
        train.run(small(), URL, should_stop=lambda rows: bool(rows))
    assert steps()
    machine("b")
    assert train.run(small(), URL)["digest"] == expected


def test_another_config_changes_nothing(machine):
    train.run(small(), URL)
    content = commits.latest(Store(URL)).content
    with pytest.raises(train.workdir.WorkdirError):
        train.run(smallest_experiment(), URL)
    assert commits.latest(Store(URL)).content == content


def test_a_killed_grid_goes_on_on_another_machine(machine, table):
    grid = tiny_ablation()
    total = killed(None, lambda: ablate.run(grid, URL))
    for number, fatal in enumerate((total // 2, total - 12)):
        Faulty.clear()
        machine(f"{number}a")
        killed(fatal, lambda: ablate.run(grid, URL))
        with local_copy(URL) as copy:
            done = ablate.files.AblationDir(copy).done()
        machine(f"{number}b")
        assert str(ablate.run(grid, URL).trials) == table
        with local_copy(URL) as copy:
            # Nothing that was committed is run again.
            again = ablate.files.AblationDir(copy).done()
            assert {name: again[name] for name in done} == done
