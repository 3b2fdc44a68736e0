"""Experiment and Stage: the typed config of a run, and its validation."""

import dataclasses

from jopt import data as data_sets
from jopt import models, optim
from jopt.config import check_types, join_path, require
from jopt.hyper import as_traced, swept


@dataclasses.dataclass
class Stage:
    """One part of an experiment: so many steps with one optimizer, from where the stage before ended.

    A stage starts with a fresh optimizer state (and average), at step 0 of its own schedule. What is None is
    taken from the experiment.

    Attributes:
      name: names the stage in metrics and reports; unique in its experiment.
      epochs: the stage's length in passes over the training part, or
      steps: in optimizer steps. At most one of the two.
      optimizer: the stage's own optimizer.
    """

    name: str = "train"
    epochs: int | None = None
    steps: int | None = None
    optimizer: optim.Config | None = None


@dataclasses.dataclass
class Experiment:
    """Everything that determines a run's numbers, and how often it looks at itself.

    Attributes:
      name: names the run in reports.
      seed: initialization, data order, augmentation and dropout are functions of it.
      model: the network.
      data: the data set, its splits and augmentation.
      optimizer: how parameters move, in every stage that names none of its own.
      epochs: passes over the training part, in every stage that gives no length of its own.
      batch_size: examples a step; 0 is the whole training part (gradient descent).
      label_smoothing: this share of the target is spread evenly over the classes (Szegedy et al. 2016, section 7).
      ema_decay: keep an exponential moving average of the parameters with this decay, and evaluate it, with the
        run's own batch statistics. It moves once a step, so k times an update where k gradients are accumulated.
      data_parallel: split each batch over all local devices.
      segment_steps: optimizer steps in one XLA program; None is one epoch (the stage's length, if shorter).
      evaluate_every: evaluate on the validation part every so many segments; a stage's end always counts.
      checkpoint_every: save every so many segments; a stage's end always counts.
      keep_checkpoints: so many latest checkpoints are kept, and the best by validation accuracy.
      stages: the parts of the run, one after the other.
    """

    name: str = "experiment"
    seed: int = swept(0)
    model: models.Config = dataclasses.field(default_factory=models.Config)
    data: data_sets.Config = dataclasses.field(default_factory=data_sets.Config)
    optimizer: optim.Config = dataclasses.field(default_factory=optim.Config)
    epochs: int = 10
    batch_size: int = 64
    label_smoothing: float | None = None
    ema_decay: float | None = None
    data_parallel: bool = False
    segment_steps: int | None = None
    evaluate_every: int = 1
    checkpoint_every: int = 10
    keep_checkpoints: int = 2
    stages: list[Stage] = dataclasses.field(default_factory=lambda: [Stage()])


def validate(config: Experiment, path: str = "") -> None:
    """Checks all that can be checked before the data are read.

    Raises:
      ConfigError: naming the field, its value and what is accepted.
    """
    check_types(config, path)

    def positive(name: str, value: int | None) -> None:
        require(value is None or value > 0, join_path(path, name), value, "a positive integer")

    require(0 <= config.seed < 2**32, join_path(path, "seed"), config.seed, "an integer in [0, 2**32)")
    for name in ("epochs", "segment_steps", "evaluate_every", "checkpoint_every", "keep_checkpoints"):
        positive(name, getattr(config, name))
    require(
        config.batch_size >= 0, join_path(path, "batch_size"), config.batch_size, "positive, or 0 for all examples"
    )
    smoothing, decay = config.label_smoothing, config.ema_decay
    require(
        smoothing is None or 0 < as_traced(smoothing) < 1,
        join_path(path, "label_smoothing"),
        smoothing,
        "in (0, 1) or None",
    )
    require(decay is None or 0 < as_traced(decay) < 1, join_path(path, "ema_decay"), decay, "in (0, 1) or None")
    models.validate(config.model, join_path(path, "model"))
    data_sets.validate(config.data, join_path(path, "data"))
    optim.validate(config.optimizer, join_path(path, "optimizer"))
    require(len(config.stages) > 0, join_path(path, "stages"), config.stages, "a list of at least one Stage")
    names = [stage.name for stage in config.stages]
    for i, stage in enumerate(config.stages):
        here = join_path(path, f"stages[{i}]")
        require(bool(stage.name), f"{here}.name", stage.name, "not empty")
        require(names.count(stage.name) == 1, f"{here}.name", stage.name, "another name than the other stages'")
        positive(f"stages[{i}].epochs", stage.epochs)
        positive(f"stages[{i}].steps", stage.steps)
        both = stage.epochs is not None and stage.steps is not None
        require(not both, f"{here}.steps", stage.steps, f"None where epochs is given (epochs is {stage.epochs})")
        if stage.optimizer is not None:
            optim.validate(stage.optimizer, f"{here}.optimizer")


def stage_optimizer(config: Experiment, stage: int) -> optim.Config:
    """The optimizer of stage number `stage`: its own, or else the experiment's."""
    return config.stages[stage].optimizer or config.optimizer
