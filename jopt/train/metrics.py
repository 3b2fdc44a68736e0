"""metrics.jsonl: one JSON object a row, appended as the run goes, cut back to the checkpoint on a resume."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jopt.files import naming, sync, sync_directory, write_bytes
from jopt.train.directory import read_regular

MetricsRow = dict[str, Any]

# What a row says of the machine and not of the run: two equal runs differ in these alone.
TIMING_FIELDS = frozenset({"steps_per_second"})


class MetricsError(ValueError):
    """Rows are not those that were written.

    Attributes:
      path: the file.
      lines: the numbers of the first and the last line that are in doubt.
    """

    def __init__(self, path: Path, lines: tuple[int, int], problem: str):
        self.path, self.lines = path, lines
        first, last = lines
        super().__init__(f"{path}, line{f' {first}' if first == last else f's {first} to {last}'}: {problem}")


class Log:
    """The file as one process writes it, with the running SHA-256 of its bytes.

    A checkpoint keeps `position`, so that a resume can tell that the rows before it are the ones that were written.
    """

    def __init__(self, path: str | os.PathLike[str], *, writes: bool = True):
        """Reads and creates nothing; call `resume` first.

        Args:
          path: the file.
          writes: False where another process writes the file: nothing is read or written then.
        """
        self.path, self.writes = Path(path), writes
        self._hash, self._bytes = hashlib.sha256(), 0

    @property
    def position(self) -> dict[str, int | str]:
        """How long the file is, and the SHA-256 of its bytes."""
        return {"metrics_bytes": self._bytes, "metrics_sha256": self._hash.hexdigest()}

    def append(self, rows: list[MetricsRow]) -> None:
        """Appends rows as the function `append` does."""
        if self.writes:
            self._extend(append(self.path, rows))

    def resume(self, position: Mapping[str, Any] | None, keep: Callable[[MetricsRow], bool]) -> list[MetricsRow]:
        """Cuts the file back to where a checkpoint was saved, so that a resume neither doubles nor loses a row.

        Args:
          position: the notes of the checkpoint; None where there is none: the file is emptied.
          keep: accepts the rows up to the checkpoint, for checkpoints of earlier versions, which have no position.

        Returns:
          The rows that stay.

        Raises:
          MetricsError: if the rows up to the checkpoint are not those that it was saved after.
          ValueError: if a line is not a JSON object.
        """
        if not self.writes:
            return []
        if position is None:
            # Not read: whatever it holds, nothing of it stays, so that damage in it cannot stop a new beginning.
            content, rows = b"", []
            write_bytes(self.path, content)
        elif "metrics_sha256" in position:
            content = self.path.read_bytes() if self.path.exists() else b""
            content = content[: int(position["metrics_bytes"])]
            if hashlib.sha256(content).hexdigest() != position["metrics_sha256"]:
                raise MetricsError(
                    self.path,
                    (1, max(content.count(b"\n"), 1)),
                    "rows are missing, doubled or changed: they are not those of the last checkpoint",
                )
            write_bytes(self.path, content)
            rows = read(self.path)
        else:
            rows = truncate(self.path, keep)
            content = self.path.read_bytes()
        self._hash, self._bytes = hashlib.sha256(), 0
        self._extend(content)
        return rows

    def _extend(self, content: bytes) -> None:
        self._hash.update(content)
        self._bytes += len(content)


def read(path: str | os.PathLike[str], sha256: str | None = None) -> list[MetricsRow]:
    """The rows of a file; none if there is no file. A last line that a crash left unfinished is left out.

    Args:
      path: the file.
      sha256: of the bytes that the file must have; None is any.

    Raises:
      MetricsError: if the file has other bytes.
      ValueError: if any other line is not a JSON object, naming the file and the line.
    """
    path = Path(path)
    content = read_regular(path) if path.exists() else b""
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        problem = "rows are missing, doubled or changed: they are not those that the result was computed with"
        raise MetricsError(path, (1, max(content.count(b"\n"), 1)), problem)
    lines = content.split(b"\n")
    rows = []
    # The text after the last newline is a row that a crash cut off; the resumed run writes it again.
    for number, line in enumerate(lines[:-1], 1):
        text = line.decode(errors="replace")
        try:
            row = json.loads(text)
        # Brackets that are nested too deeply.
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, line {number}: not JSON: {text[:80]!r}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}: not a JSON object: {text[:80]!r}")
        rows.append(row)
    return rows


def append(path: str | os.PathLike[str], rows: list[MetricsRow]) -> bytes:
    """Appends rows in one write, each line whole, and has them on disk before it returns.

    Returns:
      The bytes that were appended.

    Raises:
      ValueError: for a number that is not finite, which JSON lacks; nothing is written then.
    """
    path = Path(path)
    lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()
    is_new = not path.exists()
    # One write, so that a crash cuts at most one row in two.
    with naming(path), path.open("ab") as file:
        file.write(lines)
        file.flush()
        sync(file.fileno())
    if is_new:
        sync_directory(path.parent)
    return lines


def truncate(path: str | os.PathLike[str], keep: Callable[[MetricsRow], bool]) -> list[MetricsRow]:
    """Keeps the rows that `keep` accepts, so that a resume neither doubles nor loses one; returns them."""
    rows = [row for row in read(path) if keep(row)]
    write_bytes(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
    return rows


def position(row: MetricsRow) -> tuple[str, int]:
    """The stage and the step of a row.

    Raises:
      ValueError: if it lacks one of them or `split`, or has one of another type.
    """
    stage, step, split = (row.get(name) for name in ("stage", "step", "split"))
    if not (isinstance(stage, str) and isinstance(step, int) and isinstance(split, str)):
        raise ValueError(f"a row has no stage, step and split: {str(row)[:80]}")
    return stage, step


def without_timing(rows: list[MetricsRow]) -> list[MetricsRow]:
    """The rows without the fields that differ between equal runs.

    Example:
      >>> without_timing([{"step": 1, "loss": 0.5, "steps_per_second": 93.1}])
      [{'step': 1, 'loss': 0.5}]
    """
    return [{k: v for k, v in row.items() if k not in TIMING_FIELDS} for row in rows]
