"""Writes the packed model file, and says what each stage of Deep Compression saves."""

import os
import zlib
from collections import Counter
from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from jopt.codec import elements, tensor
from jopt.codec.container import Cursor, join, varint
from jopt.codec.elements import bits_of, same_bits, standard
from jopt.codec.grid import SpecLike
from jopt.codec.header import Json, Tree, TreeWriter, leaves, pack_metadata, same_json
from jopt.codec.integers import Integers, fit
from jopt.codec.ledger import Ledger, StageBytes
from jopt.codec.reading import TIED, decode
from jopt.files import write_bytes


class StorageLike(Protocol):
    """How values are stored as integers, such as `jopt.Storage`."""

    @property
    def spec(self) -> SpecLike:
        """How they were quantized."""
        ...

    @property
    def range(self) -> Any:
        """The clipping range, `(low, high)`."""
        ...


class Packed(NamedTuple):
    """A packed model: the file's bytes, and what they are spent on."""

    data: bytes
    ledger: Ledger


def save(
    path: str | os.PathLike[str],
    params: Tree,
    *,
    model_state: Tree = None,
    specs: Mapping[str, SpecLike] | None = None,
    ranges: Mapping[str, object] | None = None,
    storage: Mapping[str, StorageLike] | None = None,
    metadata: Json = None,
    huffman: bool = True,
) -> Ledger:
    """Writes a packed model file, atomically.

    Args:
      path: of the file.
      params: as for `encode`, and so are the others.
      model_state: batch statistics and the like.
      specs: path of a parameter to how it was quantized.
      ranges: path to the clipping range.
      storage: both, from the transform that made the values.
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
    params: Tree,
    *,
    model_state: Tree = None,
    specs: Mapping[str, SpecLike] | None = None,
    ranges: Mapping[str, object] | None = None,
    storage: Mapping[str, StorageLike] | None = None,
    metadata: Json = None,
    huffman: bool = True,
) -> Packed:
    """The bytes of a packed model file: equal arguments give equal bytes.

    Each tensor takes the encoding that is shortest for it. Every bit comes back, which is checked here by decoding.

    Args:
      params: nested dicts (with texts as keys), lists, tuples and None of arrays, NumPy's or JAX's, of any numeric
        dtype. A number counts as the array of rank 0 that NumPy makes of it.
      model_state: what else the model needs, such as batch statistics, in the same form.
      specs: path of a parameter, such as 'Dense_0/kernel', to how it was quantized: anything with the attributes
        `bits`, `symmetric`, `axis`, `narrow` and `group` of `jopt.quantize.Spec`. If the grid gives back every bit
        of the values, they are stored as integers.
      ranges: path to the clipping range `(low, high)` that the values were quantized with, which broadcast to the
        shape of the scales. Without one, or if it does not fit, the largest magnitudes are tried (asymmetric: the
        smallest and the largest values).
      storage: path to anything with the attributes `spec` and `range`: what `transform.storage(state, params)`
        returns for the transform whose `apply` made the values. For paths without `specs` and `ranges`.
      metadata: JSON values: None, bool, int, float, text, lists, and dicts with texts as keys.
      huffman: whether codes of different length may be used.

    Returns:
      `Packed(data, ledger)`.

    Raises:
      TypeError: for a leaf that is not an array of numbers, a key that is not a text, a container of another type,
        or metadata that are not JSON.
      ValueError: for specs or ranges of a path that does not exist.

    References:
      Han, Mao and Dally 2016, Deep Compression, sections 2 to 4, for most of the encodings.

    Example:
      >>> kernel = np.zeros((64, 10), np.float32)
      >>> kernel[::8, ::2] = 0.5
      >>> packed = encode({"kernel": kernel}, metadata={"name": "sparse"})
      >>> packed.ledger.entries[1].encoding, packed.ledger.dense_bytes, packed.ledger.total == len(packed.data)
      ('sparse (coded gaps), codebook of 1', 2560, True)
    """
    named = quantized_leaves(params, specs, ranges, storage)
    named += [Leaf(path, standard(path, array), None) for path, array in leaves(model_state, "model_state")]
    # Sections come first: a leaf's record in the header holds the length of its section.
    records, sections, ties = [], [], _Ties()
    for _, array, quantized in named:
        tied = ties.find(array, quantized)
        if tied is not None:
            records.append(bytes([TIED]) + varint(tied))
            continue
        section = tensor.encode(array, quantized, huffman=huffman)
        shape = bytes([elements.NAMES.index(array.dtype.name), array.ndim]) + b"".join(map(varint, array.shape))
        records.append(shape + varint(len(section)))
        sections.append(section)
    # `TreeWriter` visits leaves in the order of `leaves`, across both trees.
    ordered = iter(records)
    writer = TreeWriter(lambda: next(ordered))
    header = pack_metadata(metadata, huffman) + writer.write(params) + writer.write(model_state)
    data = join(header, sections)
    return Packed(data, _checked_ledger(data, params, model_state, metadata))


class Leaf(NamedTuple):
    """A parameter, contiguous, and its integers if they give back every bit of it."""

    path: str
    array: np.ndarray
    integers: Integers | None


def quantized_leaves(
    params: Tree,
    specs: Mapping[str, SpecLike] | None = None,
    ranges: Mapping[str, object] | None = None,
    storage: Mapping[str, StorageLike] | None = None,
) -> list[Leaf]:
    """The parameters in the file's order; arguments and errors are those of `encode`."""
    named = [(path, standard(path, array)) for path, array in leaves(params)]
    # {"a": {"b": x}} and {"a/b": y} have the same path: a Spec for it would be ambiguous.
    occurrences = Counter(path for path, _ in named)
    specs, ranges, storage = specs or {}, ranges or {}, storage or {}
    # Two sources for one path could contradict each other.
    if twice := sorted(set(storage) & ({*specs} | {*ranges})):
        raise ValueError(f"storage must name no path of specs and ranges, got {twice[0]!r} in both")
    for field, paths in (("specs", specs), ("ranges", ranges), ("storage", storage)):
        if unknown := sorted(path for path in paths if occurrences[path] != 1):
            raise ValueError(
                f"{field} must name parameters, got {unknown[0]!r}; there are {', '.join(occurrences)[:500]}"
            )
    specs = {**specs, **{path: each.spec for path, each in storage.items()}}
    ranges = {**ranges, **{path: each.range for path, each in storage.items()}}
    return [
        Leaf(path, array, fit(array, specs[path], ranges.get(path), path) if path in specs else None)
        for path, array in named
    ]


