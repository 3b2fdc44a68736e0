"""Templates: points of a grid that differ in swept numbers only share one experiment with places for the numbers.

A wide grid has few programs and many numbers. What depends on the program (addresses, types, structure) is computed
once for a template; a point adds its numbers.
"""

import contextlib
import functools
import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from jopt import hyper
from jopt.ablate.space import GridPoint, named
from jopt.address import as_declared, enter, resolve, steps, with_value_at, with_values
from jopt.address import get as value_at
from jopt.config import ConfigError, check_types, default_of, fields, identity_text, is_node, matches, replaced
from jopt.method import Method
from jopt.train.config import Experiment

SEED = "seed"
Number = int | float


class Template:
    """An experiment with places for numbers.

    Attributes:
      config: with the numbers of one of its points.
      paths: address to canonical path, of every field that its points set.
      places: the canonical paths of the numbers.
    """

    def __init__(self, config: Experiment, paths: Mapping[str, str], places: Sequence[str]):
        """Computes nothing yet: a grid that is refused early never needs the structure."""
        self.config, self.paths, self.places = config, dict(paths), tuple(places)
        self._texts: dict[tuple, tuple[tuple[str, ...], tuple[int, ...]]] = {}

    @functools.cached_property
    def structure(self) -> hyper.Structure:
        """What makes the program; the same whatever the numbers."""
        return hyper.split(self.config)[0]

    def with_numbers(self, numbers: Sequence[Number], seed: int) -> Experiment:
        """The experiment with these numbers in its places, to be read: its other nodes are the template's."""
        config = self.config
        for place, number in zip(self.places, numbers, strict=True):
            config = with_value_at(config, place, number)
        return replaced(config, {SEED: seed})

    def overrides(self, numbers: Sequence[Number]) -> dict[str, Any]:
        """Canonical path to value, of every field that the points set."""
        by_place = dict(zip(self.places, numbers, strict=True))
        values = {path: by_place.get(path, value) for path, value in self._overridden.items()}
        if self._around:
            config = self.with_numbers(numbers, self.config.seed)
            values |= {path: value_at(config, path) for path in self._around}
        return values

    @functools.cached_property
    def _overridden(self) -> dict[str, Any]:
        return {path: value_at(self.config, path) for path in self.paths.values()}

    @functools.cached_property
    def _around(self) -> list[str]:
        """The paths whose value contains a place: one axis sets a method, another a number of it."""
        nodes = [path for path in self._overridden if path not in self.places]
        # Setting a number copies every node around it.
        copies = [with_value_at(self.config, place, 0) for place in self.places]
        return [p for p in nodes if any(value_at(copy, p) is not self._overridden[p] for copy in copies)]

    def digest(self, numbers: Sequence[Number], seed: int) -> str:
        """`jopt.config.fingerprint` of the experiment with these numbers."""
        values = (*numbers, seed)
        # Numbers that a default also has may leave the text, and their owners with them.
        special = tuple(
            (i, value) if not _is_number(value) or value in defaults else None
            for i, (value, defaults) in enumerate(zip(values, self._defaults, strict=True))
        )
        # With its sign and type, as 0.0, -0.0 and 0 are equal.
        key = tuple(entry and (type(entry[1]), json.dumps(entry[1])) for entry in special)
        if key not in self._texts:
            self._texts[key] = self._cut(values, special)
        pieces, order = self._texts[key]
        texts = [*(json.dumps(values[i]) for i in order), ""]
        text = "".join(piece + number for piece, number in zip(pieces, texts, strict=True))
        return hashlib.sha256(text.encode()).hexdigest()

    def _cut(
        self, values: Sequence[Number], special: Sequence[tuple | None]
    ) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """The text that identifies the experiment, cut where numbers stand, and the order of the numbers in it."""
        open_places = [i for i, entry in enumerate(special) if entry is None]
        # A number that no text has by chance, of the type of the value.
        marks = {i: type(values[i])(7182818284590452 + i) for i in open_places}
        *numbers, seed = (marks.get(i, value) for i, value in enumerate(values))
        text = identity_text(self.with_numbers(numbers, int(seed) if isinstance(seed, float) else seed))
        spots = sorted((text.index(json.dumps(mark)), i) for i, mark in marks.items())
        pieces, end = [], 0
        for position, i in spots:
            mark = json.dumps(marks[i])
            if text.count(mark) != 1:
                raise ValueError(f"the number {mark} stands twice in {text}")
            pieces.append(text[end:position])
            end = position + len(mark)
        return (*pieces, text[end:]), tuple(i for _, i in spots)

    @functools.cached_property
    def _defaults(self) -> list[set[Number]]:
        """For each place, the numbers that a field leaves out of the text."""
        return [_defaults_at(self.config, place) for place in (*self.places, SEED)]

    def program_numbers(self, numbers: Sequence[Number]) -> tuple[str, bytearray, slice]:
        """What the program of a point sees: the identity without the name, all numbers, and where the seed is."""
        identity, values, spans = self._program
        seen = bytearray(values)
        for place, number in zip(self.places, numbers, strict=True):
            span, dtype = spans[place]
            seen[span] = hyper.narrowed(place, number, dtype).tobytes()
        return identity, seen, spans[SEED][0]

    @functools.cached_property
    def _program(self) -> tuple[str, bytes, dict[str, tuple[slice, type]]]:
        structure, numbers = hyper.split(replaced(self.config, {"name": ""}))
        ends = list(itertools.accumulate(value.nbytes for value in numbers.values()))
        spans = {
            path: (slice(end - value.nbytes, end), value.dtype.type)
            for (path, value), end in zip(numbers.items(), ends, strict=True)
        }
        return structure.identity, b"".join(value.tobytes() for value in numbers.values()), spans

    @functools.cached_property
    def parts(self) -> dict[str, list[int]]:
        """The places of each part of the experiment that is checked by itself, such as an optimizer."""
        if self._checked_together:
            return {"": list(range(len(self.places)))}
        by_part: dict[str, list[int]] = {}
        for i, place in enumerate(self.places):
            by_part.setdefault(_part_of(place), []).append(i)
        return by_part

    @property
    def _checked_together(self) -> bool:
        """Whether a method looks at others, or at the optimizer, when it is checked."""
        methods = [method for stage in self.config.stages for method in stage.methods]
        return any(
            type(method).validate_with is not Method.validate_with or getattr(method, "groups", ())
            for method in methods
        )


