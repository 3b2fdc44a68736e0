"""Trained centroids: a leaf keeps its values, bit for bit, whatever the optimizer; chains with other transforms."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jopt import chain, cluster, optim, prune
from jopt.quantize.spec import Spec
from jopt.quantize.weights import weights
from jopt.transform import ParamTransform, project_moments

# Odd sizes: what vector instructions leave over is computed by others.
RNG = np.random.default_rng(0)
W = RNG.normal(size=(13, 29)).astype(np.float32)
PARAMS = {"kernel": jnp.asarray(np.where(np.abs(W) < 0.4, 0, W)), "bias": jnp.zeros(29)}
X = jnp.asarray(RNG.normal(size=(50, 8, 13)).astype(np.float32))
Y = jnp.asarray(RNG.normal(size=(50, 8, 29)).astype(np.float32))
EVERYTHING = {"weight_decay": 0.01, "l1": 0.01, "clip_by_global_norm": 1.0, "accumulate_steps": 2}
OPTIMIZERS = [
    *(("sgd", {}), ("adagrad", {}), ("adam", EVERYTHING), ("muon", {})),
    # A moment as Muon's, and the moments of the other Adam; `tests/test_contract.py` takes them too.
    *(pytest.param(name, {}, marks=pytest.mark.slow) for name in ("momentum", "adam")),
]


def loss(params, x, y):
    return jnp.mean((x @ params["kernel"] + params["bias"][None] - y) ** 2)


def train(transform, state, params, optimizer):
    """The engine's loop: gradients and updates are projected, the model sees what `forward` gives."""
    forward, project = transform.forward or transform.apply, transform.project

    def step(carry, batch):
        params, opt_state = carry
        grads = jax.grad(lambda p: loss(forward(state, p), *batch))(params)
        updates, opt_state = optimizer.update(project(state, grads), opt_state, params)
        params = optax.apply_updates(params, project(state, updates))
        return (params, opt_state), None

    params = project(state, params)
    opt_state = project_moments(transform, state, optimizer, optimizer.init(params))
    return jax.lax.scan(step, (params, opt_state), (X, Y))[0]


def distinct(x):
    return np.unique(np.asarray(x, np.float32)).size


@pytest.mark.parametrize(("name", "options"), OPTIMIZERS)
def test_values_stay_shared_for_fifty_steps(name, options):
    t = cluster.share(6)
    state = t.update(t.init(PARAMS), PARAMS, step=0)
    optimizer = optim.build(optim.Config(name, learning_rate=0.05, **options))
    params, opt_state = jax.jit(lambda s, p: train(t, s, p, optimizer))(state, PARAMS)
    before, after = t.project(state, PARAMS)["kernel"], params["kernel"]
    assert distinct(after) == 6 and np.isfinite(after).all()
    codes = np.asarray(state.leaves["kernel"].assignments)
    for j in range(6):
        assert len({v.tobytes() for v in np.asarray(after)[codes == j]}) == 1
    assert not np.asarray(after)[np.asarray(PARAMS["kernel"]) == 0].any(), "pruned stays pruned"
    moved = np.asarray(before != after)
    assert moved[codes > 0].all(), "all centroids are trained"
    np.testing.assert_array_equal(t.project(state, params)["kernel"], after)
    np.testing.assert_array_equal(t.apply(state, params)["kernel"], after)
    assert cluster.Share().check(state, t.apply(state, params)) == []
    projected = project_moments(t, state, optimizer, opt_state)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), projected, opt_state)


@pytest.mark.unoptimized
def test_sgd_trains_the_centroids_as_deep_compression_does():
    # With the sum as the gradient: centroids are parameters, looked up by the frozen assignments.
    t = cluster.share(6, gradient="sum")
    state = t.update(t.init(PARAMS), PARAMS, step=0)
    shared = state.leaves["kernel"]
    optimizer = optax.sgd(1e-3)
    params, _ = jax.jit(lambda s, p: train(t, s, p, optimizer))(state, PARAMS)

    def step(carry, batch):
        centroids, bias = carry
        see = lambda c, b: loss({"kernel": c[shared.assignments], "bias": b}, *batch)  # noqa: E731
        c, b = jax.grad(see, (0, 1))(centroids, bias)
        return (centroids - 1e-3 * c.at[0].set(0.0), bias - 1e-3 * b), None

    (centroids, bias), _ = jax.lax.scan(step, (shared.centroids, PARAMS["bias"]), (X, Y))
    np.testing.assert_allclose(params["kernel"], centroids[shared.assignments], atol=1e-5)
    np.testing.assert_allclose(params["bias"], bias, atol=1e-5)


