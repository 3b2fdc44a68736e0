"""Arrays of integer codes: quantization to integers, and back."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jopt.quantize.checks import check_array, check_spec
from jopt.quantize.grid import Range, decode, encode, grid, spread_fields, stored_grid
from jopt.quantize.groups import from_groups, scale_shape, spread, to_groups
from jopt.quantize.ranges import dynamic
from jopt.quantize.spec import Spec, compiled


class QTensor(NamedTuple):
    """A quantized array; a code c stands for (c - zero_point) * scale.

    Attributes:
      codes: of the array's shape; int8 (asymmetric: uint8) to 8 bits; int16 (uint16) for 16, and where `bits` is
        an array.
      scale: float32, of the shape `jopt.quantize.groups.scale_shape` gives.
      zero_point: int32, of the same shape; 0 if symmetric.
      spec: the Spec.
      range: what the scale was computed from. The outermost codes stand for its ends exactly, which their product
        with the rounded scale can miss by one bit. None: they stand for the product.
    """

    codes: jax.Array
    scale: jax.Array
    zero_point: jax.Array
    spec: Spec
    range: Range | None = None


def fit_range(range: Range, shape: tuple[int, ...], spec: Spec) -> Range:
    """A range, of numbers or arrays, as float32 arrays of the scales' shape for an array of `shape`.

    Raises:
      ValueError: if it does not broadcast to that, or (unless traced) for a low end above the high one, or an end
        that is not finite.

    Example:
      >>> fit_range(Range(2.0, 1.0), (3,), Spec(8))
      Traceback (most recent call last):
      ...
      ValueError: range must have finite ends, low <= high, got low 2.0 and high 1.0
    """
    if not any(isinstance(v, Tracer) for v in range):
        # In NumPy: inside of a trace, JAX would trace the check of a constant too.
        low, high = (np.asarray(v, np.float32) for v in range)
        wrong = ~(np.isfinite(low) & np.isfinite(high) & (low <= high))
        if wrong.any():
            low, high = (np.broadcast_to(v, wrong.shape)[wrong][0] for v in (low, high))
            raise ValueError(f"range must have finite ends, low <= high, got low {low} and high {high}")
    fitting = scale_shape(shape, spec)

    def fit(v: Any) -> jax.Array:
        v = jnp.asarray(v, jnp.float32)
        try:
            return jnp.broadcast_to(v, fitting)
        except ValueError as error:
            raise ValueError(f"range must broadcast to the scales' shape {fitting}, got shape {v.shape}") from error

    return Range(*map(fit, range))


def quantize(x: jax.Array, spec: Spec, range: Range | None = None) -> QTensor:
    """Codes of `x`: clip(round(x / scale) + zero point), half to even.

    Args:
      x: floating array.
      spec: not the identity, and not of 32 bits: traced ones count as 16.
      range: the clipping range, which broadcasts to the scales' shape; None: the whole, `jopt.quantize.dynamic`.

    Returns:
      A `QTensor`.

    Raises:
      ValueError: for the identity Spec and (unless traced) 32 bits; an array that is not floating or (unless
        traced) not finite; axes, groups or a range that do not fit its shape.

    Jacob et al., 2018, "Quantization and training of neural networks for efficient integer-arithmetic-only
    inference", equation 1; symmetric codes as in Wu et al., 2020, "Integer quantization for deep learning
    inference", section 3.

    Example:
      >>> q = quantize(jnp.array([-1.0, 0.3, 0.5, 2.0]), Spec(3))
      >>> q.codes.tolist(), round(float(q.scale), 4)
      ([-2, 0, 1, 3], 0.6667)
      >>> q = quantize(jnp.array([-1.0, 0.0, 2.0]), Spec(8, symmetric=False))
      >>> q.codes.tolist(), int(q.zero_point)
      ([0, 85, 255], 85)
    """
    check_array(x, "x")
    check_spec(spec, jnp.shape(x), codes=True)
    fitted = None if range is None else fit_range(range, jnp.shape(x), spec)
    codes, scale, zero_point, used = _quantize(spec, x, fitted)
    return QTensor(codes, scale, zero_point, spec, used)


@compiled()
def _quantize(spec: Spec, x: jax.Array, range: Range | None):
    range = dynamic(x, spec) if range is None else range
    g = grid(spec, range)
    view, wide = to_groups(x.astype(jnp.float32), spec), spread_fields(g, spec)
    codes = jnp.clip(encode(view, wide), wide.lowest, wide.highest) + wide.zero_point
    codes = from_groups(codes, x.shape, spec).astype(jnp.int32).astype(code_dtype(spec))
    return codes, g.scale, g.zero_point.astype(jnp.int32), range


def dequantize(q: QTensor, dtype: Any = jnp.float32) -> jax.Array:
    """What the codes stand for: (codes - zero_point) * scale.

    Args:
      q: what `quantize` gave, or made of stored codes, scales and zero points (and no range).
      dtype: of the result.

    Returns:
      An array of the codes' shape; equal to `fake_quantize` of the array that was quantized.

    Raises:
      ValueError: for the identity Spec and (unless traced) 32 bits.

    Example:
      >>> dequantize(quantize(jnp.array([-1.0, 0.3, 0.5, 1.5]), Spec(3))).tolist()
      [-1.0, 0.5, 0.5, 1.5]
    """
    check_spec(q.spec, codes=True)
    return _dequantize(q.spec, q.codes, q.scale, q.zero_point, q.range).astype(dtype)


@compiled()
def _dequantize(spec: Spec, codes: jax.Array, scale: Any, zero_point: Any, range: Range | None) -> jax.Array:
    fitting = scale_shape(codes.shape, spec)
    zero_point = jnp.broadcast_to(jnp.asarray(zero_point, jnp.int32), fitting)
    if range is None:
        g = stored_grid(spec, jnp.broadcast_to(jnp.asarray(scale, jnp.float32), fitting), zero_point)
    else:
        g = grid(spec, range)
    view = to_groups(codes.astype(jnp.int32), spec) - spread(zero_point, spec)
    return from_groups(decode(view.astype(jnp.float32), spread_fields(g, spec)), codes.shape, spec)


def code_dtype(spec: Spec) -> Any:
    """The dtype of codes.

    Example:
      >>> code_dtype(Spec(4)), code_dtype(Spec(16, symmetric=False))
      (<class 'jax.numpy.int8'>, <class 'jax.numpy.uint16'>)
    """
    small = isinstance(spec.bits, int) and spec.bits <= 8
    if spec.symmetric:
        return jnp.int8 if small else jnp.int16
    return jnp.uint8 if small else jnp.uint16
