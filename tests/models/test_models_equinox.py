"""Equinox modules: the contract of `Model`, what Equinox itself computes, and what jopt sees of their layers."""

from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
import tiny

from jopt import codec, intercept, layers, measure, prune, train
from jopt.export import onnx
from jopt.models import Model, check, from_equinox
from jopt.quantize import Activations, MovingAverageActivations, Spec, integer, quantize
from jopt.rules import named_leaves
from jopt.train import Stage

pytestmark = pytest.mark.unoptimized
KEY = jax.random.key(0)
IMAGES = jax.random.normal(jax.random.key(1), (5, 1, 6, 6))


class Net(eqx.Module):
    """Everything at once: channels first, attention over positions, a normalization with a state, dropout."""

    conv: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm
    attention: eqx.nn.MultiheadAttention
    layers: list
    dropout: eqx.nn.Dropout

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.conv = eqx.nn.Conv2d(1, 4, 3, key=keys[0])
        self.norm = eqx.nn.BatchNorm(4, "batch", mode="batch")
        self.attention = eqx.nn.MultiheadAttention(2, 4, key=keys[1])
        self.layers = [eqx.nn.LayerNorm(4), eqx.nn.Linear(4, 3, key=keys[2])]
        self.dropout = eqx.nn.Dropout(0.5)

    def __call__(self, x, state, *, key=None):
        x, state = self.norm(self.conv(x), state)
        x = jax.vmap(self.layers[0])(x.reshape(4, -1).T)
        x = self.dropout(self.attention(x, x, x).mean(0), key=key)
        return self.layers[1](x), state


class Flat(eqx.Module):
    """An MLP of images, channels last, whose activations may be a static field."""

    mlp: eqx.nn.MLP

    def __init__(self, size: int, classes: int, width: int = 8, *, key):
        self.mlp = eqx.nn.MLP(size, classes, width, 1, key=key)

    def __call__(self, x):
        return self.mlp(x.reshape(-1))


MODEL = from_equinox(Net)


@pytest.fixture(scope="module")
def variables():
    return MODEL.init(KEY, IMAGES)


def test_parameters_are_a_dictionary_by_field_and_the_state_is_apart(variables):
    params, state = variables
    paths = {path for path, _ in named_leaves(params)}
    assert {"conv/weight", "attention/query_proj/weight", "layers/1/bias", "norm/weight"} <= paths
    assert set(state) == {"state"} and check(MODEL, IMAGES).shape == (5, 3)


