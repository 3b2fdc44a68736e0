"""How large a model is: parameters, nonzeros and bytes in memory, and the bits that its values would take.

Counts are exact Python integers. The theoretical sizes follow from the values alone: no file is written here, and
headers, names and shapes count nothing. It is what a code of fixed width needs.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jopt.layers import Layers, is_weight
from jopt.rules import named_leaves
from jopt.typing import Params, Shape

_SCALE_BITS = 32  # a float32


class Size(NamedTuple):
    """How large a tree of arrays is.

    Attributes:
      parameters: number of elements.
      nonzero_parameters: number of elements that are not zero; NaN counts as not zero, -0.0 as zero.
      sparsity: `1 - nonzero_parameters / parameters`; 0.0 for an empty tree.
      bytes: elements times the bytes of their dtype, in memory; not the length of any file.
    """

    parameters: int
    nonzero_parameters: int
    sparsity: float
    bytes: int


class Layer(NamedTuple):
    """One leaf of a tree of arrays; the counts are those of `Size`."""

    path: str
    shape: Shape
    dtype: str
    parameters: int
    nonzero_parameters: int
    bytes: int


def zero_share(parameters: int, nonzero: int) -> float:
    """The sparsity, `1 - nonzero / parameters`; 0.0 where there are no parameters.

    Example:
      >>> zero_share(16, 4), zero_share(0, 0)
      (0.75, 0.0)
    """
    # Not 1 - density: one rounding instead of two, so 0.1 of the parameters is the float 0.1.
    return (parameters - nonzero) / parameters if parameters else 0.0


def layers(params: Params) -> list[Layer]:
    """One row for each leaf of `params`, in leaf order.

    Args:
      params: a pytree of concrete arrays (JAX or NumPy) or Python numbers.

    Returns:
      A `Layer` for each leaf.

    Raises:
      TypeError: if a leaf has no values to count, as a `ShapeDtypeStruct` or a tracer has none.

    Example:
      >>> for layer in layers({"Dense_0": {"bias": np.zeros(2), "kernel": np.eye(2, dtype=np.float32)}}):
      ...     print(*layer)
      Dense_0/bias (2,) float64 2 0 16
      Dense_0/kernel (2, 2) float32 4 2 16
    """
    return [_layer(path, leaf) for path, leaf in named_leaves(params)]


def _layer(path: str, leaf: object) -> Layer:
    # A tracer raises here, and an object of any other kind becomes an array of dtype object.
    try:
        values = np.asarray(leaf)
    except Exception as error:
        raise TypeError(f"{path} must be a concrete array, got {leaf!r}") from error
    if values.dtype == object:
        raise TypeError(f"{path} must be a concrete array, got {leaf!r}")
    count = math.prod(values.shape)
    return Layer(
        path, values.shape, values.dtype.name, count, int(np.count_nonzero(values)), count * values.dtype.itemsize
    )


def size(params: Params) -> Size:
    """Counts the elements, the nonzeros and the bytes of `params`.

    Args:
      params: a pytree of concrete arrays (JAX or NumPy) or Python numbers.

    Returns:
      A `Size`.

    Raises:
      TypeError: if a leaf has no values to count, as a `ShapeDtypeStruct` or a tracer has none.

    Example:
      >>> size({"bias": np.zeros(2, np.float32), "kernel": np.eye(2, dtype=np.float32)})
      Size(parameters=6, nonzero_parameters=2, sparsity=0.666..., bytes=24)
    """
    rows = layers(params)
    parameters = sum(row.parameters for row in rows)
    nonzero = sum(row.nonzero_parameters for row in rows)
    return Size(parameters, nonzero, zero_share(parameters, nonzero), sum(row.bytes for row in rows))


class IntegerCode(NamedTuple):
    """How an array is stored as integers. Its values alone do not tell, where it has several scales.

    Attributes:
      bits: of one code, 1 to 32.
      scales: how many scales the array has, float32 each.
      zero_points: how many zero points, as wide as a code each; 0 for symmetric integers.
    """

    bits: int
    scales: int = 1
    zero_points: int = 0


class LayerStorage(NamedTuple):
    """The theoretical size of one array.

    Attributes:
      path: of the array.
      shape: of the array.
      parameters: number of elements.
      nonzero_parameters: number of elements that are not zero, as in `jopt.measure.Size`.
      distinct_values: number of different values, zero included; -0.0 and 0.0 are one, NaNs differ by their bits.
      code: the code that needs the fewest bits, one of those of `storage`.
      bits: what it needs.
    """

    path: str
    shape: Shape
    parameters: int
    nonzero_parameters: int
    distinct_values: int
    code: str
    bits: int

    @property
    def sparsity(self) -> float:
        """`1 - nonzero_parameters / parameters`; 0.0 for an empty array."""
        return zero_share(self.parameters, self.nonzero_parameters)

    @property
    def bits_per_parameter(self) -> float:
        """`bits / parameters`; 0.0 for an empty array."""
        return self.bits / self.parameters if self.parameters else 0.0


class Storage(NamedTuple):
    """The theoretical size of a model.

    Attributes:
      parameters: number of elements.
      nonzero_parameters: number of elements that are not zero.
      distinct_values: the most that any weight has (any array, if there are none).
      bits: of all arrays.
    """

    parameters: int
    nonzero_parameters: int
    distinct_values: int
    bits: int

    @property
    def sparsity(self) -> float:
        """`1 - nonzero_parameters / parameters`; 0.0 for an empty tree."""
        return zero_share(self.parameters, self.nonzero_parameters)

    @property
    def bits_per_parameter(self) -> float:
        """`bits / parameters`; 0.0 for an empty tree."""
        return self.bits / self.parameters if self.parameters else 0.0

    @property
    def bytes(self) -> int:
        """`bits / 8`, rounded up: theoretical, not the length of any file."""
        return -(-self.bits // 8)


def storage(params: Params, grids: Mapping[str, IntegerCode] | None = None) -> list[LayerStorage]:
    """Theoretical bits of each array, in the code of fixed width that needs the fewest.

    With n elements of w bits, z of them not zero, k distinct values, c of them not zero, and positions that take
    p = min(n, z ceil(log2 n)) bits (a bitmap, or a list of indices), the codes are

    | code | bits |
    | --- | --- |
    | dense | n w |
    | dense codebook | n ceil(log2 k) + k w |
    | sparse | p + z w |
    | sparse codebook | p + z ceil(log2 c) + c w |
    | dense integers | n b + 32 scales + b zero points |
    | sparse integers | p + z b + 32 scales + b zero points |

    The first of the smallest wins. The last two are open to arrays whose `IntegerCode` is given. Entropy coding and
    relative indices, as in Han et al. (2016), *Deep Compression*, section 2 to 4, would need fewer.

    Args:
      params: a pytree of concrete arrays: what the model sees, after every transform.
      grids: path of an array to its integers, b bits each. An array that is not named is measured by its values.

    Returns:
      A `LayerStorage` for each array, in leaf order.

    Raises:
      TypeError: if a leaf has no values to count.
      ValueError: for a path that is not there, a `IntegerCode` out of range, or one that has too few codes for the
        values of its array.

    Example:
      >>> shared = np.tile(np.float32([0.0, 0.0, 0.0, -0.5, 0.5]), (4, 5))             # 4 x 25, 80 of them zero
      >>> for row in storage({"bias": np.float32([1, 2, 3]), "kernel": shared}):       # the list: 7 bits an index
      ...     print(row.path, row.nonzero_parameters, row.distinct_values, row.code, row.bits)
      bias 3 3 dense 96
      kernel 40 3 sparse codebook 204
    """
    rows, leaves = layers(params), dict(named_leaves(params))
    if unknown := sorted(set(grids or {}) - set(leaves)):
        raise ValueError(f"grids name {', '.join(unknown)}; the parameters are: {', '.join(leaves) or 'none'}")
    stored = []
    for row in rows:
        values = np.asarray(leaves[row.path])
        n, nonzero, distinct = row.parameters, row.nonzero_parameters, _distinct(values)
        grid = (grids or {}).get(row.path)
        codes = _codes(n, nonzero, distinct, 8 * values.dtype.itemsize)
        if grid is not None:
            codes |= _integers(row.path, grid, n, nonzero, distinct)
        # Of equal sizes the first one, which is the simpler code: the table of the docstring has this order.
        code = min(codes, key=lambda name: codes[name])
        stored.append(LayerStorage(row.path, row.shape, n, nonzero, distinct, code, codes[code]))
    return stored


def total_storage(rows: Sequence[LayerStorage], layers: Layers | None = None) -> Storage:
    """The sum of what `storage` gave.

    Args:
      rows: of the arrays.
      layers: what the model says about its parameters: which are weights. None: what their names and shapes say.

    Example:
      >>> total = total_storage(storage({"bias": np.zeros(2, np.float32), "kernel": np.eye(4, dtype=np.float32)}))
      >>> total, total.bytes, total.bits_per_parameter
      (Storage(parameters=18, nonzero_parameters=4, distinct_values=2, bits=48), 6, 2.66...)
    """
    # A bias seldom has two equal entries: it would hide how many values the shared or quantized weights have.
    weights = [row for row in rows if is_weight(row.path, row.shape, layers)] or rows
    return Storage(
        sum(row.parameters for row in rows),
        sum(row.nonzero_parameters for row in rows),
        max((row.distinct_values for row in weights), default=0),
        sum(row.bits for row in rows),
    )


def _codes(n: int, nonzero: int, distinct: int, width: int) -> dict[str, int]:
    """The bits of the codes that any array can have, by the name of the code."""
    positions = _positions(n, nonzero)
    # A sparse code writes no zeros, so its codebook has no entry for 0.
    codebook = distinct - (nonzero < n)
    return {
        "dense": n * width,
        "dense codebook": n * _index(distinct) + distinct * width,
        "sparse": positions + nonzero * width,
        "sparse codebook": positions + nonzero * _index(codebook) + codebook * width,
    }


def _integers(path: str, grid: IntegerCode, n: int, nonzero: int, distinct: int) -> dict[str, int]:
    """The bits of the codes that an array of integers can have too."""
    for name, value, low, high in (
        ("bits", grid.bits, 1, 32),
        ("scales", grid.scales, 1, max(n, 1)),
        ("zero_points", grid.zero_points, 0, max(n, 1)),
    ):
        if int(value) != value or not low <= value <= high:
            raise ValueError(f"{name} must be an integer in [{low}, {high}], got {value!r} for {path!r}")
    overhead = _SCALE_BITS * grid.scales + grid.bits * grid.zero_points
    # Each scale has a grid of values: with several scales an array can have more values than one code has.
    capacity = grid.scales * 2**grid.bits
    codes = {}
    if distinct <= capacity:
        codes["dense integers"] = n * grid.bits + overhead
    # Pruned binary weights have three values and one bit: without the zeros it is enough.
    if distinct - (nonzero < n) <= capacity:
        codes["sparse integers"] = _positions(n, nonzero) + nonzero * grid.bits + overhead
    if not codes:
        raise ValueError(
            f"{path!r} has {distinct} distinct values, more than {grid.scales} x 2^{grid.bits} = {capacity} codes"
        )
    return codes


def _positions(n: int, nonzero: int) -> int:
    """A bitmap, or the list of indices where that is shorter."""
    return min(n, nonzero * _index(n))


def _index(count: int) -> int:
    """Bits of an index into `count` entries: ceil(log2(count)), in integers because log2 of a float may round."""
    return max(count - 1, 0).bit_length()


def _distinct(values: np.ndarray) -> int:
    """The number of distinct bit patterns: NaNs, compared as floats, would each be a new value."""
    if not values.size:
        return 0
    # The two zeros have different patterns but are one value.
    values = np.where(values == 0, np.zeros((), values.dtype), values).ravel()
    size = values.dtype.itemsize
    # complex128 has no integer type of its size, so it is sorted as numbers.
    ordered = np.sort(values.view(f"u{size}") if size in (1, 2, 4, 8) else values)
    return 1 + int(np.count_nonzero(ordered[1:] != ordered[:-1]))
