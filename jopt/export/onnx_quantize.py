"""From a float ONNX graph, whose layers' inputs are marked, to one that computes on codes."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jopt.export.onnx_codes import Input, Weight, packed
from jopt.export.onnx_graph import Graph, attribute, make
from jopt.export.onnx_tidy import MOVES

if TYPE_CHECKING:
    from onnx import NodeProto

FORMS = ("integer", "qdq")
OPSET_2_BITS = 25
"""The first with 2-bit integers."""
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


def quantize(
    graph: Graph, weights: Mapping[str, Weight], inputs: Mapping[str, Input], marks: Mapping[str, str], form: str
) -> list[str]:
    """Rewrites a graph in place.

    Args:
      graph: tidy, its parameters and marks among the constants.
      weights: by parameter.
      inputs: by layer; layers that are not in it are left alone.
      marks: the names of the marks, by layer.
      form: 'integer' or 'qdq'.

    Returns:
      The parameters of `weights` that the graph computes with in float32, from the values that their codes stand
      for: no contraction with them has a quantized input.
    """
    narrow = any(w.bits == 2 for w in weights.values())
    graph.opset = max(graph.opset, OPSET_2_BITS) if narrow else graph.opset
    found = {layer: _contractions(graph, layer, mark, weights) for layer, mark in marks.items()}
    for layer, mark in marks.items():
        own, source = found[layer], inputs.get(layer)
        fits = source is not None and source.dtype.itemsize == 1
        together = fits and own is not None and all(_is_integer(c, form) for c in own)
        for node in graph.users(mark):
            _quantize_input(graph, node, mark, layer, source, values=not together)
        if together and own is not None and source is not None:
            for contraction in own:
                rewrite = _integer if form == "integer" else _qdq
                rewrite(graph, contraction, source)
    graph.prune()
    rest = [path for path in weights if path in graph.constants]
    for path in rest:
        _dequantize(graph, path, weights[path])
    return rest


def _contractions(graph: Graph, layer: str, mark: str, weights: Mapping[str, Weight]) -> list[Contraction] | None:
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
            if user.op_type in _MOVES and user.input[0] == name:
                names.append(user.output[0])
                continue
            moved = _moved(graph, user.input[1], kernel, weights[kernel]) if len(user.input) > 1 else None
            if user.op_type not in _CONTRACTIONS or user.input[0] != name or moved is None:
                return None
            out.append(Contraction(user, layer, moved))
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


def _channel_axis(node: "NodeProto") -> int:
    return 0 if node.op_type == "Conv" else -1


def _by_channel(values: np.ndarray, axis: int) -> np.ndarray | None:
    """One number, or one an output channel; None: entries of a channel differ."""
    rows = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
    if (rows != rows[:, :1]).any():
        return None
    column = rows[:, 0]
    return column[:1].reshape(()) if (column == column[0]).all() else np.ascontiguousarray(column)


def _is_integer(contraction: Contraction, form: str) -> bool:
    """Whether the integer operators take such scales and zero points."""
    node, w = contraction.node, contraction.weight
    axis = _channel_axis(node)
    scale, zero = _by_channel(w.scale, axis), _by_channel(w.zero, axis)
    if w.bits > 8 or scale is None or zero is None:
        return False
    # ConvInteger of ONNX Runtime takes one zero point of the kernel; narrow codes have room to take theirs off.
    return form == "qdq" or node.op_type != "Conv" or zero.ndim == 0 or w.bits < 8


def _quantize_input(
    graph: Graph, node: "NodeProto", mark: str, layer: str, source: Input | None, *, values: bool
) -> None:
    """Puts codes (or the values that they stand for) into the place of a marked input."""
    (x,) = (name for name in node.input if name != mark)
    if source is None:
        graph.bypass(node, x)
        return
    codes = graph.fresh(f"{layer}/codes")
    made = _encoded(graph, x, codes, layer, source)
    if values:
        scale, zero = _scale_and_zero(graph, layer, source)
        made.append(make("DequantizeLinear", [codes, scale, zero], [node.output[0]]))
        graph.put(node, *made)
        graph.nodes = [other for other in graph.nodes if other is not node]
        return
    graph.put(node, *made)
    graph.bypass(node, codes)


def _encoded(graph: Graph, x: str, codes: str, layer: str, source: Input) -> list["NodeProto"]:
    from onnx import helper

    kind = helper.np_dtype_to_tensor_dtype(source.dtype)
    if source.sign:
        sign = graph.fresh("sign")
        return [make("Sign", [x], [sign]), make("Cast", [sign], [codes], to=kind)]
    scale, zero = _scale_and_zero(graph, layer, source)
    if not source.clips:
        return [make("QuantizeLinear", [x, scale, zero], [codes])]
    wide = graph.fresh("wide")
    ends = [_constant(graph, "end", np.array(v, source.dtype)) for v in (source.low, source.high)]
    return [make("QuantizeLinear", [x, scale, zero], [wide]), make("Clip", [wide, *ends], [codes])]


def _scale_and_zero(graph: Graph, layer: str, source: Input) -> tuple[str, str]:
    names = f"{layer}/input_scale".lstrip("/"), f"{layer}/input_zero".lstrip("/")
    graph.constants[names[0]] = np.array(source.scale, np.float32)
    graph.constants[names[1]] = np.array(source.zero, source.dtype)
    return names


def _constant(graph: Graph, name: str, value: np.ndarray) -> str:
    name = graph.fresh(name)
    graph.constants[name] = value
    return name


def _stored(graph: Graph, contraction: Contraction) -> str:
    """The kernel's codes in a byte each, at run time; in the file as narrow as they are."""
    from onnx import helper

    w = contraction.weight
    name = f"{contraction.layer}/kernel_codes".lstrip("/")
    if name not in graph.tensors:
        graph.tensors[name] = packed(w.codes, w.bits, name)
    if w.bits == 8:
        return name
    wide = graph.fresh("kernel")
    kind = helper.np_dtype_to_tensor_dtype(w.codes.dtype)
    graph.put(contraction.node, make("Cast", [name], [wide], to=kind))
    return wide


