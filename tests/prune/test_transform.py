"""One-shot, gradual and iterative pruning: what is kept when, by which score, under which budget."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jopt import prune
from jopt.prune import NM, Block, Channel, Unstructured, keep_count
from jopt.prune.budgets import erk

from .cases import KEY, MAKERS, SHAPES, kept, layers, same, tree, updater

pytestmark = pytest.mark.unoptimized


def test_one_shot_by_hand():
    params = {"w": jnp.array([[0.5, -0.25], [0.25, -3.0]]), "b": jnp.array([0.0, 1.0])}
    pruner = prune.one_shot(0.5, begin=3)
    state = pruner.init(params)
    assert state.masks["b"] is None and state.masks["w"].all() and state.sparsity == 0
    state = pruner.update(state, params, step=2)
    assert state.masks["w"].all() and state.sparsity == 0
    state = pruner.update(state, params, step=5)
    assert state.masks["w"].tolist() == [[True, False], [False, True]] and state.sparsity == 0.5
    assert pruner.apply(state, params)["w"].tolist() == [[0.5, 0.0], [0.0, -3.0]]
    assert pruner.apply(state, params)["b"].tolist() == [0.0, 1.0]
    # Never again, whatever the weights become.
    other = {"w": jnp.array([[0.1, 9.0], [9.0, 0.1]]), "b": params["b"]}
    same(pruner.update(state, other, step=1000), state)


def test_ties_go_to_the_lower_index():
    pruner = prune.one_shot(0.75)
    params = {"w": jnp.array([[1.0, -1.0], [1.0, 1.0]])}
    assert pruner.update(pruner.init(params), params, step=0).masks["w"].tolist() == [[True, False], [False, False]]


def test_gradual_by_hand():
    params = {"w": jnp.arange(1.0, 17.0).reshape(2, 8)}
    pruner = prune.gradual(0.75, begin=10, end=20, initial_sparsity=0.25)
    state, counts = pruner.init(params), []
    for step in (9, 10, 15, 19, 20, 21):
        state = pruner.update(state, params, step=step)
        counts.append(int(state.masks["w"].sum()))
    # 16 (1 - s): s = 0, 0.25, 0.75 - 0.5 / 8 = 0.6875, 0.75 - 0.5 / 1000 (11.992 pruned), 0.75, 0.75
    assert counts == [16, 12, 5, 4, 4, 4]
    assert state.masks["w"].reshape(-1).tolist() == [False] * 12 + [True] * 4


def test_iterative_by_hand():
    params = {"w": jnp.arange(1.0, 17.0).reshape(2, 8)}
    pruner = prune.iterative(1 - 0.5**4, begin=10, end=40, rounds=4)
    state, counts = pruner.init(params), []
    for step in (5, 10, 15, 25, 30, 39, 40):
        state = pruner.update(state, params, step=step)
        counts.append(int(state.masks["w"].sum()))
    assert counts == [16, 8, 8, 4, 2, 2, 1]


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=25, deadline=None)
@given(st.sampled_from([1, 7, 60]), st.floats(0, 0.999), st.integers(3, 19), st.integers(0, 2**31 - 1))
def test_counts_are_exact_and_masks_nest_at_any_boundaries(name, n, sparsity, every, seed):
    rng = np.random.default_rng(seed)
    draw = lambda: {"w": rng.integers(-3, 4, size=(1, n)).astype(np.float32)}  # noqa: E731  (ties abound)
    sparsity = np.float32(sparsity)
    state = MAKERS[name](sparsity).init(draw())
    for step in range(0, 80, every):
        before, state = state, updater(name)(state, draw(), step, sparsity)
        assert not (np.asarray(state.masks["w"]) & ~np.asarray(before.masks["w"])).any()
        if step < 10:
            assert np.asarray(state.masks["w"]).all()
        if step >= 50 + every:
            same(state, before)
    assert np.asarray(state.masks["w"]).sum() == keep_count(n, sparsity)
    assert state.sparsity == sparsity


@pytest.mark.parametrize(
    "pattern", [Unstructured(), Block((2, 2)), Channel()], ids=["entries", "blocks", "channels"]
)
@pytest.mark.parametrize("budget", ["layer", "global", "erk"])
def test_every_budget_and_pattern_keeps_what_it_should(pattern, budget):
    update = updater("gradual", pattern=pattern, budget=budget)
    state, sparsity = prune.one_shot(0.5).init(tree()), np.float32(0.75)
    for seed, step in enumerate((0, 10, 30, 50, 70)):
        before, state = state, update(state, tree(seed), step, sparsity)
        old, new = (map(np.asarray, jax.tree.leaves(s.masks)) for s in (before, state))
        assert all(not (m & ~b).any() for m, b in zip(new, old, strict=True))
    same(state, before)
    groups = {k: int(np.prod(pattern.grid(s))) for k, s in SHAPES.items()}
    sums = {k: np.asarray(pattern.pool(state.masks[k]["kernel"].astype(jnp.float32))) for k in SHAPES}
    alive = {k: int((x > 0).sum()) for k, x in sums.items()}
    assert all(set(np.unique(x)) <= {0, np.prod(SHAPES[k]) // groups[k]} for k, x in sums.items()), "split group"
    if budget == "layer":
        assert alive == {k: keep_count(n, sparsity) for k, n in groups.items()}
    elif budget == "global" or pattern == Unstructured():
        assert sum(alive.values()) == keep_count(sum(groups.values()), sparsity)
    if budget == "erk":
        want = erk(list(SHAPES.values()), 0.75)
        assert all(abs(alive[k] - groups[k] * (1 - s)) < 2 for k, s in zip(SHAPES, want, strict=True))


def test_n_of_m_on_both_axes():
    for axis, group in ((-1, lambda m: m.reshape(16, 3, 4).sum(2)), (-2, lambda m: m.reshape(4, 4, 12).sum(1))):
        pruner = prune.one_shot(pattern=NM(1, 4, axis), rules=[("(?!Dense_0).*", None)], begin=5)
        state = pruner.update(pruner.init(tree()), tree(), step=4)
        assert state.masks["Dense_0"]["kernel"].all()
        state = pruner.update(state, tree(), step=5)
        assert (group(state.masks["Dense_0"]["kernel"]) == 1).all()
        same(pruner.update(state, tree(1), step=6), state)


def test_rules_give_parameters_targets_of_their_own():
    rules = [("Dense_0/.*", None), ("Dense_1/kernel", 0.5), ("Dense_1/bias", 0.25)]
    params = tree()
    params["Dense_1"]["bias"] = jnp.arange(20.0)
    pruner = prune.gradual(0.9, begin=0, end=100, initial_sparsity=0.6, rules=rules)
    state = pruner.update(pruner.init(params), params, step=0)
    # What a rule asks for is also the most that it starts with.
    count = lambda s, name: int(s.masks["Dense_1"][name].sum())  # noqa: E731
    assert (count(state, "kernel"), count(state, "bias")) == (120, 15)
    state = pruner.update(state, params, step=100)
    assert state.masks["Dense_0"] == {"bias": None, "kernel": None}
    assert kept(state | {} if isinstance(state, dict) else state._replace(masks={
        k: v for k, v in state.masks.items() if k != "Dense_0"
    })) == {"Conv_0": 29, "Dense_1": 120}  # fmt: skip
    assert state.masks["Dense_1"]["bias"].tolist() == [False] * 5 + [True] * 15


def test_a_ruled_parameter_does_not_share_the_global_budget():
    params = {"a": jnp.full((10, 10), 5.0), "c": jnp.full((10, 10), 1.0), "d": jnp.full((10, 10), 0.1)}
    pruner = prune.one_shot(0.5, budget="global", rules=[("a", 0.9)])
    state = pruner.update(pruner.init(params), params, step=0)
    assert [int(state.masks[k].sum()) for k in "acd"] == [10, 100, 0]


@pytest.mark.parametrize("score", prune.SCORES)
def test_each_score_by_name(score):
    pattern = Channel() if score == "activation" else Unstructured()
    pruner = prune.one_shot(0.5, score=score, pattern=pattern)
    params, grads, stats = tree(0), tree(1), layers()
    state = pruner.init(params)
    if score == "movement":
        assert pruner.observe is not None
        for seed in (2, 3):
            state = pruner.observe(state, tree(seed), tree(seed + 10))
    state = pruner.update(state, params, step=0, grads=grads, key=KEY, layers=stats)
    w, g = (np.float64(t["Dense_0"]["kernel"]) for t in (params, grads))
    stat = stats["Dense_0"]
    ww, gg = ([np.float64(tree(s + d)["Dense_0"]["kernel"]) for s in (2, 3)] for d in (0, 10))
    scores = {
        "magnitude": abs(w),
        "l2": w**2,
        "saliency": abs(w * g),
        "snip": abs(w * g),
        "movement": -(ww[0] * gg[0] + ww[1] * gg[1]),
        "wanda": abs(w) * np.float64(stat.input_norm)[:, None],
        "activation": np.broadcast_to(1 - np.float64(stat.zero_share), w.shape),
    }
    mask = np.asarray(state.masks["Dense_0"]["kernel"])
    assert mask.sum() == 96
    if score == "activation":
        assert (np.sort(np.argsort(-scores[score][0])[:6]) == np.flatnonzero(mask[0])).all()
    elif score != "random":
        assert scores[score][mask].min() > scores[score][~mask].max()


def test_random_masks_differ_by_key_and_parameter_and_nest():
    pruner = prune.gradual(0.9, begin=0, end=10, score="random")
    params = {"a": jnp.ones((20, 20)), "c": jnp.ones((20, 20))}
    one = pruner.update(pruner.init(params), params, step=4, key=jax.random.key(1))
    two = pruner.update(pruner.init(params), params, step=4, key=jax.random.key(2))
    assert (one.masks["a"] != two.masks["a"]).any() and (one.masks["a"] != one.masks["c"]).any()
    later = pruner.update(one, params, step=10, key=jax.random.key(3))
    assert not (later.masks["a"] & ~one.masks["a"]).any() and int(later.masks["a"].sum()) == 40


def test_movement_forgets_what_is_pruned_and_may_be_negative():
    pruner = prune.gradual(0.75, begin=0, end=10, score="movement")
    params = {"w": jnp.array([[1.0, 1.0, 1.0, 1.0]]), "b": jnp.ones(1)}
    grads = {"w": jnp.array([[-4.0, 3.0, 2.0, 1.0]]), "b": jnp.ones(1)}
    state = pruner.observe(pruner.init(params), params, grads)
    assert state.movement["w"].tolist() == [[4.0, -3.0, -2.0, -1.0]] and state.movement["b"] is None
    state = pruner.update(state, params, step=3)  # 0.75 (1 - 0.343) = 0.49
    assert state.masks["w"].tolist() == [[True, False, False, True]]
    state = pruner.update(state, params, step=10)
    assert state.masks["w"].tolist() == [[True, False, False, False]]


@pytest.mark.parametrize(
    ("score", "missing"),
    [
        ("saliency", "grads"),
        ("snip", "grads"),
        ("random", "key"),
        ("wanda", "layers"),
        ("activation", "layers"),
    ],
)
def test_a_score_says_what_it_lacks(score, missing):
    pruner = prune.one_shot(0.5, score=score)
    with pytest.raises(ValueError, match=f"'{score}'.* {missing}.*None"):
        pruner.update(pruner.init(tree()), tree(), step=0)
    assert (missing in pruner.needs) or missing == "key"


def test_statistics_must_fit_their_layer():
    pruner = prune.one_shot(0.5, score="wanda")
    stats = layers()
    stats["Dense_1"] = stats["Dense_1"]._replace(input_norm=jnp.ones(4))
    with pytest.raises(ValueError, match=r"Dense_1/kernel.*'Dense_1': input_norm.*\(12,\).*\(4,\)"):
        pruner.update(pruner.init(tree()), tree(), step=0, layers=stats)
    del stats["Dense_1"]
    with pytest.raises(ValueError, match=r"Dense_1/kernel: 'wanda'.* Conv_0, Dense_0"):
        pruner.update(pruner.init(tree()), tree(), step=0, layers=stats)
