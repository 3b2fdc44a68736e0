"""Arrays on a grid: fake quantization with straight-through gradients, integer codes, and the way back."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jopt.quantize.arithmetic import computed_once
from jopt.quantize.extremes import automatic_ranges, dynamic, dynamic_ranges
from jopt.quantize.grid import (
    Grid,
    Range,
    Rounding,
    decode,
    encode,
    fit_range,
    grid,
    rounding_function,
    spread_fields,
    stored_grid,
)
from jopt.quantize.spec import (
    UNTOUCHED,
    Spec,
    check_array,
    check_spec,
    compiled,
    from_groups,
    merge,
    scale_shape,
    split,
    spread,
    to_groups,
)
from jopt.rules import named_leaves
from jopt.transform import Params, ParamTransform, State, Storage

ChooseAll = Callable[[Sequence[jax.Array], Sequence[Spec]], list[Range]]
"""The ranges of several arrays, each with its Spec."""


def fake_quantize(
    x: jax.Array, spec: Spec, range: Range | None = None, *, rounding: str | Rounding = "nearest"
) -> jax.Array:
    """`dequantize(quantize(x, spec, range))` in one pass and in the dtype of `x`, differentiable.

    The gradient is straight-through, whatever the rounding: 1 inside the clipping range, bounds included, and 0
    outside. Without a range everything lies inside. The range and `spec.bits` get no gradient.

    Args:
      x: floating array.
      spec: the Spec; of the identity and of 32 bits the result is `x` itself. Where `spec.bits` is an array, 32
        gives every bit of `x` and a gradient of 1, in and beyond the range.
      range: the clipping range, which broadcasts to the scales' shape; None: all values, `jopt.quantize.dynamic`.
      rounding: of `x / scale`: 'nearest' (ties to even), 'floor', a function or a reference to one. Programs are
        cached by the function, so a lambda made at each call compiles at each call.

    Returns:
      An array of the shape and dtype of `x`; 0 stays 0.

    Raises:
      ValueError: for an array that is not floating or (unless traced) not finite; axes, groups or a range that do
        not fit its shape.

    Bengio, Leonard and Courville, 2013, "Estimating or propagating gradients through stochastic neurons"; Jacob et
    al., 2018, section 3.

    Example:
      >>> x = jnp.array([-1.5, 0.3, 0.5, 1.0])
      >>> fake_quantize(x, Spec(3)).tolist(), fake_quantize(x, Spec(3), rounding="floor").tolist()
      ([-1.5, 0.5, 0.5, 1.0], [-1.5, 0.0, 0.5, 1.0])
      >>> clip = Range(-1.0, 1.0)
      >>> jax.grad(lambda x: fake_quantize(x, Spec(3), clip).sum())(x).tolist()
      [0.0, 1.0, 1.0, 1.0]
    """
    if spec.bits is None:
        return x
    to_integer = rounding_function(rounding)
    if not is_quantized(x, spec):
        return x
    if range is None:
        return _unclipped([x], [spec], dynamic_ranges, to_integer)[0]
    return _clipped(spec, x, fit_range(range, jnp.shape(x), spec), rounding=to_integer)


def fake_quantize_all(
    arrays: Sequence[jax.Array], specs: Sequence[Spec], *, auto: bool, rounding: str | Rounding = "nearest"
) -> list[jax.Array]:
    """`fake_quantize` of several arrays in the ranges of all their values, with a gradient of 1 everywhere.

    What depends on the widths alone is decided once for all arrays, which keeps the program small.

    Args:
      arrays: floating arrays.
      specs: a Spec for each.
      auto: whether ranges are those of `jopt.quantize.auto`. Nothing is clipped by these either: the largest
        magnitude is half a step from its value on the grid, as any value may be.
      rounding: as for `fake_quantize`.

    Returns:
      The values, in order.

    Raises:
      ValueError: as `fake_quantize`, without the name of the array: check arrays that have names before.

    Example:
      >>> x = jnp.array([-1.5, 0.3, 0.6, 1.0])
      >>> fake_quantize_all([x], [Spec(2)], auto=True)[0].tolist(), fake_quantize(x, Spec(2)).tolist()
      ([-1.0, 0.0, 1.0, 1.0], [-1.5, 0.0, 0.0, 1.5])
    """
    changed = [i for i, spec in enumerate(specs) if is_quantized(arrays[i], spec)]
    choose = automatic_ranges if auto else dynamic_ranges
    quantized = _unclipped(
        [arrays[i] for i in changed], [specs[i] for i in changed], choose, rounding_function(rounding)
    )
    results = dict(zip(changed, quantized, strict=True))
    return [results.get(i, x) for i, x in enumerate(arrays)]


def is_quantized(x: jax.Array, spec: Spec) -> bool:
    """Whether `fake_quantize` changes an array, as far as is known; checks the array where it is not the identity.

    Raises:
      ValueError: for an array that is not floating or (unless traced) not finite; axes or groups that do not fit.

    Example:
      >>> is_quantized(jnp.ones(2), Spec(8)), is_quantized(jnp.ones(2), Spec(32))
      (True, False)
    """
    if spec.bits is None:
        return False
    check_array(x, "x")
    check_spec(spec, jnp.shape(x))
    return not spec.is_identity


def values(spec: Spec, x: jax.Array, range: Range, rounding: Rounding = jnp.round) -> jax.Array:
    """What `fake_quantize` gives, without a gradient rule; the range must have the scales' shape."""
    g = spread_fields(grid(spec, range), spec)
    if not spec.symmetric:
        # The zero point makes the grid costly, and XLA would compute it again for each element it is broadcast to.
        g = Grid(*map(computed_once, g))
    y = decode(encode(to_groups(x.astype(jnp.float32), spec), g, rounding), g)
    return unless_untouched(spec, x, from_groups(y, x.shape, spec).astype(x.dtype))


