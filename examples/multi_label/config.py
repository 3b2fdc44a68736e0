"""Several labels each example: trained, half pruned, then weights of 4 bits and activations of 8.

jopt train --config=config.py --workdir=runs/first
"""

from jopt import data, models, optim, prune, quantize, task
from jopt.train import Experiment, Stage


def get_config() -> Experiment:
    """Decided by the mean F1 of the labels."""
    return Experiment(
        name="topics",
        data=data.Custom("data:topics", options={"seed": 0}),
        model=models.Custom("model:Topics", options={"width": 64}),
        task=task.MultiLabel(),
        optimizer=optim.Config(name="adam", learning_rate=3e-3),
        batch_size=64,
        pack=True,
        stages=[
            Stage("dense", epochs=15),
            Stage("pruned", epochs=10, methods=[prune.Gradual(sparsity=0.5)]),
            Stage("small", epochs=5, methods=[quantize.Weights(bits=4), quantize.Activations(bits=8)]),
        ],
    )
