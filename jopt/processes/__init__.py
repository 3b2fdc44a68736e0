"""A run over several processes: how they start, agree and end. With one process all of it does nothing.

    with processes.start("10.0.0.1:1234", num_processes=2, process_id=0):
        train.run(config, directory)

Process 0, the primary, listens at one port. Every other process keeps one connection to it, over which they agree
on values (no device takes part) and notice each other's death; JAX's coordination service uses the same port. A
process that dies ends the others with one line and status 75 (`LOST`), within seconds: the same command goes on
from the last checkpoint. One that ends with an error ends the others with its line and status.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any, TypeVar

from jopt.processes.errors import ProcessError as ProcessError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from jopt.processes.team import Team

T = TypeVar("T")

LOST = os.EX_TEMPFAIL
"""Exit status, 75, of a process whose peer died: the same command goes on."""

_team: Team | None = None


def describe(error: BaseException) -> tuple[str, int]:
    """The line and the exit status of an error, as Python gives them.

    Example:
      >>> describe(ValueError("no"))
      ('ValueError: no', 1)
      >>> describe(SystemExit(3))
      ('SystemExit: 3', 3)
    """
    status = (error.code if isinstance(error.code, int) else 1) if isinstance(error, SystemExit) else 1
    return " ".join(f"{type(error).__name__}: {error}".split()), status


@contextlib.contextmanager
def start(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    timeout: float = 45.0,
    limit: float = 30.0,
    describe: Callable[[BaseException], tuple[str, int]] = describe,
    together: tuple[type[BaseException], ...] = (),
) -> Iterator[None]:
    """Within the context this process is one of several, whose devices are one backend of JAX.

    Without arguments SLURM, Open MPI, mpi4py, a TPU pod or Kubernetes is asked; where none of them has started
    several processes, there is one. To be entered before JAX's first computation.

    Args:
      coordinator: 'HOST:PORT' at which process 0 listens, as the others reach it.
      num_processes: of the run; 1 asks no cluster.
      process_id: of this one, from 0.
      timeout: seconds within which all processes must come.
      limit: seconds after which a process that does not answer counts as dead.
      describe: `error -> (line, exit status)` of an error that leaves the context, for the other processes.
      together: errors that leave the context in all processes, as when they agreed to stop.

    Raises:
      ConfigError: if a value is not accepted, or process 0 cannot listen.
      ProcessError: if the processes do not meet or do not fit together, or this one is one of several already.
    """
    global _team
    from jopt.processes.layout import resolve

    if _team is not None:
        raise ProcessError("processes", f"are started already: this is {_team.this}")
    if (layout := resolve(coordinator, num_processes, process_id)) is None:
        yield
        return
    from jopt.processes import distributed
    from jopt.processes.member import Member
    from jopt.processes.primary import Primary

    team = (Member if layout.index else Primary)(layout, limit)
    team.open(timeout)
    agreed = None
    try:
        _team = team
        try:
            distributed.connect(team, timeout)
            yield
        except together as error:
            agreed = error
        _finish(team)
    except BaseException as error:
        if _is_broken(error):
            team.wait_for_verdict()
        line, status = describe(error)
        team.fail(line, status)
        # At its end Python would wait for JAX's client, and that for processes that end as well.
        atexit.register(exit_now, status)
        raise
    finally:
        _team = None
    if agreed is not None:
        raise agreed


def count() -> int:
    """How many processes the run has."""
    return 1 if _team is None else _team.layout.count


def index() -> int:
    """Which of them this is, from 0."""
    return 0 if _team is None else _team.layout.index


def is_primary() -> bool:
    """Whether this process writes the files of the run."""
    return index() == 0


def gather(name: str, value: T, timeout: float | None = None) -> list[T]:
    """The values of all processes, by index.

    Like all calls below, to be made by all processes in the same order.

    Args:
      name: what it is about, for errors.
      value: of JSON: a tuple comes back as a list.
      timeout: in seconds; None waits as long as all processes live.

    Raises:
      ProcessError: in all processes, if one is at another call, or does not come in time.

    Example:
      >>> gather("rows", 3)
      [3]
    """
    return [value] if _team is None else _team.gather(name, value, timeout)


def barrier(name: str, timeout: float | None = None) -> None:
    """Waits until all processes have come here."""
    gather(name, None, timeout)


def agree(value: T, name: str = "agree") -> T:
    """The primary's value; what the others give is not sent.

    Example:
      >>> agree("runs/a")
      'runs/a'
    """
    return value if _team is None else _team.gather(name, value if is_primary() else None)[0]


def any_of(value: bool, name: str = "any") -> bool:
    """Whether the value is true in any process.

    Example:
      >>> any_of(False)
      False
    """
    return any(gather(name, bool(value)))


def same(name: str, value: Any) -> None:
    """Raises `ProcessError`, naming the processes that differ, unless all have the same value (of JSON)."""
    if _team is not None:
        from jopt.processes.calls import check_same

        check_same(_team, name, value)


def shared(directory: Path) -> None:
    """Raises `ProcessError` unless all processes see the same directory, which exists for the primary."""
    if _team is not None:
        from jopt.processes.calls import check_shared

        check_shared(_team, directory)


@contextlib.contextmanager
def primary_first(name: str) -> Iterator[None]:
    """The primary runs the body of the context, and then all others do."""
    if not is_primary():
        barrier(name)
    yield
    if is_primary():
        barrier(name)


def _finish(team: Team) -> None:
    """Leaves JAX's service and the team together with all others."""
    from jopt.processes import distributed

    team.gather("the end", None)
    distributed.disconnect()
    team.gather("the end of JAX", None)
    team.finish()


def _is_broken(error: BaseException) -> bool:
    """Whether an error may come of another process's death, of which the watching thread will hear as well."""
    words = ("gloo", "nccl", "connection", "socket", "coordination", "unavailable", "deadline", "aborted")
    text = str(error).lower()
    # JAX raises the runtime's own errors, and those of gloo, with several types.
    return isinstance(error, RuntimeError | ValueError) and any(word in text for word in words)


def exit_now(status: int) -> None:
    """Ends this process without the ends of libraries, which may wait for processes that are gone."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(status)
