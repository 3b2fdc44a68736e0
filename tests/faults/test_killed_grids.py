"""A grid on a Ray cluster, with a killed worker and a node that computes other bits. The long one: grids.py."""

import importlib.util
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'jopt[ray]'"
    ),
    pytest.mark.skipif(platform.system() != "Linux", reason="finds the workers' processes in /proc"),
]


def killed(*arguments):
    """What `python -m tests.faults.grids` prints; it must find nothing that differs."""
    # In a process of its own: Ray forks, which no process with JAX's threads should.
    command = [sys.executable, "-m", "tests.faults.grids", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


@pytest.mark.skipif(platform.machine() != "x86_64", reason="its instruction sets are those of x86")
def test_a_killed_worker_and_a_node_with_other_bits_change_no_table():
    grid = ["--config=tests/faults/config.py:ablate", "--flags=--config.experiment.epochs=60"]
    output = killed("1", "--kinds=worker", "--other_bits", *grid)
    assert "killed worker" in output
    (refused,) = [line for line in output.splitlines() if "refused" in line]
    assert "XLA_FLAGS" in refused and "canary" in refused


@pytest.mark.slow
def test_ten_kills_change_no_table():
    assert "10 kills" in killed("10", "0", "--flags=--config.chunk=5")
