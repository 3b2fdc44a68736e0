"""A whole ablation, launched as a user launches it."""

import csv
import json
import os
import subprocess
import sys
import time

import pytest

from jopt.ablate import load_trial
from jopt.train import run


@pytest.mark.slow
def test_a_hundred_trials_are_one_program(tmp_path):
    command = [sys.executable, "-m", "experiments.ablate", "--config=configs/ablations/sparsity_by_bits.py"]
    start = time.perf_counter()
    for name in ("a", "b"):
        subprocess.run(
            [*command, f"--workdir={tmp_path / name}", f"--compilation_cache={tmp_path / f'cache_{name}'}"],
            check=True,
            env={k: v for k, v in os.environ.items() if k != "XLA_FLAGS"},
        )
        print(f"{name}: {time.perf_counter() - start:.1f} s from launch to report, nothing compiled before")
        start = time.perf_counter()
    with (tmp_path / "a" / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 100
    assert {row["status"] for row in rows} == {"finished"}
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert manifest["events"][-1]["compilations"]["0"]["segment"] == 1
    for table in ("trials.csv", "summary.csv", "curves.jsonl", "report.md", "report.html"):
        assert (tmp_path / "a" / table).read_bytes() == (tmp_path / "b" / table).read_bytes(), table
    # Alone each trial comes within float32 of itself in the grid; here, by `map`, to the bit.
    for row in rows[::33]:
        result = run(load_trial(tmp_path / "a", row["trial"]), tmp_path / row["trial"], quiet=True)
        assert result["accuracy"] == float(row["accuracy"])
        assert result["loss"] == pytest.approx(float(row["loss"]), rel=1e-5)
        print(row["trial"], "alone:", "equal bits" if result["digest"] == row["digest"] else "within 1e-5")
