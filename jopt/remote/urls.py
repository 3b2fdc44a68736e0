"""URLs of remote directories, and the functions that take one in the place of a local directory."""

import functools
import os
import re
from collections.abc import Callable
from typing import Any, TypeVar, cast

from jopt.config import require

Job = TypeVar("Job", bound=Callable[..., Any])

_URL = re.compile(r"[a-z][a-z0-9+.-]+://")
_ACCEPTED = "PROTOCOL://PATH such as gs://bucket/runs/a, without empty parts, '.', '..' and passwords"


def is_url(path: str | os.PathLike[str]) -> bool:
    """Whether a path names a remote directory.

    Example:
      >>> is_url("gs://bucket/runs/a"), is_url("runs/a"), is_url("gs:/bucket/runs/a")
      (True, False, False)
    """
    return isinstance(path, str) and _URL.match(path) is not None


def check_url(url: str, field: str = "workdir") -> str:
    """The URL without slashes at its end.

    Raises:
      ConfigError: if it names no directory, or holds a password, which would be written into manifests.

    Example:
      >>> check_url("s3://bucket/runs/a/")
      's3://bucket/runs/a'
      >>> check_url("s3://bucket/../a")
      Traceback (most recent call last):
      ...
      jopt.config.ConfigError: workdir must be PROTOCOL://PATH such as gs://bucket/runs/a, ...
    """
    protocol, _, path = url.partition("://")
    # The path of `file:///runs/a` begins with a slash.
    parts = path.removeprefix("/").rstrip("/").split("/")
    passes = all(part not in ("", ".", "..") for part in parts) and url.isprintable()
    require(passes and not re.match(r"[^/]*:[^/]*@", path), field, url, _ACCEPTED)
    return f"{protocol}://{path.rstrip('/')}"


def accepts_url(job: Job) -> Job:
    """Lets `job(config, workdir, ...)` take a URL as `workdir`: it runs in a local directory that is mirrored.

    Only a call with a URL is changed by it. The mirror tells the job's `observer` what it downloads and uploads.
    """

    @functools.wraps(job)
    def mirrored(config: Any, workdir: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        if not is_url(workdir):
            return job(config, workdir, *args, **kwargs)
        from jopt.remote.opening import opened
        from jopt.report import SILENT

        with opened(cast(str, workdir), kwargs.get("observer", SILENT)) as directory:
            return job(config, directory, *args, **kwargs)

    return cast(Job, mirrored)
