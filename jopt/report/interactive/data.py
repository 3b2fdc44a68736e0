"""What an interactive report draws: axes, points, trials and curves as plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jopt.report import formats

SIZES = {
    "bytes": "packed file",
    "theoretical_bytes": "theoretical size",
    "nonzero_parameters": "nonzero parameters",
    "effective_flops": "effective FLOPs (theoretical)",
}
"""What a point can be set against, and how an axis calls it; lower is better."""

LOG_RATIO = 20.0
"""A positive axis is logarithmic from this ratio of its ends on."""


class Axis(NamedTuple):
    """Something that points differ in.

    Attributes:
      name: shown.
      values: the different values, in order: numbers, strings, booleans, None.
      field: what it sets, to tell what the name stands for.
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
        rate = self.name.endswith("learning_rate") or self.field.endswith("learning_rate")
        return rate or max(self.values) >= LOG_RATIO * min(self.values)

    @property
    def texts(self) -> tuple[str, ...]:
        """The values as they are shown."""
        return tuple(text(value) for value in self.values)

    def index(self, value: Any) -> int:
        """The place of a value; True is not 1 here."""
        for i, own in enumerate(self.values):
            if own == value and isinstance(own, bool) == isinstance(value, bool):
                return i
        raise ValueError(f"the axis {self.name!r} has the values {', '.join(self.texts)}, got {value!r}")


