"""Rules over the names of a source: which arrays are used, under which names, and which parts of them."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jopt.start.config import Pretrained, Rule


class Piece(NamedTuple):
    """An array, or a part of one, after the rules.

    Attributes:
      name: its new name.
      source: the name in the source.
      array: a view.
      text: what was done to it.
      layout: its own layout, if a rule says so.
    """

    name: str
    source: str
    array: np.ndarray
    text: str = ""
    layout: str | None = None


def apply_rules(
    config: Pretrained, arrays: Mapping[str, np.ndarray], problems: list[str]
) -> tuple[list[Piece], list[str]]:
    """The arrays under their new names, and the names of those that rules drop.

    Args:
      config: the rules.
      arrays: of the source, by name.
      problems: gets a sentence for each rule that does nothing, and for each array that a rule cannot move.
    """
    rules = [(re.compile(rule.source), rule) for rule in config.full_rules]
    pieces: list[Piece] = []
    dropped, used = [], set()
    for name, array in arrays.items():
        for i, (pattern, rule) in enumerate(rules):
            if match := match_name(pattern, name):
                used.add(i)
                if rule.target is None:
                    dropped.append(name)
                else:
                    pieces += _pieces(name, array, match, rule, problems)
                break
        else:
            pieces.append(Piece(name, name, array, "", None))
    for i, (pattern, rule) in enumerate(rules):
        if i not in used:
            hidden = any(match_name(pattern, name) for name in arrays)
            why = (
                "is hidden behind the rules before it"
                if hidden
                else f"matches no name{nearest(rule.source, arrays)}"
            )
            problems.append(f"rule {rule.source!r} {why}")
    return pieces, dropped


def _pieces(name: str, array: np.ndarray, match: re.Match[str], rule: Rule, problems: list[str]) -> Iterable[Piece]:
    text = []
    try:
        if rule.transpose:
            array = np.transpose(array, rule.transpose)
            text.append(f"transposed {rule.transpose}")
        if rule.reshape:
            array = array.reshape(rule.reshape)
            text.append("reshaped")
        parts = np.split(array, len(rule.targets)) if len(rule.targets) > 1 else [array]
    except (ValueError, IndexError) as error:
        problems.append(f"{name} is {size(array.shape)}, which rule {rule.source!r} cannot move: {error}")
        return
    for i, (target, part) in enumerate(zip(rule.targets, parts, strict=True)):
        cut = [f"part {i + 1} of {len(parts)}"] if len(parts) > 1 else []
        yield Piece(match.expand(target) + name[match.end() :], name, part, ", ".join(text + cut), rule.layout)


def match_name(pattern: re.Pattern[str], name: str) -> re.Match[str] | None:
    """The match of a pattern with a whole name, or with the whole name of a module that it is in, innermost first.

    Example:
      >>> match_name(re.compile("fc"), "fc.weight").end(), match_name(re.compile("f"), "fc.weight")
      (2, None)
    """
    ends = [len(name), *(m.start() for m in reversed(list(re.finditer(r"[./]", name))))]
    return next(filter(None, (pattern.fullmatch(name, 0, end) for end in ends)), None)


def nearest(name: str, names: Iterable[str]) -> str:
    """The names most like a name, for messages; '' where none is."""
    near = difflib.get_close_matches(name, list(names), n=2, cutoff=0.4)
    return f" (near: {', '.join(near)})" if near else ""


def size(shape: Sequence[int]) -> str:
    """A shape, as messages write it."""
    return "x".join(map(str, shape)) or "scalar"
