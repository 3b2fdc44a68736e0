"""Each ONNX file is run by ONNX Runtime and compared with the model before it is given to anybody."""

import importlib.util
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jopt.export.onnx_graph import Graph, attribute
from jopt.export.onnx_trace import INPUT, OUTPUT

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

TOLERANCE = 1e-4
"""Of the largest logit. A sum of K products in another order is off by at most K 2^-24 of the sum of magnitudes
(Higham, 2002, equation 3.5), so this is room for 1700 roundings that all go one way; trained networks of 18 layers
differ by 1e-6 to 1e-5. An approximated GELU, the nearest of the wrong graphs we know, is off by 5e-4."""
MOVED = 0.5
"""Of what rounding the layers' inputs changes, as root mean squares: what codes may change that lie on the other
side of a rounding boundary. Rounding errs by sqrt(1/12) of a step, a moved code by one step, so a share f of moved
codes adds sqrt(12 f) of the error of rounding: this is f = 2 %."""
LARGEST_MOVED = 0.1
"""Of the logits, as root mean squares: the most that moved codes may change, however coarse the codes are."""
BATCHES = (3, 16)

_MOVES = ("Ceil", "Floor", "Flatten", "Identity", "Reshape", "Round", "Squeeze", "Transpose", "Unsqueeze")
_INTEGERS = 16  # what an index can be where no table says it.


class OnnxError(ValueError):
    """A file cannot be run, or does not compute what the model computes: it is not written."""


def inputs(
    graph: Graph, input_shape: Sequence[int], mean: Any = None, std: Any = None, examples: Any = None
) -> list[np.ndarray]:
    """Two batches, of 3 and of 16 examples, as the file takes them.

    Args:
      graph: the float graph.
      input_shape: of one example.
      mean: of the raw inputs, if the graph takes those.
      std: of the raw inputs, as mean.
      examples: [n, *input_shape], taken in turn. None: normal numbers, of this mean and standard deviation; where
        the graph makes integers of all that it takes, such as the rows of an embedding, integers from 0, below the
        smallest number of rows.

    Raises:
      ValueError: for examples of another shape, or none.
    """
    count = sum(BATCHES)
    if examples is not None:
        given = np.asarray(examples, np.float32)
        if given.shape[1:] != tuple(input_shape) or not len(given):
            raise ValueError(f"examples must be [n, {', '.join(map(str, input_shape))}], n > 0, got {given.shape}")
        x = given[np.arange(count) % len(given)]
    else:
        rng, shape = np.random.default_rng(0), (count, *input_shape)
        rows = _rows(graph)
        x = rng.normal(size=shape) if rows is None else rng.integers(0, rows, shape)
        x = (x if mean is None or rows is not None else x * np.asarray(std) + np.asarray(mean)).astype(np.float32)
    return [x[: BATCHES[0]], x[BATCHES[0] :]]


def _rows(graph: Graph) -> int | None:
    """How many integers an input can be; None: it is not made integers."""
    from onnx import TensorProto

    whole = (TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64, TensorProto.UINT8)
    names = [INPUT]
    while names:
        for user in graph.users(names.pop()):
            if user.op_type in _MOVES:
                names += user.output
            elif user.op_type != "Cast" or attribute(user, "to") not in whole:
                return None
    tables = [
        graph.constants[n.input[0]] for n in graph.nodes if n.op_type == "Gather" and n.input[0] in graph.constants
    ]
    return min((t.shape[0] for t in tables if t.dtype.kind == "f" and t.ndim > 1), default=_INTEGERS)


