"""An executor of plain processes: what Ray and SLURM do, without either."""

import contextlib
import json
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

from jopt.ablate.executors import ExecutorError, notice
from jopt.ablate.executors.crew import Crew

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
from jopt.ablate.executors import worker
for line in sys.stdin:
    print(worker.work(line) if '"chunk"' in line else worker.join(line), flush=True)
"""


def start(environment=None, prelude=""):
    """A worker that reads orders and writes replies, a line each."""
    settings = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    settings |= {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", **(environment or {})}
    return subprocess.Popen(
        # Not here: Python finds modules of the current directory before those of its path.
        [sys.executable, "-c", prelude + PROGRAM],
        cwd="/",
        env=settings,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def tell(process, text):
    process.stdin.write(f"{text}\n".encode())
    process.stdin.flush()


class Processes:
    """An executor with a process for each environment; the first ones are killed as they take their first order."""

    name: ClassVar[str] = "processes"

    def __init__(self, *environments, kills=0):
        self.environments, self.kills = environments, kills

    @property
    def devices(self):
        return 1

    @contextlib.contextmanager
    def running(self, context):
        self.pool = Pool(self.environments, self.kills, context.warn)
        try:
            modules = list(context.modules)
            yield Crew(self.name, self.pool, lambda: notice.notice(context.trusted, modules, 1, 0))
        finally:
            self.pool.close()


class Pool:
    def __init__(self, environments, kills, warn):
        self.environments, self.kills, self.warn = environments, kills, warn
        self.workers = len(environments)
        self.idle, self.busy, self.lost, self.done = [], {}, [], []

    def begin(self, directory, nonce):
        self.grid = json.dumps({"directory": directory, "nonce": nonce})
        for environment in self.environments:
            self.busy[start(environment)] = None
        for process in self.busy:
            tell(process, self.grid)

    def offer(self, chunk, group, order):
        if not self.idle:
            return False
        process = self.idle.pop()
        tell(process, order)
        self.busy[process] = chunk
        if self.kills:
            self.kills -= 1
            process.kill()
            # Another one takes its place, as on a cluster.
            again = start()
            self.busy[again] = None
            tell(again, self.grid)
        return True

    def wait(self, seconds):
        if not self.busy and not self.idle:
            raise ExecutorError("processes", "no worker is left")
        ended = []
        ready, _, _ = select.select([process.stdout for process in self.busy], [], [], seconds)
        for process in [process for process in self.busy if process.stdout in ready]:
            chunk, line = self.busy.pop(process), process.stdout.readline()
            reply = json.loads(line) if line else {"status": "lost", "problem": "killed"}
            if not line:
                self.lost.append(chunk)
                self._end(process)
            elif reply["status"] == "refused":
                self.warn(f"refused: {reply['problem']}")
                self._end(process)
            else:
                self.idle.append(process)
            if chunk is not None:
                self.done.append((chunk, reply["status"]))
                ended.append((chunk, reply))
        return ended

    def close(self):
        for process in [*self.idle, *self.busy]:
            self._end(process)

    def _end(self, process):
        process.kill()
        process.communicate()
