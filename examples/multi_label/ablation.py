"""A narrow and a wide network, two seeds: an option of her own module is an axis.

jopt ablate --config=ablation.py --workdir=runs/grid
"""

from config import get_config as experiment

from jopt.ablate import Ablation, axis


def get_config() -> Ablation:
    """4 trials."""
    return Ablation(
        name="topics by width",
        experiment=experiment(),
        space=axis("model.options.width", (16, 64)),
        seeds=(0, 1),
        control={"model.options.width": 64},
    )
