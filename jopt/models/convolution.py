"""The convolution of the models: XLA's own, and on CPU the form of each of its sums that was measured as fastest.

Output, input's gradient and kernel's gradient are contractions of `sum(output * convolution(input, kernel))`: each
takes two of the operands and gives the third. They are one JAX primitive, so that the derivative of each is another
of them, in forward and reverse mode and to any order, and each has its own form.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.typing import DTypeLike

from jopt.levels import CPU_ONLY
from jopt.models.convolution_forms import FORMS, OPERANDS, Form, Geometry, Operand


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: tuple[str, str, str] | lax.ConvDimensionNumbers | None = None,
    feature_group_count: int = 1,
    precision: lax.PrecisionLike = None,
) -> jax.Array:
    """`jax.lax.conv_general_dilated`, lowered for the platform that the program will run on.

    On CPU the output and both gradients have the forms that `choose` says. Elsewhere, and for transposed or grouped
    convolutions or a layout other than channels last, it is the native one. Which of the two is chosen by
    `lax.platform_dependent`, at lowering: no backend starts while tracing.

    Args:
      lhs: input, [batch, *spatial, channels in], with one or more spatial axes.
      rhs: kernel, [*window, channels in / groups, channels out], of the dtype of `lhs`.
      window_strides: one number a spatial axis.
      padding: 'SAME', 'VALID', 'SAME_LOWER' or pairs (low, high), which may be negative.
      lhs_dilation: of the input (transposed convolution), None is 1.
      rhs_dilation: of the kernel, None is 1.
      dimension_numbers: as in `jax.lax`.
      feature_group_count: number of groups.
      precision: of the product, as in `jax.lax`.

    Returns:
      [batch, *spatial, channels out]: the same sums of products as `jax.lax`'s, in another order.

    Example:
      >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
      >>> kernel = jnp.ones((3, 3, 1, 1))
      >>> layout = ("NHWC", "HWIO", "NHWC")
      >>> conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=layout)[0, :, :, 0].tolist()
      [[45.0, 54.0], [81.0, 90.0]]
    """
    spatial = lhs.ndim - 2
    native = functools.partial(
        lax.conv_general_dilated,
        window_strides=window_strides,
        padding=padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        precision=precision,
    )
    transposed = any(d != 1 for d in lhs_dilation or ())
    layout = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    if feature_group_count != 1 or transposed or layout != _channels_last(spatial):
        return native(lhs, rhs)
    dilation = tuple(rhs_dilation or (1,) * spatial)
    # As pairs, since `lax.pad` below takes nothing else.
    if isinstance(padding, str):
        extent = [(size - 1) * d + 1 for size, d in zip(rhs.shape, dilation, strict=False)]
        padding = lax.padtype_to_pads(lhs.shape[1:-1], extent, window_strides, padding)
    geometry = Geometry(
        lhs.shape[1:-1],
        rhs.shape[:-2],
        tuple(window_strides),
        tuple((low, high) for low, high in padding),
        dilation,
        precision,
    )

    @jax.named_scope(CPU_ONLY)
    def contraction(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return _contraction.bind(*_equally_varying(x, kernel), result="output", geometry=geometry)

    return lax.platform_dependent(lhs, rhs, cpu=contraction, default=native)


# A partial and not a subclass, so that Linen names the modules `Conv_0` as it does its own.
Conv = functools.partial(nn.Conv, conv_general_dilated=conv_general_dilated)
"""`flax.linen.Conv` (same parameters, same padding) with `conv_general_dilated` of this file."""


def choose(result: Operand, geometry: Geometry, channels: tuple[int, int], dtype: DTypeLike) -> Form:
    """The form of a contraction in a CPU program; a function of static shapes alone, the batch left out.

    | result | convolution | form |
    | --- | --- | --- |
    | output, input | two spatial axes, more pixels a side than the window, a multiple of 16 channels in | native |
    | kernel | the same, or a multiple of 16 channels out; stride 1, several taps, few channels in | native |
    | any | all others; dilation; other dtypes than float32 | columns |

    Measured inside of `lax.scan`, where training happens, with jaxlib 0.10.2 on two cores: `python -m benchmarks
    convolutions`. Fewer channels do not fill the vectors of XLA's convolution, and the output's columns serve the
    kernel's gradient too; with stride 2, one tap, or more than four channels in for each position the columns are
    small. On images smaller than the window XLA's convolution is up to 76 times slower.

    Args:
      result: what is computed.
      geometry: of the spatial axes.
      channels: in and out.
      dtype: of the operands.

    Example:
      >>> same = Geometry((28, 28), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1))
      >>> choose("output", same, (16, 32), jnp.float32), choose("output", same, (1, 16), jnp.float32)
      ('native', 'columns')
    """
    planar = len(geometry.window) == 2 and all(d == 1 for d in geometry.dilation)
    sides = geometry.positions if result == "input" else geometry.sizes
    wide = all(side > size for side, size in zip(sides, geometry.window, strict=True))
    if not (planar and wide) or dtype != jnp.float32:
        return "columns"
    if result != "kernel":
        return "native" if channels[0] % 16 == 0 else "columns"
    few_columns = math.prod(geometry.window) == 1 or any(stride != 1 for stride in geometry.strides)
    few_columns |= channels[0] > 4 * math.prod(geometry.positions)
    return "native" if not few_columns and 0 in (channels[0] % 16, channels[1] % 16) else "columns"


def contract(
    a: jax.Array, b: jax.Array, *, result: Operand, geometry: Geometry, form: Form | None = None
) -> jax.Array:
    """A contraction in a given form, in operations of `jax.lax`.

    Args:
      a: the first of `OPERANDS[result]`.
      b: the second.
      result: what is computed.
      geometry: of the spatial axes.
      form: 'native' or 'columns'; None is the choice of `choose`.
    """
    return FORMS[result][form or choose(result, geometry, _channels(result, a, b), a.dtype)](a, b, geometry)


def _channels_last(spatial: int) -> lax.ConvDimensionNumbers:
    """[batch, *spatial, channels], [*window, in, out]."""
    data = (0, spatial + 1, *range(1, spatial + 1))
    return lax.ConvDimensionNumbers(data, (spatial + 1, spatial, *range(spatial)), data)


def _equally_varying(*operands: jax.Array) -> list[jax.Array]:
    """In `jax.shard_map` that checks them, the axes that one operand varies over are the others' too."""
    # JAX 0.10.2 has the axes in a field of a field; before it was `vma`.
    types = [jax.typeof(operand) for operand in operands]
    over = [getattr(getattr(type_, "mat", None), "varying", getattr(type_, "vma", frozenset())) for type_ in types]
    missing = [tuple(frozenset().union(*over) - axes) for axes in over]
    pairs = zip(operands, missing, strict=True)
    return [lax.pcast(operand, axes, to="varying") if axes else operand for operand, axes in pairs]


