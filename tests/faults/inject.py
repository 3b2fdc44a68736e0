"""Injects faults into apps, launches them once more, and compares what they end with.

    python -m tests.faults.inject 300 [SEED] [--apps=train,export] [--kinds=kill,partial] [--keep=DIRECTORY]

prints a table of the points, app by kind, and each point after which something differed.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import queue
import random
import re
import shutil
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.faults import disk
from tests.faults.apps import APPS
from tests.faults.launches import LIVE, Ended, Server, build

POWER = ("lost", "emptied", "partial")
KINDS = ("kill", "tear", *LIVE, *POWER)
# Then a checkpoint that was being written may be half there, and is set aside; and what was removed from a finished
# chunk may be there again, which nothing reads.
AFTER_POWER_LOSS = re.compile("damaged_checkpoints/|chunks/[0-9a-f]+/(checkpoints/|metrics.jsonl)")
NOTHING = re.compile("(?!)")


class Point(NamedTuple):
    """A fault to inject.

    Attributes:
      app: a name in `APPS`.
      kind: 'kill' (before the operation), 'tear' (half of a write, then a kill), 'eio' (the operation fails),
        'full' (from it on, all fail that need space), or a power failure before the operation of which nothing that
        was not synced survives ('lost'), names alone ('emptied') or a random part ('partial').
      number: of the operation, from 0.
    """

    app: str
    kind: str
    number: int


class Verdict(NamedTuple):
    """What a point led to.

    Attributes:
      operation: the operation that was hit.
      problems: everything that was not as after a run without a fault; empty where all was.
    """

    point: Point
    operation: str
    problems: list[str]


class Reference(NamedTuple):
    """An app's launch without a fault.

    Attributes:
      before: a copy of the directory that it began in.
      start: the same, with the inodes that its operations are on.
      operations: on files, in order.
      outcome: what it ended with.
    """

    before: Path
    start: disk.Disk
    operations: list[disk.Operation]
    outcome: dict[str, Any]


class Lab:
    """Servers, the references of all apps, and a directory to work in."""

    def __init__(self, library: Path, scratch: Path, apps: Sequence[str] = tuple(APPS), servers: int = 2):
        self.scratch = scratch
        self.servers: queue.Queue[Server] = queue.Queue()
        for _ in range(servers):
            self.servers.put(Server(library, scratch))
        with concurrent.futures.ThreadPoolExecutor(servers) as pool:
            alone = [app for app in apps if not APPS[app].after]
            self.references = dict(zip(alone, pool.map(self._record, alone), strict=True))
            for app in apps:
                if app not in self.references:
                    self.references[app] = self._record(app)

    @contextlib.contextmanager
    def server(self) -> Iterator[Server]:
        """A server that no other thread uses meanwhile."""
        server = self.servers.get()
        try:
            yield server
        finally:
            self.servers.put(server)

    def close(self) -> None:
        """Ends the servers."""
        while not self.servers.empty():
            self.servers.get().close()

    def _record(self, app: str) -> Reference:
        before, directory = self.scratch / f"before_{app}", self.scratch / f"reference_{app}"
        if after := APPS[app].after:
            if not (self.scratch / f"reference_{after}").exists():
                self._record(after)
            shutil.copytree(self.scratch / f"reference_{after}", before)
        else:
            before.mkdir()
        shutil.copytree(before, directory)
        start = disk.Disk.of(directory)
        log = self.scratch / f"{app}.log"
        with self.server() as server:
            ended = server.launch(app, directory, log)
        assert ended.status == 0, f"{app} without a fault: {ended.output}"
        return Reference(before, start, disk.read(log, directory), APPS[app].outcome(directory))

    def judge(self, point: Point) -> Verdict:
        """Injects the fault, launches once more, and compares."""
        directory = self.scratch / "_".join(map(str, point))
        shutil.rmtree(directory, ignore_errors=True)
        with self.server() as server:
            operation, problems = self._inject(point, directory, server)
            relaunch = server.launch(point.app, directory, directory.with_suffix(".log"))
        problems += _ended_badly("the relaunch", relaunch, (0,))
        problems += self._differences(point, directory)
        return Verdict(point, operation, problems)

    def _inject(self, point: Point, directory: Path, server: Server) -> tuple[str, list[str]]:
        """Makes the directory as the fault leaves it; the operation, and what was wrong with the launch."""
        app, kind, number = point
        reference = self.references[app]
        if kind in LIVE:
            shutil.copytree(reference.before, directory)
            log = directory.with_suffix(".log")
            launch = server.launch(app, directory, log, LIVE[kind], number)
            # Threads may have come to other operations in another order than in the reference.
            failed = [operation for operation in disk.read(log, directory) if operation.kind == "!"]
            operation = str(failed[0]) if failed else "no operation"
            return operation, _ended_badly("the launch", launch, (0, 1))
        disk.write(left_by(point, reference), directory)
        return str(reference.operations[number]), []

    def _differences(self, point: Point, directory: Path) -> list[str]:
        expected = self.references[point.app].outcome
        try:
            outcome = APPS[point.app].outcome(directory)
        except Exception:
            return [f"unreadable: {traceback.format_exc(limit=-1)}"]
        return list(_compare("", expected, outcome, AFTER_POWER_LOSS if point.kind in POWER else NOTHING))


def _compare(path: str, expected: object, outcome: object, allowed: re.Pattern[str]) -> Iterator[str]:
    """What differs, by path."""
    if isinstance(expected, dict) and isinstance(outcome, dict):
        for name in {**expected, **outcome}:
            yield from _compare(f"{path}/{name}", expected.get(name), outcome.get(name), allowed)
    elif path.endswith("/files") and isinstance(expected, list) and isinstance(outcome, list):
        yield from (f"{path} lack {name}" for name in expected if name not in outcome)
        superfluous = [name for name in outcome if name not in expected and not allowed.search(name)]
        yield from (f"{path} have {name}" for name in superfluous)
    elif expected != outcome:
        yield f"{path}: {_short(outcome)} instead of {_short(expected)}"


def left_by(point: Point, reference: Reference) -> dict[str, bytes | None]:
    """The directory that a kill or a power failure leaves."""
    if point.kind == "tear":
        operations = disk.torn(reference.operations, point.number)
    else:
        operations = iter(reference.operations[: point.number])
    state = disk.replayed(reference.start, operations)
    views = {"lost": state.certain, "emptied": state.emptied, "partial": lambda: state.partial(point.number)}
    return views.get(point.kind, state.seen)()


def _ended_badly(name: str, ended: Ended, accepted: tuple[int, ...]) -> list[str]:
    problems = []
    if ended.status not in accepted:
        problems.append(f"{name} ended with {ended.status}: {ended.output[-1500:]}")
    elif "Traceback" in ended.output:
        problems.append(f"{name} printed a traceback: {ended.output[-300:]}")
    return problems


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 300 else f"{text[:300]} ..."


def points(references: dict[str, Reference], counts: dict[tuple[str, str], int], seed: int = 0) -> Iterator[Point]:
    """So many points of each app and kind, evenly spread over the operations of a run; the seed shifts them."""
    rng = random.Random(seed)
    for (app, kind), count in counts.items():
        operations = references[app].operations
        numbers = [i for i, operation in enumerate(operations) if kind != "tear" or operation.kind == "w"]
        count, shift = min(count, len(numbers)), rng.random()
        yield from (Point(app, kind, numbers[int((i + shift) * len(numbers) / count)]) for i in range(count))


def table(verdicts: Sequence[Verdict]) -> str:
    """App by kind: how many faults, and after how many of them all was the same."""
    faulted = collections.Counter((v.point.app, v.point.kind) for v in verdicts)
    same = collections.Counter((v.point.app, v.point.kind) for v in verdicts if not v.problems)
    lines = ["| app | " + " | ".join(KINDS) + " | faulted | same |", "|---" * (len(KINDS) + 3) + "|"]
    for app in dict.fromkeys(v.point.app for v in verdicts):
        cells = [f"{same[app, kind]}/{faulted[app, kind]}" if faulted[app, kind] else "-" for kind in KINDS]
        totals = [sum(counts[app, kind] for kind in KINDS) for counts in (faulted, same)]
        lines.append(f"| {app} | {' | '.join(cells)} | {totals[0]} | {totals[1]} |")
    return "\n".join(lines)


def main(arguments: argparse.Namespace) -> None:
    """Prints the table, and what differed."""
    apps, kinds = arguments.apps.split(","), arguments.kinds.split(",")
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(arguments.keep or temporary).resolve()
        scratch.mkdir(exist_ok=True)
        library = build(scratch)
        assert library is not None, "needs Linux and a C compiler named cc"
        lab = Lab(library, scratch, apps, arguments.servers)
        share = -(-arguments.count // (len(apps) * len(kinds)))
        chosen = list(points(lab.references, {(a, k): share for a in apps for k in kinds}, arguments.seed))
        begun, verdicts = time.monotonic(), []
        with concurrent.futures.ThreadPoolExecutor(arguments.servers) as pool:
            for verdict in pool.map(lab.judge, chosen):
                verdicts.append(verdict)
                if verdict.problems:
                    print(f"{verdict.point} {verdict.operation}", *verdict.problems, sep="\n  ", flush=True)
                elif not arguments.keep:
                    shutil.rmtree(scratch / "_".join(map(str, verdict.point)), ignore_errors=True)
        lab.close()
    print(table(verdicts))
    print(f"{len(verdicts)} faults in {time.monotonic() - begun:.0f} s, seed {arguments.seed}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("seed", type=int, nargs="?", default=0)
    parser.add_argument("--apps", default=",".join(APPS))
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--servers", type=int, default=2)
    parser.add_argument("--keep", default="")
    main(parser.parse_args())
