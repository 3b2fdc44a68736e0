"""Operands of integer contractions: signed codes of 8 bits or fewer, with their scale and zero point."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jopt.quantize.grid import Grid, encode
from jopt.quantize.spec import Spec
from jopt.quantize.tensors import QTensor

NARROW = 8
"""The most bits that an operand can have."""


class Codes(NamedTuple):
    """An operand; a code c stands for (c - zero_point) * scale.

    Attributes:
      codes: int8, int4 or int2, of the array's shape. Unsigned codes of b bits are held less 2^(b-1).
      scale: float32, of the shape `jopt.quantize.scale_shape` gives.
      zero_point: int32 of that shape, for codes as they are held; None: 0, and nothing is computed with it.
      columns: int32, of the last axis: a kernel's codes summed over all others, where `with_columns` has done so.
    """

    codes: jax.Array
    scale: jax.Array
    zero_point: jax.Array | None = None
    columns: jax.Array | None = None


def code_type(bits: int) -> Any:
    """The narrowest signed dtype that holds codes of `bits` bits.

    Example:
      >>> [code_type(bits).__name__ for bits in (1, 2, 3, 8)]
      ['int2', 'int2', 'int4', 'int8']
    """
    return jnp.int2 if bits <= 2 else jnp.int4 if bits <= 4 else jnp.int8


def operand(q: QTensor | Codes) -> Codes:
    """A quantized array as an operand, its codes held in as few bits as they need.

    XLA has no contraction of int4 or int2 on CPU, so they are made int8 where they are contracted, and no sooner.

    Args:
      q: what `jopt.quantize.quantize` gave (the range is not needed), or an operand, which is given back.

    Returns:
      The `Codes`.

    Raises:
      ValueError: for more than 8 bits, traced bits, or scales shared by groups.

    Example:
      >>> from jopt.quantize import quantize
      >>> codes, scale, zero_point, _ = operand(quantize(jnp.array([-1.0, 0.0, 2.0]), Spec(2, symmetric=False)))
      >>> codes.tolist(), codes.dtype.name, float(scale), int(zero_point)         # 0, 1, 3 with zero point 1
      ([-2, -1, 1], 'int2', 1.0, -1)
    """
    if isinstance(q, Codes):
        return q
    bits = checked_width(q.spec, "the codes")
    codes, zero_point = jnp.asarray(q.codes).astype(jnp.int32), None
    if not q.spec.symmetric:
        half = jnp.int32(1 << (bits - 1))
        codes, zero_point = codes - half, jnp.asarray(q.zero_point).astype(jnp.int32) - half
    return Codes(codes.astype(code_type(bits)), jnp.asarray(q.scale), zero_point)


def with_columns(kernel: Codes) -> Codes:
    """The kernel with the sums of its columns, which an input's zero point is multiplied with, once and for all.

    Example:
      >>> with_columns(Codes(jnp.array([[1, 2], [3, 4]], jnp.int8), jnp.float32(1))).columns.tolist()
      [4, 6]
    """
    return kernel._replace(columns=column_sums(kernel, range(kernel.codes.ndim - 1)))


def column_sums(kernel: Codes, axes: Iterable[int]) -> jax.Array:
    """The sums of a kernel's codes over `axes`, int32.

    Example:
      >>> column_sums(Codes(jnp.array([[1, 2], [3, 4]], jnp.int8), jnp.float32(1)), (1,)).tolist()
      [3, 7]
    """
    axes = tuple(axes)
    if kernel.columns is not None and sorted(axes) == list(range(kernel.codes.ndim - 1)):
        return kernel.columns
    return kernel.codes.astype(jnp.int32).sum(axes, dtype=jnp.int32)


def encode_input(x: jax.Array, spec: Spec, g: Grid) -> Codes:
    """The codes of an input on the grid of its range, bit for bit those that the simulation rounds to.

    Args:
      x: floating array.
      spec: of at most 8 bits, one scale.
      g: the grid, of scalars.

    Returns:
      int8 `Codes`, of any width: what would be made int8 at the contraction is not made narrower before it.

    Raises:
      ValueError: for more than 8 bits, traced bits, or more than one scale.

    Example:
      >>> from jopt.quantize.grid import Range, grid
      >>> spec = Spec(8, symmetric=False)
      >>> g = grid(spec, Range(jnp.float32(0), jnp.float32(255)))
      >>> encode_input(jnp.array([-9.0, 0.0, 2.5, 300.0]), spec, g).codes.tolist()
      [-128, -128, -126, 127]
    """
    bits = checked_width(spec, "the input's codes")
    if spec.axis is not None:
        raise ValueError(f"an input's axis must be None: its codes share one scale, got {spec.axis!r}")
    # Counted from the zero point, as the simulation has them.
    codes = jnp.clip(encode(x.astype(jnp.float32), g), g.lowest, g.highest)
    if spec.symmetric:
        return Codes(codes.astype(jnp.int8), g.scale)
    zero_point = g.zero_point - jnp.float32(1 << (bits - 1))
    return Codes((codes + zero_point).astype(jnp.int8), g.scale, zero_point.astype(jnp.int32))


def values_of(x: Codes) -> jax.Array:
    """What the codes stand for, float32: (codes - zero_point) * scale.

    Example:
      >>> values_of(Codes(jnp.array([-1, 3], jnp.int8), jnp.float32(0.5), jnp.int32(-1))).tolist()
      [0.0, 2.0]
    """
    codes = x.codes.astype(jnp.int32)
    return (codes if x.zero_point is None else codes - x.zero_point).astype(jnp.float32) * x.scale


def checked_width(spec: Spec, what: str) -> int:
    """The bits of a Spec that integer execution can take.

    Raises:
      ValueError: says what it takes.

    Example:
      >>> checked_width(Spec(16), "the codes of 'Dense_0/kernel'")
      Traceback (most recent call last):
      ...
      ValueError: bits of the codes of 'Dense_0/kernel' must be 1 to 8 for integer execution, got 16
    """
    if spec.group is not None:
        raise ValueError(f"group of {what} must be None for integer execution (scales go by tensor or channel)")
    if isinstance(spec.bits, Tracer):
        raise ValueError(f"bits of {what} must not be traced for integer execution: the program depends on them")
    if spec.bits is None or not 1 <= int(spec.bits) <= NARROW:
        raise ValueError(f"bits of {what} must be 1 to {NARROW} for integer execution, got {spec.bits}")
    return int(spec.bits)
