"""What a stage's methods make of each parameter and each layer's input, and what they should have left behind."""

from typing import Any

import jax
import numpy as np

from jopt import optim
from jopt.config import ConfigError
from jopt.train.plan import StagePlan
from jopt.train.tied import Assigned, check_tied, optimizer_assignments


def parameter_rows(plan: StagePlan, params: Any) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """A table of the parameters of a stage: a column for each method that acts on them.

    Args:
      plan: the stage, of plain Python values.
      params: what the optimizer moves, as arrays or shapes.

    Returns:
      The columns' names, and a row for each parameter: path, shape, role, and what each method makes of it.

    Raises:
      ConfigError, RuleError, ValueError: naming the field, where a method cannot have these parameters.
    """
    model_params = plan.trainables.model_only(params)
    columns = []
    for applied in plan.applied:
        try:
            rows = applied.method.plan(model_params, plan.layers)
        except ConfigError:
            raise
        except ValueError as error:
            raise type(error)(f"{applied.path}: {error}") from error
        if rows:
            columns.append((applied, rows))
    groups = [group for a in plan.applied for group in getattr(a.method, "groups", ())]
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


def input_rows(plan: StagePlan, input_shape: tuple[int, ...]) -> list[tuple[str, str, str]]:
    """A row for each layer whose input a method changes: its path, the shape of an input, and what is done."""
    x = jax.ShapeDtypeStruct((1, *input_shape), np.float32)
    rows = [row for a in plan.applied for row in a.method.plan_inputs(plan.model, x)]
    return [(row.path, "x".join(map(str, row.shape)), row.what) for row in rows]


def optimizer_rules(plan: StagePlan, params: Any) -> str:
    """The optimizer's rules resolved over the parameters, as text; '' where it has none."""
    optimizer = plan.optimizer
    ruled = optimizer.learning_rate_rules or optimizer.weight_decay_rules or optimizer.freeze
    return optim.describe(optimizer, params) if ruled else ""


def violations(plan: StagePlan, state: tuple[Any, ...], seen: Any) -> list[str]:
    """A sentence for each thing that a stage should hold and does not.

    Args:
      plan: the stage, of plain Python values.
      state: its transforms' states.
      seen: what the model computes with at its end.
    """
    host_state, host_seen = jax.device_get((state, plan.trainables.model_only(seen)))
    return [
        f"{applied.method.name}: {sentence}"
        for (applied, _), own in zip(plan.transforms, host_state, strict=True)
        for sentence in applied.method.check(own, host_seen, plan.layers)
    ]
