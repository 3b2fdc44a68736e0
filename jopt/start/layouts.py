"""How the arrays of another framework lie in memory: decided by the layer that a parameter belongs to.

A square kernel fits transposed or not, so shapes only confirm what the layer says.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from jopt.layers import Parameter
from jopt.start.flattened import Sizes

# Names that only PyTorch's modules, or only Flax's, give their parameters.
_TORCH = frozenset(
    ["weight", "running_mean", "running_var", "num_batches_tracked", "in_proj_weight", "in_proj_bias"]
    + [f"weight_{kind}_l{n}" for kind in ("ih", "hh") for n in range(8)]
)
_FLAX = frozenset(["kernel", "scale", "embedding", "recurrent_kernel"])

COUNTERS = frozenset({"num_batches_tracked"})
"""What PyTorch's modules count and no network of ours reads."""


class Conversion(NamedTuple):
    """How an array becomes a parameter.

    Attributes:
      apply: from the source's array to one of the parameter's shape; it only moves axes.
      text: the same in words; '' where nothing moves.
    """

    apply: Callable[[np.ndarray], np.ndarray]
    text: str


def last_part(name: str) -> str:
    """The last part of a name whose parts are separated by dots or slashes.

    Example:
      >>> last_part("features.0.weight"), last_part("Dense_0/kernel")
      ('weight', 'kernel')
    """
    return name.replace("/", ".").rpartition(".")[2]


def layout_of(names: Iterable[str]) -> str | None:
    """The layout that the names of a source tell: 'torch' or 'flax'; None where they tell none or both.

    Example:
      >>> layout_of(["fc.weight", "fc.bias"]), layout_of(["fc/kernel", "fc/bias"]), layout_of(["fc.bias"])
      ('torch', 'flax', None)
    """
    lasts = {last_part(name) for name in names}
    told = [layout for layout, own in (("torch", _TORCH), ("flax", _FLAX)) if lasts & own]
    return told[0] if len(told) == 1 else None


def torch_name(parameter: Parameter) -> str | None:
    """What PyTorch calls a parameter of this role in its module; None for one that has no such name.

    Example:
      >>> torch_name(Parameter("Dense_0/kernel", "Dense", "kernel")), torch_name(Parameter("cls", role="other"))
      ('weight', None)
    """
    return {"kernel": "weight", "embedding": "weight", "scale": "weight", "bias": "bias"}.get(parameter.role)


def from_torch(
    parameter: Parameter,
    shape: Sizes,
    source: Sizes,
    *,
    flattened: Sizes | None = None,
    ordered: bool = True,
) -> Conversion | str:
    """How an array in PyTorch's layout becomes a parameter, or in words why it cannot.

    PyTorch puts outputs first, then inputs, then the window: [out, in, height, width]. What a layer has in several
    axes of outputs or inputs (heads) PyTorch has in one.

    Args:
      parameter: what the network says about the parameter.
      shape: of the parameter.
      source: the shape of the array.
      flattened: sizes of the map whose flattened rows the layer reads, channels last, if it reads one.
      ordered: whether a map of one spatial axis is flattened in the same order by both.

    Example:
      >>> square = Parameter("Dense_0/kernel", "Dense", "kernel", contract=(0,), outputs=(1,))
      >>> conversion = from_torch(square, (2, 2), (2, 2))
      >>> conversion.apply(np.array([[1, 2], [3, 4]])).tolist(), conversion.text
      ([[1, 3], [2, 4]], 'Dense of PyTorch, axes (1, 0)')
      >>> from_torch(square, (2, 2), (2, 3))
      'PyTorch has it as 2x2'
    """
    if parameter.role == "embedding" or not parameter.is_weight:
        return _as_one_axis(shape, source) if parameter.role in ("bias", "scale") else as_it_is(shape, source)
    if parameter.stack:
        return "it holds several copies of a layer, which PyTorch has apart: stack them first, Rule(layout='flax')"
    if not parameter.contract:
        problem = f"nothing says which axes of this {parameter.layer} are inputs"
        return f"{problem}: Rule(..., layout='flax') takes an array as it is"
    outputs, inputs, window = parameter.outputs, parameter.inputs, parameter.window
    transposed = parameter.layer == "ConvTranspose"
    groups = (inputs, outputs, window) if transposed else (outputs, inputs, window)
    axes = sum(groups, ())
    sizes = tuple(shape[axis] for axis in axes)
    merged = (*(math.prod(shape[a] for a in group) for group in groups[:2]), *(shape[a] for a in window))
    if source not in (sizes, merged):
        return f"PyTorch has it as {'x'.join(map(str, merged))}"
    order = tuple(int(i) for i in np.argsort(axes))
    flips = window if transposed and inputs < outputs else ()
    channels_last = _channels_last(flattened, shape[0], ordered=ordered) if inputs == (0,) and not window else None
    if isinstance(channels_last, str):
        return channels_last

    def apply(array: np.ndarray) -> np.ndarray:
        if channels_last is not None:
            array = channels_last(array.reshape(sizes))
        # A transposed convolution of JAX slides the kernel, and PyTorch's scatters it.
        return np.flip(np.transpose(array.reshape(sizes), order), flips)

    text = f"{parameter.layer} of PyTorch, axes {order}" if order != tuple(range(len(order))) else ""
    text += f", flipped over {flips}" if flips else ""
    text += f", rows of a flattened {'x'.join(map(str, flattened or ()))} map" if channels_last else ""
    return Conversion(apply, text)


def _channels_last(
    flattened: Sizes | None, rows: int, *, ordered: bool
) -> Callable[[np.ndarray], np.ndarray] | str | None:
    """Puts columns of a kernel [out, in] that follow a map flattened channels first into the order of our own."""
    if flattened is None or math.prod(flattened) != rows or sum(n > 1 for n in flattened) < 2:
        return None
    if len(flattened) == 2:
        problem = "its input is a flattened sequence, and nothing says whether PyTorch had channels first"
        return None if ordered else f"{problem}: put the columns in order, Rule(..., layout='flax')"
    *spatial, channels = flattened
    # One channel, or one position, is in one order only.
    if channels == 1 or math.prod(spatial) == 1:
        return None

    def reorder(array: np.ndarray) -> np.ndarray:
        maps = array.reshape(array.shape[0], channels, *spatial)
        return np.moveaxis(maps, 1, -1).reshape(array.shape)

    return reorder


def _as_one_axis(shape: Sizes, source: Sizes) -> Conversion | str:
    if source == shape:
        return Conversion(lambda array: array, "")
    # The bias of several heads is one axis in PyTorch.
    if source == (math.prod(shape),):
        return Conversion(lambda array: array.reshape(shape), "reshaped")
    return f"PyTorch has it as {math.prod(shape)}"


def as_it_is(shape: Sizes, source: Sizes) -> Conversion | str:
    """The array as it is, or in words why it cannot be the parameter."""
    return Conversion(lambda array: array, "") if source == shape else "it must have the same shape"


def convolves_sequences(layers: Mapping[str, Parameter]) -> bool:
    """Whether a network has convolutions over one spatial axis, whose maps PyTorch has channels first."""
    return any(len(parameter.window) == 1 for parameter in layers.values())
