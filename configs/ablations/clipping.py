"""Gradient clipping, by norm, by value and by unit, at rates up to far too large: LeNet-300-100 on the digits.

    jopt ablate --config=configs/ablations/clipping.py --workdir=runs/clipping

Momentum 0.9. Each kind of clipping is compared with none at the same rate, and, with each at the rate that
validation chose, on test.

Time: 27 s in all, from launch to report. Result: at a rate of 1, where training without clipping ends at
chance, a norm of 0.1 reaches 96.67 %, +86.75 points, 95 % interval, corrected for all comparisons, [+85.58,
+87.92]. At its own best rate no clipping is better than none: from adaptive at 0.1, -0.14 [-1.17, +0.90], to a
norm of 0.1, -0.67 [-1.83, +0.49]. Measured 2026-11-22 on 2 cores of an AMD EPYC, CPU only, jax 0.10.2, nothing
compiled before.
"""

from jopt import models, optim
from jopt.ablate import Ablation, axis, choices, product
from jopt.train import Experiment


def get_config() -> Ablation:
    """350 trials, four programs: a threshold is a number, whether there is one is structure."""
    return Ablation(
        name="clipping",
        experiment=Experiment(
            name="clipping",
            model=models.ModelConfig(name="mlp", features=(300, 100)),
            optimizer=optim.Config(name="momentum", learning_rate=0.1),
            epochs=10,
            batch_size=64,
        ),
        space=product(
            choices(
                "clipping",
                {
                    "none": {},
                    "norm 0.1": {"optimizer.clip_by_global_norm": 0.1},
                    "norm 1": {"optimizer.clip_by_global_norm": 1.0},
                    "value 0.001": {"optimizer.clip_by_value": 0.001},
                    "value 0.01": {"optimizer.clip_by_value": 0.01},
                    "adaptive 0.01": {"optimizer.adaptive_clip": 0.01},
                    "adaptive 0.1": {"optimizer.adaptive_clip": 0.1},
                },
            ),
            axis("optimizer.learning_rate", (0.03, 0.1, 0.3, 1.0, 3.0)),
        ),
        seeds=tuple(range(10)),
        control={"clipping": "none"},
        protocol="optimizers",
        tuned=("learning_rate",),
        target=0.98,
    )
