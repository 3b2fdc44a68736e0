"""The directory of a job: what it holds, its lock, its files, the record of its launches, the request to stop."""

import contextlib
import json
import os
import signal
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from jopt.address import slots
from jopt.config import from_dict, leaves, require, to_dict
from jopt.files import write_json, write_text
from jopt.method import Method
from jopt.train import manifest as manifests
from jopt.train.config import Experiment
from jopt.train.surroundings import Change, Surroundings, accepted, compare, fill, mixture, surroundings, unknown


class WorkdirError(RuntimeError):
    """A work directory cannot be used: another run's, in use, or not writable."""


class ChangedError(WorkdirError):
    """Work was done in a directory in other surroundings than this launch's, and to mix both was not accepted.

    Attributes:
      changes: what differs, then and now.
    """

    def __init__(self, path: Path, changes: Sequence[Change]):
        differences = "; ".join(f"{c.name} ({_brief(c.then)} then, {_brief(c.now)} now)" for c in changes)
        super().__init__(
            f"workdir {path} holds work that was done in other surroundings; it differs in {differences}. Nothing "
            "was changed: give another directory, or mix both in one result, which then says so, by "
            "--accept_changes (in Python accept_changes=True)"
        )
        self.changes = tuple(changes)


def _brief(fact: object) -> str:
    """A fact in a message; of a digest its beginning."""
    text = "none" if fact in (None, "") else str(fact)
    return text[:12] if len(text) == 64 and not text.strip("0123456789abcdef") else text


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

    The facts of the first launch stay; a later one records in its event what differs from them. What changes bits
    must be accepted before work goes on: see `admit`.

    Attributes:
      first: the manifest that there was, read before anything changes; None at the first launch.
      manifest: what there is now.
      facts: of this process, as `jopt.train.manifest.collect` gives them.
      changes: of the surroundings, that were accepted for this launch.
    """

    def __init__(self, directory: Directory, facts: Mapping[str, Any]):
        """Reads the manifest, if there is one.

        Raises:
          WorkdirError: if it is damaged.
        """
        self.directory, self.facts = directory, facts
        self.first = read_manifest(directory)
        self.manifest: dict[str, Any] = dict(self.first or {})
        self.changes: tuple[Change, ...] = ()

    def admit(self, parts: Iterable[Directory] = (), *, accept: bool) -> None:
        """Checks that work in the directory was done in surroundings like these. Writes nothing.

        Args:
          parts: directories of jobs that are parts of this one, and in which work was done too.
          accept: whether to go on if the surroundings differ, and to record how.

        Raises:
          ChangedError: if they differ from those of the first launch and of every accepted change.
        """
        now = surroundings(self.facts)
        known = [] if self.first is None else accepted(self.first)
        of_parts = [change for then in _unlike(parts, [*known, now]) for change in compare(then, now)]
        changes = tuple(dict.fromkeys([*unknown(now, known), *of_parts]))
        if changes and not accept:
            raise ChangedError(self.directory.path, changes)
        self.changes = changes

    def admit_part(self, part: Directory, *, accept: bool) -> None:
        """Checks a part that was finished while this launch was recorded, and records an accepted change.

        Raises:
          ChangedError: if it was run in surroundings that are not those of this job.
        """
        known = accepted(self.manifest)
        changes = dict.fromkeys(change for now in _unlike([part], known) for change in compare(known[0], now))
        if changes and not accept:
            raise ChangedError(part.path, tuple(changes))
        # A part may use data sets that this job has not used before.
        fill(self.manifest, read_manifest(part) or {})
        if changes:
            self._write(None, manifests.event("change", 0, accepted=[c._asdict() for c in changes]))

    @contextlib.contextmanager
    def recorded(
        self,
        closing: Callable[[], Mapping[str, Any]],
        *,
        kept: bool,
        step: Callable[[], int] = lambda: 0,
        varies: Collection[str] = ("events", "exit_status", "digest"),
        **event: Any,
    ) -> Iterator[dict[str, Any]]:
        """Writes the launch's start, and however it ends its exit status: finished, stopped, diverged or failed.

        Args:
          closing: called at the end; its fields are added to the event.
          kept: whether anything of the launches before is used; else the facts of this launch are the job's.
          step: gives the step that the job has reached.
          varies: facts that may differ from launch to launch.
          **event: fields of the first event.

        Yields:
          The manifest, to be added to.
        """
        first, name = self.first, "start" if self.first is None else "resume"
        differs = {k: v for k, v in self.facts.items() if k not in varies and first and first.get(k) != v}
        event |= {"differs": differs} if differs else {}
        if first is not None and kept:
            self.manifest = dict(first)
            fill(self.manifest, self.facts)
        else:
            # Nothing of the earlier launches is in the result, so their facts describe nothing.
            self.manifest = {**self.facts, "events": [] if first is None else first["events"]}
            event |= {} if first is None else {"begins_again": True}
        if self.changes and kept:
            event["accepted"] = [change._asdict() for change in self.changes]
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


def read_manifest(directory: Directory) -> dict[str, Any] | None:
    """The manifest of a job; None if there is none.

    Raises:
      WorkdirError: if it is no JSON object, or what launches compare is of another type.
    """
    if not directory.manifest.exists():
        return None
    manifest = directory.load_json(directory.manifest)
    events = manifest.get("events")
    try:
        if not isinstance(events, list) or not all(isinstance(event, dict) for event in events):
            raise ValueError("events must be a list of objects")
        accepted(manifest)
        mixture(manifest)
        for event in events:
            surroundings(manifest | event.get("differs", {}))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise WorkdirError(f"{directory.manifest} is damaged: {error}") from error
    return manifest


def _unlike(parts: Iterable[Directory], known: Sequence[Surroundings]) -> list[Surroundings]:
    """The surroundings in which parts of a job were run and that are not like any known ones."""
    manifests_of_parts = [manifest for part in parts if (manifest := read_manifest(part)) is not None]
    return [then for manifest in manifests_of_parts for then in accepted(manifest) if unknown(then, known)]


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
        saved, current = self.load_config(), config
        # Compared as JSON: a tuple that was read back is a list, and a function is its reference.
        if to_dict(saved) != to_dict(current):
            a, b = dict(_settings(saved)), dict(_settings(current))
            differ = [f"{k} ({a.get(k)!r} there, {b.get(k)!r} now)" for k in a | b if a.get(k) != b.get(k)]
            raise WorkdirError(
                f"workdir {self.path} holds another run; it differs in {'; '.join(differ)}. Nothing was changed: "
                "give another directory, or the same config to resume that run"
            )
        return True

    def load_config(self, trusted: bool = False) -> Experiment:
        """The config that the run was started with; `trusted` as in `jopt.config.from_dict`."""
        try:
            config = from_dict(Experiment, self.load_json(self.config), trusted=trusted)
            require(len(config.stages) > 0, "stages", config.stages, "a list of at least one Stage")
            return config
        except (ValueError, TypeError) as error:
            raise WorkdirError(f"{self.config} cannot be read as the config of a run: {error}") from error

    def has_checkpoints(self) -> bool:
        """Whether a state was saved that a launch may resume from."""
        return any(path.name.isdigit() for path in self.checkpoints.glob("[0-9]*"))

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
