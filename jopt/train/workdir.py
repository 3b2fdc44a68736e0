"""The directory of a run: its files, and the record of its launches."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jopt.address import slots
from jopt.config import from_dict, leaves, require, to_dict
from jopt.files import CHECKSUMS, seal, write_json
from jopt.method import Method
from jopt.train import manifest as manifests
from jopt.train import metrics
from jopt.train.config import LAYOUT, Experiment
from jopt.train.directory import Directory as Directory
from jopt.train.directory import FieldError as FieldError
from jopt.train.directory import LinkError as LinkError
from jopt.train.directory import WorkdirError as WorkdirError
from jopt.train.directory import check_fields as check_fields
from jopt.train.directory import plain_differences as plain_differences
from jopt.train.surroundings import Change, Surroundings, accepted, compare, fill, mixture, surroundings, unknown
from jopt.trust import Trusted, modules_in


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


# Then and now, of a manifest without which nothing tells in what surroundings the work was done.
_GONE = ("unknown: it is gone", "this launch")


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
        """Checks that work in the directory, of which there is some, was done in surroundings like these.

        Writes nothing.

        Args:
          parts: directories of jobs that are parts of this one, and in which work was done too.
          accept: whether to go on if the surroundings differ, and to record how.

        Raises:
          ChangedError: if they differ from those of the first launch and of every accepted change, or if they are
            unknown, as a manifest is gone.
        """
        now, parts = surroundings(self.facts), list(parts)
        earlier = [] if self.first is None else accepted(self.first)
        of_parts = [change for then in _unlike(parts, [*earlier, now]) for change in compare(then, now)]
        # A launch writes the manifest before its first work, so no kill or power failure leaves work without it.
        gone = [Change(self.directory.manifest.name, *_GONE)] if self.first is None else []
        changes = tuple(
            dict.fromkeys([*gone, *_without_manifest(parts, self.first), *unknown(now, earlier), *of_parts])
        )
        if changes and not accept:
            raise ChangedError(self.directory.path, changes)
        self.changes = changes

    def admit_part(self, part: Directory, *, accept: bool) -> None:
        """Checks a part that was finished while this launch was recorded, and records an accepted change.

        Raises:
          ChangedError: if it was run in surroundings that are not those of this job, or are unknown.
        """
        earlier = accepted(self.manifest)
        differ = [change for now in _unlike([part], earlier) for change in compare(earlier[0], now)]
        changes = dict.fromkeys([*_without_manifest([part], self.manifest), *differ])
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
        continues: bool,
        step: Callable[[], int] = lambda: 0,
        varies: Collection[str] = ("events", "exit_status", "digest"),
        **event: object,
    ) -> Iterator[dict[str, Any]]:
        """Writes the launch's start, and however it ends its exit status: finished, stopped, diverged or failed.

        Args:
          closing: called at the end; its fields are added to the event.
          continues: whether anything of the launches before is used; else the facts of this launch are the job's.
          step: gives the step that the job has reached.
          varies: facts that may differ from launch to launch.
          **event: fields of the first event.

        Yields:
          The manifest, to be added to.
        """
        first, name = self.first, "start" if self.first is None else "resume"
        differs = {k: v for k, v in self.facts.items() if k not in varies and first and first.get(k) != v}
        event |= {"differs": differs} if differs else {}
        if first is not None and continues:
            self.manifest = dict(first)
            fill(self.manifest, self.facts)
        else:
            # Nothing of the earlier launches is in the result, so their facts describe nothing.
            self.manifest = {**self.facts, "events": [] if first is None else first["events"]}
            event |= {} if first is None else {"begins_again": True}
        if self.changes and continues:
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
            # What ended the job, such as a full disk, fails here again: the first error is the one to show.
            with contextlib.nullcontext() if status == "finished" else contextlib.suppress(OSError):
                self._write(status, manifests.event("stop", step(), status=status, **closing()))

    def _write(self, status: str | None, event: dict[str, Any]) -> None:
        self.manifest["exit_status"] = status
        self.manifest["events"].append(event)
        write_json(self.directory.manifest, self.manifest)


def complete(directory: Directory, **facts: Any) -> None:
    """Ends the manifest of a finished job as its last launch would have, if that was killed just before.

    Args:
      directory: of a job whose result is there.
      **facts: of the end, such as the digest.
    """
    # A manifest that cannot be read or written costs no result: the directory may be read-only, or in use.
    with contextlib.suppress(WorkdirError, OSError, KeyError, TypeError, AttributeError):
        if directory.load_json(directory.manifest).get("exit_status") == "finished":
            return
        with directory.locked():
            manifest = directory.load_json(directory.manifest)
            manifest |= {**facts, "exit_status": "finished"}
            events = manifest.setdefault("events", [])
            events.append(manifests.event("completed", events[-1]["step"] if events else 0, status="finished"))
            write_json(directory.manifest, manifest)


def read_manifest(directory: Directory) -> dict[str, Any] | None:
    """The manifest of a job; None if there is none.

    Raises:
      WorkdirError: if it is no JSON object, or what launches compare is of another type.
    """
    if not directory.manifest.exists():
        return None
    manifest = directory.load_json(directory.manifest, events=list, exit_status=(str, type(None)))
    events = manifest["events"]
    for i, event in enumerate(events):
        check_fields(directory.manifest, {f"events[{i}]": event}, **{f"events[{i}]": dict})
        if "differs" in event or "accepted" in event:
            check_fields(directory.manifest, event, f"events[{i}]", step=int)
    parts_from_python(directory, manifest)
    try:
        accepted(manifest)
        mixture(manifest)
        for event in events:
            surroundings(manifest | event.get("differs", {}))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise WorkdirError(f"{directory.manifest} is damaged: {error}") from error
    return manifest


def parts_from_python(directory: Directory, manifest: Mapping[str, Any]) -> list[str]:
    """What a run was given by the program that ran it and is in no file, such as `model`.

    Raises:
      FieldError: if the manifest's `given` is no list of names.
    """
    check_fields(directory.manifest, manifest, given=(list, type(None)))
    names = manifest.get("given") or []
    for i, name in enumerate(names):
        check_fields(directory.manifest, {f"given[{i}]": name}, **{f"given[{i}]": str})
    return names


def _unlike(parts: Iterable[Directory], earlier: Sequence[Surroundings]) -> list[Surroundings]:
    """The surroundings in which parts of a job were run and that are not like any earlier ones."""
    manifests_of_parts = [manifest for part in parts if (manifest := read_manifest(part)) is not None]
    return [then for manifest in manifests_of_parts for then in accepted(manifest) if unknown(then, earlier)]


def _without_manifest(parts: Iterable[Directory], manifest: Mapping[str, Any] | None) -> list[Change]:
    """A change for each part of a job that lacks its manifest, unless that was accepted already."""
    changes = [Change(f"{p.path.name}/{p.manifest.name}", *_GONE) for p in parts if not p.manifest.exists()]
    names = {change["name"] for change in mixture(manifest or {})}
    return [change for change in changes if change.name not in names]


class Workdir(Directory):
    """Names of the files that a run leaves behind."""

    names = (
        *Directory.names,
        *("metrics.jsonl", "result.json", "model.jopt", "checkpoints", "damaged_checkpoints", "events.out.*"),
    )

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
        plain, current = self.load_json(self.config), to_dict(config)
        names = modules_in(current)
        try:
            saved = self.load_config(names)
        except WorkdirError:
            # A module that this config does not name is a difference, and need not be there any more.
            if modules_in(plain) <= names:
                raise
            differ = [f"{k} ({a!r} there, {b!r} now)" for k, a, b in plain_differences(plain, current)]
            same = False
        else:
            # Their number of shards alone decides the bits of both.
            if config.shards is not None:
                saved = dataclasses.replace(saved, **{name: getattr(config, name) for name in LAYOUT})
            a, b = dict(_settings(saved)), dict(_settings(config))
            differ = [f"{k} ({a.get(k)!r} there, {b.get(k)!r} now)" for k in a | b if a.get(k) != b.get(k)]
            # Compared as JSON: a tuple that was read back is a list, and a function is its reference.
            same = to_dict(saved) == current
        if not same:
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

    @property
    def remedy(self) -> str:
        """How a finished run gets back a checkpoint that is lost."""
        return (
            f"to get it back, remove {self.result} and give the command of the training again: the run goes on "
            "from the last whole checkpoint, or from its start, and ends in the same bits"
        )

    def write_result(self, result: Mapping[str, Any], metrics_sha256: str) -> None:
        """Writes `result.json`, which says that the run is finished, with checksums of it and of the metrics."""
        write_json(self.result, seal(result, metrics=metrics_sha256))

    def load_result(self) -> dict[str, Any]:
        """The fields of `result.json`, without its checksums.

        Raises:
          WorkdirError: if it cannot be read, is no result, or was changed after it was written.
        """
        result = self.load_json(self.result)
        if not isinstance(result.get("digest"), str):
            raise WorkdirError(f"{self.result} is not the result of a run: it has no digest; {self.remedy}")
        return result

    def load_rows(self) -> list[metrics.MetricsRow]:
        """The rows of `metrics.jsonl`; of a finished run they are those that its result was written with.

        Raises:
          WorkdirError: if they are not, or cannot be read.
        """
        checksums = self.load_sealed(self.result).get(CHECKSUMS) if self.result.exists() else None
        sha256 = checksums.get("metrics") if isinstance(checksums, dict) else None
        try:
            return metrics.read(self.metrics, sha256)
        except (OSError, ValueError) as error:
            remedy = f"restore it from a copy, or remove {self.result} and {self.checkpoints} to train again"
            raise WorkdirError(f"{error}; {remedy}") from error

    def load_edited(self) -> tuple[dict[str, Any], list[metrics.MetricsRow], list[str]]:
        """The result and the rows as they are now, and a sentence on each that is not as it was written.

        Raises:
          WorkdirError: if one of them cannot be read.
        """
        edits = []
        for load in (self.load_result, self.load_rows):
            try:
                load()
            except WorkdirError as error:
                edits.append(str(error))
        result = {name: value for name, value in self.load_sealed(self.result).items() if name != CHECKSUMS}
        fact = (str, int, float, type(None))
        check_fields(self.result, result, changes=(list, type(None)))
        for i, change in enumerate(result.get("changes") or []):
            check_fields(
                self.result, change, f"changes[{i}]", name=str, step=(int, type(None)), then=fact, now=fact
            )
            if missing := {"then", "now"} - change.keys():
                raise FieldError(self.result, f"changes[{i}].{min(missing)}", None)
        try:
            return result, metrics.read(self.metrics), edits
        except (OSError, ValueError) as error:
            raise WorkdirError(f"{self.metrics} cannot be read: {error}") from error


class StopRequested(RuntimeError):
    """The job was asked to stop, by the `should_stop` that it was given, and has saved its state."""
