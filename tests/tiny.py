"""The tiny experiments and grids that many tests share: they compile and train in a second."""

import dataclasses

from jopt import data, models, optim
from jopt.ablate import Ablation, axis
from jopt.train import Experiment

IMAGES = data.Synthetic(shape=(6, 6, 1), num_classes=4, train=96, validation=40, test=24)
SMALLEST_IMAGES = data.Synthetic(shape=(3, 3, 1), num_classes=3, train=32, validation=16, test=16)


def tiny_experiment(**changes) -> Experiment:
    """An MLP with 16 hidden units on 96 images of 6 x 6, in batches of 16; keyword arguments replace fields."""
    config = Experiment(
        name="tiny",
        model=models.ModelConfig(name="mlp", features=(16,), num_classes=4),
        data=dataclasses.replace(IMAGES),
        optimizer=optim.Config(name="adam", learning_rate=1e-2),
        epochs=2,
        batch_size=16,
    )
    return dataclasses.replace(config, **changes)


def smallest_experiment(**changes) -> Experiment:
    """The smallest experiment that learns something, packed at its end; keyword arguments replace fields."""
    config = Experiment(
        name="small",
        model=models.ModelConfig(name="mlp", features=(4,), num_classes=3),
        data=dataclasses.replace(SMALLEST_IMAGES),
        optimizer=optim.Config(name="sgd", learning_rate=0.1),
        epochs=2,
        batch_size=8,
        pack=True,
    )
    return dataclasses.replace(config, **changes)


def tiny_ablation(**changes) -> Ablation:
    """A grid of the smallest experiment over two rates and two seeds; keyword arguments replace fields."""
    space = axis("optimizer.learning_rate", (0.1, 0.01))
    fields = {"name": "grid", "experiment": smallest_experiment(), "seeds": (0, 1), "space": space}
    return Ablation(**{**fields, **changes})
