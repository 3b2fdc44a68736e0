"""Latency of a point: the forward pass of the float network of its shape, measured on this device."""

import dataclasses
import functools
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jopt import data, measure, models, prune
from jopt.config import to_dict
from jopt.train.config import Experiment, network


class Network(NamedTuple):
    """A float network and its input.

    Attributes:
      model: the Flax module.
      params: its parameters.
      state: its other collections.
      x: zeros [batch, ...] of the input's shape.
    """

    model: nn.Module
    params: Mapping[str, Any]
    state: Mapping[str, Any]
    x: jax.Array


def shape_key(config: Experiment) -> str:
    """A string that is equal for trials whose networks have the same shapes, and so the same latency.

    It consists of the network and of the channels that are removed from it. Zeroed, shared or rounded weights are
    float numbers in arrays of the same shape, and take the same time.
    """
    last = len(config.stages) - 1
    pruning = channels(config)
    shape = [to_dict(network(config, last)), None if pruning is None else to_dict(pruning)]
    return json.dumps(shape, sort_keys=True)


def channels(config: Experiment) -> prune.Config | None:
    """The channel pruning that a trial ends with; None if it has none."""
    # A later stage that does not prune keeps the channels of an earlier one.
    last = next((stage.prune for stage in reversed(config.stages) if stage.prune is not None), None)
    return last if last is not None and last.pattern == "channel" and last.sparsity > 0 else None


def time_forward(config: Experiment, batch: int = 1) -> measure.Latency:
    """Times the float network of a trial's shape, warm, from examples on the device to logits.

    The weights are those of the first step: the time does not depend on their values.

    Args:
      config: of a trial.
      batch: examples in a call.

    Raises:
      DataError: for data that are not available.
    """
    model, params, state, x = smallest(config, batch)

    def forward(params: Mapping[str, Any], state: Mapping[str, Any], x: jax.Array) -> Any:
        return model.apply({"params": params, **state}, x, train=False)

    return measure.latency(forward, params, state, x, repeats=200, warmup=20)


def smallest(config: Experiment, batch: int = 1) -> Network:
    """The network of a trial's shape, without the channels that are pruned (`jopt.prune.shrink_all`).

    The number of channels that a layer loses follows from the config alone, unless layers share one budget; then it
    is an estimate from the weights of the first step.

    Args:
      config: of a trial.
      batch: of the input.
    """
    dataset = data.load(config.data)
    model = models.build(network(config, len(config.stages) - 1))
    x = jnp.zeros((batch, *dataset.train.inputs.shape[1:]), jnp.float32)
    # In one program: an eager initialization compiles every operation by itself.
    state = dict(jax.jit(functools.partial(model.init, train=False))(jax.random.key(0), x))
    params = state.pop("params")
    pruning = channels(config)
    if pruning is None:
        return Network(model, params, state, x)
    # One step of magnitude pruning stands for any schedule and score: only the number of channels matters here.
    at_once = dataclasses.replace(pruning, method="one_shot", score="magnitude", begin=0.0, end=1.0)
    pruner = prune.build(at_once, begin=0, steps=1)
    masks = jax.jit(lambda tree: pruner.update(pruner.init(tree), tree, step=0).masks)(params)
    like = jax.ShapeDtypeStruct(x.shape, x.dtype)
    shrunk = prune.shrink_all(model, params, masks, model_state=state or None, x=like)
    return Network(shrunk.model, shrunk.params, shrunk.model_state or {}, x)
