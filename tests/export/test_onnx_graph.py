"""Graphs by hand: simplifying them changes what they look like, and nothing of what they compute."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs the extra 'jopt[export]'")
pytest.importorskip("onnxruntime", reason="needs the extra 'jopt[export]'")
pytest.importorskip("onnxscript", reason="needs the extra 'jopt[export]'")

import onnx_ir as ir  # noqa: E402

from jopt.export import onnx as export  # noqa: E402
from jopt.export.onnx_graph import serialize, simplify  # noqa: E402

make = onnx.helper.make_node


def graph(nodes, constants, rank, **shapes):
    """A model of nodes; constants are inputs, as jax2onnx gives parameters, and so are shapes of values."""
    shapes = {"input": ["B", 4, 4, 2][:rank], "logits": [f"D{i}" for i in range(rank)], **shapes}
    x, y, *inner = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in shapes.items()
    )
    others = [
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(np.asarray(value).dtype), np.shape(value)
        )
        for name, value in constants.items()
    ]
    opsets = [onnx.helper.make_opsetid("", 21)]
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "g", [x, *others], [y], value_info=inner), opset_imports=opsets
    )
    proto.ir_version = 10
    return proto


def simplified(nodes, constants, rank=4, kept=(), **shapes):
    arrays = {name: np.asarray(value) for name, value in constants.items()}
    model = ir.from_proto(graph(nodes, constants, rank, **shapes))
    simplify(model, {name: value for name, value in arrays.items() if name not in kept})
    return model, arrays


def checked(nodes, constants, rank=4, **shapes):
    """The operators that are left, after checking that they compute the same."""
    x = np.random.default_rng(0).normal(size=(3, 4, 4, 2)[:rank]).astype(np.float32)
    before = export.session(graph(nodes, constants, rank, **shapes).SerializeToString())
    wanted = before.run(None, {"input": x, **{name: np.asarray(value) for name, value in constants.items()}})[0]
    model, arrays = simplified(nodes, constants, rank, **shapes)
    np.testing.assert_array_equal(export.run(serialize(model, arrays, {}), x), wanted)
    return [node.op_type for node in model.graph]


def test_a_shape_with_one_unknown_size_is_a_constant():
    nodes = [
        make("Shape", ["input"], ["shape"]),
        make("Gather", ["shape", "zero"], ["size"], axis=0),
        make("Concat", ["size", "rest"], ["target"], axis=0),
        make("Reshape", ["input", "target"], ["logits"]),
    ]
    assert checked(nodes, {"zero": np.int64([0]), "rest": np.int64([32])}, logits=["B", 32]) == ["Reshape"]


def test_broadcast_biases_and_relus_go_into_the_product():
    nodes = [
        make("Gemm", ["input", "a/kernel", "none"], ["product"], beta=0.0),
        make("Reshape", ["a/bias", "row"], ["bias_row"]),
        make("Add", ["product", "bias_row"], ["sum"]),
        make("Max", ["sum", "zero"], ["logits"]),
    ]
    rng = np.random.default_rng(1)
    constants = {
        "a/kernel": rng.normal(size=(4, 5)).astype(np.float32),
        "a/bias": rng.normal(size=5).astype(np.float32),
        "row": np.int64([1, 5]),
        "zero": np.float32(0),
        "none": np.float32(0),
    }
    assert checked(nodes, constants, rank=2) == ["Gemm", "Relu"]


def test_what_is_no_bias_is_added():
    # A column has as many entries as there are outputs, and another meaning; a number is for all outputs.
    nodes = [make("MatMul", ["input", "kernel"], ["product"]), make("Add", ["product", "other"], ["logits"])]
    kernel = np.eye(4, 3, dtype=np.float32)
    for other in (np.float32([[1], [2], [3]]), np.float32(2), np.float32([2])):
        assert checked(nodes, {"kernel": kernel, "other": other}, rank=2) == ["MatMul", "Add"]
        gemm = [make("Gemm", *([list(n.input), list(n.output)])) if n.op_type == "MatMul" else n for n in nodes]
        assert checked(gemm, {"kernel": kernel, "other": other}, rank=2) == ["Gemm", "Add"]


def test_an_expand_before_a_sum_goes_and_one_that_gives_the_shape_stays():
    def nodes(other="input"):
        return [
            make("Shape", ["input"], ["shape"]),
            make("Expand", ["row", "shape"], ["wide"]),
            make("Add", [other, "wide"], ["logits"]),
        ]

    row = np.float32([[1, 2, 3, 4]])
    assert checked(nodes(), {"row": row}, rank=2, logits=["B", 4], wide=["B", 4]) == ["Add"]
    # Both operands constants: the Expand is what makes the result as long as the batch.
    assert checked(nodes("row"), {"row": row}, rank=2) == ["Shape", "Expand", "Add"]


def test_pooling_between_transpositions_and_transpositions_that_meet():
    nodes = [
        make("Transpose", ["input"], ["first"], perm=[0, 3, 1, 2]),
        make("Transpose", ["first"], ["last"], perm=[0, 2, 3, 1]),
        make("Unsqueeze", ["last", "zero"], ["one"]),
        make("Unsqueeze", ["one", "zero"], ["two"]),
        make("MaxPool", ["two"], ["pooled"], kernel_shape=[1, 2, 2, 1], strides=[1, 2, 2, 1]),
        make("Squeeze", ["pooled", "both"], ["small"]),
        make("Max", ["small", "nothing"], ["logits"]),
    ]
    constants = {"zero": np.int64([0]), "both": np.int64([0, 1]), "nothing": np.float32(0)}
    x = np.random.default_rng(0).normal(size=(3, 4, 4, 2)).astype(np.float32)
    model, arrays = simplified(nodes, constants, 4)
    assert [node.op_type for node in model.graph] == ["Transpose", "MaxPool", "Relu", "Transpose"]
    wanted = np.maximum(x.reshape(3, 2, 2, 2, 2, 2).max((2, 4)), 0)
    np.testing.assert_array_equal(export.run(serialize(model, arrays, {}), x), wanted)


def test_a_transposition_goes_behind_what_is_done_to_each_entry():
    perm, back = [0, 3, 1, 2], [0, 2, 3, 1]
    nodes = [
        make("Transpose", ["input"], ["moved"], perm=perm),
        make("Mul", ["moved", "channels"], ["scaled"]),
        make("Sub", ["rows", "scaled"], ["less"]),
        make("Add", ["less", "moved"], ["sum"]),
        make("LeakyRelu", ["sum"], ["leaky"], alpha=0.3),
        make("Transpose", ["leaky"], ["logits"], perm=back),
    ]
    constants = {"channels": np.float32([[[2]], [[3]]]), "rows": np.arange(4, dtype=np.float32)}
    assert checked(nodes, constants) == ["Mul", "Sub", "Add", "LeakyRelu"]


def test_zeros_made_of_a_value_are_padding_and_two_paddings_one():
    nodes = [
        make("Max", ["input", "zero"], ["high"]),
        make("Min", ["high", "zero"], ["zeros"]),
        make("Concat", ["input", "zeros", "zeros"], ["wide"], axis=3),
        make("Pad", ["wide", "pads", "zero"], ["logits"]),
    ]
    constants = {"zero": np.float32(0), "pads": np.int64([0, 1, 0, 0, 0, 0, 2, 1])}
    assert checked(nodes, constants) == ["Pad"]


def test_slices_to_the_end_of_the_batch():
    def nodes(index):
        return [
            make("Shape", ["input"], ["shape"]),
            make("Gather", ["shape", index], ["size"], axis=0),
            make("Concat", ["size", "two"], ["ends"], axis=0),
            make("Slice", ["input", "starts", "ends", "axes"], ["logits"]),
        ]

    constants = {"zero": np.int64([0]), "two": np.int64([2]), "starts": np.int64([0, 1]), "axes": np.int64([0, 1])}
    constants["one"] = np.int64([1])
    # What it gives says that the batch is whole, as JAX knows: only the other axis is cut.
    assert checked(nodes("zero"), constants, rank=2, logits=["B", 1]) == ["Slice"]
    # The other axis's size is not the end of this one.
    assert checked(nodes("one"), constants, rank=2) == ["Slice"]
    assert checked(nodes("one"), constants, rank=2, logits=["C", 1])[-1] == "Slice"


def test_moved_constants_are_computed_and_keep_their_names_and_kept_ones_stay():
    nodes = [
        make("Transpose", ["a/kernel"], ["moved"], perm=[1, 0]),
        make("MatMul", ["input", "moved"], ["logits"]),
    ]
    constants = {"a/kernel": np.arange(12, dtype=np.float32).reshape(3, 4)}
    model, arrays = simplified(nodes, constants, 2)
    assert [node.op_type for node in model.graph] == ["MatMul"]
    (tensor,) = onnx.load_from_string(serialize(model, arrays, {"b": "c"})).graph.initializer
    assert tensor.name == "a/kernel" and list(tensor.dims) == [4, 3]
    model, _ = simplified(nodes, constants, 2, kept=["a/kernel"])
    assert [node.op_type for node in model.graph] == ["Transpose", "MatMul"]


def test_equal_parameters_keep_their_names_and_what_is_computed_of_one_does_not_take_its():
    nodes = [
        make("Add", ["input", "a/bias"], ["one"]),
        make("Sub", ["one", "b/bias"], ["two"]),
        make("Sqrt", ["c/scale"], ["root"]),
        make("Mul", ["two", "root"], ["logits"]),
    ]
    bias, scale = np.float32([1, 2, 3, 4]), np.float32([4, 9, 16, 25])
    model, arrays = simplified(nodes, {"a/bias": bias, "b/bias": bias, "c/scale": scale}, 2)
    stored = onnx.load_from_string(serialize(model, arrays, {})).graph.initializer
    assert {t.name: onnx.numpy_helper.to_array(t).tolist() for t in stored} == {
        "a/bias": [1, 2, 3, 4],
        "b/bias": [1, 2, 3, 4],
        "v0": [2, 3, 4, 5],
    }