def _parts(contraction: Contraction) -> tuple[np.ndarray, np.ndarray]:
    """Scale and zero point: numbers, or vectors of output channels."""
    axis = _channel_axis(contraction.node)
    scale, zero = (_by_channel(v, axis) for v in (contraction.weight.scale, contraction.weight.zero))
    assert scale is not None and zero is not None
    return scale, zero


def _integer(graph: Graph, contraction: Contraction, source: Input) -> None:
    """Sums in int32, then float(sums) * (scale of the input * scale of the kernel) + bias."""
    from onnx import TensorProto

    node, w = contraction.node, contraction.weight
    kernel, (scale, zero) = _stored(graph, contraction), _parts(contraction)
    conv = node.op_type == "Conv"
    before: list[NodeProto] = []
    if conv and zero.ndim:
        # Codes less their zero point, in int8: at most 4 bits wide before.
        signed, off = graph.fresh("signed"), graph.fresh("kernel")
        column = zero.reshape(-1, *[1] * (w.codes.ndim - 1)).astype(np.int8)
        before = [
            make("Cast", [kernel], [signed], to=TensorProto.INT8),
            make("Sub", [signed, _constant(graph, "zero", column)], [off]),
        ]
        kernel, zero = off, np.zeros((), np.int8)
    operands = [node.input[0], kernel]
    if source.zero or zero.any():
        operands.append(_scale_and_zero(graph, contraction.layer, source)[1])
    if zero.any():
        operands.append(_constant(graph, "zero", zero.astype(w.codes.dtype)))
    options = {a.name: attribute(node, a.name) for a in node.attribute} if conv else {}
    sums, floats, scaled = (graph.fresh(name) for name in ("sums", "floats", "scaled"))
    factor = (np.float32(source.scale) * scale).astype(np.float32)
    shape = (-1, *[1] * (w.codes.ndim - 2)) if conv and factor.ndim else factor.shape
    biased = len(node.input) > 2
    out = scaled if biased else node.output[0]
    graph.put(
        node,
        *before,
        make("ConvInteger" if conv else "MatMulInteger", operands, [sums], **options),
        make("Cast", [sums], [floats], to=TensorProto.FLOAT),
        make("Mul", [floats, _constant(graph, "scale", factor.reshape(shape))], [out]),
    )
    if biased:
        bias = node.input[2]
        if conv:
            bias = graph.fresh("bias")
            graph.constants[bias] = graph.constants[node.input[2]].reshape(-1, *[1] * (w.codes.ndim - 2))
            graph.origins[bias] = graph.origins.get(node.input[2], node.input[2])
        graph.put(node, make("Add", [scaled, bias], node.output))
    graph.nodes = [other for other in graph.nodes if other is not node]


def _qdq(graph: Graph, contraction: Contraction, source: Input) -> None:
    """The float operation between `DequantizeLinear`s, its bias in int32 of the sums' scale."""
    node, w = contraction.node, contraction.weight
    codes, (scale, zero) = _stored(graph, contraction), _parts(contraction)
    axis = {"axis": _channel_axis(node) % w.codes.ndim} if scale.ndim or zero.ndim else {}
    scale, zero = np.broadcast_arrays(scale, zero)
    scale_of, zero_of = _scale_and_zero(graph, contraction.layer, source)
    x, kernel = graph.fresh("x"), graph.fresh("kernel")
    weights = [codes, _constant(graph, "scale", scale)]
    if zero.any():
        weights.append(_constant(graph, "zero", zero.astype(w.codes.dtype)))
    made = [
        make("DequantizeLinear", [node.input[0], scale_of, zero_of], [x]),
        make("DequantizeLinear", weights, [kernel], **axis),
    ]
    node.input[:2] = [x, kernel]
    if len(node.input) > 2:
        step = (np.float32(source.scale) * scale).astype(np.float32)
        bias = np.rint(graph.constants[node.input[2]].astype(np.float64) / step)
        limits = np.iinfo(np.int32)
        named = f"{contraction.layer}/bias_codes".lstrip("/")
        graph.constants[named] = np.clip(bias, limits.min, limits.max).astype(np.int32)
        out = graph.fresh("bias")
        parts = [named, _constant(graph, "scale", step)]
        made.append(make("DequantizeLinear", parts, [out], **({"axis": 0} if step.ndim else {})))
        node.input[2] = out
    graph.put(node, *made)


def _dequantize(graph: Graph, path: str, w: Weight) -> None:
    """Puts codes, and what makes their values of them, into the place of a parameter."""
    from onnx import TensorProto

    del graph.constants[path]
    name = f"{path}_codes"
    graph.tensors[name] = packed(w.codes, w.bits, name)
    floats, moved = graph.fresh("floats"), graph.fresh("moved")
    made = [make("Cast", [name], [floats], to=TensorProto.FLOAT)]
    if w.zero.any():
        made.append(make("Sub", [floats, _constant(graph, "zero", w.zero.astype(np.float32))], [moved]))
        floats = moved
    made.append(make("Mul", [floats, _constant(graph, "scale", w.scale)], [path]))
    graph.nodes[:0] = made
