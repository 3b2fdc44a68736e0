"""A transformer: embeddings, LayerNorm, attention, MLP; its blocks written out, scanned, or rematerialized."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jopt import layers, models

DEPTH = 2
WAYS = ("plain", "scanned", "remat")
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 12, (4, 6)))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        h = nn.LayerNorm(name="norm_0")(x)
        x = x + nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=8, name="attention")(h)
        h = nn.gelu(nn.Dense(16, name="up")(nn.LayerNorm(name="norm_1")(x)))
        return x + nn.Dense(8, name="down")(h), None


class Transformer(nn.Module):
    """Tokens [batch, time] to logits [batch, classes]."""

    way: str = "plain"

    @nn.compact
    def __call__(self, tokens, *, train=False):
        x = nn.Embed(12, 8, name="embed")(tokens.astype(jnp.int32))
        x = x + self.param("pos_embedding", nn.initializers.normal(1.0), (1, tokens.shape[1], 8))
        if self.way == "scanned":
            scan = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=DEPTH)
            x, _ = scan(name="blocks")(x, None)
        else:
            block = nn.remat(Block) if self.way == "remat" else Block
            for i in range(DEPTH):
                x, _ = block(name=f"block_{i}")(x)
        return nn.Dense(4, name="head")(nn.LayerNorm(name="norm")(x).mean(1))


@functools.cache
def model(way: str) -> models.Model:
    return models.from_linen(Transformer(way))


@functools.cache
def known(way: str) -> dict[str, layers.Parameter]:
    return layers.trace(model(way), TOKENS)


@functools.cache
def tree(seed: int = 0, way: str = "plain") -> Any:
    """Parameters with no zero and no two equal, biases and scales included; of equal weights in every way."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: model("plain").init(jax.random.key(0), TOKENS)[0])
    params = jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape), s.dtype), shapes)
    return stacked(params) if way == "scanned" else params


def stacked(plain: Any) -> Any:
    """A tree of the written-out network as the scanned one has it."""
    rest = {name: part for name, part in plain.items() if not name.startswith("block_")}
    blocks = [plain[f"block_{i}"] for i in range(DEPTH)]
    return {**rest, "blocks": jax.tree.map(lambda *x: jnp.stack(x), *blocks)}
