"""The shapes and dtypes in public signatures hold for real arrays: arguments, results, and in a trace."""

import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick

from jopt import data, keys, models, optim
from jopt.data.examples import carve, stratified_order
from jopt.optim import schedules
from jopt.optim.scaling import orthogonalize
from jopt.patches import patches

beartype = pytest.importorskip("beartype", reason="the extra 'dev' has it").beartype
jaxtyping = pytest.importorskip("jaxtyping")

pytestmark = pytest.mark.unoptimized

PROGRESS = jnp.linspace(0.0, 1.0, 5)
IMAGES = jnp.ones((2, 4, 6, 3))
BYTES = np.arange(24, dtype=np.uint8).reshape(6, 4)
LABELS = np.array([0, 1, 0, 1, 0, 1])
KEY = keys.root(0)
COSINE = optim.Config(schedule="cosine", decay_steps=4)

# (function, arguments that it is made for, arguments of another shape or dtype)
CASES = {
    "global_norm": (optim.global_norm, ({"w": jnp.ones((2, 3))},), None),
    "orthogonalize": (orthogonalize, (jnp.eye(3, 2), 1e-8), (jnp.ones(3), 1e-8)),
    "multiplier": (optim.multiplier, (COSINE, jnp.arange(6).reshape(2, 3)), None),
    "learning_rate": (optim.learning_rate, (COSINE, 3), None),
    "cosine": (schedules.cosine, (PROGRESS, 0.5), (jnp.arange(3), 0.5)),
    "polynomial": (schedules.polynomial, (PROGRESS, 0.0, jnp.float32(2.0)), (0.5, 0.0, 2.0)),
    "exponential": (schedules.exponential, (PROGRESS, np.float32(0.5)), (PROGRESS, "half")),
    "staircase": (schedules.staircase, (PROGRESS, 4, (0.5, 0.75), 0.5), (PROGRESS, 4, 0.5, 0.5)),
    "one_cycle": (schedules.one_cycle, (PROGRESS, 0.5, 0.25, 0.0), (PROGRESS, None, 0.25, 0.0)),
    "indices": (data.indices, (KEY, 3, 4, 2, 5), (KEY, 3, 4.0, 2, 5)),
    "augment": (data.augment, (KEY, IMAGES, data.Digits(shift=1, flip=True)), (KEY, None, data.Digits())),
    "normalize": (
        data.normalize,
        (IMAGES, jnp.zeros(3), jnp.ones(3)),
        None,  # Pytrees of any arrays.
    ),
    "stratified_order": (stratified_order, (BYTES, LABELS), (BYTES, LABELS[:3])),
    "carve": (carve, (BYTES, LABELS, [2, 4]), (BYTES, LABELS.astype(float), [2, 4])),
    "max_pool": (models.layers.max_pool, (IMAGES,), (IMAGES[0],)),
    "patches": (
        patches,
        (IMAGES, (3, 3), (1, 1), [(1, 1), (1, 1)], (1, 1)),
        (jnp.ones(4), (3,), (1,), [(1, 1)], (1,)),
    ),
}


def checked(function):
    return jaxtyping.jaxtyped(function, typechecker=beartype)


@pytest.mark.parametrize("name", CASES)
def test_results_are_as_declared(name):
    function, args, _ = CASES[name]
    checked(function)(*args)


@pytest.mark.parametrize("name", [name for name, (_, _, wrong) in CASES.items() if wrong is not None])
def test_other_arguments_are_not_what_is_declared(name):
    function, _, wrong = CASES[name]
    with pytest.raises(jaxtyping.TypeCheckError):
        checked(function)(*wrong)


@pytest.mark.parametrize("name", ["normalize", "max_pool", "cosine"])
def test_tracers_are_as_declared_too(name):
    function, args, _ = CASES[name]
    result = jax.eval_shape(checked(function), *args)
    assert result.shape == jax.eval_shape(function, *args).shape


MODULES = {
    "mlp": (models.MLP((3,)), jnp.ones((2, 4, 4, 1))),
    "tied": (models.TiedMLP(3, 3), jnp.ones((2, 4))),
    "xor": (models.XOR(), jnp.ones((4, 2))),
    "cnn": (models.ConvNet((2,), (3,)), IMAGES),
    "resnet": (models.ResNet(2, (1, 1)), IMAGES),
    "rnn": (models.RNN("gru", (3,)), IMAGES),
}


@pytest.mark.parametrize("name", MODULES)
def test_networks_map_batches_to_logits_of_the_declared_shape(name):
    module, x = MODULES[name]
    hints = typing.get_type_hints(type(module).__call__, include_extras=True)
    logits, _ = jax.eval_shape(lambda key: module.init_with_output(key, x), KEY)
    # One context: the batch of the input and that of the logits must be the same.
    with jaxtyping.jaxtyped("context"):
        assert isinstance(x, hints["x"])
        assert isinstance(jnp.zeros(logits.shape, logits.dtype), hints["return"])
        assert not isinstance(jnp.zeros((len(x) + 1, *logits.shape[1:])), hints["return"])


def test_an_optimizer_gives_steps_like_its_parameters():
    params = {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}
    optimizer = optim.build(optim.Config("muon", adaptive_clip=0.1, l1=0.1, proximal_l1=0.1))
    update = quick.jit(checked(optimizer.update))
    updates, _ = update(params, checked(optimizer.init)(params), params)
    assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, params)
