"""Which arrays of an Optax state are moments of single weights; how they are projected or cut.

What an optimizer keeps of a parameter of shape `[*P]` is one of five kinds, decided by its shape:

| shape | examples | projection | cutting |
|---|---|---|---|
| `[*P]` | momenta, accumulated gradients, averages | projected | cut |
| `[k, *P]` for all parameters | the memory of L-BFGS | each of the k is projected | each of the k is cut |
| one number | NovoGrad's norms | left alone | left alone |
| `[*P]` without some axes | Adafactor's and SM3's rows and columns | left alone | refused |
| any other | a low-rank basis (GaLore), one flat vector (`optax.flatten`) | refused | refused |

A statistic over several weights is left alone because it belongs to the kept ones too. It counts a pruned weight's
gradient, which is zero after projection, as zero: averages forget it, maxima and sums stay upper bounds. It only
scales gradients, so that it cannot move a weight whose gradient is zero. Rows and columns are not cut because their
shape does not tell which axis of a square matrix they have.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import PyTree

from jopt.rules import path_name
from jopt.typing import OptState, Shape, Updates


@dataclasses.dataclass(frozen=True)
class _Entry:
    """An array of the state with its path, such as `[0].mu['w']`. Not a pytree node, and so a leaf."""

    path: str
    array: ArrayLike

    @property
    def shape(self) -> Shape:
        return jnp.shape(self.array)


class _Change(NamedTuple):
    """What is done to moments.

    Attributes:
      function: maps a tree of the parameters' structure to one of the same structure.
      before: path to shape of each parameter that it changes.
      after: the same after the change.
      verb: 'projected' or 'cut'.
      keeps_axes: whether a statistic over some axes of its parameter may stay as it is.
    """

    function: Callable[[Updates], Updates]
    before: Mapping[str, Shape]
    after: Mapping[str, Shape]
    verb: str
    keeps_axes: bool


@jax.tree_util.register_pytree_node_class
class _Parameters:
    """Stands for the parameters in `optimizer.init`, as Optax's own placeholder does, but has a leaf."""

    def __init__(self, leaf: ArrayLike):
        self.leaf = leaf

    def tree_flatten(self):
        return (self.leaf,), None

    @classmethod
    def tree_unflatten(cls, aux, children):
        del aux
        return cls(*children)


def project_state(
    project: Callable[[Updates], Updates],
    shapes: Mapping[str, Shape],
    optimizer: optax.GradientTransformation,
    opt_state: OptState,
) -> OptState:
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
    return _changed(_Change(project, shapes, shapes, "projected", keeps_axes=True), optimizer, opt_state)


def cut_state(
    cut: Callable[[Updates], Updates],
    before: Mapping[str, Shape],
    after: Mapping[str, Shape],
    optimizer: optax.GradientTransformation,
    opt_state: OptState,
) -> OptState:
    """An Optax state in which every moment has the shape of its smaller parameter.

    Args:
      cut: as `project` in `project_state`, but shapes may change.
      before: path to shape of each parameter that `cut` makes smaller.
      after: its new shape.
      optimizer: the Optax transform that made `opt_state`.
      opt_state: its state.

    Returns:
      The new state, of the same structure and dtypes.

    Raises:
      ValueError: for an array of such a parameter that is neither its moment nor one number, by its path.

    Example:
      >>> optimizer = optax.novograd(0.1)
      >>> state = optimizer.init({"w": jnp.ones(3)})
      >>> first_two = lambda tree: jax.tree.map(lambda x: x[:2], tree)
      >>> new = cut_state(first_two, {"w": (3,)}, {"w": (2,)}, optimizer, state)
      >>> new[0].mu["w"].shape, new[0].nu["w"].shape
      ((2,), ())
    """
    return _changed(_Change(cut, before, after, "cut", keeps_axes=False), optimizer, opt_state)


def _changed(change: _Change, optimizer: optax.GradientTransformation, opt_state: OptState) -> OptState:
    # Found by its name, because a square matrix has the same shape in GaLore's basis as outside.
    if any(map(_in_another_basis, jax.tree.leaves(opt_state, is_leaf=_in_another_basis))):
        raise ValueError(
            "optax.contrib.galore keeps its moments in a low-rank basis, where no entry belongs to one weight: "
            f"they cannot be {change.verb}; use another optimizer"
        )
    # Paths are noted before the state is taken apart: an error has to say which array of the optimizer it is about.
    entries = jax.tree_util.tree_map_with_path(lambda path, x: _Entry(jax.tree_util.keystr(path), x), opt_state)
    like, is_parameters = _init_with_placeholder(optimizer)

    def visit(mark: PyTree, part: PyTree) -> PyTree:
        if is_parameters(mark):
            return _change_tree(change, part)
        # With a placeholder in place of the parameters it has another shape, so it is made from parameters.
        if jnp.shape(mark) != part.shape:
            raise ValueError(
                f"optimizer state {part.path} has shape {part.shape}: it depends on the parameters but is not in "
                f"a tree of their structure (as with optax.flatten): moments in it cannot be {change.verb}"
            )
        return part.array

    return jax.tree.map(visit, like, entries, is_leaf=is_parameters)


