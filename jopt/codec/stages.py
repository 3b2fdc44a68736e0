"""What each stage of Deep Compression saves: pruning, then quantization, then Huffman coding."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jopt.codec import decoded, tensor
from jopt.codec.cursor import Cursor
from jopt.codec.dtypes import bits_of
from jopt.codec.model import Leaf, quantized_leaves


class StageBytes(NamedTuple):
    """The bytes of a tensor's section, stage by stage, and what they are spent on.

    Bits are those of the stream as it is in the file, in whole bytes, over the weights that are not zero. A tensor
    that is shortest with its zeros held has index bits of 0.

    Attributes:
      path: of the tensor.
      parameters: number of elements.
      kept: number of elements that are not +0.0.
      weight_bits_fixed: of an index or code of fixed width, a kept weight (P+Q).
      weight_bits_huffman: the same with Huffman codes where they are shorter (P+Q+H).
      index_bits_fixed: of its position, fillers included (P+Q).
      index_bits_huffman: the same with Huffman codes where they are shorter (P+Q+H).
      bytes_pruned: positions of fixed width and the values in their own dtype (P).
      bytes_fixed: with a codebook or integers, all of fixed width (P+Q).
      bytes_huffman: as in the file (P+Q+H).
    """

    path: str
    parameters: int
    kept: int
    weight_bits_fixed: float
    weight_bits_huffman: float
    index_bits_fixed: float
    index_bits_huffman: float
    bytes_pruned: int
    bytes_fixed: int
    bytes_huffman: int


def stages(
    params: Any, specs: Mapping[str, Any] | None = None, ranges: Mapping[str, Any] | None = None
) -> list[StageBytes]:
    """The bytes of each tensor after pruning, quantization and Huffman coding.

    Codebooks, ranges and tables of code lengths are in the bytes; the header and checksums are not.

    Args:
      params: the final parameters, as for `jopt.codec.encode`.
      specs: as for `jopt.codec.encode`.
      ranges: as for `jopt.codec.encode`.

    Returns:
      A row for each tensor, in the file's order.

    Raises:
      TypeError, ValueError: as `jopt.codec.encode`.

    Han, Mao and Dally, 2016, "Deep Compression", tables 2 to 5.

    Example:
      >>> kernel = np.zeros((30, 20), np.float32)
      >>> kernel[::3, ::3] = np.float32([-0.3, 0.1, 0.1, 0.1, 0.3, 0.1, 0.2])
      >>> row = stages({"kernel": kernel})[0]
      >>> row.kept, row.bytes_pruned, row.bytes_fixed, row.bytes_huffman
      (70, 329, 84, 55)
      >>> round(row.weight_bits_fixed, 2), round(row.weight_bits_huffman, 2)
      (2.06, 1.71)
    """
    return [_row(leaf) for leaf in quantized_leaves(params, specs, ranges)]


def _row(leaf: Leaf) -> StageBytes:
    path, array, integers = leaf
    pruned = tensor.encode(array, huffman=False, shared=False)
    fixed = tensor.encode(array, integers, huffman=False)
    coded = tensor.encode(array, integers)
    kept = int(np.count_nonzero(bits_of(array).reshape(array.size, -1).any(axis=1)))
    before, after = _bits(fixed, array, kept), _bits(coded, array, kept)
    return StageBytes(
        path, array.size, kept, before[0], after[0], before[1], after[1], len(pruned), len(fixed), len(coded)
    )


def _bits(section: bytes, array: np.ndarray, kept: int) -> tuple[float, float]:
    spent = decoded.decode(Cursor(section, "section"), array.dtype, array.shape).bytes
    values, positions = spent.get("values", 0), spent.get("gaps", 0) + spent.get("filler", 0)
    return 8 * values / max(kept, 1), 8 * positions / max(kept, 1)
