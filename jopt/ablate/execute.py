"""One chunk: trials that train together, from the first segment or from a checkpoint to a result."""

import functools
import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from jopt import hyper, measure
from jopt.ablate.lift import Layout, Lift
from jopt.ablate.trials import Trial
from jopt.committed import announce
from jopt.files import make_directory, seal, sweep, write_json
from jopt.train import describe, metrics, packed
from jopt.train.checkpoint import Checkpoints
from jopt.train.compiler import Compiler
from jopt.train.config import STAGE
from jopt.train.display import flops_of
from jopt.train.hooks import Hooks
from jopt.train.loop import Boundary, run_segments
from jopt.train.plan import StagePlan, with_layers
from jopt.train.prepared import Prepared, resolve
from jopt.train.program import Program
from jopt.train.schedule import Segment
from jopt.train.session import InvariantError
from jopt.train.sharing import Widening
from jopt.train.staging import Staging
from jopt.train.state import TrainState, Variables, digest, to_host
from jopt.train.workdir import StopRequested, WorkdirError

T = TypeVar("T")


class Chunk(NamedTuple):
    """Trials of one group that are run together.

    Attributes:
      trials: at least one; the last chunk may have fewer than `width` and is padded.
      width: trials in the program.
      layout: how they share the devices.
      prepared: one trial of the group, ready to run.
    """

    trials: Sequence[Trial]
    width: int
    layout: Layout
    prepared: Prepared

    @property
    def id(self) -> str:
        """The name of the chunk's directory: a hash of everything that decides the content of its checkpoints."""
        # Not of the devices: they change neither shapes nor bits, so a chunk resumes on any number of them.
        names = " ".join(trial.id for trial in self.trials)
        return hashlib.sha256(f"{names} {self.width} {self.layout.lanes}".encode()).hexdigest()[:12]


class SegmentProgress(NamedTuple):
    """The progress of a chunk, after each segment.

    Attributes:
      segment: the segment that ended.
      rows: its metric rows, of the trials that have not diverged.
      seconds: the time that its steps took, compilation excluded; 0 for rows that were read from a file.
    """

    segment: Segment
    rows: list[metrics.MetricsRow]
    seconds: float


def lifted(chunk: Chunk, lift: Lift) -> Prepared:
    """The chunk's run: programs over trials, with each trial's numbers."""
    p = chunk.prepared
    # Padded with a trial that exists: its numbers are valid, and all chunks of a group share one compiled program.
    padded = [*chunk.trials, *[chunk.trials[-1]] * (chunk.width - len(chunk.trials))]
    numbers = [hyper.split(trial.config)[1] for trial in padded]
    values = {path: np.stack([trial_numbers[path] for trial_numbers in numbers]) for path in numbers[0]}

    # A teacher from an earlier stage differs from trial to trial; one from a file is shared.
    def own_teacher(stage: int) -> bool:
        distillation = p.plans[stage].distillation
        return distillation is not None and distillation.teacher.startswith(STAGE)

    def stop_of(stage: int) -> int | None:
        return None if p.plans[stage].early_stopping is None else p.plans[stage].stop

    def options(stage: int) -> dict[str, Any]:
        streamed = p.dataset.residency == "host"
        return {"own_teacher": own_teacher(stage), "stop": stop_of(stage), "streamed": streamed}

    @functools.cache
    def program_of(stage: int, steps: int) -> Program:
        return lift.program(p.program_of(stage, steps), **options(stage))

    @functools.cache
    def segment_of(stage: int, steps: int) -> Callable[..., Any]:
        return lift.segment(p.segment_of(stage, steps), **options(stage))

    def like(stage: int) -> TrainState:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((chunk.width, *x.shape), x.dtype), p.like(stage))

    @functools.cache
    def widening(stage: int) -> Widening | None:
        one_trial = p.widening(stage)
        return None if one_trial is None else one_trial.over_trials()

    return p._replace(
        values=lift.place(values),
        widening=widening,
        arrays=lift.share(p.arrays),
        start=None if p.start is None else p.start.placed(lift.share),
        program_of=program_of,
        segment_of=segment_of,
        to_device=lift.place,
        place=lambda stage, tree: lift.place(tree),
        shardings=lambda stage, tree: jax.tree.map(lambda _: lift.split, tree),
        like=like,
    )


