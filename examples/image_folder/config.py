"""A folder of images, a convolutional network: trained, then weights and activations of 8 bits.

python make_images.py
jopt train --config=config.py --workdir=runs/first
"""

from jopt import data, models, optim, quantize
from jopt.train import Experiment, Stage


def get_config() -> Experiment:
    """Nothing of it is her own code: neither data, nor model, nor task."""
    return Experiment(
        name="image folder",
        data=data.ImageFolder("images", colours="grey", shift=1),
        model=models.ModelConfig("cnn", features=(16, 32)),
        optimizer=optim.Config(name="adam", learning_rate=2e-3),
        batch_size=64,
        pack=True,
        stages=[
            Stage("dense", epochs=10),
            Stage("small", epochs=3, methods=[quantize.Weights(bits=8), quantize.Activations(bits=8)]),
        ],
    )
