"""Knobs, rounds, Pareto set and answer of a search, as parts of a report, tables and files."""

import math
from collections.abc import Sequence
from typing import Any

from jopt import report
from jopt.ablate import report as grids
from jopt.ablate import summary as summaries
from jopt.ablate.budget.answer import interval, milliseconds, value, words
from jopt.ablate.budget.config import Ladder, Search, ladders
from jopt.ablate.budget.estimates import PointEstimate, worsening
from jopt.ablate.budget.files import SearchDir
from jopt.ablate.budget.limits import AVERAGE, MEETS, MISSES, Limit, judge_all
from jopt.ablate.budget.result import Round, SearchResult
from jopt.ablate.results import write_csv
from jopt.ablate.trials import plain
from jopt.measure import Column
from jopt.report import formats
from jopt.report.differences import describe_mixture
from jopt.report.page import Findings, Part
from jopt.report.study import text

_LISTED = 12
_NOTES = (
    "A search looks at the same data many times, so what the rounds say of a point that they chose is optimistic; "
    "the finalists were run again, with the control, on seeds that no round had, and the answer rests "
    "on those alone.",
    "Bytes are those of the packed file, headers and all: its length.",
    "Latency is that of the float network of the same shape, measured once for each shape, warm, on this device: "
    "zeros, shared values and few bits in arrays of the same shape do not change it; pruned channels are removed.",
)


def plan_parts(
    config: Search, ladders: Sequence[Ladder], limits: Sequence[Limit], start: int, finished: bool
) -> list[Part]:
    """What is searched over, under which budget, and the most trials that it may take."""
    sentence = (
        f"{config.name}: {' and '.join(map(str, limits))}; {start} points to begin with, "
        f"{len(config.seeds)} rounds, {config.trials} trials at most"
    )
    return [sentence + ("; it is finished: nothing is run" if finished else ""), knobs_table(ladders)]


def round_note(round: Round, done: bool) -> str:
    """What a round is going to run, and its first points."""
    sentence = (
        f"{round.name}: {round.trials} trials, seeds {round.seeds[0]} to {round.seeds[-1]}, {len(round.new)} new "
        f"points, {len(round.again)} again, the control; {round.why}" + ("; it is done" if done else "")
    )
    points = [
        f"  {kind}: {words(p)}" for kind, listed in (("new", round.new), ("again", round.again)) for p in listed
    ]
    # A round may have hundreds of points.
    omitted = len(points) - _LISTED
    ending = [f"  and {omitted} more, in search.json"] if omitted > 0 else []
    return "\n".join([sentence, *points[:_LISTED], *ending])


def finished_parts(files: SearchDir, config: Search, result: SearchResult) -> list[Part]:
    """The answer, the Pareto set and the finalists, and where to read more."""
    parts: list[Part] = [Findings(findings(result)), pareto_table(result, config, brief=True)]
    if result.finals:
        parts.append(finals_table(result, config, brief=True))
    if (command := command_of(result)) is not None:
        parts.append(f"  {command}")
    return [*parts, f"report: {files.path / 'report.html'}    tables: {files.search}, {files.pareto}"]


def findings(result: SearchResult) -> list[str]:
    """The sentences that the terminal and both reports begin with."""
    mixed = [describe_mixture(result.changes)] if result.changes else []
    return [*mixed, result.answer, f"The rounds ended with {result.stopped}."]


def write_pareto(files: SearchDir, result: SearchResult) -> None:
    """Writes `pareto.csv`."""
    write_csv(files.pareto, [_row(result, e) for e in result.pareto])


def write_report(files: SearchDir, config: Search, result: SearchResult, launch: str) -> None:
    """Writes `report.md` and `report.html`."""
    tables = [pareto_table(result, config), rounds_table(result)]
    if result.finals:
        # What fresh seeds decided comes before what the rounds only suggest.
        tables.insert(0, finals_table(result, config))
    if result.recommended is not None:
        tables.insert(0, recommendation_table(result))
    grids.write(
        files.path,
        result.results,
        summaries.summarize(result.results, config.confidence),
        findings=[*findings(result), *_NOTES],
        extra_tables=tables,
        command=launch or f"jopt.ablate.budget.search of {config.name}",
        plan=[knobs_table(ladders(config))],
        confidence=config.confidence,
    )


def recommendation_table(result: SearchResult) -> report.Table:
    """The fields that the recommended model sets, and the command that trains it."""
    rows = [(path, text(setting)) for path, setting in _overrides(result).items()]
    # The table is what a person copies from.
    rows.append(("trains it again", command_of(result) or ""))
    return report.Table("Recommended", ("field", "value"), "ll", rows)


def summary(result: SearchResult) -> dict[str, Any]:
    """What `search.json` says at the end."""
    best, other = result.recommended, result.runner_up
    return {
        "rounds": [round._asdict() for round in result.rounds],
        "stopped": result.stopped,
        "pareto": [_fields(result, e) | {"verdict": judge_all(result.budget, e)} for e in result.pareto],
        "confirmation": [
            {"control": _fields(result, result.control[-1])},
            *(_fields(result, f.estimate) | {"verdict": f.verdict, "reached": f.reached} for f in result.finals),
        ]
        if result.finals
        else [],
        "recommendation": None
        if best is None
        else _fields(result, best.estimate)
        | {
            "verdict": best.verdict,
            "overrides": plain(_overrides(result)),
            "command": command_of(result),
            "runner_up": None if other is None else _fields(result, other.estimate) | {"verdict": other.verdict},
        },
        "answer": result.answer,
        "changes": list(result.changes),
    }


