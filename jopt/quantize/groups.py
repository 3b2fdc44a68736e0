"""Which entries of an array share a scale: the array seen so that a group is one or more whole axes."""

import math

import jax
import jax.numpy as jnp

from jopt.quantize.spec import Spec


def scale_shape(shape: tuple[int, ...], spec: Spec) -> tuple[int, ...]:
    """The shape of the scales of an array.

    Args:
      shape: the array's shape.
      spec: the Spec.

    Returns:
      `()` for one scale; for kept axes the array's shape with 1 in the others, so that the scales broadcast; with
      groups `(number of groups, *kept axes)`.

    Raises:
      ValueError: if an axis is out of range, no axis is left to share a scale, or the groups do not come out even.

    Example:
      >>> [scale_shape((64, 10), s) for s in (Spec(), Spec(axis=-1), Spec(axis=-1, group=32))]
      [(), (1, 10), (2, 10)]
    """
    kept = spec.kept_axes(len(shape))
    if spec.group is None:
        if spec.axis is None:
            return ()
        if len(kept) == len(shape):
            raise ValueError(
                f"axis must leave an axis whose entries share a scale, got {spec.axis!r} for shape {shape}"
            )
        return tuple(n if i in kept else 1 for i, n in enumerate(shape))
    entries = math.prod(n for i, n in enumerate(shape) if i not in kept)
    if entries % spec.group:
        raise ValueError(
            f"group must divide the {entries} entries of shape {shape} outside the kept axes {kept}, "
            f"got {spec.group}"
        )
    return (entries // spec.group, *(shape[i] for i in kept))


def to_groups(x: jax.Array, spec: Spec) -> jax.Array:
    """The array with each group on axes of its own: with `spec.group` [groups, group, *kept axes], else `x`."""
    if spec.group is None:
        return x
    kept = spec.kept_axes(x.ndim)
    rest = [i for i in range(x.ndim) if i not in kept]
    groups, *sizes = scale_shape(x.shape, spec)
    return x.transpose(*rest, *kept).reshape(groups, spec.group, *sizes)


def from_groups(y: jax.Array, shape: tuple[int, ...], spec: Spec) -> jax.Array:
    """Undoes `to_groups` for an array of `shape`."""
    if spec.group is None:
        return y
    kept = spec.kept_axes(len(shape))
    order = [*(i for i in range(len(shape)) if i not in kept), *kept]
    return y.reshape([shape[i] for i in order]).transpose(*(order.index(i) for i in range(len(shape))))


def shared_axes(ndim: int, spec: Spec) -> tuple[int, ...]:
    """The axes of what `to_groups` gave (of rank `ndim`) along which the entries share a scale."""
    if spec.group is not None:
        return (1,)
    kept = spec.kept_axes(ndim)
    return tuple(i for i in range(ndim) if i not in kept)


def spread(scales: jax.Array, spec: Spec) -> jax.Array:
    """Scales (of `scale_shape`) as they broadcast against what `to_groups` gave."""
    return scales if spec.group is None or scales.ndim == 0 else jnp.expand_dims(scales, 1)


def collect(scales: jax.Array, spec: Spec) -> jax.Array:
    """Undoes `spread` for what was reduced along `shared_axes` with `keepdims`."""
    if spec.group is not None:
        return jnp.squeeze(scales, 1)
    return scales.reshape(()) if spec.axis is None else scales
