"""How few bits: the last stage's weights with 4, 3 and 2 bits, and per tensor.

jopt ablate --config=ablation.py --workdir=runs/grid
"""

from config import get_config as experiment

from jopt.ablate import Ablation, axis, product


def get_config() -> Ablation:
    """4 trials of one seed: nothing here is random but the calibration examples."""
    return Ablation(
        name="checkpoint by bits",
        experiment=experiment(),
        space=product(
            axis("w4a8.quantize.bits", (4, 3)),
            axis("w4a8.quantize.granularity", ("channel", "tensor")),
        ),
        seeds=(0,),
        control={"w4a8.quantize.bits": 4, "w4a8.quantize.granularity": "channel"},
    )