class ResolvedPoint(NamedTuple):
    """A point of a grid in the experiment.

    Attributes:
      labels: axis name to the value that tables show.
      template: the experiment.
      numbers: of the template's places.
      overrides: canonical path to value, of every field that the point sets.
    """

    labels: dict[str, Any]
    template: Template
    numbers: tuple[Number, ...]
    overrides: dict[str, Any]

    def with_seed(self, seed: int) -> Experiment:
        """The experiment, to be read: as `Template.with_numbers`."""
        return self.template.with_numbers(self.numbers, seed)

    @property
    def parts(self) -> list[tuple[str, ...]]:
        """Each part of the experiment that has numbers: its path, and the numbers."""
        # As text, in which 0.0 and -0.0 differ.
        texts = [json.dumps(number) for number in self.numbers]
        return [(path, *(texts[i] for i in places)) for path, places in self.template.parts.items()]


class Templates:
    """Resolves the points of a grid, each with the template of an earlier one where it differs in numbers only."""

    def __init__(self, experiment: Experiment):
        """Starts without templates; `experiment` is what all points begin with."""
        self.experiment = experiment
        # By what a point sets: the addresses of the numbers that are a part of the structure.
        self._structural: dict[tuple, tuple[str, ...]] = {}
        self._templates: dict[tuple, tuple[Template, list[tuple[str, Any]]]] = {}

    def resolve(self, point: GridPoint) -> ResolvedPoint:
        """The point in the experiment.

        Raises:
          ConfigError: for a path that names no field, or a value of another type.
        """
        kind = _kind(point)
        if kind in self._structural:
            template, hints = self._templates.get(self._key(kind, point), (None, []))
            numbers = _numbers(point, hints)
            if template is not None and numbers is not None:
                return ResolvedPoint(point.labels, template, numbers, template.overrides(numbers))
        return self._first(kind, point)

    def _first(self, kind: tuple, point: GridPoint) -> ResolvedPoint:
        """A point without a template: what is computed here holds for all points that share the new one."""
        config = with_values(self.experiment, point.fields)
        try:
            check_types(config)
        except ConfigError as error:
            field = f"{error.field} (at the point {named(point.labels)})"
            raise ConfigError(field, error.value, error.accepted) from error
        slots = {address: resolve(config, address) for address in point.fields}
        paths = {address: slot.path for address, slot in slots.items()}
        swept = hyper.swept_paths(config)
        numeric = [address for address, value in point.fields.items() if _is_number(value)]
        hints = [(address, slots[address].hint) for address in numeric if paths[address] in swept]
        numbers = _numbers(point, hints)
        # Of two addresses of one field the order decides; an infinite number equals no text of JSON.
        if numbers is None or len(set(paths.values())) < len(paths):
            template = Template(config, paths, ())
            return ResolvedPoint(point.labels, template, (), template.overrides(()))
        self._structural[kind] = tuple(address for address in numeric if paths[address] not in swept)
        template = Template(config, paths, [paths[address] for address, _ in hints])
        self._templates[self._key(kind, point)] = template, hints
        return ResolvedPoint(point.labels, template, numbers, template.overrides(numbers))

    def _key(self, kind: tuple, point: GridPoint) -> tuple:
        return kind, tuple(repr(point.fields[address]) for address in self._structural[kind])


