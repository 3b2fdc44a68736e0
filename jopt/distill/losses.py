"""Losses on the teacher's logits, and their combination with the loss on the labels."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jopt.distill.operands import pair
from jopt.hyper import check_number


def loss(student_logits: jax.Array, teacher_logits: jax.Array, temperature: Any) -> jax.Array:
    """Divergence of the student's softened outputs from the teacher's, times T squared.

    `T^2 mean_batch sum_classes p (log p - log q)` with `p = softmax(teacher / T)`, `q = softmax(student / T)`
    (Hinton, Vinyals and Dean 2015, section 2). The factor keeps the gradient, `T (q - p)` over the batch's size,
    of about the same size at every T; as T grows it tends to `(student - teacher) / classes` (their eq. 4, for
    logits of mean zero), half the gradient of `mse`.

    Args:
      student_logits: floating [..., classes]; leading axes are the batch. Finite.
      teacher_logits: floating, the same shape.
      temperature: T, a scalar above 0; may be traced.

    Returns:
      float32 [], in nats times T squared; 0 for equal logits. Its rounding error is about 1e-7 T squared; the
      gradient's does not grow so.

    Raises:
      ValueError: for shapes that differ, integer logits, or a temperature that is no finite number above 0.

    Example:
      >>> student, teacher = jnp.log(jnp.array([[0.5, 0.5]])), jnp.log(jnp.array([[0.75, 0.25]]))
      >>> float(loss(student, teacher, 1.0))                     # 0.75 log 1.5 + 0.25 log 0.5 = 0.1308
      0.130812...
      >>> float(loss(student, student, 4.0))
      0.0
    """
    student, teacher = pair("logits", student_logits, teacher_logits)
    t = _temperature(temperature)
    log_p, log_q = (jax.nn.log_softmax(x / t) for x in (teacher, student))
    divergence = jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)
    return t * t * divergence.mean()


def mse(student_logits: jax.Array, teacher_logits: jax.Array) -> jax.Array:
    """Mean over batch and classes of the squared difference of logits.

    `mean_batch mean_classes (student - teacher)^2`. Ba and Caruana (2014, eq. 1) have the half of the sum over
    classes, which is this times classes / 2; the mean makes it twice the limit of `loss` for large T.

    Args:
      student_logits: floating [..., classes].
      teacher_logits: floating, the same shape.

    Returns:
      float32 [].

    Raises:
      ValueError: for shapes that differ, or integer logits.

    Example:
      >>> float(mse(jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 4.0]])))
      2.5
    """
    student, teacher = pair("logits", student_logits, teacher_logits)
    return jnp.mean(jnp.square(student - teacher))


def combine(hard_loss: Any, soft_loss: Any, weight: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The labels' loss and the teacher's as one.

    `(1 - weight) * hard_loss + weight * soft_loss` (Hinton, Vinyals and Dean 2015, section 2).

    Args:
      hard_loss: floating [], on the labels.
      soft_loss: floating [], on the teacher's outputs.
      weight: a scalar in [0, 1]; may be traced. At 0 and 1 one of the (finite) losses counts exactly nothing.

    Returns:
      float32 [], and the two losses as they came in, `hard` and `soft`.

    Raises:
      ConfigError: for a concrete weight outside [0, 1].

    Example:
      >>> total, parts = combine(2.0, 1.0, 0.75)
      >>> float(total), {name: float(part) for name, part in parts.items()}
      (1.25, {'hard': 2.0, 'soft': 1.0})
    """
    check_number("weight", weight, lambda x: (x >= 0) & (x <= 1), "a number in [0, 1]")
    hard, soft, share = (jnp.asarray(x).astype(jnp.float32) for x in (hard_loss, soft_loss, weight))
    return (1 - share) * hard + share * soft, {"hard": hard, "soft": soft}


def _temperature(value: Any) -> jax.Array:
    # A tracer has no value to look at.
    if not isinstance(value, Tracer) and not (jnp.ndim(value) == 0 and 0 < float(value) < math.inf):
        raise ValueError(f"temperature must be a finite number above 0, got {value!r}")
    return jnp.asarray(value).astype(jnp.float32)
