"""TrainState: everything that changes while a run goes on, and its digest."""

import hashlib
from typing import Any, NamedTuple

import jax
import numpy as np

from jopt.rules import named_leaves


class Variables(NamedTuple):
    """Parameters and the model state that belongs to them: batch statistics are those of these parameters."""

    params: Any
    model_state: Any


class TrainState(NamedTuple):
    """The state of a run at a step. No key and no iterator: those are functions of (seed, step).

    Attributes:
      step: int32 [], optimizer steps done since the start of the run.
      params: the parameters, as the optimizer moves them.
      model_state: what the model carries in addition, such as batch-norm statistics: those of `params`.
      opt_state: the Optax state of the current stage.
      transform_state: the ParamTransform's state of the current stage (masks, ranges, codebooks).
      ema: the moving average of `params` with its model state, `Variables`; () if there is none.
    """

    step: jax.Array
    params: Any
    model_state: Any
    opt_state: Any
    transform_state: Any
    ema: Any


def evaluated(state: TrainState) -> Variables:
    """What a run evaluates, packs, exports and teaches: the average if there is one, else what the optimizer moved.

    Nothing else may choose between `params` and `ema`: statistics fit only the parameters that they were taken of.

    Args:
      state: of one trial, or of several, stacked.

    Returns:
      The parameters before masks, codebooks and quantization, and their model state.

    Example:
      >>> state = TrainState(0, {"w": 1.0}, {"mean": 2.0}, (), (), ())
      >>> evaluated(state)
      Variables(params={'w': 1.0}, model_state={'mean': 2.0})
      >>> evaluated(state._replace(ema=Variables({"w": 1.5}, {"mean": 3.0})))
      Variables(params={'w': 1.5}, model_state={'mean': 3.0})
    """
    return state.ema if isinstance(state.ema, Variables) else Variables(state.params, state.model_state)


def merge(fresh: Any, old: Any) -> Any:
    """The leaves of `old` in the structure of `fresh`, path by path; what `old` lacks stays fresh.

    So a stage that trains more than the one before (ranges of activations, say) keeps what there was.

    Args:
      fresh: a pytree of arrays.
      old: a pytree of arrays.

    Raises:
      ValueError: if a path leads to an array of another shape or dtype in the other tree.

    Example:
      >>> merge({"w": np.zeros(1), "range": np.ones(1)}, {"w": np.full(1, 7.0), "gone": np.zeros(3)})
      {'range': array([1.]), 'w': array([7.])}
    """
    known = dict(named_leaves(old))
    leaves = []
    for name, leaf in named_leaves(fresh):
        found = known.get(name, leaf)
        if (found.shape, found.dtype) != (leaf.shape, leaf.dtype):
            ours, theirs = (f"{x.dtype}{list(x.shape)}" for x in (leaf, found))
            raise ValueError(f"{name} is {ours} in this stage and {theirs} in the state that it starts from")
        leaves.append(found)
    return jax.tree.unflatten(jax.tree.structure(fresh), leaves)


def digest(tree: Any) -> str:
    """SHA-256 (hexadecimal) over every leaf's path, dtype, shape and bytes.

    Args:
      tree: any pytree of arrays.

    Returns:
      The same digest if and only if (collisions aside) the trees are equal bit for bit. NaNs count by their bits.

    Example:
      >>> digest({"w": np.zeros(2, np.float32)}) == digest({"w": np.zeros(2, np.float32)})
      True
      >>> digest({"w": np.zeros(2, np.float32)}) == digest({"w": -np.zeros(2, np.float32)})
      False
    """
    hashed = hashlib.sha256()
    for name, leaf in named_leaves(tree):
        array = np.asarray(leaf)
        hashed.update(f"{name}|{array.dtype}|{array.shape}|".encode())
        hashed.update(np.ascontiguousarray(array).tobytes())
    return hashed.hexdigest()


def to_host(tree: Any) -> Any:
    """A copy of `tree` in NumPy arrays of its own.

    A view would not do: on CPU `np.asarray` may share the buffer, which the next segment is given to overwrite.
    """
    return jax.tree.map(lambda x: np.array(x, copy=True), tree)
