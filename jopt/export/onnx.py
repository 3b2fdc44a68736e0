"""ONNX files of a model: in float32, and quantized, computing on the codes that jopt computes on."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jopt import data, intercept
from jopt.config import choice
from jopt.export import onnx_check, onnx_codes, onnx_quantize
from jopt.export.onnx_check import OnnxError as OnnxError
from jopt.export.onnx_check import session as session
from jopt.export.onnx_graph import read, write
from jopt.export.onnx_tidy import fold, tidy
from jopt.export.onnx_trace import INPUT as INPUT
from jopt.export.onnx_trace import OUTPUT as OUTPUT
from jopt.export.onnx_trace import trace
from jopt.files import write_bytes
from jopt.quantize.activation_config import ActivationConfig
from jopt.quantize.activations import activations as activate
from jopt.quantize.activations import split
from jopt.quantize.tensors import dequantize
from jopt.rules import named_leaves

if TYPE_CHECKING:
    from jopt.models import Model
    from jopt.quantize import QTensor

FORMS = onnx_quantize.FORMS


def encode(
    model: "Model",
    params: Any,
    model_state: Any,
    input_shape: Sequence[int],
    *,
    mean: Any = None,
    std: Any = None,
    metadata: Mapping[str, str] | None = None,
    examples: Any = None,
    tolerance: float = onnx_check.TOLERANCE,
) -> bytes:
    """A model in evaluation mode as an ONNX file's bytes.

    ONNX Runtime runs them on two batches, and what it gives is compared with what the model gives, before they are
    returned (`jopt.export.onnx_check`). Where it is not installed, a warning says that this was not done.

    Parameters keep their paths as names. The batch size is symbolic, 'B'. The graph is jax2onnx's, made smaller by
    `jopt.export.onnx_tidy`; a convolution is a `Conv` (channels first, between transpositions).

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
      tolerance: by how much a logit may differ, of the largest of its batch.

    Returns:
      The bytes: a model of `input`, float32 [B, *input_shape], and `logits`, float32 [B, classes]; opset 21.

    Raises:
      ImportError: without jax2onnx and onnx, of the extra 'export'.
      ValueError: if mean comes without std; for examples of another shape.
      NotImplementedError: from jax2onnx, for an operation that it does not know.
      OnnxError: if ONNX Runtime cannot run the file, or gives other logits than the model.
    """
    traced = trace(model.apply, params, model_state, input_shape, mean=mean, std=std)
    graph = read(traced.proto, traced.constants)
    tidy(graph)
    batches = onnx_check.inputs(graph, input_shape, mean, std, examples)
    content = write(graph, metadata or {}).SerializeToString(deterministic=True)
    onnx_check.check(content, _logits(model, mean, std), (params, model_state), batches, tolerance)
    return content


def encode_quantized(
    model: "Model",
    params: Any,
    model_state: Any,
    input_shape: Sequence[int],
    weights: Mapping[str, "QTensor"],
    activations: ActivationConfig,
    *,
    mean: Any = None,
    std: Any = None,
    metadata: Mapping[str, str] | None = None,
    form: str = "integer",
    examples: Any = None,
    tolerance: float = onnx_check.TOLERANCE,
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

    Returns:
      The bytes: a model of the inputs and outputs of `encode`'s.

    Raises:
      ConfigError: for another form.
      ImportError: without jax2onnx and onnx, of the extra 'export'.
      ValueError: for a path in `weights` that is no parameter of that shape; a layer without a range; mean without
        std; examples of another shape.
      OnnxError: if ONNX Runtime cannot run the file, or gives other logits than the simulation.

    Jacob et al., 2018, "Quantization and training of neural networks for efficient integer-arithmetic-only
    inference", section 2.
    """
    choice("form", form, FORMS)
    given = params, model_state
    params, learned = split("params", params)
    model_state, held = split("model_state", model_state)
    x = np.zeros((1, *input_shape), np.float32)
    layers = intercept.names(model.apply, params, model_state, x, train=False)
    grids = onnx_codes.inputs(activations, layers, learned, held)
    codes = {path: onnx_codes.weight(q) for path, q in weights.items()}
    traced = trace(
        *(model.apply, params, model_state, input_shape),
        mean=mean,
        std=std,
        layers=list(grids),
        states=onnx_codes.states(activations, layers),
    )
    for path, own in codes.items():
        if path not in traced.constants or traced.constants[path].shape != own.codes.shape:
            have = ", ".join(f"{name} {value.shape}" for name, value in traced.constants.items())
            raise ValueError(f"weights[{path!r}] {own.codes.shape} is no parameter; there are: {have}")
    ranks = {name: len(layers[layer][0].input.shape) for layer, name in traced.marks.items()}
    marks = {name: np.ones((1,) * rank, np.float32) for name, rank in ranks.items()}
    graph = read(traced.proto, {**traced.constants, **marks})
    tidy(graph, kept={*codes, *marks})
    batches = onnx_check.inputs(graph, input_shape, mean, std, examples)
    biases = onnx_quantize.quantize(graph, codes, grids, traced.marks, form)
    fold(graph)
    content = write(graph, metadata or {}).SerializeToString(deterministic=True)
    simulation = activate(model, activations)
    exact = _logits(model, mean, std, bare=True)
    simulated = exact if simulation is model else _logits(simulation, mean, std)
    values = {path: dequantize(q) for path, q in weights.items()}
    trees = _with_values(given[0], values), given[1]
    rounded = _with_values(given[0], {**values, **biases}), given[1]
    onnx_check.check(content, simulated, rounded, batches, tolerance, unrounded=exact)
    if biases:
        onnx_check.check_biases(simulated, rounded, trees, batches)
    return content


def _logits(model: "Model", mean: Any, std: Any, *, bare: bool = False) -> Callable[..., jax.Array]:
    """The model in evaluation mode, of `(params, model_state, x)`; `bare`: of these without layers' ranges."""

    def logits(params: Any, model_state: Any, x: jax.Array) -> jax.Array:
        if bare:
            params, model_state = split("params", params)[0], split("model_state", model_state)[0]
        if mean is not None:
            x = data.normalize(x, jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32))
        return model.apply(params, model_state, x, train=False)[0]

    return logits


def _with_values(params: Any, values: Mapping[str, Any]) -> Any:
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
      x: [batch, ...], what the model takes; made float32.
      threads: as in `session`.

    Returns:
      float32 [batch, classes].

    Raises:
      ImportError: without the extra 'export'.
    """
    (logits,) = session(model, threads=threads).run([OUTPUT], {INPUT: np.asarray(x, np.float32)})
    return np.asarray(logits)
