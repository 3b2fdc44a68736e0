"""A search in its directory: rounds of grids, then the finalists, then the answer."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

from jopt import start as starting
from jopt.ablate import session as grids
from jopt.ablate.budget import finalists, latency, proposals
from jopt.ablate.budget.answer import answer
from jopt.ablate.budget.config import Cell, Search, SearchSpace, ladders
from jopt.ablate.budget.estimates import Key, PointEstimate, estimate, pareto
from jopt.ablate.budget.files import SearchDir, question_of, read_round, with_commands
from jopt.ablate.budget.limits import Limit, distance, limited, parse
from jopt.ablate.budget.report import finished_parts, plan_parts, round_note, summary, write_pareto, write_report
from jopt.ablate.budget.result import Round, SearchResult
from jopt.ablate.checks import validate
from jopt.ablate.config import Ablation
from jopt.ablate.executors import Executor
from jopt.ablate.paired import resolution
from jopt.ablate.results import Results, TrialRow
from jopt.ablate.space import GridPoint, Space
from jopt.ablate.summary import by_seed
from jopt.ablate.trials import axes, trials, with_fields
from jopt.config import require, tagged_json
from jopt.data import Dataset, Source, load
from jopt.measure import Column
from jopt.remote.urls import accepts_url
from jopt.report import SILENT, Careful, Observer, attempt
from jopt.report.differences import describe_mixture
from jopt.task import Task
from jopt.train import manifest as manifests
from jopt.train.config import Experiment
from jopt.train.given import Given, given
from jopt.train.hooks import Hooks, OnRows, ShouldStop, ignore, never
from jopt.train.metrics import MetricsRow
from jopt.train.plan import source_fields
from jopt.train.surroundings import mixture
from jopt.train.workdir import Launch, Workdir

CONFIRMATION = "confirm"


@accepts_url
def search(
    config: Search,
    workdir: str | os.PathLike[str],
    budget: str,
    *,
    data: Dataset | Source | None = None,
    task: Task | None = None,
    model: object = None,
    command: str = "",
    launch: str = "",
    devices: int | None = None,
    executor: Executor | None = None,
    accept_changes: bool = False,
    observer: Observer = SILENT,
    on_rows: OnRows = ignore,
    should_stop: ShouldStop = never,
    quiet: bool = True,
    trusted: bool = False,
) -> SearchResult:
    """Searches for the model to use under a budget.

    Round 0 is coarse. Each later round tries the gaps around the Pareto front, next to the points nearest to the
    budget first, and runs these points again with fresh seeds. The rounds end when nothing new can be proposed, or
    at a limit of the config. Then the finalists and the control run with seeds that no round used, and those alone
    decide the recommendation. Each proposal depends on the results alone, so an interrupted search continues with
    the same trials.

    Args:
      config: what is searched over.
      workdir: a new or empty directory, or one that holds this search; a path or a URL.
      budget: such as 'accuracy_drop<0.5' (percentage points below the dense control; 'r2_drop<0.01' and
        'bits_per_byte_rise<0.02' are in units of the metric), 'bytes<20kB' (of the packed file), 'latency_ms<0.05'
        (measured on this device), or several of them, joined by commas.
      data: the data set of all trials, as an object, instead of the experiment's (`jopt.train.run`).
      task: the task, instead of the experiment's.
      model: the model of all trials, instead of the experiment's.
      command: what runs one trial alone, without its path; '' gives a line of Python.
      launch: the command that runs the search, for its report.
      devices: local devices to use at most; None is all.
      executor: where the trials of each round run, as for `jopt.ablate.run`.
      accept_changes: continue even if the data, a source, a version, an option of JAX or the kind of device is not
        what it was in the rounds before; the result then says so.
      observer: hears what goes on; `jopt.report.Console()` prints it.
      on_rows: as for `jopt.ablate.run`; a row's `round` is the name of the round.
      should_stop: as for `jopt.ablate.run`, with these rows.
      quiet: has no effect: without an observer nothing is printed.
      trusted: lifts the rules for the foreign files that the trials name (`docs/security.md`).

    Returns:
      The result, which is also in `search.json`, `pareto.csv`, `report.md` and `report.html`.

    Raises:
      ConfigError, RuleError: for a budget or a search that cannot run, before anything is compiled or written.
      WorkdirError: if the directory holds something else; nothing in it is changed.
      ChangedError: if rounds were run on other data, with other versions or numerics; nothing is changed.
      StopRequested: after `should_stop` said True, once the running trials have been saved.
    """
    del quiet
    objects = given(config.experiment, data=data, task=task, model=model)
    config = dataclasses.replace(config, experiment=objects.config)
    limits = parse(budget, config.experiment.task)
    metric = limited(limits)
    checked = ladders(config, metric)
    if config.metric is None:
        config = dataclasses.replace(
            config, metric=f"validation_{metric or config.experiment.task.resolved().deciding.key}"
        )
    # Bytes are those of the packed file, so every trial needs one.
    config = dataclasses.replace(config, experiment=dataclasses.replace(config.experiment, pack=True))
    space = SearchSpace(checked, config.excluded)
    files, observer = SearchDir(workdir), Careful(observer)
    hooks = Hooks(on_rows, should_stop)
    session = _Search(
        config, space, limits, files, observer, command, devices, accept_changes, hooks, trusted, objects, executor
    )
    start = proposals.coarse(space)
    # A config that cannot run is refused here, before the directory exists.
    validate(session.grid("round_0", start, range(config.seeds[0])))
    least = len(start) * config.seeds[0] + session.reserve
    accepted = f"at least {least}: round 0, and at the end the finalists and the control"
    require(config.trials >= least, "trials", config.trials, accepted)
    question = question_of(config, space.ladders, limits)
    recorded = files.recorded(question)
    files.make()
    with files.locked():
        session.launch = Launch(
            files, _facts(config.experiment, [space.point(cell) for cell in start], files, trusted, objects.dataset)
        )
        rounds = files.rounds()
        # A finished search is answered in any surroundings: nothing is computed that could be mixed, or written.
        if (recorded or {}).get("status") == "finished":
            session.begin(question, recorded)
            return session.run(launch)
        if rounds:
            session.launch.admit(rounds, accept=accept_changes)
            if session.launch.changes:
                observer.warn(describe_mixture([change._asdict() for change in session.launch.changes]))
        # Before the manifest: a directory without `search.json` cannot be resumed.
        session.begin(question, recorded)
        with session.launch.recorded(dict, continues=bool(rounds)):
            return session.run(launch)


def _facts(
    experiment: Experiment,
    points: Sequence[GridPoint],
    files: SearchDir,
    trusted: bool,
    dataset: Dataset | None = None,
) -> dict[str, Any]:
    """The facts of this process, with the data sets and sources of these points."""
    configs = [with_fields(experiment, point.fields) for point in points]
    datasets = {tagged_json(config.data): config.data for config in configs}
    fingerprints = {
        name: (load(config, trusted=trusted) if dataset is None else dataset).fingerprint
        for name, config in datasets.items()
    }
    sources = {source: Workdir(source) for config in configs for _, source in source_fields(config)}
    digests = {
        name: run.load_json(run.result).get("digest") for name, run in sources.items() if run.result.exists()
    }
    digests |= starting.digests((config.start for config in configs), trusted=trusted)
    facts = manifests.collect(experiment, fingerprints[tagged_json(configs[0].data)], files.path)
    return facts | {"datasets": fingerprints, "sources": digests}


@dataclasses.dataclass
class _Search:
    """One process's part of a search.

    Attributes:
      accept_changes: whether to read rounds that were run in other surroundings.
      objects: what was given as objects.
      executor: where the trials of a round run.
      launch: the record of this process.
      finished: whether an earlier process had finished the search.
      rounds: proposed so far.
      round_results: their results, without the finalists'.
      trials_of: the trials of each cell, from the rounds without the finalists'.
      state: the outcome fields of `search.json`.
    """

    config: Search
    space: SearchSpace
    limits: tuple[Limit, ...]
    files: SearchDir
    observer: Observer
    command: str
    devices: int | None
    accept_changes: bool
    hooks: Hooks
    trusted: bool
    objects: Given
    executor: Executor | None
    launch: Launch = dataclasses.field(init=False)
    finished: bool = False
    rounds: list[Round] = dataclasses.field(default_factory=list)
    round_results: list[Results] = dataclasses.field(default_factory=list)
    trials_of: dict[Cell, list[TrialRow]] = dataclasses.field(default_factory=dict)
    state: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def with_latency(self) -> bool:
        return any(limit.quantity == "latency_ms" for limit in self.limits)

    @property
    def reserve(self) -> int:
        """Trials that the rounds may not use: those of the finalists and of their control."""
        return self.config.confirm * (1 + self.config.finalists)

    def begin(self, question: dict[str, Any], recorded: dict[str, Any] | None) -> None:
        """Writes `search.json`, unless the search is finished."""
        self.finished = (recorded or {}).get("status") == "finished"
        # A latency is measured once: a second measurement could give another answer from the same trials.
        self.state = {"status": "running", "rounds": [], "latency": (recorded or {}).get("latency") or {}}
        self.question = question
        if not self.finished:
            self._record()

    def run(self, launch: str) -> SearchResult:
        finished, start = self.finished, len(proposals.coarse(self.space))
        self.observer.plan(lambda: plan_parts(self.config, self.space.ladders, self.limits, start, finished))
        result = self._conclude(self._explore())
        if not finished:
            write_pareto(self.files, result)
            self.state |= summary(result) | {"status": "finished"}
            self._record()
        if not finished or not self.files.has_report():
            problem = f"the search in {self.files.path} is complete, but its report cannot be written"
            with attempt(self.observer, problem):
                write_report(self.files, self.config, result, launch)
        self.observer.finished(lambda: finished_parts(self.files, self.config, result))
        return result

    def _explore(self) -> str:
        """Runs the rounds; returns why there was no further one."""
        for index, count in enumerate(self.config.seeds):
            first = sum(self.config.seeds[:index])
            # Each round has seeds of its own: a point that was lucky must show its metric again.
            if index == 0:
                proposal = proposals.Proposal(self._without_control(proposals.coarse(self.space)), [])
                why = "a coarse grid: all start values of the numbers, one structure after the other"
            else:
                nearest = self._nearest()
                new = proposals.refine(nearest, self.space, self.trials_of, self.config.points)
                if not new:
                    return "nothing new could be proposed: every neighbour of the front was tried"
                # Limits are counts, never clocks, so that the proposals depend on the results alone.
                room = self.config.trials - self.reserve - sum(done.trials for done in self.rounds)
                proposal = proposals.fit(new, self._without_control(nearest), count, room)
                if proposal is None:
                    return f"the limit of {self.config.trials} trials left no room for another round"
                why = f"the gaps next to {len(nearest)} points of the front, which are run again with fresh seeds"
            results = self._round(f"round_{index}", proposal, range(first, first + count), why)
            self.round_results.append(results)
            for cell in (self.space.control, *proposal.again, *proposal.new):
                self.trials_of.setdefault(cell, []).extend(results.at(self.space.labels(cell)))
        return f"the limit of {len(self.config.seeds)} rounds"

    def _without_control(self, cells: Sequence[Cell]) -> list[Cell]:
        return [cell for cell in cells if cell != self.space.control]

    def _nearest(self) -> list[Cell]:
        """The points of the front to refine next: those nearest to the budget."""
        front = pareto(self._round_estimates(), self.with_latency)
        # The whole front would cost too many trials, and its far ends cannot be the answer.
        ordered = sorted(front, key=lambda e: (distance(self.limits, e), e.bytes))
        return [self.space.cell(e.point) for e in ordered[: self.config.survivors]]

    def _conclude(self, stopped: str) -> SearchResult:
        """Confirms the finalists and gives the answer."""
        estimates = self._round_estimates()
        front = pareto(estimates, self.with_latency)
        control = [e for e in estimates if self.space.cell(e.point) == self.space.control]
        confirmation, confirmed = self._confirm(
            finalists.choose(front, self.limits, self.config.finalists, self.config.confirm)
        )
        finals, best = finalists.decide(confirmed[1:], self.limits)
        other = None if best is None else finalists.runner_up(finals, best)
        control += confirmed[:1]
        front = [self._timed(e) for e in front]
        return SearchResult(
            budget=self.limits,
            rounds=self.rounds,
            stopped=stopped,
            estimates=estimates,
            pareto=front,
            finals=finals,
            recommended=best,
            runner_up=other,
            answer=answer(self.limits, finals, best, other, front, control, self.config),
            commands=self._commands([*self.round_results, *([confirmation] if confirmation else [])]),
            results=self._merged(),
            confirmation=confirmation,
            control=control,
            changes=mixture(self.launch.manifest),
        )

    def _confirm(self, chosen: Sequence[PointEstimate]) -> tuple[Results | None, list[PointEstimate]]:
        """Runs the finalists; returns the results, and the estimates of the control and of them, in their order."""
        if not chosen:
            return None, []
        # Seeds after those of all rounds, even of rounds that were not run: what chose the points must not judge
        # them.
        first = sum(self.config.seeds)
        cells = [self.space.cell(e.point) for e in chosen]
        proposal = proposals.Proposal([], self._without_control(cells))
        why = "the finalists and the control with seeds that no choice depended on; the test part decides"
        results = self._round(CONFIRMATION, proposal, range(first, first + self.config.confirm), why)
        trials_of = {cell: results.at(self.space.labels(cell)) for cell in (self.space.control, *cells)}
        by_cell = {self.space.cell(e.point): self._timed(e) for e in self._estimates(trials_of, self.config.tested)}
        return results, [by_cell[cell] for cell in (self.space.control, *cells)]

    def _round(self, name: str, proposal: proposals.Proposal, seeds: range, why: str) -> Results:
        """Runs one grid, or reads its results if it is finished."""
        cells = [self.space.control, *proposal.again, *proposal.new]
        new, again = ([self.space.labels(cell) for cell in part] for part in (proposal.new, proposal.again))
        ablation = self.grid(name, cells, seeds)
        grid_trials = trials(ablation)
        # Recorded before it runs: `search.json` then names the round that an interruption left unfinished.
        self.rounds.append(Round(name, tuple(seeds), new, again, len(grid_trials), why))
        self.state["rounds"] = [done._asdict() for done in self.rounds]
        results = read_round(self.files.round(name), ablation, grid_trials)
        self.observer.note(round_note(self.rounds[-1], results is not None))
        runs = results is None
        if runs:
            self._record()
            self._run_grid(ablation, name)
            # Read from the files even now, so that a resumed search computes with the same numbers.
            results = read_round(self.files.round(name), ablation, grid_trials)
            assert results is not None
        elif not self.files.round(name).has_report():
            # Its trials are finished: only tables and report are written again.
            with attempt(self.observer, f"the missing report of {self.files.path / name} cannot be written"):
                self._run_grid(ablation, name)
        # The data may have changed since this process began.
        if runs or not self.finished:
            self.launch.admit_part(self.files.round(name), accept=self.accept_changes)
        given_objects = {"data": self.objects.dataset, "model": self.objects.model}
        names = [name for name, part in given_objects.items() if part is not None]
        return results._replace(trials=with_commands(results.trials, self.files.path / name, self.command, names))

    def _run_grid(self, ablation: Ablation, name: str) -> None:
        def of_round(hook: Callable[[list[MetricsRow]], Any]) -> Callable[[list[MetricsRow]], Any]:
            return lambda rows: hook([{"round": name, **row} for row in rows])

        grids.run(
            ablation,
            self.files.path / name,
            devices=self.devices,
            executor=self.executor,
            accept_changes=self.accept_changes,
            on_rows=of_round(self.hooks.on_rows),
            should_stop=of_round(self.hooks.should_stop),
            trusted=self.trusted,
            data=self.objects.dataset,
            model=self.objects.model,
        )

    def grid(self, name: str, cells: Sequence[Cell], seeds: Sequence[int]) -> Ablation:
        """The grid of a round."""
        return Ablation(
            name=f"{self.config.name}, {name.replace('_', ' ')}",
            experiment=self.config.experiment,
            space=Space(tuple(self.space.point(cell) for cell in cells)),
            seeds=tuple(seeds),
            control=self.space.labels(self.space.control),
            metric=self.config.tested.key if name == CONFIRMATION else self.config.metric,
            strategy=self.config.strategy,
            confidence=self.config.confidence,
        )

    def _round_estimates(self) -> list[PointEstimate]:
        """The estimates of all points of the rounds, with latency if the budget limits it."""
        estimates = self._estimates(self.trials_of, self.config.guiding)
        return [self._timed(e) for e in estimates] if self.with_latency else estimates

    def _estimates(self, trials_of: dict[Cell, list[TrialRow]], metric: Column) -> list[PointEstimate]:
        # The step in which the metric moves is found from the values of all points: a few show only multiples of
        # it.
        step = resolution(value for rows in trials_of.values() for value in by_seed(rows, metric.key).values())
        return [
            estimate(
                self.space.labels(cell),
                rows,
                trials_of[self.space.control],
                metric=metric,
                confidence=self.config.confidence,
                resolution=step,
            )
            for cell, rows in trials_of.items()
        ]

    def _timed(self, e: PointEstimate) -> PointEstimate:
        """The estimate with its latency, measured once for each shape and kept in `search.json`."""
        # Points that differ only in zeros, shared values or bits share one measurement.
        config = with_fields(self.config.experiment, self.space.point(self.space.cell(e.point)).fields)
        key, measured = latency.shape_key(config), self.state["latency"]
        if key not in measured:
            times = latency.time_forward(config, self.config.batch, self.objects)
            measured[key] = {"median_ms": 1e3 * times.median, "p90_ms": 1e3 * times.p90, "calls": times.n}
            self._record()
        return e._replace(latency_ms=measured[key]["median_ms"], latency_p90_ms=measured[key]["p90_ms"])

    def _commands(self, parts: Sequence[Results]) -> dict[Key, str]:
        """The command of each point's first trial."""
        # The first seed of the earliest round, so that the command of a point never changes.
        commands: dict[Key, str] = {}
        for row in (row for part in parts for row in part.trials):
            commands.setdefault(tuple(row[ladder.name] for ladder in self.space.ladders), row["command"])
        return commands

    def _merged(self) -> Results:
        """All rounds as one grid, for the report."""
        whole_grid = self.grid("", list(self.trials_of), (0,))
        rows = [row for part in self.round_results for row in part.trials]
        structural = [ladder.name for ladder in self.space.ladders if ladder.structural]
        # Each round numbers its groups from 0; here a group is a combination of the structural knobs.
        groups: dict[Key, int] = {}
        for row in rows:
            row["group"] = groups.setdefault(tuple(row[name] for name in structural), len(groups))
        # Columns, control and metric are those of every round.
        return self.round_results[0]._replace(
            name=self.config.name,
            axes=axes(whole_grid, trials(whole_grid)),
            trials=rows,
            curves=[row for part in self.round_results for row in part.curves],
            overrides={name: fields for part in self.round_results for name, fields in part.overrides.items()},
        )

    def _record(self) -> None:
        self.files.write(self.question, self.state)
