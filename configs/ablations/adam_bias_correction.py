"""Adam with and without bias correction, by b2 and learning rate: LeNet-300-100 on the digits.

    jopt ablate --config=configs/ablations/adam_bias_correction.py --workdir=runs/adam

Each point without is compared with the one with correction at the same b2 and rate.

Time: 37 s in all, from launch to report. Result: without it the first steps are longer, which helps at a
rate that is too small (b2 0.999, rate 0.0001: +6.89 points, 95 % interval, corrected for all comparisons,
[+5.16, +8.62]), ruins at one that is too large (0.9999, 0.01: -35.03 [-66.59, -3.47]), and decides nothing at
the best (0.999, 0.003: +0.25 [-0.76, +1.26]). Measured 2026-11-22 on 2 cores of an AMD EPYC, CPU only, jax
0.10.2, nothing compiled before.
"""

from jopt import models, optim
from jopt.ablate import Ablation, axis, product
from jopt.train import Experiment


def get_config() -> Ablation:
    """400 trials, two programs."""
    return Ablation(
        name="Adam's bias correction",
        experiment=Experiment(
            name="adam_bias_correction",
            model=models.ModelConfig(name="mlp", features=(300, 100)),
            optimizer=optim.Config(name="adam", learning_rate=1e-3),
            epochs=10,
            batch_size=64,
        ),
        space=product(
            axis("optimizer.bias_correction", (True, False)),
            axis("optimizer.b2", (0.9, 0.99, 0.999, 0.9999)),
            axis("optimizer.learning_rate", (0.0001, 0.0003, 0.001, 0.003, 0.01)),
        ),
        seeds=tuple(range(10)),
        control={"bias_correction": True},
    )
