"""Searches for the model to use under a budget, or continues an interrupted search.

python -m experiments.search --config=configs/searches/digits.py --budget='accuracy_drop<0.5' --workdir=runs/search
"""

import shlex
import sys

from absl import flags

from experiments.launch import config_of, define_accept_changes, define_path, define_trust, launch, use_cores
from experiments.signals import define_save_on, saving

_BUDGET = flags.DEFINE_string(
    "budget",
    None,
    "accuracy_drop<POINTS (or METRIC_drop, METRIC_rise), bytes<N or latency_ms<T, or several, joined by commas.",
    required=True,
)
_WORKDIR = define_path(
    "workdir", None, "Directory of the search: new, empty, or of the same search.", required=True
)
_CPU_DEVICES = flags.DEFINE_integer(
    "cpu_devices", None, "CPU cores to use as devices; by default all of this process.", lower_bound=1
)
_ACCEPT_CHANGES = define_accept_changes()
_CACHE = define_path("compilation_cache", None, "Directory of the compilation cache.")
_SAVE_ON = define_save_on()
_TRUST = define_trust()
_QUIET = flags.DEFINE_bool("quiet", False, "Print nothing.")

# The command of a trial in the reports; the config file rebuilds a trial from the search's directory.
_TRIAL = "python -m experiments.train --config=configs/searches/trial.py"


def main(argv: list[str]) -> None:
    """Runs `--config` under `--budget` in `--workdir`."""
    del argv
    from jopt import report, train
    from jopt.ablate import budget

    # Parsed first, so that a typing error in the budget fails before a config file runs.
    budget.parse(_BUDGET.value, task=None)
    use_cores(_CPU_DEVICES.value)
    train.enable_cache(_CACHE.value)
    with saving(_SAVE_ON.value) as stop:
        budget.search(
            config_of(budget.Search),
            _WORKDIR.value,
            _BUDGET.value,
            command=_TRIAL,
            launch=shlex.join(["python", "-m", "experiments.search", *sys.argv[1:]]),
            accept_changes=_ACCEPT_CHANGES.value,
            observer=report.Console(_QUIET.value),
            stop=stop,
            trusted=_TRUST.value,
        )


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    launch(main)
