"""Searches for the model to use under a budget, or continues an interrupted search.

python -m experiments.search --config=configs/searches/digits.py --budget='accuracy_drop<0.5' --workdir=runs/search
"""

import shlex
import sys
from typing import Any

from absl import flags
from ml_collections import config_flags

from experiments.launch import launch, use_cores
from jopt import train
from jopt.ablate import budget
from jopt.config import ConfigError, require

_CONFIG = config_flags.DEFINE_config_file("config", help_string="File that defines get_config().")
_BUDGET = flags.DEFINE_string(
    "budget", None, "accuracy_drop<POINTS, bytes<N or latency_ms<T, or several, joined by commas.", required=True
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of the search: new, empty, or of the same search.", required=True
)
_CPU_DEVICES = flags.DEFINE_integer(
    "cpu_devices", None, "CPU cores to use as devices; by default all of this process.", lower_bound=1
)
_CACHE = flags.DEFINE_string("compilation_cache", None, "Directory of the compilation cache.")
_QUIET = flags.DEFINE_bool("quiet", False, "Print nothing.")

_TRIAL = "python -m experiments.train --config=configs/searches/trial.py"
_ACCEPTED = "a file whose get_config() returns a jopt.ablate.budget.Search"


def main(argv: list[str]) -> None:
    """Runs `--config` under `--budget` in `--workdir`."""
    del argv
    budget.parse(_BUDGET.value)
    use_cores(_CPU_DEVICES.value)
    train.enable_cache(_CACHE.value)
    budget.search(
        _search(_CONFIG.value),
        _WORKDIR.value,
        _BUDGET.value,
        command=_TRIAL,
        launch=" ".join(["python -m experiments.search", *map(shlex.quote, sys.argv[1:])]),
        quiet=_QUIET.value,
    )


def _search(value: Any) -> budget.Search:
    try:
        # For a file that it could not load, ml_collections returns an object that raises at any attribute.
        getattr(value, "name", None)
    except OSError as error:
        reason = str(error.__cause__ or error).rpartition("\n")[2].strip()
        raise ConfigError("--config", reason, _ACCEPTED) from error
    require(isinstance(value, budget.Search), "--config", f"get_config() -> {type(value).__name__}", _ACCEPTED)
    return value


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    launch(main)
