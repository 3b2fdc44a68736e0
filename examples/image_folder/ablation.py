"""Weights of 4 or of 8 bits, two seeds.

jopt ablate --config=ablation.py --workdir=runs/grid
"""

from config import get_config as experiment

from jopt.ablate import Ablation, axis


def get_config() -> Ablation:
    """4 trials."""
    return Ablation(
        name="image folder by bits",
        experiment=experiment(),
        space=axis("small.quantize.bits", (4, 8)),
        seeds=(0, 1),
        control={"small.quantize.bits": 8},
    )
