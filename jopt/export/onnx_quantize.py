"""From a float ONNX graph, whose layers' inputs are marked, to one that computes on codes."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jopt.export.onnx_codes import InputCodes, WeightCodes, narrow
from jopt.export.onnx_graph import array, constant, constant_array, is_zero_padding, operands, replace

if TYPE_CHECKING:
    import onnx_ir as ir
    from onnx_ir.tape import Tape

FORMS = ("integer", "qdq")
OPSET_2_BITS = 25
"""The first with 2-bit integers."""

_CONTRACTIONS = ("Conv", "Gemm", "MatMul")
_MOVES = ("Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")


class Contraction(NamedTuple):
    """A product or convolution of a layer's input with its kernel.

    Attributes:
      node: it.
      weight: the kernel, with its axes as the node takes them.
    """

    node: "ir.Node"
    weight: WeightCodes

    @property
    def axis(self) -> int:
        """The axis of the kernel's output channels."""
        return 0 if self.node.op_type == "Conv" else self.weight.codes.ndim - 1

    def scale_and_zero(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The kernel's scale and zero point, each one number or one an output channel; None: they differ within."""
        scale, zero = _by_channel(self.weight.scale, self.axis), _by_channel(self.weight.zero, self.axis)
        return None if scale is None or zero is None else (scale, zero)

    def is_integer(self, form: str) -> bool:
        """Whether the integer operators take such scales and zero points."""
        parts, bits = self.scale_and_zero(), self.weight.bits
        if bits > 8 or parts is None:
            return False
        if self.node.op_type != "Conv" or parts[1].ndim == 0:
            return True
        # ConvInteger takes one zero point of the kernel, as QLinearConv of ONNX Runtime 1.20 to 1.24 does. Narrow
        # codes have room to take theirs off; between DequantizeLinears, 4 bits are left to a Conv of floats.
        return bits < 8 and (form == "integer" or bits == 4)


def _by_channel(values: np.ndarray, axis: int) -> np.ndarray | None:
    """One number, or one an output channel; None: entries of a channel differ."""
    channels = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
    if (channels != channels[:, :1]).any():
        return None
    column = channels[:, 0]
    return column[:1].reshape(()) if (column == column[0]).all() else np.ascontiguousarray(column)


def quantize(
    model: "ir.Model",
    weights: Mapping[str, WeightCodes],
    inputs: Mapping[str, InputCodes],
    marks: Mapping[str, str],
    form: str,
) -> dict[str, np.ndarray]:
    """Rewrites a model in place.

    Args:
      model: simplified, the kernels that `weights` holds and the marks among its inputs.
      weights: by parameter.
      inputs: by layer; layers that are not in it are left alone.
      marks: the names of the marks, by layer.
      form: 'integer' or 'qdq'.

    Returns:
      The biases that the form 'qdq' rounds, flat, by parameter, as they are rounded.
    """
    graph, biases = model.graph, {}
    # No higher than need be: a higher opset shuts out older runtimes.
    if any(w.bits == 2 for w in weights.values()):
        model.opset_imports[""] = max(model.opset_imports[""], OPSET_2_BITS)
    named = {str(value.name): value for value in graph.inputs}
    # All contractions are looked for before any is rewritten: behind codes they could not be told from others.
    contractions = {layer: _contractions(named[mark], layer, named, weights) for layer, mark in marks.items()}
    for layer, mark in marks.items():
        products, codes = contractions[layer], inputs[layer]
        together = codes.dtype.itemsize == 1 and products is not None and all(c.is_integer(form) for c in products)
        writer = _Layer(graph, layer, codes)
        # A layer that is called several times has a node for each, all of one kernel and one range.
        for call, node in enumerate([use.node for use in named[mark].uses()]):
            writer.quantize_input(node, named[mark], call, values=not together)
        for contraction in products if together and products is not None else ():
            for pad in _paddings(contraction.node):
                pad.replace_input_with(2, writer.zero)  # The code of 0.
            if form == "integer":
                writer.integer(contraction)
            else:
                biases |= writer.qdq(contraction)
    # No contraction of codes uses what is left: these are computed with in float32.
    for path in weights:
        if named[path].uses():
            _dequantize(graph, named[path], weights[path])
    return biases


def _contractions(
    mark: "ir.Value", layer: str, inputs: Mapping[str, "ir.Value"], weights: Mapping[str, WeightCodes]
) -> list[Contraction] | None:
    """All that is done with the marked values; None: something else than contractions with the layer's kernel."""
    path = f"{layer}/kernel".lstrip("/")
    if path not in weights:
        return None
    contractions: list[Contraction] = []
    values = [use.node.outputs[0] for use in mark.uses()]
    while values:
        value = values.pop()
        if value.is_graph_output():  # Its codes would be the model's output.
            return None
        for node, index in value.uses():
            if index == 0 and (node.op_type in _MOVES or is_zero_padding(node)):
                values.append(node.outputs[0])
                continue
            moved = _moved(node.inputs[1], inputs[path], weights[path]) if len(node.inputs) > 1 else None
            if node.op_type not in _CONTRACTIONS or index != 0 or moved is None:
                return None
            contractions.append(Contraction(node, moved))
    return contractions


def _moved(value: "ir.Value | None", kernel: "ir.Value", weight: WeightCodes) -> WeightCodes | None:
    """The weight as it arrives at `value`; None: something else arrives there."""
    steps = []
    while value is not kernel:
        node = None if value is None else value.producer()
        if node is None or node.op_type not in _MOVES or any(array(v) is None for v in node.inputs[1:]):
            return None
        steps.append(node)
        value = node.inputs[0]
    # Spread over all entries, scales and zero points move as the codes do, whatever their axes become.
    codes, shape = weight.codes, weight.codes.shape
    scale, zero = (np.broadcast_to(v, shape) for v in (weight.scale, weight.zero))
    for node in reversed(steps):
        codes, scale, zero = (_computed(node, v) for v in (codes, scale, zero))
    return WeightCodes(codes, scale, zero, weight.bits)


def _computed(node: "ir.Node", x: np.ndarray) -> np.ndarray:
    """What a node gives for an array of any dtype and constants, by ONNX's reference implementation."""
    import onnx_ir as ir
    from onnx.reference import ReferenceEvaluator

    names = [f"in{i}" for i in range(len(node.inputs))]
    values = dict(zip(names, [x, *map(array, node.inputs[1:])], strict=True))
    alone = ir.node(
        node.op_type, [ir.Value(name=name) for name in names], node.attributes, outputs=[ir.Value(name="out")]
    )
    (result,) = ReferenceEvaluator(ir.serde.serialize_node(alone)).run(None, values)
    return np.asarray(result)


def _paddings(node: "ir.Node") -> "Iterator[ir.Node]":
    """The paddings with 0 between a layer's input and a contraction."""
    before = operands(node)[0].producer()
    while before is not None and (before.op_type in _MOVES or before.op_type == "Pad"):
        if before.op_type == "Pad":
            yield before
        before = operands(before)[0].producer()


class _Layer:
    """Rewrites one layer.

    Attributes:
      graph: it is in.
      layer: its path.
      codes: those of its input.
      scale: the constant with their scale.
      zero: the constant with their zero point.
    """

    def __init__(self, graph: "ir.Graph", layer: str, codes: InputCodes):
        self.graph, self.layer, self.codes = graph, layer, codes
        self.scale = self.named("input_scale", np.array(codes.scale, np.float32))
        self.zero = self.named("input_zero", np.array(codes.zero, codes.dtype))

    def named(self, name: str, values: np.ndarray) -> "ir.Value":
        """A constant of this layer; that of the name, if there is one."""
        path = f"{self.layer}/{name}".lstrip("/")
        return self.graph.initializers.get(path) or constant(self.graph, path, values)

    def constant(self, values: np.ndarray) -> "ir.Value":
        return constant(self.graph, "constant", values)

    def quantize_input(self, node: "ir.Node", mark: "ir.Value", call: int, *, values: bool) -> None:
        """Puts codes, or the values that they stand for, into the place of a marked input."""
        import onnx_ir as ir

        tape = ir.tape.Tape()
        (x,) = (value for value in operands(node) if value is not mark)
        out = self._encoded(tape, x)
        if values:
            # No DequantizeLinear: behind one, ONNX Runtime quantizes float weights and biases by itself.
            floats = tape.op("Cast", [out], {"to": ir.DataType.FLOAT})
            off = self.constant(np.array(self.codes.zero, np.float32))
            replace(node, tape, tape.op("Mul", [tape.op("Sub", [floats, off]), self.scale]))
        else:
            replace(node, tape, out)
        out.name = f"{self.layer}/codes" + f"_{call}" * bool(call)

    def _encoded(self, tape: "Tape", x: "ir.Value") -> "ir.Value":
        codes = self.codes
        if codes.sign:
            one = self.constant(np.ones((), np.float32))
            return tape.op("QuantizeLinear", [tape.op("Sign", [x]), one, self.zero])
        if codes.clips and codes.dtype.itemsize > 1:  # ONNX Runtime has no Clip of 16 bits.
            ends = [(end - codes.zero) * np.float32(codes.scale) for end in (codes.low, codes.high)]
            x = tape.op("Clip", [x, *(self.constant(np.array(end, np.float32)) for end in ends)])
        out = tape.op("QuantizeLinear", [x, self.scale, self.zero])
        if codes.clips and codes.dtype.itemsize == 1:
            out = tape.op(
                "Clip", [out, *(self.constant(np.array(end, codes.dtype)) for end in (codes.low, codes.high))]
            )
        return out

    def stored(self, weight: WeightCodes) -> "ir.Value":
        """The kernel's codes, as narrow as they are."""
        return self.named("kernel_codes", narrow(weight.codes, weight.bits))

    def bytes(self, tape: "Tape", weight: WeightCodes) -> "ir.Value":
        """The kernel's codes in a byte each, at run time: the integer operators take no narrower ones."""
        import onnx_ir as ir

        stored = self.stored(weight)
        return (
            stored
            if weight.bits == 8
            else tape.op("Cast", [stored], {"to": ir.DataType.from_numpy(weight.codes.dtype)})
        )

    def integer(self, contraction: Contraction) -> None:
        """Sums in int32, then float(sums) * (scale of the input * scale of the kernel) + bias."""
        import onnx_ir as ir

        node, tape = contraction.node, ir.tape.Tape()
        conv = node.op_type == "Conv"
        # ONNX Runtime multiplies a convolution's kernel from the left, where signed codes are the slow ones.
        weight = _unsigned(contraction.weight) if conv else contraction.weight
        scale, zero = _parts(contraction._replace(weight=weight))
        kernel = self.bytes(tape, weight)
        rank = weight.codes.ndim
        if conv and zero.ndim:
            # Narrow codes with a zero point for each channel, as bytes that have one, 128.
            shift = self.constant((128 - zero).astype(np.int32).reshape(-1, *[1] * (rank - 1)))
            wide = tape.op("Add", [tape.op("Cast", [kernel], {"to": ir.DataType.INT32}), shift])
            kernel, zero = tape.op("Cast", [wide], {"to": ir.DataType.UINT8}), np.array(128)
        factors = [node.inputs[0], kernel]
        if self.codes.zero or zero.any():
            factors.append(self.zero)
        if zero.any():
            factors.append(self.constant(zero.astype(weight.codes.dtype)))
        kind, options = ("ConvInteger", node.attributes) if conv else ("MatMulInteger", {})
        sums = tape.op("Cast", [tape.op(kind, factors, options)], {"to": ir.DataType.FLOAT})
        # One product of the scales, in float32, as `jopt.quantize.integer` has it: two would round twice.
        factor = (np.float32(self.codes.scale) * scale).astype(np.float32)
        channels = (-1, *[1] * (rank - 2)) if conv else (-1,)
        out = tape.op("Mul", [sums, self.constant(factor.reshape(channels) if factor.ndim else factor)])
        for bias in operands(node)[2:]:
            if conv:
                bias = _reshaped(self.graph, bias, channels)
            out = tape.op("Add", [out, bias])
        replace(node, tape, out)

    def qdq(self, contraction: Contraction) -> dict[str, np.ndarray]:
        """The float operation between `DequantizeLinear`s, its bias in int32 of the sums' scale.

        Returns:
          The rounded bias, if there is one, by the parameter that it is made of.
        """
        import onnx_ir as ir

        (node, weight), tape, biases = contraction, ir.tape.Tape(), {}
        scale, zero = _parts(contraction)
        axis = {"axis": contraction.axis} if scale.ndim or zero.ndim else {}
        scale, zero = np.broadcast_arrays(scale, zero)
        # 4 bits stay 4 bits: ONNX Runtime dequantizes them since 1.20, but casts them only since 1.23. Of 2 bits,
        # 1.31 makes a QGemm or QLinearConv that it then refuses.
        codes = self.bytes(tape, weight) if weight.bits == 2 else self.stored(weight)
        # ONNX Runtime makes one kernel of it only where zero points are written out, also those that are 0.
        zero = zero.astype(weight.codes.dtype)
        point = self.constant(narrow(zero, 4) if weight.bits == 4 else zero)
        floats = [
            tape.op("DequantizeLinear", [node.inputs[0], self.scale, self.zero]),
            tape.op("DequantizeLinear", [codes, self.constant(scale), point], axis),
        ]
        for bias in operands(node)[2:]:
            step = (np.float32(self.codes.scale) * scale).astype(np.float32)
            limits = np.iinfo(np.int32)
            # In float64: a bias of many small steps has more digits than float32.
            rounded = np.clip(np.rint(constant_array(bias).astype(np.float64) / step), limits.min, limits.max)
            rounded = self.named("bias_codes", rounded.astype(np.int32))
            biases[str(bias.name)] = constant_array(rounded) * step
            floats.append(
                tape.op("DequantizeLinear", [rounded, self.constant(step)], {"axis": 0} if step.ndim else {})
            )
        replace(node, tape, tape.op(node.op_type, floats, node.attributes))
        return biases


def _reshaped(graph: "ir.Graph", bias: "ir.Value", shape: tuple[int, ...]) -> "ir.Value":
    """A bias in another shape, by its own name where nothing else uses it."""
    import onnx_ir as ir

    row = constant_array(bias).reshape(shape)
    if len(bias.uses()) > 1:
        return constant(graph, str(bias.name), row)
    bias.const_value, bias.shape = ir.tensor(row, name=bias.name), ir.Shape(row.shape)
    return bias


def _parts(contraction: Contraction) -> tuple[np.ndarray, np.ndarray]:
    """Scale and zero point of a contraction for which `is_integer` holds."""
    parts = contraction.scale_and_zero()
    assert parts is not None
    return parts


def _unsigned(weight: WeightCodes) -> WeightCodes:
    """The same values by codes that begin at 0."""
    if weight.codes.dtype.kind == "u":
        return weight
    half = 1 << (weight.bits - 1)
    return weight._replace(codes=(weight.codes.astype(np.int16) + half).astype(np.uint8), zero=weight.zero + half)


def _dequantize(graph: "ir.Graph", parameter: "ir.Value", weight: WeightCodes) -> None:
    """Puts codes, and what makes their values of them, into the place of a parameter."""
    import onnx_ir as ir

    codes, scale, zero, axes = weight.codes, weight.scale, weight.zero, weight.axes
    order = (*(i for i in range(codes.ndim) if i not in axes), *axes)
    sizes = [codes.shape[i] for i in order]
    if weight.group is not None:
        # Entries that share a scale follow one another once the axes that keep theirs are the last.
        rows = (-1, weight.group, *sizes[len(sizes) - len(axes) :])
        codes, scale, zero = (v.transpose(order).reshape(rows) for v in (codes, scale, zero))
        scale, zero = scale[:, :1], zero[:, :1]
    tape = ir.tape.Tape()
    stored = constant(graph, f"{parameter.name}_codes", narrow(codes, weight.bits))
    out = tape.op("Cast", [stored], {"to": ir.DataType.FLOAT})
    if zero.any():
        out = tape.op("Sub", [out, constant(graph, "zero", zero.astype(np.float32))])
    out = tape.op("Mul", [out, constant(graph, "scale", scale)])
    if weight.group is not None:
        out = tape.op("Reshape", [out, constant(graph, "shape", np.array(sizes, np.int64))])
        out = tape.op("Transpose", [out], {"perm": [order.index(i) for i in range(len(order))]})
    # Loops use it too, from inside: it is computed before all that may.
    parameter.replace_all_uses_with(out)
    graph.insert_before(graph[0], tape.nodes)
    graph.inputs.remove(parameter)
    out.name = parameter.name
