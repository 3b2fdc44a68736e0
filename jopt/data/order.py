"""Batch order: which examples step t sees, as a pure function of the key and t."""

import jax
import jax.numpy as jnp

from jopt import keys
from jopt.hyper import check_number


def steps_per_epoch(n: int, batch_size: int) -> int:
    """Full batches in an epoch; the last `n % batch_size` examples of each epoch's permutation are dropped.

    Raises:
      ValueError: if `batch_size` is not in [1, n].

    Example:
      >>> steps_per_epoch(1257, 64)
      19
    """
    if not 1 <= batch_size <= n:
        raise ValueError(f"batch_size must lie in [1, {n}], the number of training examples, got {batch_size}")
    return n // batch_size


def indices(
    key: jax.Array, first_step, num_steps: int, batch_size: int, n: int, *, aligned: bool = False
) -> jax.Array:
    """The examples of steps `first_step, ..., first_step + num_steps - 1`.

    Step t lies in epoch `e = t // (n // batch_size)` and takes the t-th slice of `batch_size` from
    `permutation(jopt.keys.at(key, "order", e), n)`. So the order does not depend on how a run is cut into
    segments, and a resumed run needs nothing but the step number. Within an epoch no example comes twice;
    what an epoch drops (see `steps_per_epoch`) differs from epoch to epoch.

    Args:
      key: the run's root key; may be batched by `vmap`.
      first_step: int32 scalar >= 0, counted from the start of training; may be traced.
      num_steps: number of steps, static.
      batch_size: examples a step, static.
      n: number of training examples, static.
      aligned: promises that `first_step` begins an epoch, which saves computing the permutation of an epoch that
        the window cannot reach then.

    Returns:
      int32 [num_steps, batch_size], values in [0, n).

    Raises:
      ValueError: if `batch_size` is not in [1, n], `num_steps` < 1 or a concrete `first_step` < 0.

    Example:
      >>> key = keys.root(0)
      >>> rows = indices(key, 0, 4, 2, 5)
      >>> rows.shape, sorted(rows[:2].ravel().tolist())[0] >= 0
      ((4, 2), True)
      >>> bool((indices(key, 3, 1, 2, 5)[0] == rows[3]).all())
      True
    """
    per_epoch = steps_per_epoch(n, batch_size)
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    check_number("first_step", first_step, lambda x: x >= 0, "a step, at least 0")
    first_step = jnp.asarray(first_step, jnp.int32)
    first_epoch, offset = jnp.divmod(first_step, jnp.int32(per_epoch))
    # A window that starts on the last step of an epoch touches the most epochs.
    latest = 0 if aligned else per_epoch - 1
    num_epochs = (latest + num_steps - 1) // per_epoch + 1
    epochs = first_epoch + jnp.arange(num_epochs, dtype=jnp.int32)
    rows = jax.vmap(lambda epoch: _epoch(key, epoch, per_epoch, batch_size, n))(epochs)
    rows = rows.reshape(num_epochs * per_epoch, batch_size)
    return jax.lax.dynamic_slice_in_dim(rows, offset, num_steps)


def _epoch(key: jax.Array, epoch: jax.Array, per_epoch: int, batch_size: int, n: int) -> jax.Array:
    order = jax.random.permutation(keys.at(key, "order", epoch), jnp.arange(n, dtype=jnp.int32))
    return order[: per_epoch * batch_size].reshape(per_epoch, batch_size)
