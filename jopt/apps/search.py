"""Searches for the model to use under a budget, or continues an interrupted search.

jopt search --config=configs/searches/digits.py --budget='accuracy_drop<0.5' --workdir=runs/search
"""

import shlex
import sys

from absl import flags

from jopt.apps.definitions import define_accept_changes, define_path, define_trust, define_workdir
from jopt.apps.executors import define_executor
from jopt.apps.inputs import CONFIG, config_of, use_cores
from jopt.apps.signals import define_save_on, saving

FLAGS = flags.FlagValues()
CONFIG.define(FLAGS)
_BUDGET = flags.DEFINE_string(
    "budget",
    None,
    "accuracy_drop<POINTS (or METRIC_drop, METRIC_rise), bytes<N or latency_ms<T, or several, joined by commas.",
    required=True,
    flag_values=FLAGS,
)
_WORKDIR = define_workdir(FLAGS, "Directory of the search: new, empty, or of the same search.")
_CPU_DEVICES = flags.DEFINE_integer(
    "cpu_devices",
    None,
    "CPU cores to use as devices; by default all of this process.",
    lower_bound=1,
    flag_values=FLAGS,
)
_EXECUTOR = define_executor(FLAGS)
_ACCEPT_CHANGES = define_accept_changes(FLAGS)
_CACHE = define_path(FLAGS, "compilation_cache", None, "Directory of the compilation cache.")
_SAVE_ON = define_save_on(FLAGS)
_TRUST = define_trust(FLAGS)
_QUIET = flags.DEFINE_bool("quiet", False, "Print nothing.", flag_values=FLAGS)


def main(argv: list[str]) -> None:
    """Runs `--config` under `--budget` in `--workdir`."""
    del argv
    from jopt import report, train
    from jopt.ablate import budget
    from jopt.train import display

    # Parsed first, so that a typing error in the budget fails before a config file runs.
    budget.parse(_BUDGET.value, task=None)
    executor = _EXECUTOR()
    use_cores(_CPU_DEVICES.value)
    train.enable_cache(_CACHE.value)
    with saving(_SAVE_ON.value) as stop:
        budget.search(
            config_of(budget.Search),
            _WORKDIR.value,
            _BUDGET.value,
            command="jopt train --trial=",
            launch=shlex.join(display.command(sys.argv)),
            executor=executor,
            accept_changes=_ACCEPT_CHANGES.value,
            observer=report.Console(_QUIET.value),
            should_stop=stop,
            trusted=_TRUST.value,
        )
