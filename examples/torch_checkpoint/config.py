"""A checkpoint of PyTorch, compressed without training: as it came, w8a8, then weights of 4 bits.

jopt train --config=config.py --workdir=runs/first
"""

from jopt import data, models, quantize
from jopt.start import Pretrained
from jopt.train import Experiment, Stage


def get_config() -> Experiment:
    """No stage has a step; activations are calibrated on training examples."""
    return Experiment(
        name="torch_checkpoint",
        data=data.Digits(),
        model=models.Custom("model:Net"),
        start=Pretrained("net.safetensors"),
        pack=True,
        stages=[
            Stage("float", steps=0),
            Stage("w8a8", steps=0, methods=(quantize.Weights(bits=8), quantize.Activations(bits=8))),
            Stage("w4a8", steps=0, methods=(quantize.Weights(bits=4),)),
        ],
    )
