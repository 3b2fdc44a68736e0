"""A stage method: the norm of each weight is bounded after every step (Srebro and Shraibman 2005)."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jopt.config import require
from jopt.method import Method
from jopt.transform import identity


@dataclasses.dataclass(frozen=True)
class MaxNorm(Method):
    """Kernels are scaled down to an L2 norm of at most `limit`, which is traced."""

    name: ClassVar[str] = "max_norm"
    rank: ClassVar[int] = 55

    limit: float = 3.0

    def validate(self, path="max_norm"):
        """Refuses a limit of 0."""
        super().validate(path)
        require(self.limit > 0, f"{path}.limit", self.limit, "above 0")

    def build(self, **context):
        """The transform, which constrains what the optimizer moves."""

        def bounded(w):
            return w * jnp.minimum(1.0, self.limit / jnp.maximum(jnp.linalg.norm(w), 1e-12)) if w.ndim > 1 else w

        return identity()._replace(constrain=lambda state, params: jax.tree.map(bounded, params))
