"""Search: what is searched over, how finely, and how much may be spent."""

import dataclasses
from typing import Any, NamedTuple

from jopt import hyper
from jopt.ablate.intervals import check_confidence
from jopt.ablate.space import Point, Space, product
from jopt.ablate.trials import with_fields
from jopt.config import choice, require
from jopt.train.config import Experiment

METRICS = ("validation_accuracy", "accuracy")


@dataclasses.dataclass(frozen=True)
class Knob:
    """One thing that a search turns: a ladder of options, from untouched to most compressed.

    Attributes:
      space: the options in order, of one axis (`jopt.ablate.axis` or `jopt.ablate.choices`). The first is the
        dense control's.
      start: labels of the options that the first round tries; () is all. The others are found by later rounds,
        which halve the gaps between what was tried.
    """

    space: Space
    start: tuple[Any, ...] = ()


@dataclasses.dataclass
class Search:
    """A search for the model to use, in rounds of grids.

    Attributes:
      name: names the search in reports.
      experiment: what all trials share.
      knobs: what is searched over.
      excluded: points that are never proposed, knob name to label: those that match one of these.
      seeds: how many seeds each round has; as many rounds at most. The seeds of a round are its own: 0 to n - 1,
        then the next ones.
      points: new points in a round after the first, at most.
      survivors: so many points of the front are refined in a round, and run again with its fresh seeds.
      finalists: so many points are run again at the end, with seeds that no round had.
      confirm: how many seeds these get.
      trials: in all, at most, those at the end included.
      metric: what the rounds look at: 'validation_accuracy', or 'accuracy', that of the test part. The end reports
        test accuracy in any case.
      batch: examples in a call whose latency is measured.
      strategy: as in `jopt.ablate.Ablation`.
      confidence: of the intervals.
    """

    name: str = "search"
    experiment: Experiment = dataclasses.field(default_factory=Experiment)
    knobs: tuple[Knob, ...] = ()
    excluded: tuple[dict[str, Any], ...] = ()
    seeds: tuple[int, ...] = (3, 3, 3)
    points: int = 16
    survivors: int = 6
    finalists: int = 4
    confirm: int = 10
    trials: int = 600
    metric: str = "validation_accuracy"
    batch: int = 1
    strategy: str = "auto"
    confidence: float = 0.95


class Ladder(NamedTuple):
    """A knob, ready to be turned.

    Attributes:
      name: of the knob.
      options: its points, in order.
      start: places of the options that the first round tries.
      structural: whether its options are different programs.
    """

    name: str
    options: tuple[Point, ...]
    start: tuple[int, ...]
    structural: bool

    @property
    def labels(self) -> tuple[Any, ...]:
        """The options' labels."""
        return tuple(option.labels[self.name] for option in self.options)


def ladders(config: Search) -> tuple[Ladder, ...]:
    """The knobs of a search, once it has been checked.

    Raises:
      ConfigError: naming the field, its value and what is accepted.
    """
    c = config
    require(bool(c.name), "name", c.name, "not empty")
    require(len(c.knobs) > 0, "knobs", c.knobs, "at least one Knob")
    choice("metric", c.metric, METRICS)
    check_confidence(c.confidence)
    require(len(c.seeds) > 0, "seeds", c.seeds, "the numbers of seeds of the rounds, at least one")
    for i, count in enumerate(c.seeds):
        _at_least(f"seeds[{i}]", count, 1)
    for name, least in (
        ("points", 1),
        ("survivors", 1),
        ("finalists", 1),
        ("confirm", 2),
        ("trials", 1),
        ("batch", 1),
    ):
        _at_least(name, getattr(c, name), least)
    names = [_name(i, knob) for i, knob in enumerate(c.knobs)]
    for name in names:
        require(names.count(name) == 1, "knobs", name, "knobs of different names")
    control = with_fields(
        c.experiment, product(*(Space(knob.space.points[:1]) for knob in c.knobs)).points[0].fields
    )
    out = tuple(_ladder(name, knob, control) for name, knob in zip(names, c.knobs, strict=True))
    _check_excluded(c, out)
    return out


def _at_least(name: str, value: Any, least: int) -> None:
    fine = isinstance(value, int) and not isinstance(value, bool) and value >= least
    require(fine, name, value, f"a whole number, at least {least}")


def _name(index: int, knob: Knob) -> str:
    points = knob.space.points
    require(len(points) > 0, f"knobs[{index}].space", points, "at least one option")
    labels = tuple(points[0].labels)
    require(len(labels) == 1, f"knobs[{index}].space", labels, "of one axis: give each its own Knob")
    values = [point.labels[labels[0]] for point in points]
    repeated = [value for value in values if values.count(value) > 1]
    require(not repeated, f"knobs[{index}].space", repeated, "options of different labels")
    return labels[0]


def _ladder(name: str, knob: Knob, control: Experiment) -> Ladder:
    labels = [point.labels[name] for point in knob.space.points]
    field = f"the start of the knob {name!r}"
    for label in knob.start:
        require(label in labels, field, label, f"one of its options: {', '.join(map(str, labels))}")
    first = labels[0]
    require(not knob.start or first in knob.start, field, knob.start, f"with {first!r}, the control's, among them")
    start = tuple(i for i, label in enumerate(labels) if not knob.start or label in knob.start)
    programs = {hyper.split(with_fields(control, point.fields))[0].identity for point in knob.space.points}
    return Ladder(name, knob.space.points, start, len(programs) > 1)


def _check_excluded(c: Search, found: tuple[Ladder, ...]) -> None:
    labels = {ladder.name: ladder.labels for ladder in found}
    for i, rule in enumerate(c.excluded):
        require(bool(rule), f"excluded[{i}]", rule, "knob names and labels")
        for name, label in rule.items():
            choice(f"excluded[{i}]", name, labels)
            require(label in labels[name], f"excluded[{i}][{name!r}]", label, f"one of {labels[name]}")
        whole = all(labels[name][0] == label for name, label in rule.items())
        require(not whole, f"excluded[{i}]", rule, "unlike the dense control, the first option of every knob")
