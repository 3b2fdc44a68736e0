"""LeNet-5 (20@5x5, 50@5x5, 500, 10: 431,080 parameters, as in Deep Compression) on MNIST.

    python -m jopt.data.prepare mnist                          (once; needs the `catalog` extra and network)
    jopt train --config=configs/mnist_lenet5.py --workdir=runs/mnist_lenet5

Not run here: needs the data set, which this machine cannot download.
"""

from jopt import data, models, optim
from jopt.train import Experiment


def get_config() -> Experiment:
    """Adam on a cosine schedule, images shifted by up to two pixels."""
    return Experiment(
        name="mnist_lenet5",
        model=models.ModelConfig(name="lenet5"),
        data=data.Tfds("mnist", shift=2),
        optimizer=optim.Config(name="adam", learning_rate=1e-3, schedule="cosine"),
        epochs=20,
        batch_size=128,
    )
