"""kill -9 at random moments of a grid changes no byte of its tables, and nothing that was done is done again."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TABLES = ("trials.csv", "summary.csv", "curves.jsonl", "ablation.json")

# Two programs, three chunks each; momenta, masks, codes and averages to be saved, and two stages.
GRID = """
from jopt import data, models, optim, prune, quantize
from jopt.ablate import Ablation, axis, product
from jopt.train import Experiment, Stage


def get_config():
    return Ablation(
        name="killed",
        experiment=Experiment(
            name="killed",
            model=models.ModelConfig(name="mlp", features=(16,), num_classes=4),
            data=data.Synthetic(shape=(6, 6, 1), num_classes=4, train=128, validation=64, test=64),
            optimizer=optim.Config("adam", learning_rate=1e-2), ema_decay=0.9, batch_size=16,
            stages=[
                Stage("train", epochs=EPOCHS, methods=(prune.Gradual(), quantize.Weights())),
                Stage("on", epochs=EPOCHS, start="train"),
            ],
        ),
        space=product(
            axis("optimizer.name", ("adam", "momentum")),
            axis("stages[0].prune.sparsity", (0.0, 0.5, 0.9)),
        ),
        seeds=(0, 1), control={"prune.sparsity": 0.0}, strategy="map", chunk=2,
    )
"""
CHUNKS, EPOCHS = 6, 12
ROWS_A_SEGMENT = 4  # two trials, training and validation


def launch(config: Path, workdir: Path) -> subprocess.Popen:
    flags = [f"--config={config}", f"--workdir={workdir}", "--cpu_devices=1", "--quiet"]
    command = [sys.executable, "-m", "experiments.ablate", *flags]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, env=os.environ | {"JAX_PLATFORMS": "cpu"})


def finish(config: Path, workdir: Path) -> None:
    process = launch(config, workdir)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors.decode()


def kill_once(config: Path, workdir: Path, rng: random.Random, at_start: bool) -> bool:
    """Launches and kills -9: while it starts, or after a random number of new rows; whether there were any."""
    before = rows(workdir)
    process = launch(config, workdir)
    begun = time.monotonic()
    if at_start:
        wait_until(process, lambda: time.monotonic() > begun + rng.uniform(0.5, 6.0))
    else:
        # In rows, not in seconds: so that on a slow machine as much is done between two kills as on a fast one.
        new = rng.randint(1, 15 * ROWS_A_SEGMENT)
        wait_until(process, lambda: rows(workdir) >= before + new)
        time.sleep(rng.uniform(0.0, 0.1))
    process.kill()
    _, errors = process.communicate()
    assert process.returncode == -9, errors.decode()
    return rows(workdir) > before


def wait_until(process: subprocess.Popen, there) -> None:
    while process.poll() is None and not there():
        time.sleep(0.001)


def rows(workdir: Path) -> int:
    """Rows of metrics that were written, those of finished chunks included."""
    done = 0
    for chunk in workdir.glob("chunks/*"):
        try:
            done += (chunk / "metrics.jsonl").read_text().count("\n")
        except FileNotFoundError:
            done += 2 * EPOCHS * ROWS_A_SEGMENT * (chunk / "result.json").exists()
    return done


def results(workdir: Path) -> dict[str, tuple[int, int]]:
    """The chunks that are done, and what tells a file from one that was written again in its place."""
    found = {path: path.stat() for path in workdir.glob("chunks/*/result.json")}
    return {path.parent.name: (stat.st_ino, stat.st_mtime_ns) for path, stat in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize("kills", [20])
def test_kill_9_changes_no_byte_of_the_tables(tmp_path, kills):
    config = tmp_path / "grid.py"
    config.write_text(f"EPOCHS = {EPOCHS}\n{GRID}")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    finish(config, whole)
    rng = random.Random(kills)
    known: dict[str, tuple[int, int]] = {}
    during = 0
    for i in range(kills):
        during += kill_once(config, cut, rng, at_start=i % 4 == 0)
        found = results(cut)
        assert known.items() <= found.items(), "a finished chunk was run again, or lost"
        known = found
    print(f"{kills} kills, {during} of them after new rows; {len(known)} of {CHUNKS} chunks were done by then")
    assert during >= kills // 2 and known, "the kills hit the training, and chunks were finished between them"
    finish(config, cut)
    found = results(cut)
    assert known.items() <= found.items()
    assert len(found) == CHUNKS
    trials = [
        t for name in found for t in json.loads((cut / "chunks" / name / "result.json").read_text())["trials"]
    ]
    assert len(trials) == len({t["row"]["trial"] for t in trials}) == 12, "each trial was run once"
    for name in TABLES:
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name
    events = json.loads((cut / "manifest.json").read_text())["events"]
    assert [e["event"] for e in events][-2:] == ["resume", "stop"] and events[-1]["status"] == "finished"

    # Once more: nothing is left to do, and nothing changes.
    before = {name: (cut / name).read_bytes() for name in TABLES}
    finish(config, cut)
    assert before == {name: (cut / name).read_bytes() for name in TABLES}
    assert results(cut) == found
    assert json.loads((cut / "manifest.json").read_text())["events"][-1]["compilations"] == {}
