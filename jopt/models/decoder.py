"""A causal language model: RMSNorm, grouped-query attention with rotary positions, SwiGLU."""

import dataclasses
import math

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jopt.config import join_path, require
from jopt.hyper import structural
from jopt.models.attention import Attention, check_transformer
from jopt.models.config import DTYPES
from jopt.models.functional import Model, from_linen
from jopt.models.layers import Dropout
from jopt.models.network import Network
from jopt.typing import Number


class CausalTransformer(nn.Module):
    """Tokens to the logits of the next ones, in the form of LLaMA (Touvron et al. 2023); no biases.

    A block is `x += attention(norm(x))`, `x += mlp(norm(x))`; the end is `logits = head(norm(x))`. `norm` divides
    by the root of the mean square (Zhang and Sennrich 2019), positions are rotary, the MLP is `SwiGLU`.

    Attributes:
      vocabulary: number of tokens.
      width: of the embeddings.
      depth: number of blocks.
      heads: of the attention's queries.
      kv_heads: of its keys and values.
      hidden: width of the MLPs.
      tied: whether the head is the embedding's transpose; its product is then no layer, and stays in floats.
      dropout: rate of each branch's result, or None; may be traced.
      rotary_base: of `jopt.models.attention.rotate`.
      dtype: of the computation; parameters and normalization are float32.

    Example:
      >>> import jax
      >>> module = CausalTransformer(vocabulary=7, width=8, depth=1, heads=2, kv_heads=1, hidden=12)
      >>> tokens = jnp.zeros((2, 5), jnp.uint8)
      >>> jax.eval_shape(module.init_with_output, jax.random.key(0), tokens)[0].shape
      (2, 5, 7)
    """

    vocabulary: int
    width: int
    depth: int
    heads: int
    kv_heads: int
    hidden: int
    tied: bool = False
    dropout: Number | None = None
    rotary_base: float = 10000.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "batch time"], *, train: bool = False
    ) -> Float[Array, "batch time vocabulary"]:
        """Maps tokens of any integer type to logits."""
        if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise ValueError(f"inputs must be integer tokens [batch, time], got {tokens.dtype}{list(tokens.shape)}")
        embed = nn.Embed(self.vocabulary, self.width, dtype=self.dtype, name="embed")
        x = embed(tokens.astype(jnp.int32))
        # Each of the 2 depth branches adds to x: smaller ones keep its variance at the start (Radford et al. 2019).
        out_init = nn.initializers.variance_scaling(1 / (2 * self.depth), "fan_in", "truncated_normal")
        for i in range(self.depth):
            attention = Attention(
                heads=self.heads,
                kv_heads=self.kv_heads,
                causal=True,
                rotary_base=self.rotary_base,
                out_init=out_init,
                dtype=self.dtype,
                name=f"attention_{i}",
            )
            mlp = SwiGLU(self.hidden, out_init, self.dtype, name=f"mlp_{i}")
            x = x + Dropout(self.dropout)(attention(norm(x, f"attention_norm_{i}")), train=train)
            x = x + Dropout(self.dropout)(mlp(norm(x, f"mlp_norm_{i}")), train=train)
        x = norm(x, "norm")
        if self.tied:
            return embed.attend(x)
        return nn.Dense(self.vocabulary, use_bias=False, dtype=self.dtype, name="head")(x)


def norm(x: Float[Array, "*shape width"], name: str) -> Float[Array, "*shape width"]:
    """`x / sqrt(mean(x^2) + 1e-6) * scale` over the last axis, in float32; inside the module that owns `name`."""
    return nn.RMSNorm(name=name)(x.astype(jnp.float32))


class SwiGLU(nn.Module):
    """The MLP `down(silu(gate(x)) * up(x))` (Shazeer 2020, equation 6).

    Attributes:
      hidden: width of `gate` and `up`.
      out_init: of the kernel of `down`.
      dtype: of the computation.
    """

    hidden: int
    out_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*shape width"]) -> Float[Array, "*shape width"]:
        """Maps each position by itself."""
        gate = nn.Dense(self.hidden, use_bias=False, dtype=self.dtype, name="gate")(x)
        up = nn.Dense(self.hidden, use_bias=False, dtype=self.dtype, name="up")(x)
        down = nn.Dense(x.shape[-1], use_bias=False, dtype=self.dtype, kernel_init=self.out_init, name="down")
        return down(nn.silu(gate) * up)


@dataclasses.dataclass
class Decoder(Network):
    """A causal language model: integer tokens [batch, time] to logits of the next ones [batch, time, vocabulary].

    With width w, d = w / heads and untied embeddings it has `2 vocabulary w + depth (2 w w + 2 w kv_heads d +
    3 w hidden + 2 w) + w` parameters.

    Attributes:
      vocabulary: number of tokens; 256 for bytes.
      width: of the embeddings; `heads` divides it.
      depth: number of blocks.
      heads: of the attention; each has an even size, `width / heads`.
      kv_heads: heads of keys and values, each shared by `heads / kv_heads` queries; None: as many as `heads`.
      hidden: width of the SwiGLU layers; None: 8/3 of `width`, up to the next multiple of 8, which makes them as
        large as two layers of 4 times the width.
      tied: whether the last layer is the embedding's transpose.
      dropout: rate, swept; None leaves it out of the program.
      rotary_base: of the wavelengths of rotary positions.
      dtype: of the computation, 'float32' or 'bfloat16'; parameters and logits are float32 in both.

    Example:
      >>> Decoder(width=60, heads=8).validate()
      Traceback (most recent call last):
      ...
      jopt.config.ConfigError: model.heads must be a divisor of the width 60, got 8
    """

    vocabulary: int = 256
    width: int = 128
    depth: int = 4
    heads: int = 4
    kv_heads: int | None = None
    hidden: int | None = None
    tied: bool = False
    dropout: float | None = None
    rotary_base: float = structural(10000.0)
    dtype: str = "float32"

    def validate(self, path: str = "model") -> None:
        """Checks that the fields describe a model."""
        super().validate(path)

        def field(name: str) -> str:
            return join_path(path, name)

        check_transformer(self, path, ("vocabulary", "kv_heads"))
        # A rotation turns pairs of features.
        even = self.width // self.heads % 2 == 0
        accepted = f"such that each head's size, width / heads = {self.width // self.heads}, is even"
        require(even, field("heads"), self.heads, accepted)
        shared = self.kv_heads is None or self.heads % self.kv_heads == 0
        require(shared, field("kv_heads"), self.kv_heads, f"None or a divisor of the {self.heads} heads")
        fine = 1 < self.rotary_base < math.inf
        require(fine, field("rotary_base"), self.rotary_base, "a finite number above 1")

    def model(self) -> Model:
        """`from_linen` of a `CausalTransformer`."""
        return from_linen(
            CausalTransformer(
                self.vocabulary,
                self.width,
                self.depth,
                self.heads,
                self.kv_heads or self.heads,
                self.hidden or -(-self.width // 3) * 8,
                self.tied,
                self.dropout,
                self.rotary_base,
                DTYPES[self.dtype],
            )
        )
