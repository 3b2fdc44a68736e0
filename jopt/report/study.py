"""A study: what the report of a grid draws, as plain data, and how its numbers are written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jopt.measure import Column, columns_of
from jopt.report import formats

ACCURACY, LOSS = (next(c for c in columns_of("trial") if c.key == key) for key in ("accuracy", "loss"))

LOG_RATIO = 20.0
"""A positive axis is logarithmic from this ratio of its ends on."""


class StudyAxis(NamedTuple):
    """An axis of a grid.

    Attributes:
      name: its label.
      values: the different values, in order: numbers, strings, booleans, None.
      field: the config field that it sets.
    """

    name: str
    values: tuple[Any, ...]
    field: str = ""

    @property
    def numeric(self) -> bool:
        """Whether all values are numbers; booleans are none."""
        return bool(self.values) and all(
            isinstance(v, int | float) and not isinstance(v, bool) for v in self.values
        )

    @property
    def log(self) -> bool:
        """Whether it is drawn on a logarithmic scale: learning rates, and what spans a factor of `LOG_RATIO`."""
        if not self.numeric or min(self.values) <= 0:
            return False
        # Rates are compared by their ratio even where they span less than a decade.
        rate = self.name.endswith("learning_rate") or self.field.endswith("learning_rate")
        return rate or max(self.values) >= LOG_RATIO * min(self.values)

    @property
    def texts(self) -> tuple[str, ...]:
        """The values as they are shown."""
        return tuple(text(value) for value in self.values)

    def text(self, index: int) -> str:
        """One of the values as it is shown."""
        return text(self.values[index])

    def index(self, value: object) -> int:
        """The place of a value; True is not 1 here."""
        for i, candidate in enumerate(self.values):
            # In Python True == 1, and a grid may have both.
            if candidate == value and isinstance(candidate, bool) == isinstance(value, bool):
                return i
        raise ValueError(f"the axis {self.name!r} has the values {', '.join(self.texts)}, got {value!r}")


class MeanEstimate(NamedTuple):
    """A mean over seeds and its interval; the interval's ends are None where there is none."""

    mean: float
    low: float | None = None
    high: float | None = None

    @property
    def half(self) -> float | None:
        """Half the interval's width."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


class StudyTrial(NamedTuple):
    """One run.

    Attributes:
      id: hexadecimal digits.
      seed: of its randomness.
      status: 'finished', or 'diverged at step 37'.
      results: column to its number.
      command: runs it again.
    """

    id: str
    seed: int
    status: str
    results: Mapping[Column, float]
    command: str


class Curve(NamedTuple):
    """One outcome along a run, over the seeds of a point.

    Attributes:
      step: optimizer steps.
      count: trials that reached each step.
      mean: over these.
      low, high: the interval of the mean; the mean itself where there is none.
      least, most: the extremes.
    """

    step: tuple[int, ...]
    count: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    least: tuple[float, ...]
    most: tuple[float, ...]


class StudyPoint(NamedTuple):
    """A point of the grid: trials that differ in their seed only.

    Attributes:
      at: for each axis the place of its value.
      trials: by seed.
      diverged: the number of trials that diverged.
      outcome: the mean over the trials that finished; None if none did.
      costs: the key of a column of `Study.costs` to the mean.
      difference: to the control, paired by seed; None where there is no control.
      adjusted: the same with an interval for all comparisons at once.
      verdict: 'better', 'worse', 'undecided', 'control', 'too few seeds', 'diverged', or empty.
      notes: sentences that the hover text shows.
      settings: dotted path to value, as text.
      curves: split, then the key of a metric, to a curve.
    """

    at: tuple[int, ...]
    trials: tuple[StudyTrial, ...] = ()
    diverged: int = 0
    outcome: MeanEstimate | None = None
    costs: Mapping[str, float] = {}
    difference: MeanEstimate | None = None
    adjusted: MeanEstimate | None = None
    verdict: str = ""
    notes: tuple[str, ...] = ()
    settings: Mapping[str, str] = {}
    curves: Mapping[str, Mapping[str, Curve]] = {}

    @property
    def decisive(self) -> MeanEstimate | None:
        """The difference with the interval that decides the verdict: the adjusted one, where there is one."""
        return self.adjusted or self.difference


class Study(NamedTuple):
    """What the report of a grid draws.

    Attributes:
      title: of the report.
      column: the outcome that decides.
      axes: what varies.
      points: in order.
      confidence: of all intervals.
      costs: the columns that the outcome is drawn against; lower is better.
      metrics: of the curves, the deciding one first.
    """

    title: str
    column: Column
    axes: tuple[StudyAxis, ...]
    points: tuple[StudyPoint, ...]
    confidence: float = 0.95
    costs: tuple[Column, ...] = tuple(c for c in columns_of("trial") if c.cost)
    metrics: tuple[Column, ...] = (formats.of_run(ACCURACY), formats.of_run(LOSS))

    @property
    def higher(self) -> bool:
        """Whether more of the outcome is better."""
        return self.column.better == "higher"

    @property
    def fraction(self) -> bool:
        """Whether the outcome is shown in percent."""
        return self.column.fraction

    @property
    def percent(self) -> str:
        """The confidence as a percentage."""
        return f"{100 * self.confidence:g}%"

    @property
    def outcome_name(self) -> str:
        """The title of an axis of the outcome."""
        return formats.titled(self.column)

    def label(self, point: StudyPoint, without: Sequence[int] = ()) -> str:
        """The point in words, axes with one value left out.

        Example:
          >>> axes = (StudyAxis("bits", (4, 8)), StudyAxis("method", ("a",)))
          >>> Study("t", ACCURACY, axes, ()).label(StudyPoint((1, 0)))
          'bits=8'
        """
        pairs = [(a, i) for k, (a, i) in enumerate(zip(self.axes, point.at, strict=True)) if k not in without]
        # An axis with one value distinguishes no points; a grid of one point still needs a name.
        varied = [(a, i) for a, i in pairs if len(a.values) > 1]
        return ", ".join(f"{a.name}={a.text(i)}" for a, i in varied or pairs)

    def fixed(self, used: Sequence[int]) -> dict[int, int]:
        """The values of the other axes, axis to index, that leave at most one point for each value of `used`.

        They are those of the control, or else of the first point that has an outcome. If the axes in `used`
        distinguish all points, no axis is fixed.
        """
        if len({tuple(p.at[i] for i in used) for p in self.points}) == len(self.points):
            return {}
        # The control is what a reader knows; a point that diverged has nothing to show.
        starts = [p for p in self.points if p.verdict == "control"] + [p for p in self.points if p.outcome]
        start = (starts or list(self.points))[0]
        free = [i for i in range(len(self.axes)) if i not in used]
        return {i: start.at[i] for i in free if len({p.at[i] for p in self.points}) > 1}

    def where(self, fixed: Mapping[int, int]) -> str:
        """The fixed axes and their values, in words: `bits=8, width=16`."""
        return ", ".join(f"{self.axes[i].name}={self.axes[i].text(index)}" for i, index in fixed.items())

    def inside(self, value: float) -> float:
        """Where a value is drawn: no interval of a fraction reaches below 0 or past 1 in a picture.

        Example:
          >>> Study("t", ACCURACY, (), ()).inside(1.2), Study("t", LOSS, (), ()).inside(1.2)
          (1.0, 1.2)
        """
        # Student's interval knows no bounds, an accuracy has some.
        return min(max(value, 0.0), 1.0) if self.fraction else value

    def joined(self, points: Sequence[StudyPoint], used: Sequence[int]) -> bool:
        """Whether the points differ over the axes in `used` alone: only then may a line join them."""
        others = [i for i in range(len(self.axes)) if i not in used]
        return len({tuple(p.at[i] for i in others) for p in points}) <= 1

    def amount(self, value: float) -> str:
        """One value of the outcome, with its unit."""
        return formats.text(self.column, value)

    def width(self, estimate: MeanEstimate) -> str:
        """Half the width of its interval, empty where there is none.

        Example:
          >>> Study("t", ACCURACY, (), ()).width(MeanEstimate(0.9, 0.89, 0.91))
          '±1.00'
          >>> Study("t", LOSS, (), ()).width(MeanEstimate(0.9, 0.88766, 0.91234))
          '±0.012'
        """
        half = estimate.half
        if half is None:
            return ""
        return f"±{formats.percent(half).rstrip('%')}" if self.fraction else f"±{half:.2g}"

    def estimate(self, estimate: MeanEstimate | None) -> str:
        """The outcome's mean with its interval, or why there is none.

        Example:
          >>> study = Study("t", ACCURACY, (), ())
          >>> estimates = (MeanEstimate(0.97, 0.965, 0.975), MeanEstimate(0.97), None)
          >>> [study.estimate(estimate) for estimate in estimates]
          ['97.00% [96.50, 97.50]', '97.00% (no interval)', '-']
        """
        if estimate is None:
            return "-"
        if estimate.low is None or estimate.high is None:
            return f"{self.amount(estimate.mean)} (no interval)"
        ends = ", ".join(self.amount(v).rstrip("%") for v in (estimate.low, estimate.high))
        return f"{self.amount(estimate.mean)} [{ends}]"

    def change(self, estimate: MeanEstimate | None) -> str:
        """A difference of outcomes with its interval.

        Example:
          >>> Study("t", ACCURACY, (), ()).change(MeanEstimate(-0.01, -0.015, -0.005))
          '-1.00 pp [-1.50, -0.50]'
        """
        if estimate is None:
            return "-"
        show = formats.points if self.fraction else signed
        if estimate.low is None or estimate.high is None:
            return f"{show(estimate.mean)} (no interval)"
        ends = ", ".join(show(v).removesuffix(" pp") for v in (estimate.low, estimate.high))
        return f"{show(estimate.mean)} [{ends}]"


def text(value: object) -> str:
    """A value of an axis as it is shown.

    Example:
      >>> text(0.1 + 0.2), text(True), text(None), text("a"), text(1000000), text(1e-4)
      ('0.3', 'true', 'none', 'a', '1000000', '0.0001')
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def signed(value: float) -> str:
    """Four significant digits and the sign.

    Example:
      >>> signed(0.012345), signed(-2.0), signed(0.0)
      ('+0.01235', '-2', '0')
    """
    return f"{value:+.4g}" if value and math.isfinite(value) else f"{value:.4g}"


def labels(study: Study, longest: int) -> tuple[list[str], str]:
    """The points in words, and a title; where a text is longer than `longest`, values alone under the axes' names.

    Example:
      >>> axes = (StudyAxis("width", (8, 16)), StudyAxis("same", (1,)), StudyAxis("bits", (4, 8)))
      >>> study = Study("t", ACCURACY, axes, (StudyPoint((0, 0, 1)),))
      >>> labels(study, 40), labels(study, 10)
      ((['width=8, bits=8'], ''), (['8, 8'], 'width, bits'))
    """
    texts = [study.label(point) for point in study.points]
    if max(map(len, texts), default=0) <= longest:
        return texts, ""
    # All in values: a cut might hide what differs.
    varied = [k for k, axis in enumerate(study.axes) if len(axis.values) > 1]
    title = ", ".join(study.axes[k].name for k in varied)
    return [", ".join(study.axes[k].text(point.at[k]) for k in varied) for point in study.points], title
