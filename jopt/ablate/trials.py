"""Trials: from a grid to the experiments that it stands for, each with its name, and grouped by program."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jopt import hyper
from jopt.ablate.config import Ablation
from jopt.ablate.results import Axis
from jopt.ablate.space import Point
from jopt.address import canonical, resolve, steps
from jopt.address import get as value_at
from jopt.address import with_values as with_fields
from jopt.config import ConfigError, check_types, decode, encode, fingerprint, from_dict, replaced
from jopt.method import Method
from jopt.train.config import Experiment


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
    listed: list[Trial] = []
    known: dict[str, Trial] = {}
    for point in ablation.space.points:
        base, overrides = _of_point(ablation.experiment, point)
        for seed in ablation.seeds:
            config = replaced(base, {"seed": seed})
            trial = Trial(fingerprint(config)[:12], dict(point.labels), seed, {**overrides, "seed": seed}, config)
            if (other := known.get(trial.id)) is not None:
                accepted = f"unlike every other; {named(other.point)} with seed {other.seed} is the same experiment"
                raise ConfigError(f"the point {named(trial.point)} with seed {seed}", overrides, accepted)
            known[trial.id] = trial
            listed.append(trial)
    return listed


def _of_point(base: Experiment, point: Point) -> tuple[Experiment, dict[str, Any]]:
    """The experiment of a point, and its fields as the experiment holds them, by canonical path."""
    config = with_fields(base, point.fields)
    try:
        check_types(config)
    except ConfigError as error:
        field = f"{error.field} (at the point {named(point.labels)})"
        raise ConfigError(field, error.value, error.accepted) from error
    return config, {canonical(config, address): value_at(config, address) for address in point.fields}


def named(labels: Mapping[str, Any]) -> str:
    """A point in words.

    Example:
      >>> named({"sparsity": 0.9, "bits": 4})
      'sparsity = 0.9, bits = 4'
    """
    return ", ".join(f"{name} = {value}" for name, value in labels.items())


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
        for trial, point in zip(found[:: len(ablation.seeds)], ablation.space.points, strict=True):
            paths |= dict.fromkeys(canonical(trial.config, address) for address in point.sets[name])
        traced = all(path in own for path in paths for own in numbers)
        values = tuple(dict.fromkeys(point.labels[name] for point in ablation.space.points))
        out.append(Axis(name, tuple(paths), "traced" if traced else "structural", values))
    return tuple(out)


def plain(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides ready for JSON."""
    return {path: encode(value, Method if isinstance(value, Method) else None) for path, value in overrides.items()}


def restore(experiment: Mapping[str, Any], overrides: Mapping[str, Any], *, trusted: bool = False) -> Experiment:
    """The experiment of a trial, from what `ablation.json` holds of it.

    Args:
      experiment: what `jopt.config.to_dict` gave of the grid's experiment.
      overrides: what `plain` gave of the trial's.
      trusted: whether modules that they name may be imported (`jopt.reference.resolve`).

    Raises:
      ConfigError: if they are not of this version of jopt.
    """
    config = from_dict(Experiment, dict(experiment), trusted=trusted)
    # A whole before its parts: a method, say, and its sparsity.
    for path in sorted(overrides, key=lambda path: len(steps(path))):
        hint = resolve(config, path, overrides[path]).hint
        if hint is None or (isinstance(hint, type) and issubclass(hint, Method)):
            hint = Method
        value = decode(overrides[path], hint, path, trusted)
        config = with_fields(config, {path: value})
    check_types(config)
    return config
