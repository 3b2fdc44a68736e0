"""Custom: a data set that a function of somebody's own gives."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import numpy as np

from jopt.config import ConfigError, Option, join_path, require
from jopt.data.dataset import PARTS, Dataset, split_of
from jopt.data.examples import Raw, Split
from jopt.data.lazy import Lazy
from jopt.data.parts import hold_out_test, refuse, require_fraction
from jopt.data.source import Source
from jopt.reference import reference_of, resolve

_ACCEPTED = (
    "to give a jopt.data.Dataset, a jopt.data.Raw, a tuple (train, test) or (train, validation, test), or a "
    "dictionary of these parts, each (inputs, targets) or (inputs, targets, weights)"
)


@dataclasses.dataclass
class Custom(Source):
    """What a function gives: `my_project.data:load`, called with the options as keyword arguments.

    It returns a `Dataset` (`Dataset.from_arrays`), a `Raw`, a tuple of parts `(train, test)` or
    `(train, validation, test)`, or a dictionary of them, each `(inputs, targets)` of arrays or pytrees of arrays. A
    dictionary of `train` alone has its test part held out.

    Attributes:
      name: 'package.module:function'; in Python, the function does as well.
      options: its arguments. Each can be an axis or a flag: `data.options.n`.
      test_fraction: of the training part, where the function gives no test part.

    Example:
      >>> config = Custom("my_project.data:load", options={"n": 1000})
    """

    name: str | Callable[..., Any] = ""
    options: Mapping[str, Option] = dataclasses.field(default_factory=dict)
    test_fraction: float = 0.2
    kind: ClassVar[str] = ""

    def validate(self, path: str = "data") -> None:
        """Imports the function's module, and checks that it takes the options; does not call it."""
        super().validate(path)
        require_fraction(self.test_fraction, join_path(path, "test_fraction"))
        function = self._resolved(path)
        try:
            inspect.signature(function).bind(**self.options)
        except TypeError as error:
            accepted = f"arguments of {self._reference} ({error})"
            raise ConfigError(join_path(path, "options"), dict(self.options), accepted) from error
        # A function of C without a signature says what is wrong when it is called.
        except ValueError:
            return

    @property
    def label(self) -> str:
        """The function's name, after the colon."""
        return self._reference.rpartition(":")[2]

    def read(self, *, trusted: bool = False) -> Raw:
        """As `Source.read`. What the function raises is not caught."""
        value = self._resolved("data")(**self.options)
        if isinstance(value, Dataset):
            return self._of_dataset(value)
        if isinstance(value, Raw):
            return value._replace(
                splits={name: _split(name, part) for name, part in _mapping(value.splits).items()}
            )
        splits = {name: _split(name, part) for name, part in _parts(value).items() if part is not None}
        if "test" not in splits:
            splits |= hold_out_test(splits["train"], self.test_fraction)
        return Raw(splits, None, scale=255.0)

    def _of_dataset(self, dataset: Dataset) -> Raw:
        inputs, means = jax.tree.leaves(dataset.train.inputs), dataset.mean
        means = jax.tree.leaves(means, is_leaf=lambda mean: mean is None)
        as_they_are = [x for x, m in zip(inputs, means, strict=True) if m is None and not isinstance(x, Lazy)]
        plain = any(np.issubdtype(x.dtype, np.floating) for x in as_they_are)
        accepted = f"False, as the data set that {self._reference} gives has normalize=False"
        require(not (plain and self.normalize), "data.normalize", self.normalize, accepted)
        tokens = any(x.dtype == np.uint8 for x in as_they_are)
        splits = {part: getattr(dataset, part) for part in PARTS}
        return Raw(splits, dataset.num_classes, scale=255.0, tokens=tokens)

    def _resolved(self, path: str) -> Callable[..., Any]:
        field = join_path(path, "name")
        function = resolve(self.name, field) if isinstance(self.name, str) else self.name
        require(callable(function), field, self.name, "a function")
        return function

    @property
    def _reference(self) -> str:
        return reference_of(self.name, "data.name")


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        refuse("data.name", f"a Raw with splits of type {type(value).__name__}", _ACCEPTED)
    return value


def _parts(value: Any) -> dict[str, Any]:
    """The parts by name, of a tuple or a dictionary."""
    if isinstance(value, Mapping):
        unknown = sorted(map(str, value.keys() - set(PARTS)))
        if unknown or value.get("train") is None:
            refuse("data.name", f"a dictionary of {sorted(map(str, value))}", _ACCEPTED)
        return dict(value)
    # Two arrays, or two lists, are not two parts: a part is a tuple too.
    fine = isinstance(value, tuple | list) and len(value) in (2, 3) and all(map(_is_part, value))
    if not fine:
        inner = f" of {[type(part).__name__ for part in value]}" if isinstance(value, tuple | list) else ""
        refuse("data.name", f"{type(value).__name__}{inner}", _ACCEPTED)
    return dict(zip(PARTS if len(value) == 3 else ("train", "test"), value, strict=True))


def _is_part(part: object) -> bool:
    return part is None or (isinstance(part, tuple) and len(part) in (2, 3))


def _split(name: str, part: Any) -> Split:
    if part is None or not _is_part(part):
        refuse(f"the part {name!r}", type(part).__name__, "a tuple (inputs, targets) or (inputs, targets, weights)")
    return split_of(name, part)
