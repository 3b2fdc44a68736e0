"""Trials: the experiments of a grid, each with its id, and grouped by the program that they share."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jopt import hyper
from jopt.ablate.config import Ablation
from jopt.ablate.results import Axis
from jopt.ablate.space import GridPoint, named
from jopt.ablate.template import SEED, ResolvedPoint, Template, Templates
from jopt.address import as_declared, resolve, steps
from jopt.address import with_values as with_fields
from jopt.config import ConfigError, check_types, decode, encode, from_dict, is_node
from jopt.method import Method
from jopt.train.config import Experiment


class Trial(NamedTuple):
    """One run of a grid.

    Attributes:
      id: the first 12 hexadecimal digits of the fingerprint of its experiment; the same in every grid.
      seed: its seed.
      resolved: its point in the experiment, which the trials of other seeds share.
    """

    id: str
    seed: int
    resolved: ResolvedPoint

    @property
    def point(self) -> dict[str, Any]:
        """Axis name to the value that tables show."""
        return self.resolved.labels

    @property
    def overrides(self) -> dict[str, Any]:
        """Dotted path to the value that the grid sets in the ablation's experiment, the seed included."""
        return {**self.resolved.overrides, SEED: self.seed}

    @property
    def config(self) -> Experiment:
        """The whole experiment, built from its template: a wide grid holds no config for each trial."""
        # New nodes: who changes the config of a trial must not change that of another.
        return as_declared(self.resolved.with_seed(self.seed), Experiment)


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
    templates = Templates(ablation.experiment)
    for point in ablation.space.points:
        resolved = templates.resolve(point)
        for seed in ablation.seeds:
            # A hash of the non-default fields: a new field with a default gives old trials no new ids.
            # The experiment's seed is not used, so that a grid is the same whatever its template had.
            trial = Trial(resolved.template.digest(resolved.numbers, seed)[:12], seed, resolved)
            # Equal ids would be one result for two points, which the statistics would count as independent runs.
            if (other := first_with_id.get(trial.id)) is not None:
                accepted = f"unlike every other; {named(other.point)} with seed {other.seed} is the same experiment"
                raise ConfigError(f"the point {named(point.labels)} with seed {seed}", resolved.overrides, accepted)
            first_with_id[trial.id] = trial
            listed.append(trial)
    return listed


def groups(listed: Sequence[Trial]) -> list[TrialGroup]:
    """The trials by program; groups are in the order of their first trials."""
    by_structure: dict[hyper.Structure, list[Trial]] = {}
    for trial in listed:
        # The structure leaves out swept numbers and the seed, which are arguments of the program.
        by_structure.setdefault(trial.resolved.template.structure, []).append(trial)
    return [TrialGroup(index, members) for index, members in enumerate(by_structure.values())]


def with_new_parts(listed: Iterable[Trial]) -> Iterator[tuple[Trial, list[str] | None]]:
    """The first trial of each template, and each with a part that no trial of its template before it has.

    An optimizer, a method and the like are checked by themselves, so where these trials pass, all do.

    Yields:
      The trial, and the paths of its new parts; None: all of it is new.
    """
    parts_of: dict[Template, set[tuple[str, ...]]] = {}
    point = None
    for trial in listed:
        # Trials of one point differ in their seeds, which only `seeds` and no check of a part looks at.
        if trial.resolved is point:
            continue
        point = trial.resolved
        parts = point.parts
        if point.template not in parts_of:
            parts_of[point.template] = set(parts)
            yield trial, None
        elif new := [part for part in parts if part not in parts_of[point.template]]:
            parts_of[point.template].update(new)
            yield trial, [path for path, *_ in new]


def axes(ablation: Ablation, listed: Sequence[Trial]) -> tuple[Axis, ...]:
    """The grid's axes in order: the fields of each, and whether its values are traced numbers or other programs."""
    # Points of one template set the same fields, by the same axes.
    firsts: dict[Template, GridPoint] = {}
    for trial, point in zip(listed[:: len(ablation.seeds)], ablation.space.points, strict=True):
        firsts.setdefault(trial.resolved.template, point)
    swept = [hyper.swept_paths(template.config) for template in firsts]
    grid_axes = []
    for name in ablation.space.points[0].labels:
        paths = dict.fromkeys(
            template.paths[address] for template, point in firsts.items() for address in point.sets[name]
        )
        # In every trial: a number may be swept in one stage's method and fixed by another's.
        traced = all(path in traced_paths for path in paths for traced_paths in swept)
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
