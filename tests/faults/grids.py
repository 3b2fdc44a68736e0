"""Kills workers, nodes and the driver of a grid on a Ray cluster, and compares its tables with the local ones.

    python -m tests.faults.grids 10 [SEED] [--config=configs/ablations/sparsity_by_bits.py] [--keep=DIRECTORY]

starts a cluster of three nodes on this machine, below a temporary directory and bound to 127.0.0.1, and prints each
kill, what was committed, and whether the tables are equal to the byte. The exit status is 1 if they are not, or if
something that had been committed was run again.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
TABLES = ("trials.csv", "summary.csv", "curves.jsonl")
KINDS = ("worker", "node", "driver")
_PATIENCE = 240.0


class Commit(NamedTuple):
    """A result of a chunk when it was first seen: its file's inode and time, and its trials."""

    inode: int
    mtime: int
    trials: tuple[str, ...]


class Watch(threading.Thread):
    """Notes each result when it is committed, and each chunk that is begun with a trial that is already in one."""

    def __init__(self, chunks: Path):
        super().__init__(daemon=True)
        self.chunks, self.ended = chunks, threading.Event()
        self.commits: dict[str, Commit] = {}
        self.problems: list[str] = []
        self.begun: set[str] = set()

    def run(self) -> None:
        while not self.ended.wait(0.01):
            self.look()

    def look(self) -> None:
        for path in self.chunks.glob("*/chunk.json"):
            with contextlib.suppress(OSError, ValueError):
                # Before the result is looked at: a chunk that was begun before its commit is in order.
                trials = set(json.loads(path.read_text())["trials"])
                name = path.parent.name
                if name not in self.begun:
                    self.begun.add(name)
                    again = [other for other, commit in self.commits.items() if trials & set(commit.trials)]
                    self.problems += [
                        f"chunk {name} was begun with trials of the finished {other}" for other in again
                    ]
        for path in self.chunks.glob("*/result.json"):
            with contextlib.suppress(OSError, ValueError):
                status, name = path.stat(), path.parent.name
                trials = tuple(one["row"]["trial"] for one in json.loads(path.read_text())["trials"])
                commit = Commit(status.st_ino, status.st_mtime_ns, trials)
                if self.commits.setdefault(name, commit) != commit:
                    self.problems.append(f"the result of chunk {name} was written again")

    def close(self) -> None:
        self.ended.set()
        self.join()
        self.look()
        trials = [trial for commit in self.commits.values() for trial in commit.trials]
        if len(trials) != len(set(trials)):
            self.problems.append("a trial is in two results")


class Nodes:
    """A Ray cluster on this machine: a head without processors, and nodes of one processor each."""

    def __init__(self, temporary: Path, environments: Sequence[dict[str, str]]):
        cluster_utils: Any = importlib.import_module("ray.cluster_utils")
        head = {
            "num_cpus": 0,
            "include_dashboard": False,
            "node_ip_address": "127.0.0.1",
            "temp_dir": str(temporary),
            "object_store_memory": 80 * 2**20,
        }
        self.cluster = cluster_utils.Cluster(initialize_head=True, connect=False, head_node_args=head)
        self.nodes = [self._add(environment) for environment in environments]

    @property
    def address(self) -> str:
        return self.cluster.address

    def _add(self, environment: dict[str, str] | None = None) -> Any:
        before = dict(os.environ)
        os.environ.update(environment or {})
        try:
            return self.cluster.add_node(
                num_cpus=1, memory=4 * 2**30, object_store_memory=80 * 2**20, node_ip_address="127.0.0.1"
            )
        finally:
            os.environ.clear()
            os.environ.update(before)

    def workers(self) -> list[int]:
        """The processes of the grid's workers: children of the nodes that this object started."""
        raylets = {process.process.pid for node in self.nodes for process in node.all_processes.get("raylet", ())}
        return [pid for pid in _children(raylets) if _name(pid).startswith("ray::Bench")]

    def kill_node(self, rng: random.Random) -> str:
        """Kills a node with all of its workers, and starts another one."""
        node = self.nodes.pop(rng.randrange(len(self.nodes)))
        self.cluster.remove_node(node, allow_graceful=False)
        self.nodes.append(self._add())
        return node.node_id[:8] if hasattr(node, "node_id") else "a node"

    def close(self) -> None:
        self.cluster.shutdown()


def _children(parents: set[int]) -> list[int]:
    children = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The name of a program, in brackets, may hold spaces.
            if int(path.read_text().rpartition(")")[2].split()[1]) in parents:
                children.append(int(path.parent.name))
    return sorted(children)


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
    except OSError:
        return ""


