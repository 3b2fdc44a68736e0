"""A quantizer whose step sizes are trained, one for each weight; its integers go into files."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jopt.hyper import swept
from jopt.layers import PlanRow, parameters
from jopt.method import Method
from jopt.quantize import Range, Spec, fake_quantize
from jopt.rules import named_leaves
from jopt.transform import ParamTransform, Storage


@dataclasses.dataclass(frozen=True)
class TrainedSteps(Method):
    """Symmetric codes of `bits` bits, of which a traced share of the weights is clipped at first."""

    name: ClassVar[str] = "quantize"
    rank: ClassVar[int] = 40
    key: ClassVar[str] = "steps"

    bits: int = swept(4)
    clipped: float = 0.01

    def build(self, *, layers=None, **context):
        """The transform, with the steps as its trainable parameters."""
        n = 2.0 ** (jnp.float32(self.bits) - 1) - 1

        def learn(state, params):
            named = zip(named_leaves(params), parameters(params, layers), strict=True)
            return {path: jnp.quantile(jnp.abs(w), 1 - self.clipped) / n for (path, w), p in named if p.is_weight}

        def range_of(step):
            return Range(-n * jnp.abs(step), n * jnp.abs(step))

        def apply(state, params, steps):
            leaves = [see(w, steps[path]) if path in steps else w for path, w in named_leaves(params)]
            return jax.tree.unflatten(jax.tree.structure(params), leaves)

        def see(w, step):
            exact = fake_quantize(jax.lax.stop_gradient(w), Spec(self.bits), jax.lax.stop_gradient(range_of(step)))
            q = jnp.clip(w / step, -n, n)
            surrogate = step * (q + jax.lax.stop_gradient(jnp.round(q) - q))
            return exact + (surrogate - jax.lax.stop_gradient(surrogate))

        def storage(state, params, steps):
            return {path: Storage(Spec(int(self.bits)), range_of(step)) for path, step in steps.items()}

        return ParamTransform(lambda p: (), lambda s, p, **_: s, apply, storage=storage, learn=learn)

    def plan(self, params, layers=None):
        """What is printed before the run."""
        what = {True: f"{self.bits} bits, trained step", False: "left as it is"}
        named = zip(named_leaves(params), parameters(params, layers), strict=True)
        return [PlanRow(path, tuple(leaf.shape), what[p.is_weight], p.reason) for (path, leaf), p in named]
