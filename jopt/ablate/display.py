"""The plan, the progress and the summary of an ablation, as an observer receives them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jopt import report
from jopt.ablate.config import Ablation
from jopt.ablate.execute import Chunk, SegmentProgress
from jopt.ablate.files import AblationDir
from jopt.ablate.judge import Judgement
from jopt.ablate.plan import GroupPlan, plan_table
from jopt.ablate.report import axis_text, write
from jopt.ablate.results import Axis, Results, TrialRow
from jopt.ablate.trials import Trial, named
from jopt.report import formats
from jopt.report.differences import describe_mixture
from jopt.report.page import Findings, Part
from jopt.typing import Record


def plan_parts(
    ablation: Ablation,
    axes: Sequence[Axis],
    plans: Sequence[GroupPlan],
    done: Callable[[Trial], bool],
    workers: str = "",
) -> list[Part]:
    """The plan: the axes, and the groups of trials that share a program.

    Args:
      ablation: the grid.
      axes: of the grid.
      plans: one for each group.
      done: whether a trial has a result already.
      workers: where the chunks run, such as '4 workers (ray)'; '' is this process.
    """
    trials = [trial for p in plans for trial in p.group.trials]
    finished = sum(map(done, trials))
    sentence = (
        f"{ablation.name}: {len(trials):,} trials, {len(ablation.space):,} points with {len(ablation.seeds)} seeds "
        f"each, {plans[0].prepared.dataset.name}, {jax.default_backend()} x {jax.local_device_count()}"
    )
    sentence += f"; {workers}" if workers else ""
    return [sentence + (f"; {finished:,} are done" if finished else ""), axes_table(axes), plan_table(plans, done)]


@contextlib.contextmanager
def training(
    observer: report.Observer, total: int, chunks: int
) -> Iterator[Callable[[GroupPlan, Chunk], Callable[[SegmentProgress], None]]]:
    """Reports the progress of the grid in trial-steps, with the medians of loss and metrics over trials.

    Args:
      observer: receives the progress.
      total: trial-steps to do.
      chunks: chunks to do.

    Yields:
      `(plan, chunk) ->` the function that receives the progress of the chunk.
    """
    # In trial-steps, as chunks have different numbers of trials; by chunk, as several may run at once.
    trial_steps: list[int] = []
    with observer.training(total) as update:

        def start(plan: GroupPlan, chunk: Chunk) -> Callable[[SegmentProgress], None]:
            number = len(trial_steps)
            trial_steps.append(0)
            name = f"group {plan.group.index}, chunk {number + 1}/{chunks}"

            def report_progress(progress: SegmentProgress) -> None:
                trial_steps[number] = progress.segment.stop * len(chunk.trials)
                done = sum(trial_steps)
                # Rows that came from a checkpoint took no time.
                speed = progress.segment.steps * len(chunk.trials) / progress.seconds if progress.seconds else None
                for split in ("train", "validation"):
                    rows = [row for row in progress.rows if row["split"] == split]
                    if rows:
                        # A mean would follow the one trial that is about to diverge.
                        keys = [k for k in rows[0] if k not in ("trial", "stage", "step", "split")]
                        medians: dict[str, Any] = {k: float(np.median([row[k] for row in rows])) for k in keys}
                        update(done, name, medians | {"split": split, "steps_per_second": speed})

            return report_progress

        yield start


def findings(
    ablation: Ablation,
    plans: Sequence[GroupPlan],
    results: Results,
    judgement: Judgement,
    changes: Sequence[Record] = (),
) -> list[str]:
    """The sentences at the top of the terminal's summary and of both reports: results first, then the programs.

    Args:
      ablation: the grid.
      plans: one for each group.
      results: of the grid.
      judgement: of the results.
      changes: of the surroundings, that were accepted.
    """
    diverged = sum(row["status"] == "diverged" for row in results.trials)
    # Groups may have been run in different ways, which changes the last bits of their results.
    strategies = sorted({p.strategy for p in plans})
    programs = f"{len(plans)} {'program' if len(plans) == 1 else 'programs'} ({' and '.join(strategies)})"
    return [
        # Before all numbers, as it concerns each of them.
        *([describe_mixture(changes)] if changes else []),
        # Results first: a reader may stop after one line.
        *judgement.sentences,
        f"{len(results.trials):,} trials: {len(ablation.space):,} points, {len(ablation.seeds)} seeds each, "
        f"{programs}; {diverged} diverged.",
    ]


def write_report(
    files: AblationDir,
    ablation: Ablation,
    plans: Sequence[GroupPlan],
    results: Results,
    summary: Sequence[TrialRow],
    judgement: Judgement,
    command: str,
    sentences: Sequence[str],
) -> list[Path]:
    """Writes `report.md` and `report.html`; `sentences` are the result of `findings`."""
    return write(
        files.path,
        results,
        summary,
        findings=sentences,
        extra_tables=judgement.tables,
        command=command,
        confidence=ablation.confidence,
        plan=[axes_table(results.axes), groups_table(plans)],
    )


def finished_parts(
    files: AblationDir, results: Results, summary: Sequence[TrialRow], sentences: Sequence[str], seconds: float
) -> list[Part]:
    """The output at the end: the findings, the summary, and the names of the files.

    Args:
      files: of the ablation.
      results: of the ablation.
      summary: the result of `jopt.ablate.summary.summarize`.
      sentences: the result of `findings`.
      seconds: the duration of the launch.
    """
    diverged = sum(row["status"] == "diverged" for row in results.trials)
    return [
        Findings(sentences),
        summary_table(results, summary),
        f"{len(results.trials):,} trials, {diverged} diverged, {formats.duration(seconds)}",
        f"report: {files.path / 'report.html'}    tables: {files.trials}, {files.summary}",
    ]


def axes_table(axes: Sequence[Axis]) -> report.Table:
    """The axes, and whether their values are numbers in one program or make other programs."""
    rows = [(axis.name, ", ".join(axis.fields), axis.kind, axis_text(axis.values)) for axis in axes]
    return report.Table("Axes", ("axis", "field", "kind", "values"), "llll", rows)


def groups_table(plans: Sequence[GroupPlan]) -> report.Table:
    """The programs, with the strategy and the size of each."""
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


def summary_table(results: Results, summary: Sequence[TrialRow]) -> report.Table:
    """A row a point, for a terminal: the mean with its interval, and the difference with the adjusted interval."""
    names, compared = [axis.name for axis in results.axes], results.control is not None
    metric, fraction = results.metric, results.decisive.fraction
    # The header has the percent sign, so that three intervals fit a line.
    scale = 100 if fraction else 1
    # Two places are a hundredth of a point; a metric in units of its own may be far below one of them.
    digits = ".2f" if fraction or results.decisive.origin != "task" or metric.endswith("loss") else ".4g"
    # Built-in columns other than the metric do not fit a terminal; a user who added a column wants to see it.
    outside = [column for column in results.columns if column.origin == "outside"]
    header = (*names, "n", f"{metric} %" if fraction else metric, "interval")
    header += ("difference", "adjusted interval", "verdict") if compared else ()
    header += tuple(formats.titled(column) for column in outside)

    def number(row: TrialRow, key: str, form: str) -> str:
        return "" if row.get(key) is None else format(scale * row[key], form)

    def between(row: TrialRow, low: str, high: str, form: str) -> str:
        ends = number(row, low, form), number(row, high, form)
        return f"[{', '.join(ends)}]" if all(ends) else ""

    rows = []
    for row in summary:
        cells = [f"{row[n]:g}" if isinstance(row[n], float) else str(row[n]) for n in names]
        cells += [str(row["n"]), number(row, f"{metric}_mean", digits)]
        cells += [between(row, f"{metric}_low", f"{metric}_high", digits)]
        if compared:
            adjusted = between(row, "difference_low_adjusted", "difference_high_adjusted", f"+{digits}")
            cells += [number(row, "difference", f"+{digits}"), adjusted, str(row["verdict"] or "")]
        cells += [formats.text(column, row.get(f"{column.key}_mean")) for column in outside]
        rows.append(tuple(cells))
    align = "l" * len(names) + "rrl" + "rll" * compared + "r" * len(outside)
    return report.Table("Summary", header, align, rows)
