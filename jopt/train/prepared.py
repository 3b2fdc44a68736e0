"""From a config to everything that a run needs, checked before anything compiles or is written."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.errors import FlaxError
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jopt import data, hyper, keys, models, optim
from jopt.config import ConfigError, require
from jopt.rules import RuleError
from jopt.train import program, schedule
from jopt.train.config import Experiment, stage_optimizer, validate
from jopt.train.program import Program
from jopt.train.state import TrainState
from jopt.transform import ParamTransform


class Prepared(NamedTuple):
    """A run that is ready to start.

    Attributes:
      config: the resolved experiment.
      dataset: on the host.
      segments: what runs when.
      stages: each stage's place and length, in steps.
      key: the root key, on the device.
      values: the swept numbers, on the device.
      arrays: `train`, `validation` and `test`, on the device.
      program_of: `(stage, steps) -> Program`.
      place: puts a pytree of host arrays where the run's programs expect it.
      like: `stage -> TrainState` of shapes and dtypes.
      model: the functions of the model, with the config's own numbers.
      batch_size: examples a step.
    """

    config: Experiment
    dataset: data.Dataset
    segments: list[schedule.Segment]
    stages: list[schedule.StageSteps]
    key: jax.Array
    values: dict[str, jax.Array]
    arrays: dict[str, data.Arrays]
    program_of: Callable[[int, int], Program]
    place: Callable[[Any], Any]
    like: Callable[[int], TrainState]
    model: models.Model
    batch_size: int


def prepare(
    config: Experiment,
    *,
    model: models.Model | None = None,
    transform: Callable[[Experiment, int], ParamTransform] | None = None,
) -> Prepared:
    """Validates `config`, loads its data and builds its programs. Nothing is compiled; no run file is written.

    Args:
      config: the experiment.
      model: a model of one's own, instead of `config.model`.
      transform: `(experiment, stage) -> ParamTransform`.

    Raises:
      ConfigError: naming the field, its value and what is accepted.
      RuleError: for a rule that matches no parameter.
    """
    validate(config)
    dataset = data.load(config.data)
    if model is None:
        require(
            config.model.num_classes == dataset.num_classes,
            "model.num_classes",
            config.model.num_classes,
            f"{dataset.num_classes}, the number of classes of {config.data.name!r}",
        )
    examples = dataset.train.labels.shape[0]
    batch = schedule.batch_size(config, examples)
    stages = schedule.stages(config, examples)
    per_epoch = data.steps_per_epoch(examples, batch)
    mesh = _mesh(config, batch)
    everywhere = None if mesh is None else NamedSharding(mesh, PartitionSpec())
    place = functools.partial(jax.device_put, device=everywhere)
    structure, numbers = hyper.split(config)
    own_model = None if model is None else (lambda _, model=model: model)
    input_shape = dataset.train.inputs.shape[1:]
    paths = [f"stages[{i}].optimizer" if stage.optimizer else "optimizer" for i, stage in enumerate(config.stages)]
    for index, stage in enumerate(stages):
        optim.validate(stage_optimizer(config, index), paths[index], stage.steps)
    _check_model(config, model, input_shape, dataset.num_classes)

    @functools.cache
    def program_of(stage: int, steps: int) -> Program:
        return program.build(
            structure,
            stage=stage,
            steps=steps,
            total_steps=stages[stage].steps,
            batch_size=batch,
            input_shape=input_shape,
            aligned=stages[stage].start % per_epoch == stages[stage].segment_steps % per_epoch == 0,
            model=own_model,
            transform=transform,
            mesh=mesh,
        )

    def like(stage: int) -> TrainState:
        return jax.eval_shape(
            lambda seed: program_of(stage, stages[stage].segment_steps).init(keys.root(seed), numbers),
            numbers["seed"],
        )

    prepared = Prepared(
        config=config,
        dataset=dataset,
        segments=list(schedule.segments(config, examples)),
        stages=stages,
        key=place(keys.root(numbers["seed"])),
        values=place(numbers),
        arrays={part: data.device_arrays(dataset, part, everywhere) for part in ("train", "validation", "test")},
        program_of=program_of,
        place=place,
        like=like,
        model=model or models.model(config.model),
        batch_size=batch,
    )
    for stage, path in enumerate(paths):
        try:
            optim.plan(stage_optimizer(config, stage), like(stage).params)
        except RuleError as error:
            raise RuleError(f"{path}.{error}") from error
    return prepared


def _check_model(
    config: Experiment, own: models.Model | None, input_shape: tuple[int, ...], num_classes: int
) -> None:
    """Raises ConfigError unless the model maps a batch of such inputs to logits [batch, num_classes]."""
    model = own or models.model(config.model)
    field, name = ("model", "the model that was given") if own else ("model.name", config.model.name)
    accepted = f"a model for inputs of {' x '.join(map(str, input_shape))} ({config.data.layout})"

    def logits(seed: jax.Array, x: jax.Array) -> jax.Array:
        params, model_state = model.init(keys.root(seed), x)
        return model.apply(params, model_state, x, train=False)[0]

    x = jax.ShapeDtypeStruct((2, *input_shape), np.float32)
    try:
        shape = jax.eval_shape(logits, jax.ShapeDtypeStruct((), np.uint32), x).shape
    except (ValueError, TypeError, IndexError, FlaxError) as error:
        if own:
            raise
        raise ConfigError(field, name, f"{accepted}: {error}") from error
    wanted = (2, num_classes)
    require(shape == wanted, field, name, f"{accepted} with logits {wanted} for two of them, which are {shape}")


def _mesh(config: Experiment, batch: int) -> Mesh | None:
    if not config.data_parallel:
        return None
    devices = jax.local_devices()
    require(
        batch % len(devices) == 0,
        "batch_size",
        batch,
        f"a multiple of the {len(devices)} local devices that data_parallel splits it over",
    )
    return Mesh(np.array(devices), ("data",))
