"""The default executor: the chunks run in this process, one after the other, each on all of its devices."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import ClassVar

from jopt.ablate.execute import ChunkRun
from jopt.ablate.executors.crew import Work
from jopt.ablate.executors.kind import Context
from jopt.ablate.lift import Layout
from jopt.ablate.locks import holding
from jopt.measure import describe_failure
from jopt.train.compiler import Compiler
from jopt.train.workdir import StopRequested


@dataclasses.dataclass(frozen=True)
class Local:
    """Runs chunks in this process."""

    name: ClassVar[str] = "local"

    @property
    def devices(self) -> None:
        """None: the chunks run in this process."""
        return None

    @contextlib.contextmanager
    def running(self, context: Context) -> Iterator[_Here]:
        """Starts nothing."""
        yield _Here()


class _Here:
    workers = None

    def run(self, work: Work) -> None:
        def failed(column: str, stage: str, error: Exception) -> None:
            work.column_failed(column, describe_failure(column, stage, error))

        for p, group_chunks in work.remaining:
            # A resumed chunk may have another width than the planned ones, and a program has fixed shapes.
            compilers: dict[tuple[int, Layout], Compiler] = {}
            for chunk in group_chunks:
                if work.hooks.stop():
                    raise StopRequested("stopped as asked, between two chunks; the same command continues")
                compiler = compilers.setdefault((chunk.width, chunk.layout), Compiler())
                before = dict(compiler.counts)
                run = ChunkRun(
                    chunk, work.files.chunks, compiler, work.shown(p, chunk), work.hooks, work.warn, failed
                )
                try:
                    with holding(run.path):
                        # A worker of an earlier launch may have committed it before it gave the chunk free.
                        if not (run.path / "result.json").exists():
                            run.run()
                # Counted after an interruption too: the manifest reports the compilations of every launch.
                finally:
                    work.compiled(p, {k: n - before.get(k, 0) for k, n in compiler.counts.items()})
