"""Names of files in a remote directory: foreign ones are checked, and local ones are listed."""

import os
import re
import stat
from pathlib import Path

from jopt.remote.errors import RemoteError
from jopt.train.directory import LinkError

INTERNAL = ".jopt"
"""The folder of the remote directory that holds the commits; no file of a job lies there."""

_TEMPORARY = re.compile(r"\..+\.[0-9a-z_]{8}\.tmp|\.lock")
# What is being saved or removed has a name of its own (`jopt.train.checkpoint`), and is no part of a commit.
_UNFINISHED = re.compile(r"\d+(\.saving|\.removed|\.orbax-checkpoint-tmp).*")
_OF_CHECKPOINT = re.compile(r"(.*/)?checkpoints/\d+/.+")
_LONGEST, _DEEPEST = 1024, 64


def check_name(url: str, name: object) -> str:
    """A name from a listing or an index, if it stays inside of the directory that it is joined to.

    Raises:
      RemoteError: if it does not, or is no name that jopt would have written.

    Example:
      >>> check_name("gs://b/a", "checkpoints/40/notes")
      'checkpoints/40/notes'
      >>> check_name("gs://b/a", "../x")
      Traceback (most recent call last):
      ...
      jopt.remote.errors.RemoteError: gs://b/a: it holds the name '../x', which could lead out of a directory; ...
    """
    text = name if isinstance(name, str) else ""
    parts = text.split("/")
    # A backslash separates parts on other systems, and stores may treat it as a slash.
    harmless = text.isprintable() and "\\" not in text and len(text) <= _LONGEST and len(parts) <= _DEEPEST
    if not harmless or any(part in ("", ".", "..") for part in parts) or parts[0] == INTERNAL:
        problem = f"it holds the name {str(name)[:80]!r}, which could lead out of a directory; remove that object"
        raise RemoteError(url, problem)
    return text


def check_tree(url: str, names: set[str]) -> None:
    """Raises RemoteError if a name is both a file and a folder: object stores allow it, and directories do not."""
    for name in names:
        if clash := next((str(parent) for parent in Path(name).parents if str(parent) in names), None):
            raise RemoteError(url, f"{clash!r} is both a file and a folder there; remove one of them")


def is_of_checkpoint(name: str) -> bool:
    """Whether a file belongs to a checkpoint, and so is of a job and of nobody else."""
    return _OF_CHECKPOINT.fullmatch(name) is not None


def listed(directory: Path) -> dict[str, os.stat_result]:
    """The files of a job by name, without those that are being written or removed.

    Raises:
      LinkError: if one is a link: what it leads to may be no part of the job.
    """
    files: dict[str, os.stat_result] = {}
    pending = [directory]
    while pending:
        folder = pending.pop()
        try:
            entries = list(os.scandir(folder))
        except FileNotFoundError:
            # Removed since it was listed, as an old checkpoint is.
            continue
        for entry in entries:
            if _TEMPORARY.fullmatch(entry.name) or _UNFINISHED.fullmatch(entry.name):
                continue
            path = Path(entry.path)
            if entry.is_symlink():
                raise LinkError(path)
            if entry.is_dir(follow_symlinks=False):
                pending.append(path)
                continue
            try:
                status = path.lstat()
            except FileNotFoundError:
                continue
            if stat.S_ISREG(status.st_mode):
                files[path.relative_to(directory).as_posix()] = status
    return files
