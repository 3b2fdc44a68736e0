"""The grid that a layer's input is quantized on."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jopt.quantize.activation_config import LEARNED, ActivationConfig, layer_spec
from jopt.quantize.activations import range_of
from jopt.quantize.grid import Grid, Range, grid, stored_grid
from jopt.quantize.spec import Spec


class LayerGrid(NamedTuple):
    """How the input of one layer is quantized.

    Attributes:
      spec: with the sign that it has.
      grid: of scalars.
      calibrated: bool scalar; where False the input passes as it is.
    """

    spec: Spec
    grid: Grid
    calibrated: jax.Array


def layer_grid(config: ActivationConfig, path: str, learned: Any, held: Any) -> LayerGrid:
    """The grid on which `activations` quantizes the input of one layer in evaluation.

    Args:
      config: the config.
      path: the layer's, which the config quantizes.
      learned: the ranges in `params`, as `split` gives them.
      held: those in `model_state`.

    Returns:
      A `LayerGrid`.

    Raises:
      ValueError: if the layer has no range; if whether it is signed is traced.

    Example:
      >>> held = {"Dense_0": {"low": jnp.float32(0), "high": jnp.float32(51)}}
      >>> spec, grid, calibrated = layer_grid(ActivationConfig(), "Dense_0", {}, held)
      >>> spec.symmetric, float(grid.scale), bool(calibrated)
      (False, 0.20000000298023224, True)
    """
    spec = layer_spec(config, path)
    if config.method not in LEARNED:
        range = Range(**range_of(held, path, "model_state"))
        return LayerGrid(spec, grid(spec, range), range.low != range.high)
    number = jnp.abs(range_of(learned, path, "params")[LEARNED[config.method]])
    if not config.symmetric:
        signed = range_of(held, path, "model_state")["signed"]
        if isinstance(signed, Tracer):
            raise ValueError(
                f"whether the input of layer {path!r} is signed must not be traced: its codes depend on it"
            )
        spec = dataclasses.replace(spec, symmetric=bool(signed))
    safe = jnp.where(number == 0, jnp.float32(1), number)
    if config.method == "lsq":
        g = stored_grid(spec, jnp.maximum(safe, jnp.finfo(jnp.float32).tiny), jnp.int32(0))
    else:
        g = grid(spec, Range(-safe if spec.symmetric else jnp.zeros_like(safe), safe))
    return LayerGrid(spec, g, number != 0)
