"""ONNX files of a model: in float32, and quantized, computing on the codes that jopt computes on.

Each file is run by ONNX Runtime and compared with the model before it is given to anybody.
"""

import importlib.util
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Float, PyTree

from jopt import data, intercept
from jopt.config import choice
from jopt.export import onnx_codes, onnx_quantize
from jopt.export.onnx_graph import known_shape, operands, serialize, simplify
from jopt.export.onnx_trace import INPUT as INPUT
from jopt.export.onnx_trace import OUTPUT as OUTPUT
from jopt.export.onnx_trace import trace
from jopt.files import write_bytes
from jopt.quantize.activations import ActivationMethod, split
from jopt.quantize.activations import activations as activate
from jopt.quantize.integer.network import check_layers
from jopt.quantize.tensors import dequantize
from jopt.rules import named_leaves

if TYPE_CHECKING:
    import onnx_ir as ir
    from onnxruntime import InferenceSession

    from jopt.models import Model
    from jopt.quantize import QTensor

FORMS = onnx_quantize.FORMS

Logits = Float[np.ndarray, "examples classes"]
Predict = Callable[..., jax.Array]
"""`(*trees, x) -> logits`."""

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

_KEEP_VALUES = ("Ceil", "Floor", "Flatten", "Identity", "Reshape", "Round", "Squeeze", "Transpose", "Unsqueeze")
_INTEGERS = 16  # what an index can be where no table says it.


class OnnxError(ValueError):
    """A file cannot be run, or does not compute what the model computes: it is not written."""


class CoarseBiasError(OnnxError):
    """The form 'qdq' rounds the biases of this model too coarsely: the form 'integer' keeps them."""


def encode(
    model: "Model",
    params: PyTree,
    model_state: PyTree,
    input_shape: Sequence[int],
    *,
    mean: ArrayLike | None = None,
    std: ArrayLike | None = None,
    metadata: Mapping[str, str] | None = None,
    examples: ArrayLike | None = None,
    tolerance: float = TOLERANCE,
    dtype: DTypeLike = np.float32,
) -> bytes:
    """A model in evaluation mode as an ONNX file's bytes.

    ONNX Runtime runs them on two batches, and what it gives is compared with what the model gives, before they are
    returned (`check`). Where it is not installed, a warning says that this was not done.

    Parameters keep their paths as names. The batch size is symbolic, 'B'. The graph is jax2onnx's, made smaller by
    onnxscript and `jopt.export.onnx_graph`; a convolution is a `Conv` (channels first, between transpositions).

    Args:
      model: a `jopt.models.Model`.
      params: its parameters, float32, as the model sees them (masked ones hold zeros).
      model_state: its state. Batch normalizations are better folded before, by `jopt.quantize.fold`.
      input_shape: of one example.
      mean: float32 [channels]: the graph begins with (input - mean) / std, so that it takes raw inputs as float32;
        None: it takes what the model takes.
      std: float32 [channels].
      metadata: strings by name, kept in the file.
      examples: [n, *input_shape], inputs to compare with, as the graph takes them. None: random normal numbers
        (of `mean` and `std` where these are given), or integers where the graph makes integers of all its inputs.
      tolerance: by how much an output may differ, of the largest of its batch.
      dtype: of the input: float32, or integers, such as tokens.

    Returns:
      The bytes: a model of `input` [B, *input_shape], of `dtype`, and `logits`, float32 [B, ...]; opset 21.

    Raises:
      ImportError: without jax2onnx and onnx, of the extra 'export'.
      ValueError: if mean comes without std; for examples of another shape.
      NotImplementedError: from jax2onnx, for an operation that it does not know.
      OnnxError: if ONNX Runtime cannot run the file, or gives other logits than the model.
    """
    # All parameters are constants from here on, so that whatever is computed of them alone is computed now.
    traced = trace(model.apply, params, model_state, input_shape, mean=mean, std=std, dtype=dtype)
    simplify(traced.model, traced.constants)
    batches = example_batches(traced.model, input_shape, mean, std, examples, dtype)
    content = serialize(traced.model, traced.constants, metadata or {})
    check(content, _logits(model, mean, std), (params, model_state), batches, tolerance)
    return content


