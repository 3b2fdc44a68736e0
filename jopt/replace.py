"""Replacement: the layers of a model computed otherwise, from outside, by Flax Linen's public hook.

`jopt.intercept` says what a layer is.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

Forward = Callable[..., Any]
_VARIANT = "_jopt_variant"


def replace_layers(fn: Forward, around: Callable[[nn.Module, Callable[..., Any], jax.Array], Any]) -> Forward:
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

    def intercepted(*args: Any, **kwargs: Any) -> Any:
        ran = False

        def interceptor(call: Callable, args: tuple, kwargs: dict[str, Any], context: Any) -> Any:
            nonlocal ran
            ran = True
            module = context.module
            other = context.method_name != "__call__" or not module.has_variable("params", "kernel")
            if other or getattr(module, _VARIANT, False):
                return call(*args, **kwargs)
            key = None if args else next(iter(kwargs), "input")
            x = kwargs.get(key) if key else args[0]

            def with_input(x: Any, **attributes: Any) -> Any:
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


def _variant(module: nn.Module, attributes: dict[str, Any]) -> Any:
    """The layer with other attributes, on the same parameters; its own call is not intercepted again."""
    for name in attributes:
        if not hasattr(module, name):
            raise TypeError(f"layer {path_of(module)!r} ({type(module).__name__}) has no attribute {name!r}")
    variant = module.clone(parent=module.scope, **attributes)
    object.__setattr__(variant, _VARIANT, True)
    return variant


def _array(module: nn.Module, what: str, value: Any) -> Any:
    if isinstance(value, jax.Array | np.ndarray):
        return jnp.asarray(value)
    raise TypeError(
        f"layer {path_of(module)!r} ({type(module).__name__}) has a kernel, so it must map one array to one array, "
        f"but it {what} {type(value).__name__}"
    )


def refuse_jitted(fn: Any) -> None:
    """Raises `TypeError` for a jitted function.

    Example:
      >>> refuse_jitted(jax.jit(jnp.sin))
      Traceback (most recent call last):
      ...
      TypeError: a jitted function may run no Python, and so hide its layers: jit the result instead
    """
    if isinstance(fn, jax.stages.Wrapped):
        raise TypeError("a jitted function may run no Python, and so hide its layers: jit the result instead")
