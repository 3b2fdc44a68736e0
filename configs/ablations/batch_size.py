"""Batch sizes from 8 to 256 over the same epochs, at a fixed rate or a scaled one: LeNet-300-100 on the digits.

    jopt ablate --config=configs/ablations/batch_size.py --workdir=runs/batch_size

Momentum 0.9 at 0.05 for batches of 32, the control; scaled, the rate is proportional to the batch (Goyal et al.
2017).

Time: 25 s in all, from launch to report. Result: scaled, batches of 8 to 64 cannot be told from the
control's 97.89 % (8: +0.19 points, 95 % interval, corrected for all comparisons, [-0.21, +0.60]); 256 is at
-2.72 [-5.53, +0.08]. Fixed, 8 collapses and 256 loses 2.14, [-3.21, -1.07]. Measured 2026-11-22 on 2 cores of
an AMD EPYC, CPU only, jax 0.10.2, nothing compiled before.
"""

from jopt import models, optim
from jopt.ablate import Ablation, axis, choices, product
from jopt.train import Experiment

SIZE, RATE = 32, 0.05
OTHERS = (8, 16, 64, 128, 256)


def get_config() -> Ablation:
    """110 trials, six programs."""
    rate = "optimizer.learning_rate"
    fixed = product(axis("batch_size", (SIZE, *OTHERS)), choices("rate", {"fixed": {rate: RATE}}))
    scaled = [
        product(axis("batch_size", (size,)), choices("rate", {"scaled": {rate: RATE * size / SIZE}}))
        for size in OTHERS
    ]
    return Ablation(
        name="batch size",
        experiment=Experiment(
            name="batch_size",
            model=models.ModelConfig(name="mlp", features=(300, 100)),
            optimizer=optim.Config(name="momentum", learning_rate=RATE),
            epochs=10,
        ),
        space=sum(scaled, start=fixed),
        seeds=tuple(range(10)),
        control={"batch_size": SIZE, "rate": "fixed"},
    )
