"""The session's side of workers: hands out chunks, follows them, and gives those of lost workers to others."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from jopt.ablate.execute import Chunk, SegmentProgress
from jopt.ablate.executors import notice
from jopt.ablate.executors.progress import Tail
from jopt.ablate.files import AblationDir
from jopt.ablate.plan import GroupPlan
from jopt.ablate.strategy import chunks
from jopt.config import ConfigError
from jopt.machines import ChunkError, ExecutorError, WorkerDefect
from jopt.rules import RuleError
from jopt.train.hooks import Hooks
from jopt.train.workdir import StopRequested

CHUNKS_A_WORKER = 3
"""Chunks that the work is cut into for each worker: with fewer the last ones would leave workers idle for long."""

LOSSES = 4
"""A chunk that loses so many workers in a row, and saves nothing in between, ends the grid."""

_TICK = 0.2
_PATIENCE = 60.0


class Work(NamedTuple):
    """The chunks that a launch must run, and who is told what of them.

    Attributes:
      files: of the ablation.
      remaining: chunks that are still to run, by group.
      hooks: told of the rows of each boundary, and asked whether to save and stop.
      shown: `(plan, chunk) ->` the function that receives the progress of the chunk.
      warn: receives sentences on damaged checkpoints and refused workers.
      column_failed: receives the key of a column that cannot be computed, and a sentence on it.
      compiled: receives a group and the number of compilations by name.
    """

    files: AblationDir
    remaining: Sequence[tuple[GroupPlan, Sequence[Chunk]]]
    hooks: Hooks
    shown: Callable[[GroupPlan, Chunk], Callable[[SegmentProgress], None]]
    warn: Callable[[str], None]
    column_failed: Callable[[str, str], None]
    compiled: Callable[[GroupPlan, Mapping[str, int]], None]


class Pool(Protocol):
    """Workers of some kind: all that differs between executors of other processes."""

    @property
    def workers(self) -> int:
        """How many chunks can run at once."""
        ...

    def begin(self, directory: str, nonce: str) -> None:
        """Starts workers for the grid in a directory."""
        ...

    def offer(self, chunk: str, group: int, order: str) -> bool:
        """Hands an order to a worker, best to one that has the group's programs; whether one was free."""
        ...

    def wait(self, seconds: float) -> list[tuple[str, dict[str, Any]]]:
        """Waits for orders to end: ids of chunks, and the replies of `jopt.ablate.executors.worker.work`.

        The status of a reply may also be 'lost', with the `problem`: its worker is gone.

        Raises:
          ExecutorError: if no worker is left that could take an order.
        """
        ...


@dataclasses.dataclass
class _Task:
    """A chunk on its way through the workers."""

    plan: GroupPlan
    chunk: Chunk
    order: str
    tail: Tail
    report: Callable[[SegmentProgress], None] | None = None
    losses: int = 0
    saved: int = -1


