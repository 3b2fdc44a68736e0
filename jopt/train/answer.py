"""A finished run that is asked for again: its result, what is missing of it, and its report where that is gone."""

import contextlib
import shlex
from collections.abc import Callable, Iterator
from typing import Any

from jopt import codec, processes
from jopt.report import Observer, attempt
from jopt.train import snapshot
from jopt.train.checkpoint import find_damage, steps_in
from jopt.train.compiler import Compiler
from jopt.train.config import Experiment
from jopt.train.display import collect_stages, finished_parts, write_report
from jopt.train.outcome import stage_outcome
from jopt.train.prepared import Prepared
from jopt.train.staging import Staging
from jopt.train.state import TrainState
from jopt.train.workdir import Workdir, WorkdirError, complete


def answer(
    config: Experiment,
    files: Workdir,
    observer: Observer,
    prepared: Callable[[], Prepared],
    locked: bool = False,
) -> dict[str, Any]:
    """The result of a finished run. Warns of what is damaged or gone, and writes a missing report again.

    Args:
      config: the experiment.
      files: its directory.
      observer: is told.
      prepared: gives the run, ready to compute; called only where the report is missing.
      locked: whether this process holds the directory already.

    Raises:
      WorkdirError: if the result or the metric rows are not as they were written.
    """
    result = files.load_result()
    # Read for their checksum only: rows that are missing, doubled or edited would be believed from here on.
    files.load_rows()
    complete(files, digest=result.get("digest"))
    if sentence := describe_damage(files):
        observer.warn(sentence)
    if config.pack and not files.packed.is_file():
        again = shlex.join(["jopt", "export", str(files.path), "--format=packed"])
        observer.warn(f"{files.packed} is gone; {again} writes it again")
    # What it shows is computed again on the devices of all processes, of which only one answers.
    if not files.has_report() and processes.count() > 1:
        observer.warn(f"the report of {files.path} is missing; the same command in one process writes it again")
    elif not files.has_report():
        # A report that failed, or was deleted: what it shows is still there.
        problem = f"{describe_finished(files)}, but its missing report cannot be written"
        with attempt(observer, problem), held(files, locked) as is_held:
            # Asked a second time, under the lock: its holder may have written the report meanwhile.
            if is_held and not files.has_report():
                write_report_again(prepared(), files, result, observer)
                observer.note(f"the missing report of {files.path} was written again")
    task = config.task.resolved()
    observer.finished(lambda: finished_parts(files, result, config.columns, before=True, task=task))
    return result


@contextlib.contextmanager
def held(files: Workdir, locked: bool) -> Iterator[bool]:
    """Holds the directory, unless `locked` says that this process does; gives False if another process holds it.

    Raises:
      WorkdirError: if it cannot be held for another reason.
    """
    with contextlib.ExitStack() as stack:
        is_held = True
        try:
            if not locked:
                stack.enter_context(files.locked())
        except WorkdirError as error:
            # The holder is probably the launch that has just finished the run, and is drawing its report.
            if not isinstance(error.__cause__, BlockingIOError):
                raise
            is_held = False
        yield is_held


def describe_finished(files: Workdir) -> str:
    """What is said of a run whose result is on the disk."""
    return f"the run in {files.path} is complete ({files.result.name})"


def describe_damage(files: Workdir) -> str | None:
    """A sentence on the checkpoints of a finished run that are damaged at a quick look; None if none is."""
    damaged = find_damage(files.checkpoints)
    if not damaged and steps_in(files.checkpoints):
        return None
    problems = [f"checkpoint {step} is damaged ({problem})" for step, problem in damaged.items()]
    return f"{files.checkpoints}: {'; '.join(problems) or 'there is no checkpoint'}; {files.remedy}"


def write_report_again(prepared: Prepared, files: Workdir, result: dict[str, Any], observer: Observer) -> None:
    """Writes the report of a finished run from its checkpoints, its result and its packed file."""
    p, compiler = prepared, Compiler()

    def end_of(stage: int) -> TrainState:
        return snapshot.read(files.checkpoints / str(p.end_of(stage).mark), p.like(stage)).state

    staging = Staging(p, compiler, end_of)
    outcomes = [stage_outcome(p, staging, stage, end_of(stage)) for stage in range(len(p.plans))]
    ledger = codec.read(files.packed).ledger if files.packed.is_file() else None
    stages = collect_stages(p, outcomes, observer, p.config.columns)
    manifest = files.load_json(files.manifest)
    write_report(p, files, manifest, result, outcomes, stages, ledger, p.config.columns)
