"""Metadata as bytes: canonical JSON, Huffman-coded where that is shorter.

A byte says how: 0 there is none, 1 as it is, 2 Huffman-coded. Then follow the number of bytes of the JSON text, and
the text; or the table of code lengths (of an alphabet of 256), the number of bytes of the codes, and they.
"""

import json
from typing import Any

import numpy as np

from jopt.codec import huffman
from jopt.codec.cursor import Cursor, varint
from jopt.codec.error import CodecError

LARGEST = 1 << 20
"""Bytes of the longest text."""

_NONE, _RAW, _HUFFMAN = range(3)


def pack(metadata: Any, entropy: bool = True) -> bytes:
    r"""Metadata to bytes: the same for equal ones, whatever the order of their keys.

    Args:
      metadata: JSON values; None: there are none.
      entropy: whether Huffman codes may be used.

    Raises:
      TypeError: if they are not what JSON gives back: None, bool, int, finite floats, texts, lists, and dicts with
        texts as keys.
      ValueError: if their text is longer than `LARGEST`.

    Example:
      >>> pack({"b": 1, "a": [True]})
      b'\x01\x12{"a":[true],"b":1}'
    """
    if metadata is None:
        return bytes([_NONE])
    accepted = "metadata must be JSON: None, bool, int, finite float, text, lists, dicts with texts as keys"
    try:
        text = json.dumps(metadata, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        content, again = text.encode(), json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"{accepted}; got {error}") from error
    if not same(metadata, again):
        raise TypeError(f"{accepted}; a tuple or another type is among {str(metadata)[:200]}")
    if len(content) > LARGEST:
        raise ValueError(f"metadata must have at most {LARGEST} bytes as JSON, got {len(content)}")
    raw = bytes([_RAW]) + varint(len(content)) + content
    if not entropy:
        return raw
    symbols = np.frombuffer(content, np.uint8)
    lengths = huffman.lengths(np.bincount(symbols, minlength=256))
    codes = huffman.encode(symbols, lengths)
    coded = bytes([_HUFFMAN]) + varint(len(content)) + huffman.pack_lengths(lengths) + varint(len(codes)) + codes
    return min(raw, coded, key=len)


def unpack(cursor: Cursor) -> Any:
    """Reads what `pack` wrote.

    Raises:
      CodecError: if it is not that.
    """
    form = cursor.byte()
    if form == _NONE:
        return None
    if form > _HUFFMAN:
        raise cursor.fail(f"metadata must be of form 0 to {_HUFFMAN}, got {form}")
    # A code has a bit at least, but for one of a text that repeats one character, which is no JSON.
    count = cursor.varint("the length of the metadata", largest=min(8 * cursor.left, LARGEST))
    try:
        if form == _RAW:
            content = bytes(cursor.take(count))
        else:
            lengths, used = huffman.unpack_lengths(cursor.buffer[cursor.position :], 256)
            cursor.take(used)
            size = cursor.varint("the length of the metadata's codes", largest=2 * count + 8 + count // 100)
            content = huffman.decode(cursor.take(size), lengths, count).tobytes()
        return json.loads(content.decode(), parse_constant=_refuse)
    except CodecError as error:
        raise cursor.fail(f"metadata: {error}") from error
    except (ValueError, RecursionError) as error:
        raise cursor.fail(f"metadata must be JSON: {error}") from error


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is none")


def same(a: Any, b: Any) -> bool:
    """Whether JSON values are equal and of equal types: 1, 1.0 and True are three things."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b
