"""Typed configuration trees: errors, type checks, JSON and identity.

A config is a tree of plain, mutable dataclasses, whose leaves are `bool`, `int`, `float`, `str`, `None` and
(nested) tuples of these; a `list` holds dataclasses. Each package owns the dataclass beside the function that
reads it; this file owns what is the same for all of them.
"""

import dataclasses
import functools
import hashlib
import json
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

C = TypeVar("C")


class ConfigError(ValueError):
    """A config field holds what it must not.

    Args:
      field: dotted path of the field, such as `optimizer.learning_rate`.
      value: what came in.
      accepted: what would be accepted, as the end of a sentence.

    Example:
      >>> print(ConfigError("optimizer.momentum", 1.5, "a number in [0, 1)"))
      optimizer.momentum must be a number in [0, 1), got 1.5
    """

    def __init__(self, field: str, value: Any, accepted: str):
        super().__init__(f"{field} must be {accepted}, got {value!r}")
        self.field, self.value, self.accepted = field, value, accepted

    def __reduce__(self):
        return type(self), (self.field, self.value, self.accepted)


def require(condition: bool, field: str, value: Any, accepted: str) -> None:
    """Raises `ConfigError(field, value, accepted)` unless `condition` holds.

    Example:
      >>> require(0.9 < 1, "optimizer.momentum", 0.9, "a number in [0, 1)")
    """
    if not condition:
        raise ConfigError(field, value, accepted)


def choice(field: str, value: str, names: typing.Iterable[str]) -> None:
    """Raises `ConfigError` unless `value` is one of `names`.

    Example:
      >>> choice("optimizer.name", "adm", ["adam", "sgd"])
      Traceback (most recent call last):
      ...
      jopt.config.ConfigError: optimizer.name must be one of 'adam', 'sgd', got 'adm'
    """
    names = sorted(names)
    require(value in names, field, value, "one of " + ", ".join(map(repr, names)))


def fields(config: Any) -> Iterator[tuple[dataclasses.Field, Any, Any]]:
    """Yields `(field, resolved type, value)` of one dataclass instance."""
    hints = _hints(type(config))
    for field in dataclasses.fields(config):
        yield field, hints[field.name], getattr(config, field.name)


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    """The resolved types of a dataclass's fields; resolving them takes longer than all else in a grid's check."""
    return typing.get_type_hints(cls)


def join_path(prefix: str, name: str) -> str:
    """Joins two parts of a dotted path.

    Example:
      >>> join_path("", "seed"), join_path("optimizer", "name")
      ('seed', 'optimizer.name')
    """
    return f"{prefix}.{name}" if prefix else name


def check_types(config: Any, path: str = "") -> None:
    """Raises `ConfigError` where a value's type is not what its dataclass declares.

    An `int` is accepted where a `float` is declared; a `bool` never counts as a number. Traced and concrete
    JAX arrays are not accepted: configs are checked before they meet a trace.
    """
    for field, hint, value in fields(config):
        name = join_path(path, field.name)
        if not _matches(value, hint, name):
            raise ConfigError(name, value, f"of type {_type_name(hint)}")


def _matches(value: Any, hint: Any, path: str) -> bool:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_matches(value, arg, path) for arg in args)
    if hint is type(None):
        return value is None
    if origin in (tuple, list):
        if not isinstance(value, origin):
            return False
        if origin is list or (len(args) == 2 and args[1] is Ellipsis):
            return all(_matches(v, args[0], f"{path}[{i}]") for i, v in enumerate(value))
        return len(value) == len(args) and all(
            _matches(v, a, f"{path}[{i}]") for i, (v, a) in enumerate(zip(value, args, strict=True))
        )
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, typing.cast(type, hint)):
            return False
        check_types(value, path)
        return True
    if hint is float:
        return isinstance(value, float | int) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _type_name(hint: Any) -> str:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(_type_name(a) for a in typing.get_args(hint))
    if typing.get_origin(hint) is not None:
        return str(hint).replace("typing.", "")
    return "None" if hint is type(None) else getattr(hint, "__name__", str(hint))


def to_dict(config: Any, path: str = "") -> dict[str, Any]:
    """The config as JSON-ready dictionaries and lists, in declaration order.

    A callable is written as its reference, `package.module:name`. A dataclass in a field that is declared as
    `object` also has its class, under the key 'class'.

    Raises:
      ConfigError: for a callable that has no such name (`jopt.reference.name_of`), by its path.
    """
    return {
        field.name: _class_of(value, hint, join_path(path, field.name)) | part if isinstance(part, dict) else part
        for field, hint, value in fields(config)
        for part in [_plain(value, join_path(path, field.name))]
    }


