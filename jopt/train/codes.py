"""The integers behind a stage's quantized parameters: which codes, scales and ranges the values stand for."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jopt import measure
from jopt.quantize.integer import QTensor
from jopt.quantize.tensors import of_values
from jopt.train.plan import StagePlan
from jopt.train.state import TrainState, evaluated
from jopt.transform import Params, Storage, chain, see


def storage(plan: StagePlan, state: TrainState) -> dict[str, Storage]:
    """How the quantized parameters are stored as integers at the end of a stage, as its transform says.

    Args:
      plan: the stage, of plain Python values.
      state: the state that it ended in.

    Returns:
      Path to `Storage`, its range of NumPy arrays; parameters that are not quantized are absent.
    """
    if plan.transform.storage is None:
        return {}
    formats = plan.transform.storage(state.transform_state, evaluated(state).params)
    return {path: Storage(spec, jax.tree.map(np.asarray, range)) for path, (spec, range) in formats.items()}


def integers(plan: StagePlan, formats: Mapping[str, Storage], seen: Params) -> dict[str, QTensor]:
    """The integers of what the model sees, path by path: codes, scales, zero points, for integer execution.

    Args:
      plan: the stage.
      formats: what `storage` gave.
      seen: what the model computes with.

    Returns:
      A `QTensor` for each parameter whose values are, to the bit, what its integers stand for.
    """
    return of_values(dict(formats), plan.trainables.model_only(seen))


def grids(formats: Mapping[str, Storage]) -> dict[str, measure.IntegerCode]:
    """How the integers of each quantized parameter would be held, for its theoretical size."""
    sizes = {path: (spec, int(np.size(range.low))) for path, (spec, range) in formats.items()}
    return {
        path: measure.IntegerCode(int(spec.bits), scales, 0 if spec.symmetric else scales)
        for path, (spec, scales) in sizes.items()
        if not spec.is_identity
    }


def seen_before(plan: StagePlan, name: str, states: tuple[Any, ...], params: Params) -> Params:
    """What the method `name` of a stage is given: the parameters as the methods before it show them.

    Args:
      plan: the stage, of plain Python values.
      name: of a method that has a transform in the stage.
      states: the transforms' states.
      params: what the optimizer moves, or its average.

    Returns:
      The model's parameters, without the methods' own trainables.
    """
    place = [applied.method.name for applied, _ in plan.transforms].index(name)
    first = chain(*(transform for _, transform in plan.transforms[:place]))
    learned = plan.trainables.learned_values(params)[:place]
    model_params = plan.trainables.model_only(params)
    return jax.jit(lambda s, p, v: see(first, s, p, v))(tuple(states[:place]), model_params, learned)