class Crew:
    """Runs the chunks of a grid on the workers of a pool."""

    def __init__(self, executor: str, pool: Pool, notice_of: Callable[[], notice.Notice]):
        """Starts nothing.

        Args:
          executor: its name, for errors.
          pool: of workers.
          notice_of: makes the notice of this launch.
        """
        self.executor, self.pool, self.notice_of = executor, pool, notice_of

    @property
    def workers(self) -> int:
        """How many chunks can run at once."""
        return self.pool.workers

    def run(self, work: Work) -> None:
        """Runs every chunk.

        Raises:
          StopRequested: once the running chunks are saved, after the hooks asked to stop.
          ExecutorError: if workers cannot go on; ChunkError: if a chunk fails for a reason that a user can fix.
          ConfigError, RuleError: as a worker raised it.
        """
        posted = self.notice_of()
        pending = [self._task(work, plan, chunk, posted.nonce) for plan, group in work.remaining for chunk in group]
        running: dict[str, _Task] = {}
        with _posted(work.files, posted):
            if pending:
                self.pool.begin(str(work.files.path), posted.nonce)
            while pending or running:
                self._hand_out(work, pending, running)
                for name, reply in self.pool.wait(_TICK):
                    task = running.pop(name)
                    if not self._ended(work, task, reply):
                        pending.insert(0, task)
                for task in running.values():
                    self._follow(work, task, task.tail.news())
                if work.hooks.stop():
                    self._save(work, running)
                    raise StopRequested("stopped as asked, and saved; the same command continues from there")

    def _task(self, work: Work, plan: GroupPlan, chunk: Chunk, nonce: str) -> _Task:
        order = {
            "directory": str(work.files.path),
            "nonce": nonce,
            "chunk": chunk.id,
            "group": plan.group.index,
            # The programs of a group are made from its first trial.
            "base": plan.group.trials[0].id,
            "trials": [trial.id for trial in chunk.trials],
            "width": chunk.width,
            "lanes": chunk.layout.lanes,
            "devices": chunk.layout.devices,
            "data": plan.prepared.dataset.fingerprint,
            "sources": dict(plan.prepared.source_digests),
        }
        return _Task(plan, chunk, json.dumps(order), Tail(work.files.chunks / chunk.id, chunk))

    def _hand_out(self, work: Work, pending: list[_Task], running: dict[str, _Task]) -> None:
        while pending and self.pool.offer(pending[0].chunk.id, pending[0].plan.group.index, pending[0].order):
            task = pending.pop(0)
            if task.report is None:
                task.report = work.shown(task.plan, task.chunk)
            running[task.chunk.id] = task

    def _follow(self, work: Work, task: _Task, boundaries: Sequence[SegmentProgress]) -> None:
        for progress in boundaries:
            work.hooks.tell(progress.rows)
            assert task.report is not None
            task.report(progress)

    def _ended(self, work: Work, task: _Task, reply: Mapping[str, Any]) -> bool:
        """Whether the chunk is done; if not, another worker must take it."""
        for sentence in reply.get("warnings", ()):
            work.warn(sentence)
        for column, sentence in reply.get("columns", {}).items():
            work.column_failed(column, sentence)
        work.compiled(task.plan, reply.get("compilations", {}))
        if reply["status"] == "failed":
            self._fail(task, reply)
        if reply["status"] == "finished":
            self._await_result(work, task, reply)
            self._follow(work, task, task.tail.remaining())
            return True
        # A worker that was refused, or that saved because it saw no notice, has not lost the chunk.
        if reply["status"] == "lost":
            self._lost(work, task, reply)
        return False

    def _await_result(self, work: Work, task: _Task, reply: Mapping[str, Any]) -> None:
        deadline = time.monotonic() + _PATIENCE
        path = work.files.chunks / task.chunk.id / "result.json"
        while not path.exists():
            if time.monotonic() > deadline:
                raise ExecutorError(
                    self.executor, f"{path}, which {reply.get('host')} has written, is not seen here: share it"
                )
            time.sleep(_TICK)

    def _lost(self, work: Work, task: _Task, reply: Mapping[str, Any]) -> None:
        checkpoints = (work.files.chunks / task.chunk.id / "checkpoints").glob("[0-9]*")
        saved = max((int(path.name) for path in checkpoints if path.name.isdigit()), default=-1)
        # Workers of a long chunk may be lost every day: only a chunk that gets no further is given up.
        task.losses, task.saved = (task.losses + 1 if saved <= task.saved else 1), saved
        if task.losses >= LOSSES:
            raise ExecutorError(
                self.executor,
                f"chunk {task.chunk.id} lost {task.losses} workers in a row and saved nothing in between; the last "
                f"was on {reply.get('host', 'an unknown host')}: {reply.get('problem', 'no reason is known')}",
            )

    def _fail(self, task: _Task, reply: Mapping[str, Any]) -> None:
        error, host = reply["error"], reply["host"]
        if "field" in error:
            raise ConfigError(f"{error['field']} (on {host})", error["value"], error["accepted"])
        if "rule" in error:
            raise RuleError(f"{error['rule']} (on {host})")
        if error["expected"]:
            raise ChunkError(self.executor, task.chunk.id, host, error["type"], error["line"])
        raise WorkerDefect(f"chunk {task.chunk.id} on {host}:\n{error['traceback']}")

    def _save(self, work: Work, running: dict[str, _Task]) -> None:
        """Has the running chunks saved at their next boundaries."""
        notice.withdraw(work.files)
        while running:
            for name, reply in self.pool.wait(_TICK):
                self._ended(work, running.pop(name), reply)


@contextlib.contextmanager
def _posted(files: AblationDir, posted: notice.Notice) -> Iterator[None]:
    notice.post(files, posted)
    try:
        yield
    finally:
        notice.withdraw(files)


def spread(plans: Sequence[GroupPlan], workers: int) -> list[GroupPlan]:
    """Cuts groups into enough chunks to feed the workers; the lanes, which decide the bits, stay.

    Args:
      plans: one for each group.
      workers: how many chunks can run at once.
    """
    total = sum(p.seconds for p in plans) or 1.0
    return [_cut(p, -(-CHUNKS_A_WORKER * workers * p.seconds // total)) for p in plans]


def _cut(p: GroupPlan, parts: float) -> GroupPlan:
    trials, multiple = len(p.group.trials), p.layout.multiple
    most = -(-trials // max(1, int(parts)))
    # Whole lanes, and never wider than what fits in memory.
    most = min(p.width, -(-most // multiple) * multiple)
    count, width = chunks(trials, p.layout, most)
    return p._replace(chunks=count, width=width)
