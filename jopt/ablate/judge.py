"""What an ablation's protocol asks for: checks before anything runs, tables and sentences for the report after."""

from collections.abc import Sequence

from jopt.ablate.algoperf import check_tuning, optimizers
from jopt.ablate.checks import control
from jopt.ablate.config import Ablation
from jopt.ablate.findings import sentences
from jopt.ablate.results import Results, Row
from jopt.ablate.shrinkbench import Setting, check_pruning, pruning, setting_of
from jopt.ablate.trials import Trial
from jopt.report import Table, formats

_TEXT = (bool, str)


def check(ablation: Ablation, trials: Sequence[Trial]) -> None:
    """Checks that the grid can show what its protocol asks for.

    Raises:
      ConfigError: if it cannot.
    """
    points = [point.labels for point in ablation.space.points]
    if ablation.protocol == "optimizers":
        check_tuning(points, ablation.tuned)
    if ablation.protocol == "pruning":
        check_pruning(points, settings(ablation, trials), control(ablation))


def settings(ablation: Ablation, trials: Sequence[Trial]) -> list[Setting]:
    """How each point of the grid prunes."""
    return [setting_of(trial.config) for trial in trials[:: len(ablation.seeds)]]


def judge(
    ablation: Ablation, trials: Sequence[Trial], results: Results, summary: Sequence[Row]
) -> tuple[list[Table], list[str]]:
    """Tables and sentences for the report: the protocol's, and what the summary shows."""
    if ablation.protocol == "optimizers":
        rows, found = optimizers(results, ablation.tuned, ablation.target, ablation.confidence)
        # The points that were not chosen are shown, and not judged: what they teach is how to choose.
        return [_table("Chosen by validation", rows)], found
    found = sentences(results, summary, ablation.confidence)
    if ablation.protocol == "pruning":
        rows, more = pruning(results, settings(ablation, trials), ablation.confidence)
        return [_table("Accuracy, size and FLOPs by score and ratio", rows)], more + found
    return [], found


def _table(title: str, rows: Sequence[Row]) -> Table:
    """Rows as a table, without columns that hold nothing."""
    names = [name for name in rows[0] if any(row[name] not in (None, "") for row in rows)]
    align = "".join("l" if any(isinstance(row[name], _TEXT) for row in rows) else "r" for name in names)
    header = tuple(name.replace("_", " ") for name in names)
    return Table(title, header, align, [tuple(_cell(row[name]) for name in names) for row in rows])


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return formats.shorten(f"{value:.4g}" if isinstance(value, float) else str(value), 60)
