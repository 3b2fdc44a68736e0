"""TrainState: everything that changes during a run, its moving average, and its digest."""

import hashlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from jopt.mesh.arrays import whole
from jopt.rules import named_leaves
from jopt.transform import State
from jopt.typing import ModelState, Number, OptState, Params


class Variables(NamedTuple):
    """Parameters, and the model state whose batch statistics were measured with these parameters."""

    params: Params
    model_state: ModelState


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
    params: Params
    model_state: ModelState
    opt_state: OptState
    transform_state: State
    ema: Any


def evaluated(state: TrainState) -> Variables:
    """What a run evaluates, packs, exports and teaches with: the average if there is one, else `params`.

    Only this function may choose between `params` and `ema`: batch statistics fit only the parameters that they
    were measured with.

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
    # By type and not by truth: an average of parameters is a pytree, and () is what a stage without one holds.
    return state.ema if isinstance(state.ema, Variables) else Variables(state.params, state.model_state)


def merge(fresh: PyTree, old: PyTree) -> PyTree:
    """The leaves of `old` in the structure of `fresh`, path by path; leaves that `old` lacks stay fresh.

    So a stage that trains more than the one before (ranges of activations, say) keeps all earlier values.

    Args:
      fresh: a pytree of arrays.
      old: a pytree of arrays.

    Raises:
      ValueError: if a path leads to an array of another shape or dtype in the other tree.

    Example:
      >>> merge({"w": np.zeros(1), "range": np.ones(1)}, {"w": np.full(1, 7.0), "gone": np.zeros(3)})
      {'range': array([1.]), 'w': array([7.])}
    """
    old_leaves = dict(named_leaves(old))
    leaves = []
    # By path, not by position: a new trainable (a step size, a range) shifts the positions of those after it.
    for name, leaf in named_leaves(fresh):
        carried = old_leaves.get(name, leaf)
        if (carried.shape, carried.dtype) != (leaf.shape, leaf.dtype):
            fresh_kind, old_kind = (f"{x.dtype}{list(x.shape)}" for x in (leaf, carried))
            raise ValueError(
                f"{name} is {fresh_kind} in this stage and {old_kind} in the state that it starts from"
            )
        leaves.append(carried)
    return jax.tree.unflatten(jax.tree.structure(fresh), leaves)


def digest(tree: PyTree) -> str:
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
        array = np.asarray(whole(leaf))
        # Path, dtype and shape are part of it: the same bytes under another name or in another shape differ.
        hashed.update(f"{name}|{array.dtype}|{array.shape}|".encode())
        hashed.update(np.ascontiguousarray(array).tobytes())
    return hashed.hexdigest()


def to_host(tree: PyTree) -> PyTree:
    """A copy of `tree` in NumPy arrays.

    A view would not do: on CPU `np.asarray` may share the buffer, which the next segment is given to overwrite.
    """
    return jax.tree.map(lambda x: np.array(x, copy=True), tree)


AVERAGE_EXAMPLES = 1024
"""Training examples that the average's batch statistics are estimated from, at the end of each segment."""


def start_average(params: Params, model_state: ModelState) -> Variables:
    """The average before its first step: a copy of the parameters and their model state."""
    # A copy, as a buffer that both share could not be donated to the next segment for each of them.
    return jax.tree.map(jnp.copy, Variables(params, model_state))


def move_average(average: Variables, params: Params, decay: Number, step: Number) -> Variables:
    """The average after a step, its model state unchanged.

    $m_t = d_t m_{t-1} + (1 - d_t) w_t$ with $d_t$ from `average_decay`.

    Args:
      average: the average so far.
      params: what the optimizer moved the parameters to.
      decay: in (0, 1), may be traced.
      step: int32 [], the number of steps that the average then has taken: 1 for its first.
    """
    # Only parameters are averaged. A mean of batch statistics would be of many networks; the average gets its own
    # statistics at the end of the segment.
    return average._replace(params=optax.incremental_update(params, average.params, 1 - average_decay(decay, step)))


def average_decay(decay: Number, step: Number) -> jax.Array:
    r"""The decay of one step of the average: $d_t = \min(d, \frac{1 + t}{10 + t})$.

    A decay of 0.999 alone would leave $0.999^t$ of the initial parameters in the average: 79 % after 234 steps.
    While $d_t < d$, step $s$ of $t$ has a weight of about $9 s^8 / t^9$, so the mean age is a tenth of $t$. From
    $t = (10 d - 1) / (1 - d)$ on the decay is $d$: after 80 steps for 0.9, 890 for 0.99, 8990 for 0.999.

    The formula is that of TensorFlow's `tf.train.ExponentialMovingAverage` with `num_updates`.

    Args:
      decay: d in (0, 1), may be traced.
      step: t, int32 [], 1 for the average's first step.

    Returns:
      float32 [].

    Example:
      >>> [round(float(average_decay(0.9, jnp.int32(t))), 4) for t in (1, 10, 80, 1000)]
      [0.1818, 0.55, 0.9, 0.9]
    """
    t = jnp.asarray(step, jnp.float32)
    return jnp.minimum(jnp.asarray(decay, jnp.float32), (1 + t) / (10 + t))


def average_examples(batch_size: int) -> int:
    """How many examples the average's statistics are estimated from: whole batches, at least one.

    Example:
      >>> average_examples(32), average_examples(100), average_examples(4096)
      (1024, 1000, 4096)
    """
    # Whole batches, as a short last batch would be another shape and its statistics would weigh too much.
    return max(AVERAGE_EXAMPLES // batch_size, 1) * batch_size
