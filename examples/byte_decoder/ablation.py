"""Weights of 8 or 4 bits, two seeds.

jopt ablate --config=ablation.py --workdir=runs/grid
"""

from config import get_config as experiment

from jopt.ablate import Ablation, axis


def get_config() -> Ablation:
    """4 trials, decided by bits per byte."""
    return Ablation(
        name="bytes by bits",
        experiment=experiment(),
        space=axis("w8a8.quantize.bits", (8, 4)),
        seeds=(0, 1),
        control={"quantize.bits": 8},
    )
