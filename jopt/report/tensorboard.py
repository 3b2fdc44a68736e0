"""Metric rows as TensorBoard events, without TensorFlow."""

import numbers
import os
import secrets
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jopt.typing import Record

_PATTERN = "events.out.tfevents.*"
_NOT_SCALARS = ("step", "stage", "split", "time")


class Writer:
    """Appends metric rows to a new event file in a directory.

    Writes are synchronous: after `write` returns the events are on disk, and there is no thread or process
    behind it. Rows of earlier files in the directory are left; `rewrite` replaces them.

    Args:
      directory: where the event file goes; made if it does not exist.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as directory, Writer(directory) as writer:
      ...     writer.write([{"step": 10, "stage": "train", "split": "validation", "loss": 0.5}])
    """

    def __init__(self, directory: str | os.PathLike[str]):
        self._directory = Path(directory)
        self._directory.mkdir(parents=True, exist_ok=True)
        self._file = _EventFile(self._directory / _new_name(self._directory), time.time())

    def write(self, rows: Iterable[Record]) -> None:
        """Writes every number of each row, tagged `<split>/<name>`, at the row's `step`.

        Args:
          rows: mappings with `step` and `split`, and `time` (seconds since the epoch) where known: without it
            the event gets the present time. Strings, booleans, None and nested values are left out.
        """
        for row in rows:
            self._file.add(row)
        self._file.flush()

    def close(self) -> None:
        """Closes the file; closing again does nothing."""
        self._file.close()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def rewrite(directory: str | os.PathLike[str], rows: Iterable[Record]) -> None:
    """Replaces all event files of `directory` by one that holds exactly `rows`.

    After a resume the rows of metrics.jsonl are the truth: events of steps that were rolled back go, and none
    is doubled. A `Writer` made afterwards appends to a new file, which TensorBoard reads after this one.

    Args:
      directory: where the event files are; made if it does not exist.
      rows: as for `Writer.write`.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    rows = list(rows)
    target = directory / _new_name(directory)
    # A name of the kind that `jopt.files.sweep` removes after a kill.
    partial = directory / f".events.out.{secrets.token_hex(4)}.tmp"
    try:
        file = _EventFile(partial, float(rows[0].get("time", time.time())) if rows else time.time())
        try:
            for row in rows:
                file.add(row)
            file.flush()
        finally:
            file.close()
        for old in directory.glob(_PATTERN):
            old.unlink()
        # Old files go first: TensorBoard may read while this runs, and doubled rows are worse than missing ones.
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _new_name(directory: Path) -> str:
    """A name that sorts after all others here: TensorBoard reads files in order and never goes back."""
    # Two launches within one second would otherwise write the same name.
    stamps = [p.name.split(".")[3] for p in directory.glob(_PATTERN)]
    latest = max((int(s) for s in stamps if s.isdecimal()), default=0)
    return f"events.out.tfevents.{max(int(time.time()), latest + 1):010d}.{socket.gethostname()}"


class _EventFile:
    """An event file: checksummed records of `Event` messages."""

    def __init__(self, path: Path, wall_time: float):
        from tensorboardX.proto import event_pb2
        from tensorboardX.record_writer import RecordWriter

        self._event: Any = event_pb2.Event  # pyright: ignore[reportAttributeAccessIssue] (made by protobuf)
        # Made here, as `RecordWriter` opens what there is, and would write through a link.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666))
        self._records: Any = RecordWriter(str(path))
        self._records.write(self._event(wall_time=wall_time, file_version="brain.Event:2").SerializeToString())
        self._records.flush()

    def add(self, row: Record) -> None:
        event = self._event(wall_time=float(row.get("time", time.time())), step=int(row["step"]))
        for key, value in row.items():
            # TensorBoard has no place for text in a scalar plot, and counts True as 1.
            if key in _NOT_SCALARS or isinstance(value, bool) or not isinstance(value, numbers.Real):
                continue
            event.summary.value.add(tag=f"{row['split']}/{key}", simple_value=float(value))
        self._records.write(event.SerializeToString())

    def flush(self) -> None:
        self._records.flush()

    def close(self) -> None:
        if self._records is not None:
            self._records.close()
            self._records = None
