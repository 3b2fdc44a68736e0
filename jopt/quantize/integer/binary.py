"""Binary and ternary layers on packed words, the integer layers' counterpart for codes -1, 0 and 1."""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from jopt.patches import patches
from jopt.quantize.integer.operands import operand
from jopt.quantize.integer.ops import Operand, Sums
from jopt.quantize.integer.signs import WORD, Signs, pack_signs, signs_dot
from jopt.quantize.spec import Spec
from jopt.quantize.tensors import QTensor


@functools.partial(jax.tree_util.register_dataclass, data_fields=("signs", "scale"), meta_fields=("window",))
@dataclasses.dataclass(frozen=True)
class BinaryKernel:
    """The kernel of a binary or ternary layer.

    Attributes:
      signs: packed [channels out, prod(window) * channels in].
      scale: float32 [channels out], XNOR-Net's alpha: what a code of 1 stands for.
      window: of a convolution; () for a dense layer.
    """

    signs: Signs
    scale: jax.Array
    window: tuple[int, ...] = ()


def binary_kernel(q: QTensor) -> BinaryKernel:
    """A quantized kernel, packed for `binary_dense` and `binary_conv`.

    Args:
      q: [*window, channels in, channels out] with one scale or one an output channel, of one bit (binary weights,
        those of XNOR-Net) or two if symmetric and narrow (ternary). Concrete codes without a zero take half of the
        words.

    Returns:
      A `BinaryKernel`.

    Raises:
      ValueError: for other codes, a vector, or scales that differ within an output channel.

    Example:
      >>> from jopt.quantize import Spec, quantize
      >>> kernel = binary_kernel(quantize(jnp.array([[0.25, -1.0], [-0.75, 1.0]]), Spec(1, axis=-1)))
      >>> kernel.signs.negative.tolist(), kernel.scale.tolist()
      ([[2], [1]], [0.5, 1.0])
    """
    shape, spec = q.codes.shape, q.spec
    if len(shape) < 2:
        raise ValueError(f"q must hold [*window, channels in, channels out], got shape {shape}")
    _check_three(spec, "q")
    if q.scale.shape not in ((), (1,) * len(shape), (*(1,) * (len(shape) - 1), shape[-1])):
        raise ValueError(f"q must have one scale or one an output channel, got {q.scale.shape} for {shape}")
    codes = q.codes.astype(jnp.int8)
    if not spec.symmetric:
        codes = codes - jnp.broadcast_to(q.zero_point.astype(jnp.int8), shape)
    flat = codes.reshape(math.prod(shape[:-1]), shape[-1]).T
    scale = jnp.broadcast_to(q.scale.reshape(-1), shape[-1:])
    return BinaryKernel(pack_signs(flat), scale.astype(jnp.float32), tuple(shape[:-2]))


def binary_dense(x: Operand, kernel: BinaryKernel) -> Sums:
    """A dense layer of signs: the int32 sums of `jopt.quantize.integer.dense`, of one bit a product.

    Args:
      x: the input, [..., channels in], one scale: of one bit, or ternary. Of an operand's `Codes`, which do not say
        how many bits they have, only the sign of what they are above their zero point counts.
      kernel: of `binary_kernel`, from [channels in, channels out].

    Returns:
      The `Sums`, [..., channels out], whose scale is alpha times that of the input.

    Raises:
      ValueError: if the sizes differ, the input has other codes, or the kernel is a convolution's.

    Courbariaux et al., 2016, "Binarized neural networks", section 4.

    Example:
      >>> from jopt.quantize import quantize
      >>> from jopt.quantize.integer.ops import rescale
      >>> kernel = binary_kernel(quantize(jnp.array([[0.25, -1.0], [-0.75, -1.0]]), Spec(1, axis=-1)))
      >>> sums = binary_dense(quantize(jnp.array([[2.0, -2.0], [2.0, 0.0]]), Spec(1)), kernel)
      >>> sums.values.tolist(), rescale(sums).tolist()
      ([[2, 0], [1, -1]], [[2.0, 0.0], [1.0, -2.0]])
    """
    if kernel.window:
        raise ValueError(f"kernel must be a dense layer's, got one with a window of {kernel.window}")
    values, scale = _signed(x)
    return Sums(signs_dot(pack_signs(values), kernel.signs), scale * kernel.scale)


