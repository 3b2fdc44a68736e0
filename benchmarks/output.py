"""One table printer and one JSON writer for all suites, and where and when something was measured."""

import os
import platform
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import jax

from benchmarks.timing import Row, Spread, Value
from jopt.report import Table
from jopt.train.manifest import processor, version

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "qwix", "onnxruntime", "constriction")

BUSY = 0.05
"""Share of the processors' time that other processes may take while something is measured."""

# Column to its label and the factor from the JSON's unit (seconds, bytes, shares) to the label's.
COLUMNS: dict[str, tuple[str, float]] = {
    "seconds": ("s", 1),
    "seconds_per_step": ("µs a step", 1e6),
    "saved_seconds_per_step": ("µs saved a step", 1e6),
    "seconds_per_mask": ("ms a mask", 1e3),
    "seconds_per_call": ("µs a call", 1e6),
    "seconds_per_trial_step": ("µs a trial-step", 1e6),
    "first_epoch_seconds": ("to first epoch, s", 1),
    "run_seconds": ("whole run, s", 1),
    "peak_bytes": ("peak memory, MiB", 2**-20),
    "ratio": ("ratio", 1),
    "speedup": ("times as fast", 1),
    "against": ("against", 1),
    "flops": ("MFLOP", 1e-6),
    "gflops_per_second": ("GFLOP/s", 1),
    "share": ("share, %", 100),
    "bytes": ("bytes", 1),
    "times_smaller": ("times smaller", 1),
    "write_mb_per_second": ("write, MB/s", 1),
    "read_mb_per_second": ("read, MB/s", 1),
    "write_ratio": ("writing, ratio", 1),
    "read_ratio": ("reading, ratio", 1),
    "examples_per_second": ("examples/s", 1),
    "accuracy_difference": ("accuracy within", 1),
    "over_best": ("over the best", 1),
}


def table(title: str, rows: Sequence[Row]) -> Table:
    """A suite as a table: a heading for each case, a line for each contender, a column for each value."""
    columns = list(dict.fromkeys(column for row in rows for column in row.values))
    lines: list[tuple[str, ...]] = []
    case = None
    for row in rows:
        if row.case != case:
            case = row.case
            lines.append((case, *[""] * len(columns)))
        cells = (_cell(row.values.get(column), COLUMNS.get(column, ("", 1))[1]) for column in columns)
        lines.append((f"· {row.contender}", *cells))
    labels = (COLUMNS.get(column, (column.replace("_", " "), 1))[0] for column in columns)
    return Table(title, ("case, contender", *labels), "l" + "r" * len(columns), lines)


def _cell(value: Value, factor: float) -> str:
    if isinstance(value, Spread):
        median, p10, p90 = (digits(factor * number) for number in value[:3])
        verdict = "met" if value.met else "MISSED"
        target = "" if value.target is None else f" {value.target.relation} {value.target.limit:g} {verdict}"
        return f"{median} [{p10}, {p90}]{target}"
    if value is None or isinstance(value, str):
        return value or ""
    return f"{value:,}" if isinstance(value, int) and factor == 1 else digits(factor * value)


def digits(value: float) -> str:
    """Three significant digits, and all digits before the point.

    Example:
      >>> digits(1234.5), digits(0.98765)
      ('1,234', '0.988')
    """
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def to_json(value: Any) -> Any:
    """What `json` can write: rows flat, other NamedTuples as objects without their None fields.

    Example:
      >>> to_json([Row("MLP", "jopt", {"seconds": Spread(2.0, 1.0, 3.0), "flops": 7})])
      [{'case': 'MLP', 'contender': 'jopt', 'seconds': {'median': 2.0, 'p10': 1.0, 'p90': 3.0}, 'flops': 7}]
    """
    if isinstance(value, Row):
        value = {"case": value.case, "contender": value.contender, **value.values}
    elif isinstance(value, tuple) and hasattr(value, "_asdict"):
        # json would write a NamedTuple as an array.
        value = {k: v for k, v in value._asdict().items() if v is not None}  # type: ignore[attr-defined]
    if isinstance(value, dict):
        return {k: to_json(v) for k, v in value.items()}
    return [to_json(v) for v in value] if isinstance(value, list | tuple) else value


def describe() -> dict[str, Any]:
    """The machine, its software and its state now: a `load` well above 0 means that it is not quiet."""
    device = jax.devices()[0]
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "memory_bytes": pages,
        "device": f"{device.platform} ({device.device_kind})",
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "load": os.getloadavg()[0],
    }


def machine_line(machine: dict[str, Any]) -> str:
    """The machine in one sentence."""
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items() if version)
    return (
        f"{machine['date']}: {machine['cores']} cores {machine['cpu']}, {machine['memory_bytes'] / 2**30:.0f} GiB, "
        f"JAX on {machine['device']}; Python {machine['python']}, {packages}; "
        f"load before the start {machine['load']:.2f}"
    )


class Busy(NamedTuple):
    """Processor seconds: of the machine, and of this process and the children it has waited for; and a clock."""

    machine: float
    process: float
    clock: float


def busy() -> Busy | None:
    """How busy the machine has been, or None where the system does not tell."""
    try:
        fields = [int(x) for x in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except OSError:
        return None
    # Field 3 is idle time and field 4 waits for a disk: neither takes a processor from the contenders.
    ticks = sum(fields) - fields[3] - fields[4]
    return Busy(ticks / os.sysconf("SC_CLK_TCK"), sum(os.times()[:4]), time.monotonic())


def others_share(before: Busy | None, after: Busy | None) -> float | None:
    """The share of this machine's processor time that other processes took between two `busy`; None if unknown.

    Example:
      >>> others_share(Busy(0.0, 0.0, 0.0), Busy(30.0, 10.0, 10.0)) == 20 / 10 / (os.cpu_count() or 1)
      True
    """
    if before is None or after is None:
        return None
    others = (after.machine - before.machine) - (after.process - before.process)
    return max(0.0, others) / max(after.clock - before.clock, 1e-9) / (os.cpu_count() or 1)


def others_line(suite: str, share: float) -> str:
    """How quiet the machine was while a suite ran."""
    verdict = "" if share < BUSY else ": NOT A QUIET MACHINE, do not quote these figures"
    return f"{suite}: other processes took {100 * share:.0f} % of the processors' time{verdict}"