def check(
    content: bytes,
    model: Callable[..., Any],
    trees: Sequence[Any],
    batches: Sequence[np.ndarray],
    tolerance: float = TOLERANCE,
    *,
    unrounded: Callable[..., Any] | None = None,
) -> None:
    """Runs a file on some batches and compares its logits with the model's.

    Where ONNX Runtime is not installed the file is not run, and a warning says so.

    Args:
      content: the file's bytes.
      model: what the file should compute, `(*trees, x) -> logits`.
      trees: parameters and the like.
      batches: what to run it on, each float32 [batch, ...].
      tolerance: of the largest logit of the batch.
      unrounded: of a quantized model: the model with layers' inputs that are not rounded. Then logits may also
        differ by `MOVED` of what that rounding changes, as root mean squares, but by no more than `LARGEST_MOVED`
        of them.

    Raises:
      OnnxError: if ONNX Runtime cannot run the file, or gives other logits.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        warnings.warn(
            "the ONNX file was not run and compared with the model: that needs the package onnxruntime, not "
            "installed here: pip install 'jopt[export]'",
            stacklevel=4,
        )
        return
    import onnxruntime

    try:
        runner = session(content)
        found = [np.asarray(runner.run([OUTPUT], {INPUT: x})[0]) for x in batches]
    except Exception as error:  # ONNX Runtime's share no base class of its own.
        raise OnnxError(f"ONNX Runtime {onnxruntime.__version__} cannot run the file: {error}") from error
    expected = _on_cpu(model, trees, batches)
    wrong = [p for p in zip(found, expected, strict=True) if not _agrees(*p, tolerance)]
    if not wrong:
        return
    if unrounded is not None and all(f.shape == e.shape for f, e in wrong):
        plain = _on_cpu(unrounded, trees, batches)
        f, e, p = (np.concatenate([np.asarray(v, np.float64) for v in part]) for part in (found, expected, plain))
        allowed = min(LARGEST_MOVED * _rms(e), tolerance * _rms(e) + MOVED * _rms(e - p))
        if _rms(f - e) <= allowed:
            return
        raise OnnxError(
            "the file does not compute what the simulation computes: the differences of logits have a root mean "
            f"square of {_rms(f - e):.3g} (the largest is {np.abs(f - e).max():.3g}), where {allowed:.3g} is the "
            "tolerance; nothing was written"
        )
    raise OnnxError(_difference(*wrong[0], tolerance))


def check_biases(
    model: Callable[..., Any], rounded: Sequence[Any], exact: Sequence[Any], batches: Sequence[np.ndarray]
) -> None:
    """Refuses the form 'qdq' where the rounding of biases, to whole steps of the sums, changes too much.

    Args:
      model: the simulation, `(*trees, x) -> logits`.
      rounded: its trees with rounded biases.
      exact: its trees.
      batches: as in `check`.

    Raises:
      OnnxError: if logits change by more than `LARGEST_MOVED`, as root mean squares.
    """
    f, e = (np.concatenate(_on_cpu(model, trees, batches)).astype(np.float64) for trees in (rounded, exact))
    if _rms(f - e) > LARGEST_MOVED * _rms(e):
        raise OnnxError(
            "the form 'qdq' rounds biases to whole steps of the sums, too coarse here: the differences of logits "
            f"have a root mean square of {_rms(f - e):.3g} (the largest is {np.abs(f - e).max():.3g}), where "
            f"{LARGEST_MOVED * _rms(e):.3g} is the tolerance; nothing was written; the form 'integer' keeps biases "
            "in float32"
        )


def _on_cpu(function: Callable[..., Any], trees: Sequence[Any], batches: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What a function gives, compiled quickly, with float32 products whatever the default device does."""
    trees = jax.device_get(tuple(trees))
    with jax.default_device(jax.devices("cpu")[0]), jax.default_matmul_precision("float32"):
        run = jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})
        return [np.asarray(run(*trees, x)) for x in batches]


def _agrees(found: np.ndarray, expected: np.ndarray, tolerance: float) -> bool:
    finite = np.isfinite(expected)
    if not finite.any():
        raise OnnxError(
            "the file cannot be compared with the model: for the inputs of the check, none of the model's logits "
            "is finite; give examples=, inputs that it was made for"
        )
    if found.shape != expected.shape or not np.array_equal(found[~finite], expected[~finite], equal_nan=True):
        return False
    largest = np.abs(expected[finite]).max()
    return bool(np.abs(found[finite].astype(np.float64) - expected[finite]).max() <= tolerance * largest)


def _difference(found: np.ndarray, expected: np.ndarray, tolerance: float) -> str:
    start = "the file does not compute what the model computes: "
    if found.shape != expected.shape:
        return f"{start}it gives {found.shape} instead of {expected.shape}; nothing was written"
    finite = np.isfinite(expected)
    if not np.array_equal(found[~finite], expected[~finite], equal_nan=True) or np.isnan(found[finite]).any():
        return f"{start}its logits are NaN or infinite elsewhere; nothing was written"
    difference = np.abs(found[finite].astype(np.float64) - expected[finite]).max()
    largest = np.abs(expected[finite]).max()
    return (
        f"{start}on a batch of {len(found)}, the largest difference of two logits is {difference:.3g}, where "
        f"{tolerance * largest:.3g} is the tolerance ({tolerance:g} of the largest logit); nothing was written"
    )


def _rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


def session(model: str | os.PathLike[str] | bytes, *, threads: int | None = None) -> "InferenceSession":
    """An ONNX Runtime session on the CPU.

    Args:
      model: a file, or its bytes.
      threads: of an operation; None: as many as there are cores.

    Raises:
      ImportError: without the extra 'export'.
    """
    try:
        import onnxruntime
    except ImportError as error:
        message = "running ONNX files needs the package onnxruntime, not installed here: pip install 'jopt[export]'"
        raise ImportError(message) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.inter_op_num_threads = 1
    if threads is not None:
        options.intra_op_num_threads = threads
    content = model if isinstance(model, bytes) else Path(model).read_bytes()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
