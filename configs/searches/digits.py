"""Which compression of LeNet-300-100 to use on the digits: a search under a budget.

    jopt search --config=configs/searches/digits.py --budget='accuracy_drop<0.5' --workdir=runs/s

Time: 6 min 14 s in all, 287 trials, on a machine that was busy with other jobs. Result: sparsity 0.6 with 4 bits
and neither sharing nor smaller widths; a file of 17,716 bytes, 9.5 times smaller than dense, test accuracy 98.00 %
[97.69, 98.31], 0.14 points below dense [-0.19, +0.47] over 10 seeds that no round had.
Measured 2026-11-30 on 2 cores of an AMD EPYC, CPU only, jax 0.10.2.
"""

from jopt import cluster, data, models, optim, prune, quantize
from jopt.ablate import axis, choices
from jopt.ablate.budget import Knob, Search
from jopt.train import Experiment, Stage

_SCALES = "quantize.granularity"


def get_config() -> Search:
    """Pruning x sharing x bits x widths; one program for each combination of pattern, codebook and width."""
    return Search(
        name="digits",
        experiment=Experiment(
            name="digits_search",
            model=models.ModelConfig(name="mlp", features=(300, 100)),
            data=data.Digits(),
            optimizer=optim.Config(name="adam", learning_rate=1e-3),
            epochs=20,
            batch_size=64,
            stages=[
                Stage(
                    "train",
                    # The channels of the last layer are the classes, so none may be pruned.
                    methods=(prune.Gradual(end=0.6, rules=(("Dense_2/kernel", None),)), quantize.Weights()),
                )
            ],
        ),
        knobs=(
            Knob(
                axis("prune.sparsity", (0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98)),
                start=(0.0, 0.6, 0.9),
            ),
            Knob(axis("quantize.bits", (32, 8, 6, 4, 3, 2)), start=(32, 4, 2)),
            Knob(
                choices(
                    "clusters",
                    {
                        0: {"train.share": None, _SCALES: "channel"},
                        # Shared values need one scale: a scale per channel would make several values of one.
                        16: {"train.share": cluster.Share(clusters=16, begin=0.6), _SCALES: "tensor"},
                        8: {"train.share": cluster.Share(clusters=8, begin=0.6), _SCALES: "tensor"},
                    },
                ),
                start=(0, 16),
            ),
            Knob(axis("prune.pattern", ("unstructured", "channel"))),
            Knob(
                choices(
                    "widths",
                    {
                        "300-100": {"model.features": (300, 100)},
                        "100-50": {"model.features": (100, 50)},
                        "40-20": {"model.features": (40, 20)},
                    },
                ),
                start=("300-100", "100-50"),
            ),
        ),
        # Channel pruning of nothing is the same network as unstructured pruning of nothing.
        excluded=({"pattern": "channel", "prune.sparsity": 0.0},),
    )
