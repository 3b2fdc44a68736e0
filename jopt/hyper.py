"""Splits a config into `structure` (what makes a new XLA program) and `hyper` (numbers traced into it).

A leaf is swept, and so traced, if its field is declared a `float` (an absent optional number aside), or declared
with `swept`, as a seed or a bit-width is; a float declared with `structural` is not. `None` is structure: a program
without clipping is another program than one that clips at 1. So are the numbers inside tuples.
"""

import dataclasses
import hashlib
import typing
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jopt.config import ConfigError, canonical_json, map_leaves, require

Hyper = Mapping[str, Any]


def swept(default: object) -> Any:
    """Declares a dataclass field whose integer is a number in the program, not a part of its structure."""
    return dataclasses.field(default=default, metadata={"swept": True})


def structural(default: object) -> Any:
    """Declares a dataclass field whose float is a part of the program's structure."""
    return dataclasses.field(default=default, metadata={"swept": False})


@dataclasses.dataclass(frozen=True, eq=False)
class Structure:
    """The part of a config from which a program is built; hashable. Equal structures give equal programs.

    Attributes:
      template: the config, with 0 in every swept leaf.
      identity: SHA-256 of what makes the program.
    """

    template: Any
    identity: str

    def __hash__(self) -> int:
        return hash(self.identity)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Structure) and self.identity == other.identity


def as_traced(value: float) -> float:
    """The number that the program sees: rounded to float32, and infinite beyond its range.

    Example:
      >>> as_traced(1 - 1e-12), as_traced(1e39), as_traced(1e-50)
      (1.0, inf, 0.0)
    """
    # Stands for a tracer, whose comparisons must stay true: rounding would make a plain number of it.
    if isinstance(value, _AnyFloat):
        return value
    with np.errstate(over="ignore", under="ignore"):
        return float(np.float32(value))


def array_module(*values: object) -> Any:
    """`jax.numpy` if one of the values is of JAX, else `numpy`: what is known needs no program of one operation.

    Example:
      >>> array_module(3, np.float32(0.5)).__name__
      'numpy'
    """
    return jnp if any(isinstance(value, jax.Array) for value in values) else np


def known(config: object) -> Any:
    """The config as its package's `validate` takes it: concrete numbers as Python numbers, tracers as any number.

    Functions that get a config check it with this, so that one check serves configs of plain numbers and configs
    of which some numbers, or all, are traced: whatever is asked of a tracer's size holds.

    Args:
      config: a tree of dataclasses, of Python numbers, arrays and tracers.

    Returns:
      A new config.

    Example:
      >>> import jax
      >>> @dataclasses.dataclass
      ... class Config:
      ...     rate: float = 0.5
      >>> known(Config(np.float32(0.25)))
      Config(rate=0.25)
      >>> jax.eval_shape(lambda rate: 1.0 * (known(Config(rate)).rate > 100), 0.0)
      ShapeDtypeStruct(shape=(), dtype=float32, weak_type=True)
    """

    def number(path: str, value: Any, hint: Any) -> Any:
        del path
        if isinstance(value, int | float):
            return value
        # Any value in range does; which of the checks it passes is decided by the comparisons of `_Any`.
        if isinstance(value, Tracer) or np.ndim(value):
            return _AnyFloat(0.5) if _is_float(hint) else _AnyInt(8)
        return float(value) if _is_float(hint) else int(value)

    return _replace(config, "", number)


def check_number(field: str, value: object, good: Callable[[np.ndarray], Any], accepted: str) -> None:
    """Raises `ConfigError` unless a concrete number, or every one of an array, is finite and `good`.

    Args:
      field: its name.
      value: a number, an array of them, or None; a tracer is not looked at.
      good: `float64 array -> bool or bool array`.
      accepted: what would be accepted, as the end of a sentence.

    Example:
      >>> check_number("max_norm", -1.0, lambda x: x > 0, "a finite number above 0")
      Traceback (most recent call last):
      ...
      jopt.config.ConfigError: max_norm must be a finite number above 0, got -1.0
    """
    if value is not None and not isinstance(value, Tracer):
        numbers = np.asarray(value).astype(np.float64)
        shown = value if isinstance(value, int | float) else numbers.tolist()
        require(bool(np.all(np.isfinite(numbers) & good(numbers))), field, shown, accepted)


