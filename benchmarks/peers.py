"""Other packages at what jopt does: selections of jaxpruner and PyTorch, fake quantization, int8 serving.

jaxpruner (google-research/jaxpruner, commit f133ee5 of 2024-04-23, its last) calls `jax.tree_map`, which JAX has
removed, so it does not run here. `mask_by_argsort` is its algorithm for unstructured top-k masks, written again; it
was compared with `jaxpruner.mask_calculator` of that commit, alone: equal masks, ties included, in times within a
tenth.
"""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.contenders import Contender, Job, mlp_layers, pytorch
from benchmarks.timing import MissingPackageError
from jopt import models
from jopt.prune import keep_count

JAXPRUNER = "jaxpruner's selection (its algorithm)"
TORCH_PRUNE = "torch.nn.utils.prune.L1Unstructured"
TORCH_AO = "torch.ao, int8 weights"
TORCH_AO_BOTH_SIDES = "torch.ao, int8 weights and activations"
TORCH_AO_ONE_THREAD = f"{TORCH_AO}, 1 thread"
TORCH_AO_BOTH_SIDES_ONE_THREAD = f"{TORCH_AO_BOTH_SIDES}, 1 thread"
TORCH, TORCH_DYNAMIC = "PyTorch, float32", "PyTorch, int8 (quantize_dynamic)"
QWIX_PTQ = "qwix, int8 (PtqProvider)"

_QWIX = "{} needs qwix: pip install 'jopt[bench]', or leave it out with --noqwix"
_TORCH = "{} needs torch: pip install 'jopt[bench]', or leave it out with --notorch"


def mask_by_argsort(scores: jax.Array, sparsity: jax.Array) -> jax.Array:
    """Jaxpruner's unstructured mask: sort all indices, cut at the k-th score, break ties by the index.

    Args:
      scores: float32, any shape; the highest are kept.
      sparsity: float32 scalar, share to prune, may be traced.
    """
    flat = jnp.ravel(scores)
    kept = jnp.maximum(1, jnp.round(flat.size * (1 - sparsity)).astype(jnp.int32))
    # The sort is stable: of equal scores the lower index comes first, so one index ends the ties that are kept.
    last = jnp.argsort(-flat)[kept - 1]
    threshold, index = flat[last], jnp.arange(flat.size)
    return ((flat > threshold) | ((flat == threshold) & (index <= last))).reshape(scores.shape)


def torch_selection(scores: np.ndarray, sparsity: float) -> Callable[[], np.ndarray]:
    """PyTorch's selection of the smallest magnitudes: `L1Unstructured.compute_mask`, the mask and nothing else.

    Raises:
      MissingPackageError: if there is no PyTorch.
    """
    torch = _import_torch("suite masks")
    from torch.nn.utils import prune  # pyright: ignore[reportMissingImports]

    # A count, not a share, which PyTorch may round in another way.
    method = prune.L1Unstructured(scores.size - int(keep_count(scores.size, sparsity)))
    tensor = torch.tensor(scores)
    ones = torch.ones_like(tensor)
    return lambda: method.compute_mask(tensor, ones).numpy()


def torch_ao(work: Job, *, inputs: bool, threads: int = 2) -> Contender:
    """`contenders.pytorch` with torch.ao's fake quantization of each layer's weights, and of its inputs.

    int8 weights have a scale for each output channel, by its range in each step; uint8 inputs have moving averages.
    The kernels are torch.ao's default ones, its fastest: they observe and round in one operation. Their scale is
    the range over 127 or 128, by the side that reaches further; jopt's is over 127.

    Args:
      work: what to train: an `mlp`.
      inputs: whether the layers' inputs are quantized too.
      threads: for `torch.set_num_threads`.

    Raises:
      MissingPackageError: if there is no PyTorch with torch.ao.
    """
    torch = _import_torch("suite compress")

    def quantized(net: Any) -> Any:
        layers = [_fake_quantized(torch, x, inputs) if isinstance(x, torch.nn.Linear) else x for x in net]
        return torch.nn.Sequential(*layers)

    return pytorch(work, threads=threads, fused=True, wrap=quantized)


