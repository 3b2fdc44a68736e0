"""What jax2onnx writes in many nodes, in few: shapes, broadcasts, biases, poolings."""

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from jopt.export.onnx_graph import Graph, attribute, make
from jopt.export.onnx_windows import padding, pooling, zeros

if TYPE_CHECKING:
    from onnx import NodeProto

_ELEMENTWISE = ("Add", "Div", "Max", "Min", "Mul", "Pow", "Sub")
_UNARY = ("Abs", "Elu", "Exp", "LeakyRelu", "Neg", "Relu", "Sigmoid", "Softplus", "Tanh")


def tidy(graph: Graph, kept: Collection[str] = ()) -> None:
    """Rewrites a graph in place, until nothing changes; what it computes stays the same.

    The target of a `Reshape` with one size that is known only at run time becomes a constant with -1 for it; an
    `Expand` before an elementwise operation goes; `Max` with 0 becomes `Relu`; products and convolutions take the
    bias that is added to them; a pooling of channels-last images becomes one between two transpositions; these go
    behind elementwise operations, and where one undoes another, both go.

    Args:
      graph: of jax2onnx.
      kept: constants to leave as they are.
    """
    rules = (_identity, _reshape, _slice, _expand, _relu, _product, _biased_product, _biased_conv, pooling)
    rules = (*rules, zeros, padding, _inverse, _sink)
    changed = True
    while changed:
        fold(graph, kept)
        changed = any(rule(graph, node) for rule in rules for node in list(graph.nodes))
        graph.prune()


def fold(graph: Graph, kept: Collection[str] = ()) -> None:
    """Computes what only moves constants, but for those that are `kept`."""
    remaining = []
    for node in graph.nodes:
        rule = MOVES.get(node.op_type)
        known = all(name in graph.constants and name not in kept for name in node.input)
        if rule is None or not known or not node.input:
            remaining.append(node)
            continue
        graph.constants[node.output[0]] = rule(node, *(graph.constants[name] for name in node.input))
        graph.origins[node.output[0]] = graph.origins.get(node.input[0], node.input[0])
        if graph.is_output(node.output[0]):
            remaining.append(node)
    graph.nodes = remaining


def _reshaped(node: Any, x: np.ndarray, target: np.ndarray) -> np.ndarray:
    del node
    return x.reshape([x.shape[i] if n == 0 else int(n) for i, n in enumerate(target)])


def _unsqueezed(node: Any, x: np.ndarray, axes: np.ndarray) -> np.ndarray:
    del node
    return np.expand_dims(x, tuple(int(a) for a in axes.ravel()))


def _squeezed(node: Any, x: np.ndarray, axes: np.ndarray | None = None) -> np.ndarray:
    del node
    return np.squeeze(x, None if axes is None else tuple(int(a) for a in axes.ravel()))


MOVES: dict[str, Callable[..., np.ndarray]] = {
    "Identity": lambda node, x: x,
    "Reshape": _reshaped,
    "Squeeze": _squeezed,
    "Transpose": lambda node, x: x.transpose(attribute(node, "perm")),
    "Unsqueeze": _unsqueezed,
    "Concat": lambda node, *xs: np.concatenate(xs, attribute(node, "axis")),
}
"""What each operation that only moves entries makes of a constant."""


def _identity(graph: Graph, node: "NodeProto") -> bool:
    if node.op_type != "Identity" or graph.is_output(node.output[0]):
        return False
    before = len(graph.nodes)
    graph.bypass(node, node.input[0])
    return len(graph.nodes) < before


def _reshape(graph: Graph, node: "NodeProto") -> bool:
    """A shape put together from one size of the input and constants."""
    if node.op_type != "Reshape" or node.input[1] in graph.constants:
        return False
    concat = graph.producer(node.input[1])
    if concat is None or concat.op_type != "Concat":
        return False
    parts = [graph.constants.get(name) for name in concat.input]
    dynamic = [i for i, part in enumerate(parts) if part is None]
    if len(dynamic) != 1 or _size_of(graph, concat.input[dynamic[0]]) is None:
        return False
    name = graph.fresh("shape")
    graph.constants[name] = np.concatenate([np.array([-1]) if p is None else p.astype(np.int64) for p in parts])
    node.input[1] = name
    return True


