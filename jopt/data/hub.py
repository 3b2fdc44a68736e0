"""HuggingFace: sets of the Hugging Face hub, and parquet files."""

import dataclasses
import importlib.util
import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from jopt.config import ConfigError, join_path, require
from jopt.data.cache import DataError
from jopt.data.examples import Raw, Split
from jopt.data.images import Images
from jopt.data.outline import Outline
from jopt.data.parts import hold_out_test, refuse, require_fraction, require_path, stacked
from jopt.paths import expanded

_PARTS = ("train", "validation", "test")
_EXTRA = "pip install 'jopt[huggingface]'"
Fields = str | tuple[str, ...]


@dataclasses.dataclass
class HuggingFace(Images):
    """Columns of a set of the hub, or of parquet files as its sets have them.

    Columns of numbers, of lists of one length and of images become arrays; text does not (see `data.Text`).

    Attributes:
      name: of the hub, such as 'ylecun/mnist'; it is downloaded on the first use, with the extra `huggingface`.
      path: in its place, a parquet file, or a directory whose files' names begin with a split's name.
      inputs: a column, or several, which become a dictionary.
      targets: likewise.
      config: of the set on the hub; None: its only one.
      revision: a branch, a tag or a commit of the set on the hub; only a commit stays as it is.
      splits: what the set calls training, validation and test part; "" for a part that it does not have.
      test_fraction: of the training part, where there is no test part.
      size: of images, as for `data.ImageFolder`, and
      colours: likewise.
      tokens: whether uint8 inputs are tokens and not numbers.
      num_classes: of integer targets; None: as the set says, else one more than the largest.

    Example:
      >>> config = HuggingFace("ylecun/mnist", inputs="image", targets="label", colours="grey")
    """

    name: str = ""
    path: str = ""
    inputs: Fields = ""
    targets: Fields = ""
    config: str | None = None
    revision: str | None = None
    splits: tuple[str, str, str] = _PARTS
    test_fraction: float = 0.2
    size: int | tuple[int, int] | None = None
    colours: str = "rgb"
    tokens: bool = False
    num_classes: int | None = None
    PATHS: ClassVar[tuple[str, ...]] = ("path",)

    def validate(self, path: str = "data") -> None:
        """As `Source.validate`. Asks no network."""
        super().validate(path)
        accepted = "the name of a set of the hub, where there is no data.path, and none beside it"
        require(bool(self.name) != bool(self.path), join_path(path, "name"), self.name, accepted)
        if self.path:
            require_path(self.path, join_path(path, "path"), "a parquet file, or a directory of them")
        for field in ("inputs", "targets"):
            value = getattr(self, field)
            require(bool(value) and all(value), join_path(path, field), value, "a column, or several")
        require(
            bool(self.splits[0]), join_path(path, "splits"), self.splits, "the name of at least the training part"
        )
        require_fraction(self.test_fraction, join_path(path, "test_fraction"))
        if self.name and not _has_datasets():
            raise ConfigError(join_path(path, "name"), self.name, f"absent without datasets >= 4: {_EXTRA}")

    @property
    def label(self) -> str:
        """The set's name, or that of its files."""
        return self.name or "parquet"

    def outline(self, *, trusted: bool = False) -> Outline:
        """As `Source.outline`: a set of the hub is downloaded, as far as can be said."""
        return Outline(downloads=bool(self.name))

    def read(self, *, trusted: bool = False) -> Raw:
        """As `Source.read`."""
        names = {part: name for part, name in zip(_PARTS, self.splits, strict=True) if name}
        tables = self._downloaded(names) if self.name else _local(expanded(self.path, "data.path"), names)
        splits, classes = {}, self.num_classes
        for part, table in tables.items():
            splits[part] = Split(self._columns(table, part, "inputs"), self._columns(table, part, "targets"))
            classes = _declared_classes(table, self.targets) if classes is None else classes
        if "test" not in splits:
            splits |= hold_out_test(splits["train"], self.test_fraction)
        return Raw(splits, classes, scale=255.0, tokens=self.tokens)

    def _downloaded(self, names: dict[str, str]) -> dict[str, Any]:
        import datasets  # pyright: ignore[reportMissingImports]

        try:
            loaded = datasets.load_dataset(self.name, self.config, revision=self.revision)
        # Of its network, its files or its options: all are about what was asked for.
        except Exception as error:
            shown = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise DataError(
                f"data.name {self.name!r} cannot be read from the Hugging Face hub: {shown}",
                field="data.name",
                value=self.name,
                accepted="a set that can be downloaded from here, or data.path with its parquet files",
            ) from error
        if names["train"] not in loaded:
            refuse("data.splits", self.splits, f"names of its splits, {sorted(loaded)}")
        return {part: loaded[name].with_format("arrow")[:] for part, name in names.items() if name in loaded}

    def _columns(self, table: Any, part: str, field: str) -> Any:
        names = getattr(self, field)
        for name in (names,) if isinstance(names, str) else names:
            if name not in table.column_names:
                accepted = f"a column of the part {part!r}, which has {', '.join(table.column_names)}"
                raise ConfigError(f"data.{field}", name, accepted)
        if isinstance(names, str):
            return self._array(table.column(names), f"column {names!r} of {part!r}")
        return {name: self._array(table.column(name), f"column {name!r} of {part!r}") for name in names}

    def _array(self, column: Any, where: str) -> np.ndarray:
        import pyarrow as pa

        from jopt.data.dataset import as_numpy
        from jopt.data.pictures import decode

        if column.null_count:
            row = column.is_null().to_pylist().index(True)
            refuse(f"{where}, row {row},", "nothing", "a value")
        kind = column.type
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            size = (self.size, self.size) if isinstance(self.size, int) else self.size
            return decode(
                [value["bytes"] or b"" for value in column.to_pylist()], size, "crop", self.colours, where
            )
        if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
            return as_numpy(column.to_numpy())
        if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            return stacked(column.to_pylist(), where)
        refuse(
            where, f"{kind}", "numbers, lists of numbers or images; text can be read by data.Text or data.Custom"
        )


