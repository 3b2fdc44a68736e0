"""Suite `shrink`: what a forward pass costs when neurons and channels have been removed, beside its FLOPs."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.timing import Ratio, Spread, alternate, ratio, spread
from jopt import measure, models, prune

REMOVED = (0.0, 0.5, 0.75, 0.9)
BATCHES = (1, 256)
DENSE = "0 %"


class Network(NamedTuple):
    """A network of the suite: its name in the tables, its config, the shape of one example."""

    name: str
    config: models.Config
    shape: tuple[int, ...]


NETWORKS = (
    Network("MLP 64-300-100-10", models.Config("mlp", (300, 100)), (64,)),
    Network("MLP 784-1024-1024-10", models.Config("mlp", (1024, 1024)), (784,)),
    Network("CNN 16-32, 64 hidden, 28x28x1", models.Config("cnn", (16, 32)), (28, 28, 1)),
)


class ShrinkRow(NamedTuple):
    """One network at one batch size and share of removed units.

    Attributes:
      network: its name.
      batch_size: examples in a call.
      removed: the share of units taken out of every hidden layer.
      units: neurons and channels that are left.
      parameters: that are left.
      flops: of the matrix products and convolutions in a call, counted (theoretical).
      seconds: of a compiled call, waited for (measured).
      examples_per_second: the batch size over the median of `seconds`.
      speedup: how many times as long the network with all its units takes, round by round.
    """

    network: str
    batch_size: int
    removed: float
    units: int
    parameters: int
    flops: int
    seconds: Spread
    examples_per_second: float
    speedup: Ratio


def shrunk(network: Network, removed: float) -> tuple[Any, Any, int]:
    """The module and its parameters without that share of each hidden layer's units, and how many units are left.

    The units of smallest magnitude go, as `top_k_mask` finds them. Weights are random: they cost what trained ones
    do.

    Raises:
      RuntimeError: if the masked network does not compute the same.
    """
    module: Any = models.build(network.config)
    x = jax.random.normal(jax.random.key(1), (4, *network.shape))
    params = jax.jit(module.init)(jax.random.key(0), x)["params"]
    last = max(name for name in params if name.startswith("Dense"))
    masks = {
        name: {"kernel": prune.top_k_mask(prune.magnitude(layer["kernel"]), removed, prune.Channel())}
        for name, layer in params.items()
        if name != last and removed
    }
    small, new, *_, cut = prune.shrink_all(module, params, masks)
    held = {
        name: {**layer, "kernel": jnp.where(masks[name]["kernel"], layer["kernel"], 0)} if name in masks else layer
        for name, layer in params.items()
    }
    wanted, got = (jax.jit(m.apply)({"params": p}, x) for m, p in ((module, held), (small, new)))
    if not np.allclose(wanted, got, rtol=1e-4, atol=1e-5):
        raise RuntimeError(f"{network.name} shrunk by {removed:g} is not the masked network")
    return small, new, sum(len(group.kept) for group in cut)


def shrink(
    rounds: int, seconds: float, networks: Sequence[Network] = NETWORKS, batches: Sequence[int] = BATCHES
) -> list[ShrinkRow]:
    """Times each network with more and more of its units removed, in turn.

    Args:
      rounds: how often each size is timed.
      seconds: how long about each works in one round.
      networks: which.
      batches: examples in a call.
    """
    out = []
    for network in networks:
        small = {removed: shrunk(network, removed) for removed in REMOVED}
        for batch in batches:
            x = jax.random.normal(jax.random.key(2), (batch, *network.shape))
            work = {_name(removed): _call(module, params, x) for removed, (module, params, _) in small.items()}
            times = alternate(work, rounds, seconds)
            for removed, (module, params, units) in small.items():
                measured = spread(times[_name(removed)])
                out.append(
                    ShrinkRow(
                        network.name,
                        batch,
                        removed,
                        units,
                        sum(leaf.size for leaf in jax.tree.leaves(params)),
                        measure.flops(module.apply, {"params": params}, x),
                        measured,
                        batch / measured.median,
                        ratio(DENSE, times[DENSE], times[_name(removed)]),
                    )
                )
    return out


def _name(removed: float) -> str:
    return f"{100 * removed:g} %"


def _call(module: Any, params: Any, x: jax.Array) -> Callable[[], int]:
    variables, x = jax.device_put(({"params": params}, x))
    compiled = jax.jit(module.apply).lower(variables, x).compile()

    def work() -> int:
        jax.block_until_ready(compiled(variables, x))
        return 1

    return work
