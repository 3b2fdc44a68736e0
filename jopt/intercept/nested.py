"""Layers inside transformations: `nn.remat`, `nn.scan`, `nn.RNN`, `jax.vmap`, and those of NNX.

A value inside a transformation cannot simply be taken out, and a layer of a scan has other parameters in each
round. So the function is traced with a mark on the input and the output of each layer, and the program is then run
again by `_Run`, which rebuilds each transformation with what goes in and comes out beside the model's own values.

What belongs to a layer is threaded through: where each round of a scan, or each entry of a `vmap`, has a kernel of
its own, these are *copies* of a layer, and its numbers have one leading axis for each such transformation. Where
all rounds share the kernel, as the time steps of a recurrent cell do, they share the numbers too, and what they
change is carried from one round to the next.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Literal, Primitive, get_opaque_trace_state
from jax.interpreters import ad, batching

from jopt.intercept.hooks import ModuleCall
from jopt.intercept.products import At, Product, bodies, live, scope_names
from jopt.intercept.products import products as find_products
from jopt.intercept.replace import Forward, refuse_jitted, replace_calls
from jopt.layers.flow import scan_counts
from jopt.typing import Jaxpr, JaxprEqn

Tree: TypeAlias = Any
"""What belongs to one layer: any pytree of arrays."""

Step: TypeAlias = Callable[[str, jax.Array, Tree, Tree], tuple[jax.Array, Tree]]
"""`(path, input, numbers, state) -> (new input, new state)`, of one copy of a layer."""


class NestedLayer(ValueError):
    """A layer runs inside a transformation, out of which its values cannot simply be taken."""

    def __init__(self, path: str, owner: object):
        super().__init__(f"layer {path!r} runs inside a transformation")
        self.owner = owner


class Mark(NamedTuple):
    """What is marked at a value that goes into or comes out of a layer.

    Attributes:
      owner: the marks of one call of `thread`; another call, outside or inside of it, has its own.
      path: of the layer.
      output: whether the value is the layer's output.
      copies: how many leading axes of the value run over copies of the layer.
    """

    owner: int
    path: str
    output: bool
    copies: int = 0


class Value(NamedTuple):
    """The input or the output of a layer, as the whole program sees it.

    Attributes:
      mark: of it.
      value: its copies first, then examples; the steps of a loop that shares the layer come after the examples.
    """

    mark: Mark
    value: jax.Array


# The second operand is the kernel: whether it varies tells copies of a layer from examples and time steps.
_marked = Primitive("layer_value")
_marked.def_impl(lambda x, kernel, *, mark: x)
_marked.def_abstract_eval(lambda x, kernel, *, mark: x)
_owners = itertools.count()


def _jvp(primals: Sequence[Any], tangents: Sequence[Any], *, mark: Mark) -> tuple[Any, Any]:
    return _marked.bind(*primals, mark=mark), tangents[0]


def _batch(args: Sequence[Any], axes: Sequence[Any], *, mark: Mark) -> tuple[Any, int]:
    (x, kernel), (axis, kernel_axis) = args, axes
    copied = kernel_axis is not None
    target = 0 if copied else mark.copies
    if axis is None:  # all copies read one input; each sees it in its own way.
        size = kernel.shape[kernel_axis]
        x = jnp.broadcast_to(jnp.expand_dims(x, target), (*x.shape[:target], size, *x.shape[target:]))
    else:
        x = jnp.moveaxis(x, axis, target)
    kernel = jnp.moveaxis(kernel, kernel_axis, 0) if copied else kernel
    return _marked.bind(x, kernel, mark=mark._replace(copies=mark.copies + copied)), target


ad.primitive_jvps[_marked] = _jvp
batching.primitive_batchers[_marked] = _batch


def only_outermost(fn: Callable[..., Any], owner: object) -> Callable[..., Any]:
    """The function `fn(check, *args)`, whose `check(path)` raises `NestedLayer(path, owner)` in a transformation.

    Example:
      >>> only_outermost(lambda check, x: (check("Dense_0"), x)[1], "capture")(2.0)
      2.0
    """

    def run(*args: object, **kwargs: object) -> Any:
        outside = get_opaque_trace_state()

        def check(path: str) -> None:
            if get_opaque_trace_state() != outside:
                raise NestedLayer(path, owner)

        return fn(check, *args, **kwargs)

    return run


def thread(
    fn: Forward, step: Step, *, products: bool = False
) -> Callable[..., tuple[Any, dict[str, Tree], list[Value]]]:
    """The function that runs `fn` with each layer's input changed by `step`, wherever the layer runs.

    Args:
      fn: a function that runs modules, not jitted.
      step: gives what the layer sees and the layer's new state, called in the order of the calls.
      products: whether the operands of a product of two activations are inputs of layers too, of the paths
        'block/attention/product0/left' and '.../right'. The data are then the last argument of `fn`.

    Returns:
      `(numbers, states, *args, **kwargs) -> (result, new states, values)`. `numbers` and `states` are what belongs
      to the layers, by path, with leading axes for a layer with copies; a layer that is missing gets None. `values`
      are the inputs, before `step`, and the outputs of all calls.

    Raises:
      ValueError: (the function returned) if a layer runs in a transformation that this cannot rebuild.
    """
    refuse_jitted(fn)

    def run(
        numbers: Mapping[str, Tree], states: Mapping[str, Tree], *args: object, **kwargs: object
    ) -> tuple[Any, dict[str, Tree], list[Value]]:
        owner = next(_owners)

        def around(layer: ModuleCall, call: Callable[..., jax.Array], x: jax.Array) -> jax.Array:
            kernel = getattr(layer.kernel, "get_value", lambda: layer.kernel)()
            kernel = jax.tree.leaves(kernel)[0]
            mark = Mark(owner, layer.path, False)
            y = call(_marked.bind(x, kernel, mark=mark))
            return _marked.bind(y, kernel, mark=mark._replace(output=True))

        marked = replace_calls(fn, around)
        leaves, structure = jax.tree.flatten(args)
        trace = jax.make_jaxpr(
            lambda *leaves: marked(*jax.tree.unflatten(structure, leaves), **kwargs), return_shape=True
        )
        closed, shape = trace(*leaves)
        operations: Mapping[At, Product] = {}
        if products:
            data = len(jax.tree.leaves(args[-1]))
            operations = find_products(closed.jaxpr, [i >= len(leaves) - data for i in range(len(leaves))])
        frame = _Run(owner, step, dict(numbers), dict(states), operations)
        outputs = frame.jaxpr(closed.jaxpr, closed.consts, leaves)
        return jax.tree.unflatten(jax.tree.structure(shape), outputs), frame.states, frame.values

    return run


class _Run:
    """One run of a program, or of the body of a transformation in it.

    Attributes:
      owner: of the marks that are its own.
      step: what happens at each of them.
      numbers: of the layers inside.
      states: of the layers inside, as they are now.
      products: products whose operands are treated like inputs of layers.
      at: the calls around what runs now.
      values: of the layers so far.
    """

    def __init__(
        self,
        owner: int,
        step: Step,
        numbers: dict[str, Tree],
        states: dict[str, Tree],
        products: Mapping[At, Product],
        at: At = (),
    ):
        self.owner, self.step, self.numbers, self.states = owner, step, numbers, states
        self.products, self.at = products, at
        self.values: list[Value] = []

    def jaxpr(self, jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
        """Runs the equations one by one."""
        env = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))
        for eqn in live(jaxpr):
            inputs = [atom.val if isinstance(atom, Literal) else env[atom] for atom in eqn.invars]
            # Scopes are kept, since FLOPs are counted by them.
            with _scope(eqn):
                outputs = self.equation(eqn, inputs)
            env.update(zip(eqn.outvars, outputs, strict=True))
        return [atom.val if isinstance(atom, Literal) else env[atom] for atom in jaxpr.outvars]

    def equation(self, eqn: JaxprEqn, inputs: list[Any]) -> list[Any]:
        """The results of one equation."""
        name = eqn.primitive.name
        if eqn.primitive is _marked and eqn.params["mark"].owner == self.owner:
            return [self._at_mark(eqn.params["mark"], inputs[0])]
        if (*self.at, id(eqn)) in self.products:
            product = self.products[*self.at, id(eqn)]
            inputs = [self._operand(path, x) for path, x in zip(product.operands, inputs, strict=True)]
        layers = [*_layers(eqn, self.owner), *self._operands_inside(eqn)]
        if not layers:
            outputs = eqn.primitive.bind(*inputs, **eqn.primitive.get_bind_params(eqn.params))
            return list(outputs) if eqn.primitive.multiple_results else [outputs]
        if name == "scan":
            return self._scan(eqn, inputs, layers)
        if name in ("jit", "pjit", "closed_call", "core_call"):
            body = eqn.params.get("jaxpr") or eqn.params["call_jaxpr"]
            with self._inside(eqn):
                return self.jaxpr(body.jaxpr, body.consts, inputs)
        if name in ("checkpoint", "remat2", "remat"):
            return self._remat(eqn, inputs, layers)
        raise ValueError(
            f"layer {layers[0]!r} runs inside {name!r}, out of which its inputs cannot be brought: only nn.remat, "
            "nn.scan, nn.RNN, nn.vmap, nn.jit and their forms of NNX and JAX can be rebuilt"
        )

    @contextlib.contextmanager
    def _inside(self, eqn: JaxprEqn) -> Iterator[None]:
        at = self.at
        self.at = (*at, id(eqn))
        yield
        self.at = at

    def _operands_inside(self, eqn: JaxprEqn) -> list[str]:
        """The paths of the operands of products inside an equation."""
        at = (*self.at, id(eqn))
        inside = [product for where, product in self.products.items() if where[: len(at)] == at != where]
        return [path for product in inside for path in product.operands]

    def _operand(self, path: str, x: jax.Array) -> jax.Array:
        y = self._at_mark(Mark(self.owner, path, False), x)
        self._at_mark(Mark(self.owner, path, True), y)
        return y

    def _at_mark(self, mark: Mark, x: jax.Array) -> jax.Array:
        self.values.append(Value(mark, x))
        if mark.output:
            return x
        step = functools.partial(self.step, mark.path)
        for _ in range(mark.copies):
            step = jax.vmap(step)
        numbers, state = self.numbers.get(mark.path), self.states.get(mark.path)
        x, state = step(x, numbers, state)
        if mark.path in self.states:
            self.states[mark.path] = state
        return x

    def _inner(self, eqn: JaxprEqn, body: Jaxpr, consts: Sequence[Any], marks: list[Mark]) -> Callable[..., tuple]:
        """An equation's body as a pure function of its arguments and of what belongs to its layers."""
        at = (*self.at, id(eqn))

        def run(args: Sequence[Any], numbers: dict[str, Tree], states: dict[str, Tree]) -> tuple:
            inner = _Run(self.owner, self.step, numbers, dict(states), self.products, at)
            outputs = inner.jaxpr(body, consts, args)
            marks[:] = [value.mark for value in inner.values]
            return outputs, inner.states, [value.value for value in inner.values]

        return run

    def _remat(self, eqn: JaxprEqn, inputs: list[Any], layers: Sequence[str]) -> list[Any]:
        marks: list[Mark] = []
        body = jax.checkpoint(
            self._inner(eqn, eqn.params["jaxpr"], (), marks),
            prevent_cse=eqn.params["prevent_cse"],
            policy=eqn.params["policy"],
        )
        outputs, states, values = body(inputs, _only(self.numbers, layers), _only(self.states, layers))
        self.states |= states
        self.values += map(Value, marks, values)
        return outputs

    def _scan(self, eqn: JaxprEqn, inputs: list[Any], layers: Sequence[str]) -> list[Any]:
        body, (consts, carried) = eqn.params["jaxpr"], scan_counts(eqn)
        fixed, carry, xs = inputs[:consts], inputs[consts : consts + carried], inputs[consts + carried :]
        varies = [False] * consts + [True] * (len(inputs) - consts)
        copied = {path for path, kernel_varies in _kernels_vary(body.jaxpr, varies, self.owner) if kernel_varies}
        if copied:  # rounds with weights of their own are copies of all that is in them, products too.
            copied |= set(self._operands_inside(eqn))
        shared = [path for path in layers if path not in copied]
        marks: list[Mark] = []
        run = self._inner(eqn, body.jaxpr, body.consts, marks)
        shared_numbers = _only(self.numbers, shared)

        def one_round(carry: tuple, x: tuple) -> tuple:
            (values, shared_states), (sliced, numbers, states) = carry, x
            outputs, states, seen = run(
                [*fixed, *values, *sliced], shared_numbers | numbers, shared_states | states
            )
            carry = outputs[:carried], _only(states, shared)
            return carry, (outputs[carried:], _only(states, copied), seen)

        (carry, states), (ys, copied_states, values) = lax.scan(
            one_round,
            (carry, _only(self.states, shared)),
            (xs, _only(self.numbers, copied), _only(self.states, copied)),
            **{name: eqn.params[name] for name in ("length", "reverse", "unroll")},
        )
        self.states |= states | copied_states
        self.values += map(functools.partial(_of_rounds, copied), marks, values)
        return [*carry, *ys]


