"""Integer inference and the functions of an export, lowered for GPU and TPU."""

import functools
import re

import jax
import jax.numpy as jnp
import pytest
from lowered import ACCELERATORS, leaks, operations
from quick import compilation
from tiny import smallest_experiment

from jopt import data, prune, quantize
from jopt.export import source, stablehlo
from jopt.models import ModelConfig
from jopt.train import Stage, run
from jopt.train.finished import load

pytestmark = pytest.mark.unoptimized

IMAGES = data.Synthetic(shape=(8, 8, 1), num_classes=3, train=32, validation=16, test=16)
NETWORKS = {
    "mlp": ModelConfig(name="mlp", features=(4,), num_classes=3),
    "lenet5": ModelConfig(name="lenet5", num_classes=3),
    "binary": ModelConfig(name="mlp", features=(40,), num_classes=3),
}


@functools.cache
def finished(directory, name):
    """A run of one step whose weights and inputs have codes, of one bit where it is called binary."""
    bits = 1 if name == "binary" else 4
    methods = (quantize.Weights(bits=bits), quantize.Activations(bits=bits, calibration="absmax"))
    if name == "mlp":
        methods = (prune.OneShot(sparsity=0.5, pattern="channel", rules=(("Dense_1/kernel", None),)), *methods)
    stage = Stage("compress", steps=1, methods=methods)
    with compilation():
        config = smallest_experiment(model=NETWORKS[name], data=IMAGES, stages=[stage], pack=False)
        run(config, directory / name, quiet=True)
    return load(directory / name)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("inference")


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("function", source.NAMES)
def test_functions_of_an_export_have_no_form_for_cpus(directory, name, function):
    call = source.function(finished(directory, name), function)
    traced = jax.jit(call).trace(jnp.zeros((2, 8, 8, 1)))
    for platform in ACCELERATORS:
        assert leaks(traced.lower(lowering_platforms=(platform,)).as_text(debug_info=True)) == []


def test_an_artefact_for_one_platform_names_no_other(directory):
    call = source.function(finished(directory, "mlp"), "integer")
    exported = stablehlo.lower(call, (8, 8, 1), platforms=("cuda",))
    assert exported.platforms == ("cuda",) and leaks(str(exported.mlir_module())) == []


@pytest.mark.parametrize("platform", ACCELERATORS)
def test_integers_are_multiplied_as_integers(directory, platform):
    call = source.function(finished(directory, "lenet5"), "integer")
    text = jax.jit(call).trace(jnp.zeros((2, 8, 8, 1))).lower(lowering_platforms=(platform,)).as_text()
    products = re.findall(r"stablehlo\.(?:dot_general|convolution).*?: \(tensor<\S*x(\w+)>", text)
    assert products and set(products) == {"i8"}
    # XLA has integer convolutions on TPU only; a GPU gets a product of shifted slices.
    assert (operations(text, "convolution") > 0) == (platform == "tpu")
