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

from jopt import data, intercept
from jopt.export.onnx_codes import Input
from jopt.export.onnx_plain import evaluate
from jopt.quantize.activation_config import has_state
from jopt.rules import named_leaves

if TYPE_CHECKING:
    from onnx import ModelProto

INPUT, OUTPUT = "input", "logits"
MARK = "/input"
"""Behind a layer's path: the scalar that the layer's input is multiplied with, so that it is found in the graph."""
OPSET = 21
"""The first with 4-bit integers."""


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

    The trace is made here, before jax2onnx puts its own functions into the place of Flax's and JAX's, and in the
    plain operations of `jopt.export.onnx_plain` (so that a convolution is one, and not the slices and the product
    of `jopt.models.conv`).

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
            lambda *args: evaluate(closed.jaxpr, closed.consts, args)[0],
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
