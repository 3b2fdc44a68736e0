"""Grids as jobs of submitit, on this machine: the tables of one process."""

import importlib.util
import shutil
from dataclasses import replace

import pytest
from directories import tables

from jopt.ablate import axis, executors, run
from jopt.ablate.executors import ExecutorError
from jopt.report.observer import Silent
from jopt.train.directory import LinkError

RATES = axis("optimizer.learning_rate", (0.1, 0.01))


class Linking(Silent):
    """Puts a link in place of the folder of jobs once the grid is planned."""

    def __init__(self, link, target):
        self.link, self.target = link, target

    def plan(self, parts):
        self.link.symlink_to(self.target)


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
    # On a cluster submitit leaves links to its scripts, which must keep no one from the results.
    (tmp_path / "jobs" / "slurm" / "submission_file_1.sh").symlink_to(
        tmp_path / "jobs" / "slurm" / "1_submission.sh"
    )
    run(grid(strategy="map"), tmp_path / "jobs", executor=replace(jobs, local=False))


@needs_submitit
def test_a_folder_of_jobs_that_is_a_link_is_refused(grid, tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "grid").mkdir()
    observer = Linking(tmp_path / "grid" / "slurm", tmp_path / "outside")
    with pytest.raises(LinkError):
        run(grid(), tmp_path / "grid", executor=executors.Slurm(local=True), observer=observer)
    assert list((tmp_path / "outside").iterdir()) == []


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
