"""The buffers that a forward pass needs, estimated from its shapes before anything is compiled."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from jopt.measure.jaxprs import ELEMENTWISE, inner_jaxprs
from jopt.typing import Jaxpr, JaxprEqn

OUR_CONVOLUTION = "convolution"
"""The primitive of `jopt.models.convolution`, whose columns are buffers of its own."""

# XLA computes these within the loops of what reads or makes their operands.
_FUSED = ELEMENTWISE | frozenset(
    (
        *("and", "broadcast_in_dim", "convert_element_type", "copy", "expand_dims", "iota", "not", "or", "reshape"),
        *("select_n", "slice", "squeeze", "stop_gradient", "transpose", "xor"),
    )
)


class ForwardBytes(NamedTuple):
    """Bytes of the values that a function computes on the way and XLA does not fuse away, estimated.

    Attributes:
      total: of all of them, as a backward pass keeps them; of a loop with as many rounds as it has.
      largest: of the operands and results of the operation that has most of them.
    """

    total: int
    largest: int


def forward_bytes(fn: Callable[..., Any], *args: object, platform: str = "cpu") -> ForwardBytes:
    """The bytes that a forward pass needs beside its arguments, from its shapes. Nothing is compiled.

    Args:
      fn: a function.
      *args: its arguments, arrays or `jax.ShapeDtypeStruct`s.
      platform: the device's, whose branch of a `jax.lax.platform_dependent` counts.

    Example:
      >>> import jax.numpy as jnp
      >>> x, w = jnp.zeros((8, 4), jnp.float32), jnp.zeros((4, 2), jnp.float32)
      >>> forward_bytes(lambda x, w: jnp.sin(x @ w) * 2.0, x, w)
      ForwardBytes(total=64, largest=224)
    """
    platforms = {platform, *(("cuda", "rocm") if platform == "gpu" else ())}
    return _forward_bytes(jax.make_jaxpr(fn)(*args).jaxpr, frozenset(platforms))


def _forward_bytes(jaxpr: Jaxpr, platforms: frozenset[str]) -> ForwardBytes:
    total = largest = 0
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        results = sum(_bytes(v.aval) for v in eqn.outvars)
        touched = results + sum(_bytes(v.aval) for v in eqn.invars)
        inner = [_forward_bytes(body, platforms) for body in _bodies(eqn, platforms)]
        rounds = eqn.params["length"] if name == "scan" else 1
        total += rounds * sum(body.total for body in inner) if inner else 0 if name in _FUSED else results
        # A call's operands are those of its body; a loop has its own, and so has one of our primitives.
        own = touched if name in ("scan", "while", OUR_CONVOLUTION) or not (inner or name in _FUSED) else 0
        body_bytes = [body.total if name == OUR_CONVOLUTION else body.largest for body in inner]
        largest = max(largest, own + max(body_bytes, default=0))
    return ForwardBytes(total, largest)


def _bodies(eqn: JaxprEqn, platforms: frozenset[str]) -> list[Jaxpr]:
    """The jaxprs that an equation runs on a device of these platforms."""
    of_branches = eqn.params.get("branches_platforms")
    if of_branches:
        own = (i for i, names in enumerate(of_branches) if names is not None and platforms & set(names))
        default = (i for i, names in enumerate(of_branches) if names is None)
        return [eqn.params["branches"][next(own, next(default, 0))].jaxpr]
    if eqn.primitive.name == OUR_CONVOLUTION:
        shapes = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.invars]
        return [jax.make_jaxpr(lambda *operands: eqn.primitive.impl(*operands, **eqn.params))(*shapes).jaxpr]
    return list(inner_jaxprs(eqn))


def _bytes(aval: object) -> int:
    dtype = getattr(aval, "dtype", None)
    return math.prod(getattr(aval, "shape", ())) * getattr(dtype, "itemsize", 0)
