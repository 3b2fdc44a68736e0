"""A finished run read back: the very parameters of its result, or a clear refusal."""

import dataclasses
import json
import shutil
import sys
from typing import ClassVar

import jax
import numpy as np
import pytest

from jopt import data, models, optim
from jopt.method import Method
from jopt.train import Experiment, Stage, digest, run
from jopt.train.checkpoint import CheckpointError
from jopt.train.finished import load
from jopt.train.workdir import WorkdirError
from jopt.transform import identity

pytestmark = pytest.mark.unoptimized


def xor(**changes) -> Experiment:
    config = Experiment(
        name="xor",
        model=models.ModelConfig(name="xor", num_classes=2),
        data=data.DataConfig(name="xor"),
        optimizer=optim.Config(name="momentum", learning_rate=1.0),
        batch_size=0,
        stages=[Stage("first", steps=10), Stage("second", steps=20)],
        segment_steps=10,
        checkpoint_every=1,
        ema_decay=0.9,
    )
    return dataclasses.replace(config, **changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "xor"
    return path, run(xor(), path, quiet=True)


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the run, to damage."""
    shutil.copytree(finished[0], tmp_path / "copy")
    return tmp_path / "copy"


def listing(path):
    return {str(p.relative_to(path)): (p.stat().st_mtime_ns, p.stat().st_size) for p in path.rglob("*")}


def test_what_the_run_ended_with(finished):
    path, result = finished
    before = listing(path)
    finished = load(path)
    assert finished.config == xor() and finished.result == result
    state = finished.state
    assert int(state.step) == 30
    assert digest({"params": state.params, "model_state": state.model_state, "ema": state.ema}) == result["digest"]
    assert all(
        isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves((finished.params, finished.model_state, state))
    )
    # The run keeps an average, and that is what was evaluated.
    assert digest(finished.params) == digest(state.ema.params) != digest(state.params)
    assert listing(path) == before


def test_it_computes_what_the_run_evaluated(finished):
    path, result = finished
    finished = load(str(path))
    dataset = data.load(finished.config.data)
    inputs = data.normalize(*map(np.asarray, (dataset.test.inputs, dataset.mean, dataset.std)))
    logits, _ = finished.model.apply(finished.params, finished.model_state, inputs, train=False)
    assert float((np.argmax(logits, -1) == dataset.test.labels).mean()) == result["accuracy"]
    log_p = np.asarray(jax.nn.log_softmax(logits))[np.arange(4), dataset.test.labels]
    assert -log_p.mean() == pytest.approx(result["loss"], rel=1e-5)


@dataclasses.dataclass(frozen=True)
class Halves(Method):
    """A method of somebody else's."""

    name: ClassVar[str] = "halves"

    def build(self, **context):
        del context
        return identity()._replace(apply=lambda state, params: jax.tree.map(lambda x: x / 2, params))


def test_a_run_with_a_model_and_a_method_of_somebody_else(tmp_path):
    model = models.model(models.ModelConfig(name="xor", features=(5,), num_classes=2))
    config = xor(ema_decay=None, stages=[Stage(steps=4, methods=(Halves(),))], segment_steps=4)
    run(config, tmp_path / "a", quiet=True, model=model)
    finished = load(tmp_path / "a", model=model, trusted=True)
    assert finished.params["Dense_0"]["kernel"].shape == (2, 5)
    assert digest(finished.params) == digest(jax.tree.map(lambda x: x / 2, finished.state.params))
    with pytest.raises(WorkdirError, match="was given a model"):
        load(tmp_path / "a", trusted=True)


def test_a_config_that_names_code_of_another_module_runs_it_only_when_trusted(finished, copied):
    config = json.loads((copied / "config.json").read_text())
    config["stages"][0]["methods"] = [{"class": "this:Zen"}]
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(WorkdirError, match=r"not trusted.*--trust"):
        load(copied)
    assert "this" not in sys.modules


def test_what_is_no_finished_run(finished, copied, tmp_path):
    with pytest.raises(WorkdirError, match=r"nowhere.*no config\.json"):
        load(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(WorkdirError, match="not given a model"):
        load(copied, model=models.model(models.ModelConfig(name="xor", num_classes=2)))
    (copied / "result.json").unlink()
    with pytest.raises(WorkdirError, match=r"no result\.json"):
        load(copied)


def test_another_result_is_refused(copied):
    result = json.loads((copied / "result.json").read_text())
    (copied / "result.json").write_text(json.dumps(result | {"digest": "0" * 64}))
    with pytest.raises(WorkdirError, match=r"step 30.*result\.json"):
        load(copied)


def test_an_earlier_checkpoint_does_not_stand_in_for_the_last(copied):
    last = max((p for p in (copied / "checkpoints").iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
    shutil.rmtree(last)
    with pytest.raises(WorkdirError, match="their digests differ"):
        load(copied)


def test_absent_and_damaged_checkpoints(copied):
    last = max((p for p in (copied / "checkpoints").iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
    shutil.rmtree(last / "state")
    with pytest.raises(CheckpointError, match=rf"checkpoint {last.name} .*read"):
        load(copied)
    shutil.rmtree(copied / "checkpoints")
    with pytest.raises(WorkdirError, match="has no checkpoints"):
        load(copied)
    assert not (copied / "checkpoints").exists()
    (copied / "checkpoints").mkdir()
    with pytest.raises(WorkdirError, match="has no checkpoint in"):
        load(copied)
