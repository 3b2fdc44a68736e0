"""A coverage-guided fuzzer: an input that reaches a new pair of lines in jopt is kept, and changed again.

It follows American Fuzzy Lop (Zalewski 2013) in what it keeps, with Python's own trace instead of instrumentation,
so that it runs wherever jopt runs.
"""

import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Generic, NamedTuple, TypeVar

import jopt

Input = TypeVar("Input")
Edge = tuple[CodeType, int, int]

PACKAGE = str(Path(jopt.__file__).parent)
MOST_FINDINGS = 20


class Target(NamedTuple, Generic[Input]):
    """What is fuzzed.

    Attributes:
      seeds: valid inputs.
      mutate: `(random, input, another input of the corpus) -> input`; its arguments stay as they are.
      read: reads an input; returns the name of the outcome, such as 'error' for one of the documented errors.
      parts: `input -> inputs`, each with something removed, to look for the smallest that fails.
    """

    seeds: Sequence[Input]
    mutate: Callable[[random.Random, Input, Input], Input]
    read: Callable[[Input], str]
    parts: Callable[[Input], Iterable[Input]]


class Finding(NamedTuple):
    """An input that raised an error which is not documented.

    Attributes:
      value: the input, with everything removed that the error does not need.
      error: its type, text and the last line in jopt.
    """

    value: Any
    error: str


class Report(NamedTuple):
    """What a campaign came to.

    Attributes:
      inputs: how many were read.
      outcomes: how often each outcome occurred.
      edges: pairs of consecutive lines that were reached in jopt.
      corpus: inputs that were kept, the seeds among them.
      slowest: the most seconds that one input took.
      findings: by the place in jopt where the error was raised.
    """

    inputs: int
    outcomes: dict[str, int]
    edges: int
    corpus: int
    slowest: float
    findings: dict[str, Finding]


def fuzz(target: Target[Input], count: int, seed: int = 0, below: str = PACKAGE) -> Report:
    """Reads `count` inputs, the seeds among them.

    Args:
      target: what is fuzzed.
      count: how many inputs.
      seed: two campaigns of one seed read the same inputs.
      below: the beginning of the paths of the files whose lines guide.
    """
    rng = random.Random(seed)
    corpus: list[Input] = []
    edges: set[Edge] = set()
    outcomes: Counter[str] = Counter()
    findings: dict[str, Finding] = {}
    slowest = 0.0
    for number in range(count):
        if number < len(target.seeds):
            value = target.seeds[number]
        else:
            # Half of the time a recent one: what was found last leads further.
            recent = corpus[-max(8, len(corpus) // 8) :] if rng.random() < 0.5 else corpus
            value = target.mutate(rng, rng.choice(recent), rng.choice(corpus))
        begun = time.perf_counter()
        outcome, place, reached = _read(target, value, below)
        slowest = max(slowest, time.perf_counter() - begun)
        outcomes[outcome] += 1
        if place and place not in findings and len(findings) < MOST_FINDINGS:
            findings[place] = _smallest(target, value, place, below)
        if number < len(target.seeds) or not reached <= edges:
            corpus.append(value)
            edges |= reached
    return Report(count, dict(sorted(outcomes.items())), len(edges), len(corpus), slowest, findings)


def _read(target: Target[Input], value: Input, below: str) -> tuple[str, str, set[Edge]]:
    """The outcome, the place of an error that is not documented or '', and the edges."""
    reached: set[Edge] = set()

    def enter(frame: FrameType, event: str, argument: object) -> Callable[..., Any] | None:
        code = frame.f_code
        if not code.co_filename.startswith(below):
            return None
        last = 0

        def line(frame: FrameType, event: str, argument: object) -> Callable[..., Any]:
            nonlocal last
            if event == "line":
                reached.add((code, last, frame.f_lineno))
                last = frame.f_lineno
            return line

        return line

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        outcome, place = target.read(value), ""
    except Exception as error:
        outcome, place = "finding", _place(error, below)
    finally:
        sys.settrace(before)
    return outcome, place, reached


def _place(error: Exception, below: str) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame for frame in frames if frame.filename.startswith(below)] or frames
    return f"{type(error).__name__} at {Path(inside[-1].filename).name}:{inside[-1].lineno}"


def _smallest(target: Target[Input], value: Input, place: str, below: str, tries: int = 500) -> Finding:
    """Removes parts of the input while the error stays at its place."""

    def fails(candidate: Input) -> bool:
        nonlocal tries
        tries -= 1
        return tries >= 0 and _read(target, candidate, below)[1] == place

    while smaller := next((part for part in target.parts(value) if fails(part)), None):
        value = smaller
    try:
        target.read(value)
        text = "only the first time"
    except Exception as error:
        text = "".join(traceback.format_exception(error, limit=-3))
    return Finding(value, text)
