"""Binary and ternary layers: signs in words of 32 bits, where 32 products are one exclusive or and one count.

Three values fit too: a 0 (a pruned weight, an input of 0, padding) has a bit in a second word, and counts nothing.
With s the sign bits and m the bits of what is not 0, both in words along the contraction,

    sum_i a_i b_i = popcount(m_a & m_b) - 2 popcount((s_a ^ s_b) & m_a & m_b),        a_i, b_i in {-1, 0, 1}

exactly, in int32. Without zeros the first term is the length of the contraction.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from jopt.patches import patches
from jopt.quantize.integer.ops import Operand, Padding, Sums, operand
from jopt.quantize.spec import Spec
from jopt.quantize.tensors import QTensor

WORD = 32
# Words a round: fewer rounds read and write the sums less often, more make a larger program.
_UNROLL = 16


@functools.partial(jax.tree_util.register_dataclass, data_fields=("negative", "nonzero"), meta_fields=("length",))
@dataclasses.dataclass(frozen=True)
class Signs:
    """Values -1, 0 and 1, a bit each (two where there are zeros), packed along the last axis.

    Value i is in bit i % 32 of word i // 32; bits beyond the last value are 0.

    Attributes:
      negative: uint32 [..., ceil(length / 32)], 1 where the value is -1.
      nonzero: of the same shape, 1 where the value is not 0; None: no value is 0.
      length: how many values are packed along the last axis.
    """

    negative: jax.Array
    nonzero: jax.Array | None
    length: int

    @property
    def nbytes(self) -> int:
        """The bytes of the words: 1/32 of those of the values in float32, or 1/16 where there are zeros."""
        return sum(4 * math.prod(words.shape) for words in (self.negative, self.nonzero) if words is not None)


def pack_signs(values: jax.Array, *, zeros: bool | None = None) -> Signs:
    """Packs signs into words of 32 bits, along the last axis.

    Args:
      values: [..., length] of any signed or floating dtype; only the sign counts, 0 being a third value.
      zeros: whether the zeros get bits; False promises that there are none. None: they do where there are some, and
        for traced values, of which that is not known.

    Returns:
      `Signs`.

    Raises:
      ValueError: for a scalar, an unsigned or boolean dtype, or (unless traced) zeros in spite of `zeros=False`.

    Courbariaux et al., 2016, "Binarized neural networks", section 4; Rastegari et al., 2016, "XNOR-Net",
    section 3.2.

    Example:
      >>> signs = pack_signs(jnp.int8([1, -1, 0, -1]))
      >>> signs.negative.tolist(), signs.nonzero.tolist()                      # 2 + 8, 1 + 2 + 8
      ([10], [11])
    """
    values = jnp.asarray(values)
    if values.ndim == 0:
        raise ValueError("values must have an axis to pack along, got a scalar")
    if not (jnp.issubdtype(values.dtype, jnp.signedinteger) or jnp.issubdtype(values.dtype, jnp.floating)):
        raise ValueError(f"values must be signed integers or floating, got {values.dtype}")
    if not isinstance(values, Tracer) and zeros is not True:
        some = bool((np.asarray(values) == 0).any())
        if some and zeros is False:
            raise ValueError("values must hold no 0 where zeros=False, got some")
        zeros = some
    zero = jnp.zeros((), values.dtype)
    nonzero = None if zeros is False else _pack(values != zero)
    return Signs(_pack(values < zero), nonzero, values.shape[-1])


def unpack_signs(signs: Signs) -> jax.Array:
    """Undoes `pack_signs`.

    Returns:
      int8 [..., length] of -1, 0 and 1.

    Example:
      >>> unpack_signs(pack_signs(jnp.array([0.5, -2.0, 0.0]))).tolist()
      [1, -1, 0]
    """
    negative, nonzero = _unpack(signs.negative, signs.length), jnp.int8(1)
    if signs.nonzero is not None:
        nonzero = _unpack(signs.nonzero, signs.length)
    return nonzero - 2 * negative


def signs_dot(x: Signs, kernel: Signs) -> jax.Array:
    """The sums of products of signs: `x @ kernel.T` in integers, exactly.

    No array is larger than the result: a loop over the words adds the counts of each to all sums.

    Args:
      x: packed [..., length].
      kernel: packed [channels out, length].

    Returns:
      int32 [..., channels out].

    Raises:
      ValueError: if the lengths differ, or the kernel is not packed from a matrix.

    Example:
      >>> a, b = jnp.int8([[1, -1, 1]]), jnp.int8([[1, 1, 1], [-1, 0, 1]])
      >>> signs_dot(pack_signs(a), pack_signs(b)).tolist()
      [[1, 0]]
    """
    if kernel.negative.ndim != 2:
        raise ValueError(f"kernel must be packed from [channels out, length], got words {kernel.negative.shape}")
    if x.length != kernel.length:
        raise ValueError(f"x and kernel must have one length, got {x.length} and {kernel.length}")
    lead, words, outputs = x.negative.shape[:-1], kernel.negative.shape[-1], kernel.negative.shape[0]
    masked = x.nonzero is not None or kernel.nonzero is not None

    def rows(plane: jax.Array | None) -> jax.Array | None:
        return None if plane is None else plane.reshape(math.prod(plane.shape[:-1]), words).T

    def one_word(total: jax.Array, planes: tuple[jax.Array | None, ...]) -> tuple[jax.Array, None]:
        a, b, not_a, not_b = planes
        differ = _columns(a) ^ _rows(b)
        # Without zeros anywhere each product is 1 or -1: the length less twice the differing signs.
        if not masked:
            return total - 2 * _count(differ), None
        both = _columns(not_a) if not_b is None else _rows(not_b)
        if not_a is not None and not_b is not None:
            both = _columns(not_a) & both
        return total + _count(both) - 2 * _count(differ & both), None

    start = jnp.full((math.prod(lead), outputs), 0 if masked else x.length, jnp.int32)
    planes = tuple(map(rows, (x.negative, kernel.negative, x.nonzero, kernel.nonzero)))
    total, _ = lax.scan(one_word, start, planes, unroll=max(1, min(_UNROLL, words)))
    return total.reshape(*lead, outputs)


def _columns(plane: jax.Array | None) -> jax.Array:
    assert plane is not None
    return plane[:, None]


def _rows(plane: jax.Array | None) -> jax.Array:
    assert plane is not None
    return plane[None, :]


def _count(words: jax.Array) -> jax.Array:
    return lax.population_count(words).astype(jnp.int32)


@jax.jit
def _pack(bits: jax.Array) -> jax.Array:
    words = -(-bits.shape[-1] // WORD)
    # Filled up with zeros, which stand for +1 on both sides and never differ.
    room = [(0, 0)] * (bits.ndim - 1) + [(0, words * WORD - bits.shape[-1])]
    bits = jnp.pad(bits, room).reshape(*bits.shape[:-1], words, WORD).astype(jnp.uint32)
    return jnp.sum(bits << lax.broadcasted_iota(jnp.uint32, bits.shape, bits.ndim - 1), -1, dtype=jnp.uint32)


def _unpack(words: jax.Array, length: int) -> jax.Array:
    shape = (*words.shape, WORD)
    bits = words[..., None] >> lax.broadcasted_iota(jnp.uint32, shape, words.ndim) & jnp.uint32(1)
    return bits.reshape(*words.shape[:-1], words.shape[-1] * WORD)[..., :length].astype(jnp.int8)


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
    # Packed along the contraction, as the windows of a convolution are.
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
      >>> from jopt.quantize.integer import rescale
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
    padding: Padding = "VALID",
    dilation: Sequence[int] | None = None,
) -> Sums:
    """A convolution of signs, channels last; padding is 0, and counts nothing.

    Where the channels fill their words, they are packed once and the windows are made of words; otherwise the
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
        # A word would hold channels of two pixels.
        signs = pack_signs(windows(values))
    else:
        # Padding is 0, so its pixels need the second plane even where no input is 0.
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
    signed = operand(x)
    if signed.scale.ndim:
        raise ValueError(f"x must have one scale, got scales of shape {signed.scale.shape}")
    codes = signed.codes.astype(jnp.int8)
    return codes if signed.zero_point is None else codes - signed.zero_point.astype(jnp.int8), signed.scale
