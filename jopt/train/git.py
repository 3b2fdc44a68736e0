"""The state of the repository around the code: bounded in time and bytes, and nothing of the repository is run."""

import contextlib
import hashlib
import os
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

_SECONDS = 10.0
_CONTENT_BYTES = 4 * 2**20
"""Untracked files are hashed by content up to this total, the smallest first."""
_FILES = 10_000
"""Untracked files that are looked at, at most; of the others the names are hashed."""

# A repository may configure commands for all of these, and a file system monitor is one of them.
_INERT = (
    *("-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}", "-c", "diff.autoRefreshIndex=false"),
    "--no-pager",
)
# No lock that another git would wait for, and no fetch of what a partial clone lacks.
_ENVIRONMENT = {
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_ALLOW_PROTOCOL": "none",
    "GIT_TERMINAL_PROMPT": "0",
}


def git_state(directory: Path, leave_out: Path | None = None) -> dict[str, Any] | None:
    """The commit around `directory`, and a hash of what differs from it, untracked files included.

    Args:
      directory: a directory in a repository.
      leave_out: a directory whose untracked files do not count: a run's own.

    Returns:
      `commit`, `dirty`, `diff_hash`, and `by_size`: the number of untracked files of which only size and time are
      hashed, as they are too large or too many. `diff_hash` and `dirty` are None where git took too long. None
      outside of git.
    """
    end = time.monotonic() + _SECONDS
    try:
        top = Path(os.fsdecode(_git(directory, ("rev-parse", "--show-toplevel"), end).removesuffix(b"\n")))
        commit = _git(directory, ("rev-parse", "HEAD"), end).decode().strip()
    except (OSError, subprocess.SubprocessError):
        return None
    try:
        filters = _without_filters(top, end)
        # The full index line identifies a binary file by the hash of its content, without the content. Submodules
        # count by their commit: to look into one, git runs another git that is not given the flags above.
        command = ("diff", "HEAD", "--full-index", "--no-ext-diff", "--no-textconv", "--ignore-submodules=dirty")
        with _run(top, command, end, filters) as difference:
            hashed = hashlib.sha256()
            for block in iter(lambda: difference.read(2**20), b""):
                hashed.update(block)
            changed = difference.tell() > 0
        listed = _git(top, ("ls-files", "-z", "--others", "--exclude-standard"), end, filters)
    except (OSError, subprocess.SubprocessError):
        return {"commit": commit, "dirty": None, "diff_hash": None, "by_size": 0}
    # Untracked files count: an imported module that was never added is a common reason for other numbers.
    untracked = [top / os.fsdecode(name) for name in listed.split(b"\0") if name]
    if leave_out is not None:
        untracked = [path for path in untracked if not path.is_relative_to(leave_out.resolve())]
    by_size = _hash_untracked(hashed, top, untracked)
    return {
        "commit": commit,
        "dirty": changed or bool(untracked),
        "diff_hash": hashed.hexdigest(),
        "by_size": by_size,
    }


def _git(directory: Path, args: Sequence[str], end: float, config: Mapping[str, str] | None = None) -> bytes:
    with _run(directory, args, end, config or {}) as output:
        return output.read()


@contextlib.contextmanager
def _run(directory: Path, args: Sequence[str], end: float, config: Mapping[str, str]) -> Iterator[BinaryIO]:
    """The output of git, which is ended at the time `end` of the monotonic clock, as an open file."""
    # Not by `-c`, which cuts a name at its first `=`. Those that the environment has already are kept.
    text = os.environ.get("GIT_CONFIG_COUNT", "")
    # Of a text that is no number git would make an error, so that there would be no state.
    count = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0
    settings = {"GIT_CONFIG_COUNT": str(count + len(config))}
    for i, (name, value) in enumerate(config.items(), count):
        settings |= {f"GIT_CONFIG_KEY_{i}": name, f"GIT_CONFIG_VALUE_{i}": value}
    # To a file and not to a pipe: what differs from a commit may be larger than the memory.
    with tempfile.TemporaryFile() as output:
        subprocess.run(
            ["git", *_INERT, *args],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **_ENVIRONMENT, **settings},
            check=True,
            timeout=max(0.1, end - time.monotonic()),
        )
        output.seek(0)
        yield output


def _without_filters(top: Path, end: float) -> dict[str, str]:
    """Settings that switch off the content filters of the configuration, which are commands."""
    try:
        names = _git(top, ("config", "-z", "--name-only", "--get-regexp", r"^filter\."), end)
    except subprocess.CalledProcessError:
        # The exit status of git where no name matches.
        return {}
    drivers = {os.fsdecode(name).rpartition(".")[0] for name in names.split(b"\0") if name}
    # An empty command is none; without `required` the lack of one is no error.
    values = {"clean": "", "smudge": "", "process": "", "required": "false"}
    return {f"{driver}.{name}": value for driver in sorted(drivers) for name, value in values.items()}


def _hash_untracked(hashed: "hashlib._Hash", top: Path, paths: Sequence[Path]) -> int:
    """Adds files to a hash; returns of how many the content was left out."""
    room, by_size = _CONTENT_BYTES, 0
    files = {path: _stat(path) for path in paths[:_FILES]}
    # The smallest first, as modules are small and data are large. By the name too, so that the order is one.
    for path, (size, modified) in sorted(files.items(), key=lambda item: (item[1][0], item[0])):
        hashed.update(os.fsencode(path.relative_to(top)) + b"\0")
        room -= size
        if room >= 0:
            hashed.update(_content_hash(path))
        else:
            by_size += 1
            hashed.update(f"{size} {modified}\0".encode())
    for path in paths[_FILES:]:
        hashed.update(os.fsencode(path.relative_to(top)) + b"\0")
    return by_size + len(paths[_FILES:])


def _stat(path: Path) -> tuple[int, int]:
    """Size and time of a regular file; zeros of anything else, or if it is gone."""
    try:
        status = path.lstat()
    except OSError:
        return 0, 0
    return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else (0, 0)


def _content_hash(path: Path) -> bytes:
    """SHA-256 of a file, or of where a link points; of nothing, if it is gone or is of another kind."""
    try:
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            return hashlib.sha256(os.fsencode(path.readlink())).digest()
        # To open a pipe would wait for its other end.
        if not stat.S_ISREG(status.st_mode):
            return b""
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return b""
