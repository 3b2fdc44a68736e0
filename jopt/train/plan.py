"""StagePlan: a stage, resolved. Programs, reports and checks read plans; none of them asks the config which methods
act in which stage.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import PyTree

from jopt import data, keys, models, optim, transfer
from jopt.config import join_path, require
from jopt.distill import Distillation
from jopt.layers import Layers, trace
from jopt.method import Applied, Context, Method
from jopt.task import Task
from jopt.train import schedule
from jopt.train.config import Experiment, sources
from jopt.train.config import validate as validate_config
from jopt.train.early_stopping import EarlyStopping
from jopt.train.schedule import StageSteps
from jopt.train.trainables import Trainables
from jopt.transform import ParamTransform, chain
from jopt.typing import Activation, ModelState, Params


@dataclasses.dataclass(frozen=True)
class StagePlan:
    """One stage, with everything that its programs are built from. Its numbers may be tracers.

    Attributes:
      index: its place in the run, from 0.
      name: of the stage.
      network: the config of its network; None: the caller's own model.
      model: the functions of its network, before any method wraps them.
      starts_network: whether the stage starts this network; else the stage before had it.
      activation: the function of its hidden layers, for statistics of their outputs.
      optimizer: how its parameters move.
      optimizer_path: the optimizer's address.
      applied: the methods that act, in order: the stage's own, and those of earlier stages, frozen.
      distillation: how it learns from a teacher, if it has one.
      transfer: which parameters it takes from another run, if any.
      start: as `Stage.start`.
      length: its place and length in steps.
      calibration_examples: as `Stage.calibration_examples`.
      recalibrate: as `Stage.recalibrate`.
      batch_size: examples a step.
      data: the data set's config, for augmentation.
      task: how outputs meet targets.
      early_stopping: as `Stage.early_stopping`.
      ema_decay: of the moving average; None: there is none.
      remat: as `Experiment.remat`.
      previous: the stage before, where it trained the same network.
      layers: what the model says about its parameters; empty until `with_layers`.
    """

    index: int
    name: str
    network: models.Network | None
    model: models.Model
    starts_network: bool
    activation: Activation
    optimizer: optim.Config
    optimizer_path: str
    applied: tuple[Applied, ...]
    distillation: Distillation | None
    transfer: transfer.Transfer | None
    start: str
    length: StageSteps
    calibration_examples: int
    recalibrate: int
    batch_size: int
    data: data.Source
    task: Task
    early_stopping: EarlyStopping | None
    ema_decay: float | None
    remat: str
    previous: "StagePlan | None" = None
    layers: Layers = dataclasses.field(default_factory=dict)

    @property
    def path(self) -> str:
        """The stage's address."""
        return f"stages[{self.index}]"

    def names(self, applied: Applied) -> bool:
        """Whether the stage itself names a method that acts in it; else it is frozen."""
        return applied.stage == self.index

    @functools.cached_property
    def transforms(self) -> tuple[tuple[Applied, ParamTransform], ...]:
        """The methods that act on parameters, each with its transform."""
        length, built = self.length, []
        # A frozen method gets no length: it keeps what it chose, so no schedule of this stage concerns it.
        for applied in self.applied:
            method = applied.method
            if self.names(applied):
                transform = method.build(
                    begin=length.start, steps=length.steps, last_update=length.last_update, layers=self.layers
                )
            else:
                transform = method.freeze(layers=self.layers)
            if transform is not None:
                built.append((applied, transform))
        return tuple(built)

    # Cached, as building transforms resolves every rule over every parameter; a plan with other numbers is another
    # plan (`dataclasses.replace`), so no cache outlives the numbers that it was built from.
    @functools.cached_property
    def trainables(self) -> Trainables:
        """Where the methods' own trainable parameters stand among what the optimizer moves."""
        trainables = Trainables.of(
            [
                (trainables_key(applied.method), transform.learn is not None, self.names(applied))
                for applied, transform in self.transforms
            ],
            [(trainables_key(applied.method), self.names(applied)) for applied in self.wrapping],
        )
        # One tree holds them beside the model's parameters: of two with one key the later would replace the first.
        taken = {path.partition("/")[0] for path in self.layers}
        for owned in filter(None, (*trainables.learned, *trainables.seen)):
            accepted = "a method whose key (or name) no other method of the stage and no layer of the model has"
            require(owned not in taken, join_path(self.path, "methods"), owned, accepted)
            taken.add(owned)
        return trainables

    @functools.cached_property
    def transform(self) -> ParamTransform:
        """The transform of the whole tree that the optimizer moves, trainables included."""
        return self.trainables.wrap(chain(*(transform for _, transform in self.transforms)))

    @functools.cached_property
    def wrapping(self) -> tuple[Applied, ...]:
        """The methods that change how the network computes, beyond its parameters."""
        # Asked of the method itself: a list of wrapping methods here would exclude those from outside the package.
        kinds = [(applied, applied.method.wrap(self.model) is not self.model) for applied in self.applied]
        return tuple(applied for applied, changes in kinds if changes)

    @functools.cached_property
    def wrapped(self) -> models.Model:
        """The network as its methods make it compute."""
        model = self.model
        # In the methods' order: a later method wraps what an earlier one computes, as in the chain of transforms.
        for applied in self.applied:
            model = applied.method.wrap(model, frozen=not self.names(applied))
        return model

    @property
    def stop(self) -> int:
        """The step at which the stage ends."""
        return self.length.start + self.length.steps

    @property
    def settled(self) -> int:
        """The step from which on no schedule of the stage's own methods changes anything."""
        begin, steps, last = self.length.start, self.length.steps, self.length.last_update
        own = [a.method for a in self.applied if self.names(a)]
        return max((m.settled_at(begin=begin, steps=steps, last_update=last) for m in own), default=begin)

    @property
    def updates(self) -> bool:
        """Whether something is chosen or measured between the segments."""
        return self.recalibrate > 0 or any(a.method.chooses for a in self.applied if self.names(a))

    @property
    def teacher_computes_along(self) -> bool:
        """Whether the teacher must see what the student sees: inputs vary or are streamed, or layers matched."""
        # Without augmentation an example always gives the same logits, so they are computed once, before the stage.
        # Features are as large as the activations of the whole data set, so they are never stored; nor are outputs
        # for a training part that may be larger than the device.
        return self.distillation is not None and bool(
            self.distillation.features or self.data.varies or self.data.residency == "host"
        )

    def describe(self) -> str:
        """The names of the methods that act, for tables."""
        return ", ".join(a.method.name for a in self.applied) or "-"


