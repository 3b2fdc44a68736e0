"""A remote directory is always at a commit, whole, whatever moment its writer was killed at."""

import contextlib

import pytest
from faulty import Careless, Faulty, Killed

from jopt.committed import announce
from jopt.remote import commits, lease, mirror
from jopt.remote.errors import InUseError, RemoteError
from jopt.remote.opening import opened
from jopt.remote.reading import local_copy
from jopt.remote.store import Store

URL = "faulty://bucket/runs/a"
CHECKPOINT = {"state/d/0": b"arrays", "commit_success.txt": b""}
# What a job commits, one after the other: files change, appear and disappear.
STATES = [
    {"config.json": b"{}", "metrics.jsonl": b"1"},
    {"config.json": b"{}", "metrics.jsonl": b"12"} | {f"checkpoints/10/{k}": v for k, v in CHECKPOINT.items()},
    {"config.json": b"{}", "metrics.jsonl": b"123"} | {f"checkpoints/20/{k}": v for k, v in CHECKPOINT.items()},
    {"config.json": b"{}", "metrics.jsonl": b"1234", "result.json": b"{}", "model.jopt": b"model"},
]


def contents(directory):
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def committed(url=URL):
    """The number of the state that is in the remote directory; -1 is nothing."""
    try:
        with local_copy(url) as copy:
            return STATES.index(contents(copy))
    except RemoteError:
        assert not commits.latest(Store(url)).files
        return -1


def write(directory, state):
    for path in sorted(directory.rglob("*"), reverse=True):
        if path.is_file() and path.relative_to(directory).as_posix() not in state:
            path.unlink()
    for name, content in state.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)


def work(url=URL, done=None):
    """Goes on from the state in the directory to the last one; `done` gets the states that were committed."""
    with opened(url) as directory:
        begun = contents(directory)
        first = STATES.index(begun) + 1 if begun else 0
        for number in range(first, len(STATES)):
            write(directory, STATES[number])
            announce(directory)
            if done is not None:
                done.append(number)


@pytest.mark.parametrize(("is_done", "resumed_on"), [(False, "a"), (True, "b")])
def test_a_kill_at_any_write_leaves_a_commit(machine, is_done, resumed_on):
    work()
    total = Faulty.count
    assert total > 15
    seen = set()
    # Every write is killed, before or after it is done.
    for fatal in range(int(is_done), total, 2):
        Faulty.clear()
        machine(f"{fatal}a")
        Faulty.reset(fatal, is_done=is_done)
        done = [-1]
        with contextlib.suppress(Killed):
            work(done=done)
        Faulty.reset()
        # Nothing that was committed is lost, and nothing of two commits is mixed.
        assert committed() in (done[-1], done[-1] + 1)
        seen.add(committed())
        machine(f"{fatal}{resumed_on}")
        work()
        assert committed() == len(STATES) - 1
    assert len(seen) >= 4


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_after_the_end_the_objects_are_the_files(machine, tmp_path, scheme):
    url = "memory://objects/a" if scheme == "memory" else f"file://{tmp_path}/objects/a"
    work(url)
    store = Store(url)
    objects = {name: store.read(name) for name in store.sizes() if not name.startswith(".jopt/")}
    assert objects == STATES[-1]


def test_only_what_changed_is_uploaded_and_downloaded(machine, tmp_path):
    url = f"file://{tmp_path}/remote"
    with opened(url) as directory:
        (directory / "large").write_bytes(bytes(100_000))
        announce(directory)
        (directory / "small").write_bytes(b"1")
        before = sum(path.stat().st_size for path in (tmp_path / "remote").rglob("*"))
        announce(directory)
        assert sum(path.stat().st_size for path in (tmp_path / "remote").rglob("*")) - before < 10_000
    objects = {path: path.stat().st_mtime_ns for path in (tmp_path / "remote").glob("*") if path.is_file()}
    with opened(url) as directory:
        assert (directory / "large").stat().st_size == 100_000
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "remote").glob("*") if path.is_file()} == objects


