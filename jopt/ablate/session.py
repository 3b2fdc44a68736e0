"""An ablation in its directory: start or resume, run the missing trials, write tables and a report."""

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jopt.ablate import summary as summaries
from jopt.ablate.checks import control, validate
from jopt.ablate.config import Ablation
from jopt.ablate.display import findings, finished_parts, plan_parts, training, write_report
from jopt.ablate.execute import Chunk
from jopt.ablate.executors import notice
from jopt.ablate.executors.crew import Work, spread
from jopt.ablate.executors.kind import Context, Executor, Runner
from jopt.ablate.executors.local import Local
from jopt.ablate.executors.text import check_text, modules_of
from jopt.ablate.files import AblationDir
from jopt.ablate.judge import check, check_budget, judge
from jopt.ablate.lift import Layout
from jopt.ablate.plan import GroupPlan, Loader, identity, plan
from jopt.ablate.results import Axis, Results, TrialRow, write_csv
from jopt.ablate.strategy import chunks, fastest
from jopt.ablate.trials import Trial, axes, groups
from jopt.config import tagged_json
from jopt.data import Dataset, Given, Source
from jopt.files import write_text
from jopt.remote.urls import accepts_url
from jopt.report import SILENT, Careful, Observer, attempt
from jopt.report.differences import describe_mixture
from jopt.task import Task
from jopt.train import manifest as manifests
from jopt.train.compiler import enable_cache_in_notebook
from jopt.train.given import given
from jopt.train.hooks import Hooks, OnRows, ShouldStop, ignore, never
from jopt.train.surroundings import mixture
from jopt.train.workdir import Launch, WorkdirError

# Facts of the manifest that differ from one launch to the next: a later one may add groups with other data.
_VARY = ("datasets", "digest", "events", "exit_status", "groups", "sources")


@accepts_url
def run(
    ablation: Ablation,
    workdir: str | Path,
    *,
    data: Dataset | Source | None = None,
    task: Task | None = None,
    model: object = None,
    arguments: str = "",
    devices: int | None = None,
    executor: Executor | None = None,
    accept_changes: bool = False,
    observer: Observer = SILENT,
    on_rows: OnRows = ignore,
    should_stop: ShouldStop = never,
    quiet: bool = False,
    trusted: bool = False,
) -> Results:
    """Runs the trials of a grid that `workdir` has no result for, and writes its tables and its report.

    Args:
      ablation: the grid.
      workdir: a new or empty directory, or the directory of this grid or of a part of it; a path or a URL.
      data: the data set of all trials, as an object, instead of the experiment's (`jopt.train.run`).
      task: the task, instead of the experiment's.
      model: the model of all trials, instead of the experiment's.
      arguments: flags with which the apps find the grid, such as `--config=grid.py`; '' if the grid has no file.
      devices: local devices to use at most; None is all.
      executor: where the chunks run: `executors.Local()`, which None is, `executors.Ray(...)`,
        `executors.Slurm(...)` or another `executors.Executor`. The tables are the same.
      accept_changes: run the missing trials even if the data, a source, a version, an option of JAX or the kind of
        device is not what it was for the others; the report then says so.
      observer: receives the plan, the progress and the findings; `jopt.report.Console()` prints them.
      on_rows: called at each boundary with the metric rows of the trials that run together; a row's `trial` is the
        id. What it raises ends the grid.
      should_stop: asked at each boundary, with these rows; once it says True, the running trials are saved and the
        grid ends as "stopped". See docs/hooks.md.
      quiet: has no effect: without an observer nothing is printed.
      trusted: lifts the rules for the foreign files that the trials name (`docs/security.md`).

    Returns:
      The results, equal to `trials.csv`.

    Raises:
      ConfigError, RuleError: for a grid that cannot run, before anything is compiled or written.
      WorkdirError: if the directory contains something else; nothing in it is changed.
      ChangedError: if trials were run on other data, with other versions or numerics; nothing is changed.
      StopRequested: after `should_stop` said True, when the running trials have been saved.
      ExecutorError: if workers cannot be started, may not join the grid, or were lost too often.
    """
    begun = time.perf_counter()
    enable_cache_in_notebook()
    objects = given(ablation.experiment, data=data, task=task, model=model)
    ablation = dataclasses.replace(ablation, experiment=objects.config)
    trials = validate(ablation)
    files, observer = AblationDir(workdir), Careful(observer)
    recorded = files.recorded()
    # Before data are read: a wrong directory should fail in a second and not after minutes of loading.
    if recorded is not None:
        files.check_same(recorded, ablation, trials)
    grid_axes = axes(ablation, trials)
    check(ablation, trials)
    chosen_executor = executor or Local()
    if chosen_executor.devices is not None:
        check_text(ablation, trials, objects)
    usable = chosen_executor.devices or min(jax.local_device_count(), devices or jax.local_device_count())
    recorded_lanes, loader = _lanes(files, recorded, ablation), Loader(trusted, objects)
    plans = plan(ablation, groups(trials), usable, recorded_lanes, loader)
    check_budget(ablation, trials, plans)
    files.make()
    with files.locked():
        # Read again under the lock: another process may have recorded a grid since the first check.
        # The first check stays above, because the lock needs the directory, and a wrong grid must not create one.
        if (recorded_now := files.recorded()) is not None and recorded_now != recorded:
            files.check_same(recorded_now, ablation, trials)
            recorded_lanes = _lanes(files, recorded_now, ablation)
            plans = plan(ablation, groups(trials), usable, recorded_lanes, loader)
        hooks = Hooks(on_rows, should_stop)
        session = _Session(
            ablation, trials, grid_axes, plans, files, observer, hooks, arguments, begun, chosen_executor, trusted
        )
        return session.run(recorded_lanes, accept_changes)