class Estimate(NamedTuple):
    """A mean over seeds and its interval; the interval's ends are None where there is none."""

    mean: float
    low: float | None = None
    high: float | None = None

    @property
    def half(self) -> float | None:
        """Half the interval's width."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


class Trial(NamedTuple):
    """One run.

    Attributes:
      id: names it, in addresses too: letters and digits.
      seed: of its randomness.
      status: 'finished', or what else befell it.
      result: its numbers, as text.
      command: what runs it again.
    """

    id: str
    seed: int
    status: str
    result: str
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


class Point(NamedTuple):
    """What trials that differ in their seed only have in common.

    Attributes:
      at: for each axis the place of its value.
      trials: by seed.
      diverged: how many of them did.
      outcome: what decides, over the others; None if there are none.
      sizes: the keys of `SIZES` to means.
      difference: to the control, paired by seed; None where there is no such thing.
      adjusted: the same with an interval for all comparisons at once.
      verdict: 'better', 'worse', 'undecided', 'control', 'too few seeds', 'diverged', or empty.
      notes: to be shown with it.
      settings: dotted path to value, as text.
      curves: split, then 'loss' or 'accuracy', to a curve.
    """

    at: tuple[int, ...]
    trials: tuple[Trial, ...] = ()
    diverged: int = 0
    outcome: Estimate | None = None
    sizes: Mapping[str, float] = {}
    difference: Estimate | None = None
    adjusted: Estimate | None = None
    verdict: str = ""
    notes: tuple[str, ...] = ()
    settings: Mapping[str, str] = {}
    curves: Mapping[str, Mapping[str, Curve]] = {}

    @property
    def decisive(self) -> Estimate | None:
        """The difference with the interval that the verdict goes by: the adjusted one, where there is one."""
        return self.adjusted or self.difference


class Study(NamedTuple):
    """All that a page of plots is made of.

    Attributes:
      title: of the page.
      metric: what decides, as a key that `jopt.report` knows the unit of, such as 'accuracy'.
      axes: what varies.
      points: in order.
      higher: whether higher is better.
      confidence: of all intervals.
    """

    title: str
    metric: str
    axes: tuple[Axis, ...]
    points: tuple[Point, ...]
    higher: bool = True
    confidence: float = 0.95

    @property
    def fraction(self) -> bool:
        """Whether the outcome is shown in percent."""
        return self.metric.endswith(("accuracy", "sparsity"))

    @property
    def percent(self) -> str:
        """The confidence as a percentage."""
        return f"{100 * self.confidence:g}%"

    @property
    def outcome_name(self) -> str:
        """What an axis calls the outcome."""
        name = formats.name(self.metric)
        named = f"test {name}" if self.metric in ("accuracy", "loss") else name
        return f"{named} (nats)" if self.metric.endswith("loss") else named

    def label(self, point: Point, without: Sequence[int] = ()) -> str:
        """The point in words, axes with one value left out.

        Example:
          >>> axes = (Axis("bits", (4, 8)), Axis("method", ("a",)))
          >>> Study("t", "accuracy", axes, ()).label(Point((1, 0)))
          'bits=8'
        """
        pairs = [(a, i) for k, (a, i) in enumerate(zip(self.axes, point.at, strict=True)) if k not in without]
        varied = [(a, i) for a, i in pairs if len(a.values) > 1]
        return ", ".join(f"{a.name}={a.texts[i]}" for a, i in varied or pairs)

    def fixed(self, used: Sequence[int]) -> dict[int, int]:
        """Where the other axes stand for every place over `used` to hold one point at most, axis to place.

        At the control, or else at the first point that has an outcome; nothing is fixed that need not be.
        """
        if len({tuple(p.at[i] for i in used) for p in self.points}) == len(self.points):
            return {}
        known = [p for p in self.points if p.verdict == "control"] + [p for p in self.points if p.outcome]
        start = (known or list(self.points))[0]
        others = [i for i in range(len(self.axes)) if i not in used]
        return {i: start.at[i] for i in others if len({p.at[i] for p in self.points}) > 1}

    def where(self, fixed: Mapping[int, int]) -> str:
        """Where the axes in `fixed` stand, in words: `bits=8, width=16`."""
        return ", ".join(f"{self.axes[i].name}={self.axes[i].texts[place]}" for i, place in fixed.items())

    def inside(self, value: float) -> float:
        """Where a value is drawn: no interval of a fraction reaches below 0 or past 1 in a picture.

        Example:
          >>> Study("t", "accuracy", (), ()).inside(1.2), Study("t", "loss", (), ()).inside(1.2)
          (1.0, 1.2)
        """
        return min(max(value, 0.0), 1.0) if self.fraction else value

    def joined(self, points: Sequence[Point], used: Sequence[int]) -> bool:
        """Whether the points differ over the axes in `used` alone: only then may a line join them."""
        others = [i for i in range(len(self.axes)) if i not in used]
        return len({tuple(p.at[i] for i in others) for p in points}) <= 1

    def amount(self, value: float) -> str:
        """One value of the outcome, with its unit."""
        return formats.percent(value) if self.fraction else formats.number(value)

    def width(self, own: Estimate) -> str:
        """Half the width of its interval, empty where there is none.

        Example:
          >>> Study("t", "accuracy", (), ()).width(Estimate(0.9, 0.89, 0.91))
          '±1.00'
          >>> Study("t", "loss", (), ()).width(Estimate(0.9, 0.88766, 0.91234))
          '±0.012'
        """
        half = own.half
        if half is None:
            return ""
        return f"±{formats.percent(half).rstrip('%')}" if self.fraction else f"±{half:.2g}"

    def estimate(self, own: Estimate | None) -> str:
        """The outcome's mean with its interval, or why there is none.

        Example:
          >>> study = Study("t", "accuracy", (), ())
          >>> study.estimate(Estimate(0.97, 0.965, 0.975)), study.estimate(Estimate(0.97)), study.estimate(None)
          ('97.00% [96.50, 97.50]', '97.00% (no interval)', '-')
        """
        if own is None:
            return "-"
        if own.low is None or own.high is None:
            return f"{self.amount(own.mean)} (no interval)"
        ends = ", ".join(self.amount(v).rstrip("%") for v in (own.low, own.high))
        return f"{self.amount(own.mean)} [{ends}]"

    def change(self, own: Estimate | None) -> str:
        """A difference of outcomes with its interval.

        Example:
          >>> Study("t", "accuracy", (), ()).change(Estimate(-0.01, -0.015, -0.005))
          '-1.00 pp [-1.50, -0.50]'
        """
        if own is None:
            return "-"
        show = formats.points if self.fraction else signed
        if own.low is None or own.high is None:
            return f"{show(own.mean)} (no interval)"
        return f"{show(own.mean)} [{', '.join(show(v).removesuffix(' pp') for v in (own.low, own.high))}]"


def text(value: Any) -> str:
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
