"""Recurrent layers of PyTorch: the names of their four arrays, and two biases where one is enough."""

import re
from collections.abc import Collection, Sequence

import numpy as np

from jopt.start.renaming import Piece

_NAME = re.compile(r"(weight|bias)_(ih|hh)(_l\d+)?")


def join_biases(pieces: Sequence[Piece], paths: Collection[str]) -> list[Piece]:
    """The arrays of PyTorch's RNN, GRU and LSTM under the names that `jopt.models.rnn.Recurrent` has.

    Gates are in one order in both. PyTorch adds two biases, of the input's and of the state's product; only in the
    gate n of a GRU do they differ, where the second is inside of the product with r.

    Args:
      pieces: arrays, whose names end in PyTorch's: `weight_ih_l0`.
      paths: of the network's parameters.

    Example:
      >>> both = [Piece(f"a/bias_{kind}_l0", kind, np.ones(4)) for kind in ("ih", "hh")]
      >>> [(p.name, p.source, p.array.tolist()) for p in join_biases(both, {"a/recurrent_kernel"})]
      [('a/bias', 'ih + hh', [2.0, 2.0, 2.0, 2.0])]
    """
    joined: list[Piece] = []
    biases: dict[str, dict[str, Piece]] = {}
    for piece in pieces:
        layer, _, last = piece.name.replace(".", "/").rpartition("/")
        match = _NAME.fullmatch(last)
        if match is None or f"{layer}/recurrent_kernel" not in paths:
            joined.append(piece)
        elif match[1] == "weight":
            joined.append(piece._replace(name=f"{layer}/{'kernel' if match[2] == 'ih' else 'recurrent_kernel'}"))
        else:
            biases.setdefault(layer, {})[match[2]] = piece
    for layer, by_kind in biases.items():
        joined += _sum(layer, by_kind, gru=f"{layer}/recurrent_bias" in paths)
    return joined


def _sum(layer: str, biases: dict[str, Piece], *, gru: bool) -> list[Piece]:
    # One of them alone, or two of different sizes, fit nothing, and are reported under their own names.
    if len(biases) < 2 or biases["ih"].array.shape != biases["hh"].array.shape:
        return list(biases.values())
    inputs, state = biases["ih"], biases["hh"]
    source = f"{inputs.source} + {state.source}"
    if not gru:
        return [Piece(f"{layer}/bias", source, inputs.array + state.array, "added")]
    size = len(state.array) // 3
    added = np.concatenate([inputs.array[: 2 * size] + state.array[: 2 * size], inputs.array[2 * size :]])
    return [
        Piece(f"{layer}/bias", source, added, "added, but for the last gate"),
        Piece(f"{layer}/recurrent_bias", state.source, state.array[2 * size :], "the last gate"),
    ]
