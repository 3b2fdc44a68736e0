"""Checkpoints: the whole TrainState at a segment boundary, written by Orbax, verified when read."""

import contextlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from jopt.rules import named_leaves
from jopt.train.state import digest, to_host

# Leaves beside the state's own: the digest, and the notes as JSON, which it covers too.
_DIGEST, _NOTES = "sha256", "notes"


class CheckpointError(RuntimeError):
    """A checkpoint is damaged."""


class MismatchError(CheckpointError):
    """A checkpoint is whole, but is of another model or optimizer."""


class Restored(NamedTuple):
    """A state that was read back and found whole.

    Attributes:
      step: the step it was saved at.
      state: the state, in NumPy arrays.
      notes: numbers that were saved beside it, such as `accuracy` and `wall_seconds`.
    """

    step: int
    state: PyTree
    notes: dict[str, float]


class Checkpoints:
    """The checkpoints of a run: the latest few, the best by `accuracy`, and those of given steps.

    The step of a checkpoint here is what names it on disk: see `jopt.train.schedule.Segment.mark`.

    Saving is asynchronous: `save` copies the state and returns; errors surface in the next call. Use it as a
    context manager, which waits for the last save.
    """

    def __init__(self, directory: str | os.PathLike[str], keep: int = 2, always: Sequence[int] = ()):
        """Opens `directory`, which is created if need be; what a crash left half-written is removed.

        Args:
          directory: of the checkpoints.
          keep: how many of the latest to keep.
          always: steps whose checkpoints are always kept: ends of stages, which later stages read.
        """
        from orbax.checkpoint import v1

        ocp: Any = v1  # Orbax's annotations of its own policies and paths do not fit one another.
        logging.getLogger("absl").addFilter(_is_worth_logging)
        self.directory = Path(directory).absolute()
        self._damaged = [self._set_aside(path, "its metrics") for path in _with_unreadable_metrics(self.directory)]
        policies = ocp.training.preservation_policies
        self._checkpointer: Any = ocp.training.Checkpointer(
            self.directory,
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=policies.AnyPreservationPolicy(
                [
                    policies.LatestN(keep),
                    policies.BestN(get_metric_fn=_rank, n=1),
                    policies.CustomSteps(list(always)),
                ]
            ),
            cleanup_tmp_directories=True,
        )
        self._pending: Any = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exc: object) -> None:
        # After an error of the run's own, a save that failed too must not hide it.
        with contextlib.nullcontext() if exc[0] is None else contextlib.suppress(Exception):
            self.wait()
        self._checkpointer.close()

    @property
    def steps(self) -> list[int]:
        """The steps of the checkpoints on disk, oldest first."""
        return sorted(c.step for c in self._checkpointer.checkpoints)

    def save(self, step: int, state: PyTree, notes: dict[str, float]) -> None:
        """Starts to save `state`, any pytree of arrays, as the checkpoint of `step`.

        Args:
          step: the step of the state.
          state: the state; it is copied before this returns, so its buffers may be donated.
          notes: numbers to save beside it; `accuracy` decides which checkpoint is the best.
        """
        # One save at a time, so that no more than one copy of the state waits in memory.
        self.wait()
        host = to_host(state)
        # Orbax cannot write arrays without entries; `restore` makes them from the expected shapes.
        leaves = {name: leaf for name, leaf in named_leaves(host) if leaf.size}
        leaves[_NOTES] = np.frombuffer(json.dumps(notes).encode(), np.uint8)
        leaves[_DIGEST] = np.frombuffer(bytes.fromhex(digest([host, leaves[_NOTES]])), np.uint8)
        # What Orbax itself is told decides which checkpoints it keeps, and nothing else.
        metrics = {"accuracy": notes["accuracy"], "step": step}
        self._pending = self._checkpointer.save_checkpointables_async(step, {"state": leaves}, metrics=metrics)

    def wait(self) -> None:
        """Waits for the save under way; raises what it raised."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def restore(self, step: int, like: PyTree) -> Restored:
        """Reads the checkpoint of `step` and verifies it.

        Args:
          step: a step among `steps`.
          like: a pytree of arrays or `jax.ShapeDtypeStruct` with the structure, shapes and dtypes to expect.

        Returns:
          The state in NumPy arrays, and the notes saved beside it.

        Raises:
          CheckpointError: if it cannot be read, or if its bytes are not those that were saved.
          MismatchError: if a leaf is absent, superfluous, or of another shape or dtype.
        """
        try:
            leaves = dict(self._checkpointer.load_checkpointables(step)["state"])
            saved = bytes(leaves.pop(_DIGEST)).hex()
            notes = leaves.pop(_NOTES)
        # Orbax and TensorStore raise many types for a damaged file, of which none is documented.
        except Exception as error:
            raise CheckpointError(f"checkpoint {step} in {self.directory} cannot be read: {error}") from error
        expected = dict(named_leaves(like))
        problems = [f"{name} is not in the model" for name in leaves if name not in expected]
        for name, want in expected.items():
            got = leaves.setdefault(name, np.zeros(want.shape, want.dtype)) if 0 in want.shape else leaves.get(name)
            if got is None:
                problems.append(f"{name} is absent")
            elif (got.shape, got.dtype) != (want.shape, want.dtype):
                problems.append(f"{name} is {got.dtype}{list(got.shape)}, not {want.dtype}{list(want.shape)}")
        if problems:
            kind = "of another model or optimizer"
            if _lacks_statistics(leaves, expected):
                kind = (
                    "of an earlier version of jopt, in which the moving average (ema_decay) had no batch "
                    "statistics; it cannot be used, run the experiment again in another directory"
                )
            raise MismatchError(f"checkpoint {step} in {self.directory} is {kind}: {'; '.join(problems[:5])}")
        state = jax.tree.unflatten(jax.tree.structure(like), [leaves[name] for name in expected])
        # A flipped bit on disk would otherwise go unnoticed. The notes count too: a resume adds up their times.
        if saved != digest([state, notes]):
            raise CheckpointError(f"checkpoint {step} in {self.directory} is damaged: its digest does not match")
        return Restored(step, state, json.loads(notes.tobytes()))

    def restore_latest(self, like_at: Callable[[int], PyTree]) -> tuple[Restored | None, list[str]]:
        """Reads the newest checkpoint that is whole, and sets damaged newer ones aside.

        Args:
          like_at: `step -> like`, what `restore` expects of the checkpoint of that step.

        Returns:
          What was restored (None if no checkpoint is whole, or there is none), and a sentence on each newer
          checkpoint that was damaged and has been moved to `damaged_checkpoints/` beside the directory.

        Raises:
          MismatchError: if a checkpoint is of another model or optimizer.
        """
        damaged, self._damaged = self._damaged, []
        for step in reversed(self.steps):
            try:
                return self.restore(step, like_at(step)), damaged
            # Whole, but of another network: falling back to an older one would hide a mistake of the caller.
            except MismatchError:
                raise
            except CheckpointError as error:
                damaged.append(self._set_aside(self.directory / str(step), str(error)))
                self._checkpointer.reload()
        return None, damaged

    def _set_aside(self, path: Path, why: str) -> str:
        """Moves a damaged checkpoint out of the way of the good one that will be saved at its step; says so."""
        aside = self.directory.parent / "damaged_checkpoints" / path.name
        shutil.rmtree(aside, ignore_errors=True)
        aside.parent.mkdir(exist_ok=True)
        path.rename(aside)
        return f"checkpoint {path.name} is damaged ({why}); moved to {aside}"


def _lacks_statistics(saved: Iterable[str], expected: Container[str]) -> bool:
    """Whether the moving average that was saved, of a run or of a chunk of trials, is of parameters alone."""
    absent = [name for name in saved if name not in expected]
    return any(re.sub("^(state/)?ema/", r"\1ema/params/", name) in expected for name in absent)


def _rank(metrics: dict[str, float]) -> tuple[float, float]:
    """The higher the better: by accuracy, and the earlier of equals."""
    # The earlier of equals, so that a long plateau does not replace the best checkpoint at every boundary.
    return float(metrics["accuracy"]), -float(metrics["step"])


def _with_unreadable_metrics(directory: Path) -> list[Path]:
    """Checkpoints that would make Orbax fail when it opens their directory."""
    unreadable = []
    for path in sorted(directory.glob("[0-9]*")) if directory.is_dir() else []:
        try:
            if path.name.isdigit():
                _rank(json.loads((path / "metrics" / "metrics").read_text()))
        except (OSError, ValueError, KeyError, TypeError):
            unreadable.append(path)
    return unreadable


def _is_worth_logging(record: logging.LogRecord) -> bool:
    """Drops Orbax's warning that a checkpoint part without arrays has no arrays to merge."""
    return "Skipping merge of OCDBT checkpoints" not in record.getMessage()
