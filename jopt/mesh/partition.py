"""Which axis of which parameter is split over which axis of the mesh: presets, and rules by path."""

import re
from collections.abc import Mapping, Sequence

import jax
from jax.sharding import PartitionSpec
from jaxtyping import PyTree

from jopt.config import ConfigError, require
from jopt.layers import Parameter
from jopt.mesh.sums import DATA
from jopt.rules import RuleError, named_leaves
from jopt.typing import Shape

MODEL = "model"
"""The mesh axis over which the preset `TENSOR` splits weights."""

FSDP, TENSOR = "fsdp", "tensor"
"""Presets: fully sharded data parallelism (Rajbhandari et al. 2020), tensor parallelism (Shoeybi et al. 2019)."""

SMALLEST = 512
"""Entries below which a preset splits no parameter: a message costs more than what it saves."""

Rules = tuple[str | tuple[str, tuple[str, ...]], ...]
"""Presets, and pairs of a path pattern and a mesh axis ('' for none) for each axis of the parameters it matches."""


def validate(rules: Rules, axes: Mapping[str, int], path: str = "partition") -> None:
    """Raises ConfigError unless each rule is a preset or names axes of the mesh."""
    for i, rule in enumerate(rules):
        if isinstance(rule, str):
            axis = {FSDP: DATA, TENSOR: MODEL}.get(rule)
            accepted = f"'{FSDP}', '{TENSOR}', or a pair such as ('.*/kernel', ('', 'model'))"
            require(axis is not None, f"{path}[{i}]", rule, accepted)
            require(axis in axes, f"{path}[{i}]", rule, f"a mesh with an axis {axis!r}; it has {_names(axes)}")
            continue
        pattern, names = rule
        for name in filter(None, names):
            require(name in axes, f"{path}[{i}]", name, f"'' or an axis of the mesh, which are {_names(axes)}")
        split = [name for name in names if name]
        require(len(set(split)) == len(split), f"{path}[{i}]", names, "each axis of the mesh at most once")
        try:
            re.compile(pattern)
        except re.error as error:
            raise RuleError(f"{path}[{i}]: {pattern!r} is not a regular expression: {error}") from error


def parameter_specs(
    rules: Rules, axes: Mapping[str, int], params: PyTree, layers: Mapping[str, Parameter]
) -> dict[str, tuple[Shape, PartitionSpec]]:
    """How each parameter is split: path to its shape and specification. One that no rule splits is left out.

    A pair decides for the parameters that it matches. For the others `TENSOR` splits weights over 'model': the
    output units where a layer widens, the summed axis where it narrows, heads of an attention on both sides. Then
    `FSDP` splits the largest axis that is not split yet over 'data'. Presets leave out what does not divide, and
    what has fewer than `SMALLEST` entries.

    Args:
      rules: see `Rules`.
      axes: sizes of the mesh's axes.
      params: the parameters, or their shapes.
      layers: what the model says about them.

    Raises:
      ConfigError: for an axis of a parameter that does not divide, or has no name to it.

    Example:
      >>> params = {"up": {"kernel": jax.ShapeDtypeStruct((64, 256), "float32")}}
      >>> layers = {"up/kernel": Parameter("up/kernel", "Dense", "kernel", contract=(0,), outputs=(1,))}
      >>> specs = parameter_specs(("tensor", "fsdp"), {"data": 4, "model": 2}, params, layers)
      >>> {path: tuple(spec) for path, (_, spec) in specs.items()}
      {'up/kernel': ('data', 'model')}
    """
    specs = {}
    for name, leaf in named_leaves(params):
        by_pattern = _by_pattern(rules, axes, name, leaf.shape)
        split: list[str | None] = by_pattern or [None] * len(leaf.shape)
        if by_pattern is None and leaf.size >= SMALLEST:
            by_layer = _tensor_axis(layers.get(name), leaf.shape, axes[MODEL]) if TENSOR in rules else None
            if by_layer is not None:
                split[by_layer] = MODEL
            largest = _largest(leaf.shape, split, axes[DATA]) if FSDP in rules else None
            if largest is not None:
                split[largest] = DATA
        if any(split):
            specs[name] = (tuple(leaf.shape), PartitionSpec(*split))
    return specs


def specs_of(tree: PyTree, specs: Mapping[str, tuple[Shape, PartitionSpec]]) -> PyTree:
    """A specification for each leaf of a state: that of the parameter whose path its path ends with, of one shape.

    So moments, masks and averages are split as their parameters are, and what has another shape is not split.

    Example:
      >>> kernel = jax.ShapeDtypeStruct((4, 2), "float32")
      >>> specs = {"up/kernel": ((4, 2), PartitionSpec("data"))}
      >>> split = specs_of({"mu": {"up": {"kernel": kernel}}, "count": jax.ShapeDtypeStruct((), "int32")}, specs)
      >>> tuple(split["mu"]["up"]["kernel"]), tuple(split["count"])
      (('data',), ())
    """

    def spec(name: str, shape: Shape) -> PartitionSpec:
        parts = name.split("/")
        suffixes = ("/".join(parts[i:]) for i in range(len(parts)))
        known = next((specs[suffix] for suffix in suffixes if suffix in specs), None)
        return known[1] if known is not None and known[0] == tuple(shape) else PartitionSpec()

    leaves = [spec(name, leaf.shape) for name, leaf in named_leaves(tree)]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def _by_pattern(rules: Rules, axes: Mapping[str, int], name: str, shape: Shape) -> list[str | None] | None:
    for rule in rules:
        if isinstance(rule, str) or not re.fullmatch(rule[0], name):
            continue
        field, names = f"partition rule {rule[0]!r}", rule[1]
        accepted = f"at most {len(shape)} names, one for each axis of {name} {tuple(shape)}"
        require(len(names) <= len(shape), field, names, accepted)
        for axis, mesh_axis in enumerate(names):
            size = axes.get(mesh_axis, 1)
            if shape[axis] % size:
                raise ConfigError(
                    field, mesh_axis, f"an axis of the mesh that divides {name} {tuple(shape)}[{axis}]"
                )
        return [mesh_axis or None for mesh_axis in names] + [None] * (len(shape) - len(names))
    return None


def _tensor_axis(parameter: Parameter | None, shape: Shape, size: int) -> int | None:
    if parameter is None or not parameter.is_weight or not parameter.contract:
        return None
    contract = [axis for axis in parameter.inputs if axis not in parameter.stack]
    entries = {side: _product(shape, side) for side in (tuple(contract), parameter.outputs)}
    # Heads and features that are summed over: the output product of an attention, whose inputs are split by heads.
    narrows = len(contract) > 1 or entries[tuple(contract)] > entries[parameter.outputs]
    for axis in (*contract, *parameter.outputs) if narrows else (*parameter.outputs, *contract):
        if shape[axis] % size == 0 and shape[axis] >= size:
            return axis
    return None


def _largest(shape: Shape, split: Sequence[str | None], size: int) -> int | None:
    free = [axis for axis, name in enumerate(split) if name is None and shape[axis] % size == 0]
    return max(free, key=lambda axis: (shape[axis], -axis), default=None)


def _product(shape: Shape, axes: Sequence[int]) -> int:
    result = 1
    for axis in axes:
        result *= shape[axis]
    return result


def _names(axes: Mapping[str, int]) -> str:
    return ", ".join(map(repr, axes)) or "none"
