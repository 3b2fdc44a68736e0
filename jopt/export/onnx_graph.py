"""An ONNX graph that is easy to rewrite: a list of nodes, named constants, and nothing that can be inferred."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

IR_VERSIONS = {21: 10, 22: 10, 23: 11, 24: 12, 25: 13}
"""The first version of the file format that knows an opset's types."""


@dataclasses.dataclass
class Graph:
    """What an ONNX model computes.

    Attributes:
      nodes: in an order in which each comes after what it uses.
      constants: by name.
      tensors: constants of types that NumPy lacks, by name.
      inputs: of the model.
      outputs: of the model.
      opset: the version of the operators.
      origins: for a constant that was made of another by moving its entries, that one's name.
    """

    nodes: list["NodeProto"]
    constants: dict[str, np.ndarray]
    tensors: dict[str, "TensorProto"]
    inputs: list["ValueInfoProto"]
    outputs: list["ValueInfoProto"]
    opset: int
    origins: dict[str, str] = dataclasses.field(default_factory=dict)

    def producer(self, name: str) -> "NodeProto | None":
        """The node that gives `name`; None: it is an input or a constant."""
        return next((node for node in self.nodes if name in node.output), None)

    def users(self, name: str) -> list["NodeProto"]:
        """The nodes that take `name`, those of which an inner graph does too."""
        return [node for node in self.nodes if name in uses(node)]

    def is_output(self, name: str) -> bool:
        """Whether the model gives `name`."""
        return any(output.name == name for output in self.outputs)

    def bypass(self, node: "NodeProto", source: str) -> None:
        """Removes a node of one output, for which its users take `source`."""
        name = node.output[0]
        self.nodes = [other for other in self.nodes if other is not node]
        if self.is_output(name) or any(name in inner for user in self.users(name) for inner in _inner(user)):
            self.nodes.append(make("Identity", [source], [name]))
            self.sort()
            return
        for user in self.users(name):
            user.input[:] = [source if used == name else used for used in user.input]

    def put(self, before: "NodeProto", *nodes: "NodeProto") -> None:
        """Inserts nodes before another."""
        at = next(i for i, node in enumerate(self.nodes) if node is before)
        self.nodes[at:at] = nodes

    def fresh(self, name: str) -> str:
        """A name that is not taken, `name` if that is not."""
        taken = {*self.constants, *self.tensors, *(out for node in self.nodes for out in node.output)}
        tries = (f"{name}_{i}" for i in range(1, len(taken) + 2))
        return next(n for n in (name, *tries) if n not in taken)

    def sort(self) -> None:
        """Puts nodes into an order in which each comes after what it uses; keeps the order where it can."""
        made = {out for node in self.nodes for out in node.output}
        done, waiting, ordered = set(), list(self.nodes), []
        while waiting:
            ready = [node for node in waiting if not (uses(node) & made) - done]
            if not ready:
                raise ValueError("the graph has a cycle")
            first = ready[0]
            waiting.remove(first)
            ordered.append(first)
            done |= set(first.output)
        self.nodes = ordered

    def prune(self) -> None:
        """Drops nodes and constants that no output needs."""
        needed, kept = {output.name for output in self.outputs}, []
        for node in reversed(self.nodes):
            if needed & set(node.output):
                kept.append(node)
                needed |= uses(node)
        self.nodes = kept[::-1]
        self.constants = {name: value for name, value in self.constants.items() if name in needed}
        self.tensors = {name: value for name, value in self.tensors.items() if name in needed}


def make(kind: str, inputs: Iterable[str], outputs: Iterable[str], **attributes: Any) -> "NodeProto":
    """A node without a name of its own."""
    from onnx import helper

    return helper.make_node(kind, list(inputs), list(outputs), **attributes)


def attribute(node: "NodeProto", name: str, default: Any = None) -> Any:
    """An attribute's value."""
    from onnx import helper

    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def uses(node: "NodeProto") -> set[str]:
    """The names that a node takes, from inside of inner graphs too."""
    return {name for name in node.input if name}.union(*_inner(node))


