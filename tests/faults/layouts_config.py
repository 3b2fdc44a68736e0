"""What `tests.faults.layouts` runs: three stages, packed. `--config=layouts_config.py:CASE` or `CASE,fsdp`."""

from typing import Any

from flax import linen as nn

from jopt import models, optim, prune, quantize
from jopt.train import Experiment, Stage
from tests.tiny import tiny_experiment

SHARDS = 4


class Normalized(nn.Module):
    """A layer with batch statistics between two others: the smallest network that compiles quickly and has them."""

    @nn.compact
    def __call__(self, x: Any, *, train: bool = False) -> Any:
        """Logits of images."""
        x = nn.Dense(8)(x.reshape(x.shape[0], -1))
        return nn.Dense(4)(nn.relu(nn.BatchNorm(not train, momentum=0.9)(x)))


MODELS = {
    "mlp": models.ModelConfig("mlp", features=(16,), num_classes=4, dropout=0.2),
    "batch_norm": models.Custom("tests.faults.layouts_config:Normalized"),
}
OPTIMIZERS = {
    "mlp": optim.Config("adam", learning_rate=1e-2, clip_by_global_norm=1.0),
    "batch_norm": optim.Config("nesterov", learning_rate=0.05, weight_decay=5e-4),
}


def get_config(text: str) -> Experiment:
    """Dense, pruned and quantized, over all devices; saved after each segment."""
    case, _, partition = text.partition(",")
    return tiny_experiment(
        name=case,
        model=MODELS[case],
        optimizer=OPTIMIZERS[case],
        shards=SHARDS,
        mesh=(("data", -1),),
        partition=(partition,) if partition else (),
        ema_decay=0.9,
        segment_steps=3,
        checkpoint_every=1,
        pack=True,
        stages=[
            Stage("dense", steps=12),
            Stage("pruned", steps=12, methods=(prune.Gradual(end=0.5),)),
            Stage(
                "quantized",
                steps=9,
                methods=(quantize.Weights(bits=4), quantize.Activations(bits=8)),
                recalibrate=2,
            ),
        ],
    )
