"""Text: files to windows of bytes or characters, for models of the next token."""

import dataclasses
import hashlib
import itertools
import os
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from jopt.config import choice, join_path, require
from jopt.data.examples import Raw, Split
from jopt.data.parts import refuse, require_fraction
from jopt.data.source import ReadPath, Source
from jopt.paths import expanded

_LEVELS = ("bytes", "characters")
_SPLITS = ("files", "positions")
_PARTS = ("train", "validation", "test")


@dataclasses.dataclass
class Text(Source):
    """Windows of text: inputs are tokens [examples, window], targets the tokens that follow each of them.

    The files of a part are joined in the order of their names, and cut into windows without overlap; the rest at
    the end is dropped. Which file is in which part follows from the files' names alone.

    Attributes:
      files: a file, a directory (all files below it), a pattern such as 'books/**/*.txt', or several of them.
      window: tokens of an example.
      level: 'bytes': uint8 of 256 tokens; 'characters': those of all files, in sorted order.
      corpus: 'stdlib' in the place of files: the sources of Python's standard library, without tests and generated
        tables, as this Python has them. Another version of Python is another set.
      split: 'files': whole files are held out, so that no text of a file is in two parts; 'positions': of each
        file the last tokens are, for sets of one or two files.
      test_fraction: of the files, or of each file, for the test part; `validation_fraction` is of the others.

    Example:
      >>> config = Text(corpus="stdlib", window=128)
      >>> config.label
      'stdlib'
    """

    files: str | tuple[str, ...] = ()
    window: int = 256
    level: str = "bytes"
    corpus: str = ""
    split: str = "files"
    test_fraction: float = 0.1
    PATHS: ClassVar[tuple[str, ...]] = ("files",)

    def validate(self, path: str = "data") -> None:
        """As `Source.validate`."""
        super().validate(path)
        choice(join_path(path, "corpus"), self.corpus, ("", "stdlib"))
        accepted = "files, a directory or a pattern, where there is no data.corpus, and nothing beside it"
        require(bool(self.files) != bool(self.corpus), join_path(path, "files"), self.files, accepted)
        for i, pattern in enumerate(self._patterns()):
            field = join_path(path, f"files[{i}]" if isinstance(self.files, tuple) else "files")
            accepted = "a file, a directory or a pattern of files that exist"
            require(bool(pattern) and any(_matches(pattern)), field, pattern, accepted)
        require(self.window > 0, join_path(path, "window"), self.window, "a number of tokens > 0")
        choice(join_path(path, "level"), self.level, _LEVELS)
        choice(join_path(path, "split"), self.split, _SPLITS)
        require_fraction(self.test_fraction, join_path(path, "test_fraction"))

    @property
    def label(self) -> str:
        """The corpus, or 'text'."""
        return self.corpus or "text"

    def paths(self) -> Iterator[ReadPath]:
        """The directories of patterns, and every file that they match now."""
        for pattern in self._patterns():
            yield ReadPath("files", str(_base(pattern)), recursive=False)
            yield from (ReadPath("files", str(file)) for file in _matches(pattern))

    def read(self, *, trusted: bool = False) -> Raw:
        """As `Source.read`."""
        contents = self._contents()
        tokens, vocabulary = (_bytes if self.level == "bytes" else _characters)(contents)
        parts = self._by_file(tokens) if self.split == "files" else self._by_position(tokens)
        splits = {part: self._windows(part, streams) for part, streams in parts.items()}
        return Raw(splits, vocabulary, tokens=True)

    def streams(self) -> dict[str, list[np.ndarray]]:
        """The tokens of each part, file by file, before they are joined and cut."""
        tokens, _ = (_bytes if self.level == "bytes" else _characters)(self._contents())
        return self._by_file(tokens) if self.split == "files" else self._by_position(tokens)

    def _patterns(self) -> tuple[str, ...]:
        return (self.files,) if isinstance(self.files, str) and self.files else tuple(self.files)

    def _contents(self) -> dict[str, bytes]:
        """Name to content, in the order of names, which do not tell where the files lie."""
        if self.corpus:
            root = Path(sysconfig.get_paths()["stdlib"])
            named = {
                file.relative_to(root).as_posix(): file for file in root.rglob("*.py") if _is_library(file, root)
            }
        else:
            named = _named(self._patterns())
        contents = {}
        for name, file in sorted(named.items()):
            try:
                contents[name] = file.read_bytes()
            except OSError as error:
                refuse(str(file), f"{type(error).__name__}: {error}", "a file that can be read", error)
        return contents

    def _by_file(self, tokens: dict[str, np.ndarray]) -> dict[str, list[np.ndarray]]:
        # By a hash of the name: a file that is added or changed moves few others to another part.
        order = sorted(tokens, key=lambda name: hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest())
        n = len(order)
        test = max(1, round(n * self.test_fraction))
        validation = max(1, round((n - test) * self.validation_fraction))
        if n < 3:
            refuse("data.files", f"{n} files", "at least 3 files, or data.split='positions', which cuts each file")
        require(n - test > validation, "data.test_fraction", self.test_fraction, f"a part of {n} files, not of all")
        chosen = {"test": order[:test], "validation": order[test : test + validation]}
        chosen["train"] = order[test + validation :]
        return {part: [tokens[name] for name in sorted(chosen[part])] for part in _PARTS}

    def _by_position(self, tokens: dict[str, np.ndarray]) -> dict[str, list[np.ndarray]]:
        parts: dict[str, list[np.ndarray]] = {part: [] for part in _PARTS}
        for stream in tokens.values():
            before_test = len(stream) - round(len(stream) * self.test_fraction)
            before = before_test - round(before_test * self.validation_fraction)
            for part, (a, b) in zip(_PARTS, ((0, before), (before, before_test), (before_test, None)), strict=True):
                parts[part].append(stream[a:b])
        return parts

    def _windows(self, part: str, streams: Sequence[np.ndarray]) -> Split:
        stream = np.concatenate(streams)
        n = (len(stream) - 1) // self.window
        if n < 1:
            accepted = f"at least {self.window + 1} tokens, one window and the token after it"
            refuse(f"the text of {part!r}", f"{len(stream)} tokens", accepted)
        # Two views of one stream: it is in memory once.
        inputs, targets = (stream[i : i + n * self.window].reshape(n, self.window) for i in (0, 1))
        return Split(inputs, targets)


