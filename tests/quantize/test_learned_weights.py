"""LSQ for weights: steps as trainable parameters, the paper's first value and gradient, zeros, storage."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jopt import codec, hyper, prune
from jopt.quantize import LearnedWeights, Spec, dequantize, integers, learned_weights, lsq, lsq_weights
from jopt.quantize.learned import step_range
from jopt.rules import named_leaves
from jopt.transform import chain, hold, see

pytestmark = pytest.mark.unoptimized

RNG = np.random.default_rng(0)
PARAMS = {
    "a": {"bias": jnp.ones(6), "kernel": jnp.asarray(RNG.standard_normal((40, 6)), jnp.float32)},
    "b": {"kernel": jnp.asarray(RNG.standard_normal((6, 8)), jnp.float32)},
}
UPSTREAM = jax.tree.map(lambda x: jnp.asarray(RNG.standard_normal(x.shape), jnp.float32), PARAMS)


def by_the_paper(w, step, upstream, low, high):
    """Equations 2, 3 and 5 in float64: values, gradient of the weights, gradient of the steps [1, channels]."""
    w, step, upstream = (np.asarray(v, np.float64) for v in (w, step, upstream))
    v = w / step
    code = np.rint(np.clip(v, low, high))
    slope = np.where(v <= low, low, np.where(v >= high, high, code - v))
    total = (slope * upstream).sum(0, keepdims=True)
    return code * step, upstream * ((v >= low) & (v <= high)), total / np.sqrt(w.shape[0] * high)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 8])
def test_values_and_gradients_are_the_papers(bits, symmetric):
    t = LearnedWeights(bits, symmetric=symmetric).build()
    state, top = t.init(PARAMS), 2 ** (bits - 1) - 1
    steps = t.learn(state, PARAMS)
    assert sorted(steps) == ["a/kernel", "b/kernel"]
    wide = np.abs(np.asarray(PARAMS["a"]["kernel"], np.float64)).mean(0, keepdims=True)
    np.testing.assert_allclose(steps["a/kernel"]["step"], 2 * wide / np.sqrt(top), rtol=1e-6)
    # Another step than the first, so that weights lie in and beyond the range.
    steps = jax.tree.map(lambda s: 0.7 * s, steps)
    seen, back = jax.vjp(lambda p, s: t.apply(state, p, s), PARAMS, steps)
    d_params, d_steps = back(UPSTREAM)
    for layer in ("a", "b"):
        path, w = f"{layer}/kernel", PARAMS[layer]["kernel"]
        value, d_w, d_step = by_the_paper(
            w, steps[path]["step"], UPSTREAM[layer]["kernel"], -top - (not symmetric), top
        )
        np.testing.assert_allclose(seen[layer]["kernel"], value, rtol=1e-6)
        np.testing.assert_allclose(d_params[layer]["kernel"], d_w, rtol=1e-6)
        np.testing.assert_allclose(d_steps[path]["step"], d_step, rtol=1e-4, atol=1e-5)
        assert bits == 8 or 0 < (d_w == 0).sum() < d_w.size
    assert seen["a"]["bias"] is PARAMS["a"]["bias"]


def test_the_steps_gradient_is_the_slope_between_roundings():
    # Where no code changes, the value is code * step: a finite difference gives code, and LSQ subtracts v.
    w, step, count = jnp.array([0.31, -0.78, 0.05, 3.0]), jnp.float32(0.5), 4
    loss = lambda s: lsq_weights(w, s, Spec(3)).sum()  # noqa: E731
    slope = float(jax.grad(loss)(step)) * np.sqrt(count * 3)
    difference = float(loss(step + 1e-3) - loss(step - 1e-3)) / 2e-3
    inside = np.asarray(w)[:3] / 0.5
    assert slope == pytest.approx(difference - inside.sum(), rel=1e-3)
    assert difference == pytest.approx(1 - 2 + 0 + 3, rel=1e-3)


def test_a_step_counts_by_its_magnitude_and_leaves_zero():
    w = PARAMS["b"]["kernel"]
    plus, minus = (
        jax.value_and_grad(lambda s: lsq_weights(w, s, Spec(3)).sum())(jnp.float32(s)) for s in (0.3, -0.3)
    )
    assert plus[0] == minus[0] and plus[1] == -minus[1] != 0
    for step in (0.0, 1e-45, 3e38):
        value, back = jax.vjp(lambda w, s: lsq_weights(w, s, Spec(3)), w, jnp.float32(step))
        assert all(np.isfinite(v).all() for v in (value, *back(value)))
    # At 0 everything is clipped, and the gradient that descends makes the step grow.
    gradient = jax.grad(lambda s: jnp.square(lsq_weights(w, s, Spec(3)) - w).sum())(jnp.float32(1e-6))
    assert gradient < 0
    assert jax.grad(lambda s: lsq_weights(jnp.ones(2), s, Spec(3)).sum())(jnp.float32(0.0)) > 0


@pytest.mark.parametrize(
    "spec", [Spec(1, axis=-1), Spec(2, axis=-1), Spec(3, narrow=False), Spec(8, axis=-1), Spec(16)]
)
def test_what_is_stored_is_what_was_seen(spec):
    t = learned_weights(spec)
    state = t.init(PARAMS)
    steps = jax.tree.map(
        lambda s: jnp.asarray(-s * RNG.uniform(0.2, 1.3, s.shape), jnp.float32),
        t.learn(state, PARAMS),
    )
    seen = t.apply(state, PARAMS, steps)
    tensors = integers(t, state, PARAMS, steps)
    assert sorted(tensors) == ["a/kernel", "b/kernel"]
    leaves = dict(named_leaves(seen))
    for path, q in tensors.items():
        assert np.asarray(dequantize(q)).tobytes() == np.asarray(leaves[path]).tobytes()
        np.testing.assert_allclose(q.scale, np.abs(steps[path]["step"]), rtol=2e-7)
    file = codec.decode(codec.encode(seen, storage=t.storage(state, PARAMS, steps)).data)
    np.testing.assert_array_equal(file.params["a"]["kernel"], leaves["a/kernel"])
    np.testing.assert_array_equal(file.integers["a/kernel"].codes, tensors["a/kernel"].codes)
    # lsq multiplies by the step itself: the same codes, and values that a file's scale can miss by a bit.
    plain = lsq(PARAMS["a"]["kernel"], jnp.abs(steps["a/kernel"]["step"]), spec)
    np.testing.assert_allclose(leaves["a/kernel"], plain, rtol=3e-7)


def test_most_steps_are_the_scale_of_some_range():
    step = jnp.asarray(np.exp(RNG.uniform(-9, 3, 1000)), jnp.float32)
    for spec in (Spec(3), Spec(3, narrow=False), Spec(8)):
        steps = 2 ** (spec.bits - 1) - (1 if spec.narrow else 0.5)
        np.testing.assert_allclose(step_range(step, spec).high, np.asarray(step, np.float64) * steps, rtol=1e-6)


def test_pruned_weights_stay_zero_and_a_trained_step_beats_the_first():
    t = chain(prune.one_shot(0.5), LearnedWeights(bits=2).build())
    state = t.init(PARAMS)
    state = t.update(state, PARAMS, step=0, learned=t.learn(state, PARAMS))
    pruned = t.apply(state, PARAMS, t.learn(state, PARAMS))
    zeros = jax.tree.map(lambda w: np.asarray(w) == 0, chain(prune.one_shot(0.5)).apply(state[:1], PARAMS))
    optimizer = optax.sgd(0.01)
    target = jax.tree.map(lambda w, z: jnp.where(z, 0, w), PARAMS, zeros)

    def loss(learned):
        seen = t.apply(state, PARAMS, learned)
        return sum(jnp.square(s - w).sum() for s, w in zip(*map(jax.tree.leaves, (seen, target)), strict=True))

    @jax.jit
    def train(learned):
        def step(carry, _):
            learned, moments = carry
            updates, moments = optimizer.update(jax.grad(loss)(learned), moments)
            return (optax.apply_updates(learned, updates), moments), None

        return jax.lax.scan(step, (learned, optimizer.init(learned)), None, 60)[0][0]

    first = t.learn(state, PARAMS)
    trained = train(first)
    assert float(loss(trained)) < 0.9 * float(loss(first))
    for seen in (pruned, t.apply(state, PARAMS, trained)):
        for w, z in zip(*map(jax.tree.leaves, (seen, zeros)), strict=True):
            assert not np.asarray(w)[z].any()
    assert LearnedWeights(bits=2).check(state[1], seen) == []


def test_the_contract_of_transforms():
    traces = []
    structure, _ = hyper.split(LearnedWeights(rules=(("b/kernel", 32),)))

    @jax.jit
    def run(numbers, params):
        traces.append(1)
        t = hyper.join(structure, numbers).build()
        state = t.init(params)
        learned = t.learn(state, params)
        again = t.update(state, params, step=jnp.int32(3), learned=learned)
        return learned, again, see(t, state, params, learned)

    for bits in (2, 4, 8, 32):
        numbers = hyper.split(LearnedWeights(bits))[1]
        learned, state, seen = run(numbers, PARAMS)
        assert state == () and jax.tree.structure(seen) == jax.tree.structure(PARAMS)
        np.testing.assert_array_equal(seen["b"]["kernel"], PARAMS["b"]["kernel"])
        t = LearnedWeights(bits, rules=(("b/kernel", 32),)).build()
        constant = t.learn((), PARAMS)
        alone = see(hold(t), (), PARAMS, constant)["a"]["kernel"]
        np.testing.assert_array_equal(seen["a"]["kernel"], alone)
        assert (bits == 32) == (np.asarray(alone) == np.asarray(PARAMS["a"]["kernel"])).all()
    assert len(traces) == 1
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)
    t = LearnedWeights(bits=4).build()
    learned = t.learn((), half)
    assert see(t, (), half, learned)["a"]["kernel"].dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(learned)} == {jnp.dtype(jnp.float32)}
    with pytest.raises(ValueError, match="symmetric"):
        learned_weights(Spec(4, symmetric=False))
