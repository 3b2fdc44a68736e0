"""Sums over the shards of a batch, in an order that the number of devices does not change."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jaxtyping import PyTree

T = TypeVar("T")

DATA = "data"
"""The mesh axis over which a batch is split."""


def tree_sum(parts: PyTree) -> PyTree:
    """The sum over the first axis of each leaf, by adding neighbours: ((0 + 1) + (2 + 3)) + ...; an odd one waits.

    The order is a function of the number of parts alone. So whoever adds aligned blocks of 2, 4, 8, ... of them
    first, and then the sums of the blocks, gets the same bits.

    Example:
      >>> big = jnp.float32([1e8, 1.0, -1e8, 1.0, 1.0])
      >>> float(tree_sum(big)) == float(tree_sum(jnp.stack([tree_sum(big[:2]), tree_sum(big[2:4]), big[4]])))
      True
    """

    def add(x: jax.Array) -> jax.Array:
        while len(x) > 1:
            pairs = x[: len(x) // 2 * 2].reshape(len(x) // 2, 2, *x.shape[1:])
            sums = pairs[:, 0] + pairs[:, 1]
            x = jnp.concatenate([sums, x[-1:]]) if len(x) % 2 else sums
        return x[0]

    return jax.tree.map(add, parts)


def sealed(fn: Callable[..., T], number: jax.Array) -> Callable[..., T]:
    """`fn`, computed with the same bits whatever is around it.

    Where a product meets a sum in one loop of the machine, they are rounded once instead of twice, and which ones
    meet is decided by what XLA fuses: another number of devices is another surrounding. (On a CPU
    `jax.lax.optimization_barrier` is gone before XLA fuses.) So `fn` stands in a loop that runs once, which only
    the running program knows: XLA neither opens it nor fuses across it.

    Args:
      fn: a pure function.
      number: in [0, 2**32), known at run time alone, such as a seed or a step.

    Example:
      >>> sealed(lambda x: 2 * x, jnp.uint32(7))(jnp.arange(3)).tolist()
      [0, 2, 4]
    """

    def run(*args: PyTree) -> T:
        # 0 for every such number.
        zero = (number.astype(jnp.float32) * 2.0**-34).astype(jnp.int32)
        closed, shapes = jax.make_jaxpr(fn, return_shape=True)(*args)
        inputs = (closed.consts, jax.tree.leaves(args))

        def body(_: jax.Array, __: T) -> T:
            # What depends on inputs alone would be moved out of the loop, and fused with what is there.
            consts, leaves = jax.lax.optimization_barrier(inputs)
            results = jaxpr_as_fun(ClosedJaxpr(closed.jaxpr, consts))(*leaves)
            return jax.tree.unflatten(jax.tree.structure(shapes), results)

        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.fori_loop(0, 1 + zero, body, nothing)

    return run


def total(parts: PyTree, shards: int) -> PyTree:
    """The sum over all shards, on every device; to be called inside `jax.shard_map` over the axis `data`.

    Args:
      parts: of this device's shards, in order: each leaf [shards of a device, ...].
      shards: how many all devices have together.
    """
    mine = len(jax.tree.leaves(parts)[0])
    # A block of 2, 4, 8, ... neighbours is a subtree of the whole sum: added here, it is one message, not many.
    if mine & (mine - 1) == 0:
        parts = jax.tree.map(lambda x: x[None], tree_sum(parts))
    if mine < shards:
        # Gathered and added in one order everywhere. An all-reduce would add in the order of the machine.
        parts = jax.tree.map(lambda x: jax.lax.all_gather(x, DATA, tiled=True), parts)
    return tree_sum(parts)


def mean(parts: PyTree, shards: int) -> PyTree:
    """The mean over all shards of floating-point leaves; of others (counters), which shards raise alike, the first.

    Args:
      parts: as for `total`.
      shards: as for `total`.
    """

    def one(x: jax.Array) -> jax.Array:
        if jnp.issubdtype(x.dtype, jnp.inexact):
            return total(x, shards) / shards
        return x[0] if len(x) == shards else jax.lax.all_gather(x[:1], DATA, tiled=True)[0]

    return jax.tree.map(one, parts)
