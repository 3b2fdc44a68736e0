"""Spread: the devices of a run as a mesh, and how its programs run on them."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from jopt.config import join_path, require
from jopt.layers import Parameter
from jopt.mesh import partition
from jopt.mesh.arrays import put
from jopt.mesh.partition import Rules
from jopt.mesh.sums import DATA, sealed
from jopt.typing import Shape

T = TypeVar("T")
Axes = Sequence[tuple[str, int]]


@dataclasses.dataclass(frozen=True)
class Spread:
    """How a run, or one of its stages, is spread over devices.

    Without `shards` XLA partitions the programs (GSPMD): sums over devices are added in the machine's order, and so
    bits depend on the mesh. With `shards` a device computes its shards of a batch one after the other, sums are
    added in the order of the shards (`jopt.mesh.sums`), and all else every device computes alike: bits depend on
    the number of shards alone.

    Attributes:
      mesh: the devices; None: JAX's default device, and every method here changes nothing.
      shards: parts into which the sums over a batch are cut, or None.
      rules: how parameters are split.
      specs: of the parameters of a stage's network that are split, by path.
    """

    mesh: Mesh | None = None
    shards: int | None = None
    rules: Rules = ()
    specs: Mapping[str, tuple[Shape, PartitionSpec]] = dataclasses.field(default_factory=dict)

    @property
    def axes(self) -> dict[str, int]:
        """The sizes of the mesh's axes."""
        return {} if self.mesh is None else dict(self.mesh.shape)

    @property
    def replicated(self) -> NamedSharding | None:
        """Every device has all of an array."""
        return None if self.mesh is None else NamedSharding(self.mesh, PartitionSpec())

    @property
    def by_step(self) -> NamedSharding | None:
        """Of what a host gathered for a segment, [steps, batch, ...]: each device has its part of each batch."""
        return None if self.mesh is None else NamedSharding(self.mesh, PartitionSpec(None, DATA))

    @property
    def compiler_options(self) -> dict[str, str]:
        """XLA's options for the run's programs."""
        # A pass of programs for several devices alone, which joins operations: see `jopt.train.compiler.Compiler`.
        several = self.shards is not None and self.mesh is not None and self.mesh.size > 1
        return {"xla_disable_hlo_passes": "spmd-cleanup"} if several else {}

    def over(self, params: PyTree, layers: Mapping[str, Parameter]) -> "Spread":
        """The spread of a stage, whose network has these parameters (or shapes)."""
        if self.mesh is None:
            return self
        return dataclasses.replace(self, specs=partition.parameter_specs(self.rules, self.axes, params, layers))

    def shardings(self, tree: PyTree) -> PyTree:
        """The sharding of each leaf of a stage's state."""
        if self.mesh is None:
            return jax.tree.map(lambda _: None, tree)
        return jax.tree.map(functools.partial(NamedSharding, self.mesh), partition.specs_of(tree, self.specs))

    def put(self, state: T) -> T:
        """Places a stage's state, which all processes have alike on the host."""
        return put(state, None if self.mesh is None else self.shardings(state))

    def share(self, tree: T) -> T:
        """Places host arrays of which every device gets all."""
        return put(tree, self.replicated)

    def bytes_of(self, tree: PyTree) -> int:
        """Bytes of a stage's state on each device."""
        if self.mesh is None:
            return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))
        sizes = jax.tree.map(
            lambda x, s: math.prod(s.shard_shape(tuple(x.shape))) * x.dtype.itemsize, tree, self.shardings(tree)
        )
        return sum(jax.tree.leaves(sizes))

    def keep(self, state: T) -> T:
        """Inside a program: a stage's state, split as its specifications say."""
        return state if self.mesh is None else jax.lax.with_sharding_constraint(state, self.shardings(state))

    def alike(self, fn: Callable[..., T], number: jax.Array) -> Callable[..., T]:
        """`fn`; where sums have a fixed order, every device computes it of whole arrays, without the others.

        Args:
          fn: a pure function.
          number: as `jopt.mesh.sealed` needs it.
        """
        return fn if self.shards is None else self._on_each(fn, number, PartitionSpec())

    def on_shards(self, fn: Callable[..., T], number: jax.Array) -> Callable[..., T]:
        """`fn(row, *args)`, whose sums over `row`, [batch, ...], go over devices.

        With shards, `fn` gets [shards of the device, batch / shards, ...], and adds by `jopt.mesh.total`.

        Args:
          fn: a pure function.
          number: as `jopt.mesh.sealed` needs it.
        """
        if self.mesh is None:
            return fn
        if self.shards is None:
            return lambda row, *args: fn(self.split(row), *args)
        on_each = self._on_each(fn, number, PartitionSpec(DATA))
        return lambda row, *args: on_each(self._by_shard(row), *args)

    def split(self, rows: T) -> T:
        """Inside a program that XLA partitions: rows split over the axis `data`, where they divide."""
        if self.mesh is None or self.shards is not None:
            return rows
        sharding = NamedSharding(self.mesh, PartitionSpec(DATA))

        # The last batch of an evaluation need not divide; it is small, so every device computes it.
        def one(x: jax.Array) -> jax.Array:
            return x if x.shape[0] % self.axes[DATA] else jax.lax.with_sharding_constraint(x, sharding)

        return jax.tree.map(one, rows)

    def _by_shard(self, row: T) -> T:
        return jax.tree.map(lambda x: x.reshape(self.shards, -1, *x.shape[1:]), row)

    def _on_each(self, fn: Callable[..., T], number: jax.Array, first: PartitionSpec) -> Callable[..., T]:
        def on_each(*args: PyTree) -> T:
            inside = jax.shard_map(
                lambda *args: sealed(fn, number)(*jax.tree.map(_in_order, args)),
                mesh=self.mesh,
                in_specs=(first, *[PartitionSpec()] * (len(args) - 1)),
                out_specs=PartitionSpec(),
                check_vma=False,
            )
            return inside(*args)

        return on_each

    def describe(self) -> str:
        """The devices in words, such as '8 devices (data 4, model 2)'."""
        if self.mesh is None:
            return "one device"
        axes = ", ".join(f"{name} {size}" for name, size in self.axes.items())
        return f"{self.mesh.size} device{'s' if self.mesh.size > 1 else ''} ({axes})"


