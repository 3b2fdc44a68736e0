"""Checkpoints: exact round trips, damage found whatever it is, mismatches refused."""

import contextlib
import errno
import random
import resource
import shutil
import signal
import threading
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore as ts

from jopt.train import checkpoint, snapshot
from jopt.train.checkpoint import (
    CheckpointError,
    Checkpoints,
    DamagedError,
    MismatchError,
    read_last,
)
from jopt.train.state import TrainState, digest


def state(value: float = 1.0) -> TrainState:
    return TrainState(
        step=np.asarray(np.int32(7)),
        params={"Dense_0": {"kernel": np.full((3, 4), value, np.float32), "bias": jnp.ones(4, jnp.bfloat16)}},
        model_state={},
        opt_state=(np.arange(3, dtype=np.uint8), (), {"mask": np.array([True, False])}),
        transform_state=np.zeros((0, 3), np.float32),
        ema=[np.asarray(np.float32(np.nan)), -np.zeros(2, np.float32)],
    )


@pytest.fixture
def checkpoints(tmp_path):
    with Checkpoints(tmp_path / "checkpoints", keep=2) as opened:
        yield opened


def save(checkpoints, steps, accuracy=lambda step: 0.5):
    for step in steps:
        checkpoints.save(step, state(step), {"score": accuracy(step), "wall_seconds": 2.5})
    checkpoints.wait()


def test_every_bit_comes_back(checkpoints):
    save(checkpoints, [7])
    restored = checkpoints.restore(7, state())
    assert digest(restored.state) == digest(state(7))
    assert jax.tree.structure(restored.state) == jax.tree.structure(state())
    assert restored.notes == {"score": 0.5, "wall_seconds": 2.5}
    like = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, state()))
    assert digest(checkpoints.restore(7, like).state) == digest(state(7))


def test_the_latest_and_the_earliest_best_are_kept(checkpoints):
    accuracy = {1: 0.1, 2: 0.9, 3: 0.9, 4: 0.3, 5: 0.4}
    save(checkpoints, accuracy, accuracy.__getitem__)
    assert checkpoints.steps == [2, 4, 5]


def test_the_state_may_be_donated_as_soon_as_save_returns(checkpoints):
    """What is written is what was given, though its buffers are overwritten at once."""
    arrays = jax.tree.map(jnp.array, {"w": np.arange(1_000_000, dtype=np.float32)})
    expected = digest(arrays)
    overwrite = jax.jit(lambda t: jax.tree.map(lambda x: x * 0 - 1, t), donate_argnums=0)
    checkpoints.save(1, arrays, {"score": 0.0})
    arrays = overwrite(arrays)
    checkpoints.wait()
    assert digest(checkpoints.restore(1, arrays).state) == expected


