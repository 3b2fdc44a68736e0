"""SET and RigL: as many weights in every layer from start to end, and the right ones exchanged."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jopt import prune
from jopt.prune import Block, PruneState, keep_count
from jopt.prune.schedule import cosine_share

from .cases import jit, same

pytestmark = pytest.mark.unoptimized

KEY = jax.random.key(0)
SHAPES = {"a": (20, 30), "conv/kernel": (3, 3, 4, 8)}
MAKERS = {"set": prune.set_evolution, "rigl": prune.rigl}


def tree(seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return {k: rng.normal(size=s).astype(dtype) for k, s in SHAPES.items()}


@functools.cache
def updater(name, budget="layer"):
    def update(state, params, grads, step, key, sparsity, drop):
        pruner = MAKERS[name](sparsity, begin=10, end=100, drop_fraction=drop, budget=budget)
        return pruner.update(state, params, step=step, grads=grads, key=key)

    return jit(update)


def dense():
    return prune.rigl(0.5, end=1).init(tree())


def masks(state):
    return {k: np.asarray(m) for k, m in state.masks.items()}


def test_rigl_by_hand():
    # 4 of 8 are kept; at the start half of them, two, are exchanged.
    pruner = prune.rigl(0.5, begin=0, end=100, drop_fraction=0.5)
    state = PruneState({"w": jnp.array([[1, 1, 1, 1, 0, 0, 0, 0]], bool)}, jnp.float32(0.5))
    params = {"w": jnp.array([[0.1, -5.0, 0.1, 3.0, 0.0, 0.0, 0.0, 0.0]])}
    # The dropped ones have the largest gradients, yet do not grow at once; of the others |-2| and the first |1| do.
    grads = {"w": jnp.array([[99.0, 0.0, 99.0, 0.0, 1.0, -2.0, 1.0, 0.5]])}
    state = pruner.update(state, params, step=0, grads=grads, key=KEY)
    assert state.masks["w"].astype(int).tolist() == [[0, 1, 0, 1, 1, 1, 0, 0]]
    # Half way it is a quarter: one. What has just grown is 0, and so the first to go.
    params = {"w": jnp.array([[0.0, -5.0, 0.0, 3.0, 0.0, 0.2, 0.0, 0.0]])}
    state = pruner.update(state, params, step=50, grads=grads, key=KEY)
    assert state.masks["w"].astype(int).tolist() == [[1, 1, 0, 1, 0, 1, 0, 0]]
    for step in (100, 10**6):
        same(pruner.update(state, params, step=step, grads=grads, key=KEY), state)


def test_set_drops_the_smallest_and_grows_anything_else():
    params = tree()
    state = updater("set")(dense(), params, None, 10, KEY, 0.5, 0.3)
    first = masks(state)["a"]
    state = updater("set")(state, params, None, 20, KEY, 0.5, 0.3)
    second = masks(state)["a"]
    size = abs(params["a"])
    gone, grown = first & ~second, second & ~first
    assert first.sum() == 300 and gone.sum() == grown.sum() == 90
    assert size[gone].max() < size[first & second].min()
    # Not where gradients or weights are large, but anywhere: the mean of 90 of 300 is near that of all of them.
    assert abs(size[grown].mean() - size[~first].mean()) < 0.2
    other = masks(updater("set")(state, params, None, 30, KEY, 0.5, 0.3))["a"]
    assert ((other & ~second) != grown).any(), "the same key grows elsewhere at another step"


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=15, deadline=None)
@given(st.floats(0, 0.999), st.floats(0, 0.99), st.integers(3, 40), st.integers(0, 2**31 - 1))
def test_counts_never_change(name, sparsity, drop, every, seed):
    sparsity, drop, state = np.float32(sparsity), np.float32(drop), dense()
    count = {k: keep_count(int(np.prod(s)), sparsity) for k, s in SHAPES.items()}
    for step in range(0, 140, every):
        before = masks(state)
        params, grads = tree(seed + step), tree(seed + step + 1)
        state = updater(name)(state, params, grads, step, jax.random.key(seed), sparsity, drop)
        after = masks(state)
        if step < 10:
            assert all(m.all() for m in after.values()) and state.sparsity == 0
            continue
        assert {k: m.sum() for k, m in after.items()} == count and state.sparsity == sparsity
        if step >= 100 and step - every >= 10:
            same(after, before)
        elif step - every >= 10:
            share = drop if name == "set" else cosine_share(step, drop_fraction=drop, begin=10, end=100)
            for k, n in count.items():
                moved = min(round(float(np.float32(share) * np.float32(n))), after[k].size - n)
                assert (after[k] & ~before[k]).sum() == moved, "as many grow as are dropped, none of them the same"


@pytest.mark.parametrize("name", MAKERS)
def test_erk_keeps_each_layers_own_count(name):
    state = updater(name, "erk")(dense(), tree(), tree(1), 10, KEY, 0.8, 0.3)
    want = prune.budgets.erk_counts(list(SHAPES.values()), np.float32(0.8))
    assert [m.sum() for m in masks(state).values()] == want
    state = updater(name, "erk")(state, tree(2), tree(3), 40, KEY, 0.8, 0.3)
    assert [m.sum() for m in masks(state).values()] == want


def test_first_masks_are_random_and_come_late_if_updates_do():
    for step in (10, 99, 100, 5000):
        state = updater("rigl")(dense(), tree(), tree(1), step, KEY, 0.9, 0.3)
        assert masks(state)["a"].sum() == 60
    a, b = (updater("rigl")(dense(), tree(), tree(1), 10, jax.random.key(i), 0.9, 0.3) for i in (1, 2))
    assert (masks(a)["a"] != masks(b)["a"]).any()


def test_it_goes_on_from_masks_that_there_are():
    pruner = prune.one_shot(0.9)
    state = pruner.update(pruner.init(tree()), tree(), step=0)
    after = updater("rigl")(state, tree(), tree(1), 10, KEY, 0.9, 0.3)
    was, now = masks(state)["a"], masks(after)["a"]
    assert now.sum() == 60 and (was & ~now).sum() == 18
    # Masks that are too dense are thinned out first, at random.
    after = updater("rigl")(state, tree(), tree(1), 10, KEY, 0.95, 0.3)
    assert not (masks(after)["a"] & ~was).any() and masks(after)["a"].sum() == 30


def test_no_drop_is_static_sparse_training():
    state = updater("rigl")(dense(), tree(), tree(1), 10, KEY, 0.9, 0.0)
    same(updater("rigl")(state, tree(2), tree(3), 20, KEY, 0.9, 0.0), state)


@pytest.mark.parametrize(("name", "dtype"), [("set", np.float32), ("rigl", jnp.bfloat16)])
def test_eager_jit_vmap_and_types(name, dtype):
    pruner = MAKERS[name](0.8, begin=10, end=100, rules=[("conv/.*", 0.5)])
    params, grads = tree(0, dtype), tree(1, dtype)
    start = pruner.update(pruner.init(params), params, step=10, grads=grads, key=KEY)
    update = lambda s, p, step: pruner.update(s, p, step=step, grads=grads, key=KEY)  # noqa: E731
    one, two = update(start, tree(1, dtype), 20), jit(update)(start, tree(2, dtype), 40)
    assert {k: int(m.sum()) for k, m in one.masks.items()} == {"a": 120, "conv/kernel": 144}
    same(jit(update)(start, tree(1, dtype), 20), one)
    stack = lambda *trees: jax.tree.map(lambda *x: jnp.stack(x), *trees)  # noqa: E731
    both = jit(jax.vmap(update))(stack(start, start), stack(tree(1, dtype), tree(2, dtype)), jnp.array([20, 40]))
    same(both, stack(one, two))
    signature = lambda s: jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), s)  # noqa: E731
    assert signature(one) == signature(pruner.init(params))


@pytest.mark.parametrize("name", MAKERS)
def test_numbers_are_traced(name):
    update = updater(name)
    update(dense(), tree(), tree(1), 10, KEY, 0.5, 0.1)
    before = update._cache_size()
    for step, sparsity, drop in ((10, 0.9, 0.3), (50, 0.95, 0.5)):
        update(dense(), tree(), tree(1), step, KEY, sparsity, drop)
    assert update._cache_size() == before


BAD = [
    (lambda: prune.rigl(1.0, end=10), r"sparsity must lie in \[0, 1\), got 1.0"),
    (lambda: prune.rigl(0.5, end=10, drop_fraction=1.0), r"drop_fraction must lie in \[0, 1\), got 1.0"),
    (lambda: prune.set_evolution(0.5, end=10, drop_fraction=-0.1), r"drop_fraction must lie in \[0, 1\), got -0.1"),
    (lambda: prune.rigl(0.5, begin=11, end=10), r"end must be a step, at least begin \(11\), got 10"),
    (lambda: prune.rigl(0.5, end=10, budget="global"), "budget must be one of 'layer', 'erk', .*got 'global'"),
    (lambda: prune.rigl(0.5, end=10, pattern=Block((2, 2))), r"pattern of RigL must be Unstructured.*got Block"),
    (lambda: prune.set_evolution(0.5, end=10, pattern=Block((2, 2))), r"pattern of SET must be Unstructured"),
    (lambda: prune.set_evolution(0.5, end=10).update(dense(), tree(), step=0), r"'SET' reads key: .* got None"),
    (lambda: prune.rigl(0.5, end=10).update(dense(), tree(), step=0, key=KEY), r"'rigl' reads grads: .* got None"),
]


@pytest.mark.parametrize(("make", "message"), BAD, ids=range(len(BAD)))
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_nan_is_refused_where_a_choice_is_made():
    state = PruneState({"w": jnp.array([[True, False]])}, jnp.float32(0.5))
    pruner = prune.rigl(0.5, end=10)
    params, grads = {"w": jnp.array([[1.0, 0.0]])}, {"w": jnp.array([[jnp.nan, 1.0]])}
    with pytest.raises(ValueError, match=r"^w: .*gradients.*NaN.*1.*2"):
        pruner.update(state, params, step=0, grads=grads, key=KEY)
    pruner.update(state, params, step=10, grads=grads, key=KEY)
