"""A run continues on other numbers of devices and processes with the same bits."""

import dataclasses
import signal

import pytest

from jopt.processes import LOST
from jopt.train import run
from jopt.train.workdir import StopRequested
from tests.faults.layouts import Layout, Outcome, launched, rows_of, run_until
from tests.faults.layouts_config import get_config
from tests.processes.harness import ends

FOUR = (("data", 4),)


def test_a_run_is_killed_on_two_processes_between_two_parts_on_four_devices(tmp_path, monkeypatch):
    # As conftest.py has set them for this process: a resume under other options is refused.
    monkeypatch.setenv("JAX_NUMPY_DTYPE_PROMOTION", "strict")
    monkeypatch.setenv("JAX_NUMPY_RANK_PROMOTION", "raise")
    config = dataclasses.replace(get_config("mlp"), mesh=FOUR)
    run(config, tmp_path / "whole", quiet=True)
    directory = tmp_path / "moved"
    # In the second stage: the primary alone also reads the end of the first, which must not part the processes.
    with pytest.raises(StopRequested):
        run(config, directory, quiet=True, should_stop=lambda rows: any(row["step"] >= 15 for row in rows))
    rows = rows_of(directory)
    with launched("mlp", directory, Layout(processes=2, devices=1, fsdp=True)) as running:
        assert run_until(running, directory, rows + 3), [one.stderr for one in running]
        running[1].signal(signal.SIGKILL)
        assert [one.status for one in ends(running)] == [LOST, -signal.SIGKILL]
    assert rows_of(directory) > rows
    run(config, directory, quiet=True)
    assert Outcome.of(tmp_path / "whole").differences(Outcome.of(directory)) == []
