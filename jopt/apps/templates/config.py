"""my_project: a network that is trained, then pruned, then quantized.

    jopt train --config=config.py --workdir=runs/first

Any part can be set on the command line by its name: --config.sparsity=0.9 --config.model.options.width=128
"""

from jopt import data, models, optim, prune, quantize, task
from jopt.train import Experiment, Stage


def get_config() -> Experiment:
    """Three stages: dense, 80 % pruned, weights and activations of 8 bits."""
    return Experiment(
        name="my_project",
        data=data.Custom("data:load"),
        model=models.Custom("model:Net", options={"width": 64}),
        task=task.Classification(),
        optimizer=optim.Config(name="adam", learning_rate=1e-3),
        batch_size=64,
        pack=True,
        stages=[
            Stage("dense", epochs=20),
            Stage("pruned", epochs=20, methods=(prune.Gradual(sparsity=0.8),)),
            Stage("quantized", epochs=10, methods=(quantize.Weights(bits=8), quantize.Activations(bits=8))),
        ],
    )
