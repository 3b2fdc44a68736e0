"""Runs that start from weights that exist: compressed without training, resumed, rewound, in grids."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_files
from flax import linen as nn
from safetensors.numpy import load_file, save_file
from tiny import tiny_experiment

from jopt import ablate, codec, export, models, prune, quantize
from jopt.ablate import Ablation, axis
from jopt.start import Pretrained
from jopt.train import Stage, finished, prepare, run
from jopt.train.calls import Calls
from jopt.train.state import digest
from jopt.train.workdir import ChangedError, StopRequested

pytestmark = pytest.mark.unoptimized


def from_torch(path, stages, **changes):
    fields = {"model": torch_files.CNN, "start": Pretrained(str(path), torch_files.RULES), "stages": stages}
    return tiny_experiment(**{**fields, **changes})


WITHOUT_TRAINING = [
    Stage("float", steps=0),
    Stage("w8a8", steps=0, methods=(quantize.Weights(bits=8), quantize.Activations(bits=8))),
    Stage("w4a8", steps=0, methods=(quantize.Weights(bits=4),)),
]


@pytest.fixture(scope="module")
def compressed(trained, tmp_path_factory):
    """A run without a step of training, whose source is gone, and its result."""
    path = tmp_path_factory.mktemp("compressed")
    source = shutil.copy(trained / "torch.safetensors", path)
    fields = run(from_torch(source, WITHOUT_TRAINING, pack=True), path / "run")
    Path(source).unlink()
    return path / "run", fields


def result(path):
    return json.loads((path / "result.json").read_text())


def test_the_first_stage_is_the_source_to_the_bit(trained, compressed):
    source, stages = result(trained / "run"), compressed[1]["stages"]
    assert (stages[0]["accuracy"], stages[0]["loss"]) == (source["accuracy"], source["loss"])
    # Quantized, so not equal; of 8 bits, so nearly.
    assert stages[1]["loss"] != source["loss"] and stages[1]["loss"] == pytest.approx(source["loss"], rel=0.02)
    assert stages[0]["bytes"] > stages[1]["bytes"] > stages[2]["bytes"]
    assert compressed[1]["bytes"] == codec.read(compressed[0] / "model.jopt").ledger.total


def test_the_report_says_where_each_parameter_comes_from(compressed):
    lines = (compressed[0] / "report.md").read_text().splitlines()
    row = next(line for line in lines if "| fc1.weight |" in line)
    assert "36x6" in row and "0/kernel" in row and "rows of a flattened 3x3x4 map" in row
    assert (compressed[0] / "report.html").read_text().count("fc1.weight") == 1


def test_activations_are_calibrated_without_steps(compressed):
    kept = finished.load(compressed[0])
    inputs = (kept.dataset.train.inputs - kept.dataset.mean) / kept.dataset.std
    ranges = kept.model_state["activation_ranges"]["Conv_0"]
    # The first layer reads the normalized inputs themselves; ranges are percentiles.
    assert float(ranges["low"]) == pytest.approx(inputs.min(), rel=0.1)
    assert float(ranges["high"]) == pytest.approx(inputs.max(), rel=0.1)


def test_a_finished_run_needs_its_source_no_more(compressed, tmp_path):
    export.export(compressed[0], tmp_path, formats=("packed",))
    packed, kept = codec.load(tmp_path / "model.jopt"), finished.load(compressed[0]).params
    np.testing.assert_array_equal(packed["Conv_0"]["kernel"], kept["Conv_0"]["kernel"])


class Normalized(nn.Module):
    """Convolution, batch norm and a square layer on the mean over the map."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train)(nn.Conv(4, (3, 3))(x))
        return nn.Dense(4)(nn.relu(x).mean((1, 2)))


def test_batch_statistics_come_from_the_source(tmp_path):
    model = models.from_linen(Normalized())
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 6, 6, 1))))
    rng = np.random.default_rng(0)
    params, state = jax.tree.map(lambda leaf: rng.uniform(0.5, 1, leaf.shape).astype(np.float32), shapes)
    statistics = state["batch_stats"]["BatchNorm_0"]
    arrays = {
        "conv.weight": params["Conv_0"]["kernel"].transpose(3, 2, 0, 1),
        "conv.bias": params["Conv_0"]["bias"],
        "bn.weight": params["BatchNorm_0"]["scale"],
        "bn.bias": params["BatchNorm_0"]["bias"],
        "bn.running_mean": statistics["mean"],
        "bn.running_var": statistics["var"],
        "bn.num_batches_tracked": np.int64(6),
        "fc.weight": params["Dense_0"]["kernel"].T,
        "fc.bias": params["Dense_0"]["bias"],
    }
    np.savez(tmp_path / "a.npz", **arrays)
    rules = (("conv", "Conv_0"), ("bn", "BatchNorm_0"), ("fc", "Dense_0"))
    config = tiny_experiment(start=Pretrained(str(tmp_path / "a.npz"), rules), stages=WITHOUT_TRAINING[:2])
    stages = run(config, tmp_path / "run", model=model)["stages"]
    # The same from Python, as the model has them; the run's directory does not hold them.
    config = tiny_experiment(stages=WITHOUT_TRAINING[:1])
    result = run(config, tmp_path / "object", model=model, start=(params, state))
    assert (stages[0]["accuracy"], stages[0]["loss"]) == (result["accuracy"], result["loss"])
    assert stages[1]["loss"] == pytest.approx(result["loss"], rel=0.05)
    assert json.loads((tmp_path / "object" / "manifest.json").read_text())["given"] == ["model", "start"]
    kept = finished.load(tmp_path / "object", model=model)
    assert digest({"params": kept.params, "state": kept.model_state}) == digest({"params": params, "state": state})