def unless_untouched(spec: Spec, x: jax.Array | bool, y: jax.Array) -> jax.Array:
    """`y`, or `x` where the bits are 32; where `bits` is not an array, and so not 32 here, no operation.

    Example:
      >>> float(unless_untouched(Spec(jnp.array(32)), jnp.float32(0.25), jnp.float32(0.5)))
      0.25
    """
    return y if isinstance(spec.bits, int) else jnp.where(jnp.asarray(spec.bits) == UNTOUCHED, x, y)


def _unclipped(
    arrays: Sequence[jax.Array], specs: Sequence[Spec], choose: ChooseAll, rounding: Rounding
) -> list[jax.Array]:
    # A custom gradient needs hashable static arguments, and traced bits are not.
    statics, bits = zip(*map(split, specs), strict=True) if specs else ((), ())
    return _unclipped_program(list(arrays), bits, statics=statics, choose=choose, rounding=rounding)


@functools.partial(jax.jit, static_argnames=("statics", "choose", "rounding"))
def _unclipped_program(
    arrays: list[jax.Array],
    bits: tuple[object, ...],
    *,
    statics: tuple[Spec, ...],
    choose: ChooseAll,
    rounding: Rounding,
) -> list[jax.Array]:
    return _straight_through(choose, rounding, statics, bits, arrays)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _straight_through(
    choose: ChooseAll,
    rounding: Rounding,
    statics: tuple[Spec, ...],
    bits: tuple[object, ...],
    arrays: list[jax.Array],
) -> list[jax.Array]:
    specs = list(map(merge, statics, bits))
    ranges = choose(arrays, specs)
    return [values(s, x, range, rounding) for s, x, range in zip(specs, arrays, ranges, strict=True)]


# Nothing is clipped, so the backward pass needs no residuals.
_straight_through.defvjp(
    lambda choose, rounding, statics, bits, arrays: (
        _straight_through(choose, rounding, statics, bits, arrays),
        None,
    ),
    lambda choose, rounding, statics, residuals, gradients: (None, gradients),
)


