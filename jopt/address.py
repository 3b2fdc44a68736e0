"""Addresses: how axes, flags and controls name a part of a config.

A full address is stage, method, field, such as `compressed.prune.sparsity`, or a field of the experiment, such as
`model.features`. A suffix is enough if only one part has it: `prune.sparsity`, or `sparsity`. A stage can also be
named by its index, `stages[0].prune.sparsity`; canonical paths use this form.
"""

import ast
import copy
import dataclasses
import difflib
import re
import reprlib
import sys
import types
import typing
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

from jopt.config import ConfigError, class_name, fields, is_node, join_path, nodes_of, replaced
from jopt.method import Method

C = TypeVar("C")
_PART = re.compile(r"(\w+)\[(\d+)\]")


class Slot(NamedTuple):
    """A part of a config that can be set.

    Attributes:
      path: its canonical path: stages by index, methods by name.
      name: its full address: stages by name.
      hint: its declared type; None for a method that the stage could have but does not have.
    """

    path: str
    name: str
    hint: Any


def slots(config: object) -> list[Slot]:
    """Every part of a config that can be set: fields, and the methods of stages.

    Example:
      >>> from jopt.train import Experiment
      >>> [slot.name for slot in slots(Experiment())][:4]
      ['name', 'seed', 'model', 'model.name']
    """
    return list(_slots(config, "", ""))


def _slots(config: object, path: str, name: str) -> typing.Iterator[Slot]:
    for field, hint, value in fields(config):
        field_path, field_name = join_path(path, field.name), join_path(name, field.name)
        yield Slot(field_path, field_name, hint)
        if is_node(value):
            yield from _slots(value, field_path, field_name)
        elif (paths := nodes_of(field.name, path, value)) is not None:
            for inner, element in zip(paths, value, strict=True):
                # Methods have a class name, stages a name of their own or none; the index is always unique.
                label = class_name(element) or getattr(element, "name", "") or inner
                if class_name(element):
                    yield Slot(inner, join_path(name, label), type(element))
                yield from _slots(element, inner, join_path(name, label))
        elif isinstance(value, Mapping):
            yield from (Slot(join_path(field_path, key), join_path(field_name, key), None) for key in value)


def resolve(config: object, address: str, value: object = None) -> Slot:
    """The part of a config that an address names.

    Args:
      config: the config.
      address: a full address, or a suffix that no other full address has.
      value: the value to set there, for error messages.

    Raises:
      ConfigError: if it names no part, or several.

    Example:
      >>> from jopt import prune
      >>> from jopt.train import Experiment, Stage
      >>> config = Experiment(stages=[Stage("dense"), Stage("pruned", methods=(prune.Gradual(),))])
      >>> resolve(config, "sparsity").path, resolve(config, "dense.epochs").path, resolve(config, "epochs").path
      ('stages[1].prune.sparsity', 'stages[0].epochs', 'epochs')
    """
    all_slots = slots(config)
    # Exact matches before suffixes: `epochs` is a field of the experiment although every stage has one too.
    for exact in ("path", "name"):
        for slot in all_slots:
            if getattr(slot, exact) == address:
                return slot
    matching = [slot for slot in all_slots if f".{slot.name}".endswith(f".{address}")]
    if len(matching) == 1:
        return matching[0]
    if matching:
        names = ", ".join(slot.name for slot in matching)
        raise ConfigError(address, value, f"an address of one part, such as {names}")
    slot = _absent_method(config, all_slots, address) or _absent_option(config, all_slots, address)
    if slot is not None:
        return slot
    raise ConfigError(address, value, f"absent: {_explanation(config, all_slots, address)}")


def _absent_method(config: object, all_slots: list[Slot], address: str) -> Slot | None:
    """The slot of a method that a stage does not have yet: the address ends in the name of a method class."""
    owner, _, name = address.rpartition(".")
    # By subclass and not by a list, so that a method of another package can be addressed once it is imported.
    method_names = {cls.name for cls in _subclasses(Method) if cls.name}
    if not owner or name not in method_names:
        return None
    methods = [slot for slot in all_slots if owner in (slot.path.rpartition(".")[0], slot.name.rpartition(".")[0])]
    methods = [slot for slot in methods if slot.path.endswith(".methods")]
    return Slot(join_path(methods[0].path.rpartition(".")[0], name), address, None) if methods else None


