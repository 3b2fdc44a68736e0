"""The workers of a Ray cluster: an actor each, placed node by node."""

from __future__ import annotations

import dataclasses
import importlib
import json
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from jopt.machines import ExecutorError
from jopt.report import formats

_SECONDS_BETWEEN_NODES = 2.0
_SECONDS_WITHOUT_WORKERS = 60.0
_FAILED_STARTS = 3


class Needs(NamedTuple):
    """What a worker asks Ray for.

    Attributes:
      cpus: processors.
      gpus: GPUs, or a fraction of one.
      memory: bytes of main memory.
    """

    cpus: float
    gpus: float
    memory: int

    def fit(self, resources: dict[str, float]) -> int:
        """How many workers a node has room for, other jobs on it aside.

        Example:
          >>> Needs(1, 0.25, 2**30).fit({"CPU": 16, "GPU": 1, "memory": 2**35}), Needs(1, 0, 1).fit({"CPU": 0.5})
          (4, 0)
        """
        rooms = [resources.get("CPU", 0) / self.cpus, resources.get("memory", 0) / self.memory]
        if self.gpus:
            rooms.append(resources.get("GPU", 0) / self.gpus)
        # A node whose quotient is 3.9999999 has room for four.
        return int(min(rooms) + 1e-6)


class Bench:
    """The actor: a process that runs chunks. Text comes in and text goes out."""

    def join(self, text: str) -> str:
        """See `jopt.ablate.executors.worker.join`."""
        from jopt.ablate.executors import worker

        return worker.join(text)

    def work(self, text: str) -> str:
        """See `jopt.ablate.executors.worker.work`."""
        from jopt.ablate.executors import worker

        return worker.work(text)


@dataclasses.dataclass(eq=False)
class _Worker:
    """An actor.

    Attributes:
      future: of what it does now; None when it is idle.
      chunk: which it runs; None while it joins, and when it is idle.
      group: whose programs it has.
    """

    actor: Any
    node: str
    host: str
    future: Any
    chunk: str | None = None
    group: int | None = None
    joined: bool = False


