"""Checks of an ablation's config, made before data are read or anything compiles."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from jopt import hyper
from jopt.ablate.config import PROTOCOLS, STRATEGIES, Ablation
from jopt.ablate.intervals import check_confidence
from jopt.ablate.parts import pass_alone
from jopt.ablate.results import COLUMNS
from jopt.ablate.space import GridPoint, Space, label
from jopt.ablate.summary import columns
from jopt.ablate.trials import Trial, named, trials, with_fields, with_new_parts
from jopt.address import canonical
from jopt.config import ConfigError, choice, require
from jopt.train.config import Experiment
from jopt.train.plan import validate as validate_experiment


def validate(ablation: Ablation) -> list[Trial]:
    """Checks the grid and each of its experiments, except for what needs the data.

    Returns:
      The grid's trials.

    Raises:
      ConfigError: naming the field, its value and what is accepted.
    """
    a = ablation
    # Types first: every check below would fail on a wrong one with Python's words and not with the field's name.
    _check_types(a)
    require(bool(a.name), "name", a.name, "not empty")
    require(len(a.space) > 0, "space", a.space.points, "a grid of at least one point")
    require(len(a.seeds) > 0, "seeds", a.seeds, "at least one seed")
    for seed in a.seeds:
        fine = isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**32
        require(fine, "seeds", seed, "integers in [0, 2**32)")
    for seed, count in Counter(a.seeds).items():
        require(count == 1, "seeds", seed, "given once")
    choice("metric", a.decisive, [column.key for column in a.columns])
    choice("protocol", a.protocol, PROTOCOLS)
    choice("strategy", a.strategy, STRATEGIES)
    require(a.chunk >= 0, "chunk", a.chunk, "a number of trials, or 0 for as many as fit")
    check_confidence(a.confidence)
    metric = a.experiment.task.resolved().deciding
    if a.target is not None and metric.format == "percent":
        require(0 < a.target <= 1, "target", a.target, f"a value of {metric.key} in (0, 1], or None")
    require(a.target is None or math.isfinite(a.target), "target", a.target, "a finite number, or None")
    memory = a.memory_gib
    fine = memory is None or (math.isfinite(memory) and memory > 0)
    require(fine, "memory_gib", memory, "a positive number of GiB, or None")
    _check_axes(a)
    listed = trials(a)
    # After the trials, so that a wrong axis is reported as such and not as a control that is no point.
    _check_control(a)
    metrics, other_metrics = _metrics(a.experiment), []
    for trial, parts in with_new_parts(listed):
        config = trial.resolved.with_seed(trial.seed)
        if pass_alone(config, parts):
            continue
        try:
            for field, none in (("data_parallel", False), ("mesh", ()), ("partition", ()), ("shards", None)):
                value = getattr(config, field)
                require(value == none, field, value, f"{none}: an ablation splits its trials over devices")
            validate_experiment(config)
        except ConfigError as error:
            raise at_point(error, trial) from error
        other_metrics += [] if _metrics(config) == metrics else [trial]
    _check_distinct(listed)
    for trial in other_metrics:
        # No table could hold both.
        field = f"task (at the point {named(trial.point)})"
        raise ConfigError(field, trial.config.task, f"a task with the metrics {metrics}")
    return listed


def _metrics(config: Experiment) -> list[str]:
    return [metric.key for metric in config.task.resolved().metrics]


def _check_distinct(listed: Sequence[Trial]) -> None:
    """Raises ConfigError where two trials are equal to their program, which sees float32 numbers and no name."""
    # 0.1 and 0.1 + 1e-12 are two ids and one computation: the grid would compare a run with itself.
    first_with: dict[tuple[str, bytes], Trial] = {}
    identity, numbers, seed_bytes, point = "", bytearray(), slice(0), None
    for trial in listed:
        if trial.resolved is not point:
            point = trial.resolved
            identity, numbers, seed_bytes = point.template.program_numbers(point.numbers)
        numbers[seed_bytes] = hyper.narrowed("seed", trial.seed, np.uint32).tobytes()
        other = first_with.setdefault((identity, bytes(numbers)), trial)
        if other is not trial:
            accepted = f"unlike {named(other.point)} for the program, which sees float32 numbers and no name"
            raise ConfigError(f"the point {named(trial.point)}", trial.overrides, accepted)


def at_point(error: ValueError, trial: Trial) -> ValueError:
    """The same error, with the point at which it occurs."""
    # The type stays, as the apps choose the exit status by it.
    where = f"at the point {named(trial.point)}"
    if isinstance(error, ConfigError):
        return ConfigError(f"{error.field} ({where})", error.value, error.accepted)
    return type(error)(f"{error} ({where})")


def _check_types(a: Ablation) -> None:
    """Checks the types of the ablation's fields; those of the experiment are checked with each trial."""

    def of(name: str, kind: type | tuple[type, ...], accepted: str, optional: bool = False) -> None:
        value = getattr(a, name)
        # A bool is an int in Python: `chunk=True` would run as one trial at a time.
        fine = isinstance(value, kind) and not isinstance(value, bool)
        require(fine or (optional and value is None), name, value, accepted)

    for name in ("name", "protocol", "strategy"):
        of(name, str, "of type str")
    of("metric", str, "of type str or None", optional=True)
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
        # Before the general check of names, whose advice to rename the axis would not help here.
        require(
            "seed" not in point.fields, "the axis over 'seed'", point.fields.get("seed"), "absent: give `seeds`"
        )
    for name in names:
        require(bool(name), "the name of an axis", name, "not empty")
        taken = name in (*COLUMNS, *(column.key for column in a.columns))
        require(not taken, f"the axis {name!r}", name, "named differently: trials.csv has a column of that name")
    # summary.csv has more columns than trials.csv, such as the mean of each outcome.
    columns(names, a.decisive, [column.key for column in a.columns])
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
    require(bool(a.control), "control", a.control, "axis names and values, or None")
    labels_of_points = [point.labels for point in a.space.points]
    control_labels = control(a) or {}
    require(len(control_labels) == len(a.control), "control", a.control, "one value for an axis")
    is_point = any(
        all(labels[name] == value for name, value in control_labels.items()) for labels in labels_of_points
    )
    require(is_point, "control", a.control, f"a point of the grid; its axes are {_axes(labels_of_points, names)}")


