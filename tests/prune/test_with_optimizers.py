"""Pruned weights are exactly zero in parameters, updates, averages and all moments, whatever the optimizer does."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jopt import optim, prune
from jopt.transform import project_moments

from .cases import jit

pytestmark = pytest.mark.unoptimized

ALL = [(name, "optax") for name in optim.NAMES] + [(name, "paper") for name in optim.PAPER_NAMES]

EVERYTHING = {
    "weight_decay": 0.1,
    "l1": 0.01,
    "proximal_l1": 0.01,
    "clip_by_value": 0.5,
    "clip_by_global_norm": 1.0,
    "adaptive_clip": 0.1,
    "accumulate_steps": 2,
}
# All of different last axes, so that a moment's shape says whose it is.
SHAPES = {"bias": (7,), "conv": (2, 3, 4), "matrix": (6, 5)}


def normal(seed, *shape):
    rng = np.random.default_rng(seed)
    return {k: jnp.asarray(rng.normal(size=(*shape, *s)), jnp.float32) for k, s in SHAPES.items()}


class Loop:
    """A training loop by hand, which keeps everything projected: the bare minimum that a user would write."""

    def __init__(self, pruner, optimizer):
        self.pruner, self.optimizer = pruner, optimizer
        self.params = normal(0)
        self.masks, self.moments, self.ema = pruner.init(self.params), optimizer.init(self.params), self.params
        self.choose, self.train = jit(self._choose), jit(self._train)

    def _choose(self, masks, params, moments, ema, step, grads, key):
        masks = self.pruner.update(masks, params, step=step, grads=grads, key=key)
        project = functools.partial(self.pruner.project, masks)
        return masks, project(params), project_moments(self.pruner, masks, self.optimizer, moments), project(ema)

    def _train(self, masks, params, moments, ema, grads):
        def one_step(carry, g):
            params, moments, ema = carry
            updates, moments = self.optimizer.update(self.pruner.project(masks, g), moments, params)
            updates = self.pruner.project(masks, updates)
            params = optax.apply_updates(params, updates)
            return (params, moments, optax.incremental_update(params, ema, 0.1)), updates

        return jax.lax.scan(one_step, (params, moments, ema), grads)

    def segment(self, step, steps=5):
        state = (self.masks, self.params, self.moments, self.ema)
        key = jax.random.key(step)
        self.masks, self.params, self.moments, self.ema = self.choose(*state, step, normal(step + 1), key)
        chosen = jax.tree.map(np.asarray, (self.masks, self.params, self.moments, self.ema))
        state = (self.masks, self.params, self.moments, self.ema)
        (self.params, self.moments, self.ema), updates = self.train(*state, normal(step + 2, steps))
        return chosen, updates


def owned(tree, name):
    """The arrays in a tree that belong to the parameter `name`."""
    n = len(SHAPES[name])
    return [x for x in map(np.asarray, jax.tree.leaves(tree)) if x.shape[x.ndim - n :] == SHAPES[name]]


# One and two trees of moments, signs, whole matrices, and a paper's state; `tests/test_contract.py` takes them all.
COVERING = (("momentum", "optax"), ("adam", "optax"), ("lion", "optax"), ("muon", "optax"), ("adagrad", "paper"))


@pytest.mark.parametrize(
    ("name", "variant"), [pytest.param(*case, marks=() if case in COVERING else pytest.mark.slow) for case in ALL]
)
def test_pruned_entries_are_zero_everywhere_and_start_at_zero_when_they_grow(name, variant):
    optimizer = optim.build(optim.Config(name, variant, learning_rate=0.05, **EVERYTHING))
    # Every weight moves in the dense first segment, and at each later boundary some die and some grow.
    loop = Loop(prune.set_evolution(0.6, begin=5, end=100, drop_fraction=0.5), optimizer)
    before = {k: np.ones(SHAPES[k], bool) for k in ("conv", "matrix")}
    for step in (0, 5, 10, 15):
        (masks, *chosen), updates = loop.segment(step)
        for k in before:
            mask = masks.masks[k]
            grown, before[k] = mask & ~before[k], mask
            assert mask.all() if step == 0 else (mask.sum() == round(0.4 * mask.size) and grown.any() == (step > 5))
            for x in owned(chosen, k):
                assert not x[~mask].any() and not x[grown].any()
            for tree in (loop.params, loop.moments, loop.ema, updates):
                parts = owned(tree, k)
                # A scan's updates have an axis of steps in front.
                assert parts or tree is loop.moments
                assert all(not x[..., ~mask].any() for x in parts)
            assert (owned(updates, k)[0][..., mask] != 0).any()
    assert len(owned(loop.moments, "matrix")) >= 1, "the accumulated gradient at least"
    assert all(np.isfinite(x).all() for x in map(np.asarray, jax.tree.leaves((loop.params, loop.moments))))


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_gradual_pruning_ends_exact_whatever_moves_the_weights(name):
    optimizer = optim.build(optim.Config(name, learning_rate=0.05, **EVERYTHING))
    loop = Loop(prune.gradual(0.9, begin=0, end=15, rules=(("bias", 0.5),)), optimizer)
    for step in (0, 5, 10, 15, 20):
        loop.segment(step)
        for k in SHAPES:
            mask = np.asarray(loop.masks.masks[k])
            for tree in (loop.params, loop.moments, loop.ema):
                assert all(not x[..., ~mask].any() for x in owned(tree, k))
    assert {k: int(m.sum()) for k, m in loop.masks.masks.items()} == {"bias": 3, "conv": 2, "matrix": 3}