def encode_quantized(
    model: "Model",
    params: PyTree,
    model_state: PyTree,
    input_shape: Sequence[int],
    weights: Mapping[str, "QTensor"],
    activations: ActivationMethod,
    *,
    mean: ArrayLike | None = None,
    std: ArrayLike | None = None,
    metadata: Mapping[str, str] | None = None,
    form: str = "integer",
    examples: ArrayLike | None = None,
    tolerance: float = TOLERANCE,
    dtype: DTypeLike = np.float32,
) -> bytes:
    """A quantized model in evaluation mode as an ONNX file's bytes, compared with the simulation as in `encode`.

    In the form 'integer' a layer is `QuantizeLinear` (codes on the grid that the simulation rounds to),
    `MatMulInteger` or `ConvInteger` (exact sums in int32), and float(sum) * (s_x s_w) + bias: what
    `jopt.quantize.integer.network` computes. In the form 'qdq' it is the float operation between
    `DequantizeLinear`s, its bias rounded to int32 codes of scale s_x s_w, which ONNX Runtime turns into one kernel
    (`QGemm`, `QLinearConv`; not of 3 and 4 bits) and other runtimes read too; its rounded bias moves some codes by
    one.

    Weights of 1 and 2 bits are stored as 2-bit integers (opset 25), of 3 and 4 bits as 4-bit ones, of 5 to 8 as
    bytes; ONNX Runtime makes bytes of them once, when it loads the file. The codes of a layer's input are named
    '<layer>/codes'. In float32, from the values that the codes stand for, stay: a layer whose input is not
    quantized or has 16 bits; a recurrent kernel's product; scales shared by groups; a convolution with 5 to 8 bits
    and a zero point for each channel.

    Args:
      model: the model before `jopt.quantize.activations`.
      params: its parameters, with the ranges that are learned; what the kernels in `weights` hold is not read.
      model_state: its state, with the other ranges.
      input_shape: of one example.
      weights: from a parameter's path, such as 'Dense_0/kernel', to its codes.
      activations: how the layers' inputs are quantized.
      mean: as in `encode`.
      std: as in `encode`.
      metadata: strings by name, kept in the file.
      form: 'integer' or 'qdq'.
      examples: as in `encode`.
      tolerance: as in `encode`; where codes fall on the other side of a rounding boundary, logits may differ by
        half of what the rounding of layers' inputs changes, as root mean squares, and by 10 % at most. In the form
        'qdq' it is compared with a simulation whose biases are rounded too, and these may change logits by 10 %.
      dtype: as in `encode`.

    Returns:
      The bytes: a model of the inputs and outputs of `encode`'s.

    Raises:
      ConfigError: for another form.
      ImportError: without jax2onnx and onnx, of the extra 'export'.
      ValueError: for a path in `weights` that is no parameter of that shape; a layer of Equinox; a layer without a
        range; mean without std; examples of another shape.
      OnnxError: if ONNX Runtime cannot run the file, or gives other logits than the simulation; CoarseBiasError
        where 'qdq' rounds biases too coarsely.

    Jacob et al., 2018, "Quantization and training of neural networks for efficient integer-arithmetic-only
    inference", section 2.
    """
    choice("form", form, FORMS)
    bare_params, learned = split("params", params)
    bare_state, frozen = split("model_state", model_state)
    # The ranges are the simulation's; the model itself is traced without them.
    x = np.zeros((1, *input_shape), dtype)
    layers = intercept.names(model.apply, bare_params, bare_state, x, train=False)
    input_codes = onnx_codes.inputs(activations, layers, learned, frozen)
    check_layers(weights, input_codes)
    codes = {path: onnx_codes.weight(q) for path, q in weights.items()}
    traced = trace(
        *(model.apply, bare_params, bare_state, input_shape),
        mean=mean,
        std=std,
        layers=list(input_codes),
        states=onnx_codes.states(activations, layers),
        dtype=dtype,
    )
    for path, weight in codes.items():
        if path not in traced.constants or traced.constants[path].shape != weight.codes.shape:
            have = ", ".join(f"{name} {value.shape}" for name, value in traced.constants.items())
            raise ValueError(f"weights[{path!r}] {weight.codes.shape} is no parameter; there are: {have}")
    # Kernels stay inputs, so that nothing is folded into them, until their codes take their place.
    simplify(traced.model, {name: value for name, value in traced.constants.items() if name not in codes})
    batches = example_batches(traced.model, input_shape, mean, std, examples, dtype)
    biases = onnx_quantize.quantize(traced.model, codes, input_codes, traced.marks, form)
    content = serialize(traced.model, traced.constants, metadata or {})
    simulation = activate(model, activations)
    exact = _logits(model, mean, std, bare=True)
    # Where no layer's input is quantized, the simulation is the model itself, which does not know of ranges.
    simulated = exact if simulation is model else _logits(simulation, mean, std)
    # The simulation of what the file holds: kernels from their codes, and biases as 'qdq' rounds them. What that
    # rounding alone changes is judged by itself, against the model's own biases.
    values = {path: dequantize(q) for path, q in weights.items()}
    trees = _with_values(params, values), model_state
    rounded = _with_values(params, {**values, **biases}), model_state
    check(content, simulated, rounded, batches, tolerance, unrounded=exact)
    if biases:
        check_biases(simulated, rounded, trees, batches)
    return content


