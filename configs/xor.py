"""The 2-3-1 network with a sigmoid hidden layer learns XOR by full-batch gradient descent.

    python -m experiments.train --config=configs/xor.py --workdir=runs/xor

Time: TIME. Result: RESULT.
"""

from jopt import data, models, optim
from jopt.train import Experiment


def get_config() -> Experiment:
    """Full batch, momentum."""
    return Experiment(
        name="xor",
        model=models.Config(name="xor", num_classes=2),
        data=data.Config(name="xor"),
        optimizer=optim.Config(name="adam", learning_rate=0.1),
        epochs=1000,
        batch_size=0,
        segment_steps=100,
    )
