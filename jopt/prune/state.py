"""What a pruning transform remembers, and what masks do to a tree."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jopt.rules import named_leaves
from jopt.transform import ParamTransform, check_shape


class PruneState(NamedTuple):
    """The state of every pruning transform.

    Attributes:
      masks: a tree of the parameters' structure: bool arrays of their shapes, True where a weight is kept, and None
        for a parameter that is left alone.
      sparsity: float32 [], the common target that has been reached so far; 0 before the first pruning.
      movement: for the score 'movement' a tree like `masks` of float32 arrays, the sums of -w g; else `()`.
    """

    masks: Any
    sparsity: jax.Array
    movement: Any = ()


def project(state: PruneState, tree: Any) -> Any:
    """`tree` with exact zeros where its parameter is pruned, whatever was there (a NaN, too).

    Args:
      state: the state.
      tree: a tree of the parameters' structure and shapes, of any dtypes. In the place of a parameter there may be
        a node without leaves, or with several arrays of its shape.

    Returns:
      A tree of the same structure, shapes and dtypes.

    Raises:
      ValueError: for an array of another shape than its parameter, by its path.

    Example:
      >>> state = PruneState({"b": None, "w": jnp.array([True, False])}, jnp.float32(0.5))
      >>> project(state, {"b": jnp.ones(1), "w": jnp.array([-2.0, -1.0])})["w"].tolist()
      [-2.0, 0.0]
    """

    def zero(path: Any, mask: jax.Array | None, part: Any) -> Any:
        if mask is None:
            return part

        def one(inner: Any, x: Any) -> jax.Array:
            # A mask of a row would broadcast, and so prune what it was not made for, without a word.
            check_shape((*path, *inner), jnp.shape(x), mask.shape)
            return jnp.where(mask, x, jnp.zeros((), jnp.result_type(x)))

        # A part may be a whole subtree: Optax puts an empty one where an optimizer keeps no moment.
        return jax.tree_util.tree_map_with_path(one, part)

    return jax.tree_util.tree_map_with_path(zero, state.masks, tree, is_leaf=lambda x: x is None)


def transform(
    init: Any, update: Any, *, observe: Any = None, needs: frozenset[str] = frozenset()
) -> ParamTransform:
    """The `ParamTransform` of a pruning method: what the model sees, and where its optimizer stays, is `project`.

    Args:
      init: `params -> PruneState`.
      update: as in `ParamTransform`.
      observe: as in `ParamTransform`.
      needs: as in `ParamTransform`.

    Example:
      >>> transform(None, None).forward(None, {"w": 1.0})
      {'w': 1.0}
    """
    return ParamTransform(
        init,
        update,
        apply=project,
        project=project,
        forward=lambda state, params: params,
        observe=observe,
        needs=needs,
        shapes=lambda state: {name: mask.shape for name, mask in named_leaves(state.masks)},
    )
