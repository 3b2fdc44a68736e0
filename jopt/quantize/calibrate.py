"""Calibration of a model's activation ranges from examples."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jopt import intercept
from jopt.quantize.activation_config import LEARNED, ActivationConfig
from jopt.quantize.activations import checked_bits, join, split
from jopt.quantize.checks import check_array
from jopt.quantize.learned import lsq_step
from jopt.quantize.ranges import dynamic, mse, percentile
from jopt.quantize.spec import Spec


def calibrate(
    model: Any, config: ActivationConfig, params: Any, model_state: Any, x: jax.Array, *, seen: Any = None
) -> tuple[Any, Any]:
    """Chooses the range of each layer's input from what the model, not quantized, makes of some examples.

    With v the inputs of a layer over examples, positions and calls:

    - absmax and moving_average: low and high of all of v (`jopt.quantize.dynamic`);
    - percentile, mse: `jopt.quantize.percentile` and `mse`;
    - lsq: `jopt.quantize.lsq_step`, 2 mean|v| / sqrt(largest code), the mean over what is not 0;
    - pact: alpha = the percentile of v (of |v| where signed);
    - lsq and pact, unless `config.symmetric`: signed = whether any v is negative.

    Args:
      model: the model as it was before `activations`.
      config: the config that `activations` gets.
      params: the parameters; ranges in them are replaced.
      model_state: the state; likewise.
      x: examples as the model takes them; the first `config.examples` are looked at.
      seen: what the model sees of `params`, such as masked and quantized ones; None: `params`.

    Returns:
      `(params, model_state)` for the model that `activations` gives, with ranges.

    Raises:
      RuleError: if a rule matches no layer.
      ValueError: as `activations`, and if (unless traced) a layer's input is not finite.

    Example:
      >>> from jopt import models
      >>> from jopt.quantize.activations import activations
      >>> plain, config = models.model(models.Config("linear", num_classes=1)), ActivationConfig("absmax", bits=2)
      >>> params = {"Dense_0": {"kernel": jnp.ones((2, 1)), "bias": jnp.zeros(1)}}
      >>> params, state = calibrate(plain, config, params, {}, jnp.array([[0.0, 1.0], [2.0, 3.0]]))
      >>> {name: float(value) for name, value in state["activation_ranges"]["Dense_0"].items()}
      {'low': 0.0, 'high': 3.0}
      >>> x = jnp.array([[0.6, 9.0]])                                 # quantized to 1 and 3
      >>> activations(plain, config).apply(params, state, x, train=False)[0].tolist()
      [[4.0]]
    """
    bare, _ = split("params", params if seen is None else seen)
    params, _ = split("params", params)
    model_state, _ = split("model_state", model_state)
    if config.is_identity and not config.rules:
        return params, model_state
    forward = functools.partial(model.apply, train=False)
    _, calls = intercept.capture(forward)(bare, model_state, x[: config.examples])
    learned, held = {}, {}
    for path, bits in checked_bits(config, calls).items():
        if bits is None:
            continue
        values = jnp.concatenate([call.input.astype(jnp.float32).reshape(-1) for call in calls[path]])
        check_array(values, f"the input of layer {path!r}")
        of_params, of_state = _chosen(config, Spec(bits, symmetric=config.symmetric), values)
        if of_params:
            learned[path] = of_params
        if of_state:
            held[path] = of_state
    return join("params", params, learned), join("model_state", model_state, held)


def _chosen(
    config: ActivationConfig, spec: Spec, values: jax.Array
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """What goes into `params` and into `model_state`."""
    if config.method not in LEARNED:
        if config.method == "percentile":
            range = percentile(values, spec, config.percentile)
        else:
            range = mse(values, spec) if config.method == "mse" else dynamic(values, spec)
        return {}, range._asdict()
    number = _start(config, spec, values)
    if config.symmetric:
        return {LEARNED[config.method]: number}, {}
    signed = values.min() < 0
    number = jnp.where(signed, _start(config, Spec(spec.bits), values), number)
    return {LEARNED[config.method]: number}, {"signed": signed}


def _start(config: ActivationConfig, spec: Spec, values: jax.Array) -> jax.Array:
    if config.method == "pact":
        return percentile(values, spec, config.percentile).high
    return jnp.where(jnp.any(values != 0), lsq_step(values, spec), jnp.float32(0))
