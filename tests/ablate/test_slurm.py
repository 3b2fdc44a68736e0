"""Grids as jobs of submitit, on this machine: the tables of one process."""

import importlib.util
import shutil
from dataclasses import replace

import pytest
from directories import tables

from jopt.ablate import axis, executors, run
from jopt.ablate.executors import ExecutorError

RATES = axis("optimizer.learning_rate", (0.1, 0.01))

needs_submitit = pytest.mark.skipif(
    importlib.util.find_spec("submitit") is None, reason="submitit is not installed: pip install 'jopt[slurm]'"
)


@needs_submitit
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
def test_jobs_leave_the_tables_of_one_process(grid, tmp_path):
    run(grid(strategy="map"), tmp_path / "alone", devices=1)
    jobs = executors.Slurm(local=True, workers=1)
    run(grid(strategy="map"), tmp_path / "jobs", executor=jobs)
    assert tables(tmp_path / "jobs") == tables(tmp_path / "alone")
    # A lost directory of jobs loses no result.
    shutil.rmtree(tmp_path / "jobs" / "slurm")
    run(grid(strategy="map"), tmp_path / "jobs", executor=replace(jobs, local=False))


@needs_submitit
@pytest.mark.skipif(shutil.which("sbatch") is not None, reason="this machine submits jobs")
def test_a_machine_that_submits_no_jobs_says_so(grid, tmp_path):
    with pytest.raises(ExecutorError) as raised:
        run(grid(), tmp_path / "grid", executor=executors.Slurm())
    assert raised.value.executor == "slurm" and "--slurm_local" in raised.value.problem
    assert not (tmp_path / "grid" / "ablation.json").exists()


@pytest.mark.parametrize("name", ["ray", "submitit"])
def test_a_package_that_is_not_installed_is_named(grid, tmp_path, name):
    if importlib.util.find_spec(name) is not None:
        pytest.skip(f"{name} is installed")
    executor = executors.Ray() if name == "ray" else executors.Slurm()
    with pytest.raises(ExecutorError) as raised:
        run(grid(), tmp_path / "grid", executor=executor)
    assert f"jopt[{executor.name}]" in raised.value.problem