class ChunkRun:
    """One process's part of a chunk."""

    def __init__(
        self,
        chunk: Chunk,
        directory: Path,
        compiler: Compiler,
        report: Callable[[SegmentProgress], None],
        hooks: Hooks,
        warn: Callable[[str], None] = lambda sentence: None,
        failed: Callable[[str, str, Exception], None] | None = None,
    ):
        """Nothing is computed yet.

        Args:
          chunk: the trials.
          directory: `chunks/`, the parent of the chunk's directory.
          compiler: compiles each function once, for all chunks of the group of the same width and layout.
          report: called after each segment.
          hooks: told of the rows of each boundary, and asked whether to save and stop there.
          warn: receives a sentence on each checkpoint that was damaged.
          failed: told of columns from outside that cannot be computed, as in `jopt.measure.stage_rows`.
        """
        self.chunk, self.compiler, self.report, self.hooks = chunk, compiler, report, hooks
        self.warn, self.failed = warn, failed
        self.path = directory / chunk.id
        self.metrics = self.path / "metrics.jsonl"
        self.log = metrics.Log(self.metrics)
        self.lift = Lift(chunk.layout)
        # Kept on the host and saved with the state: a lane continues to compute after its trial has diverged.
        self.bad = np.full(chunk.width, -1, np.int32)
        # Trials that were stopped early in the stage that runs, and what its evaluations gave: `(step, values)`.
        self.frozen = np.zeros(chunk.width, bool)
        self.evaluations: list[tuple[int, np.ndarray]] = []
        self.prepared = lifted(chunk, self.lift)

    def run(self) -> None:
        """Runs the chunk to its end, and writes `result.json`."""
        p = self.prepared
        make_directory(self.path)
        sweep(self.path)
        names = [trial.id for trial in self.chunk.trials]
        about = {"id": self.chunk.id, "trials": names, "width": self.chunk.width, **self.chunk.layout._asdict()}
        # The time of this file tells which of two plans is newer, so a resume must not write it again.
        if not (self.path / "chunk.json").exists():
            write_json(self.path / "chunk.json", about)
        # The ends of stages stay on disk: later stages rewind to them or are taught by them.
        self.ends = [segment.mark for segment in p.segments if segment.last]
        with (
            Checkpoints(self.path / "checkpoints", 1, self.ends) as self.checkpoints,
            Staging(p, self.compiler, self._end_of, over=self.lift) as self.staging,
        ):
            state, at, rows = self._restore()
            if at is not None:
                self.report(SegmentProgress(at, rows, 0.0))
            with self.compiler.ahead(self.staging.calls.ahead(at)):
                state = run_segments(
                    self.staging,
                    p.segments if at is None else [s for s in p.segments if s.mark > at.mark],
                    self._at_boundary,
                    state=state,
                    stage=None if at is None else at.stage,
                )
            self.checkpoints.wait()
            trial_results = self._outcomes(state)
        # The result before the removal: an interruption between the two costs disk space and no training.
        write_json(self.path / "result.json", seal(about | {"trials": trial_results}))
        shutil.rmtree(self.path / "checkpoints", ignore_errors=True)
        self.metrics.unlink(missing_ok=True)
        announce(self.path)

    def _restore(self) -> tuple[TrainState | None, Segment | None, list[metrics.MetricsRow]]:
        p = self.prepared
        bad = jax.ShapeDtypeStruct((self.chunk.width,), np.int32)
        restored, sentences = self.checkpoints.restore_latest(
            lambda mark: {"state": p.like_of(self.path / "checkpoints" / str(mark)), "bad": bad}, self.ends
        )
        for sentence in sentences:
            self.warn(sentence)
        if restored is None:
            # Rows before the first checkpoint will be written again, and must not be counted twice.
            return None, None, self.log.resume(None, lambda row: False)
        at = p.boundary(restored.step)
        self.bad = np.array(restored.state["bad"])
        restored_at = (at.stage, at.stop)

        # Rows are appended before the checkpoint is saved, so the file may be one segment ahead of it.
        def is_kept(row: metrics.MetricsRow) -> bool:
            stage, step = metrics.position(row)
            return (p.stage_named(stage).index, step) <= restored_at

        try:
            rows = self.log.resume(restored.notes, is_kept)
        except (ValueError, KeyError, TypeError, StopIteration) as error:
            remedy = f"restore it from a copy, or remove {self.path} to run the chunk again"
            raise WorkdirError(f"{self.metrics} is damaged: {error}; {remedy}") from error
        self._recall(at, restored.state["state"], rows)
        return p.to_device(restored.state["state"]), at, rows

    def _recall(self, at: Segment, state: TrainState, rows: Sequence[metrics.MetricsRow]) -> None:
        """What was known of the stage in which the chunk goes on: its evaluations, and which trials stopped."""
        if at.last:
            return
        plan = self.prepared.plans[at.stage]
        self.frozen = np.asarray(state.step) > at.stop
        index = {trial.id: i for i, trial in enumerate(self.chunk.trials)}
        for step in sorted({row["step"] for row in rows if row["stage"] == plan.name}):
            # A trial without a row was stopped before, or diverged: its values are not looked at.
            values = np.full(self.chunk.width, np.nan)
            for row in rows:
                if (row["stage"], row["step"], row["split"]) == (plan.name, step, "validation"):
                    values[index[row["trial"]]] = row[plan.task.deciding.key]
            if not np.isnan(values).all():
                self.evaluations.append((step, values))

    def _end_of(self, stage: int) -> TrainState:
        # Saving is asynchronous: the end of the stage may still be on its way to the disk.
        self.checkpoints.wait()
        like = {"state": self.prepared.like(stage), "bad": jax.ShapeDtypeStruct((self.chunk.width,), np.int32)}
        return self.checkpoints.restore(self.prepared.end_of(stage).mark, like).state["state"]

    def _at_boundary(self, boundary: Boundary) -> TrainState:
        segment, stage = boundary.segment, self.prepared.plans[boundary.segment.stage].name
        parts = {"train": boundary.train, "validation": boundary.validation}
        if boundary.train is not None:
            self._mark(boundary.train["first_bad_step"])
            # Finite losses can have a mean that overflows; the last step then counts as the bad one.
            self._mark(np.where(np.isfinite(boundary.train["loss"]), -1, segment.stop - 1))
        if boundary.validation is not None:
            finite = np.isfinite(boundary.validation["loss"])
            self._mark(np.where(finite, -1, max(segment.stop - 1, 0)).astype(np.int32))
        task = self.prepared.task
        names = [metric.key for metric in (task.loss_metric, *task.metrics)]
        rows = [
            {"trial": trial.id, "stage": stage, "step": segment.stop, "split": split}
            # JSON has no NaN: a metric that is not defined is absent, as in the rows of a run.
            | {name: float(values[name][i]) for name in names if name in values and np.isfinite(values[name][i])}
            for split, values in parts.items()
            if values is not None
            for i, trial in enumerate(self.chunk.trials)
            if self.bad[i] < 0 and not self.frozen[i]
        ]
        boundary = boundary._replace(state=self._stopped_early(boundary))
        if segment.last:
            self._check(segment.stage, boundary.state)
        self.log.append(rows)
        self.hooks.tell(rows)
        stop = self.hooks.stop()
        # Only the best checkpoint is kept. A resume needs the latest, so the mark stands in for its score.
        state = {"state": boundary.state, "bad": self.bad}
        self.checkpoints.save(segment.mark, state, {"score": float(segment.mark), **self.log.position})
        self.report(SegmentProgress(segment, rows, boundary.seconds))
        if stop:
            self.checkpoints.wait()
            raise StopRequested("stopped as asked, and saved; the same command continues from there")
        return boundary.state

    def _stopped_early(self, boundary: Boundary) -> TrainState:
        """The state, with the stage's last step for each trial whose deciding metric no longer improves."""
        segment, state, plan = boundary.segment, boundary.state, self.prepared.plans[boundary.segment.stage]
        if plan.early_stopping is None or segment.last:
            self.frozen[:], self.evaluations = False, []
            return state
        if boundary.validation is None:
            return state
        deciding = plan.task.deciding
        self.evaluations.append((segment.stop, np.asarray(boundary.validation[deciding.key])))
        for i, trial in enumerate(self.chunk.trials):
            # A trial's own numbers say when its schedules have ended.
            settled = self._plan(trial, segment.stage).settled
            values = [float(numbers[i]) for step, numbers in self.evaluations if step > settled]
            self.frozen[i] |= self.bad[i] < 0 and plan.early_stopping.is_over(deciding, values)
        # Lanes without a trial must not keep the others from ending.
        count = len(self.chunk.trials)
        self.frozen[count:] = self.frozen[:count].all()
        steps = np.where(self.frozen, plan.stop, np.asarray(state.step)).astype(np.int32)
        return state._replace(step=self.prepared.to_device(steps))

    def _mark(self, steps: np.ndarray) -> None:
        """Records the step of each trial whose loss was not finite; -1 is none."""
        # The first step stays: everything after it follows from it.
        self.bad = np.where((self.bad < 0) & ~self.frozen & (steps >= 0), steps, self.bad).astype(np.int32)

    def _check(self, stage: int, state: TrainState) -> None:
        """Raises InvariantError unless each trial's weights obey its masks, codebooks and bit widths."""
        # At the end of a stage only: the comparison needs all weights on the host.
        if not self.prepared.plans[stage].transforms:
            return
        masks, seen = jax.device_get((state.transform_state, self.staging.seen(stage, state).params))
        for i, trial in enumerate(self.chunk.trials):
            if self.bad[i] < 0:
                plan = self._plan(trial, stage)
                problems = describe.find_violations(plan, _row(masks, i), _row(seen, i))
                if problems:
                    where = f"trial {trial.id}, at the end of stage {plan.name!r}"
                    raise InvariantError(f"{where}: {'; '.join(problems[:5])}")

    def _plan(self, trial: Trial, stage: int) -> StagePlan:
        """A stage of a trial, with the numbers of that trial."""
        p = self.chunk.prepared
        plans = resolve(trial.config, p.dataset.sizes[0], p.own_model)
        return with_layers(plans, [plan.layers for plan in p.plans])[stage]

    def _outcomes(self, state: TrainState) -> list[dict[str, Any]]:
        """A row and the curves of each trial."""
        p = self.prepared
        last = len(p.plans) - 1
        judgement = self.staging.judge(last, state, "test")._replace(predictions=())
        test = self.staging.measured(last, jax.device_get(judgement), "test")
        self._mark(np.where(np.isfinite(test["loss"]), -1, max(p.segments[-1].stop - 1, 0)).astype(np.int32))
        seen = jax.device_get(self.staging.seen(last, state))
        # Moments of the optimizer belong to no result, and may be twice as large as the network.
        ends = to_host(state._replace(opt_state=()))
        host = {"params": ends.params, "model_state": ends.model_state, "ema": ends.ema}
        by_layer = flops_of(self.chunk.prepared, last)
        # From the file and not from memory: the rows before an interruption are in no process any more.
        curves: dict[str, list[metrics.MetricsRow]] = {trial.id: [] for trial in self.chunk.trials}
        for row in metrics.read(self.metrics):
            curves[row["trial"]].append({k: v for k, v in row.items() if k != "trial"})
        trial_results = []
        for i, trial in enumerate(self.chunk.trials):
            row: dict[str, Any] = {"trial": trial.id, "status": "diverged", "diverged_step": int(self.bad[i])}
            if self.bad[i] < 0:
                test_metrics = {n: float(v[i]) if np.isfinite(v[i]) else None for n, v in test.items()}
                row |= {"status": "finished", "diverged_step": None, **test_metrics}
                row |= _last(curves[trial.id])
                row |= self._columns(trial, self._plan(trial, last), _row(ends, i), _row(seen, i), by_layer)
                row |= {"steps": p.segments[-1].stop, "digest": digest(_row(host, i))}
            trial_results.append({"row": row, "curves": curves[trial.id]})
        return trial_results

    def _columns(
        self, trial: Trial, plan: StagePlan, state: TrainState, seen: Variables, by_layer: Mapping[str, int]
    ) -> dict[str, Any]:
        """The columns that are computed from a trial's network, with the weights that the model computes with."""
        formats, length = packed.storage(plan, state), None
        if trial.config.pack:
            packing = packed.Packing(trial.config, plan, *seen, self.chunk.prepared.dataset, formats)
            length = packed.encode(packing).ledger.total
        outcome = measure.StageOutcome(
            plan.name,
            seen.params,
            grids=packed.grids(formats) or None,
            flops=by_layer,
            bytes=length,
            layers=plan.layers,
        )
        return measure.trial_row(outcome, columns=trial.config.columns, failed=self.failed, task=plan.task)


def _last(curves: Sequence[metrics.MetricsRow]) -> dict[str, float]:
    """The last losses and metrics of training and validation."""
    rows = {row["split"]: row for row in curves}
    metrics_row = {}
    if "validation" in rows:
        values = {k: v for k, v in rows["validation"].items() if k not in ("step", "stage", "split")}
        metrics_row |= {f"validation_{name}": value for name, value in values.items()}
    if "train" in rows:
        metrics_row["train_loss"] = rows["train"]["loss"]
    return metrics_row


def _row(tree: T, index: int) -> T:
    return jax.tree.map(lambda x: x[index], tree)
