"""A search's directory: `search.json`, `pareto.csv` and one directory for each round."""

import csv
import dataclasses
import json
import math
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jopt.ablate.budget.config import Ladder, Search
from jopt.ablate.budget.limits import Limit
from jopt.ablate.config import Ablation
from jopt.ablate.files import AblationDir
from jopt.ablate.results import Results, TrialRow, read_csv
from jopt.ablate.trials import Trial, axes, plain
from jopt.config import to_dict
from jopt.files import write_json
from jopt.measure import columns_of
from jopt.train import metrics
from jopt.train.workdir import Directory, WorkdirError

_OUTCOME = ("status", "rounds", "stopped", "latency", "pareto", "confirmation", "recommendation", "answer")
"""The fields of `search.json` that hold results. The others hold the question."""


class SearchDir(Directory):
    """The files of a search."""

    identity = "search.json"
    names = (*Directory.names, "pareto.csv", "round_*", "confirm")

    def __init__(self, path: str | os.PathLike[str]):
        """Sets the paths; reads and creates nothing."""
        super().__init__(path)
        self.search = self.path / self.identity
        self.pareto = self.path / "pareto.csv"

    def round(self, name: str) -> AblationDir:
        """The directory of a round."""
        return AblationDir(self.path / name)

    def rounds(self) -> list[AblationDir]:
        """The directories of the rounds in which trials were run."""
        rounds = [AblationDir(path.parent) for path in sorted(self.path.glob("*/ablation.json"))]
        return [files for files in rounds if files.holds_work()]

    def recorded(self, question: Mapping[str, object]) -> dict[str, Any] | None:
        """The content of `search.json`; None if the directory is new or empty.

        Args:
          question: of this search, see `question_of`.

        Raises:
          WorkdirError: if the directory holds anything else than this search.
        """
        if not self.begun():
            return None
        recorded = self.load_json(self.search)
        differences = [
            f"{name} ({_short(recorded.get(name))} there, {_short(value)} now)"
            for name, value in plain_json(question).items()
            if recorded.get(name) != value
        ]
        if differences and not any(self.path.glob("*/ablation.json")):
            # No round has begun, so the user may still correct the config.
            return None
        if differences:
            raise WorkdirError(
                f"workdir {self.path} holds another search; it differs in {'; '.join(differences)}. Nothing was "
                "changed: give another directory"
            )
        return recorded

    def write(self, question: Mapping[str, object], outcome: Mapping[str, object]) -> None:
        """Writes `search.json`; a number that is not finite becomes null."""
        fields = {name: outcome.get(name) for name in _OUTCOME}
        # A field of those searches alone that have some.
        fields |= {"changes": outcome["changes"]} if outcome.get("changes") else {}
        write_json(self.search, plain_json({**question, **fields}))


def plain_json(value: object) -> Any:
    """The value as JSON reads it back, with null for a float that is not finite."""
    if isinstance(value, Mapping):
        return {str(k): plain_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:56]} ..."


def read_round(files: AblationDir, ablation: Ablation, trials: Sequence[Trial]) -> Results | None:
    """The results of a finished round, from its tables; None if it is not finished.

    Raises:
      WorkdirError: if the directory holds a finished grid of other trials.
    """
    if not (files.manifest.exists() and files.trials.exists()):
        return None
    # trials.csv alone does not prove it: a killed run may have left that of an earlier launch.
    if files.load_json(files.manifest).get("exit_status") != "finished":
        return None
    by_id = {trial.id: trial for trial in trials}
    try:
        rows = read_csv(files.trials, text=("trial", "digest", "command"))
        # The report shows curves, but no decision needs them.
        curves = metrics.read(files.curves)
    except (OSError, ValueError, csv.Error) as error:
        raise WorkdirError(f"{files.path} has a table that cannot be read: {error}") from error
    if {row.get("trial") for row in rows} != set(by_id):
        # The next proposals follow from these trials alone, so a grid that was changed since is not this round.
        raise WorkdirError(f"{files.path} holds other trials than this search's: nothing was changed")
    return Results(
        ablation.name,
        axes(ablation, trials),
        ablation.control,
        ablation.decisive,
        # The labels as the grid has them: a CSV file does not distinguish '16' from 16.
        [row | by_id[row["trial"]].point for row in rows],
        curves,
        {trial.id: trial.overrides for trial in trials},
        columns_of("trial", task=ablation.experiment.task),
    )


def question_of(config: Search, ladders: Sequence[Ladder], limits: Sequence[Limit]) -> dict[str, Any]:
    """The question in `search.json`. Two searches are the same if this is equal."""
    knobs = [
        {
            "name": ladder.name,
            "kind": "structural" if ladder.structural else "traced",
            "options": [
                {"label": label, "fields": plain(option.fields)}
                for label, option in zip(ladder.labels, ladder.options, strict=True)
            ],
            "start": [ladder.labels[i] for i in ladder.start],
        }
        for ladder in ladders
    ]
    # Every further field of a search is part of the question: a new one cannot be forgotten here.
    names = [
        field.name for field in dataclasses.fields(config) if field.name not in ("name", "experiment", "knobs")
    ]
    return {
        "name": config.name,
        "budget": ",".join(map(str, limits)),
        "experiment": to_dict(config.experiment),
        "knobs": knobs,
        **{name: getattr(config, name) for name in names},
    }


def with_commands(
    rows: Sequence[TrialRow], directory: Path, command: str, objects: Sequence[str] = ()
) -> list[TrialRow]:
    """The rows, each with the command that runs its trial alone.

    Args:
      rows: of a round.
      directory: of the round.
      command: what runs a trial, without its path; '' gives a line of Python.
      objects: the names of what that line has to give as objects.

    Example:
      >>> with_commands([{"trial": "0a1b"}], Path("runs/search/round_0"), "train --trial=")
      [{'trial': '0a1b', 'command': 'train --trial=runs/search/round_0/0a1b --workdir=runs/0a1b'}]
      >>> with_commands([{"trial": "0a1b"}], Path("my search; rm x"), "train --trial=")[0]["command"]
      "train --trial='my search; rm x/0a1b' --workdir=runs/0a1b"
    """

    def line(trial: str) -> str:
        if command:
            # Two quoted parts that touch are one word of the shell.
            return f"{command}{shlex.quote(str(directory / trial))} --workdir={shlex.quote(f'runs/{trial}')}"
        given = "".join(f", {name}={name}" for name in objects)
        return f"jopt.train.run(jopt.ablate.load_trial({str(directory)!r}, {trial!r}), {f'runs/{trial}'!r}{given})"

    return [row | {"command": line(row["trial"])} for row in rows]
