"""kill -9 at random moments, checkpoint writes among them, changes no bit of what a run ends with."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import quick

from jopt.config import fingerprint
from jopt.train import Experiment, metrics, prepare
from jopt.train.checkpoint import Checkpoints
from jopt.train.state import digest
from jopt.train.workdir import Workdir

ROOT = Path(__file__).parents[2]

HEADER = """
from jopt import data, models, optim, task
from jopt.train import Experiment, Stage

SMALL = data.Synthetic(shape=(8, 8, 1), num_classes=4, train=256, validation=64, test=64, shift=1)
"""

# Dropout, augmentation, accumulation, clipping, averaging, smoothing, a schedule and two stages in one.
STAGES = (
    HEADER
    + """
def get_config():
    return Experiment(
        name="stages", model=models.ModelConfig(name="mlp", features=(32, 16), num_classes=4, dropout=0.2),
        data=SMALL,
        optimizer=optim.Config(
            "adam", accumulate_steps=3, clip_by_global_norm=1.0, schedule="cosine", warmup_steps=20),
        ema_decay=0.99, task=task.Classification(label_smoothing=0.1), batch_size=16, segment_steps=10,
        checkpoint_every=1,
        stages=[Stage("first", steps=STEPS), Stage("second", steps=STEPS, optimizer=optim.Config("rmsprop"))],
    )
"""
)

# Batch normalization, whose statistics are a state that no gradient moves.
BATCH_NORM = (
    HEADER
    + """
def get_config():
    return Experiment(
        name="batch_norm", model=models.ModelConfig(name="resnet18", features=(4,), num_classes=4), data=SMALL,
        optimizer=optim.Config("momentum", learning_rate=0.05, weight_decay=1e-4),
        ema_decay=0.9, batch_size=16, segment_steps=2, checkpoint_every=1, stages=[Stage(steps=STEPS)],
    )
"""
)


def launch(config: Path, workdir: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "experiments.train", f"--config={config}", f"--workdir={workdir}", "--quiet"]
    # Every launch runs the same programs, however they are compiled.
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": quick.FLAGS}
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, env=environment)


def finish(config: Path, workdir: Path) -> None:
    process = launch(config, workdir)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()


def kill_once(config: Path, workdir: Path, rng: random.Random, during_a_write: bool) -> bool | None:
    """Launches, kills -9 at a random moment after the first new row; whether a checkpoint was being written then.

    None if the run came to its end first.
    """
    metrics_file, checkpoints = workdir / "metrics.jsonl", workdir / "checkpoints"
    before = metrics_file.stat().st_size if metrics_file.exists() else 0
    process = launch(config, workdir)
    while process.poll() is None and not (metrics_file.exists() and metrics_file.stat().st_size > before):
        time.sleep(0.002)
    deadline = time.monotonic() + rng.uniform(0.0, 0.3)
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    while during_a_write and process.poll() is None and not half_written(checkpoints):
        time.sleep(0.0005)
    process.kill()
    process.communicate()
    return half_written(checkpoints) if process.returncode == -9 else None


def half_written(checkpoints: Path) -> bool:
    try:
        return any("tmp" in path.name for path in checkpoints.iterdir())
    except FileNotFoundError:
        return False


def final_state(config: Experiment, workdir: Path) -> str:
    """Digest of the whole last state: parameters, optimizer, statistics, averages, step."""
    p = prepare(config)
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        return digest(checkpoints.restore(p.segments[-1].stop, p.like(len(p.plans) - 1)).state)


@pytest.mark.parametrize(
    ("source", "kills", "steps"),
    [
        # The default suite kills at chosen operations: tests/faults.
        pytest.param(STAGES, 3, 300, id="stages", marks=pytest.mark.slow),
        pytest.param(STAGES, 20, 2000, id="stages-20", marks=pytest.mark.slow),
        pytest.param(BATCH_NORM, 20, 700, id="batch_norm-20", marks=pytest.mark.slow),
    ],
)
def test_kill_9_changes_nothing(tmp_path, source, kills, steps):
    config_file = tmp_path / "config.py"
    config_file.write_text(f"STEPS = {steps}\n{source}")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    finish(config_file, whole)
    rng = random.Random(kills)
    writes = [kill_once(config_file, cut, rng, during_a_write=i % 2 == 0) for i in range(kills)]
    killed = [w for w in writes if w is not None]
    print(f"{len(killed)} kills, {sum(killed)} of them during a checkpoint write")
    assert len(killed) == kills, "every launch was killed before its end"
    assert any(killed), "a checkpoint write was hit"
    finish(config_file, cut)

    a, b = Workdir(whole), Workdir(cut)
    assert a.load_json(a.result)["digest"] == b.load_json(b.result)["digest"]
    assert metrics.without_timing(metrics.read(a.metrics)) == metrics.without_timing(metrics.read(b.metrics))
    config = a.load_config()
    assert final_state(config, whole) == final_state(config, cut)
    events = json.loads(b.manifest.read_text())["events"]
    assert [e["event"] for e in events].count("resume") == kills
    assert fingerprint(config) == json.loads(b.manifest.read_text())["config_hash"]
    assert np.isfinite(a.load_json(a.result)["loss"])
