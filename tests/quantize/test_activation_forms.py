"""Activations of layers inside transformations: as in the network that is written out, with the same numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from flax import linen as nn
from flax import nnx

from jopt import intercept, layers, prune
from jopt.models import Model, from_linen, from_nnx
from jopt.quantize import Activations, LSQActivations, MovingAverageActivations, PACTActivations

pytestmark = pytest.mark.unoptimized
LAYERS, WIDTH = 3, 5
X = jax.random.normal(jax.random.key(1), (8, WIDTH))
TIMES = jax.random.normal(jax.random.key(2), (8, 4, WIDTH))
METHODS = (
    Activations(bits=3),
    MovingAverageActivations(bits=4, momentum=0.5),
    LSQActivations(bits=3),
    PACTActivations(bits=4),
)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        return x + nn.relu(nn.Dense(WIDTH, name="dense")(x)), None


class Stack(nn.Module):
    """Blocks one after the other: written out, each rematerialized, scanned, or scanned and rematerialized."""

    form: str

    @nn.compact
    def __call__(self, x):
        block = nn.remat(Block, prevent_cse=False) if "remat" in self.form else Block
        if "scan" in self.form:
            scan = nn.scan(block, variable_axes={"params": 0}, split_rngs={"params": True}, length=LAYERS)
            x, _ = scan(name="blocks")(x, None)
        else:
            for i in range(LAYERS):
                x, _ = block(name=f"block{i}")(x)
        return nn.Dense(2, name="head")(x)


class NnxBlock(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x):
        return x + nnx.relu(self.dense(x))


class NnxStack(nnx.Module):
    def __init__(self, rngs, remat=False):
        make = nnx.vmap(NnxBlock, in_axes=(0,), out_axes=0)
        self.blocks = make(rngs.split(LAYERS))
        self.head, self.remat = nnx.Linear(WIDTH, 2, rngs=rngs), remat

    def __call__(self, x):
        def run(block, x):
            return (nnx.remat(NnxBlock.__call__) if self.remat else NnxBlock.__call__)(block, x)

        return self.head(nnx.scan(run, in_axes=(0, nnx.Carry), out_axes=nnx.Carry)(self.blocks, x))


def copies(tree):
    """A tree of the written-out network, stacked as the scanned one has it."""
    blocks = [tree[f"block{i}"] for i in range(LAYERS) if f"block{i}" in tree]
    others = {name: value for name, value in tree.items() if not name.startswith("block")}
    return {**others, "blocks": jax.tree.map(lambda *a: jnp.stack(a), *blocks)} if blocks else others


def of_layers(numbers):
    """What belongs to the layers of the written-out network, by the layers of the scanned one."""
    blocks = [numbers[f"block{i}/dense"] for i in range(LAYERS)]
    return {"head": numbers["head"], "blocks/dense": jax.tree.map(lambda *a: jnp.stack(a), *blocks)}


QUICK = [m if m is not METHODS[3] else pytest.param(m, marks=pytest.mark.slow) for m in METHODS]


PLAIN = from_linen(Stack("plain"))
PARAMS = quick.start(PLAIN, X)[0]
FORMS = {
    "remat": from_linen(Stack("remat")),
    "scan": from_linen(Stack("scan")),
    "scan of remat": from_linen(Stack("scan remat")),
    "NNX scan": from_nnx(NnxStack),
    "NNX scan of remat": from_nnx(functools.partial(NnxStack, remat=True)),
}


def step(model, method, params, x):
    """Calibrated on x and run, in training, on other inputs; with gradients."""
    params, state = method.calibrate(model, params, {}, x)
    wrapped = method.wrap(model)

    def loss(params):
        y, new = wrapped.apply(params, state, 1.5 * x, train=True)
        return jnp.square(y).sum(), (y, new)

    (_, (y, new)), gradients = jax.value_and_grad(loss, has_aux=True)(params)
    return y, state, new, gradients


@functools.cache
def reference(method):
    return quick.jit(functools.partial(step, PLAIN, method))(PARAMS, X)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", QUICK, ids=lambda m: type(m).__name__)
def test_a_stack_is_quantized_as_the_network_that_is_written_out(form, method):
    expected = reference(method)
    params = PARAMS if form == "remat" else copies(PARAMS)
    y, state, new, gradients = quick.jit(functools.partial(step, FORMS[form], method))(params, X)

    def close(a, b):
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-5), a, b)

    close(y, expected[0])
    key = "activation_ranges"
    for mine, theirs in ((state, expected[1]), (new, expected[2])):
        if key in theirs:
            close(mine[key], theirs[key] if form == "remat" else of_layers(theirs[key]))
    theirs = dict(expected[3])
    ranges = {key: theirs.pop(key)} if key in theirs else {}
    if form != "remat":
        theirs, ranges = copies(theirs), {k: of_layers(v) for k, v in ranges.items()}
    close(gradients, theirs | ranges)


class Cell(nn.Module):
    @nn.compact
    def __call__(self, h, x):
        return nn.tanh(nn.Dense(3, name="i")(x) + nn.Dense(3, use_bias=False, name="h")(h)), None


class Steps(nn.Module):
    """A recurrent network whose steps are a scan, or written out."""

    scanned: bool

    @nn.compact
    def __call__(self, x):
        h = jnp.zeros((x.shape[0], 3))
        if self.scanned:
            scan = nn.scan(Cell, variable_broadcast="params", split_rngs={"params": False}, in_axes=1)
            return scan(name="cell")(h, x)[0]
        cell = Cell(name="cell")
        for i in range(x.shape[1]):
            h, _ = cell(h, x[:, i])
        return h


@pytest.mark.parametrize("method", QUICK, ids=lambda m: type(m).__name__)
def test_time_steps_share_their_range(method):
    written, scanned = (from_linen(Steps(scanned)) for scanned in (False, True))
    params = quick.start(written, TIMES)[0]
    results = [quick.jit(functools.partial(step, model, method))(params, TIMES) for model in (written, scanned)]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-5), *results)


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell, nn.SimpleCell])
def test_flax_recurrent_cells_have_one_range_a_layer(cell):
    model = from_linen(nn.Sequential([nn.RNN(cell(3)), lambda x: x[:, -1], nn.Dense(2)]))
    params, state = model.init(jax.random.key(0), TIMES)
    method = Activations(bits=4)
    params, state = method.calibrate(model, params, state, TIMES)
    assert {v.shape for v in jax.tree.leaves(state)} == {()} and len(state["activation_ranges"]) >= 3
    coarse = method.wrap(model).apply(params, state, TIMES, train=False)[0]
    assert not np.array_equal(coarse, model.apply(params, {}, TIMES, train=False)[0])


def test_an_nnx_recurrent_network_has_the_same_ranges_as_the_cells_calls_say():
    model = from_nnx(lambda rngs: nnx.RNN(nnx.SimpleCell(WIDTH, 3, rngs=rngs), rngs=rngs))
    params, state = model.init(jax.random.key(0), TIMES)
    params, state = Activations(bits=4, calibration="absmax").calibrate(model, params, state, TIMES)
    ranges = state["activation_ranges"]
    low, high = TIMES.min(), TIMES.max()
    assert (ranges["cell/dense_i"]["low"], ranges["cell/dense_i"]["high"]) == (low, high)


@pytest.mark.parametrize("form", ["scan", "NNX scan"])
def test_statistics_and_wanda_are_those_of_each_copy(form):
    params = copies(PARAMS)
    written = intercept.statistics(PLAIN.apply, PARAMS, {}, X)
    stacked = intercept.statistics(FORMS[form].apply, params, {}, X)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5)
    jax.tree.map(close, stacked, of_layers(written))
    masked = []
    for model, tree, stats in ((PLAIN, PARAMS, written), (FORMS[form], params, stacked)):
        pruner = prune.one_shot(0.5, score="wanda", layers=layers.trace(model, X))
        masked.append(pruner.apply(pruner.update(pruner.init(tree), tree, step=0, layers=stats), tree))
    jax.tree.map(np.testing.assert_array_equal, copies(masked[0]), masked[1])


def test_features_have_the_examples_first():
    params = copies(PARAMS)
    _, calls = intercept.capture(functools.partial(FORMS["scan"].apply, train=False))(params, {}, X)
    _, written = intercept.capture(functools.partial(PLAIN.apply, train=False))(PARAMS, {}, X)
    assert calls["blocks/dense"][0].features.shape == (8, LAYERS, WIDTH)
    for i in range(LAYERS):
        expected = written[f"block{i}/dense"][0].features
        np.testing.assert_allclose(calls["blocks/dense"][0].features[:, i], expected, rtol=1e-5, atol=1e-6)


def test_mapped_copies_have_ranges_of_their_own():
    dense = nn.vmap(nn.Dense, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=0, axis_size=3)
    ensemble = from_linen(nn.Sequential([lambda x: jnp.stack([x, 2 * x, 4 * x]), dense(2), lambda y: y.sum(0)]))
    params, state = ensemble.init(jax.random.key(0), X)
    params, state = Activations(bits=8, calibration="absmax").calibrate(ensemble, params, state, X)
    (ranges,) = state["activation_ranges"].values()
    np.testing.assert_allclose(ranges["high"], X.max() * np.array([1, 2, 4], np.float32), rtol=1e-6)


def test_every_form_has_a_range_for_each_copy_from_the_start():
    """So that the tree of a stage's state is the same before calibration and after it."""
    for method in METHODS:
        wrapped = method.wrap(FORMS["scan"])
        before = jax.eval_shape(wrapped.init, jax.random.key(0), X)
        after = jax.eval_shape(lambda x, m=method: m.calibrate(FORMS["scan"], copies(PARAMS), {}, x), X)
        assert jax.tree.map(jnp.shape, before) == jax.tree.map(jnp.shape, after)


