"""Seven optimizers, each with the same eight learning rates: LeNet-300-100 on the handwritten digits.

    jopt ablate --config=configs/ablations/optimizers.py --workdir=runs/optimizers

AlgoPerf's idea: one declared range for all, 0.00025 to 4 in steps of a factor of 4, wide enough that no
optimizer's best rate is at an end of it; each is judged on test at the rate that validation chose. The control
is Adam, and in the summary Adam at 0.001, where most people start.

Time: 47 s in all, from launch to report. Result: Adam at 0.004 reaches 98.28 %. No other is shown to be
better or worse: from RMSprop, -0.06 points, 95 % interval, corrected for all comparisons, [-0.95, +0.84], to
SGD, -0.78 [-2.22, +0.66]. 9 of 280 trials diverge. Measured 2026-11-22 on 2 cores of an AMD EPYC, CPU only, jax
0.10.2, nothing compiled before.
"""

from jopt import models, optim
from jopt.ablate import Ablation, axis, product
from jopt.train import Experiment


def get_config() -> Ablation:
    """280 trials, seven programs: an optimizer's name is structure, its rate is a number."""
    return Ablation(
        name="optimizers",
        experiment=Experiment(
            name="optimizers",
            model=models.ModelConfig(name="mlp", features=(300, 100)),
            optimizer=optim.Config(name="adam", learning_rate=1e-3),
            epochs=20,
            batch_size=64,
        ),
        space=product(
            axis(
                "optimizer.name",
                ("sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw"),
                name="optimizer",
            ),
            axis("optimizer.learning_rate", (0.00025, 0.001, 0.004, 0.016, 0.064, 0.25, 1.0, 4.0)),
        ),
        seeds=(0, 1, 2, 3, 4),
        control={"optimizer": "adam", "learning_rate": 0.001},
        protocol="optimizers",
        tuned=("learning_rate",),
        target=0.98,
    )
