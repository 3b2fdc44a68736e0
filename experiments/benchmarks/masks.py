"""Suite `masks`: choosing which weights are kept, against the usual threshold from a sort."""

import gc
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.timing import Ratio, Spread, alternate, ratio, spread
from jopt import prune

JOPT = "jopt.prune.top_k_mask"
SORT = "threshold by jnp.sort"
SIZES = (50_000, 1_000_000, 25_000_000)
TARGETS = {1_000_000: 20.0, 25_000_000: 10.0}
SPARSITY = 0.9


class MaskRow(NamedTuple):
    """One size of suite `masks`: seconds a mask of each contender, and jopt's ratio to each alternative."""

    weights: int
    sparsity: float
    seconds_per_mask: dict[str, Spread]
    ratios: list[Ratio]


def masks(sizes: Sequence[int], rounds: int, seconds: float) -> list[MaskRow]:
    """Times the contenders at each size in turn.

    Args:
      sizes: numbers of weights.
      rounds: how often each contender is timed.
      seconds: for how long each time, about.

    Raises:
      RuntimeError: if the contenders' masks differ.
    """
    rows = []
    for size in sizes:
        entered = enter(distinct_scores(size), jnp.float32(SPARSITY))
        chosen = [np.asarray(choose()) for choose in entered.values()]
        if not all(np.array_equal(chosen[0], mask) for mask in chosen):
            raise RuntimeError(
                f"the masks of {size} weights differ: {[int(mask.sum()) for mask in chosen]} are kept"
            )
        times = alternate({name: _waiting(choose) for name, choose in entered.items()}, rounds, seconds)
        rows.append(
            MaskRow(
                weights=size,
                sparsity=SPARSITY,
                seconds_per_mask={name: spread(t) for name, t in times.items()},
                ratios=[ratio(SORT, times[SORT], times[JOPT], TARGETS.get(size))],
            )
        )
        del entered, chosen
        gc.collect()
    return rows


def enter(scores: jax.Array, sparsity: jax.Array) -> dict[str, Callable[[], jax.Array]]:
    """The contenders by name; jopt's first. Both are one XLA program, with a traced sparsity."""
    search = jax.jit(prune.top_k_mask)
    sort = jax.jit(mask_by_sort)
    return {JOPT: lambda: search(scores, sparsity), SORT: lambda: sort(scores, sparsity)}


def mask_by_sort(scores: jax.Array, sparsity: jax.Array) -> jax.Array:
    """Keeps what reaches the k-th largest score: the same mask where no two scores are equal."""
    kept = prune.keep_count(scores.size, sparsity)
    return scores >= jnp.sort(scores)[scores.size - kept]


def distinct_scores(size: int) -> jax.Array:
    """float32 [size], magnitudes of normal numbers, no two of them equal, in random order."""
    random = np.random.default_rng(0)
    bits = np.sort(np.abs(random.standard_normal(size, np.float32))).view(np.int32)
    step = np.arange(size, dtype=np.int32)
    # Neighbours that are equal move apart by one unit in the last place.
    bits = np.maximum.accumulate(bits - step) + step
    random.shuffle(bits)
    return jnp.asarray(bits.view(np.float32))


def _waiting(choose: Callable[[], jax.Array]) -> Callable[[], int]:
    def run() -> int:
        choose().block_until_ready()
        return 1

    return run
