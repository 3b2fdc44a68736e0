"""Repeats a finished run from its config, and compares the digests, results and metrics of both.

jopt verify runs/a
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from jopt.apps.definitions import define_path, define_trust
from jopt.config import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jopt.train.metrics import MetricsRow
    from jopt.train.workdir import Workdir

FLAGS = flags.FlagValues()
_AGAIN = define_path(FLAGS, "again", None, "New or empty directory to run in, kept; by default a temporary one.")
_CACHE = define_path(FLAGS, "compilation_cache", None, "Directory of the compilation cache.")
_TRUST = define_trust(FLAGS)
_DATA_DIR = define_path(FLAGS, "data_dir", None, "Directory of prepared data sets, instead of the config's.")
_QUIET = flags.DEFINE_bool("quiet", False, "Show only the comparison, not the run.", flag_values=FLAGS)

# Fields of a result that depend on the speed of the machine, and the one that tells how the first run came about.
_OF_THE_RUN = ("wall_seconds", "compile_seconds", "changes")
# Fields of a manifest that belong to one launch, or are compared separately.
_OF_THE_LAUNCH = ("argv", "config", "digest", "events", "exit_status", "seed")


def main(argv: list[str]) -> int:
    """Verifies the run in the directory that `argv` names; returns 0 if it is the same, bit for bit."""
    if len(argv) != 2:
        raise ConfigError("RUN", " ".join(argv[1:]), "one run directory")
    from jopt import report, train
    from jopt.report.differences import describe_mixture
    from jopt.train import finished, metrics
    from jopt.train.surroundings import unasked
    from jopt.train.workdir import Workdir, WorkdirError, parts_from_python, read_manifest

    first = Workdir(argv[1])
    if not first.result.exists():
        raise WorkdirError(f"{first.path} holds no finished run: there is no result.json")
    # A model or data set that was passed from Python is in no file, so nothing here can rebuild it.
    manifest = read_manifest(first)
    if manifest is not None and (custom_parts := parts_from_python(first, manifest)):
        raise WorkdirError(
            f"{first.path} was run with a {' and a '.join(custom_parts)} given from Python, in addition to its "
            "config; only the program that gave it can run it again"
        )
    config = finished.load_config(first, trusted=_TRUST.value, data_dir=_DATA_DIR.value)
    # Its bits are the same on any number of devices: one is always there.
    if config.shards is not None:
        config = dataclasses.replace(config, mesh=(), partition=(), data_parallel=False)
    result, rows, edits = first.load_edited()
    rows = metrics.without_timing(rows)
    train.enable_cache(_CACHE.value)
    with contextlib.ExitStack() as stack:
        second = Workdir(_AGAIN.value or Path(stack.enter_context(tempfile.TemporaryDirectory())) / "again")
        # An old run of the same config would be resumed as finished, and verify itself.
        if second.path.is_dir() and any(second.path.iterdir()):
            raise WorkdirError(f"--again={second.path} is not empty: a run that is there would not be run again")
        again = train.run(config, second.path, observer=report.Console(_QUIET.value), trusted=_TRUST.value)
        rows_again = metrics.without_timing(second.load_rows())
        problems = [*edits, *_results(result, again), *_metrics(rows, rows_again), *_packed(first, second)]
        environment = _environment(first, second)
    print(f"digest  then {result.get('digest')}\n        now  {again['digest']}")
    print(f"metrics {len(rows)} rows then, {len(rows_again)} now")
    if mixed := result.get("changes") or unasked(manifest or {}):
        print(f"{first.path}: {describe_mixture(mixed)}")
    for problem in problems:
        print(f"different: {problem}")
    # Shown only then: environments may differ as long as the bits do not.
    if problems and (environment or not mixed):
        print("what differs in the environment:", "; ".join(environment) or "nothing that the manifest records")
    print("NOT VERIFIED: the run is not the same" if problems else "VERIFIED: the run is the same, bit for bit")
    return 1 if problems else 0


def _results(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    comparable = [{k: v for k, v in result.items() if k not in _OF_THE_RUN} for result in (then, now)]
    return [f"{name} of result.json: {values}" for name, values in _differences(*comparable).items()]


def _metrics(then: list[MetricsRow], now: list[MetricsRow]) -> list[str]:
    """The first row that differs, and the numbers of rows if they differ."""
    # The first is enough: every row after it follows from another state.
    out = [] if len(then) == len(now) else [f"metrics.jsonl has {len(then)} rows then, {len(now)} now"]
    for number, (a, b) in enumerate(zip(then, now, strict=False), 1):
        if a != b:
            texts = [f"{name} {values}" for name, values in _differences(a, b).items()]
            return [*out, f"metrics.jsonl, line {number}: {', '.join(texts)}"]
    return out


def _packed(first: Workdir, second: Workdir) -> list[str]:
    """The first byte at which the packed models differ; empty if they are equal."""
    then, now = (files.packed.read_bytes() if files.packed.is_file() else None for files in (first, second))
    if then == now:
        return []
    if then is None or now is None:
        return [
            f"model.jopt: {'absent' if then is None else 'there'} then, {'absent' if now is None else 'there'} now"
        ]
    sizes = f"{len(then):,} bytes then, {len(now):,} now"
    same = next((i for i, (a, b) in enumerate(zip(then, now, strict=False)) if a != b), min(len(then), len(now)))
    return [f"model.jopt: {sizes}, the first of them that differs is byte {same:,}"]


def _environment(first: Workdir, second: Workdir) -> list[str]:
    """The differences of the two manifests in data, packages and machine."""
    if not first.manifest.exists():
        return ["there is no manifest.json to tell"]
    manifests = [
        {k: v for k, v in files.load_json(files.manifest).items() if k not in _OF_THE_LAUNCH}
        for files in (first, second)
    ]
    return [f"{name} {values}" for name, values in _differences(*manifests).items()]


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """The values then and now, as text, by the name of the field that differs."""
    from jopt.report.differences import differing

    fields = differing({"then": then, "now": now})
    return {name: f"{v.get('then', 'absent')} then, {v.get('now', 'absent')} now" for name, v in fields.items()}
