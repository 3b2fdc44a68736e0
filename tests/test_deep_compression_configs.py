"""Deep Compression's configs: the paper's numbers on MNIST, and files whose length follows from counts alone."""

import importlib
import math

import jax
import numpy as np
import pytest

from jopt import codec, models
from jopt.address import get
from jopt.config import ConfigError
from jopt.report import PAPER_NETWORKS
from jopt.rules import named_leaves
from jopt.train.describe import parameter_rows
from jopt.train.prepared import resolve, trace_layers

INPUTS = {"digits": (8, 8, 1), "mnist": (28, 28, 1)}
NETWORKS = ("lenet300", "lenet5")


def module(network):
    return importlib.import_module(f"configs.deep_compression_{network}")


def shapes(config, dataset):
    init = models.model(config.model).init
    x = jax.ShapeDtypeStruct((1, *INPUTS[dataset]), np.float32)
    return jax.eval_shape(init, jax.random.key(0), x)[0]


def last_rows(config, dataset):
    """A row for each parameter in the last stage: path, shape, role, pruning and sharing."""
    plan = trace_layers(resolve(config, examples=1000), jax.ShapeDtypeStruct(INPUTS[dataset], np.float32))[-1]
    assert plan.name == "share"
    return parameter_rows(plan, shapes(config, dataset))[1]


@pytest.mark.parametrize(
    ("network", "dataset", "kept"),
    [
        ("lenet300", "digits", ["1344 of 19200", "1950 of 30000", "260 of 1000"]),
        ("lenet300", "mnist", ["18816 of 235200", "2700 of 30000", "260 of 1000"]),
        ("lenet5", "digits", ["300 of 500", "2000 of 25000", "5000 of 100000", "1000 of 5000"]),
        ("lenet5", "mnist", ["330 of 500", "3000 of 25000", "32000 of 400000", "950 of 5000"]),
    ],
)
def test_what_each_layer_keeps(network, dataset, kept):
    config = module(network).get_config(dataset)
    assert config.pack
    rows = last_rows(config, dataset)
    kernels, biases = ([row for row in rows if row[0].endswith(kind)] for kind in ("kernel", "bias"))
    for (_, _, _, pruning, sharing), count in zip(kernels, kept, strict=True):
        assert f" {count} weights" in pruning and "values" in sharing
    # All biases but the last layer's ten share eight values.
    assert [row[4] for row in biases][-1] == "left as it is"
    assert all("at most 8 values" in row[4] for row in biases[:-1])


@pytest.mark.parametrize("network", NETWORKS)
def test_mnist_has_the_papers_rates_and_codebooks(network):
    found = module(network)
    rows = PAPER_NETWORKS[network][:-1]
    assert [f"{kept:.0%}" for kept in found.KEPT["mnist"].values()] == [row.kept for row in rows]
    config = found.get_config("mnist")
    sizes = {row[0]: row for row in last_rows(config, "mnist")}
    for layer, row in zip(found.KEPT["mnist"], rows, strict=True):
        assert str(2 ** int(row.value_bits)) in sizes[f"{layer}/kernel"][4]


@pytest.mark.parametrize("network", NETWORKS)
def test_another_data_set_is_refused(network):
    with pytest.raises(ConfigError) as error:
        module(network).get_config("cifar10")
    assert (error.value.field, error.value.value) == ("dataset", "cifar10")
    assert error.value.accepted == "one of 'digits', 'mnist'"


@pytest.mark.parametrize(("network", "float32"), [("lenet300", 202_440), ("lenet5", 524_320)])
def test_the_digits_files_are_forty_times_smaller_whatever_was_learned(network, float32):
    """Where all values are as frequent and their places are random, nothing is left for Huffman codes to save."""
    config, rng = module(network).get_config(), np.random.default_rng(0)
    kept, clusters = module(network).KEPT["digits"], np.max(module(network).CLUSTERS["digits"])
    few = dict(get(config, "stages[2].share").rules)[".*/bias"]
    params: dict[str, dict[str, np.ndarray]] = {}
    for path, leaf in named_leaves(shapes(config, "digits")):
        layer, kind = path.split("/")
        flat = np.zeros(math.prod(leaf.shape), np.float32)
        count, values = {
            "kernel": (round(kept[layer] * len(flat)), clusters - 1),
            "bias": (len(flat), few if len(flat) > 10 else 10),
        }[kind]
        places = rng.choice(len(flat), count, replace=False)
        flat[places] = rng.choice(rng.normal(size=values).astype(np.float32), count)
        params.setdefault(layer, {})[kind] = flat.reshape(leaf.shape)
    packed = codec.encode(params, metadata={"name": config.name, "more": "x" * 200})
    assert packed.ledger.dense_bytes == float32
    assert float32 / len(packed.data) >= 45
