"""Launches of apps with their file operations recorded, and with faults, from a process that forks them."""

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests import quick
from tests.faults.apps import APPS

ROOT = Path(__file__).parents[2]

# As in shim.c. A program sees a LIVE fault, and must be launched to meet it; what the others leave follows from the
# recorded operations, and is compared with what real ones leave.
LIVE, DEADLY = {"eio": 3, "full": 4}, {"kill": 1, "tear": 2}


class Ended(NamedTuple):
    """How a launch ended: its exit status, its CPU seconds, and what it printed."""

    status: int
    seconds: float
    output: str


def build(directory: Path) -> Path | None:
    """Compiles shim.c; None where faults cannot be injected: there is no compiler, or this is not Linux."""
    compiler = shutil.which("cc")
    if compiler is None or platform.system() != "Linux":
        return None
    library = directory / "shim.so"
    source = Path(__file__).with_name("shim.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl", "-lpthread"], check=True)
    return library


class Server:
    """A process that forks one launch after the other."""

    def __init__(self, library: Path, scratch: Path):
        environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "COLUMNS")}
        environment |= {"LD_PRELOAD": str(library), "XLA_FLAGS": quick.FLAGS, "JAX_PLATFORMS": "cpu"}
        self.scratch = scratch
        self.process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("server.py")],
            env={**environment, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def launch(self, app: str, directory: Path, log: Path, fault: int = 0, number: int = -1) -> Ended:
        """Runs the app in the directory, with its file operations recorded in `log`."""
        output = self.scratch / f"output_{self.process.pid}"
        job = {
            "app": app,
            "arguments": APPS[app].arguments(directory),
            "output": str(output),
            "below": str(directory),
            "fault": fault,
            "point": number + 1,
            "log": str(log),
        }
        print(json.dumps(job), file=self.process.stdin, flush=True)
        assert self.process.stdout is not None
        status, seconds = json.loads(self.process.stdout.readline())
        return Ended(status, seconds, output.read_text(errors="replace"))

    def close(self) -> None:
        """Ends the process."""
        with self.process:
            assert self.process.stdin is not None
            self.process.stdin.close()
