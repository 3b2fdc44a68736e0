"""Patterns: which entries of a tensor are kept or pruned together.

A pattern views a tensor as a grid of groups, adds the scores of a group up (`pool`), and gives every entry what was
decided for its group (`expand`). Patterns are structure: hashable, compared by value, never traced.

An axis is a number, or 'outputs' or 'inputs': those of the layer that the tensor is a kernel of, which
`Pattern.resolve` puts in. A pattern with a name for an axis has no grid before.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jopt.checks import OpenFunction, choose, open_function
from jopt.config import ConfigError
from jopt.layers import Parameter, one_copy, to_copies, within_copy
from jopt.layers.copies import from_copies
from jopt.prune.search import largest_in_runs

Shape = tuple[int, ...]
Axes = int | tuple[int, ...] | str
SIDES = ("outputs", "inputs")
"""The names of axes that depend on the layer."""


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


@dataclasses.dataclass(frozen=True)
class Pattern:
    """What every pattern derives from: a frozen dataclass. `labels` is all that a pattern must have.

    `grid`, `pool` and `expand` come from the labels; a pattern with regular groups is faster if it has its own.
    Its floating fields are declared with `jopt.hyper.structural`, since patterns are never traced.

    Class attributes:
      unit: what a group is called in a plan.

    Example:
      Every other column belongs to one of two groups:

      >>> @dataclasses.dataclass(frozen=True)
      ... class Stripes(Pattern):
      ...     unit: ClassVar[str] = "stripes"
      ...
      ...     def labels(self, shape):
      ...         return np.broadcast_to(np.arange(shape[-1]) % 2, shape)
      >>> Stripes().pool(jnp.array([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])).tolist()
      [45.0, 18.0]
    """

    unit: ClassVar[str] = "groups"

    @property
    def fixed_sparsity(self) -> float | None:
        """The sparsity that the pattern has by itself, and reaches by `select`; None: any sparsity is possible."""
        return None

    def labels(self, shape: Shape) -> np.ndarray:
        """Integers from 0, of shape `shape`: which group each entry belongs to."""
        raise NotImplementedError(f"{type(self).__name__} needs labels(shape), or grid, pool and expand")

    def grid(self, shape: Shape) -> Shape:
        """The shape of the grid of groups of a tensor of shape `shape`.

        Raises:
          ValueError: if the pattern does not fit the shape.
        """
        return (self._counts(shape).size,)

    def pool(self, scores: jax.Array) -> jax.Array:
        """The scores added up in each group, float32 [*grid]."""
        # Labels are NumPy's, made while tracing: they are constants of the program, as a pattern is structure.
        labels = jnp.asarray(self.labels(scores.shape), jnp.int32).reshape(-1)
        groups = self._counts(scores.shape).size
        return jax.ops.segment_sum(scores.astype(jnp.float32).reshape(-1), labels, num_segments=groups)

    def expand(self, mask: jax.Array, shape: Shape) -> jax.Array:
        """Each group's value [*grid] in all of its entries: an array of shape `shape`."""
        return mask[jnp.asarray(self.labels(shape), jnp.int32)]

    def group_size(self, shape: Shape) -> int | np.ndarray:
        """How many entries a group has: a number, or an array [*grid] where groups differ."""
        counts = self._counts(shape)
        return int(counts[0]) if counts.size and (counts == counts[0]).all() else counts

    def select(self, scores: jax.Array) -> jax.Array:
        """The mask that a pattern with a `fixed_sparsity` makes of scores, of their shape."""
        raise NotImplementedError(f"{type(self).__name__} has a fixed sparsity, so it needs select(scores)")

    def describe(self) -> str:
        """What a pattern with a `fixed_sparsity` keeps, for a plan."""
        return f"keeps {1 - (self.fixed_sparsity or 0):g} of the weights"

    def resolve(self, parameter: Parameter, shape: Shape) -> "Pattern":
        """The pattern for one parameter: with the axes of its layer in the place of 'outputs' and 'inputs'.

        Along outputs and inputs the copies of a stacked layer stay apart. Numbers stay what they are.

        Args:
          parameter: what is known of the parameter.
          shape: its shape.

        Raises:
          LayoutError: if the layer's axes are not known, naming it.
        """
        # Labels of the whole would run across copies, which must not share a group.
        return EachCopy(self, parameter.stack, shape) if parameter.stack else self

    def in_copy(self, stack: tuple[int, ...], shape: Shape) -> "Pattern":
        """A resolved pattern as one copy of a stacked layer sees it.

        Args:
          stack: the axes over copies.
          shape: of the whole parameter.
        """
        del stack, shape
        return self

    def _counts(self, shape: Shape) -> np.ndarray:
        labels = np.asarray(self.labels(shape))
        if labels.shape != tuple(shape) or not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(
                f"{self} must label a tensor of shape {shape} by integers, got {labels.dtype}{labels.shape}"
            )
        counts = np.bincount(labels.reshape(-1))
        # An empty group would be counted in the budget, and kept without keeping anything.
        if not counts.all():
            raise ValueError(
                f"{self} must use every label from 0 to {counts.size - 1} in a tensor of shape {shape}"
            )
        return counts


