"""Which parameters are pruned, and which of them have a target of their own."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jopt import rules as path_rules
from jopt.layers import Layers, Parameter, one_copy, parameters
from jopt.prune.counts import check_sparsity
from jopt.prune.patterns import NM, Pattern, Unstructured, in_copy, resolve

Rules = Sequence[tuple[str, Any]]
_COMMON = object()


class Pruned(NamedTuple):
    """One parameter that is pruned: its place among the tree's leaves, what is known of it, and its own target.

    Attributes:
      index: position among the leaves.
      path: such as `Dense_0/kernel`.
      shape: of the parameter.
      target: the last sparsity that a rule gives it, or None: it shares the common budget.
      parameter: its layer, role and axes.
      pattern: what is kept or pruned together, with the axes of this parameter.
    """

    index: int
    path: str
    shape: tuple[int, ...]
    target: Any
    parameter: Parameter
    pattern: Pattern = Unstructured()

    @property
    def stack(self) -> tuple[int, ...]:
        """The axes over copies of its layer."""
        return self.parameter.stack

    @property
    def copy_shape(self) -> tuple[int, ...]:
        """The shape of one copy."""
        return one_copy(self.shape, self.stack)

    @property
    def copy_pattern(self) -> Any:
        """The pattern of one copy, a `Pattern`."""
        return in_copy(self.pattern, self.stack, self.shape)

    @property
    def copies(self) -> int:
        """How many copies there are."""
        return math.prod(self.shape[axis] for axis in self.stack)


def assign(
    params: Any,
    rules: Rules = (),
    pattern: Pattern = Unstructured(),  # noqa: B008
    layers: Layers | None = None,
) -> list[Pruned]:
    """The parameters that are pruned.

    Without a rule, every floating weight is: what is a weight is said by its role (`jopt.layers`).

    Args:
      params: a tree of arrays, or of their shapes.
      rules: pairs of a path pattern and the parameter's own sparsity, or None to leave it alone.
      pattern: what is kept or pruned together.
      layers: what the model says about its parameters; None: what their names and shapes say.

    Returns:
      A `Pruned` for each of them, in leaf order.

    Raises:
      RuleError: if a rule matches nothing.
      LayoutError: if the pattern needs axes of a layer that are not known.
      ValueError: if a sparsity is not in [0, 1), a parameter with a rule is not floating, the pattern does not fit
        a parameter's shape, or no parameter is pruned.

    Example:
      >>> params = {"a": jnp.zeros((2, 2)), "bias": jnp.zeros((2, 2)), "c": jnp.zeros((2, 4))}
      >>> [(p.path, p.target) for p in assign(params, [("a", 0.5)])]
      [('a', 0.5), ('c', None)]
    """
    out = []
    leaves, known = jax.tree.leaves(params), parameters(params, layers)
    given_by = path_rules.plan(rules, params, _COMMON)
    for index, (leaf, given, parameter) in enumerate(zip(leaves, given_by, known, strict=True)):
        shape, floating = tuple(jnp.shape(leaf)), jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
        if given.value is None or (given.pattern is None and not (floating and parameter.is_weight)):
            continue
        if not floating:
            got = f"{jnp.result_type(leaf)} for rule {given.pattern!r}"
            raise ValueError(f"{given.path}: a pruned parameter must be floating, got {got}")
        target = None if given.pattern is None else given.value
        if target is not None:
            check_target(target, f" for rule {given.pattern!r}", pattern)
        concrete = resolve(pattern, parameter, shape)
        try:
            concrete.grid(shape)
            in_copy(concrete, parameter.stack, shape)
        except ValueError as error:
            raise ValueError(
                f"{given.path}: {error}; a rule ({given.path!r}, None) would leave it alone"
            ) from error
        out.append(Pruned(index, given.path, shape, target, parameter, concrete))
    if not out:
        names = ", ".join(f"{p.path} ({p.reason})" for p in known) or "none"
        raise ValueError(f"no parameter is pruned: none is a floating weight, or has a rule; there are: {names}")
    return out


def check_target(sparsity: Any, where: str, pattern: Pattern) -> None:
    """Raises ValueError for a concrete sparsity outside [0, 1), or one that `NM` does not have.

    Example:
      >>> check_target(1.2, " for rule 'Dense_0/kernel'", Unstructured())
      Traceback (most recent call last):
      ...
      ValueError: sparsity must lie in [0, 1), got 1.2 for rule 'Dense_0/kernel'
    """
    if isinstance(pattern, NM):
        concrete = not isinstance(sparsity, Tracer)
        if sparsity is not None and not (concrete and abs(float(sparsity) - pattern.sparsity) < 1e-6):
            got = sparsity if concrete else "a traced number"
            raise ValueError(f"{pattern} fixes sparsity at {pattern.sparsity:g}: give None, got {got}{where}")
        return
    try:
        check_sparsity(sparsity)
    except ValueError as error:
        raise ValueError(f"{error}{where}") from None


def pick(params: Any, pruned: Sequence[Pruned], tree: Any) -> list[Any]:
    """What `tree` holds for each pruned parameter, be it None elsewhere.

    Raises:
      ValueError: if it is of another structure than `params`.

    Example:
      >>> params = {"b": jnp.zeros(2), "w": jnp.zeros((2, 2))}
      >>> pick(params, assign(params), {"b": None, "w": "mask"})
      ['mask']
    """
    parts = jax.tree.structure(params).flatten_up_to(tree)
    return [parts[p.index] for p in pruned]


def rebuild(params: Any, pruned: Sequence[Pruned], values: Sequence[Any]) -> Any:
    """A tree of the structure of `params` with `values` for the pruned parameters and None elsewhere.

    Example:
      >>> params = {"b": jnp.zeros(2), "w": jnp.zeros((2, 2))}
      >>> rebuild(params, assign(params), ["mask"])
      {'b': None, 'w': 'mask'}
    """
    structure = jax.tree.structure(params)
    parts: list[Any] = [None] * structure.num_leaves
    for p, value in zip(pruned, values, strict=True):
        parts[p.index] = value
    return jax.tree.unflatten(structure, parts)


def full_masks(params: Any, pruned: Sequence[Pruned]) -> Any:
    """Masks that keep everything."""
    return rebuild(params, pruned, [jnp.ones(p.shape, bool) for p in pruned])