class _Ties:
    """Finds tensors that occur again: of equal dtype, shape and bits, and with equal integers."""

    def __init__(self) -> None:
        self._candidates: dict[Hashable, list[tuple[int, np.ndarray, Integers | None]]] = {}
        self._checksums: dict[int, int] = {}
        self._count = 0

    def find(self, array: np.ndarray, integers: Integers | None) -> int | None:
        """The number of an equal tensor before this one, or None.

        Example:
          >>> ties = _Ties()
          >>> [ties.find(np.float32(v), None) for v in ([1, 2], [2, 1], [1, 2])]
          [None, None, 0]
        """
        number, self._count = self._count, self._count + 1
        # Arrays are equal tensors only if their integers are too: one may be stored as integers, the other not.
        key = array.dtype.name, array.shape, None if integers is None else integers.spec
        alike = self._candidates.setdefault(key, [])
        for other, other_array, other_integers in alike:
            # A checksum first: a scan over layers has hundreds of tensors of one shape.
            same_checksum = self._checksum(other, other_array) == self._checksum(number, array)
            if same_checksum and _same_tensor(array, other_array, integers, other_integers):
                return other
        alike.append((number, array, integers))
        return None

    def _checksum(self, number: int, array: np.ndarray) -> int:
        if number not in self._checksums:
            self._checksums[number] = zlib.crc32(bits_of(array).data)
        return self._checksums[number]


def _same_tensor(a: np.ndarray, b: np.ndarray, p: Integers | None, q: Integers | None) -> bool:
    if not same_bits(a, b):
        return False
    if p is None or q is None:
        return p is q
    return same_bits(p.low, q.low) and same_bits(p.high, q.high)