def binary_conv(
    x: Operand,
    kernel: BinaryKernel,
    strides: Sequence[int] | None = None,
    padding: str | Sequence[tuple[int, int]] = "VALID",
    dilation: Sequence[int] | None = None,
) -> Sums:
    """A convolution of signs, channels last; what is padded is 0, and counts nothing.

    Where the channels fill their words, these are packed once and the windows are made of words; otherwise the
    windows are made first.

    Args:
      x: the input, [batch, *spatial, channels in], as in `binary_dense`.
      kernel: of `binary_kernel`, from [*window, channels in, channels out].
      strides: one number a spatial axis, None is 1.
      padding: 'SAME', 'VALID', 'SAME_LOWER' or pairs (low, high), which may be negative.
      dilation: of the window, None is 1.

    Returns:
      The `Sums`, [batch, *spatial out, channels out], whose scale is alpha times that of the input.

    Raises:
      ValueError: if the sizes differ, or the input has other codes.

    Rastegari et al., 2016, "XNOR-Net", section 3.2, equation 11 with one scale for all inputs in the place of K.

    Example:
      >>> from jopt.quantize import quantize
      >>> kernel = binary_kernel(quantize(jnp.array([1.0, -1.0]).reshape(2, 1, 1), Spec(1)))
      >>> x = quantize(jnp.array([1.0, -1.0, -1.0]).reshape(1, 3, 1), Spec(1))
      >>> [binary_conv(x, kernel, padding=p).values.ravel().tolist() for p in ("VALID", [(1, 0)])]
      [[2, 0], [-1, 2, 0]]
    """
    values, scale = _signed(x)
    window, spatial, channels = kernel.window, values.ndim - 2, values.shape[-1]
    if not window or len(window) != spatial or math.prod(window) * channels != kernel.signs.length:
        raise ValueError(
            f"kernel has a window of {window or 'none'} and {kernel.signs.length} weights an output, which "
            f"does not fit an input of shape {values.shape}"
        )
    strides, dilation = (tuple(v or (1,) * spatial) for v in (strides, dilation))
    if isinstance(padding, str):
        extent = [(size - 1) * hole + 1 for size, hole in zip(window, dilation, strict=True)]
        padding = lax.padtype_to_pads(values.shape[1:-1], extent, strides, padding)
    padded = any(low > 0 or high > 0 for low, high in padding)
    windows = functools.partial(patches, window=window, strides=strides, padding=padding, dilation=dilation)
    if channels % WORD:
        signs = pack_signs(windows(values))
    else:
        by_pixel = pack_signs(values, zeros=True if padded else None)
        nonzero = None if by_pixel.nonzero is None else windows(by_pixel.nonzero)
        signs = Signs(windows(by_pixel.negative), nonzero, kernel.signs.length)
    return Sums(signs_dot(signs, kernel.signs), scale * kernel.scale)


def is_signs(spec: Spec) -> bool:
    """Whether the codes of a Spec are -1, 0 and 1, or less: of one bit, or two if symmetric and narrow.

    Example:
      >>> [is_signs(spec) for spec in (Spec(1, axis=-1), Spec(2), Spec(2, symmetric=False))]
      [True, True, False]
    """
    return spec.bits == 1 or (spec.symmetric and spec.bits == 2 and spec.narrow)


def _check_three(spec: Spec, name: str) -> None:
    if not is_signs(spec):
        raise ValueError(f"{name} must have the codes -1, 0 and 1: 1 bit, or 2 if symmetric and narrow; got {spec}")


def _signed(x: Operand) -> tuple[jax.Array, jax.Array]:
    """Codes less their zero point, int8, and their scale."""
    if isinstance(x, QTensor):
        _check_three(x.spec, "x")
    held = operand(x)
    if held.scale.ndim:
        raise ValueError(f"x must have one scale, got scales of shape {held.scale.shape}")
    codes = held.codes.astype(jnp.int8)
    return codes if held.zero_point is None else codes - held.zero_point.astype(jnp.int8), held.scale
