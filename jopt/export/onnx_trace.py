"""From a model to a graph by jax2onnx: its parameters are named inputs, and its layers' inputs are marked.

The model is traced here, not by jax2onnx, which would put its own functions into the place of Flax's and JAX's. The
trace is then evaluated in *plain operations*: those that jax2onnx converts, and converts to what they compute.
"""

import contextlib
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import PyTree

from jopt import data, intercept
from jopt.export.onnx_codes import InputCodes
from jopt.quantize.activations import has_state
from jopt.rules import named_leaves

if TYPE_CHECKING:
    import onnx_ir as ir
    from flax import linen as nn

INPUT, OUTPUT = "input", "logits"
MARK = "/input"
"""Behind a layer's path: the scalar that the layer's input is multiplied with, to find it again in the graph."""
OPSET = 21
"""The first with 4-bit integers."""

Values = Sequence[jax.Array]
"""The operands of an operation: tracers, whose sizes may be symbolic, or arrays."""

Params = Mapping[str, Any]
"""Of a JAX primitive; which ones there are, and of which types, is the primitive's own matter."""

_CALLS = {"closed_call": "call_jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}
_CALLS |= {"checkpoint": "jaxpr", "jit": "jaxpr", "pjit": "jaxpr"}


class Traced(NamedTuple):
    """A model as jax2onnx gives it.

    Attributes:
      model: its graph, of the inputs 'input', those of `constants`, and the marks.
      constants: the values of the named inputs: parameters, state, mean and std, by name.
      marks: the names of the marks, by layer.
    """

    model: "ir.Model"
    constants: dict[str, np.ndarray]
    marks: dict[str, str]


def trace(
    apply: Callable[..., tuple[jax.Array, PyTree]],
    params: PyTree,
    model_state: PyTree,
    input_shape: Sequence[int],
    *,
    mean: ArrayLike | None = None,
    std: ArrayLike | None = None,
    layers: Sequence[str] = (),
    states: Mapping[str, InputCodes] | None = None,
    dtype: DTypeLike = np.float32,
) -> Traced:
    """Traces a model with a symbolic batch size and converts it.

    Args:
      apply: `(params, model_state, x, train=False) -> (logits, state)`.
      params: the parameters, as the model sees them; float32.
      model_state: its state.
      input_shape: of one example.
      mean: per channel, subtracted from the input; None: nothing is.
      std: per channel, divided by then.
      layers: the paths of the layers whose inputs to mark.
      states: by recurrent layer, the codes that its state is rounded to.
      dtype: of the input.

    Returns:
      A `Traced`.

    Raises:
      ValueError: if there are no parameters by such names, or mean comes without std.
      ImportError: without the extra 'export'.
    """
    if (mean is None) != (std is None):
        raise ValueError(f"mean and std must be given together, got mean {mean!r} and std {std!r}")
    # Named inputs, not constants of the trace: constants would lose their paths, and kernels be folded into others.
    trees = {"": params, "state": model_state}
    constants = {name: np.asarray(value) for at, tree in trees.items() for name, value in _named(at, tree)}
    if mean is not None:
        constants |= {"mean": np.asarray(mean, np.float32), "std": np.asarray(std, np.float32)}
    (batch,) = jax.export.symbolic_shape("B")
    x = jax.ShapeDtypeStruct((batch, *input_shape), dtype)
    # A mark has as many axes as its layer's input: ranks are the only thing that is asked of the calls.
    calls = intercept.names(apply, params, model_state, x, train=False) if layers else {}
    ranks = {layer: len(calls[layer][0].input.shape) for layer in layers}
    shapes = [jax.ShapeDtypeStruct(value.shape, value.dtype) for value in constants.values()]
    shapes += [jax.ShapeDtypeStruct((1,) * rank, np.float32) for rank in ranks.values()]

    def forward(x: jax.Array, *values: jax.Array) -> jax.Array:
        named = dict(zip((*constants, *ranks), values, strict=True))
        if mean is not None:
            x = data.normalize(x, named["mean"], named["std"])
        run = _marked(apply, {layer: named[layer] for layer in ranks}, states or {})
        rebuilt = [
            jax.tree.unflatten(jax.tree.structure(tree), [named[name] for name, _ in _named(at, tree)])
            for at, tree in trees.items()
        ]
        return run(*rebuilt, x, train=False)[0]

    closed = jax.make_jaxpr(forward)(x, *shapes)
    names = (INPUT, *constants, *(layer + MARK for layer in ranks))
    model = _convert(lambda *args: evaluate(closed.jaxpr, closed.consts, args)[0], [x, *shapes], names)
    return Traced(model, constants, {layer: layer + MARK for layer in ranks})


def _named(at: str, tree: PyTree) -> list[tuple[str, ArrayLike]]:
    """The leaves of a tree by their paths, behind `at`."""
    return [(f"{at}/{path}".lstrip("/"), leaf) for path, leaf in named_leaves(tree)]


def _marked(
    apply: Callable[..., tuple[jax.Array, PyTree]],
    marks: Mapping[str, jax.Array],
    states: Mapping[str, InputCodes],
) -> Callable[..., tuple[jax.Array, PyTree]]:
    """The model with its layers' inputs multiplied with their marks, and its states rounded to their codes."""
    if not marks and not states:
        return apply

    def around(module: "nn.Module", call: Callable[..., jax.Array], x: jax.Array) -> jax.Array:
        path = intercept.path_of(module)
        if path in marks:
            # Nothing that simplifies the graph can remove or merge a product with an input of its own.
            x = x * marks[path].reshape((1,) * x.ndim)
        if path not in states or not has_state(module):
            return call(x)

        def product(name: str, x: jax.Array, kernel: jax.Array) -> jax.Array:
            return module.product(name, x if name == "kernel" else _rounded(x, states[path]), kernel)

        return call(x, product=product)

    return intercept.replace_layers(apply, around)


def _rounded(x: jax.Array, codes: InputCodes) -> jax.Array:
    """What the codes of `x` stand for, in operations that ONNX has."""
    steps = jnp.sign(x) if codes.sign else lax.round(x / codes.scale, lax.RoundingMethod.TO_NEAREST_EVEN)
    low, high = (np.float32(end - codes.zero) for end in (codes.low, codes.high))
    return jnp.minimum(jnp.maximum(steps, low), high) * codes.scale


def _convert(
    function: Callable[..., jax.Array], inputs: Sequence[jax.ShapeDtypeStruct], names: Sequence[str]
) -> "ir.Model":
    with _quiet():
        try:
            import jax2onnx
            import onnxscript  # noqa: F401 - asked for here, before the conversion, which takes longer
        except ImportError as error:
            raise ImportError(
                "ONNX files need the packages jax2onnx, onnx and onnxscript, not installed here: "
                "pip install 'jopt[export]'"
            ) from error
        return jax2onnx.to_onnx(
            function,
            list(inputs),
            model_name="jopt",
            opset=OPSET,
            input_names=names,
            output_names=[OUTPUT],
            return_mode="ir",
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences what jax2onnx logs, and takes its arithmetic with mixed ranks and dtypes.

    It logs a traceback for each optional package that does not suit it, uses a deprecated name of JAX, and writes
    through the root logger, which gives that a handler for the rest of the process.
    """
    root, loggers = logging.getLogger(), [logging.getLogger(name) for name in ("jax2onnx", "onnx_ir")]
    levels, handler = [logger.level for logger in loggers], logging.NullHandler()
    # With a handler there, `logging.basicConfig` does not give the root logger another.
    root.addHandler(handler)
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            jax.numpy_rank_promotion("allow"),
            jax.numpy_dtype_promotion("standard"),
        ):
            warnings.filterwarnings("ignore", category=DeprecationWarning, module="jax2onnx")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        root.removeHandler(handler)


def evaluate(jaxpr: Jaxpr, consts: Values, args: Values) -> list[jax.Array]:
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
    values: dict[Var, jax.Array] = dict(zip(jaxpr.constvars, consts, strict=True))
    values |= zip(jaxpr.invars, args, strict=True)
    platforms: set[Var] = set()  # indices that `lax.platform_dependent` chooses its branch with
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "platform_index":
            platforms.add(eqn.outvars[0])
            continue
        first = eqn.invars[0] if eqn.invars else None
        default = eqn.primitive.name == "cond" and isinstance(first, Var) and first in platforms
        operands = [_value(v, values) for v in (eqn.invars[1:] if default else eqn.invars)]
        if default:
            # The last branch is the default: the others are kernels of one platform.
            branch = eqn.params["branches"][-1]
            outputs = evaluate(branch.jaxpr, branch.consts, operands)
        else:
            outputs = _operation(eqn, operands)
        values |= zip(eqn.outvars, outputs, strict=True)
    return [_value(v, values) for v in jaxpr.outvars]


def _value(v: Var | Literal, values: Mapping[Var, jax.Array]) -> jax.Array:
    return v.val if isinstance(v, Literal) else values[v]


def _operation(eqn: JaxprEqn, operands: Values) -> Values:
    """What an operation gives, in plain ones."""
    name, params = eqn.primitive.name, eqn.params
    # Inlined, so that the rules see what is inside; jax2onnx would make a function of the graph of it.
    if name in _CALLS:
        inner = params[_CALLS[name]]
        return evaluate(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), operands)
    # A rule gives None for what jax2onnx converts as it is.
    if (rule := _RULES.get(name)) is not None and (output := rule(eqn, operands)) is not None:
        return [output]
    outputs = eqn.primitive.bind(*operands, **_plain_bodies(params))
    return outputs if eqn.primitive.multiple_results else [outputs]


def _plain_bodies(params: Params) -> dict[str, Any]:
    """The parameters of a loop or a branch, its bodies in plain operations where a convolution needs that."""

    def plain(value: object) -> Any:
        if isinstance(value, tuple | list):
            return type(value)(map(plain, value)) if any(isinstance(v, ClosedJaxpr) for v in value) else value
        if not isinstance(value, ClosedJaxpr) or not _has_unplain_convolution(value.jaxpr):
            return value
        shapes = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in value.jaxpr.invars]
        # Bodies keep their types: only the convolutions in them are other ones.
        body = jax.make_jaxpr(lambda *args: evaluate(value.jaxpr, value.consts, args))(*shapes)
        if body.consts:
            # A loop's primitive has no room for constants that its body did not have when it was traced.
            raise NotImplementedError(
                "a convolution of a dilated input inside a loop whose body has constants cannot be exported"
            )
        return body

    return {name: plain(value) for name, value in params.items()}


def _has_unplain_convolution(jaxpr: Jaxpr) -> bool:
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "conv_general_dilated" and not _is_plain(eqn.params):
            return True
        for value in eqn.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner
                if isinstance(inner, Jaxpr) and _has_unplain_convolution(inner):
                    return True
    return False


def _is_plain(params: Params) -> bool:
    """Whether a convolution's parameters are those that an ONNX `Conv` has."""
    dilated = any(d != 1 for d in params["lhs_dilation"])
    return not dilated and params["batch_group_count"] == 1 and all(min(p) >= 0 for p in params["padding"])


def _convolution(eqn: JaxprEqn, operands: Values) -> jax.Array | None:
    """A convolution without dilation of its input and without negative padding."""
    (x, kernel), params = operands, eqn.params
    if params["batch_group_count"] != 1:
        raise NotImplementedError(
            f"batch_group_count of a convolution must be 1 to be exported, got {params['batch_group_count']}"
        )
    if _is_plain(params):
        return None
    axes, padding = params["dimension_numbers"].lhs_spec[2:], []
    dilation = dict(zip(axes, params["lhs_dilation"], strict=True))
    x = _with_zeros(x, dilation)
    for axis, (low, high) in zip(axes, params["padding"], strict=True):
        high -= dilation[axis] - 1  # The zeros behind the last entry are part of the padding.
        if min(low, high) < 0:
            x = lax.slice_in_dim(x, max(-low, 0), x.shape[axis] - max(-high, 0), axis=axis)
        padding.append((max(low, 0), max(high, 0)))
    plain = {**params, "lhs_dilation": (1,) * len(axes), "padding": tuple(padding)}
    return lax.conv_general_dilated_p.bind(x, kernel, **plain)


def _with_zeros(x: jax.Array, dilation: Mapping[int, int]) -> jax.Array:
    """`dilation - 1` zeros behind each entry, by axis."""
    split, dilated, behind = [], [], []
    for axis, size in enumerate(x.shape):
        d = dilation.get(axis, 1)
        split.append(size)
        dilated.append(size * d)
        if d != 1:
            behind.append((len(split), d))
            split.append(1)
    x = x.reshape(split)
    zero = np.zeros((), x.dtype)
    for axis, d in behind:
        # Made of x: a constant of a symbolic size is a dozen nodes. `jopt.export.onnx_graph` makes a `Pad` of it.
        zeros = jnp.minimum(jnp.maximum(x, zero), zero)
        x = lax.concatenate([x, *[zeros] * (d - 1)], axis)
    return x.reshape(dilated)


def _product(eqn: JaxprEqn, operands: Values) -> jax.Array | None:
    """A product with a kernel of several axes as one with a matrix, which operators on codes have.

    It is one where the last axes of x are summed with the first of the kernel, in order.
    """
    (x, kernel), params = operands, eqn.params
    (x_axes, kernel_axes), batch = params["dimension_numbers"]
    count = len(x_axes)
    last, first = tuple(range(x.ndim - count, x.ndim)), tuple(range(count))
    in_order = (tuple(x_axes), tuple(kernel_axes)) == (last, first)
    fixed = all(isinstance(size, int) for size in kernel.shape)
    several = kernel.ndim > 2 and 0 < count < min(x.ndim, kernel.ndim)
    if any(map(len, batch)) or not (in_order and fixed and several):
        return None
    length = math.prod(kernel.shape[:count])
    rows = x.reshape(*x.shape[: x.ndim - count], length)
    matrix = kernel.reshape(length, math.prod(kernel.shape[count:]))
    # By the primitive, with the precision and the type of sums that the product was traced with.
    numbers = (((rows.ndim - 1,), (0,)), ((), ()))
    y = lax.dot_general_p.bind(rows, matrix, **{**params, "dimension_numbers": numbers})
    return y.reshape(*x.shape[: x.ndim - count], *kernel.shape[count:])


def _pool(eqn: JaxprEqn, operands: Values) -> jax.Array | None:
    """The maximum over the blocks [batch, rows, in a block, columns, in a block, channels] is a pooling."""
    (blocks,) = operands
    if tuple(eqn.params["axes"]) != (2, 4) or blocks.ndim != 6 or not jnp.issubdtype(blocks.dtype, jnp.floating):
        return None
    n, rows, high, columns, wide, channels = blocks.shape
    # The image is shaped into blocks and back: `jopt.export.onnx_graph` sees that these undo one another.
    window = (1, high, wide, 1)
    image = blocks.reshape(n, rows * high, columns * wide, channels)
    return lax.reduce_window(image, -jnp.inf, lax.max, window, window, "VALID")


def _pad(eqn: JaxprEqn, operands: Values) -> jax.Array | None:
    """Padding as concatenation: jax2onnx does not take a symbolic size here."""
    (x, value), config = operands, eqn.params["padding_config"]
    # Negative and inner padding is left to jax2onnx.
    if any(min(low, high) < 0 or hole for low, high, hole in config):
        return None
    for axis, (low, high, _) in enumerate(config):
        sides = [lax.broadcast(value, (*x.shape[:axis], n, *x.shape[axis + 1 :])) for n in (low, high)]
        parts = [sides[0], x, sides[1]]
        x = lax.concatenate([part for part, n in zip(parts, (low, 1, high), strict=True) if n], axis)
    return x


_RULES: dict[str, Callable[[JaxprEqn, Values], jax.Array | None]] = {
    "conv_general_dilated": _convolution,
    "dot_general": _product,
    "reduce_max": _pool,
    "pad": _pad,
}
