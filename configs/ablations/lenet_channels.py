"""How wide LeNet-5 has to be for the 8 x 8 digits: channels of its convolutions by units of its hidden layer.

    jopt ablate --config=configs/ablations/lenet_channels.py --workdir=runs/lenet_channels

Every width is another program. The control is the original, 20 and 50 channels and 500 hidden units.

Time: 1 min 58 s in all, from launch to report. Result: 20 and 50 channels with 32 hidden units, a quarter of the
bytes and 82 % of the FLOPs, are -0.17 points from the control's 98.56 %, 95 % interval, corrected for all
comparisons, [-1.06, +0.73]; every point with fewer channels is worse, 8, 20 and 125 by -1.33 [-2.65, -0.02].
Measured 2026-11-22 on 2 cores of an AMD EPYC, CPU only, jax 0.10.2, nothing compiled before.
"""

from jopt import models, optim
from jopt.ablate import Ablation, axis
from jopt.train import Experiment

CHANNELS = ((2, 5), (4, 10), (8, 20), (20, 50))
HIDDEN = (32, 125, 500)


def get_config() -> Ablation:
    """120 trials, twelve programs: every width is structure."""
    return Ablation(
        name="LeNet's channels",
        experiment=Experiment(
            name="lenet_channels",
            model=models.ModelConfig(name="lenet5"),
            optimizer=optim.Config(name="adam", learning_rate=1e-3),
            epochs=20,
            batch_size=64,
        ),
        space=axis("model.features", [(*channels, hidden) for channels in CHANNELS for hidden in HIDDEN]),
        seeds=tuple(range(10)),
        control={"features": "20 50 500"},
    )
