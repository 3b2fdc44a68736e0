"""A remote directory that a job works in: owned by one process, mirrored to a local directory."""

import contextlib
import dataclasses
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

import jax

from jopt.committed import listening
from jopt.files import make_directory
from jopt.remote import commits, lease
from jopt.remote.commits import Commit
from jopt.remote.errors import InUseError, RemoteError
from jopt.remote.mirror import Mirror, download
from jopt.remote.names import INTERNAL, listed
from jopt.remote.staging import Staging
from jopt.remote.store import Store
from jopt.report import SILENT, Careful, Observer

_NOT_EXCLUSIVE = (
    "its store does not refuse to replace an object that must be new, so two machines that start at the same "
    "moment may both work there: start one at a time"
)


@contextlib.contextmanager
def opened(url: str, observer: Observer = SILENT) -> Iterator[Path]:
    """A local directory with the files of a remote one; what a job commits in it is uploaded.

    At the end, and after an error of the job too, all files are uploaded before this returns.

    Args:
      url: of the remote directory, which need not exist; its bucket must.
      observer: is told what is downloaded and uploaded.

    Yields:
      The local directory.

    Raises:
      ConfigError: if the URL cannot be one of a directory.
      InUseError: if another process uses it.
      RemoteError: if it cannot be read or written, or has names that lead out of it.
    """
    if jax.distributed.is_initialized() and jax.process_count() > 1:
        raise RemoteError(url, "several processes cannot share it yet; give a directory on a disk that they share")
    store, observer = Store(url), Careful(observer)
    staging = Staging(store.url)
    with staging.locked():
        previous = commits.latest(store)
        owners, contents = staging.state()
        if previous.owner is not None and previous.owner not in owners:
            observer.note(f"{store.url}: waiting whether its last owner, on {previous.host!r}, is alive")
            lease.await_death(store, previous)
        owned, is_current = _take(store, staging, previous, owners, contents)
        heartbeat = lease.Heartbeat(store, str(owned.owner))
        try:
            if not commits.probe(store, owned):
                observer.warn(f"{store.url}: {_NOT_EXCLUSIVE}")
            count = 0 if is_current else download(store, owned, staging.directory)
            mirror = Mirror(store, staging.directory, owned, lambda content: _before(staging, mirror, content))
            mirror.learn_digests()
            staging.record([str(owned.owner)], [owned.content])
            mirror.sweep()
            observer.note(f"{store.url} is mirrored in {staging.directory}; {count:,} bytes were downloaded")
            with _ending(mirror, heartbeat, staging):
                yield staging.directory
        finally:
            heartbeat.close()
        observer.note(f"{store.url}: {store.uploaded:,} bytes were uploaded in {mirror.count} commits")


def _take(
    store: Store, staging: Staging, previous: Commit, owners: list[str], contents: list[str]
) -> tuple[Commit, bool]:
    """Makes this process the owner: its commit, and whether the local files go on from it."""
    name = commits.new_name()
    is_current = previous.content in contents
    # Before the commit: a kill in between must not make the local files look like those of somebody else.
    staging.record([*owners, name], contents if is_current else [])
    owned = dataclasses.replace(
        previous,
        number=previous.number + 1,
        content=previous.content or commits.new_name(),
        owner=name,
        host=platform.node(),
    )
    if not commits.publish(store, owned):
        raise InUseError(store.url, "another process has just begun to use it; end that, or give another directory")
    return owned, is_current


def _before(staging: Staging, mirror: Mirror, content: str) -> None:
    """Records that the local files are those of a commit that is about to be written."""
    staging.record([str(mirror.commit.owner)], [mirror.commit.content, content])


@contextlib.contextmanager
def _ending(mirror: Mirror, heartbeat: lease.Heartbeat, staging: Staging) -> Iterator[None]:
    """Uploads at each commit of the job and at its end; an error of the job is not hidden by one of the upload."""
    try:
        with listening(mirror.directory, mirror.follow):
            yield
    except BaseException as error:
        # Else the store has failed, or is another's by now.
        if not (isinstance(error, RemoteError) and error.url == mirror.store.url):
            with contextlib.suppress(RemoteError):
                _release(mirror, heartbeat, staging)
        raise
    _release(mirror, heartbeat, staging)


def _release(mirror: Mirror, heartbeat: lease.Heartbeat, staging: Staging) -> None:
    if mirror.commit.files or listed(mirror.directory):
        mirror.upload(release=True)
        heartbeat.close()
        lease.clear(mirror.store)
        return
    # A job that was refused before it wrote anything leaves nothing behind.
    heartbeat.close()
    mirror.store.remove(name for name in mirror.store.sizes() if name.startswith(f"{INTERNAL}/"))
    shutil.rmtree(staging.directory)
    make_directory(staging.directory)
