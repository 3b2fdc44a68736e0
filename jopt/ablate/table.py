"""Tables as CSV files: floats to the last bit, None as nothing, whole or not at all."""

import csv
import io
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jopt.config import require
from jopt.files import write_text


def to_csv(rows: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None) -> str:
    r"""Rows as CSV text. Floats are written by `repr`, so that equal tables are equal bytes.

    Args:
      rows: the same keys in each.
      columns: the header; None: the first row's keys.

    Raises:
      ConfigError: if a row has other keys than the header.

    Example:
      >>> to_csv([{"bits": 4, "accuracy": 0.1 + 0.2, "note": None}])
      'bits,accuracy,note\n4,0.30000000000000004,\n'
    """
    rows = list(rows)
    header = list(columns if columns is not None else (rows[0] if rows else ()))
    text = io.StringIO()
    # One newline everywhere: files of two systems must be equal bytes.
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        # A missing cell would shift nothing in CSV, and be read as None for ever.
        require(set(row) == set(header), "rows", list(row), f"rows of the columns {', '.join(header)}")
        writer.writerow([_text(row[name]) for name in header])
    return text.getvalue()


def write_csv(
    path: str | os.PathLike[str], rows: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None
) -> None:
    """Writes `to_csv(rows, columns)` atomically."""
    write_text(path, to_csv(rows, columns))


def read_csv(path: str | os.PathLike[str], text: Collection[str] = ()) -> list[dict[str, Any]]:
    """Reads what `write_csv` wrote: None, booleans, integers, floats, and else strings.

    Args:
      path: of the file.
      text: columns whose cells are strings even where they read like numbers, such as digests.

    Returns:
      A dictionary a row. Outside `text`, a string that reads like a number comes back as one.
    """
    with Path(path).open(newline="", encoding="utf-8") as file:
        return [
            {name: cell if name in text else _value(cell) for name, cell in row.items()}
            for row in csv.DictReader(file)
        ]


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        # The shortest text that reads back as the same float; NumPy's own repr has its type in it.
        return repr(float(value))
    return str(value)


def _value(cell: str) -> Any:
    # Before the numbers, since float('') fails and bool('False') is true.
    if cell in ("", "True", "False"):
        return {"": None, "True": True, "False": False}[cell]
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell
