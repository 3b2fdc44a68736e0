"""FLOPs that are left once products with zero weights are skipped: theoretical, no kernel here skips them."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from jopt.layers import Layers, parameters
from jopt.measure.size import layers as sizes


def effective_flops(flops: Mapping[str, int], params: Any, layers: Layers | None = None) -> dict[str, int] | None:
    """FLOPs of each layer times the density of its kernel.

    A dense layer uses each kernel entry once an example, a convolution once an output position (products with
    padding count, as in `flops`), a recurrence once a time step: so FLOPs times the share of nonzero kernel
    entries is exact. The zeros counted are those of the kernel itself: what a dead input or output neuron would
    save in the layers beside it shows only once the model is shrunk.

    Args:
      flops: FLOPs by layer, as `jopt.measure.flops_by_layer` gives them.
      params: the parameters as the model sees them. The kernels of a layer are taken as one if there are several; a
        layer without any, and `''`, count in full.
      layers: what the model says about its parameters, which are kernels above all; None: what their names and
        shapes say.

    Returns:
      Layer to FLOPs, rounded where several kernels share a layer; the values add up to the model's. None where the
      layers of a model cannot be seen (of NNX modules and plain functions all FLOPs are under `''`): how many of
      them a zero weight saves is not known then.

    Example:
      >>> import numpy as np
      >>> params = {"Dense_0": {"bias": np.zeros(4), "kernel": np.eye(4)}, "Dense_1": {"kernel": np.ones((4, 2))}}
      >>> effective_flops({"Dense_0": 32, "Dense_1": 16, "": 5}, params)
      {'Dense_0': 8, 'Dense_1': 16, '': 5}
      >>> print(effective_flops({"": 48, "Dense_0": 0, "Dense_1": 0}, params))
      None
    """
    counts: dict[str, tuple[int, int]] = {}
    for row, parameter in zip(sizes(params), parameters(params, layers), strict=True):
        if parameter.role == "kernel":
            owner = row.path.rpartition("/")[0]
            size, nonzero = counts.get(owner, (0, 0))
            counts[owner] = size + row.parameters, nonzero + row.nonzero_parameters
    if flops.get("") and any(not flops.get(owner) for owner in counts if owner):
        return None
    out = {}
    for layer, count in flops.items():
        size, nonzero = counts.get(layer, (0, 0)) if layer else (0, 0)
        out[layer] = round(Fraction(count * nonzero, size)) if size else count
    return out
