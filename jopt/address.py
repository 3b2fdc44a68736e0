"""Addresses: how axes, flags and controls name a part of a config.

A full address is stage, method, field, such as `compressed.prune.sparsity`, or a field of the experiment, such as
`model.features`. Any suffix that names one part only will do: `prune.sparsity`, or `sparsity`. A stage may also be
named by its place, `stages[0].prune.sparsity`: so paths are written where no stage names are known.
"""

import ast
import copy
import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

from jopt.config import ConfigError, class_name, fields, is_node, join_path, nodes_of, replaced
from jopt.method import Method

C = TypeVar("C")
_PART = re.compile(r"(\w+)\[(\d+)\]")


class Slot(NamedTuple):
    """A part of a config that can be set.

    Attributes:
      path: its canonical path: stages by their place, methods by their name.
      name: its full address, stages by their name.
      hint: its declared type; None for a method that a stage may have and has not.
    """

    path: str
    name: str
    hint: Any


def slots(config: Any) -> list[Slot]:
    """Every part of a config that can be set: fields, and the methods of stages.

    Example:
      >>> from jopt.train import Experiment
      >>> [slot.name for slot in slots(Experiment())][:4]
      ['name', 'seed', 'model', 'model.name']
    """
    return list(_slots(config, "", ""))


def _slots(config: Any, path: str, name: str) -> typing.Iterator[Slot]:
    for field, hint, value in fields(config):
        here, there = join_path(path, field.name), join_path(name, field.name)
        yield Slot(here, there, hint)
        if is_node(value):
            yield from _slots(value, here, there)
        elif (paths := nodes_of(field.name, path, value)) is not None:
            for inner, element in zip(paths, value, strict=True):
                label = class_name(element) or getattr(element, "name", "") or inner
                if class_name(element):
                    yield Slot(inner, join_path(name, label), type(element))
                yield from _slots(element, inner, join_path(name, label))


def resolve(config: Any, address: str, value: Any = None) -> Slot:
    """The part of a config that an address names.

    Args:
      config: the config.
      address: a full address, or a suffix of one that no other part has.
      value: what is to be set there, for messages.

    Raises:
      ConfigError: if it names no part, or several.

    Example:
      >>> from jopt import prune
      >>> from jopt.train import Experiment, Stage
      >>> config = Experiment(stages=[Stage("dense"), Stage("pruned", methods=(prune.Gradual(),))])
      >>> resolve(config, "sparsity").path, resolve(config, "dense.epochs").path, resolve(config, "epochs").path
      ('stages[1].prune.sparsity', 'stages[0].epochs', 'epochs')
    """
    known = slots(config)
    for exact in ("path", "name"):
        for slot in known:
            if getattr(slot, exact) == address:
                return slot
    found = [slot for slot in known if f".{slot.name}".endswith(f".{address}")]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(slot.name for slot in found)
        raise ConfigError(address, value, f"an address of one part, such as {names}")
    if (slot := _absent_method(config, known, address)) is not None:
        return slot
    raise ConfigError(address, value, f"absent: {_explanation(config, known, address)}")


def _absent_method(config: Any, known: list[Slot], address: str) -> Slot | None:
    """The place of a method that a stage has not: an address of a stage and a name that methods have."""
    owner, _, name = address.rpartition(".")
    method_names = {cls.name for cls in _subclasses(Method) if cls.name}
    if not owner or name not in method_names:
        return None
    methods = [slot for slot in known if owner in (slot.path.rpartition(".")[0], slot.name.rpartition(".")[0])]
    methods = [slot for slot in methods if slot.path.endswith(".methods")]
    return Slot(join_path(methods[0].path.rpartition(".")[0], name), address, None) if methods else None


def _subclasses(cls: type) -> typing.Iterator[Any]:
    for derived in cls.__subclasses__():
        yield derived
        yield from _subclasses(derived)


def _explanation(config: Any, known: list[Slot], address: str) -> str:
    """Why an address names nothing: the fields that its owner has, or the nearest addresses."""
    owner, _, _ = address.rpartition(".")
    inside = [slot for slot in known if owner in (slot.name.rpartition(".")[0], slot.path.rpartition(".")[0])]
    if inside:
        names = dict.fromkeys(slot.name.rpartition(".")[2] for slot in inside)
        return f"{owner or type(config).__name__} has only {', '.join(names)}"
    for slot in known:
        if owner and owner in (slot.name, slot.path):
            return f"{owner} is {get(config, owner)!r}, which has no fields; give it a value first"
    if _absent_method(config, known, owner) is not None:
        return f"there is no method {owner!r}; give the stage one first"
    near = difflib.get_close_matches(address, [slot.name for slot in known], n=3, cutoff=0.5)
    return f"no part of the config has this address; near are {', '.join(near) or 'none'}"


