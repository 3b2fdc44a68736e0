"""From a config to everything that a run needs, checked before anything compiles or is written."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from flax.errors import FlaxError
from jaxtyping import PyTree

from jopt import data, hyper, intercept, keys, mesh, models, optim, transfer
from jopt import start as starting
from jopt.config import ConfigError, require
from jopt.rules import RuleError, named_leaves
from jopt.rules import plan as find_rules
from jopt.task import Task, check_functions
from jopt.train import describe, plan, schedule
from jopt.train.checkpoint import MismatchError
from jopt.train.config import STAGE, Experiment
from jopt.train.finished import Source, load_source
from jopt.train.given import check_same
from jopt.train.plan import StagePlan, resolve, trace_layers
from jopt.train.program import Program
from jopt.train.programs import evaluated_rows, stage_programs
from jopt.train.sharing import Widening
from jopt.train.state import TrainState

MAX_SEGMENT_BYTES = 2**31
"""The rows of a segment, where they are gathered on the host; those of two segments are in memory at once."""


class Prepared(NamedTuple):
    """A run that is ready to start.

    Attributes:
      config: the resolved experiment.
      dataset: on the host.
      segments: what runs when.
      plans: its stages, resolved.
      values: the swept numbers, on the device.
      arrays: `train`, `validation` and `test`, on the device.
      program_of: `(stage index, steps) -> Program`.
      segment_of: `(stage index, steps) ->` the segment's function as the loop calls it: in a form that several
        stages share, see `jopt.train.sharing`. It takes the state that `widening` gives.
      to_device: puts a pytree of host arrays where the run's programs expect it, whole on each device.
      place: `(stage index, state or variables) ->` the same where the stage's programs expect it.
      shardings: `(stage index, tree of shapes) ->` the sharding of each leaf there; None is JAX's default device.
      spread: the devices.
      spread_of: `stage index ->` how the stage is spread over them.
      like: `stage index -> TrainState` of shapes and dtypes.
      level: `(stage index, program's name) ->` how well it is compiled, see `jopt.levels`.
      widening: `stage index ->` how the state of a stage becomes that of its segment, see `jopt.train.sharing`;
        None: it is the same.
      sources: the finished runs that stages learn from or take parameters from, by directory.
      start: the weights that the first network begins with, on the device, or None.
      own_model: what the caller gave instead of `config.model`, or None.
    """

    config: Experiment
    dataset: data.Dataset
    segments: list[schedule.Segment]
    plans: list[StagePlan]
    values: dict[str, jax.Array]
    arrays: dict[str, data.DeviceArrays]
    program_of: Callable[[int, int], Program]
    segment_of: Callable[[int, int], Callable[..., Any]]
    to_device: Callable[[PyTree], PyTree]
    place: Callable[[int, PyTree], PyTree]
    shardings: Callable[[int, PyTree], PyTree]
    spread: mesh.Spread
    spread_of: Callable[[int], mesh.Spread]
    like: Callable[[int], TrainState]
    level: Callable[[int, str], int | None]
    widening: Callable[[int], Widening | None]
    sources: dict[str, Source]
    start: starting.Start | None
    own_model: models.Model | None

    @property
    def key(self) -> jax.Array:
        """The root key of the seed, or those of the trials' seeds, on the device."""
        return self.to_device(keys.roots(self.values["seed"]))

    @property
    def batch_size(self) -> int:
        """Examples a step."""
        return self.plans[0].batch_size

    @property
    def source_digests(self) -> dict[str, str]:
        """The digest of each source of weights, by its path."""
        digests = {directory: source.digest for directory, source in self.sources.items()}
        return digests if self.start is None else {**digests, self.start.name: self.start.digest}

    @property
    def example(self) -> PyTree:
        """The inputs of one example as the networks see them, as shapes."""
        return self.dataset.example

    @property
    def task(self) -> Task:
        """How outputs meet targets."""
        return self.plans[0].task

    def program(self, plan: StagePlan) -> Program:
        """The program of a stage, for segments of the stage's usual length."""
        return self.program_of(plan.index, plan.length.segment_steps)

    def boundary(self, mark: int) -> schedule.Segment:
        """The segment that ends at `mark`."""
        return next(s for s in self.segments if s.mark == mark)

    def like_of(self, checkpoint: Path) -> TrainState:
        """The shapes of the state in a checkpoint, which is named by its mark.

        Raises:
          MismatchError: if no segment ends there: it is of another run.
        """
        if all(str(s.mark) != checkpoint.name for s in self.segments):
            raise MismatchError(checkpoint, "is of another run: no segment of this one ends there")
        return self.like(self.boundary(int(checkpoint.name)).stage)

    def end_of(self, stage: int) -> schedule.Segment:
        """The last segment of a stage."""
        return next(s for s in self.segments if s.stage == stage and s.last)

    def transfer_rows(self, stage: StagePlan) -> list[transfer.LeafTransfer]:
        """What each leaf of a stage's network gets from elsewhere; empty where none gets anything."""
        if stage.transfer is None:
            return []
        if stage.transfer.source.startswith(STAGE):
            source: TrainState | Source = self.like(
                self.stage_named(stage.transfer.source.removeprefix(STAGE)).index
            )
        else:
            source = self.sources[stage.transfer.source]
        target = self.like(stage.index)
        return transfer.plan(stage.transfer, target.params, source.params, target.model_state, source.model_state)

    def stage_named(self, name: str) -> StagePlan:
        """The stage of a name."""
        return next(stage for stage in self.plans if stage.name == name)


