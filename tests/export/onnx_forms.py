"""Networks that each hold one form of layer, by name, for the tests that run ONNX files against the model."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jopt import models


class Form(NamedTuple):
    """A network: its body, the shape of one example, and how many integers an input can be (0: it is real)."""

    body: Callable[[jax.Array], jax.Array]
    shape: tuple[int, ...]
    integers: int = 0


class Network(nn.Module):
    body: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        return self.body(x)


def build(form: Form) -> models.Model:
    return models.from_linen(Network(form.body))


def inputs(form: Form, batch: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed + batch)
    shape = (batch, *form.shape)
    values = rng.integers(0, form.integers, shape) if form.integers else rng.normal(size=shape)
    return values.astype(np.float32)


IMAGE, ROW, TOKENS, SERIES = (5, 4, 6), (6,), (7,), (7, 6)


def _images(*layers: Callable[[], Any]) -> Form:
    def body(x: jax.Array) -> jax.Array:
        for make in layers:
            x = jax.nn.relu(make()(x))
        return nn.Dense(3)(x.reshape(x.shape[0], -1))

    return Form(body, IMAGE)


def _transposed(**options: Any) -> Form:
    return _images(functools.partial(nn.ConvTranspose, 4, **{"kernel_size": (3, 3), **options}))


def _conv(**options: Any) -> Form:
    return _images(functools.partial(nn.Conv, 6, **{"kernel_size": (3, 3), **options}))


def _rows(function: Callable[[jax.Array], jax.Array], shape: tuple[int, ...] = ROW) -> Form:
    return Form(lambda x: nn.Dense(3)(function(nn.Dense(6)(x)).reshape(x.shape[0], -1)), shape)


def _pooled(pool: Callable[..., jax.Array], **options: Any) -> Form:
    return Form(lambda x: nn.Dense(3)(pool(x, (2, 3), **options).reshape(x.shape[0], -1)), IMAGE)


def _dilated_maximum(x: jax.Array) -> jax.Array:
    window, strides = (1, 2, 2, 1), (1, 1, 2, 1)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, strides, "VALID", window_dilation=(1, 2, 1, 1))


def _pooled_channels() -> Form:
    def body(x: jax.Array) -> jax.Array:
        y = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 1, 2, 2), "SAME")
        return nn.Dense(3)(y.reshape(x.shape[0], -1))

    return Form(body, IMAGE)


def _attention(x: jax.Array, mask: Any = None) -> jax.Array:
    return nn.Dense(3)(nn.MultiHeadDotProductAttention(2)(x, mask=mask).mean(1))


def _embedded(x: jax.Array) -> jax.Array:
    return nn.Dense(3)(nn.Embed(10, 4)(x.astype(jnp.int32)).reshape(x.shape[0], -1))


def _tied(x: jax.Array) -> jax.Array:
    table = nn.Embed(10, 4)
    return table.attend(nn.relu(nn.Dense(4)(table(x.astype(jnp.int32)).mean(1))))


def _positions(x: jax.Array) -> jax.Array:
    index = jnp.maximum(x.astype(jnp.int32) - 2, 0)
    return nn.Dense(3)(nn.Embed(10, 4)(index).mean(1))


class _Step(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
        return x + nn.relu(nn.Dense(6)(nn.LayerNorm()(x))), None


def _scanned(x: jax.Array) -> jax.Array:
    stack = nn.scan(_Step, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
    return nn.Dense(3)(stack(name="stack")(x, None)[0])


class _Up(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
        up = nn.ConvTranspose(6, (2, 2), strides=(2, 2))(x)
        return nn.relu(nn.Conv(6, (2, 2), strides=(2, 2))(up)), None


def _scanned_images(x: jax.Array) -> jax.Array:
    stack = nn.scan(_Up, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)
    return nn.Dense(3)(stack(name="stack")(x, None)[0].mean((1, 2)))


def _recurrent(x: jax.Array) -> jax.Array:
    return nn.Dense(3)(nn.RNN(nn.GRUCell(5))(x)[:, -1])


TRANSPOSED = {
    "transposed, SAME, stride 2": _transposed(strides=(2, 2)),
    "transposed, VALID, stride 2": _transposed(strides=(2, 2), padding="VALID"),
    "transposed, VALID, stride 3 above the window": _transposed(
        strides=(3, 3), padding="VALID", kernel_size=(2, 2)
    ),
    "transposed, SAME, strides 2 and 1": _transposed(strides=(2, 1)),
    "transposed, stride 2, dilated kernel": _transposed(strides=(2, 2), kernel_dilation=(2, 1)),
    "transposed, dilated kernel": _transposed(padding="VALID", kernel_dilation=(2, 2)),
    "transposed, stride 2, transpose_kernel": _transposed(strides=(2, 2), transpose_kernel=True),
    "transposed, transpose_kernel": _transposed(transpose_kernel=True),
    "transposed, stride 2, pairs of padding": _transposed(strides=(2, 2), padding=((1, 0), (0, 2))),
    "transposed, stride 2, negative padding": _transposed(strides=(2, 2), padding=((-1, 2), (0, -1))),
    "transposed, stride 2, circular": _transposed(strides=(2, 2), padding="CIRCULAR"),
    "transposed, 1-D, stride 2": Form(
        lambda x: nn.Dense(3)(nn.relu(nn.ConvTranspose(4, (3,), strides=(2,))(x)).mean(1)), SERIES
    ),
    "transposed, mean behind": Form(
        lambda x: nn.Dense(3)(nn.relu(nn.ConvTranspose(5, (3, 3), strides=(2, 2))(x)).mean((1, 2))), IMAGE
    ),
    "grouped, dilated input": _conv(input_dilation=(2, 2), feature_group_count=2, padding=((2, 1), (1, 2))),
    "strided, dilated input": _conv(input_dilation=(3, 2), strides=(2, 3), padding=((0, 0), (1, 0))),
    "transposed, scanned": Form(_scanned_images, IMAGE),
}

OTHERS = {
    "SAME": _conv(),
    "strided, VALID": _conv(strides=(2, 1), padding="VALID"),
    "dilated": _conv(kernel_dilation=(2, 1)),
    "grouped": _conv(feature_group_count=3),
    "depthwise": _conv(feature_group_count=6),
    "circular": _conv(padding="CIRCULAR"),
    "negative padding": _conv(padding=((-1, 1), (2, 0))),
    "a number added to a convolution": Form(
        lambda x: (nn.Conv(4, (2, 2), use_bias=False)(x) + 0.5).mean((1, 2)), IMAGE
    ),
    "a number added to a product": Form(lambda x: nn.Dense(4, use_bias=False)(x) + jnp.float32(1.5), ROW),
    "a row added to a column": Form(
        lambda x: nn.Dense(1, use_bias=False)(x) + jnp.arange(5, dtype=jnp.float32), ROW
    ),
    "images added to a column": Form(
        lambda x: (nn.Conv(1, (2, 2), use_bias=False)(x) + jnp.arange(5, dtype=jnp.float32)).mean((1, 2)), IMAGE
    ),
    "maximum, SAME": _pooled(nn.max_pool, strides=(2, 1), padding="SAME"),
    "maximum, dilated": Form(lambda x: nn.Dense(3)(_dilated_maximum(x).reshape(x.shape[0], -1)), IMAGE),
    "mean, VALID": _pooled(nn.avg_pool, strides=(2, 1)),
    "mean, SAME, padding counts": _pooled(nn.avg_pool, strides=(2, 1), padding="SAME"),
    "mean, SAME, padding does not count": _pooled(nn.avg_pool, padding="SAME", count_include_pad=False),
    "layer normalization": _rows(lambda x: nn.LayerNorm()(x)),
    "group normalization": Form(lambda x: nn.Dense(3)(nn.GroupNorm(3)(x).mean((1, 2))), IMAGE),
    "gelu": _rows(lambda x: nn.gelu(x, approximate=False)),
    "silu, softmax": _rows(lambda x: nn.softmax(nn.silu(x))),
    "a maximum with 0 of a sum": _rows(lambda x: jnp.maximum(0.0, x) + jnp.minimum(x, 0.0) ** 2),
    "attention": Form(_attention, SERIES),
    "causal attention": Form(lambda x: _attention(x, nn.make_causal_mask(x[..., 0])), SERIES),
    "heads": Form(lambda x: nn.DenseGeneral(3, axis=(-2, -1))(nn.relu(nn.DenseGeneral((2, 4))(x))), ROW),
    "einsum": Form(lambda x: nn.Einsum((6, 2, 3), "bi,ihk->bhk")(x).sum(1), ROW),
    "embedding": Form(_embedded, TOKENS, 10),
    "embedding, tied": Form(_tied, TOKENS, 10),
    "embedding, clamped index": Form(_positions, TOKENS, 10),
    "one-hot": Form(lambda x: nn.Dense(3)(nn.one_hot(x.astype(jnp.int32), 10).sum(1)), TOKENS, 10),
    "scanned layers": Form(_scanned, ROW),
    "GRU": Form(_recurrent, SERIES),
}

FORMS = {**TRANSPOSED, **OTHERS}
REFUSED = {"maximum over channels too": _pooled_channels()}
