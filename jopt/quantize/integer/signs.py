"""Signs in words of 32 bits: 32 products are one exclusive or and one population count.

Three values fit as well: what is 0 (a pruned weight, an input of 0, padding) has a bit of its own, and counts
nothing. With s the sign bits and m the bits of what is not 0, both in words along the contraction,

    sum_i a_i b_i = popcount(m_a & m_b) - 2 popcount((s_a ^ s_b) & m_a & m_b),        a_i, b_i in {-1, 0, 1}

exactly, in int32. Without zeros the first term is the length of the contraction.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

WORD = 32
_UNROLL = 16  # words a round: fewer rounds read and write the sums less often, more make a larger program.


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
      values: [..., length] of any signed or floating dtype; what counts is the sign, 0 being a third value.
      zeros: whether the zeros get bits of their own; False promises that there are none. None: they do where there
        are some, or where nobody can know (traced values).

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

    No array is larger than the result: words are gone through one by one, each one's counts added to all of it.

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
    room = [(0, 0)] * (bits.ndim - 1) + [(0, words * WORD - bits.shape[-1])]
    bits = jnp.pad(bits, room).reshape(*bits.shape[:-1], words, WORD).astype(jnp.uint32)
    return jnp.sum(bits << lax.broadcasted_iota(jnp.uint32, bits.shape, bits.ndim - 1), -1, dtype=jnp.uint32)


def _unpack(words: jax.Array, length: int) -> jax.Array:
    shape = (*words.shape, WORD)
    bits = words[..., None] >> lax.broadcasted_iota(jnp.uint32, shape, words.ndim) & jnp.uint32(1)
    return bits.reshape(*words.shape[:-1], words.shape[-1] * WORD)[..., :length].astype(jnp.int8)
