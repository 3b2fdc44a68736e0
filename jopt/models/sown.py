"""Losses that a network makes itself, such as the balance of experts: the part 'losses' of its state.

A network's `apply(train=True)` puts numbers under `model_state['losses']`, a step adds their sum to the task's
loss, and what it leaves there is that of the last step. `from_linen` and `from_nnx` do so for what modules sow.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jopt.rules import named_leaves
from jopt.typing import ModelState

LOSSES = "losses"
"""The name of the collection, or of the variable."""


def sown_total(model_state: ModelState) -> jax.Array | None:
    """The sum of a network's own losses, float32; None for a network that has none.

    Args:
      model_state: what `apply` gave in training. Every floating leaf counts that has 'losses' in its path.

    Example:
      >>> losses = {"block0": jnp.float32(0.5), "block1": jnp.ones(2)}
      >>> float(sown_total({"losses": losses, "batch_stats": jnp.ones(3)}))
      2.5
      >>> print(sown_total({"batch_stats": jnp.ones(3)}))
      None
    """
    leaves = [leaf for path, leaf in named_leaves(model_state) if LOSSES in path.split("/")]
    floating = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return _sum(floating) if floating else None


def summed(sown: Mapping[str, Any]) -> dict[str, Any]:
    """A collection as modules sow it, with one number, the sum, in the place of each tuple of values.

    Example:
      >>> summed({"block0": {"balance": (jnp.float32(0.5), jnp.float32(1.0))}})
      {'block0': {'balance': Array(1.5, dtype=float32)}}
    """
    return {
        name: summed(value) if isinstance(value, Mapping) else _sum(jax.tree.leaves(value))
        for name, value in sown.items()
    }


def _sum(values: Iterable[jax.Array]) -> jax.Array:
    # One form for every network: floats of another width would change the state's dtype from step to step.
    return sum((jnp.sum(value.astype(jnp.float32)) for value in values), jnp.float32(0))
