"""Smaller ONNX graphs: onnxscript's optimizer, rules for what it leaves of jax2onnx's nodes, the file's bytes."""

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx_ir as ir
    from onnx_ir.tape import Tape

    Rule = Callable[[ir.Node, Tape], "ir.Value | None"]

IR_VERSIONS = {21: 10, 22: 10, 23: 11, 24: 12, 25: 13}
"""The first version of the file format that knows an opset's types."""

_BINARY = ("Add", "Div", "Max", "Min", "Mul", "Pow", "Sub")
_UNARY = ("Abs", "Elu", "Exp", "LeakyRelu", "Neg", "Relu", "Sigmoid", "Softplus", "Tanh")
_TO_NHWC, _TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)


def simplify(model: "ir.Model", constants: Mapping[str, np.ndarray]) -> None:
    """Rewrites a model in place until nothing changes; what it computes stays the same.

    onnxscript folds constants, infers shapes, merges equal nodes and removes identities, broadcasts that the next
    operation does anyway, and transpositions that undo one another. The rules below do what it does not:

    - `Max(x, 0)` becomes `Relu`, and an `Einsum` that is a product with a matrix becomes `MatMul`;
    - a bias that is added to a product or a convolution becomes its third input;
    - transpositions go behind elementwise operations, so that they meet and cancel;
    - a pooling of channels-last images, which jax2onnx writes with four spatial axes and ONNX Runtime refuses,
      becomes one between two transpositions;
    - zeros that are concatenated (`jopt.export.onnx_trace` makes them) become a `Pad`, and two `Pad`s one.

    Args:
      model: as jax2onnx gives it.
      constants: values of the model's inputs that become constants. The other inputs stay inputs, and nothing is
        computed from them: so are kernels kept as they are until they are replaced by their codes.
    """
    import onnx_ir as ir
    from onnx_ir.passes import common
    from onnxscript import optimizer, rewriter
    from onnxscript.rewriter.rules.common import expand_before_binary_op_rules

    graph = model.graph
    for value in list(graph.inputs):
        if (values := constants.get(str(value.name))) is not None:
            graph.inputs.remove(value)
            value.const_value = ir.tensor(values, name=value.name)
            graph.register_initializer(value)
    for node in graph.all_nodes():
        for value in node.outputs:
            # A slash is for the paths of parameters and layers; jax2onnx has it in names inside of loops.
            value.name = str(value.name).replace("/", "_")
    clean = ir.passes.Sequential(
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.LiftSubgraphInitializersToMainGraphPass(),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
    )
    # A rule makes room for others, so all are applied until none fits. Twenty rounds are four times what any of the
    # tested networks takes; a graph that is not done by then is right, and only larger.
    for _ in range(20):
        before = [node.op_type for node in graph.all_nodes()]
        # Kernels are larger than what the optimizer folds by default. A result of more than 2^18 entries that would
        # make the file larger, such as a transposed copy of a table that is used twice, it still leaves alone.
        optimizer.fold_constants(model, onnx_shape_inference=True, input_size_limit=1 << 60)
        rewriter.rewrite(model)
        rewriter.rewrite(model, expand_before_binary_op_rules)
        _apply_rules(model)
        clean(model)
        if [node.op_type for node in graph.all_nodes()] == before:
            break
    _restore_names(graph, constants)


def _apply_rules(model: "ir.Model") -> None:
    """Applies the first rule that fits to each node, of inner graphs too."""
    import onnx_ir as ir

    # The nodes that a rule no longer needs stay until the next cleaning: others may use what they give.
    for node in model.graph.all_nodes():
        for rule in _RULES.get(node.op_type, ()):
            tape = ir.tape.Tape()
            if (value := rule(node, tape)) is not None:
                replace(node, tape, value)
                break