@contextlib.contextmanager
def cluster(environments: Sequence[dict[str, str]] = ({}, {}, {})) -> Iterator[Nodes]:
    """A cluster with a node for each environment, whose files, and whose token, are gone at the end."""
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    # Ray would replace 127.0.0.1 with this machine's address in its network.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    # By default workers of Ray give way to all other processes of the machine.
    os.environ |= {"RAY_worker_niceness": "0"}
    # Nodes find jopt as this process does, and look for no accelerator.
    os.environ |= {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    with tempfile.TemporaryDirectory(prefix="rayt_", ignore_cleanup_errors=True) as temporary:
        # Ray also writes the address of its latest cluster, below this directory.
        os.environ["RAY_TMPDIR"] = temporary
        Path(temporary, "ray").mkdir()
        nodes = Nodes(Path(temporary, "ray"), environments)
        try:
            yield nodes
        finally:
            nodes.close()


def launch(config: Sequence[str], workdir: Path, *flags: str) -> subprocess.Popen[str]:
    """`jopt ablate`, as a process."""
    command = [sys.executable, "-m", "jopt", "ablate", *config, f"--workdir={workdir}", *flags]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


class Signs(NamedTuple):
    """Signs of life: chunks that are committed, and checkpoints of chunks that run."""

    commits: int
    saved: int


class Outcome(NamedTuple):
    """What a grid with kills led to.

    Attributes:
      kills: what was killed, in order.
      commits: results of chunks.
      launches: of the driver.
      refused: sentences on workers that might not join.
      problems: all that was not as without kills; empty where all was.
      seconds: from the first launch to the last exit.
    """

    kills: list[str]
    commits: int
    launches: int
    refused: list[str]
    problems: list[str]
    seconds: float


def with_kills(
    nodes: Nodes, config: Sequence[str], workdir: Path, reference: Path, kinds: Sequence[str], rng: random.Random
) -> Outcome:
    """Runs a grid on the cluster, kills what `kinds` says while it runs, and compares it with `reference`."""
    flags = ["--executor=ray", f"--address={nodes.address}"]
    begun, watch, kills, launches, problems = time.monotonic(), Watch(workdir / "chunks"), [], 1, []
    watch.start()
    driver = launch(config, workdir, *flags)
    pending = list(kinds)
    after = Signs(0, 0)
    while driver.poll() is None and time.monotonic() - begun < _PATIENCE:
        workers = nodes.workers()
        # Only while work goes on: after a chunk was committed since the last kill, or another one was saved.
        signs = Signs(len(watch.commits), len(list(workdir.glob("chunks/*/checkpoints/[0-9]*"))))
        alive = signs.commits >= after.commits and signs.saved >= after.saved
        if not pending or not workers or not alive:
            time.sleep(0.02)
            continue
        time.sleep(rng.uniform(0, 0.5))
        if driver.poll() is not None:
            break
        kind = pending.pop(0)
        after = Signs(len(watch.commits) + rng.choice((0, 1, 1)), 1)
        if kind == "worker":
            workers = nodes.workers()
            if not workers:
                pending.insert(0, kind)
                continue
            pid = rng.choice(workers)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            kills.append(f"worker {pid}")
        elif kind == "node":
            kills.append(f"node {nodes.kill_node(rng)}")
        else:
            driver.kill()
            driver.communicate()
            kills.append(f"driver {driver.pid}")
            launches += 1
            driver = launch(config, workdir, *flags)
        print(
            f"{time.monotonic() - begun:6.1f} s  killed {kills[-1]}; {len(watch.commits)} chunks committed",
            flush=True,
        )
    try:
        output, _ = driver.communicate(timeout=max(1.0, _PATIENCE - (time.monotonic() - begun)))
    except subprocess.TimeoutExpired:
        driver.kill()
        output = driver.communicate()[0] + "\nnot finished in time"
    watch.close()
    if driver.returncode != 0:
        problems.append(f"the driver ended with {driver.returncode}: {output[-1500:]}")
    if pending:
        problems.append(f"it finished before {len(pending)} kills: {pending}")
    for name in TABLES:
        if not (workdir / name).is_file() or (workdir / name).read_bytes() != (reference / name).read_bytes():
            problems.append(f"{name} differs")
    refused = [line for line in output.splitlines() if "refused" in line]
    return Outcome(
        kills, len(watch.commits), launches, refused, problems + watch.problems, time.monotonic() - begun
    )


def main(arguments: argparse.Namespace) -> int:
    """Prints what was killed and what differed."""
    rng = random.Random(arguments.seed)
    # One of each at least; workers are what dies most often.
    every = arguments.kinds.split(",")
    weights = [{"worker": 4, "node": 1, "driver": 2}[kind] for kind in every]
    kinds = [*every, *rng.choices(every, weights, k=max(0, arguments.count - len(every)))][: arguments.count]
    rng.shuffle(kinds)
    config = [f"--config={arguments.config}", *arguments.flags]
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(arguments.keep or temporary)
        scratch.mkdir(exist_ok=True)
        if not (scratch / "local" / "summary.csv").exists():
            driver = launch(config, scratch / "local", "--quiet")
            output, _ = driver.communicate()
            assert driver.returncode == 0, output
        environments = [{}, {}, {"XLA_FLAGS": "--xla_cpu_max_isa=SSE4_2"} if arguments.other_bits else {}]
        with cluster(environments) as nodes:
            outcome = with_kills(nodes, config, scratch / "ray", scratch / "local", kinds, rng)
    print(f"{len(outcome.kills)} kills, {outcome.launches} launches, {outcome.commits} chunks committed once each")
    print(*outcome.refused, sep="\n")
    print(f"{outcome.seconds:.0f} s, seed {arguments.seed}")
    print(
        *(outcome.problems or [f"{', '.join(TABLES)}: equal to the byte; nothing committed was run again"]),
        sep="\n",
    )
    return 1 if outcome.problems else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("seed", type=int, nargs="?", default=0)
    parser.add_argument("--config", default="configs/ablations/sparsity_by_bits.py")
    parser.add_argument(
        "--flags", nargs="*", default=[], help="overrides of the config, such as --flags=--config.seeds=(0,1)"
    )
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--other_bits", action="store_true", help="one node computes other bits")
    parser.add_argument("--keep", default="")
    sys.exit(main(parser.parse_args()))
