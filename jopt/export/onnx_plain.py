"""A traced function in plain operations: those that jax2onnx converts, and converts to what they compute."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Literal

_CALLS = {"closed_call": "call_jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}
_CALLS |= {"checkpoint": "jaxpr", "jit": "jaxpr", "pjit": "jaxpr"}


def evaluate(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    """Evaluates a jaxpr in plain operations.

    Calls are inlined; `lax.platform_dependent` takes its default; a maximum over blocks is a pooling; a product
    with a kernel of several axes (`nn.DenseGeneral`) is one with a matrix, between reshapes. A convolution of a
    dilated input (a transposed one with strides) is a convolution of the input with zeros between its entries:
    jax2onnx 0.13 takes the strides of a `ConvTranspose` from the wrong field. Negative padding is a slice.

    Args:
      jaxpr: what to evaluate.
      consts: its constants.
      args: its arguments; sizes may be symbolic.

    Raises:
      NotImplementedError: for a convolution that ONNX has no operation for (`batch_group_count`), or one of a
        dilated input inside a loop whose body has constants.

    Example:
      >>> stretched = lambda x, k: lax.conv_general_dilated(x, k, (1,), [(1, 1)], lhs_dilation=(2,))
      >>> x, kernel = jnp.array([[[1.0, 2.0, 3.0]]]), jnp.array([[[10.0, 1.0]]])
      >>> closed = jax.make_jaxpr(stretched)(x, kernel)
      >>> evaluate(closed.jaxpr, closed.consts, (x, kernel))[0].tolist() == stretched(x, kernel).tolist()
      True
    """
    return _evaluate(jaxpr, consts, args, {})


def _evaluate(
    jaxpr: Any, consts: Sequence[Any], args: Sequence[Any], shaped: dict[int, tuple[Any, Any]]
) -> list[Any]:
    """`evaluate`, with `shaped`: by the identity of what a reshape gave, that and what it was made of."""
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    values |= zip(jaxpr.invars, args, strict=True)
    default: set[Any] = set()  # indices of branches that `lax.platform_dependent` chooses with
    for eqn in jaxpr.eqns:
        inputs = [v.val if isinstance(v, Literal) else values.get(v) for v in eqn.invars]
        name, params = eqn.primitive.name, eqn.params
        if name == "platform_index":
            default.add(eqn.outvars[0])
            continue
        if name == "cond" and eqn.invars[0] in default:
            branch = params["branches"][-1]
            outputs = _evaluate(branch.jaxpr, branch.consts, inputs[1:], shaped)
        elif name in _CALLS:
            inner = params[_CALLS[name]]
            outputs = _evaluate(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), inputs, shaped)
        elif name == "optimization_barrier":
            outputs = inputs
        elif name == "conv_general_dilated":
            outputs = [_convolution(*inputs, params)]
        elif name == "dot_general" and _is_matrix_product(inputs, params["dimension_numbers"]):
            outputs = [_product(*inputs, params)]
        elif name == "reduce_max" and _is_pooling(params["axes"], eqn.invars[0].aval):
            outputs = [_pool(inputs[0], shaped)]
        elif name == "pad" and all(min(low, high) >= 0 == hole for low, high, hole in params["padding_config"]):
            outputs = [_pad(*inputs, params["padding_config"])]
        elif name == "gather" and _is_slice(inputs[1], params["dimension_numbers"]):
            outputs = [_slice(inputs[0], np.asarray(inputs[1]), params)]
        elif _is_known(eqn, inputs):
            with jax.ensure_compile_time_eval():
                outputs = [eqn.primitive.bind(*inputs, **params)]
        else:
            outputs = eqn.primitive.bind(*inputs, **_plain_bodies(params))
            outputs = outputs if eqn.primitive.multiple_results else [outputs]
            if name == "reshape":
                shaped[id(outputs[0])] = outputs[0], inputs[0]
        values |= zip(eqn.outvars, outputs, strict=True)
    return [v.val if isinstance(v, Literal) else values[v] for v in jaxpr.outvars]


def _plain_bodies(params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a loop or a branch, its bodies in plain operations where a convolution needs that."""

    def plain(value: Any) -> Any:
        if isinstance(value, tuple | list):
            return type(value)(map(plain, value)) if any(isinstance(v, ClosedJaxpr) for v in value) else value
        if not isinstance(value, ClosedJaxpr) or not _has_unplain_convolution(value.jaxpr):
            return value
        shapes = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in value.jaxpr.invars]
        made = jax.make_jaxpr(lambda *args: evaluate(value.jaxpr, value.consts, args))(*shapes)
        if made.consts:
            raise NotImplementedError(
                "a convolution of a dilated input inside a loop whose body has constants cannot be exported"
            )
        return made

    return {name: plain(value) for name, value in params.items()}


def _has_unplain_convolution(jaxpr: Any) -> bool:
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "conv_general_dilated" and not _is_plain(eqn.params):
            return True
        for value in eqn.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if hasattr(inner, "eqns") and _has_unplain_convolution(inner):
                    return True
                if isinstance(inner, ClosedJaxpr) and _has_unplain_convolution(inner.jaxpr):
                    return True
    return False


def _is_plain(params: Mapping[str, Any]) -> bool:
    """Whether a convolution's parameters are those that an ONNX `Conv` has."""
    dilated = any(d != 1 for d in params["lhs_dilation"])
    return not dilated and params["batch_group_count"] == 1 and all(min(p) >= 0 for p in params["padding"])


