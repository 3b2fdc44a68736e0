"""What is computed batch by batch: the loss of each example, and functions over more rows than fit at once."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def in_batches(fn: Callable[..., Any], size: int, *arrays: jax.Array) -> Any:
    """Applies `fn` to slices of at most `size` rows, one after the other, and joins what it gives.

    The last slice is shorter: no row is padded, so that nothing has to be weighted out again.

    Example:
      >>> in_batches(lambda x: 2 * x, 2, jnp.arange(5)).tolist()
      [0, 2, 4, 6, 8]
    """
    rows = arrays[0].shape[0]
    whole = rows // size * size
    parts = []
    if whole:
        folded = [a[:whole].reshape(-1, size, *a.shape[1:]) for a in arrays]
        out = jax.lax.map(lambda xs: fn(*xs), tuple(folded))
        parts.append(jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), out))
    if whole < rows:
        parts.append(fn(*(a[whole:] for a in arrays)))
    return parts[0] if len(parts) == 1 else jax.tree.map(lambda *xs: jnp.concatenate(xs), *parts)


def cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: Any = None) -> jax.Array:
    """Softmax cross-entropy of each example, in nats.

    With smoothing a, the target is (1 - a) one_hot + a / classes (Szegedy et al. 2016, equation in section 7).

    Args:
      logits: float32 [batch, classes].
      labels: int32 [batch], in [0, classes).
      smoothing: the share a, or None.

    Returns:
      float32 [batch]; NaN for a label that is no class, as a program cannot raise an error
      (`jopt.data.check_labels` does, for labels on the host).

    Example:
      >>> float(cross_entropy(jnp.zeros((1, 4)), jnp.array([2]))[0]) == float(jnp.log(4.0))
      True
    """
    log_p = jax.nn.log_softmax(logits)
    # A product with the one-hot target, whose gradient fuses; that of an indexed pick is a scatter.
    classes = logits.shape[-1]
    known = (labels >= 0) & (labels < classes)
    picked = jnp.sum(log_p * jax.nn.one_hot(labels, classes, dtype=log_p.dtype), axis=-1)
    # Of the result, not of the target: so all other losses and gradients keep their bits.
    picked = jnp.where(known, picked, jnp.nan)
    if smoothing is None:
        return -picked
    return -(1 - smoothing) * picked - smoothing * log_p.mean(-1)
