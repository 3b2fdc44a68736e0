"""Rules of `jopt.export.onnx_tidy` about windows: poolings of channels-last images, and padding."""

from typing import TYPE_CHECKING, Any

import numpy as np

from jopt.export.onnx_graph import Graph, attribute, make

if TYPE_CHECKING:
    from onnx import NodeProto

_TO_NHWC, _TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)


def pooling(graph: Graph, node: "NodeProto") -> bool:
    """jax2onnx pools [batch, height, width, channels] as three spatial axes and a window of one channel."""
    fields = {a.name: attribute(node, a.name) for a in node.attribute} if "Pool" in node.op_type else {}
    size, strides = list(fields.pop("kernel_shape", ())), list(fields.pop("strides", (1,) * 4))
    dilations, pads = list(fields.pop("dilations", (1,) * 4)), list(fields.pop("pads", (0,) * 8))
    lists = (size, strides, dilations)
    if node.op_type not in ("AveragePool", "MaxPool") or fields or [len(v) for v in (*lists, pads)] != [4, 4, 4, 8]:
        return False
    # Batch and channels are no axes of the operator's.
    if any(v[0] != 1 or v[3] != 1 for v in lists) or any(pads[i] for i in (0, 3, 4, 7)):
        return False
    source, axes = node.input[0], []
    while len(axes) < 2 and (before := graph.producer(source)) is not None and before.op_type == "Unsqueeze":
        source, added = before.input[0], graph.constants.get(before.input[1])
        axes += [None] if added is None else added.ravel().tolist()
    squeezed = graph.users(node.output[0])
    removed = graph.constants.get(squeezed[0].input[1]) if [n.op_type for n in squeezed] == ["Squeeze"] else None
    if (
        sorted(axes, key=str) not in ([0, 0], [0, 1])
        or removed is None
        or sorted(removed.ravel().tolist()) != [0, 1]
    ):
        return False
    options: dict[str, Any] = {"kernel_shape": size[1:3], "strides": strides[1:3]}
    if any(pads):
        options["pads"] = [pads[i] for i in (1, 2, 5, 6)]
    if dilations != [1] * 4:
        options["dilations"] = dilations[1:3]
    image, pooled = graph.fresh("image"), graph.fresh("pooled")
    graph.put(
        node,
        make("Transpose", [source], [image], perm=_TO_NCHW),
        make(node.op_type, [image], [pooled], **options),
        make("Transpose", [pooled], squeezed[0].output, perm=_TO_NHWC),
    )
    graph.nodes = [other for other in graph.nodes if other is not node and other is not squeezed[0]]
    return True


def zeros(graph: Graph, node: "NodeProto") -> bool:
    """Zeros made of x by min(max(x, 0), 0) and joined to it (`jopt.export.onnx_plain` makes them) are a padding."""
    if node.op_type != "Concat" or len(node.input) < 2 or (rank := _rank(graph, node.input[0])) is None:
        return False
    for name in node.input[1:]:
        least = graph.producer(name)
        relu = graph.producer(least.input[0]) if least is not None and least.op_type == "Min" else None
        if least is None or relu is None or relu.op_type != "Relu" or relu.input[0] != node.input[0]:
            return False
        zero = graph.constants.get(least.input[1])
        if zero is None or zero.size != 1 or zero.any():
            return False
    pads = np.zeros(2 * rank, np.int64)
    pads[rank + attribute(node, "axis") % rank] = len(node.input) - 1
    _put_padding(graph, node, node.input[0], pads)
    return True


def padding(graph: Graph, node: "NodeProto") -> bool:
    """A padding with 0 of one with 0."""
    before = graph.producer(node.input[0]) if node.op_type == "Pad" else None
    if before is None or before.op_type != "Pad" or graph.is_output(before.output[0]):
        return False
    if len(graph.users(before.output[0])) != 1 or not (
        is_zero_padding(graph, node) and is_zero_padding(graph, before)
    ):
        return False
    pads = graph.constants[node.input[1]] + graph.constants[before.input[1]]
    _put_padding(graph, node, before.input[0], pads)
    graph.nodes = [other for other in graph.nodes if other is not before]
    return True


def is_zero_padding(graph: Graph, node: "NodeProto") -> bool:
    """Whether a `Pad` puts a known number of zeros behind and before its axes."""
    plain = attribute(node, "mode", b"constant") == b"constant" and len(node.input) == 3
    pads, value = (graph.constants.get(name) for name in node.input[1:3]) if plain else (None, None)
    return pads is not None and value is not None and bool((pads >= 0).all()) and not value.any()


def _put_padding(graph: Graph, node: "NodeProto", source: str, pads: np.ndarray) -> None:
    names = graph.fresh("pads"), graph.fresh("nothing")
    graph.constants |= {names[0]: pads, names[1]: np.zeros((), np.float32)}
    node.CopyFrom(make("Pad", [source, *names], node.output))


def _rank(graph: Graph, name: str) -> int | None:
    """The number of axes of what a reshape or a padding gave; None: of anything else."""
    node = graph.producer(name)
    target = graph.constants.get(node.input[1]) if node is not None and node.op_type in ("Reshape", "Pad") else None
    return None if node is None or target is None else len(target) // (2 if node.op_type == "Pad" else 1)