def prepare(
    config: Experiment,
    *,
    model: models.Model | None = None,
    dataset: data.Dataset | None = None,
    start: PyTree = None,
    trusted: bool = False,
) -> Prepared:
    """Validates `config`, loads its data and builds its programs. Nothing is compiled; no run file is written.

    Args:
      config: the experiment.
      model: a custom model, instead of `config.model`.
      dataset: what `data.load(config.data)` gives, where it has been loaded already.
      start: arrays to begin with, in place of what `config.start` names, whose rules hold: see
        `jopt.start.from_object`.
      trusted: lifts the rules for the foreign files that it names: data, teachers, sources (`docs/security.md`).

    Raises:
      ConfigError: naming the field, its value and what is accepted.
      RuleError: for a rule that matches no parameter.
    """
    plan.validate(config)
    dataset = data.load(config.data, trusted=trusted) if dataset is None else dataset
    check_same(config, dataset)
    task = config.task.resolved()
    task.check(dataset)
    # Checks go from cheap to dear: fields, data, lengths, then abstract traces. Nothing is compiled or written
    # before the last of them, so a mistake in a config costs seconds and leaves no files.
    examples, example = dataset.sizes[0], dataset.example
    plans = resolve(config, examples, model)
    plan.validate_lengths(plans)
    if dataset.residency == "host":
        _check_streamed(plans, dataset)
    axes = (*config.mesh, *[(mesh.DATA, -1)] * config.data_parallel)
    spread = mesh.resolve(axes, config.shards, config.partition, plans[0].batch_size)
    for name, network in _networks(config, model):
        _check_model(name, network, network.model(), dataset, task)
    if model is not None:
        _check_model("model", None, model, dataset, task)
    _check_augmentation(config.data, dataset, plans[0].batch_size)
    plans = trace_layers(plans, example)
    sources = {
        directory: load_source(
            directory,
            field,
            example,
            task.output_shapes(dataset) if field.endswith("teacher") else None,
            trusted=trusted,
        )
        for field, directory in plan.source_fields(config)
        if not directory.startswith(STAGE)
    }

    weights = None
    if config.start is not None or start is not None:
        pretrained = config.start or starting.Pretrained(starting.OBJECT)
        variables = plan.shapes(plans[0].model, example)
        x = data.batch_of(example, 2)
        network = plans[0].model, plans[0].layers, variables, x
        weights = starting.load(pretrained, *network, trusted=trusted, source=start)
    segments = list(schedule.segments(config, examples))
    programs = stage_programs(
        config, plans, dataset, segments=segments, sources=sources, model=model, spread=spread
    )
    rows, everywhere = evaluated_rows(dataset), spread.replicated
    prepared = Prepared(
        config=config,
        dataset=dataset,
        segments=segments,
        plans=plans,
        values=cast("dict[str, jax.Array]", spread.share(hyper.split(config)[1])),
        arrays={
            # A part that stays on the host is gathered segment by segment (`jopt.train.streaming`).
            **({} if dataset.residency == "host" else {"train": data.device_arrays(dataset, "train", everywhere)}),
            # Of one size, so that one program evaluates both.
            **{part: data.device_arrays(dataset, part, everywhere, rows=rows) for part in ("validation", "test")},
        },
        to_device=spread.share,
        place=lambda stage, tree: programs.spread_of(stage).put(tree),
        shardings=lambda stage, tree: programs.spread_of(stage).shardings(tree),
        spread=spread,
        sources=sources,
        start=None if weights is None else weights.placed(spread.share),
        own_model=model,
        **programs._asdict(),
    )
    _check_partition(config, plans, example)
    for stage in plans:
        check_parameters(stage, example)
        _check_features(prepared, stage, example)
        prepared.like(stage.index)
        try:
            prepared.transfer_rows(stage)
        except (RuleError, transfer.TransferError) as error:
            raise type(error)(f"{stage.path}.transfer: {error}") from error
    return prepared


def check_parameters(stage: StagePlan, example: PyTree, params: PyTree | None = None) -> None:
    """Raises where a stage's rules, methods and optimizer do not go with its network's parameters (`params`)."""
    # Not the parameters of the stage's first state: building that uses the rules too, and its error would say less.
    params = plan.shapes(stage.wrapped, example)[0] if params is None else params
    try:
        optim.plan(stage.optimizer, params)
    except RuleError as error:
        raise RuleError(f"{stage.optimizer_path}.{error}") from error
    describe.parameter_rows(stage, params)
    describe.input_rows(stage, example)


