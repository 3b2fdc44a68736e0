"""Layer tying: parameters of several layers held equal."""

import dataclasses
import re
from collections.abc import Sequence
from functools import reduce
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jopt import rules as path_rules
from jopt.checks import check_regex
from jopt.cluster.means import wide
from jopt.config import check_types, join_path, require
from jopt.layers import Layers, PlanRow, parameters
from jopt.method import Context, Method
from jopt.rules import RuleError
from jopt.transform import Params, ParamTransform, State


def tie(groups: Sequence[str]) -> ParamTransform:
    r"""Leaves of one group are held equal: $w^{(l)} \mapsto \frac{1}{L} \sum_{l'} w^{(l')}$.

    A linear projection, exact where the leaves are equal. The gradient of each is the mean of all, so they move
    alike under any optimizer; the gradient of a single leaf used in all places would be L times that. Where any
    leaf is exactly zero, `apply` gives zero for all: what a transform before pruned stays pruned.

    Args:
      groups: for each group a regular expression that matches the whole path of its leaves, such as
        `Dense_[12]/kernel`. A leaf belongs to the first group that matches.

    Returns:
      A `ParamTransform` without state.

    Raises:
      RuleError: when it meets parameters, for a group of fewer than two leaves, or of unequal shapes or dtypes.

    Example:
      >>> t = tie(["[ab]"])
      >>> params = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([3.0, 2.0]), "c": jnp.array([9.0])}
      >>> {name: x.tolist() for name, x in t.apply(t.init(params), params).items()}
      {'a': [2.0, 2.0], 'b': [2.0, 2.0], 'c': [9.0]}
    """
    patterns = _check_patterns(groups)

    def init(params):
        find_groups(patterns, params)
        return ()

    # By pattern at every call and not by remembered positions: the trees of moments hold other leaves than
    # `params`.
    def change(tree, function, groups=patterns):
        leaves, structure = jax.tree.flatten(tree)
        for group in find_groups(groups, tree):
            for i, new in zip(group, function([leaves[i] for i in group]), strict=True):
                leaves[i] = new
        return jax.tree.unflatten(structure, leaves)

    def project(state, tree):
        del state
        # An optimizer may keep no moment of a group, or only flags.
        names = [name for name, x in path_rules.named_leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
        present = [p for p in patterns if any(re.fullmatch(p, name) for name in names)]
        return change(tree, lambda group: [_mean(group)] * len(group), present)

    return ParamTransform(
        init=init,
        update=lambda state, params, *, step, grads=None, key=None: state,
        apply=lambda state, params: change(params, lambda group: _see_tied(tuple(group))),
        project=project,
        forward=lambda state, params: params,
    )


def find_groups(groups: Sequence[str], tree: Params) -> list[list[int]]:
    """The leaves (by their number, in leaf order) of each group.

    Raises:
      RuleError: for a group of fewer than two leaves, or of unequal shapes or dtypes.

    Example:
      >>> find_groups(["[ab]"], {"a": jnp.zeros(2), "b": jnp.zeros(2), "c": jnp.zeros(3)})
      [[0, 1]]
    """
    named = list(path_rules.named_leaves(tree))
    assigned = path_rules.plan([(pattern, i) for i, pattern in enumerate(groups)], tree, -1)
    members = []
    for i, pattern in enumerate(groups):
        group = [j for j, a in enumerate(assigned) if a.value == i]
        kinds = [f"{named[j][0]} {named[j][1].dtype}{list(named[j][1].shape)}" for j in group]
        if len(group) < 2:
            raise RuleError(f"group {pattern!r} must match two or more parameters, got only {kinds[0]}")
        if len({(named[j][1].shape, named[j][1].dtype) for j in group}) > 1:
            raise RuleError(
                f"group {pattern!r} must match parameters of one shape and dtype, got {', '.join(kinds)}"
            )
        if not jnp.issubdtype(named[group[0]][1].dtype, jnp.floating):
            raise RuleError(f"group {pattern!r} must match floating parameters, got {', '.join(kinds)}")
        members.append(group)
    return members


def free_parameters(groups: Sequence[str], params: Params) -> int:
    """The number of parameters, those of a group counted once.

    Args:
      groups: as for `tie`.
      params: a pytree of arrays (or shapes).

    Returns:
      The count.

    Example:
      >>> free_parameters(["[ab]"], {"a": jnp.zeros(2), "b": jnp.zeros(2), "c": jnp.zeros(3)})
      5
    """
    leaves = jax.tree.leaves(params)
    again = {j for group in find_groups(groups, params) for j in group[1:]}
    return sum(int(np.prod(x.shape)) for j, x in enumerate(leaves) if j not in again)


def _mean(group: Sequence[jax.Array]) -> jax.Array:
    dtype = group[0].dtype
    first, *others = (x.astype(wide(dtype)) for x in group)
    # Differences from the first, so that the mean of equal leaves is exact.
    mean = first + sum((x - first for x in others), jnp.zeros_like(first)) / len(group)
    return jnp.where(mean == 0, jnp.zeros((), mean.dtype), mean).astype(dtype)


@jax.custom_vjp
def _see_tied(group: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    zero = reduce(jnp.logical_or, [x == 0 for x in group])
    seen = jnp.where(zero, jnp.zeros((), group[0].dtype), _mean(group))
    return (seen,) * len(group)


def _see_tied_forward(group):
    return _see_tied(group), None


def _see_tied_backward(residuals, gradients):
    # The mean is symmetric, so its transpose is itself; autodiff through the differences would round.
    del residuals
    return ((_mean(gradients),) * len(gradients),)


_see_tied.defvjp(_see_tied_forward, _see_tied_backward)


@dataclasses.dataclass(frozen=True)
class Tie(Method):
    """Which layers are tied.

    Attributes:
      groups: a pattern of whole paths for each group of parameters that are held equal.

    Example:
      >>> Tie(groups=("Dense_[12]/kernel", "Dense_[12]/bias")).validate()
      >>> Tie().validate()
      Traceback (most recent call last):
      ...
      jopt.config.ConfigError: tie.groups must be patterns of one or more groups, got ()
    """

    name: ClassVar[str] = "tie"
    rank: ClassVar[int] = 10

    groups: tuple[str, ...] = ()

    def validate(self, path: str = "tie") -> None:
        """Raises `ConfigError` without groups, or for a pattern that is not a regular expression."""
        check_types(self, path)
        field = join_path(path, "groups")
        require(bool(self.groups), field, self.groups, "patterns of one or more groups")
        for i, pattern in enumerate(self.groups):
            check_regex(f"{field}[{i}]", pattern)

    def validate_with(self, context: Context) -> None:
        """Raises `ConfigError` where another method would treat tied layers differently."""
        order = [applied.method.name for applied in context.applied]
        for other in context.applied:
            offending = other.method.treats_equal_layers_alike()
            if offending is not None:
                field, value, accepted = offending
                why = f"{accepted} where layers are tied: for each layer it would choose by itself"
                require(False, join_path(other.path, field) if field else other.path, value, why)
            field = join_path(context.mine.path, "groups")
            if other.method.chosen_between_segments:
                accepted = f"in no later stage than {other.path}, which chose for each layer"
                require(context.mine.stage <= other.stage, field, self.groups, accepted)
                accepted = f"before {other.method.name!r} among the methods: else it chooses for each layer"
                require(order.index(self.name) < order.index(other.method.name), field, self.groups, accepted)

    def build(
        self, *, begin: int = 0, steps: int = 0, last_update: int | None = None, layers: Layers | None = None
    ) -> ParamTransform:
        """The transform of `tie`."""
        del begin, steps, last_update, layers
        return tie(self.groups)

    def plan(self, params: Params, layers: Layers | None = None) -> list[PlanRow]:
        """What each parameter gets.

        Example:
          >>> params = {"a": jnp.zeros(2), "b": jnp.zeros(2), "c": jnp.zeros(3)}
          >>> [row.what for row in Tie(("[ab]",)).plan(params)]
          ['tied with b', 'tied with a', 'left as it is']
        """
        named = list(path_rules.named_leaves(params))
        texts = ["left as it is"] * len(named)
        for group in find_groups(self.groups, params):
            for j in group:
                texts[j] = "tied with " + ", ".join(named[i][0] for i in group if i != j)
        roles = [parameter.reason for parameter in parameters(params, layers)]
        return [
            PlanRow(name, tuple(x.shape), text, role)
            for (name, x), text, role in zip(named, texts, roles, strict=True)
        ]

    def check(self, state: State, seen: Params, layers: Layers | None = None) -> list[str]:
        """A sentence for each pair of tied leaves that differs.

        Example:
          >>> Tie(("[ab]",)).check((), {"a": jnp.array([1.0]), "b": jnp.array([2.0])})
          ['b: 1 of 1 tied weights differ from a']
        """
        del state, layers
        named = [(name, np.asarray(x)) for name, x in path_rules.named_leaves(seen)]
        problems = []
        for group in find_groups(self.groups, seen):
            name, first = named[group[0]]
            for j in group[1:]:
                if differ := int((named[j][1] != first).sum()):
                    problems.append(f"{named[j][0]}: {differ} of {first.size} tied weights differ from {name}")
        return problems


def _check_patterns(groups: Sequence[str]) -> tuple[str, ...]:
    if isinstance(groups, str):
        raise RuleError(f"groups must be a sequence of patterns, got {groups!r}")
    return tuple(groups)
