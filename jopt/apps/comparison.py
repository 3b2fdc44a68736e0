"""The differences between runs, as tables, sentences and curves, in a terminal and in files."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jopt import report
from jopt.config import ConfigError
from jopt.report import differences, formats
from jopt.task import Task
from jopt.train import metrics
from jopt.train.surroundings import mixture, unasked
from jopt.train.workdir import Workdir, WorkdirError, read_manifest

_FILES = ("comparison.md", "comparison.html")
_LONGEST_NAME = 16  # of a column in a terminal.
_MARK = "<!-- written by experiments.compare -->"
_CAVEAT = (
    "One run each: these numbers carry no uncertainty, and a difference may be seed noise. "
    "For a claim, repeat every variant with several seeds."
)


@dataclasses.dataclass
class Run:
    """The content of a run directory so far; `manifest` and `result` are empty where the file is not there yet.

    `task` is None where the config names it by a reference, and is not trusted.
    """

    path: Path
    config: dict[str, Any]
    task: Task | None
    manifest: dict[str, Any]
    result: dict[str, Any]
    rows: list[metrics.MetricsRow]


def compare(paths: Sequence[Path], out: Path, *, trusted: bool = False) -> None:
    """Prints the differences between the runs in `paths`, and writes them to the directory `out`.

    Args:
      paths: the directories of runs.
      out: made if need be.
      trusted: whether modules that the runs name may be imported, for the names of a custom task's metrics.

    Raises:
      WorkdirError: if a path is no run directory, or `out` cannot be written or holds files of another origin.
    """
    runs = dict(zip(differences.unique_names(paths), (_read(path, trusted) for path in paths), strict=True))
    # Runs are read first, so that a wrong run leaves no empty directory behind.
    _claim(out)
    tables, sentences = _tables(runs), _sentences(runs)

    console = report.open_console()
    console.print(*(f"- {formats.printable(sentence)}" for sentence in sentences), sep="\n", soft_wrap=False)
    for table in tables if max(map(len, runs)) <= _LONGEST_NAME else _with_numbers(runs):
        for part in report.fit(table, console.width) if table.rows else []:
            report.show(part, console)
    _write(out, runs, tables, sentences)
    console.print(f"\nreport: {out / _FILES[0]}    curves: {out / _FILES[1]}", soft_wrap=True)


def _read(path: Path, trusted: bool) -> Run:
    """Reads a run directory.

    Raises:
      WorkdirError: if it is not a run directory, or if a file in it cannot be read.
    """
    files = Workdir(path)
    if not files.config.is_file():
        reason = "there is no config.json in it" if path.is_dir() else "there is no such directory"
        raise WorkdirError(f"{path} is not a run directory: {reason}")

    rows = files.load_rows()
    # A damaged line is named, as the file may have a million.
    for number, row in enumerate(rows, 1):
        if not (isinstance(row.get("step"), int) and isinstance(row.get("split"), str)):
            raise WorkdirError(f"{files.metrics}, line {number}: no step and split in {str(row)[:80]}")
    result = files.load_result() if files.result.exists() else {}
    return Run(path, files.load_json(files.config), _task(files, trusted), read_manifest(files) or {}, result, rows)


def _task(files: Workdir, trusted: bool) -> Task | None:
    try:
        return files.load_config(trusted).task.resolved()
    except (WorkdirError, ConfigError):
        return None


def _common_task(runs: dict[str, Run]) -> Task:
    """The task whose metrics are compared: of the first run; of one that is not known the loss alone."""
    return next(iter(runs.values())).task or Task()


def _tables(runs: dict[str, Run]) -> list[report.Table]:
    """The differences, as tables; a table without rows means that nothing differs."""
    task = _common_task(runs)
    summaries = {name: differences.summary(r.rows, r.result, r.manifest, task) for name, r in runs.items()}
    tables = [
        differences.difference_table("Config", {name: r.config for name, r in runs.items()}),
        differences.difference_table("Environment", _environments(runs)),
        differences.metrics_table(summaries, task),
    ]
    return tables if len(runs) == 2 else [*tables, differences.changes_table(summaries, task)]


def _environments(runs: dict[str, Run]) -> dict[str, dict[str, Any]]:
    return {name: differences.environment(r.manifest) for name, r in runs.items() if r.manifest}


def _with_numbers(runs: dict[str, Run]) -> list[report.Table]:
    """The tables with a number for each run, for a terminal that is too narrow for their names."""
    # Long names fold into one character a line where several share 80 columns.
    numbers = {f"run {i}": run for i, run in enumerate(runs.values(), 1)}
    rows = list(zip(numbers, runs, strict=True))
    return [report.Table("Runs", ("", "name"), "ll", rows), *_tables(numbers)]


def _sentences(runs: dict[str, Run]) -> list[str]:
    """The findings that no table shows: what is equal, what is missing, and what is not comparable."""
    sentences: list[str] = []
    if not differences.differing({name: r.config for name, r in runs.items()}):
        sentences.append("The configs are equal.")
        # Equal configs should give equal bits.
        if len({r.result["digest"] for r in runs.values() if "digest" in r.result}) > 1:
            sentences.append("But the digests differ: the runs did not reproduce one another.")
    if len(_environments(runs)) > 1 and not differences.differing(_environments(runs)):
        sentences.append("The environments are equal.")
    # Old manifests have no fingerprint; they say nothing either way.
    data = [r.manifest.get("dataset_fingerprint") for r in runs.values()]
    if any(fingerprint != data[0] for fingerprint in data if None not in (fingerprint, data[0])):
        sentences.append("The data sets differ: the losses and accuracies are of different tasks.")
    for name, r in runs.items():
        if not r.manifest:
            sentences.append(f"{name} has no manifest.json: its environment is not known.")
        if r.task is None:
            sentences.append(
                f"{name} names a task of somebody's own: --trust shows its metrics, without it the loss."
            )
        if not r.result:
            sentences.append(f"{name} has not finished: its numbers are of the last step that it recorded.")
        changed: dict[int, list[str]] = {}
        for change in [*mixture(r.manifest), *unasked(r.manifest)]:
            changed.setdefault(change["step"], []).append(change["name"])
        sentences += [f"{name} went on at step {step} with another {', '.join(changed[step])}." for step in changed]
    return [*sentences, _CAVEAT]


def _claim(directory: Path) -> None:
    """Makes the directory and checks that no file of another origin would be replaced.

    Raises:
      WorkdirError: if it cannot be made or written, or holds files of these names that this app did not write.
    """
    files = [directory / name for name in _FILES]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # Before the tables are computed, since a directory that cannot be written would lose them.
        probe = directory / ".comparison.probe"
        probe.touch()
        probe.unlink()
        written_here = files[0].is_file() and _MARK in files[0].read_text(errors="replace")
    except OSError as error:
        raise WorkdirError(f"--out={directory} cannot be written: {error}") from error
    if not written_here and (foreign := [p.name for p in files if p.exists()]):
        raise WorkdirError(
            f"--out={directory} holds {' and '.join(foreign)} that this command did not write; give another "
            "directory"
        )


def _write(directory: Path, runs: dict[str, Run], tables: Sequence[report.Table], sentences: Sequence[str]) -> None:
    title = " against ".join(runs)
    directories = report.Table("", ("run", "directory"), "ll", [(name, str(r.path)) for name, r in runs.items()])
    parts: list[report.Part] = [report.Heading(title, 1), report.Findings(sentences), directories]
    for table in tables:
        if table.rows:
            parts += [report.Heading(table.title), table._replace(title="")]
    parts.append(report.compare_runs({name: r.rows for name, r in runs.items()}, task=_common_task(runs)))
    # The mark tells the next launch that these files may be replaced.
    try:
        report.write_markdown(directory / _FILES[0], parts, _FILES[1], end=f"\n{_MARK}\n")
        report.write_html(directory / _FILES[1], title, parts)
    except OSError as error:
        raise WorkdirError(f"--out={directory} cannot be written: {error}") from error
