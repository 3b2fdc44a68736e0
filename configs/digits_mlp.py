"""LeNet-300-100 on the handwritten digits (64-300-100-10).

    jopt train --config=configs/digits_mlp.py --workdir=runs/digits_mlp

Time: 8 s in all, with start-up and compilation. Result: 97.78 % test accuracy with seed 0; 98.22 % over 10 seeds.
Measured 2026-11-22 on 2 cores of an AMD EPYC, CPU only, jax 0.10.2, nothing compiled before.
"""

from jopt import data, models, optim
from jopt.train import Experiment


def get_config() -> Experiment:
    """Adam at a constant rate."""
    return Experiment(
        name="digits_mlp",
        model=models.ModelConfig(name="mlp", features=(300, 100)),
        data=data.Digits(),
        optimizer=optim.Config(name="adam", learning_rate=1e-3),
        epochs=40,
        batch_size=64,
    )
