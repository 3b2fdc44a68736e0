"""The moving average of a run's parameters: where it begins, how it moves, how much data its statistics take."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jopt.train.state import Variables

EXAMPLES = 1024
"""Training examples that the average's batch statistics are estimated from, at the end of each segment."""


def begun(params: Any, model_state: Any) -> Variables:
    """The average before its first step: a copy of what there is."""
    return jax.tree.map(jnp.copy, Variables(params, model_state))


def moved(average: Variables, params: Any, decay: Any, step: Any) -> Variables:
    """The average after a step, its model state unchanged.

    $m_t = d_t m_{t-1} + (1 - d_t) w_t$ with $d_t$ from `warm`.

    Args:
      average: the average so far.
      params: what the optimizer moved the parameters to.
      decay: in (0, 1), may be traced.
      step: int32 [], the number of steps that the average then has taken: 1 for its first.
    """
    return average._replace(params=optax.incremental_update(params, average.params, 1 - warm(decay, step)))


def warm(decay: Any, step: Any) -> jax.Array:
    r"""The decay of one step of the average: $d_t = \min(d, \frac{1 + t}{10 + t})$.

    A decay of 0.999 alone would leave $0.999^t$ of the initial parameters in the average: 79 % after 234 steps.
    While $d_t < d$, step $s$ of $t$ has a weight of about $9 s^8 / t^9$, so the mean age is a tenth of $t$. From
    $t = (10 d - 1) / (1 - d)$ on the decay is $d$: after 80 steps for 0.9, 890 for 0.99, 8990 for 0.999.

    The formula is that of TensorFlow's `tf.train.ExponentialMovingAverage` with `num_updates`.

    Args:
      decay: d in (0, 1), may be traced.
      step: t, int32 [], 1 for the average's first step.

    Returns:
      float32 [].

    Example:
      >>> [round(float(warm(0.9, jnp.int32(t))), 4) for t in (1, 10, 80, 1000)]
      [0.1818, 0.55, 0.9, 0.9]
    """
    t = jnp.asarray(step, jnp.float32)
    return jnp.minimum(jnp.asarray(decay, jnp.float32), (1 + t) / (10 + t))


def examples(batch_size: int) -> int:
    """How many examples the average's statistics are estimated from: whole batches, at least one.

    Example:
      >>> examples(32), examples(100), examples(4096)
      (1024, 1000, 4096)
    """
    return max(EXAMPLES // batch_size, 1) * batch_size
