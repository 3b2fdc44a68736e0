"""Artefacts: run where there is no jopt, bit for bit; what is in them; and what is refused."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import start

from jopt import data, models
from jopt.config import ConfigError
from jopt.export import source, stablehlo


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    return {size: rng.normal(size=(size, 4, 4, 1)).astype(np.float32) for size in (3, 8)}


@pytest.mark.parametrize("name", source.NAMES)
def test_a_process_without_jopt_computes_the_same_bits(exported, outside, inputs, name):
    here = jax.jit(source.function(exported.finished, name))
    for size, x in inputs.items():
        there = outside.arrays[f"{name}/{size}"]
        assert there.shape == (size, 3) and there.dtype == np.float32
        assert there.tobytes() == np.asarray(here(x)).tobytes()


def test_masked_is_what_the_run_evaluated(exported, outside, inputs):
    run = exported.finished
    logits, _ = run.model.apply(run.params, run.model_state, inputs[8], train=False)
    np.testing.assert_allclose(outside.arrays["masked/8"], logits, rtol=1e-5, atol=1e-6)
    said = program(exported, "masked").metadata["test"]
    assert said["accuracy"] == run.result["accuracy"] and said["largest_difference"] == 0


def test_float_is_the_parameters_that_moved(exported, outside, inputs):
    first, second = (
        {name: np.asarray(leaf, np.float64) for name, leaf in layer.items()}
        for _, layer in sorted(exported.finished.state.params.items())
    )
    hidden = np.maximum(inputs[8].reshape(8, 16) @ first["kernel"] + first["bias"], 0)
    expected = hidden @ second["kernel"] + second["bias"]
    np.testing.assert_allclose(outside.arrays["float/8"], expected, rtol=1e-5, atol=1e-5)
    assert np.abs(outside.arrays["masked/8"] - expected).max() > 1e-3  # its weights have 4 bits


def program(exported, name):
    return stablehlo.load(exported.directory / f"{name}.stablehlo")


def products(text):
    """The types of every product; a set, as each platform may have its own of one product."""
    return set(re.findall(r"stablehlo\.dot_general.*: (.*?)(?: loc.*)?$", text, re.MULTILINE))


def test_the_integer_program_multiplies_int8_and_adds_up_int32(exported):
    first, second = "tensor<?x16x{0}>, tensor<16x8x{0}>", "tensor<?x8x{0}>, tensor<8x3x{0}>"
    assert products(program(exported, "integer").exported.mlir_module()) == {
        f"({first.format('i8')}) -> tensor<?x8xi32>",
        f"({second.format('i8')}) -> tensor<?x3xi32>",
    }
    assert products(program(exported, "masked").exported.mlir_module()) == {
        f"({first.format('f32')}) -> tensor<?x8xf32>",
        f"({second.format('f32')}) -> tensor<?x3xf32>",
    }


def test_the_shrunk_program_is_smaller(exported):
    text = program(exported, "shrunk").exported.mlir_module()
    assert re.findall(r"tensor<16x(\d)xf32>", text)[0] == "4"  # half of the 8 units
    assert "tensor<16x8xf32>" in program(exported, "masked").exported.mlir_module()


def test_what_the_json_file_says(exported):
    said = program(exported, "integer").metadata
    assert said["inputs"] == [{"dtype": "float32", "shape": ["batch", 4, 4, 1]}]
    assert said["outputs"] == [{"dtype": "float32", "shape": ["batch", 3]}]
    assert said["platforms"] == ["cpu", "cuda", "tpu"]
    assert said["bytes"] == (exported.directory / "integer.stablehlo").stat().st_size
    assert said["test"]["equal_predictions"] == said["test"]["examples"] == 16
    assert said["mean"] == exported.finished.dataset.mean.tolist()
    assert jax.export.minimum_supported_calling_convention_version <= said["calling_convention_version"]


def test_bytes_are_those_of_the_function_alone(exported):
    content = (exported.directory / "masked.stablehlo").read_bytes()
    assert b".py" not in content and b"/jopt" not in content
    again = stablehlo.lower(source.function(exported.finished, "masked"), (4, 4, 1))
    assert bytes(again.serialize()) == content


def test_raw_inputs_are_normalized_inside(exported):
    run = exported.finished
    function, dataset = source.function(run, "masked"), run.dataset
    raw = stablehlo.lower(function, (4, 4, 1), normalization=(dataset.mean, dataset.std))
    assert raw.in_avals[0].dtype == np.uint8
    normal = data.normalize(*map(jnp.asarray, (dataset.test.inputs, dataset.mean, dataset.std)))
    np.testing.assert_array_equal(raw.call(dataset.test.inputs), jax.jit(function)(normal))


def test_agreement_counts_what_differs(exported):
    labels = exported.finished.dataset.test.targets
    right = np.eye(3, dtype=np.float32)[labels]
    other = right.copy()
    other[:4] = np.roll(right[:4], 1, axis=1)
    found = source.agreement(exported.finished, right, other)
    assert found == (16, 12, 1.0, 0.75, 16)


def test_logits_of_many_batches_are_those_of_one():
    x = np.arange(1100.0, dtype=np.float32)[:, None]
    sizes = []

    def call(batch):
        sizes.append(len(batch))
        return 2 * batch

    np.testing.assert_array_equal(source.outputs_of(call, x), 2 * x)
    assert sizes == [512, 512, 512]


def test_what_is_not_there_is_refused(exported, tmp_path):
    with pytest.raises(ConfigError) as caught:
        source.function(exported.finished, "x")
    assert (caught.value.field, caught.value.value) == ("function", "x")
    assert "'float', 'integer', 'masked', 'shrunk'" in caught.value.accepted
    own = exported.finished._replace(plan=dataclasses.replace(exported.finished.plan, network=None))
    with pytest.raises(source.Unavailable, match=r"shrunk.*given a model"):
        source.function(own, "shrunk")
    nan = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), exported.finished.params)
    with pytest.raises(source.Unavailable, match=r"shrunk.*params/.*NaN"):
        source.function(exported.finished._replace(params=nan), "shrunk")
    plan = exported.finished.plan
    weights_only = tuple(applied for applied in plan.applied if applied.method.name != "activations")
    with pytest.raises(source.Unavailable, match=r"integer.*quantize.*activations"):
        source.function(exported.finished._replace(plan=dataclasses.replace(plan, applied=weights_only)), "integer")


def test_a_file_that_is_not_whole_is_refused(exported, tmp_path):
    content = (exported.directory / "masked.stablehlo").read_bytes()
    path, beside = tmp_path / "a", tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(stablehlo.StableHLOError, match="cannot be read"):
        stablehlo.load(path)
    said = json.loads((exported.directory / "masked.stablehlo.json").read_text())
    beside.write_text(json.dumps(said))
    assert stablehlo.load(path).metadata == said
    path.write_bytes(content[:-8])
    with pytest.raises(stablehlo.StableHLOError, match="SHA-256 differ"):
        stablehlo.load(path)
    with pytest.raises(ConfigError) as caught:
        stablehlo.lower(lambda x: x, (2,), platforms=("abacus",))
    assert (caught.value.field, caught.value.value) == ("platforms", "abacus")
    assert "'cpu', 'cuda', 'rocm', 'tpu'" in caught.value.accepted


NETWORKS = {
    "lenet5": ((4, 6, 20), (8, 8, 1)),
    "cifar10_cnn": ((4, 6, 20, 10), (8, 8, 3)),
    "cnn": ((4, 6), (8, 8, 1)),
    "tied_mlp": ((16, 16, 16), (8, 8, 1)),
    "rnn": ((16,), (8, 8)),
    "lstm": ((16,), (8, 8)),
    "gru": ((16,), (8, 8)),
    "resnet18": ((8,), (8, 8, 3)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_is_lowered_for_any_batch_size(name):
    features, shape = NETWORKS[name]
    model = models.model(models.ModelConfig(name, features))
    x = np.random.default_rng(0).normal(size=(5, *shape)).astype(np.float32)
    params, state = jax.device_get(start(model, x))

    def function(x):
        return model.apply(params, state, x, train=False)[0]

    exported = stablehlo.lower(function, shape)
    for size in (1, 5):
        np.testing.assert_array_equal(exported.call(x[:size]), jax.jit(function)(x[:size]))