def _logits(model: "Model", mean: ArrayLike | None, std: ArrayLike | None, *, bare: bool = False) -> Predict:
    """The model in evaluation mode, of `(params, model_state, x)`; `bare`: of these without layers' ranges."""

    def logits(params: PyTree, model_state: PyTree, x: jax.Array) -> jax.Array:
        if bare:
            params, model_state = split("params", params)[0], split("model_state", model_state)[0]
        if mean is not None:
            x = data.normalize(x, jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32))
        return model.apply(params, model_state, x, train=False)[0]

    return logits


def _with_values(params: PyTree, values: Mapping[str, ArrayLike]) -> PyTree:
    """The parameters, some with other values."""
    named = named_leaves(params)
    leaves = [np.reshape(values[path], np.shape(leaf)) if path in values else leaf for path, leaf in named]
    return jax.tree.unflatten(jax.tree.structure(params), leaves)


def save(path: str | os.PathLike[str], *args: Any, **options: Any) -> int:
    """Writes what `encode` gives for the other arguments, atomically; returns the bytes written.

    Raises:
      OSError: if it cannot be written; else as `encode`.
    """
    content = encode(*args, **options)
    write_bytes(path, content)
    return len(content)


def save_quantized(path: str | os.PathLike[str], *args: Any, **options: Any) -> int:
    """Writes what `encode_quantized` gives for the other arguments, atomically; returns the bytes written.

    Raises:
      OSError: if it cannot be written; else as `encode_quantized`.
    """
    content = encode_quantized(*args, **options)
    write_bytes(path, content)
    return len(content)


def run(model: str | os.PathLike[str] | bytes, x: np.ndarray, *, threads: int | None = None) -> np.ndarray:
    """The logits that ONNX Runtime gives on the CPU.

    Args:
      model: a file that was written here, or its bytes.
      x: [batch, ...], what the model takes; made float32 where it takes that.
      threads: as in `session`.

    Returns:
      float32 [batch, classes].

    Raises:
      ImportError: without the extra 'export'.
    """
    runner = session(model, threads=threads)
    floating = runner.get_inputs()[0].type == "tensor(float)"
    (logits,) = runner.run([OUTPUT], {INPUT: np.asarray(x, np.float32 if floating else None)})
    return np.asarray(logits)


