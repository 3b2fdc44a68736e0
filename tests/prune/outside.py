"""What somebody else would write in her own file: a score, patterns, budgets, schedules and pruning methods."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jopt import prune
from jopt.method import Method
from jopt.prune import Pattern, Pooled, Pruning
from jopt.transform import identity


def taylor(weight, grad):
    """The squared first-order change of the loss."""
    return jnp.square(weight.astype(jnp.float32) * grad.astype(jnp.float32))


def cold(weight, zero_share, output_axes, parameter, power=2.0):
    """Reads a statistic, axes and a parameter; `power` is an option of its own."""
    rarely = jax.lax.broadcast_in_dim(zero_share, weight.shape, output_axes)
    return jnp.abs(weight).astype(jnp.float32) * (1 - rarely) ** power * len(parameter.path)


def halves(shape):
    """A pattern as a function: the first and the last half of the last axis."""
    return np.broadcast_to(np.arange(shape[-1]) * 2 // shape[-1], shape)


@dataclasses.dataclass(frozen=True)
class Rows(Pattern):
    """Runs of rows, the last of which may be shorter."""

    unit: ClassVar[str] = "bands"
    height: int = 3

    def labels(self, shape):
        return np.broadcast_to(np.arange(shape[-2])[:, None] // self.height, shape)


@dataclasses.dataclass(frozen=True)
class TopOfRow(Pattern):
    """Has a sparsity of its own: the larger half of each row is kept."""

    @property
    def fixed_sparsity(self):
        return 0.5

    def grid(self, shape):
        return shape[:-1]

    def select(self, scores):
        return scores > jnp.median(scores, axis=-1, keepdims=True)


def first_dense(groups, sparsity):
    """A budget: the first layer stays dense."""
    return [0.0, *[sparsity] * (len(groups) - 1)]


def by_kind(parameters, sparsity):
    """A budget: the layers of a kind compete with each other."""
    return [Pooled(sparsity, p.layer) for p in parameters]


def three_each(groups):
    """A budget: counts."""
    return [3] * len(groups)


def late(fraction):
    """A schedule: as the square of the time."""
    return fraction**2


def late_remaining(remaining):
    """The same, from what is left of the time to what is left of the way."""
    return 1 - (1 - remaining) ** 2


@dataclasses.dataclass(frozen=True)
class Twice(Pruning):
    """A method by what ours are made of: half of the sparsity at `begin`, all of it at `end`."""

    kind: ClassVar[str] = "twice"
    grows: ClassVar[bool] = True
    sparsity: float = 0.5
    score: str = f"{__name__}:taylor"
    begin: float = 0.0
    end: float | None = 0.5
    rules: prune.Rules = ()

    def make(self, begin, end, layers):
        return prune.iterative(
            self.sparsity, begin=begin, end=end, rounds=2, score=self.score, rules=self.rules, layers=layers
        )


@dataclasses.dataclass(frozen=True)
class Threshold(Method):
    """A method from nothing: what is smaller than a traced number is zero."""

    name: ClassVar[str] = "prune"
    rank: ClassVar[int] = 20
    least: float = 0.1

    def build(self, *, begin=0, steps=0, last_update=None, layers=None):
        cut = lambda x: jnp.where(abs(x.astype(jnp.float32)) < self.least, jnp.zeros((), x.dtype), x)  # noqa: E731
        return identity()._replace(apply=lambda state, params: jax.tree.map(cut, params), sparse=True)
