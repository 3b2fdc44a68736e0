"""Writes the packed model file."""

import os
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jopt.codec import dtypes, tensor
from jopt.codec import metadata as about
from jopt.codec.container import join
from jopt.codec.cursor import varint
from jopt.codec.integers import Integers, fit
from jopt.codec.ledger import Ledger
from jopt.codec.reading import TIED, decode
from jopt.codec.tied import Seen
from jopt.codec.tree import Writer, leaves
from jopt.files import write_bytes


class Packed(NamedTuple):
    """A packed model: the file's bytes, and where they went."""

    data: bytes
    ledger: Ledger


def save(
    path: str | os.PathLike[str],
    params: Any,
    *,
    model_state: Any = None,
    specs: Mapping[str, Any] | None = None,
    ranges: Mapping[str, Any] | None = None,
    storage: Mapping[str, Any] | None = None,
    metadata: Any = None,
    huffman: bool = True,
) -> Ledger:
    """Writes a packed model file, atomically.

    Args:
      path: of the file.
      params: as for `encode`, and so are the others.
      model_state: batch statistics and the like.
      specs: path of a parameter to how it was quantized.
      ranges: path to the clipping range.
      storage: both, as the transform says that made the values.
      metadata: JSON values.
      huffman: whether codes of different length may be used.

    Returns:
      The `Ledger`, whose sum is the file's length.

    Raises:
      TypeError, ValueError: as `encode`.
      OSError: if the file cannot be written.
    """
    packed = encode(
        params,
        model_state=model_state,
        specs=specs,
        ranges=ranges,
        storage=storage,
        metadata=metadata,
        huffman=huffman,
    )
    write_bytes(path, packed.data)
    return packed.ledger


def encode(
    params: Any,
    *,
    model_state: Any = None,
    specs: Mapping[str, Any] | None = None,
    ranges: Mapping[str, Any] | None = None,
    storage: Mapping[str, Any] | None = None,
    metadata: Any = None,
    huffman: bool = True,
) -> Packed:
    """The bytes of a packed model file: equal arguments give equal bytes.

    Each tensor takes the encoding that is shortest for it; every bit comes back, which is checked here by decoding.

    Args:
      params: nested dicts (with texts as keys), lists, tuples and None of arrays, NumPy's or JAX's, of any numeric
        dtype. A number counts as the array of rank 0 that NumPy makes of it.
      model_state: what else the model needs, such as batch statistics, in the same way.
      specs: path of a parameter, such as 'Dense_0/kernel', to how it was quantized: anything with the attributes
        `bits`, `symmetric`, `axis`, `narrow` and `group` of `jopt.quantize.Spec`. Where the grid gives back every
        bit of the values, they are held as integers.
      ranges: path to the clipping range `(low, high)` the values were quantized with, which broadcast to the shape
        of the scales. Where there is none, or another, the largest magnitudes are tried (asymmetric: the smallest
        and the largest values).
      storage: path to anything with the attributes `spec` and `range`: what `transform.storage(state, params)`
        gives for the transform whose `apply` made the values. For paths without `specs` and `ranges`.
      metadata: JSON values: None, bool, int, float, text, lists, and dicts with texts as keys.
      huffman: whether codes of different length may be used.

    Returns:
      `Packed(data, ledger)`.

    Raises:
      TypeError: for a leaf that is no array of numbers, a key that is no text, a container of another kind, or
        metadata that are not JSON.
      ValueError: for specs or ranges of a path that is not there.

    Han, Mao and Dally, 2016, "Deep Compression", sections 2 to 4, is where most of the encodings come from.

    Example:
      >>> kernel = np.zeros((64, 10), np.float32)
      >>> kernel[::8, ::2] = 0.5
      >>> packed = encode({"kernel": kernel}, metadata={"name": "sparse"})
      >>> packed.ledger.entries[1].encoding, packed.ledger.dense_bytes, packed.ledger.total == len(packed.data)
      ('sparse (coded gaps), codebook of 1', 2560, True)
    """
    named = quantized_leaves(params, specs, ranges, storage)
    named += [Leaf(path, _standard(path, array), None) for path, array in leaves(model_state, "model_state")]
    records, sections, seen = [], [], Seen()
    for _, array, quantized in named:
        same = seen.find(array, quantized)
        if same is not None:
            records.append(bytes([TIED]) + varint(same))
            continue
        section = tensor.encode(array, quantized, huffman=huffman)
        shape = bytes([dtypes.NAMES.index(array.dtype.name), array.ndim]) + b"".join(map(varint, array.shape))
        records.append(shape + varint(len(section)))
        sections.append(section)
    ordered = iter(records)
    writer = Writer(lambda: next(ordered))
    header = about.pack(metadata, huffman) + writer.write(params) + writer.write(model_state)
    data = join(header, sections)
    return Packed(data, _checked(data, params, model_state, metadata))


