"""Experiment and Stage: the typed config of a run, and its validation."""

import dataclasses

from jopt import data as data_sets
from jopt import mesh as meshes
from jopt import models, optim
from jopt import start as starting
from jopt import task as tasks
from jopt import transfer as transferring
from jopt.config import check_types, choice, join_path, require
from jopt.hyper import as_traced, swept
from jopt.measure import Column, load_columns
from jopt.method import Method
from jopt.train.early_stopping import EarlyStopping

REMAT = ("none", "products")

LAYOUT = ("mesh", "partition", "data_parallel")
"""Fields that say on which devices a run computes; with `shards` they change no bit."""

STAGE = "stage:"
"""What begins the name of an earlier stage where a run's directory could stand."""


@dataclasses.dataclass
class Stage:
    """A part of a run, with its own length, optimizer and methods.

    A stage starts from the state that the one before ended in, with a fresh optimizer state and the first step of
    its own schedule. What is None is taken from the experiment. Methods persist: masks, ranges and codebooks of a
    stage stay frozen in later stages until they are released.

    Attributes:
      name: names the stage in metrics, reports and addresses; unique in its experiment.
      epochs: the stage's length in passes over the training part, or
      steps: in optimizer steps. At most one of the two; 0 steps apply the stage's methods without training.
      segment_steps: optimizer steps between two updates of masks and codebooks, instead of the experiment's.
      optimizer: the stage's own optimizer.
      model: another network, which starts afresh: a student, say.
      start: where parameters and model state come from once the stage's masks are chosen: 'previous' (they stay
        as they are), 'init' (those of step 0), 'random' (newly drawn) or the name of an earlier stage (its end).
      methods: what the stage does to the network, in the order of application: `prune.Gradual(...)`,
        `quantize.Weights(...)` and others of jopt's or custom ones (`jopt.method.Method`); at most one of each
        name. A method replaces the one of its name that acted in the stage before.
      order: the names of all methods that act in the stage, first to last, those of earlier stages included; ()
        puts them by their rank (`Method.rank`), its own in the order of `methods`.
      release: names of methods of earlier stages that end here, such as ('prune',).
      transfer: parameters to take from another run as the stage starts.
      calibration_examples: so many training examples, newly drawn each time, are looked at where a choice of masks
        needs gradients or activations.
      early_stopping: ends the stage when the task's deciding metric no longer improves; None: it runs to its end.
      recalibrate: as the stage starts, batch-norm statistics are estimated again from so many batches; 0: they are
        not.
    """

    name: str = "train"
    epochs: int | None = None
    steps: int | None = None
    segment_steps: int | None = None
    optimizer: optim.Config | None = None
    model: models.ModelConfig | models.Network | None = None
    start: str = "previous"
    methods: tuple[Method, ...] = ()
    order: tuple[str, ...] = ()
    release: tuple[str, ...] = ()
    transfer: transferring.Transfer | None = None
    calibration_examples: int = 512
    recalibrate: int = 0
    early_stopping: EarlyStopping | None = None

    def __post_init__(self) -> None:
        # A list is what one writes; a tuple is what is compared, hashed and addressed.
        for name in ("methods", "order", "release"):
            if isinstance(value := getattr(self, name), list):
                setattr(self, name, tuple(value))


