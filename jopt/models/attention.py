"""Attention: queries in groups that share keys and values, rotary positions, a causal mask."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jopt.config import choice, join_path, require
from jopt.hyper import as_traced
from jopt.models.config import DTYPES


class Attention(nn.Module):
    """Multi-head self-attention: `out(softmax(Q K^T / sqrt(size)) V)`, `size = width / heads`.

    With fewer `kv_heads` than `heads`, each key and value serves `heads / kv_heads` queries in turn (grouped-query
    attention, Ainslie et al. 2023). Parameters `query`, `key`, `value` and `out`, each a `DenseGeneral`.

    Attributes:
      heads: of the queries; divides the width.
      kv_heads: of keys and values; divides `heads`.
      causal: whether a position sees only itself and those before it.
      rotary_base: of the wavelengths of `rotate`; None: keys and queries know no positions.
      use_bias: of the four projections.
      out_init: of the last projection's kernel.
      dtype: of the computation; parameters are float32, the softmax too.

    Example:
      >>> attention = Attention(heads=4, kv_heads=2)
      >>> params = jax.eval_shape(attention.init, jax.random.key(0), jnp.ones((1, 3, 8)))["params"]
      >>> {name: layer["kernel"].shape for name, layer in sorted(params.items())}
      {'key': (8, 2, 2), 'out': (4, 2, 8), 'query': (8, 4, 2), 'value': (8, 2, 2)}
    """

    heads: int
    kv_heads: int
    causal: bool = False
    rotary_base: float | None = None
    use_bias: bool = False
    out_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch time width"]) -> Float[Array, "batch time width"]:
        """Mixes positions."""
        batch, time, width = x.shape
        size = width // self.heads

        def project(heads: int, name: str) -> jax.Array:
            return nn.DenseGeneral((heads, size), use_bias=self.use_bias, dtype=self.dtype, name=name)(x)

        q, k, v = project(self.heads, "query"), project(self.kv_heads, "key"), project(self.kv_heads, "value")
        if self.rotary_base is not None:
            q, k = rotate(q, self.rotary_base), rotate(k, self.rotary_base)
        # The queries that share a key get an axis of their own (g), so that no key is copied.
        q = q.reshape(batch, time, self.kv_heads, self.heads // self.kv_heads, size)
        scores = jnp.einsum("btkgd,bskd->bkgts", q, k).astype(jnp.float32) / np.float32(np.sqrt(size))
        if self.causal:
            # Computed where it is used: as a constant of the program it would stand in it once a layer.
            position = jax.lax.iota(jnp.int32, time)
            past = (position[:, None] >= position[None, :])[None, None, None]
            scores = jnp.where(past, scores, jnp.finfo(jnp.float32).min)
        weights = nn.softmax(scores).astype(v.dtype)
        mixed = jnp.einsum("bkgts,bskd->btkgd", weights, v).reshape(batch, time, self.heads, size)
        return nn.DenseGeneral(
            width, axis=(-2, -1), use_bias=self.use_bias, dtype=self.dtype, kernel_init=self.out_init, name="out"
        )(mixed)


def rotate(
    x: Float[Array, "batch time heads size"], base: float = 10000.0
) -> Float[Array, "batch time heads size"]:
    """Rotary positions (Su et al. 2021): the product of two rotated vectors depends on their distance alone.

    The pair `(x[i], x[i + size / 2])` at position t turns by the angle `t base^(-2 i / size)`.

    Args:
      x: queries or keys; `size` is even.
      base: of the wavelengths, from 2 pi to 2 pi base.

    Example:
      >>> x = jnp.ones((1, 2, 1, 2))
      >>> rotate(x)[0, :, 0].round(3).tolist()                # (cos 1 - sin 1, cos 1 + sin 1)
      [[1.0, 1.0], [-0.301..., 1.382...]]
    """
    time, half = x.shape[1], x.shape[-1] // 2
    # In float64: far positions turn many times, and float32 would lose the fraction of the last turn.
    angles = np.arange(time)[:, None] * base ** (-np.arange(half) / half)
    cos, sin = (f(angles).astype(np.float32)[None, :, None] for f in (np.cos, np.sin))
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1).astype(x.dtype)


def check_transformer(config: Any, path: str, sizes: Iterable[str]) -> None:
    """Checks the fields that the configs of transformers share, and more fields that are sizes (or None).

    Raises:
      ConfigError: naming the field, its value and what is accepted.
    """
    for name in ("width", "depth", "heads", "hidden", *sizes):
        value = getattr(config, name)
        require(value is None or value >= 1, join_path(path, name), value, "at least 1")
    divides = config.width % config.heads == 0
    require(divides, join_path(path, "heads"), config.heads, f"a divisor of the width {config.width}")
    # As the program sees it: 1 - 1e-12 is 1 in float32, and would divide by 0.
    fine = config.dropout is None or 0 <= as_traced(config.dropout) < 1
    require(fine, join_path(path, "dropout"), config.dropout, "None or a number in [0, 1)")
    choice(join_path(path, "dtype"), config.dtype, DTYPES)
