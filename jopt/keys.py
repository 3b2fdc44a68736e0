"""Named random streams: a key is a pure function of (seed, stream name, step)."""

import zlib

import jax
from jax.typing import ArrayLike

from jopt.typing import Key


def root(seed: ArrayLike) -> Key:
    """The root key of a seed, which may be a traced integer.

    The implementation is pinned, so a seed means the same key whatever `jax_default_prng_impl` says.
    """
    return jax.random.key(seed, impl="threefry2x32")


def roots(seeds: jax.Array) -> Key:
    """The root key of a seed, or the keys of an array of seeds.

    Example:
      >>> import jax.numpy as jnp
      >>> roots(jnp.uint32(3)).shape, roots(jnp.arange(4, dtype=jnp.uint32)).shape
      ((), (4,))
    """
    return root(seeds) if seeds.ndim == 0 else jax.vmap(root)(seeds)


def stream(key: Key, name: str) -> Key:
    """The key of the stream called `name`; other names give independent streams.

    Example:
      >>> a, b = stream(root(0), "dropout"), stream(root(0), "augment")
      >>> bool((jax.random.key_data(a) == jax.random.key_data(b)).all())
      False
    """
    # A checksum and not `hash`, which Python salts in each process.
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def at(key: Key, name: str, step: ArrayLike) -> Key:
    """The key of stream `name` at `step` (an integer, traced or not)."""
    return jax.random.fold_in(stream(key, name), step)
