"""One checkpoint: a state in a directory that Orbax writes, verified when it is read."""

import errno
import json
import logging
import math
import os
import re
import threading
from collections.abc import Container, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from jopt import processes
from jopt.rules import named_leaves
from jopt.train.state import digest

# Leaves beside the state's own: the digest, and the notes as JSON, which it covers too.
_DIGEST, _NOTES = "sha256", "notes"
_MAX_NOTES = 2**16
# Of reading: the file may be whole.
_NOT_DAMAGE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EPERM})
# Orbax numbers the saves of a process in one global counter, so two runs in two threads must take turns.
_TURN = threading.Lock()


class CheckpointError(RuntimeError):
    """A checkpoint is damaged.

    Attributes:
      path: its directory.
      problem: what is wrong with it.
    """

    def __init__(self, path: Path, problem: str):
        self.path, self.problem = path, problem
        super().__init__(f"checkpoint {path.name} in {path.parent} {problem}")


class MismatchError(CheckpointError):
    """A checkpoint is of another model or optimizer."""


class ResourceError(RuntimeError):
    """The system has no thread or no memory left. The process should end: libraries may wait for ever."""


class Restored(NamedTuple):
    """A state that was read back and found whole.

    Attributes:
      step: the step it was saved at.
      state: the state, in NumPy arrays.
      notes: what was saved beside it, such as `score` and `wall_seconds`.
    """

    step: int
    state: PyTree
    notes: dict[str, Any]


def write(path: Path, state: PyTree, notes: dict[str, Any]) -> None:
    """Writes a checkpoint; it is on the disk only after `files.sync_tree`.

    Args:
      path: a directory that does not exist.
      state: any pytree of NumPy arrays.
      notes: what to save beside it, as JSON; `score` can be read alone by `rank`.

    Raises:
      ResourceError: if there is no thread or no memory left.
      OSError: if the disk is full or fails.
    """
    from orbax.checkpoint import v1

    ocp: Any = v1
    _quiet_logs()
    # Orbax cannot write arrays without entries; `read` makes them from the expected shapes.
    # What every process has whole, the primary writes; of the rest each process writes its own parts.
    leaves = {name: _readable(leaf) for name, leaf in named_leaves(state) if leaf.size}
    leaves[_NOTES] = np.frombuffer(json.dumps(notes).encode(), np.uint8)
    leaves[_DIGEST] = np.frombuffer(bytes.fromhex(digest([state, leaves[_NOTES]])), np.uint8)
    context = ocp.Context()
    # Else a thread of Orbax waits for a signal of another one, for ever if that could not start.
    context.asynchronous.create_directories_asynchronously = False
    try:
        with _TURN, context:
            ocp.save_checkpointables(path, {"state": leaves}, custom_metadata={"score": notes["score"]})
    except Exception as error:
        _raise_system_error(error, path, errno.errorcode)
        raise


