"""Pruning: scores, patterns, exact selection without a sort, budgets, and when; physical shrinking.

A transform works in any loop and on any tree of parameters. Here a dictionary, and plain Optax: the weights are
pruned every tenth step, gradually, and stay at zero, as do the optimizer's moments.

Example:
  >>> import jax, jax.numpy as jnp, jopt, optax
  >>> from jopt import prune
  >>> x = jax.random.normal(jax.random.key(0), (64, 8))
  >>> loss = lambda p: jnp.mean((jnp.tanh(x @ p["hidden"]) @ p["out"] - jnp.sin(x)) ** 2)
  >>> pruner = prune.gradual(0.75, begin=20, end=100, rules=(("out", 0.5),))
  >>> optimizer = optax.rmsprop(0.01, momentum=0.5)
  >>> @jax.jit
  ... def choose(params, moments, masks, step):
  ...     masks = pruner.update(masks, params, step=step)
  ...     moments = jopt.project_moments(pruner, masks, optimizer, moments)
  ...     return pruner.project(masks, params), moments, masks
  >>> @jax.jit
  ... def train(params, moments, masks):
  ...     grads = pruner.project(masks, jax.grad(loss)(params))
  ...     updates, moments = optimizer.update(grads, moments, params)
  ...     return optax.apply_updates(params, updates), moments
  >>> params = {"hidden": jax.random.normal(jax.random.key(1), (8, 32)) / 3, "out": jnp.zeros((32, 8))}
  >>> moments, masks = optimizer.init(params), pruner.init(params)
  >>> for step in range(200):
  ...     if step % 10 == 0:
  ...         params, moments, masks = choose(params, moments, masks, step)
  ...     params, moments = train(params, moments, masks)
  >>> [int(jnp.sum(w != 0)) for tree in (params, moments[0].nu, moments[2].trace) for w in tree.values()]
  [64, 128, 64, 128, 64, 128]
  >>> bool(loss(params) < 0.02)
  True
"""

from jopt.prune.budgets import BUDGETS as BUDGETS
from jopt.prune.budgets import Pooled as Pooled
from jopt.prune.budgets import erk as erk
from jopt.prune.budgets import erk_counts as erk_counts
from jopt.prune.dynamic import rigl as rigl
from jopt.prune.dynamic import set_evolution as set_evolution
from jopt.prune.masks import Moment as Moment
from jopt.prune.masks import PruneState as PruneState
from jopt.prune.masks import pruning_transform as pruning_transform
from jopt.prune.methods import METHODS as METHODS
from jopt.prune.methods import SET as SET
from jopt.prune.methods import Gradual as Gradual
from jopt.prune.methods import Iterative as Iterative
from jopt.prune.methods import NofM as NofM
from jopt.prune.methods import OneShot as OneShot
from jopt.prune.methods import RigL as RigL
from jopt.prune.patterns import NM as NM
from jopt.prune.patterns import PATTERNS as PATTERNS
from jopt.prune.patterns import Block as Block
from jopt.prune.patterns import Channel as Channel
from jopt.prune.patterns import Pattern as Pattern
from jopt.prune.patterns import Unstructured as Unstructured
from jopt.prune.patterns import pattern_of as pattern_of
from jopt.prune.pruning import Pruning as Pruning
from jopt.prune.pruning import Rules as Rules
from jopt.prune.schedule import SCHEDULES as SCHEDULES
from jopt.prune.schedule import cubic as cubic
from jopt.prune.schedule import geometric as geometric
from jopt.prune.schedule import step_at as step_at
from jopt.prune.scores import SCORES as SCORES
from jopt.prune.scores import activation as activation
from jopt.prune.scores import l2 as l2
from jopt.prune.scores import magnitude as magnitude
from jopt.prune.scores import movement as movement
from jopt.prune.scores import per_output_unit as per_output_unit
from jopt.prune.scores import random as random
from jopt.prune.scores import saliency as saliency
from jopt.prune.scores import snip as snip
from jopt.prune.scores import snip_scores as snip_scores
from jopt.prune.scores import wanda as wanda
from jopt.prune.select import global_masks as global_masks
from jopt.prune.select import keep_count as keep_count
from jopt.prune.select import keep_top as keep_top
from jopt.prune.select import top_k_mask as top_k_mask
from jopt.prune.shrink import Removed as Removed
from jopt.prune.shrink import ShrinkRow as ShrinkRow
from jopt.prune.shrink import Shrunk as Shrunk
from jopt.prune.shrink import cut as cut
from jopt.prune.shrink import describe_shrinking as describe_shrinking
from jopt.prune.shrink import shrink as shrink
from jopt.prune.shrink import shrink_all as shrink_all
from jopt.prune.shrink import shrink_plan as shrink_plan
from jopt.prune.transform import gradual as gradual
from jopt.prune.transform import iterative as iterative
from jopt.prune.transform import one_shot as one_shot
