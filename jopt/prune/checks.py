"""What is done with concrete values, but not with tracers: refusing bad ones, and branching in Python."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jopt.prune.assign import Pruned


def check_name(field: str, value: str, names: Sequence[str]) -> None:
    """Raises ValueError unless `value` is one of `names`."""
    if value not in names:
        raise ValueError(f"{field} must be one of {', '.join(map(repr, names))}, got {value!r}")


def refuse_nan(due: Any, pruned: Sequence[Pruned], *columns: Sequence[jax.Array]) -> None:
    """Raises ValueError if a choice is made among concrete numbers of which one is NaN."""
    if not concrete(due) or not bool(due):
        return
    for column in columns:
        for p, x in zip(pruned, column, strict=True):
            if concrete(x) and bool(jnp.isnan(x).any()):
                count = int(jnp.isnan(x).sum())
                got = f"NaN in {count} of {x.size} entries"
                raise ValueError(f"{p.path}: weights, gradients and scores must be numbers, got {got}")


def concrete(*values: Any) -> bool:
    """Whether no value is a tracer: only then may Python look at it."""
    return not any(isinstance(x, Tracer) for x in values)


def check_steps(begin: Any, end: Any = None) -> None:
    """Raises ValueError unless 0 <= begin <= end, where they are concrete."""
    if concrete(begin) and int(begin) < 0:
        raise ValueError(f"begin must be a step, at least 0, got {begin}")
    if end is not None and concrete(begin, end) and int(end) < int(begin):
        raise ValueError(f"end must be a step, at least begin ({begin}), got {end}")


def switch(case: jax.Array, *branches: Callable[[], Any]) -> Any:
    """`jax.lax.switch`; where `case` is concrete, the branch itself: outside of `jit` each call would compile anew.

    Example:
      >>> switch(jnp.int32(1), lambda: "left", lambda: "right")
      'right'
    """
    return branches[int(case)]() if concrete(case) else jax.lax.switch(case, branches)
