"""Spaces: the points of a grid, as products, zips, lists and quasi-random draws of config fields."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jopt.ablate.results import COLUMNS, OUTCOMES
from jopt.config import ConfigError, canonical_json, changed, choice, require
from jopt.data import Source
from jopt.method import Method
from jopt.models import Network
from jopt.task import Task

Value = bool | int | float | str | None

SEQUENCES = ("sobol", "halton")
SCALES = ("linear", "log", "logit")


class GridPoint(NamedTuple):
    """One point of a grid.

    Attributes:
      labels: axis name to the value that tables show.
      fields: dotted path of a config field to its value.
      sets: axis name to the paths of the fields that it sets.
    """

    labels: dict[str, Value]
    fields: dict[str, Any]
    sets: dict[str, tuple[str, ...]]


@dataclasses.dataclass(frozen=True)
class Space:
    """A list of points that name the same axes. Build one with the functions of this file; `a + b` joins two."""

    points: tuple[GridPoint, ...]

    def __add__(self, other: "Space") -> "Space":
        if self.points and other.points and list(self.points[0].labels) != list(other.points[0].labels):
            names = [", ".join(space.points[0].labels) for space in (self, other)]
            raise ConfigError("space", f"({names[0]}) + ({names[1]})", "a sum of spaces with the same axes")
        return Space(self.points + other.points)

    def __len__(self) -> int:
        return len(self.points)


@dataclasses.dataclass(frozen=True)
class Range:
    """A number to search over.

    Attributes:
      field: dotted path of a config field.
      low, high: the ends of the range, both included.
      scale: 'linear', 'log' (uniform in its logarithm) or 'logit' (uniform in ln(x / (1 - x)), for numbers in
        (0, 1)).
      integer: whether it is rounded, half to even.
      name: of its column; '' is the field's last part.
    """

    field: str
    low: float
    high: float
    scale: str = "linear"
    integer: bool = False
    name: str = ""


def axis(field: str, values: Sequence[object], name: str = "") -> Space:
    """An axis over the values of one config field.

    Args:
      field: its address (`jopt.address`), such as `optimizer.learning_rate`, `pruned.prune.sparsity` or `sparsity`.
      values: the values of the field.
      name: of its column; '' is the address's last part. Where a result has that name, it is the last two parts
        (`prune.sparsity`), or `set.sparsity` if the address has only one.

    Raises:
      ConfigError: if there is no value.

    Example:
      >>> [point.fields for point in axis("optimizer.learning_rate", (0.1, 0.01)).points]
      [{'optimizer.learning_rate': 0.1}, {'optimizer.learning_rate': 0.01}]
    """
    name = name or _last(field)
    # An empty axis would make the whole product empty, without an error.
    require(len(values) > 0, f"the axis {name!r}", tuple(values), "a list of at least one value")
    return Space(tuple(GridPoint({name: label(value)}, {field: value}, {name: (field,)}) for value in values))


def choices(name: str, options: Mapping[Any, Mapping[str, Any]]) -> Space:
    """Named alternatives that set several config fields each.

    Args:
      name: of the column.
      options: the label of each alternative to its fields.

    Example:
      >>> space = choices("method", {"dense": {"epochs": 10}, "long": {"epochs": 20, "batch_size": 32}})
      >>> [point.labels for point in space.points]
      [{'method': 'dense'}, {'method': 'long'}]
    """
    require(len(options) > 0, f"the axis {name!r}", dict(options), "at least one alternative")
    return Space(
        tuple(GridPoint({name: label}, dict(fields), {name: tuple(fields)}) for label, fields in options.items())
    )


def product(*spaces: Space) -> Space:
    """Every combination of points; the last space changes fastest.

    Example:
      >>> len(product(axis("epochs", (1, 2)), axis("batch_size", (8, 16, 32))))
      6
    """
    return Space(tuple(_merge(parts) for parts in itertools.product(*(space.points for space in spaces))))


def zipped(*spaces: Space) -> Space:
    """The first points together, the second points together, and so on, as Python's `zip`.

    Raises:
      ConfigError: if the spaces have different lengths.
    """
    lengths = [len(space) for space in spaces]
    require(len(set(lengths)) <= 1, "zipped", lengths, "spaces of the same number of points")
    return Space(tuple(_merge(parts) for parts in zip(*(space.points for space in spaces), strict=True)))


def points(*listed: Mapping[str, object]) -> Space:
    """An explicit list of points; each is a mapping from dotted path to value.

    Example:
      >>> points({"epochs": 1, "batch_size": 8}, {"epochs": 2, "batch_size": 16}).points[1].labels
      {'epochs': 2, 'batch_size': 16}
    """
    require(len(listed) > 0, "points", listed, "a list of at least one point")
    paths = {path: None for point in listed for path in point}
    names = _names(list(paths))
    for point in listed:
        require(set(point) == set(paths), "points", dict(point), f"points that all set {', '.join(paths)}")
    sets = {names[path]: (path,) for path in paths}
    # In one order: points that list the same fields in another order have the same axes.
    ordered = [{path: point[path] for path in paths} for point in listed]
    return Space(
        tuple(GridPoint({names[k]: label(v) for k, v in fields.items()}, fields, sets) for fields in ordered)
    )


def search(*ranges: Range, count: int, sequence: str = "sobol", seed: int = 0) -> Space:
    """A quasi-random search space: `count` points that fill the box of the ranges evenly.

    The points come from SciPy's scrambled sequence and depend on `seed` and the ranges alone. The first n points of
    a longer search are the points of a search of n, so a search can be extended.

    Args:
      *ranges: the numbers to search over.
      count: the number of points; for 'sobol' best a power of two.
      sequence: 'sobol' (Sobol 1967, scrambled as in Owen 1998) or 'halton' (Halton 1960, scrambled).
      seed: of the scrambling.

    Raises:
      ConfigError: for an empty range, an unknown scale or sequence, or fewer than one point.

    Example:
      >>> space = search(Range("optimizer.learning_rate", 1e-4, 1e-1, "log"), count=4)
      >>> all(1e-4 <= point.fields["optimizer.learning_rate"] <= 1e-1 for point in space.points)
      True
    """
    from scipy.stats import qmc

    require(len(ranges) > 0, "search", ranges, "at least one Range")
    require(count >= 1, "search.count", count, "at least 1")
    choice("search.sequence", sequence, SEQUENCES)
    for span in ranges:
        _check_range(span)
    names = _names([span.field for span in ranges])
    columns = [span.name or names[span.field] for span in ranges]
    for span, column in zip(ranges, columns, strict=True):
        require(
            [r.field for r in ranges].count(span.field) == 1, span.field, span.field, "searched in one range only"
        )
        require(columns.count(column) == 1, f"the axis {column!r}", column, "named once: give the other one a name")
    sampler = (qmc.Sobol if sequence == "sobol" else qmc.Halton)(d=len(ranges), scramble=True, rng=seed)
    # Sobol's sequence is balanced only at powers of two, and SciPy warns of others; the surplus is cut off.
    unit = sampler.random(1 << max(count - 1, 0).bit_length())[:count]
    drawn = []
    for row in unit:
        fields = {span.field: _scaled(span, float(u)) for span, u in zip(ranges, row, strict=True)}
        labels = {column: span.field for column, span in zip(columns, ranges, strict=True)}
        sets = {name: (path,) for name, path in labels.items()}
        drawn.append(GridPoint({name: fields[path] for name, path in labels.items()}, fields, sets))
    return Space(tuple(drawn))


def _check_range(span: Range) -> None:
    # Checked in this order: a logarithm of a range that is not finite would fail with another error.
    field = f"the range of {span.field!r}"
    choice(f"{field}: scale", span.scale, SCALES)
    bounds = (span.low, span.high)
    require(all(map(math.isfinite, bounds)) and span.low < span.high, field, bounds, "finite, the low end first")
    integral = not span.integer or all(float(end).is_integer() for end in bounds)
    require(integral, field, bounds, "whole numbers, because the range is of integers")
    require(span.scale != "log" or span.low > 0, field, bounds, "positive for scale 'log'")
    require(span.scale != "logit" or 0 < span.low < span.high < 1, field, bounds, "within (0, 1) for scale 'logit'")


def _scaled(span: Range, unit: float) -> float | int:
    forth, back = {
        "linear": (float, float),
        "log": (math.log, math.exp),
        "logit": (lambda x: math.log(x / (1 - x)), lambda x: 1 / (1 + math.exp(-x))),
    }[span.scale]
    # Clamped, because exp(log(x)) can leave the range by a rounding error, and a validator then refuses the point.
    low, high = forth(span.low), forth(span.high)
    value = min(max(back(low + (high - low) * unit), span.low), span.high)
    # Six digits are enough to search by and short enough to type. The ends may have more, so clamp again.
    return round(value) if span.integer else float(min(max(float(f"{value:.6g}"), span.low), span.high))


def _merge(parts: Sequence[GridPoint]) -> GridPoint:
    labels: dict[str, Value] = {}
    fields: dict[str, Any] = {}
    sets: dict[str, tuple[str, ...]] = {}
    for part in parts:
        for name in part.labels:
            require(name not in labels, f"the axis {name!r}", name, "named once: give the other one another name")
        # Two axes that set one field would overwrite each other, and the labels of one would be wrong.
        for path in part.fields:
            require(path not in fields, path, part.fields[path], "set by one axis only")
        labels |= part.labels
        fields |= part.fields
        sets |= part.sets
    return GridPoint(labels, fields, sets)


def label(value: object) -> Value:
    """The value that tables show for a config value."""
    # What CSV and JSON can hold stays as it is, so that numeric axes can be drawn.
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    # The class, which may be all the difference between two sets, and what differs from the defaults: a method has
    # a dozen fields, and a cell of a table has no room for them.
    if isinstance(value, Method | Source | Network | Task):
        fields = ", ".join(f"{name}={part}" for name, part in changed(value).items())
        return f"{type(value).__name__}({fields})" if fields else type(value).__name__
    if dataclasses.is_dataclass(value):
        return canonical_json(value)
    return str(value)


def named(labels: Mapping[str, object]) -> str:
    """A point in words.

    Example:
      >>> named({"sparsity": 0.9, "bits": 4})
      'sparsity = 0.9, bits = 4'
    """
    return ", ".join(f"{name} = {value}" for name, value in labels.items())


def _last(path: str) -> str:
    """The last part of an address; the last two, or `set.` and the last, if a column of trials.csv has its name."""
    last = path.rpartition(".")[2]
    if last not in (*COLUMNS, *OUTCOMES):
        return last
    # `sparsity` alone is a complete address too: the column of what was set, beside that of what was measured.
    return ".".join(["set", *path.split(".")][-2:])


def _names(paths: Sequence[str]) -> dict[str, str]:
    """Short column names: the path's last part, or the whole path where two last parts are equal."""
    last = [_last(path) for path in paths]
    return {path: name if last.count(name) == 1 else path for path, name in zip(paths, last, strict=True)}