@dataclasses.dataclass(frozen=True)
class Unstructured(Pattern):
    """Every entry is a group of its own.

    Example:
      >>> Unstructured().grid((2, 3))
      (2, 3)
    """

    unit: ClassVar[str] = "weights"

    def grid(self, shape: Shape) -> Shape:
        """The shape itself."""
        return shape

    def pool(self, scores: jax.Array) -> jax.Array:
        """The scores themselves."""
        return scores

    def expand(self, mask: jax.Array, shape: Shape) -> jax.Array:
        """The mask itself."""
        del shape
        return mask

    def group_size(self, shape: Shape) -> int:
        """1."""
        del shape
        return 1

    def resolve(self, parameter: Parameter, shape: Shape) -> Pattern:
        """The pattern itself: entries are entries in any layer."""
        del parameter, shape
        return self


# No dataclasses, since they have no fields: a subclass with fields is one.
class _Regular(Pattern):
    """A pattern whose groups have one size."""

    def group_size(self, shape: Shape) -> int:
        return math.prod(shape) // max(1, math.prod(self.grid(shape)))


@dataclasses.dataclass(frozen=True)
class Block(_Regular):
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
      >>> Block((2, 4)).group_size((8, 8))
      8
    """

    unit: ClassVar[str] = "blocks"

    shape: Shape
    axes: tuple[tuple[int, ...], ...] | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        sides = tuple(self.shape) if isinstance(self.shape, Sequence) else (self.shape,)
        if not sides or not all(_is_count(side) for side in sides):
            raise ConfigError("Block's shape", self.shape, "one or more integers of at least 1")
        # Lists, as JSON has them, are accepted, but a pattern must be hashable.
        object.__setattr__(self, "shape", sides)

    def grid(self, shape: Shape) -> Shape:
        """The shape of the grid of blocks: the axes left apart, then the joined axes divided by the block's."""
        _, joined = self._joined(shape)
        apart = len(joined) - len(self.shape)
        for axis, side in enumerate(self.shape, start=apart):
            if joined[axis] % side:
                where = f"shape {shape}" if self.axes is None else f"shape {shape}, seen as {joined}"
                raise ValueError(f"{self} must divide axis {axis} of {where}, whose size is {joined[axis]}")
        return (*joined[:apart], *(size // side for size, side in zip(joined[apart:], self.shape, strict=True)))

    def pool(self, scores: jax.Array) -> jax.Array:
        """Scores added up in each block."""
        split, within = self._split(self.grid(scores.shape))
        order, _ = self._joined(scores.shape)
        # In float32: bfloat16 would lose the small entries of a sum.
        wide = scores.astype(jnp.float32)
        wide = wide if order is None else wide.transpose(order)
        return jnp.sum(wide.reshape(split), axis=within)

    def expand(self, mask: jax.Array, shape: Shape) -> jax.Array:
        """Each block's value in all of its entries."""
        split, within = self._split(self.grid(shape))
        order, _ = self._joined(shape)
        entries = jnp.broadcast_to(jnp.expand_dims(mask, within), split)
        if order is None:
            return entries.reshape(shape)
        back = [order.index(axis) for axis in range(len(shape))]
        return entries.reshape([shape[axis] for axis in order]).transpose(back)

    def resolve(self, parameter: Parameter, shape: Shape) -> Pattern:
        """With the layer's matrix [inputs, outputs] for a block of two sides, where it is not the last axes."""
        if self.axes is not None:
            return self
        count = len(self.shape)
        # The last two axes of an attention's projection are no matrix; only its layout says which axes are.
        if count == 2 and parameter.is_weight and len(shape) > 2 + len(parameter.stack):
            parameter.require_layout(str(self))
        sides = (parameter.inputs, parameter.outputs)
        if count != 2 or not all(sides):
            sides = tuple((axis,) for axis in range(len(shape)) if axis not in parameter.stack)[-count:]
        # The pattern stays as it is where it can: without a transpose, and equal to what the user wrote.
        last = tuple((axis,) for axis in range(len(shape)))[-count:]
        # With fewer axes than sides nothing fits; the pattern as it came says so in `grid`.
        return self if sides == last or len(sides) < count else dataclasses.replace(self, axes=sides)

    def in_copy(self, stack: tuple[int, ...], shape: Shape) -> Pattern:
        """With the axes counted in one copy."""
        if not stack or self.axes is None:
            return self
        return dataclasses.replace(self, axes=tuple(_within(axes, stack) for axes in self.axes))

    def _split(self, grid: Shape) -> tuple[Shape, Shape]:
        """The shape with two axes for each side, blocks and entries of a block; and which axes the latter are."""
        apart = len(grid) - len(self.shape)
        pairs = [n for pair in zip(grid[apart:], self.shape, strict=True) for n in pair]
        return (*grid[:apart], *pairs), tuple(range(apart + 1, apart + len(pairs), 2))

    def _joined(self, shape: Shape) -> tuple[list[int] | None, Shape]:
        """The order of axes in which those of a side follow one another (None: as they are), and the shape then."""
        if self.axes is None:
            if len(shape) < len(self.shape):
                raise ValueError(f"{self} needs a tensor of at least {len(self.shape)} axes, got shape {shape}")
            return None, shape
        joined = [axis for side in self.axes for axis in side]
        apart = [axis for axis in range(len(shape)) if axis not in joined]
        sides = (math.prod(shape[axis] for axis in side) for side in self.axes)
        return [*apart, *joined], (*(shape[axis] for axis in apart), *sides)


class _AlongAxes(_Regular):
    """A pattern with an `axis`."""

    axis: Axes

    def axes_of(self, shape: Shape) -> tuple[int, ...]:
        """The axes of the pattern, counted from 0, in order.

        Raises:
          ValueError: if a tensor of that shape has not got them, or they are those of a layer.

        Example:
          >>> Channel((-1, 0)).axes_of((2, 3, 4))
          (0, 2)
        """
        if isinstance(self.axis, str):
            raise ValueError(f"{self} needs the layer's axes: resolve(parameter, shape) puts them in")
        axes = self.axis if isinstance(self.axis, tuple) else (self.axis,)
        # A set: an axis that is named twice, once from the end, is one too few, and so refused.
        counted = {axis % len(shape) for axis in axes if -len(shape) <= axis < len(shape)}
        if len(counted) != len(axes):
            raise ValueError(f"{self} needs an axis that a tensor of shape {shape} does not have")
        return tuple(sorted(counted))

    def in_copy(self, stack: tuple[int, ...], shape: Shape) -> Pattern:
        """With the axes counted in one copy."""
        if not stack:
            return self
        axes = _within(self.axes_of(shape), stack)
        if not axes:
            raise ValueError(f"{self} must name an axis of one layer, not only those over its copies, {stack}")
        return self.with_axes(axes)

    def with_axes(self, axes: tuple[int, ...]) -> Pattern:
        """The pattern along other axes."""
        return dataclasses.replace(self, axis=axes[0] if len(axes) == 1 else axes)  # type: ignore[type-var]

    def side_of(self, parameter: Parameter) -> tuple[int, ...]:
        """The layer's axes that `axis` names."""
        side = parameter.outputs if self.axis == "outputs" else parameter.inputs
        return side or getattr(parameter.require_layout(str(self)), str(self.axis))

    def _set_axis(self, along: str | None = None) -> None:
        if along is not None:
            if self.axis != -1:
                raise ConfigError("along", along, "left out where axis is given")
            object.__setattr__(self, "axis", along)
        axis = self.axis
        axes = axis if isinstance(axis, tuple) else (axis,)
        if axis not in SIDES and not (axes and all(isinstance(a, int) and not isinstance(a, bool) for a in axes)):
            names = ", ".join(map(repr, SIDES))
            raise ConfigError("axis", axis, f"an integer, a tuple of them, or one of {names}")


@dataclasses.dataclass(frozen=True)
class Channel(_AlongAxes):
    """All entries with one index along an axis: an output channel of a convolution, a neuron of a dense layer.

    Args:
      axis: the axis, or several, whose every combination is a channel: an output unit of an attention's query [in,
        heads, dim] is one of heads x dim. Or 'outputs' or 'inputs', which `resolve` replaces by the layer's.
      along: 'outputs' or 'inputs': another way to say `axis`.

    Raises:
      ValueError: by `grid`, `pool` and `expand`, for a tensor without that axis.

    Example:
      >>> Channel().pool(jnp.array([[1.0, 2.0], [3.0, 4.0]])).tolist()
      [4.0, 6.0]
      >>> Channel((1, 2)).grid((8, 2, 4))
      (2, 4)
      >>> query = Parameter("query/kernel", "DenseGeneral", "kernel", contract=(0,), outputs=(1, 2))
      >>> Channel(along="outputs").resolve(query, (8, 2, 4))
      Channel(axis=(1, 2))
      >>> Channel((0, 2)).in_copy((0,), (3, 8, 16))
      Channel(axis=1)
    """

    unit: ClassVar[str] = "channels"

    axis: Axes = -1
    along: dataclasses.InitVar[str | None] = None

    def __post_init__(self, along: str | None) -> None:
        self._set_axis(along)

    def grid(self, shape: Shape) -> Shape:
        """The sizes of the axes: a channel for each index along them."""
        return tuple(shape[axis] for axis in self.axes_of(shape))

    def pool(self, scores: jax.Array) -> jax.Array:
        """Scores added up in each channel."""
        axes = self.axes_of(scores.shape)
        return jnp.sum(scores.astype(jnp.float32), axis=tuple(a for a in range(scores.ndim) if a not in axes))

    def expand(self, mask: jax.Array, shape: Shape) -> jax.Array:
        """Each channel's value in all of its entries."""
        return jax.lax.broadcast_in_dim(mask, shape, self.axes_of(shape))

    def resolve(self, parameter: Parameter, shape: Shape) -> Pattern:
        """With the layer's axes, and those over its copies: a channel belongs to one copy."""
        # Numbers mean the same for every parameter, but a channel of a stacked layer is one of a copy all the same.
        if isinstance(self.axis, str):
            axes = self.side_of(parameter)
        elif parameter.stack:
            axes = self.axes_of(shape)
        else:
            return self
        return self.with_axes(tuple(sorted({*parameter.stack, *axes})))


@dataclasses.dataclass(frozen=True)
class NM(_AlongAxes):
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
      >>> query = Parameter("query/kernel", "DenseGeneral", "kernel", contract=(0,), outputs=(1, 2))
      >>> NM(2, 4, "inputs").resolve(query, (8, 2, 4))
      NM(n=2, m=4, axis=0)
    """

    unit: ClassVar[str] = "weights"

    n: int
    m: int
    axis: Axes = -1

    def __post_init__(self) -> None:
        if not (_is_count(self.n) and _is_count(self.m) and self.n <= self.m):
            raise ValueError(f"NM(n, m) must have integers 1 <= n <= m, got n={self.n!r}, m={self.m!r}")
        self._set_axis()

    @property
    def sparsity(self) -> float:
        """1 - n/m."""
        return 1 - self.n / self.m

    @property
    def fixed_sparsity(self) -> float:
        """1 - n/m."""
        return self.sparsity

    def grid(self, shape: Shape) -> Shape:
        """The shape of the grid of runs of m entries: at the position of the first of the axes."""
        first, *others = axes = self.axes_of(shape)
        size = math.prod(shape[axis] for axis in axes)
        if size % self.m:
            named = axes[0] if len(axes) == 1 else axes
            raise ValueError(f"{self} must divide axis {named} of shape {shape}, whose size is {size}")
        return tuple(size // self.m if a == first else n for a, n in enumerate(shape) if a not in others)

    def select(self, scores: jax.Array) -> jax.Array:
        """The n largest of each run."""
        # For its error, where m does not divide the axis.
        self.grid(scores.shape)
        return largest_in_runs(scores, self.n, self.m, self.axes_of(scores.shape))

    def describe(self) -> str:
        """Such as 'keeps 2 of every 4 weights'."""
        return f"keeps {self.n} of every {self.m} weights"

    def resolve(self, parameter: Parameter, shape: Shape) -> Pattern:
        """With the layer's axes."""
        del shape
        return self.with_axes(self.side_of(parameter)) if isinstance(self.axis, str) else self


@dataclasses.dataclass(frozen=True)
class Labelled(Pattern):
    """The pattern of a plain function, `labels`, which reads some of `shape` and `parameter` by these names.

    Example:
      >>> halves = Labelled(lambda shape: np.broadcast_to(np.arange(shape[-1]) * 2 // shape[-1], shape))
      >>> halves.grid((3, 8)), halves.group_size((3, 8))
      ((2,), 12)
    """

    function: Callable[..., np.ndarray]
    parameter: Parameter | None = dataclasses.field(default=None, repr=False)

    def labels(self, shape: Shape) -> np.ndarray:
        """What the function says."""
        return self._open().call({"shape": shape, "parameter": self.parameter})

    def resolve(self, parameter: Parameter, shape: Shape) -> Pattern:
        """For the parameter, of which a function sees one copy."""
        # The path and the axes become a part of the pattern, so that two layers may be labelled differently.
        one = dataclasses.replace(self, parameter=within_copy(parameter))
        return EachCopy(one, parameter.stack, shape) if parameter.stack else one

    def _open(self) -> OpenFunction:
        return open_function("pattern", self.function, {}, ("shape", "parameter"))


@dataclasses.dataclass(frozen=True)
class EachCopy(Pattern):
    """A pattern in each copy of a stacked layer, whose groups are those of all copies.

    Example:
      >>> EachCopy(Channel(), (0,), (3, 8, 16)).grid((3, 8, 16))
      (3, 16)
    """

    inner: Pattern
    stack: tuple[int, ...]
    shape: Shape

    @property
    def fixed_sparsity(self) -> float | None:
        """That of the pattern."""
        return self.inner.fixed_sparsity

    def grid(self, shape: Shape) -> Shape:
        """[copies, *grid of a copy]."""
        return (math.prod(shape[axis] for axis in self.stack), *self.inner.grid(one_copy(shape, self.stack)))

    def pool(self, scores: jax.Array) -> jax.Array:
        """[copies, *grid of a copy]."""
        return jax.vmap(self.inner.pool)(to_copies(scores, self.stack))

    def expand(self, mask: jax.Array, shape: Shape) -> jax.Array:
        """From [copies, *grid of a copy]."""
        copy = one_copy(shape, self.stack)
        return self._joined(jax.vmap(lambda part: self.inner.expand(part, copy))(mask))

    def group_size(self, shape: Shape) -> int | np.ndarray:
        """That in a copy."""
        return self.inner.group_size(one_copy(shape, self.stack))

    def select(self, scores: jax.Array) -> jax.Array:
        """What the pattern selects in each copy."""
        return self._joined(jax.vmap(self.inner.select)(to_copies(scores, self.stack)))

    def describe(self) -> str:
        """As the pattern."""
        return self.inner.describe()

    def in_copy(self, stack: tuple[int, ...], shape: Shape) -> Pattern:
        """The pattern itself."""
        del stack, shape
        return self.inner

    def _joined(self, copies: jax.Array) -> jax.Array:
        return from_copies(copies, self.stack, [self.shape[axis] for axis in self.stack])


PatternLike = str | Pattern | Callable[..., Any]
"""What the place of a pattern takes: see `pattern_of`."""
BUILT_IN: dict[str, Pattern] = {
    "unstructured": Unstructured(),
    "channel": Channel("outputs"),
    "block": Block((4, 4)),
}
PATTERNS = tuple(BUILT_IN)


def pattern_of(pattern: PatternLike, field: str = "pattern") -> Pattern:
    """The pattern that a config's field or a function's argument says.

    Args:
      pattern: a name ('unstructured', 'channel' of the layer's outputs, 'block' of 4 x 4), a pattern, a class of
        patterns, a function as for `Labelled`, or 'package.module:name' of one of these.
      field: its path, for the message.

    Raises:
      ConfigError: for anything else.

    Example:
      >>> pattern_of("channel"), pattern_of("jopt.prune.patterns:Unstructured")
      (Channel(axis='outputs'), Unstructured())
    """
    value: Any = choose(field, pattern, BUILT_IN)
    # A reference can name a class or an object at the top of a module; a class stands for its defaults.
    if isinstance(value, type) and issubclass(value, Pattern):
        value = value()
    if isinstance(value, Pattern):
        return value
    open_function(field, value, {}, ("shape", "parameter"))
    return Labelled(value)


def _within(axes: tuple[int, ...], stack: tuple[int, ...]) -> tuple[int, ...]:
    """Axes of the whole parameter, counted in one copy, where those over copies are gone."""
    return tuple(axis - sum(other < axis for other in stack) for axis in axes if axis not in stack)
