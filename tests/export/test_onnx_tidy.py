"""Graphs by hand: tidying them changes what they look like, and nothing of what they compute."""

import numpy as np
import pytest

from jopt.export.onnx_graph import Graph, make, write
from jopt.export.onnx_tidy import fold, tidy

onnx = pytest.importorskip("onnx", reason="needs the extra 'jopt[export]'")
pytest.importorskip("onnxruntime", reason="needs the extra 'jopt[export]'")


def graph(nodes, constants, rank, out=None):
    shapes = ["B", 4, 4, 2][:rank], [f"D{i}" for i in range(out or rank)]
    names = zip(("input", "logits"), shapes, strict=True)
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in names)
    return Graph(list(nodes), {k: np.asarray(v) for k, v in constants.items()}, {}, [x], [y], 21)


def outputs(g, x):
    from jopt.export.onnx import run

    return run(write(g, {}).SerializeToString(), x)


def checked(nodes, constants, rank=4, out=None):
    """The operators that are left, after checking that they compute the same."""
    x = np.random.default_rng(0).normal(size=(3, 4, 4, 2)[:rank]).astype(np.float32)
    before, after = (graph(nodes(), constants, rank, out) for _ in range(2))
    tidy(after)
    wanted = outputs(before, x)
    np.testing.assert_array_equal(outputs(after, x), wanted)
    return [node.op_type for node in after.nodes]


def test_a_shape_with_one_unknown_size_is_a_constant():
    def nodes():
        return [
            make("Shape", ["input"], ["shape"]),
            make("Gather", ["shape", "zero"], ["size"], axis=0),
            make("Concat", ["size", "rest"], ["target"], axis=0),
            make("Reshape", ["input", "target"], ["logits"]),
        ]

    assert checked(nodes, {"zero": np.int64([0]), "rest": np.int64([32])}, out=2) == ["Reshape"]


def test_broadcast_biases_and_relus_go_into_the_product():
    def nodes():
        return [
            make("Gemm", ["input", "a/kernel", "none"], ["product"], beta=0.0),
            make("Reshape", ["a/bias", "row"], ["bias_row"]),
            make("Add", ["product", "bias_row"], ["sum"]),
            make("Max", ["sum", "zero"], ["logits"]),
        ]

    rng = np.random.default_rng(1)
    constants = {
        "a/kernel": rng.normal(size=(4, 5)).astype(np.float32),
        "zero": np.float32(0),
        "none": np.float32(0),
    }
    constants |= {"a/bias": rng.normal(size=5).astype(np.float32), "row": np.int64([1, 5])}
    assert checked(nodes, constants, rank=2) == ["Gemm", "Relu"]


def test_an_expand_before_a_sum_goes_and_one_that_gives_the_shape_stays():
    def nodes(other="input"):
        return [
            make("Shape", ["input"], ["shape"]),
            make("Expand", ["row", "shape"], ["wide"]),
            make("Add", [other, "wide"], ["logits"]),
        ]

    row = np.float32([[1, 2, 3, 4]])
    assert checked(nodes, {"row": row}, rank=2) == ["Add"]
    # Both operands constants: the Expand is what makes the result as long as the batch.
    assert checked(lambda: nodes("row"), {"row": row}, rank=2) == ["Shape", "Expand", "Add"]


def test_pooling_between_transpositions_and_transpositions_that_meet():
    def nodes():
        return [
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
    g = graph(nodes(), constants, 4)
    tidy(g)
    assert [node.op_type for node in g.nodes] == ["Transpose", "MaxPool", "Transpose", "Relu"]
    wanted = np.maximum(x.reshape(3, 2, 2, 2, 2, 2).max((2, 4)), 0)
    np.testing.assert_array_equal(outputs(g, x), wanted)


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
    assert checked(lambda: nodes("zero"), constants, rank=2) == ["Slice"]
    # The other axis's size is not the end of this one.
    assert checked(lambda: nodes("one"), constants, rank=2) == ["Shape", "Gather", "Concat", "Slice"]


def test_moved_constants_are_computed_and_keep_their_names_and_kept_ones_stay():
    def made():
        return graph(
            [
                make("Transpose", ["a/kernel"], ["moved"], perm=[1, 0]),
                make("MatMul", ["input", "moved"], ["logits"]),
            ],
            {"a/kernel": np.arange(12, dtype=np.float32).reshape(3, 4)},
            2,
        )

    g = made()
    fold(g)
    assert [node.op_type for node in g.nodes] == ["MatMul"]
    (tensor,) = write(g, {"b": "c"}).graph.initializer
    assert tensor.name == "a/kernel" and list(tensor.dims) == [4, 3]
    g = made()
    fold(g, kept={"a/kernel"})
    assert [node.op_type for node in g.nodes] == ["Transpose", "MatMul"]
