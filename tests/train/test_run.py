"""A run in its directory: what it leaves, what it refuses, and that stopping changes nothing."""

import dataclasses
import json
import shutil
import signal
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jopt import models, optim, task
from jopt.config import ConfigError, from_dict, to_dict
from jopt.files import unseal
from jopt.method import Method
from jopt.train import Experiment, NonFiniteError, Stage, metrics, run, session
from jopt.train.checkpoint import Checkpoints, MismatchError
from jopt.train.workdir import StopRequested, Workdir, WorkdirError
from jopt.transform import ParamTransform

# Where a fact holds of any program: `optimized` are those tests that look at programs as users run them.
pytestmark = pytest.mark.unoptimized
undrawn = pytest.mark.usefixtures("undrawn")


def rows_of(workdir):
    return metrics.without_timing(metrics.read(Workdir(workdir).metrics))


def manifest_of(workdir):
    return json.loads((workdir / "manifest.json").read_text())


@pytest.mark.optimized
def test_a_run_leaves_what_it_promises(tmp_path, tiny):
    config = tiny()
    result = run(config, tmp_path / "a", quiet=True)
    files = {p.name for p in (tmp_path / "a").iterdir()}
    assert {
        "config.json", "manifest.json", "metrics.jsonl", "result.json", "report.md", "report.html",
        "checkpoints",
    } <= files  # fmt: skip
    assert any(name.startswith("events.out.tfevents") for name in files)
    assert from_dict(Experiment, json.loads((tmp_path / "a" / "config.json").read_text())) == config
    assert unseal(json.loads((tmp_path / "a" / "result.json").read_text())) == result
    assert list(result) == [
        "accuracy", "loss", "parameters", "nonzero_parameters", "sparsity", "bytes", "flops", "wall_seconds",
        "compile_seconds", "digest",
    ]  # fmt: skip
    assert result["parameters"] == 36 * 16 + 16 + 16 * 4 + 4
    assert result["bytes"] == 4 * result["parameters"]
    assert result["flops"] == 2 * (36 * 16 + 16 * 4)
    assert 0 < result["compile_seconds"] < result["wall_seconds"]
    rows = metrics.read(tmp_path / "a" / "metrics.jsonl")
    assert [(r["step"], r["split"]) for r in rows] == [
        (step, split) for step in (6, 12, 18, 24) for split in ("train", "validation")
    ] + [(24, "test")]
    assert all(r["steps_per_second"] > 0 for r in rows if r["split"] == "train")
    assert rows[-1]["accuracy"] == result["accuracy"]


@undrawn
def test_the_manifest_tells_where_the_numbers_come_from(tmp_path, tiny):
    result = run(tiny(seed=3), tmp_path / "a", quiet=True)
    manifest = manifest_of(tmp_path / "a")
    assert manifest["config"] == to_dict(tiny(seed=3))
    assert manifest["seed"] == 3 and manifest["exit_status"] == "finished"
    assert manifest["digest"] == result["digest"]
    assert len(manifest["dataset_fingerprint"]) == 64
    assert manifest["packages"]["jax"] and manifest["python"] and manifest["devices"]["platform"] == "cpu"
    assert [e["event"] for e in manifest["events"]] == ["start", "stop"]


@undrawn
def test_one_compilation_a_function_however_many_segments(tmp_path, tiny):
    run(tiny(epochs=7), tmp_path / "a", quiet=True)
    counts = manifest_of(tmp_path / "a")["events"][-1]["compilations"]
    # The validation and the test part have one size, and so one program.
    assert counts == {"init": 1, "segment": 1, "evaluate": 1}
    run(tiny(stages=[Stage("a", steps=10), Stage("b", steps=6)]), tmp_path / "b", quiet=True)
    counts = manifest_of(tmp_path / "b")["events"][-1]["compilations"]
    # The first stage's last segment is shorter than its others, and the second one's does not begin with an epoch.
    assert counts == {"init": 2, "segment": 3, "evaluate": 1}


@undrawn
@pytest.mark.optimized
def test_a_second_launch_of_the_same_config_gives_the_same_digest(tmp_path, tiny):
    a, b = (run(tiny(), tmp_path / name, quiet=True) for name in "ab")
    assert a["digest"] == b["digest"]
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "b")
    assert run(tiny(seed=1), tmp_path / "c", quiet=True)["digest"] != a["digest"]


