"""The directory of a job: what it holds, its lock, its files, the record of its launches, the request to stop."""

import contextlib
import json
import os
import signal
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from jopt.address import slots
from jopt.config import from_dict, leaves, require, to_dict
from jopt.files import write_json, write_text
from jopt.method import Method
from jopt.train import manifest as manifests
from jopt.train.config import Experiment
from jopt.trust import Trusted, modules_in


class WorkdirError(RuntimeError):
    """A work directory cannot be used: another run's, in use, or not writable."""


def _settings(config: Experiment) -> Iterator[tuple[str, Any]]:
    """Every leaf of a config, and the class of every method, by path."""
    yield from leaves(config)
    # Two methods of one name may have no field that differs, such as `quantize.Binary` and `quantize.XNOR`.
    for slot in slots(config):
        if isinstance(slot.hint, type) and issubclass(slot.hint, Method):
            yield slot.path, slot.hint.__name__


class Directory:
    """A directory that one kind of job owns. Making one reads and creates nothing.

    Class attributes:
      identity: the file that says what the directory holds; it is the first that is written.
    """

    identity: ClassVar[str] = "config.json"

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self.manifest = self.path / "manifest.json"
        self.report = self.path / "report.md"

    def begun(self) -> bool:
        """Whether a job of this kind was begun here; the directory may also be new or empty.

        Raises:
          WorkdirError: if it holds anything else.
        """
        if not self.path.exists():
            return False
        if not self.path.is_dir():
            raise WorkdirError(f"workdir {self.path} is not a directory")
        if (self.path / self.identity).exists():
            return True
        # Hidden files do not count, such as the lock of a process that is just starting or a `.gitignore`.
        if names := sorted(p.name for p in self.path.iterdir() if not p.name.startswith(".")):
            raise WorkdirError(
                f"workdir {self.path} holds {', '.join(names[:5])} but no {self.identity}; "
                "give an empty or a new directory"
            )
        return False

    def load_json(self, path: Path) -> dict[str, Any]:
        """A JSON object of the job.

        Raises:
          WorkdirError: if it is not there, or not JSON.
        """
        try:
            value = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise WorkdirError(f"{path} cannot be read: {error}") from error
        if not isinstance(value, dict):
            raise WorkdirError(f"{path} holds no JSON object")
        return value

    def make(self) -> None:
        """Creates the directory if it does not exist.

        Raises:
          WorkdirError: if it cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WorkdirError(f"workdir {self.path} cannot be written: {error}") from error

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
        # A lock on an open file and not a file with a process id: the kernel releases it even after a SIGKILL.
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise WorkdirError(f"workdir {self.path} is in use by another process") from error
            yield


class Launch:
    """One process's part of a job, in its manifest: the facts that it depends on, when it began, how it ended.

    The facts of the first launch stay; a later one records in its event what differs from them.

    Attributes:
      first: the manifest that there was, read before anything changes; None at the first launch.
      manifest: what is written.
    """

    def __init__(self, directory: Directory):
        """Reads the manifest, if there is one.

        Raises:
          WorkdirError: if it is damaged.
        """
        self.directory = directory
        self.first = directory.load_json(directory.manifest) if directory.manifest.exists() else None
        self.manifest: dict[str, Any] = {}

    @contextlib.contextmanager
    def recorded(
        self,
        facts: Mapping[str, Any],
        closing: Callable[[], Mapping[str, Any]],
        *,
        step: Callable[[], int] = lambda: 0,
        varies: Collection[str] = ("events", "exit_status", "digest"),
        grows: Collection[str] = (),
        **event: Any,
    ) -> Iterator[dict[str, Any]]:
        """Writes the launch's start, and however it ends its exit status: finished, stopped, diverged or failed.

        Args:
          facts: of this process, as `jopt.train.manifest.collect` gives them.
          closing: called at the end; its fields are added to the event.
          step: gives the step that the job has reached.
          varies: facts that may differ from launch to launch.
          grows: facts that are mappings, to which a later launch adds.
          **event: fields of the first event.

        Yields:
          The manifest, to be added to.
        """
        name = "start" if self.first is None else "resume"
        self.manifest = dict(facts) if self.first is None else self.first
        # The first launch's facts stay, as the run's first numbers came from them; a later one that differs says so
        # in its own event.
        for fact in grows:
            self.manifest[fact] = {**self.manifest.get(fact, {}), **facts[fact]}
        differs = {k: v for k, v in facts.items() if k not in varies and self.manifest.get(k) != v}
        event |= {"differs": differs} if differs else {}
        # Written before anything runs: after a power failure the manifest still shows the launch, without an end.
        self._write(None, manifests.event(name, step(), **event))
        status = "failed"
        try:
            yield self.manifest
            status = "finished"
        except (StopRequested, KeyboardInterrupt):
            status = "stopped"
            raise
        except BaseException as error:
            status = getattr(error, "exit_status", "failed")
            raise
        finally:
            self._write(status, manifests.event("stop", step(), status=status, **closing()))

    def _write(self, status: str | None, event: dict[str, Any]) -> None:
        self.manifest["exit_status"] = status
        self.manifest["events"].append(event)
        write_json(self.directory.manifest, self.manifest)


class Workdir(Directory):
    """Names of the files that a run leaves behind."""

    def __init__(self, path: str | os.PathLike[str]):
        """Sets names only; nothing is read or created."""
        super().__init__(path)
        self.config = self.path / self.identity
        self.metrics = self.path / "metrics.jsonl"
        self.result = self.path / "result.json"
        self.packed = self.path / "model.jopt"
        self.checkpoints = self.path / "checkpoints"

    def check(self, config: Experiment) -> bool:
        """Whether there is a run of exactly this config to resume.

        Raises:
          WorkdirError: if the directory holds anything else, naming the fields that differ.
        """
        if not self.begun():
            return False
        # Only what this config names too is looked up: the saved one is compared, not run.
        saved, current = self.load_config(modules_in(to_dict(config))), config
        # Compared as JSON: a tuple that was read back is a list, and a function is its reference.
        if to_dict(saved) != to_dict(current):
            a, b = dict(_settings(saved)), dict(_settings(current))
            differ = [f"{k} ({a.get(k)!r} there, {b.get(k)!r} now)" for k in a | b if a.get(k) != b.get(k)]
            raise WorkdirError(
                f"workdir {self.path} holds another run; it differs in {'; '.join(differ)}. Nothing was changed: "
                "give another directory, or the same config to resume that run"
            )
        return True

    def load_config(self, trusted: Trusted = False) -> Experiment:
        """The config that the run was started with; `trusted` as in `jopt.config.from_dict`."""
        try:
            config = from_dict(Experiment, self.load_json(self.config), trusted=trusted)
            require(len(config.stages) > 0, "stages", config.stages, "a list of at least one Stage")
            return config
        except (ValueError, TypeError) as error:
            raise WorkdirError(f"{self.config} cannot be read as the config of a run: {error}") from error

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


class StopRequested(RuntimeError):
    """The process was asked to stop (SIGTERM) and has saved its state."""


@contextlib.contextmanager
def stop_on_sigterm() -> Iterator[threading.Event]:
    """Within the context SIGTERM sets the event, instead of ending the process.

    Outside the main thread, where Python handles no signals, the event is never set.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    # Only noted: the state is on the device in the middle of a segment, so the loop stops at the next boundary.
    previous = signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, previous)
