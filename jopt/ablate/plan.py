"""The plan of an ablation: groups, chunks, compilations, memory and time, estimated before anything compiles."""

import functools
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from jopt import data, measure
from jopt.ablate.checks import at_point
from jopt.ablate.config import Ablation
from jopt.ablate.lift import Layout
from jopt.ablate.parts import fit_lengths
from jopt.ablate.strategy import Sizes, chunks, lanes
from jopt.ablate.trials import Trial, TrialGroup, with_new_parts
from jopt.config import ConfigError, require, tagged_json
from jopt.models import Model
from jopt.report import Table, formats
from jopt.rules import RuleError
from jopt.train.config import Experiment
from jopt.train.display import flops_of
from jopt.train.given import Given
from jopt.train.plan import StagePlan, shapes, validate_lengths, with_layers
from jopt.train.prepared import Prepared, check_parameters, prepare, resolve, streamed_bytes
from jopt.train.program import EVALUATION_BATCH
from jopt.transfer import TransferError

if TYPE_CHECKING:
    from jopt.ablate.dry_run import Fleet

# Only to estimate the time: training reached 6 to 22 % of the rate of a large product (docs/benchmarks.md).
_FLOPS_PER_SECOND = {"cpu": 3e10}
_SECONDS_A_STEP = 20e-6
_SECONDS_TO_COMPILE = 1.5
_COPIES = 3
"""A segment reads the trials' old states, writes new ones, and a checkpoint on the host is a third."""


