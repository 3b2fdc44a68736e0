"""A project of the user's own, outside of any checkout: her modules are found, whatever else has their names."""

import json
import os
import shlex
import subprocess
import sys

import pytest

CONFIG = """
from configs.base import base
from experiments.lengths import EPOCHS
from my_score import smallest
from jopt import prune
from jopt.train import Stage


def get_config():
    pruned = Stage("pruned", epochs=EPOCHS, methods=(prune.OneShot(0.5, score="my_score:smallest"),))
    other = Stage("other", epochs=1, release=("prune",), methods=(prune.OneShot(0.25, score=smallest),))
    return base(stages=[pruned, other])
"""
FILES = {
    "config.py": CONFIG,
    "my_score.py": "import jax.numpy as jnp\n\n\ndef smallest(weight):\n    return -jnp.abs(weight)\n",
    # The checkout, which is on the path too, has packages of these names.
    "configs/__init__.py": "",
    "configs/base.py": "from tests.tiny import tiny_experiment as base\n",
    "experiments/__init__.py": "",
    "experiments/lengths.py": "EPOCHS = 1\n",
    # Names of modules that jopt and its dependencies import.
    "data.py": "raise RuntimeError('nobody asked for it')\n",
    "bin/jopt": "import sys\nfrom jopt.apps.commands import main\nsys.exit(main())\n",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    path = tmp_path_factory.mktemp("project")
    for name, text in FILES.items():
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text(text)
    return path


@pytest.fixture(scope="module")
def console(project, environment, cache):
    """Runs a command as the script that pip installs does: Python puts the script's directory on the path."""

    def start(*args, cwd):
        command = [sys.executable, project / "bin" / "jopt", *args, f"--compilation_cache={cache}"]
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)

    return start


@pytest.fixture(scope="module")
def elsewhere(console, project, tmp_path_factory):
    """A run of her config, started from another directory."""
    where = tmp_path_factory.mktemp("elsewhere")
    done = console("train", f"--config={os.path.relpath(project / 'config.py', where)}", "--workdir=run", cwd=where)
    assert done.returncode == 0, done.stderr
    return where / "run"


def test_the_config_finds_modules_next_to_it_from_any_directory(elsewhere):
    config = json.loads((elsewhere / "config.json").read_text())
    scores = [stage["methods"][0]["score"] for stage in config["stages"]]
    assert scores == ["my_score:smallest", "my_score:smallest"]


def test_the_reports_command_is_the_typed_one_and_works_again(forked, elsewhere):
    (line,) = (line for line in (elsewhere / "report.md").read_text().splitlines() if line.startswith("jopt "))
    name, *args = shlex.split(line)[1:]
    done = forked(name, *args, cwd=elsewhere.parent)
    assert done.returncode == 0 and "nothing was run" in done.stdout


@pytest.mark.slow
def test_an_export_finds_them_from_the_project_s_directory_if_trusted(console, refused, project, elsewhere):
    command = ("export", str(elsewhere), "--format=packed")
    assert "not trusted" in refused(console(*command, cwd=project), 1)
    done = console(*command, "--trust", cwd=project)
    assert done.returncode == 0, done.stderr
    assert (elsewhere / "export" / "README.md").is_file()


def test_where_they_are_not_found_the_message_says_where_to_look(forked, refused, elsewhere):
    line = refused(forked("export", elsewhere, "--format=packed", "--trust", cwd=elsewhere.parent), 1)
    assert "No module named 'my_score'" in line and "current directory" in line


def test_the_current_directory_replaces_no_module_of_python_s_own(console, project, tmp_path):
    """`jopt inspect` in a directory of somebody else's runs nothing that lies there."""
    for name in ("json", "rich", "numpy", "jax", "usercustomize"):
        (tmp_path / f"{name}.py").write_text("open('ran', 'w')\n")
    done = console("inspect", "missing.jopt", cwd=tmp_path)
    assert done.returncode == 2 and not (tmp_path / "ran").exists()
