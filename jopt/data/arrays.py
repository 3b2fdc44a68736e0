"""Arrays: NumPy's files, one .npz or a directory of .npy."""

import dataclasses
import re
import zipfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from jopt.config import join_path, require
from jopt.data.dataset import as_numpy
from jopt.data.examples import Raw, Split
from jopt.data.images import Images
from jopt.data.parts import hold_out_test, refuse, require_fraction, require_path
from jopt.paths import expanded

_NAME = re.compile(r"(?:(train|validation|test)_)?([xyw])(?:\.(\w+))?", re.ASCII)
_NAMES = "train_x, train_y, test_x, test_y, perhaps validation_x, validation_y, or x and y alone"
_FIELDS = {"x": "inputs", "y": "targets", "w": "weights"}


@dataclasses.dataclass
class Arrays(Images):
    """Arrays in one `.npz` file, or in a directory of `.npy` files, which are mapped and not read whole.

    Their names say what they are: `train_x`, `train_y`, `test_x`, `test_y`, and perhaps `validation_x`,
    `validation_y`, and weights of the losses `train_w`, ...; or `x`, `y` alone, of which a test part is held out.
    Inputs of several arrays are named `train_x.ids`, `train_x.mask`. Nothing is unpickled.

    Attributes:
      path: the file or the directory.
      test_fraction: of `x` and `y`, held out as test part, by the examples' contents.
      num_classes: of integer targets; None: one more than the largest.
      tokens: whether uint8 inputs are tokens and not numbers. Other integers always are tokens.

    Example:
      >>> Arrays("no_such_file.npz").validate()
      Traceback (most recent call last):
      ...
      jopt.config.ConfigError: data.path must be a .npz file, or a directory of .npy files, got 'no_such_file.npz'
    """

    path: str = ""
    test_fraction: float = 0.2
    num_classes: int | None = None
    tokens: bool = False
    kind: ClassVar[str] = "arrays"
    PATHS: ClassVar[tuple[str, ...]] = ("path",)

    def validate(self, path: str = "data") -> None:
        """As `Source.validate`."""
        super().validate(path)
        require_path(self.path, join_path(path, "path"), "a .npz file, or a directory of .npy files")
        require_fraction(self.test_fraction, join_path(path, "test_fraction"))
        classes = self.num_classes
        require(classes is None or classes > 0, join_path(path, "num_classes"), classes, "None or a number > 0")

    def read(self, *, trusted: bool = False) -> Raw:
        """As `Source.read`."""
        location = expanded(self.path, "data.path")
        parts: dict[str, dict[str, Any]] = {}
        for name, array in _load(location).items():
            match = _NAME.fullmatch(name)
            if match is None:
                refuse(f"{location}: an array's name", name, f"one of {_NAMES}")
            part, field, leaf = match[1] or "all", _FIELDS[match[2]], match[3]
            _insert(parts.setdefault(part, {}), field, leaf, as_numpy(array), f"{location}: {name}")
        names = set(parts)
        if names != {"all"} and not ({"train", "test"} <= names and "all" not in names):
            refuse(str(location), f"arrays of {sorted(names) or 'nothing'}", f"arrays named {_NAMES}")
        splits = {part: _split(f"{location}: {part}", fields) for part, fields in parts.items()}
        if "all" in splits:
            splits = hold_out_test(splits["all"], self.test_fraction)
        return Raw(splits, self.num_classes, scale=255.0, tokens=self.tokens)


def _load(location: Path) -> dict[str, np.ndarray]:
    """The arrays by name. Raises DataError for what is no array file, or is pickled."""
    if location.is_dir():
        return {file.stem: _one(file) for file in sorted(location.glob("*.npy"))}
    try:
        # Opened here: NumPy leaves the file open where it is no archive.
        with location.open("rb") as handle, np.load(handle, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        refuse(str(location), f"{type(error).__name__}: {error}", "an .npz file of plain arrays", error)


def _one(file: Path) -> np.ndarray:
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        refuse(str(file), f"{type(error).__name__}: {error}", "an .npy file of a plain array", error)


def _insert(fields: dict[str, Any], field: str, leaf: str | None, array: np.ndarray, where: str) -> None:
    if field == "weights" and array.dtype.kind in "biuf":
        array = array.astype(np.float32)
    if leaf is None and field not in fields:
        fields[field] = array
    elif leaf is not None and isinstance(fields.setdefault(field, {}), dict):
        fields[field][leaf] = array
    else:
        refuse(where, "both", "either one array, or arrays with names behind a dot")


def _split(where: str, fields: dict[str, Any]) -> Split:
    if not {"inputs", "targets"} <= fields.keys():
        refuse(where, f"{sorted(fields)} alone", "inputs (x) and targets (y)")
    return Split(**fields)
