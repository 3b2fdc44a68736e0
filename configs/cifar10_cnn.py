"""The small network of 6@5x5, pool, 16@5x5, pool, 120, 84, 10 on CIFAR-10: momentum 0.9, rate 0.001, batch 100.

    python -m jopt.data.prepare cifar10                        (once; needs the `catalog` extra and network)
    jopt train --config=configs/cifar10_cnn.py --workdir=runs/cifar10_cnn

Not run here: needs the data set, which this machine cannot download. The same network on an archive of CIFAR-10's
layout is a test (tests/data/test_data_catalog.py).
"""

from jopt import data, models, optim
from jopt.train import Experiment


def get_config() -> Experiment:
    """The settings that the source articles give; they name no number of epochs."""
    return Experiment(
        name="cifar10_cnn",
        model=models.ModelConfig(name="cifar10_cnn"),
        data=data.Tfds("cifar10"),
        optimizer=optim.Config(name="momentum", learning_rate=0.001, momentum=0.9),
        epochs=20,
        batch_size=100,
    )
