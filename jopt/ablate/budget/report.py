"""What a search leaves behind: `pareto.csv`, the report, and the end of `search.json`."""

from typing import Any

from jopt.ablate import summary as summaries
from jopt.ablate.budget.config import Search, ladders
from jopt.ablate.budget.display import command_of, finals_table, knobs_table, pareto_table, rounds_table
from jopt.ablate.budget.estimates import Estimate
from jopt.ablate.budget.files import SearchDir
from jopt.ablate.budget.found import Found
from jopt.ablate.budget.limits import judge_all
from jopt.ablate.table import write_csv
from jopt.ablate.trials import plain
from jopt.report import Table
from jopt.report.interactive.data import text

_NOTES = (
    "A search looks at the same data many times, so what the rounds say of a point that they chose is optimistic; "
    "the finalists were run again, with the control, on seeds that no round had, and the answer rests "
    "on those alone.",
    "Bytes are those of the packed file, headers and all: its length.",
    "Latency is that of the float network of the same shape, measured once for each shape, warm, on this device: "
    "zeros, shared values and few bits in arrays of the same shape do not change it; pruned channels are removed.",
)


def write(files: SearchDir, config: Search, found: Found, launch: str) -> None:
    """Writes `pareto.csv`, `report.md`, `report.html` and the pictures."""
    from jopt.ablate import report as grids

    write_csv(files.pareto, [_row(found, e) for e in found.pareto])
    tables = [pareto_table(found, config), rounds_table(found)]
    if found.finals:
        tables.insert(0, finals_table(found, config))
    if found.recommended is not None:
        tables.insert(0, recommendation_table(found))
    grids.write(
        files.path,
        found.results,
        summaries.summarize(found.results, config.confidence),
        sentences=[found.answer, f"The rounds ended with {found.stopped}.", *_NOTES],
        extra_tables=tables,
        command=launch or f"jopt.ablate.budget.search of {config.name}",
        plan=[knobs_table(ladders(config))],
        confidence=config.confidence,
    )


def recommendation_table(found: Found) -> Table:
    """The fields that the recommended model sets, and what trains it."""
    rows = [(path, text(value)) for path, value in _overrides(found).items()]
    rows.append(("trains it again", command_of(found) or ""))
    return Table("Recommended", ("field", "value"), "ll", rows)


def summary(found: Found) -> dict[str, Any]:
    """What `search.json` says at the end."""
    best, other = found.recommended, found.runner_up
    return {
        "rounds": [own._asdict() for own in found.rounds],
        "stopped": found.stopped,
        "pareto": [e._asdict() | {"verdict": judge_all(found.budget, e)} for e in found.pareto],
        "confirmation": [
            {"control": found.control[-1]._asdict()},
            *(f.estimate._asdict() | {"verdict": f.verdict, "reached": f.reached} for f in found.finals),
        ]
        if found.finals
        else [],
        "recommendation": None
        if best is None
        else best.estimate._asdict()
        | {
            "verdict": best.verdict,
            "overrides": plain(_overrides(found)),
            "command": command_of(found),
            "runner_up": None if other is None else other.estimate._asdict() | {"verdict": other.verdict},
        },
        "answer": found.answer,
    }


def _overrides(found: Found) -> dict[str, Any]:
    """The config fields of the recommended point, the seed left out."""
    if found.recommended is None or found.confirmation is None:
        return {}
    trial = found.confirmation.at(found.recommended.estimate.point)[0]["trial"]
    return {path: value for path, value in found.confirmation.overrides[trial].items() if path != "seed"}


def _row(found: Found, e: Estimate) -> dict[str, Any]:
    numbers = {name: value for name, value in e._asdict().items() if name != "point"}
    known = {name: None if value != value else value for name, value in numbers.items()}
    return e.point | known | {"verdict": judge_all(found.budget, e), "command": found.commands[e.key]}
