"""Distillation as a method of a stage: the teacher, the loss between the two networks, and its weight."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp

from jopt.config import ConfigError, check_types, choice, join_path, require
from jopt.distill.losses import FEATURE_LOSSES, combine, float32, loss, mse
from jopt.hyper import as_traced, check_number
from jopt.method import Method
from jopt.reference import is_reference, resolve

# A teacher that is no directory is this and the name of an earlier stage.
STAGE = "stage:"
FeatureLoss = Callable[[jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Features:
    """Layers whose outputs a student matches.

    Attributes:
      pairs: of a student's layer and the teacher's layer that it is to match, by path.
      loss: one of `FEATURE_LOSSES`, a function `(student's, teacher's) -> float32 []`, or its reference.
      weight: multiplies the sum of the pairs' losses; above 0.
    """

    pairs: tuple[tuple[str, str], ...] = ()
    loss: str | FeatureLoss = "mse"
    weight: float = 1.0

    def validate(self, path: str) -> None:
        """Raises `ConfigError` for an empty or repeated pair, an unknown loss or a weight of 0."""
        check_types(self, path)
        field = join_path(path, "pairs")
        require(bool(self.pairs), field, self.pairs, "one or more pairs of layers")
        for i, pair in enumerate(self.pairs):
            require(all(n.strip() for n in pair), f"{field}[{i}]", pair, "a student's layer and a teacher's layer")
            # Twice the same pair would silently double its weight.
            require(self.pairs.index(pair) == i, f"{field}[{i}]", pair, "another pair than those before it")
        self.function(join_path(path, "loss"))
        _number(path, "weight", self.weight, lambda x: x > 0, "a finite number above 0")

    def function(self, field: str = "loss") -> FeatureLoss:
        """The loss as a function."""
        if callable(self.loss):
            return self.loss
        if is_reference(self.loss):
            return resolve(self.loss, field)
        choice(field, self.loss, FEATURE_LOSSES)
        return FEATURE_LOSSES[self.loss]

    def __call__(self, student: Mapping[str, jax.Array], teacher: Mapping[str, jax.Array]) -> jax.Array:
        """The sum of the pairs' losses, float32 [], without the weight."""
        total, match = jnp.float32(0), self.function()
        for i, (student_layer, teacher_layer) in enumerate(self.pairs):
            pair = (_layer("student", student, student_layer, i), _layer("teacher", teacher, teacher_layer, i))
            try:
                total += match(*pair)
            except ValueError as error:
                raise ValueError(f"features[{i}] ({student_layer!r}, {teacher_layer!r}): {error}") from error
        return total