@undrawn
def test_a_finished_run_is_not_run_again(tmp_path, tiny, monkeypatch):
    result = run(tiny(), tmp_path / "a", quiet=True)
    before = {p: p.read_bytes() for p in (tmp_path / "a").rglob("*") if p.is_file()}
    monkeypatch.setattr("jopt.train.session.prepare", lambda *args, **kwargs: pytest.fail("it was prepared"))
    assert run(tiny(), tmp_path / "a", quiet=True) == result
    assert before == {p: p.read_bytes() for p in (tmp_path / "a").rglob("*") if p.is_file()}


@undrawn
def test_another_config_is_refused_by_its_fields_and_nothing_changes(tmp_path, tiny):
    run(tiny(), tmp_path / "a", quiet=True)
    before = {p: p.read_bytes() for p in (tmp_path / "a").rglob("*") if p.is_file()}
    other = tiny(seed=5, optimizer=optim.Config(learning_rate=0.5))
    with pytest.raises(WorkdirError) as error:
        run(other, tmp_path / "a", quiet=True)
    assert "seed (0 there, 5 now)" in str(error.value)
    assert "optimizer.learning_rate (0.01 there, 0.5 now)" in str(error.value)
    assert before == {p: p.read_bytes() for p in (tmp_path / "a").rglob("*") if p.is_file()}


def test_a_directory_of_something_else_is_refused(tmp_path, tiny):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(WorkdirError, match=r"thesis\.tex.*config\.json"):
        run(tiny(), tmp_path, quiet=True)
    with pytest.raises(WorkdirError, match="is not a directory"):
        run(tiny(), tmp_path / "thesis.tex", quiet=True)
    with pytest.raises(WorkdirError, match="cannot be written"):
        run(tiny(), tmp_path / "thesis.tex" / "run", quiet=True)


def test_two_processes_do_not_share_a_directory(tmp_path, tiny):
    files = Workdir(tmp_path / "a")
    files.create(tiny())
    with files.locked(), pytest.raises(WorkdirError, match="in use"):
        run(tiny(), tmp_path / "a", quiet=True)


@undrawn
def test_a_non_finite_loss_stops_the_run_and_names_step_and_checkpoint(tmp_path, tiny):
    config = tiny(
        stages=[Stage("calm", epochs=2), Stage("wild", epochs=2, optimizer=optim.Config("sgd", learning_rate=1e30))]
    )
    with pytest.raises(NonFiniteError) as error:
        run(config, tmp_path / "a", quiet=True)
    assert "the training loss is not finite at step 1" in str(error.value)  # 13 or 14
    assert str(tmp_path / "a" / "checkpoints" / "12") in str(error.value)
    assert manifest_of(tmp_path / "a")["exit_status"] == "diverged"
    assert not (tmp_path / "a" / "result.json").exists()
    assert all(np.isfinite(row["loss"]) for row in metrics.read(tmp_path / "a" / "metrics.jsonl"))


class Interruption(Exception):
    """Stands for whatever ends a process between two segments."""


def interrupted_at(monkeypatch, step):
    """Makes the run fail when it has recorded `step`."""
    original = session._Session._at_boundary

    def at_boundary(self, boundary):
        state = original(self, boundary)
        if boundary.segment.stop == step:
            raise Interruption
        return state

    monkeypatch.setattr(session._Session, "_at_boundary", at_boundary)


HARD = {
    "plain": {},
    "ema": {"ema_decay": 0.9, "task": task.Classification(label_smoothing=0.1)},
    "accumulation": {
        "optimizer": optim.Config("momentum", learning_rate=0.05, accumulate_steps=4, clip_by_global_norm=1.0)
    },
    "stages": {
        "stages": [Stage("a", epochs=2), Stage("b", epochs=2, optimizer=optim.Config("rmsprop", schedule="cosine"))]
    },
    "parallel": {"data_parallel": True},
    "batch_norm": {"ema_decay": 0.9},
}


class Normalized(nnx.Module):
    """Batch statistics and dropout: a state besides the parameters, and random numbers in the forward pass."""

    def __init__(self, rngs):
        self.hidden = nnx.Linear(36, 16, rngs=rngs)
        self.norm = nnx.BatchNorm(16, rngs=rngs)
        self.drop = nnx.Dropout(0.3, rngs=rngs)
        self.out = nnx.Linear(16, 4, rngs=rngs)

    def __call__(self, x):
        return self.out(self.drop(nnx.relu(self.norm(self.hidden(x.reshape(x.shape[0], -1))))))


@pytest.fixture(scope="module")
def wholes(tmp_path_factory):
    """The runs that nothing interrupts, by name: each is run once."""
    finished_runs = {}

    def get(name, config, model):
        if name not in finished_runs:
            path = tmp_path_factory.mktemp("whole")
            finished_runs[name] = path, run(config, path, model=model, quiet=True)
        return finished_runs[name]

    return get


