"""The integers behind what a transform makes of parameters."""

from collections.abc import Mapping

import numpy as np

from jopt.quantize.tensors import QTensor, dequantize, quantize
from jopt.rules import named_leaves
from jopt.transform import Params, ParamTransform, State, Storage


def integers(transform: ParamTransform, state: State, params: Params) -> dict[str, QTensor]:
    """The integers that stand for what the model sees: of the Spec and range that the simulation quantizes by.

    Args:
      transform: what the loop trained with, such as a chain of a pruner and `jopt.quantize.weights`.
      state: its state.
      params: what the optimizer moves, of concrete arrays.

    Returns:
      Path to `QTensor`, for each parameter whose values in `transform.apply(state, params)` are, to the last bit,
      what integers stand for. Others, such as those that a later transform moved off their grid, are absent.

    Example:
      >>> import jax.numpy as jnp
      >>> from jopt.quantize import Spec, weights
      >>> params = {"bias": jnp.array([0.1]), "kernel": jnp.array([[0.3], [-1.5]])}
      >>> t = weights(Spec(2))
      >>> q = integers(t, t.init(params), params)
      >>> {path: (tensor.codes.tolist(), float(tensor.scale)) for path, tensor in q.items()}
      {'kernel': ([[0], [-1]], 1.0)}
    """
    storage = {} if transform.storage is None else transform.storage(state, params)
    return of_values(storage, transform.apply(state, params))


def of_values(storage: Mapping[str, Storage], seen: Params) -> dict[str, QTensor]:
    """The integers of values that were quantized; absent where they are not, to the last bit, what these stand for.

    Args:
      storage: what a transform's `storage` gave.
      seen: what its `apply` gave, of concrete arrays.

    Example:
      >>> from jopt.quantize import Range, Spec
      >>> storage = {"w": Storage(Spec(2), Range(np.float32(-1), np.float32(1)))}
      >>> list(of_values(storage, {"w": np.float32([1, 0])})), list(of_values(storage, {"w": np.float32([0.9, 0])}))
      (['w'], [])
    """
    leaves = dict(named_leaves(seen))
    found = {path: quantize(leaves[path], spec, range) for path, (spec, range) in storage.items()}

    def exact(path: str) -> bool:
        values = leaves[path]
        return np.array_equal(np.asarray(dequantize(found[path], values.dtype)), np.asarray(values))

    return {path: tensor for path, tensor in found.items() if exact(path)}