def _in_another_basis(node: object) -> bool:
    return type(node).__name__ == "GaLoreState"


def _init_with_placeholder(
    optimizer: optax.GradientTransformation,
) -> tuple[OptState, Callable[[object], bool]]:
    """The optimizer's state with a placeholder wherever it has a tree of the parameters' structure."""
    placeholders: list[PyTree] = []
    # Optax's own placeholder, which its wrappers know, is private; but `map_params` calls any function with it.
    optax.tree.map_params(placeholders.append, lambda x: x, None)  # pyright: ignore[reportArgumentType]
    placeholder = placeholders[0]
    try:
        state = optimizer.init(placeholder)
    except (IndexError, ValueError):  # Line searches ask for the dtype of the first leaf, and that one has none.
        placeholder = _Parameters(jnp.zeros(()))
        state = optimizer.init(placeholder)  # pyright: ignore[reportArgumentType]
    return state, lambda node: isinstance(node, type(placeholder))


def _change_tree(change: _Change, part: PyTree) -> PyTree:
    """One tree of the parameters' structure, with its moments changed and its other arrays as they were."""
    with_paths, structure = jax.tree_util.tree_flatten_with_path(part)
    entries = [entry for _, entry in with_paths]
    owners = [_owner(path, change.before) for path, _ in with_paths]
    # L-BFGS keeps the last k updates of every parameter. One k for all: otherwise [k, *P] could be a moment of a
    # parameter that happens to have that shape.
    lead = {entry.shape[:1] for entry in entries}
    owned = [(entry, change.before[name]) for entry, name in zip(entries, owners, strict=True) if name is not None]
    stacked = bool(owned) and len(lead) == 1 and all(e.shape[1:] == shape != e.shape for e, shape in owned)

    def is_moment(entry: _Entry, name: str | None) -> bool:
        if name is None or stacked or entry.shape == change.before[name]:
            return True
        if _is_number(entry.shape) or (change.keeps_axes and _is_statistic(entry.shape, change.before[name])):
            return False
        # Whose entries these are cannot be told, and a moment that is left alone would move pruned weights again.
        others = (
            "one number or a statistic over some of the parameter's axes" if change.keeps_axes else "one number"
        )
        raise ValueError(
            f"optimizer state {entry.path} has shape {entry.shape}, but the parameter {name} has "
            f"{change.before[name]}: only an array of the parameter's shape can be {change.verb}, and only "
            f"{others} can be left alone; use another optimizer"
        )

    moments = [is_moment(entry, name) for entry, name in zip(entries, owners, strict=True)]
    if not any(moments):
        return jax.tree.unflatten(structure, [entry.array for entry in entries])
    # What is no moment is hidden, as `optax.masked` hides it,
    # so that `function` sees arrays of its own shapes only.
    masked = [e.array if moment else optax.MaskedNode() for e, moment in zip(entries, moments, strict=True)]
    tree = jax.tree.unflatten(structure, masked)
    new = (jax.vmap(change.function) if stacked else change.function)(tree)
    if jax.tree.structure(new) != jax.tree.structure(tree):
        raise ValueError(f"project must keep the structure of a tree: {entries[0].path} and the others changed it")
    leaves = iter(jax.tree.leaves(new))

    def result(entry: _Entry, name: str | None, moment: bool) -> ArrayLike:
        if not moment:
            return entry.array
        shape = entry.shape if name is None else (entry.shape[:1] if stacked else ()) + change.after[name]
        return _of_shape(shape, entry, next(leaves))

    return jax.tree.unflatten(structure, map(result, entries, owners, moments))


def _owner(path: tuple, shapes: Mapping[str, Shape]) -> str | None:
    """The parameter that a leaf belongs to: an optimizer may keep several arrays in its place."""
    names = (path_name(path[:end]) for end in range(len(path), -1, -1))
    return next((name for name in names if name in shapes), None)


def _is_number(shape: Shape) -> bool:
    """Whether it is one number, or a placeholder for none."""
    return all(size == 1 for size in shape) or 0 in shape


def _is_statistic(shape: Shape, parameter: Shape) -> bool:
    """Whether it has some of the parameter's axes, in their order.

    Example:
      >>> [_is_statistic(shape, (3, 128, 256)) for shape in ((3, 256), (128,), (256, 3), (3, 64, 256))]
      [True, True, False, False]
    """
    # `in` consumes the iterator up to the match, so the axes are found in their order.
    axes = iter(parameter)
    return all(size in axes for size in shape)


def _of_shape(shape: Shape, entry: _Entry, new: ArrayLike) -> ArrayLike:
    if jnp.shape(new) != shape:
        rule = "project must keep shapes" if shape == entry.shape else f"cut must give the smaller shape {shape}"
        raise ValueError(
            f"{rule}: it makes {jnp.shape(new)} of the optimizer state {entry.path}, which has shape {entry.shape}"
        )
    return new
