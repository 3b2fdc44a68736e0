"""Clipping of the whole gradient by its norm. By value and adaptively: Optax's `clip` and `adaptive_grad_clip`."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jopt.hyper import check_number


def global_norm(tree: Any) -> jax.Array:
    r"""$\lVert g \rVert = \sqrt{\sum_i g_i^2}$ over all leaves, in float32 (float64 if a leaf is float64).

    One pass, no scaling: where the squares overflow (a norm above 1.8e19 in float32) the norm is infinite.

    Args:
      tree: a pytree of floating arrays of any shapes.

    Returns:
      A scalar; 0 for an empty tree.

    Example:
      >>> float(global_norm({"a": jnp.array([3.0]), "b": jnp.array([4.0])}))
      5.0
    """
    leaves = jax.tree.leaves(tree)
    wide = jnp.float64 if any(x.dtype == jnp.float64 for x in leaves) else jnp.float32
    leaves = [x.astype(wide) for x in leaves if x.size]
    if not leaves:
        return jnp.zeros((), wide)
    # A product of a vector with itself, where a sum of squares would first write the squares down.
    squares = [jnp.vdot(x, x, precision=jax.lax.Precision.HIGHEST) for x in leaves]
    return jnp.sqrt(jnp.stack(squares).sum())


def clip_by_global_norm(max_norm: Any) -> optax.GradientTransformation:
    r"""Scales the gradient by $\min(1, c / \lVert g \rVert)$.

    Pascanu, Mikolov and Bengio, 2013, On the difficulty of training recurrent neural networks, Algorithm 1. Unlike
    `optax.clip_by_global_norm` the norm is in float32 for every dtype, and a gradient whose norm is exactly $c$
    passes unchanged. A finite gradient whose norm overflows becomes zero: that step is skipped.

    Args:
      max_norm: $c$ above 0, a scalar that may be traced.

    Returns:
      A stateless `GradientTransformation`. Bits are unchanged where the norm is at most $c$; zero stays zero.

    Raises:
      ConfigError: for a concrete `max_norm` that is not above 0.

    Example:
      >>> clip = clip_by_global_norm(2.5)
      >>> clip.update({"w": jnp.array([3.0, 4.0])}, clip.init({}))[0]["w"].tolist()
      [1.5, 2.0]
    """
    check_number("max_norm", max_norm, lambda x: x > 0, "a finite number above 0")

    def update(updates, state, params=None):
        del params
        norm = global_norm(updates)
        limit = jnp.asarray(max_norm, norm.dtype)
        clipped = norm > limit
        scale = jnp.where(clipped, limit / jnp.where(clipped, norm, 1), 1)
        return jax.tree.map(lambda g: (g.astype(norm.dtype) * scale).astype(g.dtype), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
