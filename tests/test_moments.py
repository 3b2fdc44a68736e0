"""What of an optimizer's state is a moment: projected, left alone, or refused."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

import jopt
from jopt import cluster, prune
from jopt.transform import identity

pytestmark = pytest.mark.unoptimized

PRUNER = prune.one_shot(0.5)
RNG = np.random.default_rng(0)


def random(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def pruned(params):
    return PRUNER.update(PRUNER.init(params), params, step=0)


def filled(state):
    """The state with random numbers in its floating arrays, as after some steps."""
    return jax.tree.map(lambda x: random(*x.shape) if jnp.issubdtype(x.dtype, jnp.floating) else x, state)


def test_statistics_of_rows_columns_and_tensors_are_left_alone():
    params = {"w": random(128, 128)}  # A mask broadcasts over a row of it.
    masks = pruned(params)
    mask = np.asarray(masks.masks["w"])
    for optimizer in (optax.adafactor(0.1, momentum=0.9), optax.sm3(0.1), optax.novograd(0.1), contrib.dowg(0.1)):
        before = filled(optimizer.init(params))
        after = jopt.project_moments(PRUNER, masks, optimizer, before)
        for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
            moment = a.shape == (128, 128)
            np.testing.assert_array_equal(b, np.where(mask, a, 0) if moment else a)
        assert {x.shape for x in jax.tree.leaves(before)} > {(128, 128)}


def test_adafactor_trains_pruned_weights_as_if_their_gradients_were_zero():
    # By the formulas of Shazeer and Stern, 2018, algorithm 4, in float64: factored squares, clipped at 1.
    params = {"w": random(128, 130)}
    masks = pruned(params)
    mask = np.asarray(masks.masks["w"])
    optimizer = optax.adafactor(0.1, multiply_by_parameter_scale=False)
    w, state = PRUNER.project(masks, params), optimizer.init(params)
    expected, rows, columns = np.asarray(w["w"], np.float64), np.zeros(128), np.zeros(130)
    for step in range(3):
        state = jopt.project_moments(PRUNER, masks, optimizer, state)
        grads = PRUNER.project(masks, jax.tree.map(lambda x: x - 1, w))
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(grads, state, w)
        w = optax.apply_updates(w, PRUNER.project(masks, updates))
        g, decay = np.where(mask, expected - 1, 0), 1 - (step + 1.0) ** -0.8
        rows = decay * rows + (1 - decay) * (g**2 + 1e-30).mean(1)
        columns = decay * columns + (1 - decay) * (g**2 + 1e-30).mean(0)
        u = g / np.sqrt(np.outer(rows, columns) / rows.mean())
        expected = expected - 0.1 * u / max(1, np.sqrt((u**2).mean()))
    np.testing.assert_allclose(w["w"], expected, rtol=1e-4, atol=1e-5)
    assert not np.asarray(w["w"])[~mask].any()


def test_each_of_a_stack_of_moments_is_projected():
    params = {"a": random(6), "w": random(3, 4)}
    optimizer = optax.scale_by_lbfgs(memory_size=5)
    before = filled(optimizer.init(params))
    sharer = cluster.share(3, rules=(("a", 2),))
    state = sharer.update(sharer.init(params), params, step=0)
    after = jopt.project_moments(sharer, state, optimizer, before)
    for name, k in (("a", 2), ("w", 3)):
        codes = np.asarray(state.leaves[name].assignments)
        for old, new in zip(before.diff_params_memory[name], after.diff_params_memory[name], strict=True):
            for j in range(k):
                mean = np.asarray(old, np.float64)[codes == j].mean()
                np.testing.assert_allclose(np.asarray(new)[codes == j], mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(after.weights_memory, before.weights_memory)


def test_parameters_without_a_moment_are_passed_over():
    params = {"a": random(4, 3), "d": random(4, 3), "c": random(5, 2)}
    labels = {"a": "adam", "d": "adam", "c": "sgd"}
    optimizer = optax.multi_transform({"adam": optax.adam(0.1), "sgd": optax.sgd(0.1)}, labels)
    before = filled(optimizer.init(params))
    transform = jopt.chain(PRUNER, cluster.tying.tie(["[ad]"]), cluster.share(3))
    state = transform.update(transform.init(params), params, step=0, key=jax.random.key(0))
    after = jopt.project_moments(transform, state, optimizer, before)
    mu = lambda s: s.inner_states["adam"].inner_state[0].mu  # noqa: E731
    expected = transform.project(state, {**mu(before), "c": params["c"]})
    assert isinstance(mu(after)["c"], optax.MaskedNode)
    for name in ("a", "d"):
        np.testing.assert_array_equal(mu(after)[name], expected[name])
        assert not np.asarray(mu(after)[name])[~np.asarray(state[0].masks["a"])].any()
    assert (np.asarray(mu(after)["a"]) != np.asarray(mu(before)["a"])).any()


def test_ties_leave_flags_alone_and_keep_equal_statistics_equal():
    params = {"a": random(128, 128), "b": random(128, 128)}
    tie = cluster.tying.tie(["[ab]"])
    optimizer = optax.chain(optax.zero_nans(), optax.adafactor(0.1))
    state = optimizer.init(params)
    grads = jax.tree.map(lambda _: random(128, 128), params)
    with jax.numpy_dtype_promotion("standard"):
        _, state = optimizer.update(tie.project((), grads), state, params)
    after = jopt.project_moments(tie, (), optimizer, state)
    jax.tree.map(np.testing.assert_array_equal, after, state)


def preconditioned():
    """An optimizer with a matrix for each parameter of n numbers, as full-matrix AdaGrad has."""
    init = lambda params: jax.tree.map(lambda p: jnp.zeros((p.size, p.size)), params)  # noqa: E731
    return optax.GradientTransformation(init, lambda updates, state, params=None: (updates, state))


def test_state_of_another_shape_is_refused_by_its_path_and_both_shapes():
    params = {"inner": {"w": random(2, 3)}}
    optimizer = optax.chain(optax.scale(1.0), preconditioned())
    with pytest.raises(ValueError, match=r"\[1\]\['inner'\]\['w'\].*\(6, 6\).* inner/w.*\(2, 3\)"):
        jopt.project_moments(PRUNER, pruned(params), optimizer, optimizer.init(params))


def test_a_projection_without_shapes_may_not_change_any():
    widening = identity()._replace(project=lambda state, tree: {"w": tree["w"] * jnp.ones((2, 1))})
    optimizer = optax.trace(0.9)
    state = optimizer.init({"w": jnp.ones((1, 3))})
    with pytest.raises(ValueError, match=r"\(2, 3\).* \.trace\['w'\].*\(1, 3\)"):
        jopt.project_moments(widening, (), optimizer, state)


@pytest.mark.parametrize("name", ["prune", "share"])
def test_projections_refuse_arrays_of_another_shape_than_the_parameter(name):
    params = {"layer": {"w": random(4, 3)}}
    t = PRUNER if name == "prune" else cluster.share(3)
    state = t.update(t.init(params), params, step=0)
    for wrong in (random(3), random(1, 3), random(2, 4, 3), jnp.float32(1)):
        for change in (t.project, t.apply):
            with pytest.raises(ValueError, match=rf"layer/w.*{re.escape(str(wrong.shape))}.*\(4, 3\)"):
                change(state, {"layer": {"w": wrong}})