def _has_datasets() -> bool:
    if importlib.util.find_spec("datasets") is None:
        return False
    from importlib.metadata import version

    # Earlier ones ran a set's own script.
    return int(version("datasets").split(".")[0]) >= 4


def _local(location: Path, names: dict[str, str]) -> dict[str, Any]:
    """The tables of each part that has files."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = {"train": [location]}
    if location.is_dir():
        everything = sorted(location.rglob("*.parquet"))
        files = {part: [file for file in everything if _is_of(file, name)] for part, name in names.items()}
        files = {part: chosen for part, chosen in files.items() if chosen}
        if "train" not in files:
            accepted = f"a directory of files {names['train']}*.parquet"
            refuse(str(location), [file.name for file in everything][:5] or "no parquet files", accepted)
    tables = {}
    for part, chosen in files.items():
        try:
            # One file after the other: a directory's names would otherwise become columns.
            tables[part] = pa.concat_tables([pq.ParquetFile(file).read() for file in chosen])
        except (OSError, pa.ArrowException) as error:
            refuse(str(chosen[0].parent), f"{type(error).__name__}: {error}", "parquet files of one schema", error)
    return tables


def _is_of(file: Path, split: str) -> bool:
    # As the hub names them: train-00000-of-00002.parquet, or train/0000.parquet.
    return file.parent.name == split or file.stem == split or file.stem.startswith((f"{split}-", f"{split}_"))


def _declared_classes(table: Any, target: Fields) -> int | None:
    """The number of classes that a set's own description gives its target."""
    try:
        feature = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"][target]
        return len(feature["names"]) if feature.get("_type") == "ClassLabel" else None
    # Files of others have no such description.
    except (TypeError, KeyError, ValueError, AttributeError):
        return None
