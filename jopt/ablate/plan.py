"""The plan of an ablation: groups, chunks, compilations, memory and time, known before anything compiles."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jopt import data, hyper, measure
from jopt.ablate.checks import at_point
from jopt.ablate.config import Ablation
from jopt.ablate.lift import Layout
from jopt.ablate.strategy import Sizes, chunks, lanes
from jopt.ablate.trials import Group, Trial
from jopt.config import ConfigError, canonical_json, require
from jopt.report import Table, formats
from jopt.rules import RuleError
from jopt.train.config import Experiment
from jopt.train.display import flops_of
from jopt.train.plan import validate_lengths, with_layers
from jopt.train.prepared import Prepared, check_parameters, prepare, resolve
from jopt.transfer import TransferError

# A guess to plan by, not a claim: training reached 6 to 22 % of the rate of a large product (docs/benchmarks.md).
_FLOPS_PER_SECOND = {"cpu": 3e10}
_SECONDS_A_STEP = 20e-6
_SECONDS_TO_COMPILE = 1.5
_COPIES = 3
"""A segment reads the trials' old states, writes new ones, and a checkpoint on the host is a third."""


class Memory(NamedTuple):
    """What trials take on a device, in bytes, and what there is.

    Attributes:
      budget: what they may take.
      state: of a trial, the largest of its stages.
      working: what one trial's step computes with.
      shared: the data.
    """

    budget: int
    state: int
    working: int
    shared: int

    def room(self, layout: Layout) -> int:
        """The trials that fit on the layout's devices: the data, what active lanes compute with, and the states."""
        left = self.budget - self.shared - layout.lanes * self.working
        return max(0, left // (_COPIES * self.state)) * layout.devices

    def held(self, layout: Layout, width: int) -> int:
        """What a chunk of so many trials takes on each device."""
        return self.shared + layout.lanes * self.working + _COPIES * self.state * width // layout.devices


class GroupPlan(NamedTuple):
    """How the trials of one program are run.

    Attributes:
      group: the trials.
      prepared: the first of them, ready to run.
      sizes: what the strategy was chosen by.
      layout: how the trials of a chunk share the devices.
      chunks: how many chunks there are.
      width: trials in each chunk, the last one padded.
      memory: estimated.
      flops: estimated, of all training steps of all trials.
    """

    group: Group
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
        """Programs that will be compiled, about."""
        lengths = {(s.stage, s.steps) for s in self.prepared.segments if s.steps}
        each = sum(3 + plan.updates for plan in self.prepared.plans)
        return len(lengths) + each + 1

    @property
    def seconds(self) -> float:
        """Estimated, without compilation."""
        rate = _FLOPS_PER_SECOND.get(self.sizes.platform, 1e12) * self.layout.devices
        calls = len(self.group.trials) * self.steps / (self.layout.lanes * self.layout.devices)
        return self.flops / rate + calls * _SECONDS_A_STEP

    @property
    def strategy(self) -> str:
        """In a word: 'map' or 'vmap'."""
        return "map" if self.layout.lanes == 1 else "vmap"


class Loader:
    """Reads each data set once, however many groups train on it."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[data.Dataset, dict[str, data.Arrays]]] = {}

    def prepare(self, config: Experiment) -> Prepared:
        """`jopt.train.prepare`, with data that were read before where they were."""
        key = canonical_json(config.data)
        if key in self._known:
            dataset, arrays = self._known[key]
            return prepare(config, dataset=dataset)._replace(arrays=arrays)
        prepared = prepare(config)
        self._known[key] = (prepared.dataset, prepared.arrays)
        return prepared


def plan(
    ablation: Ablation, groups: Sequence[Group], devices: int, recorded: Mapping[str, int], loader: Loader
) -> list[GroupPlan]:
    """Prepares each group, checks all of its trials against the data, and sizes its chunks. Nothing is compiled.

    Args:
      ablation: the grid.
      groups: its trials by program.
      devices: local devices to use at most.
      recorded: identity of a group's structure to the lanes that an earlier launch chose.
      loader: what reads the data.

    Raises:
      ConfigError, RuleError: for what only the data or the parameters' shapes show; also if a trial needs more
        memory than there is.
    """
    out = []
    budget = memory_budget(ablation.memory_gib)
    for group in groups:
        first = group.trials[0]
        try:
            prepared = loader.prepare(first.config)
        except (ConfigError, RuleError, TransferError) as error:
            raise at_point(error, first) from error
        _check(prepared, group.trials)
        sizes = sizes_of(prepared)
        own = recorded.get(identity(group)) or lanes(ablation.strategy, sizes)
        wanted = min(len(group.trials), ablation.chunk or len(group.trials))
        used = max(1, min(devices, -(-wanted // own)))
        memory = memory_of(prepared, budget)
        layout = Layout(own, used)
        size = formats.binary(memory.state)
        accepted = (
            f"such that {layout.multiple} trials fit: {size} of state each, "
            f"{formats.binary(own * memory.working)} to compute with and {formats.binary(memory.shared)} of data, "
            f"in {formats.binary(budget)} on each of {used} devices (memory_gib)"
        )
        fit = memory.room(layout)
        require(fit >= layout.multiple, f"the size of a trial of group {group.index}", size, accepted)
        count, width = chunks(len(group.trials), layout, min(fit, -(-wanted // layout.multiple) * layout.multiple))
        flops = 3.0 * len(group.trials) * _training_flops(prepared)
        out.append(GroupPlan(group, prepared, sizes, layout, count, width, memory, flops))
    return out


def identity(group: Group) -> str:
    """The name of a group's structure: what its trials share."""
    return hyper.split(group.trials[0].config)[0].identity[:16]


def sizes_of(prepared: Prepared) -> Sizes:
    """What the strategy is chosen by."""
    counts = [sum(x.size for x in jax.tree.leaves(prepared.like(plan.index).params)) for plan in prepared.plans]
    convolutions = any(p.window for plan in prepared.plans for p in plan.layers.values())
    return Sizes(jax.default_backend(), max(counts), convolutions)


def memory_of(prepared: Prepared, budget: int) -> Memory:
    """What a trial and the data take, by their shapes."""
    state = max(_bytes(prepared.like(plan.index)) for plan in prepared.plans)
    x = jax.ShapeDtypeStruct((prepared.batch_size, *prepared.dataset.train.inputs.shape[1:]), np.float32)
    working = 0
    for plan in prepared.plans:
        like, model = prepared.like(plan.index), plan.wrapped
        kept = measure.intermediate_bytes(
            lambda p, s, x, model=model: model.apply(p, s, x, train=False)[0], like.params, like.model_state, x
        )
        # Kept for the backward pass, and as much again for the gradients.
        working = max(working, 2 * kept + 2 * _bytes(like.params))
    return Memory(budget, state, working, sum(_bytes(arrays) for arrays in prepared.arrays.values()))


def memory_budget(gib: float | None) -> int:
    """Bytes that the trials may take on each device: what is asked for, or half of what is free."""
    if gib is not None:
        return int(gib * 2**30)
    device = jax.local_devices()[0]
    stats = device.memory_stats() or {}
    if device.platform != "cpu" and "bytes_limit" in stats:
        return stats["bytes_limit"] // 2
    return _free_memory() // 2 // max(1, jax.local_device_count() if device.platform == "cpu" else 1)


def _free_memory() -> int:
    """Bytes of memory that this machine has to give."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            free = min(free, int(Path(limit).read_text()))
        except (OSError, ValueError):
            continue
    return free


def plan_table(plans: Sequence[GroupPlan], done: Callable[[Trial], bool]) -> Table:
    """What will be run: a row a group."""
    rows, totals = [], [0, 0, 0.0]
    for p in plans:
        left = sum(not done(trial) for trial in p.group.trials)
        seconds = p.seconds * left / len(p.group.trials) + (p.compilations * _SECONDS_TO_COMPILE if left else 0)
        totals = [totals[0] + left, totals[1] + (p.compilations if left else 0), totals[2] + seconds]
        rows.append(
            (
                str(p.group.index),
                f"{len(p.group.trials):,}",
                f"{left:,}",
                f"{p.steps:,}",
                f"{p.chunks} x {p.width}",
                p.strategy + (f" x {p.layout.lanes}" if p.layout.lanes > 1 else ""),
                str(p.layout.devices),
                str(p.compilations),
                formats.binary(p.memory.held(p.layout, p.width) * p.layout.devices),
                formats.duration(seconds),
            )
        )
    header = ("group", "trials", "to run", "steps", "chunks", "strategy", "devices", "programs", "memory", "time")
    trials = sum(len(p.group.trials) for p in plans)
    footer = ("", f"{trials:,}", f"{totals[0]:,}", "", "", "", "", str(totals[1]), "", formats.duration(totals[2]))
    return Table("Plan (programs, memory and time are estimates)", header, "rrrrrlrrrr", rows, footer)


def _check(prepared: Prepared, trials: Sequence[Trial]) -> None:
    """Raises where a trial's numbers do not go with the data or the parameters' shapes, as `prepare` does."""
    examples = prepared.dataset.train.labels.shape[0]
    for trial in trials[1:]:
        try:
            plans = resolve(trial.config, examples)
            validate_lengths(plans)
            for plan in with_layers(plans, [plan.layers for plan in prepared.plans]):
                check_parameters(plan, prepared.input_shape)
        except (ConfigError, RuleError) as error:
            raise at_point(error, trial) from error


def _training_flops(prepared: Prepared) -> float:
    """FLOPs of the forward passes of one trial's training steps."""
    per_example = [sum(flops_of(prepared, plan.index).values()) for plan in prepared.plans]
    pairs = zip(per_example, prepared.plans, strict=True)
    return float(sum(flops * plan.length.steps * prepared.batch_size for flops, plan in pairs))


def _bytes(tree: Any) -> int:
    return sum(int(np.prod(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))
