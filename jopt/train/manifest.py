"""manifest.json: what a run's numbers depend on, enough to reproduce them."""

import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax

from jopt.config import fingerprint, to_dict

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


def collect(config: Any, dataset_fingerprint: str, argv: list[str] | None = None) -> dict[str, Any]:
    """The facts of this process that a run depends on, ready for JSON.

    Args:
      config: the resolved Experiment.
      dataset_fingerprint: SHA-256 over the arrays of the data set.
      argv: the command; None is `sys.argv`.
    """
    return {
        "config": to_dict(config),
        "config_hash": fingerprint(config),
        "seed": config.seed,
        "argv": sys.argv if argv is None else argv,
        "dataset_fingerprint": dataset_fingerprint,
        "git": git_state(Path(__file__).parent),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "system": platform.platform(),
        "cpu": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        # XLA's flags and these options change the bits of a program without any change in the config.
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "jax_config": {
            name: getattr(jax.config, name) for name in ("jax_enable_x64", "jax_threefry_partitionable")
        },
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


def git_state(directory: Path) -> dict[str, Any] | None:
    """Commit and a hash of what differs from it (untracked files included) around `directory`; None outside git."""

    def git(*args: str) -> bytes:
        return subprocess.run(["git", *args], cwd=directory, capture_output=True, check=True, timeout=30).stdout

    try:
        top = Path(git("rev-parse", "--show-toplevel").decode().strip())
        commit = git("rev-parse", "HEAD").decode().strip()
        # Untracked files count: an imported module that was never added is a common reason for other numbers.
        difference = git("diff", "HEAD", "--binary")
        untracked = git("ls-files", "-z", "--others", "--exclude-standard", "--full-name", str(top)).split(b"\0")
    except (OSError, subprocess.SubprocessError):
        return None
    hashed = hashlib.sha256(difference)
    new = [name for name in untracked if name]
    for name in new:
        hashed.update(name + b"\0" + _content_hash(top / os.fsdecode(name)))
    return {"commit": commit, "dirty": bool(difference or new), "diff_hash": hashed.hexdigest()}


def _content_hash(path: Path) -> bytes:
    """SHA-256 of a file, or of where a link points; of nothing, if it is gone or is a directory."""
    try:
        if path.is_symlink():
            return hashlib.sha256(os.fsencode(path.readlink())).digest()
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return b""


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
