"""Regression: outputs that are numbers."""

import dataclasses
from typing import TYPE_CHECKING, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jopt.config import choice, require
from jopt.hyper import as_traced
from jopt.task.base import Task, finite_or_raise, targets_of
from jopt.task.metrics import Metric, mean, weighted_sums

if TYPE_CHECKING:
    from jopt.data import Dataset

LOSSES = ("squared", "absolute", "huber")


@dataclasses.dataclass(frozen=True)
class Regression(Task):
    """One or several numbers each example.

    Targets are floats [examples] or [examples, numbers]; outputs have their shape, or [examples, 1] for [examples].

    Attributes:
      loss: 'squared', 'absolute' or 'huber' (Huber 1964: squared up to `delta`, linear beyond).
      delta: of 'huber', in units of the targets.

    Example:
      >>> Regression().losses(jnp.array([[1.0], [4.0]]), jnp.array([1.0, 2.0])).tolist()
      [0.0, 4.0]
    """

    name: ClassVar[str] = "regression"
    loss: str = "squared"
    delta: float | None = None

    def validate(self, path: str = "task") -> None:
        """Checks the task's fields."""
        super().validate(path)
        choice(f"{path}.loss", self.loss, LOSSES)
        huber = self.loss == "huber"
        fine = self.delta is not None and as_traced(self.delta) > 0 if huber else self.delta is None
        require(fine, f"{path}.delta", self.delta, "above 0" if huber else f"None: {self.loss!r} has no delta")

    def check(self, dataset: "Dataset") -> None:
        """Checks that targets are finite floats of one shape."""
        from jopt.data.cache import DataError

        for name, targets in targets_of(dataset):
            if not isinstance(targets, np.ndarray) or not np.issubdtype(targets.dtype, np.floating):
                shown = getattr(targets, "dtype", type(targets).__name__)
                accepted = "floats [examples] or [examples, numbers]"
                message = f"{name} must be {accepted}, got {shown}"
                raise DataError(message, field=name, value=shown, accepted=accepted)
            finite_or_raise(name, targets)

    def output_shapes(self, dataset: "Dataset") -> tuple[tuple[int, ...], ...] | None:
        """The targets' shape, also with an axis of one number."""
        shape = dataset.train.targets.shape[1:]
        return (shape,) if shape else ((1,), ())

    def losses(
        self, outputs: Float[Array, "batch ..."], targets: Float[Array, "batch ..."]
    ) -> Float[Array, " batch"]:
        """The loss of each example, the mean over its numbers, in units of the targets (squared)."""
        error = _error(outputs, targets)
        if self.loss == "squared":
            values = error**2
        elif self.loss == "absolute":
            values = jnp.abs(error)
        else:
            delta = jnp.float32(0) if self.delta is None else self.delta
            size = jnp.abs(error)
            values = jnp.where(size <= delta, error**2 / 2, delta * (size - delta / 2))
        return values.reshape(values.shape[0], -1).mean(-1)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """`r2` (the mean over the numbers), `mse`, `rmse` and `mae`, in units of the targets."""
        return (
            # From all rows: with sums alone, numbers far from 0 would leave the variance no digits.
            Metric("r2", "R²", _rows, _r2, format=".4f", per_example=True),
            Metric("mse", "mean squared error", _squared, mean, "lower"),
            Metric("rmse", "root mean squared error", _squared, lambda s: np.sqrt(mean(s)), "lower"),
            Metric("mae", "mean absolute error", _absolute, mean, "lower"),
        )


def _error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    return outputs.reshape(targets.shape) - targets


def _squared(outputs: jax.Array, targets: jax.Array, weights: jax.Array) -> dict[str, jax.Array]:
    squares = _error(outputs, targets) ** 2
    return weighted_sums(squares.reshape(len(squares), -1).mean(-1), weights)


def _absolute(outputs: jax.Array, targets: jax.Array, weights: jax.Array) -> dict[str, jax.Array]:
    sizes = jnp.abs(_error(outputs, targets))
    return weighted_sums(sizes.reshape(len(sizes), -1).mean(-1), weights)


def _rows(outputs: jax.Array, targets: jax.Array, weights: jax.Array) -> dict[str, jax.Array]:
    return {"outputs": outputs.reshape(targets.shape), "targets": targets, "weights": weights}


def _r2(rows: dict[str, np.ndarray]) -> float:
    """`1 - sum w (y - t)^2 / sum w (t - mean)^2`; a number that never varies counts 1 if it is met, else 0."""
    weights = rows["weights"].astype(np.float64)[:, None]
    count = len(weights)
    outputs, targets = (rows[name].astype(np.float64).reshape(count, -1) for name in ("outputs", "targets"))
    outputs, targets = (np.where(weights > 0, x, 0) for x in (outputs, targets))
    center = (weights * targets).sum(0) / max(weights.sum(), np.finfo(float).tiny)
    residual = (weights * (outputs - targets) ** 2).sum(0)
    variation = (weights * (targets - center) ** 2).sum(0)
    constant = np.where(residual == 0, 1.0, 0.0)
    return float(np.where(variation > 0, 1 - residual / np.where(variation > 0, variation, 1), constant).mean())