def read(path: Path, like: PyTree) -> Restored:
    """Reads a checkpoint and verifies it; nothing is written.

    Args:
      path: its directory.
      like: a pytree of arrays or `jax.ShapeDtypeStruct` with the structure, shapes and dtypes to expect.

    Raises:
      CheckpointError: if it is not there or cannot be read, or if its bytes are not those that were saved.
      MismatchError: if a leaf is absent, superfluous, or of another shape or dtype; no array is read then.
      ResourceError: if there is no thread or no memory left.
      OSError: if it must not be read, or too many files are open.
    """
    from orbax.checkpoint import v1

    ocp: Any = v1
    _quiet_logs()
    # Orbax finds no arrays at a relative path, and says nothing of it.
    path = path.absolute()
    try:
        with _TURN, _alone():
            # The shapes first: a few bytes can claim gigabytes, which would be allocated before they are compared.
            claimed = ocp.checkpointables_metadata(path).metadata["state"]
            if not isinstance(claimed, dict):
                raise ValueError("its list of arrays is damaged")
            expected = dict(named_leaves(like))
            _check_extras(claimed)
            _compare(path, claimed, expected)
            # In memory, on whatever devices they were.
            wanted = {name: np.empty(leaf.shape, leaf.dtype) for name, leaf in claimed.items()}
            leaves = dict(ocp.load_checkpointables(path, {"state": wanted})["state"])
    except CheckpointError:
        raise
    # Orbax and TensorStore raise many types for a damaged file, of which none is documented.
    except Exception as error:
        _raise_system_error(error, path, _NOT_DAMAGE)
        raise CheckpointError(path, f"cannot be read: {error}") from error
    for name, leaf in expected.items():
        if 0 in leaf.shape:
            leaves[name] = np.zeros(leaf.shape, leaf.dtype)
    saved, notes = bytes(leaves[_DIGEST]).hex(), leaves[_NOTES]
    state = jax.tree.unflatten(jax.tree.structure(like), [leaves[name] for name in expected])
    # A flipped bit on disk would otherwise go unnoticed. The notes count too: a resume adds up their times.
    if saved != digest([state, notes]):
        raise CheckpointError(path, "is damaged: its digest does not match")
    return Restored(int(path.name), state, _decoded(path, notes.tobytes()))


def find_damage(path: Path) -> str | None:
    """What is wrong with a checkpoint at a quick look, which reads no array; None if nothing is."""
    for name in ("_CHECKPOINT_METADATA", "commit_success.txt", "state/_METADATA", "state/manifest.ocdbt"):
        try:
            if not (path / name).stat().st_size:
                return f"{name} is empty"
        except OSError:
            return f"{name} is absent"
    return None


def is_committed(path: Path) -> bool:
    """Whether a checkpoint was saved to its end, and its deletion has not begun."""
    # Versions before this one let Orbax delete in place, so a kill could leave any part of a directory.
    return (path / "commit_success.txt").exists() and (path / "_CHECKPOINT_METADATA").exists()


def rank(path: Path) -> float:
    """The score that a checkpoint was saved with; -inf if that cannot be read."""
    try:
        kept = json.loads((path / "_CHECKPOINT_METADATA").read_text())["custom_metadata"]
        # Older versions knew accuracies alone, and the first kept it in a file of its own.
        value = kept.get("score", kept.get("accuracy"))
        if value is None:
            value = json.loads((path / "metrics" / "metrics").read_text())["accuracy"]
        return float(value)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        return -np.inf


def is_exhausted(error: BaseException) -> bool:
    """Whether the system having no thread or no memory left led to `error`."""
    cause: BaseException | None = error
    while cause is not None:
        # Python has no type of its own for a thread that cannot start.
        if isinstance(cause, MemoryError | ResourceError) or "can't start new thread" in str(cause):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _readable(leaf: Any) -> Any:
    """A NumPy array; or the array on the devices, where this process cannot read all of it."""
    is_split = isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated)
    return leaf if is_split else np.asarray(leaf)


def align_operations() -> None:
    """Makes Orbax count its operations alike in all processes, which call this before they write together.

    Orbax numbers the operations of each process and puts the number into the names of its barriers. A process that
    has read more checkpoints alone (the primary verifies the ends of stages) would wait at another barrier than
    the others, for ever.
    """
    # Private, as there is no public way; a version without it fails here, and does not hang.
    from orbax.checkpoint._src.futures.synchronization import OperationIdGenerator as Operations

    last = max(processes.gather("the operations of Orbax", int(Operations.get_current_operation_id())))
    while int(Operations.get_current_operation_id()) < last:
        Operations.next_operation_id()


def _alone() -> Any:
    """Orbax's context for a checkpoint that this process reads, without the others of the run."""
    from orbax.checkpoint import v1

    ocp: Any = v1
    context = ocp.Context()
    if jax.process_count() > 1:
        index = jax.process_index()
        context.multiprocessing.primary_host = index
        context.multiprocessing.active_processes = {index}
        context.multiprocessing.barrier_sync_key_prefix = f"jopt{index}"
    return context


