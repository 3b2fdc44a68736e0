"""Two learning rates, two seeds.

jopt ablate --config=ablation.py --workdir=runs/grid
"""

from config import get_config as experiment

from jopt.ablate import Ablation, axis


def get_config() -> Ablation:
    """4 trials."""
    return Ablation(
        name="stream by learning rate",
        experiment=experiment(),
        space=axis("optimizer.learning_rate", (1e-3, 3e-3)),
        seeds=(0, 1),
        control={"optimizer.learning_rate": 3e-3},
    )
