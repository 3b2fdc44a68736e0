"""ParamTransform: how the model *sees* its parameters, as a triple of pure functions.

An Optax `GradientTransformation` says how parameters move. A `ParamTransform` says what the forward pass
computes with: masked, fake-quantized, shared or clipped values. It knows nothing of the model or the loop.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

Params = Any
State = Any


class ParamTransform(NamedTuple):
    """A transform of parameters, made of pure functions on any pytree.

    Attributes:
      init: `params -> state`.
      update: `(state, params, *, step, grads=None, key=None) -> state`. Runs rarely, at segment boundaries:
        chooses masks, ranges, codebooks. The state keeps its structure, shapes and dtypes.
      apply: `(state, params) -> params`. Runs every step, so costs next to nothing. Differentiable, and keeps
        the tree's structure, shapes and dtypes.
    """

    init: Callable[[Params], State]
    update: Callable[..., State]
    apply: Callable[[State, Params], Params]


def identity() -> ParamTransform:
    """The transform that changes nothing: the control of every comparison.

    Example:
      >>> t = identity()
      >>> t.apply(t.init({"w": 1.0}), {"w": 1.0})
      {'w': 1.0}
    """
    return ParamTransform(
        init=lambda params: (),
        update=lambda state, params, *, step, grads=None, key=None: state,
        apply=lambda state, params: params,
    )


def chain(*transforms: ParamTransform) -> ParamTransform:
    """Composes transforms, first to last, as `optax.chain` does.

    Each transform's `init` and `update` get what the transforms before it (already updated) make of the
    parameters, so a quantizer that follows a pruner calibrates on the weights that survived. Its random key
    is `fold_in(key, position)`.

    Args:
      *transforms: the transforms, in the order of application. None gives the identity.

    Returns:
      A `ParamTransform` whose state is the tuple of the transforms' states.

    Example:
      >>> double = ParamTransform(
      ...     init=lambda p: (), update=lambda s, p, **_: s, apply=lambda s, p: jax.tree.map(lambda x: 2 * x, p)
      ... )
      >>> t = chain(double, double)
      >>> t.apply(t.init({"w": 1.0}), {"w": 1.0})
      {'w': 4.0}
    """

    def init(params: Params) -> State:
        states = []
        for t in transforms:
            states.append(t.init(params))
            params = t.apply(states[-1], params)
        return tuple(states)

    def update(state: State, params: Params, *, step, grads=None, key=None) -> State:
        _check_length(state)
        states = []
        for i, (t, s) in enumerate(zip(transforms, state, strict=True)):
            subkey = None if key is None else jax.random.fold_in(key, i)
            states.append(t.update(s, params, step=step, grads=grads, key=subkey))
            params = t.apply(states[-1], params)
        return tuple(states)

    def apply(state: State, params: Params) -> Params:
        _check_length(state)
        for t, s in zip(transforms, state, strict=True):
            params = t.apply(s, params)
        return params

    def _check_length(state: State) -> None:
        if len(state) != len(transforms):
            raise ValueError(f"chain of {len(transforms)} transforms was given a state of {len(state)} parts")

    return ParamTransform(init, update, apply)
