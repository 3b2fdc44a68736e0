"""What a search found, and in which rounds."""

from typing import Any, NamedTuple

from jopt.ablate.budget.estimates import Estimate, Key
from jopt.ablate.budget.finalists import Final
from jopt.ablate.budget.limits import Limit
from jopt.ablate.results import Results


class Round(NamedTuple):
    """One grid of a search.

    Attributes:
      name: of its directory.
      seeds: that no other round has.
      new: points that no round before it tried.
      again: points of earlier rounds, with fresh seeds. The control is in every round and in neither list.
      trials: in all.
      why: what it is for, in a sentence.
    """

    name: str
    seeds: tuple[int, ...]
    new: list[dict[str, Any]]
    again: list[dict[str, Any]]
    trials: int
    why: str


class Found(NamedTuple):
    """What a search found.

    Attributes:
      budget: its limits.
      rounds: in order, that of the finalists last if there was one.
      stopped: why there was no further round.
      estimates: of all points, from the rounds without the finalists' one.
      pareto: those that nothing beats, by rising bytes.
      finals: the finalists, from the fresh seeds alone; in the order in which they were judged.
      recommended: the one to use; None if there is none.
      runner_up: the next best of the finalists; None if there is none.
      answer: which to use, in plain sentences.
      commands: point (its labels) to what trains its first seed alone.
      results: of all rounds together, without the finalists' one.
      confirmation: the results of the finalists' round; None if there was none.
      control: the dense point, from the rounds; and from the fresh seeds, where there are some.
    """

    budget: tuple[Limit, ...]
    rounds: list[Round]
    stopped: str
    estimates: list[Estimate]
    pareto: list[Estimate]
    finals: list[Final]
    recommended: Final | None
    runner_up: Final | None
    answer: str
    commands: dict[Key, str]
    results: Results
    confirmation: Results | None
    control: list[Estimate]
