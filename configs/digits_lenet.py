"""LeNet-5 on the handwritten digits.

    jopt train --config=configs/digits_lenet.py --workdir=runs/digits_lenet

Time: 11 s in all, with start-up and compilation. Result: 99.17 % test accuracy with seed 0; 98.83 % over 10 seeds.
Measured 2026-11-22 on 2 cores of an AMD EPYC, CPU only, jax 0.10.2, nothing compiled before.
"""

from jopt import data, models, optim
from jopt.train import Experiment


def get_config() -> Experiment:
    """Adam on a cosine schedule, dropout before the last layer."""
    return Experiment(
        name="digits_lenet",
        model=models.ModelConfig(name="lenet5", dropout=0.5),
        data=data.Digits(),
        optimizer=optim.Config(name="adam", learning_rate=1e-3, schedule="cosine"),
        epochs=40,
        batch_size=64,
    )
