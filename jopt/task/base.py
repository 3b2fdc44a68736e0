"""Task: how a network's outputs meet targets, as one frozen config class."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from jopt.config import ConfigError, check_types
from jopt.task.metrics import Metric, Statistics, finish, loss_metric, weighted_sums

if TYPE_CHECKING:
    from jopt.data import Dataset

LOSS = "loss"


@dataclasses.dataclass(frozen=True)
class Task:
    """What is learned. A task of jopt's and a task from outside are the same kind of class: a frozen dataclass that
    derives from this one and has exactly the fields that it reads.

    Class attributes:
      name: what tables call it.
      loss_unit: of the loss.

    Example:
      A task in one class: the mean absolute error.

      >>> @dataclasses.dataclass(frozen=True)
      ... class Absolute(Task):
      ...     name: ClassVar[str] = "absolute"
      ...     loss_unit: ClassVar[str] = "units"
      ...
      ...     def losses(self, outputs, targets):
      ...         return jnp.abs(outputs - targets).mean(-1)
      >>> Absolute().losses(jnp.array([[1.0, 3.0]]), jnp.zeros((1, 2))).tolist()
      [2.0]
    """

    name: ClassVar[str] = ""
    loss_unit: ClassVar[str] = ""

    def validate(self, path: str = "task") -> None:
        """Checks the task's fields. Raises ConfigError naming the field, the value and what is accepted."""
        check_types(self, path)

    def resolved(self) -> "Task":
        """The task itself; `Custom` gives the one that it names."""
        return self

    def check(self, dataset: "Dataset") -> None:
        """Checks that the targets of a data set are what the task needs.

        Raises:
          jopt.data.DataError: naming the part, the value and what is accepted.
        """
        del dataset

    def output_shapes(self, dataset: "Dataset") -> tuple[tuple[int, ...], ...] | None:
        """The shapes that the outputs for one example may have; None: any."""
        del dataset
        return None

    def losses(self, outputs: Float[Array, "batch ..."], targets: PyTree) -> Float[Array, "batch ..."]:
        """The loss of each example, or of each of its positions: pure, differentiable.

        Args:
          outputs: float32 [batch, ...].
          targets: of the data set, [batch, ...].

        Returns:
          float32 [batch] or [batch, positions, ...]. The mean over all of them, weighted, is trained on.
        """
        raise NotImplementedError(f"{type(self).__name__} must define losses(outputs, targets)")

    def training_losses(self, outputs: Float[Array, "batch ..."], targets: PyTree) -> Float[Array, "batch ..."]:
        """The losses in training, where they differ from those that are measured (label smoothing)."""
        return self.losses(outputs, targets)

    def mask(self, targets: PyTree) -> jax.Array | None:
        """Which losses count, bool of their shape; None: all of them."""
        del targets
        return None

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What is measured in addition to the loss. The first is the deciding one, see `deciding`."""
        return ()

    @property
    def deciding(self) -> Metric:
        """The metric that says which of two networks is better: the first, or the loss where there is none."""
        return (*self.metrics, self.loss_metric)[0]

    @property
    def loss_metric(self) -> Metric:
        """The loss as a metric."""
        return loss_metric(self.loss_unit)

    def predict(self, outputs: Float[Array, "batch ..."]) -> jax.Array | None:
        """What the network decides, discrete, so that two networks can be compared by it: integers [batch, ...].

        None: its outputs are no decisions; there is no churn.
        """
        del outputs
        return None

    @property
    def trained_metrics(self) -> tuple[Metric, ...]:
        """The metrics that are computed of training batches."""
        return tuple(m for m in self.metrics if m.in_training and not m.per_example)


def total_weights(
    task: Task, losses: Float[Array, "batch ..."], targets: PyTree, weights: jax.Array | tuple[()] = ()
) -> jax.Array | None:
    """The weight of each loss, float32 of their shape: the examples' weights and the task's mask; None: all are 1.

    Args:
      task: gives the mask.
      losses: of a batch.
      targets: of the batch.
      weights: of the examples [batch] or of their positions [batch, ...]; (): none.
    """
    mask = task.mask(targets)
    if mask is None and isinstance(weights, tuple):
        return None
    product = jnp.ones(losses.shape, jnp.float32)
    if not isinstance(weights, tuple):
        product = product * weights.reshape(weights.shape + (1,) * (losses.ndim - weights.ndim))
    return product if mask is None else jnp.where(mask, product, 0)


def mean_loss(losses: Float[Array, "batch ..."], weights: jax.Array | None) -> Float[Array, ""]:
    """The weighted mean of losses; 0 where nothing counts.

    Example:
      >>> float(mean_loss(jnp.array([1.0, 4.0]), jnp.array([3.0, 1.0])))
      1.75
    """
    if weights is None:
        return losses.mean()
    sums = weighted_sums(losses, weights)
    return sums["sum"] / jnp.where(sums["weight"] > 0, sums["weight"], 1)


def statistics(
    task: Task,
    outputs: Float[Array, "batch ..."],
    targets: PyTree,
    weights: Float[Array, " batch ..."],
) -> dict[str, Statistics]:
    """The statistics of a batch for the loss and for metrics, by key.

    Args:
      task: the task.
      outputs: float32 [batch, ...].
      targets: [batch, ...].
      weights: of the examples [batch], or of the losses' shape; 0: does not count.
    """
    losses = task.losses(outputs, targets)
    product = total_weights(task, losses, targets, weights)
    assert product is not None
    of_metrics = {metric.key: metric.statistics(outputs, targets, product) for metric in task.metrics}
    return {LOSS: weighted_sums(losses, product), **of_metrics}


def measured(task: Task, batches: Mapping[str, Statistics]) -> dict[str, float]:
    """The loss and the metrics, from the statistics of batches.

    Args:
      task: the task.
      batches: by key, arrays [batches, ...] (rows [examples, ...] of a metric that is computed per example).
    """
    # In the task's order, which a program, whose dictionaries are sorted, does not keep.
    metrics = (*task.metrics, task.loss_metric)
    return {m.key: finish(m, batches[m.key]) for m in metrics if m.key in batches}


def value(task: Task, metric: Metric, outputs: ArrayLike, targets: PyTree, weights: Any = ()) -> float:
    """One metric of outputs that are on the host, all at once.

    Args:
      task: the task.
      metric: one of its metrics, or its loss.
      outputs: [examples, ...].
      targets: [examples, ...].
      weights: of the examples or of their positions; (): none.

    Example:
      >>> from jopt.task import Classification
      >>> task = Classification()
      >>> value(task, task.deciding, np.float32([[1, 0], [1, 0]]), np.array([0, 1]))
      0.5
    """
    y, targets = jnp.asarray(outputs, jnp.float32), jax.tree.map(jnp.asarray, targets)
    losses = task.losses(y, targets)
    product = total_weights(task, losses, targets, jnp.ones(len(y)) if isinstance(weights, tuple) else weights)
    assert product is not None
    batch = jax.device_get(metric.statistics(losses if metric.key == LOSS else y, targets, product))
    one = batch if metric.per_example else jax.tree.map(lambda x: np.asarray(x)[None], batch)
    return finish(metric, one)


def check_metrics(task: Task, path: str = "task") -> None:
    """Raises ConfigError for two metrics of one key, or one that is called as another number of a run."""
    keys = [metric.key for metric in task.metrics]
    for key in keys:
        fine = keys.count(key) == 1 and key not in RESERVED
        if not fine:
            accepted = f"metrics with different keys, none of them {', '.join(sorted(RESERVED))}"
            raise ConfigError(f"{path}.metrics", key, accepted)


RESERVED = frozenset(
    {LOSS, "step", "stage", "split", "steps_per_second", "first_bad_step", "hard", "soft", "features", "parameters"}
    | {"nonzero_parameters", "sparsity", "bytes", "flops", "wall_seconds", "compile_seconds", "digest", "stages"}
    | {"changes", "kl", "trial"}
)
"""Keys of metrics.jsonl and result.json that are not metrics."""


def finite_or_raise(name: str, array: np.ndarray) -> None:
    """Raises DataError unless all numbers of targets are finite."""
    from jopt.data.cache import DataError

    bad = ~np.isfinite(array)
    if bad.any():
        index = tuple(int(i[0]) for i in np.nonzero(bad))
        raise DataError(
            f"{name} must be finite numbers, got {array[index]} at index {index[0] if len(index) == 1 else index} "
            f"({int(bad.sum())} of {array.size} are not)",
            field=name,
            value=float(array[index]),
            accepted="finite numbers",
        )


def targets_of(dataset: Any) -> list[tuple[str, PyTree]]:
    """`(name, targets)` of each part of a data set, for messages."""
    from jopt.data.lazy import sample

    parts = ("train", "validation", "test")
    return [(f"targets of {part!r}", sample(getattr(dataset, part).targets)) for part in parts]
