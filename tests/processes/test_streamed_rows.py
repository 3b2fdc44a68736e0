"""Two processes stream: each reads its own rows, and a killed run continues at the row where it stopped."""

import dataclasses
import importlib.util
import json
import signal

import jax.numpy as jnp
import numpy as np
import pytest

from jopt import data, keys
from jopt.processes import LOST
from jopt.train import run
from tests.faults.layouts import Layout, Outcome, launched, run_until
from tests.processes import streamed
from tests.processes.harness import ends

TWO = Layout(processes=2, devices=1, fsdp=False)
FIRST_ROWS = 4


def without_grain(source):
    absent = importlib.util.find_spec("grain") is None
    return pytest.param(
        source, marks=[pytest.mark.slow, pytest.mark.skipif(absent, reason="grain is not installed")]
    )


def columns_of(process, begin):
    """The rows that a process has to read from a step on."""
    root, count = keys.root(0), streamed.STEPS - begin
    order = data.indices(root, jnp.int32(begin), count, streamed.BATCH, streamed.EXAMPLES)
    half = streamed.BATCH // 2
    return _trained(np.asarray(order)[:, process * half : (process + 1) * half].ravel())


def _trained(rows):
    # Each launch asks for row 0, which tells the shape.
    return sorted(int(row) for row in rows if row)


def rows_read(log, running):
    return [_trained(map(int, (log / str(one.process.pid)).read_text().split())) for one in running]


@pytest.mark.parametrize("source", ["plain", without_grain("map_dataset"), without_grain("range_source")])
def test_each_process_reads_its_own_rows_from_where_a_kill_came(source, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_NUMPY_DTYPE_PROMOTION", "strict")
    monkeypatch.setenv("JAX_NUMPY_RANK_PROMOTION", "raise")
    run(dataclasses.replace(streamed.get_config(source), mesh=()), tmp_path / "whole", quiet=True)
    directory, log = tmp_path / "run", tmp_path / "log"
    log.mkdir()
    settings = {"config": streamed.__file__, streamed.LOG: str(log)}
    with launched(source, directory, TWO, **settings) as running:
        assert run_until(running, directory, FIRST_ROWS), [one.stderr for one in running]
        running[1].signal(signal.SIGKILL)
        assert [one.status for one in ends(running)] == [LOST, -signal.SIGKILL]
    for process, rows in enumerate(rows_read(log, running)):
        assert rows and set(rows) < set(columns_of(process, 0))
    with launched(source, directory, TWO, **settings) as running:
        assert [one.status for one in ends(running, 120)] == [0, 0], [one.stderr for one in running]
    events = json.loads((directory / "manifest.json").read_text())["events"]
    begin = next(event["step"] for event in events if event["event"] == "resume")
    assert 0 < begin < streamed.STEPS
    assert rows_read(log, running) == [columns_of(process, begin) for process in range(2)]
    assert Outcome.of(tmp_path / "whole").differences(Outcome.of(directory)) == []
