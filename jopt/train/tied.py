"""Tied parameters get the same from every rule: else they would move apart as they train."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jopt import optim
from jopt.cluster.tying import find_groups
from jopt.config import require
from jopt.rules import named_leaves


class Assigned(NamedTuple):
    """What a config field gives each parameter.

    Attributes:
      field: its dotted path.
      value: its value.
      given: parameter path to what the field gives it.
    """

    field: str
    value: Any
    given: Mapping[str, Any]


def optimizer_assignments(config: optim.Config, field: str, params: Any) -> list[Assigned]:
    """What the optimizer's rules give each parameter.

    Args:
      config: the optimizer's.
      field: its place in the experiment.
      params: a pytree of arrays, or shapes.

    Example:
      >>> import jax.numpy as jnp
      >>> config = optim.Config(learning_rate_rules=(("a", 0.5),))
      >>> optimizer_assignments(config, "optimizer", {"a": jnp.zeros(1), "b": jnp.zeros(1)})[0].given
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


def check_tied(groups: Sequence[str], params: Any, assigned: Iterable[Assigned]) -> None:
    """Raises ConfigError where parameters of one group are given different things.

    The optimizer moves each tied parameter by itself, and they stay equal only because all that happens to them is.
    Different rates would let them part in training, while evaluation sees their mean.

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
    for field, value, given in assigned:
        for first, *others in tied:
            for other in others:
                accepted = (
                    f"the same for tied parameters, of which {first} gets {given[first]} and {other} {given[other]}"
                )
                require(given[other] == given[first], field, value, accepted)
