"""Checkpoints: the whole TrainState at a segment boundary, the latest few and those that are read later."""

import contextlib
import os
import re
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtyping import PyTree

from jopt import processes
from jopt.committed import announce
from jopt.files import make_directory, move, sync_directory, sync_tree
from jopt.train import snapshot
from jopt.train.snapshot import CheckpointError as CheckpointError
from jopt.train.snapshot import MismatchError as MismatchError
from jopt.train.snapshot import ResourceError as ResourceError
from jopt.train.snapshot import Restored as Restored
from jopt.train.state import to_host

# What is being saved or removed has a name of its own, so that a bare number is always a whole checkpoint.
_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")
_SAVING, _REMOVED = ".saving", ".removed"
_LEFTOVER = re.compile(r"\d+(\.saving|\.removed|\.orbax-checkpoint-tmp).*")


class DamagedError(CheckpointError):
    """The checkpoints of a run cannot be used.

    Attributes:
      path: their directory.
      damaged: the steps of those that are damaged, and what is wrong with each.
    """

    def __init__(self, path: Path, damaged: Mapping[int, str], remedy: str):
        self.path, self.damaged = path, dict(damaged)
        self.problem = "; ".join(f"checkpoint {step} {problem}" for step, problem in damaged.items())
        RuntimeError.__init__(self, f"{path}: {self.problem}; {remedy}")


def steps_in(directory: Path) -> list[int]:
    """The steps of the checkpoints in a directory, oldest first; none if there is no directory."""
    if not directory.is_dir():
        return []
    return sorted(int(path.name) for path in directory.iterdir() if _NUMBER.fullmatch(path.name))


def read_last(directory: Path, like: PyTree, remedy: str) -> Restored:
    """Reads the newest checkpoint of a run and verifies it; creates, moves and deletes nothing.

    Args:
      directory: of the checkpoints, with at least one.
      like: what `snapshot.read` expects.
      remedy: what the user can do about a damaged one, for the error.

    Raises:
      DamagedError: if it is damaged, naming each checkpoint of the directory that is.
      MismatchError: if it is of another model or optimizer.
    """
    last = steps_in(directory)[-1]
    try:
        return snapshot.read(directory / str(last), like)
    except MismatchError:
        raise
    except CheckpointError as error:
        raise DamagedError(directory, find_damage(directory) | {last: error.problem}, remedy) from error


def find_damage(directory: Path) -> dict[int, str]:
    """The checkpoints that are damaged, at a quick look that reads no array, and what is wrong with each."""
    problems = {step: snapshot.find_damage(directory / str(step)) for step in steps_in(directory)}
    return {step: problem for step, problem in problems.items() if problem is not None}