def _slice(graph: Graph, node: "NodeProto") -> bool:
    """Ends put together from constants and whole sizes of the input."""
    concat = graph.producer(node.input[2]) if node.op_type == "Slice" and len(node.input) == 4 else None
    starts, axes = (graph.constants.get(node.input[i]) for i in (1, 3)) if concat is not None else (None, None)
    if concat is None or concat.op_type != "Concat" or starts is None or axes is None:
        return False
    ends = []
    for name, start, axis in zip(concat.input, starts, axes, strict=True):
        if name not in graph.constants and (start != 0 or _size_of(graph, name) != (node.input[0], int(axis))):
            return False
        ends.append(graph.constants.get(name, np.array([np.iinfo(np.int64).max])).astype(np.int64))
    name = graph.fresh("ends")
    graph.constants[name] = np.concatenate(ends)
    node.input[2] = name
    return True


def _size_of(graph: Graph, name: str) -> tuple[str, int] | None:
    """The value and the axis whose size a name stands for; None: it is none."""
    node = graph.producer(name)
    while node is not None and node.op_type in ("Unsqueeze", "Squeeze", "Gather", "Cast"):
        if node.op_type == "Gather":
            before, index = graph.producer(node.input[0]), graph.constants.get(node.input[1])
            if before is None or before.op_type != "Shape" or index is None or index.size != 1:
                return None
            return before.input[0], int(index.item())
        node = graph.producer(node.input[0])
    return None


def _expand(graph: Graph, node: "NodeProto") -> bool:
    """The other operands of an elementwise operation have the whole shape: JAX's all have it, or 1 for a size."""
    if node.op_type != "Expand":
        return False
    users = graph.users(node.output[0])
    for user in users:
        others = [name for name in user.input if name != node.output[0]]
        producers = [graph.producer(name) for name in others]
        whole = [p for name, p in zip(others, producers, strict=True) if name not in graph.constants]
        if user.op_type not in _ELEMENTWISE or not whole or any(p and p.op_type == "Expand" for p in producers):
            return False
    if not users or graph.is_output(node.output[0]):
        return False
    before = len(graph.nodes)
    graph.bypass(node, node.input[0])
    return len(graph.nodes) < before


def _relu(graph: Graph, node: "NodeProto") -> bool:
    """A maximum with 0, of floats: ONNX Runtime has no `Relu` of the integers that indices are."""
    if node.op_type != "Max" or len(node.input) != 2:
        return False
    zero = [name for name in node.input if name in graph.constants and not graph.constants[name].any()]
    if len(zero) != 1 or graph.constants[zero[0]].size != 1 or graph.constants[zero[0]].dtype.kind != "f":
        return False
    (x,) = (name for name in node.input if name != zero[0])
    node.CopyFrom(make("Relu", [x], node.output))
    return True


def _product(graph: Graph, node: "NodeProto") -> bool:
    """A contraction of the last axis with the first of a matrix."""
    if node.op_type == "Einsum":
        left, _, result = attribute(node, "equation").decode().replace("->", ",").partition(",")
        right, _, result = result.partition(",")
        if len(left) < 2 or len(right) != 2 or left[-1] != right[0] or result != left[:-1] + right[1]:
            return False
        node.CopyFrom(make("MatMul", node.input, node.output))
        return True
    plain = not attribute(node, "transA", 0) and not attribute(node, "transB", 0)
    if node.op_type != "Gemm" or len(node.input) != 3 or not plain or attribute(node, "alpha", 1.0) != 1.0:
        return False
    bias = graph.constants.get(node.input[2])
    if attribute(node, "beta", 1.0) != 0.0 and (bias is None or bias.any()):
        return False
    node.CopyFrom(make("Gemm", node.input[:2], node.output))
    return True


