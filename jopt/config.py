"""Typed configuration trees: errors, type checks, JSON and identity.

A config is a tree of dataclasses, whose leaves are `bool`, `int`, `float`, `str`, `None`, functions and classes
that a reference can name (`jopt.reference`) and (nested) tuples of these; a `list` or a `tuple` holds
dataclasses, and a mapping (`Options`) leaves by name, each with an address of its own. Where a field is declared
a base class, such as `jopt.method.Method`, its value may be of any class
that derives from it, also from outside jopt: JSON names it under `class`. Each package owns the dataclass
beside the function that reads it; this file owns what is the same for all of them.
"""

import collections.abc
import copy
import dataclasses
import functools
import hashlib
import json
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, ClassVar, TypeVar

C = TypeVar("C")

Option: typing.TypeAlias = bool | int | float | str | tuple | None
Options: typing.TypeAlias = Mapping[str, Option]
"""Arguments of a function or class that a config names. Numbers in them are a part of a program's structure."""


class ConfigError(ValueError):
    """A config field has a value that is not accepted.

    Args:
      field: dotted path of the field, such as `optimizer.learning_rate`.
      value: what came in.
      accepted: what would be accepted, as the end of a sentence.

    Example:
      >>> print(ConfigError("optimizer.momentum", 1.5, "a number in [0, 1)"))
      optimizer.momentum must be a number in [0, 1), got 1.5
    """

    def __init__(self, field: str, value: object, accepted: str):
        super().__init__(f"{field} must be {accepted}, got {_shown(value)}")
        self.field, self.value, self.accepted = field, value, accepted

    def __reduce__(self):
        return type(self), (self.field, self.value, self.accepted)


def _shown(value: object) -> str:
    try:
        return repr(value)
    # Python writes no integer of more than some thousand digits.
    except ValueError:
        return "an integer of too many digits" if isinstance(value, int) else "integers of too many digits"


def is_text(value: str) -> bool:
    r"""Whether UTF-8, and so a file, can hold the text: it has no lone surrogate, as names that are not UTF-8 have.

    Example:
      >>> is_text("µ"), is_text("\udcff")
      (True, False)
    """
    return not any("\ud800" <= c <= "\udfff" for c in value)


def require(condition: bool, field: str, value: object, accepted: str) -> None:
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
    for field, hint in _fields(type(config)):
        yield field, hint, getattr(config, field.name)


@functools.cache
def _fields(cls: type) -> tuple[tuple[dataclasses.Field, Any], ...]:
    hints = _hints(cls)
    return tuple((field, hints[field.name]) for field in dataclasses.fields(cls))


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    """The resolved types of a dataclass's fields."""
    # Cached, as resolving annotations takes longer than everything else in the check of a grid.
    return typing.get_type_hints(cls)


def join_path(prefix: str, name: str) -> str:
    """Joins two parts of a dotted path.

    Example:
      >>> join_path("", "seed"), join_path("optimizer", "name")
      ('seed', 'optimizer.name')
    """
    return f"{prefix}.{name}" if prefix else name


def check_types(config: object, path: str = "") -> None:
    """Raises `ConfigError` where a value's type is not what its dataclass declares.

    An `int` is accepted where a `float` is declared; a `bool` never counts as a number. Traced and concrete
    JAX arrays are not accepted: configs are checked before they meet a trace.
    """
    for field, hint, value in fields(config):
        name = join_path(path, field.name)
        if not matches(value, hint, name):
            raise ConfigError(name, value, f"of type {type_name(hint)}")


