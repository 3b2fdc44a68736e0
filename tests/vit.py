"""One small vision transformer, written in Linen and in NNX: the names of their parameters are the same."""

import jax
from flax import linen as nn
from flax import nnx

IMAGES = jax.random.normal(jax.random.key(7), (12, 8, 8, 1))
WIDTH, HEADS, DEPTH, CLASSES = 8, 2, 2, 4


class LinenBlock(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = nn.LayerNorm(name="norm1")(x)
        x = x + nn.MultiHeadDotProductAttention(HEADS, deterministic=True, name="attention")(y)
        y = nn.Dense(2 * WIDTH, name="up")(nn.LayerNorm(name="norm2")(x))
        return x + nn.Dense(WIDTH, name="down")(nn.gelu(y))


class LinenViT(nn.Module):
    @nn.compact
    def __call__(self, x, *, train: bool = False):
        del train
        x = nn.Conv(WIDTH, (4, 4), (4, 4), name="patches")(x).reshape(x.shape[0], -1, WIDTH)
        for i in range(DEPTH):
            x = LinenBlock(name=f"block{i}")(x)
        return nn.Dense(CLASSES, name="head")(x.mean(1))


class NnxBlock(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.norm1, self.norm2 = nnx.LayerNorm(WIDTH, rngs=rngs), nnx.LayerNorm(WIDTH, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=rngs)
        self.up = nnx.Linear(WIDTH, 2 * WIDTH, rngs=rngs)
        self.down = nnx.Linear(2 * WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.down(nnx.gelu(self.up(self.norm2(x))))


class NnxViT(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.patches = nnx.Conv(1, WIDTH, (4, 4), strides=(4, 4), rngs=rngs)
        for i in range(DEPTH):
            setattr(self, f"block{i}", NnxBlock(rngs))
        self.head = nnx.Linear(WIDTH, CLASSES, rngs=rngs)

    def __call__(self, x):
        x = self.patches(x).reshape(x.shape[0], -1, WIDTH)
        for i in range(DEPTH):
            x = getattr(self, f"block{i}")(x)
        return self.head(x.mean(1))