class RayWorkers:
    """Actors on the nodes of a cluster; what `jopt.ablate.executors.crew.Pool` asks for.

    The session itself gives the chunk of a lost worker to another one, instead of Ray's own retries: it knows
    whether the chunk got any further before, and tells chunks that cannot run from nodes that come and go.
    """

    def __init__(self, needs: Needs, most: int | None, warn: Callable[[str], None]):
        """Starts no worker yet.

        Args:
          needs: of each worker.
          most: workers at once; None is as many as fit.
          warn: receives a sentence on each worker that is refused.

        Raises:
          ExecutorError: if no node has room for one.
        """
        self.needs, self.most, self.warn = needs, most, warn
        self.crew: list[_Worker] = []
        self.refused: dict[str, str] = {}
        self.failed_starts: dict[str, int] = {}
        self.looked, self.alone_since = 0.0, time.monotonic()
        room = sum(needs.fit(node["Resources"]) for node in _nodes())
        if room == 0:
            nodes = "; ".join(
                f"{node['NodeManagerHostname']}: {_resources(node['Resources'])}" for node in _nodes()
            )
            problem = f"no node of the cluster has room for a worker ({_asked(needs)}); its nodes have {nodes}"
            raise ExecutorError("ray", problem)
        self.workers = room if most is None else min(room, most)

    def begin(self, directory: str, nonce: str) -> None:
        """Starts workers on all nodes."""
        self.grid = json.dumps({"directory": directory, "nonce": nonce})
        self._staff()

    def offer(self, chunk: str, group: int, order: str) -> bool:
        """Hands an order to an idle worker, best to one that has the group's programs; whether there was one."""
        idle = [worker for worker in self.crew if worker.joined and worker.future is None]
        if not idle:
            return False
        worker = min(idle, key=lambda worker: worker.group != group)
        worker.future, worker.chunk, worker.group = worker.actor.work.remote(order), chunk, group
        return True

    def wait(self, seconds: float) -> list[tuple[str, dict[str, Any]]]:
        """Waits for orders to end, and replaces workers that are gone.

        Raises:
          ExecutorError: if no node is left that could run a worker.
        """
        self._staff()
        busy = {worker.future: worker for worker in self.crew if worker.future is not None}
        if not busy:
            time.sleep(seconds)
            return []
        ready, _ = _ray().wait(list(busy), num_returns=len(busy), timeout=seconds)
        ended = []
        for future in ready:
            worker = busy[future]
            # Its node was refused a moment ago, by the reply of another worker.
            if worker not in self.crew:
                continue
            chunk, worker.future, worker.chunk = worker.chunk, None, None
            try:
                reply = json.loads(_ray().get(future))
            # Of many types: the actor, its node, or what it was started from is gone.
            except Exception as error:
                self.crew.remove(worker)
                reply = {"status": "lost", "host": worker.host, "problem": first_line(error)}
                if chunk is None:
                    self._not_started(worker, reply["problem"])
            if chunk is not None:
                ended.append((chunk, reply))
            elif reply["status"] == "refused":
                self._refuse(worker, reply["problem"])
            elif reply["status"] == "joined":
                worker.joined, worker.host = True, reply["host"]
                self.failed_starts.pop(worker.node, None)
        return ended

    def close(self) -> None:
        """Ends all workers at once; what they have committed and saved stays."""
        for worker in self.crew:
            _ray().kill(worker.actor)
        self.crew.clear()

    def _staff(self) -> None:
        """Starts workers on nodes that have room for more."""
        if time.monotonic() - self.looked < _SECONDS_BETWEEN_NODES:
            return
        self.looked = time.monotonic()
        nodes = [node for node in _nodes() if node["NodeID"] not in self.refused]
        # Without the head of a cluster that only manages it, and the like.
        usable = [node for node in nodes if self.needs.fit(node["Resources"]) > 0]
        for node in usable:
            there = sum(worker.node == node["NodeID"] for worker in self.crew)
            free = self.needs.fit(node["Resources"]) - there
            limit = free if self.most is None else min(free, self.most - len(self.crew))
            for _ in range(limit):
                self.crew.append(self._started(node))
        if self.crew:
            self.alone_since = self.looked
        elif not usable and self.refused:
            raise ExecutorError("ray", f"no worker is left: {next(iter(self.refused.values()))}")
        # Nodes may come again: on spot machines, or while a node is started.
        elif self.looked - self.alone_since > _SECONDS_WITHOUT_WORKERS:
            problem = f"for {_SECONDS_WITHOUT_WORKERS:.0f} s no node of the cluster had room for a worker"
            raise ExecutorError("ray", f"{problem} ({_asked(self.needs)})")

    def _started(self, node: dict[str, Any]) -> _Worker:
        strategies = importlib.import_module("ray.util.scheduling_strategies")

        # On this node and no other, so that one whose bits differ can be left out.
        here = strategies.NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        needs = self.needs
        actor = (
            _ray()
            .remote(Bench)
            .options(
                num_cpus=needs.cpus,
                num_gpus=needs.gpus,
                memory=needs.memory,
                max_restarts=0,
                scheduling_strategy=here,
            )
        )
        worker = actor.remote()
        return _Worker(worker, node["NodeID"], node["NodeManagerHostname"], worker.join.remote(self.grid))

    def _not_started(self, worker: _Worker, problem: str) -> None:
        """Counts a worker that died before it could join; after several a node is left out."""
        self.failed_starts[worker.node] = self.failed_starts.get(worker.node, 0) + 1
        alive = any(node["NodeID"] == worker.node for node in _nodes())
        if alive and self.failed_starts[worker.node] >= _FAILED_STARTS:
            self._refuse(worker, f"its workers do not start: {problem}")

    def _refuse(self, worker: _Worker, problem: str) -> None:
        sentence = f"the worker on {worker.host} was refused: {problem}"
        if worker.node not in self.refused:
            self.warn(sentence)
        self.refused[worker.node] = sentence
        # Others of the node have the same processor and the same versions.
        for other in [other for other in self.crew if other.node == worker.node and not other.joined]:
            _ray().kill(other.actor)
            self.crew.remove(other)
        self.looked = 0.0


def _ray() -> Any:
    """The package, which the other executors do without."""
    return importlib.import_module("ray")


def _nodes() -> list[dict[str, Any]]:
    return [node for node in _ray().nodes() if node["Alive"]]


def _asked(needs: Needs) -> str:
    return f"{needs.cpus:g} CPU, {needs.gpus:g} GPU, {formats.binary(needs.memory)}"


def _resources(resources: dict[str, float]) -> str:
    memory = formats.binary(int(resources.get("memory", 0)))
    return f"{resources.get('CPU', 0):g} CPU, {resources.get('GPU', 0):g} GPU, {memory}"


def first_line(error: Exception) -> str:
    """The text of one of Ray's errors without its traceback: the last line says what was raised."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[-1] if "Traceback" in str(error) else lines[0]