def _lanes(files: AblationDir, recorded: dict[str, Any] | None, ablation: Ablation) -> dict[str, int]:
    """The lanes that an earlier launch chose for each structure.

    Raises:
      WorkdirError: if they contradict the strategy that the config names now.
    """
    # Without a chunk no bit has been computed, so nothing binds this launch to the old choice.
    if not any(files.chunks.glob("*/")):
        return {}
    recorded_lanes = {group["structure"]: group["lanes"] for group in (recorded or {}).get("groups", [])}
    for lanes in recorded_lanes.values():
        # The lanes decide the order of the sums in a program, and so its last bits.
        if (ablation.strategy == "map" and lanes > 1) or (ablation.strategy == "vmap" and lanes == 1):
            was = "vmap" if lanes > 1 else "map"
            raise WorkdirError(
                f"{files.path} was begun with the strategy {was!r}, and {ablation.strategy!r} was asked for now: "
                "their results differ in the last bits and are not mixed. Use 'auto' or another directory"
            )
    return recorded_lanes


class _Session:
    """One process's part of an ablation."""

    def __init__(
        self,
        ablation: Ablation,
        trials: Sequence[Trial],
        grid_axes: tuple[Axis, ...],
        plans: list[GroupPlan],
        files: AblationDir,
        observer: Observer,
        hooks: Hooks,
        arguments: str,
        begun: float,
        executor: Executor,
        trusted: bool,
    ):
        self.ablation, self.trials, self.axes, self.plans = ablation, trials, grid_axes, plans
        self.files, self.observer, self.hooks = files, observer, hooks
        self.arguments, self.begun = arguments, begun
        self.executor, self.trusted = executor, trusted
        self.compilations: dict[str, dict[str, int]] = {}
        self.failed_columns: set[str] = set()

    def run(self, recorded_lanes: dict[str, int], accept_changes: bool) -> Results:
        # First of all: workers that a killed launch left save at their next boundary, and begin no other chunk.
        self.had_workers = notice.withdraw(self.files)
        done = self.files.done()
        launch, continues = Launch(self.files, self._facts()), self.files.holds_work()
        self._check_given(launch.first)
        unfinished = any(trial.id not in done for trial in self.trials)
        # A finished grid is answered in any surroundings: nothing is computed that could be mixed.
        if continues and unfinished:
            launch.admit(accept=accept_changes)
            if launch.changes:
                self.observer.warn(describe_mixture([change._asdict() for change in launch.changes]))
        # Nor does it need a cluster.
        executor = self.executor if unfinished else Local()
        modules = [] if executor.devices is None else modules_of(self.ablation, self.trials)
        context = Context(self.files, self.plans, self.trusted, modules, self.observer.warn)
        with executor.running(context) as runner:
            workers = ""
            if runner.workers is not None:
                self.plans = spread(self.plans, runner.workers)
                workers = f"{runner.workers} workers ({executor.name})"
            self.observer.plan(
                lambda: plan_parts(self.ablation, self.axes, self.plans, lambda trial: trial.id in done, workers)
            )
            self._choose(recorded_lanes)
            # Written before all other files: a directory without it cannot be resumed.
            self._record()
            with launch.recorded(
                self._closing, continues=continues, varies=_VARY, trials=len(self.trials), done=len(done)
            ) as self.manifest:
                self._execute(done, runner)
                results = self._results(self.files.done())
                self._write(results)
        seconds = time.perf_counter() - self.begun
        self.observer.finished(lambda: finished_parts(self.files, results, self.summary, self.findings, seconds))
        return results

    def _choose(self, recorded_lanes: dict[str, int]) -> None:
        """With strategy 'measure', times the candidates of each group whose lanes no launch has chosen yet."""
        if self.ablation.strategy != "measure":
            return
        for index, p in enumerate(self.plans):
            # Measured once: a second measurement could choose other lanes, and change the bits of later trials.
            if identity(p.group) not in recorded_lanes:
                lanes, table = fastest(p)
                self.observer.plan(lambda table=table: [table])
                layout = Layout(lanes, max(1, min(p.layout.devices, -(-len(p.group.trials) // lanes))))
                most = min(max(p.width, layout.multiple), p.memory.room(layout))
                count, width = chunks(len(p.group.trials), layout, most)
                self.plans[index] = p._replace(layout=layout, chunks=count, width=width)

    def _record(self) -> None:
        of_groups = [
            {
                "group": p.group.index,
                "structure": identity(p.group),
                "strategy": p.strategy,
                "lanes": p.layout.lanes,
                "trials": [trial.id for trial in p.group.trials],
            }
            for p in self.plans
        ]
        self.files.record(self.ablation, self.trials, self.axes, of_groups)

    def _execute(self, done: dict[str, Any], runner: Runner) -> None:
        """Runs every chunk that is not done, interrupted ones first."""
        if self.had_workers:
            # One of them may have committed its chunk while this launch was preparing.
            done = self.files.done()
        by_id = {trial.id: trial for trial in self.trials}
        begun = self.files.under_way(set(by_id) - set(done))
        self.files.forget([chunk["id"] for chunk in begun])
        remaining = [(p, self._chunks(p, done, begun)) for p in self.plans]
        total = sum(p.steps * len(chunk.trials) for p, group_chunks in remaining for chunk in group_chunks)
        with training(self.observer, total, sum(len(group_chunks) for _, group_chunks in remaining)) as shown:
            warn = self.observer.warn
            work = Work(self.files, remaining, self.hooks, shown, warn, self._column_failed, self._count)
            runner.run(work)

    def _column_failed(self, column: str, sentence: str) -> None:
        # Once: what fails of one trial mostly fails of all of them.
        if column not in self.failed_columns:
            self.failed_columns.add(column)
            self.observer.warn(f"{sentence}; this is said once for all trials")

    def _chunks(self, p: GroupPlan, done: dict[str, Any], begun: Sequence[dict[str, Any]]) -> list[Chunk]:
        """The chunks of a group that are still to be run."""
        trials = {trial.id: trial for trial in p.group.trials if trial.id not in done}
        planned = []
        for chunk in begun:
            if set(chunk["trials"]) <= set(trials):
                # Its checkpoint has the shapes of the old plan, whatever width and lanes are planned now.
                layout = Layout(chunk["lanes"], min(chunk["devices"], p.layout.devices))
                # Fewer devices than before may not divide the old width; the number of devices changes no bit.
                if chunk["width"] % layout.multiple:
                    layout = Layout(chunk["lanes"], 1)
                members = [trials.pop(name) for name in chunk["trials"]]
                planned.append(Chunk(members, chunk["width"], layout, p.prepared))
        unstarted = list(trials.values())
        if unstarted:
            layout, width = p.layout, p.width
            # A grid that grew by a few trials would else pay for a program as wide as the whole group.
            if len(unstarted) < p.width:
                layout = layout._replace(devices=min(layout.devices, -(-len(unstarted) // layout.lanes)))
                width = -(-len(unstarted) // layout.multiple) * layout.multiple
            parts = [unstarted[i : i + width] for i in range(0, len(unstarted), width)]
            planned += [Chunk(part, width, layout, p.prepared) for part in parts]
        return planned

    def _count(self, p: GroupPlan, counts: Mapping[str, int]) -> None:
        total = self.compilations.get(str(p.group.index), {})
        names = sorted({*total, *counts})
        self.compilations[str(p.group.index)] = {name: total.get(name, 0) + counts.get(name, 0) for name in names}

    def _results(self, done: dict[str, Any]) -> Results:
        """The results of all trials, in the grid's order."""
        of_group = {trial.id: p.group.index for p in self.plans for trial in p.group.trials}
        rows: list[TrialRow] = []
        curves: list[TrialRow] = []
        columns = self.ablation.columns
        for trial in self.trials:
            row = done[trial.id]["row"]
            # Read by column: a result of an earlier launch may lack a column that the config has added since.
            outcome = {column.key: row.get(column.key) for column in columns}
            rows.append(
                {"trial": trial.id, "group": of_group[trial.id], **trial.point, "seed": trial.seed}
                | {name: row.get(name) for name in ("status", "diverged_step")}
                | outcome
                | {name: row.get(name) for name in ("steps", "digest")}
                | {"command": self._command(trial)}
            )
            curves += [{"trial": trial.id, **row} for row in done[trial.id]["curves"]]
        overrides = {trial.id: trial.overrides for trial in self.trials}
        a = self.ablation
        return Results(a.name, self.axes, control(a), a.decisive, rows, curves, overrides, columns)

    def _command(self, trial: Trial) -> str:
        if self.arguments:
            return f"jopt train {self.arguments} --trial={trial.id} --workdir=runs/{trial.id}"
        # Objects are in no file: who gave them gives them again.
        objects = [
            *["data=data"] * isinstance(trial.resolved.template.config.data, Given),
            *[f"{name}={name}" for name in self._given],
        ]
        arguments = ", ".join(("jopt.ablate.load_trial('.', '{0}')", "'runs/{0}'", *objects)).format(trial.id)
        return f"jopt.train.run({arguments})"

    def _write(self, results: Results) -> None:
        files = self.files
        self.summary = summaries.summarize(results, self.ablation.confidence)
        write_csv(files.trials, results.trials)
        write_csv(files.summary, self.summary)
        write_text(files.curves, "".join(json.dumps(row) + "\n" for row in results.curves))
        judgement = judge(self.ablation, self.trials, results, self.summary)
        if judgement.rows:
            write_csv(files.protocol, judgement.rows)
        else:
            # A table of an earlier launch with another protocol would be taken for this one's.
            files.protocol.unlink(missing_ok=True)
        command = "jopt.ablate.run(ablation, workdir)"
        if self.arguments:
            command = f"jopt ablate {self.arguments} --workdir=runs/ablation"
        self.findings = findings(self.ablation, self.plans, results, judgement, mixture(self.manifest))
        # The next launch of a finished grid writes tables and report again.
        with attempt(self.observer, f"the tables of {files.path} are complete, but its report cannot be written"):
            write_report(files, self.ablation, self.plans, results, self.summary, judgement, command, self.findings)

    @property
    def _given(self) -> list[str]:
        return [] if self.plans[0].prepared.own_model is None else ["model"]

    def _check_given(self, first: Mapping[str, Any] | None) -> None:
        """Raises WorkdirError where one launch was given a model and another was not."""
        if first is not None and (first.get("given") or []) != self._given:
            before, now = ("with" if names else "without" for names in (first.get("given"), self._given))
            raise WorkdirError(
                f"{self.files.path} holds a grid that was run {before} a model given in addition to its config; "
                f"now it is run {now} one"
            )

    def _facts(self) -> dict[str, Any]:
        first = self.plans[0].prepared.dataset.fingerprint
        facts = manifests.collect(self.ablation.experiment, first, self.files.path) | {"given": self._given}
        sources = {name: digest for p in self.plans for name, digest in p.prepared.source_digests.items()}
        return facts | {"seed": list(self.ablation.seeds), "datasets": self._datasets(), "sources": sources}

    def _datasets(self) -> dict[str, str]:
        """The fingerprint of each group's data set, by the config of the data."""
        return {tagged_json(p.prepared.config.data): p.prepared.dataset.fingerprint for p in self.plans}

    def _closing(self) -> dict[str, Any]:
        self.manifest["groups"] = {
            str(p.group.index): {"strategy": p.strategy, **p.layout._asdict(), "chunks": p.chunks, "width": p.width}
            for p in self.plans
        }
        return {"compilations": self.compilations, "seconds": round(time.perf_counter() - self.begun, 3)}
