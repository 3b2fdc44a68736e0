"""Remote directories of each test, and machines: each has its own place for local copies."""

import pytest
from faulty import Careless, Faulty

from jopt.remote import lease, mirror, staging


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Makes this process one on another machine, by name, whose owners are taken for dead soon."""
    monkeypatch.setattr(mirror, "PAUSE", 0.0)
    monkeypatch.setattr(lease, "PERIOD", 0.02)
    monkeypatch.setattr(lease, "PATIENCE", 0.06)

    def become(name):
        monkeypatch.setenv(staging.VARIABLE, str(tmp_path / "machines" / name))

    become("a")
    Faulty.clear()
    yield become
    Faulty.clear()
    Careless.store.clear()
