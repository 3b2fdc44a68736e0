"""Lift: a Program over a trial axis, run by the loop that runs one trial."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jopt import data
from jopt.train.program import Program

AXIS = "trials"


class Layout(NamedTuple):
    """How the trials of a chunk share the devices.

    A device takes its trials in blocks of `lanes`, one block after the other; a block is one batch (`vmap`). What a
    trial computes depends on `lanes` alone: neither on how many blocks there are nor on what the other lanes hold.

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

    def __init__(self, layout: Layout, devices: Sequence[Any] | None = None):
        """Chooses the devices.

        Args:
          layout: how trials share them.
          devices: the devices; None is the first local ones.

        Raises:
          ValueError: if there are fewer than the layout needs.
        """
        found = list(jax.local_devices() if devices is None else devices)
        if len(found) < layout.devices:
            raise ValueError(f"the layout needs {layout.devices} devices; there are {len(found)}")
        self.layout = layout
        self.mesh = Mesh(found[: layout.devices], (AXIS,))
        self.split = NamedSharding(self.mesh, PartitionSpec(AXIS))
        self.everywhere = NamedSharding(self.mesh, PartitionSpec())

    def place(self, tree: Any) -> Any:
        """Puts stacked host arrays on the devices."""
        return jax.device_put(tree, self.split)

    def share(self, tree: Any) -> Any:
        """Puts arrays that all trials share on every device."""
        return jax.device_put(tree, self.everywhere)

    def __call__(self, fn: Callable[..., Any], own: tuple[Any, ...]) -> Callable[..., Any]:
        """`fn` over a leading axis of trials.

        Args:
          fn: a pure function of one trial's arguments.
          own: for each argument whether it has the trial axis (each trial its own) or is shared; prefixes of their
            trees.

        Returns:
          A function of the stacked arguments, with stacked results. The trial axis must be a multiple of
          `layout.multiple`.
        """

        def lifted(*args: Any) -> Any:
            leaves, tree = jax.tree.flatten(args)
            flags = jax.tree.leaves(_spread(own, args))
            mine = [leaf for leaf, flag in zip(leaves, flags, strict=True) if flag]
            shared = [leaf for leaf, flag in zip(leaves, flags, strict=True) if not flag]

            def blocks(mine: list[Any], shared: list[Any]) -> Any:
                def one(mine: list[Any]) -> Any:
                    m, s = iter(mine), iter(shared)
                    return fn(*jax.tree.unflatten(tree, [next(m) if flag else next(s) for flag in flags]))

                lanes = self.layout.lanes
                if lanes == 1:
                    return jax.lax.map(one, mine)
                folded = jax.tree.map(lambda x: x.reshape(-1, lanes, *x.shape[1:]), mine)
                out = jax.lax.map(jax.vmap(one), folded)
                return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), out)

            spec = PartitionSpec(AXIS)
            return jax.shard_map(
                blocks, mesh=self.mesh, in_specs=(spec, PartitionSpec()), out_specs=spec, check_vma=False
            )(mine, shared)

        return lifted

    def program(self, program: Program, *, own_teacher: bool = False) -> Program:
        """The program over trials: states, numbers and metrics are stacked, the data are shared.

        A trial whose loss is not finite keeps the state that the segment began with.

        Args:
          program: of one trial.
          own_teacher: whether each trial has a teacher of its own in the training part.
        """
        plain = data.Arrays(False, False, False, False, False)  # pyright: ignore[reportArgumentType]
        train = plain._replace(teacher=True) if own_teacher else plain  # pyright: ignore[reportArgumentType]

        def segment(state: Any, values: Any, arrays: data.Arrays) -> Any:
            after, metrics = program.segment(state, values, arrays)
            good = metrics["first_bad_step"] < 0
            return jax.tree.map(lambda new, old: jnp.where(good, new, old), after, state), metrics

        def init(key: jax.Array, values: Any, *previous: Any) -> Any:
            return self(program.init, (True,) * (2 + len(previous)))(key, values, *previous)

        def rewind(state: Any, values: Any, *origin: Any) -> Any:
            return self(program.rewind, (True,) * (2 + len(origin)))(state, values, *origin)

        return Program(
            init=init,
            segment=self(segment, (True, True, train)),
            update=self(program.update, (True, True, train)),
            evaluate=self(program.evaluate, (True, True, plain)),
            rewind=rewind,
            predict=self(program.predict, (True, True, plain)),
            seen=self(program.seen, (True, True)),
        )


def _spread(prefix: Any, tree: Any) -> Any:
    """A flag for each leaf of `tree`."""
    return jax.tree.map(lambda flag, part: jax.tree.map(lambda _: flag, part), prefix, tree)
