"""Batch-norm recalibration: the statistics of the network as it is now, not as it was before compression."""

from typing import Any

import jax
import jax.numpy as jnp

from jopt.rules import path_name

_PROBE = 2.0**60  # so far above any statistic that the batch's own share of the update rounds away
_FORGOTTEN = 2.0**-24  # a momentum of this is none in float32


def recalibrate(
    model: Any, params: Any, model_state: Any, batches: jax.Array, *, key: jax.Array | None = None
) -> Any:
    """Estimates the running statistics of batch normalizations anew, for the parameters given.

    `statistic = mean over batches of (the batch's own mean or variance)`, as Ioffe and Szegedy (2015, algorithm 2)
    have it for inference, up to the n / (n - 1) of the variance. Statistics gathered in training are those of other
    weights once these have been pruned, shared or quantized; that alone can cost most of the accuracy.

    The momentum of the running average plays no part: its update `new = m old + (1 - m) batch` is linear, so a pass
    from `old = 2**60` gives m, and a pass over each batch from `old = 0` gives `(1 - m) batch`. The result is exact
    but for rounding, a relative 2**-24 / (1 - m). A normalization that is frozen, its statistics not moving in
    training, keeps them. What a pass replaces instead of mixing, such as the vectors of `nn.SpectralNorm`, moves by
    one training pass from what it was.

    Args:
      model: a `jopt.models.Model` whose normalizations use the batch's statistics when `train=True`.
      params: the parameters, as the model sees them: masked, quantized.
      model_state: the state; what is taken for statistics are the floating leaves of the collection `batch_stats`
        (Linen), and elsewhere those named `mean` and `var` (NNX).
      batches: [number of batches, batch, ...], inputs as the model takes them.
      key: for a model with dropout, which is on in these passes as in training. Batch i gets `fold_in(key, i)`.

    Returns:
      `model_state` with new statistics, of the same dtypes; all else in it, 'activation_ranges' too, is as it was.
      A model without statistics gets its state back unchanged.

    Raises:
      ValueError: if `batches` has no batch, or no batch axis.

    Example:
      >>> from flax import linen as nn
      >>> from jopt.models import from_linen
      >>> class Norm(nn.Module):
      ...     @nn.compact
      ...     def __call__(self, x, *, train):
      ...         return nn.BatchNorm(use_running_average=not train, momentum=0.75)(x)
      >>> model = from_linen(Norm())
      >>> batches = jnp.array([[[0.0], [2.0]], [[3.0], [9.0]]])        # means 1, 6; variances 1, 9
      >>> params, state = model.init(jax.random.key(0), batches[0])
      >>> new = recalibrate(model, params, state, batches)["batch_stats"]["BatchNorm_0"]
      >>> new["mean"].tolist(), new["var"].tolist()
      ([3.5], [5.0])
    """
    if batches.ndim < 2 or batches.shape[0] < 1 or batches.shape[1] < 1:
        raise ValueError(f"batches must be [number of batches, batch, ...], none of them 0, got {batches.shape}")
    paths, structure = jax.tree_util.tree_flatten_with_path(model_state)
    leaves = [leaf for _, leaf in paths]
    where = [i for i, (path, leaf) in enumerate(paths) if _is_statistic(path_name(path), leaf)]
    if not where:
        return model_state

    def put(statistics: list[jax.Array]) -> Any:
        new = list(leaves)
        for i, value in zip(where, statistics, strict=True):
            new[i] = value
        return jax.tree.unflatten(structure, new)

    def after(statistics: list[jax.Array], number: Any, x: jax.Array) -> list[jax.Array]:
        """The statistics that one training pass makes of `statistics`."""
        dropout = None if key is None else jax.random.fold_in(key, number)
        _, state = model.apply(params, put(statistics), x, train=True, key=dropout)
        moved = jax.tree.leaves(state)
        return [moved[i].astype(jnp.float32) for i in where]

    old = [leaves[i].astype(jnp.float32) for i in where]
    # What a frozen normalization computes depends on its statistics: a second probe leaves those as they are.
    everything = [jnp.full_like(value, _PROBE) for value in old]
    frozen = [jnp.all(new == _PROBE) for new in after(everything, 0, batches[0])]
    probe = [jnp.where(f, value, _PROBE) for f, value in zip(frozen, old, strict=True)]
    momentum = [new / _PROBE for new in after(probe, 0, batches[0])]
    # What forgets the probe keeps its place: for an average without momentum that is the same as 0, while a power
    # iteration (spectral norm) would never leave 0.
    start = [
        jnp.where(f | (jnp.abs(m) < _FORGOTTEN), value, 0.0)
        for f, m, value in zip(frozen, momentum, old, strict=True)
    ]

    def one_batch(total: list[jax.Array], numbered: tuple[jax.Array, jax.Array]):
        return [t + new for t, new in zip(total, after(start, *numbered), strict=True)], None

    count = batches.shape[0]
    zero = [jnp.zeros_like(value) for value in old]
    total, _ = jax.lax.scan(one_batch, zero, (jnp.arange(count), batches))
    fresh = [
        jnp.where(f, value, t / (count * (1.0 - m))).astype(leaves[i].dtype)
        for i, f, value, t, m in zip(where, frozen, old, total, momentum, strict=True)
    ]
    return put(fresh)


def _is_statistic(path: str, leaf: Any) -> bool:
    first, last = path.split("/")[0], path.split("/")[-1]
    named = first == "batch_stats" or (first != "activation_ranges" and last in ("mean", "var"))
    return named and jnp.issubdtype(leaf.dtype, jnp.floating)
