"""From a float ONNX graph, whose layers' inputs are marked, to one that computes on codes."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from jopt.export.onnx_codes import Input, Weight, packed
from jopt.export.onnx_contractions import Contraction, by_channel, channel_axis, contractions, is_integer, paddings
from jopt.export.onnx_graph import Graph, attribute, make

if TYPE_CHECKING:
    from onnx import NodeProto

FORMS = ("integer", "qdq")
OPSET_2_BITS = 25
"""The first with 2-bit integers."""


def quantize(
    graph: Graph, weights: Mapping[str, Weight], inputs: Mapping[str, Input], marks: Mapping[str, str], form: str
) -> dict[str, np.ndarray]:
    """Rewrites a graph in place.

    Args:
      graph: tidy, its parameters and marks among the constants.
      weights: by parameter.
      inputs: by layer; layers that are not in it are left alone.
      marks: the names of the marks, by layer.
      form: 'integer' or 'qdq'.

    Returns:
      The biases that the form 'qdq' rounds, flat, by parameter, as they are rounded.
    """
    biases: dict[str, np.ndarray] = {}
    narrow = any(w.bits == 2 for w in weights.values())
    graph.opset = max(graph.opset, OPSET_2_BITS) if narrow else graph.opset
    found = {layer: contractions(graph, layer, mark, weights) for layer, mark in marks.items()}
    for layer, mark in marks.items():
        own, source = found[layer], inputs.get(layer)
        fits = source is not None and source.dtype.itemsize == 1
        together = fits and own is not None and all(is_integer(c, form) for c in own)
        for node in graph.users(mark):
            _quantize_input(graph, node, mark, layer, source, values=not together)
        if together and own is not None and source is not None:
            for contraction in own:
                for node in paddings(graph, contraction):
                    node.input[2] = _scale_and_zero(graph, layer, source)[1]  # The code of 0.
                if form == "integer":
                    _integer(graph, contraction, source)
                else:
                    biases |= _qdq(graph, contraction, source)
    graph.prune()
    # No contraction with these has a quantized input: they are computed with in float32.
    for path in [path for path in weights if path in graph.constants]:
        _dequantize(graph, path, weights[path])
    return biases


def _quantize_input(
    graph: Graph, node: "NodeProto", mark: str, layer: str, source: Input | None, *, values: bool
) -> None:
    """Puts codes (or the values that they stand for) into the place of a marked input."""
    from onnx import TensorProto

    (x,) = (name for name in node.input if name != mark)
    if source is None:
        graph.bypass(node, x)
        return
    codes = graph.fresh(f"{layer}/codes")
    made = _encoded(graph, x, codes, layer, source)
    if values:
        # No DequantizeLinear: behind one, ONNX Runtime quantizes float weights and biases of its own accord.
        floats, off = graph.fresh("floats"), _constant(graph, "zero", np.array(source.zero, np.float32))
        moved, scale = graph.fresh("moved"), _scale_and_zero(graph, layer, source)[0]
        made += [
            make("Cast", [codes], [floats], to=TensorProto.FLOAT),
            make("Sub", [floats, off], [moved]),
            make("Mul", [moved, scale], [node.output[0]]),
        ]
        graph.put(node, *made)
        graph.nodes = [other for other in graph.nodes if other is not node]
        return
    graph.put(node, *made)
    graph.bypass(node, codes)


def _encoded(graph: Graph, x: str, codes: str, layer: str, source: Input) -> list["NodeProto"]:
    scale, zero = _scale_and_zero(graph, layer, source)
    if source.sign:
        sign, one = graph.fresh("sign"), _constant(graph, "one", np.ones((), np.float32))
        return [make("Sign", [x], [sign]), make("QuantizeLinear", [sign, one, zero], [codes])]
    if not source.clips:
        return [make("QuantizeLinear", [x, scale, zero], [codes])]
    if source.dtype.itemsize > 1:  # ONNX Runtime has no Clip of 16 bits.
        inside = graph.fresh("inside")
        values = ((end - source.zero) * np.float32(source.scale) for end in (source.low, source.high))
        ends = [_constant(graph, "end", np.array(v, np.float32)) for v in values]
        return [make("Clip", [x, *ends], [inside]), make("QuantizeLinear", [inside, scale, zero], [codes])]
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


def _stored(graph: Graph, layer: str, w: Weight) -> str:
    """The kernel's codes, as narrow as they are."""
    name = f"{layer}/kernel_codes".lstrip("/")
    if name not in graph.tensors:
        graph.tensors[name] = packed(w.codes, w.bits, name)
    return name


def _bytes(graph: Graph, layer: str, w: Weight, before: "NodeProto") -> str:
    """The kernel's codes in a byte each, at run time: the integer operators take no narrower ones."""
    from onnx import helper

    name = _stored(graph, layer, w)
    if w.bits == 8:
        return name
    wide = graph.fresh("kernel")
    kind = helper.np_dtype_to_tensor_dtype(w.codes.dtype)
    graph.put(before, make("Cast", [name], [wide], to=kind))
    return wide


def _unsigned(w: Weight) -> Weight:
    """The same values by codes that begin at 0."""
    if w.codes.dtype.kind == "u":
        return w
    half = 1 << (w.bits - 1)
    return w._replace(codes=(w.codes.astype(np.int16) + half).astype(np.uint8), zero=w.zero + half)


