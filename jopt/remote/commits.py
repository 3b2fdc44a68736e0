"""The commits of a remote directory: numbered lists of its files, each written once, of which the last one counts.

Object stores have no rename and no lock, but a new object appears completely or not at all, and one that must be
new is refused where it exists. So the list of all files is one object with the next number. Whoever creates it
first has committed, and every other process finds out that it has not.
"""

import dataclasses
import json
import secrets
from collections.abc import Mapping
from typing import Any

from jopt.files import seal, unseal
from jopt.remote.errors import RemoteError
from jopt.remote.names import INTERNAL, check_name, check_tree
from jopt.remote.store import Store

COMMITS = f"{INTERNAL}/commits"
STORED = f"{INTERNAL}/files"
_FORMAT = 1
_DIGITS = 8
_RETAINED = 2  # A reader may have just listed the one before the last.


@dataclasses.dataclass(frozen=True)
class File:
    """A file in a commit.

    Attributes:
      size: in bytes.
      sha256: of its content; None in a directory that was copied there without commits.
      mtime_ns: when it was last written: the order of chunks depends on it.
      stored: the name of its object below `.jopt/files`; None if that is the file's own.
    """

    size: int
    sha256: str | None
    mtime_ns: int
    stored: str | None = None

    def key(self, name: str) -> str:
        """The object that holds the content of the file `name`."""
        return name if self.stored is None else f"{STORED}/{self.stored}"


@dataclasses.dataclass(frozen=True)
class Commit:
    """What a remote directory holds.

    Attributes:
      number: of the commit; 0 is a directory without commits.
      content: changes with the files, and not with the owner alone.
      owner: the process that uses the directory; None is nobody.
      host: where that is, for messages.
      files: by name.
    """

    number: int
    content: str
    owner: str | None
    host: str
    files: Mapping[str, File]

    def name(self) -> str:
        """Of its object."""
        return f"{COMMITS}/{self.number:0{_DIGITS}d}.json"

    def encode(self) -> bytes:
        """Its object's content."""
        files = {name: list(dataclasses.astuple(file)) for name, file in sorted(self.files.items())}
        fields = {
            "format": _FORMAT,
            "content": self.content,
            "owner": self.owner,
            "host": self.host,
            "files": files,
        }
        return json.dumps(seal(fields)).encode()


def new_name() -> str:
    """A name that no other process gives."""
    return secrets.token_hex(16)


def latest(store: Store) -> Commit:
    """The last commit of a directory; without commits the objects themselves, as number 0.

    Raises:
      RemoteError: if a name would lead out of a directory, or the commit is damaged or of a later version.
    """
    numbers = _numbers(store)
    # Another process removes old ones: then there is a newer one.
    for number in reversed(numbers):
        content = store.read(f"{COMMITS}/{number:0{_DIGITS}d}.json")
        if content is not None:
            return _decode(store.url, number, content)
    if numbers:
        return latest(store)
    sizes = {name: size for name, size in store.sizes().items() if not name.startswith(f"{INTERNAL}/")}
    files = {check_name(store.url, name): File(size, None, 0) for name, size in sizes.items()}
    check_tree(store.url, set(files))
    return Commit(0, "", None, "", files)


def publish(store: Store, commit: Commit) -> bool:
    """Writes a commit, which then counts; False if another process has written one with its number."""
    content = commit.encode()
    # Where the store cannot refuse, a look before and one after find most of what happens at the same time.
    if not store.is_exclusive and store.read(commit.name()) is not None:
        return False
    # An answer may have been lost: then the first attempt has written it, and the second found it.
    is_written = store.create(commit.name(), content) or store.read(commit.name()) == content
    if not store.is_exclusive:
        is_written = store.read(commit.name()) == content
    # Old commits are removed, so an owner that was stalled for long may find its number free again.
    return is_written and _numbers(store)[-1] == commit.number


def probe(store: Store, commit: Commit) -> bool:
    """Finds out whether the store refuses to write the object of a commit, which was just written, as a new one."""
    # Not all that speak S3's protocol honour If-None-Match. The same bytes: nothing changes where it does not.
    store.is_exclusive = not store.create(commit.name(), commit.encode())
    return store.is_exclusive


def exist(store: Store) -> bool:
    """Whether a directory has commits."""
    return bool(_numbers(store))


def forget_before(store: Store, number: int) -> None:
    """Removes the commits long before the given one."""
    store.remove(f"{COMMITS}/{old:0{_DIGITS}d}.json" for old in _numbers(store) if old <= number - _RETAINED)


def _numbers(store: Store) -> list[int]:
    stems = [name.rpartition("/")[2].removesuffix(".json") for name in store.sizes(COMMITS)]
    return sorted(int(stem) for stem in stems if stem.isascii() and stem.isdecimal() and len(stem) == _DIGITS)


def _decode(url: str, number: int, content: bytes) -> Commit:
    try:
        fields = unseal(json.loads(content))
        if fields["format"] != _FORMAT:
            raise ValueError(f"its format is {fields['format']!r}")
        files = {check_name(url, name): _file(values) for name, values in fields["files"].items()}
        owner, text = fields["owner"], (fields["content"], fields["host"])
        if not (owner is None or isinstance(owner, str)) or not all(isinstance(value, str) for value in text):
            raise ValueError("its owner is no text")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        problem = f"its commit {number} is damaged, or of another version of jopt: {error}; restore it from a copy"
        raise RemoteError(url, problem) from error
    check_tree(url, set(files))
    return Commit(number, text[0], owner, text[1], files)


def _file(values: Any) -> File:
    size, sha256, mtime_ns, stored = values
    integers = all(type(value) is int and 0 <= value < 2**63 for value in (size, mtime_ns))
    digests = (sha256 is None or _is_hex(sha256, 64)) and (stored is None or _is_hex(stored, 32))
    if not integers or not digests:
        raise ValueError(f"a file is {str(values)[:80]}")
    return File(size, sha256, mtime_ns, stored)


def _is_hex(value: object, length: int) -> bool:
    return isinstance(value, str) and len(value) == length and not value.strip("0123456789abcdef")
