"""How much memory a computation's intermediate values would take, if all were kept."""

import math
from collections.abc import Callable
from typing import Any

import jax

from jopt.measure.flops import inner_jaxprs


def intermediate_bytes(fn: Callable[..., Any], *args: Any) -> int:
    """Bytes of every value that `fn` computes on the way, each counted once: an estimate, from above, of what a
    backward pass must keep. XLA fuses many of them away.

    Args:
      fn: a function.
      *args: its arguments, arrays or `jax.ShapeDtypeStruct`s.

    Returns:
      A number of bytes; a loop's body counts as one round, whose buffers the next one uses again.

    Example:
      >>> import jax.numpy as jnp
      >>> intermediate_bytes(lambda x: jnp.sin(x) * 2.0, jnp.zeros((8, 4), jnp.float32))
      256
    """
    return _sum(jax.make_jaxpr(fn)(*args).jaxpr)


def _sum(jaxpr: Any) -> int:
    total = 0
    for eqn in jaxpr.eqns:
        inner = [_sum(one) for one in inner_jaxprs(eqn)]
        # A call's results are those of its body.
        total += sum(inner) if inner else sum(_bytes(v.aval) for v in eqn.outvars)
    return total


def _bytes(aval: Any) -> int:
    dtype = getattr(aval, "dtype", None)
    return math.prod(getattr(aval, "shape", ())) * getattr(dtype, "itemsize", 0)
