"""The copies of a stacked layer, one by one: what a method does to a layer, it does to each."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp


def over_copies(function: Callable[..., Any], stack: Sequence[int]) -> Callable[..., Any]:
    """The function applied to every copy of a stacked layer by itself.

    Args:
      function: of arrays of one copy's shape, giving arrays of that shape (or a tree of them).
      stack: the axes over copies; without any, `function` itself comes back, in the same program.

    Returns:
      A function of arrays of the whole shape. An argument that is a scalar, or None, goes to every copy as it is.

    Example:
      >>> half = lambda x: x - x.max()
      >>> over_copies(half, (1,))(jnp.array([[1.0, 10.0], [3.0, 30.0]])).tolist()
      [[-2.0, -20.0], [0.0, 0.0]]
    """
    if not stack:
        return function
    axes = tuple(stack)

    def over_all(*args: Any) -> Any:
        # `vmap` maps every array that it is given, so scalars go around it.
        arrays = [None if jnp.ndim(a) == 0 else to_copies(a, axes) for a in args]
        sizes = next(tuple(a.shape[axis] for axis in axes) for a in args if jnp.ndim(a))
        scalars = [None if jnp.ndim(a) else a for a in args]

        def one(*parts: object) -> Any:
            return function(*(s if p is None else p for p, s in zip(parts, scalars, strict=True)))

        # The axes over copies are joined, so that one `vmap` serves any number of them.
        mapped = jax.vmap(one, in_axes=tuple(None if a is None else 0 for a in arrays))(*arrays)
        return jax.tree.map(lambda y: from_copies(y, axes, sizes), mapped)

    return over_all


def to_copies(x: jax.typing.ArrayLike, stack: Sequence[int]) -> jax.Array:
    """[copies, *shape of one copy], the axes of `stack` joined in row-major order.

    Example:
      >>> to_copies(jnp.zeros((4, 2, 3)), (1,)).shape
      (2, 4, 3)
    """
    moved = jnp.moveaxis(jnp.asarray(x), tuple(stack), tuple(range(len(stack))))
    return moved.reshape(math.prod(moved.shape[: len(stack)]), *moved.shape[len(stack) :])


def from_copies(y: jax.Array, stack: Sequence[int], sizes: Sequence[int]) -> jax.Array:
    """Undoes `to_copies`, given the sizes of the axes over copies.

    Example:
      >>> from_copies(jnp.zeros((2, 4, 3)), (1,), (2,)).shape
      (4, 2, 3)
    """
    return jnp.moveaxis(y.reshape(*sizes, *y.shape[1:]), tuple(range(len(stack))), tuple(stack))
