"""What a search prints: its knobs, each round's proposal, the Pareto set and the answer."""

import math
from collections.abc import Sequence

from jopt import report
from jopt.ablate.budget.answer import interval, milliseconds, percent, words
from jopt.ablate.budget.config import Ladder, Search
from jopt.ablate.budget.estimates import Estimate
from jopt.ablate.budget.files import SearchDir
from jopt.ablate.budget.found import Found, Round
from jopt.ablate.budget.limits import AVERAGE, MEETS, MISSES, Limit, judge_all
from jopt.report import formats
from jopt.report.interactive.data import text

_LISTED = 12


class Display:
    """Prints what goes on, unless it is quiet."""

    def __init__(self, quiet: bool = False):
        """Quiet displays print nothing."""
        self._quiet = quiet

    def _print(self, *lines: str) -> None:
        if not self._quiet:
            print(*lines, sep="\n", flush=True)

    def begin(
        self, config: Search, ladders: Sequence[Ladder], limits: Sequence[Limit], start: int, finished: bool
    ) -> None:
        """What is searched over, for what, and at what price at most."""
        if self._quiet:
            return
        more = "; it is finished: nothing is run" if finished else ""
        self._print(
            f"{config.name}: {' and '.join(map(str, limits))}; {start} points to begin with, "
            f"{len(config.seeds)} rounds, {config.trials} trials at most" + more
        )
        report.show(knobs_table(ladders), width=140)

    def round(self, own: Round, done: bool) -> None:
        """What a round is going to run."""
        self._print(
            f"{own.name}: {own.trials} trials, seeds {own.seeds[0]} to {own.seeds[-1]}, {len(own.new)} new points, "
            f"{len(own.again)} again, the control; {own.why}" + ("; it is done" if done else "")
        )
        listed = [f"  {what}: {words(p)}" for what in ("new", "again") for p in getattr(own, what)]
        left = len(listed) - _LISTED
        self._print(*listed[:_LISTED], *([f"  and {left} more, in search.json"] if left > 0 else []))

    def end(self, files: SearchDir, config: Search, found: Found) -> None:
        """The Pareto set, the finalists and the answer."""
        if self._quiet:
            return
        self._print(f"stopped: {found.stopped}")
        report.show(pareto_table(found, config, brief=True), width=140)
        if found.finals:
            report.show(finals_table(found, config, brief=True), width=140)
        self._print(found.answer)
        if (line := command_of(found)) is not None:
            self._print(f"  {line}")
        self._print(f"report: {files.path / 'report.html'}    tables: {files.search}, {files.pareto}")


def knobs_table(ladders: Sequence[Ladder]) -> report.Table:
    """The knobs with their ladders; what the first round tries stands in brackets."""
    rows = []
    for ladder in ladders:
        labels = [f"[{text(v)}]" if i in ladder.start else text(v) for i, v in enumerate(ladder.labels)]
        fields = dict.fromkeys(path for option in ladder.options for path in option.fields)
        kind = "structural" if ladder.structural else "traced"
        rows.append((ladder.name, kind, " ".join(labels), ", ".join(fields)))
    return report.Table("Knobs ([]: tried in round 0)", ("knob", "kind", "options", "fields"), "llll", rows)


def rounds_table(found: Found) -> report.Table:
    """What each round ran."""
    rows = [
        (
            own.name,
            f"{own.seeds[0]} to {own.seeds[-1]}",
            str(len(own.new)),
            str(len(own.again)),
            str(own.trials),
            own.why,
        )
        for own in found.rounds
    ]
    return report.Table("Rounds", ("round", "seeds", "new points", "again", "trials", "what for"), "llrrrl", rows)


def pareto_table(found: Found, config: Search, brief: bool = False) -> report.Table:
    """The Pareto set, as the rounds saw it; brief is as narrow as a terminal."""
    what = "validation" if config.metric == "validation_accuracy" else "test"
    title = f"Pareto set ({what} accuracy; chosen by these numbers, so they are optimistic)"
    rows = [(*_cells(e, brief), _brief(judge_all(found.budget, e), brief)) for e in found.pareto]
    return report.Table(title, *_columns(found, config, brief), rows)


def finals_table(found: Found, config: Search, brief: bool = False) -> report.Table:
    """The control and the finalists, from fresh seeds."""
    # Against itself there is nothing to be sure of.
    dense = found.control[-1]._replace(drop_low=math.nan, drop_high=math.nan)
    rows = [(*_cells(dense, brief), "control")]
    for final in found.finals:
        verdict = _brief(final.verdict, brief)
        if final.verdict == MEETS and not final.reached:
            verdict += ", not claimed"
        if found.recommended is not None and final.estimate.key == found.recommended.estimate.key:
            verdict += ": use it" if brief else " (recommended)"
        rows.append((*_cells(final.estimate, brief), verdict))
    return report.Table("Finalists, with fresh seeds (test accuracy)", *_columns(found, config, brief), rows)


def command_of(found: Found) -> str | None:
    """What trains the recommended model again."""
    return None if found.recommended is None else found.commands[found.recommended.estimate.key]


def _columns(found: Found, config: Search, brief: bool) -> tuple[tuple[str, ...], str]:
    knobs = [axis.name for axis in found.results.axes]
    if brief:
        return (", ".join(knobs), "n", "acc. %", "drop, points", "bytes", "ms", "budget"), "lrrrrrl"
    latency = f"float latency, batch {config.batch}"
    header = (*knobs, "n", "accuracy", "drop, points", "bytes", latency, "budget")
    return header, "l" * len(knobs) + "rrrrrl"


def _cells(e: Estimate, brief: bool) -> tuple[str, ...]:
    values = [text(value) for value in e.point.values()]
    return (
        *([", ".join(values)] if brief else values),
        str(e.n),
        f"{100 * e.accuracy:.2f}" if brief else percent(e.accuracy, e.accuracy_low, e.accuracy_high),
        interval(e),
        formats.integer(round(e.bytes)),
        milliseconds(e.latency_ms).removesuffix(" ms" if brief else ""),
    )


def _brief(verdict: str, brief: bool) -> str:
    return {MEETS: "yes", AVERAGE: "mean only", MISSES: "no"}[verdict] if brief else verdict
