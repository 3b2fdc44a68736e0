"""Which arrays of an Optax state are moments of single weights, and their projection.

What an optimizer keeps of a parameter of shape `[*P]` is one of four kinds, decided by its shape:

| shape | examples | what is done |
|---|---|---|
| `[*P]` | momenta, accumulated gradients, averages | projected |
| `[k, *P]` for all parameters | the memory of L-BFGS | each of the k is projected |
| one number, or `[*P]` without some axes | NovoGrad's norms; Adafactor's and SM3's rows and columns | left alone |
| any other | a low-rank basis (GaLore), one flat vector (`optax.flatten`) | refused |

A statistic over several weights is left alone because it belongs to the kept ones too. It counts a pruned weight's
gradient, which is zero after projection, as zero: averages forget it, maxima and sums stay upper bounds. It only
scales gradients, so that it cannot move a weight whose gradient is zero.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jopt.rules import path_name


@dataclasses.dataclass(frozen=True)
class _Entry:
    """An array of the state with its path, such as `[0].mu['w']`. Not a pytree node, and so a leaf."""

    path: str
    array: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return jnp.shape(self.array)


@jax.tree_util.register_pytree_node_class
class _Parameters:
    """Stands for the parameters in `optimizer.init`, as Optax's own placeholder does, but has a leaf."""

    def __init__(self, leaf: Any):
        self.leaf = leaf

    def tree_flatten(self):
        return (self.leaf,), None

    @classmethod
    def tree_unflatten(cls, aux, children):
        del aux
        return cls(*children)


def project_state(
    project: Callable[[Any], Any], shapes: Mapping[str, tuple[int, ...]], optimizer: Any, opt_state: Any
) -> Any:
    """An Optax state with every moment projected.

    Args:
      project: maps a tree of the parameters' structure to one of the same structure, shapes and dtypes. Where a
        parameter has no moment the tree has an `optax.MaskedNode`, as Optax itself does it.
      shapes: the shape of each parameter that `project` changes, by its path. Arrays of others are given to it as
        they are.
      optimizer: the Optax transform that made `opt_state`.
      opt_state: its state.

    Returns:
      The new state, of the same structure, shapes and dtypes.

    Raises:
      ValueError: for an array of a shape that says neither whose moment it is nor that it is none, by its path.

    Example:
      >>> optimizer = optax.novograd(0.1)
      >>> state = optimizer.init({"w": jnp.ones(2)})
      >>> state = optax.tree.map_params(optimizer, jnp.ones_like, state)
      >>> new = project_state(lambda tree: jax.tree.map(lambda x: 0 * x, tree), {"w": (2,)}, optimizer, state)
      >>> new[0].mu["w"].tolist(), new[0].nu["w"].tolist()
      ([0.0, 0.0], 1.0)
    """
    # Square matrices have the same shape in GaLore's basis.
    if any(map(_in_another_basis, jax.tree.leaves(opt_state, is_leaf=_in_another_basis))):
        raise ValueError(
            "optax.contrib.galore keeps its moments in a low-rank basis, where no entry belongs to one weight: "
            "they cannot be projected; use another optimizer"
        )
    entries = jax.tree_util.tree_map_with_path(lambda path, x: _Entry(jax.tree_util.keystr(path), x), opt_state)
    like, is_parameters = _init_with_placeholder(optimizer)

    def visit(mark: Any, part: Any) -> Any:
        if is_parameters(mark):
            return _project_tree(project, shapes, part)
        if jnp.shape(mark) != part.shape:
            raise ValueError(
                f"optimizer state {part.path} has shape {part.shape}: it depends on the parameters but is not in "
                "a tree of their structure (as with optax.flatten): moments in it cannot be projected"
            )
        return part.array

    return jax.tree.map(visit, like, entries, is_leaf=is_parameters)


def _in_another_basis(node: Any) -> bool:
    return type(node).__name__ == "GaLoreState"


def _init_with_placeholder(optimizer: Any) -> tuple[Any, Callable[[Any], bool]]:
    """The optimizer's state with a placeholder wherever it has a tree of the parameters' structure."""
    found: list[Any] = []
    # Optax's own placeholder, which its wrappers know, is private; it calls any function with it.
    optax.tree.map_params(found.append, lambda x: x, None)  # pyright: ignore[reportArgumentType]
    placeholder = found[0]
    try:
        state = optimizer.init(placeholder)
    except (IndexError, ValueError):  # Line searches ask for the dtype of the first leaf, and that one has none.
        placeholder = _Parameters(jnp.zeros(()))
        state = optimizer.init(placeholder)
    return state, lambda node: isinstance(node, type(placeholder))


def _project_tree(project: Callable[[Any], Any], shapes: Mapping[str, tuple[int, ...]], part: Any) -> Any:
    with_paths, structure = jax.tree_util.tree_flatten_with_path(part)
    entries = [entry for _, entry in with_paths]
    owners = [_owner(path, shapes) for path, _ in with_paths]
    lead = {entry.shape[:1] for entry in entries}
    known = [(entry, shapes[name]) for entry, name in zip(entries, owners, strict=True) if name is not None]
    stacked = bool(known) and len(lead) == 1 and all(e.shape[1:] == shape != e.shape for e, shape in known)
    if stacked:
        project = jax.vmap(project)

    def is_moment(entry: _Entry, name: str | None) -> bool:
        if name is None or stacked or entry.shape == shapes[name]:
            return True
        if _is_statistic(entry.shape, shapes[name]):
            return False
        raise ValueError(
            f"optimizer state {entry.path} has shape {entry.shape}, but the parameter {name} has {shapes[name]}: "
            "only an array of the parameter's shape can be projected, and only one number or a statistic over some "
            "of the parameter's axes can be left alone; use another optimizer"
        )

    moments = [is_moment(entry, name) for entry, name in zip(entries, owners, strict=True)]
    if not any(moments):
        return jax.tree.unflatten(structure, [entry.array for entry in entries])
    given = [e.array if moment else optax.MaskedNode() for e, moment in zip(entries, moments, strict=True)]
    tree = jax.tree.unflatten(structure, given)
    new = project(tree)
    if jax.tree.structure(new) != jax.tree.structure(tree):
        raise ValueError(f"project must keep the structure of a tree: {entries[0].path} and the others changed it")
    leaves = iter(jax.tree.leaves(new))
    return jax.tree.unflatten(
        structure, [_same_shape(e, next(leaves)) if m else e.array for e, m in zip(entries, moments, strict=True)]
    )


def _owner(path: Sequence[Any], shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """The parameter that a leaf belongs to: an optimizer may keep several arrays in its place."""
    names = (path_name(path[:end]) for end in range(len(path), -1, -1))
    return next((name for name in names if name in shapes), None)


def _is_statistic(shape: tuple[int, ...], parameter: tuple[int, ...]) -> bool:
    """Whether it is one number (or a placeholder for none), or has some of the parameter's axes, in their order.

    Example:
      >>> [_is_statistic(shape, (3, 128, 256)) for shape in ((), (1,), (3, 256), (128,), (256, 3), (3, 64, 256))]
      [True, True, True, True, False, False]
    """
    axes = iter(parameter)
    return all(size == 1 for size in shape) or 0 in shape or all(size in axes for size in shape)


def _same_shape(entry: _Entry, new: Any) -> Any:
    if jnp.shape(new) != entry.shape:
        raise ValueError(
            f"project must keep shapes: it makes {jnp.shape(new)} of the optimizer state {entry.path}, which has "
            f"shape {entry.shape}"
        )
    return new
