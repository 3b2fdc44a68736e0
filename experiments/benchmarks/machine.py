"""Where and when something was measured."""

import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jopt.train.manifest import processor, version

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch")


class Machine(NamedTuple):
    """The machine, its software and its state when a measurement began.

    Attributes:
      date: UTC, ISO 8601.
      cpu: the processor's name.
      cores: that this process may use.
      memory_bytes: physical memory, or 0 if unknown.
      device: JAX's platform and kind of device.
      system: the operating system.
      python: its version.
      packages: version by name, None where it is not installed.
      xla_flags: the environment's.
      load: processes that ran or waited over the last minute. Well above 0 at the start: not a quiet machine.
    """

    date: str
    cpu: str
    cores: int
    memory_bytes: int
    device: str
    system: str
    python: str
    packages: dict[str, str | None]
    xla_flags: str
    load: float


def describe() -> Machine:
    """The machine as it is now."""
    device = jax.devices()[0]
    return Machine(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        cpu=processor(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0,
        device=f"{device.platform} ({device.device_kind})",
        system=platform.platform(),
        python=platform.python_version(),
        packages={name: version(name) for name in PACKAGES},
        xla_flags=os.environ.get("XLA_FLAGS", ""),
        load=os.getloadavg()[0],
    )


class Busy(NamedTuple):
    """Processor seconds: of the whole machine, and of this process and the children it has waited for."""

    everyone: float
    own: float
    clock: float


def busy() -> Busy | None:
    """How busy the machine has been, or None where the system does not tell."""
    try:
        fields = [int(x) for x in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except OSError:
        return None
    user, nice, system, _, _, irq, softirq, steal = (x / os.sysconf("SC_CLK_TCK") for x in fields)
    own = sum(os.times()[:4])
    return Busy(user + nice + system + irq + softirq + steal, own, time.monotonic())


def others_share(before: Busy | None, after: Busy | None) -> float | None:
    """The share of this machine's processor time that other processes took between two `busy`; None if unknown.

    Example:
      >>> others_share(Busy(0.0, 0.0, 0.0), Busy(30.0, 10.0, 10.0)) == 20 / 10 / (os.cpu_count() or 1)
      True
    """
    if before is None or after is None:
        return None
    others = (after.everyone - before.everyone) - (after.own - before.own)
    return max(0.0, others) / max(after.clock - before.clock, 1e-9) / (os.cpu_count() or 1)


def to_json(value: Any) -> Any:
    """NamedTuples as objects, at any depth: what `json` would make arrays of.

    Example:
      >>> class Point(NamedTuple):
      ...     x: int
      >>> to_json({"points": [Point(1)]})
      {'points': [{'x': 1}]}
    """
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()  # type: ignore[attr-defined]
    if isinstance(value, dict):
        return {k: to_json(v) for k, v in value.items()}
    return [to_json(v) for v in value] if isinstance(value, list | tuple) else value
