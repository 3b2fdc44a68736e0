"""A copy of a remote directory or file, to read; nothing is locked or written there."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from jopt.remote import commits
from jopt.remote.commits import Commit, File
from jopt.remote.errors import RemoteError
from jopt.remote.mirror import download
from jopt.remote.store import Store

_ATTEMPTS = 3
_HIGHEST = 6  # How many folders above a URL may be the directory of its job.


@contextlib.contextmanager
def local_copy(
    url: str, is_selected: Callable[[str], bool] = lambda name: True, field: str = "workdir"
) -> Iterator[Path]:
    """A temporary copy of what a URL names, with the same last name.

    It is one commit of the directory, whole: its writer may go on meanwhile.

    Args:
      url: of a directory of a job, of a folder or of a file in one, or of objects without commits.
      is_selected: whether to download a file of the directory, by name.
      field: the flag or argument that the URL came from, for errors.

    Yields:
      The copy.

    Raises:
      ConfigError: if the URL is none.
      RemoteError: if nothing is there, or it cannot be read.
    """
    store = Store(url, field)
    with tempfile.TemporaryDirectory() as temporary:
        directory, inside = Path(temporary), ""
        for attempt in range(_ATTEMPTS):
            above, commit, inside = _located(store)
            names = {name for name in commit.files if _includes(name, inside, is_selected)}
            if not any(name == inside or name.startswith(f"{inside}/".lstrip("/")) for name in commit.files):
                raise RemoteError(store.url, "there is nothing; give the URL of a directory that a job has written")
            directory = Path(temporary, str(attempt), above.url.rpartition("/")[2])
            directory.mkdir(parents=True)
            try:
                download(above, commit, directory, names.__contains__)
                break
            except RemoteError:
                # The objects of an old commit are removed: that there is a newer one explains it.
                if attempt + 1 == _ATTEMPTS or _located(store)[1].number == commit.number:
                    raise
        yield directory / inside


def _includes(name: str, inside: str, is_selected: Callable[[str], bool]) -> bool:
    """Whether a file is what `inside` names, or is selected of the folder that it names."""
    folder = f"{inside}/".lstrip("/")
    return name == inside or (name.startswith(folder) and is_selected(name.removeprefix(folder)))


def _located(store: Store) -> tuple[Store, Commit, str]:
    """The directory that a URL is or lies in, its last commit, and where in it the URL is."""
    protocol, _, path = store.url.partition("://")
    root, parts = "/" * path.startswith("/"), path.strip("/").split("/")
    # The commits may be those of a directory above: a round of a search, a packed file.
    for length in range(len(parts), max(0, len(parts) - _HIGHEST), -1):
        above = Store(f"{protocol}://{root}{'/'.join(parts[:length])}")
        try:
            if commits.exist(above):
                return above, commits.latest(above), "/".join(parts[length:])
        except RemoteError:
            # Who may read a folder need not be allowed to list those above it.
            if length == len(parts):
                raise
    commit = commits.latest(store)
    if not commit.files and len(parts) > 1:
        above = Store(f"{protocol}://{root}{'/'.join(parts[:-1])}")
        if above.ask(above.files.isfile, store.root):
            size = int(above.ask(above.files.info, store.root)["size"])
            return above, Commit(0, "", None, "", {parts[-1]: File(size, None, 0)}), parts[-1]
    return store, commit, ""
