"""The three sums of a convolution, each written as XLA's convolution and as a matrix product.

Channels are last: input and output [batch, *spatial, channels], kernel [*window, channels in, channels out].

XLA's CPU compiler brings a convolution into the layout of its fast kernels in the entry computation only. In the
body of a scan another layout, as the gradients of `lax.conv_general_dilated` have, runs in loops, 20 times slower.
So the native forms transpose their operands themselves.
"""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jopt.patches import patches

Operand = Literal["input", "kernel", "output"]
Form = Literal["native", "columns"]

OPERANDS: Mapping[Operand, tuple[Operand, Operand]] = {
    "output": ("input", "kernel"),
    "input": ("output", "kernel"),
    "kernel": ("input", "output"),
}
"""Which two operands give the third, in the order of the functions' arguments."""


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
    precision: lax.PrecisionLike = None

    @property
    def extent(self) -> tuple[int, ...]:
        """How far a window's last tap is from its first."""
        return tuple((size - 1) * d for size, d in zip(self.window, self.dilation, strict=True))

    @property
    def positions(self) -> tuple[int, ...]:
        """Sizes of the output."""
        axes = zip(self.sizes, self.padding, self.extent, self.strides, strict=True)
        return tuple(max(0, (size + sum(pad) - extent - 1) // stride + 1) for size, pad, extent, stride in axes)


def _native_output(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    ones = (1,) * len(geometry.window)
    return _native(x, kernel, geometry.strides, geometry.padding, (ones, geometry.dilation), geometry)


def _native_input(y: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """The convolution of the output with the kernel turned by 180 degrees, at distances of the stride."""
    spatial = len(geometry.window)
    turned = lax.rev(kernel, range(spatial)).swapaxes(-1, -2)
    padding = []
    for i, (low, _) in enumerate(geometry.padding):
        dilated = (geometry.positions[i] - 1) * geometry.strides[i] + 1
        padding.append((geometry.extent[i] - low, geometry.sizes[i] + low - dilated))
    dilations = geometry.strides, geometry.dilation
    return _native(y, turned, (1,) * spatial, padding, dilations, geometry)


def _native_kernel(x: jax.Array, y: jax.Array, geometry: Geometry) -> jax.Array:
    """The convolution of the input with the output as a large kernel: the batch is what is summed over."""
    padding = []
    for i, (low, _) in enumerate(geometry.padding):
        span = (geometry.positions[i] - 1) * geometry.strides[i] + 1
        padding.append((low, span + geometry.extent[i] - geometry.sizes[i] - low))
    spatial = range(1, x.ndim - 1)
    # Written as transposes, not as dimension numbers, which XLA would leave to its slow loops.
    windows = y.transpose(*spatial, 0, y.ndim - 1)
    planes = _planes(x)
    dilations = (1,) * len(geometry.window), geometry.strides
    result = _native(planes, windows, geometry.dilation, padding, dilations, geometry)
    return result.transpose(*spatial, 0, x.ndim - 1)


def _planes(x: jax.Array) -> jax.Array:
    """[batch, *spatial, channels] as [channels, *spatial, batch].

    In two steps: one alone reads at distances of powers of two, which share few lines of a cache. And outside of
    the loops that compute `x`, whose operations XLA would repeat in that slow order. Its CPU compiler drops an
    `optimization_barrier` before it fuses, but it does not fuse into a conditional whose predicate is data. Both
    branches are the same.
    """
    rows = x.transpose(*range(1, x.ndim - 1), 0, x.ndim - 1)

    def channels_first(rows: jax.Array) -> jax.Array:
        return rows.transpose(rows.ndim - 1, *range(rows.ndim - 1))

    if not rows.size:
        return channels_first(rows)
    first = lax.slice(rows, (0,) * rows.ndim, (1,) * rows.ndim).reshape(())
    return lax.cond(first == first, channels_first, channels_first, rows)


def _native(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilations: tuple[Sequence[int], Sequence[int]],
    geometry: Geometry,
) -> jax.Array:
    rank = x.ndim
    data = (0, rank - 1, *range(1, rank - 1))
    layout = lax.ConvDimensionNumbers(data, (rank - 1, rank - 2, *range(rank - 2)), data)
    return lax.conv_general_dilated(x, kernel, strides, padding, *dilations, layout, precision=geometry.precision)


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


def _columns(x: jax.Array, geometry: Geometry) -> jax.Array:
    return patches(x, geometry.window, geometry.strides, geometry.padding, geometry.dilation)


def _product(
    a: jax.Array,
    b: jax.Array,
    geometry: Geometry,
    contracted: tuple[tuple[int, ...], tuple[int, ...]] | None = None,
) -> jax.Array:
    numbers = contracted or ((a.ndim - 1,), (0,)), ((), ())
    product = functools.partial(lax.dot_general, dimension_numbers=numbers, precision=geometry.precision)
    if not jnp.issubdtype(a.dtype, jnp.floating) or jnp.finfo(a.dtype).bits >= 32:
        return product(a, b)
    # Else XLA may add up in so few bits too: on CPU, of jaxlib 0.11, 2 % of a kernel's gradient were lost.
    return product(a, b, preferred_element_type=jnp.float32).astype(a.dtype)


FORMS: Mapping[Operand, Mapping[Form, Callable[[jax.Array, jax.Array, Geometry], jax.Array]]] = {
    "output": {"native": _native_output, "columns": _columns_output},
    "input": {"native": _native_input, "columns": _columns_input},
    "kernel": {"native": _native_kernel, "columns": _columns_kernel},
}
"""For each result and form a function of `OPERANDS[result]` and the geometry."""
