"""Where a graph multiplies the marked input of a layer with its kernel, and what the kernel's codes are there."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jopt.export.onnx_codes import Weight
from jopt.export.onnx_graph import Graph
from jopt.export.onnx_tidy import MOVES
from jopt.export.onnx_windows import is_zero_padding

if TYPE_CHECKING:
    from onnx import NodeProto

_CONTRACTIONS = ("Conv", "Gemm", "MatMul")
_MOVES = tuple(kind for kind in MOVES if kind != "Concat")


class Contraction(NamedTuple):
    """A product or convolution of a layer's input with its kernel.

    Attributes:
      node: it.
      layer: the layer's path.
      weight: the kernel, with its axes as the node takes them.
    """

    node: "NodeProto"
    layer: str
    weight: Weight


def contractions(graph: Graph, layer: str, mark: str, weights: Mapping[str, Weight]) -> list[Contraction] | None:
    """All that is done with the marked values; None: something else than contractions with the layer's kernel."""
    kernel = f"{layer}/kernel".lstrip("/")
    if kernel not in weights:
        return None
    out: list[Contraction] = []
    names = [node.output[0] for node in graph.users(mark)]
    while names:
        name = names.pop()
        if graph.is_output(name):
            return None
        for user in graph.users(name):
            if (user.op_type in _MOVES and user.input[0] == name) or is_zero_padding(graph, user):
                names.append(user.output[0])
                continue
            moved = _moved(graph, user.input[1], kernel, weights[kernel]) if len(user.input) > 1 else None
            if user.op_type not in _CONTRACTIONS or user.input[0] != name or moved is None:
                return None
            out.append(Contraction(user, layer, moved))
    return out


def paddings(graph: Graph, contraction: Contraction) -> "list[NodeProto]":
    """The paddings with 0 between a layer's input and a contraction."""
    out, node = [], graph.producer(contraction.node.input[0])
    while node is not None and (node.op_type in _MOVES or node.op_type == "Pad"):
        out += [node] if node.op_type == "Pad" else []
        node = graph.producer(node.input[0])
    return out


def _moved(graph: Graph, name: str, kernel: str, weight: Weight) -> Weight | None:
    """The weight as it arrives at `name`; None: something else arrives there."""
    steps = []
    while name != kernel:
        node = graph.producer(name)
        if node is None or node.op_type not in _MOVES or any(n not in graph.constants for n in node.input[1:]):
            return None
        steps.append(node)
        name = node.input[0]
    codes, shape = weight.codes, weight.codes.shape
    scale, zero = (np.broadcast_to(v, shape) for v in (weight.scale, weight.zero))
    for node in reversed(steps):
        rest = [graph.constants[n] for n in node.input[1:]]
        codes, scale, zero = (MOVES[node.op_type](node, v, *rest) for v in (codes, scale, zero))
    return Weight(codes, scale, zero, weight.bits)


def channel_axis(node: "NodeProto") -> int:
    """The axis of a kernel's output channels, as a node takes it."""
    return 0 if node.op_type == "Conv" else -1


def by_channel(values: np.ndarray, axis: int) -> np.ndarray | None:
    """One number, or one an output channel; None: entries of a channel differ."""
    rows = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
    if (rows != rows[:, :1]).any():
        return None
    column = rows[:, 0]
    return column[:1].reshape(()) if (column == column[0]).all() else np.ascontiguousarray(column)


def is_integer(contraction: Contraction, form: str) -> bool:
    """Whether the integer operators take such scales and zero points."""
    node, w = contraction.node, contraction.weight
    axis = channel_axis(node)
    scale, zero = by_channel(w.scale, axis), by_channel(w.zero, axis)
    if w.bits > 8 or scale is None or zero is None:
        return False
    if node.op_type != "Conv" or zero.ndim == 0:
        return True
    # ConvInteger takes one zero point of the kernel, as QLinearConv of ONNX Runtime 1.20 to 1.24 does. Narrow codes
    # have room to take theirs off; between DequantizeLinears, those of 4 bits are left to a Conv of floats.
    return w.bits < 8 and (form == "integer" or w.bits == 4)
