"""Batch-norm recalibration against NumPy, and exactly in a hand-worked case."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from quantize_reference import activation_method
from quick import jit

from jopt.models import Model, from_linen, from_nnx
from jopt.quantize import activations, calibrate, recalibrate

pytestmark = pytest.mark.unoptimized

KEY = jax.random.key(0)
BATCHES = jnp.asarray(np.random.default_rng(1).normal(1.0, 2.0, (3, 8, 6, 6, 2)), jnp.float32)


class ConvNet(nn.Module):
    momentum: float = 0.9
    frozen: bool = False
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x, *, train):
        norm = functools.partial(nn.BatchNorm, momentum=self.momentum, epsilon=1e-3, use_fast_variance=False)
        x = nn.Conv(3, (3, 3), padding="VALID")(x)
        x = nn.relu(norm(use_running_average=not train or self.frozen)(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = norm(use_running_average=not train)(nn.Conv(4, (3, 3), padding="VALID")(x))
        return nn.Dense(5)(nn.relu(x).mean((1, 2)))


def numpy_statistics(params, batches):
    """The mean over batches of each normalization's batch mean and variance, in float64."""
    p = jax.tree.map(lambda w: np.asarray(w, np.float64), params)

    def conv(x, layer):
        windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
        return np.einsum("nhwcij,ijco->nhwo", windows, layer["kernel"]) + layer["bias"]

    rows = []
    for x in np.asarray(batches, np.float64):
        y = conv(x, p["Conv_0"])
        first = y.mean((0, 1, 2)), y.var((0, 1, 2))
        y = (y - first[0]) / np.sqrt(first[1] + 1e-3) * p["BatchNorm_0"]["scale"] + p["BatchNorm_0"]["bias"]
        y = conv(np.maximum(y, 0), p["Conv_1"])
        rows.append((*first, y.mean((0, 1, 2)), y.var((0, 1, 2))))
    return [np.mean(column, 0) for column in zip(*rows, strict=True)]


def made(**fields):
    model, rng = from_linen(ConvNet(**fields)), np.random.default_rng(0)

    def leaf(path, a):
        w = rng.normal(size=a.shape) / np.sqrt(np.prod(a.shape[:-1])) + ("scale" in str(path[-1]))
        return jnp.asarray(np.where(np.abs(w) < np.median(np.abs(w)), 0, w), a.dtype)

    # As after compression: half of the weights are gone, the statistics are those of other ones.
    params, state = jax.eval_shape(model.init, KEY, BATCHES[0])
    params = jax.tree_util.tree_map_with_path(leaf, params)
    return model, params, jax.tree.map(lambda s: jnp.full(s.shape, 7.0, s.dtype), state)


@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.999])
def test_statistics_are_numpys_whatever_the_momentum(momentum):
    model, params, state = made(momentum=momentum)
    new = jit(functools.partial(recalibrate, model))(params, state, BATCHES)["batch_stats"]
    mean0, var0, mean1, var1 = numpy_statistics(params, BATCHES)
    got = (new["BatchNorm_0"]["mean"], new["BatchNorm_0"]["var"], new["BatchNorm_1"]["mean"])
    for mine, theirs in zip((*got, new["BatchNorm_1"]["var"]), (mean0, var0, mean1, var1), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


def test_the_same_from_any_old_statistics_eager_and_jitted():
    model, params, state = made()
    run = jax.jit(functools.partial(recalibrate, model))
    first = run(params, state, BATCHES)
    other = jax.tree.map(lambda s: 1e4 * s - 3, state)
    jax.tree.map(np.testing.assert_array_equal, first, run(params, other, BATCHES))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), first, run(params, first, BATCHES)
    )
    eager = recalibrate(model, params, state, BATCHES)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), first, eager)
    assert jax.tree.structure(first) == jax.tree.structure(state)


class Norm(nn.Module):
    momentum: float
    frozen: bool = False

    @nn.compact
    def __call__(self, x, *, train):
        return nn.BatchNorm(use_running_average=self.frozen or not train, momentum=self.momentum)(x)


def test_a_hand_worked_case_is_exact():
    batches = jnp.array([[[0.0, 4.0], [2.0, 4.0]], [[3.0, 0.0], [9.0, -8.0]]])  # means 1, 4; 6, -4
    model = from_linen(Norm(0.75))
    params, state = model.init(KEY, batches[0])
    new = recalibrate(model, params, state, batches)["batch_stats"]["BatchNorm_0"]
    assert new["mean"].tolist() == [3.5, 0.0]
    assert new["var"].tolist() == [5.0, 8.0]  # of 1, 0; 9, 16