@compiled("rounding")
def _clipped(spec: Spec, x: jax.Array, range: Range, *, rounding: Rounding) -> jax.Array:
    return _in_range(rounding, *split(spec), x, range)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _in_range(rounding: Rounding, static: Spec, bits: object, x: jax.Array, range: Range) -> jax.Array:
    return values(merge(static, bits), x, range, rounding)


def _in_range_forward(
    rounding: Rounding, static: Spec, bits: object, x: jax.Array, range: Range
) -> tuple[Any, ...]:
    return _in_range(rounding, static, bits, x, range), (bits, x, range)


def _in_range_backward(rounding: Rounding, static: Spec, residuals: Any, gradient: jax.Array) -> tuple[Any, ...]:
    del rounding
    bits, x, range = residuals
    spec = merge(static, bits)
    inside = unless_untouched(spec, True, is_inside(x, spec, range))
    return None, jnp.where(inside, gradient, jnp.zeros_like(gradient)), None


_in_range.defvjp(_in_range_forward, _in_range_backward)


def is_inside(x: jax.Array, spec: Spec, range: Range) -> jax.Array:
    """Where `x` lies in the clipping range, bounds included.

    Args:
      x: floating array.
      spec: not the identity.
      range: of the scales' shape. Symmetric: the larger magnitude counts for both sides.

    Returns:
      bool, of the shape of `x`.

    Example:
      >>> is_inside(jnp.array([-2.0, -1.0, 1.5]), Spec(8), Range(jnp.float32(-1.0), jnp.float32(0.5))).tolist()
      [False, True, False]
    """
    # The range's ends, not the grid's: for codes that are asymmetric or not narrow these lie up to half a step off.
    if spec.symmetric:
        peak = jnp.maximum(-range.low, range.high)
        ends = Range(-peak, peak)
    else:
        ends = Range(jnp.minimum(range.low, 0), jnp.maximum(range.high, 0))
    low, high = spread_fields(ends, spec)
    # In float32 whatever the dtype: bfloat16 has not enough digits to tell codes of 8 bits and more.
    view = to_groups(x.astype(jnp.float32), spec)
    return from_groups((view >= low) & (view <= high), x.shape, spec)


class QTensor(NamedTuple):
    """A quantized array; a code c stands for (c - zero_point) * scale.

    Attributes:
      codes: of the array's shape; int8 (asymmetric: uint8) to 8 bits; int16 (uint16) for 16, and where `bits` is
        an array.
      scale: float32, of the shape `jopt.quantize.scale_shape` gives.
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


def quantize(
    x: jax.Array, spec: Spec, range: Range | None = None, *, rounding: str | Rounding = "nearest"
) -> QTensor:
    """Codes of `x`: clip(round(x / scale) + zero point), half to even.

    Args:
      x: floating array.
      spec: not the identity, and not of 32 bits: traced ones count as 16.
      range: the clipping range, which broadcasts to the scales' shape; None: all values, `jopt.quantize.dynamic`.
      rounding: as for `fake_quantize`.

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
    codes, scale, zero_point, used = _quantize(spec, x, fitted, rounding=rounding_function(rounding))
    return QTensor(codes, scale, zero_point, spec, used)


@compiled("rounding")
def _quantize(
    spec: Spec, x: jax.Array, range: Range | None, *, rounding: Rounding
) -> tuple[jax.Array, jax.Array, jax.Array, Range]:
    range = dynamic(x, spec) if range is None else range
    g = grid(spec, range)
    view, wide = to_groups(x.astype(jnp.float32), spec), spread_fields(g, spec)
    # Clipped before the zero point is added, where codes are still exact as floats.
    codes = jnp.clip(encode(view, wide, rounding), wide.lowest, wide.highest) + wide.zero_point
    codes = from_groups(codes, x.shape, spec).astype(jnp.int32).astype(code_dtype(spec))
    return codes, g.scale, g.zero_point.astype(jnp.int32), range


