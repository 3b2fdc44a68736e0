"""jopt train: overrides reach the run, and every mistake is one line and a status, with nothing left."""

import json
import shutil

import pytest

COMMAND_LINE = {
    "unknown_field": (["--config.seeed=1"], "near are seed, got"),
    "unknown_nested": (
        ["--config.optimizer.lr=1"],
        "ConfigError: optimizer.lr must be absent: optimizer has only name",
    ),
    "wrong_type": (["--config.seed=abc"], "ConfigError: seed must be of type int, got 'abc'"),
    "no_such_stage": (["--config.stages[3].steps=3"], "ConfigError: stages[3].steps must be absent"),
    "out_of_range": (
        ["--config.optimizer.momentum=1.5"],
        "ConfigError: optimizer.momentum must be a number in [0, 1)",
    ),
    "idle_rule": (
        ["--config.optimizer.freeze=('nope',)"],
        "RuleError: optimizer.freeze: rule 'nope' matches no parameter",
    ),
    "used_directory": (["--profile=/"], "ConfigError: profile must be a new or empty directory; it holds"),
    "unknown_flag": (["--wrkdir=x"], "Unknown command line flag 'wrkdir'"),
    "stray_argument": (["runs/a"], "the command line must be flags only, such as --name=value, got 'runs/a'"),
}


# Each is a process. One of each kind of error: of a field, of a value's type, of a rule, of the arguments.
KINDS = ("unknown_field", "wrong_type", "idle_rule", "used_directory", "stray_argument")


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=() if c in KINDS else pytest.mark.slow) for c in COMMAND_LINE]
)
def test_a_mistake_in_the_command_is_one_line_and_status_2(forked, config, refused, tmp_path, case):
    args, message = COMMAND_LINE[case]
    done = forked("train", f"--config={config}", f"--workdir={tmp_path / 'run'}", *args)
    assert message in refused(done, 2)
    assert not list(tmp_path.iterdir())


FILES = {
    "missing": (None, "No such file or directory"),
    "not_an_experiment": ("def get_config():\n    return {'seed': 1}\n", "got 'get_config() -> dict'"),
    "misspelt": (
        "from jopt import optim\ndef get_config():\n    return optim.Config(lr=1)\n",
        "unexpected keyword argument 'lr' (config.py, line 3)",
    ),
    "refuses": (
        "from jopt import optim\ndef get_config():\n    optim.validate(optim.Config(b1=2.0))\n",
        "ConfigError: optimizer.b1 must be a number in [0, 1), got 2.0 (config.py, line 3)",
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_a_mistake_in_the_config_file_is_one_line_with_its_place(forked, refused, tmp_path, case):
    text, message = FILES[case]
    if text is not None:
        (tmp_path / "config.py").write_text(text)
    done = forked("train", "--config=config.py", "--config.seed=1", "--workdir=run", cwd=tmp_path)
    assert message in refused(done, 2)
    assert not (tmp_path / "run").exists()


def test_a_run_needs_a_directory(forked, config, refused, tmp_path):
    assert "flag --workdir=None" in refused(forked("train", f"--config={config}", cwd=tmp_path), 2)
    assert not list(tmp_path.iterdir())


def test_a_directory_of_something_else_is_status_1_and_stays_as_it_is(forked, config, refused, tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    done = forked("train", f"--config={config}", f"--workdir={tmp_path}")
    assert "WorkdirError" in (line := refused(done, 1)) and "holds thesis.tex but no config.json" in line
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_data_that_cannot_be_had_are_status_1(forked, refused, tmp_path):
    # A directory where the lock file goes: also root cannot write there.
    (tmp_path / "sets" / ".digits.lock").mkdir(parents=True)
    (tmp_path / "digits.py").write_text("from jopt.train import Experiment as get_config\n")
    flags = [f"--config.data.data_dir={tmp_path / 'sets'}"]
    done = forked("train", f"--config={tmp_path / 'digits.py'}", f"--workdir={tmp_path / 'run'}", *flags)
    assert "DataError: data.data_dir: cannot write" in refused(done, 1)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_is_status_1(forked, config, refused, tmp_path):
    flags = ["--config.optimizer.name=sgd", "--config.optimizer.learning_rate=1e30", "--quiet"]
    done = forked("train", f"--config={config}", f"--workdir={tmp_path / 'run'}", "--debug_nans", *flags)
    line = refused(done, 1)
    assert "NonFiniteError: the training loss is not finite at step" in line
    assert "dot_general of MLP/Dense_1" in line
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["exit_status"] == "diverged"
    assert manifest["events"][-1]["non_finite"]["operation"]["layer"] == "MLP/Dense_1"


def test_overrides_reach_the_run(runs):
    config = json.loads((runs / "b" / "config.json").read_text())
    assert (config["seed"], config["optimizer"]["learning_rate"], config["stages"][0]["steps"]) == (7, 3e-3, 9)
    rows = [json.loads(line) for line in (runs / "b" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 9
    assert json.loads((runs / "b" / "manifest.json").read_text())["seed"] == 7


def test_another_config_in_a_used_directory_is_status_1_and_names_the_fields(forked, config, refused, runs):
    before = {p: p.read_bytes() for p in runs.rglob("*") if p.is_file()}
    done = forked("train", f"--config={config}", f"--workdir={runs / 'a'}", "--config.seed=5")
    assert "differs in seed (0 there, 5 now)" in refused(done, 1)
    assert before == {p: p.read_bytes() for p in runs.rglob("*") if p.is_file()}


def test_a_resume_with_other_versions_is_status_1_and_one_line_until_it_is_accepted(
    forked, config, refused, runs, tmp_path
):
    run = shutil.copytree(runs / "a", tmp_path / "run")
    (run / "result.json").unlink()
    manifest = json.loads((run / "manifest.json").read_text())
    now, manifest["packages"]["optax"] = manifest["packages"]["optax"], "0.0.1"
    (run / "manifest.json").write_text(json.dumps(manifest))
    command = ("train", f"--config={config}", f"--workdir={run}", "--quiet")
    line = refused(forked(*command), 1)
    assert f"optax (0.0.1 then, {now} now)" in line and "--accept_changes" in line
    done = forked(*command, "--accept_changes")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("warning: This mixes different surroundings: optax 0.0.1, then ")
    (change,) = json.loads((run / "result.json").read_text())["changes"]
    assert change == {"name": "optax", "then": "0.0.1", "now": now, "step": 12}
