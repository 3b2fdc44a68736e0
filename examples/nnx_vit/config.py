"""A vision transformer in Flax NNX: trained, 60 % pruned, then weights and activations of 8 bits.

jopt train --config=config.py --workdir=runs/first
"""

from jopt import data, models, optim, prune, quantize
from jopt.train import Experiment, Stage


def get_config() -> Experiment:
    """Three stages, of which the second and third go on from the one before."""
    return Experiment(
        name="nnx_vit",
        data=data.Digits(),
        model=models.Custom("model:ViT", options={"width": 32, "depth": 2, "heads": 4}),
        optimizer=optim.Config(name="adam", learning_rate=2e-3, schedule="cosine", warmup_steps=50),
        batch_size=64,
        pack=True,
        stages=[
            Stage("dense", epochs=40),
            Stage("pruned", epochs=30, methods=(prune.Gradual(sparsity=0.6),)),
            Stage("w8a8", epochs=5, methods=(quantize.Weights(bits=8), quantize.Activations(bits=8))),
        ],
    )