def trainables_key(method: Method) -> str:
    """The key under which a method's trainable parameters stand."""
    return method.key or method.name


def applied_methods(config: Experiment, index: int) -> tuple[Applied, ...]:
    """The methods that act in a stage: what earlier stages applied, merged by rank with its own.

    Both keep their order; of two heads the one of the lower rank comes first, and the frozen one where both are
    equal.

    Raises:
      ConfigError: if a stage's `order` is not an order of these methods.
    """
    frozen: list[Applied] = []
    for i, stage in enumerate(config.stages[: index + 1]):
        mine = [Applied(method, f"stages[{i}].{method.name}", i) for method in stage.methods]
        # One method of a name acts at a time: a stage that names `prune` again replaces the frozen one.
        named = {applied.method.name for applied in mine} | set(stage.release)
        old = [a for a in frozen if stage.model is None and a.method.persists and a.method.name not in named]
        frozen = _merge_by_rank(old, mine)
        if stage.order:
            names = sorted(applied.method.name for applied in frozen)
            accepted = f"() or an order of all methods that act in the stage ({', '.join(names)})"
            require(sorted(stage.order) == names, f"stages[{i}].order", stage.order, accepted)
            frozen.sort(key=lambda applied: stage.order.index(applied.method.name))
    return tuple(frozen)


def _merge_by_rank(frozen: Sequence[Applied], named: Sequence[Applied]) -> list[Applied]:
    earlier, new, merged = list(frozen), list(named), []
    # Merged by rank, so that a quantizer named today still runs after a pruner that a later stage adds. A merge and
    # not a sort: a stage may order its methods against their ranks, and that order holds in later stages.
    while earlier and new:
        merged.append((earlier if earlier[0].method.rank <= new[0].method.rank else new).pop(0))
    return merged + earlier + new


