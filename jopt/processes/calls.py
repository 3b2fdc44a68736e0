"""What the processes of a run do together, on the host: no device takes part."""

import contextlib
import secrets
import time
from collections.abc import Iterator
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
    if differing and all(isinstance(other, dict) for other in values):
        # Of an object only what differs, by its path.
        leaves = [dict(_leaves(other)) for other in values]
        names = {
            path for part in leaves for path in part if any(o.get(path) != leaves[0].get(path) for o in leaves)
        }
        values = [{path: part.get(path) for path in sorted(names)} for part in leaves]
        differing = [(process, values[team.processes.index(process)]) for process, _ in differing]
    if differing:
        texts = [f"{process} has {other!r}" for process, other in differing[:3]]
        more = f", and {len(differing) - 3} others differ" if len(differing) > 3 else ""
        raise ProcessError(
            name,
            f"is not the same in all processes: {team.processes[0]} has {values[0]!r}, {', '.join(texts)}{more}",
        )


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a value of JSON, by path, such as ('stages[0].name', 'train')."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _leaves(part, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for i, part in enumerate(value):
            yield from _leaves(part, f"{path}[{i}]")
    else:
        yield path, value


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
