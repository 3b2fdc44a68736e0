"""The commands as a user starts them: `python -m jopt <command>` in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import quick

# Of a process that is started in the checkout, or with it on its path.
CONFIG = """
from tests.tiny import tiny_experiment


def get_config():
    return tiny_experiment(pack=True)
"""


ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """All apps of a session share one compilation cache."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """Without what the tests themselves run under; programs are compiled quickly, by all apps in the same way."""
    env = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "COLUMNS")}
    staging = str(tmp_path_factory.mktemp("staging"))
    return {**env, "PYTHONPATH": str(ROOT), "XLA_FLAGS": quick.FLAGS, "JOPT_STAGING_DIR": staging}


def arguments(name, args, cache):
    return [*map(str, args), *([] if name in ("compare", "inspect", "new") else [f"--compilation_cache={cache}"])]


@pytest.fixture(scope="session")
def app(cache, environment):
    """Runs an app to its end."""

    def start(name, *args, cwd=None):
        command = [sys.executable, "-m", "jopt", name, *arguments(name, args, cache)]
        return subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
        )

    return start


@pytest.fixture(scope="session")
def forked(cache, environment, tmp_path_factory):
    """As `app`, without the start of Python and the imports: for where neither is what is tested."""
    out, err = (tmp_path_factory.mktemp("forked") / name for name in ("stdout", "stderr"))
    server = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("forks.py")],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )

    def start(name, *args, cwd=None, stdout=out):
        for path in (out, err):
            path.write_text("")
        args = arguments(name, args, cache)
        job = {"name": name, "args": args, "cwd": str(cwd or Path.cwd()), "stdout": str(stdout), "stderr": str(err)}
        print(json.dumps(job), file=server.stdin, flush=True)
        status = int(server.stdout.readline())
        return subprocess.CompletedProcess(args, status, out.read_text(), err.read_text())

    with server:
        yield start
        server.stdin.close()


@pytest.fixture(scope="session")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("configs") / "tiny.py"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="session")
def runs(app, forked, config, tmp_path_factory):
    """Two finished runs: `a` by the config as it is, `b` with overrides."""
    directory = tmp_path_factory.mktemp("runs")
    overrides = ["--config.seed=7", "--config.optimizer.learning_rate=3e-3", "--config.stages[0].steps=9"]
    for start, name, flags in ((app, "a", []), (forked, "b", overrides)):
        done = start("train", f"--config={config}", f"--workdir={directory / name}", "--quiet", *flags)
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
