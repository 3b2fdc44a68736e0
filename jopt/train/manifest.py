"""manifest.json: what a run's numbers depend on, enough to reproduce them."""

import contextlib
import enum
import functools
import hashlib
import importlib.metadata
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import jax

from jopt.config import fingerprint, to_dict
from jopt.train.compiler import current_options
from jopt.train.git import git_state
from jopt.train.surroundings import JAX_OPTIONS

PACKAGES = (
    "jopt",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "scipy",
    "scikit-learn",
    "tensorflow-datasets",
)


def collect(config: Any, dataset_fingerprint: str, workdir: Path, argv: list[str] | None = None) -> dict[str, Any]:
    """The facts of this process that a run depends on, ready for JSON.

    Args:
      config: the resolved Experiment.
      dataset_fingerprint: SHA-256 over the arrays of the data set.
      workdir: the job's own directory, which is no part of the state of the repository around it.
      argv: the command; None is `sys.argv`.
    """
    return {
        "config": to_dict(config),
        "config_hash": fingerprint(config),
        "seed": config.seed,
        "argv": sys.argv if argv is None else argv,
        "dataset_fingerprint": dataset_fingerprint,
        "git": git_state(Path(__file__).parent, workdir),
        "jopt_code": code(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "system": platform.platform(),
        "cpu": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        # XLA's flags and these options change the bits of a program without any change in the config.
        "xla_flags": xla_flags(),
        "jax_config": jax_options(),
        "compiler_options": current_options(),
        "devices": {
            "platform": jax.default_backend(),
            "kind": jax.devices()[0].device_kind,
            "count": jax.local_device_count(),
        },
        "events": [],
        "exit_status": None,
        "digest": None,
    }


def event(name: str, step: int, **details: object) -> dict[str, Any]:
    """An entry of the manifest's `events`: `start`, `resume` or `stop`, with Unix time in seconds."""
    return {"event": name, "time": round(time.time(), 3), "step": step, **details}


def xla_flags() -> str:
    """The flags that XLA was given by XLA_FLAGS, which may also name a file of them."""
    text = os.environ.get("XLA_FLAGS", "")
    if text and not text.lstrip().startswith("-"):
        try:
            return Path(text).read_text()
        except (OSError, ValueError):
            pass
    return text


def jax_options() -> dict[str, Any]:
    """The options of JAX that change numbers, of those that this version of it has."""
    options: dict[str, Any] = {}
    for name in JAX_OPTIONS:
        # Most can be set for a thread alone, and are read as attributes; the others by name.
        with contextlib.suppress(AttributeError, KeyError):
            value = getattr(jax.config, name) if hasattr(jax.config, name) else jax.config.read(name)
            options[name] = value.value if isinstance(value, enum.Enum) else value
    return options


@functools.cache
def code(package: Path = Path(__file__).parents[1]) -> str:
    """SHA-256 of the names and contents of a package's Python files; its version is one while it is worked on."""
    hashed = hashlib.sha256()
    # Editors lock a file by a link to nowhere beside it.
    files = {path.relative_to(package).as_posix(): path for path in package.rglob("*.py") if path.is_file()}
    # Sorted, as the order of a directory's entries differs between file systems.
    for name, path in sorted(files.items()):
        with path.open("rb") as file:
            hashed.update(f"{name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\0".encode())
    return hashed.hexdigest()


def version(package: str) -> str | None:
    """The version of an installed package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """The processor's name: equal digests are promised on equal machines only."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
