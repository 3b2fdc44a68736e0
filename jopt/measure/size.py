"""Parameters, nonzeros and bytes of a tree of arrays, as exact Python integers."""

import math
from typing import Any, NamedTuple

import numpy as np

from jopt.rules import named_leaves


class Size(NamedTuple):
    """How large a tree of arrays is.

    Attributes:
      parameters: number of elements.
      nonzero_parameters: number of elements that are not zero; NaN counts as not zero, -0.0 as zero.
      sparsity: `1 - nonzero_parameters / parameters`; 0.0 for an empty tree.
      bytes: elements times the bytes of their dtype, in memory; not the length of any file.
    """

    parameters: int
    nonzero_parameters: int
    sparsity: float
    bytes: int


class Layer(NamedTuple):
    """One leaf of a tree of arrays; the counts are those of `Size`."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    parameters: int
    nonzero_parameters: int
    bytes: int


def layers(params: Any) -> list[Layer]:
    """One row for each leaf of `params`, in leaf order.

    Args:
      params: a pytree of concrete arrays (JAX or NumPy) or Python numbers.

    Returns:
      A `Layer` for each leaf.

    Raises:
      TypeError: if a leaf has no values to count, as a `ShapeDtypeStruct` or a tracer has none.

    Example:
      >>> for layer in layers({"Dense_0": {"bias": np.zeros(2), "kernel": np.eye(2, dtype=np.float32)}}):
      ...     print(*layer)
      Dense_0/bias (2,) float64 2 0 16
      Dense_0/kernel (2, 2) float32 4 2 16
    """
    return [_layer(path, leaf) for path, leaf in named_leaves(params)]


def _layer(path: str, leaf: Any) -> Layer:
    try:
        values = np.asarray(leaf)
    except Exception as error:
        raise TypeError(f"{path} must be a concrete array, got {leaf!r}") from error
    if values.dtype == object:
        raise TypeError(f"{path} must be a concrete array, got {leaf!r}")
    count = math.prod(values.shape)
    return Layer(
        path, values.shape, values.dtype.name, count, int(np.count_nonzero(values)), count * values.dtype.itemsize
    )


def size(params: Any) -> Size:
    """Counts the elements, the nonzeros and the bytes of `params`.

    Args:
      params: a pytree of concrete arrays (JAX or NumPy) or Python numbers.

    Returns:
      A `Size`.

    Raises:
      TypeError: if a leaf has no values to count, as a `ShapeDtypeStruct` or a tracer has none.

    Example:
      >>> size({"bias": np.zeros(2, np.float32), "kernel": np.eye(2, dtype=np.float32)})
      Size(parameters=6, nonzero_parameters=2, sparsity=0.666..., bytes=24)
    """
    rows = layers(params)
    parameters = sum(row.parameters for row in rows)
    nonzero = sum(row.nonzero_parameters for row in rows)
    sparsity = (parameters - nonzero) / parameters if parameters else 0.0
    return Size(parameters, nonzero, sparsity, sum(row.bytes for row in rows))