def _fake_quantized(torch: Any, linear: Any, inputs: bool) -> Any:
    """A module with the layer's parameters that rounds its weight, and its input, in every forward pass."""
    weight_codes = weight_quantizer()
    input_codes = input_quantizer() if inputs else torch.nn.Identity()

    class FakeQuantizedLinear(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.weight_codes, self.input_codes = linear, weight_codes, input_codes

        def forward(self, x: Any) -> Any:
            weight = self.weight_codes(self.linear.weight)
            return torch.nn.functional.linear(self.input_codes(x), weight, self.linear.bias)

    return FakeQuantizedLinear()


def weight_quantizer() -> Any:
    """torch.ao's int8 codes of [outputs, inputs]: symmetric, the scale of a row by its present range."""
    torch, ao = _import_ao()
    return ao.FusedMovingAvgObsFakeQuantize(
        observer=ao.MovingAveragePerChannelMinMaxObserver,
        # Of a moving average with this constant, only the newest range is left.
        averaging_constant=1.0,
        quant_min=-128,
        quant_max=127,
        dtype=torch.qint8,
        qscheme=torch.per_channel_symmetric,
        ch_axis=0,
    )


def input_quantizer() -> Any:
    """torch.ao's uint8 codes of a layer's input: one scale and zero point, moving averages of 1 % a step."""
    torch, ao = _import_ao()
    return ao.FusedMovingAvgObsFakeQuantize(
        observer=ao.MovingAverageMinMaxObserver,
        averaging_constant=0.01,
        quant_min=0,
        quant_max=255,
        dtype=torch.quint8,
        qscheme=torch.per_tensor_affine,
    )


def torch_calls(params: Any, threads: int) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Forward passes of an MLP in PyTorch: in float32, and with int8 weights and inputs by `quantize_dynamic`.

    The ranges of the inputs are those of each batch.

    Args:
      params: of an `mlp`.
      threads: for `torch.set_num_threads`.

    Raises:
      MissingPackageError: if there is no PyTorch.
    """
    torch, ao = _import_ao()
    net = torch.nn.Sequential(*mlp_layers(torch, params)).eval()
    with warnings.catch_warnings():
        # torch.ao announces its own removal.
        warnings.simplefilter("ignore")
        dynamic = ao.quantize_dynamic(net, {torch.nn.Linear}, dtype=torch.qint8)

    def call(module: Any) -> Callable[[np.ndarray], np.ndarray]:
        def run(x: np.ndarray) -> np.ndarray:
            torch.set_num_threads(threads)
            with torch.inference_mode():
                return module(torch.from_numpy(x)).numpy()

        return run

    return {TORCH: call(net), TORCH_DYNAMIC: call(dynamic)}


def qwix_serving(module: Any, params: Any, x: np.ndarray) -> Callable[[jax.Array], jax.Array]:
    """A dense network with int8 weights that qwix quantized beforehand, and int8 inputs by the range of each batch.

    Raises:
      MissingPackageError: if qwix is not installed.
    """
    qwix = import_qwix("suite serving")
    rule = qwix.QuantizationRule(module_path=".*", weight_qtype="int8", act_qtype="int8")
    quantized = qwix.quantize_model(module, qwix.PtqProvider([rule]))
    init, apply = lenient(quantized.init), lenient(quantized.apply)
    codes = lenient(qwix.quantize_params)(params, jax.eval_shape(init, jax.random.key(0), x)["params"])
    return lambda x: apply({"params": codes}, x)


def qwix_model(module: Any, inputs: str | None) -> models.Model:
    """The network, its kernels quantized to int8 by qwix as it trains; its inputs too, where a type is given.

    Raises:
      MissingPackageError: if qwix is not installed.
    """
    qwix = import_qwix("suite compress")
    rule = qwix.QtRule(module_path=".*", weight_qtype="int8", act_qtype=inputs)
    model = models.from_linen(qwix.quantize_model(module, qwix.QtProvider([rule])))
    return models.Model(lenient(model.init), lenient(model.apply))


def lenient(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with NumPy's promotion: qwix counts on it, jopt's tests forbid it."""

    def call(*args: Any, **kwargs: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return function(*args, **kwargs)

    return call


def import_qwix(user: str) -> Any:
    """The package qwix, which `user` needs."""
    try:
        import qwix  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingPackageError(_QWIX.format(user)) from error
    return qwix


def _import_torch(user: str) -> Any:
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingPackageError(_TORCH.format(user)) from error
    return torch


def _import_ao() -> tuple[Any, Any]:
    torch = _import_torch("torch.ao")
    try:
        from torch.ao import quantization  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        message = f"PyTorch {torch.__version__} has no torch.ao.quantization: leave it out with --notorch"
        raise MissingPackageError(message) from error
    return torch, quantization
