"""One trial of a search's or an ablation's directory, to run alone.

    python -m experiments.train --config=configs/searches/trial.py:runs/search/round_0/0123456789ab --workdir=runs/a

What follows the colon is the grid's directory and the trial's id (or as much of its beginning as only it has).
"""

from jopt.ablate import load_trial
from jopt.config import ConfigError
from jopt.train import Experiment


def get_config(where: str = "") -> Experiment:
    """The experiment of the trial at DIRECTORY/ID."""
    directory, _, trial = where.rpartition("/")
    if not (directory and trial):
        raise ConfigError("--config=.../trial.py:", where, "followed by DIRECTORY/ID")
    return load_trial(directory, trial)
