"""A remote directory as objects with names, through fsspec: what is asked again, and what each error means."""

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from jopt.config import ConfigError
from jopt.remote.errors import RemoteError, explain, is_final, lacking
from jopt.remote.urls import check_url

T = TypeVar("T")

PAUSES = (0.5, 2.0, 8.0)
"""Seconds before each further attempt of what a store did not answer; s3fs and gcsfs make several by themselves."""


class Store:
    """The objects below one URL.

    Attributes:
      url: of the directory.
      uploaded: bytes that were sent.
      is_exclusive: whether `create` refuses an object that exists also where two processes create it at once.
    """

    def __init__(self, url: str, field: str = "workdir"):
        """Connects nothing yet.

        Raises:
          ConfigError: if the URL is none, or no file system has its protocol.
          RemoteError: if the package of its protocol is absent, or there are no credentials.
        """
        import fsspec
        from fsspec.implementations.local import LocalFileSystem

        self.url = check_url(url, field)
        protocol = self.url.partition("://")[0]
        try:
            fsspec.get_filesystem_class(protocol)
        except ValueError as error:
            accepted = "a URL whose protocol fsspec has, such as gs://, s3:// or file://"
            raise ConfigError(field, url, accepted) from error
        except ImportError as error:
            raise RemoteError(self.url, lacking(protocol, error)) from error
        try:
            # What was listed before says nothing of what another machine has done since.
            self.files, self.root = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        except Exception as error:
            raise RemoteError(self.url, explain(error)) from error
        self.root = self.root.rstrip("/")
        self._is_local = isinstance(self.files, LocalFileSystem)
        self.uploaded, self.is_exclusive = 0, True

    def key(self, name: str) -> str:
        """The whole name of an object in its file system; '' is the directory."""
        return f"{self.root}/{name}" if name else self.root

    def ask(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Calls a function of the file system, again after a pause where the store gave no answer.

        Raises:
          FileExistsError, FileNotFoundError: as the function does.
          RemoteError: for any other error, and after the last attempt.
        """
        for pause in (*PAUSES, None):
            try:
                return function(*args, **kwargs)
            except (FileExistsError, FileNotFoundError, RemoteError):
                raise
            except Exception as error:
                if pause is None or is_final(error):
                    raise RemoteError(self.url, explain(error)) from error
                time.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    def sizes(self, folder: str = "") -> dict[str, int]:
        """The objects below a folder, by name; none if there is no such folder.

        Raises:
          RemoteError: if an object is a link, or the listing fails.
        """
        self.files.invalidate_cache()
        try:
            listing = self.ask(self.files.find, self.key(folder), detail=True)
        except FileNotFoundError:
            return {}
        prefix, objects = f"{self.root}/", {}
        for key, about in listing.items():
            # A folder that a console made is an object of no bytes, with a slash at its end.
            if not key.startswith(prefix) or key.endswith("/"):
                continue
            if about.get("islink"):
                raise RemoteError(self.url, f"{key[len(prefix) :]!r} is a link; put the file itself in its place")
            objects[key[len(prefix) :]] = int(about.get("size") or 0)
        return objects

    def read(self, name: str) -> bytes | None:
        """The content of an object; None if there is none."""
        try:
            return self.ask(self.files.cat_file, self.key(name))
        except FileNotFoundError:
            return None

    def fetch(self, name: str, target: Path) -> bool:
        """Downloads an object to a file; False if there is none."""
        try:
            self.ask(self.files.get_file, self.key(name), os.fspath(target))
        except FileNotFoundError:
            return False
        return True

    def create(self, name: str, content: bytes | Path) -> bool:
        """Writes an object that does not exist; False, and nothing is changed, if it does.

        Raises:
          RemoteError: if it cannot be written.
        """
        try:
            self._write(name, content, mode="create")
        except FileExistsError:
            return False
        return True

    def put(self, name: str, content: bytes | Path) -> None:
        """Writes an object, or a new version of it.

        Raises:
          RemoteError: if it cannot be written.
        """
        self._write(name, content, mode="overwrite")

    def remove(self, names: Iterable[str]) -> None:
        """Removes objects that may be gone already."""
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                self.ask(self.files.rm_file, self.key(name))

    def _write(self, name: str, content: bytes | Path, mode: str) -> None:
        key = self.key(name)
        try:
            if self._is_local:
                self.ask(_write_local, key, content, mode)
            elif isinstance(content, bytes):
                self.ask(self.files.pipe_file, key, content, mode=mode)
            else:
                self.ask(self.files.put_file, os.fspath(content), key, mode=mode)
        except FileNotFoundError as error:
            raise RemoteError(self.url, explain(error)) from error
        self.uploaded += len(content) if isinstance(content, bytes) else content.stat().st_size


def _write_local(key: str, content: bytes | Path, mode: str) -> None:
    """Writes a file of `file://` as an object store does: completely or not at all, and exclusively if asked."""
    from jopt.files import make_directory, sync, sync_directory

    target = Path(key)
    make_directory(target.parent)
    temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content if isinstance(content, bytes) else content.read_bytes())
            file.flush()
            sync(file.fileno())
        # A link fails where the name exists; a rename would replace it.
        if mode == "create":
            target.hardlink_to(temporary)
        else:
            temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(target.parent)
