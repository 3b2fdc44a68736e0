"""Learning curves with bands, one for each point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jopt.report.interactive.data import Curve, Study
from jopt.report.interactive.plot import Plot, figure, labels

SHOWN, FEW = 30, 12
"""So many curves are shown; of more than that, only the few best at first."""

STEPS = 200
LABEL = 56
"""Characters of a name in the legend."""


def chosen(study: Study, most: int = SHOWN, few: int = FEW) -> list[int]:
    """The points whose curves are shown first, in order: all up to `most`, else the control and the best of others.

    They are `few` together. Where controls would take more than a third of these, they have no precedence.
    """
    first = _controls_first(study, few)
    own = [i for i, p in enumerate(study.points) if p.curves]
    sign = -1.0 if study.higher else 1.0

    def rank(i: int) -> tuple[bool, bool, float]:
        point = study.points[i]
        return (
            not first or point.verdict != "control",
            point.outcome is None,
            sign * point.outcome.mean if point.outcome else 0.0,
        )

    return own if len(own) <= most else sorted(sorted(own, key=rank)[:few])


def which(study: Study, shown: Sequence[int], few: int = FEW) -> str:
    """What `chosen` chose where that is not all: a control that is there for being one is not called the best."""
    total = sum(bool(p.curves) for p in study.points)
    controls = sum(study.points[i].verdict == "control" for i in shown)
    if not controls or not _controls_first(study, few):
        return f"the best {len(shown)} of {total} points"
    named = "the control" if controls == 1 else f"{controls} controls"
    return f"{named} and the best {len(shown) - controls} others of {total} points"


def _controls_first(study: Study, few: int) -> bool:
    return 3 * sum(p.verdict == "control" and bool(p.curves) for p in study.points) <= few


def thin(curve: Curve, most: int = STEPS) -> Curve:
    """Every k-th step of a long curve, its last one always.

    Example:
      >>> steps = tuple(range(10))
      >>> thin(Curve(*(steps,) * 7), most=4).step
      (0, 3, 6, 9)
    """
    n = len(curve.step)
    if n <= most:
        return curve
    keep = [round(i * (n - 1) / (most - 1)) for i in range(most)]

    def column(values: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(values[i] for i in keep)

    return Curve(*map(column, curve))


def splits(study: Study) -> list[str]:
    """What there are curves of, validation first."""
    found = {split for p in study.points for split in p.curves}
    return sorted(found, key=lambda s: (s != "validation", s != "train", s))


def outcomes(study: Study) -> list[str]:
    """What the curves are of: accuracy and loss, what decides first."""
    found = {name for p in study.points for curves in p.curves.values() for name in curves}
    loss = study.metric.endswith("loss")
    return sorted(found, key=lambda name: ((name != "loss") if loss else (name != "accuracy"), name))


def plot(study: Study) -> Plot | None:
    """Means over seeds with bands; the reader chooses the split, the outcome, the band and what the colors mean."""
    import plotly.graph_objects as go

    own = [i for i, p in enumerate(study.points) if p.curves]
    if not own:
        return None
    look = {"mode": "lines+markers", "marker": {"size": 3}, "line": {"width": 1.8}}
    line = go.Scatter(**look, hovertemplate="%{text}<extra></extra>")
    band = go.Scatter(mode="none", fill="toself", hoverinfo="skip", showlegend=False)
    drawn = figure([line, band], height=480, xaxis={"title": {"text": "optimizer step"}, "rangemode": "tozero"})
    data = {
        str(i): {
            split: {name: thin(c)._asdict() for name, c in curves.items()}
            for split, curves in study.points[i].curves.items()
        }
        for i in own
    }
    shown = chosen(study)
    caption = "The mean over the seeds that got that far, and a band over the same seeds."
    if len(shown) < len(own):
        caption += f" Shown are {which(study, shown)}; the legend switches the others on."
    return Plot("curves", "Learning curves", caption, drawn, {
        "curves": data, "shown": shown, "names": labels(study, LABEL),
        "splits": splits(study), "outcomes": outcomes(study),
        "logs": [name for name in outcomes(study) if name == "loss" and _decade(study)],
    })  # fmt: skip


def _decade(study: Study) -> bool:
    values: Sequence[float] = [
        v for p in study.points for c in p.curves.values() if "loss" in c for v in c["loss"].mean
    ]
    return bool(values) and min(values) > 0 and max(values) > 10 * min(values)
