"""A model of a file system: what a kill, a torn write or a power failure leaves, from recorded operations.

A file has the bytes that programs read and those that its last fsync brought to the disk. A directory has the names
that programs see and those of its own last fsync. After a power failure only the latter are certain; of the former
any part may have reached the disk too.
"""

import copy
import os
import random
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePath
from typing import NamedTuple

# As in shim.c: operation, inode, length of both paths, offset, size of the data.
HEAD = struct.Struct("<QQQQqQ")


class Operation(NamedTuple):
    """A recorded operation.

    Attributes:
      kind: its letter in shim.c; '!' is an operation that failed as asked, and changed nothing.
      inode: of the file that it changed; of '!', the kind of the operation.
      path, other: relative to the directory; `other` is where a rename or a link leads to.
      offset: where a write begins, or the new length of a file.
      data: the bytes of a write.
    """

    kind: str
    inode: int
    path: PurePath
    other: PurePath
    offset: int = 0
    data: bytes = b""

    def __str__(self) -> str:
        if self.kind == "!":
            return str(self._replace(kind=chr(self.inode)))
        target = f" -> {self.other}" if self.kind in "rxl" and self.other.name else ""
        size = f" of {len(self.data)} bytes" if self.data else ""
        return f"{NAMES[self.kind]} {self.path}{target}{size}"


NAMES = {
    "c": "create",
    "t": "truncate",
    "w": "write",
    "s": "fsync",
    "r": "rename",
    "x": "exchange",
    "l": "link",
    "m": "mkdir",
    "u": "unlink",
    "d": "rmdir",
}


def read(log: Path, below: Path) -> list[Operation]:
    """The operations that shim.c recorded below a directory."""
    content, operations, at = log.read_bytes(), [], 0
    while at < len(content):
        kind, inode, length, other_length, offset, size = HEAD.unpack_from(content, at)
        at += HEAD.size
        paths = []
        for end in (at + length, at + length + other_length):
            path = os.path.normpath(os.fsdecode(content[at:end])) if end > at else str(below)
            paths.append(PurePath(os.path.relpath(path, below)))
            at = end
        operations.append(Operation(chr(kind), inode, paths[0], paths[1], offset, content[at : at + size]))
        at += size
    return operations


class File:
    """The bytes that programs read, and those that are certainly on the disk."""

    def __init__(self, content: bytes = b"", durable: bytes = b""):
        self.content, self.durable = bytearray(content), durable


class Folder:
    """The entries that programs see, and those that are certainly on the disk."""

    def __init__(self):
        self.entries: dict[str, File | Folder] = {}
        self.durable: dict[str, File | Folder] = {}