def _scope(eqn: JaxprEqn) -> contextlib.AbstractContextManager[object]:
    names = scope_names(eqn)
    return jax.named_scope("/".join(names)) if names else contextlib.nullcontext()


def _of_rounds(copied: set[str], mark: Mark, value: jax.Array) -> Value:
    if mark.path in copied:
        return Value(mark._replace(copies=mark.copies + 1), value)
    # Behind the examples, as a sequence has its time steps; a value of features alone has no axis of examples.
    return Value(mark, jnp.moveaxis(value, 0, min(mark.copies + 1, value.ndim - 2)))


def _only(trees: Mapping[str, Tree], paths: Sequence[str] | set[str]) -> dict[str, Tree]:
    return {path: tree for path, tree in trees.items() if path in paths}


def _layers(eqn: JaxprEqn, owner: int) -> list[str]:
    """The paths of the layers that run inside an equation, in order."""
    paths: dict[str, None] = {}
    for inner in bodies(eqn):
        for e in live(inner):
            if e.primitive is _marked and e.params["mark"].owner == owner:
                paths[e.params["mark"].path] = None
            paths |= dict.fromkeys(_layers(e, owner))
    return list(paths)


def _kernels_vary(jaxpr: Jaxpr, varies: Sequence[bool], owner: int) -> list[tuple[str, bool]]:
    """Whether the kernel of each layer depends on one of the inputs that vary from round to round."""
    varying = {var for var, v in zip(jaxpr.invars, varies, strict=True) if v}
    kernels = []
    for eqn in live(jaxpr):
        inputs = [not isinstance(atom, Literal) and atom in varying for atom in eqn.invars]
        if eqn.primitive is _marked and eqn.params["mark"].owner == owner:
            kernels.append((eqn.params["mark"].path, inputs[1]))
        for inner in bodies(eqn):
            # What transformations around layers take, they hand on to their bodies in this order.
            if len(inner.invars) == len(inputs):
                kernels += _kernels_vary(inner, inputs, owner)
        if any(inputs):
            varying.update(eqn.outvars)
    return kernels
