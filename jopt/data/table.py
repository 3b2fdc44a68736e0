"""Csv: tables of numbers and categories in text files."""

import csv
import dataclasses
from pathlib import Path
from typing import ClassVar

import numpy as np

from jopt.config import ConfigError, choice, join_path, require
from jopt.data.examples import Raw, Split, take
from jopt.data.parts import hold_out_test, refuse, require_fraction, require_path
from jopt.data.source import Source
from jopt.paths import expanded


@dataclasses.dataclass
class Csv(Source):
    """A table: one example a row, in UTF-8, held in memory.

    Nothing is guessed: a column holds numbers unless `categorical` names it, and a value that is missing or no
    number is an error that names file, line and column.

    Attributes:
      path: the file.
      target: the column of the targets, or several columns of numbers.
      targets: 'classes': each distinct value of the target is a class, in sorted order; 'numbers': float32.
      columns: those of the inputs; (): all but the target.
      categorical: columns of categories.
      categories: 'one-hot': each category is a 0 or 1 among the inputs; 'codes': inputs are a dictionary of
        `numbers`, float32 [examples, columns], and `categories`, int32 [examples, columns], in sorted order.
      header: whether the first row has the columns' names; without, they are '0', '1', ...
      delimiter: between values.
      test_path: a second file, the test part; "": held out of the first.
      test_fraction: of the rows, where there is no second file.

    Example:
      >>> config = Csv("houses.csv", target="price", targets="numbers", categorical=("city",))
    """

    path: str = ""
    target: str | tuple[str, ...] = ""
    targets: str = "classes"
    columns: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    categories: str = "one-hot"
    header: bool = True
    delimiter: str = ","
    test_path: str = ""
    test_fraction: float = 0.2
    kind: ClassVar[str] = "csv"
    PATHS: ClassVar[tuple[str, ...]] = ("path", "test_path")

    def validate(self, path: str = "data") -> None:
        """As `Source.validate`."""
        super().validate(path)
        require_path(self.path, join_path(path, "path"), "a file that exists")
        if self.test_path:
            require_path(self.test_path, join_path(path, "test_path"), "a file that exists, or ''")
        require(bool(self.target), join_path(path, "target"), self.target, "the name of a column")
        choice(join_path(path, "targets"), self.targets, ("classes", "numbers"))
        choice(join_path(path, "categories"), self.categories, ("one-hot", "codes"))
        several = isinstance(self.target, tuple) and self.targets == "classes"
        require(not several, join_path(path, "targets"), self.targets, "'numbers' where there are several targets")
        delimiter = self.delimiter
        fine = len(delimiter) == 1 and delimiter not in '"\r\n'
        require(
            fine, join_path(path, "delimiter"), delimiter, "one character that is neither a quote nor a new line"
        )
        require_fraction(self.test_fraction, join_path(path, "test_fraction"))

    def read(self, *, trusted: bool = False) -> Raw:
        """As `Source.read`."""
        files = {"path": self.path} | ({"test_path": self.test_path} if self.test_path else {})
        tables = [self._table(expanded(path, f"data.{field}")) for field, path in files.items()]
        if tables[0].columns.keys() != tables[-1].columns.keys():
            refuse(str(tables[1].file), f"columns {[*tables[1].columns]}", f"a table of {[*tables[0].columns]}")
        examples, num_classes = self._examples(tables)
        if len(tables) == 1:
            return Raw(hold_out_test(examples, self.test_fraction), num_classes)
        first = len(tables[0])
        rows = {"train": np.arange(first), "test": np.arange(first, first + len(tables[1]))}
        return Raw({part: take(examples, index) for part, index in rows.items()}, num_classes)

    def _table(self, file: Path) -> "_Table":
        table = _read(file, self.delimiter, self.header)
        named = {"target": self._target, "columns": self.columns, "categorical": self.categorical}
        for field, columns in named.items():
            for column in columns:
                if column not in table.columns:
                    raise ConfigError(
                        f"data.{field}", column, f"a column of {file}, which has {', '.join(table.columns)}"
                    )
        return table

    @property
    def _target(self) -> tuple[str, ...]:
        return self.target if isinstance(self.target, tuple) else (self.target,)

    def _examples(self, tables: "list[_Table]") -> tuple[Split, int | None]:
        """The rows of all files, so that a category has one code in all."""
        chosen = self.columns or tuple(name for name in tables[0].columns if name not in self._target)
        overlap = [name for name in chosen if name in self._target]
        require(not overlap, "data.columns", self.columns, f"columns without the target {overlap}")
        require(bool(chosen), "data.columns", self.columns, f"at least one column beside {self._target}")
        numbers, codes = [], []
        for name in chosen:
            if name not in self.categorical:
                numbers.append(_numbers(tables, name)[:, None])
                continue
            column, kinds = _codes(tables, name)
            if self.categories == "codes":
                codes.append(column)
            else:
                numbers.append((column[:, None] == np.arange(len(kinds))).astype(np.float32))
        arrays = {
            **({"numbers": np.concatenate(numbers, 1)} if numbers else {}),
            **({"categories": np.stack(codes, 1)} if codes else {}),
        }
        inputs = arrays if len(arrays) > 1 else next(iter(arrays.values()))
        if self.targets == "numbers":
            targets = [_numbers(tables, name) for name in self._target]
            return Split(inputs, np.stack(targets, 1) if isinstance(self.target, tuple) else targets[0]), None
        targets, classes = _codes(tables, self._target[0])
        return Split(inputs, targets), len(classes)


