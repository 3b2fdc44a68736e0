"""Transfer: copies parameters from one model to another by path rules, after a plan that can be printed."""

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from jopt import rules
from jopt.config import check_types, join_path, require
from jopt.rules import RuleError, named_leaves

T = TypeVar("T")

# The prefix of a source that is an earlier stage of the same experiment and not a directory.
STAGE = "stage:"


class TransferError(ValueError):
    """A parameter cannot be copied: the source does not have it, or has another shape or kind."""


@dataclasses.dataclass
class Transfer:
    r"""Which parameters are copied from another run, which stay fresh, and which are frozen afterwards.

    All patterns are regular expressions that must match a parameter's whole path, such as `Dense_0/kernel`, or
    that of a leaf of the model's state, such as `batch_stats/BatchNorm_0/mean`. Every leaf is copied from the leaf
    of the same path, unless `reinitialize` matches it, or else a rule; the first match decides.

    Attributes:
      source: the directory of a finished run, or `stage:<name>`, the state in which that earlier stage of the same
        experiment ended.
      rules: pairs of a pattern on the target's paths and the source's path, in which `\1` or `\g<name>` stands for
        a group of the pattern, as in `re.sub`; or None, which leaves the parameter fresh.
      reinitialize: patterns of leaves that stay fresh, such as a head for other classes.
      freeze: patterns of parameters that the optimizer must not change; each must be a copied one.
      include_state: copy the model's state too (batch statistics).

    Example:
      >>> layers = ((r"Dense_(0|1)/(.*)", r"Dense_\1/\2"),)
      >>> validate(Transfer("runs/big", rules=layers, reinitialize=("Dense_2/.*",)))
    """

    source: str = ""
    rules: tuple[tuple[str, str | None], ...] = ()
    reinitialize: tuple[str, ...] = ()
    freeze: tuple[str, ...] = ()
    include_state: bool = True


def validate(config: Transfer, path: str = "transfer") -> None:
    """Checks a config. The source itself is checked when it is loaded.

    Raises:
      ConfigError: names the field, the value and the accepted values.

    Example:
      >>> validate(Transfer("runs/big", freeze=("(",)))
      Traceback (most recent call last):
      ...
      jopt.config.ConfigError: transfer.freeze[0] must be a regular expression (missing ), unterminated subpattern
      at position 0), got '('
    """
    check_types(config, path)
    accepted = f"the directory of a finished run, or {STAGE}<name of an earlier stage>"
    require(bool(config.source.removeprefix(STAGE).strip()), join_path(path, "source"), config.source, accepted)
    for name in ("reinitialize", "freeze"):
        for i, pattern in enumerate(getattr(config, name)):
            _check_pattern(f"{join_path(path, name)}[{i}]", pattern)
    for i, (pattern, source) in enumerate(config.rules):
        field = f"{join_path(path, 'rules')}[{i}]"
        _check_pattern(field, pattern)
        if source is not None:
            try:
                # An empty text is enough: `re` checks the whole template before it searches for a match.
                re.compile(pattern).sub(source, "")
            except (re.error, IndexError) as error:
                require(False, field, source, f"a path with groups of {pattern!r} ({error})")