def _raise_system_error(error: Exception, path: Path, codes: Container[int]) -> None:
    """Raises the error of the system that a library reports with a type of its own, if it is one of these codes."""
    if is_exhausted(error):
        raise ResourceError(f"out of threads or memory at {path}: {error or 'MemoryError'}") from error
    # TensorStore raises ValueError, and has the code in its text alone.
    match = re.search(r"os_error_code='(\d+)'", str(error))
    code = error.errno if isinstance(error, OSError) else int(match[1]) if match else None
    if code is not None and code in codes:
        raise OSError(code, os.strerror(code), str(path)) from error


def _check_extras(claimed: dict[str, Any]) -> None:
    """Raises ValueError unless the digest and the notes have the sizes that such leaves have."""
    for name, most in ((_DIGEST, 32), (_NOTES, _MAX_NOTES)):
        leaf = claimed[name]
        if len(leaf.shape) != 1 or leaf.shape[0] > most or leaf.dtype != np.uint8 or _exceeds(leaf):
            raise ValueError(f"{name} is {leaf.dtype}{list(leaf.shape)}")


def _decoded(path: Path, notes: bytes) -> dict[str, Any]:
    try:
        value = json.loads(notes)
    # Also of a checkpoint with a true digest, if somebody made it: the brackets may be nested too deeply.
    except (ValueError, RecursionError) as error:
        raise CheckpointError(path, f"has notes that are not JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(path, "has notes that are no JSON object")
    return value


def _compare(path: Path, claimed: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raises MismatchError unless a checkpoint claims to hold the expected arrays and no others."""
    names = [name for name in claimed if name not in (_DIGEST, _NOTES)]
    problems = [f"{name} is not in the model" for name in names if name not in expected]
    for name, leaf in expected.items():
        saved = claimed.get(name)
        if saved is None and 0 not in leaf.shape:
            problems.append(f"{name} is absent")
        elif saved is not None and (saved.shape, saved.dtype) != (leaf.shape, leaf.dtype):
            problems.append(f"{name} is {saved.dtype}{list(saved.shape)}, not {leaf.dtype}{list(leaf.shape)}")
        elif saved is not None and _exceeds(saved):
            problems.append(f"{name} is stored in chunks larger than itself")
    if not problems:
        return
    kind = "of another model or optimizer"
    if _lacks_statistics(names, expected):
        kind = (
            "of an earlier version of jopt, in which the moving average (ema_decay) had no batch "
            "statistics; it cannot be used, run the experiment again in another directory"
        )
    raise MismatchError(path, f"is {kind}: {'; '.join(problems[:5])}")


def _exceeds(leaf: Any) -> bool:
    """Whether one chunk of an array claims more entries than the array has."""
    storage = leaf.storage_metadata
    chunks = [shape for shape in (storage.chunk_shape, storage.write_shape) if shape is not None]
    return any(math.prod(shape) > max(math.prod(leaf.shape), 1) for shape in chunks)


def _lacks_statistics(saved: Iterable[str], expected: Container[str]) -> bool:
    """Whether the moving average that was saved, of a run or of a chunk of trials, is of parameters alone."""
    absent = [name for name in saved if name not in expected]
    return any(re.sub("^(state/)?ema/", r"\1ema/params/", name) in expected for name in absent)


def _quiet_logs() -> None:
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_is_worth_logging)


def _is_worth_logging(record: logging.LogRecord) -> bool:
    """Drops logs of errors that are raised too: those of Orbax, and of arrays that are read at the same time."""
    text = record.getMessage()
    if text.startswith(("Task exception was never retrieved", "Task was destroyed but it is pending")):
        return "tensorstore_spec" not in text and "orbax" not in text
    raised = (
        "Failed to get metadata for checkpointable",
        "Failed to json parse Metadata file",
        "Failed to read Metadata file",
        "No handler found for typestr",
    )
    return not text.startswith(raised) and "_SignalingThread.run() raised an exception" not in text