# Every boundary with the programs that users run; every other kind of state at one or two: a stage's end and its
# middle, and where some of the gradients that make one step have been accumulated.
BOUNDARIES = (6, 12, 18, 24)
COVERING = {
    "ema": (12,), "accumulation": (6,), "stages": (12, 18), "parallel": (12,), "batch_norm": (12,),
}  # fmt: skip


def interruptions():
    for name in HARD:
        for step in BOUNDARIES:
            fast = step in COVERING.get(name, BOUNDARIES)
            marks = [] if fast else [pytest.mark.slow]
            yield pytest.param(name, step, marks=[*marks, pytest.mark.optimized] if name == "plain" else marks)


@undrawn
@pytest.mark.parametrize(("name", "step"), list(interruptions()))
def test_an_interrupted_run_ends_as_if_it_had_not_been(tmp_path, tiny, monkeypatch, wholes, name, step):
    config = tiny(**HARD[name], checkpoint_every=1)
    model = models.from_nnx(Normalized) if name == "batch_norm" else None
    path, uninterrupted = wholes(name, config, model)
    with monkeypatch.context() as patched:
        interrupted_at(patched, step)
        with pytest.raises(Interruption):
            run(config, tmp_path / "cut", model=model, quiet=True)
    resumed = run(config, tmp_path / "cut", model=model, quiet=True)
    assert resumed["digest"] == uninterrupted["digest"]
    assert rows_of(tmp_path / "cut") == rows_of(path)
    events = [(e["event"], e["step"]) for e in manifest_of(tmp_path / "cut")["events"]]
    assert events == [("start", 0), ("stop", step), ("resume", step), ("stop", 24)]


@undrawn
def test_a_damaged_checkpoint_costs_time_and_nothing_else(tmp_path, tiny, monkeypatch, caplog):
    config = tiny(checkpoint_every=1)
    uninterrupted = run(config, tmp_path / "whole", quiet=True)
    with monkeypatch.context() as patched:
        interrupted_at(patched, 18)
        with pytest.raises(Interruption):
            run(config, tmp_path / "cut", quiet=True)
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "18" / "state")
    resumed = run(config, tmp_path / "cut", quiet=True)
    assert "checkpoint 18" in caplog.text
    assert resumed["digest"] == uninterrupted["digest"]
    assert rows_of(tmp_path / "cut") == rows_of(tmp_path / "whole")


@undrawn
def test_a_stopped_run_is_saved_and_the_same_command_goes_on(tmp_path, tiny):
    # Nothing is evaluated or saved on the way: only the stop itself can save.
    config = tiny(checkpoint_every=10_000, evaluate_every=10_000, epochs=4)
    uninterrupted = run(config, tmp_path / "whole", quiet=True)
    with pytest.raises(StopRequested):
        run(config, tmp_path / "cut", should_stop=lambda rows: len(rows_of(tmp_path / "cut")) == 2, quiet=True)
    assert manifest_of(tmp_path / "cut")["exit_status"] == "stopped"
    resumed = run(config, tmp_path / "cut", quiet=True)
    assert ("resume", 12) in [(e["event"], e["step"]) for e in manifest_of(tmp_path / "cut")["events"]]
    assert resumed["digest"] == uninterrupted["digest"]
    assert rows_of(tmp_path / "cut") == rows_of(tmp_path / "whole")


@undrawn
def test_minutes_without_a_checkpoint_cost_no_segments_and_change_no_bits(tmp_path, tiny, monkeypatch):
    config = tiny(checkpoint_every=10_000, epochs=4)
    uninterrupted = run(config, tmp_path / "whole", quiet=True)
    with monkeypatch.context() as patched:
        interrupted_at(patched, 12)
        with pytest.raises(Interruption):
            run(config, tmp_path / "cut", checkpoint_minutes=0, quiet=True)
    resumed = run(config, tmp_path / "cut", checkpoint_minutes=1e6, quiet=True)
    assert ("resume", 12) in [(e["event"], e["step"]) for e in manifest_of(tmp_path / "cut")["events"]]
    assert resumed["digest"] == uninterrupted["digest"]
    assert rows_of(tmp_path / "cut") == rows_of(tmp_path / "whole")
    with pytest.raises(ConfigError) as refused:
        run(config, tmp_path / "never", checkpoint_minutes=float("nan"), quiet=True)
    assert refused.value.field == "checkpoint_minutes" and not (tmp_path / "never").exists()


@undrawn
def test_the_library_installs_no_signal_handler(tmp_path, tiny):
    seen = []

    def look(rows):
        seen.append([signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)])
        return False

    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    run(tiny(epochs=1), tmp_path / "a", should_stop=look, quiet=True)
    assert len(seen) >= 2 and all(handlers == before for handlers in seen)


