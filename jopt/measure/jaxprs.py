"""What one equation of a jaxpr costs, by formula: floating-point operations, and the jaxprs that it runs."""

import math
from collections.abc import Iterable, Iterator

import jax.numpy as jnp
import numpy as np

from jopt.typing import Jaxpr, JaxprEqn

# Every primitive that is in none of these sets, and that runs no jaxpr, moves data or draws bits: it costs 0.
ELEMENTWISE = frozenset(
    (
        *("abs", "acos", "acosh", "add", "add_any", "asin", "asinh", "atan", "atan2", "atanh", "bessel_i0e"),
        *("bessel_i1e", "cbrt", "ceil", "clamp", "conj", "cos", "cosh", "digamma", "div", "eq", "erf", "erf_inv"),
        *("erfc", "exp", "exp2", "expm1", "floor", "ge", "gt", "igamma", "igammac", "imag", "integer_pow"),
        *("is_finite", "le", "lgamma", "log", "log1p", "logistic", "lt", "max", "min", "mul", "ne", "neg"),
        *("nextafter", "polygamma", "pow", "real", "regularized_incomplete_beta", "rem", "round", "rsqrt"),
        *("sign", "sin", "sinh", "sqrt", "square", "sub", "tan", "tanh", "zeta"),
    )
)
REDUCTION = frozenset(
    (
        *("argmax", "argmin", "cumlogsumexp", "cummax", "cummin", "cumprod", "cumsum"),
        *("reduce", "reduce_max", "reduce_min", "reduce_prod", "reduce_sum"),
    )
)
POOLING = frozenset(("reduce_window", "reduce_window_max", "reduce_window_min", "reduce_window_sum"))
POOLING_GRADIENT = frozenset(("select_and_scatter", "select_and_scatter_add", "select_and_gather_add"))
# Their work is not in the program, so a count of 0 would be wrong without anybody noticing.
UNCOUNTABLE = frozenset(
    ("ffi_call", "io_callback", "pure_callback", "ragged_dot_general", "scaled_dot", "tpu_custom_call")
)


def dot(eqn: JaxprEqn) -> int:
    """FLOPs of a `dot_general`: 2 times its output elements times the contracted elements."""
    lhs = eqn.invars[0].aval.shape
    (contracted, _), _ = eqn.params["dimension_numbers"]
    return 2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(lhs[axis] for axis in contracted)


def convolution(eqn: JaxprEqn) -> int:
    """FLOPs of a `conv_general_dilated`: 2 times output elements, window elements and input channels per group.

    Products with padding count, as the field counts them. A transposed convolution costs what the convolution that
    it transposes costs, and so do both gradients of either: along an axis whose *input* is dilated, each true input
    element meets each element of the kernel once, though padding crops some of these products. There the kernel is
    the window or, in the kernel's gradient, the output: the shorter of the two.
    """
    lhs, rhs = (v.aval.shape for v in eqn.invars)
    output = eqn.outvars[0].aval.shape
    spec = eqn.params["dimension_numbers"]
    total = 2 * output[spec.out_spec[0]] * output[spec.out_spec[1]] * rhs[spec.rhs_spec[1]]
    for i, (a, b, c) in enumerate(zip(spec.lhs_spec[2:], spec.rhs_spec[2:], spec.out_spec[2:], strict=True)):
        hole = eqn.params["lhs_dilation"][i]
        if hole == 1:
            total *= output[c] * rhs[b]
            continue
        if eqn.params["window_strides"][i] == 1 or output[c] <= rhs[b]:
            # In the gradient of a kernel the roles change: the
            # "kernel" is the longer one, and the output the window.
            total *= lhs[a] * min(rhs[b], output[c])
            continue
        # Dilated and strided at once, which transposes no convolution: the products with true input elements.
        starts = np.arange(output[c]) * eqn.params["window_strides"][i] - eqn.params["padding"][i][0]
        taps = np.arange(rhs[b]) * eqn.params["rhs_dilation"][i]
        position = starts[:, None] + taps[None, :]
        total *= int(np.sum((position >= 0) & (position <= (lhs[a] - 1) * hole) & (position % hole == 0)))
    return total


def elementwise(eqn: JaxprEqn) -> int:
    """1 for each output element, where floating point goes in or comes out."""
    return math.prod(eqn.outvars[0].aval.shape) if _floating(eqn) else 0


def reduction(eqn: JaxprEqn) -> int:
    """1 for each input element; pooling reads its window once for each output element."""
    if not _floating(eqn):
        return 0
    name = eqn.primitive.name
    if name in POOLING:
        return math.prod(eqn.outvars[0].aval.shape) * math.prod(eqn.params["window_dimensions"])
    if name in POOLING_GRADIENT:
        return math.prod(eqn.invars[0].aval.shape) * math.prod(eqn.params["window_dimensions"])
    return math.prod(eqn.invars[0].aval.shape)


def _floating(eqn: JaxprEqn) -> bool:
    dtypes = (getattr(v.aval, "dtype", None) for v in (*eqn.invars, *eqn.outvars))
    return any(dtype is not None and jnp.issubdtype(dtype, jnp.inexact) for dtype in dtypes)


def repetitions(eqn: JaxprEqn) -> int:
    """How often an equation runs the jaxprs inside it."""
    name = eqn.primitive.name
    if name == "scan":
        return eqn.params["length"]
    if name == "shard_map":
        # Axes that an outer shard_map has mapped already are not counted twice.
        return math.prod(eqn.params["mesh"].shape[axis] for axis in eqn.params["newly_manual_axes"])
    if name == "pallas_call":
        return math.prod(eqn.params["grid_mapping"].grid)
    return 1


def inner_jaxprs(eqn: JaxprEqn) -> Iterator[Jaxpr]:
    """The jaxprs that an equation runs."""
    if eqn.primitive.name == "custom_linear_solve":
        # It also has the jaxprs of its matrix product and transpose, which it does not run itself.
        yield from open_jaxprs([eqn.params["jaxprs"].solve])
    # A scatter has the jaxpr of one scalar update, without how often it runs.
    elif not eqn.primitive.name.startswith("scatter"):
        for value in eqn.params.values():
            yield from open_jaxprs(value if isinstance(value, tuple | list) else (value,))


def open_jaxprs(values: Iterable[object]) -> Iterator[Jaxpr]:
    """The jaxprs among parameters of an equation, without the constants that JAX may keep with them."""
    for value in values:
        jaxpr = getattr(value, "jaxpr", value)
        if hasattr(jaxpr, "eqns"):
            yield jaxpr