def matches(value: Any, hint: Any, path: str = "") -> bool:
    """Whether a value is of a declared type.

    Raises:
      ConfigError: where a field inside it is not.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    # Names go into packed files, events and pages, which are UTF-8.
    if isinstance(value, str):
        require(is_text(value), path, value, "text that UTF-8 can encode")
    if hint is Any:
        return True
    if origin is collections.abc.Callable:
        return callable(value)
    if origin is typing.Literal:
        return value in args
    if origin in (typing.Union, types.UnionType):
        return any(matches(value, arg, path) for arg in args)
    if hint is type(None):
        return value is None
    if origin in (tuple, list):
        if not isinstance(value, origin):
            return False
        paths = _element_paths(path, value)
        if origin is list or (len(args) == 2 and args[1] is Ellipsis):
            return all(matches(v, args[0], inner) for v, inner in zip(value, paths, strict=True))
        return len(value) == len(args) and all(map(matches, value, args, paths))
    if origin is collections.abc.Mapping:
        if not isinstance(value, Mapping):
            return False
        for key, inner in value.items():
            # A key is a part of addresses, such as `model.options.width`.
            fine = isinstance(key, str) and key.isidentifier()
            require(fine, path, key, "options whose names are identifiers")
            if not matches(inner, args[1], join_path(path, key)):
                raise ConfigError(join_path(path, key), inner, f"of type {type_name(args[1])}")
        return True
    # Checked field by field here, so that an error names the inner field and not the whole value.
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, typing.cast(type, hint)):
            return False
        check_types(value, path)
        return True
    # `True` is an int to Python, but a flag in a numeric field is a mistake.
    if hint is float:
        # An integer may be larger than every float.
        if isinstance(value, float):
            return True
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def type_name(hint: object) -> str:
    """A declared type, as messages name it."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(type_name(a) for a in typing.get_args(hint))
    if typing.get_origin(hint) is collections.abc.Callable:
        return "a function"
    if typing.get_origin(hint) is not None:
        return str(hint).replace("typing.", "")
    return "None" if hint is type(None) else getattr(hint, "__name__", str(hint))


CLASS = "class"
"""The JSON key that names a value's class, where its field is declared a class that it derives from."""


def to_dict(config: object, path: str = "") -> dict[str, Any]:
    """The config as JSON-ready dictionaries and lists, in declaration order.

    Raises:
      ConfigError: for a function that no reference can name, by its path.
    """
    return {
        field.name: encode(value, hint, path=join_path(path, field.name)) for field, hint, value in fields(config)
    }


def encode(
    value: object, hint: object = None, fields_of: Callable[[Any, str], dict[str, Any]] = to_dict, path: str = ""
) -> Any:
    """A value, JSON-ready.

    Args:
      value: of a field.
      hint: the field's declared type; a dataclass of another class is written with its own.
      fields_of: gives the fields of a dataclass, given its path.
      path: where the value stands, for messages.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {**_class_tag(value, hint, path), **fields_of(value, path)}
    if isinstance(value, tuple | list):
        elements = zip(value, _element_hints(hint, len(value)), _element_paths(path, value), strict=True)
        return [encode(v, h, fields_of, inner) for v, h, inner in elements]
    if isinstance(value, Mapping):
        return {key: encode(inner, None, fields_of, join_path(path, key)) for key, inner in value.items()}
    if callable(value):
        from jopt.reference import name_of

        return name_of(value, path)
    return value


def _class_tag(value: object, hint: object, path: str) -> dict[str, str]:
    if hint is None or type(value) in (hint, *typing.get_args(hint)):
        return {}
    from jopt.reference import name_of

    return {CLASS: name_of(type(value), path)}


def _element_hints(hint: object, count: int) -> list[Any]:
    """The declared type of each of the elements of a tuple or a list; None where none is declared."""
    args = [a for a in typing.get_args(hint) if a is not type(None)]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return _element_hints(next((a for a in args if typing.get_origin(a) in (tuple, list)), None), count)
    if typing.get_origin(hint) is list or (len(args) == 1 and typing.get_origin(hint) is tuple):
        return [args[0]] * count
    args = [a for a in args if a is not Ellipsis]
    return [*args, *[args[0] if len(args) == 1 else None] * count][:count] if args else [None] * count


def from_dict(
    cls: type[C], values: Mapping[str, object], path: str = "", *, trusted: bool | Collection[str] = False
) -> C:
    """Rebuilds a config of type `cls` from what `to_dict` gave.

    Args:
      cls: the class.
      values: JSON objects.
      path: where it stands, for messages.
      trusted: whether modules that the values name may be imported (`jopt.trust.Trusted`).

    Raises:
      ConfigError: for an unknown field, a value of another type, or a class that may not be imported.
    """
    require(isinstance(values, Mapping), path or cls.__name__, values, "an object with fields")
    hints = _hints(cls)
    for name in values:
        if name not in hints or typing.get_origin(hints[name]) is ClassVar:
            raise ConfigError(
                join_path(path, name), values[name], f"absent: {cls.__name__} has only {', '.join(_names(cls))}"
            )
    config = cls(**{k: decode(v, hints[k], join_path(path, k), trusted) for k, v in values.items()})
    check_types(config, path)
    return config


def _names(cls: type) -> list[str]:
    return [field.name for field in dataclasses.fields(cls)]


def decode(value: object, hint: object, path: str, trusted: bool | Collection[str] = False) -> Any:
    """The value of a field of type `hint` from what `encode` gave; `path` and `trusted` as in `from_dict`."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is collections.abc.Mapping and isinstance(value, Mapping):
        from jopt.reference import check_options

        options = {key: _as_tuples(inner) for key, inner in value.items()}
        check_options(options, path, trusted=trusted)
        return options
    if origin in (typing.Union, types.UnionType) and isinstance(value, Mapping | list):
        kinds = [a for a in args if (typing.get_origin(a) in (tuple, list)) == isinstance(value, list)]
        kinds = [a for a in kinds if isinstance(value, list) or dataclasses.is_dataclass(a)]
        # An object without a class is of the first kind; a class may derive from any of them.
        if isinstance(value, Mapping) and CLASS in value and kinds:
            return _of_class(value, typing.cast(tuple[type, ...], tuple(kinds)), path, trusted)
        return decode(value, kinds[0], path, trusted) if kinds else value
    if isinstance(value, str) and (_has_callable(hint) or _may_be_reference(hint)):
        from jopt.reference import is_reference, resolve

        if is_reference(value):
            target = resolve(value, path, trusted=trusted)
            # Where a string is accepted it stays one, and is looked up where it is used.
            return value if str in args else target
    if isinstance(value, Mapping) and (dataclasses.is_dataclass(hint) or (hint is object and CLASS in value)):
        base, values = typing.cast(type, hint), typing.cast(Mapping[str, Any], value)
        # A base class may know the objects that files held before it had derived classes.
        if CLASS not in values and hasattr(base, "from_older"):
            values = typing.cast(Any, base).from_older(values)
        if CLASS not in values:
            return from_dict(base, values, path, trusted=trusted)
        return _of_class(values, (base,), path, trusted)
    if isinstance(value, list) and origin in (tuple, list):
        hints = _element_hints(hint, len(value))
        pairs = enumerate(zip(value, hints, strict=True))
        return origin(decode(v, a, f"{path}[{i}]", trusted) for i, (v, a) in pairs)
    return value


