"""A directory that one kind of job owns: what it holds, its lock, its JSON files."""

import contextlib
import errno
import fcntl
import json
import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from jopt.committed import announce
from jopt.config import is_text, join_path, require
from jopt.files import make_directory, open_lock, sweep, unseal
from jopt.paths import expanded


class WorkdirError(RuntimeError):
    """A work directory cannot be used: another run's, in use, or not writable."""


class FieldError(WorkdirError):
    """A file that a job left lacks a field, or has it with a value of another type.

    Attributes:
      path: of the file.
      field: its name.
      value: what is there; None if nothing is.
    """

    def __init__(self, path: Path, field: str, value: object):
        problem = "is absent" if value is None else f"is {str(value)[:40]!r}"
        super().__init__(f"{path} is damaged, or of another version of jopt: its field {field!r} {problem}")
        self.path, self.field, self.value = path, field, value


def check_fields(path: Path, value: object, where: str = "", /, **types: type | tuple[type, ...]) -> None:
    """Raises FieldError unless a value in a file is an object with these fields, of these types.

    Args:
      path: of the file.
      value: what was read.
      where: its place in the file, such as `trials[0]`; '' is all of it.
      **types: accepted types by field.
    """
    fields = value if isinstance(value, dict) else {}
    for name, accepted in types.items():
        if not isinstance(fields.get(name), accepted):
            raise FieldError(path, join_path(where, name), fields.get(name))


def plain_differences(saved: object, current: object, path: str = "") -> Iterator[tuple[str, object, object]]:
    """Where the JSON of a config differs from another one's: `(path, saved, current)`. Nothing is looked up.

    Fields that `saved` lacks are those of later versions, and are no difference.

    Example:
      >>> list(plain_differences({"seed": 0, "methods": ["a:B"]}, {"seed": 0, "methods": [], "pack": False}))
      [('methods', ['a:B'], [])]
    """
    if isinstance(saved, dict) and isinstance(current, dict):
        for name, value in saved.items():
            yield from plain_differences(value, current.get(name), join_path(path, name))
    elif isinstance(saved, list) and isinstance(current, list) and len(saved) == len(current):
        for i, (a, b) in enumerate(zip(saved, current, strict=True)):
            yield from plain_differences(a, b, f"{path}[{i}]")
    elif (type(saved), saved) != (type(current), current):
        yield path, saved, current


class LinkError(WorkdirError):
    """A file or directory of a job is a link, and may lead out of the job's directory.

    Attributes:
      path: the link.
    """

    def __init__(self, path: Path):
        self.path = path
        super().__init__(f"{path} is a link; nothing was changed: put the file or directory itself in its place")


def read_regular(path: Path) -> bytes:
    """The content of a regular file: a pipe would wait for its other end, and a device may never end.

    Raises:
      OSError: if it is anything else, or cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a number in JSON")
    return value


class Directory:
    """A directory that one kind of job owns. Making one reads and creates nothing.

    Class attributes:
      identity: the file that says what the directory holds; it is the first that is written.
      names: patterns of the further files and directories that a job writes.
    """

    identity: ClassVar[str] = "config.json"
    names: ClassVar[tuple[str, ...]] = (".lock", "manifest.json", "report.*")

    def __init__(self, path: str | os.PathLike[str]):
        # Orbax writes checkpoints, and takes paths as UTF-8.
        require(is_text(os.fspath(path)), "workdir", os.fspath(path), "a path that is UTF-8")
        self.path = expanded(path, "workdir")
        self.manifest = self.path / "manifest.json"
        self.report = self.path / "report.md"

    def begun(self) -> bool:
        """Whether a job of this kind was begun here; the directory may also be new or empty.

        Raises:
          WorkdirError: if it holds anything else.
        """
        if not self.path.exists():
            return False
        if not self.path.is_dir():
            raise WorkdirError(f"workdir {self.path} is not a directory")
        if (self.path / self.identity).exists():
            return True
        # Hidden files do not count, such as the lock of a process that is just starting or a `.gitignore`.
        if names := sorted(p.name for p in self.path.iterdir() if not p.name.startswith(".")):
            raise WorkdirError(
                f"workdir {self.path} holds {', '.join(names[:5])} but no {self.identity}; "
                "give an empty or a new directory"
            )
        return False

    def has_report(self) -> bool:
        """Whether both files of the report are there."""
        return all(path.is_file() for path in (self.path / "report.html", self.report))

    def load_json(self, path: Path, **types: type | tuple[type, ...]) -> dict[str, Any]:
        """A JSON object of the job, without its checksums.

        Args:
          path: of the file.
          **types: fields that it must have, and the types of their values.

        Raises:
          FieldError: if a field is absent or of another type.
          WorkdirError: if it is not there, not JSON, or was changed after it was written.
        """
        value = self.load_sealed(path)
        try:
            value = unseal(value)
        except ValueError as error:
            remedy = "restore it from a copy, or remove it and give the command of the job again"
            raise WorkdirError(f"{path}: {error}; {remedy}") from error
        check_fields(path, value, **types)
        return value

    def load_sealed(self, path: Path) -> dict[str, Any]:
        """A JSON object as it is in its file, with its checksums, which are not checked.

        Raises:
          WorkdirError: if it is not there, or not JSON.
        """
        try:
            # What is not finite could not be written again.
            value = json.loads(read_regular(path).decode(), parse_float=_finite, parse_constant=_finite)
        # Brackets that are nested too deeply.
        except (OSError, ValueError, RecursionError) as error:
            raise WorkdirError(f"{path} cannot be read: {error}") from error
        if not isinstance(value, dict):
            raise WorkdirError(f"{path} holds no JSON object")
        return value

    def make(self) -> None:
        """Creates the directory if it does not exist.

        Raises:
          WorkdirError: if it cannot be made.
        """
        try:
            make_directory(self.path)
        except OSError as error:
            raise WorkdirError(f"workdir {self.path} cannot be written: {error}") from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the directory for this process; the lock ends with the process, however it ends.

        Temporary files that a kill left in it are removed.

        Raises:
          LinkError: if a file or directory of the job is a link; nothing is changed then.
          WorkdirError: if another process holds it, it was removed meanwhile, or it cannot be written.
        """
        try:
            self.refuse_links()
            descriptor = open_lock(self.path / ".lock")
        except OSError as error:
            raise WorkdirError(f"workdir {self.path} cannot be written: {error}") from error
        # A lock on an open file and not a file with a process id: the kernel releases it even after a SIGKILL.
        with os.fdopen(descriptor, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise WorkdirError(f"workdir {self.path} is in use by another process") from error
            # The lock is of a file and not of a path, which may name another directory by now.
            if not _same_file(self.path / ".lock", descriptor):
                raise WorkdirError(f"workdir {self.path} was removed or replaced while it was being opened")
            sweep(self.path)
            yield
            announce(self.path)

    def refuse_links(self) -> None:
        """Raises LinkError where a name of the job is a link, through which files outside would be changed.

        The directory itself may be one: its user chose it.
        """
        pending = [path for pattern in (self.identity, *self.names) for path in self.path.glob(pattern)]
        # No recursion, as a directory from somebody else may be nested more deeply than Python's stack.
        while pending:
            path = pending.pop()
            if path.is_symlink():
                raise LinkError(path)
            if path.is_dir():
                pending += path.iterdir()


def _same_file(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except OSError:
        return False
