"""Checks that several configs share: rules, fractions."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from jopt.config import require
from jopt.hyper import as_traced


def check_rules(
    rules: Sequence[tuple[str, Any]], field: str, check_value: Callable[[str, Any], None] | None = None
) -> None:
    """Checks rules: pairs of a regular expression, which must match a parameter's whole path, and a value.

    Args:
      rules: the pairs.
      field: their dotted path, for messages.
      check_value: called with each rule's field and value; raises where the value is not accepted.

    Raises:
      ConfigError: naming the rule.

    Example:
      >>> check_rules([("Dense_(", 1)], "prune.rules")
      Traceback (most recent call last):
      ...
      jopt.config.ConfigError: prune.rules[0] must be a regular expression (missing ), unterminated subpattern at
      position 6), got 'Dense_('
    """
    for i, (pattern, value) in enumerate(rules):
        check_pattern(pattern, f"{field}[{i}]")
        if check_value is not None:
            check_value(f"{field}[{i}]", value)


def check_pattern(pattern: str, field: str) -> None:
    """Checks that a pattern is a regular expression.

    Raises:
      ConfigError: naming the field.
    """
    try:
        re.compile(pattern)
    except re.error as error:
        require(False, field, pattern, f"a regular expression ({error})")


def in_unit(value: float) -> bool:
    """Whether a number lies in [0, 1), also as the float32 that the program sees.

    Example:
      >>> in_unit(0.5), in_unit(1 - 1e-12)
      (True, False)
    """
    return all(math.isfinite(x) and 0 <= x < 1 for x in (value, as_traced(value)))
