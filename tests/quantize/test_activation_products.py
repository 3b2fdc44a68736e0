"""Products of two activations, such as those of attention: listed, and quantized if asked to."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from flax import linen as nn
from vit import DEPTH, IMAGES, LinenViT, NnxViT

from jopt import intercept
from jopt.models import from_linen, from_nnx
from jopt.quantize import Activations, MovingAverageActivations, Range, Spec, fake_quantize, integer

pytestmark = pytest.mark.unoptimized
X = jax.random.normal(jax.random.key(1), (3, 5, 4))
METHOD = Activations(bits=3, calibration="absmax", products=True)


class Mix(nn.Module):
    """Every position mixed with every other, by how alike they are."""

    @nn.compact
    def __call__(self, x, _=None):
        y = nn.Dense(4, name="dense")(x)
        return x + nn.tanh(y @ y.swapaxes(1, 2)) @ y, None


class Mixed(nn.Module):
    scanned: bool = False
    depth: int = 2

    @nn.compact
    def __call__(self, x):
        if self.scanned:
            block = nn.remat(Mix, prevent_cse=False)
            scan = nn.scan(block, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.depth)
            return scan(name="blocks")(x, None)[0].mean(1)
        for i in range(self.depth):
            x, _ = Mix(name=f"block{i}")(x)
        return x.mean(1)


ONE = from_linen(Mixed(depth=1))
PARAMS = quick.start(ONE, X)[0]


def test_a_product_is_what_its_quantized_operands_give():
    params, state = METHOD.calibrate(ONE, PARAMS, {}, X)
    ranges = state["activation_ranges"]

    def seen(path, value):
        return fake_quantize(value, Spec(3, symmetric=False), Range(**ranges[path]))

    dense = PARAMS["block0"]["dense"]
    y = seen("block0/dense", X) @ dense["kernel"] + dense["bias"][None, None]
    likeness = seen("block0/product0/left", y) @ seen("block0/product0/right", y.swapaxes(1, 2))
    mixed = seen("block0/product1/left", jnp.tanh(likeness)) @ seen("block0/product1/right", y)
    wrapped = METHOD.wrap(ONE)
    outputs = quick.jit(functools.partial(wrapped.apply, train=False))(params, state, X)[0]
    np.testing.assert_allclose(outputs, (X + mixed).mean(1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "method", [METHOD, MovingAverageActivations(bits=4, products=True)], ids=["fixed", "moving"]
)
def test_a_scan_over_blocks_is_the_network_that_is_written_out(method):
    written, scanned = from_linen(Mixed()), from_linen(Mixed(scanned=True))
    params = quick.start(written, X)[0]
    stacked = {"blocks": jax.tree.map(lambda *a: jnp.stack(a), params["block0"], params["block1"])}

    def run(model, params):
        params, state = method.calibrate(model, params, {}, X)
        return method.wrap(model).apply(params, state, 2 * X, train=True)

    (y, state), (z, other) = (
        quick.jit(functools.partial(run, m))(p) for m, p in ((written, params), (scanned, stacked))
    )
    np.testing.assert_allclose(z, y, rtol=1e-4, atol=1e-5)
    ranges, others = state["activation_ranges"], other["activation_ranges"]
    assert len(others) == 5 and len(ranges) == 10
    for path, numbers in others.items():
        by_block = [ranges[path.replace("blocks", f"block{i}")] for i in range(2)]
        expected = jax.tree.map(lambda *a: jnp.stack(a), *by_block)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), numbers, expected)


@pytest.mark.parametrize("model", [from_linen(LinenViT()), from_nnx(NnxViT)], ids=["linen", "nnx"])
def test_the_plan_says_what_stays_in_float(model):
    paths = [
        f"block{i}/attention/product{j}/{side}" for i in range(DEPTH) for j in (0, 1) for side in ("left", "right")
    ]
    plain = {row.path: row.what for row in Activations().plan_inputs(model, IMAGES)}
    assert [path for path, what in plain.items() if what.startswith("as it is")] == paths
    rows = Activations(products=True, rules=((".*product1/left", None),)).plan_inputs(model, IMAGES)
    quantized = {row.path: row.what for row in rows}
    assert quantized.keys() == plain.keys()
    left_alone = [path for path, what in quantized.items() if what == "as it is"]
    assert left_alone == [path for path in paths if path.endswith("product1/left")]


def test_a_kernel_times_data_is_no_product_of_activations():
    x = jax.ShapeDtypeStruct((2, 4), jnp.float32)
    dense = from_linen(nn.Dense(3))
    params, state = jax.eval_shape(dense.init, jax.random.key(0), x)
    assert intercept.operands(dense.apply, params, state, x, train=False) == {}


def test_the_state_has_ranges_of_operands_from_the_start():
    wrapped = METHOD.wrap(ONE)
    before = jax.eval_shape(wrapped.init, jax.random.key(0), X)
    after = jax.eval_shape(lambda x: METHOD.calibrate(ONE, PARAMS, {}, x), X)
    assert jax.tree.map(jnp.shape, before) == jax.tree.map(jnp.shape, after)


def test_integers_are_refused():
    from jopt.quantize import quantize

    params, state = METHOD.calibrate(ONE, PARAMS, {}, X)
    codes = {"block0/dense/kernel": quantize(params["block0"]["dense"]["kernel"], Spec(8))}
    with pytest.raises(ValueError, match="products=True"):
        integer.network(ONE, params, state, codes, METHOD)
