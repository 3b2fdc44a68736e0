"""A worker: checks that it may join a grid, then runs chunks of it. Text comes in and text goes out."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from jopt import canary
from jopt.ablate.execute import Chunk, ChunkRun
from jopt.ablate.executors.notice import NotSharedError, is_current, posted
from jopt.ablate.files import AblationDir
from jopt.ablate.lift import Layout
from jopt.ablate.locks import ChunkInUse, holding, is_locked_elsewhere
from jopt.ablate.plan import Loader
from jopt.ablate.template import ResolvedPoint, Template
from jopt.ablate.trials import Trial, restore
from jopt.config import ConfigError, fingerprint
from jopt.measure import describe_failure
from jopt.rules import RuleError
from jopt.train.compiler import Compiler, compiler_options, enable_cache
from jopt.train.hooks import Hooks
from jopt.train.prepared import Prepared
from jopt.train.surroundings import compare
from jopt.train.workdir import StopRequested

_SECONDS_BETWEEN_LOOKS = 1.0

_bench: Bench | None = None


def join(text: str) -> str:
    """Prepares this process for a grid.

    Args:
      text: JSON with `directory` and `nonce`.

    Returns:
      JSON with `status` ('joined' or 'refused'), `host`, `pid` and, for a refusal, the `problem`.
    """
    return json.dumps(_joined(json.loads(text))[1])


def work(text: str) -> str:
    """Runs a chunk, after joining the grid if this process has not joined it yet.

    Args:
      text: JSON with `directory`, `nonce`, and the fields of an order (`jopt.ablate.executors.crew`).

    Returns:
      JSON with `status`: 'finished', 'stopped' (saved, as the session has ended or asked for it), 'failed' (with
      `error`), or 'refused' (as from `join`).
    """
    order = json.loads(text)
    bench, reply = _joined(order)
    return json.dumps(reply if bench is None else bench.run(order))


def _joined(order: Mapping[str, Any]) -> tuple[Bench | None, dict[str, Any]]:
    global _bench
    identity = {"host": socket.gethostname(), "pid": os.getpid()}
    if _bench is None or (_bench.directory, _bench.nonce) != (order["directory"], order["nonce"]):
        _bench = None
        try:
            bench = Bench(order["directory"], order["nonce"])
        except (NotSharedError, OSError) as error:
            return None, identity | {"status": "refused", "problem": str(error)}
        if problem := bench.problem():
            return None, identity | {"status": "refused", "problem": problem}
        _bench = bench
    return _bench, identity | {"status": "joined"}


class Bench:
    """A process that works for one launch of a grid. It keeps the programs of the group that it worked for last."""

    def __init__(self, directory: str, nonce: str):
        """Waits for the notice of the launch, and sets up JAX as it says.

        Raises:
          NotSharedError: if the directory is not the session's.
        """
        self.directory, self.nonce = directory, nonce
        self.notice = posted(directory, nonce)
        self.files = AblationDir(directory)
        self._set_up()
        self.loader = Loader(self.notice.trusted)
        self.group: int | None = None
        self.prepared: Prepared | None = None
        self.compilers: dict[tuple[int, Layout], Compiler] = {}
        self.recorded: dict[str, Any] | None = None
        self.looked, self.current = time.monotonic(), True

    def _set_up(self) -> None:
        notice = self.notice
        # Before JAX has a backend, which reads all of this once.
        os.environ.setdefault("XLA_FLAGS", notice.xla_flags)
        # The threads of XLA's CPU client: by default as many as the machine has processors, for each worker.
        os.environ.setdefault("NPROC", str(max(1, int(notice.cpus))))
        if 0 < notice.gpus < 1:
            # A tenth of each share stays free for the context of CUDA and for what XLA does not count.
            os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{0.9 * notice.gpus:.3f}")
        jax.config.update("jax_platforms", notice.platforms)
        jax.config.update("jax_num_cpu_devices", 1)
        for name, value in notice.jax_options.items():
            if name in jax.config.values and jax.config.values[name] != value:
                jax.config.update(name, value)
        if Path(notice.current).is_dir():
            os.chdir(notice.current)
        if notice.cache is not None:
            enable_cache(notice.cache)
        # Last, so that no directory of the session hides a module of this machine.
        sys.path += [path for path in notice.paths if path not in sys.path and Path(path).exists()]

    def problem(self) -> str:
        """Why this process may not join the grid; '' if it may."""
        try:
            if not is_locked_elsewhere(self.files.path / ".lock"):
                return (
                    f"the session's lock of {self.files.path} is not seen there: the session has ended, or the "
                    "file system does not share locks (NFS needs its lock service, Lustre the option flock)"
                )
        except OSError as error:
            return f"{self.files.path} cannot be used there: {error}"
        with compiler_options(**self.notice.compiler_options):
            differences = compare(self.notice.facts, canary.facts())
        return f"it has other bits: {canary.described(differences)}" if differences else ""

    def run(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Runs a chunk and describes how it ended; raises nothing."""
        begun = time.perf_counter()
        reply: dict[str, Any] = {"host": socket.gethostname(), "pid": os.getpid(), "warnings": [], "columns": {}}
        before = self._counts() if order["group"] == self.group else {}
        try:
            with compiler_options(**self.notice.compiler_options):
                reply |= {"status": self._run(order, reply)}
        except StopRequested:
            reply |= {"status": "stopped"}
        # Also what no one expects: the session must hear of it, whatever it is.
        except Exception as error:
            reply |= {"status": "failed", "error": _described(error)}
        reply["compilations"] = {k: n - before.get(k, 0) for k, n in self._counts().items() if n > before.get(k, 0)}
        return reply | {"seconds": round(time.perf_counter() - begun, 3)}

    def _run(self, order: Mapping[str, Any], reply: dict[str, Any]) -> str:
        directory = self.files.chunks / order["chunk"]
        with holding(directory):
            # Another worker may have committed it while this one waited.
            if (directory / "result.json").exists():
                return "finished"
            # Looked up now: the session of an order that waited in a queue may have ended long ago.
            if not is_current(self.directory, self.nonce):
                return "stopped"
            prepared = self._prepared(order)
            layout = Layout(order["lanes"], order["devices"])
            trials = [self._trial(name) for name in order["trials"]]
            compiler = self.compilers.setdefault((order["width"], layout), Compiler())

            def failed(column: str, stage: str, error: Exception) -> None:
                reply["columns"][column] = describe_failure(column, stage, error)

            hooks = Hooks(should_stop=lambda rows: self._superseded())
            chunk = Chunk(trials, order["width"], layout, prepared)
            ChunkRun(
                chunk, self.files.chunks, compiler, lambda progress: None, hooks, reply["warnings"].append, failed
            ).run()
        return "finished"

    def _prepared(self, order: Mapping[str, Any]) -> Prepared:
        """The run of the order's group."""
        if self.group != order["group"] or self.prepared is None:
            # The old group's programs and arrays go first: they would take the memory of the new one's.
            self.group, self.prepared = None, None
            self.compilers.clear()
            prepared = self.loader.prepare(self._trial(order["base"]).config)
            for name, here, there in (
                ("data", prepared.dataset.fingerprint, order["data"]),
                ("sources", dict(prepared.source_digests), order["sources"]),
            ):
                if here != there:
                    raise ConfigError(name, here, f"the session's: {there}; workers need the same files")
            self.group, self.prepared = order["group"], prepared
        return self.prepared

    def _trial(self, name: str) -> Trial:
        if self.recorded is None:
            recorded = self.files.recorded() or {}
            self.recorded = {"experiment": recorded["experiment"]} | {
                row["trial"]: row for row in recorded["trials"]
            }
        row = self.recorded[name]
        # The session's own config named these modules.
        trusted = self.notice.trusted or frozenset(self.notice.modules)
        config = restore(self.recorded["experiment"], row["overrides"], trusted=trusted)
        if fingerprint(config)[:12] != name:
            raise ConfigError("trial", name, "rebuilt from ablation.json as the same experiment; it is another one")
        # A template of its own: the chunk's trials are few.
        return Trial(name, row["seed"], ResolvedPoint(row["point"], Template(config, {}, ()), (), row["overrides"]))

    def _superseded(self) -> bool:
        # Not at each boundary, which may be milliseconds apart: the file may be on another machine.
        if time.monotonic() - self.looked > _SECONDS_BETWEEN_LOOKS:
            self.looked, self.current = time.monotonic(), is_current(self.directory, self.nonce)
        return not self.current

    def _counts(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for compiler in self.compilers.values():
            for name, count in compiler.counts.items():
                counts[name] = counts.get(name, 0) + count
        return counts


def _described(error: Exception) -> dict[str, Any]:
    """An error as JSON, by the judgement of the apps: whether a user can fix it, and its one line."""
    # Here, as an app's modules are of no use to a worker that meets no error.
    from jopt.apps import failures

    described: dict[str, Any] = {"type": type(error).__name__, "line": failures.line(error)}
    described["expected"] = failures.is_expected(error) or isinstance(error, ChunkInUse)
    if isinstance(error, ConfigError):
        described |= {"field": error.field, "value": _plain(error.value), "accepted": error.accepted}
    elif isinstance(error, RuleError):
        described |= {"rule": str(error)}
    if not described["expected"]:
        described["traceback"] = "".join(traceback.format_exception(error))
    return described


def _plain(value: object) -> object:
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError):
        return str(value)
