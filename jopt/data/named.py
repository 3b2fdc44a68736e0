"""Sets by one name: the classes of what files and flags of before call `digits`, `xor`, `synthetic` or `mnist`."""

from collections.abc import Mapping
from typing import Any

from jopt.config import CLASS
from jopt.data.built_in import Digits, Synthetic, Xor
from jopt.data.source import Source
from jopt.data.tfds import Tfds

_BUILT_IN: dict[object, type[Digits | Synthetic | Xor]] = {cls.kind: cls for cls in (Digits, Synthetic, Xor)}
_UNUSED = {"shift": 0, "crop_padding": 0, "flip": False, "data_dir": None}
"""Fields that every set had, with the values of those that did not read them."""


def named(name: str, data_dir: str | None = None) -> Source:
    """The set of a name that is built in, or of TFDS's catalog.

    Example:
      >>> named("xor").label, named("mnist").label
      ('xor', 'mnist')
    """
    return _BUILT_IN[name]().moved(data_dir) if name in _BUILT_IN else Tfds(name, data_dir=data_dir)


def with_class(values: Mapping[str, Any]) -> dict[str, Any]:
    """See `jopt.data.Source.from_older`."""
    fields = dict(values)
    name = fields.pop("name", Digits.kind)
    synthetic = fields.pop("synthetic", None)
    cls = _BUILT_IN.get(name, Tfds) if isinstance(name, str) else Tfds
    if cls is Tfds:
        fields = {"name": name, **fields}
    elif cls is Synthetic and isinstance(synthetic, Mapping):
        fields |= synthetic
    # A set was given fields that it does not read, at their defaults or, as `data_dir`, at any value.
    read = cls.__dataclass_fields__
    fields = {
        key: value
        for key, value in fields.items()
        if key in read or key not in _UNUSED or (key != "data_dir" and value != _UNUSED[key])
    }
    return {CLASS: f"jopt.data:{cls.__name__}", **fields}