@undrawn
def test_another_run_that_came_first_is_not_overwritten(tmp_path, tiny, monkeypatch):
    """Both found an empty directory; the other one wrote while this one prepared."""
    mine, others = tiny(seed=1), tiny(seed=2)
    original = session.prepare

    def prepare_while_the_other_runs(config, **parts):
        prepared = original(config, **parts)
        if config.seed == mine.seed:
            run(others, tmp_path / "a", quiet=True)
        return prepared

    monkeypatch.setattr("jopt.train.session.prepare", prepare_while_the_other_runs)
    with pytest.raises(WorkdirError, match=r"seed \(2\b.* 1\b"):
        run(mine, tmp_path / "a", quiet=True)
    assert Workdir(tmp_path / "a").load_config() == others


@undrawn
def test_a_model_given_from_python_is_noted_and_asked_for_again(tmp_path, tiny, monkeypatch):
    config = tiny(checkpoint_every=1)
    with monkeypatch.context() as patched:
        interrupted_at(patched, 12)
        with pytest.raises(Interruption):
            run(config, tmp_path / "a", model=models.from_nnx(Normalized), quiet=True)
    assert manifest_of(tmp_path / "a")["given"] == ["model"]
    before = {p: p.read_bytes() for p in (tmp_path / "a").rglob("*") if p.is_file()}
    with pytest.raises(WorkdirError, match=r"given model.*; now"):
        run(config, tmp_path / "a", quiet=True)
    assert before == {p: p.read_bytes() for p in (tmp_path / "a").rglob("*") if p.is_file()}


def test_a_checkpoint_of_another_model_is_refused(tmp_path, tiny):
    config = tiny()
    files = Workdir(tmp_path / "a")
    files.create(config)
    with Checkpoints(files.checkpoints) as checkpoints:
        checkpoints.save(12, {"w": np.zeros(3, np.float32)}, {"score": 0.0})
    # Accepted, as there is no manifest either.
    with pytest.raises(MismatchError, match=r"checkpoint 12 .*: w "):
        run(config, tmp_path / "a", accept_changes=True)


@undrawn
def test_events_and_rows_agree_after_a_resume(tmp_path, tiny, monkeypatch):
    from tensorboardX.proto.event_pb2 import Event

    config = tiny(checkpoint_every=1)
    with monkeypatch.context() as patched:
        interrupted_at(patched, 12)
        with pytest.raises(Interruption):
            run(config, tmp_path / "a", quiet=True)
    run(config, tmp_path / "a", quiet=True)
    seen = []
    for path in sorted((tmp_path / "a").glob("events.out.tfevents.*")):
        content = path.read_bytes()
        while content:
            length = int.from_bytes(content[:8], "little")
            event = Event.FromString(content[12 : 12 + length])
            seen += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
            content = content[16 + length :]
    expected = [
        (row["step"], f"{row['split']}/{name}", row[name])
        for row in metrics.read(tmp_path / "a" / "metrics.jsonl")
        for name in ("loss", "accuracy")
    ]
    losses = sorted((step, tag, np.float32(value)) for step, tag, value in seen if "steps_per" not in tag)
    assert losses == sorted((step, tag, np.float32(value)) for step, tag, value in expected), "each of them once"


@dataclasses.dataclass(frozen=True)
class Halving(Method):
    """A method of somebody else's, whose state is random and moves at every update."""

    name: ClassVar[str] = "halving"

    def build(self, **context):
        del context
        return ParamTransform(
            init=lambda params: jnp.float32(1),
            update=lambda state, params, *, step, grads=None, key=None: (
                state * 0.9 + 0.01 * jax.random.uniform(key)
            ),
            apply=lambda state, params: jax.tree.map(lambda x: x * state, params),
        )


@undrawn
def test_a_transform_is_updated_before_each_segment_and_resumes_exactly(tmp_path, tiny, monkeypatch):
    config = tiny(stages=[Stage(methods=(Halving(),))], checkpoint_every=1)
    uninterrupted = run(config, tmp_path / "whole", quiet=True)
    with monkeypatch.context() as patched:
        interrupted_at(patched, 12)
        with pytest.raises(Interruption):
            run(config, tmp_path / "cut", quiet=True)
    resumed = run(config, tmp_path / "cut", quiet=True)
    assert resumed["digest"] == uninterrupted["digest"] != run(tiny(), tmp_path / "plain", quiet=True)["digest"]
    assert manifest_of(tmp_path / "whole")["events"][-1]["compilations"]["update"] == 1
