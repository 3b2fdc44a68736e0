"""Interception: what the layers of a model compute, seen and changed from outside, by Flax Linen's public hook.

A *layer* is a Linen module that owns a parameter named `kernel` and maps one array to one array: `Dense`, `Conv`,
`DenseGeneral`, the recurrent layers of `jopt.models`. Its path is its parameters' path without the last part:
`Dense_0`, `Block_0/Conv_1`, and the empty string for a model that is one layer. `flax.linen.intercept_methods` is a
context, so this works on any function that runs Linen modules, with no change to the model. It works while the
function is traced: give the function itself, and jit what comes back.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.extend.core import Literal, get_opaque_trace_state

from jopt.transform import LayerStatistics
from jopt.typing import Activation, ModelState, Number, Params

Axes: TypeAlias = tuple[int, ...]
Array: TypeAlias = Any
"""A `jax.Array`, or a `jax.ShapeDtypeStruct` where nothing is computed."""

Forward = Callable[..., Any]
"""A function that runs Linen modules, such as `model.apply`, of any arguments and results."""

_VARIANT = "_jopt_variant"


def replace_layers(
    fn: Forward, around: Callable[[nn.Module, Callable[..., jax.Array], jax.Array], jax.Array]
) -> Forward:
    """The function `fn` in which each layer's call `y = call(x)` becomes `y = around(module, call, x)`.

    `call(x, **attributes)` runs the layer with other attributes (of its dataclass). `dot_general` of Linen's
    `Dense`, `conv_general_dilated` of its `Conv` and `product` of `jopt.models.rnn.Recurrent` are the contractions
    themselves: so a layer is computed in another arithmetic with all else, and its parameters, as they are.

    Args:
      fn: a function that runs Linen modules, not jitted.
      around: called at each call of a layer, in order. `path_of(module)` is the layer's path.

    Returns:
      A function of the same arguments and results.

    Raises:
      ValueError: (the function returned) if no Linen module ran.
      TypeError: if `fn` is jitted, a module with a `kernel` does not map an array to an array, or has no such
        attribute.

    Example:
      >>> module = nn.Dense(2, kernel_init=nn.initializers.ones)
      >>> variables = module.init(jax.random.key(0), jnp.ones((1, 3)))
      >>> doubled = lambda *args, **kwargs: 2 * jax.lax.dot_general(*args, **kwargs)
      >>> fn = replace_layers(module.apply, lambda module, call, x: call(x, dot_general=doubled))
      >>> fn(variables, jnp.ones((1, 3))).tolist()
      [[6.0, 6.0]]
    """
    refuse_jitted(fn)

    def intercepted(*args: object, **kwargs: object) -> Any:
        ran = False

        def interceptor(
            call: Callable[..., Any], args: tuple, kwargs: dict[str, Any], context: nn.module.InterceptorContext
        ) -> Any:
            nonlocal ran
            ran = True
            module = context.module
            is_layer = context.method_name == "__call__" and module.has_variable("params", "kernel")
            # A variant is what `around` itself runs: to intercept it again would never end.
            if not is_layer or getattr(module, _VARIANT, False):
                return call(*args, **kwargs)
            # The input may be given by position or by name, whatever its name is.
            key = None if args else next(iter(kwargs), "input")
            x = kwargs.get(key) if key else args[0]

            def with_input(x: jax.Array, **attributes: object) -> jax.Array:
                run = _variant(module, attributes) if attributes else call
                y = run(**{**kwargs, key: x}) if key else run(x, *args[1:], **kwargs)
                return _array(module, "gives", y)

            return around(module, with_input, _array(module, "takes", x))

        with nn.intercept_methods(interceptor):
            result = fn(*args, **kwargs)
        if not ran:
            raise ValueError(
                "no Flax Linen module ran: only models made of Linen modules have layers to intercept "
                "(those of from_nnx and of plain functions do not)"
            )
        return result

    return intercepted


def replace_inputs(fn: Forward, change: Callable[[str, jax.Array], jax.Array]) -> Forward:
    """The function `fn` with the input of each of its layers replaced.

    Args:
      fn: a function that runs Linen modules, not jitted.
      change: `(path, input) -> input`, called at each call of a layer, in order.

    Returns:
      A function of the same arguments and results.

    Raises:
      ValueError: (the function returned) if no Linen module ran.
      TypeError: if `fn` is jitted, or a module with a `kernel` does not map an array to an array.

    Example:
      >>> module = nn.Dense(2, kernel_init=nn.initializers.ones)
      >>> variables = module.init(jax.random.key(0), jnp.ones((1, 3)))
      >>> replace_inputs(module.apply, lambda path, x: 10 * x)(variables, jnp.ones((1, 3))).tolist()
      [[30.0, 30.0]]
    """
    return replace_layers(fn, lambda module, call, x: call(change(path_of(module), x)))


def path_of(module: nn.Module) -> str:
    """The path of a layer that runs.

    Example:
      >>> module = nn.Dense(2)
      >>> variables = module.init(jax.random.key(0), jnp.ones((1, 3)))
      >>> replace_layers(module.apply, lambda module, call, x: path_of(module))(variables, jnp.ones((1, 3)))
      ''
    """
    return "/".join(module.path)


def _variant(module: nn.Module, attributes: dict[str, Any]) -> Callable[..., Any]:
    """The layer with other attributes, on the same parameters; its own call is not intercepted again."""
    for name in attributes:
        if not hasattr(module, name):
            raise TypeError(f"layer {path_of(module)!r} ({type(module).__name__}) has no attribute {name!r}")
    # On the scope itself, so that it has the parameters and the random streams of the layer that it stands for.
    variant = module.clone(parent=module.scope, **attributes)
    # Linen modules are frozen once they run.
    object.__setattr__(variant, _VARIANT, True)
    return variant


def _array(module: nn.Module, verb: str, value: object) -> jax.Array:
    if isinstance(value, jax.Array | np.ndarray):
        return jnp.asarray(value)
    raise TypeError(
        f"layer {path_of(module)!r} ({type(module).__name__}) has a kernel, so it must map one array to one array, "
        f"but it {verb} {type(value).__name__}"
    )


def refuse_jitted(fn: object) -> None:
    """Raises `TypeError` for a jitted function.

    Example:
      >>> refuse_jitted(jax.jit(jnp.sin))
      Traceback (most recent call last):
      ...
      TypeError: a jitted function may run no Python, and so hide its layers: jit the result instead
    """
    if isinstance(fn, jax.stages.Wrapped):
        raise TypeError("a jitted function may run no Python, and so hide its layers: jit the result instead")


class LayerCall(NamedTuple):
    """One call of a layer.

    Attributes:
      input: what it was called with, [batch, ..., features in].
      output: what it gave, [batch, ..., features out].
    """

    input: Array
    output: Array


def names(fn: Forward, *args: object, **kwargs: object) -> dict[str, tuple[LayerCall, ...]]:
    """The layers that `fn(*args, **kwargs)` calls, with their shapes. Nothing is computed.

    Args:
      fn: a function that runs Linen modules, such as `model.apply`.
      *args: its arguments: arrays, or shapes as `jax.eval_shape` gives them.
      **kwargs: its keywords, passed on as they are (`train=False`).

    Returns:
      From a layer's path to its calls, as `jax.ShapeDtypeStruct`s, in the order of the first call.

    Raises:
      ValueError: as `capture`.

    Example:
      >>> module = nn.Sequential([nn.Dense(3), nn.relu, nn.Dense(2)])
      >>> variables = module.init(jax.random.key(0), jnp.ones((1, 4)))
      >>> for path, calls in names(module.apply, variables, jnp.ones((5, 4))).items():
      ...     print(path, calls[0].input.shape, calls[0].output.shape)
      layers_0 (5, 4) (5, 3)
      layers_2 (5, 3) (5, 2)
    """
    order: list[str] = []

    def forward(*args: object) -> dict[str, tuple[LayerCall, ...]]:
        _, calls = capture(fn)(*args, **kwargs)
        order.extend(calls)  # eval_shape gives dictionaries back with sorted keys
        return calls

    calls = jax.eval_shape(forward, *args)
    return {path: calls[path] for path in order}


def capture(fn: Forward) -> Callable[..., tuple[Any, dict[str, tuple[LayerCall, ...]]]]:
    """The function that returns the result of `fn`, and the input and output of each call of its layers.

    Around a function whose inputs `replace_inputs` changes, it sees the inputs before the change.

    Args:
      fn: a function that runs Linen modules, not jitted.

    Returns:
      A function of the same arguments, giving `(result, calls)`: from a layer's path to a tuple with a `LayerCall`
      for each time that the layer was called (layers that share parameters are one layer, called several times).
      Paths come in the order of the first call; through `jax.jit` they come sorted.

    Raises:
      ValueError: (the function returned) if no Linen module ran, or if a layer runs inside a trace of its own, such
        as that of `nn.scan` or `nn.remat`, out of which no value can be brought.
      TypeError: if `fn` is jitted, or a module with a `kernel` does not map an array to an array.

    Example:
      >>> module = nn.Dense(2, kernel_init=nn.initializers.ones)
      >>> variables = module.init(jax.random.key(0), jnp.ones((1, 3)))
      >>> result, calls = jax.jit(capture(module.apply))(variables, jnp.ones((1, 3)))
      >>> calls[""][0].output.tolist()
      [[3.0, 3.0]]
    """
    refuse_jitted(fn)

    def captured(*args: object, **kwargs: object) -> tuple[Any, dict[str, tuple[LayerCall, ...]]]:
        calls: dict[str, tuple[LayerCall, ...]] = {}
        outside = get_opaque_trace_state()

        def see(module: nn.Module, call: Callable[[Any], Any], x: object) -> Any:
            path = path_of(module)
            if get_opaque_trace_state() != outside:
                raise ValueError(
                    f"layer {path!r} runs inside a trace of its own (nn.scan, nn.remat, nn.vmap, jax.grad, ...), "
                    "out of which what it computes cannot be brought"
                )
            y = call(x)
            calls[path] = (*calls.get(path, ()), LayerCall(x, y))
            return y

        return replace_layers(fn, see)(*args, **kwargs), calls

    return captured


def statistics(
    apply: Forward,
    params: Params,
    model_state: ModelState,
    x: jax.Array,
    *,
    activation: Activation = nn.relu,
    tolerance: Number = 0.0,
) -> dict[str, LayerStatistics]:
    """What Wanda and APoZ score by: the norm of each layer's input features, the share of its zero outputs.

    `input_norm[i] = sqrt(sum x_i^2)` (Sun et al. 2024, equation 1) and
    `zero_share[j] = mean(|activation(y_j)| <= tolerance)` (Hu et al. 2016, equation 1), both over examples,
    positions, times, and all calls of a layer that is called several times. Features are the axes that the layer
    sums over and those that it makes: the last axis (of images their channels), or heads and dim of an attention's
    projections. `y` is the layer's output or, where a batch normalization takes that output (cast at most), what
    the normalization makes of it. What else stands before the activation (a residual sum) is not seen, and for the
    last layer, which has no activation, `zero_share` means nothing.

    Args:
      apply: `model.apply` of a `jopt.models.Model`; it is called with `train=False`.
      params: the parameters, as the model sees them.
      model_state: the model's state.
      x: one batch of examples.
      activation: the model's; for layers that apply their own, such as recurrent ones, `lambda x: x`.
      tolerance: the largest magnitude that counts as zero; may be traced.

    Returns:
      From a layer's path to its `LayerStatistics`, float32.

    Raises:
      ValueError: as `capture`.
      TypeError: for `nn.Einsum`, and a `DenseGeneral` with batch axes.

    Example:
      >>> class Net(nn.Module):
      ...     @nn.compact
      ...     def __call__(self, x):
      ...         return nn.Dense(2)(x)
      >>> params = {"Dense_0": {"kernel": jnp.array([[1.0, 1.0], [0.0, -1.0]]), "bias": jnp.zeros(2)}}
      >>> apply = lambda params, state, x, train: Net().apply({"params": params}, x)
      >>> stats = statistics(apply, params, {}, jnp.array([[3.0, 1.0], [4.0, 5.0]]))
      >>> stats["Dense_0"].input_norm.round(3).tolist(), stats["Dense_0"].zero_share.tolist()
      ([5.0, 5.099000...], [0.0, 0.5])
    """
    forward = functools.partial(apply, train=False)
    # Two traces: which normalization takes which output is a question to the program, not to its values.
    followers = _norm_calls(forward, params, model_state, x)
    axes: dict[str, tuple[Axes, Axes]] = {}
    calls, norms = _calls_and_norms(forward, axes)(params, model_state, x)
    stats = {}
    for path, layer_calls in calls.items():
        # Counted in integers and divided once: a running mean over calls would round, and 49 of 49 must be 1.
        squares, zeros, others = jnp.float32(0), jnp.int32(0), jnp.int32(0)
        for i, (x_in, y) in enumerate(layer_calls):
            y = norms[followers[path, i]].output if (path, i) in followers else y
            small = jnp.abs(activation(y)).astype(jnp.float32) <= jnp.asarray(tolerance, jnp.float32)
            inputs, outputs = axes[path]
            squares = squares + _per_feature(jnp.square(x_in.astype(jnp.float32)), inputs)
            zeros = zeros + _per_feature(small.astype(jnp.int32), outputs)
            others = others + _per_feature((~small).astype(jnp.int32), outputs)
        # Not divided by a constant: XLA would multiply with its reciprocal, and 49 of 49 would be less than 1.
        stats[path] = LayerStatistics(jnp.sqrt(squares), zeros / (zeros + others))
    return stats


def _per_feature(x: jax.Array, axes: Sequence[int]) -> jax.Array:
    """Sums over all but the axes of features, whose order stays that of the array: Flax sorts a layer's axes."""
    features = [axis % x.ndim for axis in axes]
    return x.sum(tuple(axis for axis in range(x.ndim) if axis not in features))


