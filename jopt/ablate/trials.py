"""Trials: from a grid to the experiments that it stands for, each with its name, and grouped by program."""

import copy
import dataclasses
import re
import typing
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jopt import hyper
from jopt.ablate.config import Ablation
from jopt.ablate.results import Axis
from jopt.ablate.space import Point
from jopt.config import ConfigError, check_types, fields, fingerprint, from_dict, join_path, to_dict
from jopt.train.config import Experiment

_STEP = re.compile(r"([A-Za-z_]\w*)((?:\[\d+\])*)")


class Trial(NamedTuple):
    """One run of a grid.

    Attributes:
      id: the first 12 hexadecimal digits of the fingerprint of its experiment: what it is, whatever grid it is in.
      point: axis name to the value that stands for it in tables.
      seed: its seed.
      overrides: dotted path to what the grid sets in the ablation's experiment, the seed included.
      config: the whole experiment.
    """

    id: str
    point: dict[str, Any]
    seed: int
    overrides: dict[str, Any]
    config: Experiment


class Group(NamedTuple):
    """Trials that are one program: they differ in traced numbers alone.

    Attributes:
      index: its place, from 0.
      trials: in the grid's order.
    """

    index: int
    trials: list[Trial]


def trials(ablation: Ablation) -> list[Trial]:
    """Every point with every seed, points in the grid's order, seeds changing fastest.

    Raises:
      ConfigError: for a path that names no field, a value of another type, or two points that are the same.
    """
    found: list[Trial] = []
    known: dict[str, Trial] = {}
    for point in ablation.space.points:
        base, overrides = _of_point(ablation.experiment, point)
        for seed in ablation.seeds:
            config = copy.deepcopy(base)
            config.seed = seed
            trial = Trial(fingerprint(config)[:12], dict(point.labels), seed, {**overrides, "seed": seed}, config)
            if (other := known.get(trial.id)) is not None:
                accepted = f"unlike every other; {named(other.point)} with seed {other.seed} is the same experiment"
                raise ConfigError(f"the point {named(trial.point)} with seed {seed}", overrides, accepted)
            known[trial.id] = trial
            found.append(trial)
    return found


def _of_point(base: Experiment, point: Point) -> tuple[Experiment, dict[str, Any]]:
    """The experiment of a point, and its fields as the experiment holds them."""
    config = with_fields(base, point.fields)
    try:
        check_types(config)
    except ConfigError as error:
        field = f"{error.field} (at the point {named(point.labels)})"
        raise ConfigError(field, error.value, error.accepted) from error
    return config, {path: value_at(config, path) for path in point.fields}


def named(labels: Mapping[str, Any]) -> str:
    """A point in words.

    Example:
      >>> named({"sparsity": 0.9, "bits": 4})
      'sparsity = 0.9, bits = 4'
    """
    return ", ".join(f"{name} = {value}" for name, value in labels.items())


def with_fields(config: Experiment, values: Mapping[str, Any]) -> Experiment:
    """A copy of `config` with the fields at these dotted paths set.

    A whole number is taken as a float where the field is declared one, so that 0 and 0.0 are the same experiment. A
    field that holds others is set before these, whatever the order.

    Raises:
      ConfigError: for a path that names no field.

    Example:
      >>> with_fields(Experiment(), {"optimizer.learning_rate": 1}).optimizer.learning_rate
      1.0
      >>> with_fields(Experiment(), {"optimizer.rate": 1})
      Traceback (most recent call last):
      ...
      jopt.config.ConfigError: optimizer.rate must be absent: Config has only name, ..., got 1
    """
    config = copy.deepcopy(config)
    # A whole before its parts, whichever axis comes first: a named optimizer, say, and its learning rate.
    for path in sorted(values, key=lambda path: len(_parts(path))):
        owner, name = _owner(config, path, values[path])
        setattr(owner, name, copy.deepcopy(values[path]))
    return _as_declared(config, type(config))


def _as_declared(value: Any, hint: Any) -> Any:
    """`value` with floats for the whole numbers where its type declares floats; what is of another type stays."""
    hint = next((a for a in typing.get_args(hint) if a is not type(None)), hint) if _optional(hint) else hint
    if hint is float and type(value) is int:
        return float(value)
    if dataclasses.is_dataclass(value):
        for field, own, part in fields(value):
            setattr(value, field.name, _as_declared(part, own))
    args = typing.get_args(hint)
    if isinstance(value, tuple | list) and args and typing.get_origin(hint) is type(value):
        each = args if Ellipsis not in args and len(args) == len(value) else [args[0]] * len(value)
        return type(value)(_as_declared(part, own) for part, own in zip(value, each, strict=True))
    return value


