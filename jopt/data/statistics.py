"""Means and standard deviations of inputs, and what they make of inputs in a program."""

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Float64, PyTree, Shaped, UInt8

Moments: TypeAlias = PyTree
"""Of the structure of the inputs: float32 [channels] for inputs that are numbers, None for those that stay as they
are."""
_ROWS = 4096  # rows of a pass over floats: so many are in float64 at a time
_BYTES = 2**20  # rows of a pass over bytes


def statistics(inputs: np.ndarray, channels: int) -> tuple[Float32[np.ndarray, " channels"], ...]:
    """Mean and population standard deviation of each channel, along the last axis; 1 for a constant channel.

    Args:
      inputs: uint8 or floating [examples, ...]; without further axes it has one channel.
      channels: divides the last axis.

    Example:
      >>> mean, std = statistics(np.array([[0.0, 5.0], [4.0, 5.0]], np.float32), 2)
      >>> mean.tolist(), std.tolist()
      ([2.0, 5.0], [2.0, 1.0])
    """
    columns = inputs.reshape(-1, channels)
    mean, variance = _of_bytes(columns) if inputs.dtype == np.uint8 else _of_floats(columns)
    std = np.sqrt(variance, out=np.ones_like(variance), where=variance > 0)
    return mean.astype(np.float32), std.astype(np.float32)


def _of_bytes(columns: UInt8[np.ndarray, "rows channels"]) -> tuple[Float64[np.ndarray, " channels"], ...]:
    """Exact in integers but for the last division."""
    values = np.arange(256, dtype=np.int64)
    mean, variance = np.zeros(columns.shape[1]), np.zeros(columns.shape[1])
    for channel in range(columns.shape[1]):
        # From a histogram of the 256 values: the sums are integers,
        # so the order of the examples cannot change a bit.
        # Some rows at a time, as `bincount` makes 64-bit numbers of them: a set may be mapped from a file.
        parts = (columns[i : i + _BYTES, channel] for i in range(0, len(columns), _BYTES))
        counts = sum((np.bincount(part, minlength=256) for part in parts), np.zeros(256, np.int64))
        n, total, squares = (int((counts * values**power).sum()) for power in (0, 1, 2))
        mean[channel] = total / n
        variance[channel] = (n * squares - total * total) / (n * n)
    return mean, variance


def _of_floats(columns: Shaped[np.ndarray, "rows channels"]) -> tuple[Float64[np.ndarray, " channels"], ...]:
    # Two passes: with a sum of squares alone, numbers far from 0 would leave the variance no digits.
    start = np.zeros(columns.shape[1])
    mean = sum((part.sum(0) for part in _in_float64(columns)), start) / len(columns)
    return mean, sum((((part - mean) ** 2).sum(0) for part in _in_float64(columns)), start) / len(columns)


def _in_float64(columns: np.ndarray) -> Any:
    return (columns[i : i + _ROWS].astype(np.float64) for i in range(0, len(columns), _ROWS))


def normalize(inputs: PyTree, mean: Moments, std: Moments) -> PyTree:
    """`(inputs - mean) / std` in float32, over the last axis; inputs without a mean stay as they are.

    Args:
      inputs: arrays [..., channels] in raw units, or a pytree of them.
      mean: float32 [channels], or None; of the inputs' structure.
      std: likewise.

    Example:
      >>> x = jnp.array([[0], [4]], jnp.uint8)
      >>> normalize(x, jnp.array([2.0]), jnp.array([2.0])).tolist()
      [[-1.0], [1.0]]
      >>> normalize({"tokens": x}, {"tokens": None}, {"tokens": None})["tokens"].dtype
      dtype('uint8')
    """
    return jax.tree.map(_normalize, inputs, mean, std)


def _normalize(inputs: Shaped[Array, "..."], mean: Any, std: Any) -> Shaped[Array, "..."]:
    if mean is None:
        return inputs
    # Written out, because rank promotion may be an error.
    shape = (1,) * (inputs.ndim - 1) + mean.shape
    return (inputs.astype(jnp.float32) - mean.reshape(shape)) / std.reshape(shape)


def denormalize(inputs: PyTree, mean: Moments, std: Moments) -> PyTree:
    """The inverse of `normalize`, in float32.

    Example:
      >>> denormalize(jnp.array([[-1.0], [1.0]]), jnp.array([2.0]), jnp.array([2.0])).tolist()
      [[0.0], [4.0]]
    """
    return jax.tree.map(_denormalize, inputs, mean, std)


def _denormalize(inputs: Float[Array, "..."], mean: Any, std: Any) -> Float[Array, "..."]:
    if mean is None:
        return inputs
    shape = (1,) * (inputs.ndim - 1) + mean.shape
    return inputs * std.reshape(shape) + mean.reshape(shape)


def normalized_dtype(dtype: np.dtype, mean: Any) -> np.dtype:
    """The dtype of inputs after `normalize`."""
    return np.dtype(dtype) if mean is None else np.dtype(np.float32)
