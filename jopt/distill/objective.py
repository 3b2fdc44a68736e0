"""What a distilled student minimizes."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from jopt.config import ConfigError, choice
from jopt.distill.config import LOSSES, Config
from jopt.distill.features import FEATURE_LOSSES
from jopt.distill.losses import combine, loss, mse
from jopt.distill.operands import float32
from jopt.hyper import check_number

Features = Mapping[str, jax.Array]


def objective(
    config: Config,
    student_logits: jax.Array,
    hard_losses: jax.Array,
    teacher_logits: jax.Array,
    *,
    student_features: Features | None = None,
    teacher_features: Features | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """What a distilled student minimizes on a batch.

    Args:
      config: a valid config; its numbers may be traced.
      student_logits: floating [batch, classes].
      hard_losses: floating [batch], each example's loss on its label.
      teacher_logits: floating [batch, classes], of the same examples as they are seen by the student.
      student_features: from the names of layers to floating [batch, ...]; read where `config.features` has pairs.
      teacher_features: likewise.

    Returns:
      The loss, float32 [], and its unweighted parts, float32 [] each: `hard`; `soft`, with the factor of T squared;
      `features`, where there are any; and `kl`, the divergence at T = 1, in nats, no part of the loss, in
      which runs of any loss and temperature compare.

    Raises:
      ConfigError: for an unknown loss, or a concrete weight out of range.
      ValueError: for shapes that do not fit, or a layer without features.

    Example:
      >>> student, teacher = jnp.array([[0.0, 0.0]]), jnp.array([[2.0, 0.0]])
      >>> total, parts = objective(Config("runs/big", "mse", weight=0.25), student, jnp.array([1.0]), teacher)
      >>> float(total), float(parts["hard"]), float(parts["soft"]), round(float(parts["kl"]), 4)
      (1.25, 1.0, 2.0, 0.3278)
    """
    choice("loss", config.loss, LOSSES)
    if hard_losses.shape != student_logits.shape[:-1]:
        raise ValueError(
            f"hard_losses must be of shape {student_logits.shape[:-1]}, one for each of the logits' examples, "
            f"got {hard_losses.shape}"
        )
    if config.loss == "soft":
        soft = loss(student_logits, teacher_logits, config.temperature)
    else:
        soft = mse(student_logits, teacher_logits)
    total, parts = combine(float32("hard_losses", hard_losses).mean(), soft, config.weight)
    check_number("feature_weight", config.feature_weight, lambda x: x >= 0, "a finite number, at least 0")
    if config.features:
        match = _feature_loss(config)
        parts["features"] = jnp.float32(0)
        for i, (ours, theirs) in enumerate(config.features):
            pair = (
                _layer("student", student_features, ours, i),
                _layer("teacher", teacher_features, theirs, i),
            )
            try:
                parts["features"] += match(*pair)
            except ValueError as error:
                raise ValueError(f"features[{i}] ({ours!r}, {theirs!r}): {error}") from error
        total += jnp.asarray(config.feature_weight).astype(jnp.float32) * parts["features"]
    parts["kl"] = loss(jax.lax.stop_gradient(student_logits), teacher_logits, 1.0)
    return total, parts


def _feature_loss(config: Config) -> Callable[..., jax.Array]:
    choice("feature_loss", config.feature_loss, FEATURE_LOSSES)
    return FEATURE_LOSSES[config.feature_loss]


def _layer(whose: str, features: Features | None, name: str, i: int) -> jax.Array:
    known = features or {}
    if name not in known:
        have = ", ".join(map(str, known)) or "none"
        raise ConfigError(f"features[{i}]", name, f"a layer of the {whose} whose output is kept ({have})")
    return known[name]