@dataclasses.dataclass(frozen=True)
class Distillation(Method):
    """The fields of every distillation; a class for another loss derives from it and overrides `soft_loss`.

    The loss is `(1 - weight) hard + weight soft + features.weight features(...)`. It lasts one stage.

    Attributes:
      teacher: the directory of a finished run, or `stage:<name>`, the state in which that earlier stage of the same
        experiment ended.
      weight: the share of the teacher's logits in the loss, in [0, 1]; the labels' is the rest.
      features: layers that the student matches too; None: none.
    """

    name: ClassVar[str] = "distill"
    rank: ClassVar[int] = 70
    # A later stage trains on labels unless it names a teacher: nothing of distillation is left in the network.
    persists: ClassVar[bool] = False
    chooses: ClassVar[bool] = False

    teacher: str = ""
    weight: float = 0.9
    features: Features | None = None

    def validate(self, path: str = "distill") -> None:
        """Raises `ConfigError` without a teacher's name, or for a weight out of range."""
        check_types(self, path)
        accepted = f"the directory of a finished run, or {STAGE}<name of an earlier stage>"
        require(bool(self.teacher.removeprefix(STAGE).strip()), join_path(path, "teacher"), self.teacher, accepted)
        _number(path, "weight", self.weight, lambda x: 0 <= x <= 1, "a number in [0, 1]")
        if self.features is not None:
            self.features.validate(join_path(path, "features"))

    def soft_loss(self, student: jax.Array, teacher: jax.Array) -> jax.Array:
        """What is minimized between the logits, floating [batch, classes] each: float32 []."""
        raise NotImplementedError

    def objective(
        self,
        student_logits: jax.Array,
        hard_losses: jax.Array,
        teacher_logits: jax.Array,
        *,
        weights: jax.Array | None = None,
        student_features: Mapping[str, jax.Array] | None = None,
        teacher_features: Mapping[str, jax.Array] | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """What a distilled student minimizes on a batch.

        Args:
          student_logits: floating [batch, ...].
          hard_losses: floating [batch], or [batch, ...]: each loss on a target.
          teacher_logits: floating [batch, classes], of the same examples as the student sees them.
          weights: of the losses, float32 of their shape; what has weight 0 counts nowhere but in `features`, whose
            losses are means over whole layers. None: all are 1.
          student_features: from the names of layers to floating [batch, ...]; read where there are `features`.
          teacher_features: the teacher's.

        Returns:
          The loss, float32 [], and its unweighted parts, float32 [] each: `hard`; `soft`; `features`, where there
          are any; and `kl`, the divergence at T = 1, in nats, no part of the loss, in which runs of any loss and
          temperature compare.

        Raises:
          ConfigError: for a concrete weight out of range, or a layer without features.
          ValueError: for shapes that do not fit.

        Example:
          >>> student, teacher = jnp.array([[0.0, 0.0]]), jnp.array([[2.0, 0.0]])
          >>> total, parts = LogitMSE("runs/big", weight=0.25).objective(student, jnp.array([1.0]), teacher)
          >>> float(total), float(parts["hard"]), float(parts["soft"]), round(float(parts["kl"]), 4)
          (1.25, 1.0, 2.0, 0.3278)
        """
        # One loss an example, or a position.
        shapes = [student_logits.shape[:axes] for axes in range(1, student_logits.ndim + 1)]
        if hard_losses.shape not in shapes:
            raise ValueError(
                f"hard_losses must be of shape {student_logits.shape[:-1]}, one for each of the logits' examples, "
                f"got {hard_losses.shape}"
            )
        hard, soft = float32("hard_losses", hard_losses).mean(), _mean_of(self.soft_loss)
        if weights is not None:
            hard = _weighted(hard_losses, weights)
        total, parts = combine(hard, soft(student_logits, teacher_logits, weights), self.weight)
        if self.features is not None:
            # Checked here too, where a number that was swept arrives: `validate` saw the config's own.
            check_number("features.weight", self.features.weight, lambda x: x >= 0, "a finite number, at least 0")
            parts["features"] = self.features(student_features or {}, teacher_features or {})
            total += jnp.asarray(self.features.weight).astype(jnp.float32) * parts["features"]
        # Reported and not minimized: soft losses at different temperatures are numbers of different sizes.
        divergence = _mean_of(lambda student, teacher: loss(student, teacher, 1.0))
        parts["kl"] = divergence(jax.lax.stop_gradient(student_logits), teacher_logits, weights)
        return total, parts


def _mean_of(
    soft_loss: Callable[[jax.Array, jax.Array], jax.Array],
) -> Callable[[jax.Array, jax.Array, jax.Array | None], jax.Array]:
    """A loss that is a mean over examples, as the weighted mean where there are weights."""

    def mean(student: jax.Array, teacher: jax.Array, weights: jax.Array | None) -> jax.Array:
        if weights is None:
            return soft_loss(student, teacher)
        rows = [x.reshape(-1, 1, *x.shape[weights.ndim :]) for x in (student, teacher)]
        return _weighted(jax.vmap(soft_loss)(*rows).reshape(weights.shape), weights)

    return mean


def _weighted(losses: jax.Array, weights: jax.Array) -> jax.Array:
    # Chosen, not only multiplied: what does not count may be any number.
    total = jnp.where(weights > 0, weights * losses, 0).sum()
    return total / jnp.where(weights.sum() > 0, weights.sum(), 1)


@dataclasses.dataclass(frozen=True)
class SoftTargets(Distillation):
    """Distillation by the divergence of the softened outputs (`jopt.distill.loss`; Hinton et al. 2015).

    Attributes:
      temperature: T, above 0.

    Example:
      >>> SoftTargets(teacher="runs/big", temperature=2.0).validate()
      >>> SoftTargets(teacher="runs/big", weight=1.5).validate()
      Traceback (most recent call last):
      ...
      jopt.config.ConfigError: distill.weight must be a number in [0, 1], got 1.5
    """

    temperature: float = 4.0

    def validate(self, path: str = "distill") -> None:
        """As `Distillation.validate`; the temperature too."""
        super().validate(path)
        _number(path, "temperature", self.temperature, lambda x: x > 0, "a finite number above 0")

    def soft_loss(self, student: jax.Array, teacher: jax.Array) -> jax.Array:
        """`jopt.distill.loss` at the temperature."""
        return loss(student, teacher, self.temperature)


@dataclasses.dataclass(frozen=True)
class LogitMSE(Distillation):
    """Distillation by the mean squared error of the logits (`jopt.distill.mse`; Ba and Caruana 2014)."""

    def soft_loss(self, student: jax.Array, teacher: jax.Array) -> jax.Array:
        """`jopt.distill.mse`."""
        return mse(student, teacher)


def _number(path: str, name: str, value: float, good: Callable[[float], bool], accepted: str) -> None:
    # In the program the number is a float32, where 1e-50 is 0.
    fine = all(math.isfinite(x) and good(x) for x in (value, as_traced(value)))
    require(fine, join_path(path, name), value, accepted)


def _layer(network: str, features: Mapping[str, jax.Array], name: str, i: int) -> jax.Array:
    if name not in features:
        names = ", ".join(map(str, features)) or "none"
        raise ConfigError(f"features[{i}]", name, f"a layer of the {network} whose output is kept ({names})")
    return features[name]