def _biased_product(graph: Graph, node: "NodeProto") -> bool:
    if node.op_type != "Gemm" or len(node.input) != 2:
        return False
    return _take_bias(graph, node, node)


def _biased_conv(graph: Graph, node: "NodeProto") -> bool:
    if node.op_type != "Conv" or len(node.input) != 2 or graph.is_output(node.output[0]):
        return False
    users = graph.users(node.output[0])
    if len(users) != 1 or users[0].op_type != "Transpose":
        return False
    rank = len(attribute(users[0], "perm"))
    last = tuple(attribute(users[0], "perm")) == (0, *range(2, rank), 1)
    return last and _take_bias(graph, node, users[0])


def _take_bias(graph: Graph, node: "NodeProto", last: "NodeProto") -> bool:
    """Gives `node` the constant, one number for each entry of the last axis, that is added to what `last` gives."""
    users = graph.users(last.output[0])
    if len(users) != 1 or users[0].op_type != "Add" or graph.is_output(last.output[0]):
        return False
    (add,) = users
    added, kernel = [name for name in add.input if name in graph.constants], _moved_constant(graph, node.input[1])
    if len(added) != 1 or kernel is None:
        return False
    bias, outputs = graph.constants[added[0]], kernel.shape[0 if node.op_type == "Conv" else -1]
    # One number for all outputs, or a row that a single output is spread over, is no bias of the operator.
    if bias.ndim == 0 or bias.size != outputs or bias.shape[-1] != outputs:
        return False
    name = graph.fresh(added[0])
    graph.constants[name] = graph.constants[added[0]].reshape(-1)
    graph.origins[name] = graph.origins.get(added[0], added[0])
    node.input.append(name)
    last.output[0] = add.output[0]
    graph.nodes = [other for other in graph.nodes if other is not add]
    return True


def _moved_constant(graph: Graph, name: str) -> np.ndarray | None:
    """The constant that a value is, its entries moved; None: it is none."""
    if name in graph.constants:
        return graph.constants[name]
    node = graph.producer(name)
    if node is None or node.op_type not in MOVES or not node.input:
        return None
    moved = [_moved_constant(graph, source) for source in node.input]
    known = [value for value in moved if value is not None]
    return MOVES[node.op_type](node, *known) if len(known) == len(moved) else None


def _inverse(graph: Graph, node: "NodeProto") -> bool:
    """Two transpositions, one undoing the other."""
    before = graph.producer(node.input[0]) if node.op_type == "Transpose" else None
    if before is None or before.op_type != "Transpose" or graph.is_output(node.output[0]):
        return False
    first, second = list(attribute(before, "perm")), list(attribute(node, "perm"))
    if [first[i] for i in second] != list(range(len(first))):
        return False
    size = len(graph.nodes)
    graph.bypass(node, before.input[0])
    return len(graph.nodes) < size


def _sink(graph: Graph, node: "NodeProto") -> bool:
    """An elementwise operation on transposed values, done before they are transposed."""
    if node.op_type not in (*_ELEMENTWISE, *_UNARY) or graph.is_output(node.output[0]):
        return False
    sources, perms = [], set()
    for name in node.input:
        before = graph.producer(name)
        if before is not None and before.op_type == "Transpose":
            sources.append(before.input[0])
            perms.add(tuple(attribute(before, "perm")))
        elif name in graph.constants and graph.constants[name].size == 1:
            sources.append(name)
        else:
            return False
    if len(perms) != 1:
        return False
    (perm,) = perms
    inner = graph.fresh("inner")
    after = make("Transpose", [inner], node.output, perm=perm)
    node.input[:], node.output[:] = sources, [inner]
    at = next(i for i, other in enumerate(graph.nodes) if other is node)
    graph.nodes.insert(at + 1, after)
    return True
