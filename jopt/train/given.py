"""What a caller gives as objects: they become a part of the config, or stand beside it."""

import dataclasses
from typing import Any, NamedTuple

from jopt import data as data_sets
from jopt import models
from jopt.config import ConfigError
from jopt.task import Task
from jopt.train.config import Experiment


class Given(NamedTuple):
    """An experiment with what was given as objects.

    Attributes:
      config: the experiment: its data, task and model are those that were given, where a config can hold them.
      model: functions that no config describes; None: `config.model` says.
      dataset: arrays that no config describes; None: `config.data` says.
    """

    config: Experiment
    model: models.Model | None = None
    dataset: data_sets.Dataset | None = None


def given(config: Experiment, *, data: object = None, task: object = None, model: object = None) -> Given:
    """Puts a data set, a task and a model into an experiment.

    Args:
      config: the experiment; it is not changed.
      data: a `data.Source`, or a `data.Dataset`, whose fingerprint the config then holds; None: the config's.
      task: a `task.Task`; None: the config's.
      model: a `models.Network`, a `models.Model`, or a module; None: the config's.

    Raises:
      ConfigError: for another kind of object.
    """
    fields: dict[str, Any] = {}
    functions, dataset = None, None
    if isinstance(data, data_sets.Dataset):
        dataset = data
        fields["data"] = data_sets.Given(data.name, data.fingerprint, residency=data.residency)
    elif isinstance(data, data_sets.Source):
        fields["data"] = data
    elif data is not None:
        raise ConfigError("data", data, "a jopt.data.Dataset or a jopt.data.Source")
    if isinstance(task, Task):
        fields["task"] = task
    elif task is not None:
        raise ConfigError("task", task, "a jopt.task.Task")
    if isinstance(model, models.Network):
        fields["model"] = model
    elif isinstance(model, models.Model):
        functions = model
    elif model is not None:
        try:
            functions = models.from_any(model)
        except (TypeError, ValueError) as error:
            raise ConfigError("model", model, f"a model ({error})") from error
    return Given(dataclasses.replace(config, **fields), functions, dataset)


def check_same(config: Experiment, dataset: data_sets.Dataset, field: str = "data") -> None:
    """Raises ConfigError unless a data set is the one that a run was given."""
    recorded = config.data
    if isinstance(recorded, data_sets.Given) and recorded.fingerprint != dataset.fingerprint:
        accepted = (
            f"the data set {recorded.name!r} of fingerprint {recorded.fingerprint[:12]} that the run was given"
        )
        raise ConfigError(field, f"{dataset.name!r} of fingerprint {dataset.fingerprint[:12]}", accepted)
