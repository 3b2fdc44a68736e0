"""A run's directory: its files, whose it is, and that one process at a time writes there."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jopt.config import from_dict, leaves, to_dict
from jopt.files import write_json, write_text
from jopt.train.config import Experiment


class WorkdirError(RuntimeError):
    """A work directory cannot be used: another run's, in use, or not writable."""


class Workdir:
    """Names of the files that a run leaves behind."""

    def __init__(self, path: str | os.PathLike[str]):
        """Only names: nothing is read or made."""
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.manifest = self.path / "manifest.json"
        self.metrics = self.path / "metrics.jsonl"
        self.result = self.path / "result.json"
        self.packed = self.path / "model.jopt"
        self.report = self.path / "report.md"
        self.checkpoints = self.path / "checkpoints"

    def check(self, config: Experiment) -> bool:
        """Whether there is a run of this very config to go on with.

        Raises:
          WorkdirError: if the directory holds anything else, naming the fields that differ.
        """
        if not self.path.exists():
            return False
        if not self.path.is_dir():
            raise WorkdirError(f"workdir {self.path} is not a directory")
        if not self.config.exists():
            if found := sorted(p.name for p in self.path.iterdir() if not p.name.startswith(".")):
                raise WorkdirError(
                    f"workdir {self.path} holds {', '.join(found[:5])} but no config.json; "
                    "give an empty or a new directory"
                )
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

    def load_json(self, path: Path) -> dict[str, Any]:
        """A JSON object of the run.

        Raises:
          WorkdirError: if it is not there, or not JSON.
        """
        try:
            return json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise WorkdirError(f"{path} cannot be read: {error}") from error

    def make(self) -> None:
        """Makes the directory, if need be.

        Raises:
          WorkdirError: if it cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WorkdirError(f"workdir {self.path} cannot be written: {error}") from error

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

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the directory for this process; the lock ends with the process, however it ends.

        Raises:
          WorkdirError: if another process holds it.
        """
        import fcntl

        try:
            file = (self.path / ".lock").open("w")
        except OSError as error:
            raise WorkdirError(f"workdir {self.path} cannot be written: {error}") from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise WorkdirError(f"workdir {self.path} is in use by another process") from error
            yield
