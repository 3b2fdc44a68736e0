"""The windows that a convolution looks at, as shifted slices joined along the channels (im2col)."""

import itertools
from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Shaped


def patches(
    x: Shaped[Array, "batch *spatial channels"],
    window: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
) -> Shaped[Array, "batch *positions columns"]:
    """For each output position of a convolution the inputs in its window, channels last.

    Args:
      x: [batch, *spatial, channels], of any dtype; 0 is padded.
      window: sizes of the window, one a spatial axis.
      strides: steps between windows, one a spatial axis.
      padding: pairs (low, high), one a spatial axis; they may be negative.
      dilation: steps within a window, one a spatial axis.

    Returns:
      [batch, *spatial out, prod(window) * channels], in the order of a kernel [*window, channels, ...].

    Example:
      >>> patches(jnp.arange(4).reshape(1, 4, 1), (2,), (1,), [(0, 1)], (1,))[0].tolist()
      [[0, 1], [1, 2], [2, 3], [3, 0]]
    """
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((low, high, 0) for low, high in padding), (0, 0, 0)])
    # How far a window's first tap can move: the same for every tap, so all slices have one shape.
    span = [size - (w - 1) * d for size, w, d in zip(x.shape[1:-1], window, dilation, strict=True)]
    parts = []
    for offset in itertools.product(*map(range, window)):
        start = [o * d for o, d in zip(offset, dilation, strict=True)]
        stop = [s + r for s, r in zip(start, span, strict=True)]
        parts.append(lax.slice(x, (0, *start, 0), (x.shape[0], *stop, x.shape[-1]), (1, *strides, 1)))
    # A 1x1 window has one part, of which a concatenation would be a copy.
    return parts[0] if len(parts) == 1 else lax.concatenate(parts, x.ndim - 1)
