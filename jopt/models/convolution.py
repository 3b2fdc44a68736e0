"""The channels-last convolution, and on CPU the form of each of its three sums that was measured to be fastest.

The output, the input's gradient and the kernel's gradient are the three contractions of one trilinear form,
`sum(output * convolution(input, kernel))`: each takes two of its operands and gives the third. They are one JAX
primitive, so the derivative of each is another of them, to any order and in forward and reverse mode.
"""

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jopt.patches import patches

Operand = Literal["input", "kernel", "output"]
Form = Literal["native", "columns", "taps"]

OPERANDS: dict[Operand, tuple[Operand, Operand]] = {
    "output": ("input", "kernel"),
    "input": ("output", "kernel"),
    "kernel": ("input", "output"),
}
"""What each contraction takes, in this order. [batch, *spatial, channels], the kernel [*window, in, out]."""


class Geometry(NamedTuple):
    """What a convolution does along its spatial axes.

    Attributes:
      sizes: of the input.
      window: sizes of the kernel.
      strides: steps between windows.
      padding: pairs (low, high); they may be negative.
      dilation: steps within a window.
      precision: of the products, as in `jax.lax`.
    """

    sizes: tuple[int, ...]
    window: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    precision: Any = None

    @property
    def extent(self) -> tuple[int, ...]:
        """How far a window's last tap is from its first."""
        return tuple((size - 1) * d for size, d in zip(self.window, self.dilation, strict=True))

    @property
    def positions(self) -> tuple[int, ...]:
        """Sizes of the output."""
        axes = zip(self.sizes, self.padding, self.extent, self.strides, strict=True)
        return tuple(max(0, (size + sum(pad) - extent - 1) // stride + 1) for size, pad, extent, stride in axes)


def convolution(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """The convolution on CPU; on other platforms it computes the same, but less fast than `jax.lax`'s.

    Args:
      x: [batch, *spatial, channels in].
      kernel: [*window, channels in, channels out], of the same dtype.
      geometry: of the spatial axes.

    Returns:
      [batch, *spatial, channels out].

    Example:
      >>> valid = Geometry((4,), (2,), (1,), ((0, 0),), (1,))
      >>> convolution(jnp.arange(4.0).reshape(1, 4, 1), jnp.ones((2, 1, 1)), valid).ravel().tolist()
      [1.0, 3.0, 5.0]
    """
    return _convolution_p.bind(x, kernel, result="output", geometry=geometry)


def choose(result: Operand, geometry: Geometry, channels: tuple[int, int], dtype: Any) -> Form:
    """The form of a contraction in a CPU program; a function of static shapes alone, the batch left out.

    Measured inside `lax.scan`, where training happens: `python -m benchmarks convolutions`, with jaxlib 0.10.2 on two
    cores. XLA brings a convolution into the layout of its fast kernels in a program's entry computation only, not in
    the body of a loop; the native forms below have that layout from the start.

    | result | window | channels in | form |
    | --- | --- | --- | --- |
    | output | at most 9 taps | 1 | taps: XLA fuses the products with one channel into one loop |
    | output, input | any | multiples of 16 | native |
    | kernel | more than 1 tap, stride 1 | multiples of 16, or 1 | native |
    | any | others; one or three spatial axes, dilation, another dtype than float32 | any | columns |

    Args:
      result: what is computed.
      geometry: of the spatial axes.
      channels: in and out.
      dtype: of the operands.

    Example:
      >>> same = Geometry((28, 28), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1))
      >>> [choose(result, same, (1, 16), jnp.float32) for result in OPERANDS]
      ['taps', 'columns', 'native']
      >>> [choose(result, same, (16, 32), jnp.float32) for result in OPERANDS]
      ['native', 'native', 'native']
    """
    taps, full_vectors = math.prod(geometry.window), channels[0] % 16 == 0
    if len(geometry.window) != 2 or dtype != jnp.float32 or any(d != 1 for d in geometry.dilation):
        return "columns"
    if result == "output" and channels[0] == 1 and taps <= 9:
        return "taps"
    if result == "kernel":
        dense = taps > 1 and all(stride == 1 for stride in geometry.strides)
        return "native" if dense and (full_vectors or channels[0] == 1) else "columns"
    return "native" if full_vectors else "columns"


def contract(a: jax.Array, b: jax.Array, *, result: Operand, geometry: Geometry, form: Form | None = None) -> jax.Array:
    """A contraction in a given form, in operations of `jax.lax`.

    Args:
      a, b: `OPERANDS[result]`.
      result: what is computed.
      geometry: of the spatial axes.
      form: 'native', 'columns' or 'taps' (of the output only); None is the choice of `choose`.
    """
    return FORMS[result][form or choose(result, geometry, _channels(result, a, b), a.dtype)](a, b, geometry)


def _native_output(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    return _native(x, kernel, geometry.strides, geometry.padding, geometry)


def _native_input(y: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """The convolution of the output with the kernel turned by 180 degrees, at distances of the stride."""
    spatial = len(geometry.window)
    turned = lax.rev(kernel, range(spatial)).swapaxes(-1, -2)
    padding = []
    for i, (low, _) in enumerate(geometry.padding):
        dilated = (geometry.positions[i] - 1) * geometry.strides[i] + 1
        padding.append((geometry.extent[i] - low, geometry.sizes[i] + low - dilated))
    ones = (1,) * spatial
    return _native(y, turned, ones, padding, geometry, lhs_dilation=geometry.strides, rhs_dilation=geometry.dilation)


def _native_kernel(x: jax.Array, y: jax.Array, geometry: Geometry) -> jax.Array:
    """The convolution of the input with the output as a large kernel: the batch is what is summed over."""
    padding = []
    for i, (low, _) in enumerate(geometry.padding):
        span = (geometry.positions[i] - 1) * geometry.strides[i] + 1
        padding.append((low, span + geometry.extent[i] - geometry.sizes[i] - low))
    spatial = range(1, x.ndim - 1)
    # Written as transposes, not as dimension numbers, which XLA would leave to its slow loops.
    planes, windows = x.transpose(x.ndim - 1, *spatial, 0), y.transpose(*spatial, 0, y.ndim - 1)
    result = _native(planes, windows, geometry.dilation, padding, geometry, rhs_dilation=geometry.strides)
    return result.transpose(*spatial, 0, x.ndim - 1)


def _native(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    geometry: Geometry,
    **dilations: Sequence[int],
) -> jax.Array:
    rank = x.ndim
    data = (0, rank - 1, *range(1, rank - 1))
    layout = lax.ConvDimensionNumbers(data, (rank - 1, rank - 2, *range(rank - 2)), data)
    dilations = {"rhs_dilation": geometry.dilation} | dilations
    return lax.conv_general_dilated(
        x, kernel, strides, padding, **dilations, dimension_numbers=layout, precision=geometry.precision
    )


def _columns_output(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """Shifted slices of the input joined along the channels, and one product (im2col)."""
    return _product(_columns(x, geometry), kernel.reshape(-1, kernel.shape[-1]), geometry)


def _columns_input(y: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """One product, and the sum of its parts, each where its tap lies in the input (col2im)."""
    columns = _product(y, kernel.reshape(-1, kernel.shape[-1]).T, geometry)
    channels, zero = kernel.shape[-2], jnp.zeros((), columns.dtype)
    parts = []
    for tap, offset in enumerate(itertools.product(*map(range, geometry.window))):
        edges = []
        for i, (low, _) in enumerate(geometry.padding):
            start, stride = offset[i] * geometry.dilation[i] - low, geometry.strides[i]
            edges.append((start, geometry.sizes[i] - start - (geometry.positions[i] - 1) * stride - 1, stride - 1))
        part = lax.slice_in_dim(columns, tap * channels, (tap + 1) * channels, axis=columns.ndim - 1)
        parts.append(lax.pad(part, zero, [(0, 0, 0), *edges, (0, 0, 0)]))
    return functools.reduce(lax.add, parts)


def _columns_kernel(x: jax.Array, y: jax.Array, geometry: Geometry) -> jax.Array:
    """The product of the output's columns with the input's."""
    columns, rows = _columns(x, geometry), tuple(range(x.ndim - 1))
    product = _product(columns, y, geometry, (rows, rows))
    return product.reshape(*geometry.window, x.shape[-1], y.shape[-1])


def _taps_output(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """The sum over the window of one product each."""
    x = _padded(x, geometry)
    total = None
    for offset in itertools.product(*map(range, geometry.window)):
        product = _product(_shifted(x, offset, geometry), kernel[offset], geometry)
        total = product if total is None else total + product
    assert total is not None
    return total


FORMS: Mapping[Operand, Mapping[Form, Callable[[jax.Array, jax.Array, Geometry], jax.Array]]] = {
    "output": {"native": _native_output, "columns": _columns_output, "taps": _taps_output},
    "input": {"native": _native_input, "columns": _columns_input},
    "kernel": {"native": _native_kernel, "columns": _columns_kernel},
}
"""The forms of each contraction, as functions of `OPERANDS` and the geometry."""


def _columns(x: jax.Array, geometry: Geometry) -> jax.Array:
    return patches(x, geometry.window, geometry.strides, geometry.padding, geometry.dilation)


def _padded(x: jax.Array, geometry: Geometry) -> jax.Array:
    edges = [(0, 0, 0), *((low, high, 0) for low, high in geometry.padding), (0, 0, 0)]
    return lax.pad(x, jnp.zeros((), x.dtype), edges)


def _shifted(x: jax.Array, offset: Sequence[int], geometry: Geometry) -> jax.Array:
    start = [o * d for o, d in zip(offset, geometry.dilation, strict=True)]
    axes = zip(start, geometry.positions, geometry.strides, strict=True)
    stop = [first + (count - 1) * stride + 1 for first, count, stride in axes]
    return lax.slice(x, (0, *start, 0), (x.shape[0], *stop, x.shape[-1]), (1, *geometry.strides, 1))


def _product(
    a: jax.Array, b: jax.Array, geometry: Geometry, contracted: tuple[tuple[int, ...], tuple[int, ...]] | None = None
) -> jax.Array:
    numbers = contracted or ((a.ndim - 1,), (0,)), ((), ())
    product = functools.partial(lax.dot_general, dimension_numbers=numbers, precision=geometry.precision)
    if not jnp.issubdtype(a.dtype, jnp.floating) or jnp.finfo(a.dtype).bits >= 32:
        return product(a, b)
    # Else XLA may add up in so few bits too: on CPU, of jaxlib 0.11, 2 % of a kernel's gradient were lost.
    return product(a, b, preferred_element_type=jnp.float32).astype(a.dtype)


def _channels(result: Operand, a: jax.Array, b: jax.Array) -> tuple[int, int]:
    """Channels in and out."""
    return (a.shape[-1], b.shape[-1]) if result == "kernel" else (b.shape[-2], b.shape[-1])


_convolution_p = Primitive("convolution")
_convolution_p.def_impl(jax.jit(contract, static_argnames=("result", "geometry", "form")))
mlir.register_lowering(_convolution_p, mlir.lower_fun(contract, multiple_results=False))


@_convolution_p.def_abstract_eval
def _shape(a: Any, b: Any, *, result: Operand, geometry: Geometry) -> Any:
    channels_in, channels_out = _channels(result, a, b)
    shape = {
        "input": (a.shape[0], *geometry.sizes, channels_in),
        "kernel": (*geometry.window, channels_in, channels_out),
        "output": (a.shape[0], *geometry.positions, channels_out),
    }[result]
    return jax.core.ShapedArray(shape, a.dtype)


def _transpose(operand: int, cotangent: jax.Array, *values: Any, result: Operand, geometry: Geometry) -> jax.Array:
    """The contraction that gives one operand, from the cotangent and the other operand."""
    known = {result: cotangent, OPERANDS[result][1 - operand]: values[1 - operand]}
    wanted = OPERANDS[result][operand]
    return _convolution_p.bind(*(known[name] for name in OPERANDS[wanted]), result=wanted, geometry=geometry)


ad.defbilinear(_convolution_p, *(functools.partial(_transpose, operand) for operand in (0, 1)))


def _batch(
    operands: Sequence[jax.Array], axes: Sequence[int | None], *, result: Operand, geometry: Geometry
) -> tuple[jax.Array, int]:
    (a, b), (axis, kernel_axis) = operands, axes
    # Many inputs of one kernel are one larger batch.
    if result != "kernel" and kernel_axis is None and axis is not None:
        a = jnp.moveaxis(a, axis, 0)
        y = _convolution_p.bind(a.reshape(-1, *a.shape[2:]), b, result=result, geometry=geometry)
        return y.reshape(*a.shape[:2], *y.shape[1:]), 0
    # Many kernels would be a grouped convolution, which is slow on CPU; products take an axis of trials.
    columns = functools.partial(contract, result=result, geometry=geometry, form="columns")
    return jax.vmap(columns, tuple(axes))(a, b), 0


batching.primitive_batchers[_convolution_p] = _batch
