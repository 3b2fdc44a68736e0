"""A small vision transformer on the digits: dense, then pruned, then in integers.

python -m experiments.train --config=configs/digits_vit.py --workdir=runs/digits_vit
"""

from jopt import data, models, optim, prune, quantize
from jopt.train import Experiment, Stage


def get_config() -> Experiment:
    """Three stages; 16 patches of 2 x 2 pixels and a class token."""
    return Experiment(
        name="digits_vit",
        model=models.ViT(patch=2, width=48, depth=2, heads=4, hidden=96),
        data=data.Digits(),
        optimizer=optim.Config(name="adam", learning_rate=2e-3, schedule="cosine", warmup_steps=50),
        batch_size=64,
        pack=True,
        stages=[
            Stage("dense", epochs=40),
            Stage("pruned", epochs=30, methods=(prune.Gradual(sparsity=0.7, end=0.5),)),
            Stage(
                "w8a8",
                epochs=5,
                optimizer=optim.Config(name="adam", learning_rate=5e-4, schedule="cosine"),
                methods=(quantize.Weights(bits=8, granularity="channel"), quantize.Activations(bits=8)),
            ),
        ],
    )
