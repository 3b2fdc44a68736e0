"""Her config: every part of it is hers, by object or by reference."""

from her_package.method import MaxNorm
from her_package.optimizer import Numbers, signed_momentum
from her_package.pattern import Pairs
from her_package.quantizer import TrainedSteps
from her_package.score import taylor

from jopt import data, models, optim, prune
from jopt.train import Experiment, Stage


def get_config() -> Experiment:
    """Dense, pruned in pairs by her score, then quantized with trained steps."""
    gradual = prune.Gradual(0.5, score=taylor, pattern=Pairs(), schedule="her_package.schedule:two_steps")
    small = data.Synthetic(shape=(6, 6, 1), num_classes=4, train=96, validation=40, test=24)
    return Experiment(
        name="hers",
        model=models.ModelConfig("mlp", features=(16,), num_classes=4),
        data=small,
        optimizer=optim.Config(
            signed_momentum, learning_rate=3e-3, schedule="her_package.schedule:two_steps", custom=Numbers(rho=0.8)
        ),
        epochs=2,
        batch_size=16,
        pack=True,
        columns=("her_package.column:WEIGHTS_L2",),
        stages=[
            Stage("dense", methods=(MaxNorm(2.0),)),
            Stage("pruned", methods=(gradual,)),
            Stage("quantized", methods=(TrainedSteps(bits=4),)),
        ],
    )