def test_statistics_that_already_agree_with_the_first_batch_are_not_taken_for_frozen():
    batches = jnp.array([[[0.0], [0.0]], [[2.0], [4.0]]])
    model = from_linen(Norm(0.5))
    params, _ = model.init(KEY, batches[0])
    state = {"batch_stats": {"BatchNorm_0": {"mean": jnp.zeros(1), "var": jnp.zeros(1)}}}
    new = recalibrate(model, params, state, batches)["batch_stats"]["BatchNorm_0"]
    assert (new["mean"].tolist(), new["var"].tolist()) == ([1.5], [0.5])


def test_large_statistics_do_not_disturb_the_momentum():
    model = from_linen(Norm(0.99))
    batches = 1e6 + jnp.array([[[-100.0], [100.0]]])
    params, state = model.init(KEY, batches[0])
    new = recalibrate(model, params, state, batches)["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(new["mean"], [1e6], rtol=1e-5)


def test_a_frozen_normalization_keeps_its_statistics_and_those_behind_it_see_them():
    model, params, state = made(frozen=True)
    new = recalibrate(model, params, state, BATCHES)["batch_stats"]
    jax.tree.map(np.testing.assert_array_equal, new["BatchNorm_0"], state["batch_stats"]["BatchNorm_0"])
    means = []
    for x in BATCHES:  # from 0 with momentum 0.9 a pass gives a tenth of the batch's own
        zero = {
            "batch_stats": {**state["batch_stats"], "BatchNorm_1": jax.tree.map(jnp.zeros_like, new["BatchNorm_1"])}
        }
        means.append(10 * model.apply(params, zero, x, train=True)[1]["batch_stats"]["BatchNorm_1"]["mean"])
    np.testing.assert_allclose(new["BatchNorm_1"]["mean"], np.mean(means, 0), rtol=1e-4, atol=1e-6)


def test_recalibration_mends_what_stale_statistics_break():
    model, params, state = made()
    x = BATCHES[0]
    target, _ = model.apply(params, state, x, train=True)
    stale = jnp.abs(model.apply(params, state, x, train=False)[0] - target).max()
    fresh = recalibrate(model, params, state, BATCHES[:1])
    mended = jnp.abs(model.apply(params, fresh, x, train=False)[0] - target).max()
    assert mended < 1e-4 < 1e-1 < stale


def test_all_else_in_the_state_is_left_alone():
    norm = from_linen(Norm(0.5))

    def apply(params, state, x, *, train, key=None):
        inner = {"batch_stats": state["batch_stats"]}
        y, inner = norm.apply(params, inner, x, train=train, key=key)
        moved = {"activation_ranges": {"": {"mean": state["activation_ranges"][""]["mean"] + 1}}}
        return y, {**inner, **moved, "count": state["count"] + 1}

    params, state = norm.init(KEY, BATCHES[0])
    state = {**state, "activation_ranges": {"": {"mean": jnp.float32(3)}}, "count": jnp.int32(5)}
    new = recalibrate(Model(norm.init, apply), params, state, BATCHES)
    assert new["activation_ranges"][""]["mean"] == 3 and new["count"] == 5
    assert not np.array_equal(
        new["batch_stats"]["BatchNorm_0"]["mean"], state["batch_stats"]["BatchNorm_0"]["mean"]
    )


def test_a_model_without_statistics_comes_back_unchanged():
    model = from_linen(nn.Sequential([nn.Dense(3)]))
    params, state = model.init(KEY, jnp.ones((2, 4)))
    assert recalibrate(model, params, state, jnp.ones((1, 2, 4))) is state
    kept = {"activation_ranges": {"": {"mean": jnp.float32(1)}}}
    assert recalibrate(model, params, kept, jnp.ones((1, 2, 4))) is kept


def test_nnx_models_are_recalibrated_too():
    model = from_nnx(lambda rngs: nnx.BatchNorm(1, momentum=0.75, rngs=rngs))
    batches = jnp.array([[[0.0], [2.0]], [[3.0], [9.0]]])
    params, state = model.init(KEY, batches[0])
    new = recalibrate(model, params, state, batches)
    assert (new["mean"].tolist(), new["var"].tolist()) == ([3.5], [5.0])


def test_dropout_draws_from_the_key():
    model, params, state = made(dropout=0.5)
    run = jax.jit(functools.partial(recalibrate, model))
    one, again, other = (run(params, state, BATCHES, key=jax.random.key(seed)) for seed in (1, 1, 2))
    second = [tree["batch_stats"]["BatchNorm_1"]["mean"] for tree in (one, again, other)]
    np.testing.assert_array_equal(second[0], second[1])
    assert not np.array_equal(second[0], second[2])


def test_bfloat16_statistics_keep_their_dtype():
    model = from_linen(Norm(0.75))
    batches = jnp.array([[[0.0], [2.0]], [[3.0], [9.0]]])
    params, state = model.init(KEY, batches[0])
    half = jax.tree.map(lambda s: s.astype(jnp.bfloat16), state)
    new = recalibrate(model, params, half, batches)["batch_stats"]["BatchNorm_0"]
    assert new["mean"].dtype == jnp.bfloat16 and new["mean"].tolist() == [3.5]


def test_vmap_is_a_loop_over_parameters():
    model, params, state = made()
    many = jax.tree.map(lambda w: jnp.stack([w, 2 * w]), params)
    run = lambda p: recalibrate(model, p, state, BATCHES)  # noqa: E731
    together, single = jit(jax.vmap(run))(many), jit(run)
    for i in range(2):
        alone = single(jax.tree.map(lambda w: w[i], many))  # noqa: B023
        jax.tree.map(
            lambda t, a: np.testing.assert_allclose(t[i], a, rtol=1e-4, atol=1e-5),  # noqa: B023
            together,
            alone,
        )


@pytest.mark.parametrize("shape", [(4,), (0, 4, 2), (2, 0, 2)])
def test_batches_of_nothing_are_refused(shape):
    with pytest.raises(ValueError, match=rf"batches.* {re.escape(str(shape))}$"):
        recalibrate(from_linen(Norm(0.5)), {}, {}, jnp.zeros(shape))


@pytest.mark.parametrize("method", ["absmax", "moving_average", "lsq"])
def test_a_model_with_quantized_activations_keeps_its_ranges(method):
    plain, params, state = made()
    config = activation_method(method, bits=3)
    params, state = jit(functools.partial(calibrate, plain, config))(params, state, BATCHES[0])
    model = activations(plain, config)
    new = jit(functools.partial(recalibrate, model))(params, state, BATCHES)
    jax.tree.map(np.testing.assert_array_equal, new["activation_ranges"], state["activation_ranges"])
    bare = {name: layer for name, layer in params.items() if name != "activation_ranges"}
    unquantized = jit(functools.partial(recalibrate, plain))(bare, {"batch_stats": state["batch_stats"]}, BATCHES)
    first, second = (tree["batch_stats"]["BatchNorm_0"]["mean"] for tree in (new, unquantized))
    assert not np.array_equal(first, second)  # the statistics are those behind quantized inputs


class Spectral(nn.Module):
    """Its state in `batch_stats` is a power iteration's: no running average."""

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.SpectralNorm(nn.Dense(3, use_bias=False))(x, update_stats=train)
        return nn.BatchNorm(use_running_average=not train)(x)


def test_a_power_iteration_goes_on_from_where_it_was():
    model, batches = from_linen(Spectral()), BATCHES.reshape(6, 4, -1)
    params, state = model.init(KEY, batches[0])
    new = jit(functools.partial(recalibrate, model))(params, state, batches)["batch_stats"]
    path = "Dense_0/kernel"
    w, u = (
        np.asarray(x, np.float64)
        for x in (params["Dense_0"]["kernel"], state["batch_stats"]["SpectralNorm_0"][f"{path}/u"])
    )
    v = u @ w.T / np.linalg.norm(u @ w.T)  # Miyato et al. 2018, algorithm 1
    u = v @ w / np.linalg.norm(v @ w)
    sigma = (v @ w @ u.T).item()
    np.testing.assert_allclose(new["SpectralNorm_0"][f"{path}/u"], u, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(new["SpectralNorm_0"][f"{path}/sigma"], sigma, rtol=1e-4)
    y = np.asarray(batches, np.float64) @ w / sigma
    np.testing.assert_allclose(new["BatchNorm_0"]["mean"], y.mean((0, 1)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(new["BatchNorm_0"]["var"], y.var(1).mean(0), rtol=1e-4)