def _plain(value: Any, path: str = "") -> Any:
    if _is_instance(value):
        return to_dict(value, path)
    if isinstance(value, tuple | list):
        return [_plain(v, f"{path}[{i}]") for i, v in enumerate(value)]
    return _named(value, path)


def _is_instance(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _named(value: Any, path: str) -> Any:
    if not callable(value):
        return value
    from jopt.reference import name_of

    return name_of(value, path)


def _class_of(value: Any, hint: Any, path: str) -> dict[str, str]:
    """The entry that tells which dataclass an open field holds."""
    return {"class": _named(type(value), path)} if hint is object and _is_instance(value) else {}


def from_dict(cls: type[C], values: Mapping[str, Any], path: str = "", *, trusted: bool = True) -> C:
    """Rebuilds a config of type `cls` from what `to_dict` gave.

    Args:
      cls: its class.
      values: what `to_dict` gave.
      path: where the config stands in its tree, for messages.
      trusted: False for a file that somebody else wrote: references in it may name only what is imported already,
        and jopt's own modules (`jopt.reference.resolve`), so that reading it runs no code.

    Raises:
      ConfigError: for an unknown field or a value of another type; for a reference that is not trusted.
    """
    hints = _hints(cls)
    for name in values:
        if name not in hints:
            raise ConfigError(
                join_path(path, name), values[name], f"absent: {cls.__name__} has only {', '.join(hints)}"
            )
    config = cls(**{k: _typed(v, hints[k], join_path(path, k), trusted) for k, v in values.items()})
    check_types(config, path)
    return config


def _typed(value: Any, hint: Any, path: str, trusted: bool) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is object and isinstance(value, Mapping) and "class" in value:
        from jopt.reference import resolve

        cls = resolve(value["class"], path, trusted=trusted)
        require(isinstance(cls, type) and dataclasses.is_dataclass(cls), path, value["class"], "a dataclass")
        return from_dict(
            typing.cast(type, cls), {k: v for k, v in value.items() if k != "class"}, path, trusted=trusted
        )
    if Callable in args and not trusted:
        from jopt.reference import is_reference, resolve

        # The reference stays a text; here it is only refused if it would import something later.
        if is_reference(value):
            resolve(value, path, trusted=False)
    if origin in (typing.Union, types.UnionType) and value is not None:
        return _typed(value, next(a for a in args if a is not type(None)), path, trusted)
    if isinstance(value, Mapping) and dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value, path, trusted=trusted)
    if isinstance(value, list) and origin in (tuple, list):
        variadic = origin is list or (len(args) == 2 and args[1] is Ellipsis)
        inner = [args[0]] * len(value) if variadic else list(args) + [Any] * (len(value) - len(args))
        return origin(
            _typed(v, a, f"{path}[{i}]", trusted) for i, (v, a) in enumerate(zip(value, inner, strict=False))
        )
    return value


def leaves(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields `(dotted path, value)` of every leaf; list elements are written `stages[0].epochs`."""
    for field, _, value in fields(config):
        yield from _leaves(value, join_path(path, field.name))


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if dataclasses.is_dataclass(value):
        yield from leaves(value, path)
    elif isinstance(value, list):
        for i, v in enumerate(value):
            yield from _leaves(v, f"{path}[{i}]")
    else:
        yield path, value


def canonical_json(config: Any) -> str:
    """The fields that differ from their defaults, as sorted JSON: adding a defaulted field changes nothing."""
    return json.dumps(_changed(config), sort_keys=True, separators=(",", ":"))


def _changed(config: Any) -> dict[str, Any]:
    out = {}
    for field, hint, value in fields(config):
        if field.default is not dataclasses.MISSING:
            default = field.default
        elif field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        else:
            default = dataclasses.MISSING
        if type(value) is type(default) and _plain(value) == _plain(default):
            continue
        part = _changed_value(value, field.name)
        out[field.name] = _class_of(value, hint, field.name) | part if isinstance(part, dict) else part
    return out


def _changed_value(value: Any, path: str) -> Any:
    if _is_instance(value):
        return _changed(value)
    if isinstance(value, tuple | list):
        return [_changed_value(v, path) for v in value]
    return _named(value, path)


def fingerprint(config: Any) -> str:
    """The SHA-256 (hexadecimal) of the config's class and its non-default fields."""
    return hashlib.sha256(f"{type(config).__name__}:{canonical_json(config)}".encode()).hexdigest()
