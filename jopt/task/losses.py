"""Losses of examples: cross-entropies."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jopt.typing import Number


def cross_entropy(
    logits: Float[Array, "*batch classes"], labels: Int[Array, "*batch"], smoothing: Number | None = None
) -> Float[Array, "*batch"]:
    """Softmax cross-entropy of each example, in nats.

    With smoothing a, the target is (1 - a) one_hot + a / classes (Szegedy et al. 2016, equation in section 7).

    Args:
      logits: float32 [..., classes].
      labels: integers [...], in [0, classes).
      smoothing: the share a, or None.

    Returns:
      float32 [...]; NaN for a label that is no class, as a program cannot raise an error
      (`jopt.data.check_labels` does, for labels on the host).

    Example:
      >>> float(cross_entropy(jnp.zeros((1, 4)), jnp.array([2]))[0]) == float(jnp.log(4.0))
      True
    """
    log_p = jax.nn.log_softmax(logits)
    # A product with the one-hot target, whose gradient fuses; that of an indexed pick is a scatter.
    classes = logits.shape[-1]
    is_class = (labels >= 0) & (labels < classes)
    picked = jnp.sum(log_p * jax.nn.one_hot(labels, classes, dtype=log_p.dtype), axis=-1)
    # NaN is put into the result, not into the target, so all other losses and gradients keep their bits.
    picked = jnp.where(is_class, picked, jnp.nan)
    if smoothing is None:
        return -picked
    return -(1 - smoothing) * picked - smoothing * log_p.mean(-1)


def binary_cross_entropy(
    logits: Float[Array, "batch ..."], targets: Float[Array, "batch ..."]
) -> Float[Array, "batch ..."]:
    """Sigmoid cross-entropy of each label, in nats: `log(1 + exp(x)) - t x`.

    Args:
      logits: float32 [batch, labels].
      targets: of the same shape, in [0, 1].

    Example:
      >>> binary_cross_entropy(jnp.zeros((1, 1)), jnp.ones((1, 1)))[0, 0] == jnp.log(2.0)
      Array(True, dtype=bool)
    """
    # softplus is computed without overflow for logits of any size.
    return jax.nn.softplus(logits) - targets * logits
