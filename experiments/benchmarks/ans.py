"""The codebook encodings of `jopt.codec` with constriction's ANS coder in place of Huffman codes."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from jopt.codec.codebook import distinct, indices
from jopt.codec.positions import Runs, count_runs, from_gaps, to_gaps

_WIDTHS = range(1, 9)


def coder() -> Any | None:
    """The module constriction, or None where it is not installed."""
    try:
        import constriction  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    return constriction


def encode(constriction: Any, arrays: Iterable[np.ndarray]) -> bytes:
    """Float32 arrays of at most 65536 values each, sparse ones with gaps; others (vectors) as they are.

    The model of each stream is the frequencies of its symbols, which are stored as int32.
    """
    parts: list[bytes] = []
    for array in arrays:
        flat = array.reshape(-1)
        if array.ndim < 2:
            parts.append(flat.tobytes())
            continue
        positions = np.flatnonzero(flat)
        sparse = 2 * positions.size < flat.size
        values = flat[positions] if sparse else flat
        codebook = distinct(values)
        if codebook is None:
            raise ValueError("this coder holds arrays of at most 65536 values")
        parts.append(codebook.tobytes())
        parts += _write(constriction, indices(values, codebook), codebook.size)
        if sparse:
            width = _width(count_runs(positions))
            codes = to_gaps(positions, flat.size, width)
            parts += _write(constriction, codes, 1 << width)
    sizes = np.array([len(part) for part in parts], "<u4").tobytes()
    return np.array([len(parts)], "<u4").tobytes() + sizes + b"".join(parts)


def decode(constriction: Any, data: bytes, shapes: Iterable[tuple[int, ...]]) -> list[np.ndarray]:
    """The arrays that `encode` was given."""
    (count,) = np.frombuffer(data, "<u4", 1)
    sizes = np.frombuffer(data, "<u4", int(count), 4)
    ends = 4 + 4 * int(count) + np.cumsum(sizes)
    parts = iter([data[end - size : end] for size, end in zip(sizes.tolist(), ends.tolist(), strict=True)])
    out = []
    for shape in shapes:
        flat = np.frombuffer(next(parts), np.float32)
        if len(shape) < 2:
            out.append(flat.copy())
            continue
        size, codebook = int(np.prod(shape)), flat
        chosen, _ = _read(constriction, parts)
        if chosen.size == size:
            out.append(codebook[chosen].reshape(shape))
            continue
        codes, alphabet = _read(constriction, parts)
        array = np.zeros(size, np.float32)
        array[from_gaps(codes, alphabet.bit_length() - 1, size, chosen.size)] = codebook[chosen]
        out.append(array.reshape(shape))
    return out


def _width(runs: Runs) -> int:
    """The width of a gap that takes the fewest bits: the entropy, and 32 for each frequency."""
    return min(_WIDTHS, key=lambda width: entropy(runs.codes(width)) + 32 * 2**width)


def entropy(counts: np.ndarray) -> float:
    """Bits of symbols with these counts, of zero order: sum of n log2(N / n).

    Example:
      >>> entropy(np.array([2, 1, 1, 0]))
      6.0
    """
    used = counts[counts > 0]
    return float(used @ np.log2(used.sum() / used))


def _write(constriction: Any, symbols: np.ndarray, alphabet: int) -> Iterator[bytes]:
    counts = np.bincount(symbols, minlength=alphabet)
    yield counts.astype("<i4").tobytes()
    stack = constriction.stream.stack.AnsCoder()
    if np.count_nonzero(counts) > 1:
        stack.encode_reverse(symbols.astype(np.int32), _model(constriction, counts))
    yield stack.get_compressed().tobytes()


def _read(constriction: Any, parts: Iterator[bytes]) -> tuple[np.ndarray, int]:
    """The symbols, and the size of their alphabet."""
    counts = np.frombuffer(next(parts), "<i4")
    words = np.frombuffer(next(parts), np.uint32)
    if np.count_nonzero(counts) < 2:
        return np.full(int(counts.sum()), int(counts.argmax()), np.int32), counts.size
    coder = constriction.stream.stack.AnsCoder(words)
    return coder.decode(_model(constriction, counts), int(counts.sum())), counts.size


def _model(constriction: Any, counts: np.ndarray) -> Any:
    return constriction.stream.model.Categorical(counts / counts.sum(), perfect=False)