@pytest.mark.unoptimized
def test_a_loop_that_only_applies_trains_the_same_model():
    t = cluster.share(6)
    state = t.update(t.init(PARAMS), PARAMS, step=0)
    plain = ParamTransform(t.init, t.update, t.apply, project=lambda state, tree: tree)
    optimizer = optim.build(optim.Config("momentum", learning_rate=0.05))
    projected, _ = jax.jit(lambda s, p: train(t, s, p, optimizer))(state, PARAMS)
    applied, _ = jax.jit(lambda s, p: train(plain, s, p, optimizer))(state, PARAMS)
    seen = t.apply(state, applied)
    np.testing.assert_allclose(seen["kernel"], projected["kernel"], atol=1e-5)
    assert distinct(seen["kernel"]) == 6


def test_fixed_centroids_see_no_training():
    t = cluster.share(6, trained=False)
    state = t.update(t.init(PARAMS), PARAMS, step=0)
    optimizer = optim.build(optim.Config("adamw", learning_rate=0.05, weight_decay=0.1))
    params, _ = jax.jit(lambda s, p: train(t, s, p, optimizer))(state, PARAMS)
    np.testing.assert_array_equal(t.apply(state, params)["kernel"], t.apply(state, PARAMS)["kernel"])
    assert (params["bias"] != 0).all()


def test_bfloat16_values_stay_shared():
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)
    t = cluster.share(6)
    state = t.update(t.init(params), params, step=0)
    optimizer = optim.build(optim.Config("adam", learning_rate=0.01))

    def step(carry, batch):
        params, opt_state = carry
        wide = lambda p: loss(jax.tree.map(lambda x: x.astype(jnp.float32), t.forward(state, p)), *batch)  # noqa: E731
        updates, opt_state = optimizer.update(t.project(state, jax.grad(wide)(params)), opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    start = t.project(state, params)
    (end, _), _ = jax.jit(lambda p: jax.lax.scan(step, (p, optimizer.init(p)), (X, Y)))(start)
    assert end["kernel"].dtype == jnp.bfloat16 and distinct(end["kernel"]) <= 6
    assert (end["kernel"] != start["kernel"]).any()


DENSE = {"kernel": jnp.asarray(W), "bias": jnp.zeros(29)}


def prune_first(params):
    t = prune.one_shot(0.5)
    return t.apply(t.update(t.init(params), params, step=0), params)


@pytest.mark.parametrize(
    "order", ["share quantize", "quantize share", "prune share quantize", "prune quantize share"]
)
def test_invariants_hold_in_a_chain(order):
    parts = {"share": cluster.share(6), "quantize": weights(Spec(4)), "prune": prune.one_shot(0.5)}
    names = order.split()
    t = chain(*(parts[name] for name in names))
    state = t.update(t.init(DENSE), DENSE, step=0)
    optimizer = optim.build(optim.Config("adam", learning_rate=0.02))
    params, _ = jax.jit(lambda s, p: train(t, s, p, optimizer))(state, DENSE)
    seen = t.apply(state, params)
    assert cluster.Share().check(state[names.index("share")], seen) == []
    np.testing.assert_array_equal(t.forward(state, params)["kernel"], seen["kernel"])
    on_grid = np.asarray(seen["kernel"]) / (np.abs(seen["kernel"]).max() / 7)
    np.testing.assert_allclose(on_grid, np.round(on_grid), atol=1e-4)
    if "prune" in names:
        assert int((seen["kernel"] == 0).sum()) >= 188  # of 377
        assert prune.OneShot(sparsity=0.5).check(state[0], seen) == []
        assert not np.asarray(params["kernel"])[np.asarray(prune_first(DENSE)["kernel"]) == 0].any()
