"""The apps that faults are injected into: their commands, and what must be equal after a fault and a relaunch."""

import csv
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from jopt import train
from jopt.train import metrics
from jopt.train.checkpoint import CheckpointError, Checkpoints
from jopt.train.workdir import Workdir
from tests.faults import config

CONFIG = Path(__file__).with_name("config.py")
TIMES = ("wall_seconds", "compile_seconds")
# Names that differ from launch to launch: TensorBoard's, and those inside of a checkpoint.
EVENTS, INSIDE = re.compile(r"events\.out\.tfevents\..*"), re.compile(r"(checkpoints/\d+)/.*")


class App(NamedTuple):
    """An app.

    Attributes:
      arguments: `directory -> flags`, of one launch.
      outcome: `directory -> name to value`, of all that must be the same after a fault and one relaunch.
      after: the app whose finished directory this one works in, or ''.
    """

    arguments: Callable[[Path], list[str]]
    outcome: Callable[[Path], dict[str, Any]]
    after: str = ""


def _configured(app: str, *flags: str) -> Callable[[Path], list[str]]:
    return lambda directory: [f"--config={CONFIG}:{app}", f"--workdir={directory}", "--quiet", *flags]


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else "absent"


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def _names(directory: Path) -> list[str]:
    """Every file, with names that differ between equal runs replaced."""
    paths = (path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
    return sorted({INSIDE.sub(r"\1", EVENTS.sub("events", path)) for path in paths})


def _ended(directory: Path) -> dict[str, Any]:
    manifest = _json(directory / "manifest.json")
    return {"exit_status": manifest["exit_status"], "digest": manifest["digest"], "files": _names(directory)}


_PREPARED: list[train.Prepared] = []


def _states(directory: Path) -> dict[int, str]:
    """The digest of the state in each checkpoint, or what is wrong with it."""
    if not _PREPARED:
        _PREPARED.append(train.prepare(config.training()))
    prepared, digests = _PREPARED[0], {}
    with Checkpoints(directory / "checkpoints") as checkpoints:
        for step in checkpoints.steps:
            try:
                restored = checkpoints.restore(step, prepared.like(prepared.boundary(step).stage))
                digests[step] = train.digest(restored.state)
            except CheckpointError as error:
                digests[step] = str(error)
    return digests


def _trained(directory: Path) -> dict[str, Any]:
    # Read as users do: the checksums are verified.
    files = Workdir(directory)
    return {
        **_ended(directory),
        "result": {name: value for name, value in files.load_result().items() if name not in TIMES},
        "rows": metrics.without_timing(files.load_rows()),
        "model.jopt": _hash(directory / "model.jopt"),
        "checkpoints": _states(directory),
    }


def _compared(directory: Path) -> dict[str, Any]:
    tables = {name: _hash(directory / name) for name in ("trials.csv", "summary.csv", "curves.jsonl")}
    return {**_ended(directory), **tables}


def _searched(directory: Path) -> dict[str, Any]:
    rounds = {path.parent.name: _compared(path.parent) for path in sorted(directory.glob("*/ablation.json"))}
    with (directory / "pareto.csv").open(newline="") as file:
        measured = ("latency", "command")  # Which has the directory's name.
        points = [{k: v for k, v in row.items() if not k.startswith(measured)} for row in csv.DictReader(file)]
    answer = {k: v for k, v in _json(directory / "search.json").items() if k in ("status", "stopped", "rounds")}
    return {"files": _names(directory), "pareto.csv": points, "search.json": answer, **rounds}


def _exported(directory: Path) -> dict[str, Any]:
    files = {path.name: _hash(path) for path in sorted((directory / "export").iterdir())}
    return {**_trained(directory), "export": files}


APPS = {
    "train": App(_configured("train"), _trained),
    "ablate": App(_configured("ablate"), _compared),
    "search": App(_configured("search", "--budget=accuracy_drop<90"), _searched),
    "export": App(lambda run: [str(run), "--format=packed,stablehlo,safetensors"], _exported, after="train"),
}