@dataclasses.dataclass
class _Table:
    """A file's columns of text, and the line that each row ends in."""

    file: Path
    columns: dict[str, list[str]]
    lines: list[int]

    def __len__(self) -> int:
        return len(self.lines)

    def where(self, column: str, i: int) -> str:
        return f"{self.file}, line {self.lines[i]}, column {column!r},"


def _read(file: Path, delimiter: str, header: bool) -> _Table:
    try:
        with file.open(newline="", encoding="utf-8-sig") as text:
            reader = csv.reader(text, delimiter=delimiter, strict=True)
            rows = [(reader.line_num, row) for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        refuse(str(file), f"{type(error).__name__}: {error}", "a table of text in UTF-8", error)
    first = rows[0][1] if rows else []
    names = [name.strip() for name in first] if header else list(map(str, range(len(first))))
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        refuse(str(file), f"{twice} twice", "a table whose columns have different names")
    lines, values = zip(*rows[header:], strict=True) if len(rows) > header else ((), ())
    if not values:
        refuse(str(file), "none", "a table of at least one row")
    for line, row in zip(lines, values, strict=True):
        if len(row) != len(names):
            refuse(f"{file}, line {line},", f"{len(row)} values", f"{len(names)} values, one a column")
    columns = map(list, zip(*values, strict=True))
    return _Table(file, dict(zip(names, columns, strict=True)), list(lines))


def _numbers(tables: list[_Table], name: str) -> np.ndarray:
    """A column of all files as float32. Raises DataError for the first value that is no finite number."""
    parts = []
    for table in tables:
        texts = table.columns[name]
        try:
            numbers = np.array(texts, np.float64)
        except ValueError:
            numbers = np.array([_number(text) for text in texts])
        # A number that float32 cannot hold becomes infinite.
        with np.errstate(over="ignore"):
            parts.append(numbers.astype(np.float32))
        if not np.isfinite(parts[-1]).all():
            i = int(np.flatnonzero(~np.isfinite(parts[-1]))[0])
            shown = repr(texts[i]) if texts[i].strip() else "nothing"
            accepted = "a finite number (data.categorical names columns of categories)"
            refuse(table.where(name, i), shown, accepted)
    return np.concatenate(parts)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _codes(tables: list[_Table], name: str) -> tuple[np.ndarray, list[str]]:
    """A column of all files as int32 codes, and the sorted categories: by number, if all are integers."""
    texts = []
    for table in tables:
        for i, text in enumerate(table.columns[name]):
            if not text.strip():
                refuse(table.where(name, i), "nothing", "a value")
            texts.append(text.strip())
    distinct = set(texts)
    integers = all(text.removeprefix("-").isdecimal() for text in distinct)
    kinds = sorted(distinct, key=lambda text: (int(text), text)) if integers else sorted(distinct)
    code = {text: i for i, text in enumerate(kinds)}
    return np.array([code[text] for text in texts], np.int32), kinds