def _named(patterns: Sequence[str]) -> dict[str, Path]:
    """Every file once, by a name that is the same wherever the set lies."""
    named: dict[str, Path] = {}
    seen: set[str] = set()
    for i, pattern in enumerate(patterns):
        base = _base(pattern)
        for file in _matches(pattern):
            # In two patterns, or by a link, a text could come into two parts.
            if (real := os.path.realpath(file)) not in seen:
                seen.add(real)
                name = file.relative_to(base).as_posix()
                named[f"{i}/{name}" if len(patterns) > 1 else name] = file
    return named


def _base(pattern: str) -> Path:
    """The directory that the names of a pattern's files are relative to."""
    path = expanded(pattern, "data.files")
    if path.exists():
        return path if path.is_dir() else path.parent
    return Path(*itertools.takewhile(lambda part: not any(c in part for c in "*?["), path.parts))


def _matches(pattern: str) -> Iterator[Path]:
    """The files of a pattern, of a directory or of a path, without those below a name that begins with a dot."""
    path, base = expanded(pattern, "data.files"), _base(pattern)
    if path.is_file():
        yield path
        return
    if path == base and not path.is_dir():
        return
    for file in base.glob("**/*" if path.is_dir() else str(path.relative_to(base))):
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(base).parts):
            yield file


def _is_library(file: Path, root: Path) -> bool:
    # Generated: one file of documentation would be a tenth of all text, and tables of code pages another.
    generated = {"pydoc_data", "encodings"}
    apart = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", *generated}
    return apart.isdisjoint(file.relative_to(root).parts)


def _bytes(contents: dict[str, bytes]) -> tuple[dict[str, np.ndarray], int]:
    return {name: np.frombuffer(content, np.uint8) for name, content in contents.items()}, 256


def _characters(contents: dict[str, bytes]) -> tuple[dict[str, np.ndarray], int]:
    """The codes of the characters of each text, and how many kinds there are."""
    points = {}
    for name, content in contents.items():
        try:
            points[name] = np.frombuffer(content.decode("utf-8").encode("utf-32-le"), np.uint32)
        except UnicodeDecodeError as error:
            refuse(name, f"{error}", "text in UTF-8, or data.level='bytes'", error)
    alphabet = np.unique(np.concatenate(list(points.values())))
    dtype = np.uint8 if len(alphabet) <= 256 else np.int32
    codes = {name: np.searchsorted(alphabet, values).astype(dtype) for name, values in points.items()}
    return codes, len(alphabet)
