"""Lottery tickets on the digits (Frankle and Carbin 2019): prune, rewind to the start, train again, five times.

    python -m experiments.train --config=configs/digits_lottery.py --workdir=runs/digits_lottery

The last stage is the control: the same masks, with weights drawn anew.

TIMERESULT
"""

from jopt import data, models, optim, prune
from jopt.train import Experiment, Stage

ROUNDS = 5
SPARSITY = 0.9


def get_config() -> Experiment:
    """Five rounds to 90 % sparsity, each removing the same share of what is left."""
    tickets = [
        Stage(
            f"ticket{r}",
            epochs=20,
            start="init",
            prune=prune.Config(method="one_shot", sparsity=1 - (1 - SPARSITY) ** (r / ROUNDS), begin=0.0),
        )
        for r in range(1, ROUNDS + 1)
    ]
    return Experiment(
        name="digits_lottery",
        model=models.Config(name="mlp", features=(300, 100)),
        data=data.Config(name="digits"),
        optimizer=optim.Config(name="adam", learning_rate=1e-3),
        batch_size=64,
        stages=[Stage("dense", epochs=20), *tickets, Stage("reinitialized", epochs=20, start="random")],
    )
