"""The integers behind a stage's quantized parameters: which codes, scales and ranges the values stand for."""

import math
from typing import Any

import jax
import numpy as np

from jopt import measure, quantize
from jopt.quantize.assign import assign
from jopt.quantize.integer import QTensor
from jopt.quantize.stored import of_values
from jopt.train import compression
from jopt.train.config import Experiment
from jopt.train.state import TrainState
from jopt.transform import Storage

_SIGNS = {"binary": 1, "xnor": 1, "ternary": 2}


def codes(config: Experiment, stage: int, state: TrainState) -> dict[str, Storage]:
    """How the quantized parameters are held as integers at the end of a stage, as its own transform says.

    Args:
      config: the experiment, of plain Python values.
      stage: index of the stage.
      state: the state that it ended in.

    Returns:
      Path to `Storage`, its range of NumPy arrays; parameters that are not quantized are absent.
    """
    transform = compression.transform(config, stage, begin=0, steps=0)
    if transform.storage is None:
        return {}
    moved = state.params if config.ema_decay is None else state.ema
    found = transform.storage(state.transform_state, moved)
    return {path: Storage(spec, jax.tree.map(np.asarray, range)) for path, (spec, range) in found.items()}


def integers(found: dict[str, Storage], seen: Any) -> dict[str, QTensor]:
    """The integers of what the model sees, path by path: codes, scales, zero points, for integer execution.

    Args:
      found: what `codes` gave.
      seen: what the model computes with.

    Returns:
      A `QTensor` for each parameter whose values are, to the bit, what its integers stand for.
    """
    return of_values(found, compression.bare(seen))


def grids(config: Experiment, stage: int, params: Any) -> dict[str, measure.Grid]:
    """How the integers of each quantized parameter would be held, for its theoretical size."""
    code = compression.acting(config, stage)["quantize"].config
    params = compression.bare(params)
    found = {}
    for path, leaf, spec in quantize.specs(code, params):
        if spec is not None and not spec.is_identity:
            scales = math.prod(quantize.scale_shape(tuple(leaf.shape), spec))
            found[path] = measure.Grid(int(spec.bits), scales, 0 if spec.symmetric else scales)
    for path, leaf, scheme in assign(code.rules, params, code.scheme):
        if scheme in _SIGNS:
            found[path] = measure.Grid(_SIGNS[scheme], leaf.shape[-1] if _by_channel(code, scheme) else 1)
    return found


def _by_channel(code: quantize.Config, scheme: str) -> bool:
    """Whether signs have a scale for each output channel."""
    return scheme == "xnor" or (scheme == "ternary" and code.granularity == "channel")
