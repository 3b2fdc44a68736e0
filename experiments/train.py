"""Trains the experiment of a config file, or continues an interrupted run.

python -m experiments.train --config=configs/digits_mlp.py --workdir=runs/a --config.optimizer.learning_rate=3e-3
"""

from absl import flags

from experiments.launch import define_trust, experiment, launch
from jopt import report, train

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of the run: new, empty, or of the same config.", required=True
)
_TRIAL = flags.DEFINE_string("trial", None, "The id of the trial to run, where --config is an ablation.")
_CACHE = flags.DEFINE_string("compilation_cache", None, "Directory of the compilation cache.")
_TRUST = define_trust()
_QUIET = flags.DEFINE_bool("quiet", False, "Print nothing.")


def main(argv: list[str]) -> None:
    """Runs `--config` in `--workdir`."""
    del argv
    # Before the config is read, as a config file may build arrays and so compile.
    train.enable_cache(_CACHE.value)
    config = experiment(_TRIAL.value)
    train.run(config, _WORKDIR.value, observer=report.Console(_QUIET.value), trusted=_TRUST.value)


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    launch(main)
