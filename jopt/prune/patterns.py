"""Patterns: which entries of a tensor are kept or pruned together.

A pattern views a tensor as a grid of groups, adds the scores of a group up (`pool`), and gives every entry what was
decided for its group (`expand`). Patterns are structure: hashable, compared by value, never traced.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

Shape = tuple[int, ...]


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

    The axes before them are left apart: a convolution kernel [h, w, in, out] has h w in out / (b0 b1) blocks.

    Args:
      shape: the sides of a block, each at least 1.

    Raises:
      ValueError: if it is empty or has a side below 1. `grid`, `pool` and `expand` raise it for a tensor whose
        axes the block does not divide, or which has too few.

    Example:
      >>> Block((2, 2)).grid((3, 3, 4, 8))
      (3, 3, 2, 4)
      >>> Block((1, 2)).pool(jnp.arange(8.0).reshape(2, 4)).tolist()
      [[1.0, 5.0], [9.0, 13.0]]
    """

    shape: Shape

    def __post_init__(self) -> None:
        sides = tuple(self.shape) if isinstance(self.shape, Sequence) else (self.shape,)
        if not sides or not all(_is_count(side) for side in sides):
            raise ValueError(f"Block's shape must be one or more integers of at least 1, got {self.shape!r}")
        object.__setattr__(self, "shape", sides)

    def grid(self, shape: Shape) -> Shape:
        """The shape of the grid of blocks: `shape` with its last axes divided by the block's."""
        rest = len(shape) - len(self.shape)
        if rest < 0:
            raise ValueError(f"{self} needs a tensor of at least {len(self.shape)} axes, got shape {shape}")
        for axis, side in enumerate(self.shape, start=rest):
            _require_divisible(self, axis, shape, side)
        return (*shape[:rest], *(size // side for size, side in zip(shape[rest:], self.shape, strict=True)))

    def pool(self, scores: jax.Array) -> jax.Array:
        """Scores added up in each block."""
        grid = self.grid(scores.shape)
        rest = len(grid) - len(self.shape)
        split = [n for pair in zip(grid[rest:], self.shape, strict=True) for n in pair]
        axes = tuple(range(rest + 1, rest + len(split), 2))
        return jnp.sum(scores.astype(jnp.float32).reshape(*grid[:rest], *split), axis=axes)

    def expand(self, mask: jax.Array, shape: Shape) -> jax.Array:
        """Each block's value in all of its entries."""
        grid = self.grid(shape)
        rest = len(grid) - len(self.shape)
        split = [n for pair in zip(grid[rest:], self.shape, strict=True) for n in pair]
        ones = [n for size in grid[rest:] for n in (size, 1)]
        return jnp.broadcast_to(mask.reshape(*grid[:rest], *ones), (*grid[:rest], *split)).reshape(shape)


@dataclasses.dataclass(frozen=True)
class Channel:
    """All entries with one index along an axis: an output channel of a convolution, a neuron of a dense layer.

    Args:
      axis: the axis; the last is the outputs', the last but one the inputs'.

    Raises:
      ValueError: by `grid`, `pool` and `expand`, for a tensor without that axis.

    Example:
      >>> Channel().pool(jnp.array([[1.0, 2.0], [3.0, 4.0]])).tolist()
      [4.0, 6.0]
    """

    axis: int = -1

    def grid(self, shape: Shape) -> Shape:
        """One axis: the channels."""
        return (shape[_axis(self, self.axis, shape)],)

    def pool(self, scores: jax.Array) -> jax.Array:
        """Scores added up in each channel."""
        kept = _axis(self, self.axis, scores.shape)
        return jnp.sum(scores.astype(jnp.float32), axis=tuple(a for a in range(scores.ndim) if a != kept))

    def expand(self, mask: jax.Array, shape: Shape) -> jax.Array:
        """Each channel's value in all of its entries."""
        return jax.lax.broadcast_in_dim(mask, shape, (_axis(self, self.axis, shape),))


@dataclasses.dataclass(frozen=True)
class NM:
    """`n` of every `m` consecutive entries along an axis are kept: a sparsity of 1 - n/m, fixed.

    The sparse tensor cores of NVIDIA's GPUs take 2 of 4 along the axis that a product sums over, `axis=-2` of a
    kernel [in, out] (Mishra et al., 2021, Accelerating sparse deep neural networks).

    Args:
      n: how many are kept, at least 1.
      m: of how many, at least n.
      axis: along which axis; its size must be a multiple of m.

    Raises:
      ValueError: if not 1 <= n <= m. `grid` raises it for a tensor whose axis m does not divide.

    Example:
      >>> NM(2, 4).grid((8, 16)), NM(2, 4).sparsity
      ((8, 4), 0.5)
    """

    n: int
    m: int
    axis: int = -1

    def __post_init__(self) -> None:
        if not (_is_count(self.n) and _is_count(self.m) and self.n <= self.m):
            raise ValueError(f"NM(n, m) must have integers 1 <= n <= m, got n={self.n!r}, m={self.m!r}")

    @property
    def sparsity(self) -> float:
        """1 - n/m."""
        return 1 - self.n / self.m

    def grid(self, shape: Shape) -> Shape:
        """The shape of the grid of runs of m entries."""
        axis = _axis(self, self.axis, shape)
        _require_divisible(self, axis, shape, self.m)
        return (*shape[:axis], shape[axis] // self.m, *shape[axis + 1 :])


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


def _axis(pattern: Pattern, axis: int, shape: Shape) -> int:
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"{pattern} needs an axis that a tensor of shape {shape} does not have")
    return axis % len(shape)


def _require_divisible(pattern: Pattern, axis: int, shape: Shape, side: int) -> None:
    if shape[axis] % side:
        raise ValueError(f"{pattern} must divide axis {axis} of shape {shape}, whose size is {shape[axis]}")