def example_batches(
    model: "ir.Model",
    input_shape: Sequence[int],
    mean: ArrayLike | None = None,
    std: ArrayLike | None = None,
    examples: ArrayLike | None = None,
    dtype: DTypeLike = np.float32,
) -> list[np.ndarray]:
    """Two batches, of 3 and of 16 examples, as the file takes them.

    Args:
      model: the float graph.
      input_shape: of one example.
      mean: of the raw inputs, if the graph takes those.
      std: of the raw inputs, as mean.
      examples: [n, *input_shape], taken in turn. None: normal numbers, of this mean and standard deviation; where
        the graph makes integers of all that it takes, such as the rows of an embedding, integers from 0, below the
        smallest number of rows.
      dtype: of the input.

    Raises:
      ValueError: for examples of another shape, or none.
    """
    count = sum(BATCHES)
    if examples is not None:
        x = np.asarray(examples, dtype)
        if x.shape[1:] != tuple(input_shape) or not len(x):
            raise ValueError(f"examples must be [n, {', '.join(map(str, input_shape))}], n > 0, got {x.shape}")
        x = x[np.arange(count) % len(x)]
    else:
        rng, shape = np.random.default_rng(0), (count, *input_shape)
        indices = _index_range(model)
        x = rng.normal(size=shape) if indices is None else rng.integers(0, indices, shape)
        if mean is not None and std is not None and indices is None:
            x = x * np.asarray(std) + np.asarray(mean)
        x = x.astype(dtype)
    return [x[: BATCHES[0]], x[BATCHES[0] :]]


def _index_range(model: "ir.Model") -> int | None:
    """Of an input that is made integers, how many there can be; None: it is used as numbers.

    A normal number is a poor index: half of them are below 0, and most rows of a table would not be looked at.
    """
    values = [value for value in model.graph.inputs if value.name == INPUT]
    while values:
        for node, _ in values.pop().uses():
            if node.op_type in _KEEP_VALUES:
                values += node.outputs
            elif node.op_type != "Cast" or node.outputs[0].dtype is None or not node.outputs[0].dtype.is_integer():
                return None
    tables = [operands(node)[0] for node in model.graph if node.op_type == "Gather"]
    sizes = [
        shape[0]
        for table in tables
        if table.producer() is None and table.dtype is not None and table.dtype.is_floating_point()
        if (shape := known_shape(table)) is not None and len(shape) > 1
    ]
    return min((size for size in sizes if size is not None), default=_INTEGERS)


