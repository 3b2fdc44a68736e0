"""Recurrent networks: Elman, GRU and LSTM layers, and a classifier on the last state."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Shaped

from jopt.coupling import Coupling, Group, Layer, Point, Reader, affine, reads
from jopt.models import layers
from jopt.typing import Batch, Key, Number

GATES = {"rnn": 1, "gru": 3, "lstm": 4}


def matmul(name: str, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`x @ kernel`, whatever the kernel's name.

    Example:
      >>> matmul("kernel", jnp.array([[1.0, 2.0]]), jnp.array([[3.0], [4.0]])).tolist()
      [[11.0]]
    """
    del name
    return x @ kernel


class Recurrent(nn.Module):
    """One recurrent layer over time, its state starting at 0.

    With `a_t = x_t W + b` for all gates and times at once, in one product outside the scan, and `u_t = h_(t-1) U`:

    - `rnn` (Elman 1990): `h_t = tanh(a_t + u_t)`, that is tanh(W [h_(t-1), x_t] + b) with W in its two parts;
    - `gru` (Cho et al. 2014, in cuDNN's form, as Flax and PyTorch have it), gates r, z, n:
      `r, z = sigmoid(a + u)`, `n = tanh(a + r * (u + c))`, `h_t = (1 - z) n + z h_(t-1)`;
    - `lstm` (Hochreiter and Schmidhuber 1997, with Gers et al.'s forget gate), gates i, f, g, o:
      `i, f, o = sigmoid(a + u)`, `g = tanh(a + u)`, `c_t = f c_(t-1) + i g`, `h_t = o tanh(c_t)`.

    Parameters: `kernel` [features in, gates * size] (LeCun normal), `recurrent_kernel` [size, gates * size]
    (orthogonal for each gate, Saxe et al. 2014), `bias` [gates * size] (0, and 1 for the LSTM's forget gate,
    Jozefowicz et al. 2015), for `gru` `recurrent_bias` [size], the `c` above.

    Attributes:
      cell: 'rnn', 'gru' or 'lstm'.
      size: of the state.
      dtype: of the computation; parameters are float32.
      product: `(name, x, kernel) -> x @ kernel`, called for `kernel` with all inputs at once and for
        `recurrent_kernel` with the state before each step. What quantizes the state, or computes in integers, puts
        its own here (`jopt.intercept`).

    Example:
      >>> variables = Recurrent("rnn", 2).init(jax.random.key(0), jnp.ones((1, 5, 3)))
      >>> jax.tree.map(jnp.shape, variables["params"])
      {'bias': (2,), 'kernel': (3, 2), 'recurrent_kernel': (2, 2)}
    """

    cell: str
    size: int
    dtype: DTypeLike = jnp.float32
    product: Callable[[str, jax.Array, jax.Array], jax.Array] = matmul

    @nn.compact
    def __call__(self, x: Float[Array, "batch time features"]) -> Float[Array, "batch time size"]:
        """Maps [batch, time, features] to the states [batch, time, size]."""
        size, gates = self.size, GATES[self.cell]
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (x.shape[-1], gates * size))
        recurrent = self.param("recurrent_kernel", _orthogonal_gates, (size, gates * size))
        bias = self.param("bias", _forget_one if self.cell == "lstm" else nn.initializers.zeros, (gates * size,))
        extra = self.param("recurrent_bias", nn.initializers.zeros, (size,)) if self.cell == "gru" else None
        x, kernel, recurrent, bias, extra = promote_dtype(x, kernel, recurrent, bias, extra, dtype=self.dtype)
        # The input's product does not wait for the state: one large
        # product outside the scan in place of a small one a step.
        product = self.product
        inputs = product("kernel", x.swapaxes(0, 1), kernel) + lax.expand_dims(bias, (0, 1))

        def elman(h: jax.Array, a: jax.Array):
            h = jnp.tanh(a + product("recurrent_kernel", h, recurrent))
            return h, h

        # The recurrent bias stays inside of the product with r:
        # cuDNN's form, in which U h is computed once for all gates.
        def gru(h: jax.Array, a: jax.Array):
            u = product("recurrent_kernel", h, recurrent)
            r, z = jnp.split(nn.sigmoid(a[:, : 2 * size] + u[:, : 2 * size]), 2, axis=-1)
            n = jnp.tanh(a[:, 2 * size :] + r * (u[:, 2 * size :] + extra[None]))
            h = (1 - z) * n + z * h
            return h, h

        def lstm(state: tuple[jax.Array, jax.Array], a: jax.Array):
            c, h = state
            i, f, g, o = jnp.split(a + product("recurrent_kernel", h, recurrent), 4, axis=-1)
            c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
            h = nn.sigmoid(o) * jnp.tanh(c)
            return (c, h), h

        zero = jnp.zeros((x.shape[0], size), x.dtype)
        step, start = {"rnn": (elman, zero), "gru": (gru, zero), "lstm": (lstm, (zero, zero))}[self.cell]
        return lax.scan(step, start, inputs)[1].swapaxes(0, 1)


