"""An ablation's directory: the recorded grid, the finished trials and the interrupted chunks."""

import json
import os
import shutil
from collections.abc import Sequence
from typing import Any

from jopt.ablate.config import Ablation
from jopt.ablate.locks import is_free
from jopt.ablate.results import Axis
from jopt.ablate.trials import Trial, plain, restore
from jopt.config import ConfigError, from_dict, leaves, to_dict
from jopt.files import sweep, write_json
from jopt.train.config import Experiment
from jopt.train.finished import check_paths
from jopt.train.workdir import Directory, FieldError, WorkdirError, check_fields, plain_differences
from jopt.trust import modules_in


class AblationDir(Directory):
    """The files of an ablation, by name, and how they are read and written."""

    identity = "ablation.json"
    tables = ("trials.csv", "summary.csv", "protocol.csv", "curves.jsonl")
    names = (*Directory.names, *tables, "workers.json", "chunks")

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
        """The content of `ablation.json`; None if the directory is new or empty.

        Raises:
          WorkdirError: if the directory contains something else.
        """
        if not self.begun():
            return None
        recorded = self.load_json(self.ablation, experiment=dict, groups=list, trials=list)
        # A grid has a trial at least.
        if not recorded["trials"]:
            raise FieldError(self.ablation, "trials", recorded["trials"])
        for i, row in enumerate(recorded["trials"]):
            check_fields(self.ablation, row, f"trials[{i}]", trial=str, point=dict, seed=int, overrides=dict)
        for i, group in enumerate(recorded["groups"]):
            check_fields(self.ablation, group, f"groups[{i}]", structure=str, lanes=int)
        return recorded

    def check_same(self, recorded: dict[str, Any], ablation: Ablation, trials: Sequence[Trial]) -> None:
        """Raises WorkdirError unless the grid shares trials with the recorded one and has all that are finished."""
        # By the ids of trials and not by the config: a grid may grow or be rewritten, but no result may be lost.
        now, done = {trial.id for trial in trials}, self.done()
        missing = [row for row in recorded["trials"] if row["trial"] not in now]
        # A grid without a common trial is the wrong directory, even where nothing is finished yet.
        other = len(missing) == len(recorded["trials"])
        if not other and not any(row["trial"] in done for row in missing):
            return
        differ = [f"{k} ({then!r} there, {now!r} now)" for k, then, now in self._differences(recorded, ablation)]
        # One trial as an example: a grid may lack thousands.
        first = missing[0]
        raise WorkdirError(
            f"workdir {self.path} holds another grid: {len(missing)} of its {len(recorded['trials'])} trials are "
            f"not in this one, {first['point']} with seed {first['seed']} among them"
            + (f"; the experiment differs in {'; '.join(differ)}" if differ else "")
            + ". Nothing was changed: use another directory, or a grid that has these trials too"
        )

    def _differences(self, recorded: dict[str, Any], ablation: Ablation) -> list[tuple[str, object, object]]:
        """Where the recorded experiment differs: path, value there, value now."""
        current = to_dict(ablation.experiment)
        names = modules_in(current)
        try:
            a = dict(leaves(from_dict(Experiment, recorded["experiment"], trusted=names)))
        except (ConfigError, TypeError) as error:
            # A module that this grid does not name is a difference, and need not be there any more.
            if not modules_in(recorded["experiment"]) <= names:
                return list(plain_differences(recorded["experiment"], current))
            raise WorkdirError(f"{self.ablation} is not of this version of jopt: {error}") from error
        b = dict(leaves(ablation.experiment))
        return [(k, a.get(k), b.get(k)) for k in a | b if a.get(k) != b.get(k)]

    def record(
        self, ablation: Ablation, trials: Sequence[Trial], axes: Sequence[Axis], groups: Sequence[dict[str, Any]]
    ) -> None:
        """Writes `ablation.json`: the resolved grid."""
        of_group = {trial: group["group"] for group in groups for trial in group["trials"]}
        write_json(
            self.ablation,
            {
                "name": ablation.name,
                "experiment": to_dict(ablation.experiment),
                "axes": [axis._asdict() for axis in axes],
                "seeds": ablation.seeds,
                "control": ablation.control,
                "metric": ablation.decisive,
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
        """The results of finished chunks: trial id to its `row` and its `curves`."""
        results: dict[str, dict[str, Any]] = {}
        # Sorted, as the order of a directory's entries differs between file systems.
        for path in sorted(self.chunks.glob("*/result.json")):
            for i, trial in enumerate(self.load_json(path, trials=list)["trials"]):
                check_fields(path, trial, f"trials[{i}]", row=dict, curves=list)
                check_fields(path, trial["row"], f"trials[{i}].row", trial=str)
                results[trial["row"]["trial"]] = trial
        return results

    def holds_work(self) -> bool:
        """Whether a chunk is finished, or was saved at a boundary."""
        patterns = ("*/result.json", "*/checkpoints/[0-9]*")
        return any(True for pattern in patterns for _ in self.chunks.glob(pattern))

    def under_way(self, missing: set[str]) -> list[dict[str, Any]]:
        """The contents of `chunk.json` of interrupted chunks all of whose trials are among the missing ones."""
        interrupted = []
        for path in sorted(self.chunks.glob("*/chunk.json")):
            if (path.parent / "result.json").exists():
                continue
            chunk = self.load_json(path, id=str, trials=list, width=int, lanes=int, devices=int)
            for i, trial in enumerate(chunk["trials"]):
                check_fields(path, {f"trials[{i}]": trial}, **{f"trials[{i}]": str})
            # A chunk resumes as a whole: with one of its trials done or gone, its checkpoint is of no use.
            if set(chunk["trials"]) <= missing:
                interrupted.append(chunk | {"begun": path.stat().st_mtime_ns})
        # The newest first: of two chunks that share trials the other one belongs to an older plan.
        interrupted.sort(key=lambda chunk: -chunk["begun"])
        chosen: list[dict[str, Any]] = []
        taken: set[str] = set()
        for chunk in interrupted:
            if not taken & set(chunk["trials"]):
                chosen.append(chunk)
                taken |= set(chunk["trials"])
        return chosen

    def forget(self, keep: Sequence[str]) -> None:
        """Removes chunks that are neither finished nor in `keep`, and what finished chunks no longer need."""
        resumable = frozenset(keep)
        for path in sorted(self.chunks.glob("*/")):
            if (path / "result.json").exists():
                # A launch may have ended between writing the result and removing these.
                shutil.rmtree(path / "checkpoints", ignore_errors=True)
                for name in ("metrics.jsonl", ".lock"):
                    (path / name).unlink(missing_ok=True)
                sweep(path)
            # A worker of a launch that was killed may still be in it: the next launch removes it.
            elif path.name not in resumable and is_free(path):
                shutil.rmtree(path, ignore_errors=True)


def load_trial(directory: str | os.PathLike[str], trial: str, *, trusted: bool = False) -> Experiment:
    """The experiment of one trial of an ablation, to run alone.

    Args:
      directory: of the ablation.
      trial: its id, or the first digits of it if no other id has the same.
      trusted: lifts the rules for foreign configs (`docs/security.md`).

    Raises:
      WorkdirError: if there is no ablation, or its config names a path inside the directory and is not trusted.
      ConfigError: if no trial, or more than one, has this id.
    """
    files = AblationDir(directory)
    if not files.ablation.is_file():
        raise WorkdirError(f"{files.path} is not the directory of an ablation: there is no ablation.json")
    recorded = files.recorded() or {}
    matches = [row for row in recorded["trials"] if row["trial"].startswith(trial)]
    # Never the first of several: another trial than the meant one would train without an error.
    if len(matches) != 1:
        count = "no trial starts" if not matches else f"{len(matches)} trials start"
        raise ConfigError("trial", trial, f"the id of one of {files.path}'s trials; {count} with this")
    try:
        config = restore(recorded["experiment"], matches[0]["overrides"], trusted=trusted)
    except (ConfigError, KeyError, IndexError, TypeError) as error:
        raise WorkdirError(f"{files.ablation} is not of this version of jopt: {json.dumps(str(error))}") from error
    if not trusted:
        check_paths(config, files.path)
    return config