def _channels(result: Operand, a: jax.Array, b: jax.Array) -> tuple[int, int]:
    """Channels in and out."""
    return (a.shape[-1], b.shape[-1]) if result == "kernel" else (b.shape[-2], b.shape[-1])


_contraction = Primitive("convolution")
_contraction.def_impl(jax.jit(contract, static_argnames=("result", "geometry", "form")))
_lower = mlir.lower_fun(contract, multiple_results=False)


def _lower_for_cpus(ctx: Any, *args: Any, **params: Any) -> Any:
    # A form for CPUs that got into a program of a GPU would be a slow program without an error.
    platforms = tuple(ctx.module_context.platforms)
    if "cpu" not in platforms:
        raise NotImplementedError(f"the convolution for CPUs stands in a program for {', '.join(platforms)}")
    return _lower(ctx, *args, **params)


mlir.register_lowering(_contraction, _lower_for_cpus)


@_contraction.def_abstract_eval
def _shape(a: Any, b: Any, *, result: Operand, geometry: Geometry) -> Any:
    channels_in, channels_out = _channels(result, a, b)
    shape = {
        "input": (a.shape[0], *geometry.sizes, channels_in),
        "kernel": (*geometry.window, channels_in, channels_out),
        "output": (a.shape[0], *geometry.positions, channels_out),
    }[result]
    return a.update(shape=shape, weak_type=False)


def _transpose(operand: int, cotangent: jax.Array, *values: Any, result: Operand, geometry: Geometry) -> jax.Array:
    """The contraction that gives one operand, from the cotangent and the other operand."""
    known = {result: cotangent, OPERANDS[result][1 - operand]: values[1 - operand]}
    wanted = OPERANDS[result][operand]
    return _contraction.bind(*(known[name] for name in OPERANDS[wanted]), result=wanted, geometry=geometry)


ad.defbilinear(_contraction, *(functools.partial(_transpose, operand) for operand in (0, 1)))


def _batch(
    operands: Sequence[jax.Array], axes: Sequence[int | None], *, result: Operand, geometry: Geometry
) -> tuple[jax.Array, int]:
    (a, b), (axis, kernel_axis) = operands, axes
    # Many inputs of one kernel are one larger batch.
    if result != "kernel" and kernel_axis is None and axis is not None:
        a = jnp.moveaxis(a, axis, 0)
        y = _contraction.bind(a.reshape(-1, *a.shape[2:]), b, result=result, geometry=geometry)
        return y.reshape(*a.shape[:2], *y.shape[1:]), 0
    # Many kernels would be a grouped convolution, which is slow on CPU; products take an axis of trials.
    columns = functools.partial(contract, result=result, geometry=geometry, form="columns")
    return jax.vmap(columns, tuple(axes))(a, b), 0


batching.primitive_batchers[_contraction] = _batch
