"""Suite `plans`: what planning a wide grid costs, from the call of `jopt.ablate.run` to its first chunk."""

import gc
import resource
import tempfile
from collections.abc import Callable

import numpy as np

from benchmarks.timing import Options, Row, Value, at_most, spread
from jopt import data, models, optim, prune
from jopt.ablate import Ablation, Range, Space, axis, product, search
from jopt.ablate.checks import validate
from jopt.ablate.files import AblationDir
from jopt.ablate.plan import Loader, identity, plan, plan_table
from jopt.ablate.trials import axes, groups
from jopt.train import Experiment, Stage

SEEDS = tuple(range(5))
RATE, SPARSITY = "optimizer.learning_rate", "prune.sparsity"
WIDEST, TARGET = 100_000, 10.0


def plans(options: Options) -> list[Row]:
    """Suite `plans`: CPU seconds of the process, which other processes hardly change."""
    rows = []
    for case, space_of in SPACES.items():
        for trials in (1_000, 10_000, WIDEST):
            grid = Ablation(name=case, experiment=experiment(), space=space_of(trials // len(SEEDS)), seeds=SEEDS)
            seconds = np.array([_cpu_seconds(lambda grid=grid: planned(grid)) for _ in range(options.repeats)])
            target = at_most(TARGET) if trials == WIDEST and case == PRODUCT else None
            values: dict[str, Value] = {
                "trials": trials,
                "cpu_seconds": spread(seconds, target),
                "cpu_seconds_per_trial": spread(seconds / trials),
            }
            rows.append(Row(case, f"jopt, {trials:,} trials", values))
    return rows


def planned(grid: Ablation) -> int:
    """Checks, plans and records a grid, as a first launch does, in a new directory; the number of its trials."""
    trials = validate(grid)
    grid_axes, by_program = axes(grid, trials), groups(trials)
    group_plans = plan(grid, by_program, 1, {}, Loader())
    with tempfile.TemporaryDirectory(prefix="jopt-benchmark-") as directory:
        files = AblationDir(directory)
        records = [
            {"group": p.group.index, "structure": identity(p.group), "trials": [t.id for t in p.group.trials]}
            for p in group_plans
        ]
        files.record(grid, trials, grid_axes, records)
    plan_table(group_plans, lambda trial: False)
    return len(trials)


def experiment() -> Experiment:
    """A small pruned MLP on synthetic images."""
    return Experiment(
        name="plan",
        model=models.ModelConfig(name="mlp", features=(4,), num_classes=3),
        data=data.Synthetic(shape=(3, 3, 1), num_classes=3, train=32, validation=16, test=16),
        optimizer=optim.Config(name="sgd", learning_rate=0.1),
        epochs=2,
        batch_size=8,
        stages=[Stage(methods=(prune.Gradual(sparsity=0.5),))],
    )


def _square(points: int) -> Space:
    side = max(2, round(points**0.5))
    rates, sparsities = np.linspace(0.01, 0.5, side), np.linspace(0.1, 0.9, -(-points // side))
    return product(axis(RATE, rates.tolist()), axis(SPARSITY, sparsities.tolist()))


def _programs(points: int) -> Space:
    names = axis("optimizer.name", ("sgd", "momentum", "adam", "adamw"))
    widths = axis("model.features", ((4,), (8,)))
    return product(names, widths, axis(RATE, np.linspace(0.01, 0.5, points // 8).tolist()))


def _search(points: int) -> Space:
    # Every point has a rate of its own, so every optimizer is checked.
    return search(Range(RATE, 1e-4, 1e-1, "log"), Range("optimizer.weight_decay", 1e-5, 1e-2, "log"), count=points)


PRODUCT = "a product of two numbers, 5 seeds"
SPACES: dict[str, Callable[[int], Space]] = {
    PRODUCT: _square,
    "8 programs, one number, 5 seeds": _programs,
    "a search over two numbers, 5 seeds": _search,
}


def _cpu_seconds(work: Callable[[], object]) -> float:
    gc.collect()
    before = _used()
    work()
    return _used() - before


def _used() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
