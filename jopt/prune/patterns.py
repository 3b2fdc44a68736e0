"""Patterns: which entries of a tensor are kept or pruned together.

A pattern views a tensor as a grid of groups, adds the scores of a group up (`pool`), and gives every entry what was
decided for its group (`expand`). Patterns are structure: hashable, compared by value, never traced.

An axis is a number, or 'outputs' or 'inputs': those of the layer that the tensor is a kernel of, which `resolve`
puts in. A pattern with a name for an axis has no grid before.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jopt.layers import Parameter

Shape = tuple[int, ...]
Axes = int | tuple[int, ...] | str
SIDES = ("outputs", "inputs")
"""The names of axes that depend on the layer."""


@dataclasses.dataclass(frozen=True)
class Unstructured:
    """Every entry is a group of its own.

    Example:
      >>> Unstructured().grid((2, 3))
      (2, 3)
    """

    def grid(self, shape: Shape) -> Shape:
        """The shape of the grid of groups of a tensor of shape `shape`."""
        return shape

    def pool(self, scores: jax.Array) -> jax.Array:
        """The scores themselves."""
        return scores

    def expand(self, mask: jax.Array, shape: Shape) -> jax.Array:
        """The mask itself."""
        del shape
        return mask


@dataclasses.dataclass(frozen=True)
class Block:
    """Blocks of the last `len(shape)` axes: those of a dense [in, out] kernel, [in, out] of a convolution's.

    The axes before them are left apart: a convolution kernel [h, w, in, out] has h w in out / (b0 b1) blocks. A
    block of two sides in a layer with several axes of inputs or outputs, such as an attention's projections, is one
    of the matrix [inputs, outputs] that these make: `resolve` says so by `axes`.

    Args:
      shape: the sides of a block, each at least 1.
      axes: for each side the axes that it runs along, joined in row-major order; None: the last axes, one each.

    Raises:
      ValueError: if it is empty or has a side below 1. `grid`, `pool` and `expand` raise it for a tensor whose
        axes the block does not divide, or which has too few.

    Example:
      >>> Block((2, 2)).grid((3, 3, 4, 8))
      (3, 3, 2, 4)
      >>> Block((1, 2)).pool(jnp.arange(8.0).reshape(2, 4)).tolist()
      [[1.0, 5.0], [9.0, 13.0]]
      >>> Block((2, 4), axes=((0,), (1, 2))).grid((8, 2, 6))
      (4, 3)
    """

    shape: Shape
    axes: tuple[tuple[int, ...], ...] | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        sides = tuple(self.shape) if isinstance(self.shape, Sequence) else (self.shape,)
        if not sides or not all(_is_count(side) for side in sides):
            raise ValueError(f"Block's shape must be one or more integers of at least 1, got {self.shape!r}")
        object.__setattr__(self, "shape", sides)

    def grid(self, shape: Shape) -> Shape:
        """The shape of the grid of blocks: the axes left apart, then the joined axes divided by the block's."""
        _, joined = self._joined(shape)
        rest = len(joined) - len(self.shape)
        for axis, side in enumerate(self.shape, start=rest):
            if joined[axis] % side:
                where = f"shape {shape}" if self.axes is None else f"shape {shape}, seen as {joined}"
                raise ValueError(f"{self} must divide axis {axis} of {where}, whose size is {joined[axis]}")
        return (*joined[:rest], *(size // side for size, side in zip(joined[rest:], self.shape, strict=True)))

    def pool(self, scores: jax.Array) -> jax.Array:
        """Scores added up in each block."""
        grid = self.grid(scores.shape)
        order, _ = self._joined(scores.shape)
        rest = len(grid) - len(self.shape)
        split = [n for pair in zip(grid[rest:], self.shape, strict=True) for n in pair]
        axes = tuple(range(rest + 1, rest + len(split), 2))
        wide = scores.astype(jnp.float32)
        wide = wide if order is None else wide.transpose(order)
        return jnp.sum(wide.reshape(*grid[:rest], *split), axis=axes)

    def expand(self, mask: jax.Array, shape: Shape) -> jax.Array:
        """Each block's value in all of its entries."""
        grid = self.grid(shape)
        order, _ = self._joined(shape)
        rest = len(grid) - len(self.shape)
        split = [n for pair in zip(grid[rest:], self.shape, strict=True) for n in pair]
        ones = [n for size in grid[rest:] for n in (size, 1)]
        whole = jnp.broadcast_to(mask.reshape(*grid[:rest], *ones), (*grid[:rest], *split))
        if order is None:
            return whole.reshape(shape)
        back = [order.index(axis) for axis in range(len(shape))]
        return whole.reshape([shape[axis] for axis in order]).transpose(back)

    def _joined(self, shape: Shape) -> tuple[list[int] | None, Shape]:
        """The order of axes in which those of a side follow one another (None: as they are), and the shape then."""
        if self.axes is None:
            if len(shape) < len(self.shape):
                raise ValueError(f"{self} needs a tensor of at least {len(self.shape)} axes, got shape {shape}")
            return None, shape
        joined = [axis for side in self.axes for axis in side]
        rest = [axis for axis in range(len(shape)) if axis not in joined]
        sides = (math.prod(shape[axis] for axis in side) for side in self.axes)
        return [*rest, *joined], (*(shape[axis] for axis in rest), *sides)


@dataclasses.dataclass(frozen=True)
class Channel:
    """All entries with one index along an axis: an output channel of a convolution, a neuron of a dense layer.

    Args:
      axis: the axis, or several, whose every combination is a channel: an output unit of an attention's query [in,
        heads, dim] is one of heads x dim. Or 'outputs' or 'inputs', which `resolve` replaces by the layer's.

    Raises:
      ValueError: by `grid`, `pool` and `expand`, for a tensor without that axis.

    Example:
      >>> Channel().pool(jnp.array([[1.0, 2.0], [3.0, 4.0]])).tolist()
      [4.0, 6.0]
      >>> Channel((1, 2)).grid((8, 2, 4))
      (2, 4)
    """

    axis: Axes = -1

    def __post_init__(self) -> None:
        _check_axes(self)

    def grid(self, shape: Shape) -> Shape:
        """The sizes of the axes: a channel for each index along them."""
        return tuple(shape[axis] for axis in along(self, shape))

    def pool(self, scores: jax.Array) -> jax.Array:
        """Scores added up in each channel."""
        kept = along(self, scores.shape)
        return jnp.sum(scores.astype(jnp.float32), axis=tuple(a for a in range(scores.ndim) if a not in kept))

    def expand(self, mask: jax.Array, shape: Shape) -> jax.Array:
        """Each channel's value in all of its entries."""
        return jax.lax.broadcast_in_dim(mask, shape, along(self, shape))


@dataclasses.dataclass(frozen=True)
class NM:
    """`n` of every `m` consecutive entries along an axis are kept: a sparsity of 1 - n/m, fixed.

    The sparse tensor cores of NVIDIA's GPUs take 2 of 4 along the axis that a product sums over, `axis='inputs'`:
    that is -2 of a kernel [in, out] (Mishra et al., 2021, Accelerating sparse deep neural networks).

    Args:
      n: how many are kept, at least 1.
      m: of how many, at least n.
      axis: along which axis, or several, joined in row-major order; their size must be a multiple of m. Or
        'outputs' or 'inputs', which `resolve` replaces by the layer's (a convolution's input channels, without its
        window).

    Raises:
      ValueError: if not 1 <= n <= m. `grid` raises it for a tensor whose axis m does not divide.

    Example:
      >>> NM(2, 4).grid((8, 16)), NM(2, 4).sparsity
      ((8, 4), 0.5)
    """

    n: int
    m: int
    axis: Axes = -1

    def __post_init__(self) -> None:
        if not (_is_count(self.n) and _is_count(self.m) and self.n <= self.m):
            raise ValueError(f"NM(n, m) must have integers 1 <= n <= m, got n={self.n!r}, m={self.m!r}")
        _check_axes(self)

    @property
    def sparsity(self) -> float:
        """1 - n/m."""
        return 1 - self.n / self.m

    def grid(self, shape: Shape) -> Shape:
        """The shape of the grid of runs of m entries: at the place of the first of the axes."""
        first, *others = axes = along(self, shape)
        size = math.prod(shape[axis] for axis in axes)
        if size % self.m:
            raise ValueError(f"{self} must divide axis {_named(axes)} of shape {shape}, whose size is {size}")
        return tuple(size // self.m if a == first else n for a, n in enumerate(shape) if a not in others)


Pattern = Unstructured | NM | Block | Channel


def group_size(pattern: Unstructured | Block | Channel, shape: Shape) -> int:
    """How many entries a group has.

    Example:
      >>> group_size(Channel(), (3, 3, 8, 16)), group_size(Block((2, 4)), (8, 8))
      (72, 8)
    """
    return math.prod(shape) // max(1, math.prod(pattern.grid(shape)))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def resolve(pattern: Pattern, parameter: Parameter, shape: Shape) -> Pattern:
    """The pattern with the axes of a parameter's layer in the place of 'outputs' and 'inputs'.

    Along outputs and inputs the copies of a stacked layer stay apart. Numbers stay what they are.

    Args:
      pattern: the pattern.
      parameter: what is known of the parameter.
      shape: its shape.

    Raises:
      LayoutError: if the layer's axes are not known, naming it.

    Example:
      >>> query = Parameter("query/kernel", "DenseGeneral", "kernel", contract=(0,), outputs=(1, 2))
      >>> resolve(Channel("outputs"), query, (8, 2, 4)), resolve(NM(2, 4, "inputs"), query, (8, 2, 4))
      (Channel(axis=(1, 2)), NM(n=2, m=4, axis=0))
    """
    if isinstance(pattern, Block):
        if pattern.axes is not None:
            return pattern
        if len(pattern.shape) == 2 and parameter.is_weight and len(shape) > 2 + len(parameter.stack):
            parameter.require_layout(str(pattern))
        sides, count = (parameter.inputs, parameter.outputs), len(pattern.shape)
        if count != 2 or not all(sides):
            sides = tuple((axis,) for axis in range(len(shape)) if axis not in parameter.stack)[-count:]
        plain = sides == tuple((axis,) for axis in range(len(shape)))[-count:] or len(sides) < count
        return pattern if plain else dataclasses.replace(pattern, axes=sides)
    if isinstance(pattern, Unstructured):
        return pattern
    if isinstance(pattern.axis, str):
        side = parameter.outputs if pattern.axis == "outputs" else parameter.inputs
        side = side or getattr(parameter.require_layout(str(pattern)), pattern.axis)
    elif isinstance(pattern, Channel) and parameter.stack:
        side = along(pattern, shape)
    else:
        return pattern
    if isinstance(pattern, Channel):
        side = tuple(sorted({*parameter.stack, *side}))
    return dataclasses.replace(pattern, axis=side[0] if len(side) == 1 else side)


def in_copy(pattern: Pattern, stack: tuple[int, ...], shape: Shape) -> Pattern:
    """A resolved pattern as one copy of a stacked layer sees it.

    Args:
      pattern: what `resolve` gave.
      stack: the axes over copies.
      shape: of the whole parameter.

    Example:
      >>> in_copy(Channel((0, 2)), (0,), (3, 8, 16))
      Channel(axis=1)
    """

    def within(axes: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(axis - sum(other < axis for other in stack) for axis in axes if axis not in stack)

    if not stack or isinstance(pattern, Unstructured):
        return pattern
    if isinstance(pattern, Block):
        return (
            pattern if pattern.axes is None else dataclasses.replace(pattern, axes=tuple(map(within, pattern.axes)))
        )
    axes = within(along(pattern, shape))
    if not axes:
        raise ValueError(f"{pattern} must name an axis of one layer, not only those over its copies, {stack}")
    return dataclasses.replace(pattern, axis=axes[0] if len(axes) == 1 else axes)


def along(pattern: Channel | NM, shape: Shape) -> tuple[int, ...]:
    """The axes of a pattern, counted from 0, in order.

    Raises:
      ValueError: if a tensor of that shape has not got them, or they are those of a layer.

    Example:
      >>> along(Channel((-1, 0)), (2, 3, 4))
      (0, 2)
    """
    if isinstance(pattern.axis, str):
        raise ValueError(f"{pattern} needs the layer's axes: resolve(pattern, parameter, shape) puts them in")
    axes = pattern.axis if isinstance(pattern.axis, tuple) else (pattern.axis,)
    counted = {axis % len(shape) for axis in axes if -len(shape) <= axis < len(shape)}
    if len(counted) != len(axes):
        raise ValueError(f"{pattern} needs an axis that a tensor of shape {shape} does not have")
    return tuple(sorted(counted))


def _named(axes: tuple[int, ...]) -> str:
    return str(axes[0] if len(axes) == 1 else axes)


def _check_axes(pattern: "Channel | NM") -> None:
    axis = pattern.axis
    axes = axis if isinstance(axis, tuple) else (axis,)
    if axis not in SIDES and not (axes and all(isinstance(a, int) and not isinstance(a, bool) for a in axes)):
        raise ValueError(
            f"axis must be an integer, a tuple of them, or one of {', '.join(map(repr, SIDES))}, got {axis!r}"
        )
