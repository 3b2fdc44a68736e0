"""Unsigned integers of 0 to 32 bits, packed without gaps.

The full low bytes of all values come first, little-endian; the remaining 1 to 7 bits of each follow, lowest bit
first. Ten bits a value are thus one byte of each value and then two bits of each. This takes as many bytes as one
run of bits and no value crosses two machine words.
"""

import numpy as np

from jopt.codec.container import CodecError

# Values handled at a time: temporary arrays of one block stay in the cache.
_BLOCK = 1 << 18


def size(count: int, width: int) -> int:
    """Bytes of `count` values of `width` bits: ceil(count width / 8).

    Example:
      >>> size(3, 4), size(3, 10), size(9, 0)
      (2, 4, 0)
    """
    return (count * width + 7) // 8


def pack(values: np.ndarray, width: int) -> bytes:
    """The low `width` bits of each value, side by side.

    Args:
      values: any shape of unsigned integers (or bool), each below `2**width`.
      width: bits of a value, 0 to 32.

    Returns:
      `size(values.size, width)` bytes; the bits that fill the last byte are 0.

    Raises:
      ValueError: if the width is not in 0 to 32, or a value needs more bits.

    Example:
      >>> pack(np.array([1, 2, 3], np.uint8), 4).hex()
      '2103'
      >>> pack(np.array([1, 1023], np.uint16), 10).hex()  # low bytes 01 ff, then 00 and 11
      '01ff0c'
    """
    _check_width(width)
    values = np.ascontiguousarray(values).reshape(-1)
    if values.dtype == bool:
        values = values.view(np.uint8)
    if values.dtype.kind != "u":
        raise ValueError(f"values must be unsigned integers, got {values.dtype}")
    if values.size and width < 8 * values.dtype.itemsize and (largest := int(values.max())) >> width:
        raise ValueError(f"values of {width} bits must be below {1 << width}, got {largest}")
    full_bytes, extra_bits = divmod(width, 8)
    parts = []
    if full_bytes:
        words = values.astype(f"<u{1 << (full_bytes - 1).bit_length()}", copy=False)
        parts.append(words.view(np.uint8).reshape(values.size, words.itemsize)[:, :full_bytes].tobytes())
    if extra_bits:
        high = (values >> values.dtype.type(8 * full_bytes)) if full_bytes else values
        parts.append(_pack_narrow(high.astype(np.uint8, copy=False), extra_bits))
    return b"".join(parts)


def unpack(buffer: bytes | memoryview | np.ndarray, width: int, count: int) -> np.ndarray:
    """The values that `pack` packed.

    Args:
      buffer: exactly `size(count, width)` bytes.
      width: bits of a value, 0 to 32.
      count: number of values.

    Returns:
      A vector of `count`, uint8 up to 8 bits, uint16 up to 16, else uint32.

    Raises:
      CodecError: if the length does not fit, or a bit after the last value is set.

    Example:
      >>> unpack(bytes.fromhex("2103"), 4, 3), unpack(bytes.fromhex("01ff0c"), 10, 2)
      (array([1, 2, 3], dtype=uint8), array([   1, 1023], dtype=uint16))
    """
    _check_width(width)
    data = np.frombuffer(buffer, np.uint8)
    if count < 0 or data.size != size(count, width):
        raise CodecError(f"{count} values of {width} bits take {size(count, width)} bytes, got {data.size}")
    full_bytes, extra_bits = divmod(width, 8)
    dtype = np.uint8 if width <= 8 else np.uint16 if width <= 16 else np.uint32
    little_endian = np.dtype(dtype).newbyteorder("<")
    if not extra_bits and full_bytes in (1, 2, 4):
        # `astype` copies: what is returned can be written to.
        return data.view(little_endian).astype(dtype)
    if not full_bytes:
        return _unpack_narrow(data, extra_bits, count) if extra_bits else np.zeros(count, dtype)
    octets = np.zeros((count, np.dtype(dtype).itemsize), np.uint8)
    octets[:, :full_bytes] = data[: count * full_bytes].reshape(count, full_bytes)
    values = octets.reshape(-1).view(little_endian).astype(dtype, copy=False)
    if extra_bits:
        high = _unpack_narrow(data[count * full_bytes :], extra_bits, count)
        for start in range(0, count, _BLOCK):
            block = slice(start, start + _BLOCK)
            values[block] |= high[block].astype(dtype) << dtype(8 * full_bytes)
    return values


def _check_width(width: int) -> None:
    if not 0 <= width <= 32:
        raise ValueError(f"width must be 0 to 32, got {width}")


def _pack_narrow(values: np.ndarray, width: int) -> bytes:
    """1 to 7 bits of each byte: eight values make `width` bytes."""
    if width == 1:
        return np.packbits(values, bitorder="little").tobytes()
    packed = np.zeros(-(-values.size // 8) * width, np.uint8)
    for start in range(0, values.size, _BLOCK):
        block = values[start : start + _BLOCK]
        if block.size % 8:
            block = np.concatenate([block, np.zeros(-block.size % 8, np.uint8)])
        word, bits = block.view("<u8").copy(), width
        # A word holds eight values, one a byte. Three steps move neighbours together, in all words at once: eight
        # bytes of w bits become four of 2 w, two of 4 w, and one dense run of 8 w.
        for step, mask in ((8, 0x00FF00FF00FF00FF), (16, 0x0000FFFF0000FFFF), (32, 0x00000000FFFFFFFF)):
            low = word & np.uint64(mask)
            word >>= np.uint64(step)
            word &= np.uint64(mask)
            word <<= np.uint64(bits)
            word |= low
            bits *= 2
        first = start // 8 * width
        packed[first : first + word.size * width] = word.view(np.uint8).reshape(-1, 8)[:, :width].reshape(-1)
    return packed[: size(values.size, width)].tobytes()


def _unpack_narrow(data: np.ndarray, width: int, count: int) -> np.ndarray:
    """1 to 7 bits into a byte each."""
    used = count * width % 8
    # One encoding for one sequence of values: a set bit here is damage, though no value would change.
    if used and data[-1] >> used:
        raise CodecError(f"the bits after the last of {count} values must be 0, got {data[-1] >> used:#x}")
    if width == 1:
        return np.unpackbits(data, count=count, bitorder="little")
    values = np.empty(-(-count // 8) * 8, np.uint8)
    for start in range(0, count, _BLOCK):
        groups = min(_BLOCK, values.size - start) // 8
        octets = data[start // 8 * width :][: groups * width]
        spread = np.zeros((groups, 8), np.uint8)
        full_groups = octets.size // width
        spread[:full_groups, :width] = octets[: full_groups * width].reshape(-1, width)
        spread[full_groups:, : octets.size % width] = octets[full_groups * width :]
        word, bits = spread.reshape(-1).view("<u8"), 4 * width
        # The steps of `_pack_narrow` in reverse: halve until every value has its own byte.
        for step in (32, 16, 8):
            mask = np.uint64(sum(((1 << bits) - 1) << at for at in range(0, 64, 2 * step)))
            high = word >> np.uint64(bits)
            high &= mask
            high <<= np.uint64(step)
            word = (word & mask) | high
            bits //= 2
        values[start : start + 8 * groups] = word.view(np.uint8)
    return values[:count]
