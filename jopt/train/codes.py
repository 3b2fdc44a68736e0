"""The integers behind a stage's quantized parameters: which codes, scales and ranges the values stand for."""

import math
from typing import Any

import jax
import numpy as np

from jopt import measure, quantize
from jopt.layers import Layers, Parameter
from jopt.quantize.assign import assign, resolve
from jopt.quantize.integer import QTensor
from jopt.quantize.spec import OUTPUTS
from jopt.quantize.stored import of_values
from jopt.train import compression
from jopt.train.config import Experiment
from jopt.train.state import TrainState, evaluated
from jopt.transform import Storage

_SIGNS = {"binary": 1, "xnor": 1, "ternary": 2}


def codes(config: Experiment, stage: int, state: TrainState, known: Layers | None = None) -> dict[str, Storage]:
    """How the quantized parameters are stored as integers at the end of a stage, as its transform says.

    Args:
      config: the experiment, of plain Python values.
      stage: index of the stage.
      state: the state that it ended in.
      known: what the stage's model says about its parameters.

    Returns:
      Path to `Storage`, its range of NumPy arrays; parameters that are not quantized are absent.
    """
    transform = compression.transform(config, stage, begin=0, steps=0, known=known)
    if transform.storage is None:
        return {}
    found = transform.storage(state.transform_state, evaluated(state).params)
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


def grids(
    config: Experiment, stage: int, params: Any, known: Layers | None = None
) -> dict[str, measure.IntegerCode]:
    """How the integers of each quantized parameter would be held, for its theoretical size."""
    code = compression.acting(config, stage)["quantize"].config
    params = compression.bare(params)
    found = {}
    for path, leaf, spec, _ in quantize.specs(code, params, known):
        if spec is not None and not spec.is_identity:
            scales = math.prod(quantize.scale_shape(tuple(leaf.shape), spec))
            found[path] = measure.IntegerCode(int(spec.bits), scales, 0 if spec.symmetric else scales)
    for path, leaf, scheme, parameter in assign(code.rules, params, code.scheme, known):
        if scheme in _SIGNS:
            spec = _signs(code, scheme, parameter, leaf.ndim)
            found[path] = measure.IntegerCode(
                _SIGNS[scheme], math.prod(quantize.scale_shape(tuple(leaf.shape), spec))
            )
    return found


def _signs(code: quantize.Config, scheme: str, parameter: Parameter, ndim: int) -> quantize.Spec:
    """The Spec of signs: XNOR-Net's, and ternary ones where the config says so, have a scale for each channel."""
    by_channel = scheme == "xnor" or (scheme == "ternary" and code.granularity == "channel")
    return resolve(quantize.Spec(_SIGNS[scheme], axis=OUTPUTS if by_channel else None), parameter, ndim)
