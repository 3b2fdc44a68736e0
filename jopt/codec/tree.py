"""The structure of a tree of arrays as bytes: dicts with their keys, lists, tuples, None, and a record a leaf.

A byte says what a node is: 0 None, 1 a dict, 2 a list, 3 a tuple, 4 a leaf. A container is followed by the number
of its children and by them; in a dict each child follows its key, and keys come in order. A leaf is followed by its
record, which this file does not look into.

A key is a number, 2 i for the i-th of the texts that came before (0 being the empty text), or 2 i + 1 for a new
text that begins with the first bytes of the i-th: how many, the number of the others, and they, in UTF-8.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from jopt.codec.cursor import Cursor, varint

NONE, DICT, LIST, TUPLE, LEAF = range(5)
DEPTH = 64
"""How deep containers may be nested."""

_RECENT = 64  # texts that a new key is compared with: all of them would take quadratic time.


def leaves(tree: Any, name: str = "params") -> Iterator[tuple[str, np.ndarray]]:
    """Yields `(path, array)` of every leaf, in the file's order: dicts by key, lists and tuples by position.

    Args:
      tree: nested dicts with texts as keys, lists, tuples and None; all else is a leaf, and must be an array or a
        number.
      name: of the tree, for errors.

    Raises:
      TypeError: for a key that is no text, a container of another kind, or a leaf that is no array.
      ValueError: for containers nested deeper than `DEPTH`.

    Example:
      >>> [(path, a.shape) for path, a in leaves({"b": np.zeros(3), "a": [np.zeros(()), None]})]
      [('a/0', ()), ('b', (3,))]
    """
    yield from _leaves(tree, (), name)


def _leaves(tree: Any, at: tuple[str, ...], name: str) -> Iterator[tuple[str, np.ndarray]]:
    if len(at) > DEPTH:
        raise ValueError(f"{name} must be nested at most {DEPTH} deep, got more at {'/'.join(at)[:80]!r}")
    where = f"{name} at {'/'.join(at)!r}"
    if isinstance(tree, Mapping):
        if wrong := [key for key in tree if not isinstance(key, str)]:
            raise TypeError(f"{where}: keys must be texts, got {wrong[0]!r}")
        for key in sorted(tree):
            yield from _leaves(tree[key], (*at, key), name)
    elif isinstance(tree, list | tuple):
        if type(tree) not in (list, tuple):
            raise TypeError(f"{where} must be a dict, a list, a tuple, None or an array, got {type(tree).__name__}")
        for i, child in enumerate(tree):
            yield from _leaves(child, (*at, str(i)), name)
    elif tree is not None:
        try:
            array = np.asarray(tree)
        except Exception as error:
            raise TypeError(f"{where} must be a concrete array, got {tree!r}") from error
        if array.dtype == object:
            raise TypeError(f"{where} must be a concrete array, got {tree!r}")
        yield "/".join(at), array


_NODE = 128  # bytes of memory that a node takes, about.


class Writer:
    """Writes trees; keys of one tree serve the next.

    Args:
      record: gives a leaf's record; called in the order of `leaves`.
    """

    def __init__(self, record: Callable[[], bytes]):
        self._record, self._texts = record, [b""]

    def write(self, tree: Any) -> bytes:
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
        shared = {i: _shared(text, self._texts[i]) for i in (0, *recent)}
        for i in shared:
            if self._texts[i] == text:
                return varint(2 * i)
        # The latest of the longest.
        best = max(shared, key=lambda i: (shared[i], i))
        if shared[best] == 0:
            best = 0
        rest = text[shared[best] :]
        self._texts.append(text)
        return varint(2 * best + 1) + varint(shared[best]) + varint(len(rest)) + rest


def _shared(a: bytes, b: bytes) -> int:
    n = min(len(a), len(b))
    return next((i for i in range(n) if a[i] != b[i]), n)


class Reader:
    """Reads what a `Writer` wrote.

    Args:
      cursor: over the bytes.
      leaf: reads a leaf's record; takes the path and the number of bytes of its key.
      spend: told how much memory is about to be used; raises where that is too much. A short key may stand for a
        long one.
    """

    def __init__(self, cursor: Cursor, leaf: Callable[[str, int], Any], spend: Callable[[int], None]):
        self._cursor, self._leaf, self._spend, self._texts = cursor, leaf, spend, [b""]

    def read(self, at: tuple[str, ...] = (), key_bytes: int = 0) -> Any:
        """The next tree.

        Raises:
          CodecError: if the bytes are none.
        """
        cursor = self._cursor
        if len(at) > DEPTH:
            raise cursor.fail(f"containers must be nested at most {DEPTH} deep")
        kind = cursor.byte()
        self._spend(_NODE)
        if kind == NONE:
            return None
        if kind == LEAF:
            self._spend(sum(map(len, at)) + len(at))
            return self._leaf("/".join(at), key_bytes)
        if kind > LEAF:
            raise cursor.fail(f"a node must be of kind 0 to {LEAF}, got {kind} at byte {cursor.position - 1}")
        # A child takes a byte at least.
        count = cursor.varint("the number of children", largest=cursor.left)
        if kind != DICT:
            children = [self.read((*at, str(i))) for i in range(count)]
            return children if kind == LIST else tuple(children)
        out: dict[str, Any] = {}
        last = None
        for _ in range(count):
            start = cursor.position
            key = self._key()
            if last is not None and key <= last:
                raise cursor.fail(f"keys must be in order, got {key[:80]!r} after {last[:80]!r}")
            last = key
            out[key] = self.read((*at, key), cursor.position - start)
        return out

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
            raise cursor.fail(f"a key must be UTF-8, got {text[:80]!r}") from error
