"""Checkpoints: exact round trips, damage found whatever it is, mismatches refused."""

import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt.train import snapshot
from jopt.train.checkpoint import CheckpointError, Checkpoints, MismatchError
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
        checkpoints.save(step, state(step), {"accuracy": accuracy(step), "wall_seconds": 2.5})
    checkpoints.wait()


def test_every_bit_comes_back(checkpoints):
    save(checkpoints, [7])
    restored = checkpoints.restore(7, state())
    assert digest(restored.state) == digest(state(7))
    assert jax.tree.structure(restored.state) == jax.tree.structure(state())
    assert restored.notes == {"accuracy": 0.5, "wall_seconds": 2.5}
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
    checkpoints.save(1, arrays, {"accuracy": 0.0})
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


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"custom_metadata": {"accuracy": null}}', "\xff"])
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
