"""Regression on a table: trained, 75 % pruned, then weights and activations of 8 bits.

jopt train --config=config.py --workdir=runs/first
"""

from jopt import data, models, optim, prune, quantize, task
from jopt.train import Experiment, Stage


def get_config() -> Experiment:
    """Decided by R² on the validation part."""
    return Experiment(
        name="diabetes",
        data=data.Custom("data:diabetes"),
        model=models.Custom("model:Net", options={"width": 32}),
        task=task.Regression(),
        optimizer=optim.Config(name="adamw", learning_rate=1e-3, weight_decay=1e-2),
        batch_size=32,
        pack=True,
        stages=[
            Stage("dense", epochs=40),
            Stage("pruned", epochs=30, methods=[prune.Gradual(sparsity=0.75)]),
            Stage("small", epochs=10, methods=[quantize.Weights(bits=8), quantize.Activations(bits=8)]),
        ],
    )
