"""The help of every app is there at once: it imports nothing that only a run needs."""

import subprocess
import sys
from pathlib import Path

import pytest

from jopt import export, report

ROOT = Path(__file__).parents[2]
APPS = sorted(
    path.stem for path in (ROOT / "experiments").glob("*.py") if '__name__ == "__main__"' in path.read_text()
)
HEAVY = {"jax", "flax", "optax", "orbax", "tensorstore", "scipy", "sklearn", "plotly", "rich", "onnx", "tensorflow"}
# Lists that the library has, and that an app repeats so as not to import it.
REPEATED = {
    "export": (f"Some of {', '.join(export.FORMATS)}, or", f"(default: '{','.join(map(str, export.BATCHES))}')"),
    "inspect": (f"--paper: <{'|'.join(report.PAPER_NETWORKS)}>",),
}


@pytest.mark.parametrize("app", APPS)
def test_help_imports_neither_jax_nor_what_rests_on_it(app, environment):
    command = [sys.executable, "-X", "importtime", "-m", f"experiments.{app}", "--help"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert f"python -m experiments.{app}" in done.stdout and "absl.flags" in modules
    assert not modules & HEAVY
    assert all(text in done.stdout for text in REPEATED.get(app, ()))
