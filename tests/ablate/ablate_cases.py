"""Made-up results: what a grid leaves behind, without running one."""

from collections.abc import Callable, Sequence
from typing import Any

from jopt.ablate.results import OUTCOMES, Axis, Results


def results(
    axes: dict[str, Sequence[Any]],
    accuracy: Callable[..., float | None],
    *,
    seeds: Sequence[int] = range(5),
    points: Sequence[dict[str, Any]] | None = None,
    control: dict[str, Any] | None = None,
    metric: str = "accuracy",
    fields: dict[str, str] | None = None,
    other_columns: Callable[..., dict[str, Any]] = lambda **point: {},
) -> Results:
    """`accuracy(seed=..., **point)` is the metric; None is a trial that diverged."""
    if points is None:
        points = [{}]
        for name, values in axes.items():
            points = [{**point, name: value} for point in points for value in values]
    trials, overrides = [], {}
    for point in points:
        for seed in seeds:
            value = accuracy(seed=seed, **point)
            row = dict.fromkeys(OUTCOMES, None if value is None else 1.0)
            if value is not None:
                row |= {metric: value, "validation_accuracy": value, **other_columns(seed=seed, **point)}
            trial = f"{len(trials):012x}"
            status = "diverged" if value is None else "finished"
            labels = {"trial": trial, "group": 0, **point, "seed": seed, "status": status, "steps": 100}
            trials.append(labels | {"diverged_step": 7 if value is None else None} | row)
            overrides[trial] = {(fields or {}).get(k, k): v for k, v in point.items()}
    grid_axes = tuple(Axis(k, ((fields or {}).get(k, k),), "traced", tuple(v)) for k, v in axes.items())
    return Results("made up", grid_axes, control, metric, trials, [], overrides)