class Memory(NamedTuple):
    """The memory that trials need on a device and the memory that it has, in bytes.

    Attributes:
      budget: the memory that the trials may take.
      state: the train state of one trial, in its largest stage, with the rows that the host gathers for it.
      working: the intermediate values of one trial's step.
      shared: the data.
    """

    budget: int
    state: int
    working: int
    shared: int

    def room(self, layout: Layout) -> int:
        """The number of trials that fit on the layout's devices."""
        # Every trial of a chunk has a state on the device, but only the lanes that run have intermediate values.
        free = self.budget - self.shared - layout.lanes * self.working
        return max(0, free // (_COPIES * self.state)) * layout.devices

    def used(self, layout: Layout, width: int) -> int:
        """The memory that a chunk of `width` trials takes on each device."""
        return self.shared + layout.lanes * self.working + _COPIES * self.state * width // layout.devices


class GroupPlan(NamedTuple):
    """The plan of the trials that share one program.

    Attributes:
      group: the trials.
      prepared: the first of them, ready to run.
      sizes: the facts that the strategy was chosen by.
      layout: how the trials of a chunk share the devices.
      chunks: how many chunks there are.
      width: trials in each chunk, the last one padded.
      memory: estimated.
      flops: estimated, of all training steps of all trials.
    """

    group: TrialGroup
    prepared: Prepared
    sizes: Sizes
    layout: Layout
    chunks: int
    width: int
    memory: Memory
    flops: float

    @property
    def steps(self) -> int:
        """Optimizer steps of one trial."""
        return self.prepared.segments[-1].stop

    @property
    def compilations(self) -> int:
        """The number of programs that will be compiled, estimated."""
        # A segment is compiled for each length; the other functions of a stage once; the test once a run.
        lengths = {(s.stage, s.steps) for s in self.prepared.segments if s.steps}
        each = sum(3 + plan.updates for plan in self.prepared.plans)
        return len(lengths) + each + 1

    @property
    def seconds(self) -> float:
        """Estimated, without compilation."""
        # Small networks are bound by the calls and large ones by the arithmetic; the sum is right at both ends.
        rate = _FLOPS_PER_SECOND.get(self.sizes.platform, 1e12) * self.layout.devices
        calls = len(self.group.trials) * self.steps / (self.layout.lanes * self.layout.devices)
        return self.flops / rate + calls * _SECONDS_A_STEP

    @property
    def strategy(self) -> str:
        """'map' or 'vmap'."""
        return "map" if self.layout.lanes == 1 else "vmap"


class Loader:
    """Reads each data set once, for all groups that train on it."""

    def __init__(self, trusted: bool = False, objects: Given | None = None) -> None:
        """Reads nothing; `trusted` as in `jopt.train.prepare`, `objects` are what the trials share of no config."""
        self.trusted, self.objects = trusted, objects
        # By the config as text, since two groups have equal configs and not the same object.
        self._loaded: dict[str, tuple[data.Dataset, dict[str, data.DeviceArrays]]] = {}

    def prepare(self, config: Experiment) -> Prepared:
        """`jopt.train.prepare`, without reading or copying a data set a second time."""
        key, (model, dataset) = tagged_json(config.data), self._objects(config)
        if key in self._loaded:
            dataset, arrays = self._loaded[key]
            # The arrays too: each copy on the device would take memory that trials could use.
            return prepare(config, model=model, dataset=dataset, trusted=self.trusted)._replace(arrays=arrays)
        prepared = prepare(config, model=model, dataset=dataset, trusted=self.trusted)
        self._loaded[key] = (prepared.dataset, prepared.arrays)
        return prepared

    def _objects(self, config: Experiment) -> tuple[Model | None, data.Dataset | None]:
        """The model and the data set that were given as objects.

        Raises:
          ConfigError: where the grid sets fields of the config that an object stands in for.
        """
        if self.objects is None:
            return None, None
        # Such an axis would have no effect: all of its trials would be the same.
        for field, given in (("model", self.objects.model), ("data", self.objects.dataset)):
            value, shared = getattr(config, field), getattr(self.objects.config, field)
            accepted = f"without axes over it: the grid was given its {field} as an object"
            require(given is None or tagged_json(value) == tagged_json(shared), field, value, accepted)
        return self.objects.model, self.objects.dataset


def plan(
    ablation: Ablation,
    groups: Sequence[TrialGroup],
    devices: int,
    recorded: Mapping[str, int],
    loader: Loader,
    fleet: "Fleet | None" = None,
) -> list[GroupPlan]:
    """Prepares each group, checks its trials against the data and chooses the size of its chunks. Compiles nothing.

    Args:
      ablation: the grid.
      groups: its trials by program.
      devices: local devices to use at most.
      recorded: identity of a group's structure to the lanes that an earlier launch chose.
      loader: reads the data.
      fleet: devices of another kind that the plan is for; None: those that are here.

    Raises:
      ConfigError, RuleError: for errors that only the data or the parameters' shapes show, and if a trial needs
        more memory than there is.
    """
    plans = []
    budget = memory_budget(ablation.memory_gib) if fleet is None else fleet.budget(ablation.memory_gib)
    for group in groups:
        first = group.trials[0]
        try:
            prepared = loader.prepare(first.config)
        except (ConfigError, RuleError, TransferError) as error:
            raise at_point(error, first) from error
        _check(prepared, group.trials)
        sizes = sizes_of(prepared)
        sizes = sizes if fleet is None else sizes._replace(platform=fleet.platform)
        # An earlier launch's choice wins over the rule: its finished trials have the bits of those lanes.
        lane_count = recorded.get(identity(group)) or lanes(ablation.strategy, sizes)
        chunk_trials = min(len(group.trials), ablation.chunk or len(group.trials))
        # More devices than blocks would compute padding only.
        device_count = max(1, min(devices, -(-chunk_trials // lane_count)))
        memory = memory_of(prepared, budget, sizes.platform)
        layout = Layout(lane_count, device_count)
        size = formats.binary(memory.state)
        accepted = (
            f"such that {layout.multiple} trials fit: {size} of state each, "
            f"{formats.binary(lane_count * memory.working)} to compute with and "
            f"{formats.binary(memory.shared)} of data, in {formats.binary(budget)} on each of "
            f"{device_count} devices (memory_gib)"
        )
        fit = memory.room(layout)
        require(fit >= layout.multiple, f"the size of a trial of group {group.index}", size, accepted)
        count, width = chunks(
            len(group.trials), layout, min(fit, -(-chunk_trials // layout.multiple) * layout.multiple)
        )
        # A backward pass costs about two forward passes.
        flops = 3.0 * len(group.trials) * _training_flops(prepared)
        plans.append(GroupPlan(group, prepared, sizes, layout, count, width, memory, flops))
    return plans


def identity(group: TrialGroup) -> str:
    """The hash of a group's structure, by which a later launch finds it."""
    return group.trials[0].resolved.template.structure.identity[:16]


def sizes_of(prepared: Prepared) -> Sizes:
    """The facts that the strategy is chosen by."""
    counts = [sum(x.size for x in jax.tree.leaves(prepared.like(plan.index).params)) for plan in prepared.plans]
    convolutions = any(p.window for plan in prepared.plans for p in plan.layers.values())
    return Sizes(jax.default_backend(), max(counts), convolutions)


def memory_of(prepared: Prepared, budget: int, platform: str = "") -> Memory:
    """The memory of a trial and of the data, computed from their shapes.

    The working memory is 0.5 to 2.1 times the temporary buffers that XLA gave the programs of nine configs
    (docs/ablations.md); `jopt.measure.program_cost` tells those of a compiled program.
    """
    state = max(_bytes(prepared.like(plan.index)) for plan in prepared.plans)
    working = max(_working(prepared, plan, platform or jax.default_backend()) for plan in prepared.plans)
    # Rows that the host gathers for a trial count as often as its state: on the host, on the device, and the next
    # segment's.
    rows = streamed_bytes(prepared.dataset, prepared.plans) if prepared.dataset.residency == "host" else 0
    return Memory(budget, state + rows, working, sum(_bytes(arrays) for arrays in prepared.arrays.values()))


def _working(prepared: Prepared, plan: StagePlan, platform: str) -> int:
    """The intermediate values of a stage's largest program: its step, its evaluation or its update."""
    like, model = prepared.like(plan.index), plan.wrapped

    @functools.cache
    def forward(examples: int) -> measure.ForwardBytes:
        x = data.batch_of(prepared.example, examples)
        return measure.forward_bytes(
            lambda p, s, x: model.apply(p, s, x, train=False)[0],
            like.params,
            like.model_state,
            x,
            platform=platform,
        )

    parameters = _bytes(like.params)
    # Values stay for the backward pass, and their gradients take the same again; so do those of the parameters.
    step = 2 * forward(prepared.batch_size).total + 2 * parameters
    evaluated = forward(min(EVALUATION_BATCH, max(prepared.dataset.sizes[1:])))
    # Without a backward pass few of the values live at once.
    evaluation = min(evaluated.total, 3 * evaluated.largest)
    update = 0
    for applied in plan.applied if plan.updates else ():
        method = applied.method
        if plan.names(applied):
            examples = min(method.calibration_examples(), prepared.dataset.sizes[0])
            calibration = forward(examples).total if examples else 0
            update = max(update, method.update_bytes(parameters) + calibration)
    return max(step, evaluation, update)


def memory_budget(gib: float | None) -> int:
    """Bytes that the trials may take on each device: `gib`, or half of the free memory."""
    if gib is not None:
        return int(gib * 2**30)
    # Half of it, because the estimate leaves out the temporary buffers of the programs.
    device = jax.local_devices()[0]
    stats = device.memory_stats() or {}
    if device.platform != "cpu" and "bytes_limit" in stats:
        return stats["bytes_limit"] // 2
    return host_memory() // 2 // max(1, jax.local_device_count() if device.platform == "cpu" else 1)


def host_memory() -> int:
    """Bytes of this host's memory that are free for this process."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    # In a container the machine's memory is not the process's: the limit of the control group kills it first.
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            free = min(free, int(Path(limit).read_text()))
        except (OSError, ValueError):
            continue
    return free


def plan_table(plans: Sequence[GroupPlan], done: Callable[[Trial], bool]) -> Table:
    """The groups, one a row, with the trials that are still to run."""
    rows, totals = [], [0, 0, 0.0]
    for p in plans:
        to_run = sum(not done(trial) for trial in p.group.trials)
        seconds = p.seconds * to_run / len(p.group.trials) + (p.compilations * _SECONDS_TO_COMPILE if to_run else 0)
        totals = [totals[0] + to_run, totals[1] + (p.compilations if to_run else 0), totals[2] + seconds]
        rows.append(
            (
                str(p.group.index),
                f"{len(p.group.trials):,}",
                f"{to_run:,}",
                f"{p.steps:,}",
                f"{p.chunks} x {p.width}",
                p.strategy + (f" x {p.layout.lanes}" if p.layout.lanes > 1 else ""),
                str(p.layout.devices),
                str(p.compilations),
                formats.binary(p.memory.used(p.layout, p.width) * p.layout.devices),
                formats.duration(seconds),
            )
        )
    header = ("group", "trials", "to run", "steps", "chunks", "strategy", "devices", "programs", "memory", "time")
    trials = sum(len(p.group.trials) for p in plans)
    footer = ("", f"{trials:,}", f"{totals[0]:,}", "", "", "", "", str(totals[1]), "", formats.duration(totals[2]))
    return Table("Plan (programs, memory and time are estimates)", header, "rrrrrlrrrr", rows, footer)


def _check(prepared: Prepared, trials: Sequence[Trial]) -> None:
    """Raises the errors of `prepare` where a trial's numbers do not fit the data or the parameters' shapes."""
    # Not the first trial, which `prepare` itself has checked; the others share its layers and need no tracing.
    examples = prepared.dataset.sizes[0]
    parameters: list[PyTree] = []
    for trial, parts in itertools.islice(with_new_parts(trials), 1, None):
        config = trial.resolved.with_seed(trial.seed)
        if fit_lengths(config, parts, prepared.plans):
            continue
        parameters = parameters or [shapes(plan.wrapped, prepared.example)[0] for plan in prepared.plans]
        try:
            plans = resolve(config, examples, prepared.own_model)
            validate_lengths(plans)
            plans = with_layers(plans, [plan.layers for plan in prepared.plans])
            for plan, first, params in zip(plans, prepared.plans, parameters, strict=True):
                # A network without other numbers, that no method wraps, has the parameters of the first trial's.
                same = plan.network == first.network and not plan.wrapping
                check_parameters(plan, prepared.example, params if same else None)
        except (ConfigError, RuleError) as error:
            raise at_point(error, trial) from error


def _training_flops(prepared: Prepared) -> float:
    """FLOPs of the forward passes of one trial's training steps."""
    per_example = [sum(flops_of(prepared, plan.index).values()) for plan in prepared.plans]
    pairs = zip(per_example, prepared.plans, strict=True)
    return float(sum(flops * plan.length.steps * prepared.batch_size for flops, plan in pairs))


def _bytes(tree: PyTree) -> int:
    return sum(int(np.prod(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))