class Disk:
    """A directory, and what has reached the disk of it.

    Example:
      >>> disk = Disk()
      >>> name, temporary, nowhere = PurePath("a"), PurePath("a.tmp"), PurePath()
      >>> for operation in (
      ...     Operation("c", 7, temporary, nowhere),
      ...     Operation("w", 7, temporary, nowhere, 0, b"new"),
      ...     Operation("s", 7, temporary, nowhere),
      ...     Operation("r", 0, temporary, name),
      ... ):
      ...     disk.apply(operation)
      >>> disk.seen()
      {'a': b'new'}
      >>> disk.certain()  # No fsync of the directory.
      {}
    """

    def __init__(self):
        self.root = Folder()
        self.files: dict[int, File] = {}

    @classmethod
    def of(cls, directory: Path) -> "Disk":
        """What is in a real directory, all of it on the disk."""
        disk = cls()

        def load(path: Path, folder: Folder) -> None:
            for child in path.iterdir():
                if child.is_dir():
                    folder.entries[child.name] = inner = Folder()
                    load(child, inner)
                else:
                    file = File(child.read_bytes(), child.read_bytes())
                    folder.entries[child.name] = disk.files[child.stat().st_ino] = file
            folder.durable = dict(folder.entries)

        load(directory, disk.root)
        return disk

    def apply(self, operation: Operation) -> None:
        """Does the operation.

        Raises:
          KeyError, AssertionError: if it is on a file or in a directory that the operations before did not make.
        """
        kind, inode, path, other, offset, data = operation
        if kind == "c":
            self.files[inode] = self._folder(path).entries[path.name] = File()
        elif kind == "m":
            self._folder(path).entries[path.name] = Folder()
        elif kind in "ud":
            del self._folder(path).entries[path.name]
        elif kind == "r":
            self._folder(other).entries[other.name] = self._folder(path).entries.pop(path.name)
        elif kind == "l":
            self._folder(other).entries[other.name] = self._folder(path).entries[path.name]
        elif kind == "x":
            here, there = self._folder(path).entries, self._folder(other).entries
            here[path.name], there[other.name] = there[other.name], here[path.name]
        elif kind == "!":
            return
        elif kind == "s" and isinstance(folder := self._entry(path), Folder):
            folder.durable = dict(folder.entries)
        else:
            self._change(self.files[inode], kind, offset, data)

    def _change(self, file: File, kind: str, offset: int, data: bytes) -> None:
        if kind == "s":
            file.durable = bytes(file.content)
        elif kind == "t":
            file.content = file.content[:offset].ljust(offset, b"\0")
        else:
            file.content = file.content.ljust(offset, b"\0")
            file.content[offset : offset + len(data)] = data

    def _folder(self, path: PurePath) -> Folder:
        folder = self._entry(path.parent)
        assert isinstance(folder, Folder), path
        return folder

    def _entry(self, path: PurePath) -> "File | Folder | None":
        # By its path: an inode of a removed file may have become that of a directory.
        entry: File | Folder | None = self.root
        for name in path.parts:
            entry = entry.entries.get(name) if isinstance(entry, Folder) else None
        return entry

    def seen(self) -> dict[str, bytes | None]:
        """Path to content of all that programs see: what a kill leaves. Directories have the content None."""
        return dict(_walk(self.root, lambda folder: folder.entries, lambda file: bytes(file.content)))

    def certain(self) -> dict[str, bytes | None]:
        """What is left of it if nothing reached the disk that was not brought there."""
        return dict(_walk(self.root, lambda folder: folder.durable, lambda file: file.durable))

    def emptied(self) -> dict[str, bytes | None]:
        """What is left if all names reached the disk but no bytes did: a journal of names alone is common."""
        return dict(_walk(self.root, lambda folder: folder.entries, lambda file: file.durable))

    def partial(self, seed: int) -> dict[str, bytes | None]:
        """What is left if a random part reached the disk: of each name and file the old, the new or zeros."""
        rng = random.Random(seed)

        def entries(folder: Folder) -> dict[str, File | Folder]:
            chosen = {}
            for name in sorted({**folder.durable, **folder.entries}):
                source = folder.entries if rng.random() < 0.5 else folder.durable
                if name in source:
                    chosen[name] = source[name]
            return chosen

        def content(file: File) -> bytes:
            # The length can reach the disk before the bytes; SQLite's crash tests write garbage there.
            zeros = file.durable.ljust(len(file.content), b"\0")[: len(file.content)]
            return rng.choice((bytes(file.content), file.durable, zeros))

        return dict(_walk(self.root, entries, content))


def _walk(
    folder: Folder,
    entries: Callable[[Folder], dict[str, File | Folder]],
    content: Callable[[File], bytes],
    path: str = "",
) -> Iterator[tuple[str, bytes | None]]:
    for name, child in sorted(entries(folder).items()):
        if isinstance(child, Folder):
            yield path + name, None
            yield from _walk(child, entries, content, f"{path}{name}/")
        else:
            yield path + name, content(child)


def torn(operations: list[Operation], number: int) -> Iterator[Operation]:
    """The operations before the one of this number, and half of it if it is a write."""
    yield from operations[:number]
    last = operations[number]
    if last.kind == "w":
        yield last._replace(data=last.data[: len(last.data) // 2])


def replayed(start: Disk, operations: Iterable[Operation]) -> Disk:
    """The disk after the operations; `start` stays as it is."""
    disk = copy.deepcopy(start)
    for operation in operations:
        disk.apply(operation)
    return disk


def write(tree: dict[str, bytes | None], directory: Path) -> None:
    """Makes the directory, which must not exist, with this content."""
    directory.mkdir(parents=True)
    for name, content in tree.items():
        if content is None:
            (directory / name).mkdir()
        else:
            (directory / name).write_bytes(content)


def tree(directory: Path) -> dict[str, bytes | None]:
    """The content of a real directory, as `Disk.seen` has it."""
    return {
        path.relative_to(directory).as_posix(): None if path.is_dir() else path.read_bytes()
        for path in sorted(directory.rglob("*"))
    }
