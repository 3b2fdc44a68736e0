"""Losses on features: what a layer of the student computes, against a layer of the teacher."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jopt.distill.operands import fixed, float32, pair


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


def similarity(student: jax.Array, teacher: jax.Array) -> jax.Array:
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
    difference = _normalized(_gram(student)) - _normalized(_gram(teacher))
    return jnp.mean(jnp.square(difference))


def attention(student: jax.Array, teacher: jax.Array) -> jax.Array:
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