@pytest.fixture(scope="module")
def finetuned(trained, tmp_path_factory):
    """A run that trains on from the source, prunes, and goes back to the source under its masks."""
    path = tmp_path_factory.mktemp("finetuned") / "run"
    return path, run(from_torch(trained / "torch.safetensors", FINETUNED), path)


FINETUNED = [
    Stage("train", epochs=1),
    Stage("back", steps=0, start="init"),
    Stage("ticket", epochs=1, start="init", methods=(prune.OneShot(sparsity=0.5),)),
]


def test_a_rewind_to_step_0_gives_the_source(trained, finetuned):
    source, (train, back, ticket) = result(trained / "run"), finetuned[1]["stages"]
    assert train["loss"] != source["loss"]
    assert (back["accuracy"], back["loss"]) == (source["accuracy"], source["loss"])
    assert ticket["sparsity"] > 0.4


def test_a_stopped_run_resumes_with_its_source_alone(trained, finetuned, tmp_path):
    source = tmp_path / "torch.safetensors"
    shutil.copy(trained / "torch.safetensors", source)
    config, path = from_torch(source, FINETUNED), tmp_path / "run"
    with pytest.raises(StopRequested):
        run(config, path, should_stop=lambda rows: (path / "metrics.jsonl").exists())
    arrays = load_file(source)
    save_file({**arrays, "fc2.bias": arrays["fc2.bias"] + 1}, source)
    with pytest.raises(ChangedError) as error:
        run(config, path)
    assert [change.name for change in error.value.changes] == [f"source {source}"]
    # The same arrays in another order are the same start.
    save_file(dict(reversed(arrays.items())), source)
    assert run(config, path)["digest"] == finetuned[1]["digest"]


def test_a_grid_shares_the_source(trained, tmp_path):
    stages = [Stage("train", steps=3), Stage("again", steps=3, start="init")]
    config = from_torch(trained / "torch.safetensors", stages)
    rates = axis("optimizer.learning_rate", (0.01, 0.1))
    results = ablate.run(Ablation("grid", config, space=rates, seeds=(0,)), tmp_path / "grid", devices=1)
    manifest = json.loads((tmp_path / "grid" / "manifest.json").read_text())
    assert list(manifest["sources"]) == [config.start.path]
    row = results.trials[-1]
    alone = run(ablate.load_trial(tmp_path / "grid", row["trial"], trusted=True), tmp_path / "alone")
    assert row["digest"] == alone["digest"] and len({r["digest"] for r in results.trials}) > 1


def test_another_network_does_not_start_from_the_source(trained, tmp_path):
    student = dataclasses.replace(torch_files.CNN, hidden=3)
    stages = [
        Stage("back", steps=0, start="init"),
        Stage("anew", steps=0, start="random"),
        Stage("student", steps=0, model=student, start="init"),
    ]
    prepared = prepare(from_torch(trained / "torch.safetensors", stages))
    calls = Calls(prepared, prepared.values)
    states = [prepared.like(stage) for stage in range(3)]
    assert [len(calls.rewind(stage, state).args) for stage, state in enumerate(states)] == [4, 2, 2]
    assert [len(calls.init(stage).args) for stage in range(3)] == [3, 1, 1]


def test_what_is_missing_is_initialized_as_without_a_source(trained, tmp_path):
    source = tmp_path / "body.npz"
    arrays = {k: v for k, v in load_file(trained / "torch.safetensors").items() if not k.startswith("fc2")}
    np.savez(source, **arrays)
    rules = torch_files.RULES[:2]
    stages = [Stage("none", steps=0)]
    config = tiny_experiment(
        model=torch_files.CNN, stages=stages, start=Pretrained(str(source), rules, allow_missing=("Dense_1/.*",))
    )
    run(config, tmp_path / "run")
    run(dataclasses.replace(config, start=None), tmp_path / "drawn")
    body, drawn = (finished.load(tmp_path / name).params for name in ("run", "drawn"))
    np.testing.assert_array_equal(body["Dense_1"]["kernel"], drawn["Dense_1"]["kernel"])
    np.testing.assert_array_equal(body["Dense_0"]["bias"], arrays["fc1.bias"])
    assert not np.array_equal(body["Conv_0"]["kernel"], drawn["Conv_0"]["kernel"])
