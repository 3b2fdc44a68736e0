"""A recurrent network reads the digits as sequences: 8 rows of 8 pixels.

    python -m experiments.train --config=configs/digits_rnn.py --workdir=runs/digits_rnn

The config takes the cell as an argument: `--config=configs/digits_rnn.py:gru` (the default), `:rnn` for Elman's
h_t = tanh(W [h_(t-1), x_t] + b), `:lstm`.
"""

from jopt import data, models, optim
from jopt.train import Experiment


def get_config(cell: str = "gru") -> Experiment:
    """The cell is `gru`, `rnn` or `lstm`."""
    return Experiment(
        name=f"digits_{cell}",
        model=models.Config(name=cell, features=(128,)),
        data=data.Config(name="digits", layout="sequence"),
        optimizer=optim.Config(name="adam", learning_rate=2e-3, schedule="cosine", clip_by_global_norm=1.0),
        epochs=60,
        batch_size=64,
    )
