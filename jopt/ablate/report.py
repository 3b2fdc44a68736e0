"""The report of an ablation as parts, and the files that hold it: `report.html` and `report.md`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jopt.ablate.results import Results, TrialRow
from jopt.ablate.study import study, trial_columns
from jopt.measure import Column
from jopt.report import formats
from jopt.report.grid_curves import curves, sensitivity
from jopt.report.grid_figures import forest, heat_map, tradeoff
from jopt.report.page import Code, Details, Findings, Heading, Part, write_html, write_markdown
from jopt.report.study import Study, StudyPoint, text
from jopt.report.tables import Table

_FIGURES = (tradeoff, heat_map, curves, sensitivity, forest)


def write(
    directory: Path,
    results: Results,
    summary: Sequence[TrialRow],
    *,
    findings: Sequence[str] = (),
    extra_tables: Sequence[Table] = (),
    command: str,
    plan: Sequence[Table] = (),
    confidence: float = 0.95,
) -> list[Path]:
    """Writes the report of an ablation. The same input gives the same bytes.

    Args:
      directory: of the ablation; it exists.
      results: of the ablation.
      summary: the result of `jopt.ablate.summary.summarize`.
      findings: sentences that the report begins with, as plain text.
      extra_tables: shown under the summary.
      command: runs the ablation.
      plan: tables of how it was run, shown after the figures.
      confidence: of the summary's intervals.

    Returns:
      The files: `report.html`, which needs no other file, and `report.md`, which links to the figures in it.

    Raises:
      ConfigError: if the summary is not of these results.
    """
    parts = report_parts(results, summary, findings, extra_tables, command, plan, confidence)
    page, markdown = directory / "report.html", directory / "report.md"
    write_html(page, results.name, parts)
    write_markdown(markdown, parts)
    return [page, markdown]


def report_parts(
    results: Results,
    summary: Sequence[TrialRow],
    findings: Sequence[str],
    extra_tables: Sequence[Table],
    command: str,
    plan: Sequence[Table],
    confidence: float = 0.95,
) -> list[Part]:
    """The parts of the report: findings, command, summary, figures, how it was run, every point with its trials."""
    drawn = study(results, summary, confidence)
    parts: list[Part] = [Heading(results.name, 1), Findings(findings), Code(command)]
    parts += [Heading("Summary"), _note(drawn), summary_table(results, drawn, summary)]
    for table in extra_tables:
        parts += [Heading(table.title), table._replace(title="")]
    # Which figures there are depends on the grid: one axis has no heat map.
    drawn_figures = [draw(drawn) for draw in _FIGURES]
    parts += [Heading("Figures"), *(figure for figure in drawn_figures if figure is not None)]
    if plan:
        parts += [Heading("How it was run"), *plan]
    # Every trial with its command, so that each result can be repeated alone.
    trials = sum(len(point.trials) for point in drawn.points)
    parts += [
        Heading(f"All {trials} trials"),
        "The settings of each point, and the command that runs each of its trials.",
    ]
    columns = trial_columns(results)
    return [*parts, *(_details(drawn, point, columns) for point in drawn.points)]


def summary_table(results: Results, drawn: Study, summary: Sequence[TrialRow]) -> Table:
    """The summary as a report shows it.

    Means are shown with their intervals; costs and columns from outside with their standard deviation, unless all
    seeds have the same.
    """
    # Without a control these columns would be empty.
    compared = any(p.difference is not None or p.verdict == "control" for p in drawn.points)
    # The other built-in columns are in summary.csv: with all of them the table would not fit a page.
    shown = [c for c in results.columns if (c in drawn.costs or c.origin == "outside") and c != results.decisive]
    shown = [c for c in shown if any(row.get(f"{c.key}_mean") is not None for row in summary)]
    header = [axis.name for axis in drawn.axes] + ["n", drawn.outcome_name]
    # The adjusted interval alone, as two intervals beside one verdict would be read as a contradiction.
    header += ["difference to the control, adjusted interval", "p (Holm)", "verdict"] * compared
    header += [formats.titled(column) for column in shown] + ["notes"]
    align = (
        "".join("r" if a.numeric else "l" for a in drawn.axes) + "rr" + "rrl" * compared + "r" * len(shown) + "l"
    )
    rows = []
    for point, row in zip(drawn.points, summary, strict=True):
        cells = [axis.text(i) for axis, i in zip(drawn.axes, point.at, strict=True)]
        cells += [str(len(point.trials) - point.diverged)]
        cells += ["diverged" if point.outcome is None else drawn.estimate(point.outcome)]
        if compared:
            p = row.get("p_holm")
            cells += [drawn.change(point.decisive), "-" if p is None else f"{p:.3g}", point.verdict or "-"]
        cells += [_mean_cell(row, column) for column in shown] + [str(row.get("flags") or "")]
        rows.append(tuple(cells))
    return Table("", tuple(header), align, rows)


def _mean_cell(row: TrialRow, column: Column) -> str:
    mean, sd = row.get(f"{column.key}_mean"), row.get(f"{column.key}_sd")
    # Below half a unit the spread would be printed as 0.
    visible = sd is not None and sd >= (1e-12 if column.origin == "outside" else 0.5)
    return formats.text(column, mean) + (f" ± {formats.text(column, sd)}" if visible else "")


def _details(drawn: Study, point: StudyPoint, columns: Sequence[Column]) -> Details:
    """A point's settings, and its trials with the commands that run them alone."""
    # The seed is not among them: it differs from trial to trial.
    settings = Table("", ("field", "value"), "ll", list(point.settings.items()))
    shown = [c for c in columns if any(c in trial.results for trial in point.trials)]
    header = ("trial", "seed", "status", *(formats.titled(c) for c in shown), "command")
    rows = [
        (
            trial.id,
            str(trial.seed),
            trial.status,
            *(formats.text(c, trial.results.get(c)) for c in shown),
            trial.command,
        )
        for trial in point.trials
    ]
    outcome = "diverged" if point.outcome is None else drawn.estimate(point.outcome)
    summary = f"{drawn.label(point) or 'all trials'}: {outcome}"
    trials = Table("", header, "lrl" + "r" * len(shown) + "l", rows)
    return Details(summary, [settings, trials] if point.settings else [trials])


def _note(drawn: Study) -> str:
    note = (
        f"Each row is a point of the grid: the mean over the n seeds that finished, with its {drawn.percent} "
        "interval (Student's t)."
    )
    if any(p.difference is not None for p in drawn.points):
        note += (
            " Differences are paired by seed; their intervals, which decide the verdicts, and the p values are "
            "adjusted for all comparisons. A point is called better or worse only if its interval excludes 0. The "
            "figure of differences and summary.csv also have the interval of each comparison alone."
        )
    return note + " Theoretical sizes and FLOPs are computed; where seeds differ, ± is their standard deviation."


def axis_text(values: Sequence[object]) -> str:
    """The values of an axis on one line.

    Example:
      >>> axis_text((0.1, None, "a"))
      '0.1, none, a'
    """
    return formats.shorten(", ".join(map(text, values)), 60)