def dequantize(q: QTensor, dtype: object = jnp.float32) -> jax.Array:
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
def _dequantize(
    spec: Spec, codes: jax.Array, scale: jax.Array, zero_point: jax.Array, range: Range | None
) -> jax.Array:
    shape = scale_shape(codes.shape, spec)
    zero_point = jnp.broadcast_to(jnp.asarray(zero_point, jnp.int32), shape)
    if range is None:
        # Without the range it is not known what the ends were, so the outermost codes stand for products too.
        g = stored_grid(spec, jnp.broadcast_to(jnp.asarray(scale, jnp.float32), shape), zero_point)
    else:
        g = grid(spec, range)
    # Subtracted as integers: unsigned codes would wrap around.
    view = to_groups(codes.astype(jnp.int32), spec) - spread(zero_point, spec)
    return from_groups(decode(view.astype(jnp.float32), spread_fields(g, spec)), codes.shape, spec)


def code_dtype(spec: Spec) -> Any:
    """The dtype of codes.

    Example:
      >>> code_dtype(Spec(4)), code_dtype(Spec(16, symmetric=False))
      (<class 'jax.numpy.int8'>, <class 'jax.numpy.uint16'>)
    """
    # Traced bits may be 16 in any trial, so their codes get the wide type.
    small = isinstance(spec.bits, int) and spec.bits <= 8
    if spec.symmetric:
        return jnp.int8 if small else jnp.int16
    return jnp.uint8 if small else jnp.uint16


def integers(transform: ParamTransform, state: State, params: Params, learned: object = None) -> dict[str, QTensor]:
    """The integers behind what the model sees, by the Spec and in the range that the simulation uses.

    Args:
      transform: what the loop trained with, such as a chain of a pruner and `jopt.quantize.weights`.
      state: its state.
      params: what the optimizer moves, of concrete arrays.
      learned: the transform's trainable parameters, where it has some.

    Returns:
      Path to `QTensor`, for each parameter whose values in what the model sees are, to the last bit, what integers
      stand for. Others, such as those that a later transform moved off their grid, are absent.

    Example:
      >>> from jopt.quantize import Spec, weights
      >>> params = {"bias": jnp.array([0.1]), "kernel": jnp.array([[0.3], [-1.5]])}
      >>> t = weights(Spec(2))
      >>> q = integers(t, t.init(params), params)
      >>> {path: (tensor.codes.tolist(), float(tensor.scale)) for path, tensor in q.items()}
      {'kernel': ([[0], [-1]], 1.0)}
    """
    extra = () if transform.learn is None else (learned,)
    storage = {} if transform.storage is None else transform.storage(state, params, *extra)
    return of_values(storage, transform.apply(state, params, *extra))


def of_values(storage: Mapping[str, Storage], seen: Params) -> dict[str, QTensor]:
    """The integers of quantized values; absent where the values are not, to the last bit, what integers stand for.

    Args:
      storage: what a transform's `storage` gave.
      seen: what its `apply` gave, of concrete arrays.

    Example:
      >>> from jopt.quantize import Range, Spec
      >>> storage = {"w": Storage(Spec(2), Range(np.float32(-1), np.float32(1)))}
      >>> list(of_values(storage, {"w": np.float32([1, 0])})), list(of_values(storage, {"w": np.float32([0.9, 0])}))
      (['w'], [])
    """
    leaves = dict(named_leaves(seen))
    # Values on the grid have their code as the nearest integer, by whatever rounding they came there.
    tensors = {path: quantize(leaves[path], spec, range) for path, (spec, range) in storage.items()}

    def is_exact(path: str) -> bool:
        array = leaves[path]
        return np.array_equal(np.asarray(dequantize(tensors[path], array.dtype)), np.asarray(array))

    return {path: tensor for path, tensor in tensors.items() if is_exact(path)}
