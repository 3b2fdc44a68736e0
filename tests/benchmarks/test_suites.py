"""Every suite runs end to end at its smallest and writes what docs/benchmarks.md says; no time is asserted."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import quick

from experiments.benchmarks import machine, startup, tables, timing, training
from experiments.benchmarks.cases import CASES
from jopt import report

ROOT = Path(__file__).parents[2]
SMALL = """
from jopt import data, models
from jopt.train import Experiment


def get_config():
    sizes = data.Synthetic(shape=(4, 4, 1), num_classes=4, train=32, validation=8, test=8)
    return Experiment(
        name="small", model=models.Config("linear", num_classes=4), data=data.Config("synthetic", synthetic=sizes),
        epochs=1, batch_size=16,
    )
"""


def numbers(value):
    if isinstance(value, dict):
        return [n for v in value.values() for n in numbers(v)]
    if isinstance(value, list):
        return [n for v in value for n in numbers(v)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


def assert_spread(value):
    assert set(value) == {"median", "p10", "p90"}
    assert 0 < value["p10"] <= value["median"] <= value["p90"] < math.inf


def test_train_and_matmul_write_the_documented_json(tmp_path):
    pytest.importorskip("torch", reason="PyTorch is not installed: it is the extra 'jopt[bench]'")
    command = [sys.executable, "-m", "experiments.benchmark", "--only=train", "--only=matmul", "--repeats=1"]
    command += ["--seconds=0", "--cases=MLP 300-100, digits, batch 64", "--matmul_size=64"]
    command += [f"--json={tmp_path / 'b.json'}", f"--markdown={tmp_path / 'b.md'}"]
    # PyTorch's threads would spin while they wait, for seconds where other tests run at the same time.
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "XLA_FLAGS": quick.FLAGS}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "jopt segment" in done.stdout
    found = json.loads((tmp_path / "b.json").read_text())
    assert set(found) == {"schema", "argv", "settings", "machine", "others_share", "train", "matmul"}
    assert found["schema"] == 1
    assert set(found["others_share"]) == {"train", "matmul"}
    assert {"date", "cpu", "cores", "packages", "load"} <= set(found["machine"])
    (row,) = found["train"]
    assert row["case"] == "MLP 300-100, digits, batch 64"
    names = {training.JOPT, training.PYTHON_LOOP, training.PYTORCH}
    names |= {training.PYTORCH_FUSED, training.PYTORCH_ONE_THREAD}
    assert set(row["seconds_per_step"]) == names
    assert {r["against"] for r in row["ratios"]} == names - {training.JOPT}
    for measured in [*row["seconds_per_step"].values(), found["matmul"]["gflops_per_second"]]:
        assert_spread(measured)
    (row,) = found["matmul"]["rows"]
    assert_spread(row["gflops_per_second"])
    assert_spread(row["share"])
    assert row["flops_per_step"] > 0
    text = (tmp_path / "b.md").read_text()
    assert text.count("| :---") == 2 and training.PYTORCH in text


@pytest.fixture
def small(tmp_path):
    """Flags of a run that trains for two steps."""
    path = tmp_path / "small.py"
    path.write_text(SMALL)
    return f"--config={path}"


def test_a_run_is_timed_from_its_launch_and_its_memory_is_in_bytes(tmp_path, small):
    environment = startup._environment() | {"XLA_FLAGS": quick.FLAGS}
    run = startup._run(tmp_path / "run", tmp_path / "cache", environment, [small])
    assert 0 < run.first_step <= run.end < math.inf
    # JAX alone holds more than this; a number in kibibytes would be far below, one in bits above.
    assert 1e8 < run.peak < 1e10
    rows = {cache: timing.spread([run.first_step]) for cache in ("cold", "warm")}
    imports = {startup.JOPT_IMPORT: timing.spread([1.5]), startup.LIBRARIES_IMPORT: timing.spread([1.0])}
    ratio = timing.ratio(startup.LIBRARIES_IMPORT, np.array([1.5]), np.array([1.0]), startup.IMPORT_TARGET)
    text = report.to_markdown(tables.startup_table(startup.Startup(imports, ratio, rows, rows, rows)))
    assert "peak memory, cold cache" in text


def test_imports_are_timed_inside_a_process():
    assert 0 < startup._import("import time; time.sleep(0.1)", startup._environment()) - 0.1 < 1


@pytest.mark.slow
def test_startup_measures_imports_runs_and_memory():
    measured = startup.startup(1, 1, "configs/digits_mlp.py", "--config.epochs=1")
    found = machine.to_json(measured)
    for value in [*found["import_seconds"].values(), *found["first_step_seconds"].values()]:
        assert_spread(value)
    assert (
        set(found["first_step_seconds"])
        == set(found["run_seconds"])
        == set(found["peak_bytes"])
        == {"cold", "warm"}
    )
    for cache in ("cold", "warm"):
        assert found["run_seconds"][cache]["median"] >= found["first_step_seconds"][cache]["median"]
        # JAX alone holds more than this; a number in kibibytes would be far below, one in bits above.
        assert 1e8 < found["peak_bytes"][cache]["median"] < 1e10
    assert all(map(math.isfinite, numbers(found)))
    assert "peak memory, cold cache" in report.to_markdown(tables.startup_table(measured))


def test_a_failing_run_shows_what_it_wrote(tmp_path):
    with pytest.raises(RuntimeError, match="no_such_config"):
        startup._run(tmp_path / "run", tmp_path, dict(os.environ), ["--config=no_such_config.py"])


def test_an_unknown_case_is_refused_with_the_known_ones():
    done = subprocess.run(
        [sys.executable, "-m", "experiments.benchmark", "--cases=nothing"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert CASES[0].name in done.stderr
