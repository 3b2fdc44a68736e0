"""Small experiments that the tests of training share."""

import pytest
import quick
from tiny import tiny_experiment

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
        return tiny_experiment(**{"epochs": 4, "checkpoint_every": 2, **changes})

    return make
