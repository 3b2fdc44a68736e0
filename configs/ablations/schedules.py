"""Learning-rate schedules, each at the same five peak rates: LeNet-300-100 on the digits.

    jopt ablate --config=configs/ablations/schedules.py --workdir=runs/schedules

Momentum 0.9. Each schedule is compared with the constant rate at the same peak, and, with each at the peak that
validation chose, on test.

Time: 38 s in all, from launch to report. Result: at its best peak (0.1 for all but one) none is better than the
constant rate's 98.00 %: one cycle +0.17 points, 95 % interval, corrected for all comparisons, [-0.57, +0.90],
cosine -0.06 [-0.76, +0.65]. At 0.3 the constant rate collapses; linear, polynomial, exponential, one cycle and
cosine after warm-up reach 97 %. Measured 2026-11-22 on 2 cores of an AMD EPYC, CPU only, jax 0.10.2, nothing
compiled before.
"""

from jopt import models, optim
from jopt.ablate import Ablation, axis, choices, product
from jopt.train import Experiment


def get_config() -> Ablation:
    """450 trials, seven programs: warm-up is a number, so a schedule with and without it is one."""
    return Ablation(
        name="schedules",
        experiment=Experiment(
            name="schedules",
            model=models.ModelConfig(name="mlp", features=(300, 100)),
            optimizer=optim.Config(name="momentum", learning_rate=0.1),
            epochs=10,
            batch_size=64,
        ),
        space=product(
            choices(
                "schedule",
                {
                    "constant": {"optimizer.schedule": "constant"},
                    "constant, warm-up": {"optimizer.schedule": "constant", "optimizer.warmup_steps": 38},
                    "linear": {"optimizer.schedule": "linear"},
                    "polynomial": {"optimizer.schedule": "polynomial"},
                    "exponential": {"optimizer.schedule": "exponential"},
                    "step": {"optimizer.schedule": "step"},
                    "cosine": {"optimizer.schedule": "cosine"},
                    "cosine, warm-up": {"optimizer.schedule": "cosine", "optimizer.warmup_steps": 38},
                    "one cycle": {"optimizer.schedule": "one_cycle"},
                },
            ),
            axis("optimizer.learning_rate", (0.01, 0.03, 0.1, 0.3, 1.0)),
        ),
        seeds=tuple(range(10)),
        control={"schedule": "constant"},
        protocol="optimizers",
        tuned=("learning_rate",),
        target=0.98,
    )
