"""An ablation's directory: which grid it holds, what of it is done, and what is under way."""

import json
import os
import shutil
from collections.abc import Sequence
from typing import Any

from jopt.ablate.config import Ablation
from jopt.ablate.results import Axis
from jopt.ablate.trials import Trial, plain, restore
from jopt.config import ConfigError, from_dict, leaves, to_dict
from jopt.files import write_json
from jopt.train.config import Experiment
from jopt.train.workdir import Directory, WorkdirError


class AblationDir(Directory):
    """Names of the files that an ablation leaves behind, and what they say."""

    identity = "ablation.json"

    def __init__(self, path: str | os.PathLike[str]):
        """Sets the paths; reads and creates nothing."""
        super().__init__(path)
        self.ablation = self.path / self.identity
        self.trials = self.path / "trials.csv"
        self.summary = self.path / "summary.csv"
        self.protocol = self.path / "protocol.csv"
        self.curves = self.path / "curves.jsonl"
        self.chunks = self.path / "chunks"

    def recorded(self) -> dict[str, Any] | None:
        """What `ablation.json` holds; None if the directory is new or empty.

        Raises:
          WorkdirError: if it holds anything else.
        """
        if not self.begun():
            return None
        recorded = self.load_json(self.ablation)
        if lacks := sorted({"experiment", "groups", "trials"} - set(recorded)):
            raise WorkdirError(f"{self.ablation} is not of this version of jopt: it has no {', '.join(lacks)}")
        return recorded

    def check_same(self, recorded: dict[str, Any], ablation: Ablation, trials: Sequence[Trial]) -> None:
        """Raises WorkdirError unless the grid is the recorded one, or has those of its trials that are done."""
        now, done = {trial.id for trial in trials}, self.done()
        missing = [row for row in recorded["trials"] if row["trial"] not in now]
        other = len(missing) == len(recorded["trials"])
        if not other and not any(row["trial"] in done for row in missing):
            return
        try:
            theirs = dict(leaves(from_dict(Experiment, recorded["experiment"])))
        except (ConfigError, TypeError) as error:
            raise WorkdirError(f"{self.ablation} is not of this version of jopt: {error}") from error
        ours = dict(leaves(ablation.experiment))
        differ = [
            f"{k} ({theirs.get(k)!r} there, {ours.get(k)!r} now)"
            for k in theirs | ours
            if theirs.get(k) != ours.get(k)
        ]
        first = missing[0]
        raise WorkdirError(
            f"workdir {self.path} holds another grid: {len(missing)} of its {len(recorded['trials'])} trials are "
            f"not in this one, {first['point']} with seed {first['seed']} among them"
            + (f"; the experiment differs in {'; '.join(differ)}" if differ else "")
            + ". Nothing was changed: give another directory, or a grid that has them all"
        )

    def record(
        self, ablation: Ablation, trials: Sequence[Trial], axes: Sequence[Axis], groups: Sequence[dict[str, Any]]
    ) -> None:
        """Writes `ablation.json`: the grid, resolved."""
        of_group = {trial: group["group"] for group in groups for trial in group["trials"]}
        write_json(
            self.ablation,
            {
                "name": ablation.name,
                "experiment": to_dict(ablation.experiment),
                "axes": [axis._asdict() for axis in axes],
                "seeds": ablation.seeds,
                "control": ablation.control,
                "metric": ablation.metric,
                "protocol": ablation.protocol,
                "tuned": ablation.tuned,
                "target": ablation.target,
                "confidence": ablation.confidence,
                "groups": [{k: v for k, v in group.items() if k != "trials"} for group in groups],
                "trials": [
                    {
                        "trial": trial.id,
                        "group": of_group[trial.id],
                        "point": trial.point,
                        "seed": trial.seed,
                        "overrides": plain(trial.overrides),
                    }
                    for trial in trials
                ],
            },
        )

    def done(self) -> dict[str, dict[str, Any]]:
        """What the finished chunks found: trial id to its `row` and its `curves`."""
        found: dict[str, dict[str, Any]] = {}
        for path in sorted(self.chunks.glob("*/result.json")):
            for trial in self.load_json(path)["trials"]:
                found[trial["row"]["trial"]] = trial
        return found

    def under_way(self, wanted: set[str]) -> list[dict[str, Any]]:
        """Chunks that were begun and not finished, whose trials are all wanted, as `chunk.json` has them."""
        out = []
        for path in sorted(self.chunks.glob("*/chunk.json")):
            if (path.parent / "result.json").exists():
                continue
            chunk = self.load_json(path)
            if set(chunk["trials"]) <= wanted:
                out.append(chunk | {"begun": path.stat().st_mtime_ns})
        # A chunk that shares trials with one that came before it is of an older plan.
        out.sort(key=lambda chunk: -chunk["begun"])
        chosen: list[dict[str, Any]] = []
        taken: set[str] = set()
        for chunk in out:
            if not taken & set(chunk["trials"]):
                chosen.append(chunk)
                taken |= set(chunk["trials"])
        return chosen

    def forget(self, keep: Sequence[str]) -> None:
        """Removes chunks that were begun, and are neither finished nor to be gone on with, and old checkpoints."""
        for path in sorted(self.chunks.glob("*/")):
            if (path / "result.json").exists():
                shutil.rmtree(path / "checkpoints", ignore_errors=True)
                (path / "metrics.jsonl").unlink(missing_ok=True)
            elif path.name not in keep:
                shutil.rmtree(path, ignore_errors=True)


def load_trial(directory: str | os.PathLike[str], trial: str) -> Experiment:
    """The experiment of one trial of an ablation, to run alone.

    Args:
      directory: of the ablation.
      trial: its id, or as much of its beginning as only it has.

    Raises:
      WorkdirError: if there is no ablation.
      ConfigError: if no trial, or more than one, is called so.
    """
    files = AblationDir(directory)
    if not files.ablation.is_file():
        raise WorkdirError(f"{files.path} is not the directory of an ablation: there is no ablation.json")
    recorded = files.load_json(files.ablation)
    found = [row for row in recorded["trials"] if row["trial"].startswith(trial)]
    if len(found) != 1:
        many = "no trial" if not found else f"{len(found)} trials"
        raise ConfigError("trial", trial, f"the id of one of {files.path}'s trials; {many} begin so")
    try:
        return restore(recorded["experiment"], found[0]["overrides"])
    except (ConfigError, KeyError, IndexError, TypeError) as error:
        raise WorkdirError(f"{files.ablation} is not of this version of jopt: {json.dumps(str(error))}") from error