def canonical(config: Any, address: str) -> str:
    """The canonical path of an address."""
    return resolve(config, address).path


def get(config: Any, address: str) -> Any:
    """The value of the part that an address names; None for a method that the stage has not."""
    value: Any = config
    for step in steps(resolve(config, address).path):
        value = _enter(value, step)
    return value


def steps(path: str) -> list[str | int]:
    """The names and places along a canonical path.

    Example:
      >>> steps("stages[0].prune.sparsity")
      ['stages', 0, 'prune', 'sparsity']
    """
    parts = re.findall(r"[A-Za-z_]\w*|\[\d+\]", path)
    return [int(part[1:-1]) if part.startswith("[") else part for part in parts]


def _enter(value: Any, step: str | int) -> Any:
    if isinstance(step, int):
        return value[step]
    if hasattr(value, step):
        return getattr(value, step)
    return next((method for method in getattr(value, "methods", ()) if method.name == step), None)


def with_values(config: C, values: Mapping[str, Any]) -> C:
    """A copy of a config with values set at addresses.

    A whole number is taken as a float where the field is declared one, so that 0 and 0.0 are the same experiment. A
    part that holds others is set before these, whatever the order. A method takes the place of the one of its name,
    or that of its rank; None removes it.

    Raises:
      ConfigError: for an address that names no part, or a method of another name.

    Example:
      >>> from jopt.train import Experiment
      >>> with_values(Experiment(), {"optimizer.learning_rate": 1}).optimizer.learning_rate
      1.0
    """
    # Wholes first: what is set may have parts that are set too, and their addresses are known only then.
    left = dict(values)
    while left:
        paths = {address: _depth(config, address) for address in left}
        address = min(left, key=lambda a: paths[a])
        # A copy: the configs of two trials share nothing that can be changed.
        value = copy.deepcopy(left.pop(address))
        slot = resolve(config, address, value)
        config = _set(config, steps(slot.path), value, address)
    return as_declared(config, type(config))


def _depth(config: Any, address: str) -> int:
    try:
        return len(steps(resolve(config, address).path))
    except ConfigError:
        return 1000


def _set(owner: Any, path: list[str | int], value: Any, address: str) -> Any:
    step, rest = path[0], path[1:]
    if isinstance(step, int):
        elements = list(owner)
        elements[step] = _set(elements[step], rest, value, address) if rest else value
        return type(owner)(elements)
    if step in {field.name for field in dataclasses.fields(owner)}:
        new = value if not rest else _set(getattr(owner, step), rest, value, address)
        return replaced(owner, {step: new})
    return replaced(owner, {"methods": _set_method(owner.methods, step, rest, value, address)})


def _set_method(methods: tuple[Method, ...], name: str, rest: list[str | int], value: Any, address: str) -> Any:
    if rest:
        return tuple(_set(m, rest, value, address) if m.name == name else m for m in methods)
    if value is not None and (not isinstance(value, Method) or value.name != name):
        raise ConfigError(address, value, f"a method of the name {name!r}, or None")
    if any(method.name == name for method in methods):
        new = [value if method.name == name else method for method in methods]
    else:
        place = next((i for i, m in enumerate(methods) if value is not None and m.rank > value.rank), len(methods))
        new = [*methods[:place], value, *methods[place:]]
    return tuple(method for method in new if method is not None)


def as_declared(value: Any, hint: Any) -> Any:
    """`value` with floats for whole numbers, and tuples for lists, where its type declares them.

    What is of another type stays, for the config's own checks to name.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if is_node(value):
        return replaced(value, {f.name: as_declared(v, own) for f, own, v in fields(value)})
    if origin in (typing.Union, types.UnionType):
        kinds = [a for a in args if a is not type(None)]
        if type(value) is int and float in kinds and int not in kinds:
            return float(value)
        tuples = [a for a in kinds if typing.get_origin(a) is tuple]
        return as_declared(value, tuples[0]) if tuples and isinstance(value, tuple | list) else value
    if hint is float and type(value) is int:
        return float(value)
    if isinstance(value, tuple | list) and origin in (tuple, list):
        inner = [a for a in args if a is not Ellipsis]
        each = inner if Ellipsis not in args and len(inner) == len(value) else [*inner[:1]] * len(value)
        return origin(as_declared(v, own) for v, own in zip(value, each or [None] * len(value), strict=True))
    return value


def parse(text: str) -> Any:
    """The value that text on a command line stands for: a Python literal, or else the text itself.

    Example:
      >>> parse("3e-3"), parse("(300, 100)"), parse("adam"), parse("None"), parse("true")
      (0.003, (300, 100), 'adam', None, True)
    """
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
