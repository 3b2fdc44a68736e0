"""Host arrays on the devices of one or several processes, and back."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding
from jaxtyping import PyTree


def put(tree: PyTree, shardings: PyTree) -> PyTree:
    """Places arrays, which all processes have alike, on devices, of which some may be of other processes.

    Args:
      tree: NumPy or JAX arrays.
      shardings: a device or a sharding (None: JAX's default device) for every leaf, or a tree of them.
    """
    if shardings is None or isinstance(shardings, Sharding | jax.Device):
        return jax.tree.map(lambda x: _put(x, shardings), tree)
    return jax.tree.map(_put, tree, shardings)


def _put(x: Any, sharding: object) -> Any:
    if not isinstance(sharding, Sharding) or sharding.is_fully_addressable:
        return jax.device_put(x, cast(Any, sharding))
    if isinstance(x, jax.Array):
        if x.sharding.is_equivalent_to(sharding, x.ndim):
            return x
        if jnp.issubdtype(x.dtype, jax.dtypes.extended):
            # Keys are arrays of words; what they are for is not known to NumPy.
            words = _put(jax.random.key_data(x), sharding)
            return jax.random.wrap_key_data(words, impl=jax.random.key_impl(x))
    host = np.asarray(x)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def whole(tree: PyTree) -> PyTree:
    """Arrays of which each process can read all, leaf by leaf; to be called by all processes.

    Arrays of which other processes hold parts are gathered into the memory of the host.
    """

    def one(x: Any) -> Any:
        if not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated:
            return x
        assert isinstance(x.sharding, NamedSharding)
        everywhere = NamedSharding(x.sharding.mesh, PartitionSpec())
        return np.asarray(jax.block_until_ready(jax.jit(lambda x: x, out_shardings=everywhere)(x)))

    return jax.tree.map(one, tree)


def columns(sharding: Sharding | None, batch: int) -> np.ndarray:
    """Which examples of each batch are for the devices of this process, int64, ascending.

    Args:
      sharding: of arrays [steps, batch, ...]; None: they are on one device.
      batch: examples of a batch.
    """
    if sharding is None:
        return np.arange(batch)
    indices = sharding.addressable_devices_indices_map((1, batch)).values()
    slices = {index[1].indices(batch) for index in indices if index is not None}
    return np.unique(np.concatenate([np.arange(*bounds) for bounds in slices]))


def put_columns(tree: PyTree, columns: np.ndarray, batch: int, sharding: Sharding | None) -> PyTree:
    """Places what each process has gathered for its own devices.

    Args:
      tree: arrays [steps, columns, ...].
      columns: which examples of each batch those are.
      batch: examples of a batch.
      sharding: of the whole arrays, [steps, batch, ...].
    """

    def place(array: np.ndarray) -> jax.Array:
        if sharding is None or len(columns) == batch:
            return _put(array, sharding)

        def part(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None
            first, last, _ = index[1].indices(batch)
            # A device's columns are neighbours, here as in the batch.
            begin = int(np.searchsorted(columns, first))
            return array[index[0], begin : begin + last - first]

        return jax.make_array_from_callback((len(array), batch, *array.shape[2:]), sharding, part)

    return jax.tree.map(place, tree)