def _checked_ledger(data: bytes, params: Tree, model_state: Tree, metadata: Json) -> Ledger:
    """The ledger of what was just encoded, after a check that it decodes to what it was made of.

    A fault of the codec is thus found before a file is written, and not when the model is needed.
    """
    file = decode(data, name="the packed model", max_bytes=2**62)
    for tree, decoded in ((params, file.params), (model_state, file.model_state)):
        if not _same_tree(tree, decoded):
            raise AssertionError("the packed model does not decode to the bits it was made of")
    if not same_json(metadata, file.metadata):
        raise AssertionError("the packed model does not decode to the metadata it was made of")
    if file.ledger.total != len(data):
        raise AssertionError(f"the ledger's sum is {file.ledger.total}, the file has {len(data)} bytes")
    return file.ledger


def _same_tree(tree: Tree, decoded: Tree) -> bool:
    if isinstance(decoded, dict):
        return tree.keys() == decoded.keys() and all(_same_tree(tree[key], decoded[key]) for key in decoded)
    if isinstance(decoded, list | tuple):
        return type(tree) is type(decoded) and len(tree) == len(decoded) and all(map(_same_tree, tree, decoded))
    if decoded is None:
        return tree is None
    return same_bits(standard("", np.asarray(tree)), decoded)


def stages(
    params: Tree, specs: Mapping[str, SpecLike] | None = None, ranges: Mapping[str, object] | None = None
) -> list[StageBytes]:
    """The bytes of each tensor after pruning, quantization and Huffman coding.

    Codebooks, ranges and tables of code lengths are among the bytes; the header and checksums are not.

    Args:
      params: the final parameters, as for `jopt.codec.encode`.
      specs: as for `jopt.codec.encode`.
      ranges: as for `jopt.codec.encode`.

    Returns:
      A row for each tensor, in the file's order.

    Raises:
      TypeError, ValueError: as `jopt.codec.encode`.

    References:
      Han, Mao and Dally 2016, Deep Compression, tables 2 to 5.

    Example:
      >>> kernel = np.zeros((30, 20), np.float32)
      >>> kernel[::3, ::3] = np.float32([-0.3, 0.1, 0.1, 0.1, 0.3, 0.1, 0.2])
      >>> row = stages({"kernel": kernel})[0]
      >>> row.nonzero_parameters, row.bytes_pruned, row.bytes_fixed, row.bytes_huffman
      (70, 329, 84, 55)
      >>> round(row.weight_bits_fixed, 2), round(row.weight_bits_huffman, 2)
      (2.06, 1.71)
    """
    return [_stage_bytes(*leaf) for leaf in quantized_leaves(params, specs, ranges)]


def _stage_bytes(path: str, array: np.ndarray, integers: Integers | None) -> StageBytes:
    # The same values three times, with the encodings that each stage allows: pruning alone still has float weights.
    pruned = tensor.encode(array, huffman=False, shared=False)
    fixed = tensor.encode(array, integers, huffman=False)
    coded = tensor.encode(array, integers)
    patterns = bits_of(array)
    nonzero = int(np.count_nonzero(patterns if patterns.ndim == 1 else patterns.any(axis=1)))
    weight_fixed, index_fixed = _bits_each(fixed, array, nonzero)
    weight_huffman, index_huffman = _bits_each(coded, array, nonzero)
    return StageBytes(
        path, array.size, nonzero, weight_fixed, weight_huffman, index_fixed, index_huffman,
        len(pruned), len(fixed), len(coded),
    )  # fmt: skip


def _bits_each(section: bytes, array: np.ndarray, nonzero: int) -> tuple[float, float]:
    """Bits of a value and of a position, for each element that is not zero."""
    spent = tensor.decode(Cursor(section, "section"), array.dtype, array.shape).bytes
    positions = spent.get("gaps", 0) + spent.get("filler", 0)
    return 8 * spent.get("values", 0) / max(nonzero, 1), 8 * positions / max(nonzero, 1)