def _check_labels(space: Space) -> None:
    """Raises ConfigError where two different points have the same labels: tables would show them as one."""
    first_with: dict[tuple, GridPoint] = {}
    for point in space.points:
        # By equal values, as `Results.points` groups them: 1 and 1.0 are one point in a table.
        other = first_with.setdefault(tuple(point.labels.values()), point)
        if other is not point and other.fields != point.fields:
            options = f"of other labels than the point that sets {other.fields}"
            raise ConfigError(f"the point {named(point.labels)}", point.fields, options)


def control(a: Ablation) -> dict[str, Any] | None:
    """The ablation's control by axis names, with the values that tables show: a tuple as text, separated by spaces.

    Raises:
      ConfigError: for a name that is neither an axis nor the address of the only field that an axis sets.
    """
    return None if a.control is None else {_axis_of(a, key): label(value) for key, value in a.control.items()}


def _axis_of(a: Ablation, key: str) -> str:
    names = list(a.space.points[0].labels)
    if key in names:
        return key
    for point in a.space.points:
        # In the experiment of a point: a method that only some points have has no address in the others.
        config = with_fields(a.experiment, point.fields)
        for name, addresses in point.sets.items():
            if len(addresses) == 1 and _same_field(config, key, addresses[0]):
                return name
    addresses = [address for point in a.space.points for sets in point.sets.values() for address in sets]
    accepted = f"the name of an axis ({', '.join(names)}), or the address of the field that an axis sets"
    raise ConfigError("control", key, f"{accepted} ({', '.join(dict.fromkeys(addresses))})")


def _same_field(config: Experiment, address: object, other: str) -> bool:
    try:
        return isinstance(address, str) and canonical(config, address) == canonical(config, other)
    except ConfigError:
        return False


def _axes(points: Sequence[dict], names: Sequence[str]) -> str:
    values = {name: list(dict.fromkeys(point[name] for point in points)) for name in names}
    # Eight values show the kind of value; an axis of a search has hundreds.
    return "; ".join(f"{name} in {', '.join(map(repr, options[:8]))}" for name, options in values.items())