def test_commits_that_follow_at_once_are_uploaded_by_a_later_one(machine, monkeypatch):
    monkeypatch.setattr(mirror, "PAUSE", 1e9)
    with opened(URL) as directory:
        for number in (0, 1, 2):
            write(directory, STATES[number])
            announce(directory)
        assert committed() == 0
    assert committed() == 2


def test_names_that_could_not_be_downloaded_are_not_uploaded(machine):
    with pytest.raises(RemoteError), opened(URL) as directory:
        (directory / "a\\b").touch()
    assert committed() == -1


def test_files_keep_their_times(machine):
    # The newest of two interrupted chunks is the one that goes on.
    with opened(URL) as directory:
        (directory / "chunk.json").write_bytes(b"{}")
        then = (directory / "chunk.json").stat().st_mtime_ns
    machine("b")
    with opened(URL) as directory:
        assert (directory / "chunk.json").stat().st_mtime_ns == then


def test_what_was_not_uploaded_is_uploaded_by_the_next_launch_on_that_machine(machine):
    Faulty.reset(8)
    with contextlib.suppress(Killed), opened(URL) as directory:
        write(directory, STATES[0])
        announce(directory)
        write(directory, STATES[3])
        announce(directory)
    Faulty.reset()
    assert committed() == 0
    with opened(URL) as directory:
        assert contents(directory) == STATES[3]
    assert committed() == 3


def test_the_remote_directory_counts_where_another_machine_has_gone_on(machine):
    Faulty.reset(8)
    with contextlib.suppress(Killed), opened(URL) as directory:
        write(directory, STATES[0])
        announce(directory)
        write(directory, STATES[1])
        announce(directory)
    Faulty.reset()
    machine("b")
    work()
    machine("a")
    with opened(URL) as directory:
        assert contents(directory) == STATES[3]


def test_a_directory_without_commits_is_taken_as_it_is(machine, tmp_path):
    write(tmp_path / "remote", STATES[1])
    url = f"file://{tmp_path}/remote"
    assert committed(url) == 1
    work(url)
    assert committed(url) == 3


def test_a_job_that_writes_nothing_leaves_nothing(machine):
    with pytest.raises(ValueError, match="refused"), opened(URL):
        raise ValueError("refused")
    assert not Store(URL).sizes()


def test_a_directory_in_use_on_another_machine_is_refused(machine, monkeypatch):
    # It is refused at the next word of the owner, and waits for it as long as the machine is busy.
    monkeypatch.setattr(lease, "PATIENCE", 60)
    with opened(URL) as directory:
        write(directory, STATES[0])
        announce(directory)
        machine("b")
        with pytest.raises(InUseError) as error, opened(URL):
            pass
        assert error.value.url == URL and error.value.staging is None
    with opened(URL):
        pass


def test_two_processes_of_one_machine(machine):
    with opened(URL), pytest.raises(InUseError), opened(URL):
        pass


def test_an_owner_that_was_taken_for_dead_changes_nothing_any_more(machine, monkeypatch):
    monkeypatch.setattr(lease.Heartbeat, "_run", lambda self: None)
    with pytest.raises(InUseError) as error, opened(URL) as stalled:
        write(stalled, STATES[0])
        announce(stalled)
        machine("b")
        work()
        write(stalled, STATES[1])
        announce(stalled)
    assert committed() == 3
    assert error.value.staging == stalled and contents(stalled) == STATES[1]


def test_a_store_that_replaces_what_must_be_new_is_noticed(machine, caplog):
    work("careless://bucket/a")
    assert "does not refuse" in caplog.text
    store = Store("careless://bucket/a")
    commit = commits.latest(store)
    store.is_exclusive = False
    assert not commits.publish(store, commits.Commit(commit.number, "other", None, "", {}))
    assert Careless.store
