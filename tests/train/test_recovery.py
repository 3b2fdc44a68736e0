"""A run whose files were damaged goes on to the same bits, or says what is damaged and what to do."""

import contextvars
import json
import shutil
import threading

import pytest
from tiny import smallest_experiment, tiny_experiment

from jopt.files import unseal
from jopt.report.observer import Silent
from jopt.train import Stage, metrics, run
from jopt.train import session as sessions
from jopt.train.checkpoint import Checkpoints
from jopt.train.workdir import StopRequested, Workdir, WorkdirError

pytestmark = [pytest.mark.unoptimized, pytest.mark.usefixtures("undrawn")]

# Four stages of one epoch of 6 steps; the last starts again from the end of the second.
CONFIG = tiny_experiment(
    epochs=1,
    stages=[Stage("a"), Stage("b"), Stage("c"), Stage("d", start="b")],
    keep_checkpoints=1,
)


class Messages(Silent):
    """Keeps the warnings."""

    def __init__(self):
        self.warnings: list[str] = []

    def warn(self, sentence: str) -> None:
        self.warnings.append(sentence)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run without interruption."""
    path = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("plotly.offline.get_plotlyjs", lambda: "")
        run(CONFIG, path)
    return path


@pytest.fixture(scope="module")
def stopped_run(tmp_path_factory):
    """The run, stopped after its third stage."""
    path = tmp_path_factory.mktemp("runs") / "stopped"
    with pytest.MonkeyPatch.context() as patch:
        at_boundary = sessions._Session._at_boundary

        def stop_after_third(self, boundary):
            self.stop_requested = lambda: boundary.segment.mark == 18
            return at_boundary(self, boundary)

        patch.setattr(sessions._Session, "_at_boundary", stop_after_third)
        with pytest.raises(StopRequested):
            run(CONFIG, path)
    return path


@pytest.fixture
def stopped(stopped_run, tmp_path):
    return shutil.copytree(stopped_run, tmp_path / "run")


def contents(path):
    """What a run ends with, apart from the time that it took."""
    result = unseal(json.loads((path / "result.json").read_text()))
    times = [result.pop(name) for name in ("wall_seconds", "compile_seconds")]
    assert all(times)
    return result, metrics.without_timing(Workdir(path).load_rows())


def flip(path):
    largest = max((p for p in path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    damaged = bytearray(largest.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    largest.write_bytes(damaged)


@pytest.mark.parametrize(("harm", "step", "sentences"), [(flip, 6, 3), (flip, 12, 2), (shutil.rmtree, 12, 1)])
def test_a_run_whose_stage_end_is_damaged_ends_in_the_same_bits(whole, stopped, harm, step, sentences):
    harm(stopped / "checkpoints" / str(step))
    messages = Messages()
    run(CONFIG, stopped, observer=messages)
    assert len(messages.warnings) == sentences
    assert contents(stopped) == contents(whole)


@pytest.mark.parametrize(
    "edit",
    [
        lambda lines: lines[1:],
        lambda lines: [*lines[:2], *lines[3:]],
        lambda lines: [lines[0], *lines],
        lambda lines: [lines[0].replace('"loss": ', '"loss": 1'), *lines[1:]],
        lambda lines: [],
    ],
    ids=["first", "hole", "doubled", "edited", "gone"],
)
def test_rows_before_the_checkpoint_that_are_not_those_written_are_found(stopped, edit):
    file = stopped / "metrics.jsonl"
    file.write_text("".join(edit(file.read_text().splitlines(keepends=True))))
    before = file.read_bytes()
    with pytest.raises(WorkdirError, match=r"metrics\.jsonl, line.*remove"):
        run(CONFIG, stopped)
    assert file.read_bytes() == before


def test_rows_after_the_checkpoint_are_written_again(whole, stopped):
    with (stopped / "metrics.jsonl").open("a") as file:
        file.write('{"step": 24, "stage": "d", "split": "train", "loss": 1.0}\n{"step"')
    run(CONFIG, stopped)
    assert contents(stopped) == contents(whole)


def test_damaged_rows_without_a_checkpoint_are_written_again(whole, stopped):
    shutil.rmtree(stopped / "checkpoints")
    (stopped / "metrics.jsonl").write_text("not json\n")
    run(CONFIG, stopped)
    assert contents(stopped) == contents(whole)


def test_two_runs_in_threads_of_one_process_end_as_they_do_alone(tmp_path):
    config = smallest_experiment(checkpoint_every=1)

    def work(name):
        try:
            run(config, tmp_path / name)
        except BaseException as error:
            errors.append(error)

    errors: list[BaseException] = []
    # With the context of this test, which has options of the compiler: a thread begins with none.
    contexts = {name: contextvars.copy_context() for name in ("a", "b")}
    threads = [threading.Thread(target=c.run, args=(work, name), daemon=True) for name, c in contexts.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    work("alone")
    assert errors == []
    assert contents(tmp_path / "a") == contents(tmp_path / "b") == contents(tmp_path / "alone")


@pytest.mark.parametrize("name", [".lock", "checkpoints", "checkpoints/18", "metrics.jsonl", "damaged_checkpoints"])
def test_a_link_in_a_run_directory_is_refused_and_leads_nowhere(stopped, tmp_path, name):
    outside = tmp_path / "outside"
    (outside / "important.orbax-checkpoint-tmp").mkdir(parents=True)
    (outside / "7").mkdir()
    (outside / "file").write_text("x")
    link = stopped / name
    if link.is_dir():
        shutil.rmtree(link)
    link.unlink(missing_ok=True)
    link.symlink_to(outside if "." not in name else outside / "file")
    before = sorted(p.name for p in stopped.rglob("*"))
    with pytest.raises(WorkdirError, match="is a link") as error:
        run(CONFIG, stopped)
    assert getattr(error.value, "path", None) == link
    assert sorted(p.name for p in outside.iterdir()) == ["7", "file", "important.orbax-checkpoint-tmp"]
    assert (outside / "file").read_text() == "x"
    assert sorted(p.name for p in stopped.rglob("*")) == before


def test_a_directory_may_itself_be_reached_by_a_link(whole, tmp_path):
    (tmp_path / "link").symlink_to(whole)
    with Workdir(tmp_path / "link").locked():
        pass


def test_a_directory_that_is_removed_while_it_is_opened_is_not_used(tmp_path, monkeypatch):
    import fcntl

    files, lock = Workdir(tmp_path / "run"), fcntl.flock
    files.make()

    def remove_and_lock(file, operation):
        shutil.rmtree(files.path)
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", remove_and_lock)
    with pytest.raises(WorkdirError, match="removed or replaced"), files.locked():
        raise AssertionError("entered")
    assert not files.path.exists()


def test_the_lock_is_not_truncated_and_stale_temporary_files_go(tmp_path):
    files = Workdir(tmp_path)
    (tmp_path / ".lock").write_text("content")
    (tmp_path / ".result.json.0a1b2c3d.tmp").write_text("{")
    with files.locked():
        with pytest.raises(WorkdirError, match="in use"), Workdir(tmp_path).locked():
            raise AssertionError("entered")
        assert [p.name for p in tmp_path.iterdir()] == [".lock"]
    assert (tmp_path / ".lock").read_text() == "content"


def test_a_directory_that_is_removed_during_the_run_is_not_made_again(stopped, monkeypatch):
    save = Checkpoints.save

    def remove_and_save(*args):
        shutil.rmtree(stopped)
        save(*args)

    monkeypatch.setattr(Checkpoints, "save", remove_and_save)
    with pytest.raises(OSError):
        run(CONFIG, stopped)
    assert not stopped.exists()
