"""Which parameter gets what: rules from path patterns to values, first match wins.

A parameter's path is its keys joined by slashes, such as `Dense_0/kernel`. A rule is a regular expression that
must match the whole path, and the value for every parameter that it matches.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import jax
from jaxtyping import PyTree

V = TypeVar("V")


class RuleError(ValueError):
    """A rule does not parse, or matches no parameter."""


def path_name(path: Sequence[object]) -> str:
    """A JAX key path as a slash-joined name.

    Example:
      >>> path_name(jax.tree_util.tree_leaves_with_path({"Dense_0": {"kernel": 1}})[0][0])
      'Dense_0/kernel'
    """
    return "/".join(jax.tree_util.keystr((key,), simple=True) for key in path)


def named_leaves(tree: PyTree) -> Iterator[tuple[str, Any]]:
    """Yields `(path name, leaf)` of every leaf of `tree`, in JAX's leaf order."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield path_name(path), leaf


class Assignment(NamedTuple, Generic[V]):
    """The value of one parameter: its path, the value, and the pattern that matched (None: the default)."""

    path: str
    value: V
    pattern: str | None


def plan(rules: Sequence[tuple[str, V]], tree: PyTree, default: V) -> list[Assignment[V]]:
    """Resolves `rules` over the leaves of `tree`.

    Args:
      rules: pairs of a regular expression, matched against the whole path (`re.fullmatch`), and a value.
      tree: any pytree; only its structure is read.
      default: the value for a leaf that no rule matches.

    Returns:
      An `Assignment` for each leaf, in leaf order.

    Raises:
      RuleError: if a pattern is not a regular expression, or if a rule is the first match of no leaf: a rule
        that does nothing is a mistake, whether misspelt or hidden behind an earlier one.

    Example:
      >>> params = {"Dense_0": {"bias": 0, "kernel": 0}, "Dense_1": {"kernel": 0}}
      >>> for a in plan([("Dense_1/.*", 0.5), (".*kernel", 0.9)], params, 0.0):
      ...     print(a.path, a.value, a.pattern)
      Dense_0/bias 0.0 None
      Dense_0/kernel 0.9 .*kernel
      Dense_1/kernel 0.5 Dense_1/.*
    """
    compiled = []
    for pattern, value in rules:
        try:
            compiled.append((pattern, re.compile(pattern), value))
        except re.error as error:
            raise RuleError(f"rule {pattern!r} is not a regular expression: {error}") from error
    names = [name for name, _ in named_leaves(tree)]
    used: set[int] = set()
    assignments = []
    for name in names:
        for i, (pattern, regex, value) in enumerate(compiled):
            # The whole path: with `search`, 'Dense_1' would also match 'Dense_10/kernel'.
            if regex.fullmatch(name):
                used.add(i)
                assignments.append(Assignment(name, value, pattern))
                break
        else:
            assignments.append(Assignment(name, default, None))
    # A rule that does nothing would otherwise be noticed by nobody: the run goes on, and its result is another one.
    for i, (pattern, regex, _) in enumerate(compiled):
        if i not in used:
            hidden = any(regex.fullmatch(name) for name in names)
            # The two mistakes are corrected in different ways: one by spelling, one by order.
            why = "is hidden behind the rules before it" if hidden else "matches no parameter"
            raise RuleError(f"rule {pattern!r} {why}; the parameters are: {', '.join(names) or 'none'}")
    return assignments


def resolve(rules: Sequence[tuple[str, V]], tree: PyTree, default: V) -> PyTree[V]:
    """The values of `plan` as a tree of the structure of `tree`.

    Example:
      >>> resolve([(".*kernel", 0.9)], {"Dense_0": {"bias": 0, "kernel": 0}}, 0.0)
      {'Dense_0': {'bias': 0.0, 'kernel': 0.9}}
    """
    values = [a.value for a in plan(rules, tree, default)]
    return jax.tree.unflatten(jax.tree.structure(tree), values)
