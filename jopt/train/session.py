"""A run in its directory: start or resume it, save everything, end with a result."""

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from jopt import data as data_sets
from jopt import mesh, processes
from jopt.config import require, to_dict
from jopt.remote.urls import accepts_url
from jopt.report import SILENT, Careful, Observer, attempt
from jopt.report.differences import describe_mixture
from jopt.task import Task
from jopt.train import describe, metrics, packed, profile
from jopt.train import manifest as manifests
from jopt.train.answer import answer, describe_finished
from jopt.train.checkpoint import Checkpoints
from jopt.train.compiler import Compiler, enable_cache_in_notebook
from jopt.train.config import Experiment
from jopt.train.display import (
    collect_stages,
    finished_parts,
    observe_training,
    plan_parts,
    stage_fields,
    write_report,
)
from jopt.train.given import given
from jopt.train.hooks import Hooks, OnRows, ShouldStop, ignore, never
from jopt.train.loop import Boundary, NonFiniteError, run_segments
from jopt.train.outcome import packing, result_fields, stage_outcome
from jopt.train.plan import validate
from jopt.train.prepared import Prepared, prepare
from jopt.train.result import Result
from jopt.train.schedule import Segment
from jopt.train.staging import Staging
from jopt.train.state import TrainState
from jopt.train.surroundings import mixture, surroundings
from jopt.train.watch import Watch
from jopt.train.workdir import Launch, StopRequested, Workdir, WorkdirError


@accepts_url
def run(
    config: Experiment,
    workdir: str | Path,
    *,
    data: data_sets.Dataset | data_sets.Source | None = None,
    task: Task | None = None,
    model: object = None,
    start: PyTree = None,
    accept_changes: bool = False,
    observer: Observer = SILENT,
    on_rows: OnRows = ignore,
    should_stop: ShouldStop = never,
    checkpoint_minutes: float = math.inf,
    quiet: bool = True,
    trusted: bool = False,
    profile_dir: str | Path | None = None,
    debug_nans: bool = False,
) -> Result:
    """Runs `config` in `workdir`, or resumes it from its last checkpoint, or gives its result if it is done.

    Args:
      config: the experiment.
      workdir: a new or empty directory, or one that holds a run of the same config; a path, or a URL such as
        `gs://bucket/runs/a` (docs/remote.md).
      data: the data set, as an object, instead of `config.data`: arrays (`data.Dataset.from_arrays`) or a config.
      task: the task instead of `config.task`.
      model: the model instead of `config.model`: a config, a `models.Model`, or a module.
      start: arrays that the network begins with: parameters, `(parameters, model_state)`, or a dictionary of names
        and arrays; the rules of `config.start` hold for them, where there are some.
      accept_changes: resume even if the data, a source, a version, an option of JAX or the kind of device is not
        what it was: the result then mixes both, and its field `changes` names what changed.
      observer: is told what happens; `jopt.report.Console()` prints it.
      on_rows: called with the metric rows of each boundary once they are written; what it raises ends the run.
      should_stop: asked at each boundary, with its rows (before the first step with none); once it says True, the
        state is saved and the run ends as "stopped". The library handles no signals: the apps pass what tells
        whether one has come. See docs/hooks.md.
      checkpoint_minutes: save also at the end of a segment when so many minutes have passed since the last
        checkpoint; infinite: only where the config says so. It changes no number of the run.
      quiet: has no effect: without an observer nothing is printed.
      trusted: lifts the rules for the foreign files that `config` names (`docs/security.md`).
      profile_dir: a new or empty directory for a trace, by JAX's profiler, of one segment: the first whose program
        this process has run before, or else the first. It changes no number of the run.
      debug_nans: if a loss is not finite, replay the segment to find the first operation at fault: it is in the
        error's field `finding` and in the manifest. The state at the start of each segment is kept on the host.

    Returns:
      What `result.json` holds: loss and the task's metrics on the test part, parameters, nonzero_parameters,
      sparsity, bytes (of the packed file where the config asks for one, else of the dense parameters), flops (of
      one example, forward), wall_seconds, compile_seconds, digest, the config's own columns, `stages` where there
      are several, and `changes` of the surroundings that were accepted, if there were any. `history` has the metric
      rows, `figures` those of the report.

    Raises:
      ConfigError, RuleError: for a config that cannot run, before anything is compiled or written.
      WorkdirError: if the directory holds something else; nothing in it is changed.
      ChangedError: if a resume would mix other data, versions or numerics into the run; nothing is changed.
      NonFiniteError: if a loss is not finite, naming the step and the last good checkpoint.
      StopRequested: after `should_stop` said True, when the state has been saved.
    """
    del quiet
    begun = time.perf_counter()
    enable_cache_in_notebook()
    accepted = "a number of minutes; 0 is after every segment, and infinity never"
    require(checkpoint_minutes >= 0, "checkpoint_minutes", checkpoint_minutes, accepted)
    trace = None if profile_dir is None else profile.claim(profile_dir)
    # A finished run is answered before its data are read or anything is built: it may be asked for many times.
    files, observer = Workdir(workdir), Careful(observer)
    config, functions, dataset = given(config, data=data, task=task, model=model)
    preparing = functools.partial(prepare, config, model=functions, dataset=dataset, start=start, trusted=trusted)
    processes.same("the config", to_dict(config))
    if processes.agree(files.check(config) and files.result.exists(), "whether the run is finished"):
        if not processes.is_primary():
            return Result(files.load_result(), files.path, config.task)
        if trace is not None:
            observer.warn(f"{files.path} holds a finished run, so {trace} gets no trace")
        return Result(answer(config, files, observer, preparing), files.path, config.task)
    # Data are prepared once, and then read by all.
    if dataset is None and processes.count() > 1:
        validate(config)
        with processes.primary_first("the data"):
            preparing = functools.partial(preparing, dataset=data_sets.load(config.data, trusted=trusted))
    prepared = preparing()
    processes.same("the data and what numbers depend on", _alike(prepared, files))
    observer.plan(lambda: plan_parts(prepared))
    # Loading data and tracing may take minutes, in which a signal may have come.
    hooks = Hooks(on_rows, should_stop)
    if processes.any_of(hooks.stop()):
        raise StopRequested("stopped as asked, before the first step")
    if not processes.is_primary():
        if processes.agree(None, "the run's directory"):
            return Result(files.load_result(), files.path, config.task)
        processes.shared(files.path)
        return Result(_Session(prepared, files, SILENT, begun, hooks.stop).run(), files.path, config.task)
    files.make()
    with files.locked():
        # Checked a second time, under the lock: another process may have started or finished the run meanwhile.
        is_begun = files.check(config)
        if not is_begun:
            files.create(config)
        if processes.agree(is_begun and files.result.exists(), "the run's directory"):
            return Result(answer(config, files, observer, lambda: prepared, locked=True), files.path, config.task)
        processes.shared(files.path)
        # Not before: a directory within that of the run would make it look like one of something else.
        if trace is not None:
            profile.make(trace)
        session = _Session(
            prepared,
            files,
            observer,
            begun,
            hooks.stop,
            accept_changes,
            checkpoint_minutes,
            trace,
            debug_nans,
            on_rows=hooks.tell,
        )
        return Result(session.run(), files.path, config.task)


