"""Forward passes: of shrunk networks (suite `shrink`), and in ONNX Runtime and XLA (suite `serving`)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import peers
from benchmarks.contenders import MLP_1024, SERVING_NETWORKS, SHRINK_NETWORKS, Network
from benchmarks.peers import QWIX_PTQ, TORCH, TORCH_DYNAMIC
from benchmarks.timing import MissingPackageError, Options, Row, alternate, at_least, compared, once
from jopt import measure, models, prune, quantize
from jopt.quantize import integer
from jopt.quantize.activations import split
from jopt.rules import named_leaves

REMOVED = (0.0, 0.5, 0.75, 0.9)
SHRINK_BATCHES = (1, 256)

BATCHES = (1, 64, 256)
# Of ONNX Runtime. XLA has no such option: it hands what it finds large to all cores.
THREADS = 1
ORT, ORT_INTEGER, ORT_QDQ = "ONNX Runtime, float32", "ONNX Runtime, int8", "ONNX Runtime, int8 (QDQ)"
XLA, XLA_INTEGER, XLA_SHRUNK = "XLA, float32", "XLA, int8", "XLA, float32, 75 % of the units removed"
REFERENCES = {ORT_INTEGER: ORT, ORT_QDQ: ORT, XLA_INTEGER: XLA, XLA_SHRUNK: XLA}
# Other packages, against jopt's network or file of the same precision on as many threads.
REFERENCES |= {TORCH: ORT, TORCH_DYNAMIC: ORT_INTEGER, QWIX_PTQ: XLA_INTEGER}
CLOSE = 0.05
"""Of the largest logit: what int8 of other packages, whose ranges are those of each batch, may change."""
SERVING_TARGETS = {(MLP_1024.name, ORT_INTEGER): 1.8, (MLP_1024.name, ORT_QDQ): 1.8}


def shrink(
    options: Options, networks: Sequence[Network] = SHRINK_NETWORKS, batches: Sequence[int] = SHRINK_BATCHES
) -> list[Row]:
    """Suite `shrink`: a compiled forward pass with more and more units removed, and its FLOPs (counted)."""
    rows = []
    for network in networks:
        sizes = {f"{100 * removed:g} % removed": shrunk(network, removed) for removed in REMOVED}
        for batch in batches:
            x = jax.random.normal(jax.random.key(2), (batch, *network.shape))
            calls = {name: _forward_pass(module, params, x) for name, (module, params, _) in sizes.items()}
            times = alternate(calls, options)
            case, dense = f"{network.name}, batch {batch}", next(iter(sizes))
            for row in compared(case, times, "seconds_per_call", dense, speedup=True):
                module, params, units = sizes[row.contender]
                counted = {
                    "units": units,
                    "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
                    "flops": measure.flops(module.apply, {"params": params}, x),
                    "examples_per_second": batch / float(np.median(times[row.contender])),
                }
                rows.append(row._replace(values=counted | row.values))
    return rows


def shrunk(network: Network, removed: float) -> tuple[Any, Any, int]:
    """The module and its parameters without that share of each hidden layer's units, and how many units are left.

    The units of smallest magnitude are removed, as `top_k_mask` finds them. Weights are random: they cost as
    much as trained ones.

    Raises:
      RuntimeError: if the masked network does not compute the same.
    """
    module: Any = models.build(network.config)
    x = jax.random.normal(jax.random.key(1), (4, *network.shape))
    params = jax.jit(module.init)(jax.random.key(0), x)["params"]
    # The last layer's units are the classes.
    last = max(name for name in params if name.startswith("Dense"))
    masks = {
        name: {"kernel": prune.top_k_mask(prune.magnitude(layer["kernel"]), removed, prune.Channel())}
        for name, layer in params.items()
        if name != last and removed
    }
    small, small_params, *_, cut = prune.shrink_all(module, params, masks)
    masked_params = {
        name: {**layer, "kernel": jnp.where(masks[name]["kernel"], layer["kernel"], 0)} if name in masks else layer
        for name, layer in params.items()
    }
    masked, shrunken = (
        jax.jit(net.apply)({"params": p}, x) for net, p in ((module, masked_params), (small, small_params))
    )
    if not np.allclose(masked, shrunken, rtol=1e-4, atol=1e-5):
        raise RuntimeError(f"{network.name} shrunk by {removed:g} is not the masked network")
    return small, small_params, sum(len(group.kept) for group in cut)


def _forward_pass(module: Any, params: Any, x: jax.Array) -> Callable[[], int]:
    variables, x = jax.device_put(({"params": params}, x))
    compiled = jax.jit(module.apply).lower(variables, x).compile()
    return once(lambda: jax.block_until_ready(compiled(variables, x)))


class Quantized(NamedTuple):
    """A network with 8-bit codes: the arguments of `jopt.quantize.integer.network`, in order."""

    model: models.Model
    params: Any
    model_state: Any
    weights: dict[str, quantize.QTensor]
    activations: quantize.Activations


def serving(
    options: Options, networks: Sequence[Network] = SERVING_NETWORKS, batches: Sequence[int] = BATCHES
) -> list[Row]:
    """Suite `serving`: a call from an array to its logits; a form's speed is relative to its runtime's float32.

    Other packages run the MLP: qwix takes Flax's own convolutions only, and `quantize_dynamic` no convolutions.

    Raises:
      MissingPackageError: without the extra 'export', or if PyTorch or qwix should run and is not installed.
      RuntimeError: if ONNX Runtime does not compute what XLA does, or another package something else.
    """
    rows = []
    for network in networks:
        codes = quantized(network)
        files = onnx_files(network, codes)
        small = shrunk(network, 0.75)[:2]
        targets = {name: at_least(SERVING_TARGETS.get((network.name, name))) for name in REFERENCES}
        for batch in batches:
            x = examples(network, batch)
            contenders = serving_contenders(network, codes, files, small, x)
            if network.config.name == "mlp":
                contenders |= peer_contenders(network, codes, x, options)
            times = alternate(contenders, options)
            case = f"{network.name}, batch {batch}"
            for row in compared(case, times, "seconds_per_call", REFERENCES, targets, speedup=True):
                content = files.get(row.contender)
                sizes = {
                    "bytes": None if content is None else len(content),
                    "examples_per_second": batch / float(np.median(times[row.contender])),
                }
                rows.append(row._replace(values=sizes | row.values))
    return rows


def examples(network: Network, batch: int) -> np.ndarray:
    """Random examples in [0, 1), float32."""
    return np.random.default_rng(2).random((batch, *network.shape), np.float32)


def quantized(network: Network) -> Quantized:
    """The network with int8 weights, by output channel, and uint8 inputs of its layers, calibrated on 256 examples.

    Weights are random: they cost as much as trained ones.
    """
    model = models.model(network.config)
    x = jnp.asarray(examples(network, 256))
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


def onnx_files(network: Network, codes: Quantized) -> dict[str, bytes]:
    """The ONNX files, by contender.

    Raises:
      MissingPackageError: without the extra 'export'.
    """
    # Imported here: the other suites need none of the extra's packages.
    from jopt.export import onnx

    try:
        return {
            ORT: onnx.encode(codes.model, *_without_ranges(codes), network.shape),
            ORT_INTEGER: onnx.encode_quantized(*codes[:3], network.shape, *codes[3:]),
            ORT_QDQ: onnx.encode_quantized(*codes[:3], network.shape, *codes[3:], form="qdq"),
        }
    except ImportError as error:
        raise MissingPackageError(f"suite serving: {error}") from error


def serving_contenders(
    network: Network, codes: Quantized, files: Mapping[str, bytes], small: tuple[Any, Any], x: np.ndarray
) -> dict[str, Callable[[], int]]:
    """The calls to time, by name.

    Raises:
      RuntimeError: if ONNX Runtime gives other float32 logits than XLA, or other classes than XLA's int8 network.
    """
    params, model_state = _without_ranges(codes)
    module, small_params = small
    calls = {name: _onnx_call(content) for name, content in files.items()} | {
        XLA: _xla_call(lambda x: codes.model.apply(params, model_state, x, train=False)[0], x),
        XLA_INTEGER: _xla_call(integer.network(*codes), x),
        XLA_SHRUNK: _xla_call(lambda x: module.apply({"params": small_params}, x), x),
    }
    logits = {name: np.asarray(call(x)) for name, call in calls.items()}
    if not np.allclose(logits[ORT], logits[XLA], rtol=1e-3, atol=1e-4):
        raise RuntimeError(f"{network.name}: ONNX Runtime's logits are not XLA's")
    # Classes, not logits: XLA sums integers exactly and ONNX Runtime rounds the biases of the QDQ form.
    if (logits[ORT_INTEGER].argmax(-1) != logits[XLA_INTEGER].argmax(-1)).any():
        raise RuntimeError(f"{network.name}: ONNX Runtime's int8 classes are not XLA's")
    return {name: once(call, x) for name, call in calls.items()}


def peer_contenders(
    network: Network, codes: Quantized, x: np.ndarray, options: Options
) -> dict[str, Callable[[], int]]:
    """The calls of other packages to time, by name; of an `mlp`.

    Raises:
      MissingPackageError: if PyTorch or qwix should run and is not installed.
      RuntimeError: if one does not give the float32 network's logits, within what int8 changes.
    """
    params, model_state = _without_ranges(codes)
    calls: dict[str, Callable[[np.ndarray], Any]] = peers.torch_calls(params, THREADS) if options.torch else {}
    if options.qwix:
        calls[QWIX_PTQ] = _xla_call(peers.qwix_serving(models.build(network.config), params, x), x)
    logits = np.asarray(codes.model.apply(params, model_state, x, train=False)[0])
    for name, call in calls.items():
        tolerance = (1e-4 if name == TORCH else CLOSE) * np.abs(logits).max()
        if not np.allclose(call(x), logits, rtol=0, atol=tolerance):
            raise RuntimeError(f"{network.name}: the logits of {name} are not XLA's")
    return {name: once(call, x) for name, call in calls.items()}


def _without_ranges(codes: Quantized) -> tuple[Any, Any]:
    """The float32 network's parameters and state: without the activations' ranges."""
    return split("params", codes.params)[0], split("model_state", codes.model_state)[0]


def _onnx_call(content: bytes) -> Callable[[np.ndarray], Any]:
    from jopt.export import onnx

    session = onnx.session(content, threads=THREADS)
    return lambda x: session.run(None, {onnx.INPUT: x})[0]


def _xla_call(function: Callable[[jax.Array], jax.Array], x: np.ndarray) -> Callable[[np.ndarray], jax.Array]:
    compiled = jax.jit(function).lower(jax.ShapeDtypeStruct(x.shape, x.dtype)).compile()
    return lambda x: jax.block_until_ready(compiled(x))