def _absent_option(config: object, all_slots: list[Slot], address: str) -> Slot | None:
    """The slot of an option that a mapping does not have yet: what it is for accepts or refuses it."""
    owner, _, name = address.rpartition(".")
    for slot in all_slots:
        named = owner in (slot.path, slot.name) and name.isidentifier()
        if named and isinstance(_get(config, slot.path), Mapping):
            return Slot(join_path(slot.path, name), join_path(slot.name, name), None)
    return None


def _subclasses(cls: type) -> typing.Iterator[Any]:
    for derived in cls.__subclasses__():
        yield derived
        yield from _subclasses(derived)


def _explanation(config: object, all_slots: list[Slot], address: str) -> str:
    """Why an address names no part: the fields of its owner, or the nearest addresses."""
    owner, _, _ = address.rpartition(".")
    inside = [slot for slot in all_slots if owner in (slot.name.rpartition(".")[0], slot.path.rpartition(".")[0])]
    # A short address means a part at any depth, so a misspelt one is near the last part of a full address.
    ends: dict[str, str] = {}
    for slot in sorted(all_slots, key=lambda slot: slot.name.count(".")):
        ends.setdefault(slot.name.rpartition(".")[2], slot.name)
    if not owner and (similar := difflib.get_close_matches(address, list(ends), n=3, cutoff=0.6)):
        return f"no part of the config has this address; near are {', '.join(ends[end] for end in similar)}"
    if inside:
        names = dict.fromkeys(slot.name.rpartition(".")[2] for slot in inside)
        return f"{owner or type(config).__name__} has only {', '.join(names)}"
    for slot in all_slots:
        if owner and owner in (slot.name, slot.path):
            shown = reprlib.repr(get(config, owner))
            return f"{owner} is {shown}, which has no fields of its own to set"
    if _absent_method(config, all_slots, owner) is not None:
        return f"there is no method {owner!r}; give the stage one first"
    # A loose cutoff: a suggestion that is far off costs less than none.
    near = difflib.get_close_matches(address, [slot.name for slot in all_slots], n=3, cutoff=0.5)
    return f"no part of the config has this address; near are {', '.join(near) or 'none'}"


def canonical(config: object, address: str) -> str:
    """The canonical path of an address."""
    return resolve(config, address).path


def get(config: object, address: str) -> Any:
    """The value of the part that an address names; None for a method that the stage does not have."""
    return _get(config, resolve(config, address).path)


def _get(config: object, path: str) -> Any:
    value: Any = config
    for step in steps(path):
        value = enter(value, step)
    return value


def steps(path: str) -> list[str | int]:
    """The names and indices along a canonical path.

    Example:
      >>> steps("stages[0].prune.sparsity")
      ['stages', 0, 'prune', 'sparsity']
    """
    parts = re.findall(r"[A-Za-z_]\w*|\[\d+\]", path)
    return [int(part[1:-1]) if part.startswith("[") else part for part in parts]


def enter(value: Any, step: str | int) -> Any:
    """The part of a value that one step of a canonical path leads to; None for a method that a stage lacks."""
    if isinstance(step, int):
        return value[step]
    if isinstance(value, Mapping):
        return value.get(step)
    if hasattr(value, step):
        return getattr(value, step)
    return next((method for method in getattr(value, "methods", ()) if method.name == step), None)


def with_values(config: C, values: Mapping[str, object]) -> C:
    """A copy of a config with values set at addresses.

    An integer becomes a float where the field is declared float, so that 0 and 0.0 are the same experiment. A part
    is set before the parts in it, whatever the order of `values`. A method replaces the method of the same name, or
    is inserted by its rank; None removes it.

    Raises:
      ConfigError: for an address that names no part, or a method of another name.

    Example:
      >>> from jopt.train import Experiment
      >>> with_values(Experiment(), {"optimizer.learning_rate": 1}).optimizer.learning_rate
      1.0
    """
    # Outer parts first: the address of `prune.sparsity` exists only once the method `prune` has been set.
    pending = dict(values)
    while pending:
        paths = {address: _depth(config, address) for address in pending}
        address = min(pending, key=lambda a: paths[a])
        # A copy, so that changing the config of one trial cannot change that of another.
        value = copy.deepcopy(pending.pop(address))
        slot = resolve(config, address, value)
        config = _set(config, steps(slot.path), value, address)
    # At the end and for the whole config: a value may be a dataclass with integers of its own.
    return as_declared(config, type(config))


