"""A run in its directory: start or go on, keep everything, end with a result."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jopt import data, measure, models
from jopt.files import write_json
from jopt.report import SILENT, Observer
from jopt.train import codes, compression, metrics, packed
from jopt.train import manifest as manifests
from jopt.train.checkpoint import Checkpoints
from jopt.train.compilation import Compiler
from jopt.train.config import Experiment
from jopt.train.display import finished_parts, flops_of, numbers, plan_parts, training, write_report
from jopt.train.loop import Boundary, NonFiniteError, run_segments
from jopt.train.prepared import Prepared, prepare
from jopt.train.schedule import Segment
from jopt.train.signals import StopRequested, stop_on_sigterm
from jopt.train.staging import Staging
from jopt.train.state import TrainState, Variables, digest, evaluated
from jopt.train.workdir import Workdir, WorkdirError
from jopt.transform import ParamTransform


def run(
    config: Experiment,
    workdir: str | Path,
    *,
    model: models.Model | None = None,
    transform: Callable[[Experiment, int], ParamTransform] | None = None,
    observer: Observer = SILENT,
    quiet: bool = False,
) -> dict[str, Any]:
    """Runs `config` in `workdir`, or goes on with it from its last checkpoint, or gives its result if it is done.

    Args:
      config: the experiment.
      workdir: a new or empty directory, or one that holds a run of the same config.
      model: a model of one's own, instead of `config.model`.
      transform: `(experiment, stage) -> ParamTransform`; updated before every segment.
      observer: is told what goes on; `jopt.report.Console()` prints it.
      quiet: without effect, as nothing is printed without an observer.

    Returns:
      What `result.json` holds: accuracy and loss on the test part, parameters, nonzero_parameters, sparsity, bytes
      (of the packed file where the config asks for one, else of the dense parameters), flops (of one example,
      forward), wall_seconds, compile_seconds, digest.

    Raises:
      ConfigError, RuleError: for a config that cannot run, before anything is compiled or written.
      WorkdirError: if the directory holds something else; nothing in it is changed.
      NonFiniteError: if a loss is not finite, naming the step and the last good checkpoint.
      StopRequested: after SIGTERM, when the state has been saved.
    """
    begun = time.perf_counter()
    files = Workdir(workdir)
    if files.check(config) and files.result.exists():
        return _finished_before(files, observer)
    prepared = prepare(config, model=model, transform=transform)
    observer.plan(lambda: plan_parts(prepared))
    files.make()
    with files.locked(), stop_on_sigterm() as stop:
        # Once more, now that nobody else writes here.
        if not files.check(config):
            files.create(config)
        elif files.result.exists():
            return _finished_before(files, observer)
        given = [name for name, part in (("model", model), ("transform", transform)) if part is not None]
        return _Session(prepared, files, observer, begun, stop.is_set, given).run()


def _finished_before(files: Workdir, observer: Observer) -> dict[str, Any]:
    result = files.load_json(files.result)
    if files.load_config().pack and not files.packed.is_file():
        observer.warn(
            f"{files.packed} is gone; python -m experiments.export {files.path} --format=packed writes it again"
        )
    observer.finished(lambda: finished_parts(files, result, before=True))
    return result


class InvariantError(RuntimeError):
    """What a stage's methods should hold is not held: a defect, never a matter of the config."""