class _Any:
    """Makes every comparison of a number true."""

    def __lt__(self, other: object) -> bool:
        del other
        return True

    __le__ = __gt__ = __ge__ = __lt__


class _AnyFloat(_Any, float):
    pass


class _AnyInt(_Any, int):
    pass


def split(config: object) -> tuple[Structure, dict[str, np.ndarray]]:
    """Splits `config` into its structure and its swept numbers.

    Args:
      config: a tree of dataclasses.

    Returns:
      The structure, and a dictionary from dotted path to NumPy scalar: float32 for a float, uint32 for a
      field named `seed`, int32 for any other integer.

    Example:
      >>> @dataclasses.dataclass
      ... class Config:
      ...     name: str = "adam"
      ...     learning_rate: float = 1e-3
      ...     clip: float | None = None
      >>> structure, hyper = split(Config(learning_rate=0.5))
      >>> hyper
      {'learning_rate': array(0.5, dtype=float32)}
      >>> structure == split(Config(learning_rate=0.25))[0]
      True
      >>> structure == split(Config(clip=1.0))[0]
      False

    Raises:
      ConfigError: for an integer that needs more than 32 bits.
    """
    hyper: dict[str, np.ndarray] = {}

    # 0 in place of the number: the template, and so the identity, is the same for every value of a sweep.
    def take(path: str, value: object, hint: object) -> Any:
        hyper[path] = narrowed(path, value, _dtype(path, hint))
        return 0

    template = _replace(config, "", take)
    # The paths count too: a field that became swept makes another program with an equal template.
    identity = f"{type(config).__qualname__}:{canonical_json(template)}:{sorted(hyper)}"
    return Structure(template, hashlib.sha256(identity.encode()).hexdigest()), hyper


def narrowed(path: str, value: object, dtype: type) -> np.ndarray:
    """A number as its program sees it.

    Raises:
      ConfigError: for an integer that needs more than 32 bits.
    """
    try:
        return np.asarray(value, dtype)
    except OverflowError as error:
        raise ConfigError(path, value, "a number of 32 bits") from error


def swept_paths(config: object) -> set[str]:
    """The paths of the numbers that `split` takes out of a config.

    Example:
      >>> @dataclasses.dataclass
      ... class Config:
      ...     name: str = "adam"
      ...     learning_rate: float = 1e-3
      >>> swept_paths(Config())
      {'learning_rate'}
    """
    paths: set[str] = set()

    def collect(path: str, value: object, hint: object) -> object:
        del hint
        paths.add(path)
        return value

    _replace(config, "", collect)
    return paths


def join(structure: Structure, hyper: Hyper) -> Any:
    """Puts swept numbers, concrete or traced, back into the leaves of the config.

    Args:
      structure: what `split` gave.
      hyper: a value for each path that `split` gave.

    Returns:
      A new config tree. Inside a trace its swept leaves are tracers.

    Raises:
      ValueError: if `hyper` lacks a path or has one too many.
    """
    seen: set[str] = set()

    def put(path: str, value: object, hint: object) -> Any:
        del value, hint
        if path not in hyper:
            raise ValueError(f"hyper lacks {path!r}; it has {sorted(hyper)}")
        seen.add(path)
        return hyper[path]

    config = _replace(structure.template, "", put)
    if extra := set(hyper) - seen:
        raise ValueError(f"hyper has {sorted(extra)}, which the config does not sweep")
    return config


def _replace(config: object, path: str, change: Callable[[str, Any, Any], Any]) -> Any:
    """A copy of `config` with `change(path, value, declared type)` in its swept leaves."""

    def swept_only(path: str, value: object, field: dataclasses.Field, hint: object) -> Any:
        return change(path, value, hint) if _is_swept(field, hint, value) else value

    return map_leaves(config, swept_only, path)


def _is_swept(field: dataclasses.Field, hint: object, value: object) -> bool:
    # Entries of a mapping (hint None) are arguments of a function that is not jopt's: it may need plain numbers.
    if hint is None or value is None or isinstance(value, bool | str | tuple | list) or callable(value):
        return False
    return field.metadata.get("swept", _is_float(hint))


def _is_float(hint: object) -> bool:
    return hint is float or float in typing.get_args(hint)


def _dtype(path: str, hint: object) -> type:
    if _is_float(hint):
        return np.float32
    return np.uint32 if path.split(".")[-1] == "seed" else np.int32
