"""What a quantization config gives each parameter: printed before a run."""

import math
from typing import Any

from jopt.layers import Layers, PlanRow
from jopt.quantize.assign import assign
from jopt.quantize.config import Config, spec_of
from jopt.quantize.groups import scale_shape
from jopt.quantize.spec import UNTOUCHED

_SIGNS = {
    "binary": "sign",
    "xnor": "sign times the mean magnitude of the channel",
    "ternary": "-alpha, 0 or alpha",
}


def plan(config: Config, params: Any, layers: Layers | None = None) -> list[PlanRow]:
    """Resolves a config over the parameters.

    Args:
      config: the config, of plain Python values.
      params: a pytree of arrays, or shapes as `jax.eval_shape` gives them.
      layers: what the model says about its parameters; None: what their names and shapes say.

    Returns:
      A `PlanRow` for each leaf, in leaf order.

    Raises:
      RuleError: if a rule matches no parameter.
      ValueError: if groups do not come out even, naming the path.

    Example:
      >>> import jax.numpy as jnp
      >>> for row in plan(Config(bits=4), {"bias": jnp.zeros(2), "kernel": jnp.zeros((3, 2))}):
      ...     print(row.path, row.what)
      bias left as it is
      kernel 4-bit symmetric, auto, 2 scales of 3 values
    """
    default = {"integer": config.bits, "identity": None}.get(config.scheme, config.scheme)
    rows = []
    for path, leaf, value, parameter in assign(config.rules, params, default, layers):
        shape = tuple(leaf.shape)
        if value is None:
            what = "left as it is"
        elif isinstance(value, str):
            what = _SIGNS[value]
        else:
            spec = spec_of(config, value, parameter, len(shape))
            try:
                scales = math.prod(scale_shape(shape, spec))
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error
            kind = "symmetric" if config.symmetric else "asymmetric"
            shared = "1 scale" if scales == 1 else f"{scales} scales of {math.prod(shape) // scales} values"
            what = f"{value}-bit {kind}, {config.calibration}, {shared}" if value != UNTOUCHED else "left as it is"
        rows.append(PlanRow(path, shape, what, parameter.reason))
    return rows
