"""ResNet-18 on CIFAR-10: crops after padding by 4, mirroring, Nesterov momentum, label smoothing, bfloat16.

    python -m jopt.data.prepare cifar10                        (once; needs the `catalog` extra and network)
    jopt train --config=configs/cifar10_resnet18.py --workdir=runs/cifar10_resnet18

Not run here: needs the data set, which this machine cannot download, and an accelerator.
"""

from jopt import data, models, optim, task
from jopt.train import Experiment


def get_config() -> Experiment:
    """The usual recipe (He et al. 2016, section 4.2), with a cosine schedule and all local devices."""
    return Experiment(
        name="cifar10_resnet18",
        model=models.ModelConfig(name="resnet18", dtype="bfloat16"),
        data=data.Tfds("cifar10", crop_padding=4, flip=True),
        optimizer=optim.Config(
            name="nesterov",
            learning_rate=0.1,
            weight_decay=5e-4,
            weight_decay_rules=((r".*/(bias|scale)", 0.0),),
            schedule="cosine",
            warmup_steps=1760,
        ),
        task=task.Classification(label_smoothing=0.1),
        ema_decay=0.999,
        data_parallel=True,
        epochs=100,
        batch_size=128,
    )
