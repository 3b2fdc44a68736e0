"""Paths as users write them, and the directory of what jopt can make again."""

import os
import re
from pathlib import Path

from jopt.config import ConfigError

_LIKE_URL = re.compile(r"[A-Za-z][\w+.:-]+:/")


def expanded(path: str | os.PathLike[str], field: str = "path") -> Path:
    """The path with a leading `~` or `~user` replaced by that home directory.

    Shells do so only at the start of a word, and so neither in `--workdir=~/a` nor in a config.

    Args:
      path: as a flag, a config or a caller gives it.
      field: its name, for the error.

    Raises:
      ConfigError: if the system does not know that home directory, or the path looks like a URL: a local directory
        of such a name would be a mistake.

    Example:
      >>> expanded("~/runs/a") == Path.home() / "runs/a", expanded("runs/~a").as_posix()
      (True, 'runs/~a')
    """
    text = os.fspath(path)
    if isinstance(text, str) and _LIKE_URL.match(text):
        accepted = (
            f"a local path (./{text} names one; the URL of a directory, where one is taken, begins PROTOCOL://)"
        )
        raise ConfigError(field, text, accepted)
    plain = Path(path)
    # `./~` is a file of that name, and a path drops the `./`.
    if not os.fspath(path).startswith("~"):
        return plain.absolute() if str(plain).startswith("~") else plain
    try:
        return plain.expanduser()
    except RuntimeError as error:
        raise ConfigError(field, os.fspath(path), "a path without ~: there is no such home directory") from error


def cache(name: str) -> Path | None:
    """`~/.cache/jopt/NAME`; None for a user without a home directory, as in some containers."""
    try:
        return Path.home() / ".cache" / "jopt" / name
    except RuntimeError:
        return None