def _optional(hint: Any) -> bool:
    return type(None) in typing.get_args(hint)


def value_at(config: Any, path: str) -> Any:
    """The value of the field at a dotted path."""
    owner, name = _owner(config, path, None)
    return getattr(owner, name)


def _owner(config: Any, path: str, value: Any) -> tuple[Any, str]:
    """The dataclass that a dotted path's last field belongs to, and the field's name."""
    here, so_far = config, ""
    *way, last = path.split(".")
    for part in way:
        here, so_far = _enter(here, so_far, part, path, value)
    if not dataclasses.is_dataclass(here):
        raise ConfigError(path, value, f"absent: {so_far} is {here!r}, which has no fields; give it a value first")
    names = [field.name for field, _, _ in fields(here)]
    if last not in names:
        raise ConfigError(path, value, f"absent: {type(here).__name__} has only {', '.join(names)}")
    return here, last


def _enter(here: Any, so_far: str, part: str, path: str, value: Any) -> tuple[Any, str]:
    match = _STEP.fullmatch(part)
    if match is None:
        raise ConfigError(path, value, "a dotted path, such as 'stages[0].prune.sparsity'")
    if not dataclasses.is_dataclass(here):
        raise ConfigError(path, value, f"absent: {so_far} is {here!r}, which has no fields; give it a value first")
    names = [field.name for field, _, _ in fields(here)]
    if match[1] not in names:
        raise ConfigError(path, value, f"absent: {type(here).__name__} has only {', '.join(names)}")
    here, so_far = getattr(here, match[1]), join_path(so_far, match[1])
    for number in map(int, re.findall(r"\d+", match[2])):
        if not isinstance(here, list) or number >= len(here):
            there = f"it has {len(here)}" if isinstance(here, list) else f"{so_far} is no list"
            raise ConfigError(path, value, f"absent: there is no {so_far}[{number}] ({there})")
        here, so_far = here[number], f"{so_far}[{number}]"
    return here, so_far


def groups(found: Sequence[Trial]) -> list[Group]:
    """The trials by program, in order of the first of each."""
    by_structure: dict[hyper.Structure, list[Trial]] = {}
    for trial in found:
        # Its name and seed apart, all that makes a program is structure.
        by_structure.setdefault(hyper.split(trial.config)[0], []).append(trial)
    return [Group(index, members) for index, members in enumerate(by_structure.values())]


def axes(ablation: Ablation, found: Sequence[Trial]) -> tuple[Axis, ...]:
    """The grid's axes, in order: what each sets, and whether it is a number in the program or makes another one."""
    numbers = [hyper.split(trial.config)[1] for trial in found]
    out = []
    for name in ablation.space.points[0].labels:
        paths: dict[str, None] = {}
        for point in ablation.space.points:
            paths |= dict.fromkeys(point.sets[name])
        traced = all(path in own for path in paths for own in numbers)
        values = tuple(dict.fromkeys(point.labels[name] for point in ablation.space.points))
        out.append(Axis(name, tuple(paths), "traced" if traced else "structural", values))
    return tuple(out)


def plain(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides ready for JSON."""
    return {path: _plain(value) for path, value in overrides.items()}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    return [_plain(v) for v in value] if isinstance(value, tuple | list) else value


def restore(experiment: Mapping[str, Any], overrides: Mapping[str, Any]) -> Experiment:
    """The experiment of a trial, from what `ablation.json` holds of it.

    Raises:
      ConfigError: if they are not of this version of jopt.
    """
    whole = copy.deepcopy(dict(experiment))
    for path in sorted(overrides, key=lambda path: len(_parts(path))):
        here: Any = whole
        *way, last = _parts(path)
        for step in way:
            here = here[step]
        here[last] = copy.deepcopy(overrides[path])
    return from_dict(Experiment, whole)


def _parts(path: str) -> list[str | int]:
    """The names and places along a dotted path.

    Example:
      >>> _parts("stages[0].prune.sparsity")
      ['stages', 0, 'prune', 'sparsity']
    """
    found = re.findall(r"[A-Za-z_]\w*|\[\d+\]", path)
    return [int(part[1:-1]) if part.startswith("[") else part for part in found]
