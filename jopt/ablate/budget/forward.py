"""Latency of a point: the forward pass of the float network of its shape, measured on this device."""

import functools
import json
from typing import Any

import jax
import jax.numpy as jnp

from jopt import data, models, prune
from jopt.config import to_dict
from jopt.measure import Latency, latency
from jopt.train.config import Experiment
from jopt.train.plan import applied_methods, final_network


def shape_key(config: Experiment) -> str:
    """What the latency of a trial's network depends on: equal keys, equal shapes.

    That is the network, and what is cut out of it: whole channels. Single weights that are zero, shared or rounded
    are float numbers in arrays of the same shape, and cost the same time.
    """
    cut = channels(config)
    return json.dumps([to_dict(final_network(config)), None if cut is None else to_dict(cut)], sort_keys=True)


def channels(config: Experiment) -> Any:
    """The pruning of whole channels that a trial ends with; None if it has none."""
    applied = applied_methods(config, len(config.stages) - 1)
    pruning: Any = next((a.method for a in applied if a.method.name == "prune"), None)
    return pruning if pruning is not None and pruning.pattern == "channel" and pruning.sparsity > 0 else None


def measure(config: Experiment, batch: int = 1) -> Latency:
    """Times the float network of a trial's shape, warm, from examples on the device to logits.

    Its weights are those of the first step, not what was learned: the time does not depend on them.

    Args:
      config: of a trial.
      batch: examples in a call.

    Raises:
      DataError: for data that are not there.
    """
    model, params, state, x = smallest(config, batch)

    def forward(params: Any, state: Any, x: jax.Array) -> Any:
        return model.apply({"params": params, **state}, x, train=False)

    return latency(forward, params, state, x, repeats=200, warmup=20)


def smallest(config: Experiment, batch: int = 1) -> tuple[Any, Any, Any, jax.Array]:
    """The network that a trial's shape comes down to: pruned channels are removed (`jopt.prune.shrink_all`).

    How many channels a layer loses follows from the config alone, unless layers compete for one budget; then it is
    what the first step's weights say.

    Args:
      config: of a trial.
      batch: of the input.

    Returns:
      The Flax module, its parameters, its other state, and zeros of the input's shape.
    """
    dataset = data.load(config.data)
    model = models.build(final_network(config))
    x = jnp.zeros((batch, *dataset.train.inputs.shape[1:]), jnp.float32)
    state = dict(jax.jit(functools.partial(model.init, train=False))(jax.random.key(0), x))
    params = state.pop("params")
    cut = channels(config)
    if cut is None:
        return model, params, state, x
    # All at once, by magnitude: only the counts matter.
    at_once = prune.OneShot(cut.sparsity, pattern=cut.pattern, budget=cut.budget, rules=cut.rules)
    pruner = at_once.build(steps=1)
    masks = jax.jit(lambda tree: pruner.update(pruner.init(tree), tree, step=0).masks)(params)
    like = jax.ShapeDtypeStruct(x.shape, x.dtype)
    found = prune.shrink_all(model, params, masks, model_state=state or None, x=like)
    return found.model, found.params, found.model_state or {}, x
