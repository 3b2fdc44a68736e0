"""The local directory in which a job works for a remote one, and what it is a copy of."""

import contextlib
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence

from jopt.config import ConfigError
from jopt.files import make_directory, open_lock, write_json
from jopt.paths import cache, expanded
from jopt.remote.errors import InUseError

VARIABLE = "JOPT_STAGING_DIR"
"""The environment variable that names another place than `~/.cache/jopt/remote`."""


class Staging:
    """The files of one URL on this machine. Everything here can be downloaded again, except what a store refused.

    Attributes:
      directory: where the job works.
    """

    def __init__(self, url: str):
        """Sets names only.

        Raises:
          ConfigError: if there is no home directory, and the environment names no other place.
        """
        chosen = os.environ.get(VARIABLE)
        root = expanded(chosen, f"${VARIABLE}") if chosen else cache("remote")
        if root is None:
            raise ConfigError("workdir", url, f"a local path: there is no home directory; or set {VARIABLE}")
        # Readable for people, and one for each URL.
        words = re.sub(r"[^A-Za-z0-9._]+", "-", url)[-60:].strip("-.")
        self.url = url
        self.path = root.absolute() / f"{words}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
        self.directory = self.path / "directory"
        self._state = self.path / "state.json"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Makes the directory and holds it for this process.

        Raises:
          InUseError: if another process of this machine holds it.
        """
        make_directory(self.path.parent)
        # The results of a user are nobody else's.
        self.path.mkdir(mode=0o700, exist_ok=True)
        make_directory(self.directory)
        with os.fdopen(open_lock(self.path / ".lock"), "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise InUseError(self.url, "is in use by another process on this machine") from error
            yield

    def state(self) -> tuple[list[str], list[str]]:
        """The owners that it had, and the contents of commits that its files go on from; empty if unknown."""
        try:
            fields = json.loads(self._state.read_bytes())
            return [str(owner) for owner in fields["owners"]], [str(content) for content in fields["contents"]]
        except (OSError, ValueError, KeyError, TypeError):
            return [], []

    def record(self, owners: Sequence[str], contents: Sequence[str]) -> None:
        """Writes what `state` gives. Without contents the files are no copy of a commit."""
        write_json(self._state, {"url": self.url, "owners": list(owners), "contents": list(contents)})
