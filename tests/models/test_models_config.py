"""Configs: what is refused, and how it is said; what is traced, and what is not."""

import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt import hyper
from jopt.config import ConfigError, check_types, from_dict, to_dict
from jopt.models import ModelConfig, build, model, names, validate

pytestmark = pytest.mark.unoptimized

BAD = [
    (dict(name="lenet"), "model.name", "one of 'cifar10_cnn', 'cnn'"),
    (dict(activation="rleu"), "model.activation", "'relu'"),
    (dict(dtype="float16"), "model.dtype", "one of 'bfloat16', 'float32'"),
    (dict(dropout=1.0), "model.dropout", "a number in [0, 1)"),
    (dict(dropout=-0.1), "model.dropout", "a number in [0, 1)"),
    (dict(dropout=float("nan")), "model.dropout", "a number in [0, 1)"),
    (dict(features=(300, 0)), "model.features[1]", "at least 1"),
    (dict(num_classes=0), "model.num_classes", "at least 1"),
    (dict(hidden=3), "model.hidden", "None"),
    (dict(padding="SAME"), "model.padding", "None"),
    (dict(name="lenet5", padding="FULL"), "model.padding", "one of 'SAME', 'VALID'"),
    (dict(name="lenet5", features=(20, 50)), "model.features", "3 sizes"),
    (dict(name="cifar10_cnn", features=(6,)), "model.features", "4 sizes"),
    (dict(name="cnn", hidden=0), "model.hidden", "at least 1"),
    (dict(name="resnet18", features=(64, 128)), "model.features", "1 size"),
    (dict(name="resnet18", activation="tanh"), "model.activation", "None"),
    (dict(name="tied_mlp", features=(64, 32, 32)), "model.features", "all the same"),
    (dict(name="tied_mlp", features=(64, 64)), "model.features", "at least 3"),
    (dict(name="linear", features=(64,)), "model.features", "0 sizes"),
    (dict(name="linear", dropout=0.5), "model.dropout", "None"),
    (dict(name="xor", num_classes=10), "model.num_classes", "2"),
    (dict(name="xor", num_classes=2, dropout=0.1), "model.dropout", "None"),
    (dict(name="lstm", activation="relu"), "model.activation", "None"),
]


@pytest.mark.parametrize(("options", "field", "accepted"), BAD, ids=lambda v: str(v)[:40])
def test_bad_configs_name_the_field_and_what_is_accepted(options, field, accepted):
    config = ModelConfig(**options)
    check_types(config, "model")
    with pytest.raises(ConfigError, match=re.escape(accepted)) as error:
        validate(config)
    assert error.value.field == field


@pytest.mark.parametrize("name", names())
def test_defaults_are_valid_and_survive_json(name):
    config = ModelConfig(name=name, num_classes=2)
    validate(config)
    assert from_dict(ModelConfig, to_dict(config)) == config


def test_build_refuses_an_unknown_name():
    with pytest.raises(ConfigError) as caught:
        build(ModelConfig(name="vgg"))
    assert (caught.value.field, caught.value.value) == ("model.name", "vgg")
    assert "'lenet5'" in caught.value.accepted


def test_dropout_is_swept_and_all_else_is_structure():
    structure, numbers = hyper.split(ModelConfig(dropout=0.5))
    assert list(numbers) == ["dropout"]
    assert structure == hyper.split(ModelConfig(dropout=0.1))[0]
    assert structure != hyper.split(ModelConfig())[0]
    assert structure != hyper.split(ModelConfig(dropout=0.5, features=(8,)))[0]


def test_one_program_serves_every_dropout_rate():
    structure, _ = hyper.split(ModelConfig(features=(64,), dropout=0.5))
    x = jnp.ones((4, 5))
    traces = []

    @jax.jit
    def run(numbers, key):
        traces.append(None)
        net = model(hyper.join(structure, numbers))
        params, state = net.init(key, x)

        def step(carry, key):
            grads = jax.grad(lambda p: net.apply(p, state, x, train=True, key=key)[0].sum())(params)
            return carry, jax.tree.leaves(grads)[0]

        return jax.lax.scan(step, 0, jax.random.split(key, 3))[1]

    for rate in (0.0, 0.3, 0.9):
        grads = run({"dropout": np.float32(rate)}, jax.random.key(0))
        assert bool(jnp.isfinite(grads).all())
    assert len(traces) == 1
    rates = {"dropout": jnp.asarray([0.0, 0.5])}
    assert jax.vmap(run, ({"dropout": 0}, None))(rates, jax.random.key(0)).shape[0] == 2


def test_importing_starts_no_backend():
    code = (
        "import jopt.models, jax._src.xla_bridge as b; jopt.models.build(jopt.models.ModelConfig(name='resnet18'));"
        "assert not b.backends_are_initialized()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
