"""Results of ablations that never ran, for the tests of what reads results."""

import math

import numpy as np

from jopt.ablate.results import OUTCOMES, Axis, Results

PARAMETERS = 52_650
EXAMPLES = 360


def sparsity_by_bits(
    sparsities=(0.0, 0.5, 0.8, 0.9, 0.95), bits=(2, 4, 8, 32), seeds=range(5), epochs=10, **changes
):
    """The 100 trials of a grid: pruning and few bits cost accuracy, the seed moves it."""
    axes = (
        Axis("target", ("stages[0].prune.sparsity",), "traced", tuple(sparsities)),
        Axis("bits", ("stages[0].quantize.bits",), "traced", tuple(bits)),
    )
    rng = np.random.default_rng(0)
    luck = {seed: rng.normal(0, 0.004) for seed in seeds}

    def trial(point, seed):
        target, width = point["target"], point["bits"]
        best = 0.972 - 0.06 * target**8 - 0.25 * math.exp(-width / 1.1) + luck[seed] + rng.normal(0, 0.002)
        nonzero = round(PARAMETERS * (1 - target))
        size = round(nonzero * width / 8 + (PARAMETERS / 8 if target else 0))
        return best, nonzero, size

    return _results("sparsity_by_bits", axes, {"target": 0.0, "bits": 32}, trial, seeds, epochs, **changes)


def optimizers_by_rate(
    names=("sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw"),
    rates=(1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1),
    seeds=range(5),
    epochs=20,
    **changes,
):
    """The 280 trials of a grid in which high rates diverge, at some seeds first."""
    axes = (
        Axis("optimizer", ("optimizer.name",), "structural", tuple(names)),
        Axis("learning_rate", ("optimizer.learning_rate",), "traced", tuple(rates)),
    )
    best = {
        "sgd": 0.2,
        "momentum": 0.03,
        "nesterov": 0.03,
        "adagrad": 0.02,
        "rmsprop": 2e-3,
        "adam": 2e-3,
        "adamw": 3e-3,
    }
    rng = np.random.default_rng(1)
    luck = {seed: rng.normal(0, 0.003) for seed in seeds}

    def trial(point, seed):
        away = math.log10(point["learning_rate"] / best[point["optimizer"]])
        if away > 1.3 or (away > 1.0 and seed % 2):
            return None
        return 0.965 - 0.05 * away**2 + luck[seed] + rng.normal(0, 0.003), PARAMETERS, 4 * PARAMETERS

    return _results("optimizers", axes, None, trial, seeds, epochs, **changes)


def grid(axes, control=None, seeds=range(3), epochs=2, lost=(), **changes):
    """A small grid over any axes, name to values; the points of the places `lost` diverge."""
    grid_axes = tuple(Axis(name, (f"model.{name}",), "traced", tuple(values)) for name, values in axes.items())
    positions = iter(range(10**6))
    position_of = {}

    def trial(point, seed):
        position = position_of.setdefault(tuple(point.values()), None)
        if position is None:
            position = position_of[tuple(point.values())] = next(positions)
        return (
            None
            if position in lost
            else (0.9 + 0.01 * position / 7 + 0.001 * seed, 100 + position, 1000 + 10 * position)
        )

    return _results("small", grid_axes, control, trial, seeds, epochs, **changes)


def _results(name, axes, control, trial, seeds, epochs, metric="accuracy", steps=90):
    rows, curves, overrides = [], [], {}
    points = [{}]
    for axis in axes:
        points = [{**point, axis.name: value} for point in points for value in axis.values]
    for group, point in enumerate(points):
        for seed in seeds:
            key = f"{len(rows):012x}"
            outcome = trial(point, seed)
            fields = {field: point[axis.name] for axis in axes for field in axis.fields}
            overrides[key] = {**fields, "seed": seed}
            flags = " ".join(f"--config.{k}={v}" for k, v in overrides[key].items())
            row = {
                "trial": key,
                "group": group if axes and axes[0].kind == "structural" else 0,
                **point,
                "seed": seed,
            }
            row |= {
                "status": "finished" if outcome else "diverged",
                "diverged_step": None if outcome else 37,
                **dict.fromkeys(OUTCOMES),
            }
            if outcome:
                row |= _outcomes(*outcome)
            row |= {"steps": steps * epochs, "digest": f"{len(rows) * 7919:016x}"}
            row["command"] = f"jopt train --config=configs/ablations/{name}.py --workdir=runs/{key} {flags}"
            rows.append(row)
            curves += _curve(key, outcome, epochs, steps)
    return Results(name, axes, control, metric, rows, curves, overrides)


def _outcomes(accuracy, nonzero, size):
    accuracy = round(min(max(accuracy, 0.1), 1.0) * EXAMPLES) / EXAMPLES
    return {
        "accuracy": accuracy, "loss": 1.1 * (1.02 - accuracy), "validation_accuracy": accuracy,
        "validation_loss": 1.02 - accuracy, "train_loss": 0.9 * (1.01 - accuracy), "parameters": PARAMETERS,
        "nonzero_parameters": nonzero,
        "sparsity": 1 - nonzero / PARAMETERS, "theoretical_bytes": size,
        "bits_per_parameter": 8 * size / PARAMETERS,
        "flops": 2 * PARAMETERS, "effective_flops": 2 * nonzero,
    }  # fmt: skip


def _curve(key, outcome, epochs, steps):
    rng = np.random.default_rng(int(key, 16))
    rows = []
    for epoch in range(1, epochs + 1 if outcome else 2):
        for split, shift in (("train", 0.01), ("validation", 0.0)):
            end = outcome[0] if outcome else 0.1
            accuracy = end + shift - 0.6 * math.exp(-epoch / 1.5) + 0.003 * rng.normal()
            loss = 1.02 - accuracy if outcome else math.nan
            rows.append(
                {
                    "trial": key,
                    "stage": "train",
                    "step": steps * epoch,
                    "split": split,
                    "loss": loss,
                    "accuracy": accuracy,
                }
            )
    return rows
