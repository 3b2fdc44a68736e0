"""Search: what is searched over, how finely, and how many trials it may use."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

from jopt import hyper
from jopt.ablate.intervals import check_confidence
from jopt.ablate.space import GridPoint, Space, Value, product
from jopt.ablate.trials import with_fields
from jopt.config import choice, require
from jopt.measure import Column, columns_of
from jopt.train.config import Experiment

Cell = tuple[int, ...]
"""A point of the space: for each knob the index of its option. All zeros is the control."""


@dataclasses.dataclass(frozen=True)
class Knob:
    """One degree of freedom of a search: an ordered list of options, from unchanged to most compressed.

    Attributes:
      space: the options in order, of one axis (`jopt.ablate.axis` or `jopt.ablate.choices`). The first option is
        that of the dense control.
      start: labels of the options that the first round tries; () is all. Later rounds try the other options, by
        halving the gaps between those that were tried.
    """

    space: Space
    start: tuple[Value, ...] = ()


@dataclasses.dataclass
class Search:
    """A search for the model to use, in rounds of grids.

    Attributes:
      name: names the search in reports.
      experiment: shared by all trials.
      knobs: what is searched over.
      excluded: rules, knob name to label; a point that matches one of them is never proposed.
      seeds: the number of seeds of each round; the search has at most as many rounds. No two rounds share a seed:
        the first has 0 to n - 1, the next continues from n.
      points: new points in a round after the first, at most.
      survivors: points of the front that are refined in a round, and run again with its fresh seeds.
      finalists: points that are run again at the end, with seeds that no round used.
      confirm: seeds of each finalist.
      trials: in total, at most, including those at the end.
      metric: the outcome that guides the rounds: a metric of the task, such as 'accuracy', on the test part, or the
        same on the validation part, 'validation_accuracy'. None: in validation, the metric that the budget limits,
        or else the task's deciding one. The finalists are always judged by the test part.
      batch: examples in a call whose latency is measured.
      strategy: as in `jopt.ablate.Ablation`.
      confidence: of the intervals.
    """

    name: str = "search"
    experiment: Experiment = dataclasses.field(default_factory=Experiment)
    knobs: tuple[Knob, ...] = ()
    excluded: tuple[dict[str, Value], ...] = ()
    seeds: tuple[int, ...] = (3, 3, 3)
    points: int = 16
    survivors: int = 6
    finalists: int = 4
    confirm: int = 10
    trials: int = 600
    metric: str | None = None
    batch: int = 1
    strategy: str = "auto"
    confidence: float = 0.95

    @property
    def tested(self) -> Column:
        """The column of the metric on the test part, by which finalists are judged."""
        return self._column(self.guiding.key.removeprefix("validation_"))

    @property
    def guiding(self) -> Column:
        """The column of the metric that guides the rounds."""
        return self._column(self.metric or f"validation_{self.experiment.task.resolved().deciding.key}")

    def _column(self, key: str) -> Column:
        return next(c for c in columns_of("trial", task=self.experiment.task) if c.key == key)


class Ladder(NamedTuple):
    """A checked knob.

    Attributes:
      name: of the knob.
      options: its points, in order.
      start: indices of the options that the first round tries.
      structural: whether its options are different programs.
    """

    name: str
    options: tuple[GridPoint, ...]
    start: tuple[int, ...]
    structural: bool

    @property
    def labels(self) -> tuple[Value, ...]:
        """The labels of the options."""
        return tuple(option.labels[self.name] for option in self.options)


class SearchSpace(NamedTuple):
    """The points of a search, by the indices of their options.

    Attributes:
      ladders: of the knobs, in order.
      rules: knob name to label; a point that matches one of them is excluded.
    """

    ladders: tuple[Ladder, ...]
    rules: tuple[Mapping[str, Value], ...] = ()

    @property
    def control(self) -> Cell:
        """The dense point: the first option of every knob."""
        return (0,) * len(self.ladders)

    def labels(self, cell: Cell) -> dict[str, Value]:
        """Knob name to the label of its option."""
        return {ladder.name: ladder.labels[at] for ladder, at in zip(self.ladders, cell, strict=True)}

    def cell(self, labels: Mapping[str, Value]) -> Cell:
        """The inverse of `labels`."""
        return tuple(ladder.labels.index(labels[ladder.name]) for ladder in self.ladders)

    def point(self, cell: Cell) -> GridPoint:
        """The point of a grid, with the config fields that it sets."""
        options = (ladder.options[at] for ladder, at in zip(self.ladders, cell, strict=True))
        return product(*(Space((option,)) for option in options)).points[0]

    def excluded(self, cell: Cell) -> bool:
        """Whether a rule excludes the point."""
        labels = self.labels(cell)
        return any(all(labels[name] == label for name, label in rule.items()) for rule in self.rules)


def ladders(config: Search, limited: str | None = None) -> tuple[Ladder, ...]:
    """The knobs of a search, after checking all of its fields.

    Args:
      config: of the search.
      limited: the key of the metric that the budget limits; None: it limits none.

    Raises:
      ConfigError: naming the field, its value and what is accepted.
    """
    require(bool(config.name), "name", config.name, "not empty")
    require(len(config.knobs) > 0, "knobs", config.knobs, "at least one Knob")
    # The limit on the drop is in points of a metric, so the rounds must look at that metric.
    if config.metric is not None:
        task = config.experiment.task.resolved()
        keys = [limited or task.deciding.key] if limited else [m.key for m in (*task.metrics, task.loss_metric)]
        choice("metric", config.metric, [key for k in keys for key in (f"validation_{k}", k)])
    check_confidence(config.confidence)
    require(len(config.seeds) > 0, "seeds", config.seeds, "the number of seeds of each round, at least one round")
    for i, count in enumerate(config.seeds):
        _at_least(f"seeds[{i}]", count, 1)
    for name in ("points", "survivors", "finalists", "trials", "batch"):
        _at_least(name, getattr(config, name), 1)
    # One seed has no spread, so a finalist could not be judged by it.
    _at_least("confirm", config.confirm, 2)
    names = [_axis_name(i, knob) for i, knob in enumerate(config.knobs)]
    for name in names:
        require(names.count(name) == 1, "knobs", name, "knobs of different names")
    # The control sets every knob, since the experiment's own fields may have other values.
    first_options = product(*(Space(knob.space.points[:1]) for knob in config.knobs)).points[0]
    control = with_fields(config.experiment, first_options.fields)
    checked = tuple(_ladder(name, knob, control) for name, knob in zip(names, config.knobs, strict=True))
    _check_excluded(config, checked)
    return checked


def _at_least(name: str, value: object, least: int) -> None:
    valid = isinstance(value, int) and not isinstance(value, bool) and value >= least
    require(valid, name, value, f"a whole number, at least {least}")


def _axis_name(index: int, knob: Knob) -> str:
    points = knob.space.points
    require(len(points) > 0, f"knobs[{index}].space", points, "at least one option")
    labels = tuple(points[0].labels)
    require(len(labels) == 1, f"knobs[{index}].space", labels, "one axis: give each axis a Knob of its own")
    values = [point.labels[labels[0]] for point in points]
    # Labels identify options in the files, and a resumed search finds its points by them.
    repeated = [value for value in values if values.count(value) > 1]
    require(not repeated, f"knobs[{index}].space", repeated, "options of different labels")
    return labels[0]


def _ladder(name: str, knob: Knob, control: Experiment) -> Ladder:
    labels = [point.labels[name] for point in knob.space.points]
    field = f"the start of the knob {name!r}"
    for label in knob.start:
        require(label in labels, field, label, f"one of its options: {', '.join(map(str, labels))}")
    with_control = not knob.start or labels[0] in knob.start
    require(with_control, field, knob.start, f"a list with {labels[0]!r}, the control's option")
    start = tuple(i for i, label in enumerate(labels) if not knob.start or label in knob.start)
    # A knob is structural if two of its options, with all else as in the control, are different programs.
    programs = {hyper.split(with_fields(control, point.fields))[0].identity for point in knob.space.points}
    return Ladder(name, knob.space.points, start, len(programs) > 1)


def _check_excluded(config: Search, checked: tuple[Ladder, ...]) -> None:
    labels = {ladder.name: ladder.labels for ladder in checked}
    for i, rule in enumerate(config.excluded):
        require(bool(rule), f"excluded[{i}]", rule, "knob names and labels")
        for name, label in rule.items():
            choice(f"excluded[{i}]", name, labels)
            require(label in labels[name], f"excluded[{i}][{name!r}]", label, f"one of {labels[name]}")
        control = all(labels[name][0] == label for name, label in rule.items())
        require(not control, f"excluded[{i}]", rule, "a rule that does not match the control, all first options")
