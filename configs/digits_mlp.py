"""LeNet-300-100 on the digits (64-300-100-10)."""

from jopt import data, models, optim
from jopt.train import Experiment


def get_config() -> Experiment:
    """Adam at a constant rate."""
    return Experiment(
        name="digits_mlp",
        model=models.Config(name="mlp", features=(300, 100)),
        data=data.Config(name="digits"),
        optimizer=optim.Config(name="adam", learning_rate=1e-3),
        epochs=40,
        batch_size=64,
    )
