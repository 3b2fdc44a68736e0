"""What the configs reach on real data, over seeds. Slow; with `-s` it prints the tables of docs/results.md."""

import dataclasses
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt import keys, optim
from jopt.train import Experiment, prepare

pytestmark = pytest.mark.slow


def accuracies(config: Experiment, changes: dict[str, np.ndarray], lift: bool = False) -> dict[str, np.ndarray]:
    """Accuracy of each trial on validation and test part, all from one compilation.

    Args:
      config: an experiment of one stage.
      changes: for each swept path an array with a value for each trial.
      lift: run the trials side by side (vmap), not one after the other.
    """
    p = prepare(config)
    program = p.program(p.plans[0])

    def begin(change):
        return program.init(keys.root(change["seed"]), {**p.values, **change})

    def segment(state, change):
        return program.segment(state, {**p.values, **change}, p.arrays["train"])[0]

    def evaluate(state, change, part):
        values = {**p.values, **change}
        predictions = program.judge(program.seen(state, values), values, p.arrays[part]).predictions
        count = getattr(p.dataset, part).targets.shape[0]
        return (predictions[:count] == p.arrays[part].targets[:count]).mean()

    if lift:
        begin, segment = jax.vmap(begin), jax.vmap(segment)
        evaluate = jax.vmap(evaluate, in_axes=(0, 0, None))
    begin, segment = jax.jit(begin), jax.jit(segment, donate_argnums=0)
    evaluate = jax.jit(evaluate, static_argnums=2)

    def run(change):
        state = begin(change)
        for _ in p.segments:
            state = segment(state, change)
        return {part: np.asarray(evaluate(state, change, part)) for part in ("validation", "test")}

    changes = {name: jnp.asarray(values) for name, values in changes.items()}
    if lift:
        return run(changes)
    count = len(changes["seed"])
    rows = [run({name: values[i] for name, values in changes.items()}) for i in range(count)]
    return {part: np.stack([row[part] for row in rows]) for part in ("validation", "test")}


def load(name: str, *args: str) -> Experiment:
    return importlib.import_module(f"configs.{name}").get_config(*args)


def seeds(n: int) -> dict[str, np.ndarray]:
    return {"seed": np.arange(n, dtype=np.uint32)}


def test_xor_learns_all_four_points_on_19_of_20_seeds():
    test = accuracies(load("xor"), seeds(20))["test"]
    print(f"\nxor: {(test == 1).sum()} of 20 seeds get 4 of 4")
    assert (test == 1).sum() >= 19


@pytest.mark.parametrize(
    ("name", "args", "least"),
    [
        ("digits_mlp", (), 0.975),
        ("digits_lenet", (), 0.985),
        ("digits_rnn", ("gru",), 0.97),
        ("digits_rnn", ("rnn",), 0.95),
        ("digits_rnn", ("lstm",), 0.97),
    ],
)
def test_digits_accuracy_over_ten_seeds(name, args, least):
    test = accuracies(load(name, *args), seeds(10))["test"]
    label = ":".join((name, *args))
    print(f"\n{label}: mean {test.mean():.2%}, sd {test.std(ddof=1):.2%}, lowest {test.min():.2%}, 10 seeds")
    assert test.mean() >= least


# Rates in half-decade steps around each optimizer's usual ones: the search space is part of the comparison.
RATES = {
    "sgd": np.logspace(-2.5, 0.5, 7),
    "momentum": np.logspace(-3.5, -0.5, 7),
    "nesterov": np.logspace(-3.5, -0.5, 7),
    "adagrad": np.logspace(-3, 0, 7),
    "rmsprop": np.logspace(-4.5, -1.5, 7),
    "adam": np.logspace(-4.5, -1.5, 7),
    "adamw": np.logspace(-4.5, -1.5, 7),
}


def test_each_optimizer_at_its_own_rate_is_near_the_best():
    """Seven rates and ten seeds each; the rate is chosen by validation, the result is the test part's."""
    base, best = load("digits_mlp"), {}
    print("\n| optimizer | rate | validation | test, mean | sd | lowest |\n| --- | --- | --- | --- | --- | --- |")
    for name, rates in RATES.items():
        config = dataclasses.replace(base, optimizer=optim.Config(name))
        grid = {
            "seed": np.tile(np.arange(10, dtype=np.uint32), len(rates)),
            "optimizer.learning_rate": np.repeat(rates.astype(np.float32), 10),
        }
        found = {part: x.reshape(len(rates), 10) for part, x in accuracies(config, grid, lift=True).items()}
        chosen = int(found["validation"].mean(1).argmax())
        test = found["test"][chosen]
        best[name] = test.mean()
        print(
            f"| {name} | {rates[chosen]:.2g} | {found['validation'][chosen].mean():.2%} | {test.mean():.2%} "
            f"| {test.std(ddof=1):.2%} | {test.min():.2%} |"
        )
    assert max(best.values()) - min(best.values()) <= 0.015
