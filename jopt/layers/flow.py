"""Where a program's parameters go: which contraction reads each of them, and along which axes.

A walk over a jaxpr follows every parameter through what only moves its axes (transposes, reshapes, casts, slices of
a scan) to the `dot_general`, `conv_general_dilated` or lookup that joins it with data.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jax.extend.core import Literal

from jopt.layers.views import MOVES, View, drop, resized
from jopt.typing import Jaxpr, JaxprEqn


class Use(NamedTuple):
    """One contraction of a parameter with data.

    Attributes:
      kind: 'Dense', 'DenseGeneral', 'Conv', 'ConvTranspose' or 'Embed', by the operation.
      contract: axes of the parameter that are summed over.
      outputs: axes that become output units.
      window: axes of a convolution's window.
      stack: axes over copies of the layer.
      groups: feature groups of a convolution.
      dilation: of a convolution's input, the product over its axes.
      direct: whether the parameter came without a reshape, so that axes of size 1 are known too.
    """

    kind: str
    contract: frozenset[int]
    outputs: frozenset[int]
    window: frozenset[int] = frozenset()
    stack: frozenset[int] = frozenset()
    groups: int = 1
    dilation: int = 1
    direct: bool = True


class _Value(NamedTuple):
    """What is known of a variable: which parameters it holds, and whether it depends on data."""

    views: tuple[View, ...] = ()
    data: bool = False


_NOTHING = _Value()
_DATA = _Value(data=True)


class Reads(NamedTuple):
    """How a program reads a parameter.

    Attributes:
      uses: the different contractions with data, in the order of the program.
      others: the products with what is no data, such as the learned queries of an attention.
      stack: the axes of which other operations with data take one slice at a time.
    """

    uses: list[Use]
    others: list[Use]
    stack: frozenset[int]


def reads(jaxpr: Jaxpr, parameters: int, data: int = 1) -> list[Reads]:
    """How a program reads each of its parameters.

    Args:
      jaxpr: a jaxpr whose first `parameters` inputs are parameters and whose last `data` inputs are data; those
        between (model state) are neither.
      parameters: how many.
      data: how many.

    Returns:
      A `Reads` for each parameter.
    """
    walk = _Walk(parameters)
    inputs = []
    for i, var in enumerate(jaxpr.invars):
        if i < parameters:
            inputs.append(_Value((View(i, tuple(((axis, n),) for axis, n in enumerate(var.aval.shape))),)))
        else:
            inputs.append(_DATA if i >= len(jaxpr.invars) - data else _NOTHING)
    walk.jaxpr(jaxpr, inputs)
    columns = zip(walk.uses, walk.others, walk.stacks, strict=True)
    return [Reads(list(uses), list(others), frozenset(stack)) for uses, others, stack in columns]


def scan_counts(eqn: JaxprEqn) -> tuple[int, int]:
    """How many constants and how many carried values a `scan` takes, before what it slices."""
    body = _open(eqn.params["jaxpr"])
    # JAX 0.10 and 0.11 hold these counts in different ways; only what is sliced and stacked has one axis more.
    carried = sum(a.aval.ndim == b.aval.ndim for a, b in zip(eqn.outvars, body.outvars, strict=True))
    unsliced = sum(a.aval.ndim == b.aval.ndim for a, b in zip(eqn.invars, body.invars, strict=True))
    return unsliced - carried, carried


class _Walk:
    """A walk over a program; `uses`, `others` and `stacks` collect what it reads of each parameter."""

    def __init__(self, parameters: int):
        # Dictionaries as ordered sets: a loop's body is walked
        # until nothing changes, and finds the same uses again.
        self.uses: list[dict[Use, None]] = [{} for _ in range(parameters)]
        self.others: list[dict[Use, None]] = [{} for _ in range(parameters)]
        self.stacks: list[set[int]] = [set() for _ in range(parameters)]

    def jaxpr(self, jaxpr: Jaxpr, inputs: Sequence[_Value]) -> list[_Value]:
        """The values of a jaxpr's outputs, given those of its inputs."""
        values: dict[object, _Value] = dict(zip(jaxpr.invars, inputs, strict=True))

        def read(atom: object) -> _Value:
            return _NOTHING if isinstance(atom, Literal) else values.get(atom, _NOTHING)

        for eqn in jaxpr.eqns:
            outputs = self.equation(eqn, [read(atom) for atom in eqn.invars])
            values.update(zip(eqn.outvars, outputs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def equation(self, eqn: JaxprEqn, inputs: list[_Value]) -> list[_Value]:
        """The values of an equation's outputs."""
        rule = _RULES.get(eqn.primitive.name)
        if rule is not None:
            return rule(self, eqn, inputs)
        inner = _inner(eqn)
        if inner is not None:
            return self.jaxpr(inner, inputs)
        # Data that is moved stays data, whatever its axes: nothing asks for them.
        if eqn.primitive.name in MOVES and not inputs[0].data:
            views = tuple(v for view in inputs[0].views for v in MOVES[eqn.primitive.name](eqn, view))
            return [_Value(views)] * len(eqn.outvars)
        return [self._elementwise(eqn, inputs, i) for i in range(len(eqn.outvars))]

    def _elementwise(self, eqn: JaxprEqn, inputs: list[_Value], output: int) -> _Value:
        """A function of each entry keeps the axes of what it is a function of; with data it becomes data."""
        if any(value.data for value in inputs):
            for view in (view for value in inputs for view in value.views):
                self.stacks[view.leaf] |= view.stack
            return _DATA
        # An equation with several outputs (a barrier, say) is
        # taken to pass each input on to the output of its number.
        shape = getattr(eqn.outvars[output].aval, "shape", None)
        same = [
            value
            for i, (atom, value) in enumerate(zip(eqn.invars, inputs, strict=True))
            if getattr(atom.aval, "shape", None) == shape and (len(eqn.outvars) == 1 or i == output)
        ]
        return _Value(tuple(dict.fromkeys(view for value in same for view in value.views)))

    def _record(
        self, value: _Value, kind: str, axes: Mapping[str, Sequence[int]], *, data: bool = True, **convolution: int
    ) -> None:
        """Notes a use of the parameters that a value holds, with data or not, given what each axis is there."""
        if value.data:
            return
        for view in value.views:
            parts = {name: {a for i in indices for a, _ in view.axes[i]} for name, indices in axes.items()}
            contract, outputs = parts["contract"] | parts.get("window", set()), parts["outputs"]
            if not contract:  # an outer product, in which nothing is summed: it scales and is no weight.
                continue
            general = kind == "Dense" and (len(contract) > 1 or len(outputs) > 1)
            stack = parts.get("stack", set()) - outputs  # part of an axis of outputs: there are more of them.
            if contract & (outputs | stack):  # an axis that was split into both is neither.
                contract = outputs = stack = set()
            (self.uses if data else self.others)[view.leaf][
                Use(
                    "DenseGeneral" if general else kind,
                    frozenset(contract),
                    frozenset(outputs),
                    frozenset(parts.get("window", ())),
                    view.stack | frozenset(stack),
                    direct=view.direct,
                    **convolution,
                )
            ] = None

    def _dot_general(self, eqn: JaxprEqn, inputs: list[_Value]) -> list[_Value]:
        contracted, batch = eqn.params["dimension_numbers"]
        # Either side may hold the parameter: `w @ x` as well as `x @ w`.
        for side, other in ((0, 1), (1, 0)):
            rank = len(eqn.invars[side].aval.shape)
            free = [i for i in range(rank) if i not in contracted[side] and i not in batch[side]]
            axes = {"contract": contracted[side], "outputs": free, "stack": batch[side]}
            self._record(inputs[side], "Dense", axes, data=inputs[other].data)
        return [_Value(data=inputs[0].data or inputs[1].data)]

    def _conv_general_dilated(self, eqn: JaxprEqn, inputs: list[_Value]) -> list[_Value]:
        # Batch groups are those of a kernel's gradient, where the second operand is data.
        if inputs[0].data and eqn.params["batch_group_count"] == 1:
            outputs, features, *window = eqn.params["dimension_numbers"].rhs_spec
            dilation = math.prod(eqn.params["lhs_dilation"])
            kind = "ConvTranspose" if dilation > 1 else "Conv"
            axes = {"contract": [features], "outputs": [outputs], "window": window}
            groups = eqn.params["feature_group_count"]
            self._record(inputs[1], kind, axes, groups=groups, dilation=dilation)
        return [_Value(data=inputs[0].data or inputs[1].data)]

    def _gather(self, eqn: JaxprEqn, inputs: list[_Value]) -> list[_Value]:
        numbers = eqn.params["dimension_numbers"]
        operand, indices = inputs[0], inputs[1]
        rank = len(eqn.invars[0].aval.shape)
        if len(eqn.outvars[0].aval.shape) == len(numbers.offset_dims):  # one index, so a copy out of a stack
            if operand.data or indices.data:
                return [_DATA]
            collapsed = set(numbers.collapsed_slice_dims)
            views = (drop(view, [i for i in range(rank) if i in collapsed]) for view in operand.views)
            return [_Value(tuple(views))]
        # Many indices: a lookup, which is a product with one-hot rows.
        rows, copies = numbers.start_index_map, numbers.operand_batching_dims
        free = [i for i in range(rank) if i not in rows and i not in copies]
        axes = {"contract": rows, "outputs": free, "stack": copies}
        if operand.views:
            self._record(operand, "Embed", axes)
            return [_DATA]
        return [_Value(data=operand.data or indices.data)]

    def _dynamic_slice(self, eqn: JaxprEqn, inputs: list[_Value]) -> list[_Value]:
        if any(value.data for value in inputs):
            return [_DATA]
        sizes = eqn.params["slice_sizes"]
        return [_Value(tuple(resized(view, sizes) for view in inputs[0].views))]

    def _concatenate(self, eqn: JaxprEqn, inputs: list[_Value]) -> list[_Value]:
        if any(value.data for value in inputs):
            return [_DATA]
        shape = eqn.outvars[0].aval.shape
        return [_Value(tuple(resized(view, shape) for value in inputs for view in value.views))]

    def _stack(self, eqn: JaxprEqn, inputs: list[_Value]) -> list[_Value]:
        if any(value.data for value in inputs):
            return [_DATA]
        axis = eqn.params["axis"]
        views = (view for value in inputs for view in value.views)
        return [_Value(tuple(v._replace(axes=(*v.axes[:axis], (), *v.axes[axis:])) for v in views))]

    def _unstack(self, eqn: JaxprEqn, inputs: list[_Value]) -> list[_Value]:
        if inputs[0].data:
            return [_DATA] * len(eqn.outvars)
        views = tuple(drop(view, [eqn.params["axis"]]) for view in inputs[0].views)
        return [_Value(views)] * len(eqn.outvars)

    def _split(self, eqn: JaxprEqn, inputs: list[_Value]) -> list[_Value]:
        if inputs[0].data:
            return [_DATA] * len(eqn.outvars)
        views = inputs[0].views
        return [_Value(tuple(resized(view, var.aval.shape) for view in views)) for var in eqn.outvars]

    def _scan(self, eqn: JaxprEqn, inputs: list[_Value]) -> list[_Value]:
        body = _open(eqn.params["jaxpr"])
        n, m = scan_counts(eqn)
        # A round of the scan sees one slice along the first axis: the layer's copies.
        slices = [_Value(tuple(drop(view, [0]) for view in value.views), value.data) for value in inputs[n + m :]]
        carry = self._carry(body, inputs[:n], inputs[n : n + m], slices)
        outputs = self.jaxpr(body, [*inputs[:n], *carry, *slices])
        return [*carry, *(_Value(data=value.data) for value in outputs[m:])]

    def _while(self, eqn: JaxprEqn, inputs: list[_Value]) -> list[_Value]:
        n, m = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        body = _open(eqn.params["body_jaxpr"])
        return self._carry(body, inputs[n : n + m], inputs[n + m :], [])

    def _carry(self, body: Jaxpr, consts: list[_Value], carry: list[_Value], slices: list[_Value]) -> list[_Value]:
        """What a loop's carry holds in every round: data spreads; a parameter that is passed on stays."""
        carried = body.invars[len(consts) : len(consts) + len(carry)]
        passed = [a is b for a, b in zip(carried, body.outvars, strict=False)]
        carry = [v if same else v._replace(views=()) for v, same in zip(carry, passed, strict=True)]
        # Ends, because data only ever spreads to more of the carry.
        while True:
            outputs = self.jaxpr(body, [*consts, *carry, *slices])
            after = [
                v._replace(data=v.data or result.data)
                for v, result in zip(carry, outputs[: len(carry)], strict=True)
            ]
            if after == carry:
                return carry
            carry = after

    def _cond(self, eqn: JaxprEqn, inputs: list[_Value]) -> list[_Value]:
        results = [self.jaxpr(_open(branch), inputs[1:]) for branch in eqn.params["branches"]]
        # A parameter that only some branches pass on is not followed: which one runs depends on data.
        return [
            _Value(column[0].views if all(v == column[0] for v in column) else (), any(v.data for v in column))
            for column in zip(*results, strict=True)
        ]


_RULES = {
    "dot_general": _Walk._dot_general,
    "conv_general_dilated": _Walk._conv_general_dilated,
    "gather": _Walk._gather,
    "dynamic_slice": _Walk._dynamic_slice,
    "concatenate": _Walk._concatenate,
    "split": _Walk._split,
    "stack": _Walk._stack,
    "unstack": _Walk._unstack,
    "scan": _Walk._scan,
    "while": _Walk._while,
    "cond": _Walk._cond,
}


def _open(jaxpr: Jaxpr) -> Jaxpr:
    """The jaxpr itself: JAX 0.10 holds it together with its constants."""
    return getattr(jaxpr, "jaxpr", jaxpr)


def _inner(eqn: JaxprEqn) -> Jaxpr | None:
    """The jaxpr that an equation runs on exactly its own inputs (jit, remat, custom gradients), or None."""
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = _open(eqn.params.get(name))
        if hasattr(inner, "eqns") and len(inner.invars) == len(eqn.invars):
            return inner
    return None