def _check_features(prepared: Prepared, stage: StagePlan, example: PyTree) -> None:
    """Raises ConfigError unless the layers that a student matches exist, in the student and in its teacher."""
    distillation = stage.distillation
    if distillation is None or distillation.features is None:
        return
    source = prepared.sources.get(distillation.teacher)
    if source is None:
        teacher_model = prepared.stage_named(distillation.teacher.removeprefix(STAGE)).wrapped
    else:
        teacher_model = source.model
    x = data.batch_of(example)
    for side, (network, model) in enumerate((("student", stage.wrapped), ("teacher", teacher_model))):
        params, state = plan.shapes(model, example) if source is None or side == 0 else source[1:3]
        names = intercept.names(model.apply, params, state, x, train=False)
        for i, pair in enumerate(distillation.features.pairs):
            field = f"{stage.path}.distill.features.pairs[{i}]"
            require(pair[side] in names, field, pair[side], f"a layer of the {network} ({', '.join(names)})")


def _check_partition(config: Experiment, plans: list[StagePlan], example: PyTree) -> None:
    """Raises RuleError for a rule of `partition` that decides for no parameter of any stage."""
    pairs = [rule for rule in config.partition if not isinstance(rule, str)]
    # Of all stages together: a student may lack what a rule is for.
    every = {name: 0 for stage in plans for name, _ in named_leaves(plan.shapes(stage.model, example)[0])}
    try:
        find_rules(pairs, every, None)
    except RuleError as error:
        raise RuleError(f"partition: {error}") from error


def _networks(config: Experiment, custom_model: models.Model | None) -> list[tuple[str, models.Network]]:
    """The networks of the config and their fields."""
    first = [] if custom_model is not None else [("model", config.model)]
    stages = [(f"stages[{i}].model", stage.model) for i, stage in enumerate(config.stages)]
    return first + [(name, network) for name, network in stages if network is not None]


def _check_model(
    field: str, network: models.Network | None, model: models.Model, dataset: data.Dataset, task: Task
) -> None:
    """Raises ConfigError unless the model (a custom one has no config) maps a batch to outputs of the task."""
    name = getattr(network, "name", type(network).__name__)
    field, value = (field, "the model that was given") if network is None else (f"{field}.name", name)
    accepted = f"a model for inputs of {data.leaf_shapes(dataset.example)}"
    shapes = task.output_shapes(dataset)
    # The usual reason for other outputs, in the words of the config.
    classes = getattr(network, "num_classes", None)
    if shapes is not None and classes is not None and (classes,) not in {shape[-1:] for shape in shapes}:
        width = next((shape[-1] for shape in shapes if shape), 1)
        raise ConfigError(field.replace(".name", ".num_classes"), classes, f"{width}, which {dataset.name!r} needs")
    # Two examples, so that a model which drops or mixes up the batch axis does not pass by chance.
    try:
        outputs = models.check(model, data.batch_of(dataset.example, 2))
    except (ValueError, TypeError, IndexError, FlaxError) as error:
        if network is None:
            raise
        raise ConfigError(field, value, f"{accepted}: {error}") from error
    if shapes is not None:
        fits = " or ".join(str((2, *s)) for s in shapes)
        accepted = f"{accepted} with outputs {fits} for two of them ({task.name}), which are {outputs.shape}"
        require(outputs.shape[1:] in shapes, field, value, accepted)
    check_functions(task, outputs, dataset)


def _check_augmentation(source: data.Source, dataset: data.Dataset, batch: int) -> None:
    """Raises ConfigError unless the augmentation takes a key and a batch, and keeps its shapes and dtypes."""
    if source.augmentation is None:
        return
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct((batch, *a.shape[1:]), a.dtype), dataset.train.inputs)
    try:
        jax.eval_shape(lambda seed, x: data.varied(source, keys.root(seed), x), np.uint32(0), shapes)
    except (ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        accepted = f"a function (key, inputs) that gives inputs of the same shapes and dtypes ({reason})"
        raise ConfigError("data.augmentation", source.augmentation, accepted) from error


def _check_streamed(plans: list[StagePlan], dataset: data.Dataset) -> None:
    """Raises ConfigError unless the rows of a segment fit into memory."""
    row = _row_bytes(dataset)
    for stage in plans:
        steps, most = stage.length.segment_steps, MAX_SEGMENT_BYTES // (row * stage.batch_size)
        accepted = (
            f"at most {most}: the rows of a segment are in memory at once, {MAX_SEGMENT_BYTES >> 30} GiB of them"
        )
        require(steps <= most, "segment_steps", steps, accepted)


def streamed_bytes(dataset: data.Dataset, plans: list[StagePlan]) -> int:
    """Bytes of the rows of a run's largest segment."""
    return _row_bytes(dataset) * max(stage.length.segment_steps * stage.batch_size for stage in plans)


def _row_bytes(dataset: data.Dataset) -> int:
    return sum(math.prod(a.shape[1:]) * a.dtype.itemsize for a in jax.tree.leaves(tuple(dataset.train)))