class Leaf(NamedTuple):
    """A parameter, contiguous, and its integers where they give back every bit of it."""

    path: str
    array: np.ndarray
    integers: Integers | None


def quantized_leaves(
    params: Any,
    specs: Mapping[str, Any] | None = None,
    ranges: Mapping[str, Any] | None = None,
    storage: Mapping[str, Any] | None = None,
) -> list[Leaf]:
    """The parameters in the file's order.

    Args:
      params: as for `encode`.
      specs: as for `encode`.
      ranges: as for `encode`.
      storage: as for `encode`.

    Raises:
      TypeError, ValueError: as `encode`.
    """
    named = [(path, _standard(path, array)) for path, array in leaves(params)]
    times = Counter(path for path, _ in named)
    specs, ranges, storage = specs or {}, ranges or {}, storage or {}
    if twice := sorted(set(storage) & ({*specs} | {*ranges})):
        raise ValueError(f"storage must name no path of specs and ranges, got {twice[0]!r} in both")
    for field, given in (("specs", specs), ("ranges", ranges), ("storage", storage)):
        if unknown := sorted(path for path in given if times[path] != 1):
            raise ValueError(
                f"{field} must name parameters, got {unknown[0]!r}; there are {', '.join(times)[:500]}"
            )
    specs = {**specs, **{path: each.spec for path, each in storage.items()}}
    ranges = {**ranges, **{path: each.range for path, each in storage.items()}}
    return [
        Leaf(path, array, fit(array, specs[path], ranges.get(path), path) if path in specs else None)
        for path, array in named
    ]


def _checked(data: bytes, params: Any, model_state: Any, metadata: Any) -> Ledger:
    """The ledger of what was just written, which must decode to what it was made of."""
    file = decode(data, name="the packed model", max_bytes=2**62)
    for tree, again in ((params, file.params), (model_state, file.model_state)):
        if not _same(tree, again):
            raise AssertionError("the packed model does not decode to the bits it was made of")
    if not about.same(metadata, file.metadata):
        raise AssertionError("the packed model does not decode to the metadata it was made of")
    if file.ledger.total != len(data):
        raise AssertionError(f"the ledger's sum is {file.ledger.total}, the file has {len(data)} bytes")
    return file.ledger


def _same(a: Any, b: Any) -> bool:
    if isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in b)
    if isinstance(b, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(_same, a, b))
    if b is None:
        return a is None
    a = _standard("", np.asarray(a))
    return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(dtypes.bits_of(a), dtypes.bits_of(b))


def _standard(path: str, array: np.ndarray) -> np.ndarray:
    """Contiguous and in the machine's byte order."""
    if dtypes.code(array.dtype) is None:
        raise TypeError(f"{path} must be an array of numbers that a file can hold, got {array.dtype}")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    # `ascontiguousarray` alone would make a vector of what has rank 0.
    return np.ascontiguousarray(array).reshape(array.shape)
