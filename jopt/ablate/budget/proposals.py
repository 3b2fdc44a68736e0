"""Proposals: which points the next round tries. Pure functions of the points tried so far."""

import itertools
from collections.abc import Collection, Sequence
from typing import NamedTuple

from jopt.ablate.budget.config import Cell, Ladder, SearchSpace


class Proposal(NamedTuple):
    """The points of a round, without the control.

    Attributes:
      new: points that no round has tried.
      again: points of earlier rounds that get fresh seeds.
    """

    new: list[Cell]
    again: list[Cell]


def coarse(space: SearchSpace) -> list[Cell]:
    """The points of the first round: the start options of the traced knobs in full, for one structure at a time.

    Traced knobs cost only trials, so their start options are combined in full. Each combination of structural knobs
    costs a compilation, so they leave the control's option one at a time (a star). Later rounds combine them where
    the front asks for it.

    Returns:
      The points, the control first.

    Example:
      >>> from jopt.ablate import axis, choices
      >>> bits = Ladder("bits", axis("bits", (32, 8, 4)).points, (0, 2), False)
      >>> widths = Ladder("width", axis("width", (300, 100)).points, (0, 1), True)
      >>> coarse(SearchSpace((bits, widths)))
      [(0, 0), (2, 0), (0, 1), (2, 1)]
    """
    structural = [i for i, ladder in enumerate(space.ladders) if ladder.structural]
    traced = [i for i, ladder in enumerate(space.ladders) if not ladder.structural]
    structures = [{}] + [{i: at} for i in structural for at in space.ladders[i].start if at != 0]
    cells: dict[Cell, None] = {}
    for structure in structures:
        for values in itertools.product(*(space.ladders[i].start for i in traced)):
            options = dict(zip(traced, values, strict=True)) | structure
            cell = tuple(options.get(i, 0) for i in range(len(space.ladders)))
            if not space.excluded(cell):
                cells[cell] = None
    return list(cells)


def neighbours(cell: Cell, ladders: Sequence[Ladder], tried: Collection[Cell]) -> list[Cell]:
    """The untried points next to a point: on each ladder half-way to the nearest tried option, on either side.

    The other knobs stay as they are. If nothing was tried on a side, the neighbour is the next option. There is
    nothing to try between two adjacent options.

    Args:
      cell: of the point.
      ladders: of the knobs.
      tried: the points of all rounds so far.

    Returns:
      At most two points per knob, in the order of the knobs, the less compressed one first.

    Example:
      >>> from jopt.ablate import axis
      >>> bits = Ladder("bits", axis("bits", (32, 8, 6, 4, 3, 2)).points, (0, 3, 5), False)
      >>> neighbours((3,), [bits], [(0,), (3,), (5,)])
      [(1,), (4,)]
    """
    untried = []
    for i, ladder in enumerate(ladders):
        at = cell[i]
        # Only points that differ in this knob alone show how wide the gap is.
        line = [other[i] for other in tried if other[:i] == cell[:i] and other[i + 1 :] == cell[i + 1 :]]
        below = max((other for other in line if other < at), default=None)
        above = min((other for other in line if other > at), default=None)
        # Rounded down, to the less compressed option: it is more likely to meet a limit on accuracy.
        middles = (
            at - 1 if below is None else (at + below) // 2,
            at + 1 if above is None else (at + above) // 2,
        )
        for middle in middles:
            neighbour = (*cell[:i], middle, *cell[i + 1 :])
            if 0 <= middle < len(ladder.options) and middle != at and neighbour not in tried:
                untried.append(neighbour)
    return untried


def refine(front: Sequence[Cell], space: SearchSpace, tried: Collection[Cell], limit: int) -> list[Cell]:
    """The new points of a later round: neighbours of the points of the front.

    Args:
      front: the points to refine, the most promising first.
      space: of the search.
      tried: the points of all rounds so far.
      limit: new points at most. The points of the front take turns, so that each gets one before any gets two.
    """
    tried = set(tried)
    proposals = [
        [neighbour for neighbour in neighbours(cell, space.ladders, tried) if not space.excluded(neighbour)]
        for cell in front
    ]
    # Two points of the front may share a neighbour; a dict drops repetitions and keeps the order.
    new: dict[Cell, None] = {}
    for turn in itertools.zip_longest(*proposals):
        new |= {cell: None for cell in turn if cell is not None}
    return list(new)[:limit]


def fit(new: Sequence[Cell], again: Sequence[Cell], seeds: int, room: int) -> Proposal | None:
    """As much of a proposal as the remaining trials allow, with the control; None if that leaves no new point.

    Args:
      new: new points, the most promising first.
      again: points to run again, the most promising first.
      seeds: of the round.
      room: trials that remain.

    Example:
      >>> fit([(1,), (2,), (3,)], [(4,), (5,)], seeds=3, room=12)
      Proposal(new=[(1,), (2,)], again=[(4,)])
      >>> fit([(1,)], [], seeds=3, room=5) is None
      True
    """
    count = room // seeds - 1
    if count < 1:
        return None
    # New points get at least half of the room, rounded up: a round without them would not search.
    fitting = list(new[: max(count - len(again), (count + 1) // 2)])
    return Proposal(fitting, list(again[: count - len(fitting)])) if fitting else None
