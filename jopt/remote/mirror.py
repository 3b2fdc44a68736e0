"""A local directory and its remote one: downloads what was committed there, and commits what is here."""

import contextlib
import dataclasses
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from jopt.files import make_directory
from jopt.remote import commits
from jopt.remote.commits import STORED, Commit, File
from jopt.remote.errors import InUseError, RemoteError
from jopt.remote.names import check_name, is_of_checkpoint, listed
from jopt.remote.store import Store

T = TypeVar("T")
R = TypeVar("R")

PAUSE = 4.0
"""Times the duration of an upload in which commits of the job are not followed; the next one takes them along."""

_IN_MEMORY = 64 * 2**20  # A larger file is sent from the disk.
_AT_ONCE = 4
_ATTEMPTS = 5
# For those who copy the objects without the commits. A resume needs no order, as a commit is one object.
_LAST = ("commit_success.txt", "result.json")


def download(
    store: Store, commit: Commit, directory: Path, is_selected: Callable[[str], bool] = lambda name: True
) -> int:
    """Makes a local directory equal to a commit; only what differs is downloaded, and what it lacks is removed.

    Args:
      store: the remote directory.
      commit: of it.
      directory: which nobody else uses.
      is_selected: which files to have; the others are removed too.

    Returns:
      The number of bytes that were downloaded.

    Raises:
      RemoteError: if an object is not what the commit says, or the disk is too small.
    """
    files = {name: file for name, file in commit.files.items() if is_selected(name)}
    for name in listed(directory).keys() - files.keys():
        (directory / name).unlink()
    _remove_empty(directory)
    missing = {name: file for name, file in files.items() if not _has(directory / name, file)}
    total = sum(file.size for file in missing.values())
    if total > (free := shutil.disk_usage(directory).free):
        raise RemoteError(store.url, f"{total:,} bytes are to be downloaded, and {directory} has room for {free:,}")
    for folder in {(directory / name).parent for name in missing}:
        make_directory(folder)

    def fetch(item: tuple[str, File]) -> None:
        name, file = item
        temporary = (directory / name).with_name(f".{hashlib.sha256(name.encode()).hexdigest()[:16]}.00000000.tmp")
        exists = store.fetch(file.key(name), temporary)
        if not exists or temporary.stat().st_size != file.size or file.sha256 not in (None, _digest(temporary)):
            problem = "absent" if not exists else "not the one that was committed"
            raise RemoteError(store.url, f"its object {file.key(name)} is {problem}; restore it from a copy")
        if file.mtime_ns:
            os.utime(temporary, ns=(file.mtime_ns, file.mtime_ns))
        temporary.replace(directory / name)

    _at_once(fetch, missing.items())
    return total


