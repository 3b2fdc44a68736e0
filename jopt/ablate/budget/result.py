"""The result of a search: its rounds, its estimates and its answer."""

from collections.abc import Sequence
from typing import NamedTuple

from jopt.ablate.budget.estimates import Key, PointEstimate
from jopt.ablate.budget.finalists import Final
from jopt.ablate.budget.limits import Limit
from jopt.ablate.results import Results
from jopt.ablate.space import Value
from jopt.typing import Record


class Round(NamedTuple):
    """One grid of a search.

    Attributes:
      name: of its directory.
      seeds: which no other round uses.
      new: points that no earlier round tried.
      again: points of earlier rounds, with fresh seeds. The control is in every round and in neither list.
      trials: the number of trials.
      why: its purpose, in a sentence.
    """

    name: str
    seeds: tuple[int, ...]
    new: list[dict[str, Value]]
    again: list[dict[str, Value]]
    trials: int
    why: str


class SearchResult(NamedTuple):
    """The result of a search.

    Attributes:
      budget: its limits.
      rounds: in order, the finalists' round last if there was one.
      stopped: why there was no further round.
      estimates: of all points, from the rounds without the finalists' round.
      pareto: the points that no other beats, by rising bytes.
      finals: the finalists, from the fresh seeds alone, in the order in which they were judged.
      recommended: the finalist to use; None if there is none.
      runner_up: the next best finalist; None if there is none.
      answer: which point to use, in plain sentences.
      commands: key of a point to the command that trains its first seed alone.
      results: of all rounds together, without the finalists' round.
      confirmation: of the finalists' round; None if there was none.
      control: the dense point, from the rounds, and from the fresh seeds if there are some.
      changes: of the surroundings, that were accepted.
    """

    budget: tuple[Limit, ...]
    rounds: list[Round]
    stopped: str
    estimates: list[PointEstimate]
    pareto: list[PointEstimate]
    finals: list[Final]
    recommended: Final | None
    runner_up: Final | None
    answer: str
    commands: dict[Key, str]
    results: Results
    confirmation: Results | None
    control: list[PointEstimate]
    changes: Sequence[Record] = ()