def _overrides(result: SearchResult) -> dict[str, Any]:
    """The config fields of the recommended point, the seed left out."""
    if result.recommended is None or result.confirmation is None:
        return {}
    # All seeds of a point share these fields, so the first trial has them.
    trial = result.confirmation.at(result.recommended.estimate.point)[0]["trial"]
    return {path: value for path, value in result.confirmation.overrides[trial].items() if path != "seed"}


def _fields(result: SearchResult, e: PointEstimate) -> dict[str, Any]:
    """The fields of an estimate, those of the metric by its key."""
    key = result.results.tested.key
    names = {"metric": key, "metric_low": f"{key}_low", "metric_high": f"{key}_high"}
    return {names.get(name, name): number for name, number in e._asdict().items()}


def _row(result: SearchResult, e: PointEstimate) -> dict[str, Any]:
    numbers = {name: number for name, number in _fields(result, e).items() if name != "point"}
    # JSON and CSV have no NaN: an unknown interval is empty.
    finite = {name: None if number != number else number for name, number in numbers.items()}
    return e.point | finite | {"verdict": judge_all(result.budget, e), "command": result.commands[e.key]}


def knobs_table(ladders: Sequence[Ladder]) -> report.Table:
    """The knobs with their ladders; the values of the first round are in brackets."""
    rows = []
    for ladder in ladders:
        labels = [f"[{text(v)}]" if i in ladder.start else text(v) for i, v in enumerate(ladder.labels)]
        fields = dict.fromkeys(path for option in ladder.options for path in option.fields)
        # Structural options need a program each, which is what makes a round slow.
        kind = "structural" if ladder.structural else "traced"
        rows.append((ladder.name, kind, " ".join(labels), ", ".join(fields)))
    return report.Table("Knobs ([]: tried in round 0)", ("knob", "kind", "options", "fields"), "llll", rows)


def rounds_table(result: SearchResult) -> report.Table:
    """What each round ran."""
    rows = [
        (
            round.name,
            f"{round.seeds[0]} to {round.seeds[-1]}",
            str(len(round.new)),
            str(len(round.again)),
            str(round.trials),
            round.why,
        )
        for round in result.rounds
    ]
    return report.Table("Rounds", ("round", "seeds", "new points", "again", "trials", "what for"), "llrrrl", rows)


def pareto_table(result: SearchResult, config: Search, brief: bool = False) -> report.Table:
    """The Pareto set, as the rounds saw it; brief is as narrow as a terminal."""
    metric = result.results.decisive
    title = f"Pareto set ({metric.label}; chosen by these numbers, so they are optimistic)"
    rows = [(*_cells(e, metric, brief), _brief(judge_all(result.budget, e), brief)) for e in result.pareto]
    return report.Table(title, *_columns(result, config, brief), rows)


def finals_table(result: SearchResult, config: Search, brief: bool = False) -> report.Table:
    """The control and the finalists, from fresh seeds."""
    # Against itself there is nothing to be sure of.
    # The control of the fresh seeds, where there was a confirmation.
    dense = result.control[-1]._replace(drop_low=math.nan, drop_high=math.nan)
    metric = result.results.tested
    rows = [(*_cells(dense, metric, brief), "control")]
    for final in result.finals:
        verdict = _brief(final.verdict, brief)
        if final.verdict == MEETS and not final.reached:
            # The mean meets the budget, and the interval does not exclude that it is missed.
            verdict += ", not claimed"
        if result.recommended is not None and final.estimate.key == result.recommended.estimate.key:
            verdict += ": use it" if brief else " (recommended)"
        rows.append((*_cells(final.estimate, metric, brief), verdict))
    return report.Table(f"Finalists, with fresh seeds ({metric.label})", *_columns(result, config, brief), rows)


def command_of(result: SearchResult) -> str | None:
    """The command that trains the recommended model again."""
    return None if result.recommended is None else result.commands[result.recommended.estimate.key]


def _columns(result: SearchResult, config: Search, brief: bool) -> tuple[tuple[str, ...], str]:
    knobs, metric = [axis.name for axis in result.results.axes], formats.of_run(result.results.tested)
    drop = f"{worsening(metric.better)}, {'points' if metric.fraction else metric.unit}".removesuffix(", ")
    if brief:
        name = "acc." if metric.key == "accuracy" else metric.key
        return (
            ", ".join(knobs),
            "n",
            f"{name} %" if metric.fraction else name,
            drop,
            "bytes",
            "ms",
            "budget",
        ), "lrrrrrl"
    # Named by batch, as latency means nothing without it.
    latency = f"float latency, batch {config.batch}"
    header = (*knobs, "n", metric.label, drop, "bytes", latency, "budget")
    return header, "l" * len(knobs) + "rrrrrl"


def _cells(e: PointEstimate, metric: Column, brief: bool) -> tuple[str, ...]:
    values = [text(label) for label in e.point.values()]
    mean = f"{100 * e.metric:.2f}" if metric.fraction else formats.text(metric, e.metric)
    return (
        *([", ".join(values)] if brief else values),
        str(e.n),
        mean if brief else value(e, metric),
        interval(e, metric),
        formats.integer(round(e.bytes)),
        milliseconds(e.latency_ms).removesuffix(" ms" if brief else ""),
    )


def _brief(verdict: str, brief: bool) -> str:
    return {MEETS: "yes", AVERAGE: "mean only", MISSES: "no"}[verdict] if brief else verdict
