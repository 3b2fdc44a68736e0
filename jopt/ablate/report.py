"""The report of an ablation: `report.md`, `report.html` and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jopt.ablate.results import Results, Row
from jopt.files import write_bytes, write_text
from jopt.report import formats, interactive
from jopt.report.interactive.data import SIZES, Study, text
from jopt.report.tables import Table, escape, to_markdown

_SHOWN = {
    "bytes": "bytes of the packed file",
    "theoretical_bytes": "theoretical bytes",
    "nonzero_parameters": "nonzero parameters",
    "effective_flops": "effective FLOPs",
}


def write(
    directory: Path,
    results: Results,
    summary: list[Row],
    *,
    sentences: Sequence[str] = (),
    extra_tables: Sequence[Table] = (),
    command: str,
    plan: Sequence[Table] = (),
    confidence: float = 0.95,
) -> list[Path]:
    """Writes the report of an ablation. The same input gives the same bytes.

    Args:
      directory: of the ablation; it is there.
      results: of the ablation.
      summary: what `jopt.ablate.summary.summarize` made of them.
      sentences: what was run and what is found, as plain text; one paragraph.
      extra_tables: shown under the summary.
      command: what runs the ablation.
      plan: tables of how it was run, shown behind the plots.
      confidence: of the summary's intervals.

    Returns:
      The files: `report.html`, whole in itself; `report.md`; and the pictures of `report.md`, those for which there
      are data: `accuracy_against_size.png`, `heat_map.png`, `learning_curves.png`, `sensitivity.png`,
      `differences.png`.

    Raises:
      ConfigError: if the summary is not of these results.
    """
    from jopt.ablate.drawing import encode
    from jopt.ablate.figures import PICTURES, pictures
    from jopt.ablate.study import study

    own = study(results, summary, confidence)
    drawn = pictures(own)
    for name in PICTURES:
        if name in drawn:
            write_bytes(directory / name, encode(drawn[name][1]))
        else:
            # Of an earlier report, of which nothing speaks any more.
            (directory / name).unlink(missing_ok=True)
    paths = [directory / name for name in drawn]
    captions = [(name, caption) for name, (caption, _) in drawn.items()]
    write_text(directory / "report.html", _html(own, summary, sentences, extra_tables, command, plan))
    write_text(directory / "report.md", _markdown(own, summary, sentences, extra_tables, command, plan, captions))
    return [directory / "report.html", directory / "report.md", *paths]


def summary_table(own: Study, summary: Sequence[Row]) -> tuple[Table, list[list[float | str | None]]]:
    """The summary as it is shown, and what its cells are sorted by.

    Means stand with their intervals, sizes with their standard deviation, unless all seeds have the same.
    """
    compared = any(p.difference is not None or p.verdict == "control" for p in own.points)
    sizes = [key for key in SIZES if any(key in point.sizes for point in own.points)]
    header = [axis.name for axis in own.axes] + ["n", own.outcome_name]
    header += ["difference to the control, adjusted interval", "p (Holm)", "verdict"] * compared
    header += [_SHOWN[key] for key in sizes] + ["notes"]
    align = "".join("r" if a.numeric else "l" for a in own.axes) + "rr" + "rrl" * compared + "r" * len(sizes) + "l"
    rows, keys = [], []
    for point, row in zip(own.points, summary, strict=True):
        values = [a.values[i] for a, i in zip(own.axes, point.at, strict=True)]
        cells = [text(value) for value in values]
        key: list[Any] = [v if a.numeric else text(v) for a, v in zip(own.axes, values, strict=True)]
        finished = len(point.trials) - point.diverged
        cells += [str(finished), "diverged" if point.outcome is None else own.estimate(point.outcome)]
        key += [finished, point.outcome and point.outcome.mean]
        if compared:
            p = row.get("p_holm")
            cells += [own.change(point.decisive), "-" if p is None else f"{p:.3g}", point.verdict or "-"]
            key += [point.difference and point.difference.mean, p, point.verdict]
        cells += [_size(row, name) for name in sizes] + [str(row.get("flags") or "")]
        key += [row.get(f"{name}_mean") for name in sizes] + [str(row.get("flags") or "")]
        rows.append(tuple(cells))
        keys.append(key)
    return Table("", tuple(header), align, rows), keys


def _size(row: Row, key: str) -> str:
    mean, sd = row.get(f"{key}_mean"), row.get(f"{key}_sd")
    if mean is None:
        return "-"
    return formats.integer(mean) + (f" ± {formats.integer(sd)}" if sd and sd >= 0.5 else "")


def trials_table(own: Study) -> Table:
    """Every trial with the command that runs it alone."""
    rows = [
        (trial.id, own.label(point), str(trial.seed), trial.status, trial.result or "-", trial.command)
        for point in own.points
        for trial in point.trials
    ]
    return Table("", ("trial", "point", "seed", "status", "result", "command"), "llrlll", rows)


def _note(own: Study) -> str:
    note = (
        f"Each row is a point of the grid: the mean over the n seeds that finished, with its {own.percent} "
        "interval (Student's t)."
    )
    if any(p.difference is not None for p in own.points):
        note += (
            " Differences are paired by seed; their intervals, which the verdicts go by, and the p values are "
            "adjusted for all comparisons. Nothing is called better or worse whose interval holds 0. The plot of "
            "differences and summary.csv have the intervals of each alone, too."
        )
    return note + " Sizes and FLOPs are theoretical; where seeds differ, their standard deviation stands behind ±."


def _html(
    own: Study, summary: Sequence[Row], sentences: Sequence[str], extra: Sequence[Table], command: str,
    plan: Sequence[Table],
) -> str:  # fmt: skip
    table, keys = summary_table(own, summary)
    targets = [f"point={i}" for i in range(len(own.points))]
    before = [
        interactive.Section("Summary", interactive.paragraph(_note(own)) + interactive.table(table, keys, targets)),
        *(interactive.Section(t.title, interactive.table(t._replace(title=""))) for t in extra),
    ]
    trials = trials_table(own)
    targets = [f"trial={row[0]}" for row in trials.rows]
    after = [interactive.Section("How it was run", "\n".join(map(interactive.table, plan)))] if plan else []
    after.append(
        interactive.Section(
            f"All {len(trials.rows)} trials", interactive.table(trials, (), targets, "command"), folded=True
        )
    )
    lead = (interactive.paragraph(" ".join(sentences)) if sentences else "") + interactive.command(command)
    return interactive.page(own, lead, before, after)


def _markdown(
    own: Study, summary: Sequence[Row], sentences: Sequence[str], extra: Sequence[Table], command: str,
    plan: Sequence[Table], captions: Sequence[tuple[str, str]],
) -> str:  # fmt: skip
    parts = [f"# {escape(own.title)}", *([escape(" ".join(sentences))] if sentences else []), _fence(command)]
    parts += ["The same with interactive plots: [report.html](report.html).", "## Summary", _note(own)]
    parts.append(to_markdown(summary_table(own, summary)[0]))
    parts += [part for t in extra for part in (f"## {escape(t.title)}", to_markdown(t._replace(title="")))]
    for name, caption in captions:
        parts.append(f"![{escape(caption)}](<{name}>)\n\n*{escape(caption)}*")
    parts += ["## How it was run", *map(to_markdown, plan)] if plan else []
    trials = to_markdown(trials_table(own))
    parts.append(f"## Trials\n\n<details><summary>Every trial and its command</summary>\n\n{trials}\n\n</details>")
    return "\n\n".join(parts) + "\n"


def _fence(text: str) -> str:
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}sh\n{text}\n{fence}"
