"""Suite `ptq`: the loss after 8 bits of weights and activations without training, jopt's and qwix's; no time.

Each network is trained by jopt in float32. jopt's stage and qwix's provider then get the same parameters, and for
static ranges the same number of training examples. The columns: the loss on the test part in nats, its change to
float32, and the lines that a user writes for it (`LINES`).
"""

import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx

from benchmarks.peers import import_qwix, lenient
from benchmarks.timing import Options, Row
from examples.byte_decoder.config import get_config as byte_decoder
from examples.nnx_vit.config import get_config as digits_vit
from examples.nnx_vit.model import ViT
from jopt import data, models, quantize
from jopt.models.decoder import CausalTransformer
from jopt.models.vit import VisionTransformer
from jopt.train import Experiment, Stage, finished, run

STATIC, DYNAMIC = "qwix, one range a tensor, calibrated, layers only", "qwix, its default: a range for each row"
# What layers compute with. The products of attention are einsums, to which qwix gives no range in NNX's attention.
LAYERS = ("dot_general", "conv_general_dilated")
JOPT, MSE = "jopt, its default: one range a tensor, by percentile", "jopt, by the least squared error"
PRODUCTS = f"{MSE}, attention's products too"
CALIBRATION, BATCH = 512, 60

LINES = {
    JOPT: 'Stage("w8a8", steps=0, methods=[quantize.Weights(), quantize.Activations()])',
    MSE: 'Stage("w8a8", steps=0, methods=[quantize.Weights(), quantize.Activations(calibration="mse")])',
    PRODUCTS: 'Stage(..., methods=[quantize.Weights(), quantize.Activations(calibration="mse", products=True)])',
    f"{DYNAMIC} (Linen)": """
        rule = qwix.QuantizationRule(weight_qtype="int8", act_qtype="int8")
        quantized = qwix.quantize_model(module, qwix.PtqProvider([rule]))
        shapes = jax.eval_shape(quantized.init, jax.random.key(0), x)["params"]
        params = qwix.quantize_params(params, shapes)""",
    f"{STATIC} (Linen)": """
        rule = qwix.QtRule(op_names=LAYERS, weight_qtype="int8", act_qtype="int8", act_static_scale=True)
        quantized = qwix.quantize_model(module, qwix.QtProvider([rule]))
        stats = quantized.init(jax.random.key(0), x)["quant_stats"]
        _, moved = quantized.apply({"params": params, "quant_stats": stats}, x, mutable="quant_stats")
        variables = {"params": params, **moved}""",
    f"{DYNAMIC} (NNX)": """
        rule = qwix.QuantizationRule(weight_qtype="int8", act_qtype="int8")
        quantized = qwix.quantize_model(module, qwix.PtqProvider([rule]), x)""",
    f"{STATIC} (NNX)": """
        rule = qwix.QuantizationRule(op_names=LAYERS, weight_qtype="int8", act_qtype="int8", act_static_scale=True)
        quantized = qwix.quantize_model(module, qwix.PtqProvider([rule]), x)""",
}
"""What a user writes once there is a trained network: here as text, below as it runs."""


class Case(NamedTuple):
    """A network and the experiment that trains it.

    Attributes:
      name: of the network.
      network: a Linen module, or an NNX factory.
      experiment: its first stage trains in float32.
    """

    name: str
    network: Any
    experiment: Experiment


def cases() -> list[Case]:
    """A vision transformer in Linen and one in NNX on the digits, and a decoder on bytes."""
    vit, decoder = digits_vit(), byte_decoder()
    return [
        Case("ViT in Linen", VisionTransformer(10, 2, 32, 2, 4, 128, "mean"), vit),
        Case("ViT in NNX", lambda rngs: ViT(rngs=rngs), vit),
        Case("decoder of bytes, in Linen", CausalTransformer(256, 64, 2, 4, 2, 176), decoder),
    ]


def ptq(options: Options, epochs: int | None = None) -> list[Row]:
    """The losses of each case.

    Args:
      options: whether qwix runs.
      epochs: of training, instead of the experiment's.

    Raises:
      MissingPackageError: if qwix is not installed and not left out.
    """
    return [row for case in cases() for row in compare(case, qwix=options.qwix, epochs=epochs)]


