"""Checks that the configs of several packages share: fractions, path rules, and what fills an open place.

An open place of a method (a score, a budget, a rounding) takes the name of one of ours, a function, or the
reference 'package.module:name' of a function. The names of the function's parameters say what it reads.
"""

import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from jopt.config import ConfigError, require
from jopt.hyper import as_traced
from jopt.reference import is_reference, resolve

T = TypeVar("T")
Open = str | Callable[..., Any]
"""What an open place takes: one of ours by its name, a function, or 'package.module:name'."""


def is_fraction(value: float, *, closed: bool = False) -> bool:
    """Whether a number lies in [0, 1), or in [0, 1] if `closed`, also as the float32 that a program sees.

    Example:
      >>> is_fraction(0.5), is_fraction(1.0), is_fraction(1 - 1e-12), is_fraction(1.0, closed=True)
      (True, False, False, True)
    """
    # In the program the number is a float32, where 1 - 1e-12 is 1.
    numbers = (value, as_traced(value))
    return all(math.isfinite(x) and x >= 0 and (x <= 1 if closed else x < 1) for x in numbers)


def check_fraction(field: str, value: float, *, closed: bool = False) -> None:
    """Raises `ConfigError` unless `is_fraction` holds.

    Args:
      field: its path, for the message.
      value: a Python number.
      closed: whether 1 is accepted.

    Example:
      >>> check_fraction("prune.sparsity", 1.0)
      Traceback (most recent call last):
      ...
      jopt.config.ConfigError: prune.sparsity must be a number in [0, 1), got 1.0
    """
    require(is_fraction(value, closed=closed), field, value, f"a number in [0, 1{']' if closed else ')'}")


def check_regex(field: str, pattern: str) -> None:
    """Raises `ConfigError` unless `pattern` is a regular expression.

    Example:
      >>> check_regex("prune.rules[0]", "(")
      Traceback (most recent call last):
      ...
      jopt.config.ConfigError: prune.rules[0] must be a regular expression (missing ), ...
    """
    try:
        re.compile(pattern)
    except re.error as error:
        raise ConfigError(field, pattern, f"a regular expression ({error})") from error


def check_rules(
    rules: Sequence[tuple[str, object]], field: str, check_value: Callable[[str, Any], None] | None = None
) -> None:
    """Checks rules from path patterns to values. Whether they match parameters is known only in a plan.

    Args:
      rules: pairs of a regular expression and a value.
      field: the path of the rules, for the message.
      check_value: `(field, value) -> None`, which raises `ConfigError` for a value that is not accepted. None: all
        values are.

    Raises:
      ConfigError: naming the rule.

    Example:
      >>> check_rules((("Dense_0/.*", 0.5),), "prune.rules", check_fraction)
    """
    for i, (pattern, value) in enumerate(rules):
        check_regex(f"{field}[{i}]", pattern)
        if check_value is not None:
            check_value(f"{field}[{i}]", value)


def choose(field: str, value: str | T, built_in: Mapping[str, T]) -> T:
    """The object that fills an open place.

    Args:
      field: its path, for the message.
      value: one of the names of `built_in`, an object, or the reference of an object.
      built_in: ours, by name.

    Raises:
      ConfigError: for another string, or a reference to nothing.

    Example:
      >>> choose("schedule", "linear", {"linear": abs}) is choose("schedule", abs, {"linear": abs})
      True
      >>> choose("schedule", "lineer", {"linear": abs})
      Traceback (most recent call last):
      ...
      jopt.config.ConfigError: schedule must be one of 'linear', or 'package.module:name' of another, got 'lineer'
    """
    if not isinstance(value, str):
        return value
    if value in built_in:
        return built_in[value]
    names = ", ".join(map(repr, built_in))
    require(is_reference(value), field, value, f"one of {names}, or 'package.module:name' of another")
    return resolve(value, field)


class OpenFunction(NamedTuple):
    """A function whose parameters' names say what it reads.

    Attributes:
      name: what messages call it.
      function: the function.
      required: the names that it must be given.
      optional: the names, with defaults, that it is given where there is a value for them.
    """

    name: str
    function: Callable[..., Any]
    required: frozenset[str]
    optional: frozenset[str]

    def call(self, values: Mapping[str, object]) -> Any:
        """Calls the function with those of the values that it reads."""
        names = self.required | self.optional
        return self.function(**{name: value for name, value in values.items() if name in names})


def open_function(
    field: str, value: str | Callable[..., Any], built_in: Mapping[str, Callable[..., Any]], readable: Iterable[str]
) -> OpenFunction:
    """The function that fills an open place, and what it reads.

    A parameter with a default that is not `readable` is an option of the function, which keeps its default.

    Args:
      field: the place, for the message.
      value: as for `choose`.
      built_in: as for `choose`.
      readable: the names of all that such a function may read.

    Raises:
      ConfigError: as `choose`; if the value is no function; if it reads something else.

    Example:
      >>> open_function("score", lambda weight, grad, power=2: 0, {}, ("weight", "grad", "key")).required == {
      ...     "weight", "grad"
      ... }
      True
      >>> open_function("score", lambda w: w, {}, ("weight", "grad"))
      Traceback (most recent call last):
      ...
      jopt.config.ConfigError: score must be a function of some of weight, grad, by these names (not of w), got ...
    """
    function = choose(field, value, built_in)
    names = tuple(readable)
    accepted = f"a function of some of {', '.join(names)}, by these names"
    require(callable(function), field, value, accepted)
    try:
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError) as error:
        raise ConfigError(field, value, f"{accepted} ({error})") from error
    required, optional = set(), set()
    for p in parameters:
        # *args and **kwargs name nothing, so nothing is passed to them.
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            continue
        # An option of the function's own, unless it has the name of something that can be read.
        if p.default is not p.empty:
            optional.add(p.name)
            continue
        by_name = p.name in names and p.kind is not p.POSITIONAL_ONLY
        require(by_name, field, value, f"{accepted} (not of {p.name})")
        required.add(p.name)
    # For messages and plans: `repr` of a function is an address.
    short = value if isinstance(value, str) else getattr(function, "__name__", repr(function))
    return OpenFunction(short, function, frozenset(required), frozenset(optional.intersection(names)))