class Checkpoints:
    """The checkpoints of a run: the latest few, the best by `score`, and those of given steps.

    The step of a checkpoint here is what names it on disk: see `jopt.train.schedule.Segment.mark`.

    Saving is asynchronous: `save` copies the state and returns; errors surface in the next call. Use it as a
    context manager, which waits for the last save. One process at a time may have a directory open.
    """

    def __init__(
        self, directory: str | os.PathLike[str], keep: int = 2, always: Sequence[int] = (), *, writes: bool = True
    ):
        """Opens `directory`, which is created if need be; what a crash left half-written is removed.

        Args:
          directory: of the checkpoints.
          keep: how many of the latest to keep.
          always: steps whose checkpoints are always kept: ends of stages, which later stages read.
          writes: False where another process of the run writes them: nothing is created or saved then.
        """
        self.directory, self.writes = Path(directory).absolute(), writes
        self.keep, self.always = keep, frozenset(always)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        if not writes:
            return
        make_directory(self.directory)
        for path in self.directory.iterdir():
            if _LEFTOVER.fullmatch(path.name):
                shutil.rmtree(path)
        # A kill may have come between a rename and its sync.
        sync_directory(self.directory)
        self._ranks = {step: snapshot.rank(self.directory / str(step)) for step in self.steps}

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exc: object) -> None:
        # After an error of the run's own, a save that failed too must not hide it.
        with contextlib.nullcontext() if exc[0] is None else contextlib.suppress(Exception):
            self.wait()

    @property
    def steps(self) -> list[int]:
        """The steps of the checkpoints on disk, oldest first."""
        return steps_in(self.directory)

    def save(self, step: int, state: PyTree, notes: Mapping[str, Any]) -> None:
        """Starts to save `state`, any pytree of arrays, as the checkpoint of `step`.

        Args:
          step: the step of the state.
          state: the state; it is copied before this returns, so its buffers may be donated.
          notes: numbers and texts to save beside it; `score` decides which checkpoint is the best, the higher
            the better.

        Raises:
          ResourceError: if there is no thread or no memory left.
        """
        if processes.count() > 1:
            self._save_together(step, state, dict(notes))
            return
        # One save at a time, so that no more than one copy of the state waits in memory.
        self.wait()
        try:
            host, copied_notes = to_host(state), dict(notes)
            # A daemon: if the process must end, it does not wait for a disk that hangs.
            self._thread = threading.Thread(target=self._save, args=(step, host, copied_notes), daemon=True)
            self._thread.start()
        except (RuntimeError, MemoryError) as error:
            self._thread = None
            if snapshot.is_exhausted(error):
                raise ResourceError(f"out of threads or memory: {error or 'MemoryError'}") from error
            raise

    def wait(self) -> None:
        """Waits for the save under way; raises what it raised."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def restore(self, step: int, like: PyTree) -> Restored:
        """Reads the checkpoint of `step` and verifies it: `snapshot.read`."""
        return snapshot.read(self.directory / str(step), like)

    def restore_latest(
        self, like_at: Callable[[int], PyTree], needed: Sequence[int] = ()
    ) -> tuple[Restored | None, list[str]]:
        """Reads the newest checkpoint from which the run can go on to its end, and sets damaged ones aside.

        Args:
          like_at: `step -> like`, what `restore` expects of the checkpoint of that step; raises LookupError or
            StopIteration for a step at which the run saves none.
          needed: steps whose checkpoints are read later: where one is absent or damaged, the run must go on from
            before it, and so all later ones are set aside too.

        Returns:
          What was restored (None if no checkpoint is whole, or there is none), and a sentence on each checkpoint
          that has been moved to `damaged_checkpoints/` beside the directory.

        Raises:
          MismatchError: if a checkpoint is of another model or optimizer.
        """
        sentences: list[str] = []
        for step in sorted(needed):
            later = [other for other in self.steps if other >= step]
            # The newest is read below.
            if not [other for other in later if other > step]:
                break
            try:
                if step not in later:
                    raise CheckpointError(self.directory / str(step), "is absent")
                self._restore(step, like_at)
            except MismatchError:
                raise
            except CheckpointError as error:
                why = f"checkpoint {step}, which is read later, {error.problem}"
                sentences += [sentence for other in later for sentence in self._set_aside(other, why)]
                break
        for step in reversed(self.steps):
            try:
                return self._restore(step, like_at), sentences
            # Whole, but of another network: falling back to an older one would hide a mistake of the caller.
            except MismatchError:
                raise
            except CheckpointError as error:
                sentences += self._set_aside(step, f"checkpoint {step} {error.problem}")
        return None, sentences

    def _restore(self, step: int, like_at: Callable[[int], PyTree]) -> Restored:
        try:
            like = like_at(step)
        except (StopIteration, LookupError) as error:
            problem = "is of a step at which this run saves none"
            raise MismatchError(self.directory / str(step), problem) from error
        return self.restore(step, like)

    def _set_aside(self, step: int, why: str) -> list[str]:
        """Moves a checkpoint out of the way of the good one that will be saved at its step; the sentence on it."""
        # Versions before this one deleted in place: what a kill left then is no damage.
        if not snapshot.is_committed(self.directory / str(step)):
            self._remove(step)
            return []
        aside = self.directory.parent / "damaged_checkpoints" / str(step)
        if aside.exists():
            shutil.rmtree(aside)
        make_directory(aside.parent)
        move(self.directory / str(step), aside)
        self._ranks.pop(step, None)
        return [f"{why}; checkpoint {step} was moved to {aside}"]

    def _save_together(self, step: int, state: PyTree, notes: dict[str, Any]) -> None:
        """Saves a state of which every process holds a part; none goes on before it is on the disk."""
        # The notes are part of the digest, and the times of processes differ.
        notes, saving = processes.agree(notes, "the notes"), self.directory / f"{step}{_SAVING}"
        self._check_directory()
        snapshot.align_operations()
        snapshot.write(saving, state, notes)
        if self.writes:
            self._commit(step, notes)
        processes.barrier("the checkpoint")

    def _save(self, step: int, state: PyTree, notes: dict[str, Any]) -> None:
        try:
            saving = self.directory / f"{step}{_SAVING}"
            self._check_directory()
            snapshot.write(saving, state, notes)
            self._commit(step, notes)
        # Raised by the next call: an exception of a thread is only printed.
        except BaseException as error:
            self._error = error

    def _check_directory(self) -> None:
        # Orbax would make the run's directory again, if it was deleted meanwhile.
        if not self.directory.is_dir():
            raise FileNotFoundError(f"{self.directory} was removed while the run was using it")

    def _commit(self, step: int, notes: Mapping[str, Any]) -> None:
        # Orbax syncs the arrays and nothing else. The number appears when all of it is on the disk.
        saving = self.directory / f"{step}{_SAVING}"
        sync_tree(saving)
        move(saving, self.directory / str(step))
        self._ranks[step] = float(notes["score"])
        self._prune()
        announce(self.directory)

    def _prune(self) -> None:
        """Removes what is neither of the latest, nor the best, nor always kept."""
        steps = sorted(self._ranks)
        # The earlier of equals, so that a long plateau does not replace the best checkpoint at every boundary.
        best = max(steps, key=lambda step: (self._ranks[step], -step))
        retained = {*steps[-self.keep :], best, *self.always}
        for step in set(steps) - retained:
            self._remove(step)

    def _remove(self, step: int) -> None:
        removed = self.directory / f"{step}{_REMOVED}"
        # The new name is on the disk before a file is gone: half of a checkpoint never has a number.
        move(self.directory / str(step), removed)
        shutil.rmtree(removed)
        self._ranks.pop(step, None)
