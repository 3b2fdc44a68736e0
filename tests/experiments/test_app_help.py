"""The help of every app is there at once: it imports nothing that only a run needs."""

import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from jopt import export, report
from jopt.apps.commands import COMMANDS, main
from jopt.apps.new import templates

ROOT = Path(__file__).parents[2]
HEAVY = {"jax", "flax", "optax", "orbax", "tensorstore", "scipy", "sklearn", "plotly", "rich", "onnx", "tensorflow"}
SCRIPT = '''"""`python -m experiments.{0}`: the command `jopt {0}` (jopt/apps/{0}.py), from a checkout."""

import sys

from jopt.apps.launch import launch

if __name__ == "__main__":
    launch("{0}", sys.argv[1:], "python -m experiments.{0}")
'''
# Lists that the library has, and that an app repeats so as not to import it.
REPEATED = {
    "export": (f"Some of {', '.join(export.FORMATS)}, or", f"(default: '{','.join(map(str, export.BATCHES))}')"),
    "inspect": (f"--paper: <{'|'.join(report.PAPER_NETWORKS)}>",),
}


def run(environment, *args):
    """The finished process, and the modules that it imported."""
    command = [sys.executable, "-X", "importtime", *args]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    imported = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    rest = [line for line in done.stderr.splitlines() if line not in imported]
    return done, {line.rpartition("|")[2].strip() for line in imported}, rest


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_neither_jax_nor_what_rests_on_it(command, environment):
    done, modules, errors = run(environment, "-m", "jopt", command, "--help")
    assert (done.returncode, errors) == (0, [])
    assert f"\njopt {command} " in done.stdout and "absl.flags" in modules
    assert not modules & HEAVY
    assert all(text in done.stdout for text in REPEATED.get(command, ()))


@pytest.mark.parametrize("command", sorted(COMMANDS.keys() - {"new"}))
def test_the_script_of_a_checkout_is_the_command(command, environment):
    script = ROOT / "experiments" / f"{command}.py"
    assert script.read_text() == SCRIPT.format(command)
    if command == "train":  # The others have the same text.
        done, modules, errors = run(environment, "-m", "experiments.train", "--help")
        assert (done.returncode, errors) == (1, []) and not modules & HEAVY
        assert "\npython -m experiments.train --config=" in done.stdout
        assert "\n  --workdir: " in done.stdout


def test_a_command_has_its_own_flags_alone(forked, refused):
    """All flags of absl are global: those of another command must not be accepted in silence."""
    done = forked("compare", "runs/a", "runs/b", "--config=configs/digits_mlp.py")
    assert "Unknown command line flag 'config'" in refused(done, 2)


def test_jopt_lists_its_commands_in_one_line_each(environment):
    done, modules, _ = run(environment, "-m", "jopt", "--help")
    lines = [line for line in done.stdout.splitlines() if line.startswith("  ")]
    assert [line.split()[0] for line in lines] == list(COMMANDS)
    assert done.returncode == 0 and max(map(len, lines)) < 80
    assert not modules & {*HEAVY, "absl.flags"}
    assert run(environment, "-m", "jopt")[0].stdout == done.stdout
    version = run(environment, "-m", "jopt", "--version")[0]
    assert re.fullmatch(r"jopt \d+\.\d+\.\d+\n", version.stdout)


def test_an_unknown_command_is_one_line_with_the_nearest(environment):
    done, _, (error,) = run(environment, "-m", "jopt", "trian", "--workdir=x")
    assert (done.returncode, done.stdout) == (2, "")
    assert "'trian'" in error and "'jopt train'" in error


def test_the_package_has_the_command_its_templates_and_nothing_else():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    module, _, name = project["project"]["scripts"]["jopt"].partition(":")
    assert getattr(importlib.import_module(module), name) is main
    setuptools = project["tool"]["setuptools"]
    assert setuptools["packages"]["find"]["include"] == ["jopt*"]
    (pattern,) = setuptools["package-data"]["jopt.apps"]
    packaged = {path.name for path in (ROOT / "jopt" / "apps").glob(pattern) if path.is_file()}
    assert packaged == set(templates())


def test_to_import_jopt_imports_no_app(environment):
    _, modules, errors = run(environment, "-c", "import jopt")
    assert not modules & {*HEAVY, "absl", "jopt.apps"} and errors == []
