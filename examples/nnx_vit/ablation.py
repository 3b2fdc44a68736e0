"""One block or two, two seeds: an option of the network as an axis.

jopt ablate --config=ablation.py --workdir=runs/grid
"""

from config import get_config as experiment

from jopt.ablate import Ablation, axis


def get_config() -> Ablation:
    """4 trials."""
    return Ablation(
        name="vit by depth",
        experiment=experiment(),
        space=axis("model.options.depth", (1, 2)),
        seeds=(0, 1),
        control={"model.options.depth": 2},
    )