def _check_pattern(field: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        require(False, field, pattern, f"a regular expression ({error})")


class LeafTransfer(NamedTuple):
    """The decision for one leaf of the target.

    Attributes:
      path: the leaf's path.
      shape: its shape.
      source: the path of the source's leaf that is copied, or None.
      status: 'copied', 'copied, frozen' or 'fresh'.
      reason: the rule that decided, and a cast of the dtype if there is one.
      part: 'params' or 'state'.
    """

    path: str
    shape: tuple[int, ...]
    source: str | None
    status: str
    reason: str
    part: str = "params"


def plan(
    config: Transfer,
    target_params: PyTree,
    source_params: PyTree,
    target_state: PyTree = None,
    source_state: PyTree = None,
) -> list[LeafTransfer]:
    """Decides for each leaf of the target where its values come from. Reads structures, shapes and dtypes only.

    Args:
      config: the config.
      target_params: a pytree of arrays (or shapes, as `jax.eval_shape` gives them), the model to fill.
      source_params: a pytree of arrays or shapes, the model to copy from.
      target_state: the model's state, such as batch statistics; not read unless `config.include_state`.
      source_state: the source's state; not read unless `config.include_state`.

    Returns:
      A `LeafTransfer` for each leaf: parameters first, in the order of the leaves.

    Raises:
      RuleError: if a rule or pattern does not parse, matches nothing, or is hidden behind those before it.
      TransferError: naming paths and shapes, if a source is absent or of another shape or kind, if a frozen
        parameter is left fresh, or if no parameter at all is copied.

    Example:
      >>> new = {"Dense_0": {"kernel": jnp.zeros((3, 2))}, "head": {"kernel": jnp.zeros((2, 4))}}
      >>> old = {"Dense_0": {"kernel": jnp.ones((3, 2))}}
      >>> for row in plan(Transfer(reinitialize=("head/.*",), freeze=("Dense_0/.*",)), new, old):
      ...     print(row.path, row.shape, row.source, row.status, sep="; ")
      Dense_0/kernel; (3, 2); Dense_0/kernel; copied, frozen
      head/kernel; (2, 4); None; fresh
    """
    parts = [("params", target_params, source_params)]
    if config.include_state:
        parts.append(("state", target_state, source_state))
    leaves = [(part, path, leaf) for part, target, _ in parts for path, leaf in named_leaves(target)]
    sources = {part: dict(named_leaves(source)) for part, _, source in parts}
    decided = _sources(config, [path for _, path, _ in leaves])
    frozen = _frozen(config, [path for part, path, _ in leaves if part == "params"])
    # All problems are collected: a transfer between two architectures has one for each layer.
    rows, problems = [], []
    for part, path, leaf in leaves:
        source, reason = decided[path]
        status = "fresh" if source is None else "copied"
        freeze = frozen.get(path) if part == "params" else None
        if source is not None:
            problem = _problem(path, leaf, source, sources[part])
            if not problem and sources[part][source].dtype != leaf.dtype:
                reason += f"; {sources[part][source].dtype} to {leaf.dtype}"
        else:
            # A frozen fresh leaf would keep random values for ever, which no one asks for on purpose.
            problem = freeze and f"{path} would be frozen at its fresh values ({reason}; freeze {freeze!r})"
        if problem:
            problems.append(problem)
        elif freeze is not None:
            status, reason = f"{status}, frozen", f"{reason}; freeze {freeze!r}"
        rows.append(LeafTransfer(path, tuple(leaf.shape), source, status, reason, part))
    if problems:
        others = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise TransferError("; ".join(problems[:5]) + others)
    # Rules that leave everything fresh train from scratch, and the result would be reported as a transfer.
    if not any(row.source is not None for row in rows if row.part == "params"):
        raise TransferError("no parameter would be copied: each is left fresh, or there is none")
    return rows


def _sources(config: Transfer, paths: Sequence[str]) -> dict[str, tuple[str | None, str]]:
    """For each path, the source's path (None: fresh) and the reason."""
    # Before the rules: the first match decides, and `reinitialize` has priority.
    patterns = [(p, (None, f"reinitialize {p!r}")) for p in config.reinitialize]
    patterns += [(p, (template, f"rule {p!r}")) for p, template in config.rules]
    chosen = {}
    for a in _assign("rules and reinitialize", patterns, paths):
        template, reason = a.value or (a.path, "same path")
        if template is not None and a.pattern is not None:
            template = _expand(a.pattern, template, a.path)
        chosen[a.path] = template, reason
    return chosen


def _expand(pattern: str, template: str, path: str) -> str:
    match = re.fullmatch(pattern, path)
    assert match is not None  # `rules.plan` has matched the path with this pattern
    try:
        return match.expand(template)
    except (re.error, IndexError) as error:
        raise RuleError(f"rules: {template!r} is no path with groups of {pattern!r}: {error}") from error


def _frozen(config: Transfer, paths: Sequence[str]) -> dict[str, str]:
    """The pattern that freezes a path, for each path that one does."""
    assigned = _assign("freeze", [(pattern, True) for pattern in config.freeze], paths)
    return {a.path: a.pattern for a in assigned if a.pattern is not None}


def _assign(
    field: str, patterns: Sequence[tuple[str, object]], paths: Iterable[str]
) -> list[rules.Assignment[Any]]:
    try:
        return rules.plan(patterns, dict.fromkeys(paths, 0), None)
    except RuleError as error:
        raise RuleError(f"{field}: {error}") from error


def _problem(path: str, leaf: Any, source: str, sources: Mapping[str, Any]) -> str | None:
    """The reason why `leaf` cannot be filled from `source`; None if it can."""
    if source not in sources:
        near = difflib.get_close_matches(source, sources, n=3) or list(sources)[:3]
        there = f"the nearest are {', '.join(near)}" if near else "it has none at all"
        return f"{path} is to be copied from {source}, which the source does not have ({there})"
    source_leaf = sources[source]
    if tuple(source_leaf.shape) != tuple(leaf.shape):
        return (
            f"{path} is {_size(leaf.shape)}, but {source} in the source is {_size(source_leaf.shape)} "
            "(`reinitialize` leaves it fresh)"
        )
    # A cast between floating dtypes only rounds; between floats and integers it would change the meaning.
    floating = [jnp.issubdtype(x.dtype, jnp.floating) for x in (leaf, source_leaf)]
    if floating[0] != floating[1]:
        return f"{path} is {leaf.dtype}, but {source} in the source is {source_leaf.dtype}"
    return None


def transfer(rows: Sequence[LeafTransfer], target: T, source: PyTree, part: str = "params") -> T:
    """The target with the leaves that the plan copies filled in. Pure; `rows` are static under `jax.jit`.

    Args:
      rows: the result of `plan`.
      target: a pytree of arrays, the parameters (or the state, for the part 'state') that the plan was made for.
      source: a pytree of arrays to copy from.
      part: 'params' or 'state'.

    Returns:
      A tree of the structure, shapes and dtypes of `target`. Copied leaves have the source's exact values
      where the dtypes agree, in new buffers, so that either tree may be donated; fresh leaves are the target's.

    Raises:
      ValueError: if the plan was made for another target, or the source lacks a leaf.

    Example:
      >>> new, old = {"a": jnp.zeros(2), "b": jnp.zeros(1)}, {"a": jnp.array([1.0, 2.0])}
      >>> filled = transfer(plan(Transfer(reinitialize=("b",)), new, old), new, old)
      >>> filled["a"].tolist(), filled["b"].tolist()
      ([1.0, 2.0], [0.0])
    """
    # A plan may be a day old: a tree that has changed since must not be filled by position.
    sources, planned = dict(named_leaves(source)), {row.path: row for row in rows if row.part == part}
    leaves = list(named_leaves(target))
    mismatched = {(r.path, r.shape) for r in planned.values()} ^ {
        (path, tuple(leaf.shape)) for path, leaf in leaves
    }
    if mismatched:
        path, shape = min(mismatched)
        raise ValueError(f"the plan is of another target: only one of them has {path} {_size(shape)}")

    def fill(path: str, leaf: jax.Array) -> jax.Array:
        row = planned[path]
        if row.source is None:
            return leaf
        source_leaf = sources.get(row.source)
        if source_leaf is None or tuple(source_leaf.shape) != row.shape:
            raise ValueError(f"the plan is of another source: this one has no {row.source} {_size(row.shape)}")
        # A copy: the trainer donates its state, and a shared buffer would delete the source with it.
        return jnp.array(source_leaf, dtype=leaf.dtype, copy=True)

    return jax.tree.unflatten(jax.tree.structure(target), [fill(path, leaf) for path, leaf in leaves])


def frozen(rows: Sequence[LeafTransfer]) -> tuple[str, ...]:
    r"""Patterns of exactly the parameters that the plan freezes, for `jopt.optim.Config.freeze`.

    Example:
      >>> copied = LeafTransfer("a.b/w", (2,), "w", "copied, frozen", "")
      >>> frozen([copied, LeafTransfer("head/w", (2,), None, "fresh", "")])
      ('a\\.b/w',)
    """
    return tuple(re.escape(row.path) for row in rows if row.status.endswith("frozen"))


def describe(rows: Sequence[LeafTransfer]) -> str:
    """The plan as a table to print.

    Args:
      rows: the result of `plan`.

    Returns:
      A line for each leaf, under a header.

    Example:
      >>> new, old = {"a": jnp.zeros((3, 2)), "b": jnp.zeros(1)}, {"c": jnp.zeros((3, 2))}
      >>> print(describe(plan(Transfer(rules=(("a", "c"),), reinitialize=("b",)), new, old)))
      parameter  shape  from  status  why
      a          3x2    c     copied  rule 'a'
      b          1      -     fresh   reinitialize 'b'
    """
    cells = [("parameter", "shape", "from", "status", "why")]
    cells += [(r.path, _size(r.shape), r.source or "-", r.status, r.reason) for r in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def _size(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"
