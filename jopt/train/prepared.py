"""From a config to everything that a run needs, checked before anything compiles or is written."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.errors import FlaxError
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jopt import data, hyper, intercept, keys, models, optim, transfer
from jopt.config import ConfigError, require
from jopt.layers import Layers
from jopt.rules import RuleError
from jopt.train import combining, compression, program, schedule
from jopt.train.config import Experiment, stage_optimizer, validate
from jopt.train.program import Program
from jopt.train.sources import STAGE, Source, along, load_source
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
      model_of: `stage ->` the functions of the model, with the config's own numbers.
      layers_of: `stage ->` what its model says about its parameters.
      batch_size: examples a step.
      sources: the finished runs that stages learn from or take parameters from, by directory.
      own_model: what the caller gave instead of `config.model`, or None.
      own_transform: what the caller gave instead of the config's methods, or None.
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
    model_of: Callable[[int], models.Model]
    layers_of: Callable[[int], Layers]
    batch_size: int
    sources: dict[str, Source]
    own_model: models.Model | None
    own_transform: Callable[[Experiment, int], ParamTransform] | None

    def boundary(self, mark: int) -> schedule.Segment:
        """The segment that ends at `mark`."""
        return next(s for s in self.segments if s.mark == mark)

    def end_of(self, stage: int) -> schedule.Segment:
        """The last segment of a stage."""
        return next(s for s in self.segments if s.stage == stage and s.last)

    def teaches(self, stage: int) -> bool:
        """Whether a teacher computes along as the stage trains; else its logits are known beforehand."""
        return compression.teaches(self.config, stage)

    def transferred(self, stage: int) -> list[transfer.Row]:
        """What each leaf of a stage's network gets from elsewhere; empty where none gets anything."""
        wanted = self.config.stages[stage].transfer
        if wanted is None:
            return []
        if wanted.source.startswith(STAGE):
            source: Any = self.like(self.stage_named(wanted.source.removeprefix(STAGE)))
        else:
            source = self.sources[wanted.source]
        target = self.like(stage)
        return transfer.plan(wanted, target.params, source.params, target.model_state, source.model_state)

    def stage_named(self, name: str) -> int:
        """The index of a stage."""
        return [stage.name for stage in self.config.stages].index(name)


def prepare(
    config: Experiment,
    *,
    model: models.Model | None = None,
    transform: Callable[[Experiment, int], ParamTransform] | None = None,
    dataset: data.Dataset | None = None,
) -> Prepared:
    """Validates `config`, loads its data and builds its programs. Nothing is compiled; no run file is written.

    Args:
      config: the experiment.
      model: a model of one's own, instead of `config.model`.
      transform: `(experiment, stage) -> ParamTransform`.
      dataset: what `data.load(config.data)` gives, where it has been loaded already.

    Raises:
      ConfigError: naming the field, its value and what is accepted.
      RuleError: for a rule that matches no parameter.
    """
    validate(config)
    combining.validate(config)
    dataset = data.load(config.data) if dataset is None else dataset
    for name, network in _networks(config, model):
        field = f"{name}.num_classes"
        accepted = f"{dataset.num_classes}, the number of classes of {config.data.name!r}"
        require(network.num_classes == dataset.num_classes, field, network.num_classes, accepted)
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
    check_lengths(config, examples)
    for name, network in _networks(config, model):
        _check_model(config, name, network.name, models.model(network), input_shape, dataset.num_classes)
    if model is not None:
        _check_model(config, "model", None, model, input_shape, dataset.num_classes)
    sources = {
        directory: load_source(
            directory, field, input_shape, dataset.num_classes if field.endswith("teacher") else None
        )
        for field, directory in compression.directories(config)
    }

    @functools.cache
    def program_of(stage: int, steps: int) -> Program:
        return program.build(
            structure,
            stage=stage,
            begin=stages[stage].start,
            steps=steps,
            total_steps=stages[stage].steps,
            last_update=stages[stage].last_update,
            batch_size=batch,
            input_shape=input_shape,
            aligned=stages[stage].start % per_epoch == stages[stage].segment_steps % per_epoch == 0,
            model=own_model,
            transform=transform,
            teacher=teacher_of(stage),
            mesh=mesh,
            layers=layers_of(stage),
        )

    @functools.cache
    def layers_of(stage: int) -> Layers:
        if stage and config.stages[stage].model is None:
            return layers_of(stage - 1)  # the same network
        return compression.layers_of(config, stage, input_shape, model)

    def model_of(stage: int) -> models.Model:
        return compression.model(config, stage, model)

    def teacher_of(stage: int) -> Callable[[Experiment], models.Model] | None:
        lesson = config.stages[stage].distill
        if lesson is None or not compression.teaches(config, stage):
            return None
        if lesson.teacher.startswith(STAGE):
            taught_in = [s.name for s in config.stages].index(lesson.teacher.removeprefix(STAGE))
            return lambda traced: compression.model(traced, taught_in, model)
        return lambda _, source=sources[lesson.teacher]: along(source, dataset)

    @functools.cache
    def like(stage: int) -> TrainState:
        program = program_of(stage, stages[stage].segment_steps)
        more = (like(stage - 1),) if stage else ()
        return jax.eval_shape(
            lambda seed, *previous: program.init(keys.root(seed), numbers, *previous), numbers["seed"], *more
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
        model_of=model_of,
        layers_of=layers_of,
        batch_size=batch,
        sources=sources,
        own_model=model,
        own_transform=transform,
    )
    for stage, path in enumerate(paths):
        # Not of `like`, whose own use of the rules would say less where one is wrong.
        params = _shapes(model_of(stage), input_shape)[0]
        try:
            optim.plan(stage_optimizer(config, stage), params)
        except RuleError as error:
            raise RuleError(f"{path}.{error}") from error
        compression.describe(config, stage, params, layers_of(stage))
        compression.describe_activations(config, stage, input_shape, model)
        _check_features(prepared, stage, input_shape)
        like(stage)
        try:
            prepared.transferred(stage)
        except (RuleError, transfer.TransferError) as error:
            raise type(error)(f"stages[{stage}].transfer: {error}") from error
    return prepared


