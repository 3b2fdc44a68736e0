"""The header of a file: the metadata, and the structure of the trees of arrays.

A byte says what a node of a tree is: 0 None, 1 a dict, 2 a list, 3 a tuple, 4 a leaf. After a container follow the
number of its children, and they; in a dict each child follows its key, and keys ascend. After a leaf follows its
record, which this file does not interpret.

A key is a number: 2 i for the i-th of the texts before it (0 is the empty text), or 2 i + 1 for a new text that
begins with the first bytes of the i-th; then follow how many, the number of its other bytes, and they, in UTF-8.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np

from jopt.codec import huffman
from jopt.codec.container import CodecError, Cursor, varint
from jopt.codec.symbols import pack_lengths, unpack_lengths

Tree: TypeAlias = Any
"""Nested dicts with texts as keys, lists, tuples and None; everything else is a leaf."""
Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

NONE, DICT, LIST, TUPLE, LEAF = range(5)
DEPTH = 64
"""How deep containers may be nested: a file must not exhaust Python's stack."""
LARGEST_METADATA = 1 << 20
"""Bytes of the longest JSON text."""

_RAW, _HUFFMAN = 1, 2
_RECENT = 64  # texts that a new key is compared with: all of them would take quadratic time
_NODE_MEMORY = 128  # bytes of memory that a node takes, about


def pack_metadata(metadata: Json, entropy: bool = True) -> bytes:
    r"""Metadata as canonical JSON: the same bytes for equal metadata, whatever the order of their keys.

    A byte: 0 for None, 1 for the text as it is, 2 for Huffman codes. Then the number of bytes of the text, and the
    text; or the table of code lengths (of an alphabet of 256), the number of bytes of the codes, and they.

    Args:
      metadata: JSON values; None: there are none.
      entropy: whether Huffman codes may be used.

    Raises:
      TypeError: for anything that JSON does not give back: it holds None, bool, int, finite floats, texts, lists,
        and dicts with texts as keys.
      ValueError: if the text is longer than `LARGEST_METADATA`.

    Example:
      >>> pack_metadata({"b": 1, "a": [True]})
      b'\x01\x12{"a":[true],"b":1}'
    """
    if metadata is None:
        return bytes([NONE])
    accepted = "metadata must be JSON: None, bool, int, finite float, text, lists, dicts with texts as keys"
    try:
        text = json.dumps(metadata, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        content, parsed = text.encode(), json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"{accepted}; got {error}") from error
    if not same_json(metadata, parsed):
        raise TypeError(f"{accepted}; a tuple or another type is among {str(metadata)[:200]}")
    if len(content) > LARGEST_METADATA:
        raise ValueError(f"metadata must have at most {LARGEST_METADATA} bytes as JSON, got {len(content)}")
    # A table of code lengths has up to 128 bytes, so that short texts are shorter as they are.
    raw = bytes([_RAW]) + varint(len(content)) + content
    if not entropy:
        return raw
    symbols = np.frombuffer(content, np.uint8)
    lengths = huffman.lengths(np.bincount(symbols, minlength=256))
    codes = huffman.encode(symbols, lengths)
    coded = bytes([_HUFFMAN]) + varint(len(content)) + pack_lengths(lengths) + varint(len(codes)) + codes
    return min(raw, coded, key=len)


