"""What the apps run while faults are injected: small, with a file of every kind. `--config=config.py:APP`."""

from jopt import models, prune, quantize
from jopt.ablate import Ablation, axis
from jopt.ablate.budget import Knob, Search
from jopt.train import Experiment, Stage
from tests.tiny import smallest_experiment


def get_config(app: str) -> Experiment | Ablation | Search:
    """The config for train, ablate or search."""
    return {"train": training, "ablate": ablation, "search": search}[app]()


def training() -> Experiment:
    """Two stages of two segments, a checkpoint after each; dropout, masks and a packed file."""
    return smallest_experiment(
        model=models.ModelConfig(name="mlp", features=(4,), num_classes=3, dropout=0.2),
        stages=[Stage("dense"), Stage("sparse", methods=(prune.Gradual(end=0.5),))],
        segment_steps=4,
        checkpoint_every=1,
    )


def ablation() -> Ablation:
    """Six trials in three chunks, of which one point diverges."""
    rates = axis("optimizer.learning_rate", (0.1, 0.01, 1e30))
    return Ablation("grid", smallest_experiment(checkpoint_every=1), rates, seeds=(0, 1), strategy="map", chunk=2)


def search() -> Search:
    """One round of three points, and the confirmation."""
    stage = Stage("train", methods=(quantize.Weights(),))
    return Search(
        name="tiny",
        experiment=smallest_experiment(epochs=1, stages=[stage]),
        knobs=(Knob(axis("quantize.bits", (32, 8, 4))),),
        seeds=(2,),
        points=2,
        survivors=1,
        finalists=1,
        confirm=2,
        trials=20,
        strategy="map",
    )