def _convolution(x: Any, kernel: Any, params: dict[str, Any]) -> Any:
    """A convolution without dilation of its input and without negative padding."""
    if params["batch_group_count"] != 1:
        raise NotImplementedError(
            f"batch_group_count of a convolution must be 1 to be exported, got {params['batch_group_count']}"
        )
    if not _is_plain(params):
        axes, padding = params["dimension_numbers"].lhs_spec[2:], []
        dilation = dict(zip(axes, params["lhs_dilation"], strict=True))
        x = _with_zeros(x, dilation)
        for axis, (low, high) in zip(axes, params["padding"], strict=True):
            high -= dilation[axis] - 1  # The zeros behind the last entry are part of the padding.
            if min(low, high) < 0:
                x = lax.slice_in_dim(x, max(-low, 0), x.shape[axis] - max(-high, 0), axis=axis)
            padding.append((max(low, 0), max(high, 0)))
        ones = (1,) * len(axes)
        params = {**params, "lhs_dilation": ones, "padding": tuple(padding)}
    return lax.conv_general_dilated_p.bind(x, kernel, **params)


def _is_matrix_product(operands: Sequence[Any], numbers: Any) -> bool:
    """Whether the last axes of x are summed with the first of a kernel of more axes than a matrix, in order."""
    ((left, right), batch), (x, kernel) = numbers, operands
    first, last = tuple(range(len(right))), tuple(range(x.ndim - len(left), x.ndim))
    known = all(isinstance(size, int) for size in kernel.shape)
    return (
        not any(map(len, batch))
        and known
        and kernel.ndim > 2
        and 0 < len(left) < min(x.ndim, kernel.ndim)
        and ((tuple(left), tuple(right)) == (last, first))
    )


def _product(x: Any, kernel: Any, params: Mapping[str, Any]) -> Any:
    """A product with a kernel of several axes as one with a matrix, which operators on codes have."""
    count = len(params["dimension_numbers"][0][0])
    length = math.prod(kernel.shape[:count])
    rows = x.reshape(*x.shape[: x.ndim - count], length)
    matrix = kernel.reshape(length, math.prod(kernel.shape[count:]))
    numbers = (((rows.ndim - 1,), (0,)), ((), ()))
    y = lax.dot_general_p.bind(rows, matrix, **{**params, "dimension_numbers": numbers})
    return y.reshape(*x.shape[: x.ndim - count], *kernel.shape[count:])


def _with_zeros(x: Any, dilation: Mapping[int, int]) -> Any:
    """`dilation - 1` zeros behind each entry, by axis."""
    split, whole, behind = [], [], []
    for axis, size in enumerate(x.shape):
        d = dilation.get(axis, 1)
        split.append(size)
        whole.append(size * d)
        if d != 1:
            behind.append((len(split), d))
            split.append(1)
    x = x.reshape(split)
    zero = np.zeros((), x.dtype)
    for axis, d in behind:
        # Made of x: a constant of a symbolic size is a dozen nodes. `jopt.export.onnx_windows` makes a `Pad` of it.
        zeros = jnp.minimum(jnp.maximum(x, zero), zero)
        x = lax.concatenate([x, *[zeros] * (d - 1)], axis)
    return x.reshape(whole)


def _is_pooling(axes: Sequence[int], aval: Any) -> bool:
    """Whether it is the maximum over the blocks [batch, rows, in a block, columns, in a block, channels]."""
    return tuple(axes) == (2, 4) and len(aval.shape) == 6 and jnp.issubdtype(aval.dtype, jnp.floating)


def _pool(x: Any, shaped: Mapping[int, tuple[Any, Any]]) -> Any:
    n, rows, high, columns, wide, channels = x.shape
    shape, window = (n, rows * high, columns * wide, channels), (1, high, wide, 1)
    _, image = shaped.get(id(x), (None, None))
    if image is None or image.shape != shape:
        image = x.reshape(shape)
    return lax.reduce_window(image, -jnp.inf, lax.max, window, window, "VALID")


def _pad(x: Any, value: Any, config: Sequence[tuple[int, int, int]]) -> Any:
    """Padding as concatenation: jax2onnx does not take a symbolic size here."""
    for axis, (low, high, _) in enumerate(config):
        sides = [lax.broadcast(value, (*x.shape[:axis], n, *x.shape[axis + 1 :])) for n in (low, high)]
        parts = [sides[0], x, sides[1]]
        x = lax.concatenate([part for part, n in zip(parts, (low, 1, high), strict=True) if n], axis)
    return x


def _is_known(eqn: Any, inputs: Sequence[Any]) -> bool:
    """Whether it is one of the operations that indices are put together with, and on known numbers."""
    kinds = ("broadcast_in_dim", "concatenate", "convert_element_type", "reshape")
    known = not any(isinstance(x, Tracer) for x in inputs)
    aval = eqn.outvars[0].aval
    fixed = all(isinstance(size, int) for size in aval.shape)
    return eqn.primitive.name in kinds and known and fixed and np.issubdtype(aval.dtype, np.integer)


def _is_slice(start: Any, numbers: Any) -> bool:
    """Whether a gather takes one block, at a known place."""
    known = not isinstance(start, Tracer) and np.ndim(start) == 1
    return known and not numbers.operand_batching_dims


def _slice(x: Any, start: np.ndarray, params: Mapping[str, Any]) -> Any:
    numbers, sizes = params["dimension_numbers"], params["slice_sizes"]
    first = [0] * len(sizes)
    for axis, n in zip(numbers.start_index_map, start, strict=True):
        first[axis] = int(n)
    block = lax.slice(x, first, [a + size for a, size in zip(first, sizes, strict=True)])
    return lax.squeeze(block, numbers.collapsed_slice_dims)