def check(
    content: bytes,
    predict: Predict,
    trees: Sequence[PyTree],
    batches: Sequence[np.ndarray],
    tolerance: float = TOLERANCE,
    *,
    unrounded: Predict | None = None,
) -> None:
    """Runs a file on some batches and compares its logits with the model's.

    Where ONNX Runtime is not installed the file is not run, and a warning says so.

    Args:
      content: the file's bytes.
      predict: what the file should compute.
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
        outputs = [np.asarray(runner.run([OUTPUT], {INPUT: x})[0]) for x in batches]
    except Exception as error:  # ONNX Runtime's share no base class of its own.
        raise OnnxError(f"ONNX Runtime {onnxruntime.__version__} cannot run the file: {error}") from error
    expected = _on_cpu(predict, trees, batches)
    wrong = [pair for pair in zip(outputs, expected, strict=True) if not _agrees(*pair, tolerance)]
    if not wrong:
        return
    if unrounded is None or any(logits.shape != expected.shape for logits, expected in wrong):
        raise OnnxError(_difference(*wrong[0], tolerance))
    # A value beside a rounding boundary got the next code: judged by how much of that there is in all the logits.
    plain = _on_cpu(unrounded, trees, batches)
    logits, simulated, smooth = (np.concatenate(part).astype(np.float64) for part in (outputs, expected, plain))
    allowed = min(LARGEST_MOVED * _rms(simulated), tolerance * _rms(simulated) + MOVED * _rms(simulated - smooth))
    # Written so that a NaN is refused too: it is neither within the tolerance nor beyond it.
    if not _rms(logits - simulated) <= allowed:
        raise OnnxError(
            "the file does not compute what the simulation computes: "
            f"{_difference_of_all(logits, simulated, allowed)}; nothing was written"
        )


def check_biases(
    predict: Predict, rounded: Sequence[PyTree], exact: Sequence[PyTree], batches: Sequence[np.ndarray]
) -> None:
    """Refuses the form 'qdq' where the rounding of biases, to whole steps of the sums, changes too much.

    Args:
      predict: the simulation.
      rounded: its parameters and state with rounded biases.
      exact: the same with the model's own.
      batches: what to compare them on.

    Raises:
      CoarseBiasError: if the logits differ by more than `LARGEST_MOVED` of them, as root mean squares.
    """
    moved, simulated = (
        np.concatenate(_on_cpu(predict, trees, batches)).astype(np.float64) for trees in (rounded, exact)
    )
    allowed = LARGEST_MOVED * _rms(simulated)
    if _rms(moved - simulated) > allowed:
        raise CoarseBiasError(
            "the form 'qdq' rounds biases to whole steps of the sums, too coarse here: "
            f"{_difference_of_all(moved, simulated, allowed)}; nothing was written; the form 'integer' keeps "
            "biases in float32"
        )


def _difference_of_all(logits: Logits, simulated: Logits, allowed: float) -> str:
    difference = np.abs(logits - simulated)
    return (
        f"the differences of logits have a root mean square of {_rms(difference):.3g} (the largest is "
        f"{difference.max():.3g}), where {allowed:.3g} is the tolerance"
    )


def _on_cpu(predict: Predict, trees: Sequence[PyTree], batches: Sequence[np.ndarray]) -> list[Logits]:
    """What a function gives, compiled quickly, with float32 products whatever the default device does."""
    # On a GPU or TPU, products of float32 are rounded to fewer bits: the file would be blamed for that.
    trees = jax.device_get(tuple(trees))
    with jax.default_device(jax.devices("cpu")[0]), jax.default_matmul_precision("float32"):
        run = jax.jit(predict, compiler_options={"xla_backend_optimization_level": 0})
        return [np.asarray(run(*trees, x)) for x in batches]


def _agrees(logits: Logits, expected: Logits, tolerance: float) -> bool:
    finite = np.isfinite(expected)
    # Of nothing but NaNs, any file would agree.
    if not finite.any():
        raise OnnxError(
            "the file cannot be compared with the model: for the inputs of the check, none of the model's logits "
            "is finite; give examples=, inputs that it was made for"
        )
    if logits.shape != expected.shape or not np.array_equal(logits[~finite], expected[~finite], equal_nan=True):
        return False
    largest = np.abs(expected[finite]).max()
    return bool(np.abs(logits[finite].astype(np.float64) - expected[finite]).max() <= tolerance * largest)


def _difference(logits: Logits, expected: Logits, tolerance: float) -> str:
    start = "the file does not compute what the model computes: "
    if logits.shape != expected.shape:
        return f"{start}it gives {logits.shape} instead of {expected.shape}; nothing was written"
    finite = np.isfinite(expected)
    if not np.array_equal(logits[~finite], expected[~finite], equal_nan=True) or np.isnan(logits[finite]).any():
        return f"{start}its logits are NaN or infinite elsewhere; nothing was written"
    difference = np.abs(logits[finite].astype(np.float64) - expected[finite]).max()
    largest = np.abs(expected[finite]).max()
    return (
        f"{start}on a batch of {len(logits)}, the largest difference of two logits is {difference:.3g}, where "
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