class _Session:
    """One process's part of a run."""

    def __init__(
        self,
        prepared: Prepared,
        files: Workdir,
        observer: Observer,
        begun: float,
        asked_to_stop: Callable[[], bool],
        given: list[str],
    ):
        self.prepared, self.files, self.observer, self.begun = prepared, files, observer, begun
        self.asked_to_stop, self.given = asked_to_stop, given
        self.compiler = Compiler()
        self.before = {"wall_seconds": 0.0, "compile_seconds": 0.0}
        self.step = self.mark = 0
        self.manifest: dict[str, Any] = {}

    def run(self) -> dict[str, Any]:
        p, config = self.prepared, self.prepared.config
        ends = [segment.mark for segment in p.segments if segment.last]
        with Checkpoints(self.files.checkpoints, config.keep_checkpoints, ends) as self.checkpoints:
            self.staging = Staging(p, self.compiler, self._end_of)
            # Read before anything changes, so that a damaged one stops the run as it is.
            first = self.files.load_json(self.files.manifest) if self.files.manifest.exists() else None
            self._check_given(first)
            state, at, rows = self._restore()
            self._open_manifest(first)
            status = "failed"
            try:
                with training(self.observer, p, self.files, rows) as self.shown:
                    state = run_segments(
                        p.program_of,
                        p.segments if at is None else [s for s in p.segments if s.mark > at.mark],
                        p.values,
                        self.staging.arrays,
                        compiler=self.compiler,
                        begin=self.staging.begin,
                        origin=self.staging.origin,
                        updated=self._updated,
                        at_boundary=self._at_boundary,
                        state=state,
                        stage=None if at is None else at.stage,
                    )
                    result = self._finish(state)
                status = "finished"
            except NonFiniteError:
                status = "diverged"
                raise
            except (StopRequested, KeyboardInterrupt):
                status = "stopped"
                raise
            finally:
                self._close_manifest(status)
        self.observer.finished(lambda: finished_parts(self.files, result))
        return result

    def _end_of(self, stage: int) -> TrainState:
        """The state that a stage ended in: always from its checkpoint, so that a resumed run does the same."""
        self.checkpoints.wait()
        return self.checkpoints.restore(self.prepared.end_of(stage).mark, self.prepared.like(stage)).state

    def _updated(self, stage: int) -> bool:
        return "transform" in self.given or compression.updates(self.prepared.config, stage)

    def _restore(self) -> tuple[TrainState | None, Segment | None, list[metrics.Row]]:
        p = self.prepared
        restored, damaged = self.checkpoints.restore_latest(lambda mark: p.like(p.boundary(mark).stage))
        for sentence in damaged:
            self.observer.warn(sentence)
        if restored is None:
            return None, None, self._rows_up_to(None)
        at = p.boundary(restored.step)
        self.step, self.mark = at.stop, at.mark
        self.before = {name: restored.notes[name] for name in self.before}
        self.observer.note(f"going on from the checkpoint of step {at.stop:,}")
        return p.place(restored.state), at, self._rows_up_to(at)

    def _rows_up_to(self, at: Segment | None) -> list[metrics.Row]:
        place = (-1, 0) if at is None else (at.stage, at.stop)
        try:
            return metrics.truncate(
                self.files.metrics, lambda row: (self.prepared.stage_named(row["stage"]), row["step"]) <= place
            )
        except (ValueError, KeyError, TypeError) as error:
            raise WorkdirError(f"{self.files.metrics} is damaged: {error}") from error

    def _check_given(self, first: dict[str, Any] | None) -> None:
        if first is not None and first.get("given") != self.given:
            theirs, ours = (", ".join(names or []) or "nothing" for names in (first.get("given"), self.given))
            raise WorkdirError(
                f"{self.files.path} holds a run that was given {theirs} of its own besides the config; "
                f"now {ours} was given"
            )

    def _open_manifest(self, first: dict[str, Any] | None) -> None:
        p = self.prepared
        self.manifest = manifests.collect(p.config, p.dataset.fingerprint) | {
            "given": self.given,
            "sources": {directory: source.digest for directory, source in p.sources.items()},
        }
        name = "start"
        if first is not None:
            # The first session's facts stay; a later one records what differs from them in its event.
            facts = {k: v for k, v in self.manifest.items() if k not in ("events", "exit_status", "digest")}
            differs = {k: v for k, v in facts.items() if first.get(k) != v}
            self.manifest = first
            name, more = "resume", {"differs": differs} if differs else {}
        else:
            more = {}
        self.manifest["exit_status"] = None
        self.manifest["events"].append(manifests.event(name, self.step, **more))
        write_json(self.files.manifest, self.manifest)

    def _close_manifest(self, status: str) -> None:
        counts = dict(sorted(self.compiler.counts.items()))
        self.manifest["exit_status"] = status
        self.manifest["events"].append(manifests.event("stop", self.step, status=status, compilations=counts))
        write_json(self.files.manifest, self.manifest)

    def _times(self) -> dict[str, float]:
        """Seconds that went into the run up to here, those of the sessions before included."""
        return {
            "wall_seconds": self.before["wall_seconds"] + time.perf_counter() - self.begun,
            "compile_seconds": self.before["compile_seconds"] + self.compiler.seconds,
        }

    def _at_boundary(self, boundary: Boundary) -> None:
        segment = boundary.segment
        stage = self.prepared.config.stages[segment.stage].name
        rows = []
        if boundary.train is not None:
            bad = int(boundary.train.pop("first_bad_step"))
            if bad >= 0:
                raise self._not_finite("training", bad)
            # Losses that are finite, of which the mean is not.
            if not np.isfinite(boundary.train["loss"]):
                raise self._not_finite("training", segment.stop - 1)
            rows.append(_row(segment.stop, stage, "train", boundary.train))
            rows[0]["steps_per_second"] = segment.steps / boundary.seconds
        if boundary.validation is not None:
            if not np.isfinite(boundary.validation["loss"]):
                raise self._not_finite("validation", segment.stop - 1)
            rows.append(_row(segment.stop, stage, "validation", boundary.validation))
        if segment.last and "transform" not in self.given:
            self._check(segment.stage, boundary.state)
        metrics.append(self.files.metrics, rows)
        self.step, self.mark = segment.stop, segment.mark
        self.shown(rows)
        stop = self.asked_to_stop()
        if segment.checkpoint or stop:
            # A stop may come where nothing is evaluated; such a checkpoint is no candidate for the best.
            accuracy = -1.0 if boundary.validation is None else float(boundary.validation["accuracy"])
            self.checkpoints.save(self.mark, boundary.state, {"accuracy": accuracy, **self._times()})
        if stop:
            self.checkpoints.wait()
            raise StopRequested(
                f"stopped at step {self.step} as asked, and saved; the same command goes on from there"
            )

    def _check(self, stage: int, state: TrainState) -> None:
        """Raises InvariantError unless what the stage's methods hold is held in what the model sees."""
        config = self.prepared.config
        if not compression.parts(config, stage):
            return
        seen = self.staging.seen(stage, state).params
        known = self.prepared.layers_of(stage)
        found = compression.violations(config, stage, state.transform_state, seen, known)
        if found:
            raise InvariantError(f"at the end of stage {config.stages[stage].name!r}: {'; '.join(found[:5])}")

    def _not_finite(self, part: str, step: int) -> NonFiniteError:
        self.checkpoints.wait()
        steps = self.checkpoints.steps
        last = "no checkpoint was saved"
        if steps:
            last = f"the last good checkpoint is {self.files.checkpoints / str(steps[-1])}"
        return NonFiniteError(f"the {part} loss is not finite at step {step} (counted from 0); {last}")

    def _finish(self, state: TrainState) -> dict[str, Any]:
        p = self.prepared
        self.checkpoints.wait()
        stage = len(p.stages) - 1
        known = metrics.read(self.files.metrics)
        outcomes = [self._outcome(index, state if index == stage else None) for index in range(stage + 1)]
        last = outcomes[-1]
        if not np.isfinite(last.metrics["loss"]):
            raise self._not_finite("test", self.step - 1)
        if not any(row["split"] == "test" for row in known):
            rows = [_row(self.step, p.config.stages[stage].name, "test", last.metrics)]
            metrics.append(self.files.metrics, rows)
            self.shown(rows)
        size = measure.size(last.params)
        model_digest = digest({"params": state.params, "model_state": state.model_state, "ema": state.ema})
        ledger = None
        if p.config.pack:
            seen = jax.device_get(self.staging.seen(stage, state))
            ledger = packed.save(self.files.packed, self._packing(stage, state, seen))
        result = {
            **last.metrics,
            "parameters": size.parameters,
            "nonzero_parameters": size.nonzero_parameters,
            "sparsity": size.sparsity,
            "bytes": size.bytes if ledger is None else ledger.total,
            "flops": sum((last.flops or {}).values()),
            **self._times(),
            "digest": model_digest,
        }
        self.manifest["digest"] = model_digest
        added = numbers(p, outcomes)
        result |= added.fields()
        write_report(p, self.files, self.manifest, result, outcomes, added, ledger)
        write_json(self.files.result, result)
        return result

    def _outcome(self, stage: int, state: TrainState | None) -> measure.StageOutcome:
        """What a stage ended with, on the test part."""
        p = self.prepared
        state = self._end_of(stage) if state is None else state
        placed = p.place(state)
        program = p.program_of(stage, p.stages[stage].segment_steps)

        def judge(state: TrainState, values: Any, arrays: data.Arrays) -> Any:
            return program.evaluate(state, values, arrays), jnp.argmax(program.predict(state, values, arrays), -1)

        test, predictions = jax.device_get(
            self.compiler.call("test", stage, judge, placed, p.values, p.arrays["test"])
        )
        quantized = self._quantized(stage)
        seen = jax.device_get(self.staging.seen(stage, placed))
        return measure.StageOutcome(
            p.config.stages[stage].name,
            seen.params,
            {"accuracy": float(test["accuracy"]), "loss": float(test["loss"])},
            predictions,
            latent=jax.device_get(evaluated(state).params) if quantized else None,
            grids=codes.grids(p.config, stage, state.params, p.layers_of(stage)) if quantized else None,
            flops=flops_of(p, stage),
            bytes=packed.encode(self._packing(stage, state, seen)).ledger.total if p.config.pack else None,
            layers=p.layers_of(stage),
        )

    def _quantized(self, stage: int) -> bool:
        """Whether the config says which integers stand behind what the model sees."""
        return "quantize" in compression.acting(self.prepared.config, stage) and "transform" not in self.given

    def _packing(self, stage: int, state: TrainState, seen: Variables) -> packed.Packing:
        """What the packed file of a stage holds."""
        p = self.prepared
        held = None
        if self._quantized(stage):
            held = codes.codes(p.config, stage, state, p.layers_of(stage))
        return packed.Packing(
            p.config,
            stage,
            *seen,
            p.dataset,
            held,
            p.own_model is not None,
        )


def _row(step: int, stage: str, split: str, values: Mapping[str, Any]) -> metrics.Row:
    numbers = {name: float(values[name]) for name in ("loss", "accuracy", *values)}
    return {"step": step, "stage": stage, "split": split, **numbers}