def test_nothing_saved_is_nothing_restored(checkpoints):
    assert checkpoints.restore_latest(lambda step: state()) == (None, [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s._replace(params={"Dense_1": s.params["Dense_0"]}), "Dense_1/kernel is absent"),
        (lambda s: s._replace(opt_state=()), "is not in the model"),
        (lambda s: s._replace(step=np.asarray(np.int64(7))), "step is int32[], not int64[]"),
        (lambda s: s._replace(ema=[s.ema[0], np.zeros(3, np.float32)]), r"ema/1 is float32[2], not float32[3]"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused_and_kept(checkpoints, change, message):
    save(checkpoints, [7])
    with pytest.raises(MismatchError) as error:
        checkpoints.restore_latest(lambda step: change(state()))
    assert message in str(error.value)
    assert checkpoints.steps == [7]


def damage(path, how: str, seed: int):
    """Damages one file of a checkpoint."""
    rng = random.Random(seed)
    files = sorted(p for p in path.rglob("*") if p.is_file() and p.stat().st_size)
    victim = max(files, key=lambda p: p.stat().st_size) if how != "delete" else rng.choice(files)
    content = bytearray(victim.read_bytes())
    if how == "truncate":
        victim.write_bytes(content[: len(content) // 2])
    elif how == "flip":
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        victim.write_bytes(content)
    elif how == "empty":
        victim.write_bytes(b"")
    else:
        victim.unlink()


@pytest.mark.parametrize("how", ["truncate", "flip", "empty", "delete"])
@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_checkpoint_is_never_believed(tmp_path, how, seed):
    """Whatever breaks in the newest checkpoint, what comes back is bit for bit one that was saved."""
    with Checkpoints(tmp_path / "c") as first:
        save(first, [1, 2, 3])
    damage(tmp_path / "c" / "3", how, seed)
    # Without its commit mark a checkpoint was being deleted by an earlier version, and is removed without a word.
    committed = snapshot.is_committed(tmp_path / "c" / "3")
    with Checkpoints(tmp_path / "c") as second:
        restored, damaged = second.restore_latest(lambda step: state())
        assert restored is not None
        # A file that does not hold the numbers may break without harm to them.
        assert restored.step in ((2,) if damaged else (3,) if committed else (2, 3))
        assert digest(restored.state) == digest(state(restored.step))
        save(second, [restored.step + 1])
        assert second.restore_latest(lambda step: state())[1] == []


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"custom_metadata": {"score": null}}', "\xff"])
def test_an_accuracy_that_cannot_be_read_is_the_worst(tmp_path, content):
    with Checkpoints(tmp_path / "c") as first:
        save(first, [1, 2, 3], {1: 0.9, 2: 0.5, 3: 0.4}.__getitem__)
    (tmp_path / "c" / "1" / "_CHECKPOINT_METADATA").write_text(content, encoding="latin-1")
    with Checkpoints(tmp_path / "c") as second:
        save(second, [4], lambda step: 0.3)
        assert second.steps == [2, 3, 4]


def test_any_single_file_may_vanish(tmp_path):
    """Each file of a checkpoint in turn: what comes back is always one of the states that were saved."""
    with Checkpoints(tmp_path / "c") as first:
        save(first, [1, 2])
    files = sorted(p.relative_to(tmp_path / "c") for p in (tmp_path / "c" / "2").rglob("*") if p.is_file())
    for i, name in enumerate(files):
        shutil.copytree(tmp_path / "c", tmp_path / str(i) / "c")
        (tmp_path / str(i) / "c" / name).unlink()
        with Checkpoints(tmp_path / str(i) / "c") as opened:
            restored, _ = opened.restore_latest(lambda step: state())
        assert restored is not None and digest(restored.state) == digest(state(restored.step)), name


def test_all_damaged_is_said_and_starts_from_nothing(tmp_path):
    with Checkpoints(tmp_path / "c") as first:
        save(first, [1, 2])
    for step in ("1", "2"):
        shutil.rmtree(tmp_path / "c" / step / "state")
    with Checkpoints(tmp_path / "c") as second:
        restored, damaged = second.restore_latest(lambda step: state())
        assert restored is None
        assert len(damaged) == 2 and "moved to" in damaged[0]
    assert sorted(p.name for p in (tmp_path / "damaged_checkpoints").iterdir()) == ["1", "2"], (
        "nothing is thrown away"
    )


def test_a_flipped_digest_is_damage(tmp_path, monkeypatch):
    with Checkpoints(tmp_path / "c") as opened:
        save(opened, [1])
        monkeypatch.setattr("jopt.train.snapshot.digest", lambda tree: "00" * 32)
        with pytest.raises(CheckpointError, match=r"checkpoint 1 .*digest"):
            opened.restore(1, state())


def content(path):
    return {p.relative_to(path): p.read_bytes() if p.is_file() else None for p in sorted(path.rglob("*"))}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run of three stages, which end at 2, 4 and 6."""
    path = tmp_path_factory.mktemp("saved") / "c"
    with Checkpoints(path, keep=2, always=[2, 4, 6]) as opened:
        save(opened, range(1, 7))
        assert opened.steps == [1, 2, 4, 5, 6]
    return path


@pytest.fixture
def copied(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "c")


def flip(step):
    largest = max((p for p in step.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    damaged = bytearray(largest.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    largest.write_bytes(damaged)


@pytest.mark.parametrize(
    ("harm", "step", "left", "aside"),
    [
        (flip, 2, [1], ["2", "4", "5", "6"]),
        (flip, 4, [1, 2], ["4", "5", "6"]),
        (shutil.rmtree, 4, [1, 2], ["5", "6"]),
        (flip, 5, [1, 2, 4, 5, 6], []),
        (flip, 6, [1, 2, 4, 5], ["6"]),
    ],
)
def test_a_run_goes_on_from_before_a_damaged_checkpoint_that_is_read_later(copied, harm, step, left, aside):
    harm(copied / str(step))
    with Checkpoints(copied, always=[2, 4, 6]) as opened:
        restored, sentences = opened.restore_latest(lambda step: state(), needed=[2, 4, 6])
        assert restored is not None and restored.step == left[-1]
        assert opened.steps == left
    assert len(sentences) == len(aside)
    where = copied.parent / "damaged_checkpoints"
    assert sorted(p.name for p in where.iterdir()) == aside if aside else not where.exists()


def test_reading_changes_nothing_and_names_what_is_damaged(copied):
    assert read_last(copied, state(), "").step == 6
    flip(copied / "6")
    (copied / "2" / "_CHECKPOINT_METADATA").write_bytes(b"")
    (copied / "8.saving").mkdir()
    before = content(copied.parent)
    with pytest.raises(DamagedError, match="do this") as error:
        read_last(copied, state(), "do this")
    assert sorted(error.value.damaged) == [2, 6]
    assert content(copied.parent) == before


@pytest.mark.parametrize(
    "leftover", ["7.saving", "7.saving.orbax-checkpoint-tmp", "3.removed", "7.orbax-checkpoint-tmp-1"]
)
def test_what_a_kill_left_half_saved_or_half_removed_is_no_damage(copied, leftover):
    before = content(copied)
    shutil.copytree(copied / "1" / "state", copied / leftover)
    with Checkpoints(copied) as opened:
        restored, sentences = opened.restore_latest(lambda step: state(), needed=[2, 4, 6])
    assert restored is not None and (restored.step, sentences) == (6, [])
    assert content(copied) == before


def test_what_an_earlier_version_left_half_removed_is_no_damage(copied):
    for name in ("commit_success.txt", "orbax.checkpoint"):
        (copied / "6" / name).unlink()
    shutil.rmtree(copied / "6" / "state")
    with Checkpoints(copied) as opened:
        restored, sentences = opened.restore_latest(lambda step: state())
        assert restored is not None and (restored.step, sentences, opened.steps) == (5, [], [1, 2, 4, 5])
    assert not (copied.parent / "damaged_checkpoints").exists()


class Killed(BaseException):
    """Stands for a kill: no handler of errors sees it."""


def test_a_kill_at_any_change_of_a_name_leaves_only_whole_checkpoints(copied, monkeypatch):
    """At each rename, sync and removal of a save in turn: what is left is read without a word."""
    for number in range(1, 9):
        path, calls = copied.parent / str(number), []
        shutil.copytree(copied, path)

        def unless_killed(function, number=number, calls=calls):
            def call(*args):
                calls.append(function)
                if len(calls) == number:
                    raise Killed
                return function(*args)

            return call

        with monkeypatch.context() as patch:
            for module, name in ((checkpoint, "move"), (checkpoint, "sync_tree"), (shutil, "rmtree")):
                patch.setattr(module, name, unless_killed(getattr(module, name)))
            with contextlib.suppress(Killed), Checkpoints(path, always=[1, 2, 4, 6]) as opened:
                save(opened, [7])
                assert opened.steps == [1, 2, 4, 6, 7]
        with Checkpoints(path) as opened:
            restored, sentences = opened.restore_latest(lambda step: state(), [2, 4, 6])
        assert restored is not None and (restored.step, sentences) == (7 if number > 2 else 6, [])
    # Synced, renamed, and checkpoint 5 renamed and removed.
    assert len(calls) == 4


def test_a_small_checkpoint_that_claims_gigabytes_is_refused_before_they_are_allocated(tmp_path):
    like = {"w": np.zeros(2, np.float32)}
    snapshot.write(tmp_path / "1", like, {"score": 0.0})
    store = {"driver": "ocdbt", "base": f"file://{tmp_path}/1/state/", "path": "w/"}
    spec = ts.open({"driver": "zarr3", "kvstore": store}).result().spec(retain_context=False).to_json()
    # A header of an array of 4 TiB, as the fill value takes no byte on the disk.
    header = spec["metadata"] | {"shape": [2**40]}
    spec = {"driver": "zarr3", "kvstore": store, "metadata": header}
    ts.open(spec, create=True, delete_existing=True).result()
    with pytest.raises(MismatchError, match="1099511627776"):
        read_last(tmp_path, like, "")


def test_two_runs_in_threads_of_one_process_lose_no_checkpoint(tmp_path):
    def work(name, errors):
        try:
            with Checkpoints(tmp_path / name, keep=20) as opened:
                for step in range(8):
                    opened.save(step, state(step), {"score": 0.0})
        except BaseException as error:
            errors.append(error)

    errors: list[BaseException] = []
    threads = [threading.Thread(target=work, args=(name, errors), daemon=True) for name in ("a", "b", "c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    for name in ("a", "b", "c"):
        for step in range(8):
            assert digest(snapshot.read(tmp_path / name / str(step), state()).state) == digest(state(step))


def test_an_error_of_a_save_is_raised_by_the_next_call(checkpoints):
    save(checkpoints, [1])
    shutil.rmtree(checkpoints.directory)
    checkpoints.save(2, state(), {"score": 0.0})
    with pytest.raises(FileNotFoundError, match="was removed"):
        checkpoints.wait()
    assert not checkpoints.directory.exists(), "and it is not made again"


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't start new thread")])
def test_a_lack_of_threads_or_memory_is_known_below_another_error(error):
    wrapped = ValueError("a library's own")
    assert not snapshot.is_exhausted(wrapped)
    wrapped.__cause__ = error
    assert snapshot.is_exhausted(wrapped)


def test_a_full_disk_is_an_error_of_the_system_and_leaves_the_checkpoints_before_it(checkpoints):
    """A limit on the size of files stands for a full disk: the library's own writes fail."""
    save(checkpoints, [1])
    large = {"w": np.random.default_rng(0).standard_normal(2**16)}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**14, limits[1]))
    try:
        checkpoints.save(2, large, {"score": 0.0})
        with pytest.raises(OSError) as error:
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, previous)
    assert error.value.errno == errno.EFBIG
    assert checkpoints.steps == [1]
    checkpoints.save(2, large, {"score": 0.0})
    checkpoints.wait()
    assert checkpoints.steps == [1, 2]


def test_a_checkpoint_of_a_step_at_which_the_run_saves_none_is_refused(copied):
    with Checkpoints(copied) as opened, pytest.raises(MismatchError, match="saves none"):
        opened.restore_latest({5: state()}.__getitem__)


@pytest.mark.parametrize("name", ["007", "\uff11", "9" * 200, "-1", "7.0", "latest"])
def test_only_numbers_name_checkpoints(copied, name):
    (copied / name).mkdir()
    with Checkpoints(copied) as opened:
        assert opened.steps == [1, 2, 4, 5, 6]


@pytest.mark.parametrize("notes", ["[" * 50_000, "[]", "{"])
def test_notes_that_are_no_object_are_damage_even_under_a_true_digest(tmp_path, monkeypatch, notes):
    monkeypatch.setattr(snapshot, "json", types.SimpleNamespace(dumps=lambda value: notes))
    snapshot.write(tmp_path / "1", state(), {"score": 0.0})
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="notes"):
        snapshot.read(tmp_path / "1", state())