def unpack_metadata(cursor: Cursor) -> Json:
    """Reads what `pack_metadata` wrote.

    Raises:
      CodecError: if the bytes are not that.
    """
    form = cursor.byte()
    if form == NONE:
        return None
    if form > _HUFFMAN:
        raise cursor.error(f"metadata must be of form 0 to {_HUFFMAN}, got {form}")
    # A code has a bit at least: only a text that repeats one character, which is not JSON, has none.
    count = cursor.varint("the length of the metadata", largest=min(8 * cursor.remaining, LARGEST_METADATA))
    try:
        if form == _RAW:
            content = bytes(cursor.take(count))
        else:
            lengths, used = unpack_lengths(cursor.buffer[cursor.position :], 256)
            cursor.take(used)
            size = cursor.varint("the length of the metadata's codes", largest=2 * count + 8 + count // 100)
            content = huffman.decode(cursor.take(size), lengths, count).tobytes()
        return json.loads(content.decode(), parse_constant=_refuse_constant)
    except CodecError as error:
        if error.where:
            raise
        raise cursor.error(f"metadata: {error}") from error
    except (ValueError, RecursionError) as error:
        raise cursor.error(f"metadata must be JSON: {error}") from error


def _refuse_constant(constant: str) -> None:
    # Python's parser accepts NaN and Infinity, which are not JSON.
    raise ValueError(f"{constant} is not JSON")


def same_json(a: Json, b: Json) -> bool:
    """Whether JSON values have equal values and types: 1, 1.0 and True are different."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same_json(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same_json, a, b))
    return a == b


def leaves(tree: Tree, name: str = "params") -> Iterator[tuple[str, np.ndarray]]:
    """Yields `(path, array)` of every leaf in the file's order: dicts by key, lists and tuples by position.

    Args:
      tree: a tree whose leaves are arrays or numbers.
      name: of the tree, for errors.

    Raises:
      TypeError: for a key that is not a text, a container of another type, or a leaf that is not an array.
      ValueError: for containers nested deeper than `DEPTH`.

    Example:
      >>> [(path, a.shape) for path, a in leaves({"b": np.zeros(3), "a": [np.zeros(()), None]})]
      [('a/0', ()), ('b', (3,))]
    """
    yield from _leaves(tree, (), name)


def _leaves(tree: Tree, path: tuple[str, ...], name: str) -> Iterator[tuple[str, np.ndarray]]:
    if len(path) > DEPTH:
        raise ValueError(f"{name} must be nested at most {DEPTH} deep, got more at {'/'.join(path)[:80]!r}")
    where = f"{name} at {'/'.join(path)!r}"
    if isinstance(tree, Mapping):
        if wrong_keys := [key for key in tree if not isinstance(key, str)]:
            raise TypeError(f"{where}: keys must be texts, got {wrong_keys[0]!r}")
        # Sorted: the order in which a dict was filled is not part of a model.
        for key in sorted(tree):
            yield from _leaves(tree[key], (*path, key), name)
    elif isinstance(tree, list | tuple):
        # A NamedTuple would come back as a tuple.
        if type(tree) not in (list, tuple):
            raise TypeError(f"{where} must be a dict, a list, a tuple, None or an array, got {type(tree).__name__}")
        for i, child in enumerate(tree):
            yield from _leaves(child, (*path, str(i)), name)
    elif tree is not None:
        try:
            array = np.asarray(tree)
        except Exception as error:
            raise TypeError(f"{where} must be a concrete array, got {tree!r}") from error
        if array.dtype == object:
            raise TypeError(f"{where} must be a concrete array, got {tree!r}")
        yield "/".join(path), array


class TreeWriter:
    """Writes trees; texts of the first are known in the second.

    Args:
      record: returns a leaf's record; called in the order of `leaves`.
    """

    def __init__(self, record: Callable[[], bytes]):
        self._record, self._texts = record, [b""]

    def write(self, tree: Tree) -> bytes:
        """The bytes of `tree`, which `leaves` has accepted."""
        if tree is None:
            return bytes([NONE])
        if isinstance(tree, Mapping):
            children = b"".join(self._key(key) + self.write(tree[key]) for key in sorted(tree))
            return bytes([DICT]) + varint(len(tree)) + children
        if isinstance(tree, list | tuple):
            kind = LIST if isinstance(tree, list) else TUPLE
            return bytes([kind]) + varint(len(tree)) + b"".join(map(self.write, tree))
        return bytes([LEAF]) + self._record()

    def _key(self, key: str) -> bytes:
        text = key.encode()
        recent = range(max(len(self._texts) - _RECENT, 0), len(self._texts))
        shared = {i: _shared_bytes(text, self._texts[i]) for i in (0, *recent)}
        # Most keys, such as 'kernel' and 'bias', are known from an earlier layer.
        for i in shared:
            if self._texts[i] == text:
                return varint(2 * i)
        # The latest of those that share most; text 0, whose number is shortest, if none shares anything.
        best = max(shared, key=lambda i: (shared[i], i))
        if shared[best] == 0:
            best = 0
        suffix = text[shared[best] :]
        self._texts.append(text)
        return varint(2 * best + 1) + varint(shared[best]) + varint(len(suffix)) + suffix


def _shared_bytes(a: bytes, b: bytes) -> int:
    n = min(len(a), len(b))
    return next((i for i in range(n) if a[i] != b[i]), n)


class TreeReader:
    """Reads what a `TreeWriter` wrote.

    Args:
      cursor: over the bytes.
      leaf: reads a leaf's record; takes the path and the number of bytes of its key.
      spend: takes the bytes of memory that are about to be used, and raises if there are too few: a key of a byte
        can stand for a long one.
    """

    def __init__(self, cursor: Cursor, leaf: Callable[[str, int], Any], spend: Callable[[int], None]):
        self._cursor, self._leaf, self._spend, self._texts = cursor, leaf, spend, [b""]

    def read(self, path: tuple[str, ...] = (), key_bytes: int = 0) -> Tree:
        """The next tree.

        Raises:
          CodecError: if the bytes are not a tree.
        """
        cursor = self._cursor
        if len(path) > DEPTH:
            raise cursor.error(f"containers must be nested at most {DEPTH} deep")
        kind = cursor.byte()
        self._spend(_NODE_MEMORY)
        if kind == NONE:
            return None
        if kind == LEAF:
            self._spend(sum(map(len, path)) + len(path))
            return self._leaf("/".join(path), key_bytes)
        if kind > LEAF:
            raise cursor.error(f"a node must be of kind 0 to {LEAF}, got {kind} at byte {cursor.position - 1}")
        # A child takes a byte at least.
        count = cursor.varint("the number of children", largest=cursor.remaining)
        if kind != DICT:
            children = [self.read((*path, str(i))) for i in range(count)]
            return children if kind == LIST else tuple(children)
        tree: dict[str, Tree] = {}
        last = None
        for _ in range(count):
            start = cursor.position
            key = self._key()
            if last is not None and key <= last:
                raise cursor.error(f"keys must ascend, got {key[:80]!r} after {last[:80]!r}")
            last = key
            tree[key] = self.read((*path, key), cursor.position - start)
        return tree

    def _key(self) -> str:
        cursor = self._cursor
        number, new = divmod(cursor.varint("a key", largest=2 * len(self._texts) - 1), 2)
        text = self._texts[number]
        self._spend(len(text))
        if new:
            shared = cursor.varint("the shared bytes of a key", largest=len(text))
            text = text[:shared] + bytes(cursor.take(cursor.varint("the length of a key")))
            self._texts.append(text)
        try:
            return text.decode()
        except UnicodeDecodeError as error:
            raise cursor.error(f"a key must be UTF-8, got {text[:80]!r}") from error
