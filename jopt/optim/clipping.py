"""Clipping of the whole gradient by its norm. By value and adaptively: Optax's `clip` and `adaptive_grad_clip`."""

from typing import Any

import jax
import jax.numpy as jnp
import optax


def global_norm(tree: Any) -> jax.Array:
    r"""$\lVert g \rVert = \sqrt{\sum_i g_i^2}$ over all leaves, in float32 (float64 if a leaf is float64).

    The leaves are first divided by a power of two near the largest magnitude where that exceeds 1, so the squares
    cannot overflow: the norm is finite wherever float32 can hold it, and otherwise as without the division.

    Args:
      tree: a pytree of floating arrays of any shapes.

    Returns:
      A scalar; 0 for an empty tree.

    Example:
      >>> print(f'{global_norm({"a": jnp.array([3e30]), "b": jnp.array([4e30])}):.3g}')
      5e+30
    """
    leaves = jax.tree.leaves(tree)
    wide = jnp.float64 if any(x.dtype == jnp.float64 for x in leaves) else jnp.float32
    leaves = [x.astype(wide) for x in leaves if x.size]
    if not leaves:
        return jnp.zeros((), wide)
    largest = jnp.stack([jnp.max(jnp.abs(x)) for x in leaves]).max()
    exponent = jnp.clip(jnp.frexp(largest)[1] - 1, 0, jnp.finfo(wide).maxexp - 1)
    unit = jnp.ldexp(jnp.ones((), wide), exponent)
    return unit * jnp.sqrt(jnp.stack([jnp.sum(jnp.square(x / unit)) for x in leaves]).sum())


def clip_by_global_norm(max_norm: Any) -> optax.GradientTransformation:
    r"""Scales the gradient by $\min(1, c / \lVert g \rVert)$.

    Pascanu, Mikolov and Bengio, 2013, On the difficulty of training recurrent neural networks, Algorithm 1. Unlike
    `optax.clip_by_global_norm` the norm is in float32 for every dtype, cannot overflow in the squares, and a
    gradient whose norm is exactly $c$ passes unchanged.

    Args:
      max_norm: $c$ above 0, a scalar that may be traced.

    Returns:
      A stateless `GradientTransformation`. Bits are unchanged where the norm is at most $c$; zero stays zero.

    Example:
      >>> clip = clip_by_global_norm(2.5)
      >>> clip.update({"w": jnp.array([3.0, 4.0])}, clip.init({}))[0]["w"].tolist()
      [1.5, 2.0]
    """

    def update(updates, state, params=None):
        del params
        norm = global_norm(updates)
        limit = jnp.asarray(max_norm, norm.dtype)
        clipped = norm > limit
        scale = jnp.where(clipped, limit / jnp.where(clipped, norm, 1), 1)
        return jax.tree.map(lambda g: (g.astype(norm.dtype) * scale).astype(g.dtype), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
