"""A score by its name: what each of them reads, and where that comes from."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jopt import keys
from jopt.prune import scores as formulas
from jopt.prune.assign import Pruned
from jopt.transform import LayerStatistics

NEEDS: dict[str, frozenset[str]] = {
    "magnitude": frozenset(),
    "l2": frozenset(),
    "random": frozenset(),
    "movement": frozenset(),
    "saliency": frozenset({"grads"}),
    "snip": frozenset({"grads"}),
    "wanda": frozenset({"layers"}),
    "activation": frozenset({"layers"}),
}
SCORES = tuple(NEEDS)


def rank(
    name: str,
    pruned: Sequence[Pruned],
    weights: Sequence[jax.Array],
    masks: Sequence[jax.Array],
    *,
    movement: Sequence[jax.Array] | None = None,
    grads: Sequence[jax.Array] | None = None,
    key: jax.Array | None = None,
    layers: Mapping[str, LayerStatistics] | None = None,
) -> list[jax.Array]:
    """The scores of the pruned parameters; pruned weights count as 0, whatever they hold.

    Args:
      name: one of `SCORES`.
      pruned: the parameters.
      weights: their values.
      masks: bool, what is kept of them.
      movement: float32, the accumulated -w g, for 'movement'.
      grads: their gradients, for 'saliency' and 'snip'.
      key: a PRNG key, for 'random'.
      layers: statistics of the layers, for 'wanda' and 'activation'.

    Returns:
      float32 arrays of the parameters' shapes.

    Raises:
      ValueError: if what the score reads is missing, or does not fit a parameter.
    """
    kept = [jnp.where(m, w, jnp.zeros((), w.dtype)) for w, m in zip(weights, masks, strict=True)]
    if name in ("magnitude", "l2"):
        return [getattr(formulas, name)(w) for w in kept]
    if name in ("saliency", "snip"):
        return [getattr(formulas, name)(w, g) for w, g in zip(kept, require(grads, name, "grads"), strict=True)]
    if name == "random":
        return noise(require(key, name, "key"), pruned, kept)
    if name == "movement":
        sums = require(movement, name, "movement")
        return [formulas.movement(jnp.where(m, s, jnp.float32(0))) for s, m in zip(sums, masks, strict=True)]
    return [_by_layer(name, p, w, require(layers, name, "layers")) for p, w in zip(pruned, kept, strict=True)]


def noise(key: jax.Array, pruned: Sequence[Pruned], weights: Sequence[jax.Array]) -> list[jax.Array]:
    """Uniform scores: of each parameter from its own stream of `key`, so that no other parameter changes them."""
    return [formulas.random(keys.stream(key, p.path), w) for p, w in zip(pruned, weights, strict=True)]


def require(value: Any, what: str, argument: str) -> Any:
    """`value`, or a ValueError if it is missing.

    Example:
      >>> require(None, "saliency", "grads")
      Traceback (most recent call last):
      ...
      ValueError: 'saliency' reads grads: update(..., grads=...) must have it, got None
    """
    if value is None:
        raise ValueError(f"{what!r} reads {argument}: update(..., {argument}=...) must have it, got None")
    return value


def _by_layer(name: str, p: Pruned, w: jax.Array, statistics: Mapping[str, LayerStatistics]) -> jax.Array:
    parts = p.path.split("/")
    # The nearest: the paths of an NNX state end in 'kernel/value'.
    prefixes = ("/".join(parts[:n]) for n in range(len(parts) - 1, 0, -1))
    layer = next((prefix for prefix in prefixes if prefix in statistics), None)
    if layer is None:
        raise ValueError(
            f"{p.path}: {name!r} reads its layer's statistics; there are those of {', '.join(statistics) or 'none'}"
        )
    known = p.parameter
    inputs, outputs = (jnp.ndim(x) for x in statistics[layer])
    if not known.contract and inputs + outputs == w.ndim:
        # Statistics are of Linen layers, whose kernels, where they have no window, are [*inputs, *outputs].
        axes = tuple(range(w.ndim))
        known = known._replace(contract=axes[:inputs], outputs=axes[inputs:])
    known = known.require_layout(f"score {name!r}")
    if known.stack:
        raise ValueError(f"{p.path}: {name!r} reads statistics of one layer, and those of stacked copies are one")
    if name == "wanda" and parts[layer.count("/") + 1].endswith("_kernel"):
        # Of a recurrence: the layer's statistics are those of its input, which only 'kernel' multiplies.
        raise ValueError(
            f"{p.path}: 'wanda' has no statistics of what it multiplies, the state of layer {layer!r}; a rule "
            f"({p.path!r}, None) would leave it alone"
        )
    try:
        if name == "wanda":
            return formulas.wanda(w, statistics[layer].input_norm, known.inputs)
        return formulas.activation(w, statistics[layer].zero_share, known.outputs)
    except ValueError as error:
        raise ValueError(f"{p.path} does not fit the statistics of layer {layer!r}: {error}") from error
