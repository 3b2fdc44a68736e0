"""share: what is chosen when, the projection and its gradient, zeros, fixed codebooks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jopt import RuleError, cluster

pytestmark = pytest.mark.unoptimized

FEW = settings(max_examples=30, deadline=None)


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def sparse(*shape, seed=0):
    w = normal(*shape, seed=seed)
    return jnp.where(jnp.abs(w) < 0.5, 0.0, w)


def chosen(transform, params, step=0, key=None):
    return transform.update(transform.init(params), params, step=step, key=key)


def same(a, b):
    """The same bits, but that no difference is made between zeros and their signs elsewhere than here."""
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)


SMALL = {"bias": jnp.array([5.0, 6.0]), "kernel": jnp.array([[0.0, 1.0, 2.0], [0.0, 9.0, 13.0]])}


def test_by_hand():
    t = cluster.share(3)
    state = chosen(t, SMALL)
    assert state.leaves["bias"] is None
    shared = state.leaves["kernel"]
    assert shared.assignments.tolist() == [[0, 1, 1], [0, 2, 2]] and shared.assignments.dtype == jnp.uint8
    assert shared.centroids.tolist() == [0.0, 1.5, 11.0]
    assert shared.counts.tolist() == [2.0, 2.0, 2.0] and bool(shared.has_zero)
    seen = t.apply(state, SMALL)
    assert seen["kernel"].tolist() == [[0.0, 1.5, 1.5], [0.0, 11.0, 11.0]]
    assert seen["bias"] is SMALL["bias"]
    gradients = {"bias": jnp.ones(2), "kernel": jnp.array([[8.0, 1.0, 3.0], [8.0, -4.0, 0.0]])}
    assert t.project(state, gradients)["kernel"].tolist() == [[0.0, 2.0, 2.0], [0.0, -2.0, -2.0]]
    assert t.forward(state, SMALL) is SMALL


def test_before_the_first_update_it_is_the_identity():
    t = cluster.share(2, begin=5)
    for state in (t.init(SMALL), chosen(t, SMALL, step=4)):
        assert not bool(state.active)
        same(t.apply(state, SMALL), SMALL)
        same(t.project(state, SMALL), SMALL)
        same(
            jax.grad(lambda p, s=state: (t.apply(s, p)["kernel"] ** 2).sum())(SMALL)["kernel"], 2 * SMALL["kernel"]
        )
        same(state, t.init(SMALL))
    assert bool(chosen(t, SMALL, step=5).active)


def test_assignments_are_frozen_and_codebooks_follow():
    t = cluster.share(3)
    state = chosen(t, SMALL)
    moved = {"bias": SMALL["bias"], "kernel": jnp.array([[0.0, 100.0, 2.0], [0.0, -9.0, 13.0]])}
    later = t.update(state, moved, step=9)
    same(later.leaves["kernel"].assignments, state.leaves["kernel"].assignments)
    assert later.leaves["kernel"].centroids.tolist() == [0.0, 51.0, 2.0]
    assert t.apply(later, moved)["kernel"].tolist() == [[0.0, 51.0, 51.0], [0.0, 2.0, 2.0]]


def test_weights_that_are_pruned_later_join_the_zeros():
    t = cluster.share(3)
    state = chosen(t, SMALL)
    pruned = {**SMALL, "kernel": SMALL["kernel"].at[0, 1].set(0.0)}
    assert t.apply(state, pruned)["kernel"].tolist() == [[0.0, 0.0, 1.0], [0.0, 11.0, 11.0]], "zero stays zero"
    later = t.update(state, pruned, step=1)
    assert later.leaves["kernel"].assignments.tolist() == [[0, 0, 1], [0, 2, 2]]
    assert t.apply(later, pruned)["kernel"].tolist() == [[0.0, 0.0, 2.0], [0.0, 11.0, 11.0]]


def test_first_zeros_choose_the_codebook_anew():
    t = cluster.share(2)
    w = {"kernel": jnp.array([[1.0, 2.0, 7.0, 9.0]])}
    state = chosen(t, w)
    assert t.apply(state, w)["kernel"].tolist() == [[1.5, 1.5, 8.0, 8.0]]
    pruned = {"kernel": jnp.array([[0.0, 1.5, 8.0, 8.0]])}
    later = t.update(state, pruned, step=1)
    seen = t.apply(later, pruned)
    assert later.leaves["kernel"].assignments.tolist() == [[0, 1, 1, 1]]
    assert np.unique(seen["kernel"]).size == 2 and seen["kernel"][0, 0] == 0


def test_without_keep_zero_a_zero_is_a_value_like_others():
    t = cluster.share(2, keep_zero=False)
    w = {"kernel": jnp.array([[0.0, 1.0, 7.0, 9.0]])}
    assert t.apply(chosen(t, w), w)["kernel"].tolist() == [[0.5, 0.5, 8.0, 8.0]]


def test_the_gradient_is_the_mean_or_the_sum_of_the_centroids_gradient():
    w = {"kernel": sparse(6, 5)}
    target = normal(6, 5, seed=1)

    def loss(seen):
        return jnp.sum((seen["kernel"] - target) ** 2)

    state = chosen(cluster.share(4), w)
    shared = state.leaves["kernel"]
    codes = np.asarray(shared.assignments)
    by_centroid = jax.grad(lambda c: loss({"kernel": c[shared.assignments]}))(shared.centroids)
    for gradient, scale in (("mean", 1 / np.asarray(shared.counts)), ("sum", np.ones(4))):
        t = cluster.share(4, gradient=gradient)
        expected = np.where(codes == 0, 0, (np.asarray(by_centroid) * scale)[codes])
        through_apply = jax.grad(lambda p, t=t: loss(t.apply(state, p)))(w)
        np.testing.assert_allclose(through_apply["kernel"], expected, rtol=2e-5, atol=1e-6)
        projected = t.project(state, w)
        through_forward = t.project(state, jax.grad(lambda p, t=t: loss(t.forward(state, p)))(projected))
        np.testing.assert_allclose(through_forward["kernel"], expected, rtol=2e-5, atol=1e-6)
        same(t.forward(state, projected), projected)


def test_fixed_centroids_do_not_follow_the_parameters():
    t = cluster.share(3, trained=False)
    state = chosen(t, SMALL)
    moved = {**SMALL, "kernel": SMALL["kernel"] * 2}
    for later in (state, t.update(state, moved, step=1)):
        assert t.apply(later, moved)["kernel"].tolist() == [[0.0, 1.5, 1.5], [0.0, 11.0, 11.0]]
    same(jax.grad(lambda p: t.apply(state, p)["kernel"].sum())(SMALL)["kernel"], jnp.zeros((2, 3)))
    assert t.forward is None
    # The parameters themselves are still held shared.
    assert t.project(state, moved)["kernel"].tolist() == [[0.0, 3.0, 3.0], [0.0, 22.0, 22.0]]


WIDE = {"kernel": sparse(13, 11), "conv": sparse(3, 2, 5, seed=1), "bias": normal(3)}
RULES = (("conv", 40), ("bias", None))


def wide(dtype=jnp.float32):
    params = jax.tree.map(lambda x: x.astype(dtype), WIDE)
    t = cluster.share(7, rules=RULES)
    return t, chosen(t, params), params


@pytest.mark.optimized
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_projecting_twice_changes_no_bit(dtype):
    t, state, params = wide(dtype)
    once = t.project(state, params)
    twice = t.project(state, once)
    assert jax.tree.map(lambda x: x.dtype, once) == jax.tree.map(lambda x: x.dtype, params)
    for a, b in zip(jax.tree.leaves(once), jax.tree.leaves(twice), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    same(t.apply(state, params), once)
    same(t.apply(state, once), once)
    assert np.unique(np.asarray(once["kernel"], np.float32)).size <= 7
    zeros = np.asarray(params["kernel"]) == 0
    assert zeros.any() and not np.asarray(once["kernel"])[zeros].any()


def test_fewer_values_than_clusters_change_nothing():
    t, state, params = wide()
    same(t.apply(state, params)["conv"], params["conv"])


def test_codes_are_bytes_up_to_256_clusters():
    for k, dtype in ((256, jnp.uint8), (257, jnp.uint16)):
        assert cluster.share(k).init(SMALL).leaves["kernel"].assignments.dtype == dtype


def test_the_projection_is_linear_and_symmetric():
    t, state, _ = wide()
    x, y = ({k: normal(*w.shape, seed=s) for k, w in WIDE.items()} for s in (5, 6))
    px, py = t.project(state, x), t.project(state, y)
    both = t.project(state, jax.tree.map(lambda a, b: 2 * a - 3 * b, x, y))
    jax.tree.map(lambda p, a, b: np.testing.assert_allclose(p, 2 * a - 3 * b, atol=2e-6), both, px, py)

    def dot(a, b):
        pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
        return sum(np.vdot(np.float64(u), np.float64(v)) for u, v in pairs)

    assert dot(px, y) == pytest.approx(dot(x, py), rel=1e-5)
    assert dot(px, px) < dot(x, x)


@pytest.mark.optimized
@FEW
@given(st.lists(st.integers(1, 127), min_size=30, max_size=30), st.sampled_from([0.1, 1 / 3, 1e-3, 7.0]))
def test_values_on_a_grid_stay_on_it(codes, scale):
    # Members that are equal have that value as their mean, exactly, whatever it is.
    t = cluster.share(4)
    grid = jnp.asarray(np.float32(scale) * np.array(codes, np.float32).reshape(6, 5))
    state = chosen(t, {"w": grid})
    projected = {
        "w": jnp.asarray(np.float32(scale) * np.array([0, -5, 100, 3], np.float32))[state.leaves["w"].assignments]
    }
    same(t.project(state, projected), projected)


@pytest.mark.optimized
def test_many_equal_values_do_not_drift():
    t = cluster.share(2, keep_zero=False)
    w = {"w": jnp.tile(jnp.array([[0.1, 0.7]]), (200, 400))}
    state = chosen(t, w)
    for _ in range(3):
        same(t.project(state, w), w)


@pytest.mark.optimized
def test_jit_gives_the_same_bits_and_keeps_the_states_shapes():
    t, state, params = wide()
    signature = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)  # noqa: E731
    assert signature(state) == signature(t.init(params))
    same(jax.jit(t.init)(params), t.init(params))
    update = jax.jit(lambda s, p, step: t.update(s, p, step=step))
    same(update(t.init(params), params, 3), state)
    later = update(state, params, 4)
    same(later, state)
    for function in (t.apply, t.project, t.forward):
        same(jax.jit(function)(state, params), function(state, params))
    assert update._cache_size() == 1


def test_begin_and_iterations_do_not_recompile():
    traces = []

    @jax.jit
    def update(begin, iterations, step):
        traces.append(1)
        t = cluster.share(4, begin=begin, iterations=iterations)
        return t.update(t.init(WIDE), WIDE, step=step)

    assert [bool(update(b, i, s).active) for b, i, s in ((0, 1, 0), (5, 9, 4), (5, 2, 5))] == [True, False, True]
    assert len(traces) == 1


@pytest.mark.optimized
def test_vmap_is_a_loop():
    t = cluster.share(4)
    many = {"w": jnp.stack([sparse(6, 5, seed=s) for s in range(3)])}
    states = jax.vmap(lambda p: t.update(t.init(p), p, step=0))(many)
    applied, projected = jax.vmap(t.apply)(states, many), jax.vmap(t.project)(states, many)
    for i in range(3):
        one = {"w": many["w"][i]}
        state = chosen(t, one)
        same(state, jax.tree.map(lambda x, i=i: x[i], states))
        same(t.apply(state, one)["w"], applied["w"][i])
        same(t.project(state, one)["w"], projected["w"][i])


def test_sharded_parameters_are_shared_as_whole_ones():
    mesh = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    t, params = cluster.share(5), {"w": sparse(16, 9)}
    state = chosen(t, params)
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("d"))
    split = jax.device_put(params, sharding)
    there = jax.jit(lambda p: t.update(t.init(p), p, step=0))(split)
    same(there.leaves["w"].assignments, state.leaves["w"].assignments)
    seen = jax.jit(t.apply)(there, split)
    np.testing.assert_allclose(seen["w"], t.apply(state, params)["w"], rtol=1e-6)
    assert np.unique(seen["w"]).size <= 5


def test_kmeans_plus_plus_follows_the_key():
    t, params = cluster.share(8, start="kmeans++", iterations=0), {"a": normal(6, 5), "c": normal(6, 5)}
    one, again, other = (chosen(t, params, key=jax.random.key(s)).leaves for s in (0, 0, 1))
    same(one, again)
    assert (one["a"].assignments != other["a"].assignments).any()
    assert (one["a"].assignments != one["c"].assignments).any(), "each leaf has a key of its own"
    with pytest.raises(ValueError, match="update needs a key"):
        chosen(t, params)


def test_any_pytree_with_leaves_left_alone():
    params = [{"w": normal(6, 5)}, {}, (jnp.arange(6).reshape(2, 3), None, jnp.float32(2.0))]
    t = cluster.share(4)
    state = chosen(t, params)
    seen = t.apply(state, params)
    assert jax.tree.structure(seen) == jax.tree.structure(params)
    assert seen[2][0].dtype == jnp.int32 and len(jax.tree.leaves(state)) == 1 + 5


NAN = jnp.full((2, 3), jnp.nan)


@pytest.mark.parametrize(
    ("error", "message", "make"),
    [
        (ValueError, r"clusters must be an integer in \[2, 4096\].*got 1", lambda: cluster.share(1).init(SMALL)),
        (ValueError, "clusters of rule 'bias' must be", lambda: cluster.share(rules=[("bias", 0)]).init(SMALL)),
        (ValueError, "start must be one of", lambda: cluster.share(start="zero")),
        (ValueError, "gradient must be one of 'mean', 'sum', got 'max'", lambda: cluster.share(gradient="max")),
        (RuleError, "matches no parameter", lambda: cluster.share(rules=[("kernels", 4)]).init(SMALL)),
        (RuleError, "must be a floating", lambda: cluster.share(rules=[("n", 4)]).init({"n": jnp.arange(3)})),
        (ValueError, "kernel must be finite, got 6", lambda: chosen(cluster.share(), {"kernel": NAN})),
    ],
)
def test_bad_input_is_refused(error, message, make):
    with pytest.raises(error, match=message):
        make()
