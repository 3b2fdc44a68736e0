"""Losses on the teacher's logits and features, and their combination with the loss on the labels.

Logits come first, then features (what a layer of the student computes, against a layer of the teacher), then what
every loss does first: float32, one shape, no gradient into the teacher.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float

from jopt.hyper import check_number
from jopt.typing import Number


def loss(
    student_logits: Float[Array, "*batch classes"],
    teacher_logits: Float[Array, "*batch classes"],
    temperature: Number,
) -> Float[Array, ""]:
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
    # From logarithms: log(softmax) of large logits would be log(0), and the difference NaN.
    log_p, log_q = (jax.nn.log_softmax(x / t) for x in (teacher, student))
    divergence = jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)
    return t * t * divergence.mean()


def mse(
    student_logits: Float[Array, "*batch classes"], teacher_logits: Float[Array, "*batch classes"]
) -> Float[Array, ""]:
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


def combine(hard_loss: Number, soft_loss: Number, weight: Number) -> tuple[jax.Array, dict[str, jax.Array]]:
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
    # In float32, as a weight such as 0.9 has three digits in bfloat16.
    hard, soft, share = (jnp.asarray(x).astype(jnp.float32) for x in (hard_loss, soft_loss, weight))
    return (1 - share) * hard + share * soft, {"hard": hard, "soft": soft}


def _temperature(value: Any) -> jax.Array:
    # A tracer has no value to look at.
    if not isinstance(value, Tracer) and not (jnp.ndim(value) == 0 and 0 < float(value) < math.inf):
        raise ValueError(f"temperature must be a finite number above 0, got {value!r}")
    return jnp.asarray(value).astype(jnp.float32)


def feature_mse(student: jax.Array, teacher: jax.Array, regressor: jax.Array | None = None) -> jax.Array:
    """Mean over all elements of the squared difference of features.

    `mean (student R - teacher)^2` (FitNets, Romero et al. 2015, eq. 3, where it is half the sum). R is learned with
    the student; without it the widths must agree.

    Args:
      student: floating [batch, ..., width].
      teacher: floating [batch, ..., teacher's width], the other axes the student's.
      regressor: floating [width, teacher's width], or None.

    Returns:
      float32 [].

    Raises:
      ValueError: for shapes that do not fit, or integer features.

    Example:
      >>> x = jnp.array([[1.0, 2.0]])
      >>> float(feature_mse(x, jnp.array([[1.0, 4.0]])))
      2.0
      >>> float(feature_mse(x, jnp.array([[3.0]]), jnp.ones((2, 1))))
      0.0
    """
    if regressor is not None:
        width = student.shape[-1:]
        if regressor.ndim != 2 or regressor.shape[:1] != width:
            raise ValueError(
                f"regressor must be a matrix with a row for each of the student's {width[0]} features, "
                f"got shape {regressor.shape}"
            )
        student = jnp.matmul(float32("student features", student), float32("regressor", regressor))
    student, teacher = pair("features", student, teacher)
    return jnp.mean(jnp.square(student - teacher))


def similarity(student: Float[Array, "batch ..."], teacher: Float[Array, "batch ..."]) -> Float[Array, ""]:
    """Mean squared difference of the similarities that two layers see between the examples of a batch.

    `|G_s - G_t|_F^2 / batch^2`, where `G = Q Q^T`, each row divided by its L2 norm, and Q holds an example's
    features in a row (Tung and Mori 2019, eq. 1 to 4). Widths and shapes of the two layers may differ. A row of
    zeros stays zero, with a finite gradient.

    Args:
      student: floating [batch, ...].
      teacher: floating [batch, ...]; only the batch must agree.

    Returns:
      float32 [], in [0, 4 / batch].

    Raises:
      ValueError: for batches that differ, or integer features.

    Example:
      >>> apart, alike = jnp.eye(2), jnp.ones((2, 3))            # rows of G: (1, 0) and (0, 1); twice (1, 1)/sqrt 2
      >>> round(float(similarity(apart, alike)), 4)              # (4 - 2 sqrt 2) / 4
      0.2929
    """
    student, teacher = float32("student features", student), fixed("teacher features", teacher)
    if min(student.ndim, teacher.ndim) < 2 or student.shape[0] != teacher.shape[0]:
        raise ValueError(
            "student and teacher features must be [batch, ...] of one batch, "
            f"got shapes {student.shape} and {teacher.shape}"
        )
    # Rows are examples, so the two matrices have one shape whatever the widths of the layers.
    difference = _normalized(_gram(student)) - _normalized(_gram(teacher))
    return jnp.mean(jnp.square(difference))


def attention(
    student: Float[Array, "*positions channels"], teacher: Float[Array, "*positions teacher_channels"]
) -> Float[Array, ""]:
    """Squared distance of two layers' attention maps: where in the input their activations are large.

    `mean_batch |a_s - a_t|^2`, where `a = A / |A|` and `A = sum_channels x^2`, over positions (Zagoruyko and
    Komodakis 2017, eq. 2, whose distance is not squared). Numbers of channels may differ. A map of zeros stays
    zero, with a finite gradient.

    Args:
      student: floating [batch, positions ..., channels], such as [batch, height, width, channels].
      teacher: floating [batch, positions ..., channels], all axes but the last the student's.

    Returns:
      float32 [], in [0, 2].

    Raises:
      ValueError: for shapes that do not fit, or integer features.

    Example:
      >>> left, right = jnp.array([[[1.0], [0.0]]]), jnp.array([[[0.0, 0.0], [3.0, 4.0]]])
      >>> float(attention(left, right)), float(attention(left, 2 * left))
      (2.0, 0.0)
    """
    student, teacher = float32("student features", student), fixed("teacher features", teacher)
    if student.ndim < 3 or student.shape[:-1] != teacher.shape[:-1]:
        raise ValueError(
            "student and teacher features must be [batch, positions ..., channels] with the same positions, "
            f"got shapes {student.shape} and {teacher.shape}"
        )
    # Over channels, so that networks of different widths compare, as long as positions agree.
    maps = [_normalized(jnp.sum(x * x, -1).reshape(x.shape[0], -1)) for x in (student, teacher)]
    return jnp.sum(jnp.square(maps[0] - maps[1]), axis=-1).mean()


FEATURE_LOSSES: dict[str, Callable[..., jax.Array]] = {
    "attention": attention,
    "mse": feature_mse,
    "similarity": similarity,
}


def _gram(x: jax.Array) -> jax.Array:
    rows = x.reshape(x.shape[0], -1)
    # Of the highest precision: the default's may be bfloat16 on a GPU or TPU, and differences are taken of it.
    return jnp.matmul(rows, rows.T, precision=jax.lax.Precision.HIGHEST)


def _normalized(rows: jax.Array) -> jax.Array:
    squares = jnp.sum(rows * rows, axis=-1, keepdims=True)
    # The root's gradient at 0 is infinite, and 0 times it NaN.
    return rows / jnp.sqrt(jnp.where(squares > 0, squares, jnp.ones_like(squares)))


def pair(operand: str, student: jax.Array, teacher: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Student and teacher in float32, the teacher without gradient. Raises ValueError if their shapes differ."""
    if student.shape != teacher.shape or student.ndim < 1:
        raise ValueError(
            f"student and teacher {operand} must be of one shape, got shapes {student.shape} and {teacher.shape}"
        )
    return float32(f"student {operand}", student), fixed(f"teacher {operand}", teacher)


def fixed(operand: str, x: jax.Array) -> jax.Array:
    """`x` in float32, without gradient."""
    # A teacher may share parameters with the student (an earlier stage): it must not be trained by the student's
    # loss.
    return jax.lax.stop_gradient(float32(operand, x))


def float32(operand: str, x: jax.Array) -> jax.Array:
    """`x` in float32. Raises ValueError for integers."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{operand} must be floating, got {x.dtype}")
    return jnp.asarray(x).astype(jnp.float32)