def stage_plans(
    config: Experiment, lengths: Sequence[StageSteps], batch_size: int, own_model: models.Model | None = None
) -> list[StagePlan]:
    """Resolves an experiment into its stages. Pure; the config's numbers may be tracers.

    Args:
      config: the experiment.
      lengths: what `jopt.train.schedule.stages` gives.
      batch_size: examples a step.
      own_model: a model of the caller's, instead of `config.model`.
    """
    plans: list[StagePlan] = []
    network = config.model if own_model is None else None
    for index, (stage, length) in enumerate(zip(config.stages, lengths, strict=True)):
        network = network if stage.model is None else stage.model
        applied = applied_methods(config, index)
        optimizer = config.optimizer if stage.optimizer is None else stage.optimizer
        # Added to the optimizer's rules, so that one place decides which parameters move and reports list it once.
        if stage.transfer is not None and stage.transfer.freeze:
            optimizer = dataclasses.replace(optimizer, freeze=(*optimizer.freeze, *stage.transfer.freeze))
        teachers = [a.method for a in applied if isinstance(a.method, Distillation)]
        plans.append(
            StagePlan(
                index=index,
                name=stage.name,
                network=network,
                model=own_model
                if network is None and own_model is not None
                else models.model(network or config.model),
                starts_network=index == 0 or stage.model is not None,
                activation=models.activation(network or config.model),
                optimizer=optimizer,
                optimizer_path="optimizer" if stage.optimizer is None else f"stages[{index}].optimizer",
                applied=applied,
                distillation=teachers[0] if teachers else None,
                transfer=stage.transfer,
                start=stage.start,
                length=length,
                calibration_examples=stage.calibration_examples,
                recalibrate=stage.recalibrate,
                batch_size=batch_size,
                data=config.data,
                task=config.task.resolved(),
                early_stopping=stage.early_stopping,
                ema_decay=config.ema_decay,
                remat=config.remat,
                previous=plans[-1] if plans and stage.model is None else None,
            )
        )
    return plans


def with_layers(plans: Sequence[StagePlan], layers: Sequence[Layers]) -> list[StagePlan]:
    """The plans with what their models say about their parameters."""
    resolved: list[StagePlan] = []
    for plan, model_layers in zip(plans, layers, strict=True):
        # The stage before must be the resolved one too: its transforms tell the structure of the state it ended in.
        previous = None if plan.previous is None else resolved[-1]
        resolved.append(dataclasses.replace(plan, layers=model_layers, previous=previous))
    return resolved


def resolve(config: Experiment, examples: int, model: models.Model | None = None) -> list[StagePlan]:
    """The stages of an experiment on so many training examples."""
    return stage_plans(config, schedule.stages(config, examples), schedule.batch_size(config, examples), model)


def trace_layers(plans: list[StagePlan], example: PyTree) -> list[StagePlan]:
    """The plans with what their models say about their parameters, by one abstract trace of each network."""
    plan_layers: list[Layers] = []
    for stage in plans:
        # A trace costs seconds for a large network, and stages of one network differ in nothing that it reads.
        if not stage.starts_network:
            plan_layers.append(plan_layers[-1])
        else:
            plan_layers.append(trace(stage.model, data.batch_of(example)))
    return with_layers(plans, plan_layers)


def validate(config: Experiment) -> None:
    """Checks an experiment: each field, what its stages release, and which methods go together.

    Raises:
      ConfigError: naming the field, its value and what is accepted.
    """
    validate_config(config)
    for index, stage in enumerate(config.stages):
        before = {a.method.name for a in applied_methods(config, index - 1)} if index else set()
        for name in stage.release:
            accepted = f"a method that acts in the stage before ({', '.join(sorted(before)) or 'none does'})"
            require(name in before, f"stages[{index}].release", name, accepted)
        applied = applied_methods(config, index)
        optimizer = config.optimizer if stage.optimizer is None else stage.optimizer
        path = "optimizer" if stage.optimizer is None else f"stages[{index}].optimizer"
        for mine in applied:
            mine.method.validate_with(Context(mine, applied, optimizer, path))


def validate_lengths(plans: Sequence[StagePlan]) -> None:
    """Checks that each stage is long enough for its schedules, and for what its methods do in it.

    Raises:
      ConfigError: naming the field, its value and what is accepted.
    """
    for plan in plans:
        optim.validate(plan.optimizer, plan.optimizer_path, plan.length.steps or None)
        for applied in plan.applied:
            if plan.names(applied):
                begin, steps, last = plan.length.start, plan.length.steps, plan.length.last_update
                applied.method.validate_length(applied.path, begin=begin, steps=steps, last_update=last)


def source_fields(config: Experiment) -> list[tuple[str, str]]:
    """`(field, source)` of each network that a stage learns from or takes parameters from."""
    return [
        (join_path(f"stages[{i}]", field), source)
        for i, stage in enumerate(config.stages)
        for field, source in sources(stage).items()
    ]


def final_network(config: Experiment) -> models.Network:
    """The config of the network that an experiment ends with."""
    return next((stage.model for stage in reversed(config.stages) if stage.model is not None), config.model)


def shapes(model: models.Model, example: PyTree) -> tuple[Params, ModelState]:
    """Parameters and state of a model for inputs like this example, as shapes."""
    x = data.batch_of(example)
    return jax.eval_shape(lambda seed, x: model.init(keys.root(seed), x), jax.ShapeDtypeStruct((), np.uint32), x)