def compare(case: Case, *, qwix: bool, epochs: int | None) -> list[Row]:
    """Trains a case, and the losses of each quantization of it."""
    linen = isinstance(case.network, nn.Module)
    model = models.from_linen(case.network) if linen else models.from_nnx(case.network)
    with tempfile.TemporaryDirectory() as directory:
        run(staged(case.experiment, epochs), directory, model=model)
        network = finished.load(directory, model=model)
    losses: dict[str, float] = dict(
        zip(("float32", JOPT, MSE, PRODUCTS), (s["loss"] for s in network.result["stages"]), strict=True)
    )
    if qwix:
        # No stage but the first trains: these are the parameters in float32.
        params, calibration = network.state.params, inputs_of(network.dataset, "train")[:CALIBRATION]
        quantized = qwix_linen if linen else qwix_nnx
        for name, static in ((STATIC, True), (DYNAMIC, False)):
            apply = quantized(case.network, params, calibration, static)
            losses[name] = mean_loss(apply, network.dataset, case.experiment)
    language = "Linen" if linen else "NNX"
    float32 = losses["float32"]
    return [
        Row(
            case.name,
            name,
            {"test_loss": f"{x:.5f}", "change": f"{x - float32:+.5f}", "lines": lines(name, language)},
        )
        for name, x in losses.items()
    ]


def staged(experiment: Experiment, epochs: int | None) -> Experiment:
    """The experiment's first stage, and some that quantize what it trained."""
    stages = {
        "w8a8": (quantize.Weights(), quantize.Activations(examples=CALIBRATION)),
        "mse": (quantize.Activations(calibration="mse", examples=CALIBRATION),),
        "products": (quantize.Activations(calibration="mse", products=True, examples=CALIBRATION),),
    }
    experiment.stages = [
        Stage("dense", epochs=epochs or experiment.stages[0].epochs),
        *(Stage(name, steps=0, methods=methods) for name, methods in stages.items()),
    ]
    experiment.pack, experiment.model = False, models.ModelConfig()
    return experiment


def inputs_of(dataset: data.Dataset, part: str) -> jax.Array:
    """The inputs of a part as the network gets them."""
    arrays = data.device_arrays(dataset, part)
    return data.normalize(arrays.inputs, arrays.mean, arrays.std)


def qwix_linen(module: nn.Module, params: Any, x: jax.Array, static: bool) -> Callable[[jax.Array], jax.Array]:
    """The network as qwix quantizes it."""
    qwix = import_qwix("suite ptq")
    key = jax.random.key(0)
    if static:
        rule = qwix.QtRule(op_names=LAYERS, weight_qtype="int8", act_qtype="int8", act_static_scale=True)
        quantized = qwix.quantize_model(module, qwix.QtProvider([rule]))
        stats = lenient(quantized.init)(key, x[:1])["quant_stats"]
        stats = jax.tree.map(jnp.zeros_like, stats)
        _, moved = lenient(quantized.apply)({"params": params, "quant_stats": stats}, x, mutable="quant_stats")
        return lambda x: lenient(quantized.apply)({"params": params, **moved}, x)
    rule = qwix.QuantizationRule(module_path=".*", weight_qtype="int8", act_qtype="int8")
    quantized = qwix.quantize_model(module, qwix.PtqProvider([rule]))
    shapes = jax.eval_shape(lenient(quantized.init), key, x[:1])["params"]
    codes = lenient(qwix.quantize_params)(jax.tree.map(jnp.asarray, params), shapes)
    return lambda x: lenient(quantized.apply)({"params": codes}, x)


def qwix_nnx(factory: Any, params: Any, x: jax.Array, static: bool) -> Callable[[jax.Array], jax.Array]:
    """The network as qwix quantizes it."""
    qwix = import_qwix("suite ptq")
    module = factory(nnx.Rngs(0))
    state = nnx.state(module, nnx.Param)
    nnx.replace_by_pure_dict(state, nnx.restore_int_paths(params))
    nnx.update(module, state)
    options = {"op_names": LAYERS, "act_static_scale": True} if static else {}
    rule = qwix.QuantizationRule(weight_qtype="int8", act_qtype="int8", **options)
    return lenient(lenient(qwix.quantize_model)(module, qwix.PtqProvider([rule]), x))


def mean_loss(apply: Callable[[jax.Array], jax.Array], dataset: data.Dataset, experiment: Experiment) -> float:
    """The mean of the task's loss over the test part."""
    x, targets = inputs_of(dataset, "test"), np.asarray(dataset.test.targets)
    batches = range(0, len(x), BATCH)
    losses = [np.asarray(experiment.task.losses(apply(x[i : i + BATCH]), targets[i : i + BATCH])) for i in batches]
    return float(np.concatenate(losses).mean())


def lines(name: str, language: str) -> int | None:
    """How many lines a user writes."""
    text = LINES.get(name) or LINES.get(f"{name} ({language})")
    return None if text is None else len(text.strip().splitlines())
