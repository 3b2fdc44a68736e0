"""The directory of a run: its files, and the config that it was started with."""

import json
import os

from jopt.config import from_dict, leaves, to_dict
from jopt.files import write_json, write_text
from jopt.train.config import Experiment
from jopt.train.directory import Directory
from jopt.train.directory import WorkdirError as WorkdirError


class Workdir(Directory):
    """Names of the files that a run leaves behind."""

    def __init__(self, path: str | os.PathLike[str]):
        """Only names: nothing is read or made."""
        super().__init__(path)
        self.config = self.path / self.identity
        self.metrics = self.path / "metrics.jsonl"
        self.result = self.path / "result.json"
        self.packed = self.path / "model.jopt"
        self.checkpoints = self.path / "checkpoints"

    def check(self, config: Experiment) -> bool:
        """Whether there is a run of this very config to go on with.

        Raises:
          WorkdirError: if the directory holds anything else, naming the fields that differ.
        """
        if not self.begun():
            return False
        theirs, ours = self.load_config(), config
        if to_dict(theirs) != to_dict(ours):
            a, b = dict(leaves(theirs)), dict(leaves(ours))
            differ = [f"{k} ({a.get(k)!r} there, {b.get(k)!r} now)" for k in a | b if a.get(k) != b.get(k)]
            raise WorkdirError(
                f"workdir {self.path} holds another run; it differs in {'; '.join(differ)}. Nothing was changed: "
                "give another directory, or the same config to go on with that run"
            )
        return True

    def load_config(self, trusted: bool = False) -> Experiment:
        """The config that the run was started with; `trusted` as in `jopt.config.from_dict`."""
        try:
            return from_dict(Experiment, json.loads(self.config.read_text()), trusted=trusted)
        except (OSError, ValueError, TypeError) as error:
            raise WorkdirError(f"{self.config} is not a config of this version of jopt: {error}") from error

    def create(self, config: Experiment) -> None:
        """Makes the directory, if need be, and writes `config.json`.

        Raises:
          WorkdirError: if it cannot be written.
        """
        self.make()
        try:
            write_json(self.config, to_dict(config))
        except OSError as error:
            raise WorkdirError(f"workdir {self.path} cannot be written: {error}") from error

    def write_report(self, text: str) -> None:
        """Writes `report.md`."""
        write_text(self.report, text)
