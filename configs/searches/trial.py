"""One trial of a search or an ablation, to run alone.

    python -m experiments.train --config=configs/searches/trial.py:runs/search/round_0/0123456789ab --workdir=runs/a

`--trust` imports the modules that the grid's own methods are in.

After the colon come the directory of the grid and the id of the trial, or an unambiguous prefix of it.
"""

from absl import flags

from jopt.ablate import load_trial
from jopt.config import ConfigError
from jopt.train import Experiment


def get_config(where: str = "") -> Experiment:
    """The experiment of the trial at DIRECTORY/ID."""
    directory, _, trial = where.rpartition("/")
    if not (directory and trial):
        raise ConfigError("--config=.../trial.py:", where, "followed by DIRECTORY/ID")
    # Of the app that reads this file; from Python there may be no flags.
    trusted = "trust" in flags.FLAGS and bool(flags.FLAGS["trust"].value)
    return load_trial(directory, trial, trusted=trusted)
