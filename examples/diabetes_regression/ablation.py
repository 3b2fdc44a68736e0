"""Half or nine tenths of the weights, two seeds.

jopt ablate --config=ablation.py --workdir=runs/grid
"""

from config import get_config as experiment

from jopt.ablate import Ablation, axis


def get_config() -> Ablation:
    """4 trials."""
    return Ablation(
        name="diabetes by sparsity",
        experiment=experiment(),
        space=axis("pruned.prune.sparsity", (0.5, 0.9)),
        seeds=(0, 1),
        control={"prune.sparsity": 0.5},
    )
