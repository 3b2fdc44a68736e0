"""Executor 'slurm': chunks are the jobs of a job array, submitted by submitit."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from jopt.ablate.executors import notice
from jopt.ablate.executors.crew import Crew
from jopt.ablate.executors.kind import Context
from jopt.config import require
from jopt.machines import ExecutorError
from jopt.train.directory import LinkError

_REFUSALS = 3


@dataclasses.dataclass(frozen=True)
class Slurm:
    """Runs chunks as jobs of SLURM.

    Attributes:
      workers: jobs that run at once.
      cpus: processors of a job.
      gpus: GPUs of a job.
      memory_gib: main memory of a job, in GiB; None is the cluster's default.
      minutes: the time limit of a job; a chunk that it ends goes on in the next one.
      options: more options of sbatch by name, such as `partition`, `account`, `qos`, `constraint`.
      local: run the jobs as processes of this machine, without SLURM.
    """

    name: ClassVar[str] = "slurm"
    workers: int = 4
    cpus: int = 1
    gpus: int = 0
    memory_gib: float | None = None
    minutes: int = 60
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    local: bool = False

    def __post_init__(self) -> None:
        for name, value, least in (
            ("workers", self.workers, 1),
            ("cpus_per_chunk", self.cpus, 1),
            ("gpus_per_chunk", self.gpus, 0),
            ("slurm_minutes", self.minutes, 1),
        ):
            fine = isinstance(value, int) and not isinstance(value, bool) and value >= least
            require(fine, name, value, f"an integer of at least {least}: SLURM gives whole ones")

    @property
    def devices(self) -> int:
        """Devices of one worker."""
        return max(1, self.gpus)

    @contextlib.contextmanager
    def running(self, context: Context) -> Iterator[Crew]:
        """Submits nothing yet; at the end jobs that still run or wait are cancelled.

        Raises:
          ExecutorError: if submitit is not installed, or this machine submits no jobs.
        """
        if importlib.util.find_spec("submitit") is None:
            raise ExecutorError(self.name, "submitit is not installed: pip install 'jopt[slurm]'")
        if not self.local and shutil.which("sbatch") is None:
            problem = "this machine has no sbatch: submit from a login node, or run jobs here with --slurm_local"
            raise ExecutorError(self.name, problem)
        jobs = _Jobs(self, context.files.path / "slurm", context.warn)
        try:
            modules = list(context.modules)
            yield Crew(self.name, jobs, lambda: notice.notice(context.trusted, modules, self.cpus, self.gpus))
        finally:
            jobs.close()


class _Jobs:
    """The jobs of a launch; what `jopt.ablate.executors.crew.Pool` asks for."""

    def __init__(self, config: Slurm, folder: Path, warn: Callable[[str], None]):
        self.config, self.folder, self.warn, self.workers = config, folder, warn, config.workers
        self.executor: Any = None
        self.jobs: dict[str, Any] = {}
        self.unsent: list[tuple[str, str]] = []
        self.refused: list[str] = []
        self.refusals = 0

    def begin(self, directory: str, nonce: str) -> None:
        """Makes the folder of submitit, for its scripts and logs.

        Raises:
          LinkError: if it is a link, which may lead out of the job's directory.
        """
        # Only the folder: submitit leaves links to its scripts in it.
        if self.folder.is_symlink():
            raise LinkError(self.folder)
        submitit: Any = importlib.import_module("submitit")
        self.executor = submitit.AutoExecutor(self.folder, cluster="local" if self.config.local else "slurm")

    def offer(self, chunk: str, group: int, order: str) -> bool:
        """Takes an order for the next array; on this machine only as many as run at once."""
        # SLURM's own queue holds the others, and its limit of an array keeps to the number of workers.
        if self.config.local and len(self.jobs) + len(self.unsent) >= self.workers:
            return False
        self.unsent.append((chunk, order))
        return True

    def wait(self, seconds: float) -> list[tuple[str, dict[str, Any]]]:
        """Submits the orders that were taken, and waits for jobs to end.

        Raises:
          ExecutorError: if jobs are refused again and again, and none could join.
        """
        self._submit()
        time.sleep(seconds)
        ended = [(chunk, _reply(job)) for chunk, job in self.jobs.items() if job.done()]
        for chunk, reply in ended:
            del self.jobs[chunk]
            if reply["status"] == "refused":
                self._refuse(reply)
            elif reply["status"] != "lost":
                self.refusals = 0
        return ended

    def close(self) -> None:
        """Cancels the jobs."""
        for job in self.jobs.values():
            with contextlib.suppress(Exception):
                job.cancel(check=False)
        self.jobs.clear()

    def _submit(self) -> None:
        if not self.unsent:
            return
        config = self.config
        options: dict[str, Any] = {}
        # As they are: submitit knows the names of some of sbatch's options only.
        extra = dict(config.options) | ({"exclude": ",".join(self.refused)} if self.refused else {})
        if not config.local:
            options |= {"slurm_array_parallelism": config.workers, "slurm_additional_parameters": extra}
        if config.memory_gib is not None:
            options["mem_gb"] = config.memory_gib
        if config.gpus:
            options["gpus_per_node"] = config.gpus
        self.executor.update_parameters(
            name="jopt", timeout_min=config.minutes, cpus_per_task=config.cpus, **options
        )
        chunks, self.unsent = self.unsent, []
        try:
            # A function of a module and text: what submitit pickles holds nothing else.
            jobs = self.executor.map_array(_work, [order for _, order in chunks])
        except Exception as error:
            raise ExecutorError("slurm", f"the jobs cannot be submitted: {error}") from error
        self.jobs |= {chunk: job for (chunk, _), job in zip(chunks, jobs, strict=True)}

    def _refuse(self, reply: Mapping[str, Any]) -> None:
        sentence = f"the worker on {reply['host']} was refused: {reply['problem']}"
        self.refusals += 1
        if reply["host"] not in self.refused:
            self.refused.append(reply["host"])
            self.warn(sentence)
        # How many nodes there are SLURM alone knows.
        if self.refusals >= _REFUSALS:
            raise ExecutorError("slurm", f"{self.refusals} workers in a row were refused: {sentence}")


def _work(order: str) -> str:
    from jopt.ablate.executors import worker

    return worker.work(order)


def _reply(job: Any) -> dict[str, Any]:
    """The reply of a job that has ended."""
    error = job.exception()
    if error is None:
        return json.loads(job.result())
    lines = [line for line in str(error).splitlines() if line.strip()]
    return {"status": "lost", "host": f"job {job.job_id}", "problem": lines[0] if lines else type(error).__name__}
