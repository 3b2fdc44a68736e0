"""A finished run read back: the very parameters of its result, or a clear refusal."""

import dataclasses
import json
import shutil
import sys
from typing import ClassVar

import jax
import numpy as np
import pytest

from jopt import data, files, models, optim
from jopt.method import Method
from jopt.report.observer import Silent
from jopt.train import Experiment, Stage, digest, run
from jopt.train.checkpoint import DamagedError
from jopt.train.finished import load
from jopt.train.workdir import WorkdirError
from jopt.transform import identity

pytestmark = pytest.mark.unoptimized


def xor(**changes) -> Experiment:
    config = Experiment(
        name="xor",
        model=models.ModelConfig(name="xor", num_classes=2),
        data=data.Xor(),
        optimizer=optim.Config(name="momentum", learning_rate=1.0),
        batch_size=0,
        stages=[Stage("first", steps=10), Stage("second", steps=20)],
        segment_steps=10,
        checkpoint_every=1,
        ema_decay=0.9,
    )
    return dataclasses.replace(config, **changes)


class Messages(Silent):
    """Keeps the warnings."""

    def __init__(self):
        self.warnings: list[str] = []

    def warn(self, sentence: str) -> None:
        self.warnings.append(sentence)


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
    assert float((np.argmax(logits, -1) == dataset.test.targets).mean()) == result["accuracy"]
    log_p = np.asarray(jax.nn.log_softmax(logits))[np.arange(4), dataset.test.targets]
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
    files.write_json(copied / "result.json", files.seal(files.unseal(result) | {"digest": "0" * 64}))
    with pytest.raises(WorkdirError, match=r"step 30.*result\.json"):
        load(copied)


def test_an_earlier_checkpoint_does_not_stand_in_for_the_last(copied):
    last = max((p for p in (copied / "checkpoints").iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
    shutil.rmtree(last)
    with pytest.raises(WorkdirError, match="their digests differ"):
        load(copied)


def content(path):
    return {p: p.read_bytes() if p.is_file() else None for p in sorted(path.rglob("*"))}


def test_absent_and_damaged_checkpoints_are_named_and_left_as_they_are(copied):
    checkpoints = copied / "checkpoints"
    first, last = (f(int(p.name) for p in checkpoints.iterdir()) for f in (min, max))
    shutil.rmtree(checkpoints / str(last) / "state" / "d")
    (checkpoints / str(first) / "commit_success.txt").write_bytes(b"")
    before = content(copied)
    with pytest.raises(DamagedError, match=r"remove .*result\.json") as error:
        load(copied)
    assert sorted(error.value.damaged) == [first, last]
    assert error.value.path == checkpoints
    assert content(copied) == before
    shutil.rmtree(checkpoints)
    with pytest.raises(WorkdirError, match="has no checkpoint in"):
        load(copied)
    assert not checkpoints.exists()


def test_training_a_finished_run_again_says_that_its_checkpoint_is_lost_and_how_to_get_it_back(copied):
    messages = Messages()
    assert run(xor(), copied, observer=messages)["digest"]
    assert messages.warnings == []
    # As after a power failure that took what was not synced.
    for step in (copied / "checkpoints").iterdir():
        (step / "_CHECKPOINT_METADATA").write_bytes(b"")
    result = run(xor(), copied, observer=messages)
    (warning,) = messages.warnings
    assert str(copied / "result.json") in warning
    (copied / "result.json").unlink()
    assert run(xor(), copied)["digest"] == result["digest"]
    assert load(copied).result["digest"] == result["digest"]


@pytest.mark.parametrize("text", ["{}", "[]", "null", "{", '{"digest": 1}', "[" * 100_000])
def test_a_result_that_is_none_is_refused_by_training_and_by_readers(copied, text):
    (copied / "result.json").write_text(text)
    for action in (lambda: run(xor(), copied), lambda: load(copied)):
        with pytest.raises(WorkdirError, match=r"result\.json"):
            action()


@pytest.mark.parametrize(
    "edit",
    [
        lambda lines: lines[1:],
        lambda lines: [*lines[:2], *lines[3:]],
        lambda lines: [*lines, lines[-1]],
        lambda lines: [lines[0].replace('"loss": ', '"loss": 1'), *lines[1:]],
        lambda lines: [],
    ],
    ids=["first", "hole", "doubled", "edited", "gone"],
)
def test_rows_that_are_not_those_of_the_result_are_found(copied, edit):
    metrics = copied / "metrics.jsonl"
    metrics.write_text("".join(edit(metrics.read_text().splitlines(keepends=True))))
    with pytest.raises(WorkdirError, match=r"metrics\.jsonl, line"):
        run(xor(), copied)


def test_a_run_of_an_earlier_version_has_no_checksums_and_is_read(copied):
    result = files.unseal(json.loads((copied / "result.json").read_text()))
    files.write_json(copied / "result.json", result)
    assert load(copied).result == result
    assert run(xor(), copied) == result


def test_a_kill_before_the_end_of_the_manifest_is_completed(copied):
    manifest = json.loads((copied / "manifest.json").read_text())
    ended = manifest | {"exit_status": None, "digest": None, "events": manifest["events"][:1]}
    files.write_json(copied / "manifest.json", ended)
    result = run(xor(), copied)
    completed = json.loads((copied / "manifest.json").read_text())
    assert (completed["exit_status"], completed["digest"]) == ("finished", result["digest"])
    assert completed["events"][:1] == ended["events"] and len(completed["events"]) == 2
    before = content(copied)
    run(xor(), copied)
    assert content(copied) == before


def test_a_read_only_finished_run_is_answered(copied):
    files.write_json(
        copied / "manifest.json", json.loads((copied / "manifest.json").read_text()) | {"exit_status": None}
    )
    copied.chmod(0o555)
    try:
        assert run(xor(), copied)["digest"]
    finally:
        copied.chmod(0o755)