def _in_order(x: jax.Array) -> jax.Array:
    """The array with its last axis the densest in memory, as one that was not split has it."""
    # An array that is gathered along its last axis comes in another order, and with it what is computed of it.
    if x.ndim < 2 or jnp.issubdtype(x.dtype, jax.dtypes.extended):
        return x
    return with_layout_constraint(x, Layout(major_to_minor=tuple(range(x.ndim))))


ONE = Spread()
"""One device."""


def validate(axes: Axes, shards: int | None, rules: Rules, path: str = "") -> None:
    """Checks what can be checked before it is known which devices there are.

    Raises:
      ConfigError: naming the field, its value and what is accepted.
    """
    field, names = join_path(path, "mesh"), [name for name, _ in axes]
    for i, (name, size) in enumerate(axes):
        require(name.isidentifier(), f"{field}[{i}]", name, "a name such as 'data' or 'model'")
        require(names.count(name) == 1, f"{field}[{i}]", name, "each axis once")
        require(size > 0 or size == -1, f"{field}[{i}]", size, "a number of devices, or -1 for those that are left")
    require([size for _, size in axes].count(-1) <= 1, field, axes, "-1 for one axis at most")
    require(not axes or DATA in names, field, axes, f"an axis {DATA!r}, over which a batch is split")
    shards_field = join_path(path, "shards")
    require(shards is None or shards > 0, shards_field, shards, "a positive number, or None")
    if shards is not None:
        # Sums over another axis are XLA's own, whose order the machine decides.
        require(set(names) <= {DATA}, shards_field, shards, f"None where the mesh has axes other than {DATA!r}")
    partition.validate(rules, dict(axes), join_path(path, "partition"))


def resolve(
    axes: Axes, shards: int | None, rules: Rules, batch: int, devices: Sequence[Any] | None = None
) -> Spread:
    """The spread of a run over the devices that there are.

    Args:
      axes: names and sizes; the size -1 is as many devices as are left.
      shards: as `Spread.shards`.
      rules: as `Spread.rules`.
      batch: examples a step.
      devices: those to use; None: all, of every process.

    Raises:
      ConfigError: where the mesh does not fit the devices, or the batch does not divide.
    """
    devices = jax.devices() if devices is None else list(devices)
    processes = len({device.process_index for device in devices})
    if not axes and shards is None:
        require(
            processes == 1, "mesh", tuple(axes), f"such as (('data', -1),) where there are {processes} processes"
        )
        return ONE
    fixed = math.prod(size for _, size in axes if size != -1)
    accepted = f"a mesh that fits the {len(devices)} device{'s' if len(devices) > 1 else ''} there are"
    require(fixed <= len(devices), "mesh", tuple(axes), accepted)
    if any(size == -1 for _, size in axes):
        require(len(devices) % fixed == 0, "mesh", tuple(axes), accepted)
    sizes = {name: len(devices) // fixed if size == -1 else size for name, size in axes or ((DATA, 1),)}
    used = devices[: math.prod(sizes.values())]
    # A process without a device in the mesh would wait for the others for ever.
    covered = len({device.process_index for device in used})
    require(covered == processes, "mesh", tuple(axes), f"a mesh with devices of all {processes} processes")
    if shards is not None:
        along = sizes[DATA]
        require(shards % along == 0, "shards", shards, f"a multiple of the {along} devices along {DATA!r}")
        require(batch % shards == 0, "batch_size", batch, f"a multiple of shards ({shards})")
    # Uneven parts would give examples unequal weight in the mean of the devices' gradients.
    accepted = f"a multiple of the {sizes[DATA]} devices along {DATA!r} (mesh, data_parallel)"
    require(batch % sizes[DATA] == 0, "batch_size", batch, accepted)
    return Spread(Mesh(np.array(used).reshape(tuple(sizes.values())), tuple(sizes)), shards, rules)
