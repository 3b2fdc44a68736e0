"""jopt ablate as a user starts it, and one of its trials from its row's command."""

import csv
import json
import shlex

import pytest

GRID = """
from jopt import data, models, optim
from jopt.ablate import Ablation, axis
from jopt.train import Experiment


def get_config():
    return Ablation(
        name="rates",
        experiment=Experiment(
            model=models.ModelConfig(name="mlp", features=(8,), num_classes=3),
            data=data.Synthetic(shape=(4, 4, 1), num_classes=3, train=64, validation=32, test=32),
            optimizer=optim.Config(name="sgd"), epochs=2, batch_size=16,
        ),
        space=axis("optimizer.learning_rate", (0.1, 0.01)),
        seeds=(0, 1),
        control={"learning_rate": 0.1},
    )
"""


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    path = tmp_path_factory.mktemp("grids") / "rates.py"
    path.write_text(GRID)
    return path


@pytest.fixture(scope="module")
def finished(app, grid, tmp_path_factory):
    """A finished grid: its directory, and what it printed."""
    path = tmp_path_factory.mktemp("grids") / "finished"
    done = app("ablate", f"--config={grid}", f"--workdir={path}", "--config.experiment.epochs=3")
    assert done.returncode == 0, done.stderr
    return path, done.stdout


def trials(path):
    with (path / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_plan_comes_first_and_the_summary_last(finished):
    path, printed = finished
    assert "4 trials, 2 points with 2 seeds each" in printed.splitlines()[0]
    assert printed.index("Axes") < printed.index("Plan") < printed.index("Summary")
    assert str(path / "report.html") in printed.splitlines()[-1]


def test_a_rows_command_makes_the_trial_again_alone(forked, finished, tmp_path):
    """The overrides that the grid was launched with are part of it."""
    row = trials(finished[0])[1]
    jopt, name, *args = shlex.split(row["command"])
    assert (jopt, name) == ("jopt", "train")
    assert "--config.experiment.epochs=3" in args and f"--trial={row['trial']}" in args
    done = forked("train", *args, "--quiet", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads((tmp_path / "runs" / row["trial"] / "result.json").read_text())
    assert result["loss"] == pytest.approx(float(row["loss"]), rel=1e-5)
    config = json.loads((tmp_path / "runs" / row["trial"] / "config.json").read_text())
    assert (config["epochs"], config["seed"], config["optimizer"]["learning_rate"]) == (3, 1, 0.1)


def test_the_same_grid_launched_elsewhere_is_the_same_to_the_byte(forked, finished, grid, tmp_path):
    where = tmp_path / "again"
    done = forked("ablate", f"--config={grid}", f"--workdir={where}", "--config.experiment.epochs=3", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for name in ("trials.csv", "summary.csv", "curves.jsonl", "ablation.json", "report.md"):
        assert (where / name).read_bytes() == (finished[0] / name).read_bytes(), name


MISTAKES = {
    "an address without a cluster": (["--address=auto"], 2, "--executor=local"),
    "a negative GPU": (["--executor=ray", "--gpus_per_chunk=-1"], 2, "gpus_per_chunk"),
    "an option without a value": (["--executor=slurm", "--slurm=partition"], 2, "NAME=VALUE"),
    "no such executor": (["--executor=dask"], 2, "local|ray|slurm"),
    "an unknown metric": (["--config.metric=f1"], 2, "ConfigError: metric must be one of 'accuracy', "),
    "an unknown field": (["--config.sede=1"], 2, "sede must be absent: "),
    "devices of a plan without a plan": (["--devices=64"], 2, "--devices and --device_kind are of a plan"),
    "a plan in a directory": (["--dry_run"], 2, "--workdir=DIRECTORY is required, and absent with --dry_run"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(forked, refused, grid, tmp_path, case):
    args, status, message = MISTAKES[case]
    done = forked("ablate", f"--config={grid}", f"--workdir={tmp_path / 'grid'}", *args, "--quiet")
    assert message in refused(done, status)
    assert not list(tmp_path.iterdir())


def test_a_plan_for_other_devices_is_printed_and_nothing_is_written(forked, grid, tmp_path):
    args = (f"--config={grid}", "--dry_run", "--devices=64", "--device_kind=tpu_v5e")
    done = forked("ablate", *args, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Simulated, not run: rates on 64 x tpu_v5e: 4 trials, 1 program")
    assert "Simulated plan for 64 x tpu_v5e" in done.stdout and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_ablations_and_experiments_are_not_taken_for_one_another(forked, refused, grid, config, tmp_path):
    workdir = f"--workdir={tmp_path / 'run'}"
    done = forked("ablate", f"--config={config}", workdir)
    assert "a file whose get_config() returns a jopt.ablate.Ablation, got 'get_config() -> Experiment'" in refused(
        done, 2
    )
    done = forked("train", f"--config={grid}", workdir)
    assert "--trial must be an id: --config is an ablation, and" in refused(done, 2)
    done = forked("train", f"--config={grid}", "--trial=0123", workdir)
    message = refused(done, 2)
    assert "--trial must be the id of one of the 4 trials of 'rates'; none start with this, got '0123'" in message
    done = forked("train", f"--config={config}", "--trial=0123", workdir)
    assert "--trial must be absent: it is valid only with the config of an ablation, got '0123'" in refused(done, 2)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_another_grids_directory_is_status_1_and_stays_as_it_is(forked, refused, finished, grid):
    before = {p: p.read_bytes() for p in finished[0].rglob("*") if p.is_file()}
    done = forked(
        "ablate", f"--config={grid}", f"--workdir={finished[0]}", "--config.experiment.epochs=4", "--quiet"
    )
    assert "the experiment differs in epochs (3 there, 4 now)" in refused(done, 1)
    assert before == {p: p.read_bytes() for p in finished[0].rglob("*") if p.is_file()}
