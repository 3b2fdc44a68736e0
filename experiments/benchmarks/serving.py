"""Suite `serving`: what a call of a network costs in ONNX Runtime and XLA, in floats, in integers, and shrunk."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.shrink import Network, shrunk
from experiments.benchmarks.timing import Ratio, Spread, alternate, ratio, spread
from jopt import models, quantize
from jopt.quantize import integer
from jopt.quantize.activations import split
from jopt.rules import named_leaves

BATCHES = (1, 64, 256)
THREADS = 1
"""Of ONNX Runtime. XLA has no such option: it hands what it finds large to all cores."""

ORT, ORT_INTEGER, ORT_QDQ = "ONNX Runtime, float32", "ONNX Runtime, int8", "ONNX Runtime, int8 (QDQ)"
XLA, XLA_INTEGER, XLA_SHRUNK = "XLA, float32", "XLA, int8", "XLA, float32, 75 % of the units removed"
REMOVED = 0.75

MLP = "MLP 784-1024-1024-10"
NETWORKS = (
    Network(MLP, models.Config("mlp", (1024, 1024)), (784,)),
    Network("LeNet-5, 28x28x1", models.Config("lenet5"), (28, 28, 1)),
)
AGAINST = {ORT_INTEGER: ORT, ORT_QDQ: ORT, XLA_INTEGER: XLA, XLA_SHRUNK: XLA}
TARGETS = {(MLP, ORT_INTEGER): 1.8, (MLP, ORT_QDQ): 1.8}


class MissingOnnxError(ImportError):
    """The packages of the extra 'export' are not installed."""


class ServingRow(NamedTuple):
    """One way to serve a network, at one batch size.

    Attributes:
      network: its name.
      batch_size: examples in a call.
      contender: the way.
      bytes: of the ONNX file, or None.
      seconds: of a call, from a NumPy array to a NumPy array or waited for (measured).
      examples_per_second: the batch size over the median of `seconds`.
      speedup: how many times as long its float32 counterpart takes, round by round; None for these themselves.
    """

    network: str
    batch_size: int
    contender: str
    bytes: int | None
    seconds: Spread
    examples_per_second: float
    speedup: Ratio | None


class Quantized(NamedTuple):
    """A network with 8-bit codes: the arguments of `jopt.quantize.integer.network`, in order."""

    model: models.Model
    params: Any
    model_state: Any
    weights: dict[str, quantize.QTensor]
    activations: quantize.ActivationConfig


def serving(
    rounds: int, seconds: float, networks: Sequence[Network] = NETWORKS, batches: Sequence[int] = BATCHES
) -> list[ServingRow]:
    """Times each way to serve each network, in turn.

    Args:
      rounds: how often each is timed.
      seconds: how long about each works in one round.
      networks: which.
      batches: examples in a call.

    Raises:
      MissingOnnxError: without the extra 'export'.
      RuntimeError: if ONNX Runtime does not compute what XLA does.
    """
    out = []
    for network in networks:
        made = quantized(network)
        files = encoded(network, made)
        small = shrunk(network, REMOVED)[:2]
        for batch in batches:
            x = inputs(network, batch)
            work = contenders(network, made, files, small, x)
            times = alternate(work, rounds, seconds)
            for name in work:
                base, measured = AGAINST.get(name), spread(times[name])
                target = TARGETS.get((network.name, name))
                speedup = None if base is None else ratio(base, times[base], times[name], target)
                size = len(files[name]) if name in files else None
                out.append(ServingRow(network.name, batch, name, size, measured, batch / measured.median, speedup))
    return out


def inputs(network: Network, batch: int) -> np.ndarray:
    """Random examples in [0, 1), float32."""
    return np.random.default_rng(2).random((batch, *network.shape), np.float32)


def quantized(network: Network) -> Quantized:
    """The network with int8 weights, by output channel, and uint8 inputs of its layers, calibrated on 256 examples.

    Weights are random: they cost what trained ones do.
    """
    model = models.model(network.config)
    x = jnp.asarray(inputs(network, 256))
    params, model_state = jax.jit(model.init)(jax.random.key(0), x[:1])
    # Zero biases, as they are initialized, are additions that a runtime leaves out.
    params = jax.tree.map(
        lambda v: v if v.ndim > 1 else 0.1 * jax.random.normal(jax.random.key(1), v.shape), params
    )
    spec = quantize.Spec(8, axis=-1)
    kernels = {path: leaf for path, leaf in named_leaves(params) if path.endswith("/kernel")}
    weights = {path: quantize.quantize(leaf, spec) for path, leaf in kernels.items()}
    activations = quantize.Activations(calibration="absmax")
    params, model_state = quantize.calibrate(model, activations, params, model_state, x)
    return Quantized(model, params, model_state, weights, activations)


def encoded(network: Network, made: Quantized) -> dict[str, bytes]:
    """The ONNX files, by contender."""
    from jopt.export import onnx

    params, model_state = (split(name, tree)[0] for name, tree in _trees(made))
    try:
        return {
            ORT: onnx.encode(made.model, params, model_state, network.shape),
            ORT_INTEGER: onnx.encode_quantized(*made[:3], network.shape, *made[3:]),
            ORT_QDQ: onnx.encode_quantized(*made[:3], network.shape, *made[3:], form="qdq"),
        }
    except ImportError as error:
        raise MissingOnnxError(f"suite serving: {error}") from error


def contenders(
    network: Network, made: Quantized, files: dict[str, bytes], small: tuple[Any, Any], x: np.ndarray
) -> dict[str, Callable[[], int]]:
    """The calls to time, by name.

    Raises:
      RuntimeError: if ONNX Runtime gives other float32 logits than XLA, or other classes than XLA's int8 network.
    """
    params, model_state = (split(name, tree)[0] for name, tree in _trees(made))
    module, cut = small
    compiled = {
        XLA: _compiled(lambda x: made.model.apply(params, model_state, x, train=False)[0], x),
        XLA_INTEGER: _compiled(integer.network(*made), x),
        XLA_SHRUNK: _compiled(lambda x: module.apply({"params": cut}, x), x),
    }
    served = {name: _session(content) for name, content in files.items()}
    found = {name: np.asarray(call(x)) for name, call in {**served, **compiled}.items()}
    if not np.allclose(found[ORT], found[XLA], rtol=1e-3, atol=1e-4):
        raise RuntimeError(f"{network.name}: ONNX Runtime's logits are not XLA's")
    if (found[ORT_INTEGER].argmax(-1) != found[XLA_INTEGER].argmax(-1)).any():
        raise RuntimeError(f"{network.name}: ONNX Runtime's int8 classes are not XLA's")

    def work(call: Callable[[np.ndarray], Any]) -> Callable[[], int]:
        def once() -> int:
            call(x)
            return 1

        return once

    return {name: work(call) for name, call in {**served, **compiled}.items()}


def _trees(made: Quantized) -> tuple[tuple[str, Any], tuple[str, Any]]:
    return ("params", made.params), ("model_state", made.model_state)


def _session(content: bytes) -> Callable[[np.ndarray], Any]:
    from jopt.export import onnx

    session = onnx.session(content, threads=THREADS)
    return lambda x: session.run(None, {onnx.INPUT: x})[0]


def _compiled(function: Callable[[jax.Array], jax.Array], x: np.ndarray) -> Callable[[np.ndarray], jax.Array]:
    call = jax.jit(function).lower(jax.ShapeDtypeStruct(x.shape, x.dtype)).compile()
    return lambda x: jax.block_until_ready(call(x))
