"""Budgets: how a sparsity of the whole network is shared out over its layers."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jopt.prune.counts import check_sparsity, keep_count

Shape = tuple[int, ...]


def uniform(shapes: Sequence[Shape], sparsity: Any) -> list[Any]:
    """Every layer has the sparsity of the whole.

    Args:
      shapes: of the layers' kernels.
      sparsity: in [0, 1), a scalar that may be traced.

    Returns:
      `sparsity`, once for each layer.

    Raises:
      ValueError: for a concrete sparsity outside [0, 1).

    Example:
      >>> uniform([(64, 300), (300, 10)], 0.9)
      [0.9, 0.9]
    """
    check_sparsity(sparsity)
    return [sparsity] * len(shapes)


def erk(shapes: Sequence[Shape], sparsity: Any, *, kernel: bool = True) -> list[Any]:
    r"""Erdos-Renyi-Kernel: layer l has density $\epsilon \sum_i d_{l,i} / \prod_i d_{l,i}$, at most 1.

    $\epsilon$ is what gives the whole its density: $\sum_l n_l (1 - s_l) = (1 - s) \sum_l n_l$. A layer whose
    density would exceed 1 is left dense, and the others share what is left of the budget, until none exceeds it.

    Evci, Gale, Menick, Castro and Elsen, 2020, Rigging the lottery, section 3 (ERK); Mocanu et al., 2018,
    Scalable training of artificial neural networks with adaptive sparse connectivity, equation 1 (`kernel=False`:
    only the axes of inputs and outputs count).

    Args:
      shapes: of the layers' kernels, [in, out] or [*window, in, out].
      sparsity: s, in [0, 1), a scalar that may be traced.
      kernel: whether the window's axes count.

    Returns:
      The layers' sparsities: Python floats, or float32 scalars if `sparsity` is a JAX value.

    Raises:
      ValueError: for a concrete sparsity outside [0, 1), or a shape without entries.

    Example:
      >>> [round(s, 4) for s in erk([(10, 10), (20, 80)], 0.8)]
      [0.4333, 0.8229]
    """
    xp, real, _ = _arithmetic(sparsity)
    sizes = _sizes(shapes)
    sparsities = xp.maximum(1 - _densities(sizes, _weights(shapes, kernel), sparsity), real(0))
    return [float(s) for s in sparsities] if xp is np else list(sparsities)


def erk_counts(shapes: Sequence[Shape], sparsity: Any, *, kernel: bool = True) -> list[Any]:
    """How many weights each layer keeps under `erk`: whole numbers, whose sum is exact.

    The layers take turns, first to last; each takes its share of what is left, rounded half to even. It keeps at
    least 1 and at most all of its weights.

    Args:
      shapes: as in `erk`.
      sparsity: as in `erk`.
      kernel: as in `erk`.

    Returns:
      Counts for `keep_top`, whose sum is `keep_count` of all weights, or one a layer where that is more: Python
      ints, or int32 scalars if `sparsity` is a JAX value.

    Raises:
      ValueError: as `erk` does, and for 2**31 weights or more.

    Example:
      >>> erk_counts([(10, 10), (20, 80)], 0.8)
      [57, 283]
    """
    xp, real, integer = _arithmetic(sparsity)
    sizes = _sizes(shapes)
    shares = _densities(sizes, _weights(shapes, kernel), sparsity) * xp.asarray(sizes, real)
    tails = xp.flip(xp.cumsum(xp.flip(shares)))
    left = xp.maximum(xp.asarray(keep_count(sum(sizes), sparsity), integer), integer(len(sizes)))
    counts = []
    for i, n in enumerate(sizes):
        share = xp.round(left.astype(real) * (shares[i] / tails[i])).astype(integer)
        at_least = xp.maximum(left - sum(sizes[i + 1 :]), 1)
        at_most = xp.minimum(left - (len(sizes) - i - 1), n)
        counts.append(xp.clip(share, at_least, at_most))
        left = left - counts[-1]
    return [int(c) for c in counts] if xp is np else counts


def _densities(sizes: Sequence[int], weights: Sequence[float], sparsity: Any) -> Any:
    """What the docstring of `erk` says; [layers]."""
    check_sparsity(sparsity)
    xp, real, _ = _arithmetic(sparsity)
    n, w = xp.asarray(sizes, real), xp.asarray(weights, real)
    budget = (1 - xp.asarray(sparsity, real)) * xp.sum(n)
    dense = xp.zeros(len(sizes), bool)
    density = xp.ones(len(sizes), real)
    # Each round finds a layer to be left dense, or changes nothing; so this many always do, for any sparsity.
    for _ in range(len(sizes) + 1):
        left = budget - xp.sum(xp.where(dense, n, real(0)))
        rest = xp.sum(xp.where(dense, real(0), w * n))
        density = xp.where(dense, real(1), w * (left / xp.where(rest > 0, rest, real(1))))
        dense = dense | (density > 1)
    return density


def _arithmetic(sparsity: Any) -> tuple[Any, Any, Any]:
    """float64 on the host for a Python or NumPy number, float32 in the program for a JAX value."""
    if isinstance(sparsity, jax.Array):
        return jnp, jnp.float32, jnp.int32
    return np, np.float64, np.int64


def _sizes(shapes: Sequence[Shape]) -> list[int]:
    for shape in shapes:
        if not shape or not math.prod(shape):
            raise ValueError(f"a layer's shape must have axes, none of size 0, got {tuple(shape)}")
    return [math.prod(shape) for shape in shapes]


def _weights(shapes: Sequence[Shape], kernel: bool) -> list[float]:
    """A density for each layer, but for epsilon."""
    axes = shapes if kernel else [shape[-2:] for shape in shapes]
    return [sum(axis) / math.prod(axis) for axis in axes]
