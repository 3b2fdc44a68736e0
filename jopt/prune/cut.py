"""Cutting units out of trees of arrays: parameters, masks, moments, statistics."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jopt.coupling import Group
from jopt.rules import path_name


class Removed(NamedTuple):
    """What was cut of one group of units.

    Attributes:
      layer: the group's name.
      before: units before.
      kept: indices of the units that are left, ascending.
      axes: `(path, axis)` of every array that has these units on this (negative) axis, perhaps in several blocks
        one after the other: the gates of a recurrent layer, the positions before a flattening.
    """

    layer: str
    before: int
    kept: tuple[int, ...]
    axes: tuple[tuple[str, int], ...]


def cut(tree: Any, removed: Sequence[Removed]) -> Any:
    """Leaves the kept units of every array whose path is named, the other arrays as they are.

    Args:
      tree: any tree with the parameters' paths and shapes (gradients, a moment, masks; None where there is none;
        or several such arrays in a parameter's place), or the model's state.
      removed: what `shrink_all` reports.

    Returns:
      The tree, smaller.

    Raises:
      ValueError: if an array has another shape than the one that was cut, naming it.

    Example:
      >>> tree = {"Dense_0": {"bias": jnp.arange(3.0)}, "other": jnp.ones(3)}
      >>> cut(tree, [Removed("Dense_0", 3, (0, 2), (("Dense_0/bias", -1),))])["Dense_0"]["bias"].tolist()
      [0.0, 2.0]
    """
    cuts: dict[str, list[tuple[int, Removed]]] = {}
    for one in removed:
        if len(one.kept) < one.before:
            for path, axis in one.axes:
                cuts.setdefault(path, []).append((axis, one))

    def leaf(path: Any, x: Any) -> Any:
        prefixes = (path_name(path[:end]) for end in range(len(path), 0, -1))
        name = next((prefix for prefix in prefixes if prefix in cuts), "")
        for axis, one in cuts.get(name, ()):
            if x.ndim < -axis or x.shape[axis] % one.before:
                raise ValueError(
                    f"{name} has shape {x.shape} here, whose axis {axis} does not hold the {one.before} units of "
                    f"{one.layer}: only arrays of the parameter's own shape can be cut"
                )
            x = jnp.take(x, rows(one.kept, one.before, x.shape[axis]), axis=axis)
        return x

    return jax.tree_util.tree_map_with_path(leaf, tree)


def rows(kept: Any, size: int, length: int) -> np.ndarray:
    """The indices, along an axis of `length`, of units that lie there in blocks of `size`.

    Example:
      >>> rows([0, 2], 3, 6).tolist()
      [0, 2, 3, 5]
    """
    return (np.arange(length // size)[:, None] * size + np.asarray(kept, int)[None]).reshape(-1)


def axes(group: Group) -> dict[tuple[str, int], int]:
    """`(path, axis)` of every array that has the group's units, with the number of blocks that a writer says.

    Readers say none (0): a flattening before them may make any number.
    """
    out: dict[tuple[str, int], int] = {}
    for point in group.points:
        for layer in point.writers:
            out |= {(kernel, -1): layer.gates for kernel in layer.kernels}
            out |= {(bias, -1): 0 for bias in layer.biases}
            out |= {(path, -1): 1 for path in norm_paths(layer.norm)}
        out |= {(reader.kernel, -2): 0 for reader in point.readers}
    return out


def norm_paths(norm: Any) -> Iterator[str]:
    """The four arrays of a normalization, if there is one."""
    if norm is not None:
        yield from (norm.scale, norm.bias, norm.mean, norm.var)
