"""The calls of layers, brought out of the program."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from jopt.intercept.hooks import path_of
from jopt.intercept.nested import NestedLayer, Value, only_outermost, thread
from jopt.intercept.products import products as find_products
from jopt.intercept.replace import Forward, refuse_jitted, replace_layers

Array: TypeAlias = Any
"""A `jax.Array`, or a `jax.ShapeDtypeStruct` where nothing is computed."""


@functools.partial(jax.tree_util.register_dataclass, data_fields=["input", "output"], meta_fields=["copies"])
@dataclasses.dataclass(frozen=True)
class LayerCall:
    """One call of a layer.

    Attributes:
      input: what it was called with, [*copies, batch, ..., features in].
      output: what it gave, [*copies, batch, ..., features out].
      copies: how many leading axes run over copies of the layer, as in `nn.scan` over a network's blocks.
    """

    input: Array
    output: Array
    copies: int = 0

    @property
    def features(self) -> jax.Array:
        """The output with the examples first, [batch, *copies, ..., features out]."""
        if not self.copies:
            return self.output
        return jnp.moveaxis(self.output, range(self.copies), range(1, self.copies + 1))

    def __iter__(self) -> Iterator[Array]:
        return iter((self.input, self.output))


def names(fn: Forward, *args: object, products: bool = False, **kwargs: object) -> dict[str, tuple[LayerCall, ...]]:
    """The layers that `fn(*args, **kwargs)` calls, with their shapes. Nothing is computed.

    Args:
      fn: a function that runs modules, such as `model.apply`.
      *args: its arguments: arrays, or shapes as `jax.eval_shape` gives them.
      products: as for `capture`.
      **kwargs: its keywords, passed on as they are (`train=False`).

    Returns:
      From a layer's path to its calls, as `jax.ShapeDtypeStruct`s, in the order of the first call.

    Raises:
      ValueError: as `capture`.

    Example:
      >>> from flax import linen as nn
      >>> module = nn.Sequential([nn.Dense(3), nn.relu, nn.Dense(2)])
      >>> variables = module.init(jax.random.key(0), jnp.ones((1, 4)))
      >>> for path, calls in names(module.apply, variables, jnp.ones((5, 4))).items():
      ...     print(path, calls[0].input.shape, calls[0].output.shape)
      layers_0 (5, 4) (5, 3)
      layers_2 (5, 3) (5, 2)
    """
    order: list[str] = []

    def forward(*args: object) -> dict[str, tuple[LayerCall, ...]]:
        _, calls = capture(fn, products=products)(*args, **kwargs)
        order.extend(calls)  # eval_shape gives dictionaries back with sorted keys
        return calls

    calls = jax.eval_shape(forward, *args)
    return {path: calls[path] for path in order}


def capture(fn: Forward, *, products: bool = False) -> Callable[..., tuple[Any, dict[str, tuple[LayerCall, ...]]]]:
    """The function that returns the result of `fn`, and the input and output of each call of its layers.

    Around a function whose inputs `replace_inputs` changes, it sees the inputs before the change.

    Args:
      fn: a function that runs modules, not jitted.
      products: whether the operands of products of two activations (in attention the queries and keys, the weights
        and values) are brought out too, as calls of 'block/attention/product0/left' and '.../right' whose output is
        their input. The data are then the last argument by position.

    Returns:
      A function of the same arguments, giving `(result, calls)`: from a layer's path to a tuple with a `LayerCall`
      for each time that the layer was called (layers that share parameters are one layer, called several times).
      Paths come in the order of the first call; through `jax.jit` they come sorted.
      Of a layer in a scan or a `vmap` the calls of all rounds are one: with a leading axis where each has a kernel
      of its own, and behind the axis of examples where they share it, as the time steps of a recurrent cell do.

    Raises:
      ValueError: (the function returned) if no module ran, or if a layer runs inside a loop of unknown length or a
        branch, out of which no value can be brought.
      TypeError: if `fn` is jitted, or a module with a `kernel` does not map an array to an array.

    Example:
      >>> from flax import linen as nn
      >>> module = nn.Dense(2, kernel_init=nn.initializers.ones)
      >>> variables = module.init(jax.random.key(0), jnp.ones((1, 3)))
      >>> result, calls = jax.jit(capture(module.apply))(variables, jnp.ones((1, 3)))
      >>> calls[""][0].output.tolist()
      [[3.0, 3.0]]
    """
    refuse_jitted(fn)

    def direct(
        check: Callable[[str], None], *args: object, **kwargs: object
    ) -> tuple[Any, dict[str, tuple[LayerCall, ...]]]:
        calls: dict[str, tuple[LayerCall, ...]] = {}

        def see(module: Any, call: Callable[[Any], Any], x: Any) -> Any:
            path = path_of(module)
            check(path)
            y = call(x)
            calls[path] = (*calls.get(path, ()), LayerCall(x, y))
            return y

        return replace_layers(fn, see)(*args, **kwargs), calls

    def captured(*args: object, **kwargs: object) -> tuple[Any, dict[str, tuple[LayerCall, ...]]]:
        # Most models have no layer inside a transformation, and need no second trace.
        nested = thread(fn, lambda path, x, numbers, state: (x, state), products=products)
        if products:
            return _calls(nested({}, {}, *args, **kwargs))
        return unless_nested(direct, lambda: _calls(nested({}, {}, *args, **kwargs)), *args, **kwargs)

    return captured


def operands(fn: Forward, *args: object, **kwargs: object) -> dict[str, tuple[int, ...]]:
    """The shapes of the operands of the products of two activations in `fn(*args, **kwargs)`, by path.

    Args:
      fn: any function of arrays.
      *args: its arguments, the data last: arrays, or their shapes.
      **kwargs: its keywords, passed on as they are.

    Example:
      >>> operands(lambda w, x: (x @ w) @ x.T, jnp.ones((3, 3)), jnp.ones((2, 3)))
      {'product0/left': (2, 3), 'product0/right': (3, 2)}
    """
    leaves, structure = jax.tree.flatten(args)
    jaxpr = jax.make_jaxpr(lambda *leaves: fn(*jax.tree.unflatten(structure, leaves), **kwargs))(*leaves).jaxpr
    first = len(leaves) - len(jax.tree.leaves(args[-1]))
    products = find_products(jaxpr, [i >= first for i in range(len(leaves))])
    return {path: shape for product in products.values() for path, shape in product.operands.items()}


def unless_nested(direct: Callable[..., Any], otherwise: Callable[[], Any], *args: object, **kwargs: object) -> Any:
    """`direct(check, *args, **kwargs)`, as `only_outermost` has it; `otherwise()` if a layer is nested."""
    owner = object()
    try:
        return only_outermost(direct, owner)(*args, **kwargs)
    except NestedLayer as error:
        # One that another function found, around this one, is that function's to answer.
        if error.owner is not owner:
            raise
    return otherwise()


def _calls(threaded: tuple[Any, object, list[Value]]) -> tuple[Any, dict[str, tuple[LayerCall, ...]]]:
    result, _, values = threaded
    calls: dict[str, list[LayerCall]] = {}
    # The output of a layer comes before that of the layer around it, like brackets.
    open_inputs: list[Value] = []
    order: list[LayerCall | None] = []
    positions: list[int] = []
    paths: list[str] = []
    for value in values:
        if not value.mark.output:
            open_inputs.append(value)
            positions.append(len(order))
            order.append(None)
            paths.append(value.mark.path)
            continue
        x = open_inputs.pop()
        order[positions.pop()] = LayerCall(x.value, value.value, value.mark.copies)
    for path, call in zip(paths, order, strict=True):
        assert call is not None
        calls.setdefault(path, []).append(call)
    return result, {path: tuple(layer_calls) for path, layer_calls in calls.items()}
