"""Kills runs at random, continues them on random other layouts, and compares the end with an uninterrupted run.

    python -m tests.faults.layouts N SEED

A layout is a number of processes (gloo), of devices in each, and FSDP or not. A line for each of the N runs; status
1 if one differs or hangs.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tests.processes.harness import ROOT, Ended, Running, ends, free_port, side_by_side

CONFIG = Path(__file__).with_name("layouts_config.py")
CASES = ("mlp", "batch_norm")
LIMIT_SECONDS = 150
# Of a launch in which a process was killed before all had met.
MEETING_SECONDS = 20
STATUSES = {
    0: "finished",
    1: "did not meet",
    75: "others lost",
    143: "saved",
    -signal.SIGTERM: "terminated",
    -signal.SIGKILL: "killed",
}


class Layout(NamedTuple):
    """Over what a run is spread."""

    processes: int
    devices: int
    fsdp: bool

    def __str__(self) -> str:
        return f"{self.processes}x{self.devices}{' fsdp' if self.fsdp else ''}"


LAYOUTS = [
    Layout(processes, devices, fsdp)
    for processes, devices in ((1, 1), (1, 2), (1, 4), (2, 1), (4, 1))
    for fsdp in (False, True)
    if not (fsdp and processes * devices == 1)
]
ONE = Layout(1, 1, False)


class Outcome(NamedTuple):
    """What must not depend on layouts and kills."""

    digest: str
    metrics: list[dict[str, float]]
    packed: bytes

    @classmethod
    def of(cls, directory: Path) -> "Outcome":
        """That of a finished run."""
        rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
        for row in rows:
            row.pop("steps_per_second", None)
        digest = json.loads((directory / "result.json").read_text())["digest"]
        return cls(digest, rows, (directory / "model.jopt").read_bytes())

    def differences(self, other: "Outcome") -> list[str]:
        """Names of what differs."""
        return [name for name, a, b in zip(self._fields, self, other, strict=True) if a != b]


@contextlib.contextmanager
def launched(
    case: str, directory: Path, layout: Layout, config: Path = CONFIG, **variables: str
) -> Iterator[list[Running]]:
    """The processes of a run, new or to be continued; those that are left at the end are killed.

    Args:
      case: the argument of the config.
      directory: of the run.
      layout: its processes and devices.
      config: the config file.
      **variables: of the environment.
    """
    argument = f"{config}:{case}{',fsdp' if layout.fsdp else ''}"
    command = [sys.executable, "-m", "jopt", "train", f"--config={argument}", f"--workdir={directory}", "--quiet"]
    if layout.processes > 1:
        command += [f"--coordinator=localhost:{free_port()}", f"--num_processes={layout.processes}"]
        command += [f"--processes_timeout={MEETING_SECONDS}"]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(layout.devices),
        "PYTHONPATH": str(ROOT),
        **variables,
    }
    numbers = [[f"--process_id={i}"] for i in range(layout.processes)] if layout.processes > 1 else [[]]
    with side_by_side([command + number for number in numbers], environment) as running:
        yield running


def rows_of(directory: Path) -> int:
    """How many rows of metrics a run has written."""
    path = directory / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def run_until(running: list[Running], directory: Path, rows: int) -> bool:
    """Waits until a run has written so many rows; false where a process ended before."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while rows_of(directory) < rows and time.monotonic() < deadline:
        if any(one.process.poll() is not None for one in running):
            return False
        time.sleep(0.005)
    return True


def finish(case: str, directory: Path, layout: Layout) -> Outcome:
    """Runs a case to its end; an assertion fails where it does not come there."""
    with launched(case, directory, layout) as running:
        ended = ends(running, LIMIT_SECONDS)
    assert [one.status for one in ended] == [0] * layout.processes, describe(ended)
    return Outcome.of(directory)


def describe(ended: list[Ended]) -> str:
    """The statuses, and the last line of each process that ended in an unexpected way."""
    unexpected = [one.stderr.strip().splitlines()[-1:] for one in ended if one.status not in STATUSES]
    return ", ".join(STATUSES.get(one.status, str(one.status)) for one in ended) + "".join(map(str, unexpected))


def interrupt(random_numbers: random.Random, case: str, directory: Path, layout: Layout, total: int) -> str:
    """Launches a run and ends it at a random moment, by a kill or SIGTERM of one or all; returns what happened."""
    before = rows_of(directory)
    with launched(case, directory, layout) as running:
        if random_numbers.random() < 0.15:
            time.sleep(random_numbers.uniform(0, 8))
        else:
            # Half of what is left at most: there should be something to continue.
            more = random_numbers.randint(1, max(1, (total - before) // 2))
            run_until(running, directory, before + more)
            time.sleep(random_numbers.choice((0.0, random_numbers.uniform(0, 0.2))))
        number = random_numbers.choice((signal.SIGKILL,) * 4 + (signal.SIGTERM,))
        victims = {
            "one": [random_numbers.randrange(layout.processes)],
            "coordinator": [0],
            "all": list(range(layout.processes)),
        }
        name = random_numbers.choice(list(victims))
        alive = [i for i in victims[name] if running[i].process.poll() is None]
        for i in alive:
            running[i].signal(number)
        ended = ends(running, LIMIT_SECONDS)
    assert all(one.status in STATUSES for one in ended), describe(ended)
    if not alive:
        return f"{layout}: ended before ({describe(ended)})"
    sent = f"{signal.Signals(number).name} to {name} {alive} after {rows_of(directory)} rows"
    return f"{layout}: {sent} ({describe(ended)})"


def trial(case: str, seed: str, expected: Outcome, scratch: Path) -> tuple[bool, str]:
    """Whether a run that is interrupted one to three times ends as the expected one, and what happened to it."""
    random_numbers = random.Random(seed)
    directory = Path(tempfile.mkdtemp(dir=scratch)) / "run"
    layouts = random_numbers.sample(LAYOUTS, random_numbers.randint(2, 4))
    events = []
    try:
        for layout in layouts[:-1]:
            events.append(interrupt(random_numbers, case, directory, layout, len(expected.metrics)))
        outcome = finish(case, directory, layouts[-1])
        differences = expected.differences(outcome)
        events.append(f"{layouts[-1]}: finished, digest {outcome.digest[:16]}")
    except Exception as error:
        differences = [f"{type(error).__name__}: {error}"]
    verdict = "equal" if not differences else f"DIFFERENT: {', '.join(differences)} in {directory}"
    if not differences:
        shutil.rmtree(directory.parent)
    return not differences, f"{case} {seed}: {verdict}; " + "; ".join(events)


def main(count: int, seed: int) -> int:
    """Runs so many trials, two at once; the exit status."""
    scratch = Path(tempfile.mkdtemp(prefix="layouts_"))
    whole = {case: finish(case, scratch / case, ONE) for case in CASES[:count]}
    for case, outcome in whole.items():
        print(f"{case}: uninterrupted on {ONE}, digest {outcome.digest[:16]}", flush=True)
    cases = [(CASES[i % len(CASES)], f"{seed}/{i}") for i in range(count)]
    good = 0
    with ThreadPoolExecutor(2) as pool:
        for is_equal, line in pool.map(lambda one: trial(one[0], one[1], whole[one[0]], scratch), cases):
            print(line, flush=True)
            good += is_equal
    print(f"{good} of {count} equal")
    if good == count:
        shutil.rmtree(scratch)
    return int(good < count)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