def replace(node: "ir.Node", tape: "Tape", value: "ir.Value") -> None:
    """Puts the nodes that were recorded into the place of a node, and `value` into that of its output."""
    import onnx_ir as ir

    assert node.graph is not None
    ir.convenience.replace_nodes_and_values(node.graph, node, [node], tape.nodes, node.outputs, [value])


def operands(node: "ir.Node") -> "list[ir.Value]":
    """The inputs that a node is given. None of those that are rewritten here omits one before the last."""
    return [value for value in node.inputs if value is not None]


def array(value: "ir.Value | None") -> np.ndarray | None:
    """A constant's values; None: it is no constant."""
    import onnx_ir as ir

    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def constant_array(value: "ir.Value") -> np.ndarray:
    """The values of what is known to be a constant."""
    values = array(value)
    assert values is not None, value
    return values


def ints(node: "ir.Node", name: str, default: Iterable[int] = ()) -> list[int]:
    """An attribute that is a list of integers."""
    return list(node.attributes[name].as_ints()) if name in node.attributes else list(default)


def producer(value: "ir.Value | None", *kinds: str) -> "ir.Node | None":
    """The node that gives a value, if it is of one of these kinds."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type in kinds else None


def constant(graph: "ir.Graph", name: str, values: np.ndarray) -> "ir.Value":
    """A new constant, by this name or, where that is taken, one with a number.

    The dtypes of `ml_dtypes` of 2 and 4 bits are stored packed, the first entry in the lowest bits.
    """
    import onnx_ir as ir

    tensor = ir.tensor(values)
    names = itertools.chain([name], map(f"{name}_{{}}".format, itertools.count(1)))
    unique = next(candidate for candidate in names if candidate not in graph.initializers)
    value = ir.Value(
        name=unique, shape=ir.Shape(values.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value


def known_shape(value: "ir.Value | None") -> list[int | None] | None:
    """The sizes of a value, None for one that is known only at run time; None: not even their number is known."""
    shape = None if value is None else value.shape
    return None if shape is None else [size if isinstance(size, int) else None for size in shape]


def _relu(node: "ir.Node", tape: "Tape") -> "ir.Value | None":
    """A maximum with 0, of floats: ONNX Runtime has no `Relu` of the integers that indices are."""
    inputs = operands(node)
    for x, zero in (inputs, inputs[::-1]) if len(inputs) == 2 else ():
        number = array(zero)
        if number is not None and number.size == 1 and number.dtype.kind == "f" and not number.any():
            return tape.op("Relu", [x])
    return None


def _matrix_product(node: "ir.Node", tape: "Tape") -> "ir.Value | None":
    """A contraction of the last axis with the first of a matrix."""
    factors, _, result = node.attributes["equation"].as_string().partition("->")
    rows, _, matrix = factors.partition(",")
    if len(rows) < 2 or len(matrix) != 2 or rows[-1] != matrix[0] or result != rows[:-1] + matrix[1]:
        return None
    return tape.op("MatMul", node.inputs)


def _bias(node: "ir.Node", tape: "Tape") -> "ir.Value | None":
    """The sum of a product or convolution and a constant row, one number for each of its outputs."""
    for result, bias in (operands(node), operands(node)[::-1]):
        product, row = producer(result, "Gemm", "Conv"), array(bias)
        if product is None or row is None or (kernel := known_shape(product.inputs[1])) is None:
            continue
        # Of [batch, channels, height, width] it is the axis of channels, counted from the end as in broadcasting.
        axis = -1 if product.op_type == "Gemm" else 1 - len(kernel)
        outputs = kernel[-1] if product.op_type == "Gemm" else kernel[0]
        # Without the bias it is computed anyway where something else uses it.
        unbiased = len(product.inputs) == 2 and len(result.uses()) == 1
        # One number for all outputs, or a row that a single output is spread over, is no bias of the operator.
        if unbiased and row.ndim >= -axis and row.size == outputs == row.shape[axis]:
            flat = tape.op("Reshape", [bias, tape.op("Constant", [], {"value_ints": [-1]})])
            return tape.op(product.op_type, [*product.inputs, flat], product.attributes)
    return None


def _product(node: "ir.Node", tape: "Tape") -> "ir.Value | None":
    """A product without a bias: jax2onnx gives it one of 0, and a factor beta = 0 for that."""
    factors = {
        name: attribute.as_float() for name, attribute in node.attributes.items() if name in ("alpha", "beta")
    }
    bias = array(node.inputs[2]) if len(node.inputs) > 2 else np.zeros(())
    unbiased = factors.get("beta") == 0.0 or (bias is not None and not bias.any())
    if not factors or len(node.attributes) > len(factors) or factors.get("alpha", 1.0) != 1.0 or not unbiased:
        return None
    return tape.op("Gemm", node.inputs[:2])


def _reshape(node: "ir.Node", tape: "Tape") -> "ir.Value | None":
    """A reshape that gives the shape back that a value had before others."""
    # A dynamic size has a name, so that equal shapes are equal sizes; the optimizer compares known sizes alone.
    value, shape = operands(node)[0], node.outputs[0].shape
    while (before := producer(value, "Reshape")) is not None:
        value = operands(before)[0]
    return tape.op("Identity", [value]) if shape is not None and value.shape == shape else None


def _slice(node: "ir.Node", tape: "Tape") -> "ir.Value | None":
    """A slice whose ends are computed from the shape of its input: from what it gives, they are known."""
    inputs = operands(node)
    if len(inputs) != 4 or array(inputs[2]) is not None:
        return None
    starts, axes = array(inputs[1]), array(inputs[3])
    before, after = inputs[0].shape, node.outputs[0].shape
    if starts is None or axes is None or before is None or after is None:
        return None
    ends = []
    for start, axis in zip(starts.tolist(), axes.tolist(), strict=True):
        # JAX knows what it gives, but jax2onnx computes the ends from the input at run time.
        if isinstance(after[axis], int):
            ends.append(start + after[axis])
        elif start == 0 and before[axis] == after[axis]:
            ends.append(np.iinfo(np.int64).max)  # However long it is: the whole batch.
        else:
            return None
    return tape.op("Slice", [*inputs[:2], tape.op("Constant", [], {"value_ints": ends}), inputs[3]])


def _behind(node: "ir.Node", tape: "Tape") -> "ir.Value | None":
    """An elementwise operation on transposed values, done before they are transposed.

    Its other operands are constants, which are transposed back when they are folded, or the marks of layers.
    """
    inputs = operands(node)
    moves = [producer(value, "Transpose") for value in inputs]
    perms = {tuple(ints(move, "perm")) for move in moves if move is not None}
    if len(perms) != 1 or () in perms:
        return None
    (perm,) = perms
    inverse = tuple(np.argsort(perm).tolist())
    sources = []
    for value, move in zip(inputs, moves, strict=True):
        shape = [] if value.shape is None else [size for size in value.shape if isinstance(size, int)]
        fixed = value.shape is not None and len(shape) == len(value.shape) <= len(perm)
        if move is not None:
            sources.append(move.inputs[0])
        elif fixed and set(shape) <= {1} and (value.is_graph_input() or array(value) is not None):
            sources.append(value)
        elif fixed and array(value) is not None:
            full = [1] * (len(perm) - len(shape)) + shape
            wide = tape.op("Reshape", [value, tape.op("Constant", [], {"value_ints": full})])
            sources.append(tape.op("Transpose", [wide], {"perm": inverse}))
        else:
            return None
    return tape.op("Transpose", [tape.op(node.op_type, sources, node.attributes)], {"perm": perm})


def _pooling(node: "ir.Node", tape: "Tape") -> "ir.Value | None":
    """jax2onnx pools [batch, height, width, channels] as four spatial axes behind two axes of size 1."""
    pool = producer(node.inputs[0], "AveragePool", "MaxPool")
    before = None if pool is None else producer(pool.inputs[0], "Unsqueeze")
    if pool is None or before is None or not all(_first_axes(n) for n in (before, node)):
        return None
    size, strides = ints(pool, "kernel_shape"), ints(pool, "strides", [1] * 4)
    pads, dilations = ints(pool, "pads", [0] * 8), ints(pool, "dilations", [1] * 4)
    # Of an attribute that jax2onnx does not write today, such as `ceil_mode`, nothing is known here.
    usual = {"kernel_shape", "strides", "pads", "dilations"} >= set(pool.attributes)
    if not usual or [len(v) for v in (size, strides, dilations, pads)] != [4, 4, 4, 8]:
        return None
    # The operator pools neither over the batch nor over channels.
    if any(v[0] != 1 or v[3] != 1 for v in (size, strides, dilations)) or any(pads[i] for i in (0, 3, 4, 7)):
        return None
    options = {"kernel_shape": size[1:3], "strides": strides[1:3]}
    if any(pads):
        options["pads"] = [pads[i] for i in (1, 2, 5, 6)]
    if dilations != [1] * 4:
        options["dilations"] = dilations[1:3]
    # ONNX has channels first. Transpositions of neighbours meet: between convolutions none is left.
    image = tape.op("Transpose", [before.inputs[0]], {"perm": _TO_NCHW})
    return tape.op("Transpose", [tape.op(pool.op_type, [image], options)], {"perm": _TO_NHWC})


def _first_axes(node: "ir.Node") -> bool:
    """Whether a `Squeeze` or `Unsqueeze` is of the first two axes."""
    axes = array(node.inputs[1]) if len(node.inputs) > 1 else None
    return axes is not None and sorted(axes.ravel().tolist()) == [0, 1]


def _zeros(node: "ir.Node", tape: "Tape") -> "ir.Value | None":
    """`Clip(x, 0, 0)` concatenated to x is padding: so `jopt.export.onnx_trace` makes zeros of a dynamic size."""
    x, *others = operands(node)
    shape = known_shape(x)
    if not others or shape is None:
        return None
    for value in others:
        clip = producer(value, "Clip")
        ends = [array(end) for end in clip.inputs[1:]] if clip is not None and clip.inputs[0] is x else []
        if len(ends) != 2 or any(end is None or end.any() for end in ends):
            return None
    axis = node.attributes["axis"].as_int()
    if (size := shape[axis]) is None:
        return None
    pads = np.zeros((2, len(shape)), np.int64)
    pads[1, axis] = size * len(others)
    return _pad(tape, x, pads.ravel())


def _padding(node: "ir.Node", tape: "Tape") -> "ir.Value | None":
    """A padding with 0 of a padding with 0."""
    before = producer(node.inputs[0], "Pad")
    if (
        before is None
        or len(before.outputs[0].uses()) != 1
        or not (is_zero_padding(node) and is_zero_padding(before))
    ):
        return None
    inner, outer = (constant_array(operands(pad)[1]) for pad in (before, node))
    return _pad(tape, operands(before)[0], inner + outer)


def is_zero_padding(node: "ir.Node") -> bool:
    """Whether a `Pad` puts a known number of zeros before and behind its axes."""
    if node.op_type != "Pad" or len(node.inputs) != 3 or "mode" in node.attributes:
        return False
    pads, value = array(node.inputs[1]), array(node.inputs[2])
    return pads is not None and value is not None and bool((pads >= 0).all()) and not value.any()


def _pad(tape: "Tape", x: "ir.Value", pads: np.ndarray) -> "ir.Value":
    # The zero is written out: quantization puts the code of 0 into its place.
    zero = tape.op("Constant", [], {"value_float": 0.0})
    return tape.op("Pad", [x, tape.op("Constant", [], {"value_ints": pads.tolist()}), zero])


_RULES: "dict[str, tuple[Rule, ...]]" = {
    "Concat": (_zeros,),
    "Einsum": (_matrix_product,),
    "Gemm": (_product,),
    "Pad": (_padding,),
    "Reshape": (_reshape,),
    "Slice": (_slice,),
    "Squeeze": (_pooling,),
    "Max": (_relu, _behind),
    "Add": (_bias, _behind),
    **dict.fromkeys((*(kind for kind in _BINARY if kind not in ("Add", "Max")), *_UNARY), (_behind,)),
}


def serialize(model: "ir.Model", names: Collection[str], metadata: Mapping[str, str]) -> bytes:
    """The bytes of a model, checked, without what only makes them longer.

    Args:
      model: what to write; its unused nodes, inputs and constants are dropped.
      names: of constants, which stay, as do names with a slash; other inner values get short ones.
      metadata: texts by name.

    Raises:
      onnx.checker.ValidationError: if it is no valid model.
    """
    import onnx
    import onnx_ir as ir
    from onnx_ir.passes import common

    graph = model.graph
    common.RemoveUnusedNodesPass()(model)
    # Kernels that were replaced by their codes, and marks, are inputs that nobody can give; the first is the
    # model's.
    graph.inputs[1:] = [value for value in graph.inputs[1:] if value.uses()]
    # Parameters keep their names, also where two have the same entries: only other constants are merged.
    named = {
        name: graph.initializers.pop(name) for name in list(graph.initializers) if name in names or "/" in name
    }
    common.DeduplicateInitializersPass()(model)
    graph.initializers.update(named)
    _shorten(graph, names)
    common.ClearMetadataAndDocStringPass()(model)
    # Names of nodes, and shapes and types that can be inferred, are a third of a small file.
    for node in graph.all_nodes():
        node.name = None
    inner = [value for node in graph.all_nodes() for value in node.outputs if not value.is_graph_output()]
    for value in (*inner, *graph.initializers.values()):
        value.shape = value.type = None
        value.metadata_props.clear()
    # The lowest version that knows the types: a higher one shuts out older runtimes.
    model.ir_version = IR_VERSIONS[model.opset_imports[""]]
    model.producer_name, model.producer_version, graph.name = "jopt", None, "jopt"
    model.metadata_props.clear()
    model.metadata_props.update(metadata)
    # The checker infers all shapes again, so that a rule that broke one is found here, not by a user's runtime.
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    return proto.SerializeToString(deterministic=True)


def _restore_names(graph: "ir.Graph", constants: Mapping[str, np.ndarray]) -> None:
    """Gives a constant that has the entries of one of `constants`, moved, that one's name."""
    from onnxscript.optimizer import FOLDED_FROM_KEY

    for value in list(graph.initializers.values()):
        sources = [name for name in value.meta.get(FOLDED_FROM_KEY, ()) if name in constants]
        # Two constants may be made of one, such as a table that is also multiplied with: the first has its name.
        if len(sources) == 1 and sources[0] not in graph.initializers:
            # Its own values: the square root of a variance, say, does not go by the name of the variance.
            entries = [np.sort(values, axis=None) for values in (constant_array(value), constants[sources[0]])]
            if np.array_equal(*entries, equal_nan=True):
                value.name = sources[0]


def _shorten(graph: "ir.Graph", names: Collection[str]) -> None:
    """Gives values a number for a name, except inputs, outputs, those in `names` and those with a slash."""
    values = [*graph.initializers.values(), *(value for node in graph.all_nodes() for value in node.outputs)]
    values += [value for inner in graph.subgraphs() for value in inner.inputs]
    ends = {*graph.inputs, *graph.outputs}
    numbers = (name for name in map("v{}".format, itertools.count()) if name not in names)
    for value in dict.fromkeys(values):
        if value not in ends and value.name not in names and "/" not in str(value.name):
            value.name = next(numbers)
