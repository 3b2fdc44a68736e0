"""From a model to an ONNX graph by jax2onnx, its parameters named inputs, its layers' inputs marked."""

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.extend.core import Literal

from jopt import data, intercept
from jopt.export.onnx_codes import Input
from jopt.quantize.activation_config import has_state
from jopt.rules import named_leaves

if TYPE_CHECKING:
    from onnx import ModelProto

INPUT, OUTPUT = "input", "logits"
MARK = "/input"
"""Behind a layer's path: the scalar that the layer's input is multiplied with, so that it is found in the graph."""
OPSET = 21
"""The first with 4-bit integers."""

_CALLS = {"closed_call": "call_jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}
_CALLS |= {"checkpoint": "jaxpr", "jit": "jaxpr", "pjit": "jaxpr"}


class Traced(NamedTuple):
    """A model as jax2onnx gives it.

    Attributes:
      proto: its graph, of the inputs 'input', those of `constants`, and the marks.
      constants: the values of the named inputs: parameters, state, mean and std, by name.
      marks: the names of the marks, by layer.
    """

    proto: "ModelProto"
    constants: dict[str, np.ndarray]
    marks: dict[str, str]


def trace(
    apply: Callable[..., Any],
    params: Any,
    model_state: Any,
    input_shape: Sequence[int],
    *,
    mean: Any = None,
    std: Any = None,
    layers: Sequence[str] = (),
    states: Mapping[str, Input] | None = None,
) -> Traced:
    """Traces a model with a symbolic batch size and converts it.

    The trace is made here, before jax2onnx puts its own functions into the place of Flax's and JAX's, and in plain
    operations: calls are inlined, `lax.platform_dependent` takes its default (so that a convolution is one, and not
    the slices and the product of `jopt.models.conv`), a maximum over blocks is a pooling.

    Args:
      apply: `(params, model_state, x, train=False) -> (logits, state)`.
      params: the parameters, as the model sees them; float32.
      model_state: its state.
      input_shape: of one example.
      mean: per channel, subtracted from the input; None: nothing is.
      std: per channel, divided by then.
      layers: the paths of the layers whose inputs to mark.
      states: by recurrent layer, the grid that it sees its state on.

    Returns:
      A `Traced`.

    Raises:
      ValueError: if there are no parameters by such names, or mean comes without std.
      ImportError: without the extra 'export'.
    """
    if (mean is None) != (std is None):
        raise ValueError(f"mean and std must be given together, got mean {mean!r} and std {std!r}")
    trees = {"": params, "state": model_state}
    constants = {f"{at}/{path}".lstrip("/"): v for at, tree in trees.items() for path, v in named_leaves(tree)}
    if mean is not None:
        constants |= {"mean": np.asarray(mean, np.float32), "std": np.asarray(std, np.float32)}
    constants = {name: np.asarray(value) for name, value in constants.items()}
    grids = states or {}
    (batch,) = jax.export.symbolic_shape("B")
    x = jax.ShapeDtypeStruct((batch, *input_shape), np.float32)
    found = intercept.names(apply, params, model_state, x, train=False) if layers else {}
    marks = {layer: (1,) * len(found[layer][0].input.shape) for layer in layers}
    leaves = [jax.ShapeDtypeStruct(value.shape, value.dtype) for value in constants.values()]
    ones = [jax.ShapeDtypeStruct(shape, np.float32) for shape in marks.values()]

    def forward(x: jax.Array, *values: jax.Array) -> jax.Array:
        named = dict(zip((*constants, *marks), values, strict=True))
        if mean is not None:
            x = data.normalize(x, named["mean"], named["std"])

        def around(module: Any, call: Callable[..., Any], value: jax.Array) -> Any:
            path = intercept.path_of(module)
            if path in marks:
                value = value * named[path].reshape((1,) * value.ndim)
            if path not in grids or not has_state(module):
                return call(value)

            def product(name: str, x: jax.Array, kernel: jax.Array) -> jax.Array:
                return module.product(name, x if name == "kernel" else _rounded(x, grids[path]), kernel)

            return call(value, product=product)

        run = intercept.replace_layers(apply, around) if marks or grids else apply
        rebuilt = [
            jax.tree.unflatten(jax.tree.structure(tree), [named[n] for n in _names(at, tree)])
            for at, tree in trees.items()
        ]
        return run(*rebuilt, x, train=False)[0]

    closed = jax.make_jaxpr(forward)(x, *leaves, *ones)
    names = (INPUT, *constants, *(layer + MARK for layer in marks))
    with _quiet():
        try:
            import jax2onnx
        except ImportError as error:
            message = (
                "ONNX files need the packages jax2onnx and onnx, not installed here: pip install 'jopt[export]'"
            )
            raise ImportError(message) from error
        proto = jax2onnx.to_onnx(
            lambda *args: _evaluate(closed.jaxpr, closed.consts, args, {})[0],
            [x, *leaves, *ones],
            model_name="jopt",
            opset=OPSET,
            input_names=names,
            output_names=[OUTPUT],
        )
    return Traced(proto, constants, {layer: layer + MARK for layer in marks})


def _rounded(x: jax.Array, g: Input) -> jax.Array:
    """What the codes of `x` stand for, in operations that ONNX has."""
    codes = jnp.sign(x) if g.sign else lax.round(x / g.scale, lax.RoundingMethod.TO_NEAREST_EVEN)
    low, high = (np.float32(end - g.zero) for end in (g.low, g.high))
    return jnp.minimum(jnp.maximum(codes, low), high) * g.scale


def _names(at: str, tree: Any) -> list[str]:
    return [f"{at}/{path}".lstrip("/") for path, _ in named_leaves(tree)]


def _evaluate(
    jaxpr: Any, consts: Sequence[Any], args: Sequence[Any], shaped: dict[int, tuple[Any, Any]]
) -> list[Any]:
    """Evaluates a jaxpr in plain operations, as `trace` says.

    Args:
      jaxpr: what to evaluate.
      consts: its constants.
      args: its arguments.
      shaped: by the identity of what a reshape gave: that, and what it was made of.
    """
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
        elif name == "reduce_max" and _is_pooling(params["axes"], eqn.invars[0].aval.shape):
            outputs = [_pool(inputs[0], shaped)]
        elif name == "pad" and all(min(low, high) >= 0 == hole for low, high, hole in params["padding_config"]):
            outputs = [_pad(*inputs, params["padding_config"])]
        elif name == "gather" and _is_slice(inputs[1], params["dimension_numbers"]):
            outputs = [_slice(inputs[0], np.asarray(inputs[1]), params)]
        elif _is_known(eqn, inputs):
            with jax.ensure_compile_time_eval():
                outputs = [eqn.primitive.bind(*inputs, **params)]
        else:
            outputs = eqn.primitive.bind(*inputs, **params)
            outputs = outputs if eqn.primitive.multiple_results else [outputs]
            if name == "reshape":
                shaped[id(outputs[0])] = outputs[0], inputs[0]
        values |= zip(eqn.outvars, outputs, strict=True)
    return [v.val if isinstance(v, Literal) else values[v] for v in jaxpr.outvars]


def _is_pooling(axes: Sequence[int], shape: Sequence[Any]) -> bool:
    """Whether it is the maximum over the blocks [batch, rows, in a block, columns, in a block, channels]."""
    return tuple(axes) == (2, 4) and len(shape) == 6


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


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences what jax2onnx says that is nobody's concern, and takes its arithmetic with mixed ranks and dtypes.

    It logs a traceback for each optional package that does not suit it, uses a deprecated name of JAX, and writes
    through the root logger, which gives that a handler for the rest of the process.
    """
    root, loggers = logging.getLogger(), [logging.getLogger(name) for name in ("jax2onnx", "onnx_ir")]
    levels, handler = [logger.level for logger in loggers], logging.NullHandler()
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