def _of_class(value: Mapping[str, Any], bases: tuple[type, ...], path: str, trusted: bool | Collection[str]) -> Any:
    """An instance of the class that a JSON object names."""
    from jopt.reference import resolve
    from jopt.trust import CONFIGS

    reference = value[CLASS]
    # A config class of jopt's only holds fields, and nothing but a class of these bases is accepted below.
    ours = isinstance(reference, str) and ".".join(reference.partition(":")[0].split(".")[:2]) in CONFIGS
    cls = resolve(reference, join_path(path, CLASS), trusted=True if ours else trusted)
    accepted = f"a dataclass that derives from {' or '.join(base.__name__ for base in bases)}"
    # A dataclass, because constructing any other class runs code of its own.
    fine = isinstance(cls, type) and dataclasses.is_dataclass(cls) and issubclass(cls, bases)
    require(fine, join_path(path, CLASS), value[CLASS], accepted)
    field_values = {k: v for k, v in value.items() if k != CLASS}
    return from_dict(typing.cast(type, cls), field_values, path, trusted=trusted)


def _as_tuples(value: object) -> object:
    """JSON has no tuples."""
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def _may_be_reference(hint: object) -> bool:
    """Whether a string in a field of this type may name a function or a class of any module."""
    args = typing.get_args(hint)
    return str in args and (_has_callable(hint) or any(map(dataclasses.is_dataclass, args)))


def _has_callable(hint: object) -> bool:
    """Whether a type accepts functions."""
    return any(collections.abc.Callable in (a, typing.get_origin(a)) for a in (hint, *typing.get_args(hint)))


def is_node(value: object) -> bool:
    """Whether a value is a dataclass instance."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def nodes_of(name: str, path: str, value: object) -> list[str] | None:
    """The paths of the dataclasses in a list or a tuple; None for any other value.

    An element whose class has a name (a method: `prune`) stands under its owner's path by that name, so that
    its path does not depend on its place; others by their index.

    Args:
      name: of the field that holds it.
      path: of the field's owner.
      value: the field's value.

    Example:
      >>> nodes_of("rules", "prune", (("Dense_0/.*", 0.5),)) is None
      True
    """
    if not isinstance(value, tuple | list) or not value or not all(map(is_node, value)):
        return None
    names = [class_name(v) for v in value]
    return [join_path(path, n) if n else f"{join_path(path, name)}[{i}]" for i, n in enumerate(names)]


def _element_paths(path: str, value: Any) -> list[str]:
    """The path of each element of a tuple or a list at `path`: those of `nodes_of`, or by index."""
    owner, _, name = path.rpartition(".")
    return nodes_of(name, owner, value) or [f"{path}[{i}]" for i in range(len(value))]


def class_name(value: object) -> str:
    """The name that a class gives all of its instances, as `jopt.method.Method` does; "" without one."""
    name = getattr(type(value), "name", "")
    return name if isinstance(name, str) and "name" not in _names(type(value)) else ""


def leaves(config: object, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields `(dotted path, value)` of every leaf; list elements are written `stages[0].epochs`."""
    for field, _, value in fields(config):
        if is_node(value):
            yield from leaves(value, join_path(path, field.name))
        elif (paths := nodes_of(field.name, path, value)) is not None:
            for inner, v in zip(paths, value, strict=True):
                yield from leaves(v, inner)
        elif isinstance(value, Mapping):
            yield from ((f"{join_path(path, field.name)}.{key}", inner) for key, inner in value.items())
        else:
            yield join_path(path, field.name), value


