"""Small grids on synthetic data, that the tests of ablations share."""

import dataclasses

import pytest

from jopt import data, models, optim
from jopt.ablate import Ablation, axis, run
from jopt.train import Experiment

RATE = "optimizer.learning_rate"


@pytest.fixture(scope="session")
def small():
    """Makes the smallest experiment that learns something; keyword arguments replace its fields."""

    def make(**changes) -> Experiment:
        config = Experiment(
            name="small",
            model=models.Config(name="mlp", features=(4,), num_classes=3),
            data=data.Config(
                name="synthetic",
                synthetic=data.Synthetic(shape=(3, 3, 1), num_classes=3, train=32, validation=16, test=16),
            ),
            optimizer=optim.Config(name="sgd", learning_rate=0.1),
            epochs=2,
            batch_size=8,
            pack=True,
        )
        return dataclasses.replace(config, **changes)

    return make


@pytest.fixture(scope="session")
def grid(small):
    """Makes a grid over two rates and two seeds; keyword arguments replace its fields."""

    def make(space=None, **changes) -> Ablation:
        given = {"name": "grid", "experiment": small(), "seeds": (0, 1)}
        return Ablation(**{**given, "space": axis(RATE, (0.1, 0.01)) if space is None else space, **changes})

    return make


@pytest.fixture(scope="session")
def first(grid, tmp_path_factory):
    """A finished grid of two rates and two seeds: its directory and its results."""
    path = tmp_path_factory.mktemp("grids") / "first"
    return path, run(grid(), path, devices=1, quiet=True)
