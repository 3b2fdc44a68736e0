"""Small experiments that the tests of training share."""

import dataclasses

import pytest
import quick

from jopt import data, models, optim
from jopt.train import Experiment


@pytest.fixture
def unoptimized():
    """As the marker of that name, for what a test does itself."""
    with quick.compilation():
        yield


@pytest.fixture
def undrawn(monkeypatch):
    """Reports without Plotly's script, 5 MB a run: `tests/report` has them whole."""
    monkeypatch.setattr("plotly.offline.get_plotlyjs", lambda: "")


@pytest.fixture
def tiny():
    """Makes a small experiment on synthetic data; keyword arguments replace its fields."""

    def make(**changes) -> Experiment:
        config = Experiment(
            name="tiny",
            model=models.Config(name="mlp", features=(16,), num_classes=4),
            data=data.Config(
                name="synthetic",
                synthetic=data.Synthetic(shape=(6, 6, 1), num_classes=4, train=96, validation=40, test=24),
            ),
            optimizer=optim.Config(name="adam", learning_rate=1e-2),
            epochs=4,
            batch_size=16,
            checkpoint_every=2,
        )
        return dataclasses.replace(config, **changes)

    return make
