"""What a stage's methods do to each parameter and each layer's input, and whether their invariants hold."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jaxtyping import PyTree

from jopt import data, optim
from jopt.cluster.tying import find_groups
from jopt.config import ConfigError, require
from jopt.rules import named_leaves
from jopt.train.plan import StagePlan
from jopt.transform import State
from jopt.typing import Params


def parameter_rows(plan: StagePlan, params: Params) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """A table of the parameters of a stage: a column for each method that acts on them.

    Args:
      plan: the stage, of plain Python values.
      params: what the optimizer moves, as arrays or shapes.

    Returns:
      The columns' names, and a row for each parameter: path, shape, role, and what each method does to it.

    Raises:
      ConfigError, RuleError, ValueError: naming the field, where a method cannot have these parameters.
    """
    model_params = plan.trainables.model_only(params)
    columns = []
    for applied in plan.applied:
        try:
            rows = applied.method.plan(model_params, plan.layers)
        # A ConfigError names its field already; a rule's error knows neither stage nor method.
        except ConfigError:
            raise
        except ValueError as error:
            raise type(error)(f"{applied.path}: {error}") from error
        if rows:
            columns.append((applied, rows))
    groups = [group for a in plan.applied for group in getattr(a.method, "groups", ())]
    # Tying is checked across all methods: each by itself is right, and only together do two rules pull a pair
    # apart.
    if groups:
        assigned = optimizer_assignments(plan.optimizer, plan.optimizer_path, params) + [
            Assigned(f"{a.path}.rules", getattr(a.method, "rules", ()), {row.path: row.what for row in rows})
            for a, rows in columns
            if not hasattr(a.method, "groups")
        ]
        check_tied(groups, model_params, assigned)
    names = tuple(a.method.name + ("" if plan.names(a) else " (frozen)") for a, _ in columns)
    table = [
        (rows[0].path, "x".join(map(str, rows[0].shape)) or "scalar", rows[0].role, *(row.what for row in rows))
        for rows in zip(*(rows for _, rows in columns), strict=True)
    ]
    return names, table


def input_rows(plan: StagePlan, example: PyTree) -> list[tuple[str, str, str]]:
    """A row for each layer whose input a method changes: its path, the shape of an input, and what is done."""
    x = data.batch_of(example)
    rows = [row for a in plan.applied for row in a.method.plan_inputs(plan.model, x)]
    return [(row.path, "x".join(map(str, row.shape)), row.what) for row in rows]


def optimizer_rules(plan: StagePlan, params: Params) -> str:
    """The optimizer's rules resolved over the parameters, as text; '' where it has none."""
    optimizer = plan.optimizer
    ruled = optimizer.learning_rate_rules or optimizer.weight_decay_rules or optimizer.freeze
    return optim.describe(optimizer, params) if ruled else ""


def find_violations(plan: StagePlan, state: tuple[State, ...], seen: Params) -> list[str]:
    """A sentence for each invariant of the stage's methods that does not hold.

    Args:
      plan: the stage, of plain Python values.
      state: its transforms' states.
      seen: what the model computes with at its end.
    """
    host_state, host_seen = jax.device_get((state, plan.trainables.model_only(seen)))
    return [
        f"{applied.method.name}: {sentence}"
        for (applied, _), transform_state in zip(plan.transforms, host_state, strict=True)
        for sentence in applied.method.check(transform_state, host_seen, plan.layers)
    ]


class Assigned(NamedTuple):
    """What a config field gives each parameter.

    Attributes:
      field: its dotted path.
      value: its value.
      by_path: parameter path to what the field gives it.
    """

    field: str
    value: Any
    by_path: Mapping[str, Any]


def optimizer_assignments(config: optim.Config, field: str, params: Params) -> list[Assigned]:
    """What the optimizer's rules give each parameter.

    Args:
      config: the optimizer's.
      field: its place in the experiment.
      params: a pytree of arrays, or shapes.

    Example:
      >>> import jax.numpy as jnp
      >>> config = optim.Config(learning_rate_rules=(("a", 0.5),))
      >>> optimizer_assignments(config, "optimizer", {"a": jnp.zeros(1), "b": jnp.zeros(1)})[0].by_path
      {'a': 0.5, 'b': 1.0}
    """
    rows = optim.plan(config, params)
    return [
        Assigned(f"{field}.{name}", getattr(config, name), {row.path: getattr(row, attribute) for row in rows})
        for attribute, name in (
            ("learning_rate", "learning_rate_rules"),
            ("weight_decay", "weight_decay_rules"),
            ("frozen", "freeze"),
        )
    ]


def check_tied(groups: Sequence[str], params: Params, assigned: Iterable[Assigned]) -> None:
    """Raises ConfigError where parameters of one group are given different things.

    The optimizer moves each tied parameter by itself: they stay equal only if they are treated equally. Different
    rates would let them drift apart in training, while evaluation sees their mean.

    Args:
      groups: of `jopt.cluster.tie`.
      params: a pytree of arrays, or shapes.
      assigned: what each rule gives.

    Raises:
      ConfigError: naming the field, and two parameters.

    Example:
      >>> import jax.numpy as jnp
      >>> params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
      >>> check_tied(["[ab]"], params, optimizer_assignments(optim.Config(freeze=("b",)), "optimizer", params))
      Traceback (most recent call last):
      ...
      jopt.config.ConfigError: optimizer.freeze must be the same for tied parameters, of which a gets False and b
      True, got ('b',)
    """
    paths = [path for path, _ in named_leaves(params)]
    tied = [[paths[i] for i in group] for group in find_groups(groups, params)]
    for field, value, by_path in assigned:
        for first, *others in tied:
            for other in others:
                one, another = by_path[first], by_path[other]
                accepted = f"the same for tied parameters, of which {first} gets {one} and {other} {another}"
                require(one == another, field, value, accepted)
