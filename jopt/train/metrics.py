"""metrics.jsonl: one JSON object a row, appended as the run goes, cut back to the checkpoint on a resume."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jopt.files import write_text

MetricsRow = dict[str, Any]

# What a row says of the machine and not of the run: two equal runs differ in these alone.
TIMING_FIELDS = frozenset({"steps_per_second"})


def read(path: str | os.PathLike[str]) -> list[MetricsRow]:
    """The rows of a file; none if there is no file. A last line that a crash left unfinished is left out.

    Raises:
      ValueError: if any other line is not a JSON object, naming the file and the line.
    """
    path = Path(path)
    if not path.exists():
        return []
    lines = path.read_text().split("\n")
    rows = []
    # The text after the last newline is a row that a crash cut off; the resumed run writes it again.
    for number, line in enumerate(lines[:-1], 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, line {number}: not JSON: {line[:80]!r}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}: not a JSON object: {line[:80]!r}")
        rows.append(row)
    return rows


def append(path: str | os.PathLike[str], rows: list[MetricsRow]) -> None:
    """Appends rows in one write, each line whole, and has them on disk before it returns.

    Raises:
      ValueError: for a number that is not finite, which JSON lacks; nothing is written then.
    """
    # One write, so that a crash cuts at most one row in two.
    lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
    with Path(path).open("a") as file:
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())


def truncate(path: str | os.PathLike[str], keep: Callable[[MetricsRow], bool]) -> list[MetricsRow]:
    """Keeps the rows that `keep` accepts, so that a resume neither doubles nor loses one; returns them."""
    rows = [row for row in read(path) if keep(row)]
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
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