def check_lengths(config: Experiment, examples: int) -> None:
    """Raises ConfigError where a stage is too short for its schedules, given the number of training examples."""
    for index, length in enumerate(schedule.stages(config, examples)):
        path = f"stages[{index}].optimizer" if config.stages[index].optimizer else "optimizer"
        optim.validate(stage_optimizer(config, index), path, length.steps or None)
        combining.check_length(config, index, length)


def _shapes(model: models.Model, input_shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Parameters and state of a model, as shapes."""
    x = jax.ShapeDtypeStruct((1, *input_shape), np.float32)
    return jax.eval_shape(lambda seed, x: model.init(keys.root(seed), x), jax.ShapeDtypeStruct((), np.uint32), x)


def _check_features(prepared: Prepared, stage: int, input_shape: tuple[int, ...]) -> None:
    """Raises ConfigError unless the layers that a student is to match are there, in it and in its teacher."""
    lesson = prepared.config.stages[stage].distill
    if lesson is None or not lesson.features:
        return
    teacher: Any = prepared.sources.get(lesson.teacher)
    if teacher is None:
        teacher_model = prepared.model_of(prepared.stage_named(lesson.teacher.removeprefix(STAGE)))
    else:
        teacher_model = teacher.model
    x = jax.ShapeDtypeStruct((1, *input_shape), np.float32)
    for place, (whose, model) in enumerate((("student", prepared.model_of(stage)), ("teacher", teacher_model))):
        params, state = _shapes(model, input_shape) if teacher is None or place == 0 else teacher[1:3]
        known = intercept.names(model.apply, params, state, x, train=False)
        for i, pair in enumerate(lesson.features):
            field = f"stages[{stage}].distill.features[{i}]"
            require(pair[place] in known, field, pair[place], f"a layer of the {whose} ({', '.join(known)})")


def _networks(config: Experiment, own: models.Model | None) -> list[tuple[str, models.Config]]:
    """The networks of the config and their fields."""
    first = [] if own is not None else [("model", config.model)]
    stages = [(f"stages[{i}].model", stage.model) for i, stage in enumerate(config.stages)]
    return first + [(name, network) for name, network in stages if network is not None]


def _check_model(
    config: Experiment,
    field: str,
    name: str | None,
    model: models.Model,
    input_shape: tuple[int, ...],
    num_classes: int,
) -> None:
    """Raises ConfigError unless the model (the caller's own, if it has no name) maps a batch to its logits."""
    field, value = (field, "the model that was given") if name is None else (f"{field}.name", name)
    accepted = f"a model for inputs of {' x '.join(map(str, input_shape))} ({config.data.layout})"
    x = jax.ShapeDtypeStruct((2, *input_shape), np.float32)
    try:
        shape = models.check(model, x).shape
    except (ValueError, TypeError, IndexError, FlaxError) as error:
        if name is None:
            raise
        raise ConfigError(field, value, f"{accepted}: {error}") from error
    wanted = (2, num_classes)
    require(shape == wanted, field, value, f"{accepted} with logits {wanted} for two of them, which are {shape}")


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
