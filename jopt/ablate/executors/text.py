"""Checks that a grid can travel to other processes as text: workers rebuild each trial from `ablation.json`."""

from __future__ import annotations

import json
from collections.abc import Sequence

from jopt.ablate.config import Ablation
from jopt.ablate.trials import Trial, plain, restore
from jopt.config import ConfigError, fingerprint, require, to_dict
from jopt.data import Given as GivenData
from jopt.train.given import Given
from jopt.trust import modules_in


def modules_of(ablation: Ablation, trials: Sequence[Trial]) -> list[str]:
    """The modules that the config of a grid names, which its workers import."""
    names = set(modules_in(to_dict(ablation.experiment)))
    return sorted(names.union(*(modules_in(plain(trial.overrides)) for trial in trials)))


def check_text(ablation: Ablation, trials: Sequence[Trial], objects: Given) -> None:
    """Checks that every part of the grid is named, and not given as an object.

    Raises:
      ConfigError: for a model or a data set that was given as an object, and for a class or a function of the
        script that was started, whose module has another name on a worker.
    """
    by_name = "named by its config where the chunks run in other processes: an object cannot travel as text"
    require(objects.model is None, "model", objects.model, by_name)
    for trial in trials:
        require(not isinstance(trial.config.data, GivenData), "data", trial.config.data, by_name)
    modules = modules_of(ablation, trials)
    accepted = "defined in a module that workers can import; __main__ is another one there"
    require("__main__" not in modules, "a class or a function of the config", "__main__", accepted)
    # One trial tells whether the experiment can be rebuilt; a worker checks each of its own.
    first = trials[0]
    record = json.loads(json.dumps({"experiment": to_dict(ablation.experiment), "set": plain(first.overrides)}))
    rebuilt = restore(record["experiment"], record["set"], trusted=frozenset(modules))
    if fingerprint(rebuilt)[:12] != first.id:
        raise ConfigError(
            "experiment", first.point, "the same after it was written to ablation.json and read again"
        )
