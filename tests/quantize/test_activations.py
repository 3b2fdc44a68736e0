"""Quantized activations against NumPy: ranges, what layers compute with them, and how ranges move."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from quantize_reference import ACTIVATIONS, activation_method
from quick import jit

from jopt import hyper, intercept
from jopt.config import ConfigError
from jopt.models import Model, from_linen
from jopt.models.mlp import MLP, TiedMLP
from jopt.models.rnn import RNN
from jopt.quantize import (
    Activations,
    LSQActivations,
    MovingAverageActivations,
    PACTActivations,
    Percentile,
    activations,
    calibrate,
)
from jopt.rules import RuleError

pytestmark = pytest.mark.unoptimized

KEY = jax.random.key(0)
X = jnp.asarray(np.random.default_rng(1).normal(size=(32, 6)), jnp.float32)
RANGES = "activation_ranges"


class ConvNet(nn.Module):
    """Everything at once: convolution, batch normalization, dropout."""

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.Conv(3, (3, 3))(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        x = nn.Dropout(0.3, deterministic=not train)(x)
        return nn.Dense(4)(x.mean((1, 2)))


@functools.cache
def made(module, shape=(32, 6)):
    model = from_linen(module)
    return model, *jit(model.init)(KEY, jnp.zeros(shape))


MODEL = MLP((8, 5), num_classes=3)


def numpy_fake(x, low, high, bits, symmetric):
    """One range, float64; ties to even."""
    x, low, high = np.asarray(x, np.float64), min(float(low), 0.0), max(float(high), 0.0)
    if symmetric:
        top = 2 ** (bits - 1) - 1
        scale = max(-low, high) / top
        return np.clip(np.round(x / scale), -top, top) * scale
    top = 2**bits - 1
    scale = (high - low) / top
    zero = np.round(-low / scale)
    return (np.clip(np.round(x / scale) + zero, 0, top) - zero) * scale


def numpy_range(values, config, method, q):
    v = np.asarray(values, np.float64).ravel()
    if method == "percentile":
        if config.symmetric:
            peak = np.percentile(np.abs(v), q)
            return -peak, peak
        return min(np.percentile(v, 100 - q), 0), max(np.percentile(v, q), 0)
    low, high = (-np.abs(v).max(), np.abs(v).max()) if config.symmetric else (min(v.min(), 0), max(v.max(), 0))
    if method == "mse":
        errors = [
            ((numpy_fake(v, f * low, f * high, config.bits, config.symmetric) - v) ** 2).sum()
            for f in np.arange(1, 101) / 100
        ]
        best = (1 + int(np.argmin(errors))) / 100
        return best * low, best * high
    return low, high


def layer_inputs(model, params, state, x, train=False):
    """What each layer is called with, before any quantization of it, and what it gives."""
    return intercept.capture(functools.partial(model.apply, train=train))(params, state, x)[1]


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("method", ["absmax", "percentile", "mse", "moving_average"])
def test_calibrated_ranges_are_numpys(method, symmetric):
    model, params, state = made(MODEL)
    config = activation_method(method, bits=4, symmetric=symmetric, percentile=95.0)
    calls = layer_inputs(model, params, state, X)
    same, calibrated = calibrate(model, config, params, state, X)
    assert same == params and list(calibrated[RANGES]) == ["Dense_0", "Dense_1", "Dense_2"]
    for path, own in calibrated[RANGES].items():
        low, high = numpy_range(calls[path][0].input, config, method, 95.0)
        np.testing.assert_allclose([own["low"], own["high"]], [low, high], rtol=1e-5, atol=1e-7)
        assert own["low"].dtype == own["high"].dtype == jnp.float32 and own["low"].shape == ()
    assert symmetric or calibrated[RANGES]["Dense_1"]["low"] == 0  # behind a ReLU


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("method", ACTIVATIONS)
def test_each_layer_computes_with_what_numpy_makes_of_its_input(method, symmetric):
    model, params, state = made(MODEL)
    config = activation_method(method, bits=3, symmetric=symmetric, percentile=97.0)
    params, state = calibrate(model, config, params, state, X)
    calls = layer_inputs(activations(model, config), params, state, X)
    for path in ("Dense_0", "Dense_1", "Dense_2"):
        held = state.get(RANGES, {}).get(path)
        signed = symmetric or (held is not None and bool(held.get("signed", False)))
        x, top = calls[path][0].input, 2**2 - 1 if signed else 2**3 - 1
        if method == "lsq":
            high = top * float(params[RANGES][path]["step"])
            seen = numpy_fake(x, -high if signed else 0, high, 3, signed)
        elif method == "pact":
            high = float(params[RANGES][path]["alpha"])
            seen = numpy_fake(x, -high if signed else 0, high, 3, signed)
        else:
            seen = numpy_fake(x, held["low"], held["high"], 3, symmetric)
        kernel, bias = (np.asarray(params[path][name], np.float64) for name in ("kernel", "bias"))
        np.testing.assert_allclose(calls[path][0].output, seen @ kernel + bias, rtol=1e-5, atol=1e-5)
        assert 1 < len(np.unique(seen)) <= (2 * top + 1 if signed else 8)


def test_learned_ranges_start_from_the_data():
    model, params, state = made(MODEL)
    calls = {path: np.asarray(c[0].input, np.float64) for path, c in layer_inputs(model, params, state, X).items()}
    stepped, signs = calibrate(model, activation_method("lsq", bits=4), params, state, X)
    clipped, _ = calibrate(model, activation_method("pact", bits=4, percentile=90.0), params, state, X)
    for path, x in calls.items():
        signed = path == "Dense_0"
        step, alpha = stepped[RANGES][path]["step"], clipped[RANGES][path]["alpha"]
        mean = np.abs(x[x != 0]).mean()
        np.testing.assert_allclose(step, 2 * mean / np.sqrt(7 if signed else 15), rtol=1e-5)
        np.testing.assert_allclose(alpha, np.percentile(np.abs(x) if signed else x, 90), rtol=1e-5)
        assert bool(signs[RANGES][path]["signed"]) == signed and signs[RANGES][path]["signed"].dtype == bool


class One(nn.Module):
    @nn.compact
    def __call__(self, x, *, train=False):
        return nn.Dense(1, use_bias=False)(x)


ONES = {"Dense_0": {"kernel": jnp.ones((4, 1))}}


def of_one(params, config, x, signed=False):
    """The sum of what one layer of ones makes of `x`."""
    state = {RANGES: {"Dense_0": {"signed": jnp.bool_(signed)}}}
    return activations(from_linen(One()), config).apply(params, state, x, train=True)[0].sum()


def test_the_gradient_of_pact_is_one_for_each_clipped_entry():
    config = activation_method("pact", bits=2)
    params = {**ONES, RANGES: {"Dense_0": {"alpha": jnp.float32(3)}}}
    x = jnp.array([[0.4, 1.6, 3.5, 9.0]])
    value, grads = jax.value_and_grad(of_one)(params, config, x)
    assert value == 0 + 2 + 3 + 3 and grads[RANGES]["Dense_0"]["alpha"] == 2
    np.testing.assert_array_equal(jax.grad(of_one, 2)(params, config, x), [[1.0, 1.0, 0.0, 0.0]])


def test_the_gradient_of_lsq_is_esser_et_als():
    config = activation_method("lsq", bits=2)
    params = {**ONES, RANGES: {"Dense_0": {"step": jnp.float32(1)}}}
    x = jnp.array([[0.25, 1.75, 2.5, 9.0]])  # codes 0, 2, 2 (to even), 3
    value, grads = jax.value_and_grad(of_one)(params, config, x)
    scale = 1 / np.sqrt(4 * 3)
    expected = scale * ((0 - 0.25) + (2 - 1.75) + (2 - 2.5) + 3)
    assert value == 7
    np.testing.assert_allclose(grads[RANGES]["Dense_0"]["step"], expected, rtol=1e-6)


def test_negative_inputs_have_codes_where_calibration_met_them():
    x = jnp.array([[-3.0, -1.0, 0.0, 2.0]])
    params = {**ONES, RANGES: {"Dense_0": {"alpha": jnp.float32(3)}}}
    config = activation_method("pact", bits=2)
    assert of_one(params, config, x, signed=False) == 2
    assert of_one(params, config, x, signed=True) == -3 + 0 + 0 + 3  # 1 and 2 lie a third and two from 0 and 3


@pytest.mark.parametrize(("method", "name"), [("lsq", "step"), ("pact", "alpha")])
def test_a_learned_number_counts_by_its_magnitude(method, name):
    config = activation_method(method, bits=3)
    plus, minus = ({**ONES, RANGES: {"Dense_0": {name: jnp.float32(sign * 0.7)}}} for sign in (1, -1))
    x = jnp.array([[0.1, 0.6, 2.0, 7.0]])
    (a, ga), (b, gb) = (jax.value_and_grad(of_one)(p, config, x) for p in (plus, minus))
    assert a == b and ga[RANGES]["Dense_0"][name] == -gb[RANGES]["Dense_0"][name] != 0


@pytest.mark.parametrize("method", ["mse", "moving_average", "lsq", "pact"])
def test_gradients_reach_what_is_learned_and_nothing_else(method):
    model, params, state = made(MODEL)
    config = activation_method(method, bits=2)
    params, state = jit(functools.partial(calibrate, model, config))(params, state, X)

    def loss(params):
        return (activations(model, config).apply(params, state, X, train=True)[0] ** 2).sum()

    grads = jit(jax.grad(loss))(params)
    assert all(np.isfinite(g).all() and np.any(g != 0) for g in jax.tree.leaves(grads))
    assert (RANGES in grads) == (method in ("lsq", "pact"))


@pytest.mark.parametrize(
    ("method", "train"), [("absmax", True), ("moving_average", False), ("lsq", True), ("pact", True)]
)
def test_a_fresh_model_is_not_quantized_until_it_has_ranges(method, train):
    model, *_ = made(MODEL)
    quantized = activations(model, activation_method(method, bits=1))
    params, state = jit(quantized.init)(KEY, X)
    bare = {name: layer for name, layer in params.items() if name != RANGES}

    def loss(params, apply, state):
        return (apply(params, state, X, train=train)[0] ** 2).sum()

    value, grads = jax.jit(jax.value_and_grad(loss), static_argnums=1)(params, quantized.apply, state)
    assert value == jax.jit(loss, static_argnums=1)(bare, model.apply, {})
    assert all(np.all(g == 0) for g in jax.tree.leaves(grads.get(RANGES, {})))
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_the_moving_average_is_that_of_the_batches_extremes():
    model, params, state = made(MODEL)
    quantized = activations(model, activation_method("moving_average", bits=8, momentum=0.75))
    params, state = quantized.init(KEY, X)
    expected = {}
    for i in range(3):
        batch = (i + 1) * X[8 * i : 8 * i + 8] + 0.3
        calls = layer_inputs(quantized, params, state, batch, train=True)
        _, state = quantized.apply(params, state, batch, train=True)
        for path, own in calls.items():
            now = np.array([min(own[0].input.min(), 0), max(own[0].input.max(), 0)], np.float64)
            expected[path] = 0.75 * expected[path] + 0.25 * now if path in expected else now
            got = [state[RANGES][path]["low"], state[RANGES][path]["high"]]
            np.testing.assert_allclose(got, expected[path], rtol=1e-6)
    _, after = quantized.apply(params, state, 100 * X, train=False)
    jax.tree.map(np.testing.assert_array_equal, after, state)


def test_a_training_step_uses_the_average_that_it_leaves_behind():
    model = activations(from_linen(One()), activation_method("moving_average", bits=2, momentum=0.5))
    state = {RANGES: {"Dense_0": {"low": jnp.float32(0), "high": jnp.float32(3)}}}
    x = jnp.array([[0.0, 2.4, 7.0, 9.0]])
    logits, state = model.apply(ONES, state, x, train=True)  # [0, 6], a step of 2
    assert logits.tolist() == [[14.0]] and state[RANGES]["Dense_0"]["high"] == 6  # 0 + 2 + 6 + 6
    assert model.apply(ONES, state, x, train=False)[0].tolist() == [[14.0]]


def test_a_layer_called_twice_has_one_range_for_both():
    model, params, state = made(TiedMLP(5, 3, 3))
    calls = layer_inputs(model, params, state, X)["shared"]
    both = jnp.concatenate([calls[0].input, calls[1].input])
    assert both.max() == calls[1].input.max() > calls[0].input.max()  # else the test tests nothing
    _, calibrated = calibrate(model, activation_method("absmax"), params, state, X)
    assert calibrated[RANGES]["shared"]["high"] == both.max()
    quantized = activations(model, activation_method("moving_average"))
    params, state = quantized.init(KEY, X)
    seen = layer_inputs(quantized, params, state, X, train=True)["shared"]
    _, state = quantized.apply(params, state, X, train=True)
    assert state[RANGES]["shared"]["high"] == max(float(call.input.max()) for call in seen)


@pytest.mark.parametrize("method", ["absmax", "moving_average", "lsq", "pact"])
def test_training_in_a_scan_with_batch_normalization_and_dropout(method):
    images = jnp.asarray(np.random.default_rng(0).normal(size=(4, 16, 6, 6, 2)), jnp.float32)
    model, *_ = made(ConvNet(), (2, 6, 6, 2))
    config = activation_method(method, bits=4)
    quantized = activations(model, config)
    params, state = jit(quantized.init)(KEY, images[0])
    if method != "moving_average":
        params, state = jit(functools.partial(calibrate, model, config))(params, state, images[0])
    optimizer = optax.sgd(0.1)

    @jit
    def train(params, state):
        def step(carry, batch):
            params, state, moments = carry
            images, i = batch

            def loss(params):
                key = jax.random.fold_in(KEY, i)
                logits, new = quantized.apply(params, state, images, train=True, key=key)
                return (logits**2).mean(), new

            (value, state), grads = jax.value_and_grad(loss, has_aux=True)(params)
            updates, moments = optimizer.update(grads, moments, params)
            return (optax.apply_updates(params, updates), state, moments), value

        return jax.lax.scan(step, (params, state, optimizer.init(params)), (images, jnp.arange(4)))

    (trained, moved, _), losses = train(params, state)
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
    assert not np.array_equal(
        moved["batch_stats"]["BatchNorm_0"]["mean"], state["batch_stats"]["BatchNorm_0"]["mean"]
    )
    before, after = (
        jax.tree.leaves([p.get(RANGES, {}), s[RANGES]]) for p, s in ((params, state), (trained, moved))
    )
    changed = any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert changed == (method != "absmax")


# Of one number more than one method reads, one stands for both.
@pytest.mark.optimized
@pytest.mark.parametrize(
    "method", [pytest.param(m, marks=pytest.mark.slow if m in ("absmax", "pact") else ()) for m in ACTIVATIONS]
)
def test_bits_percentile_and_momentum_are_traced(method):
    model, params, state = made(MODEL)
    traces = []
    structure, _ = hyper.split(activation_method(method))

    @jax.jit
    def run(numbers, params, state):
        traces.append(1)
        config = hyper.join(structure, numbers)
        params, state = calibrate(model, config, params, state, X)
        return activations(model, config).apply(params, state, X, train=True)

    logits = []
    for config in (activation_method(method, 2, percentile=90.0, momentum=0.5), activation_method(method, 8)):
        traced, moved = run(hyper.split(config)[1], params, state)
        eager_params, eager_state = calibrate(model, config, params, state, X)
        eager, kept = activations(model, config).apply(eager_params, eager_state, X, train=True)
        np.testing.assert_array_equal(traced, eager)
        jax.tree.map(np.testing.assert_array_equal, moved, kept)
        logits.append(traced)
    assert len(traces) == 1 and not np.array_equal(*logits)


def test_a_batch_of_bits_is_a_loop_over_them():
    model, params, state = made(MODEL)

    def run(bits):
        config = activation_method("absmax", bits)
        return activations(model, config).apply(*calibrate(model, config, params, state, X), X, train=False)[0]

    together = jax.vmap(run)(jnp.array([2, 5]))
    for own, bits in zip(together, (2, 5), strict=True):
        np.testing.assert_allclose(own, run(bits), rtol=1e-5, atol=1e-6)


def test_quantizing_nothing_is_the_model_itself():
    model, params, state = made(MODEL)
    config = Activations(bits=None)
    assert activations(model, config) is model
    assert calibrate(model, config, params, state, X) == (params, state)
    none = Activations(bits=None, rules=(("Dense_.", None),))
    quantized = activations(model, none)
    again, empty = quantized.init(KEY, X)
    assert jax.tree.structure(again) == jax.tree.structure(params) and empty == {}
    plain = jax.jit(functools.partial(model.apply, train=True))
    wrapped = jax.jit(functools.partial(quantized.apply, train=True))
    np.testing.assert_array_equal(wrapped(params, state, X)[0], plain(params, state, X)[0])
    assert wrapped.lower(params, state, X).as_text() == plain.lower(params, state, X).as_text()


def test_rules_choose_bits_and_leave_layers_alone():
    model, params, state = made(MODEL)
    config = activation_method("absmax", bits=8, rules=(("Dense_0", None), (".*_1", 2)))
    params, state = calibrate(model, config, params, state, X)
    assert list(state[RANGES]) == ["Dense_1", "Dense_2"]
    used = []

    def see(path, x):
        used.append((path, len(np.unique(np.asarray(x)))))
        return x

    inner = model._replace(apply=intercept.replace_inputs(model.apply, see))
    activations(inner, config).apply(params, state, X, train=False)
    counts = dict(used)
    assert counts["Dense_0"] == X.size and counts["Dense_1"] <= 4 < counts["Dense_2"] <= 256


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            (("Dense_9", 4),),
            "rules of activations: rule 'Dense_9' matches no layer; the layers are: Dense_0, Dense_1",
        ),
        (((".*", 4), ("Dense_0", None)), "rule 'Dense_0' is hidden behind the rules before it"),
    ],
)
def test_rules_that_do_nothing_are_errors(rules, message):
    model, params, state = made(MODEL)
    config = Activations(rules=rules)
    for run in (
        lambda: activations(model, config).init(KEY, X),
        lambda: calibrate(model, config, params, state, X),
        lambda: config.plan_inputs(model, X),
    ):
        with pytest.raises(RuleError, match=message.replace(".", r"\.").replace("*", r"\*")):
            run()


def test_the_plan_names_every_layer_in_order():
    model, *_ = made(RNN("gru", (4,), num_classes=3), (2, 5, 6))
    config = activation_method("lsq", symmetric=True, rules=(("Dense_0", None),))
    rows = config.plan_inputs(model, jax.ShapeDtypeStruct((2, 5, 6), jnp.float32))
    assert [tuple(row) for row in rows] == [
        ("Recurrent_0", (5, 6), "8 bits, symmetric, lsq"),
        ("Dense_0", (4,), "as it is"),
    ]


def test_calibration_sees_the_weights_as_the_model_does_and_replaces_old_ranges():
    model, params, state = made(MODEL)
    config = activation_method("pact")
    old_params, old_state = calibrate(model, activation_method("lsq"), params, state, X)
    seen = jax.tree.map(lambda w: 2 * w, params)
    new, held = calibrate(model, config, old_params, old_state, X, seen=seen)
    of_seen, _ = calibrate(model, config, seen, state, X)
    assert jax.tree.structure(new) == jax.tree.structure(of_seen) and list(new[RANGES]["Dense_1"]) == ["alpha"]
    np.testing.assert_array_equal(new["Dense_1"]["kernel"], params["Dense_1"]["kernel"])
    assert new[RANGES]["Dense_1"]["alpha"] == of_seen[RANGES]["Dense_1"]["alpha"] and list(held) == [RANGES]


def test_calibration_looks_at_so_many_examples():
    model, params, state = made(MODEL)
    x = X.at[10].set(1e3)
    _, few = calibrate(model, activation_method("absmax", examples=10), params, state, x)
    _, more = calibrate(model, activation_method("absmax", examples=11), params, state, x)
    assert few[RANGES]["Dense_0"]["high"] < 10 < more[RANGES]["Dense_0"]["high"] == 1e3


@pytest.mark.parametrize("method", ACTIVATIONS)
def test_bfloat16_inputs_stay_bfloat16_and_ranges_float32(method):
    model, params, state = made(MLP((8,), num_classes=3, dtype=jnp.bfloat16))
    config = activation_method(method, bits=4)
    params, state = calibrate(model, config, params, state, X)
    calls = layer_inputs(activations(model, config), params, state, X)
    assert calls["Dense_1"][0].input.dtype == jnp.bfloat16 and calls["Dense_1"][0].output.dtype == jnp.bfloat16
    ranges = jax.tree.leaves([params.get(RANGES, {}), state[RANGES]])
    assert {r.dtype for r in ranges} <= {jnp.dtype(jnp.float32), jnp.dtype(bool)}


def test_a_constant_zero_input_is_left_as_it_is():
    model, params, state = made(MODEL)
    for method in ACTIVATIONS:
        config = activation_method(method)
        calibrated = calibrate(model, config, params, state, jnp.zeros_like(X))
        quantized = activations(model, config).apply(*calibrated, jnp.zeros_like(X), train=False)[0]
        assert np.isfinite(quantized).all()


def test_models_that_cannot_be_intercepted_are_refused():
    model = Model(lambda key, x: ({}, {}), lambda params, state, x, *, train, key=None: (x, state))
    params, state = model.init(KEY, X)
    for run in (
        lambda: activations(model, Activations()).init(KEY, X),
        lambda: activations(model, Activations()).apply(params, state, X, train=False),
        lambda: calibrate(model, Activations(), params, state, X),
    ):
        with pytest.raises(ValueError, match=r"Linen.*from_nnx"):
            run()
    with pytest.raises(ValueError, match=r"quantize.*Linen.*kernel"):
        activations(from_linen(nn.BatchNorm(use_running_average=True), mode=None), Activations()).init(KEY, X)


def test_missing_reserved_and_misplaced_ranges_are_errors():
    model, params, state = made(MODEL)
    with pytest.raises(ValueError, match=r"model_state\['activation_ranges'\].* no range.*'Dense_0'"):
        activations(model, Activations()).apply(params, state, X, train=False)
    with pytest.raises(ValueError, match=r"params\['activation_ranges'\].* no range.*'Dense_0'"):
        activations(model, activation_method("lsq", symmetric=True)).apply(params, state, X, train=False)
    twice = activations(activations(model, Activations()), Activations())
    with pytest.raises(ValueError, match=r"model_state.*'activation_ranges' already"):
        twice.init(KEY, X)
    with pytest.raises(ValueError, match=r"params.*dictionary.*tuple"):
        activations(model, Activations()).apply((), state, X, train=False)


def test_calibration_refuses_inputs_that_are_not_finite():
    model, params, state = made(MODEL)
    with pytest.raises(ValueError, match=r"'Dense_0'.*finite.*1 NaN"):
        calibrate(model, Activations(), params, state, X.at[3, 2].set(jnp.nan))


BAD = {
    "calibration": (Activations(calibration="max"), "calibration", "max"),
    "calibration_type": (Activations(calibration=3), "calibration", 3),
    "bits": (Activations(bits=0), "bits", 0),
    "bits_type": (Activations(bits=8.0), "bits", 8.0),
    "percentile": (Activations(calibration=Percentile(50.0)), "calibration.percentile", 50.0),
    "alpha": (PACTActivations(percentile=50.0), "percentile", 50.0),
    "alpha_high": (PACTActivations(percentile=100.1), "percentile", 100.1),
    "momentum": (MovingAverageActivations(momentum=1 - 1e-12), "momentum", 1 - 1e-12),
    "examples": (LSQActivations(examples=0), "examples", 0),
    "pattern": (Activations(rules=(("(", 4),)), "rules[0]", "("),
    "rule_bits": (LSQActivations(rules=(("a", 4), ("b", 12))), "rules[1]", 12),
    "state": (Activations(bits=None, state=True), "state", True),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_configs_are_refused_by_name(name):
    config, field, value = BAD[name]
    for check in (lambda: config.validate("a"), lambda: activations(made(MODEL)[0], config)):
        with pytest.raises(ConfigError) as caught:
            check()
        assert caught.value.field in (f"a.{field}", f"activations.{field}") and caught.value.value == value
    with pytest.raises(ConfigError) as caught:
        Activations(calibration=Percentile(float("nan"))).validate()
    assert caught.value.field == "activations.calibration.percentile"


def test_every_default_is_valid():
    for method in ACTIVATIONS:
        for symmetric in (False, True):
            activation_method(method, symmetric=symmetric).validate()
