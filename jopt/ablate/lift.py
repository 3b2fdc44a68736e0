"""Lift: a Program over an axis of trials, which the loop for one trial can run."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from jopt import data
from jopt.train.program import Program
from jopt.train.state import TrainState

AXIS = "trials"
T = TypeVar("T")
Values = dict[str, jax.Array]


class Layout(NamedTuple):
    """How the trials of a chunk share the devices.

    A device runs its trials in blocks of `lanes`, one block after the other; a block is one batch (`vmap`). The
    bits of a trial depend on `lanes` alone: neither on the number of blocks nor on the trials in the other lanes.

    Attributes:
      lanes: trials in a block; 1 is `map`: one trial after the other.
      devices: local devices that the trials are split over (`shard_map`).
    """

    lanes: int
    devices: int

    @property
    def multiple(self) -> int:
        """The number of trials in a chunk is a multiple of this."""
        return self.lanes * self.devices


class Lift:
    """Maps functions of one trial over many, on `layout.devices` devices."""

    def __init__(self, layout: Layout, devices: Sequence[object] | None = None):
        """Chooses the devices.

        Args:
          layout: how trials share them.
          devices: the devices; None is the first local ones.

        Raises:
          ValueError: if there are fewer than the layout needs.
        """
        available = list(jax.local_devices() if devices is None else devices)
        if len(available) < layout.devices:
            raise ValueError(f"the layout needs {layout.devices} devices; there are {len(available)}")
        self.layout = layout
        self.mesh = Mesh(available[: layout.devices], (AXIS,))
        self.split = NamedSharding(self.mesh, PartitionSpec(AXIS))
        self.everywhere = NamedSharding(self.mesh, PartitionSpec())

    def place(self, tree: T) -> T:
        """Puts stacked host arrays on the devices."""
        return jax.device_put(tree, self.split)

    def share(self, tree: T) -> T:
        """Puts arrays that all trials share on every device."""
        return jax.device_put(tree, self.everywhere)

    def __call__(self, fn: Callable[..., PyTree], per_trial: tuple[PyTree, ...]) -> Callable[..., Any]:
        """`fn` over a leading axis of trials.

        Args:
          fn: a pure function of one trial's arguments.
          per_trial: for each argument, True if it has the axis of trials and False if all trials share it; prefixes
            of the arguments' trees.

        Returns:
          A function of the stacked arguments, with stacked results. The trial axis must be a multiple of
          `layout.multiple`.
        """

        def lifted(*args: PyTree) -> PyTree:
            leaves, tree = jax.tree.flatten(args)
            flags = jax.tree.leaves(_spread(per_trial, args))
            # `shard_map` has one specification for each argument, so leaves of both kinds cannot stay in one tree.
            stacked = [leaf for leaf, flag in zip(leaves, flags, strict=True) if flag]
            shared = [leaf for leaf, flag in zip(leaves, flags, strict=True) if not flag]

            def blocks(stacked: list[jax.Array], shared: list[jax.Array]) -> PyTree:
                def run_trial(stacked: list[jax.Array]) -> PyTree:
                    own_leaves, shared_leaves = iter(stacked), iter(shared)
                    leaves = [next(own_leaves) if flag else next(shared_leaves) for flag in flags]
                    return fn(*jax.tree.unflatten(tree, leaves))

                lanes = self.layout.lanes
                # Without `vmap` a trial has the operations of a run alone, and so the bits of a run alone.
                if lanes == 1:
                    return jax.lax.map(run_trial, stacked)
                # Blocks of a fixed width, because the width of a batch decides the order of its sums.
                # The number of blocks is computed: of arrays without rows it could not be inferred.
                folded = jax.tree.map(lambda x: x.reshape(len(x) // lanes, lanes, *x.shape[1:]), stacked)
                results = jax.lax.map(jax.vmap(run_trial), folded)
                return jax.tree.map(lambda x: x.reshape(x.shape[0] * lanes, *x.shape[2:]), results)

            spec = PartitionSpec(AXIS)
            return jax.shard_map(
                blocks, mesh=self.mesh, in_specs=(spec, PartitionSpec()), out_specs=spec, check_vma=False
            )(stacked, shared)

        return lifted

    def segment(
        self,
        segment: Callable[..., tuple[TrainState, Values]],
        *,
        own_teacher: bool,
        stop: int | None = None,
        streamed: bool = False,
    ) -> Callable[..., Any]:
        """`Program.segment` over trials; as `program`."""

        def guarded(state: TrainState, values: Values, arrays: data.DeviceArrays) -> tuple[TrainState, Values]:
            after, metrics = segment(state, values, arrays)
            # A diverged lane runs on, but its last finite state stays: one NaN would spread to all weights.
            good = metrics["first_bad_step"] < 0
            # So does the state of a trial that was stopped early, whose step is the stage's last already.
            if stop is not None:
                good = good & (state.step < stop)
            return jax.tree.map(lambda new, old: jnp.where(good, new, old), after, state), metrics

        return self(guarded, (True, True, _flags(own_teacher, streamed)))

    def program(
        self, program: Program, *, own_teacher: bool = False, stop: int | None = None, streamed: bool = False
    ) -> Program:
        """The program over trials: states, numbers and metrics are stacked, the data are shared.

        A trial whose loss is not finite keeps the state that the segment began with.

        Args:
          program: of one trial.
          own_teacher: whether each trial has a different teacher in the training part.
          stop: of a stage that may be stopped early, the step at which it ends; None: of any other.
          streamed: whether each trial has rows of its own: those that the host gathered for its seed.
        """
        plain, train = _flags(False), _flags(own_teacher, streamed)

        # The number of arguments differs from stage to stage, so the flags are made at the call.
        # The fourth argument, the weights that a network starts with, is the same for all trials.
        def init(key: jax.Array, values: Values, *previous: PyTree) -> TrainState:
            return self(program.init, (True, True, True, False)[: 2 + len(previous)])(key, values, *previous)

        def rewind(state: TrainState, values: Values, *origin: PyTree) -> TrainState:
            return self(program.rewind, (True, True, True, False)[: 2 + len(origin)])(state, values, *origin)

        def update(state: TrainState, values: Values, arrays: data.DeviceArrays) -> TrainState:
            after = program.update(state, values, arrays)
            if stop is None:
                return after
            running = state.step < stop
            return jax.tree.map(lambda new, old: jnp.where(running, new, old), after, state)

        return Program(
            init=init,
            segment=self.segment(program.segment, own_teacher=own_teacher, stop=stop, streamed=streamed),
            update=self(update, (True, True, train)),
            judge=self(program.judge, (True, True, plain)),
            rewind=rewind,
            predict=self(program.predict, (True, True, plain)),
            seen=self(program.seen, (True, True)),
        )


def _flags(own_teacher: bool, streamed: bool = False) -> data.DeviceArrays:
    """Flags in the places of arrays: a prefix of the tree says which of its leaves have the axis of trials."""
    # Of every field: an empty default would not fit weights where a data set has some.
    flags: Any = dict.fromkeys(data.DeviceArrays._fields, False)
    rows: Any = dict.fromkeys(("inputs", "targets", "weights", "drawn"), streamed)
    return data.DeviceArrays(**flags | rows | {"teacher": own_teacher})


def _spread(prefix: PyTree, tree: PyTree) -> PyTree:
    """A flag for each leaf of `tree`."""
    return jax.tree.map(lambda flag, part: jax.tree.map(lambda _: flag, part), prefix, tree)
