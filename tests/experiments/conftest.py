"""The apps as a user starts them: `python -m experiments.<app>` in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFIG = """
from jopt import data, models, optim
from jopt.train import Experiment


def get_config():
    return Experiment(
        name="tiny",
        model=models.Config(name="mlp", features=(16,), num_classes=4),
        data=data.Config(
            name="synthetic",
            synthetic=data.Synthetic(shape=(6, 6, 1), num_classes=4, train=96, validation=40, test=24),
        ),
        optimizer=optim.Config(name="adam", learning_rate=1e-2),
        epochs=2,
        batch_size=16,
        pack=True,
    )
"""


@pytest.fixture(scope="session")
def app(tmp_path_factory):
    """Runs an app to its end; all of a session share one compilation cache."""
    cache = tmp_path_factory.mktemp("cache")
    root = str(Path(__file__).parents[2])

    def start(name, *args, cwd=None):
        env = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "COLUMNS")}
        command = [sys.executable, "-m", f"experiments.{name}", *map(str, args)]
        if name not in ("compare", "inspect"):
            command.append(f"--compilation_cache={cache}")
        return subprocess.run(
            command,
            cwd=cwd,
            env={**env, "PYTHONPATH": root},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return start


@pytest.fixture(scope="session")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("configs") / "tiny.py"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="session")
def runs(app, config, tmp_path_factory):
    """Two finished runs: `a` by the config as it is, `b` with overrides."""
    directory = tmp_path_factory.mktemp("runs")
    overrides = ["--config.seed=7", "--config.optimizer.learning_rate=3e-3", "--config.stages[0].steps=9"]
    for name, more in (("a", []), ("b", overrides)):
        done = app("train", f"--config={config}", f"--workdir={directory / name}", "--quiet", *more)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return directory


@pytest.fixture(scope="session")
def refused():
    """Asserts that an app ended with `status` and one line on standard error, which it returns."""

    def check(done, status):
        assert done.returncode == status, done.stderr
        lines = done.stderr.splitlines()
        assert len(lines) == 1 and "Traceback" not in lines[0], done.stderr
        assert done.stdout == ""
        return lines[0]

    return check