@dataclasses.dataclass
class Experiment:
    """Everything that determines a run's numbers, and how often it is evaluated and saved.

    Attributes:
      name: names the run in reports.
      seed: initialization, data order, augmentation and dropout are functions of it.
      model: the network: a `models.ModelConfig`, a `models.Custom`, or any dataclass that derives from
        `models.Network`.
      start: weights that exist, with which the network of `model` begins, and to which `Stage.start='init'` goes
        back.
      data: the data set, its splits and augmentation: any dataclass that derives from `data.Source`.
      task: how outputs meet targets: the loss, the metrics, and which of them decides.
      optimizer: how parameters move, in every stage without its own optimizer.
      epochs: passes over the training part, in every stage without its own length.
      batch_size: examples a step; 0 is the whole training part (gradient descent).
      ema_decay: keep an exponential moving average of the parameters with this decay (Polyak and Juditsky 1992),
        and evaluate, pack, export, transfer and teach with it. Its batch statistics are those of its own
        parameters: at the end of each segment they are estimated from 1024 training examples
        (`jopt.quantize.recalibrate`). The decay of step t = 1, 2, ... is `min(ema_decay, (1 + t) / (10 + t))`, as
        in TensorFlow's `ExponentialMovingAverage` with `num_updates`: a plain average is mostly the initial
        parameters until t is well over 1 / (1 - ema_decay). Each stage starts the average, and t, again from the
        parameters that the optimizer moved. It moves once a step, so k times an update where k gradients are
        accumulated.
      mesh: axes of devices, `(("data", 4), ("model", 2))`: each batch is split over `data`, parameters as
        `partition` says; -1 is as many devices as are left. (): one device.
      partition: how parameters, with their moments and masks, are split: 'fsdp' (over `data`), 'tensor' (over
        `model`), and pairs of a pattern and a mesh axis for each axis, `(".*/embedding", ("", "model"))`; the first
        pair that matches decides, then the presets. (): every device has all of them.
      shards: parts into which the sums over a batch are cut, added in a fixed order: the bits of a run are then the
        same on every number of devices, and of processes, that divides it. A shard has batch statistics of its own.
        None: the order is the machine's, and a run goes on only on the mesh that it began on.
      data_parallel: short for a mesh with all devices along `data`.
      remat: what the backward pass computes again instead of keeping it: 'none', or 'products', all but the results
        of products with weights (rematerialization, Chen et al. 2016): more arithmetic for less memory.
      segment_steps: optimizer steps in one XLA program; None is one epoch (the stage's length, if shorter).
      evaluate_every: evaluate on the validation part every so many segments; a stage's end always counts.
      checkpoint_every: save every so many segments; a stage's end always counts.
      keep_checkpoints: so many latest checkpoints are kept, and the best by the task's deciding metric on the
        validation part.
      pack: end with the packed model, `model.jopt`, whose length is then the result's `bytes`.
      columns: what is reported of each stage in addition to the built-in columns: `jopt.measure.Column`s, or their
        references, 'package.module:name'.
      stages: the parts of the run, one after the other.
    """

    name: str = "experiment"
    seed: int = swept(0)
    model: models.ModelConfig | models.Network = dataclasses.field(default_factory=models.ModelConfig)
    start: starting.Pretrained | None = None
    data: data_sets.Source = dataclasses.field(default_factory=data_sets.Digits)
    task: tasks.Task = dataclasses.field(default_factory=tasks.Classification)
    optimizer: optim.Config = dataclasses.field(default_factory=optim.Config)
    epochs: int = 10
    batch_size: int = 64
    ema_decay: float | None = None
    mesh: tuple[tuple[str, int], ...] = ()
    partition: meshes.Rules = ()
    shards: int | None = None
    data_parallel: bool = False
    remat: str = "none"
    segment_steps: int | None = None
    evaluate_every: int = 1
    checkpoint_every: int = 10
    keep_checkpoints: int = 2
    pack: bool = False
    columns: tuple[str | Column, ...] = ()
    stages: list[Stage] = dataclasses.field(default_factory=lambda: [Stage()])