class Mirror:
    """The local directory of a job and its remote one, which this process owns.

    Attributes:
      commit: the last one of the remote directory.
      count: of commits that changed files.
    """

    def __init__(self, store: Store, directory: Path, owned: Commit, before: Callable[[str], None]):
        """Begins with a commit of which this process is the owner.

        Args:
          store: the remote directory.
          directory: the local one.
          owned: the last commit.
          before: called with the content of a commit before that is written.
        """
        self.store, self.directory, self.commit, self._before = store, directory, owned, before
        self.count = 0
        self._lock = threading.RLock()
        # What was hashed: a file of the same size, time and inode has the same digest.
        self._digests: dict[str, tuple[tuple[int, ...], str]] = {}
        self._garbage: set[str] = set()
        self._next = 0.0

    def learn_digests(self) -> None:
        """Takes the digests of files that were copied to the store without commits from what was downloaded."""
        files = {
            name: file if file.sha256 else dataclasses.replace(file, sha256=_digest(self.directory / name))
            for name, file in self.commit.files.items()
        }
        self.commit = dataclasses.replace(self.commit, files=files)

    def sweep(self) -> None:
        """Removes objects that an upload left which never became a commit. Only after a commit of this owner."""
        for name in self.store.sizes():
            stored = name.removeprefix(f"{STORED}/")
            is_left = name not in self.commit.files and is_of_checkpoint(name)
            if is_left or (stored != name and stored not in {file.stored for file in self.commit.files.values()}):
                self._garbage.add(name)
        self._clean()

    def follow(self) -> None:
        """Uploads what the job has just committed, unless uploads would take much of the job's time.

        Raises:
          InUseError, RemoteError: as `upload`.
        """
        with self._lock:
            # A grid of short chunks commits more often than a distant store answers.
            if time.monotonic() < self._next:
                return
            begun = time.monotonic()
            self.upload()
            self._next = time.monotonic() + PAUSE * (time.monotonic() - begun)

    def upload(self, *, release: bool = False) -> None:
        """Commits the files as they are now, if they differ from the last commit.

        Args:
          release: end the ownership with this commit.

        Raises:
          InUseError: if another process has taken the directory over; nothing of it is changed.
          RemoteError: if the store fails. Both name the local directory, which has all files.
        """
        with self._lock:
            try:
                self._upload(release)
            except RemoteError as error:
                raise type(error)(error.url, error.problem, self.directory) from error

    def _upload(self, release: bool) -> None:
        for _ in range(_ATTEMPTS):
            if (files := self._send()) is not None:
                break
        else:
            # Other threads of the job write all the time; the next commit has what they have written.
            if not release:
                return
            raise RemoteError(self.store.url, "its files changed while they were uploaded")
        previous = self.commit
        same = files == dict(previous.files)
        if same and not release:
            return
        content = previous.content if same else commits.new_name()
        owner = None if release else previous.owner
        commit = dataclasses.replace(
            previous, number=previous.number + 1, content=content, owner=owner, files=files
        )
        self._before(content)
        if not commits.publish(self.store, commit):
            problem = "another process has taken it over; nothing of it was changed: end that process first"
            raise InUseError(self.store.url, problem)
        self.commit = commit
        self.count += not same
        self._publish_names(previous)
        self._garbage |= {file.key(name) for name, file in previous.files.items()}
        self._clean()

    def _send(self) -> dict[str, File] | None:
        """Uploads what is new; the files of the commit, or None if one was removed meanwhile."""
        statuses = listed(self.directory)
        # Names that were written while the folders were read could be later than names that were missed.
        if listed(self.directory).keys() != statuses.keys():
            return None
        for name in statuses:
            check_name(self.store.url, name)
        try:
            early = [name for name in statuses if Path(name).name not in _LAST]
            files = dict(_at_once(lambda name: (name, self._sent(name, statuses[name])), early))
            for last in _LAST:
                late = [name for name in statuses if Path(name).name == last]
                files |= dict(_at_once(lambda name: (name, self._sent(name, statuses[name])), late))
        except FileNotFoundError:
            return None
        return files if statuses.keys() <= listed(self.directory).keys() else None

    def _sent(self, name: str, status: os.stat_result) -> File:
        """A file as it is in the next commit, uploaded if it differs from the last one."""
        path, committed = self.directory / name, self.commit.files.get(name)
        mark = (status.st_size, status.st_mtime_ns, status.st_ino)
        content: bytes | Path = path
        if name in self._digests and self._digests[name][0] == mark:
            sha256, size = self._digests[name][1], status.st_size
        elif status.st_size <= _IN_MEMORY:
            # What is sent is what was hashed, also where rows are appended meanwhile.
            content = path.read_bytes()
            sha256, size = hashlib.sha256(content).hexdigest(), len(content)
        else:
            sha256, size = _digest(path), status.st_size
        self._digests[name] = (mark, sha256) if size == status.st_size else ((), sha256)
        if committed is not None and (committed.size, committed.sha256) == (size, sha256):
            return dataclasses.replace(committed, mtime_ns=max(status.st_mtime_ns, 0))
        # An object that a commit needs is never written again: a kill leaves the last commit as it was.
        self._garbage.add(name)
        if committed is None and self.store.create(name, content):
            return File(size, sha256, max(status.st_mtime_ns, 0))
        stored = commits.new_name()
        self._garbage.add(f"{STORED}/{stored}")
        self.store.create(f"{STORED}/{stored}", content)
        return File(size, sha256, max(status.st_mtime_ns, 0), stored)

    def _publish_names(self, previous: Commit) -> None:
        """Writes new versions under their own names too, for whoever reads the objects without the commits."""
        for name, file in self.commit.files.items():
            if file.stored is not None and file != previous.files.get(name):
                # The commit has it: a copy that fails costs no result, and a file may have changed since.
                with contextlib.suppress(RemoteError, FileNotFoundError):
                    self.store.put(name, self.directory / name)

    def _clean(self) -> None:
        """Removes objects that no commit needs any more."""
        needed = {file.key(name) for name, file in self.commit.files.items()} | self.commit.files.keys()
        # What cannot be removed now is found by the next owner.
        with contextlib.suppress(RemoteError):
            _at_once(lambda name: self.store.remove([name]), sorted(self._garbage - needed))
            self._garbage.clear()
            commits.forget_before(self.store, self.commit.number)


def _has(path: Path, file: File) -> bool:
    """Whether a local file is the one of a commit."""
    return path.is_file() and path.stat().st_size == file.size and _digest(path) == file.sha256


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _at_once(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """The results of a function for all items, several at once; the first error after all have ended."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(function, items))


def _remove_empty(directory: Path) -> None:
    """Removes folders without files below a directory."""
    for folder, _, _ in os.walk(directory, topdown=False):
        if Path(folder) != directory:
            with contextlib.suppress(OSError):
                Path(folder).rmdir()
