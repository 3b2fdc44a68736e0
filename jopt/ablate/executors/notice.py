"""`workers.json`: what a launch tells its workers through the directory that they share with it."""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jopt import canary
from jopt.ablate.files import AblationDir
from jopt.files import write_json
from jopt.train import manifest
from jopt.train.compiler import current_options
from jopt.train.surroundings import Surroundings

PATIENCE, _PAUSE = 60.0, 0.2
"""Seconds in which a file that the session has written must be seen: network file systems cache directories."""


class NotSharedError(RuntimeError):
    """A worker does not see the directory of the session, or not its latest files."""


class Notice(NamedTuple):
    """What workers must know before their first chunk.

    Attributes:
      nonce: of this launch; a worker of another one ends when it sees it.
      host: of the session.
      facts: of the session's process (`jopt.canary.facts`), which those of a worker must equal.
      jax_options: JAX's options that change numbers.
      compiler_options: XLA's options that a context of `jopt.train.compiler.compiler_options` set.
      platforms: the option `jax_platforms`.
      xla_flags: the session's flags of XLA that change bits, for workers whose environment has none.
      cache: the directory of the compilation cache; None is no cache.
      trusted: as in `jopt.ablate.run`.
      modules: those that the grid's config names, which may be imported.
      paths: directories in which the session finds modules.
      current: the session's current directory, from which relative paths in the config start.
      cpus: processors of a worker.
      gpus: GPUs of a worker, or the fraction of one.
    """

    nonce: str
    host: str
    facts: Surroundings
    jax_options: dict[str, Any]
    compiler_options: dict[str, Any]
    platforms: str | None
    xla_flags: str
    cache: str | None
    trusted: bool
    modules: list[str]
    paths: list[str]
    current: str
    cpus: float
    gpus: float


def notice(trusted: bool, modules: list[str], cpus: float, gpus: float) -> Notice:
    """The notice of this process, with a new nonce."""
    facts = canary.facts()
    return Notice(
        nonce=secrets.token_hex(8),
        host=socket.gethostname(),
        facts=facts,
        jax_options=manifest.jax_options(),
        compiler_options=current_options(),
        platforms=jax.config.values["jax_platforms"],
        # Without those that make several devices of a processor.
        xla_flags=str(facts["XLA_FLAGS"]),
        cache=jax.config.values["jax_compilation_cache_dir"],
        trusted=trusted,
        modules=modules,
        paths=[str(Path(path).absolute()) for path in sys.path],
        current=str(Path.cwd()),
        cpus=cpus,
        gpus=gpus,
    )


def path_of(directory: str | os.PathLike[str]) -> Path:
    """The file of the notice in an ablation's directory."""
    return Path(directory) / "workers.json"


def post(files: AblationDir, posted: Notice) -> None:
    """Writes the notice; workers of an earlier launch save at their next boundary and end."""
    write_json(path_of(files.path), posted._asdict())


def withdraw(files: AblationDir) -> bool:
    """Removes the notice: all workers save at their next boundary and end. Returns whether there was one."""
    try:
        path_of(files.path).unlink()
    except FileNotFoundError:
        return False
    return True


def posted(directory: str | os.PathLike[str], nonce: str, patience: float | None = None) -> Notice:
    """The notice with this nonce.

    Raises:
      NotSharedError: if it is not seen within `patience` seconds, by default `PATIENCE`.
    """
    deadline = time.monotonic() + (PATIENCE if patience is None else patience)
    while not is_current(directory, nonce):
        if time.monotonic() >= deadline:
            raise NotSharedError(
                f"{path_of(directory)}, which the session wrote, is not seen there: workers need the same "
                "directory at the same path, such as on NFS"
            )
        time.sleep(_PAUSE)
    return Notice(**json.loads(path_of(directory).read_text()))


def is_current(directory: str | os.PathLike[str], nonce: str) -> bool:
    """Whether the launch with this nonce is the directory's latest, and goes on."""
    try:
        return json.loads(path_of(directory).read_text()).get("nonce") == nonce
    except (OSError, ValueError, AttributeError):
        return False
