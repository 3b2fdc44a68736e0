"""How trials share a device: the rule, drawn from measurements, and the facts that it goes by."""

from typing import NamedTuple

from jopt.ablate.lift import Layout
from jopt.config import require

TINY = 8_000
"""Parameters below which a network is so small that the calls, and not the arithmetic, take the time."""

TINY_LANES = 16
ACCELERATOR_LANES = 32


class Sizes(NamedTuple):
    """What the rule goes by.

    Attributes:
      platform: 'cpu', 'gpu' or 'tpu'.
      parameters: of the largest network of the trial's stages.
      convolutions: whether a network has convolutions.
    """

    platform: str
    parameters: int
    convolutions: bool


def lanes(strategy: str, sizes: Sizes) -> int:
    """Trials in one batch (`vmap`); 1 is one after the other (`map`).

    | device | networks | strategy |
    | --- | --- | --- |
    | CPU | fewer than 8000 parameters, no convolution | vmap, 16 lanes |
    | CPU | all others | map |
    | GPU, TPU | all | vmap, 32 lanes |

    Measured (docs/benchmarks.md): on two CPU devices `map` takes at most a ninth longer than the best batch, and
    mostly no longer; on one device up to a third longer, for the smallest CNN. In exchange a trial by `map` has the
    bits that it has alone. Networks below the limit are bound by calls, of which a batch makes fewer: `map` takes a
    tenth to two times longer there. The rows for accelerators follow from their need of large operations; they have
    not been measured.

    It is a function of the structure alone, so that a second launch chooses alike and is bit-identical.

    Args:
      strategy: 'auto', 'map' or 'vmap'.
      sizes: of the trials.

    Example:
      >>> lanes("auto", Sizes("cpu", 50_710, False)), lanes("auto", Sizes("cpu", 1_210, False))
      (1, 16)
    """
    if strategy == "map":
        return 1
    if sizes.platform != "cpu":
        return ACCELERATOR_LANES
    tiny = sizes.parameters < TINY and not sizes.convolutions
    return TINY_LANES if strategy == "vmap" or tiny else 1


def chunks(trials: int, layout: Layout, most: int) -> tuple[int, int]:
    """The number of chunks and the trials in each: equal, the last padded, none larger than `most` if that can be.

    Args:
      trials: how many there are.
      layout: how they share the devices.
      most: trials in a chunk at most, at least the layout's multiple.

    Returns:
      How many chunks, and their width, a multiple of `layout.multiple`.

    Example:
      >>> chunks(100, Layout(1, 2), 100), chunks(100, Layout(1, 1), 7), chunks(3, Layout(8, 2), 64)
      ((1, 100), (15, 7), (1, 16))
    """
    step = layout.multiple
    require(most >= step, "chunk", most, f"0, or at least {step}: {layout.lanes} lanes on {layout.devices} devices")
    most = most // step * step
    count = -(-trials // most)
    width = -(-trials // count)
    return count, -(-width // step) * step