def validate(config: Experiment, path: str = "") -> None:
    """Checks everything that can be checked before the data are read.

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
    decay = config.ema_decay
    require(decay is None or 0 < as_traced(decay) < 1, join_path(path, "ema_decay"), decay, "in (0, 1) or None")
    require(not (config.mesh and config.data_parallel), join_path(path, "data_parallel"), True, "False with a mesh")
    axes = (*config.mesh, *[(meshes.DATA, -1)] * config.data_parallel)
    meshes.validate(axes, config.shards, config.partition, path)
    choice(join_path(path, "remat"), config.remat, REMAT)
    config.model.validate(join_path(path, "model"))
    if config.start is not None:
        starting.validate(config.start, join_path(path, "start"))
    config.data.validate(join_path(path, "data"))
    config.task.validate(join_path(path, "task"))
    tasks.check_metrics(config.task.resolved(), join_path(path, "task"))
    optim.validate(config.optimizer, join_path(path, "optimizer"))
    require(len(config.stages) > 0, join_path(path, "stages"), config.stages, "a list of at least one Stage")
    load_columns(config.columns, task=config.task)
    names = [stage.name for stage in config.stages]
    for i, stage in enumerate(config.stages):
        stage_path = join_path(path, f"stages[{i}]")
        # Addresses such as `compressed.prune.sparsity=0.9` are split at these characters.
        plain = bool(stage.name) and not set(".[]:=") & set(stage.name)
        require(
            plain,
            f"{stage_path}.name",
            stage.name,
            "not empty, without . [ ] : and =, which addresses are made with",
        )
        require(
            names.count(stage.name) == 1, f"{stage_path}.name", stage.name, "another name than the other stages'"
        )
        for name in ("epochs", "segment_steps", "calibration_examples"):
            positive(f"stages[{i}].{name}", getattr(stage, name))
        for name in ("steps", "recalibrate"):
            value = getattr(stage, name)
            require(value is None or value >= 0, f"{stage_path}.{name}", value, "0 or a positive integer")
        both = stage.epochs is not None and stage.steps is not None
        require(
            not both, f"{stage_path}.steps", stage.steps, f"None where epochs is given (epochs is {stage.epochs})"
        )
        if stage.early_stopping is not None:
            stage.early_stopping.validate(f"{stage_path}.early_stopping")
        if stage.optimizer is not None:
            optim.validate(stage.optimizer, f"{stage_path}.optimizer")
        if stage.model is not None:
            stage.model.validate(f"{stage_path}.model")
        choice(f"{stage_path}.start", stage.start, ("previous", "init", "random", *names[:i]))
        applied = [method.name for method in stage.methods]
        for method in stage.methods:
            _check_class(method, f"{stage_path}.methods")
            method.validate(f"{stage_path}.{method.name}")
            accepted = "one of each name"
            require(applied.count(method.name) == 1, f"{stage_path}.methods", tuple(applied), accepted)
        if stage.transfer is not None:
            transferring.validate(stage.transfer, f"{stage_path}.transfer")
        for field, source in sources(stage).items():
            if source.startswith(STAGE):
                accepted = f"a run's directory or stage:NAME of an earlier stage ({', '.join(names[:i]) or 'none'})"
                require(source.removeprefix(STAGE) in names[:i], f"{stage_path}.{field}", source, accepted)


def _check_class(method: Method, path: str) -> None:
    cls = type(method)
    # Without the decorator its fields are class attributes: no flag or axis would reach them, and nothing says so.
    declared = "__dataclass_params__" in vars(cls) and vars(cls)["__dataclass_params__"].frozen
    require(declared, path, cls.__qualname__, "a class with @dataclasses.dataclass(frozen=True)")
    # A method's name is a part of addresses, beside the stage's own fields: `stages[0].optimizer.learning_rate`.
    plain = method.name.isidentifier() and method.name not in {field.name for field in dataclasses.fields(Stage)}
    accepted = f"{cls.__qualname__}.name to be an identifier that is no field of Stage"
    require(plain, path, method.name, accepted)


def sources(stage: Stage) -> dict[str, str]:
    """The networks that a stage learns from or takes parameters from, by the field that names each."""
    named = {f"{method.name}.teacher": getattr(method, "teacher", "") for method in stage.methods}
    named = {field: source for field, source in named.items() if source}
    return named if stage.transfer is None else {**named, "transfer.source": stage.transfer.source}
