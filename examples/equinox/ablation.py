"""8 or 16 channels, two seeds: an option of the network as an axis.

jopt ablate --config=ablation.py --workdir=runs/grid
"""

from config import get_config as experiment

from jopt.ablate import Ablation, axis


def get_config() -> Ablation:
    """4 trials."""
    return Ablation(
        name="equinox by width",
        experiment=experiment(),
        space=axis("model.options.width", (8, 16)),
        seeds=(0, 1),
        control={"model.options.width": 16},
    )
