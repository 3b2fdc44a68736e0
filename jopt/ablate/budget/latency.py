"""Latency of a point: the forward pass of the float network of its shape, measured on this device."""

import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from jopt import data, measure, models, prune
from jopt.config import to_dict
from jopt.method import Method
from jopt.train.config import Experiment
from jopt.train.given import Given
from jopt.train.plan import applied_methods, final_network
from jopt.typing import ModelState, Params


class Network(NamedTuple):
    """A float network and its input.

    Attributes:
      model: its functions.
      params: its parameters.
      state: its model state.
      x: zeros [batch, ...] of the inputs' shapes.
    """

    model: models.Model
    params: Params
    state: ModelState
    x: PyTree


def shape_key(config: Experiment) -> str:
    """A string that is equal for trials whose networks have the same shapes, and so the same latency.

    It consists of the network and of the channels that are removed from it. Zeroed, shared or rounded weights are
    float numbers in arrays of the same shape, and take the same time.
    """
    pruning = channels(config)
    shape = [to_dict(final_network(config)), None if pruning is None else to_dict(pruning)]
    return json.dumps(shape, sort_keys=True)


def channels(config: Experiment) -> prune.OneShot | None:
    """The pruning of whole channels that a trial ends with, at once and by magnitude; None if it has none."""
    applied = applied_methods(config, len(config.stages) - 1)
    method = next((a.method for a in applied if a.method.name == "prune"), None)
    if method is None or not _prunes_channels(method):
        return None
    sparsity, budget, pattern, rules = (
        getattr(method, name) for name in ("sparsity", "budget", "pattern", "rules")
    )
    # Only the counts matter, and they are those at the end, whatever the score.
    return prune.OneShot(sparsity, pattern=pattern, budget=budget, rules=rules)


def _prunes_channels(method: Method) -> bool:
    pattern = getattr(method, "pattern", None)
    whole = pattern == "channel" or isinstance(pattern, prune.Channel)
    return whole and getattr(method, "sparsity", 0.0) > 0


def time_forward(config: Experiment, batch: int = 1, objects: Given | None = None) -> measure.Latency:
    """Times the float network of a trial's shape, warm, from examples on the device to logits.

    The weights are those of the first step: the time does not depend on their values.

    Args:
      config: of a trial.
      batch: examples in a call.
      objects: a model and a data set that no config describes.

    Raises:
      DataError: for data that are not available.
    """
    model, params, state, x = smallest(config, batch, objects)

    def forward(params: Params, state: ModelState, x: PyTree) -> jax.Array:
        return model.apply(params, state, x, train=False)[0]

    return measure.latency(forward, params, state, x, repeats=200, warmup=20)


def smallest(config: Experiment, batch: int = 1, objects: Given | None = None) -> Network:
    """The network of a trial's shape, without the channels that are pruned (`jopt.prune.shrink_all`).

    The number of channels that a layer loses follows from the config alone, unless layers share one budget; then it
    is an estimate from the weights of the first step.

    Args:
      config: of a trial.
      batch: of the input.
      objects: a model and a data set that no config describes.
    """
    own_model, dataset = (None, None) if objects is None else (objects.model, objects.dataset)
    dataset = data.load(config.data) if dataset is None else dataset
    network = final_network(config)
    # A network that a stage names stands in the place of the one that was given.
    own_model = own_model if all(stage.model is None for stage in config.stages) else None
    model = network.model() if own_model is None else own_model
    x = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), data.batch_of(dataset.example, batch))
    # In one program: an eager initialization compiles every operation by itself.
    params, state = jax.jit(model.init)(jax.random.key(0), x)
    pruning = channels(config)
    # Other networks are no modules that jopt could take channels from.
    if pruning is None or own_model is not None or not isinstance(network, models.ModelConfig):
        return Network(model, params, state, x)
    pruner = pruning.build(steps=1)
    masks = jax.jit(lambda tree: pruner.update(pruner.init(tree), tree, step=0).masks)(params)
    like = data.batch_of(dataset.example, batch)
    shrunk = prune.shrink_all(models.build(network), params, masks, model_state=state or None, x=like)
    return Network(models.from_linen(shrunk.model), shrunk.params, shrunk.model_state or {}, x)