def test_it_computes_what_equinox_computes(variables):
    params, state = variables
    module, start = eqx.nn.make_with_state(Net)(KEY)
    run = jax.vmap(eqx.nn.inference_mode(module), axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    np.testing.assert_allclose(MODEL.apply(params, state, IMAGES, train=False)[0], run(IMAGES, start)[0], rtol=1e-5)


def test_training_moves_the_state_and_draws_from_the_key(variables):
    params, state = variables
    a, b, c = (MODEL.apply(params, state, IMAGES, train=True, key=jax.random.key(i)) for i in (0, 0, 1))
    np.testing.assert_array_equal(a[0], b[0])
    assert not np.array_equal(a[0], c[0]) and jax.tree.structure(a[1]) == jax.tree.structure(state)
    assert any(not np.array_equal(*pair) for pair in zip(*map(jax.tree.leaves, (state, a[1])), strict=True))


def test_layers_say_that_outputs_come_first():
    known = layers.trace(MODEL, IMAGES)
    conv, linear = known["conv/weight"], known["layers/1/weight"]
    assert (conv.contract, conv.outputs, conv.window, conv.source) == ((1, 2, 3), (0,), (2, 3), "traced")
    assert (linear.contract, linear.outputs, linear.layer) == ((1,), (0,), "Linear")
    assert known["layers/0/weight"].role == known["norm/weight"].role == "scale"


def test_calls_have_the_batch_although_the_module_sees_one_example(variables):
    calls = intercept.names(MODEL.apply, *variables, IMAGES, train=False)
    assert {path: c[0].input.shape for path, c in calls.items()} == {
        "conv": (5, 1, 6, 6),
        **{f"attention/{name}_proj": (5, 16, 4) for name in ("query", "key", "value", "output")},
        "layers/1": (5, 4),
    }


def test_flops_belong_to_layers(variables):
    scopes = measure.flops_by_scope(lambda x: MODEL.apply(*variables, x, train=False)[0], IMAGES)
    counts = measure.flops_by_layer(scopes, variables[0])
    assert counts["conv"] == 5 * 2 * 9 * 4 * 16 and counts["layers/1"] == 5 * 2 * 12
    assert counts["attention/query_proj"] == 5 * 2 * 16 * 16


@pytest.mark.parametrize("method", [Activations(bits=3), MovingAverageActivations(bits=3)], ids=["fixed", "moving"])
def test_activations_are_quantized_in_ranges_of_the_whole_batch(method, variables):
    params, state = method.calibrate(MODEL, *variables, IMAGES)
    numbers = {path: {n: v.shape for n, v in r.items()} for path, r in state["activation_ranges"].items()}
    assert len(numbers) == 6 and all(shape == () for r in numbers.values() for shape in r.values())
    run = quick.jit(lambda p, s, x: method.wrap(MODEL).apply(p, s, x, train=True, key=KEY))
    logits, new = run(params, state, 3 * IMAGES)
    changed = state["activation_ranges"]["conv"]["high"] != new["activation_ranges"]["conv"]["high"]
    assert bool(changed) == method.moves
    assert not np.allclose(logits, MODEL.apply(*variables, 3 * IMAGES, train=True, key=KEY)[0], atol=1e-4)


def test_integers_are_refused_with_the_remedy(variables):
    params, state = Activations().calibrate(MODEL, *variables, IMAGES)
    weights = {"layers/1/weight": quantize(params["layers"]["1"]["weight"], Spec(8))}
    with pytest.raises(ValueError, match=r"layers/1/weight.*Equinox.*None"):
        integer.network(MODEL, params, state, weights, Activations())
    # It was an AssertionError from inside of the rewriting.
    with pytest.raises(ValueError, match=r"layers/1/weight.*Equinox.*None"):
        onnx.encode_quantized(MODEL, params, state, (1, 6, 6), weights, Activations())


def test_a_module_itself_is_a_model_that_starts_from_its_arrays():
    module = eqx.nn.Linear(4, 3, key=KEY)
    params, _ = from_equinox(module).init(jax.random.key(5), jnp.ones((2, 4)))
    np.testing.assert_array_equal(params["weight"], module.weight)
    assert type(module) is eqx.nn.Linear


def test_integer_arrays_are_constants_of_the_state():
    class Permuted(eqx.Module):
        order: jax.Array
        linear: eqx.nn.Linear

        def __init__(self, key):
            self.order, self.linear = jax.random.permutation(key, 4), eqx.nn.Linear(4, 2, key=key)

        def __call__(self, x):
            return self.linear(x[self.order])

    model = from_equinox(lambda key: Permuted(key))
    params, state = model.init(KEY, jnp.ones((2, 4)))
    assert list(params) == ["linear"] and state["constants"]["order"].dtype == jnp.int32
    assert check(model, jnp.ones((2, 4))).shape == (2, 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: from_equinox(Net, takes="rows"), "takes.*'example'.*'rows'"),
        (lambda: check(from_equinox(lambda key: cast(Any, 3)), IMAGES), "Equinox module.*int"),
        (lambda: check(from_equinox(Net, takes="batch"), IMAGES), "state.*one example"),
        (lambda: check(from_equinox(eqx.nn.Lambda(lambda x: (x, x))), IMAGES), "one array.*tuple"),
    ],
)
def test_what_cannot_be_a_model_is_one_clear_line(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_run_trains_prunes_quantizes_and_packs(tmp_path):
    """Which once trained all stages and then died at packing."""
    methods = (prune.OneShot(0.5, score="wanda"), Activations(bits=8))
    config = tiny.smallest_experiment(stages=[Stage("dense", epochs=1), Stage("small", epochs=1, methods=methods)])
    model = from_equinox(lambda key: Flat(9, 3, key=key))
    result = train.run(config, tmp_path / "run", model=model)
    packed = codec.load(tmp_path / "run" / "model.jopt")
    assert {path for path, _ in named_leaves(packed)} >= {"mlp/layers/0/weight", "mlp/layers/1/bias"}
    assert result and float(jnp.mean(packed["mlp"]["layers"]["0"]["weight"] == 0)) == 0.5


def test_a_module_in_the_place_of_its_arrays_is_refused_before_training():
    def init(key, x):
        return eqx.nn.Linear(4, 3, key=key), {}

    def apply(params, state, x, *, train, key=None):
        return jax.vmap(params)(x), state

    with pytest.raises(ValueError, match=r"params.*Linear.*from_equinox"):
        check(Model(init, apply), jnp.ones((2, 4)))