def _feature_axes(module: nn.Module) -> tuple[Axes, Axes]:
    """The axes of features of a layer's input and of its output."""
    # With batch axes each example of them has weights of its own, and Einsum's axes are in its formula.
    batched = isinstance(module, nn.DenseGeneral) and _as_tuple(module.batch_dims)
    if batched or isinstance(module, nn.Einsum):
        raise TypeError(
            f"layer {path_of(module)!r} ({type(module).__name__}) chooses the axes that it sums over: it has no "
            "statistics by feature"
        )
    if not isinstance(module, nn.DenseGeneral):
        return (-1,), (-1,)
    axis, features = _as_tuple(module.axis), _as_tuple(module.features)
    return tuple(axis), tuple(range(-len(features), 0))


def _as_tuple(value: int | Sequence[int]) -> Axes:
    return (value,) if isinstance(value, int) else tuple(value)


def _calls_and_norms(fn: Forward, axes: dict[str, tuple[Axes, Axes]] | None = None) -> Forward:
    """`capture`, without the result and with the calls of batch normalizations, in order.

    The axes of features of each layer go into `axes`, where it is given.
    """

    def run(*args: object) -> tuple[dict[str, tuple[LayerCall, ...]], list[LayerCall]]:
        norms = []

        def see(
            call: Callable[..., Any], args: tuple, kwargs: dict[str, Any], context: nn.module.InterceptorContext
        ) -> Any:
            y = call(*args, **kwargs)
            if (
                axes is not None
                and context.method_name == "__call__"
                and context.module.has_variable("params", "kernel")
            ):
                axes[path_of(context.module)] = _feature_axes(context.module)
            if isinstance(context.module, nn.BatchNorm) and context.method_name == "__call__":
                norms.append(LayerCall(args[0] if args else kwargs["x"], y))
            return y

        with nn.intercept_methods(see):
            _, calls = capture(fn)(*args)
        return calls, norms

    return run


