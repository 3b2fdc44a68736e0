"""Checks, by shapes alone, that a task's functions go with a network's outputs and a data set's targets."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jopt.config import ConfigError, require
from jopt.task.base import Task
from jopt.task.metrics import Metric

if TYPE_CHECKING:
    from jopt.data import Dataset


def check_functions(task: Task, outputs: jax.ShapeDtypeStruct, dataset: "Dataset", path: str = "task") -> None:
    """Raises unless a task gives a loss for each example, and what its metrics and predictions should be.

    Args:
      task: of any class.
      outputs: of the network, [batch, ...], for a batch of any size.
      dataset: gives the targets, and the weights.
      path: of the task in the config.

    Raises:
      ConfigError: naming the function, what it gives and what is accepted. Errors of the function come through in
        its message.
      jopt.data.DataError: for weights that are neither of the examples nor of their positions.
    """
    batch = outputs.shape[0]
    y = jax.ShapeDtypeStruct(outputs.shape, jnp.float32)
    targets = jax.tree.map(lambda a: jax.ShapeDtypeStruct((batch, *a.shape[1:]), a.dtype), dataset.train.targets)

    def shapes(name: str, function: Callable[..., Any], *arguments: PyTree) -> PyTree:
        try:
            return jax.eval_shape(function, *arguments)
        except (ValueError, TypeError, IndexError, KeyError, AttributeError, NotImplementedError) as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            require(False, f"{path}.{name}", task.name, f"a function of this network's outputs ({reason})")

    for name, function in (("losses", task.losses), ("training_losses", task.training_losses)):
        given = shapes(name, function, y, targets)
        fine = hasattr(given, "shape") and given.shape[:1] == (batch,) and jnp.issubdtype(given.dtype, jnp.floating)
        accepted = f"a float for each of {batch} examples, or of their positions: [{batch}, ...]"
        require(fine, f"{path}.{name}", _shown(given), accepted)
    losses = shapes("losses", task.losses, y, targets)
    mask = shapes("mask", task.mask, targets)
    fine = mask is None or (getattr(mask, "shape", None) == losses.shape and mask.dtype == jnp.bool_)
    require(fine, f"{path}.mask", _shown(mask), f"None, or bool{list(losses.shape)}, as the losses")
    _check_weights(dataset, losses)
    weights = jax.ShapeDtypeStruct(losses.shape, jnp.float32)
    for metric in task.metrics:
        _check_metric(metric, shapes(f"metrics.{metric.key}", metric.statistics, y, targets, weights), batch, path)
    chosen = shapes("predict", task.predict, y)
    fine = chosen is None or (
        getattr(chosen, "shape", ())[:1] == (batch,) and jnp.issubdtype(chosen.dtype, jnp.integer)
    )
    require(fine, f"{path}.predict", _shown(chosen), f"None, or integers [{batch}, ...]")


def _check_weights(dataset: "Dataset", losses: jax.ShapeDtypeStruct) -> None:
    from jopt.data.cache import DataError

    weights = dataset.train.weights
    if isinstance(weights, tuple):
        return
    shape = weights.shape[1:]
    # Others would broadcast against the losses, and weigh each of them by other examples' weights.
    if shape != losses.shape[1 : 1 + len(shape)]:
        accepted = f"of the examples [examples] or of their losses [examples, ...] ({list(losses.shape[1:])} each)"
        shown = list(weights.shape)
        raise DataError(f"weights must be {accepted}, got {shown}", field="weights", value=shown, accepted=accepted)


def _check_metric(metric: Metric, statistics: PyTree, batch: int, path: str) -> None:
    field = f"{path}.metrics.{metric.key}"
    if metric.per_example:
        fine = all(leaf.shape[:1] == (batch,) for leaf in jax.tree.leaves(statistics))
        accepted = f"one row for each of {batch} examples, as the metric is per_example"
        require(fine, field, _shown(statistics), accepted)
        return
    # Of ones: what a function of sums makes of them is of no interest, only that it makes a number.
    ones = jax.tree.map(lambda a: np.ones(a.shape), statistics)
    try:
        with np.errstate(all="ignore"):
            float(metric.finish(ones))
    except (KeyError, TypeError, AttributeError, NameError, IndexError) as error:
        accepted = f"a metric whose finish makes a number of its statistics ({type(error).__name__}: {error})"
        raise ConfigError(field, _shown(statistics), accepted) from error


def _shown(given: PyTree) -> str:
    return str(jax.tree.map(lambda x: f"{x.dtype}{list(x.shape)}", given))
