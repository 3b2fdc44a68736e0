"""Small grids on synthetic data, that the tests of ablations share."""

import pytest
from tiny import smallest_experiment, tiny_ablation

from jopt.ablate import Ablation, run


@pytest.fixture(scope="session")
def small():
    """Makes the smallest experiment that learns something; keyword arguments replace its fields."""
    return smallest_experiment


@pytest.fixture(scope="session")
def grid():
    """Makes a grid over two rates and two seeds; keyword arguments replace its fields."""

    def make(space=None, **changes) -> Ablation:
        return tiny_ablation(**changes if space is None else {"space": space, **changes})

    return make


@pytest.fixture(scope="session")
def first(grid, tmp_path_factory):
    """A finished grid of two rates and two seeds: its directory and its results."""
    path = tmp_path_factory.mktemp("grids") / "first"
    return path, run(grid(), path, devices=1, quiet=True)
