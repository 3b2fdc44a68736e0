"""What every loss does first: float32, one shape, no gradient into the teacher."""

import jax
import jax.numpy as jnp


def pair(what: str, student: jax.Array, teacher: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Student and teacher in float32, the teacher without gradient. Raises ValueError if their shapes differ."""
    if student.shape != teacher.shape or student.ndim < 1:
        raise ValueError(
            f"student and teacher {what} must be of one shape, got shapes {student.shape} and {teacher.shape}"
        )
    return float32(f"student {what}", student), fixed(f"teacher {what}", teacher)


def fixed(what: str, x: jax.Array) -> jax.Array:
    """`x` in float32, through which no gradient goes."""
    return jax.lax.stop_gradient(float32(what, x))


def float32(what: str, x: jax.Array) -> jax.Array:
    """`x` in float32. Raises ValueError for integers."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{what} must be floating, got {x.dtype}")
    return jnp.asarray(x).astype(jnp.float32)
