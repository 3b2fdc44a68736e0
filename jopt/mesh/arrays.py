"""Host arrays on the devices of one or several processes, and back."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding
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


def _put(x: Any, sharding: Sharding | jax.Device | None) -> Any:
    if not isinstance(sharding, Sharding) or sharding.is_fully_addressable:
        return jax.device_put(x, sharding)
    if isinstance(x, jax.Array):
        if x.sharding == sharding:
            return x
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.extended):
            # Keys are arrays of words; what they are for is not known to NumPy.
            words = _put(jax.random.key_data(x), sharding)
            return jax.random.wrap_key_data(words, impl=jax.random.key_impl(x))
    host = np.asarray(x)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])
