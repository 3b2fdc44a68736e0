"""Clipping of the whole gradient by its norm, and of each unit's by that of its weights. By value: `optax.clip`."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jopt.hyper import check_number
from jopt.layers import Layers, Parameter, parameters


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


def adaptive_grad_clip(
    clipping: Any, layers: Layers | None = None, eps: float = 1e-3
) -> optax.GradientTransformation:
    r"""Scales the gradient of each unit to at most $c \max(\lVert w \rVert, \epsilon)$, w the unit's weights.

    A unit of a kernel is one of its layer's output units, whichever axes these are; of a bias, a scale, or whatever
    else is no weight it is the whole array, of a stacked layer one copy's. Brock, De, Smith and Simonyan, 2021,
    High-performance large-scale image recognition without normalization, equation 3. `optax.adaptive_grad_clip`
    finds units by the rank of the array, which is the same for dense layers and convolutions.

    Args:
      clipping: c, above 0, a scalar that may be traced.
      layers: what the model says about its parameters; None: what their names and shapes say.
      eps: the least norm of weights that counts, so that units that start at zero can move.

    Returns:
      A stateless `GradientTransformation`, whose `update` needs `params`.

    Raises:
      LayoutError: in `update`, for a weight whose input and output axes are not known, naming its layer.

    Example:
      >>> clip = adaptive_grad_clip(0.5)
      >>> params = {"kernel": jnp.array([[3.0, 1.0], [4.0, 0.0]])}                    # units of norm 5 and 1
      >>> clip.update({"kernel": jnp.full((2, 2), 3.0)}, clip.init(params), params)[0]["kernel"].round(3).tolist()
      [[1.768..., 0.354...], [1.768..., 0.354...]]
    """

    def norm(axes: tuple[int, ...], x: jax.Array) -> jax.Array:
        return jnp.broadcast_to(jnp.sqrt(jnp.sum(jnp.square(x), axis=axes, keepdims=True)), x.shape)

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("adaptive_grad_clip reads the weights: update(updates, state, params) must have them")
        units = [
            _within_unit(p, jnp.ndim(w))
            for p, w in zip(parameters(params, layers), jax.tree.leaves(params), strict=True)
        ]
        clipped = []
        for axes, g, w in zip(units, jax.tree.leaves(updates), jax.tree.leaves(params), strict=True):
            size, most = norm(axes, g), clipping * jnp.maximum(norm(axes, w), eps)
            clipped.append(jnp.where(size < most, g, g * (most / jnp.maximum(size, 1e-6))))
        return jax.tree.unflatten(jax.tree.structure(updates), clipped), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _within_unit(parameter: Parameter, ndim: int) -> tuple[int, ...]:
    """The axes that run within a unit."""
    if parameter.is_weight:
        return parameter.require_layout("adaptive clipping").contract
    return tuple(axis for axis in range(ndim) if axis not in parameter.stack)
