"""LeNet-300-100 (784-300-100-10, 266,610 parameters) on MNIST.

    python -m jopt.data.prepare mnist                          (once; needs the `catalog` extra and network)
    jopt train --config=configs/mnist_lenet300.py --workdir=runs/mnist_lenet300

Not run here: needs the data set, which this machine cannot download.
"""

from jopt import data, models, optim
from jopt.train import Experiment


def get_config() -> Experiment:
    """Adam on a cosine schedule."""
    return Experiment(
        name="mnist_lenet300",
        model=models.ModelConfig(name="mlp", features=(300, 100)),
        data=data.Tfds("mnist"),
        optimizer=optim.Config(name="adam", learning_rate=1e-3, schedule="cosine"),
        epochs=20,
        batch_size=128,
    )