def _inner(node: "NodeProto") -> Iterator[set[str]]:
    for a in node.attribute:
        for graph in [a.g] if a.HasField("g") else a.graphs:
            own = {i.name for i in graph.input} | {i.name for i in graph.initializer}
            own |= {out for n in graph.node for out in n.output}
            used = set().union(*map(uses, graph.node), {o.name for o in graph.output})
            yield used - own


def read(proto: "ModelProto", constants: Mapping[str, np.ndarray]) -> Graph:
    """A `Graph` of a model, in which the inputs that `constants` names become constants.

    Args:
      proto: the model; one with functions or sparse constants is refused.
      constants: values by name.

    Raises:
      ValueError: for such a model.
    """
    from onnx import numpy_helper

    graph = proto.graph
    if proto.functions or graph.sparse_initializer:
        raise ValueError("only a graph without functions and sparse constants can be read")
    own = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    _strip(graph)
    inputs = [i for i in graph.input if i.name not in constants]
    (opset,) = (o.version for o in proto.opset_import if o.domain == "")
    return Graph(list(graph.node), {**own, **constants}, {}, inputs, list(graph.output), opset)


def _strip(graph: "GraphProto") -> None:
    """Takes out names of nodes, documentation and shapes of inner values, which only make a file larger."""
    del graph.value_info[:]
    used = set().union(*map(uses, graph.node), {o.name for o in graph.output})
    kept = [i for i in graph.initializer if i.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for node in graph.node:
        for field in ("name", "doc_string"):
            node.ClearField(field)
        del node.metadata_props[:]
        for a in node.attribute:
            for inner in [a.g] if a.HasField("g") else a.graphs:
                _strip(inner)


def write(graph: Graph, metadata: Mapping[str, str]) -> "ModelProto":
    """A model of a `Graph`, checked, with names of inner values made short.

    Raises:
      onnx.checker.ValidationError: if it is no valid model.
    """
    import onnx
    from onnx import helper, numpy_helper

    graph.prune()
    _dedupe(graph)
    _shorten(graph)
    initializers = [numpy_helper.from_array(value, name) for name, value in graph.constants.items()]
    proto = helper.make_graph(
        graph.nodes, "jopt", graph.inputs, graph.outputs, [*initializers, *graph.tensors.values()]
    )
    opsets = [helper.make_opsetid("", graph.opset)]
    model = helper.make_model(proto, opset_imports=opsets, ir_version=IR_VERSIONS[graph.opset])
    model.producer_name = "jopt"
    helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    return model


def _dedupe(graph: Graph) -> None:
    """Equal small constants become one."""
    first: dict[Any, str] = {}
    for name, value in list(graph.constants.items()):
        key = (value.dtype.str, value.shape, value.tobytes())
        other = first.setdefault(key, name)
        inside = any(name in inner for user in graph.users(name) for inner in _inner(user))
        named = "/" in graph.origins.get(name, name)
        if other != name and value.size <= 64 and not inside and not named:
            for user in graph.users(name):
                user.input[:] = [other if used == name else used for used in user.input]
            del graph.constants[name]


def _shorten(graph: Graph) -> None:
    """Gives values a number for a name, but for inputs, outputs, and names with a slash: those tell of a layer."""
    captured = {name for node in graph.nodes for inner in _inner(node) for name in inner}
    taken = captured | {v.name for v in (*graph.inputs, *graph.outputs)} | set(graph.constants) | set(graph.tensors)
    short: dict[str, str] = {}
    for name in (*graph.constants, *(out for node in graph.nodes for out in node.output if out)):
        origin = graph.origins.get(name, name)
        if name in captured or name in (v.name for v in (*graph.inputs, *graph.outputs)):
            continue
        if "/" in origin and origin not in taken:
            short[name] = origin
            taken.add(origin)
        elif "/" not in name:
            short[name] = f"v{len(short)}"
    graph.constants = {short.get(name, name): value for name, value in graph.constants.items()}
    for node in graph.nodes:
        node.input[:] = [short.get(name, name) for name in node.input]
        node.output[:] = [short.get(name, name) for name in node.output]
