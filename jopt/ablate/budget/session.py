"""A search in its directory: rounds of grids, then the finalists with fresh seeds, then the answer."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

from jopt.ablate import session as grids
from jopt.ablate.budget import finalists, forward, rounds
from jopt.ablate.budget.answer import answer
from jopt.ablate.budget.config import Ladder, Search, ladders
from jopt.ablate.budget.estimates import Estimate, estimate
from jopt.ablate.budget.files import SearchDir, asked_for, with_commands
from jopt.ablate.budget.finalists import Final
from jopt.ablate.budget.found import Found, Round
from jopt.ablate.budget.limits import Limit, distance, parse
from jopt.ablate.budget.pareto import pareto
from jopt.ablate.budget.report import finished_parts, plan_parts, round_note, summary, write
from jopt.ablate.budget.rounds import Place
from jopt.ablate.checks import validate
from jopt.ablate.config import Ablation
from jopt.ablate.paired import resolution
from jopt.ablate.results import Axis, Results, Row
from jopt.ablate.space import Point, Space, product
from jopt.ablate.summary import values_of
from jopt.ablate.trials import axes, trials, with_fields
from jopt.config import require
from jopt.report import SILENT, Observer

CONFIRMATION = "confirm"


def search(
    config: Search,
    workdir: str | os.PathLike[str],
    budget: str,
    *,
    command: str = "",
    launch: str = "",
    devices: int | None = None,
    observer: Observer = SILENT,
    quiet: bool = False,
) -> Found:
    """Searches for the model to use under a budget.

    Round 0 is coarse. Each later round tries the gaps beside the Pareto front, the points nearest to the budget
    first, and runs these points again with fresh seeds. It ends when there is nothing new to propose, or at a limit
    of the config. Then the finalists and the control are run with seeds that no round had, and those alone decide
    what is recommended. What is run next depends on the results alone, so a launch goes on where another stopped.

    Args:
      config: what is searched over.
      workdir: a new or empty directory, or one that holds this very search.
      budget: such as 'accuracy_drop<0.5' (percentage points below the dense control), 'bytes<20kB' (of the packed
        file), 'latency_ms<0.05' (measured on this device), or several of them, joined by commas.
      command: what runs one trial alone, up to its place; '' is a line of Python.
      launch: what runs the search, for its report.
      devices: local devices to use at most; None is all.
      observer: is told what goes on; `jopt.report.Console()` prints it.
      quiet: without effect, as nothing is printed without an observer.

    Returns:
      What was found; `search.json`, `pareto.csv`, `report.md` and `report.html` say it too.

    Raises:
      ConfigError, RuleError: for a budget or a search that cannot run, before anything is compiled or written.
      WorkdirError: if the directory holds something else; nothing in it is changed.
      StopRequested: after SIGTERM, when the trials under way have been saved.
    """
    limits = parse(budget)
    # A budget of bytes is one of the file.
    config = dataclasses.replace(config, experiment=dataclasses.replace(config.experiment, pack=True))
    found = ladders(config)
    files = SearchDir(workdir)
    session = _Search(config, found, limits, files, observer, command, devices)
    start = session.grid("round_0", session.start, range(config.seeds[0]))
    validate(start)
    accepted = f"at least {session.least}: round 0, and at the end the finalists and the control"
    require(config.trials >= session.least, "trials", config.trials, accepted)
    asked = asked_for(config, found, limits)
    before = files.recorded(asked)
    files.make()
    with files.locked():
        return session.run(asked, before, launch)


class _Search:
    """One process's part of a search."""

    def __init__(
        self,
        config: Search,
        found: Sequence[Ladder],
        limits: tuple[Limit, ...],
        files: SearchDir,
        observer: Observer,
        command: str,
        devices: int | None,
    ):
        self.config, self.ladders, self.limits, self.files = config, found, limits, files
        self.observer, self.command, self.devices = observer, command, devices
        self.with_latency = any(limit.quantity == "latency_ms" for limit in limits)
        self.control: Place = (0,) * len(found)
        self.start = rounds.coarse(found, self._excluded)
        self.reserve = config.confirm * (1 + config.finalists)
        self.least = len(self.start) * config.seeds[0] + self.reserve
        self.rounds: list[Round] = []
        self.rows: dict[Place, list[Row]] = {}
        self.parts: list[Results] = []
        self.state: dict[str, Any] = {}

    def run(self, asked: dict[str, Any], before: dict[str, Any] | None, launch: str) -> Found:
        finished = (before or {}).get("status") == "finished"
        self.state = {"status": "running", "rounds": [], "latency": (before or {}).get("latency") or {}}
        self.asked = asked
        start = len(self.start)
        self.observer.plan(lambda: plan_parts(self.config, self.ladders, self.limits, start, finished))
        if not finished:
            self._record()
        stopped = self._explore()
        found = self._conclude(stopped)
        if not finished:
            write(self.files, self.config, found, launch)
            self.state |= summary(found) | {"status": "finished"}
            self._record()
        self.observer.finished(lambda: finished_parts(self.files, self.config, found))
        return found

    def _explore(self) -> str:
        """Runs the rounds; returns why there was no further one."""
        for index, count in enumerate(self.config.seeds):
            first = sum(self.config.seeds[:index])
            seeds = tuple(range(first, first + count))
            if index == 0:
                new, again = [place for place in self.start if place != self.control], []
                why = "a coarse grid: all start values of the numbers, one structure after the other"
            else:
                best = self._nearest()
                proposed = rounds.refine(best, self.ladders, set(self.rows), self.config.points, self._excluded)
                if not proposed:
                    return "nothing new could be proposed: every neighbour of the front was tried"
                room = self.config.trials - self.reserve - sum(own.trials for own in self.rounds)
                fitted = rounds.fit(proposed, [place for place in best if place != self.control], count, room)
                if fitted is None:
                    return f"the limit of {self.config.trials} trials left no room for another round"
                new, again = fitted
                why = f"the gaps beside {len(best)} points of the front, which are run again with fresh seeds"
            self._round(f"round_{index}", new, again, seeds, why)
        return f"the limit of {len(self.config.seeds)} rounds"

    def _nearest(self) -> list[Place]:
        """The points of the front that are refined next: those nearest to the budget."""
        front = pareto(self._estimates(), self.with_latency)
        ordered = sorted(front, key=lambda e: (distance(self.limits, e), e.bytes))
        return [self._place(e.point) for e in ordered[: self.config.survivors]]

    def _conclude(self, stopped: str) -> Found:
        estimates = self._estimates()
        front = pareto(estimates, self.with_latency)
        chosen = finalists.choose(front, self.limits, self.config.finalists, self.config.confirm)
        results = self._merged()
        finals: list[Final] = []
        best, confirmation = None, None
        control = [e for e in estimates if self._place(e.point) == self.control]
        if chosen:
            first = sum(self.config.seeds)
            seeds = tuple(range(first, first + self.config.confirm))
            again = [self._place(e.point) for e in chosen]
            why = "the finalists and the control with seeds that nothing was chosen by; the test part decides"
            self.rows = {}
            confirmation = self._round(CONFIRMATION, [], [p for p in again if p != self.control], seeds, why)
            fresh = {self._place(e.point): e for e in self._estimates("accuracy")}
            finals, best = finalists.decide([self._timed(fresh[place]) for place in again], self.limits)
            control.append(self._timed(fresh[self.control]))
        front = [self._timed(e) for e in front]
        other = None if best is None else finalists.runner_up(finals, best)
        commands = {}
        for part in (*self.parts, *([confirmation] if confirmation else [])):
            for row in part.trials:
                commands.setdefault(tuple(row[ladder.name] for ladder in self.ladders), row["command"])
        text = answer(self.limits, finals, best, other, front, control, self.config)
        return Found(
            self.limits, self.rounds, stopped, estimates, front, finals, best, other, text, commands, results,
            confirmation, control,
        )  # fmt: skip

    def _round(self, name: str, new: list[Place], again: list[Place], seeds: tuple[int, ...], why: str) -> Results:
        """Runs one grid, or reads it where it is done."""
        places = [self.control, *again, *new]
        ablation = self.grid(name, places, seeds)
        wanted = trials(ablation)
        own = Round(name, seeds, [self._labels(p) for p in new], [self._labels(p) for p in again], len(wanted), why)
        self.rounds.append(own)
        self.state["rounds"] = [done._asdict() for done in self.rounds]
        found = self.files.results(name, ablation, wanted)
        self.observer.note(round_note(own, found is not None))
        if found is None:
            self._record()
            grids.run(ablation, self.files.path / name, devices=self.devices)
            found = self.files.results(name, ablation, wanted)
            assert found is not None
        found = found._replace(trials=with_commands(found.trials, self.files.path / name, self.command))
        if name != CONFIRMATION:
            self.parts.append(found)
        for place in places:
            self.rows.setdefault(place, []).extend(found.at(self._labels(place)))
        return found

    def grid(self, name: str, places: Sequence[Place], seeds: Sequence[int]) -> Ablation:
        """The grid of a round."""
        c = self.config
        return Ablation(
            name=f"{c.name}, {name.replace('_', ' ')}",
            experiment=c.experiment,
            space=Space(tuple(self._point(place) for place in places)),
            seeds=tuple(seeds),
            control=self._labels(self.control),
            metric="accuracy" if name == CONFIRMATION else c.metric,
            strategy=c.strategy,
            confidence=c.confidence,
        )

    def _estimates(self, metric: str | None = None) -> list[Estimate]:
        """Of all points that the rows tell of; timed if the budget asks for it."""
        metric = metric or self.config.metric
        everything = [row for rows in self.rows.values() for row in rows]
        step = resolution(values_of(Results("", (), None, metric, everything, [], {}), metric))
        out = []
        for place, rows in self.rows.items():
            own = estimate(
                self._labels(place),
                rows,
                self.rows[self.control],
                metric=metric,
                confidence=self.config.confidence,
                resolution=step,
            )
            out.append(self._timed(own) if self.with_latency else own)
        return out

    def _timed(self, own: Estimate) -> Estimate:
        """The estimate with its latency, measured once for each shape and kept in `search.json`."""
        config = with_fields(self.config.experiment, self._point(self._place(own.point)).fields)
        key, known = forward.shape_key(config), self.state["latency"]
        if key not in known:
            measured = forward.measure(config, self.config.batch)
            known[key] = {"median_ms": 1e3 * measured.median, "p90_ms": 1e3 * measured.p90, "calls": measured.n}
            self._record()
        return own._replace(latency_ms=known[key]["median_ms"], latency_p90_ms=known[key]["p90_ms"])

    def _merged(self) -> Results:
        """All rounds as one grid."""
        first = self.parts[0]
        together = self.grid("", list(self.rows), (0,))
        found: tuple[Axis, ...] = axes(together, trials(together))
        rows = [row for part in self.parts for row in part.trials]
        groups: dict[tuple[Any, ...], int] = {}
        structural = [ladder.name for ladder in self.ladders if ladder.structural]
        for row in rows:
            row["group"] = groups.setdefault(tuple(row[name] for name in structural), len(groups))
        overrides = {trial: own for part in self.parts for trial, own in part.overrides.items()}
        curves = [row for part in self.parts for row in part.curves]
        return first._replace(name=self.config.name, axes=found, trials=rows, curves=curves, overrides=overrides)

    def _record(self) -> None:
        self.files.write(self.asked, self.state)

    def _point(self, place: Place) -> Point:
        options = (ladder.options[at] for ladder, at in zip(self.ladders, place, strict=True))
        return product(*(Space((option,)) for option in options)).points[0]

    def _labels(self, place: Place) -> dict[str, Any]:
        return {ladder.name: ladder.labels[at] for ladder, at in zip(self.ladders, place, strict=True)}

    def _place(self, labels: dict[str, Any]) -> Place:
        return tuple(ladder.labels.index(labels[ladder.name]) for ladder in self.ladders)

    def _excluded(self, place: Place) -> bool:
        labels = self._labels(place)
        return any(all(labels[name] == label for name, label in rule.items()) for rule in self.config.excluded)
