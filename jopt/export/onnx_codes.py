"""What a quantized model is exported from, in NumPy: the codes of weights and the grids of layers' inputs."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import ml_dtypes
import numpy as np

from jopt.quantize.activations import STATE_RANGE, ActivationMethod, Ranges
from jopt.quantize.grid import Grid, fit_range, grid
from jopt.quantize.spec import Spec, scale_shape

if TYPE_CHECKING:
    from jopt.quantize import QTensor


class WeightCodes(NamedTuple):
    """A quantized parameter; a code c stands for (c - zero) * scale.

    Attributes:
      codes: int8, uint8, int16 or uint16, of the parameter's shape.
      scale: float32, of a shape that broadcasts to that one; of its shape where entries share scales in groups.
      zero: int32, of such a shape too.
      bits: that a code is stored in: 2, 4, 8 or 16.
      group: the number of entries that share a scale, where that is not all of a channel.
      axes: the axes along which scales differ; groups follow one another along the others, flattened.
    """

    codes: np.ndarray
    scale: np.ndarray
    zero: np.ndarray
    bits: int
    group: int | None = None
    axes: tuple[int, ...] = ()


class InputCodes(NamedTuple):
    """The grid of a layer's input: code = clip(round(x / scale) + zero, low, high), half to even.

    Attributes:
      scale: float32 scalar.
      zero: the zero point; 128 where codes of 8 bits or fewer are symmetric: it is added to them.
      low: the lowest code.
      high: the highest.
      dtype: of the codes.
      sign: whether the codes are the signs of x (symmetric, 1 bit), whatever its magnitude.
    """

    scale: np.ndarray
    zero: int
    low: int
    high: int
    dtype: np.dtype
    sign: bool = False

    @property
    def clips(self) -> bool:
        """Whether `dtype` has codes beyond the lowest and highest."""
        limits = np.iinfo(self.dtype)
        return (limits.min, limits.max) != (self.low, self.high)


def weight(q: "QTensor") -> WeightCodes:
    """A `QTensor` as `WeightCodes`.

    Raises:
      ValueError: for codes that are not concrete integers of its Spec's shape.

    Example:
      >>> from jopt.quantize import quantize
      >>> w = weight(quantize(np.array([[0.5, -1.0], [0.25, 3.0]], np.float32), Spec(3, axis=-1)))
      >>> w.codes.tolist(), w.scale.tolist(), w.bits
      ([[3, -1], [2, 3]], [[0.1666..., 1.0]], 4)
    """
    codes, spec = np.asarray(q.codes), q.spec
    if codes.dtype.kind not in "iu":
        raise ValueError(f"codes must be integers, got {codes.dtype}")
    scale, zero = (
        _spread(np.broadcast_to(np.asarray(v), scale_shape(codes.shape, spec)), codes.shape, spec)
        for v in (q.scale, q.zero_point)
    )
    # A sign takes 2 bits: as codes it is -1 and 1, and ONNX has no integers of 1 bit.
    bits = int(np.asarray(spec.bits))
    stored = next(width for width in (2, 4, 8, 16) if width >= bits)
    dtype = np.dtype(np.int8 if spec.symmetric else np.uint8) if stored <= 8 else codes.dtype
    axes = spec.kept_axes(codes.ndim)
    return WeightCodes(
        codes.astype(dtype), scale.astype(np.float32), zero.astype(np.int32), stored, spec.group, axes
    )


def _spread(values: np.ndarray, shape: tuple[int, ...], spec: Spec) -> np.ndarray:
    """Scales (of `jopt.quantize.scale_shape`) as they broadcast to the array of `shape`."""
    if spec.group is None:
        return values
    axes = spec.kept_axes(len(shape))
    # Groups are counted along the other axes, flattened: for the array as it lies, these come first.
    order = [*(i for i in range(len(shape)) if i not in axes), *axes]
    spread = np.repeat(values, spec.group, axis=0).reshape([shape[i] for i in order])
    return spread.transpose([order.index(i) for i in range(len(shape))])


def inputs(
    method: ActivationMethod, layers: Iterable[str], learned: Ranges, frozen: Ranges
) -> dict[str, InputCodes]:
    """The grids of the layers whose inputs are quantized; those that are not calibrated are left out.

    Args:
      method: how inputs are quantized.
      layers: the paths of the model's.
      learned: the ranges in params, as `jopt.quantize.activations.split` gives them.
      frozen: those in the state.

    Raises:
      ValueError: if the method quantizes a layer that has no range.

    Example:
      >>> from jopt.quantize import Activations
      >>> range = {"low": np.float32(0), "high": np.float32(2.55)}
      >>> inputs(Activations(calibration="absmax"), ["Dense_0"], {}, {"Dense_0": range})["Dense_0"].high
      255
    """
    codes = {}
    for path in layers:
        if method.layer_spec(path).is_identity:
            continue
        spec, g, calibrated = method.input_grid(path, learned, frozen)
        # Without a calibrated range the simulation does not round either.
        if not spec.is_identity and bool(calibrated):
            codes[path] = _input(spec, g)
    return codes


def states(method: ActivationMethod, layers: Iterable[str]) -> dict[str, InputCodes]:
    """The grids of the recurrent layers' states, for those of `layers` where they are quantized.

    Example:
      >>> from jopt.quantize import Activations
      >>> grid = states(Activations(state=True), ["Recurrent_0"])["Recurrent_0"]
      >>> grid.low, grid.zero, grid.high
      (1, 128, 255)
    """
    specs = {path: method.state_spec(path) for path in layers}
    ranges = {path: fit_range(STATE_RANGE, (), spec) for path, spec in specs.items() if not spec.is_identity}
    return {path: _input(specs[path], grid(specs[path], range)) for path, range in ranges.items()}


def _input(spec: Spec, g: Grid) -> InputCodes:
    zero, low, high = (int(v) for v in (g.zero_point, g.lowest, g.highest))
    bits = int(np.asarray(spec.bits))
    dtype = np.dtype(np.uint8 if bits <= 8 else np.int16 if spec.symmetric else np.uint16)
    # ONNX Runtime multiplies unsigned inputs with signed weights several times as fast as signed ones.
    zero += 128 if spec.symmetric and bits <= 8 else 0
    return InputCodes(
        np.asarray(g.scale, np.float32), zero, low + zero, high + zero, dtype, spec.symmetric and bits == 1
    )


def narrow(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes in a dtype of as many bits, which an ONNX file stores packed.

    Args:
      codes: int8 or uint8 of any shape, in range; wider ones are left alone.
      bits: 2, 4, 8 or 16.

    Example:
      >>> narrow(np.int8([[1, -1, 0]]), 4).dtype, narrow(np.uint8([3]), 8).dtype
      (dtype(int4), dtype('uint8'))
    """
    # 5 to 7 bits have no type of their own in ONNX.
    if bits > 4:
        return codes
    signed = codes.dtype.kind == "i"
    return codes.astype({2: (ml_dtypes.uint2, ml_dtypes.int2), 4: (ml_dtypes.uint4, ml_dtypes.int4)}[bits][signed])