def _alike(prepared: Prepared, files: Workdir) -> dict[str, Any]:
    """What the processes of a run must have alike."""
    if processes.count() == 1:
        return {}
    return surroundings(manifests.collect(prepared.config, prepared.dataset.fingerprint, files.path))


class InvariantError(RuntimeError):
    """A stage's methods broke their own invariant: a defect, never a matter of the config."""


@dataclasses.dataclass
class _Session:
    """One process's part of a run.

    Attributes:
      begun: when the process started on the run, by `time.perf_counter`.
      stop_requested: whether to save and leave at the next boundary.
      accept_changes: whether to resume in other surroundings.
      checkpoint_minutes: the longest time without a checkpoint, at boundaries.
      trace: the directory for the profiler's trace, or None.
      debug_nans: whether to look for the first bad operation of a diverged run.
      on_rows: told of the rows of each boundary.
      spent: seconds that earlier processes spent on the run.
      step: the step that the run has reached.
      evaluations: `(step, numbers)` of the validation part, oldest first, by stage.
      saved: when the last checkpoint was saved or this process started, by `time.monotonic`.
    """

    prepared: Prepared
    files: Workdir
    observer: Observer
    begun: float
    stop_requested: Callable[[], bool]
    accept_changes: bool = False
    checkpoint_minutes: float = math.inf
    trace: Path | None = None
    debug_nans: bool = False
    on_rows: OnRows = ignore
    compiler: Compiler = dataclasses.field(default_factory=Compiler)
    spent: dict[str, float] = dataclasses.field(
        default_factory=lambda: {"wall_seconds": 0.0, "compile_seconds": 0.0}
    )
    step: int = 0
    evaluations: dict[int, list[tuple[int, Mapping[str, Any]]]] = dataclasses.field(default_factory=dict)
    saved: float = dataclasses.field(default_factory=time.monotonic)

    def run(self) -> dict[str, Any]:
        p = self.prepared
        self.ends = [segment.mark for segment in p.segments if segment.last]
        # What several processes compute, the primary writes and all read.
        self.writes = processes.is_primary()
        self.log = metrics.Log(self.files.metrics, writes=self.writes)
        self.compiler.waits = p.spread.mesh is not None and p.spread.mesh.size > 1
        self.compiler.options, self.compiler.joins = p.spread.compiler_options, p.spread.shards is not None
        # Read and compared before anything changes: to open the checkpoints removes what a crash left of them.
        launch = Launch(self.files, self._facts())
        if self.writes:
            self._check_model(launch.first)
            if self.files.has_checkpoints():
                launch.admit(accept=self.accept_changes)
        keep = p.config.keep_checkpoints
        with (
            Checkpoints(self.files.checkpoints, keep, self.ends, writes=self.writes) as self.checkpoints,
            contextlib.ExitStack() as resources,
        ):
            self.staging = resources.enter_context(Staging(p, self.compiler, self._end_of))
            self.watch = Watch(self.staging, self.observer, trace=self.trace, debug_nans=self.debug_nans)
            state, last, rows = self._restore()
            if launch.changes and last is not None:
                self.observer.warn(describe_mixture([change._asdict() for change in launch.changes]))
            with (
                self._recorded(launch, rows, continues=last is not None),
                self.compiler.ahead(self.staging.calls.ahead(last)),
            ):
                segments = p.segments if last is None else [s for s in p.segments if s.mark > last.mark]
                state = run_segments(
                    self.staging,
                    segments,
                    self._at_boundary,
                    around=self.watch.around(segments),
                    state=state,
                    stage=None if last is None else last.stage,
                )
                result = self._finish(state)
        self.observer.finished(lambda: finished_parts(self.files, result, p.config.columns, task=p.task))
        return result

    @contextlib.contextmanager
    def _recorded(self, launch: Launch, rows: list[metrics.MetricsRow], *, continues: bool) -> Iterator[None]:
        """Records the launch in the manifest, and shows the rows of metrics."""
        if not self.writes:
            self.manifest, self.shown = dict(launch.facts), ignore
            yield
            return
        with (
            launch.recorded(self._compilations, continues=continues, step=lambda: self.step) as self.manifest,
            observe_training(self.observer, self.prepared, self.files, rows) as self.shown,
        ):
            yield

    def _end_of(self, stage: int) -> TrainState:
        """The state that a stage ended in, from its checkpoint."""
        # The state in memory would be the same, but only if this process trained the stage. Reading it in both
        # cases means that a killed run and an uninterrupted one go through the same code, and so end in the same
        # bits.
        self.checkpoints.wait()
        processes.barrier("the end of a stage")
        return self.checkpoints.restore(self.prepared.end_of(stage).mark, self.prepared.like(stage)).state

    def _restore(self) -> tuple[TrainState | None, Segment | None, list[metrics.MetricsRow]]:
        """The state to resume from, the segment that ended there, and the metric rows up to it."""
        p, restored = self.prepared, None
        # The result tells of the end of every stage, and later stages start from them.
        if self.writes:
            restored, sentences = self.checkpoints.restore_latest(
                lambda mark: p.like_of(self.files.checkpoints / str(mark)), self.ends
            )
            for sentence in sentences:
                self.observer.warn(sentence)
        mark = processes.agree(None if restored is None else restored.step, "the checkpoint")
        if mark is None:
            return None, None, self._rows_up_to(None, None)
        last = p.boundary(mark)
        if restored is None:
            restored = self.checkpoints.restore(mark, p.like(last.stage))
        self.step = last.stop
        self.spent = {name: restored.notes[name] for name in self.spent}
        self.observer.note(f"resuming from the checkpoint of step {last.stop:,}")
        rows = processes.agree(self._rows_up_to(last, restored.notes), "the rows")
        for row in rows:
            if row["split"] == "validation":
                stage = p.stage_named(row["stage"]).index
                self.evaluations.setdefault(stage, []).append((row["step"], row))
        return p.place(last.stage, restored.state), last, rows

    def _rows_up_to(self, last: Segment | None, notes: Mapping[str, Any] | None) -> list[metrics.MetricsRow]:
        # Rows of segments that were trained after the checkpoint are written again.
        end = (-1, 0) if last is None else (last.stage, last.stop)

        def is_kept(row: metrics.MetricsRow) -> bool:
            stage, step = metrics.position(row)
            return (self.prepared.stage_named(stage).index, step) <= end

        try:
            return self.log.resume(notes, is_kept)
        except (ValueError, KeyError, TypeError, StopIteration) as error:
            remedy = f"restore it from a copy, or remove {self.files.checkpoints} to start over"
            raise WorkdirError(f"{self.files.metrics} is damaged: {error}; {remedy}") from error

    @property
    def _given(self) -> list[str]:
        p = self.prepared
        return ["model"] * (p.own_model is not None) + ["start"] * (p.start is not None and p.start.is_object)

    def _check_model(self, first: Mapping[str, Any] | None) -> None:
        """Raises WorkdirError where one launch was given a custom model and another was not."""
        if first is not None and (first.get("given") or []) != self._given:
            before, now = (", ".join(names or []) or "nothing" for names in (first.get("given"), self._given))
            raise WorkdirError(
                f"{self.files.path} holds a run that was given {before} in addition to its config; now it is given "
                f"{now}"
            )

    def _facts(self) -> dict[str, Any]:
        p = self.prepared
        return manifests.collect(p.config, p.dataset.fingerprint, self.files.path) | {
            "given": self._given,
            "sources": p.source_digests,
            # Where the number of shards fixes the bits, the mesh is no part of what they depend on.
            **({} if p.spread.mesh is None or p.config.shards else {"mesh": p.spread.describe()}),
        }

    def _compilations(self) -> dict[str, Any]:
        return {"compilations": dict(sorted(self.compiler.counts.items())), **self.watch.facts()}

    def _times(self) -> dict[str, float]:
        """Seconds that went into the run up to here, those of earlier processes included."""
        return {
            "wall_seconds": self.spent["wall_seconds"] + time.perf_counter() - self.begun,
            "compile_seconds": self.spent["compile_seconds"] + self.compiler.seconds,
        }

    def _at_boundary(self, boundary: Boundary) -> TrainState:
        segment = boundary.segment
        stage = self.prepared.plans[segment.stage].name
        rows = []
        if boundary.train is not None:
            bad = int(boundary.train.pop("first_bad_step"))
            if bad >= 0:
                raise self._not_finite("training", bad, boundary)
            # Losses that are finite, of which the mean is not.
            if not np.isfinite(boundary.train["loss"]):
                raise self._not_finite("training", segment.stop - 1, boundary)
            rows.append(_row(segment.stop, stage, "train", boundary.train))
            rows[0]["steps_per_second"] = segment.steps / boundary.seconds
        if boundary.validation is not None:
            if not np.isfinite(boundary.validation["loss"]):
                raise self._not_finite("validation", segment.stop - 1, boundary)
            rows.append(_row(segment.stop, stage, "validation", boundary.validation))
            self.evaluations.setdefault(segment.stage, []).append((segment.stop, boundary.validation))
            boundary = boundary._replace(state=self._stopped_early(boundary))
        # Before the row and the checkpoint are written: a stage that breaks its own promise must not look finished.
        if segment.last:
            self._check(segment.stage, boundary.state)
        self.log.append(rows)
        self.step = segment.stop
        self.shown(rows)
        self.on_rows(rows)
        stop = processes.any_of(self.stop_requested(), "whether to stop")
        if segment.checkpoint or stop or self._overdue():
            # A stop may come where nothing is evaluated; such a checkpoint is no candidate for the best.
            notes = {"score": self._score(boundary.validation), **self._times(), **self.log.position}
            self.checkpoints.save(segment.mark, boundary.state, notes)
            self.saved = time.monotonic()
        if stop:
            self.checkpoints.wait()
            raise StopRequested(
                f"stopped at step {self.step} as asked, and saved; the same command resumes from there"
            )
        return boundary.state

    def _stopped_early(self, boundary: Boundary) -> TrainState:
        """The state, moved to the stage's last step if the deciding metric no longer improves."""
        plan, state = self.prepared.plans[boundary.segment.stage], boundary.state
        if plan.early_stopping is None or boundary.segment.last:
            return state
        deciding = plan.task.deciding
        history = self.evaluations[plan.index]
        values = [float(numbers.get(deciding.key, math.nan)) for step, numbers in history if step > plan.settled]
        if not processes.agree(plan.early_stopping.is_over(deciding, values), "whether the stage is over"):
            return state
        self.observer.note(f"stage {plan.name!r} stopped early at step {boundary.segment.stop:,}: {deciding.label}")
        return state._replace(step=self.prepared.to_device(np.int32(plan.stop)))

    def _score(self, validation: Mapping[str, Any] | None) -> float:
        """The deciding metric, the higher the better."""
        deciding = self.prepared.task.deciding
        value = math.nan if validation is None else float(validation[deciding.key])
        if math.isnan(value):
            return -math.inf
        return value if deciding.better == "higher" else -value

    def _overdue(self) -> bool:
        """Whether the time since the last checkpoint, or since the start, calls for one."""
        overdue = time.monotonic() - self.saved >= 60 * self.checkpoint_minutes
        return processes.agree(overdue, "whether a checkpoint is due")

    def _check(self, stage: int, state: TrainState) -> None:
        """Raises InvariantError unless the invariants of the stage's methods hold in what the model sees."""
        plan = self.prepared.plans[stage]
        if not plan.transforms:
            return
        seen = mesh.whole(self.staging.seen(stage, state).params)
        problems = describe.find_violations(plan, mesh.whole(state.transform_state), seen)
        if problems:
            raise InvariantError(f"at the end of stage {plan.name!r}: {'; '.join(problems[:5])}")

    def _not_finite(self, part: str, step: int, boundary: Boundary) -> NonFiniteError:
        self.checkpoints.wait()
        steps = self.checkpoints.steps
        last = "no checkpoint was saved"
        if steps:
            last = f"the last good checkpoint is {self.files.checkpoints / str(steps[-1])}"
        why = self.watch.explain(part, boundary.segment.stage, step, boundary.state)
        error = NonFiniteError(f"the {part} loss is not finite at step {step} (counted from 0); {last}{why}")
        error.finding = self.watch.finding
        return error

    def _finish(self, state: TrainState) -> dict[str, Any]:
        p = self.prepared
        # `result.json` says that the run is finished, so everything that it describes must be on disk before it.
        self.checkpoints.wait()
        last, state = len(p.plans) - 1, mesh.whole(state)
        outcomes = [
            stage_outcome(p, self.staging, stage, state if stage == last else self._end_of(stage))
            for stage in range(last + 1)
        ]
        if not np.isfinite(outcomes[-1].metrics["loss"]):
            raise self._not_finite("test", self.step - 1, Boundary(p.end_of(last), state, None, None, 0.0))
        seen = mesh.whole(self.staging.seen(last, state)) if p.config.pack else None
        if not self.writes:
            return processes.agree(dict[str, Any](), "the result")
        # A run that was killed after this row was written would write it a second time.
        if not any(row["split"] == "test" for row in metrics.read(self.files.metrics)):
            rows = [_row(self.step, p.plans[last].name, "test", outcomes[-1].metrics)]
            self.log.append(rows)
            self.shown(rows)
            self.on_rows(rows)
        ledger = None
        if seen is not None:
            ledger = packed.save(self.files.packed, packing(p, last, state, jax.device_get(seen)))
        result = result_fields(outcomes[-1], state, self._times(), None if ledger is None else ledger.total)
        # As in the rows, but under its name: who reads a result asks for the task's metrics.
        result |= {key: None for key, value in outcomes[-1].metrics.items() if not np.isfinite(value)}
        if changes := mixture(self.manifest):
            result["changes"] = changes
        self.manifest["digest"] = result["digest"]
        stages = collect_stages(p, outcomes, self.observer, p.config.columns)
        result |= stage_fields(stages, p.config.columns)
        self.files.write_result(result, str(self.log.position["metrics_sha256"]))
        with attempt(self.observer, f"{describe_finished(self.files)}, but its report cannot be written"):
            write_report(p, self.files, self.manifest, result, outcomes, stages, ledger, p.config.columns)
        processes.agree(result, "the result")
        return result


def _row(step: int, stage: str, split: str, values: Mapping[str, Any]) -> metrics.MetricsRow:
    # JSON has no NaN: a metric that is not defined (0 / 0 hits, say) is absent from the row.
    numbers = {name: float(values[name]) for name in ("loss", *values) if np.isfinite(values[name])}
    return {"step": step, "stage": stage, "split": split, **numbers}