def map_leaves(config: C, change: Callable[[str, Any, dataclasses.Field, Any], Any], path: str = "") -> C:
    """A copy of `config` with `change(path, value, field, declared type)` in every leaf."""
    values = {}
    for field, hint, value in fields(config):
        if is_node(value):
            values[field.name] = map_leaves(value, change, join_path(path, field.name))
        elif (paths := nodes_of(field.name, path, value)) is not None:
            elements = [map_leaves(v, change, inner) for inner, v in zip(paths, value, strict=True)]
            values[field.name] = type(value)(elements)
        elif isinstance(value, Mapping):
            field_path = join_path(path, field.name)
            values[field.name] = {
                key: change(f"{field_path}.{key}", inner, field, None) for key, inner in value.items()
            }
        else:
            values[field.name] = change(join_path(path, field.name), value, field, hint)
    return replaced(config, values)


def replaced(config: C, values: Mapping[str, object]) -> C:
    """A copy of a dataclass, frozen or not, with these fields set."""
    # Without `__init__`: a frozen dataclass with checks in `__post_init__` could not hold tracers.
    new = copy.copy(config)
    for name, value in values.items():
        object.__setattr__(new, name, value)
    return new


def canonical_json(config: object) -> str:
    """The fields that differ from their defaults, as sorted JSON: adding a defaulted field changes nothing."""
    return json.dumps(changed(config), sort_keys=True, separators=(",", ":"))


def tagged_json(config: object) -> str:
    """`canonical_json` with the class, which distinguishes configs of classes that derive from one base.

    Example:
      >>> from jopt import data
      >>> tagged_json(data.Xor())
      '{"class":"jopt.data.built_in:Xor"}'
    """
    cls = type(config)
    tagged = {CLASS: f"{cls.__module__}:{cls.__qualname__}", **changed(config)}
    return json.dumps(tagged, sort_keys=True, separators=(",", ":"))


def changed(config: object, path: str = "") -> dict[str, Any]:
    """The fields that differ from their defaults, JSON-ready."""
    values = {}
    for field, hint, value in fields(config):
        default = default_of(field)
        # Compared as JSON, by type first: 0 and 0.0 and False are equal in Python, but not as configs.
        if type(value) is type(default) and encode(value, hint, path=field.name) == encode(
            default, hint, path=field.name
        ):
            continue
        values[field.name] = encode(value, hint, changed, join_path(path, field.name))
    return values


def default_of(field: dataclasses.Field) -> Any:
    """A field's default, newly made; `dataclasses.MISSING` without one."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def changed_leaves(config: object, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields `(dotted path, value)` of the leaves that differ from their defaults, JSON-ready.

    An element of a list or a tuple comes with its class, under its own path, before its fields.
    """
    for name, value in changed(config).items():
        field_value, field_path = getattr(config, name), join_path(path, name)
        if is_node(field_value):
            yield from changed_leaves(field_value, field_path)
        elif (paths := nodes_of(name, path, field_value)) is not None:
            for inner, element in zip(paths, field_value, strict=True):
                if class_name(element):
                    yield inner, type(element).__name__
                yield from changed_leaves(element, inner)
        elif isinstance(field_value, Mapping):
            yield from ((f"{field_path}.{key}", inner) for key, inner in value.items())
        else:
            yield field_path, value


def fingerprint(config: object) -> str:
    """The SHA-256 (hexadecimal) of the config's class and its non-default fields."""
    return hashlib.sha256(identity_text(config).encode()).hexdigest()


def identity_text(config: object) -> str:
    """What `fingerprint` hashes."""
    return f"{type(config).__name__}:{canonical_json(config)}"
