"""Which dense layers read a flattened map: PyTorch flattens channels first, and kernels follow that order."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax.extend.core import Literal

from jopt.models import Model
from jopt.rules import named_leaves
from jopt.typing import Batch, ModelState, Params

Sizes = tuple[int, ...]


class _Value(NamedTuple):
    """What is known of a variable: the parameter that it is, or the sizes of the map that its rows flatten."""

    leaf: int | None = None
    flattened: Sizes | None = None


_NOTHING = _Value()


def flattened_inputs(model: Model, x: Batch, params: Params, model_state: ModelState) -> dict[str, Sizes]:
    """The sizes of the map, without the batch, whose flattened rows a dense layer reads, by its kernel's path.

    Args:
      model: the network.
      x: one batch of more than one example, or its shape.
      params: its parameters, or their shapes.
      model_state: its state, or its shapes.

    Returns:
      Sizes, such as (height, width, channels); nothing for a kernel that reads no flattened map.

    Example:
      >>> from jopt import models
      >>> from jopt.train.plan import shapes
      >>> cnn = models.model(models.ModelConfig("cnn", features=(4,), hidden=5))
      >>> example = jax.ShapeDtypeStruct((6, 6, 1), jax.numpy.float32)
      >>> flattened_inputs(cnn, jax.numpy.zeros((2, 6, 6, 1)), *shapes(cnn, example))
      {'Dense_0/kernel': (3, 3, 4)}
    """
    names = [name for name, _ in named_leaves(params)]
    jaxpr = jax.make_jaxpr(lambda params, state, x: model.apply(params, state, x, train=False)[0])(
        params, model_state, x
    ).jaxpr
    maps: dict[int, Sizes] = {}
    inputs = [_Value(leaf=i) if i < len(names) else _NOTHING for i in range(len(jaxpr.invars))]
    _walk(jaxpr, inputs, maps)
    return {names[leaf]: sizes for leaf, sizes in sorted(maps.items())}


def _walk(jaxpr: Any, inputs: Sequence[_Value], maps: dict[int, Sizes]) -> list[_Value]:
    values: dict[Any, _Value] = dict(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> _Value:
        return _NOTHING if isinstance(atom, Literal) else values.get(atom, _NOTHING)

    for eqn in jaxpr.eqns:
        args = [read(atom) for atom in eqn.invars]
        outputs = _equation(eqn, args, maps)
        values.update(zip(eqn.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _equation(eqn: Any, args: Sequence[_Value], maps: dict[int, Sizes]) -> list[_Value]:
    inner = _inner(eqn)
    if inner is not None:
        return _walk(inner, args, maps)
    nothing = [_NOTHING] * len(eqn.outvars)
    name, out = eqn.primitive.name, eqn.outvars[0].aval
    if name == "dot_general":
        data, kernel = args[0].flattened, args[1].leaf
        if data is not None and kernel is not None:
            maps[kernel] = data
        return nothing
    if name == "reshape":
        before = eqn.invars[0].aval.shape
        # Rows stay rows, everything else becomes one axis.
        joins = len(before) > 2 and len(out.shape) == 2 and before[0] == out.shape[0]
        return [_Value(flattened=before[1:])] if joins else nothing
    if args and args[0].leaf is not None and name in ("convert_element_type", "copy"):
        return [args[0]]
    # Everything that keeps the shape keeps the order of the columns: activations, dropout, scales and shifts.
    columns = [v.flattened for v, atom in zip(args, eqn.invars, strict=True) if atom.aval.shape == out.shape]
    flattened = next((sizes for sizes in columns if sizes is not None), None)
    return [_Value(flattened=flattened), *nothing[1:]] if flattened is not None else nothing


def _inner(eqn: Any) -> Any:
    """The jaxpr that an equation calls once with its own inputs and outputs, if it is such a call."""
    if eqn.primitive.name in ("scan", "while", "cond"):
        return None
    for value in eqn.params.values():
        inner = getattr(value, "jaxpr", value)
        if hasattr(inner, "eqns") and len(inner.invars) == len(eqn.invars):
            return inner if len(inner.outvars) == len(eqn.outvars) else None
    return None