def _norm_calls(fn: Forward, *args: object) -> dict[tuple[str, int], int]:
    """From (path, number of the call) to the number of the batch normalization that takes its output.

    Read from the trace: what is called next in Python may stand behind an activation.
    """
    order: list[tuple[str, int]] = []

    def flat(*args: object) -> list[jax.Array]:
        calls, norms = _calls_and_norms(fn)(*args)
        order.extend((path, i) for path, layer_calls in calls.items() for i in range(len(layer_calls)))
        return [call.output for layer_calls in calls.values() for call in layer_calls] + [n.input for n in norms]

    jaxpr = jax.make_jaxpr(flat)(*args).jaxpr
    cast_from = {e.outvars[0]: e.invars[0] for e in jaxpr.eqns if e.primitive.name == "convert_element_type"}

    # Mixed precision casts the output on its way to the normalization, which is the same values all the same.
    def source(var: object) -> object:
        while not isinstance(var, Literal) and var in cast_from:
            var = cast_from[var]
        return var

    followers = {}
    for number, var in enumerate(map(source, jaxpr.outvars[len(order) :])):
        for position, layer in enumerate(order):
            # The same variable, not an equal one: a normalization of a residual sum reads another.
            if source(jaxpr.outvars[position]) is var:
                followers[layer] = number
    return followers
