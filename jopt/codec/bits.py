"""Unsigned integers of 0 to 32 bits without gaps between them.

The whole low bytes of every value come first, little endian; the bits that are left over follow, least significant
first: 10 bits are a byte of each value, then 2 bits of each. That takes as many bytes as one run of bits would and
needs no value that crosses two machine words.
"""

import numpy as np

from jopt.codec.error import CodecError

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
      ValueError: if a width is not in 0 to 32, or a value needs more bits than that.

    Example:
      >>> pack(np.array([1, 2, 3], np.uint8), 4).hex()
      '2103'
      >>> pack(np.array([1, 1023], np.uint16), 10).hex()  # low bytes 01 ff, then 00 and 11
      '01ff0c'
    """
    _check(width)
    values = np.ascontiguousarray(values).reshape(-1)
    if values.dtype == bool:
        values = values.view(np.uint8)
    if values.dtype.kind != "u":
        raise ValueError(f"values must be unsigned integers, got {values.dtype}")
    if values.size and width < 8 * values.dtype.itemsize and (top := int(values.max())) >> width:
        raise ValueError(f"a value of {width} bits must lie below {1 << width}, got {top}")
    whole, rest = divmod(width, 8)
    parts = []
    if whole:
        wide = values.astype(f"<u{1 << (whole - 1).bit_length()}", copy=False)
        parts.append(wide.view(np.uint8).reshape(values.size, wide.itemsize)[:, :whole].tobytes())
    if rest:
        high = (values >> values.dtype.type(8 * whole)) if whole else values
        parts.append(_pack_narrow(high.astype(np.uint8, copy=False), rest))
    return b"".join(parts)


def unpack(buffer: bytes | memoryview | np.ndarray, width: int, count: int) -> np.ndarray:
    """The values `pack` was given.

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
    _check(width)
    data = np.frombuffer(buffer, np.uint8)
    if count < 0 or data.size != size(count, width):
        raise CodecError(f"{count} values of {width} bits take {size(count, width)} bytes, got {data.size}")
    whole, rest = divmod(width, 8)
    dtype = np.uint8 if width <= 8 else np.uint16 if width <= 16 else np.uint32
    if not rest and whole in (1, 2, 4):
        return data.view(np.dtype(dtype).newbyteorder("<")).astype(dtype)
    if not whole:
        return _unpack_narrow(data, rest, count) if rest else np.zeros(count, dtype)
    octets = np.zeros((count, np.dtype(dtype).itemsize), np.uint8)
    octets[:, :whole] = data[: count * whole].reshape(count, whole)
    values = octets.reshape(-1).view(np.dtype(dtype).newbyteorder("<")).astype(dtype, copy=False)
    if rest:
        high = _unpack_narrow(data[count * whole :], rest, count)
        for start in range(0, count, _BLOCK):
            part = slice(start, start + _BLOCK)
            values[part] |= high[part].astype(dtype) << dtype(8 * whole)
    return values


def _check(width: int) -> None:
    if not 0 <= width <= 32:
        raise ValueError(f"width must lie in 0 to 32, got {width}")


def _pack_narrow(values: np.ndarray, width: int) -> bytes:
    """1 to 7 bits of each byte: eight values make `width` bytes."""
    if width == 1:
        return np.packbits(values, bitorder="little").tobytes()
    out = np.zeros(-(-values.size // 8) * width, np.uint8)
    for start in range(0, values.size, _BLOCK):
        block = values[start : start + _BLOCK]
        if block.size % 8:
            block = np.concatenate([block, np.zeros(-block.size % 8, np.uint8)])
        word, bits = block.view("<u8").copy(), width
        # Eight bytes of `width` bits each: fold neighbours together until the word is dense.
        for step, mask in ((8, 0x00FF00FF00FF00FF), (16, 0x0000FFFF0000FFFF), (32, 0x00000000FFFFFFFF)):
            low = word & np.uint64(mask)
            word >>= np.uint64(step)
            word &= np.uint64(mask)
            word <<= np.uint64(bits)
            word |= low
            bits *= 2
        first = start // 8 * width
        out[first : first + word.size * width] = word.view(np.uint8).reshape(-1, 8)[:, :width].reshape(-1)
    return out[: size(values.size, width)].tobytes()


def _unpack_narrow(data: np.ndarray, width: int, count: int) -> np.ndarray:
    """1 to 7 bits into a byte each."""
    used = count * width % 8
    if used and data[-1] >> used:
        raise CodecError(f"the bits after the last of {count} values must be 0, got {data[-1] >> used:#x}")
    if width == 1:
        return np.unpackbits(data, count=count, bitorder="little")
    out = np.empty(-(-count // 8) * 8, np.uint8)
    for start in range(0, count, _BLOCK):
        groups = min(_BLOCK, out.size - start) // 8
        octets = data[start // 8 * width :][: groups * width]
        spread = np.zeros((groups, 8), np.uint8)
        whole = octets.size // width
        spread[:whole, :width] = octets[: whole * width].reshape(-1, width)
        spread[whole:, : octets.size % width] = octets[whole * width :]
        word, bits = spread.reshape(-1).view("<u8"), 4 * width
        # The reverse: halve until each of the eight values has a byte of its own.
        for step in (32, 16, 8):
            mask = np.uint64(sum(((1 << bits) - 1) << at for at in range(0, 64, 2 * step)))
            high = word >> np.uint64(bits)
            high &= mask
            high <<= np.uint64(step)
            word = (word & mask) | high
            bits //= 2
        out[start : start + 8 * groups] = word.view(np.uint8)
    return out[:count]
