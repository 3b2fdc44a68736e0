"""What an ablation may ask for: checked before any data are read or anything compiles."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from jopt import hyper
from jopt.ablate.config import PROTOCOLS, STRATEGIES, Ablation
from jopt.ablate.intervals import check_confidence
from jopt.ablate.results import COLUMNS, OUTCOMES
from jopt.ablate.space import Point, Space, label
from jopt.ablate.summary import columns
from jopt.ablate.trials import Trial, named, trials
from jopt.config import ConfigError, choice, require
from jopt.train.config import Experiment
from jopt.train.plan import validate as validate_experiment


def validate(ablation: Ablation) -> list[Trial]:
    """Checks the grid, and each of its experiments, as far as that goes without the data.

    Returns:
      The grid's trials.

    Raises:
      ConfigError: naming the field, its value and what is accepted.
    """
    a = ablation
    _check_types(a)
    require(bool(a.name), "name", a.name, "not empty")
    require(len(a.space) > 0, "space", a.space.points, "a grid of at least one point")
    require(len(a.seeds) > 0, "seeds", a.seeds, "at least one seed")
    for seed in a.seeds:
        fine = isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**32
        require(fine, "seeds", seed, "integers in [0, 2**32)")
        require(a.seeds.count(seed) == 1, "seeds", seed, "given once")
    choice("metric", a.metric, OUTCOMES)
    choice("protocol", a.protocol, PROTOCOLS)
    choice("strategy", a.strategy, STRATEGIES)
    require(a.chunk >= 0, "chunk", a.chunk, "a number of trials, or 0 for as many as fit")
    check_confidence(a.confidence)
    require(a.target is None or 0 < a.target <= 1, "target", a.target, "an accuracy in (0, 1], or None")
    memory = a.memory_gib
    fine = memory is None or (math.isfinite(memory) and memory > 0)
    require(fine, "memory_gib", memory, "a positive number of GiB, or None")
    _check_axes(a)
    found = trials(a)
    _check_control(a)
    for trial in found:
        together = trial.config.data_parallel
        try:
            require(not together, "data_parallel", together, "False: an ablation splits its trials over devices")
            validate_experiment(trial.config)
        except ConfigError as error:
            raise at_point(error, trial) from error
    _check_distinct(found)
    return found


def _check_distinct(found: Sequence[Trial]) -> None:
    """Raises ConfigError where two trials are the same to their program, which sees float32 and no name."""
    known: dict[tuple, Trial] = {}
    for trial in found:
        structure, numbers = hyper.split(dataclasses.replace(trial.config, name=""))
        other = known.setdefault((structure, *(value.tobytes() for value in numbers.values())), trial)
        if other is not trial:
            accepted = f"unlike {named(other.point)} in what the program sees: float32 numbers, and no name"
            raise ConfigError(f"the point {named(trial.point)}", trial.overrides, accepted)


def at_point(error: ValueError, trial: Trial) -> ValueError:
    """The same error, with the point at which it occurs."""
    where = f"at the point {named(trial.point)}"
    if isinstance(error, ConfigError):
        return ConfigError(f"{error.field} ({where})", error.value, error.accepted)
    return type(error)(f"{error} ({where})")


def _check_types(a: Ablation) -> None:
    """What Python would only trip over later. Of its fields; the experiment's own are checked with each trial."""

    def of(name: str, kind: type | tuple[type, ...], accepted: str, optional: bool = False) -> None:
        value = getattr(a, name)
        fine = isinstance(value, kind) and not isinstance(value, bool)
        require(fine or (optional and value is None), name, value, accepted)

    for name in ("name", "metric", "protocol", "strategy"):
        of(name, str, "of type str")
    of("experiment", Experiment, "a jopt.train.Experiment")
    of("space", Space, "a Space, such as jopt.ablate.product(...)")
    of("seeds", tuple, "a tuple of integers")
    of("tuned", tuple, "a tuple of names of axes")
    of("control", dict, "a dictionary of axis names and values, or None", optional=True)
    of("chunk", int, "of type int")
    of("confidence", (int, float), "of type float")
    for name in ("target", "memory_gib"):
        of(name, (int, float), "of type float or None", optional=True)


def _check_axes(a: Ablation) -> None:
    names = list(a.space.points[0].labels)
    for point in a.space.points:
        # Said before the column of that name is: this is what there is to do about it.
        require(
            "seed" not in point.fields, "the axis over 'seed'", point.fields.get("seed"), "absent: give `seeds`"
        )
    for name in names:
        require(bool(name), "the name of an axis", name, "not empty")
        taken = name in (*COLUMNS, *OUTCOMES)
        require(not taken, f"the axis {name!r}", name, "called otherwise: trials.csv has a column of that name")
    columns(names, a.metric)
    _check_labels(a.space)
    for name in a.tuned:
        choice("tuned", name, names)
    require(len(set(a.tuned)) == len(a.tuned), "tuned", a.tuned, "axes named once")
    require(len(a.tuned) < max(len(names), 1), "tuned", a.tuned, "fewer than all axes: something must be compared")
    if a.protocol == "optimizers":
        require(bool(a.tuned), "tuned", a.tuned, "the axes that are tuned, such as ('learning_rate',)")


def _check_control(a: Ablation) -> None:
    if a.control is None:
        return
    names = list(a.space.points[0].labels)
    for name in a.control:
        choice("control", name, names)
    require(bool(a.control), "control", a.control, "axis names and values, or None")
    there = [point.labels for point in a.space.points]
    own = control(a) or {}
    found = any(all(labels[name] == value for name, value in own.items()) for labels in there)
    require(found, "control", a.control, f"a point of the grid; its axes are {_axes(there, names)}")


def _check_labels(space: Space) -> None:
    """Raises ConfigError where two points look the same in tables and are not: they would be taken for one."""
    known: dict[tuple, Point] = {}
    for point in space.points:
        # As the results group them: by equal values.
        other = known.setdefault(tuple(point.labels.values()), point)
        if other is not point and other.fields != point.fields:
            accepted = f"named unlike the other one, which sets {other.fields}"
            raise ConfigError(f"the point {named(point.labels)}", point.fields, accepted)


def control(a: Ablation) -> dict[str, Any] | None:
    """The ablation's control, its values as the tables have them: a tuple is its parts, one after the other."""
    return None if a.control is None else {name: label(value) for name, value in a.control.items()}


def _axes(points: Sequence[dict], names: Sequence[str]) -> str:
    values = {name: list(dict.fromkeys(point[name] for point in points)) for name in names}
    return "; ".join(f"{name} in {', '.join(map(repr, own[:8]))}" for name, own in values.items())
