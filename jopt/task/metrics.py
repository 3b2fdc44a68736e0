"""Metric: a number that says how good outputs are, exact over batches, parts and devices."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from jopt.config import choice, require

Statistics = PyTree
"""Arrays from which a metric is computed: sums over a batch, or one row for each of its examples."""


@dataclasses.dataclass(frozen=True)
class Metric:
    """A number of a task.

    What is computed of a batch on the device are its sufficient statistics. Those of all batches are added on the
    host in float64, and `finish` makes the number of the sums: so it does not depend on how examples are cut into
    batches, as a mean of batches' numbers would.

    Attributes:
      key: its name in metrics.jsonl, result.json and tables: an identifier.
      label: as tables and figures show it.
      statistics: `(outputs, targets, weights) -> statistics` of a batch, pure. `outputs` are float32 [batch, ...];
        `weights` are float32 of the losses' shape, 0 for what does not count (padding, masked positions).
      finish: `statistics -> float`, on the host, of NumPy arrays: sums in float64, or all rows.
      better: 'higher' or 'lower'.
      unit: of the number, such as 'bits'.
      format: as `jopt.measure.Column.format`: 'percent' for a share in [0, 1], or a format specification.
      per_example: the statistics are rows, [batch, ...], and are joined instead of added: for numbers such as the
        area under a curve that no sums determine. They are not computed in training.
      in_training: whether it is computed of every training batch too.

    Example:
      >>> squared = Metric("mse", "mean squared error",
      ...                  lambda y, t, w: {"sum": jnp.sum(w * (y - t) ** 2), "weight": w.sum()},
      ...                  lambda s: s["sum"] / s["weight"], better="lower", format=".3f")
      >>> batch = squared.statistics(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0]), jnp.ones(2))
      >>> float(squared.finish(batch))
      2.0
    """

    key: str
    label: str
    statistics: Callable[[jax.Array, Any, jax.Array], Statistics]
    finish: Callable[[Any], Any]
    better: Literal["higher", "lower"] = "higher"
    unit: str = ""
    format: str = "number"
    per_example: bool = False
    in_training: bool = True

    def __post_init__(self) -> None:
        require(self.key.isidentifier(), "metric.key", self.key, "an identifier, such as 'f1'")
        choice(f"metric {self.key}.better", self.better, ["higher", "lower"])

    def improves(self, value: float, on: float) -> bool:
        """Whether a value is better than another; NaN never is.

        Example:
          >>> loss_metric("nats").improves(0.5, on=0.75)
          True
        """
        return value > on if self.better == "higher" else value < on


def loss_metric(unit: str) -> Metric:
    """The mean loss, whose statistics are made of the losses themselves.

    Example:
      >>> loss_metric("nats").finish({"sum": 3.0, "weight": 4.0})
      0.75
    """
    return Metric("loss", "loss", lambda losses, _, weights: weighted_sums(losses, weights), mean, "lower", unit)


def weighted_sums(values: Float[Array, "..."], weights: Float[Array, "..."]) -> dict[str, jax.Array]:
    """`sum w v` and `sum w`, float32 []. Of what has weight 0, values may be anything, also NaN."""
    # Chosen, not only multiplied: padding may have any value.
    return {"sum": jnp.sum(jnp.where(weights > 0, weights * values, 0)), "weight": jnp.sum(weights)}


def mean(statistics: Mapping[str, Any]) -> Any:
    """What `weighted_sums` is for; 0 where nothing counts."""
    return statistics["sum"] / statistics["weight"] if statistics["weight"] else 0.0


def total(metric: Metric, batches: Statistics) -> Statistics:
    """The statistics of a part of the data, from those of its batches.

    Args:
      metric: whose they are.
      batches: arrays [batches, ...], or rows [examples, ...] of a metric that is computed per example.

    Returns:
      Float64 sums [...], or the rows as they are.
    """
    if metric.per_example:
        return jax.tree.map(np.asarray, batches)
    return jax.tree.map(lambda x: np.asarray(x).astype(np.float64).sum(0), batches)


def finish(metric: Metric, batches: Statistics) -> float:
    """The metric's value from the statistics of batches, as `total` takes them; rounded to float32.

    Example:
      >>> finish(loss_metric("nats"), {"sum": np.float32([1, 2]), "weight": np.float32([2, 2])})
      0.75
    """
    return float(np.float32(metric.finish(total(metric, batches))))