def _kind(point: GridPoint) -> tuple:
    """What a point sets, but for the sizes of its numbers."""
    return tuple(point.sets.items()), tuple((address, _kind_of(value)) for address, value in point.fields.items())


def _kind_of(value: object) -> Any:
    if value is None or isinstance(value, bool | str):
        return value
    # By identity: the grid holds the value, and the points of a product share it.
    return type(value) if _is_number(value) else id(value)


def _is_number(value: object) -> bool:
    # Not of other classes, such as an enumeration's: it may have no other values.
    return type(value) in (int, float, np.float64)


def _numbers(point: GridPoint, hints: Sequence[tuple[str, Any]]) -> tuple[Number, ...] | None:
    """The numbers of a point as its fields declare them; None where one is not of its field's type, or infinite."""
    numbers = tuple(as_declared(point.fields[address], hint) for address, hint in hints)
    fine = all(matches(number, hint) and _finite(number) for number, (_, hint) in zip(numbers, hints, strict=True))
    return numbers if fine else None


def _finite(number: Number) -> bool:
    return isinstance(number, int) or math.isfinite(number)


def _part_of(place: str) -> str:
    """The part of an experiment that a number is in: `stages[0].prune` for `stages[0].prune.sparsity`.

    Example:
      >>> [_part_of(path) for path in ("ema_decay", "optimizer.b1", "stages[1].optimizer.b1", "stages[1].steps")]
      ['', 'optimizer', 'stages[1].optimizer', 'stages[1]']
    """
    names = place.split(".")
    depth = 2 if names[0].startswith("stages[") else 1
    return ".".join(names[: min(depth, len(names) - 1)])


def _defaults_at(config: Experiment, place: str) -> set[Number]:
    """What stands at a place by default: of its own field, and in the defaults of the fields around it."""
    numbers: set[Number] = set()
    path, value = steps(place), config
    for k, step in enumerate(path):
        if is_node(value):
            defaults = {field.name: default_of(field) for field, _, _ in fields(value)}
            # A method stands in a tuple, and is addressed by its name.
            owner = (
                {step: defaults[step]} if step in defaults else SimpleNamespace(methods=defaults.get("methods", ()))
            )
            with contextlib.suppress(IndexError, KeyError):
                number = functools.reduce(enter, path[k:], owner)
                numbers |= {number} if _is_number(number) else set()
        value = enter(value, step)
    return numbers
