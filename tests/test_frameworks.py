"""Networks of NNX, and of Linen, with the same parameters: everything that looks at layers sees the same."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from flax import nnx
from vit import CLASSES, DEPTH, IMAGES, LinenViT, NnxViT

from jopt import intercept, layers, measure
from jopt.models import from_linen, from_nnx
from jopt.quantize import Activations, LSQActivations, MovingAverageActivations, Spec, integer, quantize
from jopt.rules import named_leaves

pytestmark = pytest.mark.unoptimized
LINEN, NNX = from_linen(LinenViT()), from_nnx(NnxViT)
PARAMS = quick.start(LINEN, IMAGES)[0]
METHODS = (Activations(bits=8), LSQActivations(bits=4), MovingAverageActivations(bits=4))


def test_their_parameters_have_the_same_names_and_layers():
    shapes = jax.eval_shape(NNX.init, jax.random.key(0), IMAGES)[0]
    assert jax.tree.map(jnp.shape, PARAMS) == jax.tree.map(jnp.shape, shapes)
    known = {"Linear": "Dense", "LinearGeneral": "DenseGeneral"}
    linen, other = (layers.trace(model, IMAGES) for model in (LINEN, NNX))
    assert linen == {path: p._replace(layer=known.get(p.layer, p.layer)) for path, p in other.items()}


def test_the_calls_of_layers_are_the_same():
    linen, other = (
        quick.jit(lambda p, m=model: intercept.capture(functools.partial(m.apply, train=False))(p, {}, IMAGES))(
            PARAMS
        )
        for model in (LINEN, NNX)
    )
    assert linen[1].keys() == other[1].keys() and len(linen[1]) == 2 + 6 * DEPTH
    jax.tree.map(np.testing.assert_array_equal, linen, other)


def test_statistics_are_the_same():
    linen, other = (
        quick.jit(functools.partial(intercept.statistics, model.apply))(PARAMS, {}, IMAGES)
        for model in (LINEN, NNX)
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), linen, other)


def test_flops_by_layer_count_masks_in_both():
    masked = jax.tree.map(lambda x: jnp.where(jnp.arange(x.size).reshape(x.shape) % 2 == 0, x, 0), PARAMS)
    counts = []
    for model in (LINEN, NNX):
        scopes = measure.flops_by_scope(lambda x, m=model: m.apply(PARAMS, {}, x, train=False)[0], IMAGES)
        by_layer = measure.flops_by_layer(scopes, PARAMS)
        counts.append((by_layer, measure.effective_flops(by_layer, masked, layers.trace(model, IMAGES))))
    # The products of attention belong to no layer with parameters.
    assert counts[0] == counts[1]
    assert 2 * counts[1][1]["block0/up"] == counts[1][0]["block0/up"] > 0


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_w8a8_gives_the_same_codes_and_outputs(method):
    results = []
    for model in (LINEN, NNX):
        params, state = method.calibrate(model, PARAMS, {}, IMAGES)
        wrapped = method.wrap(model)
        run = functools.partial(wrapped.apply, train=isinstance(method, MovingAverageActivations))
        logits, new = quick.jit(run)(params, state, 2 * IMAGES)
        results.append((params, state, logits, new))
    jax.tree.map(np.testing.assert_array_equal, *results)
    assert results[0][2].shape == (12, CLASSES) and not np.array_equal(
        results[0][2], NNX.apply(PARAMS, {}, 2 * IMAGES, train=False)[0]
    )


def test_integer_execution_is_the_same():
    method = METHODS[0]
    codes = {
        path: quantize(leaf, Spec(8)) for path, leaf in named_leaves(PARAMS) if path.rpartition("/")[2] == "kernel"
    }
    outputs = []
    for model in (LINEN, NNX):
        params, state = method.calibrate(model, PARAMS, {}, IMAGES)
        run = integer.network(model, params, state, codes, method)
        assert "i8[" in str(jax.make_jaxpr(run)(IMAGES))
        outputs.append(quick.jit(run)(IMAGES))
    np.testing.assert_array_equal(*outputs)


def test_a_layer_under_two_names_is_one_layer_with_two_calls():
    class Tied(nnx.Module):
        def __init__(self, rngs):
            self.z = nnx.Linear(4, 4, rngs=rngs)
            self.a = nnx.List([self.z, nnx.Linear(4, 2, rngs=rngs)])

        def __call__(self, x):
            return self.a[1](nnx.relu(self.a[0](self.z(x))))

    model = from_nnx(Tied)
    params, state = model.init(jax.random.key(0), jnp.ones((3, 4)))
    calls = intercept.names(model.apply, params, state, jnp.ones((3, 4)), train=False)
    assert {path: len(c) for path, c in calls.items()} == {"a/0": 2, "a/1": 1}
    assert {f"{path}/kernel" for path in calls} <= {path for path, _ in named_leaves(params)}


def test_a_users_module_keeps_its_class():
    module = NnxViT(nnx.Rngs(0))
    model = from_nnx(lambda rngs: module)
    params, state = model.init(jax.random.key(0), IMAGES)
    model.apply(params, state, IMAGES, train=False)
    assert type(module.head) is nnx.Linear
