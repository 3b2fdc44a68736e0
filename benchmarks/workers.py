"""What workers cost beside one process: `python -m benchmarks.workers`, a Markdown table.

A grid of the smallest network, a chunk a trial, so that nearly all of the time is that of the executor. The
compilation cache is warm: each executor runs once before it is measured.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
EXECUTORS = {
    "local": ("--cpu_devices=1",),
    "ray, 1 worker": ("--executor=ray", "--workers=1"),
    "ray, 2 workers": ("--executor=ray", "--workers=2"),
    "slurm, 1 job at once, on this machine": ("--executor=slurm", "--slurm_local", "--workers=1"),
}
GRID = """
from jopt import data, models, optim
from jopt.ablate import Ablation, axis
from jopt.train import Experiment

def get_config():
    images = data.Synthetic(shape=(3, 3, 1), num_classes=3, train=32, validation=16, test=16)
    network = models.ModelConfig(name="mlp", features=(4,), num_classes=3)
    optimizer = optim.Config(learning_rate=0.1)
    experiment = Experiment(model=network, data=images, optimizer=optimizer, epochs=2, batch_size=8)
    seeds = tuple(range({seeds}))
    return Ablation("overhead", experiment, axis("optimizer.momentum", (0.5,)), seeds, strategy="map", chunk=1)
"""


class Cost(NamedTuple):
    """Seconds until the first chunk begins, CPU seconds in all, and the most MiB by kind of process."""

    start: float
    cpu: float
    driver: float
    workers: float
    others: float


def measure(config: Path, workdir: Path, flags: Sequence[str]) -> Cost:
    """Runs the grid once, and watches its files and its processes."""
    begun = time.time()
    command = [
        sys.executable,
        "-m",
        "jopt",
        "ablate",
        f"--config={config}",
        f"--workdir={workdir}",
        "--quiet",
        *flags,
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    memory = {"driver": 0.0, "workers": 0.0, "others": 0.0}
    cpu: dict[int, float] = {}
    while process.poll() is None:
        now = dict.fromkeys(memory, 0.0)
        for pid in [process.pid, *descendants(process.pid)]:
            kind = "driver" if pid == process.pid else "workers" if is_worker(pid) else "others"
            with contextlib.suppress(OSError, StopIteration):
                now[kind] += resident(pid)
                cpu[pid] = seconds(pid)
        memory = {kind: max(memory[kind], now[kind]) for kind in memory}
        time.sleep(0.1)
    assert process.returncode == 0
    first = min(path.stat().st_mtime for path in workdir.glob("chunks/*/chunk.json"))
    return Cost(first - begun, sum(cpu.values()), *memory.values())


def descendants(parent: int) -> list[int]:
    """The processes that a process has started, and those that these have."""
    by_parent: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            by_parent.setdefault(int(path.read_text().rpartition(")")[2].split()[1]), []).append(
                int(path.parent.name)
            )
    below, pending = [], [parent]
    while pending:
        children = by_parent.get(pending.pop(), [])
        below += children
        pending += children
    return below


def is_worker(pid: int) -> bool:
    """Whether a process runs chunks."""
    with contextlib.suppress(OSError):
        name = Path(f"/proc/{pid}/cmdline").read_bytes()
        return name.startswith(b"ray::Bench") or b"submitit.core._submit" in name
    return False


def resident(pid: int) -> float:
    """The proportional share of the memory of a process, in MiB: pages that several have count once."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def seconds(pid: int) -> float:
    """CPU seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Prints the table."""
    header = (
        "executor",
        "start, s",
        "start, CPU s",
        "a chunk, CPU ms",
        "session, MiB",
        "workers, MiB",
        "others, MiB",
    )
    print(f"| {' | '.join(header)} |\n|---{'|---:' * (len(header) - 1)}|")
    with tempfile.TemporaryDirectory() as temporary:
        for name, flags in EXECUTORS.items():
            few, many = (3, 6) if name.startswith("slurm") else (10, 60)
            costs = []
            # The first fills the compilation cache.
            for number, chunks in enumerate((few, few, many)):
                config = Path(temporary, f"grid_{chunks}.py")
                config.write_text(GRID.replace("{seeds}", str(chunks)))
                costs.append(measure(config, Path(temporary, f"{name} {number}"), flags))
            _, short, long = costs
            # CPU seconds, which other processes of the machine hardly change.
            each = (long.cpu - short.cpu) / (many - few)
            cells = [f"{short.start:.1f}", f"{short.cpu - few * each:.1f}", f"{1e3 * each:.0f}"]
            cells += [f"{mebibytes:.0f}" for mebibytes in (long.driver, long.workers, long.others)]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
