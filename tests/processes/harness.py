"""Runs a script in several real processes. Nothing may hang the suite: what is left after a limit is killed."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
LIMIT_SECONDS = 60


class Ended(NamedTuple):
    """How a process ended: its exit status, and what it wrote. Negative: killed by that signal."""

    status: int
    stdout: str
    stderr: str


class Running:
    """A process, and the lines that it has written so far."""

    def __init__(self, command: list[str], environment: dict[str, str]):
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
            cwd=ROOT,
        )
        self.lines: list[str] = []
        self.stderr = ""
        self._readers = [threading.Thread(target=self._read_out), threading.Thread(target=self._read_error)]
        for reader in self._readers:
            reader.start()

    def _read_out(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(iter(self.process.stdout.readline, ""))

    def _read_error(self) -> None:
        assert self.process.stderr is not None
        self.stderr = self.process.stderr.read()

    def wait_for(self, word: str) -> None:
        """Waits for a line that holds the word."""
        until(lambda: any(word in line for line in self.lines) or self.process.poll() is not None)
        assert any(word in line for line in self.lines), self.stderr

    def signal(self, number: int) -> None:
        """Sends a signal."""
        os.kill(self.process.pid, number)

    def end(self, deadline: float) -> Ended:
        """Waits until it has ended; kills it after the deadline, which is a failure."""
        try:
            self.process.wait(max(0.1, deadline - time.monotonic()))
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            for reader in self._readers:
                reader.join()
            for stream in (self.process.stdout, self.process.stderr):
                assert stream is not None
                stream.close()
        return Ended(self.process.returncode, "".join(self.lines), self.stderr)


@contextlib.contextmanager
def started(script: Path, count: int, *arguments: str, **environment: str) -> Iterator[list[Running]]:
    """Processes of `script INDEX COUNT PORT ARGUMENTS`; those that are left at the end are killed."""
    port = free_port()
    variables = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        **environment,
    }
    commands = [
        [sys.executable, str(script), str(index), str(count), str(port), *arguments] for index in range(count)
    ]
    with side_by_side(commands, variables) as running:
        yield running


@contextlib.contextmanager
def side_by_side(commands: list[list[str]], environment: dict[str, str]) -> Iterator[list[Running]]:
    """A process of each command; those that are left at the end are killed."""
    running = [Running(command, environment) for command in commands]
    try:
        yield running
    finally:
        for one in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                one.end(0)


def ends(running: list[Running], limit: float = LIMIT_SECONDS) -> list[Ended]:
    """How all of them end, within a limit of seconds."""
    deadline = time.monotonic() + limit
    return [one.end(deadline) for one in running]


def until(happened: Callable[[], bool], limit: float = LIMIT_SECONDS) -> None:
    """Waits until something is true."""
    deadline = time.monotonic() + limit
    while not happened():
        assert time.monotonic() < deadline, "has not happened"
        time.sleep(0.01)


def free_port() -> int:
    """A port that nothing listens at, below those that the system gives to connections."""
    while True:
        port = random.randrange(12_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as tried:
            tried.bind(("127.0.0.1", port))
            return port
