"""An Equinox network: trained, 80 % pruned, then weights and activations of 8 bits.

jopt train --config=config.py --workdir=runs/first
"""

from jopt import data, models, optim, prune, quantize
from jopt.train import Experiment, Stage


def get_config() -> Experiment:
    """Three stages, of which the second and third go on from the one before."""
    return Experiment(
        name="equinox",
        data=data.Digits(),
        model=models.Custom("model:Net", options={"width": 16}),
        optimizer=optim.Config(name="adam", learning_rate=1e-3),
        batch_size=64,
        pack=True,
        stages=[
            Stage("dense", epochs=15),
            Stage("pruned", epochs=15, methods=(prune.Gradual(sparsity=0.8),)),
            Stage("w8a8", epochs=3, methods=(quantize.Weights(bits=8), quantize.Activations(bits=8))),
        ],
    )
