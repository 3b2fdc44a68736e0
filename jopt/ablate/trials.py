"""Trials: the experiments of a grid, each with its id, and grouped by the program that they share."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from jopt import hyper
from jopt.ablate.config import Ablation
from jopt.ablate.results import Axis
from jopt.ablate.space import GridPoint
from jopt.address import canonical, resolve, steps
from jopt.address import get as value_at
from jopt.address import with_values as with_fields
from jopt.config import ConfigError, check_types, decode, encode, fingerprint, from_dict, is_node, replaced
from jopt.method import Method
from jopt.train.config import Experiment


class Trial(NamedTuple):
    """One run of a grid.

    Attributes:
      id: the first 12 hexadecimal digits of the fingerprint of its experiment; the same in every grid.
      point: axis name to the value that tables show.
      seed: its seed.
      overrides: dotted path to the value that the grid sets in the ablation's experiment, the seed included.
      config: the whole experiment.
    """

    id: str
    point: dict[str, Any]
    seed: int
    overrides: dict[str, Any]
    config: Experiment


class TrialGroup(NamedTuple):
    """Trials that share one program: they differ in traced numbers only.

    Attributes:
      index: its position among the groups, from 0.
      trials: in the grid's order.
    """

    index: int
    trials: list[Trial]


def trials(ablation: Ablation) -> list[Trial]:
    """Every point with every seed: points in the grid's order, the seeds of a point together.

    Raises:
      ConfigError: for a path that names no field, a value of another type, or two points that are the same.
    """
    listed: list[Trial] = []
    first_with_id: dict[str, Trial] = {}
    for point in ablation.space.points:
        base, overrides = _of_point(ablation.experiment, point)
        for seed in ablation.seeds:
            # The experiment's seed is not used, so that a grid is the same whatever its template had.
            config = replaced(base, {"seed": seed})
            # A hash of the non-default fields: a new field with a default gives old trials no new ids.
            trial = Trial(fingerprint(config)[:12], dict(point.labels), seed, {**overrides, "seed": seed}, config)
            # Equal ids would be one result for two points, which the statistics would count as independent runs.
            if (other := first_with_id.get(trial.id)) is not None:
                accepted = f"unlike every other; {named(other.point)} with seed {other.seed} is the same experiment"
                raise ConfigError(f"the point {named(trial.point)} with seed {seed}", overrides, accepted)
            first_with_id[trial.id] = trial
            listed.append(trial)
    return listed


def _of_point(base: Experiment, point: GridPoint) -> tuple[Experiment, dict[str, Any]]:
    """The experiment of a point, and the values of its fields in that experiment, by canonical path."""
    config = with_fields(base, point.fields)
    try:
        check_types(config)
    except ConfigError as error:
        field = f"{error.field} (at the point {named(point.labels)})"
        raise ConfigError(field, error.value, error.accepted) from error
    # Canonical, because `restore` sets one override after the other: a short address may be ambiguous in between.
    return config, {canonical(config, address): value_at(config, address) for address in point.fields}


def named(labels: Mapping[str, object]) -> str:
    """A point in words.

    Example:
      >>> named({"sparsity": 0.9, "bits": 4})
      'sparsity = 0.9, bits = 4'
    """
    return ", ".join(f"{name} = {value}" for name, value in labels.items())


def groups(listed: Sequence[Trial]) -> list[TrialGroup]:
    """The trials by program; groups are in the order of their first trials."""
    by_structure: dict[hyper.Structure, list[Trial]] = {}
    for trial in listed:
        # The structure leaves out swept numbers and the seed, which are arguments of the program.
        by_structure.setdefault(hyper.split(trial.config)[0], []).append(trial)
    return [TrialGroup(index, members) for index, members in enumerate(by_structure.values())]


def axes(ablation: Ablation, listed: Sequence[Trial]) -> tuple[Axis, ...]:
    """The grid's axes in order: the fields of each, and whether its values are traced numbers or other programs."""
    numbers = [hyper.split(trial.config)[1] for trial in listed]
    grid_axes = []
    for name in ablation.space.points[0].labels:
        paths: dict[str, None] = {}
        for trial, point in zip(listed[:: len(ablation.seeds)], ablation.space.points, strict=True):
            paths |= dict.fromkeys(canonical(trial.config, address) for address in point.sets[name])
        # In every trial: a number may be swept in one stage's method and fixed by another's.
        traced = all(path in traced_paths for path in paths for traced_paths in numbers)
        values = tuple(dict.fromkeys(point.labels[name] for point in ablation.space.points))
        grid_axes.append(Axis(name, tuple(paths), "traced" if traced else "structural", values))
    return tuple(grid_axes)


def plain(overrides: Mapping[str, object]) -> dict[str, Any]:
    """Overrides ready for JSON."""
    # With its class: a method, a data set, a task or a network may be of any class.
    return {path: encode(value, object if is_node(value) else None) for path, value in overrides.items()}


def restore(
    experiment: Mapping[str, object], overrides: Mapping[str, object], *, trusted: bool | Collection[str] = False
) -> Experiment:
    """The experiment of a trial, from its record in `ablation.json`.

    Args:
      experiment: the result of `jopt.config.to_dict` for the grid's experiment.
      overrides: the result of `plain` for the trial's overrides.
      trusted: whether modules that the record names may be imported (`jopt.reference.resolve`).

    Raises:
      ConfigError: if the record is not of this version of jopt.
    """
    config = from_dict(Experiment, dict(experiment), trusted=trusted)
    # Short paths first: a method must be there before its sparsity is set.
    for path in sorted(overrides, key=lambda path: len(steps(path))):
        hint = resolve(config, path, overrides[path]).hint
        if hint is None or (isinstance(hint, type) and issubclass(hint, Method)):
            hint = Method
        value = decode(overrides[path], hint, path, trusted)
        config = with_fields(config, {path: value})
    check_types(config)
    return config
