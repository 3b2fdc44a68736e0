"""What the processes of a run do together, on the host: no device takes part."""

import contextlib
import secrets
import time
from pathlib import Path
from typing import Any

from jopt.processes.errors import ProcessError
from jopt.processes.team import Team

# Network file systems show a new file to other machines after some seconds.
_VISIBLE_SECONDS = 15.0


def check_same(team: Team, name: str, value: Any) -> None:
    """Raises `ProcessError` in all processes, naming those that differ, unless all have the same value."""
    values = team.gather(f"same {name}", value)
    differing = [
        (process, other) for process, other in zip(team.processes, values, strict=True) if other != values[0]
    ]
    if differing:
        texts = [f"{process} has {other!r}" for process, other in differing[:3]]
        more = f", and {len(differing) - 3} others differ" if len(differing) > 3 else ""
        raise ProcessError(
            name,
            f"is not the same in all processes: {team.processes[0]} has {values[0]!r}, {', '.join(texts)}{more}",
        )


def check_shared(team: Team, directory: Path, seconds: float = _VISIBLE_SECONDS) -> None:
    """Raises `ProcessError` in all processes unless they see the same directory.

    The primary writes a file that the others look for, for some seconds.
    """
    name, error = "", ""
    try:
        if team.this.index == 0:
            name = f".processes-{secrets.token_hex(8)}"
            try:
                (directory / name).touch()
            except OSError as failure:
                error = f"cannot be written by {team.this}: {failure.strerror}"
        sought, error = team.gather("a shared directory", (name, error))[0]
        seen = team.gather("sight of a shared directory", not error and _appears(directory, sought, seconds))
    finally:
        if name:
            with contextlib.suppress(OSError):
                (directory / name).unlink()
    if not error and not all(seen):
        blind = ", ".join(str(process) for process, sees in zip(team.processes, seen, strict=True) if not sees)
        error = f"is not shared: {blind} cannot see what {team.processes[0]} writes there"
    if error:
        raise ProcessError(str(directory), error)


def _appears(directory: Path, name: str, seconds: float) -> bool:
    """Whether a file comes into sight."""
    deadline = time.monotonic() + seconds
    while name not in _names(directory):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _names(directory: Path) -> list[str]:
    # Listed, as a client of NFS remembers that a name was absent.
    with contextlib.suppress(OSError):
        return [path.name for path in directory.iterdir()]
    return []
