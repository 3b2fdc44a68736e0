"""Layers whose inputs, or whose whole calls, are replaced."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jopt.intercept.hooks import ModuleCall, hooked, path_of, variant

Forward = Callable[..., Any]
"""A function that runs modules, such as `model.apply`, of any arguments and results."""


def replace_layers(fn: Forward, around: Callable[[Any, Callable[..., jax.Array], jax.Array], jax.Array]) -> Forward:
    """The function `fn` in which each layer's call `y = call(x)` becomes `y = around(module, call, x)`.

    `call(x, **attributes)` runs the layer with other attributes (of its dataclass). `dot_general` of Linen's
    `Dense` and NNX's `Linear`, `conv_general_dilated` of their `Conv` and `product` of
    `jopt.models.rnn.Recurrent` are the contractions themselves: so a layer is computed in another arithmetic with
    all else, and its parameters, as they are.

    Args:
      fn: a function that runs modules, not jitted.
      around: called at each call of a layer, in order. `path_of(module)` is the layer's path.

    Returns:
      A function of the same arguments and results.

    Raises:
      ValueError: (the function returned) if no module ran.
      TypeError: if `fn` is jitted, a module with a `kernel` does not map an array to an array, or has no such
        attribute.

    Example:
      >>> from flax import linen as nn
      >>> module = nn.Dense(2, kernel_init=nn.initializers.ones)
      >>> variables = module.init(jax.random.key(0), jnp.ones((1, 3)))
      >>> doubled = lambda *args, **kwargs: 2 * jax.lax.dot_general(*args, **kwargs)
      >>> fn = replace_layers(module.apply, lambda module, call, x: call(x, dot_general=doubled))
      >>> fn(variables, jnp.ones((1, 3))).tolist()
      [[6.0, 6.0]]
    """
    return replace_calls(fn, lambda layer, call, x: around(layer.module, call, x))


def replace_calls(
    fn: Forward, around: Callable[[ModuleCall, Callable[..., jax.Array], jax.Array], jax.Array]
) -> Forward:
    """As `replace_layers`, where `around` gets the `ModuleCall` of the layer."""
    refuse_jitted(fn)

    def intercepted(*args: object, **kwargs: object) -> Any:
        ran = False

        def hook(layer: ModuleCall, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            nonlocal ran
            ran = True
            if layer.kernel is None:
                return layer.run(*args, **kwargs)
            # The input may be given by position or by name, whatever its name is.
            key = None if args else next(iter(kwargs), "input")
            x = kwargs.get(key) if key else args[0]

            def with_input(x: jax.Array, **attributes: object) -> jax.Array:
                run = variant(layer.module, layer.run, attributes)
                y = run(**{**kwargs, key: x}) if key else run(x, *args[1:], **kwargs)
                return _array(layer.module, "gives", y)

            return around(layer, with_input, _array(layer.module, "takes", x))

        with hooked(hook):
            result = fn(*args, **kwargs)
        if not ran:
            raise ValueError(
                "no module of Flax Linen, NNX or Equinox ran: only models made of them, by from_linen, from_nnx or "
                "from_equinox, have layers to intercept (plain functions do not)"
            )
        return result

    return intercepted


def replace_inputs(fn: Forward, change: Callable[[str, jax.Array], jax.Array]) -> Forward:
    """The function `fn` with the input of each of its layers replaced.

    Args:
      fn: a function that runs modules, not jitted.
      change: `(path, input) -> input`, called at each call of a layer, in order.

    Returns:
      A function of the same arguments and results.

    Raises:
      ValueError: (the function returned) if no module ran.
      TypeError: if `fn` is jitted, or a module with a `kernel` does not map an array to an array.

    Example:
      >>> from flax import linen as nn
      >>> module = nn.Dense(2, kernel_init=nn.initializers.ones)
      >>> variables = module.init(jax.random.key(0), jnp.ones((1, 3)))
      >>> replace_inputs(module.apply, lambda path, x: 10 * x)(variables, jnp.ones((1, 3))).tolist()
      [[30.0, 30.0]]
    """
    return replace_layers(fn, lambda module, call, x: call(change(path_of(module), x)))


def _array(module: Any, verb: str, value: object) -> jax.Array:
    if isinstance(value, jax.Array | np.ndarray):
        return jnp.asarray(value)
    # What OptimizedLSTMCell joins to one product; its other form has a layer for each gate.
    remedy = ": take nn.LSTMCell in place of nn.OptimizedLSTMCell" if type(module).__name__ == "DenseParams" else ""
    raise TypeError(
        f"layer {path_of(module)!r} ({type(module).__name__}) has a kernel, so it must map one array to one array, "
        f"but it {verb} {type(value).__name__}{remedy}"
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