def test_calls_of_a_quantized_network_are_seen_once():
    """The function inside begins a trace in vain, with the layer before the first that is nested."""
    model = from_linen(nn.Sequential([nn.Dense(WIDTH), nn.relu, nn.remat(nn.Dense)(2)]))
    params, state = model.init(jax.random.key(0), X)
    method = METHODS[1]
    params, state = method.calibrate(model, params, state, X)
    run = functools.partial(method.wrap(model).apply, train=True)
    (y, new), calls = quick.jit(intercept.capture(run))(params, state, X)
    assert [len(layer_calls) for layer_calls in calls.values()] == [1, 1]
    np.testing.assert_allclose(calls["layers_2"][0].output, y, rtol=1e-6)
    expected = quick.jit(run)(params, state, X)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), (y, new), expected)


def test_a_layer_with_copies_has_no_one_grid():
    method = Activations()
    _, state = method.calibrate(FORMS["scan"], copies(PARAMS), {}, X)
    with pytest.raises(ValueError, match="copies"):
        method.input_grid("blocks/dense", {}, state["activation_ranges"])


def test_layers_in_a_branch_or_an_open_loop_are_refused_before_anything_is_computed():
    variables = nn.Dense(WIDTH).init(jax.random.key(0), X)

    def branch(params, state, x, *, train, key=None):
        layer = functools.partial(nn.Dense(WIDTH).apply, variables)
        return jax.lax.cond(x.sum() > 0, layer, lambda x: x, x), state

    def loop(params, state, x, *, train, key=None):
        layer = functools.partial(nn.Dense(WIDTH).apply, variables)
        return jax.lax.while_loop(lambda x: x.sum() < 9, layer, x), state

    for apply in (branch, loop):
        with pytest.raises(ValueError, match=r"nn\.scan"):
            intercept.names(apply, {}, {}, X, train=False)
        with pytest.raises(ValueError, match=r"nn\.scan"):
            Activations().plan_inputs(Model(lambda key, x: ({}, {}), apply), X)
