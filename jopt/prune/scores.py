"""Scores: how much each weight matters. The higher, the longer it is kept.

Every function gives float32 of the shape of `w`, whatever the floating dtype of `w`. The patterns `Block` and
`Channel` add scores up.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def magnitude(w: jax.Array) -> jax.Array:
    r"""$|w|$. A group's score is its L1 norm.

    Han, Pool, Tran and Dally, 2015, Learning both weights and connections for efficient neural networks, section 3.

    Args:
      w: weights, any shape, floating.

    Returns:
      float32, the shape of `w`.

    Example:
      >>> magnitude(jnp.array([-2.0, 0.5])).tolist()
      [2.0, 0.5]
    """
    return jnp.abs(_float32(w, "w"))


def l2(w: jax.Array) -> jax.Array:
    r"""$w^2$. A group's score is its squared L2 norm, which orders groups of one size as the norm does.

    Entry by entry the order is that of `magnitude`, except that squares below 1e-38 underflow and tie.

    Args:
      w: weights, any shape, floating.

    Returns:
      float32, the shape of `w`.

    Example:
      >>> l2(jnp.array([-2.0, 0.5])).tolist()
      [4.0, 0.25]
    """
    return jnp.square(_float32(w, "w"))


def saliency(w: jax.Array, g: jax.Array) -> jax.Array:
    r"""$|w \, \partial L / \partial w|$: by how much the loss would change, to first order, if w became 0.

    Molchanov, Tyree, Karras, Aila and Kautz, 2017, Pruning convolutional neural networks for resource efficient
    inference, section 2.2, for single weights.

    Args:
      w: weights, any shape, floating.
      g: the loss's gradient at `w`, of its shape.

    Returns:
      float32, the shape of `w`.

    Raises:
      ValueError: if the shapes differ.

    Example:
      >>> saliency(jnp.array([2.0, -3.0]), jnp.array([0.5, 2.0])).tolist()
      [1.0, 6.0]
    """
    _require_shape("g", g, jnp.shape(w), "that of w")
    return jnp.abs(_float32(w, "w") * _float32(g, "g"))


def snip(w: jax.Array, g: jax.Array) -> jax.Array:
    r"""$|w g|$, the connection sensitivity before it is divided by its sum over the network; see `snip_scores`.

    Lee, Ajanthan and Torr, 2019, SNIP: single-shot network pruning based on connection sensitivity, section
    4.1. Its formula is `saliency`'s; its point is that g is the gradient at initialization.

    Args:
      w: weights, any shape, floating.
      g: the loss's gradient at `w`, of its shape.

    Returns:
      float32, the shape of `w`.

    Raises:
      ValueError: if the shapes differ.

    Example:
      >>> snip(jnp.array([2.0, -3.0]), jnp.array([0.5, 2.0])).tolist()
      [1.0, 6.0]
    """
    return saliency(w, g)


def snip_scores(params: Any, grads: Any) -> Any:
    r"""$|w_j g_j| / \sum_k |w_k g_k|$, summed over the whole tree.

    Lee, Ajanthan and Torr, 2019, section 4.1. The division keeps the order, and makes scores of different networks
    and batches comparable.

    Args:
      params: a tree of weights; None leaves pass through.
      grads: their gradients, a tree of the same structure.

    Returns:
      A tree of float32 scores that add up to 1 (or are all 0, where every product is 0).

    Example:
      >>> params = {"a": jnp.array([2.0]), "b": jnp.array([-3.0])}
      >>> grads = {"a": jnp.array([1.0]), "b": jnp.array([2.0])}
      >>> {name: score.tolist() for name, score in snip_scores(params, grads).items()}
      {'a': [0.25], 'b': [0.75]}
    """
    scores = jax.tree.map(snip, params, grads)
    total = sum((jnp.sum(s) for s in jax.tree.leaves(scores)), jnp.zeros((), jnp.float32))
    total = jnp.where(total > 0, total, jnp.ones((), jnp.float32))
    return jax.tree.map(lambda s: s / total, scores)


def random(key: jax.Array, w: jax.Array) -> jax.Array:
    """Uniform in [0, 1): the baseline that every other score has to beat.

    Args:
      key: a PRNG key.
      w: an array of any shape; only its shape is read.

    Returns:
      float32, the shape of `w`.

    Example:
      >>> random(jax.random.key(0), jnp.zeros((2, 3))).shape
      (2, 3)
    """
    return jax.random.uniform(key, jnp.shape(w), jnp.float32)


def wanda(w: jax.Array, x_norm: jax.Array, axes: Sequence[int] | None = None) -> jax.Array:
    r"""$|w_{ij}| \, \lVert x_i \rVert_2$: a weight counts as much as the input that it meets is large.

    Sun, Liu, Bair and Kolter, 2024, A simple and effective pruning approach for large language models, equation 1.
    They compare weights of one output with each other only: `jax.vmap(top_k_mask, (1, None), 1)` on a kernel [in,
    out], or `NM(n, m, axis=-2)`.

    Args:
      w: a kernel, floating: [in, out] or [*window, in, out], or any where `axes` tells.
      x_norm: the L2 norm of each input feature over examples and positions, of the shape of the kernel's input
        axes.
      axes: the kernel's input axes, in order; None: the last but one.

    Returns:
      float32, the shape of `w`.

    Raises:
      ValueError: if `x_norm` is not of the shape of the input axes, or `w` has none.

    Example:
      >>> wanda(jnp.array([[1.0, -2.0], [3.0, 0.0]]), jnp.array([10.0, 1.0])).tolist()
      [[10.0, 20.0], [3.0, 0.0]]
      >>> wanda(jnp.array([[1.0, -2.0], [3.0, 0.0]]), jnp.array([10.0, 1.0]), axes=(1,)).tolist()  # w is [out, in]
      [[10.0, 2.0], [30.0, 0.0]]
    """
    _require_kernel(w)
    axes = (jnp.ndim(w) - 2,) if axes is None else tuple(axes)
    shape = tuple(jnp.shape(w)[axis] for axis in axes)
    _require_shape("x_norm", x_norm, shape, f"that of the input axes {axes} of w")
    return jnp.abs(_float32(w, "w")) * jax.lax.broadcast_in_dim(_float32(x_norm, "x_norm"), jnp.shape(w), axes)


def movement(accumulated: jax.Array) -> jax.Array:
    r"""$S = - \sum_t w_t g_t$, as accumulated over the steps: how far weights have moved away from 0.

    Sanh, Wolf and Rush, 2020, Movement pruning: adaptive sparsity by fine-tuning, section 4. A weight
    that gradient descent shrinks has a negative score, however large it is.

    Args:
      accumulated: the sum $-\sum_t w_t g_t$, any shape.

    Returns:
      The sum itself, as float32.

    Example:
      >>> w, g = jnp.array([1.0, 1.0]), jnp.array([-0.5, 0.5])  # descent makes the first weight larger
      >>> movement(-w * g).tolist()
      [0.5, -0.5]
    """
    return _float32(accumulated, "accumulated")


def activation(w: jax.Array, zero_share: jax.Array, axes: Sequence[int] | None = None) -> jax.Array:
    r"""$1 - z_j$ for every weight into output j, where $z_j$ is the share of its outputs that are (nearly) zero.

    Hu, Peng, Tai and Tang, 2016, Network trimming: a data-driven neuron pruning approach, equation 1 (APoZ). For
    `Channel("outputs")`: neurons that hardly ever fire go first.

    Args:
      w: a kernel [..., out], or any where `axes` tells; only its shape is read.
      zero_share: in [0, 1], of the shape of the kernel's output axes.
      axes: the kernel's output axes, in order; None: the last.

    Returns:
      float32, the shape of `w`.

    Raises:
      ValueError: if `zero_share` is not of the shape of the output axes.

    Example:
      >>> activation(jnp.ones((2, 3)), jnp.array([0.0, 0.25, 1.0])).tolist()
      [[1.0, 0.75, 0.0], [1.0, 0.75, 0.0]]
    """
    shape = jnp.shape(w)
    if not shape:
        raise ValueError("w must have an axis of outputs, got a scalar")
    axes = (len(shape) - 1,) if axes is None else tuple(axes)
    _require_shape("zero_share", zero_share, tuple(shape[a] for a in axes), f"that of the output axes {axes} of w")
    return jax.lax.broadcast_in_dim(1 - _float32(zero_share, "zero_share"), shape, axes)


def _float32(x: jax.Array, name: str) -> jax.Array:
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{name} must be a floating array, got dtype {x.dtype}")
    return x.astype(jnp.float32)


def _require_kernel(w: jax.Array) -> None:
    if jnp.ndim(w) < 2:
        raise ValueError(f"w must be a kernel of 2 or more axes, [*window, in, out], got shape {jnp.shape(w)}")


def _require_shape(name: str, x: jax.Array, shape: tuple[int, ...], what: str) -> None:
    if jnp.shape(x) != shape:
        raise ValueError(f"{name} must have shape {shape} ({what}), got {jnp.shape(x)}")
