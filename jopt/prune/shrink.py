"""Physical shrinking: a smaller model that computes what the masked one does; see docs/shrinking.md."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from jopt import coupling
from jopt.coupling import Coupling, CouplingError, Group, Norm
from jopt.moments import cut_state
from jopt.prune.dead import fold_target, judge
from jopt.prune.masks import Masks
from jopt.rules import named_leaves, path_name
from jopt.transform import Params, State

Arrays = dict[str, Any]
"""Arrays by path, of JAX or NumPy."""
Model = Any
"""A Linen module of `jopt.models`, or any object with `coupling(x) -> jopt.coupling.Coupling`."""
Batch = Any
"""One batch or its `jax.ShapeDtypeStruct`."""


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


class ShrinkRow(NamedTuple):
    """A line of the plan: a layer, its units before and after, and why units that look dead are left."""

    layer: str
    before: int
    after: int
    why: str


class Shrunk(NamedTuple):
    """What `shrink_all` returns.

    Attributes:
      model: the same architecture with smaller sizes.
      params: its parameters; what is left of the masks is applied.
      model_state: its state, such as batch statistics.
      opt_state: the optimizer's state, every moment cut; None if there was none.
      removed: for each group of units what is left, for `cut` (of masks, of a moving average).
    """

    model: Model
    params: Params
    model_state: State
    opt_state: State
    removed: tuple[Removed, ...]


def shrink(model: Model, params: Params, masks: Masks, *, x: Batch | None = None) -> tuple[Model, Params]:
    """Removes the units that the masks leave without input or without output: `f'(x; w') = f(x; w * m)`.

    A unit (neuron, channel, state unit) goes if every weight that reads it is pruned; or if every weight that feeds
    it is pruned, so that it is constant, and its constant times the weights that read it can be added to the next
    bias. What that takes in each structure is in `docs/shrinking.md`. Weights pruned one by one stay, as zeros.

    Args:
      model: a Linen module of `jopt.models`, or any object with `coupling(x) -> jopt.coupling.Coupling`.
      params: its parameters, concrete floating-point arrays.
      masks: a tree of bool arrays, True where a weight is kept, with the parameters' paths and shapes; None, or
        nothing at all, where nothing is pruned.
      x: one batch or its `jax.ShapeDtypeStruct`, for `ConvNet(padding=None)`, whose padding depends on it.

    Returns:
      The smaller model and its parameters, of the same dtypes.

    Raises:
      CouplingError: if the model does not say how its axes are coupled, or not what its parameters say.
      ValueError: if the masks do not fit the parameters, if anything is traced or NaN, or if the model has batch
        statistics, which `shrink_all` takes.

    Example:
      >>> from jopt.models import MLP
      >>> model = MLP(features=(3,), num_classes=1)
      >>> params = {
      ...     "Dense_0": {"kernel": jnp.ones((2, 3)), "bias": jnp.array([0.0, 0.5, -1.0])},
      ...     "Dense_1": {"kernel": jnp.array([[1.0], [2.0], [4.0]]), "bias": jnp.array([0.25])},
      ... }
      >>> masks = {"Dense_0": {"kernel": jnp.array([[True, False, False]] * 2)}}
      >>> model, params = shrink(model, params, masks)
      >>> model.features, params["Dense_1"]["bias"].tolist()               # 0.25 + 2 * relu(0.5) + 4 * relu(-1)
      ((1,), [1.25])
    """
    structure = coupling.of(model, x)
    if any(layer.norm for layer in coupling.layers(structure)):
        raise ValueError(
            f"{type(model).__name__} has batch statistics, which must be cut too: call "
            "shrink_all(model, params, masks, model_state=...), or jopt.quantize.fold first"
        )
    small = shrink_all(model, params, masks, x=x)
    return small.model, small.params


def shrink_all(
    model: Model,
    params: Params,
    masks: Masks,
    *,
    model_state: State = None,
    optimizer: optax.GradientTransformation | optax.GradientTransformationExtraArgs | None = None,
    opt_state: State = None,
    x: Batch | None = None,
) -> Shrunk:
    """As `shrink`, with the model's state and the optimizer's, so that training can go on where it was.

    Batch statistics are cut like parameters. So is every moment in the optimizer's state, by the rules of
    `jopt.project_moments`, but row and column statistics are refused. Moments of a bias that took in a constant
    stay as they are; so do copies of its value, as in L-BFGS. A constant that meets a convolution without bias
    goes into the running mean of the normalization behind it: exact in evaluation mode.

    Args:
      model: as in `shrink`.
      params: as in `shrink`.
      masks: as in `shrink`.
      model_state: such as `{'batch_stats': ...}`; needed where the model has batch normalization.
      optimizer: the Optax transform that made `opt_state`; needed with it.
      opt_state: its state.
      x: as in `shrink`.

    Returns:
      A `Shrunk`.

    Raises:
      CouplingError: as in `shrink`.
      ValueError: as in `shrink`; if a part of the state is missing or has another shape than its parameter; and for
        moments in another form (`optax.flatten`, `optax.contrib.galore`), by path and shape.
    """
    if opt_state is not None and optimizer is None:
        raise ValueError("opt_state is cut by what its optimizer says of it: pass optimizer too")
    work, structure = _reduced(model, params, masks, model_state, x)
    removed = work.removed()
    small = structure.resize({group.name: work.sizes[group.name] for group in structure.groups})
    smaller_trees = _like(params, work.params), _like(model_state, work.state)
    if x is None:
        # Without a batch, the kernels of the first layer say what an input looks like.
        shapes = {path: jnp.shape(leaf) for path, leaf in named_leaves(params)}
        x = jax.ShapeDtypeStruct(structure.example(shapes.__getitem__), jnp.float32)
    _check_shapes(small, *smaller_trees, x)
    if opt_state is not None and optimizer is not None:
        before, after = (
            {path: jnp.shape(leaf) for path, leaf in named_leaves(tree)} for tree in (params, smaller_trees[0])
        )
        smaller = {path: shape for path, shape in before.items() if shape != after[path]}
        opt_state = cut_state(lambda tree: cut(tree, removed), smaller, after, optimizer, opt_state)
    return Shrunk(small, *smaller_trees, opt_state, removed)


def shrink_plan(
    model: Model, params: Params, masks: Masks, *, model_state: State = None, x: Batch | None = None
) -> list[ShrinkRow]:
    """What `shrink_all` would remove, a row for each group of units, before anything is cut.

    Args:
      model: as in `shrink_all`.
      params: as in `shrink_all`.
      masks: as in `shrink_all`.
      model_state: as in `shrink_all`.
      x: as in `shrink_all`.

    Example:
      >>> from jopt.models import MLP
      >>> model = MLP(features=(4,), num_classes=1)
      >>> params = model.init(jax.random.key(0), jnp.ones((1, 2)))["params"]
      >>> print(describe_shrinking(shrink_plan(model, params, {"Dense_0": {"kernel": jnp.zeros((2, 4), bool)}})))
      layer    before  after  why not more
      Dense_0       4      1  1 is left: a layer is never emptied
      all           4      1
    """
    work, structure = _reduced(model, params, masks, model_state, x)
    return [
        ShrinkRow(group.name, group.size, work.sizes[group.name], "; ".join(work.why[group.name]))
        for group in structure.groups
    ]


def describe_shrinking(plan: Sequence[ShrinkRow]) -> str:
    """The plan as a table, with the sum over the layers in its last line."""
    total = ShrinkRow("all", sum(row.before for row in plan), sum(row.after for row in plan), "")
    cells = [("layer", "before", "after", "why not more"), *[tuple(map(str, row)) for row in (*plan, total)]]
    wide = [max(len(line[i]) for line in cells) for i in range(3)]
    return "\n".join(
        f"{layer:<{wide[0]}}  {before:>{wide[1]}}  {after:>{wide[2]}}  {why}".rstrip()
        for layer, before, after, why in cells
    )


def cut(tree: Params, removed: Sequence[Removed]) -> Params:
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

    def leaf(path: Any, x: Batch) -> Any:
        # A moment's path is that of its parameter, or goes on below it.
        prefixes = (path_name(path[:end]) for end in range(len(path), 0, -1))
        name = next((prefix for prefix in prefixes if prefix in cuts), "")
        for axis, one in cuts.get(name, ()):
            if x.ndim < -axis or x.shape[axis] % one.before:
                raise ValueError(
                    f"{name} has shape {x.shape} here, whose axis {axis} does not hold the {one.before} units of "
                    f"{one.layer}: only arrays of the parameter's own shape can be cut"
                )
            x = jnp.take(x, unit_rows(one.kept, one.before, x.shape[axis]), axis=axis)
        return x

    return jax.tree_util.tree_map_with_path(leaf, tree)


def unit_rows(units: object, size: int, length: int) -> np.ndarray:
    """The indices, along an axis of `length`, of units that lie there in blocks of `size`.

    Example:
      >>> unit_rows([0, 2], 3, 6).tolist()
      [0, 2, 3, 5]
    """
    return (np.arange(length // size)[:, None] * size + np.asarray(units, int)[None]).reshape(-1)


def axes_of(group: Group) -> dict[tuple[str, int], int]:
    """`(path, axis)` of every array that has the group's units, with the number of blocks that a writer says.

    Readers say none (0): a flattening before them may make any number.
    """
    out: dict[tuple[str, int], int] = {}
    for point in group.points:
        for layer in point.writers:
            out |= {(kernel, -1): layer.gates for kernel in layer.kernels}
            out |= {(bias, -1): 0 for bias in layer.biases}
            out |= {(path, -1): 1 for path in _norm_paths(layer.norm)}
        out |= {(reader.kernel, -2): 0 for reader in point.readers}
    return out


def _norm_paths(norm: Norm | None) -> Iterator[str]:
    """The four arrays of a normalization, if there is one."""
    if norm is not None:
        yield from (norm.scale, norm.bias, norm.mean, norm.var)


class _Work:
    """Masked parameters, masks and state by path, in NumPy, while units are cut from them group by group."""

    def __init__(self, groups: Sequence[Group], params: Params, masks: Masks, model_state: State):
        self.params, self.masks, self.state = (dict(named_leaves(tree)) for tree in (params, masks, model_state))
        _check_inputs(self.params, self.masks, self.state)
        self.masks = {path: np.asarray(mask) for path, mask in self.masks.items()}
        self.params = {path: np.asarray(value) for path, value in self.params.items()}
        self.state = {path: np.asarray(value) for path, value in self.state.items()}
        for path, mask in self.masks.items():
            # What is pruned may hold anything where parameters are not held projected.
            self.params[path] = np.where(mask, self.params[path], np.zeros((), self.params[path].dtype))
        self.groups = {group.name: group for group in groups}
        self.axes = {name: axes_of(group) for name, group in self.groups.items()}
        self.sizes = {group.name: group.size for group in groups}
        self.kept = {group.name: np.arange(group.size) for group in groups}
        self.why: dict[str, tuple[str, ...]] = {group.name: () for group in groups}
        for group in groups:
            self._check_sizes(group)

    def reduce(self, name: str) -> bool:
        """Cuts the dead units of one group; whether there were any."""
        verdict = judge(self.groups[name], self.sizes[name], {**self.state, **self.params}, self.masks)
        self.why[name] = verdict.why
        if not verdict.dead.any():
            return False
        for layer, shift in verdict.shifts.values():
            target = fold_target(layer)
            assert target is not None, layer
            if target in self.params:
                self.params[target] = _plus(self.params[target], shift)
            else:
                self.state[target] = _plus(self.state[target], -shift)  # (y - c) - mean = y - (mean + c)
        alive = np.flatnonzero(~verdict.dead)
        for path, axis in self.axes[name]:
            for arrays in (self.params, self.masks, self.state):
                if path in arrays:
                    where = unit_rows(alive, self.sizes[name], arrays[path].shape[axis])
                    arrays[path] = np.take(arrays[path], where, axis)
        self.kept[name] = self.kept[name][alive]
        self.sizes[name] = len(alive)
        return True

    def removed(self) -> tuple[Removed, ...]:
        return tuple(
            Removed(name, group.size, tuple(self.kept[name].tolist()), tuple(self.axes[name]))
            for name, group in self.groups.items()
        )

    def _check_sizes(self, group: Group) -> None:
        for (path, axis), blocks in self.axes[group.name].items():
            array = self.params.get(path, self.state.get(path))
            if array is None:
                have = ", ".join([*self.params, *self.state])
                raise CouplingError(f"{group.name} needs {path!r}, which is not there; there are: {have}")
            # An array whose axis is a multiple by chance would be cut in the wrong places, without a word.
            length = array.shape[axis] if array.ndim >= -axis else 0
            if length == 0 or length % group.size or (blocks and length != blocks * group.size):
                expected = f"{blocks} x {group.size}" if blocks > 1 else f"{group.size}"
                raise CouplingError(
                    f"{path} has shape {array.shape}, but the model says that its axis {axis} holds the {expected} "
                    f"units of {group.name}: are these the parameters of this model?"
                )


def _reduced(model: Model, params: Params, masks: Masks, model_state: State, x: Batch) -> tuple[_Work, Coupling]:
    structure = coupling.of(model, x)
    names = [group.name for group in structure.groups]
    if len(set(names)) < len(names):
        raise CouplingError(f"{type(model).__name__} declares two groups of one name: {names}")
    if model_state is None and any(layer.norm for layer in coupling.layers(structure)):
        raise ValueError(f"{type(model).__name__} has batch normalization: pass model_state, its statistics, too")
    work = _Work(structure.groups, params, masks, model_state)
    # Removing units takes inputs and outputs from others: again, until nothing more is dead.
    # A list, not a generator: each round looks at every group, whatever the first one says.
    while any([work.reduce(name) for name in names]):
        pass
    return work, structure


def _plus(array: np.ndarray, shift: np.ndarray) -> np.ndarray:
    # Constants of many units are added up: in float64, and rounded once.
    return (array.astype(np.float64) + shift).astype(array.dtype)


def _like(tree: Params, arrays: dict[str, np.ndarray]) -> Params:
    return jax.tree_util.tree_map_with_path(lambda path, _: jnp.asarray(arrays[path_name(path)]), tree)


def _check_inputs(params: Arrays, masks: Arrays, state: Arrays) -> None:
    for tree, leaves in (("params", params), ("masks", masks), ("model_state", state)):
        for path, leaf in leaves.items():
            if isinstance(leaf, Tracer):
                raise ValueError(
                    f"{tree}/{path} is traced: shrink makes new shapes, call it outside of jit and vmap"
                )
            if tree != "masks" and np.isnan(np.asarray(leaf).astype(np.float64)).any():
                raise ValueError(f"{tree}/{path} holds NaN: there is no telling what is constant")
    for path, mask in masks.items():
        if path not in params:
            raise ValueError(f"masks has {path!r}, which is no parameter; the parameters are: {', '.join(params)}")
        if np.asarray(mask).dtype != bool:
            raise ValueError(f"the mask of {path} must be bool, got {np.asarray(mask).dtype}")
        if np.shape(mask) != np.shape(params[path]):
            raise ValueError(f"the mask of {path} must have shape {np.shape(params[path])}, got {np.shape(mask)}")


def _check_shapes(small: Model, params: Params, state: State, x: Batch) -> None:
    """The new model's own idea of its parameters must be what was cut; nothing is computed."""
    arrays = dict(named_leaves({**(state or {}), "params": params}))
    variables = jax.eval_shape(lambda: small.init(jax.random.key(0), jnp.zeros(x.shape, x.dtype)))
    expected = {path: leaf.shape for path, leaf in named_leaves(dict(variables))}
    # The state may hold more than the model makes, such as counters of a user's own.
    got = {path: leaf.shape for path, leaf in arrays.items() if path in expected or path.startswith("params/")}
    for path in sorted(expected.keys() | got.keys()):
        if expected.get(path) != got.get(path):
            raise CouplingError(
                f"{path} would have shape {got.get(path)}, where the smaller {type(small).__name__} has "
                f"{expected.get(path)} (None: nothing): its coupling does not fit its parameters"
            )
