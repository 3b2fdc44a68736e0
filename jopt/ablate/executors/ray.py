"""Executor 'ray': chunks run in actors of a Ray cluster, a process for each worker."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import math
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from jopt.ablate.executors import notice
from jopt.ablate.executors.crew import Crew, spread
from jopt.ablate.executors.kind import Context
from jopt.ablate.executors.ray_workers import Needs, RayWorkers, first_line
from jopt.ablate.plan import GroupPlan
from jopt.config import require
from jopt.machines import ExecutorError

PROCESS_BYTES = 600 * 2**20
"""Memory of a worker without a trial: Python, JAX, a small data set and compiled programs (docs/ablations.md)."""

_SECONDS_TO_CONNECT = 5.0
_SECONDS_TO_END = 10.0
_LOOPBACK = ("127.0.0.1", "localhost")
_ONE_MACHINE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


@dataclasses.dataclass(frozen=True)
class Ray:
    """Runs chunks on a Ray cluster, with Ray's scheduler.

    Attributes:
      address: 'auto' (the cluster that this machine belongs to), or HOST:PORT of its head; None starts Ray on this
        machine for this launch alone.
      workers: the most chunks that run at once; None is as many as the cluster has room for.
      cpus: processors that each worker asks for, and the threads that it uses.
      gpus: GPUs of each worker; below 1 several share one.
      memory_gib: main memory that each worker asks for, in GiB; None is the plan's estimate.
    """

    name: ClassVar[str] = "ray"
    address: str | None = None
    workers: int | None = None
    cpus: float = 1
    gpus: float = 0
    memory_gib: float | None = None

    def __post_init__(self) -> None:
        fine = isinstance(self.workers, int) and not isinstance(self.workers, bool) and self.workers > 0
        require(self.workers is None or fine, "workers", self.workers, "a positive integer, or None")
        require(math.isfinite(self.cpus) and self.cpus > 0, "cpus_per_chunk", self.cpus, "a positive number")
        accepted = "in (0, 1), such as 0.25 for four workers on a GPU, or a whole number of GPUs"
        fine = 0 <= self.gpus < 1 or (math.isfinite(self.gpus) and self.gpus > 0 and self.gpus == int(self.gpus))
        require(fine, "gpus_per_chunk", self.gpus, accepted)
        memory = self.memory_gib
        fine = memory is None or (math.isfinite(memory) and memory > 0)
        require(fine, "memory_per_chunk", memory, "a positive number of GiB, or None")
        if self.address not in (None, "auto"):
            _host_and_port(self.address)

    @property
    def devices(self) -> int:
        """Devices of one worker."""
        return max(1, int(self.gpus))

    @contextlib.contextmanager
    def running(self, context: Context) -> Iterator[Crew]:
        """Connects to the cluster; at the end the workers are gone, and so is a cluster that was started for this.

        Raises:
          ExecutorError: if Ray is not installed, the cluster does not answer, or no node has room for a worker.
        """
        if importlib.util.find_spec("ray") is None:
            problem = "Ray is not installed: pip install 'jopt[ray]', here and on each node"
            raise ExecutorError(self.name, problem)
        with _connected(self.address):
            workers = self._staffed(context)
            try:
                modules = list(context.modules)
                yield Crew(
                    self.name, workers, lambda: notice.notice(context.trusted, modules, self.cpus, self.gpus)
                )
            finally:
                workers.close()

    def _staffed(self, context: Context) -> RayWorkers:
        """Workers with the memory of the widest chunk: fewer workers have wider chunks, which need more of it."""
        # From the narrowest chunks, for which a cluster has room if it has any.
        plans = [p._replace(width=p.layout.multiple) for p in context.plans]
        while True:
            needs = Needs(self.cpus, self.gpus, self._memory(plans))
            workers = RayWorkers(needs, self.workers, context.warn)
            plans = spread(context.plans, workers.workers)
            if self._memory(plans) <= needs.memory:
                return workers

    def _memory(self, plans: Sequence[GroupPlan]) -> int:
        """Main memory of a worker, in bytes."""
        if self.memory_gib is not None:
            return int(self.memory_gib * 2**30)
        return PROCESS_BYTES + max(p.memory.used(p.layout, p.width) for p in plans)


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    fine = bool(host) and "/" not in address and port.isdigit() and 0 < int(port) < 2**16
    require(fine, "address", address, "'auto', or HOST:PORT of the head of a Ray cluster, such as 10.0.0.1:6379")
    return host, int(port)


@contextlib.contextmanager
def _connected(address: str | None) -> Iterator[None]:
    """A connection to a cluster, or a cluster on this machine."""
    # Before the import, in which Ray reads it.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    # Ray takes SIGTERM, with which a launch is asked to save.
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM) if main else None
    with contextlib.ExitStack() as stack:
        if address is None:
            options |= _private_cluster(stack)
        else:
            options |= {"address": address}
        ray: Any = importlib.import_module("ray")
        if address is not None:
            _check_reachable(address, ray.util.get_node_ip_address())
        try:
            with warnings.catch_warnings():
                # Ray starts programs by a fork that becomes another program at once, which JAX's threads allow.
                warnings.filterwarnings("ignore", "os.fork")
                ray.init(**options)
        # Whatever Ray raises, from a timeout to another version of Python on the cluster, is the user's to fix.
        except Exception as error:
            where = "Ray cannot be started on this machine" if address is None else f"no Ray cluster at {address}"
            raise ExecutorError("ray", f"{where}: {first_line(error)}") from error
        stack.callback(ray.shutdown)
        if main and handler is not None:
            signal.signal(signal.SIGTERM, handler)
        yield


def _private_cluster(stack: contextlib.ExitStack) -> dict[str, Any]:
    """Options for a cluster that listens on this machine only, and leaves no file."""
    # Short, as the paths of Ray's sockets, which lie in it, may have 107 bytes.
    temporary = tempfile.mkdtemp(prefix="ray_")
    stack.callback(_remove, Path(temporary))
    # The token of the cluster: Ray would write one below the home directory. It stays the same in this process, for
    # Ray reads it once.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    # Otherwise Ray replaces 127.0.0.1 with this machine's address in its network, and listens there too.
    os.environ.setdefault(_ONE_MACHINE, "0")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    return {"include_dashboard": False, "_node_ip_address": _LOOPBACK[0], "_temp_dir": temporary}


def _remove(directory: Path) -> None:
    """Removes the files of a cluster that has just ended: its processes may write for a moment longer."""
    deadline = time.monotonic() + _SECONDS_TO_END
    while directory.exists() and time.monotonic() < deadline:
        shutil.rmtree(directory, ignore_errors=True)
        time.sleep(0.1)


def _check_reachable(address: str, this_machine: str) -> None:
    """Raises ExecutorError where nothing listens at the address: Ray itself would wait for minutes."""
    if address == "auto":
        return
    host, port = _host_and_port(address)
    if host in _LOOPBACK and os.environ.get(_ONE_MACHINE) != "0":
        # As Ray does, which replaces it.
        host = this_machine
    try:
        with socket.create_connection((host, port), timeout=_SECONDS_TO_CONNECT):
            pass
    except OSError as error:
        raise ExecutorError("ray", f"no Ray cluster answers at --address={address}: {error}") from error
