"""What an ablation shows while it goes on, and the report that it leaves."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from jopt import report
from jopt.ablate.config import Ablation
from jopt.ablate.execute import Chunk, Told
from jopt.ablate.files import AblationDir
from jopt.ablate.judge import Judgement
from jopt.ablate.plan import GroupPlan, plan_table
from jopt.ablate.results import Axis, Results, Row
from jopt.ablate.trials import Trial, named
from jopt.report import formats


class Display:
    """Prints the plan, the progress and the summary, unless it is quiet; writes the report in any case."""

    def __init__(self, quiet: bool = False):
        """Quiet displays print nothing."""
        self._quiet = quiet

    def _print(self, *lines: str) -> None:
        if not self._quiet:
            print(*lines, sep="\n", flush=True)

    def show(self, table: report.Table) -> None:
        """Prints a table."""
        if not self._quiet:
            # In a file, such as a job's log, tables need not fold at 80 columns.
            report.show(table, width=140)

    def plan(
        self, ablation: Ablation, axes: Sequence[Axis], plans: Sequence[GroupPlan], done: Callable[[Trial], bool]
    ) -> None:
        """What will be run."""
        if self._quiet:
            return
        count = sum(len(p.group.trials) for p in plans)
        found = sum(done(trial) for p in plans for trial in p.group.trials)
        self._print(
            f"{ablation.name}: {count:,} trials, {len(ablation.space):,} points with {len(ablation.seeds)} seeds "
            f"each, {plans[0].prepared.dataset.name}, {jax.default_backend()} x {jax.local_device_count()}"
            + (f"; {found:,} are done" if found else "")
        )
        self.show(axes_table(axes))
        self.show(plan_table(plans, done))

    @contextlib.contextmanager
    def training(self, total: int, chunks: int) -> Iterator[Callable[[GroupPlan, Chunk], Callable[[Told], None]]]:
        """Shows how far the grid is, in trial-steps, with the median of loss and accuracy over trials.

        Args:
          total: trial-steps to do.
          chunks: chunks to do.

        Yields:
          `(plan, chunk) ->` what takes what the chunk tells.
        """
        begun = [0, 0]
        with contextlib.ExitStack() as stack:
            bar = None if self._quiet or not total else stack.enter_context(report.Progress(total))

            def start(plan: GroupPlan, chunk: Chunk) -> Callable[[Told], None]:
                before = begun[0]
                begun[0] += plan.steps * len(chunk.trials)
                begun[1] += 1
                name = f"group {plan.group.index}, chunk {begun[1]}/{chunks}"

                def take(told: Told) -> None:
                    if bar is None:
                        return
                    done = before + told.segment.stop * len(chunk.trials)
                    speed = told.segment.steps * len(chunk.trials) / told.seconds if told.seconds else None
                    for split in ("train", "validation"):
                        rows = [row for row in told.rows if row["split"] == split]
                        if rows:
                            middle: dict[str, Any] = {
                                k: float(np.median([row[k] for row in rows])) for k in ("loss", "accuracy")
                            }
                            bar.update(done, name, middle | {"split": split, "steps_per_second": speed})

                return take

            yield start

    def report(
        self,
        files: AblationDir,
        ablation: Ablation,
        plans: Sequence[GroupPlan],
        results: Results,
        summary: Sequence[Row],
        found: Judgement,
        command: str,
    ) -> None:
        """Writes `report.md`, `report.html` and the pictures."""
        from jopt.ablate.report import write

        diverged = sum(row["status"] == "diverged" for row in results.trials)
        ways = sorted({p.strategy for p in plans})
        programs = f"{len(plans)} {'program' if len(plans) == 1 else 'programs'} ({' and '.join(ways)})"
        about = [
            f"{len(results.trials):,} trials: {len(ablation.space):,} points, {len(ablation.seeds)} seeds each, "
            f"{programs}; {diverged} diverged.",
            *found.sentences,
        ]
        write(
            files.path,
            results,
            list(summary),
            sentences=about,
            extra_tables=found.tables,
            command=command,
            confidence=ablation.confidence,
            plan=[axes_table(results.axes), groups_table(plans)],
        )

    def finished(self, files: AblationDir, results: Results, summary: Sequence[Row], seconds: float) -> None:
        """The summary, and where to read more."""
        if self._quiet:
            return
        self.show(summary_table(results, summary))
        diverged = sum(row["status"] == "diverged" for row in results.trials)
        self._print(
            f"{len(results.trials):,} trials, {diverged} diverged, {formats.duration(seconds)}",
            f"report: {files.path / 'report.html'}    tables: {files.trials}, {files.summary}",
        )


def axes_table(axes: Sequence[Axis]) -> report.Table:
    """What varies, and what it makes of the program."""
    rows = []
    for axis in axes:
        values = ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in axis.values)
        rows.append((axis.name, ", ".join(axis.fields), axis.kind, formats.shorten(values, 60)))
    return report.Table("Axes", ("axis", "field", "kind", "values"), "llll", rows)


def groups_table(plans: Sequence[GroupPlan]) -> report.Table:
    """How the trials of each program were run."""
    rows = [
        (
            str(p.group.index),
            named(p.group.trials[0].point),
            f"{len(p.group.trials):,}",
            f"{p.steps:,}",
            p.strategy + (f", {p.layout.lanes} lanes" if p.layout.lanes > 1 else ""),
            f"{p.sizes.parameters:,}",
        )
        for p in plans
    ]
    header = ("group", "first point", "trials", "steps", "strategy", "parameters")
    return report.Table("Programs", header, "rlrrlr", rows)


def summary_table(results: Results, summary: Sequence[Row]) -> report.Table:
    """A row a point: the mean with its interval, and the difference with the interval that the verdict goes by."""
    names, compared = [axis.name for axis in results.axes], results.control is not None
    metric, scale = results.metric, 100 if "accuracy" in results.metric else 1
    header = (*names, "n", f"{metric} %" if scale == 100 else metric, "interval")
    header += ("difference", "adjusted interval", "verdict") if compared else ()

    def number(row: Row, key: str, form: str) -> str:
        return "" if row.get(key) is None else format(scale * row[key], form)

    def between(row: Row, low: str, high: str, form: str) -> str:
        ends = number(row, low, form), number(row, high, form)
        return f"[{', '.join(ends)}]" if all(ends) else ""

    rows = []
    for row in summary:
        cells = [f"{row[n]:g}" if isinstance(row[n], float) else str(row[n]) for n in names]
        cells += [str(row["n"]), number(row, f"{metric}_mean", ".2f")]
        cells += [between(row, f"{metric}_low", f"{metric}_high", ".2f")]
        if compared:
            adjusted = between(row, "difference_low_adjusted", "difference_high_adjusted", "+.2f")
            cells += [number(row, "difference", "+.2f"), adjusted, str(row["verdict"] or "")]
        rows.append(tuple(cells))
    return report.Table("Summary", header, "l" * len(names) + "rrl" + "rll" * compared, rows)
