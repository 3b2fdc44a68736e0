"""The integers behind a stage's quantized parameters: which codes, scales and ranges the values stand for."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import numpy as np

from jopt import measure, quantize
from jopt.layers import Layers, Parameter
from jopt.quantize.assign import assign, resolve
from jopt.quantize.integer import QTensor
from jopt.quantize.spec import OUTPUTS
from jopt.rules import named_leaves
from jopt.train import compression
from jopt.train.config import Experiment
from jopt.train.state import TrainState, evaluated

_SIGNS = {"binary": 1, "xnor": 1, "ternary": 2}


class Codes(NamedTuple):
    """How the quantized parameters are held as integers; parameters that are not quantized are absent.

    Attributes:
      specs: path to the parameter's Spec. Binary weights have one bit, ternary ones two: signs times their range.
      ranges: path to the range, float32 NumPy arrays of the scales' shape.
    """

    specs: dict[str, quantize.Spec]
    ranges: dict[str, quantize.Range]


def codes(config: Experiment, stage: int, state: TrainState, seen: Any, known: Layers | None = None) -> Codes:
    """The codes of what the model sees at the end of a stage.

    Args:
      config: the experiment, of plain Python values.
      stage: index of the stage.
      state: the state that it ended in.
      seen: what the model computes with, a pytree of NumPy arrays.
      known: what the stage's model says about its parameters.

    Returns:
      The `Codes`; none where the stage quantizes nothing.
    """
    part = compression.acting(config, stage).get("quantize")
    if part is None:
        return Codes({}, {})
    code, states = part.config, state.transform_state
    kinds = [p.kind for p in compression.parts(config, stage)]
    held = states[kinds.index("quantize")]
    if code.scheme in _SIGNS:
        # The signs have no state; what the rules quantize to integers stands behind them.
        held = held[1] if code.rules else {}
    bare = compression.bare(seen)
    specs = {
        a.path: a.value
        for a in quantize.specs(code, bare, known)
        if a.value is not None and not a.value.is_identity
    }
    given = bare
    if kinds[-1] != "quantize" or not all(spec.symmetric for spec in specs.values()):
        # Only a symmetric range can be read off what was quantized with it, if no later method set its end to 0.
        latent = evaluated(state).params
        given = jax.device_get(compression.before(config, stage, "quantize", states, latent, known))
    leaves, inputs = dict(named_leaves(bare)), dict(named_leaves(given))
    ranges: dict[str, quantize.Range] = {}
    for path, spec in specs.items():
        chosen = held.get(path) or _whole(inputs[path], spec, given is bare)
        ranges[path] = jax.tree.map(np.asarray, chosen)
    for path, leaf, scheme, parameter in assign(code.rules, bare, code.scheme, known):
        if scheme in _SIGNS:
            spec = specs[path] = _signs(code, scheme, parameter, leaf.ndim)
            # Signs times their range: at one bit a range is a mean, of which what comes out is the largest.
            peak = quantize.absmax(leaves[path], dataclasses.replace(spec, bits=8))
            ranges[path] = jax.tree.map(np.asarray, peak)
    return Codes(specs, ranges)


def _whole(values: Any, spec: quantize.Spec, quantized: bool) -> quantize.Range:
    """The range that `fake_quantize` chose, from what it was given or, symmetric, from what it gave."""
    if not spec.symmetric:
        return quantize.minmax(values, spec)
    # At one bit the range is a mean, of which what comes out is the largest.
    return quantize.absmax(values, dataclasses.replace(spec, bits=8) if quantized else spec)


def integers(found: Codes, seen: Any) -> dict[str, QTensor]:
    """The integers of what the model sees, path by path: codes, scales, zero points, for integer execution.

    Args:
      found: what `codes` gave.
      seen: what the model computes with.

    Returns:
      A `QTensor` for each parameter whose values are, to the bit, what its integers stand for.
    """
    leaves = dict(named_leaves(compression.bare(seen)))
    out = {}
    for path, spec in found.specs.items():
        q = quantize.quantize(leaves[path], spec, found.ranges[path])
        if np.array_equal(np.asarray(quantize.dequantize(q, leaves[path].dtype)), np.asarray(leaves[path])):
            out[path] = q
    return out


def grids(config: Experiment, stage: int, params: Any, known: Layers | None = None) -> dict[str, measure.Grid]:
    """How the integers of each quantized parameter would be held, for its theoretical size."""
    code = compression.acting(config, stage)["quantize"].config
    params = compression.bare(params)
    found = {}
    for path, leaf, spec, _ in quantize.specs(code, params, known):
        if spec is not None and not spec.is_identity:
            scales = math.prod(quantize.scale_shape(tuple(leaf.shape), spec))
            found[path] = measure.Grid(int(spec.bits), scales, 0 if spec.symmetric else scales)
    for path, leaf, scheme, parameter in assign(code.rules, params, code.scheme, known):
        if scheme in _SIGNS:
            spec = _signs(code, scheme, parameter, leaf.ndim)
            found[path] = measure.Grid(_SIGNS[scheme], math.prod(quantize.scale_shape(tuple(leaf.shape), spec)))
    return found


def _signs(code: quantize.Config, scheme: str, parameter: Parameter, ndim: int) -> quantize.Spec:
    """The Spec of signs: XNOR-Net's, and ternary ones where the config says so, have a scale for each channel."""
    by_channel = scheme == "xnor" or (scheme == "ternary" and code.granularity == "channel")
    return resolve(quantize.Spec(_SIGNS[scheme], axis=OUTPUTS if by_channel else None), parameter, ndim)