def _depth(config: object, address: str) -> int:
    try:
        return len(steps(resolve(config, address).path))
    # Not there yet: it is tried again after a part that may contain it has been set.
    except ConfigError:
        return 1000


def with_value_at(config: C, path: str, value: object) -> C:
    """A copy of a config with a value at a canonical path; nodes off the path are shared.

    Example:
      >>> from jopt.train import Experiment
      >>> with_value_at(Experiment(), "optimizer.learning_rate", 0.5).optimizer.learning_rate
      0.5
    """
    return _set(config, steps(path), value, path)


def _set(owner: Any, path: list[str | int], value: Any, address: str) -> Any:
    step, tail = path[0], path[1:]
    if isinstance(step, int):
        elements = list(owner)
        elements[step] = _set(elements[step], tail, value, address) if tail else value
        return type(owner)(elements)
    if isinstance(owner, Mapping):
        return {**owner, step: tuple(value) if isinstance(value, list) else value}
    if step in {field.name for field in dataclasses.fields(owner)}:
        new = value if not tail else _set(getattr(owner, step), tail, value, address)
        return replaced(owner, {step: new})
    return replaced(owner, {"methods": _set_method(owner.methods, step, tail, value, address)})


def _set_method(methods: tuple[Method, ...], name: str, tail: list[str | int], value: object, address: str) -> Any:
    if tail:
        return tuple(_set(m, tail, value, address) if m.name == name else m for m in methods)
    if value is not None and (not isinstance(value, Method) or value.name != name):
        raise ConfigError(address, value, f"a method of the name {name!r}, or None")
    if any(method.name == name for method in methods):
        new = [value if method.name == name else method for method in methods]
    else:
        position = next(
            (i for i, m in enumerate(methods) if value is not None and m.rank > value.rank), len(methods)
        )
        # Sorted by rank, because the methods of a stage are applied in this order.
        new = [*methods[:position], value, *methods[position:]]
    return tuple(method for method in new if method is not None)


def as_declared(value: object, hint: object) -> Any:
    """`value` with floats for integers, and tuples for lists, where its type declares them.

    A value of another type stays as it is: the checks of the config report it with the field's name.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if is_node(value):
        return replaced(value, {f.name: as_declared(v, field_hint) for f, field_hint, v in fields(value)})
    if origin in (typing.Union, types.UnionType):
        kinds = [a for a in args if a is not type(None)]
        # Not `isinstance`: True is an int, and must not become 1.0 silently.
        if type(value) is int and float in kinds and int not in kinds:
            return as_declared(value, float)
        tuples = [a for a in kinds if typing.get_origin(a) is tuple]
        return as_declared(value, tuples[0]) if tuples and isinstance(value, tuple | list) else value
    if hint is float and type(value) is int and abs(value) <= sys.float_info.max:
        return float(value)
    if isinstance(value, tuple | list) and origin in (tuple, list):
        inner = [a for a in args if a is not Ellipsis]
        each = inner if Ellipsis not in args and len(inner) == len(value) else [*inner[:1]] * len(value)
        element_hints = each or [None] * len(value)
        return origin(as_declared(v, element_hint) for v, element_hint in zip(value, element_hints, strict=True))
    return value


def parse(text: str) -> Any:
    """The value of a text on a command line: a Python literal, or else the text itself.

    Example:
      >>> parse("3e-3"), parse("(300, 100)"), parse("adam"), parse("None"), parse("true")
      (0.003, (300, 100), 'adam', None, True)
    """
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        # Python warns of a text such as '0or', which is a name here like any other.
        with warnings.catch_warnings(action="ignore"):
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