def _parts(node: "NodeProto", w: Weight) -> tuple[np.ndarray, np.ndarray]:
    """Scale and zero point: numbers, or vectors of output channels."""
    scale, zero = (by_channel(v, channel_axis(node)) for v in (w.scale, w.zero))
    assert scale is not None and zero is not None
    return scale, zero


def _integer(graph: Graph, contraction: Contraction, source: Input) -> None:
    """Sums in int32, then float(sums) * (scale of the input * scale of the kernel) + bias."""
    from onnx import TensorProto

    node, w = contraction.node, contraction.weight
    conv = node.op_type == "Conv"
    # ONNX Runtime multiplies a convolution's kernel from the left, where signed codes are the slow ones.
    w = _unsigned(w) if conv else w
    kernel, (scale, zero) = _bytes(graph, contraction.layer, w, node), _parts(node, w)
    if conv and zero.ndim:
        kernel, zero = _one_zero(graph, node, kernel, zero, w.codes.ndim)
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


def _one_zero(graph: Graph, node: "NodeProto", kernel: str, zero: np.ndarray, rank: int) -> tuple[str, np.ndarray]:
    """Narrow codes with a zero point for each channel as bytes that have one, 128."""
    from onnx import TensorProto

    wide, moved, out = graph.fresh("wide"), graph.fresh("moved"), graph.fresh("kernel")
    shift = _constant(graph, "shift", (128 - zero).astype(np.int32).reshape(-1, *[1] * (rank - 1)))
    graph.put(
        node,
        make("Cast", [kernel], [wide], to=TensorProto.INT32),
        make("Add", [wide, shift], [moved]),
        make("Cast", [moved], [out], to=TensorProto.UINT8),
    )
    return out, np.array(128, np.int32)


def _qdq(graph: Graph, contraction: Contraction, source: Input) -> dict[str, np.ndarray]:
    """The float operation between `DequantizeLinear`s, its bias in int32 of the sums' scale.

    Returns:
      The rounded bias, if there is one, by the parameter that it is made of.
    """
    biases: dict[str, np.ndarray] = {}
    node, w = contraction.node, contraction.weight
    # 4 bits stay 4 bits: ONNX Runtime dequantizes them since 1.20, but casts them only since 1.23. Of 2 bits, 1.31
    # makes a QGemm or QLinearConv that it then refuses.
    stored = _bytes(graph, contraction.layer, w, node) if w.bits == 2 else _stored(graph, contraction.layer, w)
    codes, (scale, zero) = stored, _parts(node, w)
    axis = {"axis": channel_axis(node) % w.codes.ndim} if scale.ndim or zero.ndim else {}
    scale, zero = np.broadcast_arrays(scale, zero)
    scale_of, zero_of = _scale_and_zero(graph, contraction.layer, source)
    x, kernel = graph.fresh("x"), graph.fresh("kernel")
    # ONNX Runtime makes one kernel of it only where zero points are written out, also those that are 0.
    scale_name, point = _constant(graph, "scale", scale), graph.fresh("zero")
    if w.bits != 4:
        graph.constants[point] = zero.astype(w.codes.dtype)
    else:
        graph.tensors[point] = packed(zero.astype(w.codes.dtype), w.bits, point)
    weights = [codes, scale_name, point]
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
        biases[graph.origins.get(node.input[2], node.input[2])] = graph.constants[named] * step
        out = graph.fresh("bias")
        parts = [named, _constant(graph, "scale", step)]
        made.append(make("DequantizeLinear", parts, [out], **({"axis": 0} if step.ndim else {})))
        node.input[2] = out
    graph.put(node, *made)
    return biases


def _dequantize(graph: Graph, path: str, w: Weight) -> None:
    """Puts codes, and what makes their values of them, into the place of a parameter."""
    from onnx import TensorProto

    del graph.constants[path]
    codes, scale, zero = w.codes, w.scale, w.zero
    order = (*(i for i in range(codes.ndim) if i not in w.kept), *w.kept)
    sizes = [codes.shape[i] for i in order]
    if w.group is not None:
        rows = (-1, w.group, *sizes[len(sizes) - len(w.kept) :])
        codes, scale, zero = (v.transpose(order).reshape(rows) for v in (codes, scale, zero))
        scale, zero = scale[:, :1], zero[:, :1]
    name, made = f"{path}_codes", []

    def then(kind: str, *operands: str, **attributes: object) -> str:
        out = graph.fresh(f"{kind}_{len(made)}_{name}".replace("/", "_"))
        made.append(make(kind, operands, [out], **attributes))
        return out

    graph.tensors[name] = packed(codes, w.bits, name)
    out = then("Cast", name, to=TensorProto.FLOAT)
    if zero.any():
        out = then("Sub", out, _constant(graph, "zero", zero.astype(np.float32)))
    out = then("Mul", out, _constant(graph, "scale", scale))
    if w.group is not None:
        out = then("Reshape", out, _constant(graph, "shape", np.array(sizes, np.int64)))
        out = then("Transpose", out, perm=[order.index(i) for i in range(len(order))])
    made[-1].output[0] = path
    graph.nodes[:0] = made
