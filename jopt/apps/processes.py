"""Flags and streams of a command that several processes run together."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from absl import flags

from jopt import processes
from jopt.apps.signals import SavedAndStopped

if TYPE_CHECKING:
    from collections.abc import Iterator

_INTERRUPTED = 128 + 2
_LAST_SECONDS = 45.0


class ProcessFlags(NamedTuple):
    """The flags of `define_processes`."""

    coordinator: flags.FlagHolder[str | None]
    num_processes: flags.FlagHolder[int | None]
    process_id: flags.FlagHolder[int | None]
    timeout: flags.FlagHolder[float]


def define_processes(values: flags.FlagValues) -> ProcessFlags:
    """The flags of the apps that can run over several processes."""
    return ProcessFlags(
        flags.DEFINE_string(
            "coordinator",
            None,
            "HOST:PORT at which process 0 listens, as the other processes reach it. Without this and the next two, "
            "SLURM, Open MPI, mpi4py, a TPU pod or Kubernetes is asked.",
            flag_values=values,
        ),
        flags.DEFINE_integer(
            "num_processes", None, "Of the run; 1: alone, and no cluster is asked.", flag_values=values
        ),
        flags.DEFINE_integer(
            "process_id", None, "Number of this process, from 0, the primary.", flag_values=values
        ),
        flags.DEFINE_float(
            "processes_timeout",
            45.0,
            "Seconds within which all processes must have started; more where machines start one by one.",
            lower_bound=0.0,
            flag_values=values,
        ),
    )


@contextlib.contextmanager
def together(values: ProcessFlags) -> Iterator[None]:
    """Within the context this process is one of those that the flags, or the cluster, describe.

    The primary alone writes to standard output. Lines on standard error begin with the process, also after the
    context, where an error is printed.

    Raises:
      ConfigError: for flags that are not accepted.
      ProcessError: if the processes do not meet.
    """
    with processes.start(
        values.coordinator.value,
        values.num_processes.value,
        values.process_id.value,
        timeout=values.timeout.value,
        describe=_describe,
        together=(SavedAndStopped,),
    ):
        if processes.count() == 1:
            yield
            return
        sys.stderr = _Prefixed(sys.stderr, f"[process {processes.index()}] ")  # pyright: ignore[reportAttributeAccessIssue]
        try:
            with _own_output(processes.is_primary()):
                yield
        except BaseException as error:
            _end_within(_LAST_SECONDS, _describe(error)[1])
            raise


def _end_within(seconds: float, status: int) -> None:
    """Ends this process, unless it does so itself: a thread of a library may wait in a collective."""
    last = threading.Timer(seconds, processes.exit_now, (status,))
    last.daemon = True
    last.start()


def _describe(error: BaseException) -> tuple[str, int]:
    """The line and the status that `launch` gives the error."""
    from jopt.apps import failures

    if isinstance(error, KeyboardInterrupt):
        return "interrupted", _INTERRUPTED
    if isinstance(error, SavedAndStopped):
        return str(error), error.status
    if isinstance(error, Exception) and failures.is_expected(error):
        return failures.line(error), failures.status(error)
    return processes.describe(error)


@contextlib.contextmanager
def _own_output(shown: bool) -> Iterator[None]:
    """Within the context Python writes to standard output, or nothing does; libraries in C++ do not."""
    # Gloo reports each connection there.
    stdout = sys.stdout
    try:
        stdout.flush()
        original = os.dup(1)
    except (OSError, ValueError):
        # Closed.
        yield
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
    encoding, errors = getattr(stdout, "encoding", None), getattr(stdout, "errors", None)
    moved = os.fdopen(original if shown else os.dup(1), "w", encoding=encoding, errors=errors)
    sys.stdout = moved
    try:
        yield
    finally:
        sys.stdout = stdout
        with contextlib.suppress(OSError):
            moved.flush()
        os.dup2(original, 1)


class _Prefixed:
    """A text stream whose lines begin with a prefix, and are written whole."""

    def __init__(self, stream: TextIO, prefix: str):
        self._stream, self._prefix, self._line = stream, prefix, ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes the lines that are complete."""
        lines = (self._line + text).splitlines(keepends=True)
        self._line = lines.pop() if lines and not lines[-1].endswith(("\n", "\r")) else ""
        if lines:
            self._stream.write("".join(self._prefix + line for line in lines))
        return len(text)

    def flush(self) -> None:
        """Writes what is left of a line, and flushes the stream."""
        if self._line:
            self._stream.write(self._prefix + self._line)
            self._line = ""
        self._stream.flush()