class RNN(nn.Module):
    """Stacked recurrent layers, then a fully connected layer on the last state of the last one.

    Parameters are `Recurrent_i/kernel`, `Recurrent_i/recurrent_kernel`, ..., `Dense_0/kernel`.

    Attributes:
      cell: 'rnn', 'gru' or 'lstm'.
      features: sizes of the layers.
      num_classes: size of the output.
      dropout: rate after every layer, or None; may be traced.
      dtype: of the computation; parameters are float32.

    Example:
      >>> module = RNN("lstm", features=(4,), num_classes=3)
      >>> logits, _ = module.init_with_output(jax.random.key(0), jnp.ones((2, 8, 8, 1)))
      >>> logits.shape
      (2, 3)
    """

    cell: str
    features: Sequence[int] = (64,)
    num_classes: int = 10
    dropout: Number | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Shaped[Array, "batch time ..."], *, train: bool = False) -> Float[Array, "batch classes"]:
        """Maps [batch, time, features], or images read as `height` steps, to logits [batch, num_classes]."""
        x = x.reshape(*x.shape[:2], -1)
        for size in self.features:
            x = Recurrent(self.cell, size, self.dtype)(x)
            x = layers.Dropout(self.dropout)(x, train=train)
        return nn.Dense(self.num_classes, dtype=self.dtype)(x[:, -1])

    @nn.nowrap
    def coupling(self, x: Batch | None = None) -> Coupling:
        """The groups `Recurrent_0`, ...: the state units of each layer, with all their gates.

        A unit without input whose bias is not 0 is constant only in `rnn`, and only from the first step on: the
        recurrent kernel has read the 0 before. In `gru` and `lstm` it moves from 0 towards its limit. A unit whose
        new value (gate n of `gru`, g of `lstm`) is always 0 stays at 0, whatever the other gates do.
        """
        del x
        recurrent = [_layer(f"Recurrent_{i}", self.cell) for i in range(len(self.features))]
        after = [*recurrent[1:], affine("Dense_0")]
        groups = []
        for i, (layer, reader) in enumerate(zip(recurrent, after, strict=True)):
            # A constant unit is still 0 at the first step, so only
            # a constant of 0 can be folded into the layer itself.
            itself = Reader(layer.kernels[1], layer, "is read by the first step, when it is still 0")
            point = Point((layer,), (itself, reads(reader)), jnp.tanh)
            groups.append(Group(f"Recurrent_{i}", self.features[i], (point,)))
        return Coupling(
            tuple(groups),
            lambda sizes: self.clone(features=tuple(sizes[g.name] for g in groups)),
            lambda shape: (1, 1, shape("Recurrent_0/kernel" if groups else "Dense_0/kernel")[0]),
        )


def _layer(name: str, cell: str) -> Layer:
    biases = (f"{name}/bias", *([f"{name}/recurrent_bias"] if cell == "gru" else []))
    kernels = (f"{name}/kernel", f"{name}/recurrent_kernel")
    # The candidate value, whose zero keeps the state at its start of 0 whatever the other gates do.
    value_gate = {"rnn": 0, "gru": 2, "lstm": 2}[cell]
    return Layer(kernels, biases, gates=GATES[cell], value_gate=value_gate, zero_only=cell != "rnn")


def _orthogonal_gates(key: Key, shape: tuple[int, int], dtype: DTypeLike = jnp.float32) -> jax.Array:
    # Each gate by itself: a matrix [size, gates * size] with orthogonal rows has no orthogonal blocks.
    size, gates = shape[0], shape[1] // shape[0]
    init = nn.initializers.orthogonal()
    return jnp.concatenate([init(k, (size, size), dtype) for k in jax.random.split(key, gates)], axis=1)


def _forget_one(key: Key, shape: tuple[int], dtype: DTypeLike = jnp.float32) -> jax.Array:
    del key
    # Open at the start, so that gradients reach early steps.
    size = shape[0] // 4
    return jnp.zeros(shape, dtype).at[size : 2 * size].set(1)
