"""Ten gigabytes of examples in constant memory: a part of the set, or all of it with --config.dense.steps=3906.

python peak_memory.py jopt train --config=config.py --workdir=runs/first
"""

from jopt import data, models, optim, quantize, task
from jopt.train import Experiment, Stage


def get_config() -> Experiment:
    """300 steps of 256 examples read 0.8 GB."""
    return Experiment(
        name="ten gigabyte stream",
        data=data.Custom("data:stream", options={"examples": 1_000_000}, residency="host"),
        model=models.Custom("flax.linen:Dense", options={"features": 1}),
        task=task.Regression(),
        optimizer=optim.Config(name="adam", learning_rate=3e-3),
        batch_size=256,
        # Rows of one segment, and of the next, are in memory: 2 x 20 x 256 x 10 kB = 102 MB.
        segment_steps=20,
        pack=True,
        stages=[
            Stage("dense", steps=200),
            Stage("small", steps=100, methods=[quantize.Weights(bits=8), quantize.Activations(bits=8)]),
        ],
    )
